#!/usr/bin/env bats
# The kubectl plugin before a real API server: objects and rights of a live cluster, and Kubewarden's policies in it.

load helpers

setup_file() {
  policies_apply
  # As kubectl finds plugins.
  mkdir "$BATS_FILE_TMPDIR/bin"
  ln -s "$(realpath "${TOOL:-target/debug/kubectl-fluid_sidecar}")" "$BATS_FILE_TMPDIR/bin/kubectl-fluid_sidecar"
  # Of Kubewarden the kinds alone: webhook.sh plays its controller.
  kubectl apply -f "$BATS_TEST_DIRNAME/fluid/policies.yaml"
  eventually policy_applied
}

policy_applied() { yq -c 'select(.kind == "ClusterAdmissionPolicy")' deploy/eci.yaml | kubectl apply -f -; }

setup() {
  new_namespace "tool-$BATS_TEST_NUMBER" eci
  PATH=$BATS_FILE_TMPDIR/bin:$PATH
}

teardown_file() {
  kubectl delete crd admissionpolicies.policies.kubewarden.io clusteradmissionpolicies.policies.kubewarden.io
}

containers() { jq -c '[.spec.containers[].name]'; }

@test "explain says of a live Pod and of a Deployment what the policy does" {
  pod app Always "$SERVE"
  run --separate-stderr kubectl fluid-sidecar explain pod/app -o pod
  echo "$output$stderr"
  [ "$status" -eq 0 ]
  [[ "$stderr" == *"note: pod/app was injected"* ]]
  [[ "$stderr" == *"the settings are those of clusteradmissionpolicy/fluid-sidecar-eci"* ]]
  # The Pod that the webhook made is the one that is explained.
  [ "$(containers <<<"$output")" = "$(kubectl get pod app -o json | containers)" ]
  [ "$(containers <<<"$output")" != '["app"]' ]
  deployment web 1 "$SERVE"
  run --separate-stderr kubectl fluid-sidecar explain deployments.apps/web --namespace "$NAMESPACE"
  echo "$output$stderr"
  [ "$status" -eq 0 ]
  [[ "$output" == "Pod $NAMESPACE/web-0000000000-: admitted, mutated"* ]]
}

# account NAME: a kubeconfig of a ServiceAccount without rights.
account() {
  kubectl create serviceaccount "$1"
  kubectl create token "$1" >"$BATS_TEST_TMPDIR/token"
  kubeconfig "$BATS_TEST_TMPDIR/token" >"$BATS_TEST_TMPDIR/kubeconfig"
}

@test "without a right explain says which command grants it, and with it works" {
  pod app Always "$SERVE"
  account dev
  explain() { kubectl fluid-sidecar explain pod/app -o json --kubeconfig "$BATS_TEST_TMPDIR/kubeconfig" --namespace "$NAMESPACE"; }
  # The Pod itself, and then all that the policy reads.
  for missing in pods persistentvolumeclaims; do
    run --separate-stderr explain
    echo "$stderr"
    [ "$status" -eq 2 ]
    [[ "$stderr" == *"$missing"*"is forbidden: User \"system:serviceaccount:$NAMESPACE:dev\""* ]]
    [ "$(grep -c '^  kubectl create' <<<"$stderr")" -eq 2 ]
    grep '^  kubectl create' <<<"$stderr" >"$BATS_TEST_TMPDIR/grant"
    # The role for all namespaces stays for the next account.
    bash -x "$BATS_TEST_TMPDIR/grant"
  done
  # As soon as the API server knows of it.
  eventually explain
  run --separate-stderr explain
  jq -e '.verdict == "mutated"' <<<"$output"
  # What it may not list is no failure.
  [[ "$stderr" == *"the policies of the cluster may not be listed"* ]]
  kubectl delete clusterrole,clusterrolebinding fluid-sidecar-reader "fluid-sidecar-reader:$NAMESPACE:dev" --ignore-not-found
}

@test "uninject gives a live Pod back as its owner wrote it" {
  pod app Always "$SERVE"
  kubectl fluid-sidecar uninject pod/app >"$BATS_TEST_TMPDIR/pod"
  jq -e '[.spec.containers[].name] == ["app"] and .spec.nodeName == null and .status == null
    and (.spec.volumes[] | select(.name == "data")).persistentVolumeClaim.claimName == "data"' "$BATS_TEST_TMPDIR/pod"
  # The cluster takes it again, and the policy injects it again.
  jq '.metadata.name = "again"' "$BATS_TEST_TMPDIR/pod" | kubectl create --dry-run=server -o json -f - >"$BATS_TEST_TMPDIR/again"
  [ "$(containers <"$BATS_TEST_TMPDIR/again")" = "$(kubectl get pod app -o json | containers)" ]
  kubectl fluid-sidecar uninject pod/app --output yaml | yq -e '.kind == "Pod"'
}

@test "record writes down what the review of a live Pod reads, and bench measures that review" {
  pod app Always "$SERVE"
  kubectl fluid-sidecar record pod/app --session "$BATS_TEST_TMPDIR/session.yaml" >"$BATS_TEST_TMPDIR/request.json"
  jq -e --arg namespace "$NAMESPACE" '[.. | objects | select(.kind? == "Pod") | .metadata?.namespace // empty] | any(. == $namespace)' \
    "$BATS_TEST_TMPDIR/request.json"
  grep -F "kind: Dataset" "$BATS_TEST_TMPDIR/session.yaml"
  kubectl fluid-sidecar bench pod/app --policy target/policy.wasm --runs 2
}

@test "settings check says what is wrong with a live policy" {
  policy=clusteradmissionpolicy/fluid-sidecar-eci
  [ "$(kubectl fluid-sidecar settings check "$policy")" = "$policy: valid" ]
  kubectl patch "$policy" --type merge --patch '{"spec": {"settings": {"destinatoin": "eci"}}}'
  run --separate-stderr kubectl fluid-sidecar settings check "$policy" --output json
  [ "$status" -eq 1 ]
  jq -e '.valid == false and [.problems[].field] == ["destinatoin"]' <<<"$output"
  policy_applied
}
