#!/usr/bin/env bash
# Does docs/settings.schema.json accept and refuse what the parser accepts and refuses? On the documents that
# tests/settings_reference.rs lists with the parser's verdict. Prints `N passed, N failed`.
# A validator in Rust would bring more than thirty crates; Python's lives in target/.
set -euo pipefail
cd "$(dirname "$0")/.."
target=${CARGO_TARGET_DIR:-target}
venv=$target/settings-schema-venv
log=$target/settings-schema-venv.log

skip() { echo "skipped: $1, so docs/settings.schema.json was not compared with the parser"; exit 0; }

mkdir -p "$target"
scripts/venv.sh "$venv" jsonschema==4.26.0 >"$log" 2>&1 || skip "jsonschema cannot be installed ($(tail -n 1 "$log"))"

# Of the whole workspace, and so with the features of dependencies that its tests have been built with.
cargo test --quiet --locked --workspace --features kubectl-fluid-sidecar/server --test settings_reference -- --exact documents_for_the_schema \
  >"$log" 2>&1 || { cat "$log" >&2; exit 1; }

"$venv/bin/python" - docs/settings.schema.json "$target/tmp/settings-documents.json" <<'PYTHON'
import json
import sys

import jsonschema

schema, documents = (json.load(open(path, encoding="utf-8")) for path in sys.argv[1:])
jsonschema.Draft202012Validator.check_schema(schema)
validator = jsonschema.Draft202012Validator(schema)
failed = 0
for entry in documents:
    error = jsonschema.exceptions.best_match(validator.iter_errors(entry["document"]))
    if (error is None) != entry["accepted"]:
        failed += 1
        verdict = "accepts" if entry["accepted"] else "refuses"
        print(f"the parser {verdict} {json.dumps(entry['document'])}; the schema: {error and error.message}")
print(f"{len(documents) - failed} passed, {failed} failed")
sys.exit(failed > 0)
PYTHON
