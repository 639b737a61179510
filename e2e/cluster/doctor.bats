#!/usr/bin/env bats
# `doctor` in a real cluster: each test makes a fault, and sees that the first finding is that fault.
#
# DOCTOR_RECORDS=DIRECTORY writes down what doctor has read, as a directory for each finding: the cases of
# crates/kubectl-fluid-sidecar/tests/doctor are made so.

load helpers

setup_file() {
  policies_apply
  kubectl apply -f "$BATS_TEST_DIRNAME/fluid/policies.yaml"
  kubectl wait --for=condition=Established crd/clusteradmissionpolicies.policies.kubewarden.io \
    crd/admissionpolicies.policies.kubewarden.io --timeout=60s
  known eci '.spec.failurePolicy = "Fail"'
  # Its gates are short, and it has sidecars that nobody ends.
  webhook_register kubernetes "$(policy_for doctor "$settings")"
  known kubernetes "$(policy_for doctor "$settings")"
}

settings='{destination: "eci", gateTimeoutSeconds: 5, destinations: {eci: {exit: "acs", readinessProbe: false}}}'

# known FILE CHANGE: the policies as objects, as Kubewarden has those that are active.
known() {
  local policy
  while read -r policy; do
    kubectl apply -f - <<<"$policy"
    policy_status "$(webhook_name)" active True
  done < <(webhook_policies "$@")
}

# policy_status NAME STATUS ACTIVE
policy_status() {
  kubectl patch clusteradmissionpolicy "$1" --subresource=status --type=merge --patch "$(jq -n --arg status "$2" --arg active "$3" '{
    status: {policyStatus: $status, mode: "protect", conditions: [{type: "PolicyActive", status: $active, reason: "PolicyActive",
      lastTransitionTime: "2026-01-01T00:00:00Z",
      message: (if $active == "True" then "The policy webhook has been created" else "The policy webhook has not been created" end)}]}}')"
}

# sees TARGET: what doctor says of it, as JSON.
sees() { "${TOOL:-$project/target/debug/kubectl-fluid_sidecar}" doctor --output json "$1"; }

# finds TARGET CODE [RECORD]: in the end it is the first finding.
finds() {
  eventually first "$1" "$2" || {
    sees "$1"
    return 1
  }
  [ -z "${DOCTOR_RECORDS:-}" ] || record "$1" "${3:-$2}"
}

# record TARGET NAME
record() { "${TOOL:-$project/target/debug/kubectl-fluid_sidecar}" doctor --record "$DOCTOR_RECORDS/$2" "$1" || true; }

first() { [ "$(sees "$1" | jq -r '.findings[0].code')" = "$2" ]; }

@test "nothing wrong: the exit code is 0" {
  pod app Never "$SERVE_DATA"
  eventually logs_have app app hello
  run sees pod/app
  echo "$output"
  [ "$status" -eq 0 ]
  [ "$(jq '.findings | length' <<<"$output")" = 0 ]
  [ -z "${DOCTOR_RECORDS:-}" ] || record pod/app nothing
  run sees pod/nobody
  [ "$status" -eq 2 ]
}

@test "not recognised: no marker, no Dataset, opted out" {
  pod elsewhere Never true 'del(.metadata.labels["alibabacloud.com/eci"], .spec.tolerations)'
  finds pod/elsewhere not-serverless
  pod out Never true '.metadata.labels["fluid.io/enable-injection"] = "false"'
  finds pod/out opted-out
  kubectl apply -f - <<YAML
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: disk}
spec: {accessModes: [ReadWriteOnce], storageClassName: nobodys, resources: {requests: {storage: 1Gi}}}
YAML
  pod ordinary Never true '.spec.volumes[0].persistentVolumeClaim.claimName = "disk"'
  finds pod/ordinary claim-pending
}

@test "an ordinary claim is no Dataset's" {
  kubectl apply -f - <<YAML
apiVersion: v1
kind: PersistentVolume
metadata: {name: $NAMESPACE-disk}
spec: {accessModes: [ReadWriteOnce], capacity: {storage: 1Gi}, storageClassName: disk, hostPath: {path: /tmp}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: disk}
spec: {accessModes: [ReadWriteOnce], storageClassName: disk, volumeName: $NAMESPACE-disk, resources: {requests: {storage: 1Gi}}}
YAML
  pod app Never "$SERVE" '.spec.volumes[0].persistentVolumeClaim.claimName = "disk"'
  finds pod/app not-a-dataset
}

@test "the policy was not asked: the selector of its webhook, its age, an answer that did not come, its state" {
  webhook_configure eci ".spec.failurePolicy = \"Fail\" | .spec.namespaceSelector.matchExpressions += [{key: \"kubernetes.io/metadata.name\",
    operator: \"NotIn\", values: [\"$NAMESPACE\"]}]"
  uninjected() {
    kubectl delete pod "$1" --ignore-not-found --grace-period=0 --force 2>/dev/null
    pod "$1" Never true && kubectl get pod "$1" -o json | jq -e '.metadata.annotations["fluid-sidecar-policy/injected"] | not'
  }
  eventually uninjected unselected
  finds pod/unselected not-asked
  webhook_stop eci
  webhook_configure eci '.spec.failurePolicy = "Ignore"'
  eventually uninjected ignored
  finds pod/ignored no-answer
  webhook_remove eci || true
  eventually uninjected older
  sleep 1.1
  webhook_register eci '.spec.failurePolicy = "Fail"'
  finds pod/older older-than-policy
  webhook_configure kubernetes "$(policy_for doctor "$settings")"
  policy_status fluid-sidecar-eci pending False
  finds pod/older policy-not-active
  policy_status fluid-sidecar-eci active True
}

@test "the policy refused the Pods of a Deployment" {
  kubectl apply -f - <<YAML
apiVersion: data.fluid.io/v1alpha1
kind: Dataset
metadata: {name: pending}
spec: {mounts: [{mountPoint: "s3://data", name: data}]}
status: {phase: NotBound, conditions: []}
YAML
  deployment web 1 true '.spec.volumes[0].persistentVolumeClaim.claimName = "pending"'
  eventually describes replicaset "is not bound"
  finds deployment/web refused
}

@test "Pod Security, and a quota, refuse the Pods of an owner" {
  kubectl create quota none --hard=pods=0
  deployment many 1 true
  eventually describes replicaset 'exceeded quota'
  finds deployment/many refused-by-others
  kubectl delete quota none
  kubectl label namespace "$NAMESPACE" pod-security.kubernetes.io/enforce=baseline --overwrite
  job secure true
  eventually describes job 'violates PodSecurity'
  finds job/secure pod-security
}

@test "the webhook does not answer, and refuses the Pods of an owner" {
  webhook_stop eci
  deployment web 1 true
  eventually describes replicaset 'failed calling webhook'
  finds deployment/web policy-away
  webhook_register eci '.spec.failurePolicy = "Fail"'
}

@test "no node has a device for the Pod, or its sidecar has none" {
  pod app Never true 'del(.spec.tolerations)'
  finds pod/app no-vfuse
  pod whole Never "$SERVE_DATA"
  eventually logs_have whole app hello
  # Without its limit, and elsewhere.
  kubectl get pod whole -o json | jq 'del(.spec.nodeName, .status, .metadata.uid, .metadata.resourceVersion, .spec.tolerations)
    | .metadata.name = "deviceless"
    | del(.spec.containers[] | select(.name == "fluid-fuse").resources)' | kubectl create -f -
  finds pod/deviceless no-device
}

@test "the image of the sidecar" {
  kubectl set image daemonset/data-fuse "thin-fuse=$gateway:9/nobody/fluid-fuse:1"
  pod app Never true
  finds pod/app image
  kubectl set image daemonset/data-fuse 'thin-fuse=NO:IMAGE:1'
  pod named Never true
  finds pod/named image image-name
}

@test "a Secret of the Dataset is missing" {
  kubectl delete secret keys
  pod app Never true
  # kubelet tries to mount it at first.
  finds pod/app missing-object
}

@test "options that the sidecar does not take" {
  kubectl set env daemonset/data-fuse FLUID_FUSE_MEMORY=lots
  deployment web 1 "$SERVE"
  finds deployment/web options
}

@test "the store refuses the keys" {
  kubectl create secret generic keys --from-literal=id=access-key --from-literal=secret=wrong --dry-run=client -o yaml | kubectl apply -f -
  deployment web 1 "$SERVE_DATA"
  finds deployment/web store-refuses
}

@test "there is no such bucket" {
  dataset nobucket
  deployment web 1 "$SERVE_DATA" '.spec.volumes[0].persistentVolumeClaim.claimName = "nobucket"'
  finds deployment/web no-bucket
}

@test "the store cannot be reached, and the gate fails in the end" {
  kubectl label namespace "$NAMESPACE" destination=doctor --overwrite
  STORE=http://$gateway:9 dataset data
  made() {
    kubectl delete deployment web --ignore-not-found --cascade=foreground
    DESTINATION=processes deployment web 1 "$SERVE_DATA"
    sleep 2
    kubectl get pods -o json | jq -e '.items[0].metadata.annotations["fluid-sidecar-policy/injected"]'
  }
  eventually made
  finds deployment/web store-unavailable
}

@test "the sidecar waits for its store" {
  STORE=http://$gateway:9 dataset data
  deployment web 1 "$SERVE_DATA"
  finds deployment/web gate-waits
}

@test "the store falls silent while the application reads" {
  kubectl set env daemonset/data-fuse FLUID_FUSE_METRICS=0.0.0.0:9400 FLUID_FUSE_IO_TIMEOUT=15s
  pod app Never "cat /data/hello.txt; sleep 4; while :; do cat /data/huge.bin >/dev/null; sleep 0.5; done"
  eventually logs_have app app hello
  kill -STOP "$(<"$run/pid/s3-store")"
  finds pod/app store-silent || { kill -CONT "$(<"$run/pid/s3-store")"; false; }
  failed() { kubectl logs app -c app | grep 'Input/output error'; }
  eventually failed || { kill -CONT "$(<"$run/pid/s3-store")"; false; }
  kill -CONT "$(<"$run/pid/s3-store")"
  recovered() { kubectl logs app -c fluid-fuse | grep -E 'answers again|outage ended'; }
  eventually recovered
  finds pod/app store-was-away
  sees pod/app | jq -e 'any(.findings[]; .code == "reads-failed" and (.evidence[0].text | contains("EIO")))'
}

@test "the sidecar was killed, and the application holds files of the mount that went" {
  deployment web 1 "$WATCH"
  eventually prints LISTED
  kill_container "$(the_pod)" fluid-fuse
  eventually restarts fluid-fuse 1
  finds deployment/web mount-was-lost
}

@test "a sidecar, and an application, without enough memory" {
  kubectl label namespace "$NAMESPACE" destination=kubernetes --overwrite
  DESTINATION=kubernetes
  kubectl set env daemonset/data-fuse FLUID_FUSE_MEMORY=256MiB
  kubectl set resources daemonset/data-fuse --limits=memory=24Mi
  made() {
    kubectl delete deployment web --ignore-not-found --cascade=foreground
    deployment web 1 "$WATCH"
    sleep 2
    kubectl get pods -o json | jq -e '.items[0].metadata.annotations["fluid-sidecar-policy/injected"] | fromjson | .destination == "kubernetes"'
  }
  eventually made
  eventually prints LISTED
  kubectl exec deployment/web -c app -- timeout 60 sh -c 'while cat /data/huge.bin >/dev/null; do :; done' || true
  finds deployment/web sidecar-memory
  kubectl delete deployment web
  kubectl set env daemonset/data-fuse FLUID_FUSE_MEMORY-
  kubectl set resources daemonset/data-fuse --limits=memory=256Mi
  pod greedy Never "cat /data/hello.txt; tail /dev/zero" '.spec.containers[0].resources = {"limits": {"memory": "24Mi"}}'
  finds pod/greedy application-memory
}

@test "a sidecar with little of a processor" {
  kubectl set resources daemonset/data-fuse --limits=cpu=40m,memory=128Mi
  pod app Never "cat /data/hello.txt; while :; do cat /data/huge.bin >/dev/null; done"
  eventually logs_have app app hello
  finds pod/app processor
}

@test "a Job whose sidecar nobody ends" {
  kubectl label namespace "$NAMESPACE" destination=doctor --overwrite
  made() {
    kubectl delete job train --ignore-not-found --cascade=foreground
    DESTINATION=processes job train "cat /data/hello.txt"
    sleep 2
    kubectl get pods -o json | jq -e '.items[0].metadata.annotations["fluid-sidecar-policy/injected"]'
  }
  eventually made
  finds job/train sidecar-stays
  # Its advice for this Pod.
  bash -eux -c "$(sees job/train | jq -r '.findings[0].remedy[] | select(startswith("kubectl exec"))')"
  kubectl wait --for=condition=complete job/train --timeout=60s
}

@test "a later webhook took the sidecar away" {
  pod whole Never "$SERVE_DATA"
  eventually logs_have whole app hello
  kubectl get pod whole -o json | jq 'del(.spec.nodeName, .status, .metadata.uid, .metadata.resourceVersion)
    | .metadata.name = "damaged" | del(.spec.containers[] | select(.name == "fluid-fuse"))' | kubectl create -f -
  finds pod/damaged sidecar-removed
}

@test "the settings are others since" {
  pod app Never "$SERVE_DATA"
  eventually logs_have app app hello
  kubectl patch clusteradmissionpolicy fluid-sidecar-eci --type=merge --patch '{"spec": {"settings": {"gateTimeoutSeconds": 17}}}'
  finds pod/app other-settings
  kubectl patch clusteradmissionpolicy fluid-sidecar-eci --type=merge --patch '{"spec": {"settings": {"gateTimeoutSeconds": null}}}'
}

@test "a claim, a Dataset and a Runtime that are not as they should be" {
  webhook_configure eci '.spec.failurePolicy = "Ignore"'
  webhook_stop eci
  admitted() { pod "$@"; }
  eventually admitted missing Never true '.spec.volumes[0].persistentVolumeClaim.claimName = "nobodys"'
  finds pod/missing unresolved claim-missing
  kubectl patch dataset data --type=merge --patch '{"status": {"phase": "NotBound"}}'
  pod unbound Never true
  finds pod/unbound unresolved dataset-not-bound
  kubectl patch dataset data --type=merge --patch '{"status": {"phase": "Bound", "runtimes": [{"name": "data", "namespace": "x", "type": "nobodys"}]}}'
  pod foreign Never true
  finds pod/foreign unresolved runtime-unknown
  webhook_register eci '.spec.failurePolicy = "Fail"'
}

@test "a missing right is a finding with the commands that grant it, and ends nothing" {
  pod out Never true '.metadata.labels["fluid.io/enable-injection"] = "false"'
  kubectl create serviceaccount reader
  kubectl create role reads-pods --verb=get --resource=pods
  kubectl create rolebinding reads-pods --role=reads-pods --serviceaccount="$NAMESPACE:reader"
  kubectl create token reader --duration 1h | tr -d '\n' >"$BATS_TEST_TMPDIR/token"
  kubeconfig "$BATS_TEST_TMPDIR/token" >"$BATS_TEST_TMPDIR/kubeconfig"
  by_reader() {
    "${TOOL:-$project/target/debug/kubectl-fluid_sidecar}" doctor --kubeconfig "$BATS_TEST_TMPDIR/kubeconfig" -n "$NAMESPACE" --output json \
      ${DOCTOR_RECORDS:+--record "$DOCTOR_RECORDS/missing-rights"} pod/out
  }
  run by_reader
  echo "$output"
  [ "$status" -eq 1 ]
  # What it may read is enough for this one.
  [ "$(jq -r '.findings[0].code' <<<"$output")" = opted-out ]
  jq -r '.findings[] | select(.code == "missing-rights").remedy[] | select(startswith("kubectl "))' <<<"$output" >"$BATS_TEST_TMPDIR/grants"
  [ "$(wc -l <"$BATS_TEST_TMPDIR/grants")" -ge 2 ]
  bash -eux "$BATS_TEST_TMPDIR/grants"
  granted() { by_reader | jq -e 'all(.findings[]; .code != "missing-rights")'; }
  eventually granted
  kubectl delete clusterrole,clusterrolebinding fluid-sidecar-doctor
}
