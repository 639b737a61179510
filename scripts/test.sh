#!/usr/bin/env bash
# Everything CI runs. What this machine cannot do is skipped with a line `skipped: <reason>` (a test of a
# runner: `skipped test: <reason>`), and counted.
set -euo pipefail
cd "$(dirname "$0")/.."
mkdir -p target
log=target/test.log
: >"$log"

step() {
  echo "== $*"
  "$@" 2>&1 | tee -a "$log"
}

lines() { grep -cE "$1" "$log" || true; }

# The sum of the first group over all lines that match.
count() { { grep -E "$1" "$log" || true; } | sed -E "s/$1.*/\1/" | awk '{sum += $1} END {print sum + 0}'; }

summary() {
  local ok failed skipped skipped_tests
  # libtest's lines, bats' and those of our own checks.
  ok=$(($(count '^test result: [a-zA-Z]+\. ([0-9]+) passed;') + $(lines '^ok [0-9]+ ') + $(count '^([0-9]+) passed, [0-9]+ failed$')))
  failed=$(($(count '^test result: .* passed; ([0-9]+) failed;') + $(lines '^not ok [0-9]+ ') + $(count '^[0-9]+ passed, ([0-9]+) failed$')))
  # A test that skips itself has passed in the eyes of its runner.
  skipped_tests=$(($(lines '^skipped test: ') + $(lines '^ok [0-9]+ .* # skip')))
  skipped=$((skipped_tests + $(lines '^skipped: ')))
  echo "$((ok - skipped_tests)) passed, $failed failed, $skipped skipped"
}
trap summary EXIT

scripts/need.sh test
# Two at a time: downloads take no processor, and the end of a build only one. Not by make -j, of whose jobserver cargo
# complains.
step xargs -n 1 -P 2 make --no-print-directory <<<'lint test-servers cluster-build wasm yardstick'
# All in one go: what `make tools` builds by itself has other features of its dependencies, and would be built twice.
step cargo build --locked --workspace --all-targets --features kubectl-fluid-sidecar/server
step make --no-print-directory demo-tools
# The cluster waits more than it works, and so do many of the crates' tests.
step xargs -n 1 -P 2 make --no-print-directory <<<'test-cluster test-crates test-tools'
# Not beside the crates' tests, one of which writes the same file.
step scripts/check-settings-schema.sh
# With the plugin that `make demo` builds, and the policy as it is published.
step env "TOOL=target/$(rustc -vV | sed -n 's/^host: //p')/debug/kubectl-fluid_sidecar" demo/run.sh
