#!/usr/bin/env bash
# Installs the object stores of others that crates/fluid-fuse/tests/servers mounts, below target/test-servers: at once
# when they are there. What cannot be had is left out: its tests say that they are skipped.
set -euo pipefail
cd "$(dirname "$0")/.."
python=("moto[server]==5.2.5" "gcp-storage-emulator==2026.7.19")
node=("azurite@3.37.0")
to=target/test-servers
mkdir -p "$to"

# Whether a directory has these versions; if not, it is removed.
ready() {
  local directory=$1
  shift
  [ "$(cat "$directory/versions" 2>/dev/null)" = "$*" ] && return
  rm -rf "$directory"
  return 1
}

if ! ready "$to/venv" "${python[@]}"; then
  echo "installing ${python[*]}"
  python3 -c 'import ensurepip' 2>/dev/null || scripts/need.sh python3-venv || true
  { python3 -m venv "$to/venv" && timeout 300 "$to/venv/bin/pip" install --quiet --retries 2 --disable-pip-version-check "${python[@]}" &&
    echo "${python[*]}" >"$to/venv/versions"; } || echo "they cannot be installed, so they are not mounted" >&2
fi
if ! ready "$to/npm" "${node[@]}"; then
  echo "installing ${node[*]}"
  # Without what packages would run to install themselves: nothing here needs it.
  { timeout 300 npm install --prefix "$to/npm" --no-save --ignore-scripts --no-audit --no-fund --fetch-retries=1 --loglevel=error "${node[@]}" &&
    echo "${node[*]}" >"$to/npm/versions"; } || echo "it cannot be installed, so it is not mounted" >&2
fi
