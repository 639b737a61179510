#!/usr/bin/env bash
# The main job, start to end: a Pod is admitted, mutated by the compiled policy, and runs. `make demo` builds
# what this needs, after `demo/run.sh --check` has said what is missing.
set -euo pipefail
cd "$(dirname "$0")/.."
tool=${TOOL:-target/debug/kubectl-fluid_sidecar} podrun=${PODRUN:-target/debug/podrun}
fluid_fuse=${FLUID_FUSE:-$(echo target/*/debug/fluid-fuse)}
policy=${POLICY:-target/policy.wasm}

# What running the Pod needs, beside packages.
missing=()
[ "$(id -u)" -eq 0 ] || missing+=("root (try: sudo -E make demo)")
[ -e /dev/fuse ] || missing+=("/dev/fuse (the kernel module fuse)")

if [ "${1:-}" = --check ]; then
  uses=(build wasm)
  if [ ${#missing[@]} -eq 0 ]; then uses+=(demo); else
    printf 'the demo will explain the admission, but not run the Pod: that needs %s\n' "${missing[@]}"
  fi
  exec scripts/need.sh "${uses[@]}"
fi

pod=$(mktemp)
trap 'rm -f "$pod"' EXIT

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }

say "1. Admission: the policy sees demo/pod.yaml and the cluster of demo/cluster/"
"$tool" explain demo/pod.yaml --policy "$policy" --objects demo/cluster
"$tool" explain demo/pod.yaml --policy "$policy" --objects demo/cluster --output pod >"$pod"

say "2. The mutated Pod runs: sidecar first, the app when the file system is there"
if [ ${#missing[@]} -gt 0 ]; then
  printf 'skipped: running the Pod needs %s\n' "${missing[@]}"
  exit 0
fi
timeout 120 "$podrun" "$pod" --image "fluid-fuse=$fluid_fuse" --volume nas=demo/nas --volume thin-conf=demo/config
say "The app read hello.txt from its claim's mount, and the sidecar ended with it."
