#!/usr/bin/env bash
# Copies deploy/ with this project's artifacts by their digests, which nobody knows before they are pushed: a tag can be
# moved, a digest cannot. The overlays are pinned, and the single files made of them (with kubectl or kustomize).
#   pin-deploy.sh POLICY@sha256:… IMAGE@sha256:… DIRECTORY
set -euo pipefail
cd "$(dirname "$0")/.."
[ $# -eq 3 ] || { sed -n '2,4s/^# *//p' "$0" >&2; exit 2; }
policy=${1##*@} image=${2##*@} to=$3
for digest in "$policy" "$image"; do
  [[ $digest =~ ^sha256:[0-9a-f]{64}$ ]] || { echo "'$digest' is no digest" >&2; exit 2; }
done
version=v$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | head -n 1)
mkdir -p "$to"
cp -r deploy/. "$to"
sed -i -E \
  -e "s#^(  policy: .*:${version//./\\.})\$#\1@$policy#" \
  -e "s#^(  sidecar: .*:${version//./\\.})\$#\1@$image#" \
  -e "s#^(  sidecar-tag: ${version//./\\.})\$#\1@$image#" "$to/base/artifacts/artifacts.yaml"
scripts/deploy.py "$to"
# Each place that names a version of ours has its digest.
if left=$(grep -rnE "(fluid-sidecar-policy|fluid-fuse):$version([^@]|\$)|(imageTag|sidecar-tag): $version\$" "$to" --include='*.yaml'); then
  echo "without a digest: $left" >&2
  exit 1
fi
