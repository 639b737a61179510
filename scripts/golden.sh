#!/usr/bin/env bash
# Sourced by what walks the golden cases, in the root of the project; tests/support/golden.rs says what a case is.

golden_cases() { find tests/cases -name expected.yaml -printf '%h\n' | sort; }

# golden_file CASE FILE: its own file, or that of the directory above; fails without either.
golden_file() {
  local file
  for file in "$1/$2" "$(dirname "$1")/$2"; do
    [ ! -e "$file" ] || { echo "$file"; return; }
  done
  return 1
}
