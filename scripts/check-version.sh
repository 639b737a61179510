#!/usr/bin/env bash
# Before a release: does everything that says a version say the tag's (vX.Y.Z), and is the policy where its metadata
# says that it is? REGISTRY is where it will be pushed to.
#   REGISTRY=ghcr.io/ORG scripts/check-version.sh vX.Y.Z
set -euo pipefail
cd "$(dirname "$0")/.."
version=${1#v}
failed=0

# same WHAT FOUND EXPECTED
same() {
  [ "$2" = "$3" ] || { echo "$1: '$2' should be '$3'" >&2; failed=1; }
}

# field FILE KEY: a scalar of YAML that stands on a line of its own.
field() { sed -nE "s/^ *$2: *[\"']?([^\"' ]+)[\"']? *\$/\1/p" "$1" | head -n 1; }

same "the tag" "${1:-}" "v$version"
same "Cargo.toml: version of the workspace" "$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml)" "$version"
same "policy-metadata.yml: io.kubewarden.policy.version" "$(field policy-metadata.yml 'io\.kubewarden\.policy\.version')" "$version"
same "policy-metadata.yml: io.kubewarden.policy.ociUrl" "$(field policy-metadata.yml 'io\.kubewarden\.policy\.ociUrl')" \
  "${REGISTRY:?}/fluid-sidecar-policy"
same "artifacthub-pkg.yml: version" "$(field artifacthub-pkg.yml version)" "$version"
same "CHANGELOG.md: heading" "$(grep -oE "^## ${version//./\\.}( |\$)" CHANGELOG.md | tr -d ' ')" "##$version"
exit "$failed"
