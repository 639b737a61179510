#!/usr/bin/env bash
# Pushes what `make` built to a registry; the last line is its immutable reference, for cosign:
#   scripts/publish.sh policy REGISTRY [TAG]    annotated-policy.wasm, as REGISTRY/fluid-sidecar-policy:TAG
#   scripts/publish.sh image REGISTRY [TAG]     target/image, all architectures, as REGISTRY/fluid-fuse:TAG
# REGISTRY is a host and a path, such as ghcr.io/ORG; TAG defaults to v and the version. kwctl pushes the policy where
# it is installed, otherwise skopeo pushes the same bytes. Both take credentials from ~/.docker/config.json
# (`docker login`). Only a registry on this machine is talked to without TLS, or any with INSECURE=1.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() { sed -n '2,7s/^# \{0,1\}//p' "$0" >&2; exit 2; }

what=${1:-} registry=${2:-} tag=${3:-}
[ $# -le 3 ] || usage
case $what in
  policy) name=fluid-sidecar-policy layout=${POLICY_LAYOUT:-target/policy} ;;
  image) name=fluid-fuse layout=${IMAGE_LAYOUT:-target/image} ;;
  *) usage ;;
esac
module=${ANNOTATED_POLICY:-annotated-policy.wasm}
[[ $registry =~ ^[A-Za-z0-9][A-Za-z0-9.-]*(:[0-9]+)?(/[a-z0-9._/-]+)?$|^\[::1\](:[0-9]+)?(/[a-z0-9._/-]+)?$ ]] || {
  echo "REGISTRY must be a host and a path, such as ghcr.io/ORG, not '$registry'" >&2
  exit 2
}
registry=${registry%/}
[ -f "$layout/index.json" ] || { echo "there is no $layout: make $([ "$what" = image ] && echo image || echo annotated-policy.wasm)" >&2; exit 1; }
scripts/need.sh push
tag=${tag:-$(jq -r '.manifests[0].annotations["org.opencontainers.image.ref.name"]' "$layout/index.json")}
target=$registry/$name:$tag

case ${registry%%/*} in
  localhost | localhost:* | 127.* | '[::1]'*) insecure=1 ;;
  *) insecure=${INSECURE:-} ;;
esac

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
echo "pushing $target" >&2
if [ "$what" = policy ] && command -v kwctl >/dev/null; then
  # JSON is YAML, too.
  jq -n --arg host "${registry%%/*}" --arg insecure "$insecure" \
    '{insecure_sources: (if $insecure == "" then [] else [$host] end)}' >"$work/sources.yml"
  reference=$(kwctl push --sources-path "$work/sources.yml" --output json "$module" "registry://$target" | jq -r .immutable_ref)
else
  skopeo copy --all --preserve-digests --quiet --retry-times 3 ${insecure:+--dest-tls-verify=false} \
    --digestfile "$work/digest" "oci:$layout" "docker://$target"
  reference=$registry/$name@$(<"$work/digest")
fi
echo "$reference"
