#!/usr/bin/env bats
# `doctor` in a real cluster: there is a fault in each namespace, and the first finding is that fault.
#
# The faults are made at once, before the tests (fault_NAME makes that of the namespace doctor-NAME), so that their waits
# for kubelet overlap. A test looks at one or some of them.
#
# DOCTOR_RECORDS=DIRECTORY writes down what doctor has read, as a directory for each finding: the cases of
# crates/kubectl-fluid-sidecar/tests/doctor are made so.

load helpers

# Policies by destination, which is a label of the namespace. `doctor` has a short gate, and sidecars that nobody ends.
settings='{destination: "eci", gateTimeoutSeconds: 5, destinations: {eci: {exit: "acs", readinessProbe: false}}}'
doctor=$(policy_for doctor "$settings")
# Nobody answers for these two.
away=$(policy_for away '{destination: "eci"}')
ignored=$(policy_for ignored '{destination: "eci"} | .spec.failurePolicy = "Ignore"')
# Made after its Pod, and never ready.
older=$(policy_for older '{destination: "eci"}')
inactive=$(policy_for inactive '{destination: "eci"}')
# Not as its server has it.
acs=$(policy_for acs '{destination: "acs", gateTimeoutSeconds: 17}')
eci='.spec.failurePolicy = "Fail"
  | .spec.namespaceSelector.matchExpressions += [{key: "destination", operator: "NotIn", values: ["unselected"]}]'

# The store that falls silent.
SILENT_STORE=http://$gateway:9001

setup_file() {
  policies_apply
  kubectl apply -f "$BATS_TEST_DIRNAME/fluid/policies.yaml"
  kubectl wait --for=condition=Established crd/clusteradmissionpolicies.policies.kubewarden.io \
    crd/admissionpolicies.policies.kubewarden.io --timeout=60s
  known active True eci "$eci"
  known active True kubernetes "$doctor"
  known active True kubernetes "$ignored"
  known active True kubernetes "$older"
  known active True kubernetes "$acs"
  known pending False kubernetes "$inactive"
  webhook_configure eci "$eci"
  webhook_configure kubernetes "$away"
  webhook_configure kubernetes "$ignored"
  # The last one, so that the API server knows the others, too, when it asks this one.
  webhook_register kubernetes "$doctor"
  new_namespace asked-doctor doctor
  eventually admits_by_the_policy
  kubectl delete namespace "$NAMESPACE" --wait=false
  start s3-store-silent "${S3_STORE:-$project/target/debug/examples/s3-store}" "$run/buckets" "${SILENT_STORE#http://}"
  local maker
  for maker in $(compgen -A function fault_); do make "$maker"; done
}

teardown_file() {
  local folder
  for folder in "$BATS_FILE_TMPDIR"/*/; do
    kill "$(<"$folder/pid")" 2>/dev/null || true
    kubectl delete namespace "doctor-$(basename "$folder")" --ignore-not-found --wait=false
  done
  kill -KILL "$(<"$run/pid/s3-store-silent")" || true
  rm -f "$run/pid/s3-store-silent"
  # A volume is in no namespace, and that of another namespace of the same name would not be taken.
  kubectl get persistentvolumes -o name | grep /doctor- | xargs kubectl delete --wait=false
  kubectl delete clusteradmissionpolicies --all
  kubectl delete mutatingwebhookconfigurations clusterwide-fluid-sidecar-{away,ignored,older}
}

# make MAKER: makes the fault in the background.
make() {
  local fault=${1#fault_}
  fault=${fault//_/-}
  local folder=$BATS_FILE_TMPDIR/$fault
  mkdir "$folder"
  # The namespace is a part of it.
  cp "$KUBECONFIG" "$folder/kubeconfig"
  (
    # bats would take its end for that of a test.
    set +ET
    trap - DEBUG ERR
    trap 'echo $? >"$folder/status"' EXIT
    export KUBECONFIG=$folder/kubeconfig
    set -ex
    "$1"
  ) >"$folder/log" 2>&1 </dev/null 3>&- &
  echo $! >"$folder/pid"
}

# begin [DESTINATION]: the namespace of a fault.
begin() { new_namespace "doctor-$fault" "${1:-eci}"; }

setup() { visited=(); }

teardown() {
  [ -n "$BATS_TEST_COMPLETED" ] || show
  [ ${#visited[@]} -eq 0 ] || kubectl delete namespace "${visited[@]}" --wait=false
}

# made NAME: waits for a fault, and enters its namespace.
made() {
  local folder=$BATS_FILE_TMPDIR/$1
  export KUBECONFIG=$folder/kubeconfig
  NAMESPACE=doctor-$1
  visited+=("$NAMESPACE")
  ended() { [ -s "$folder/status" ]; }
  eventually ended && [ "$(<"$folder/status")" = 0 ] || {
    cat "$folder/log"
    return 1
  }
}

# known STATUS ACTIVE FILE CHANGE: the policies as objects, as Kubewarden has them.
known() {
  local policy
  while read -r policy; do
    kubectl apply -f - <<<"$policy"
    kubectl patch clusteradmissionpolicy "$(webhook_name)" --subresource=status --type=merge --patch "$(jq -n --arg status "$1" --arg active "$2" '{
      status: {policyStatus: $status, mode: "protect", conditions: [{type: "PolicyActive", status: $active, reason: "PolicyActive",
        lastTransitionTime: "2026-01-01T00:00:00Z",
        message: (if $active == "True" then "The policy webhook has been created" else "The policy webhook has not been created" end)}]}}')"
  done < <(webhook_policies "$3" "$4")
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

# with_claim NAME: for a workload whose claim is not `data`.
with_claim() { echo ".spec.volumes[0].persistentVolumeClaim.claimName = \"$1\""; }

OPTED_OUT='.metadata.labels["fluid.io/enable-injection"] = "false"'

# Reads now and then.
READ_ON='cat /data/hello.txt; while sleep 1; do cat /data/hello.txt >/dev/null; done'
# Reads, from a file that it has open, once it is told to, and goes on after errors.
READ_LATER='cat /data/hello.txt; exec 3</data/huge.bin; until [ -e /scratch/go ]; do sleep 0.1; done
  while :; do cat <&3 >/dev/null; sleep 1; done'

# A copy of an injected Pod, as it stands after CHANGE.
copy_of_injected() { # NAME CHANGE
  pod whole Never "$SERVE_DATA"
  eventually logs_have whole app hello
  kubectl get pod whole -o json | jq "del(.spec.nodeName, .status, .metadata.uid, .metadata.resourceVersion)
    | .metadata.name = \"$1\" | $2" | kubectl create -f -
}

fault_nothing() {
  begin
  pod app Never "$SERVE_DATA"
  kubectl wait --for=condition=Ready pod/app --timeout=150s
}

@test "nothing wrong: the exit code is 0" {
  made nothing
  run sees pod/app
  echo "$output"
  [ "$status" -eq 0 ]
  [ "$(jq '.findings | length' <<<"$output")" = 0 ]
  [ -z "${DOCTOR_RECORDS:-}" ] || record pod/app nothing
  run sees pod/nobody
  [ "$status" -eq 2 ]
}

fault_unrecognised() {
  begin
  pod elsewhere Never true 'del(.metadata.labels["alibabacloud.com/eci"], .spec.tolerations)'
  pod out Never true "$OPTED_OUT"
  kubectl apply -f - <<YAML
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: disk}
spec: {accessModes: [ReadWriteOnce], storageClassName: nobodys, resources: {requests: {storage: 1Gi}}}
YAML
  pod ordinary Never true "$(with_claim disk)"
}

@test "not recognised: no marker, no Dataset, opted out" {
  made unrecognised
  finds pod/elsewhere not-serverless
  finds pod/out opted-out
  finds pod/ordinary claim-pending
}

fault_ordinary_claim() {
  begin
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
  pod app Never "$SERVE" "$(with_claim disk)"
}

@test "an ordinary claim is no Dataset's" {
  made ordinary-claim
  finds pod/app not-a-dataset
}

fault_unselected() {
  begin unselected
  DESTINATION=eci pod app Never true
}
fault_ignored() {
  begin ignored
  pod app Never true
}
fault_older() {
  begin older
  pod app Never true
  # Timestamps have seconds.
  sleep 1.1
  webhook_configure kubernetes "$older"
}
fault_inactive() {
  begin inactive
  pod app Never true
}

@test "the policy was not asked: the selector of its webhook, its age, an answer that did not come, its state" {
  made unselected
  finds pod/app not-asked
  made ignored
  finds pod/app no-answer
  made older
  finds pod/app older-than-policy
  made inactive
  finds pod/app policy-not-active
}

fault_refused() {
  begin
  kubectl apply -f - <<YAML
apiVersion: data.fluid.io/v1alpha1
kind: Dataset
metadata: {name: pending}
spec: {mounts: [{mountPoint: "s3://data", name: data}]}
status: {phase: NotBound, conditions: []}
YAML
  deployment web 1 true "$(with_claim pending)"
}

@test "the policy refused the Pods of a Deployment" {
  made refused
  finds deployment/web refused
}

fault_quota() {
  begin
  kubectl create quota none --hard=pods=0
  deployment many 1 true
}
fault_pod_security() {
  begin
  kubectl label namespace "$NAMESPACE" pod-security.kubernetes.io/enforce=baseline --overwrite
  job secure true
}

@test "Pod Security, and a quota, refuse the Pods of an owner" {
  made quota
  finds deployment/many refused-by-others
  made pod-security
  finds job/secure pod-security
}

fault_away() {
  begin away
  deployment web 1 true
}

@test "the webhook does not answer, and refuses the Pods of an owner" {
  made away
  finds deployment/web policy-away
}

fault_no_vfuse() {
  begin
  pod app Never true 'del(.spec.tolerations)'
}
fault_no_device() {
  begin
  # Without its limit, and elsewhere.
  copy_of_injected deviceless 'del(.spec.tolerations, (.spec.containers[] | select(.name == "fluid-fuse").resources))'
}

@test "no node has a device for the Pod, or its sidecar has none" {
  made no-vfuse
  finds pod/app no-vfuse
  made no-device
  finds pod/deviceless no-device
}

fault_image() {
  begin
  kubectl set image daemonset/data-fuse "thin-fuse=$gateway:9/nobody/fluid-fuse:1"
  pod app Never true
  kubectl set image daemonset/data-fuse 'thin-fuse=NO:IMAGE:1'
  pod named Never true
}

@test "the image of the sidecar" {
  made image
  finds pod/app image
  finds pod/named image image-name
}

fault_missing_object() {
  begin
  kubectl delete secret keys
  pod app Never true
}

@test "a Secret of the Dataset is missing" {
  made missing-object
  # kubelet tries to mount it at first.
  finds pod/app missing-object
}

fault_options() {
  begin
  kubectl set env daemonset/data-fuse FLUID_FUSE_MEMORY=lots
  deployment web 1 "$SERVE"
}

@test "options that the sidecar does not take" {
  made options
  finds deployment/web options
}

fault_store_refuses() {
  begin
  kubectl create secret generic keys --from-literal=id=access-key --from-literal=secret=wrong --dry-run=client -o yaml | kubectl apply -f -
  deployment web 1 "$SERVE_DATA"
}

@test "the store refuses the keys" {
  made store-refuses
  finds deployment/web store-refuses
}

fault_no_bucket() {
  begin
  dataset nobucket
  deployment web 1 "$SERVE_DATA" "$(with_claim nobucket)"
}

@test "there is no such bucket" {
  made no-bucket
  finds deployment/web no-bucket
}

fault_store_unavailable() {
  STORE=http://$gateway:9 begin doctor
  DESTINATION=processes deployment web 1 "$SERVE_DATA"
}

@test "the store cannot be reached, and the gate fails in the end" {
  made store-unavailable
  finds deployment/web store-unavailable
}

fault_gate_waits() {
  STORE=http://$gateway:9 begin
  deployment web 1 "$SERVE_DATA"
}

@test "the sidecar waits for its store" {
  made gate-waits
  finds deployment/web gate-waits
}

fault_store_silent() {
  STORE=$SILENT_STORE begin
  kubectl set env daemonset/data-fuse FLUID_FUSE_METRICS=0.0.0.0:9400 FLUID_FUSE_IO_TIMEOUT=15s
  pod app Never "$READ_LATER"
  eventually logs_have app app hello
}

@test "the store falls silent while the application reads" {
  made store-silent
  kill -STOP "$(<"$run/pid/s3-store-silent")"
  kubectl exec app -c app -- touch /scratch/go
  finds pod/app store-silent
  failed() { kubectl logs app -c app | grep 'Input/output error'; }
  eventually failed
  kill -CONT "$(<"$run/pid/s3-store-silent")"
  recovered() { kubectl logs app -c fluid-fuse | grep -E 'answers again|outage ended'; }
  eventually recovered
  finds pod/app store-was-away
  sees pod/app | jq -e 'any(.findings[]; .code == "reads-failed" and (.evidence[0].text | contains("EIO")))'
}

# The container that mounts is killed under an application.
mount_is_lost() {
  begin "$1"
  deployment web 1 "$WATCH"
  eventually prints LISTED
  kill_container "$(the_pod)" "$(mounter)"
  eventually restarts "$(mounter)" 1
}
fault_mount_lost() { mount_is_lost eci; }
fault_holder_lost() { mount_is_lost kubernetes; }

@test "the container that mounts was killed, and the application holds files of the mount that went" {
  made mount-lost
  finds deployment/web mount-was-lost
  made holder-lost
  finds deployment/web mount-was-lost holder-was-lost
}

fault_worker_killed() {
  begin kubernetes
  deployment web 1 "$WATCH"
  eventually prints LISTED
  kill_container "$(the_pod)" fluid-fuse
  eventually restarts fluid-fuse 1
}

@test "a killed worker behind a holder was a pause" {
  made worker-killed
  finds deployment/web sidecar-restarted
  sees deployment/web | jq -e 'all(.findings[]; .code != "mount-was-lost")'
}

little_memory() {
  begin "$1"
  kubectl set resources daemonset/data-fuse --limits=memory=64Mi
  deployment web 1 "$READ_ON"
  eventually prints hello
  out_of_memory "$(the_pod)" fluid-fuse
  eventually restarts fluid-fuse 1
}
fault_sidecar_memory() { little_memory eci; }
fault_worker_memory() { little_memory kubernetes; }
fault_application_memory() {
  begin
  pod greedy Never "cat /data/hello.txt; tail /dev/zero" '.spec.containers[0].resources = {"limits": {"memory": "24Mi"}}'
}

@test "a sidecar, and an application, without enough memory" {
  made sidecar-memory
  finds deployment/web sidecar-memory
  made worker-memory
  finds deployment/web sidecar-memory worker-memory
  # Its words are true: the application has not noticed.
  sees deployment/web | jq -e '.findings[0].sentence | contains("waits")'
  [ "$(kubectl logs deployment/web -c app)" = hello ]
  made application-memory
  finds pod/greedy application-memory
}

fault_processor() {
  begin
  kubectl set resources daemonset/data-fuse --limits=cpu=40m,memory=128Mi
  pod app Never "$SERVE_DATA"
}

@test "a sidecar with little of a processor" {
  made processor
  finds pod/app processor
}

fault_sidecar_stays() {
  begin doctor
  DESTINATION=processes job train "cat /data/hello.txt"
}

@test "a Job whose sidecar nobody ends" {
  made sidecar-stays
  finds job/train sidecar-stays
  # Its advice for this Pod. The sidecar may end before the command in it does.
  bash -eux -c "$(sees job/train | jq -r '.findings[0].remedy[] | select(startswith("kubectl exec"))')" || [ $? -eq 137 ]
  kubectl wait --for=condition=complete job/train --timeout=60s
}

fault_sidecar_removed() {
  begin
  copy_of_injected damaged 'del(.spec.containers[] | select(.name == "fluid-fuse"))'
}

@test "a later webhook took the sidecar away" {
  made sidecar-removed
  finds pod/damaged sidecar-removed
}

fault_other_settings() {
  begin acs
  pod app Never "$SERVE_DATA"
  eventually logs_have app app hello
}

@test "the settings are others since" {
  made other-settings
  finds pod/app other-settings
}

fault_unresolved() {
  begin ignored
  dataset foreign
  kubectl patch dataset data --type=merge --patch '{"status": {"phase": "NotBound"}}'
  kubectl patch dataset foreign --type=merge --patch '{"status": {"runtimes": [{"name": "foreign", "namespace": "x", "type": "nobodys"}]}}'
  pod missing Never true "$(with_claim nobodys)"
  pod unbound Never true
  pod foreign Never true "$(with_claim foreign)"
}

@test "a claim, a Dataset and a Runtime that are not as they should be" {
  made unresolved
  finds pod/missing unresolved claim-missing
  finds pod/unbound unresolved dataset-not-bound
  finds pod/foreign unresolved runtime-unknown
}

fault_few_rights() {
  begin
  pod out Never true "$OPTED_OUT"
  kubectl create serviceaccount reader
  kubectl create role reads-pods --verb=get --resource=pods
  kubectl create rolebinding reads-pods --role=reads-pods --serviceaccount="$NAMESPACE:reader"
}

@test "a missing right is a finding with the commands that grant it, and ends nothing" {
  made few-rights
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
  kubectl delete clusterrole fluid-sidecar-doctor
  kubectl delete clusterrolebinding "fluid-sidecar-doctor:$NAMESPACE:reader"
}
