#!/usr/bin/env bats
# The compiled policy from outside: through kubectl-fluid_sidecar, and through kwctl when it is installed.
# What the golden cases expect of the library they expect of the module: crates/kubectl-fluid-sidecar/tests/wasm.rs asks it about
# all of them in one process. Here the way from the files to the patch is tried, which compiles the module each time.

bats_require_minimum_version 1.5.0

setup_file() {
  cd "$BATS_TEST_DIRNAME"
  export TOOL=${TOOL:-target/debug/kubectl-fluid_sidecar} POLICY=${POLICY:-target/policy.wasm}
  # Whatever cluster there is, it is not asked.
  export KUBECONFIG=/nonexistent
  [ -x "$TOOL" ] || { echo "build first: make wasm tools" >&2; return 1; }
  ! command -v kwctl >/dev/null || make --no-print-directory annotated-policy.wasm
}

setup() {
  cd "$BATS_TEST_DIRNAME"
  . scripts/golden.sh
}

# explain_case DIR [OPTION…]: asks the policy about a golden case.
explain_case() {
  local dir=$1 arguments=() option file
  shift
  for option in objects settings; do
    file=$(golden_file "$dir" "$option.yaml") && arguments+=("--$option" "$file")
  done
  "$TOOL" "${VERB:-explain}" "$(golden_file "$dir" pod.yaml)" --policy "$POLICY" "${arguments[@]}" "$@"
}

seed() { "$TOOL" explain demo/pod.yaml --policy "$POLICY" --objects demo/cluster "$@"; }

# apply_patch PATCH: what an RFC 6902 patch makes of the document on standard input. Of its own, so that what makes the
# patch does not judge it.
apply_patch() {
  jq --slurpfile patch "$1" '
    def resolve($steps): . as $document | reduce $steps[] as $step ([];
      . as $path | ($document | getpath($path)) as $at
      | . + [if ($at | type) != "array" then $step
             elif $step == "-" then ($at | length)
             else ($step | tonumber) end]);
    def apply($operation):
      resolve($operation.path | split("/")[1:] | map(gsub("~1"; "/") | gsub("~0"; "~"))) as $path
      | getpath($path[:-1]) as $parent
      | if $operation.op == "remove" then delpaths([$path])
        elif $operation.op == "replace" then setpath($path; $operation.value)
        elif $operation.op != "add" then error("unexpected operation \($operation.op)")
        elif ($parent | type) == "array"
          then setpath($path[:-1]; $parent[:$path[-1]] + [$operation.value] + $parent[$path[-1]:])
        else setpath($path; $operation.value) end;
    reduce $patch[0][] as $operation (.; apply($operation))'
}

# is_as_expected CASE: the AdmissionResponse in $BATS_TEST_TMPDIR/response, its patch decoded, is what expected.yaml
# says, and its patch makes the expected Pod of the one in $BATS_TEST_TMPDIR/request.
is_as_expected() {
  yq . "$1/expected.yaml" >"$BATS_TEST_TMPDIR/expected"
  jq -e --slurpfile expected "$BATS_TEST_TMPDIR/expected" '
    $expected[0] as $e
    | .auditAnnotations.decision == $e.decision
      and (.auditAnnotations.reasons | split("\n")) == $e.reasons
      and .status.message == $e.message
      and .warnings == $e.warnings
      and .allowed == ($e.decision != "rejected")
      and has("patch") == ($e | has("pod"))' "$BATS_TEST_TMPDIR/response" >/dev/null || {
    echo "$1: the response differs from expected.yaml:"
    cat "$BATS_TEST_TMPDIR/response"
    return 1
  }
  jq -e .pod "$BATS_TEST_TMPDIR/expected" >/dev/null || return 0
  jq .patch "$BATS_TEST_TMPDIR/response" >"$BATS_TEST_TMPDIR/patch"
  diff <(jq -S .pod "$BATS_TEST_TMPDIR/expected") \
    <(jq .object "$BATS_TEST_TMPDIR/request" | apply_patch "$BATS_TEST_TMPDIR/patch" | jq -S .) || {
    echo "$1: the patched Pod differs from expected.yaml"
    return 1
  }
}

@test "every tenth golden case gives the same through the command line, as a patch" {
  for dir in $(golden_cases | sed -n '0~10p'); do
    # Settings that are not valid never reach a request in a cluster: the policy server does not start.
    [ "$(basename "$dir")" = settings-unknown-field ] && continue
    for what in request response; do
      explain_case "$dir" --output "$what" >"$BATS_TEST_TMPDIR/$what" 2>/dev/null || [ $? -eq 1 ]
    done
    is_as_expected "$dir"
  done
}

# The policy's reads are answered from the same objects: `record` writes them down as kwctl replays them.
@test "every golden case gives the same through kwctl and the annotated policy" {
  command -v kwctl >/dev/null || skip "kwctl is not installed"
  for dir in $(golden_cases); do
    # Reviews that are broken on purpose, which kwctl does not pass on.
    grep -q AdmissionReview "$(golden_file "$dir" pod.yaml)" && continue
    [ "$(basename "$dir")" = settings-unknown-field ] && continue
    VERB=record explain_case "$dir" --session "$BATS_TEST_TMPDIR/session" >"$BATS_TEST_TMPDIR/request"
    local settings=(--settings-json '{}') file
    file=$(golden_file "$dir" settings.yaml) && settings=(--settings-path "$file")
    kwctl run --allow-context-aware "${settings[@]}" \
      --replay-host-capabilities-interactions "$BATS_TEST_TMPDIR/session" \
      --request-path "$BATS_TEST_TMPDIR/request" annotated-policy.wasm 2>"$BATS_TEST_TMPDIR/kwctl.log" |
      jq 'if .patch then .patch |= (@base64d | fromjson) else . end' >"$BATS_TEST_TMPDIR/response" ||
      { cat "$BATS_TEST_TMPDIR/kwctl.log"; return 1; }
    is_as_expected "$dir"
  done
}

@test "the module has at most 540,000 bytes" {
  command -v wasm-opt >/dev/null || skip "wasm-opt is not installed"
  [ -d target/wasm-debian/wasm32-wasip1/wasm ] || skip "rustup's standard library is not built for size"
  [ "$(stat -c %s "$POLICY")" -le 540000 ]
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
  run "$TOOL" explain "$BATS_TEST_TMPDIR/pod" --policy "$POLICY" --objects demo/cluster --output patch
  [ "$status" -eq 0 ]
  [ "$output" = "[]" ]
}

@test "standard input, JSON and workloads are understood" {
  seed --output pod >"$BATS_TEST_TMPDIR/pod"
  yq . demo/pod.yaml | "$TOOL" explain - --policy "$POLICY" --objects demo/cluster --output pod |
    diff - "$BATS_TEST_TMPDIR/pod"
  explain_case tests/cases/deployment --output pod | jq -e '.kind == "Pod" and .metadata.generateName != null'
}

@test "a denied Pod exits with 1, its message on standard error and nothing on standard output" {
  run --separate-stderr explain_case tests/cases/dataset-not-bound --output pod
  [ "$status" -eq 1 ]
  [ -z "$output" ]
  [[ "$stderr" == *"Dataset default/data is not bound"* ]]
}

@test "what is no Pod, no JSON, no policy or no valid settings exits with 2 and says so" {
  run "$TOOL" explain - --policy "$POLICY" <<<'{"kind": "Service"'
  [ "$status" -eq 2 ]
  [[ "$output" == *"neither JSON nor YAML"* ]]
  run "$TOOL" explain - --policy "$POLICY" <<<'{"kind": "Service"}'
  [ "$status" -eq 2 ]
  [[ "$output" == *"no Pod or Pod template in 1 Service"* ]]
  run "$TOOL" explain demo/pod.yaml --policy /nonexistent.wasm
  [ "$status" -eq 2 ]
  [[ "$output" == *"make wasm"* ]]
  run explain_case tests/cases/settings-unknown-field
  [ "$status" -eq 2 ]
  [[ "$output" == *"sidecarImage: unknown field; did you mean sidecarImages?"* ]]
  [[ "$output" == *"vfuseResourceName: must be a string"* ]]
}

# The Pods of several_pods: allowed, denied, and one in a custom resource; and a document without one.
several_pods() {
  cat tests/cases/pod-beside-a-service/pod.yaml
  printf -- '---\n'
  cat "${1:-tests/cases/opted-out}/pod.yaml"
  printf -- '---\n'
  cat tests/cases/pytorchjob/pod.yaml
}

explain_several() {
  several_pods "$1" | "$TOOL" "${VERB:-explain}" - --policy "$POLICY" --objects tests/cases/objects.yaml "${@:2}"
}

@test "every Pod of a file is evaluated, and what has none is named" {
  run --separate-stderr explain_several tests/cases/opted-out
  [ "$status" -eq 0 ]
  [ "$(grep -c '^Pod ' <<<"$output")" -eq 3 ]
  [[ "$output" == *"Pod of PyTorchJob default/t: spec.pytorchReplicaSpecs.Master.template: admitted, mutated"* ]]
  [ "$stderr" = "note: -: skipped what has no Pod or Pod template: 1 Service" ]
}

@test "several Pods are a stream of JSON, which explain reads again" {
  explain_several tests/cases/opted-out --output pod 2>/dev/null >"$BATS_TEST_TMPDIR/pods"
  jq -es 'length == 3 and all(.[]; .kind == "Pod")' "$BATS_TEST_TMPDIR/pods"
  "$TOOL" explain "$BATS_TEST_TMPDIR/pods" --policy "$POLICY" --objects tests/cases/objects.yaml --output patch |
    jq -es '. == [[], [], []]'
  "$TOOL" uninject "$BATS_TEST_TMPDIR/pods" --policy "$POLICY" | jq -es '
    length == 3 and all(.[]; .spec.volumes[0].hostPath == null)'
  explain_several tests/cases/opted-out --output response 2>/dev/null | jq -es 'map(has("patch")) == [true, false, true]'
}

@test "the exit status is the worst of all Pods, and each message names its Pod" {
  # Denied.
  run --separate-stderr explain_several tests/cases/block-device --output pod
  [ "$status" -eq 1 ]
  [ "$(jq -s length <<<"$output")" -eq 2 ]
  [[ "$stderr" == *"Pod default/app: "* ]]
  # One that cannot be evaluated does not keep the others from it.
  mkdir "$BATS_TEST_TMPDIR/broken"
  echo '{kind: Deployment, metadata: {name: broken}}' >"$BATS_TEST_TMPDIR/broken/pod.yaml"
  run --separate-stderr explain_several "$BATS_TEST_TMPDIR/broken" --output pod
  [ "$status" -eq 2 ]
  [ "$(jq -s length <<<"$output")" -eq 2 ]
  [[ "$stderr" == *"document 3: Deployment broken has no spec.template"* ]]
}

@test "options for one Pod refuse several" {
  run explain_several tests/cases/opted-out --record "$BATS_TEST_TMPDIR/session"
  [ "$status" -eq 2 ]
  [[ "$output" == *"--record is for one Pod, and - has 3"* ]]
  for VERB in record bench; do
    run explain_several tests/cases/opted-out
    [ "$status" -eq 2 ]
    [[ "$output" == *"$VERB is for one Pod, and - has 3"* ]]
  done
}
