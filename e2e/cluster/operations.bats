#!/usr/bin/env bats
# What people do with injected Pods, and what else a cluster has an opinion of.

load helpers

# admission NAME EXPRESSION MESSAGE: a ValidatingAdmissionPolicy for the Pods of the test's namespace.
admission() {
  kubectl apply -f - <<YAML
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: $NAMESPACE-$1}
spec:
  failurePolicy: Fail
  matchConstraints:
    resourceRules: [{apiGroups: [""], apiVersions: [v1], operations: [CREATE], resources: [pods]}]
  validations: [{expression: '$2', message: '$3'}]
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: $NAMESPACE-$1}
spec:
  policyName: $NAMESPACE-$1
  validationActions: [Deny]
  matchResources: {namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: $NAMESPACE}}}
YAML
}

no_privilege='(object.spec.containers + (has(object.spec.initContainers) ? object.spec.initContainers : [])).all(container,
  !has(container.securityContext) || !has(container.securityContext.privileged) || !container.securityContext.privileged)'

# Before it is heeded nothing is refused.
heeded() { ! pod probe Never true '.spec.containers[0].securityContext.privileged = true' 2>/dev/null || ! kubectl delete pod probe; }

@test "kubectl logs, exec, cp, port-forward and debug are about the application" {
  pod app Always "cat /data/hello.txt; trap 'exit 0' TERM; nc -l -p 8080 -e cat /data/hello.txt & while :; do sleep 0.1; done"
  eventually logs_have app app hello
  [ "$(kubectl logs app)" = hello ]
  [ "$(kubectl exec app -- cat /data/hello.txt)" = hello ]
  kubectl cp app:/data/big.bin "$BATS_TEST_TMPDIR/big.bin"
  cmp "$BATS_TEST_TMPDIR/big.bin" "$run/buckets/data/big.bin"
  kubectl port-forward app 18099:8080 >"$BATS_TEST_TMPDIR/forward" 2>&1 3>&- &
  forward=$!
  eventually grep -q Forwarding "$BATS_TEST_TMPDIR/forward"
  read -r -t 20 line </dev/tcp/127.0.0.1/18099
  [ "$line" = hello ]
  kill "$forward"
  kubectl debug app --image=busybox:1 --target=app -- sh -c 'ls /proc/1/root/data'
  debugged() { kubectl logs app -c "$(kubectl get pod app -o 'jsonpath={.spec.ephemeralContainers[0].name}')" | grep -x hello.txt; }
  eventually debugged
}

@test "an admission policy that forbids privilege takes Pods for ECI, and says why it takes no others" {
  admission privilege "$no_privilege" "no container may be privileged"
  eventually heeded
  pod app Never "cat /data/hello.txt"
  eventually phase app Succeeded
  kubectl label namespace "$NAMESPACE" destination=kubernetes --overwrite
  DESTINATION=kubernetes
  # As soon as the API server knows the label.
  refused() {
    kubectl delete deployment web --ignore-not-found --cascade=foreground
    deployment web 1 true
    sleep 1
    describes replicaset "no container may be privileged"
  }
  eventually refused
}

@test "an admission policy that allows no hostPath but Datasets takes the Pod" {
  admission paths '!has(object.spec.volumes) || object.spec.volumes.all(volume, !has(volume.hostPath) || volume.hostPath.path.startsWith("/runtime-mnt/"))' \
    "only Datasets may be hostPaths"
  refused() { ! pod probe Never true '.spec.volumes += [{"name": "etc", "hostPath": {"path": "/etc"}}]' 2>/dev/null || ! kubectl delete pod probe; }
  eventually refused
  pod app Never "cat /data/hello.txt"
  eventually phase app Succeeded
}

# The rules of deploy/ for the test's namespace, which trust its image, and are named after it. Deleted with the cluster.
pod_security() {
  yq -c --arg namespace "$NAMESPACE" --arg image "$IMAGE" 'select(.kind | startswith("ValidatingAdmissionPolicy"))
    | .metadata.name += "-" + $namespace
    | if .spec.policyName then .spec.policyName += "-" + $namespace
        | .spec.matchResources.namespaceSelector.matchExpressions[0].values = [$namespace]
      else .spec.variables |= (. // [] | map(if .name == "trusted" then .expression = ({($image): [["fluid-fuse", "mount"], ["fluid-fuse", "hold"]]} | tojson)
        else . end)) end' "$project/deploy/pod-security.yaml" | kubectl apply -f -
}

@test "the rule for Pods with sidecars takes those that the policy made, and refuses hostile ones and exec" {
  kubectl label namespace "$NAMESPACE" destination=kubernetes --overwrite
  DESTINATION=kubernetes
  pod_security
  # Before it is heeded nothing is refused.
  refused() { ! pod probe Never true '.spec.hostPID = true | del(.spec.volumes[0], .spec.containers[0].volumeMounts[0])' 2>/dev/null || ! kubectl delete pod probe; }
  eventually refused
  # The API server knows every field that the rule names.
  [ "$(kubectl get validatingadmissionpolicy "fluid-sidecar-pods-$NAMESPACE" -o 'jsonpath={.status.typeChecking.expressionWarnings}')" = "" ]
  # As soon as the API server knows the label of the namespace, the sidecar is privileged.
  made() {
    kubectl delete pod app --ignore-not-found
    pod app Never "cat /data/hello.txt; $SERVE"
    kubectl get pod app -o json | jq -e '.spec.initContainers[0].securityContext.privileged'
  }
  eventually made
  eventually logs_have app app hello

  # hostile NAME MESSAGE JQ: the same Pod, written by hand and changed.
  hostile() {
    kubectl get pod app -o json | jq "del(.spec.nodeName, .status, .metadata.uid, .metadata.resourceVersion) | .metadata.name = \"$1\" | $3" >"$BATS_TEST_TMPDIR/$1.json"
    run kubectl create -f "$BATS_TEST_TMPDIR/$1.json"
    echo "$1: $output"
    [ "$status" -ne 0 ]
    [[ $output == *"$2"* ]]
  }
  # shellcheck disable=SC2016 # jq's
  {
    hostile image "does not trust" '.spec.initContainers[0].image = "busybox:1"'
    hostile command "does not trust" '.spec.initContainers[0].args = ["--source", "file:///"]'
    hostile hook "a hook or a probe" '.spec.initContainers[0].lifecycle.postStart.exec.command = ["sh", "-c", "evil"]'
    hostile own "may be privileged" '.spec.initContainers += [{name: "own", image: "busybox:1", securityContext: {privileged: true}}]'
    hostile node "is none of a Dataset" '.spec.volumes += [{name: "node", hostPath: {path: "/"}}]'
    hostile foreign "of another namespace" '.spec.volumes += [{name: "foreign", hostPath: {path: "/runtime-mnt/thin/victim/data/thin-fuse"}}]'
    hostile propagation "privileged" '.spec.containers[0].securityContext.privileged = true | .spec.containers[0].volumeMounts[0].mountPropagation = "Bidirectional"'
    hostile parent "hostPath of sidecars" '.spec.initContainers[0].volumeMounts[0].name as $name | .spec.containers[0].volumeMounts += [{$name, mountPath: "/mine"}]'
    hostile neighbour "no sidecar of this Pod mounts there" '(.spec.volumes[] | select(.name == "data").hostPath.path) |= sub("/[0-9a-f]{8}-"; "/00000000-")'
    hostile processes "hostPID" '.spec.hostPID = true'
  }

  # After admission.
  run kubectl set image pod/app fluid-fuse=busybox:1
  [ "$status" -ne 0 ]
  echo "$output"
  [[ $output == *"ValidatingAdmissionPolicy 'fluid-sidecar-pods-"* ]]
  for access in "exec app -c fluid-fuse -- fluid-fuse --version" "attach app -c fluid-fuse"; do
    # shellcheck disable=SC2086 # words
    run timeout 20 kubectl $access
    [ "$status" -ne 0 ]
    echo "$output"
    [[ $output == *"ValidatingAdmissionPolicy 'fluid-sidecar-exec-"* ]]
  done
  run kubectl debug app --image=busybox:1 --target=fluid-fuse -- true
  echo "$output"
  [[ $output == *"ValidatingAdmissionPolicy 'fluid-sidecar-pods-"* ]]
  # The application is its owner's.
  [ "$(kubectl exec app -- cat /data/hello.txt)" = hello ]
  kubectl label pod app changed=yes
  kubectl delete pod app
}

@test "Pod Security baseline takes a Deployment, refuses its Pods, and says so where its owner looks" {
  kubectl label namespace "$NAMESPACE" pod-security.kubernetes.io/enforce=baseline --overwrite
  deployment web 1 true
  eventually describes replicaset 'violates PodSecurity "baseline:latest": hostPath volumes'
  [ -z "$(kubectl get pods -o name)" ]
}

@test "a Pod in a user namespace runs, and one with a Dataset is refused with the reason" {
  pod plain Never "cat /proc/self/uid_map" '.spec.hostUsers = false | del(.spec.volumes[0], .spec.containers[0].volumeMounts[0])'
  eventually phase plain Succeeded
  # Not the node's root.
  kubectl logs plain | awk '{ exit $2 == 0 }'
  run pod app Never true '.spec.hostUsers = false'
  [ "$status" -ne 0 ]
  [[ $output == *"spec.hostUsers: false: what a sidecar mounts in the Pod's user namespace does not reach the other"* ]]
}

@test "the validating twin passes what was injected, and refuses what was damaged or never injected" {
  # It is asked about the marked Pods of the cluster: of those of this test alone here.
  only=".spec.namespaceSelector.matchExpressions += [{key: \"kubernetes.io/metadata.name\", operator: \"In\", values: [\"$NAMESPACE\"]}]"
  webhook_register verify "$only"
  pod app Never "cat /data/hello.txt"
  eventually phase app Succeeded
  kubectl get pod app -o json | jq 'del(.spec.nodeName, .status, .metadata.uid, .metadata.resourceVersion)
    | .metadata.name = "damaged"' >"$BATS_TEST_TMPDIR/whole.json"
  # damaged FILTER MESSAGE
  damaged() {
    jq "$1" "$BATS_TEST_TMPDIR/whole.json" >"$BATS_TEST_TMPDIR/damaged.json"
    run kubectl create -f "$BATS_TEST_TMPDIR/damaged.json"
    [[ $output == *"$2"* ]] || { echo "$output"; kubectl delete pod damaged --ignore-not-found; false; }
  }
  eventually damaged 'del(.spec.containers[] | select(.name == "fluid-fuse"))' "spec.containers[fluid-fuse] is missing"
  damaged '(.spec.containers[] | select(.name == "fluid-fuse")).image = "evil"' \
    "spec.containers[fluid-fuse].image is not what the policy injects"
  # The policy is away, and its failurePolicy Ignore.
  webhook_configure eci '.spec.failurePolicy = "Ignore"'
  webhook_stop eci
  never_injected() {
    run pod bare Never true
    [[ $output == *"no sidecar was injected"* ]]
  }
  eventually never_injected
  webhook_register eci '.spec.failurePolicy = "Fail"'
  webhook_remove verify
}

@test "an Indexed Job succeeds by its rule, and a failure that its rule knows ends it" {
  job indexed "cat /data/hello.txt; [ \$JOB_COMPLETION_INDEX = 0 ] && exit 0; trap 'exit 0' TERM; while :; do sleep 0.1; done" \
    '"completionMode": "Indexed", "completions": 3, "parallelism": 3, "successPolicy": {"rules": [{"succeededIndexes": "0"}]}'
  kubectl wait --for=condition=complete job/indexed --timeout=150s
  job failing "cat /data/hello.txt; exit 42" '"backoffLimit": 6, "podFailurePolicy": {"rules": [{"action": "FailJob",
    "onExitCodes": {"containerName": "app", "operator": "In", "values": [42]}}]}'
  kubectl wait --for=condition=failed job/failing --timeout=150s
  [ "$(kubectl get job failing -o 'jsonpath={.status.conditions[?(@.type=="Failed")].reason}')" = PodFailurePolicy ]
}

@test "a sidecar that sees the Pod's processes ends with them" {
  kubectl delete namespace "$NAMESPACE" --wait=false
  new_namespace "operations-$BATS_TEST_NUMBER-processes" processes
  job train "$CHECK"
  kubectl wait --for=condition=complete job/train --timeout=150s
  kubectl get pods -o json | jq -e 'all(.items[0].status.containerStatuses[]; .state.terminated.exitCode == 0)'
}
