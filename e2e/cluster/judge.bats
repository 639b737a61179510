#!/usr/bin/env bats
# The API server as judge: what the policy makes of Pods is what a cluster takes. Every golden case's Pod (tests/cases,
# tests/fluid) is created with --dry-run=server. It says nothing of Pods that it would not have taken before the
# policy, nor of fields newer than this Kubernetes.

setup_file() {
  # No policy between the Pods and their judge.
  kubectl delete mutatingwebhookconfigurations --all
  kubectl create namespace judge
}

teardown_file() {
  kubectl delete namespace judge --wait=false
}

# refused FOLDER: the cases of whose Pods in the folder the API server has something to say, and what. Its old client
# would refuse unknown fields; the server drops them.
refused() {
  kubectl create --namespace judge --dry-run=server --validate=false -f "$1" 2>&1 >/dev/null |
    sed -n "s|.*error when creating \"$1/\(.*\)\.json\": |\1: |p"
}

@test "the API server takes every Pod that the policy lets in" {
  before=$BATS_TEST_TMPDIR/before after=$BATS_TEST_TMPDIR/after newer=0 judged=0
  mkdir "$before" "$after"
  for expected in tests/cases/*/expected.yaml tests/fluid/*/expected.yaml; do
    case=$(basename "$(dirname "$expected")")
    # Its name and namespace are of the cluster that the case is about.
    pod=$(yq -c 'select(.pod) | .pod | del(.metadata.namespace) | .metadata.name //= "judged"' "$expected")
    [ -n "$pod" ] || continue
    if jq -e 'any(.spec.initContainers[]?; .restartPolicy)' <<<"$pod" >/dev/null; then
      newer=$((newer + 1))
      continue
    fi
    echo "$pod" >"$after/$case.json"
  done
  judged=$(find "$after" -name '*.json' | wc -l)
  echo "# $judged Pods judged; $newer with native sidecars are newer than this Kubernetes" >&3
  [ "$judged" -gt 50 ]
  run refused "$after"
  # Refused as its owner wrote it, too: for a field that is newer, or that is wrong anywhere.
  while IFS=: read -r case reason; do
    "${EVALUATE:-target/debug/evaluate}" --policy "${POLICY:-target/policy.wasm}" --uninject --pod "$after/$case.json" \
      >"$before/$case.json"
  done <<<"$output"
  without=$(refused "$before" | cut -d : -f 1 | sort)
  [ -z "$without" ] || echo "# refused without the policy, too: "$without >&3
  ours=$(grep -vxFf <(echo "$without") <(cut -d : -f 1 <<<"$output") || true)
  echo "$output"
  [ -z "$ours" ]
}
