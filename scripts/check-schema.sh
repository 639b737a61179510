#!/usr/bin/env bash
# Checks the Pods that the golden cases expect against Kubernetes' own JSON schema, which knows the types of all
# fields: `tests/support/validation.rs` ports only the rules that a type cannot say. Other Pods can be named as
# arguments, as YAML files of a Pod each.
set -euo pipefail
cd "$(dirname "$0")/.."
# The Kubernetes whose types the policy is built with: the one place that names it is Cargo.toml.
version=$(sed -n 's/^k8s-openapi = .*"v1_\([0-9]*\)".*/1.\1/p' Cargo.toml)
# Its fields are newer than any Kubernetes, on purpose.
excluded=tests/cases/fields-newer-than-any-kubernetes/expected.yaml
venv=target/schema-venv

skip() {
  echo "skipped: $1, so no Pod was checked against the JSON schema"
  exit 0
}

command -v python3 >/dev/null || skip "python3 is not installed"
scripts/venv.sh "$venv" "kubernetes-validate==$version.*" >/dev/null 2>&1 ||
  skip "kubernetes-validate cannot be installed (pip is Debian's python3-venv)"

. scripts/golden.sh
files=("$@")
[ $# -gt 0 ] || mapfile -t files < <(golden_cases | sed 's|$|/expected.yaml|')
"$venv/bin/python" - "$version" "$excluded" "${files[@]}" <<'PYTHON'
import sys

import kubernetes_validate
import yaml

version, excluded, *files = sys.argv[1:]
passed = failed = 0
for file in files:
    with open(file) as text:
        document = yaml.safe_load(text)
    pod = document if document.get("kind") == "Pod" else document.get("pod")
    if file == excluded or pod is None:
        continue
    try:
        # Strict: a field that Kubernetes does not know is a mistake, too.
        kubernetes_validate.validate(pod, version, strict=True)
        passed += 1
    except kubernetes_validate.ValidationError as error:
        failed += 1
        print(f"{file}: {'.'.join(map(str, error.path))}: {error.message}")
print(f"{passed} passed, {failed} failed")
sys.exit(failed > 0 or passed == 0)
PYTHON
