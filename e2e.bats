#!/usr/bin/env bats
# The compiled policy from outside: through the offline evaluator, and through kwctl when it is installed.
# The golden cases of tests/cases run here, too: what they expect of the library they expect of the module.

bats_require_minimum_version 1.5.0

setup_file() {
  cd "$BATS_TEST_DIRNAME"
  export EVALUATE=${EVALUATE:-target/debug/evaluate} POLICY=${POLICY:-target/policy.wasm}
  [ -x "$EVALUATE" ] || { echo "build first: make wasm tools" >&2; return 1; }
}

setup() { cd "$BATS_TEST_DIRNAME"; }

# evaluate_case DIR [OPTION…]: asks the policy about a golden case.
evaluate_case() {
  local dir=$1
  shift
  local arguments=(--policy "$POLICY" --pod "$dir/pod.yaml")
  [ -e "$dir/objects.yaml" ] && arguments+=(--objects "$dir/objects.yaml")
  [ -e "$dir/settings.yaml" ] && arguments+=(--settings "$dir/settings.yaml")
  "$EVALUATE" "${arguments[@]}" "$@"
}

seed() { "$EVALUATE" --policy "$POLICY" --pod demo/pod.yaml --objects demo/cluster "$@"; }

@test "every golden case gives the same through the compiled policy" {
  for dir in tests/cases/*; do
    # Settings that are not valid never reach a request in a cluster: the policy server does not start.
    [ "$(basename "$dir")" = settings-unknown-field ] && continue
    evaluate_case "$dir" --output response >"$BATS_TEST_TMPDIR/response" 2>/dev/null || [ $? -eq 1 ]
    evaluate_case "$dir" --output pod >"$BATS_TEST_TMPDIR/pod" 2>/dev/null || [ $? -eq 1 ]
    yq . "$dir/expected.yaml" >"$BATS_TEST_TMPDIR/expected"
    jq -e --slurpfile expected "$BATS_TEST_TMPDIR/expected" '
      $expected[0] as $e
      | .auditAnnotations.decision == $e.decision
        and (.auditAnnotations.reasons | split("\n")) == $e.reasons
        and .status.message == $e.message
        and .warnings == $e.warnings
        and .allowed == ($e.decision != "rejected")' "$BATS_TEST_TMPDIR/response" >/dev/null || {
      echo "$dir: the response differs from expected.yaml:"
      cat "$BATS_TEST_TMPDIR/response"
      return 1
    }
    if [ "$(jq -r .decision "$BATS_TEST_TMPDIR/expected")" = injected ]; then
      diff <(jq -S .pod "$BATS_TEST_TMPDIR/expected") <(jq -S . "$BATS_TEST_TMPDIR/pod") || {
        echo "$dir: the Pod differs from expected.yaml"
        return 1
      }
    fi
  done
}

@test "every golden case gives the same through kwctl" {
  command -v kwctl >/dev/null || skip "kwctl is not installed"
  for dir in tests/cases/*; do
    grep -q AdmissionReview "$dir/pod.yaml" && continue
    [ "$(basename "$dir")" = settings-unknown-field ] && continue
    evaluate_case "$dir" --output request --record "$BATS_TEST_TMPDIR/session" >"$BATS_TEST_TMPDIR/request" \
      2>/dev/null || [ $? -eq 1 ]
    evaluate_case "$dir" --output response >"$BATS_TEST_TMPDIR/ours" 2>/dev/null || [ $? -eq 1 ]
    local settings=(--settings-json '{}')
    [ -e "$dir/settings.yaml" ] && settings=(--settings-path "$dir/settings.yaml")
    kwctl run --execution-mode kubewarden-wapc --allow-context-aware "${settings[@]}" \
      --replay-host-capabilities-interactions "$BATS_TEST_TMPDIR/session" \
      --request-path "$BATS_TEST_TMPDIR/request" "$POLICY" 2>/dev/null |
      jq 'if .patch then .patch |= (@base64d | fromjson) else . end' >"$BATS_TEST_TMPDIR/theirs"
    jq -e --slurpfile ours "$BATS_TEST_TMPDIR/ours" '
      $ours[0] as $o | .allowed == $o.allowed and .patch == $o.patch and .status.message == $o.status.message
        and .warnings == $o.warnings and .auditAnnotations == $o.auditAnnotations' "$BATS_TEST_TMPDIR/theirs"
  done
}

@test "the module has at most 350 KiB" {
  command -v wasm-opt >/dev/null || skip "wasm-opt is not installed"
  [ -d target/wasm-debian/wasm32-wasip1/wasm ] || skip "rustup's standard library is not built for size"
  [ "$(stat -c %s "$POLICY")" -le $((350 * 1024)) ]
}

@test "the seed's Pod gets a sidecar, first, with a device and a gate, and its claim becomes a hostPath" {
  seed --output pod | jq -e '
    .spec.containers[0].name == "fluid-fuse"
    and .spec.containers[0].resources.limits["alibabacloud.com/vfuse"] == "1"
    and (.spec.containers[0].lifecycle.postStart.exec.command | length) > 0
    and .spec.containers[1].name == "app"
    and .spec.containers[1].volumeMounts[0].mountPath == "/data"
    and (.spec.volumes[0].name == "data" and (.spec.volumes[0].hostPath.path | startswith("/runtime-mnt/")))
    and (.spec.volumes[0] | has("persistentVolumeClaim") | not)'
}

@test "the patch is RFC 6902, and evaluating the outcome again gives none" {
  seed --output patch | jq -e 'length > 0 and all(.[]; has("op") and has("path"))'
  seed --output pod >"$BATS_TEST_TMPDIR/pod"
  run "$EVALUATE" --policy "$POLICY" --pod "$BATS_TEST_TMPDIR/pod" --objects demo/cluster --output patch
  [ "$status" -eq 0 ]
  [ "$output" = "[]" ]
}

@test "standard input, JSON and workloads are understood" {
  seed --output pod >"$BATS_TEST_TMPDIR/pod"
  yq . demo/pod.yaml | "$EVALUATE" --policy "$POLICY" --pod - --objects demo/cluster --output pod |
    diff - "$BATS_TEST_TMPDIR/pod"
  evaluate_case tests/cases/deployment --output pod | jq -e '.kind == "Pod" and .metadata.generateName != null'
}

@test "a denied Pod exits with 1, its message on standard error and nothing on standard output" {
  run --separate-stderr evaluate_case tests/cases/dataset-not-bound --output pod
  [ "$status" -eq 1 ]
  [ -z "$output" ]
  [[ "$stderr" == *"Dataset default/data is not bound"* ]]
}

@test "what is no Pod, no JSON, no policy or no valid settings exits with 2 and says so" {
  run "$EVALUATE" --policy "$POLICY" --pod - <<<'{"kind": "Service"'
  [ "$status" -eq 2 ]
  [[ "$output" == *"neither JSON nor YAML"* ]]
  run "$EVALUATE" --policy "$POLICY" --pod - <<<'{"kind": "Service"}'
  [ "$status" -eq 2 ]
  [[ "$output" == *"kind Service makes no Pods"* ]]
  run "$EVALUATE" --policy /nonexistent.wasm --pod demo/pod.yaml
  [ "$status" -eq 2 ]
  [[ "$output" == *"make wasm"* ]]
  run evaluate_case tests/cases/settings-unknown-field
  [ "$status" -eq 2 ]
  [[ "$output" == *"sidecarImage: unknown field; did you mean sidecarImages?"* ]]
  [[ "$output" == *"vfuseResourceName: must be a string"* ]]
}
