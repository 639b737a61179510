#!/usr/bin/env bash
# Runs each target for FUZZ_SECONDS. All that is made is under target/.
set -euo pipefail
cd "$(dirname "$0")/.."
if ! command -v cargo-fuzz >/dev/null; then
  echo "skipped: cargo-fuzz is not installed (cargo install cargo-fuzz), so nothing was fuzzed"
  exit
fi
if ! rustup toolchain list 2>/dev/null | grep -q ^nightly; then
  echo "skipped: no nightly toolchain is installed, which cargo-fuzz needs, so nothing was fuzzed"
  exit
fi
fuzz/seeds.sh target/fuzz-corpus
for target in validate settings cache config http index listing mountinfo; do
  mkdir -p "target/fuzz-artifacts/$target"
  cargo +nightly fuzz run "$target" "target/fuzz-corpus/$target" --target-dir target/fuzz -- \
    -max_total_time="${FUZZ_SECONDS:-60}" -max_len=16384 -timeout=10 -print_final_stats=1 \
    -artifact_prefix="target/fuzz-artifacts/$target/"
done
