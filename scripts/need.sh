#!/usr/bin/env bash
# Owns the list of Debian and Ubuntu packages, by what they are needed for.
#   scripts/need.sh USE...              says which packages are missing; fails if any is
#   scripts/need.sh --install USE...    installs them, as `make setup` does; with sudo unless root runs it
set -euo pipefail
cd "$(dirname "$0")/.."

# Prints the packages of each use.
packages() {
  local use
  for use in "$@"; do
    case $use in
      # Rust links with a C compiler, and wasmtime has C in it.
      build) command -v cc >/dev/null || echo gcc libc6-dev ;;
      # Where rustup has no standard library for Wasm.
      wasm) [ "$(scripts/build-wasm.sh --way)" = rustup ] || echo rustc-web rust-web-src wasi-libc ;;
      wasm-opt) echo binaryen ;;
      demo) echo busybox-static runc ;;
      lint) echo shellcheck ;;
      # scripts/deploy.py, which makes the single files of deploy/.
      deploy) echo python3-yaml ;;
      monitoring) echo jq prometheus ;;
      e2e) echo bats jq yq ;;
      push) echo jq skopeo ;;
      publish-tests) echo bats busybox-static docker-registry jq skopeo umoci yq ;;
      # Debian's python3 comes without pip.
      python) python3 -c 'import ensurepip' 2>/dev/null || echo python3-venv ;;
      cluster)
        packages build e2e
        echo busybox-static ca-certificates containernetworking-plugins curl iproute2 libseccomp-dev nftables openssl pkg-config
        ;;
      test)
        packages build wasm wasm-opt demo lint deploy e2e publish-tests monitoring python cluster
        echo curl
        ;;
      mount-s3) echo cmake libclang-dev libfuse3-dev pkg-config ;;
      bench)
        packages python mount-s3
        echo fuse3 s3fs
        ;;
      *)
        echo "scripts/need.sh knows no use '$use'" >&2
        exit 2
        ;;
    esac
  done
}

install=
[ "${1:-}" != --install ] || { install=1; shift; }
needed=$(packages "$@")
missing=()
for package in $(tr ' ' '\n' <<<"$needed" | sort -u); do
  [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
done
[ ${#missing[@]} -eq 0 ] && exit 0
if [ -z "$install" ]; then
  echo "missing: ${missing[*]}. To install all that the demo and the tests need: make setup; only these: make setup USES='$*'" >&2
  exit 1
fi
command -v apt-get >/dev/null || {
  echo "only Debian and Ubuntu are supported here; install what corresponds to: ${missing[*]}" >&2
  exit 1
}
echo "installing ${missing[*]}"
apt=(env DEBIAN_FRONTEND=noninteractive apt-get -qq)
[ "$(id -u)" -eq 0 ] || apt=(sudo "${apt[@]}")
"${apt[@]}" update && "${apt[@]}" install -y --no-install-recommends "${missing[@]}" >/dev/null
