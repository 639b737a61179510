#!/usr/bin/env bash
# Are the workflows valid, and safe by zizmor's rules (pinned actions, least permissions, no injection)? Python's
# packages live in target/; actionlint is run where it is installed.
set -euo pipefail
cd "$(dirname "$0")/.."
target=${CARGO_TARGET_DIR:-target}
venv=$target/workflows-venv
packages=(check-jsonschema==0.39.0 zizmor==1.32.0)

mkdir -p "$target"
if scripts/venv.sh "$venv" "${packages[@]}" >"$target/workflows-venv.log" 2>&1; then
  "$venv/bin/check-jsonschema" --quiet --builtin-schema vendor.github-workflows .github/workflows/*.yml
  "$venv/bin/check-jsonschema" --quiet --builtin-schema vendor.dependabot .github/dependabot.yml
  "$venv/bin/zizmor" --offline --quiet --no-progress .github
else
  echo "skipped: ${packages[*]} cannot be installed ($(tail -n 1 "$target/workflows-venv.log")), so no workflow was checked"
fi
if command -v actionlint >/dev/null; then actionlint; else
  echo "skipped: actionlint is not installed, so the shell in the workflows was not checked"
fi
