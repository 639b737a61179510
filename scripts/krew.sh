#!/usr/bin/env bash
# Prints the manifest of the kubectl plugin for krew (scripts/krew.yaml), with the version and the checksums of a release,
# which nobody knows before the archives are made.
#   krew.sh vX.Y.Z DIRECTORY     DIRECTORY has kubectl-fluid_sidecar-OS-ARCH.tar.gz
# REPOSITORY is the release's, as in ORG/fluid-sidecar-policy.
set -euo pipefail
[ $# -eq 2 ] || { sed -n '2,5s/^# *//p' "$0" >&2; exit 2; }
version=$1 archives=$2
template=$(dirname "$0")/krew.yaml
[[ $version =~ ^v[0-9]+\.[0-9]+\.[0-9]+(-[0-9A-Za-z.-]+)?$ ]] || { echo "'$version' is no version like v1.2.3" >&2; exit 2; }
manifest=$(sed '/^#/d' "$template")
repository=${REPOSITORY:-fluid-sidecar-policy/fluid-sidecar-policy}
manifest=${manifest//__VERSION__/$version}
manifest=${manifest//__URL__/https://github.com/$repository/releases/download/$version}
for platform in linux-amd64 linux-arm64 darwin-amd64 darwin-arm64; do
  sum=$(sha256sum -- "$archives/kubectl-fluid_sidecar-$platform.tar.gz")
  manifest=${manifest//__${platform}__/${sum%% *}}
done
# Each place has its value.
if left=$(grep -n __ <<<"$manifest"); then
  echo "not filled in: $left" >&2
  exit 1
fi
echo "$manifest"
