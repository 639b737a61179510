#!/usr/bin/env bash
# Installs the object stores of others that crates/fluid-fuse/tests/servers mounts, below target/test-servers: at once
# when they are there. What cannot be had is left out: its tests say that they are skipped.
set -euo pipefail
cd "$(dirname "$0")/.."
to=target/test-servers
azurite=azurite@3.37.0
mkdir -p "$to"

scripts/need.sh python || true
scripts/venv.sh "$to/venv" "moto[server]==5.2.5" gcp-storage-emulator==2026.7.19 ||
  echo "moto and gcp-storage-emulator cannot be installed, so they are not mounted" >&2

if [ "$(cat "$to/npm/versions" 2>/dev/null)" != "$azurite" ]; then
  rm -rf "$to/npm"
  # Without what packages would run to install themselves: nothing here needs it.
  { timeout 300 npm install --prefix "$to/npm" --no-save --ignore-scripts --no-audit --no-fund --fetch-retries=1 --loglevel=error "$azurite" &&
    echo "$azurite" >"$to/npm/versions"; } || echo "Azurite cannot be installed, so it is not mounted" >&2
fi
