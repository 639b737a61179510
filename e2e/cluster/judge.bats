#!/usr/bin/env bats
# The API server as judge: what the policy makes of Pods is what a cluster takes. Every golden case's Pod (tests/cases,
# tests/fluid) is created with --dry-run=server. It says nothing of Pods that it would not have taken before the
# policy.

setup_file() {
  # No policy between the Pods and their judge.
  kubectl delete mutatingwebhookconfigurations,validatingwebhookconfigurations --all
  kubectl create namespace judge
  # Before its account is there, no Pod is taken.
  kubectl wait --for=create serviceaccount/default --namespace=judge --timeout=60s
}

teardown_file() {
  kubectl delete namespace judge --wait=false
}

# create FILE|FOLDER: as if. Fields that the server does not know are errors.
create() { kubectl create --namespace judge --dry-run=server --validate=strict -f "$1"; }

@test "the API server takes every Pod that the policy lets in" {
  folder=$BATS_TEST_TMPDIR/pods ours=0
  mkdir "$folder"
  for expected in $(find tests/cases tests/fluid -name expected.yaml); do
    case=$(dirname "$expected" | tr / -)
    # Its name and namespace are of the cluster that the case is about.
    pod=$(yq -c 'select(.pod) | .pod | del(.metadata.namespace) | .metadata.name //= "judged"' "$expected")
    [ -n "$pod" ] || continue
    echo "$pod" >"$folder/$case.json"
  done
  judged=$(find "$folder" -name '*.json' | wc -l)
  echo "# $judged Pods judged" >&3
  [ "$judged" -gt 50 ]
  # All at once first: to start kubectl takes longer than to judge a Pod.
  create "$folder" 2>"$BATS_TEST_TMPDIR/refused" || [ -s "$BATS_TEST_TMPDIR/refused" ]
  cat "$BATS_TEST_TMPDIR/refused"
  for pod in "$folder"/*.json; do
    grep -qF "$pod" "$BATS_TEST_TMPDIR/refused" && ! create "$pod" || continue
    case=$(basename "$pod" .json)
    "${TOOL:-target/debug/kubectl-fluid_sidecar}" uninject "$pod" --policy "${POLICY:-target/policy.wasm}" >"$pod.before"
    if create "$pod.before"; then
      echo "# $case: refused, and not as its owner wrote it" >&3
      ours=$((ours + 1))
    else
      echo "# $case: refused as its owner wrote it" >&3
    fi
  done
  [ "$ours" -eq 0 ]
}
