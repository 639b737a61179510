#!/usr/bin/env bats
# What users of a cluster see: each test has a namespace of its own with the Dataset `data`, and looks through kubectl.
# Run by `make e2e-cluster` (test.sh), which has started everything.

load helpers

setup_file() {
  policies_apply
  # Its turn comes within the minute; the last test looks.
  new_namespace cronjob eci
  kubectl apply -f - <<YAML
apiVersion: batch/v1
kind: CronJob
metadata: {name: nightly}
spec:
  schedule: "* * * * *"
  concurrencyPolicy: Forbid
  jobTemplate: {spec: {template: $(template Never "$CHECK")}}
YAML
}

@test "a Pod reads its Dataset and completes" {
  pod app Never "$CHECK"
  eventually phase app Succeeded
  kubectl logs app -c app | grep -x 'big.bin: OK'
  # The owner's claim, as the Pod's annotation keeps it; and an unprivileged sidecar.
  kubectl get pod app -o json | jq -e '.spec as $spec
    | (.metadata.annotations["fluid-sidecar-policy/injected"] | fromjson | .claims[0].persistentVolumeClaim.claimName == "data")
    and all($spec.volumes[]; .persistentVolumeClaim == null)
    and all($spec.containers[]; .securityContext.privileged != true)
    and all(.status.containerStatuses[]; .state.terminated.exitCode == 0)'
}

@test "a Deployment rolls out and back" {
  deployment web 2 "cat /data/hello.txt; $SERVE"
  kubectl rollout status deployment/web --timeout=150s
  kubectl set env deployment/web --containers=app GENERATION=2
  kubectl rollout status deployment/web --timeout=150s
  kubectl rollout undo deployment/web
  kubectl rollout status deployment/web --timeout=150s
  eventually prints hello
}

@test "the Pods of a StatefulSet keep their names and read" {
  kubectl apply -f - <<YAML
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db}
spec:
  serviceName: db
  replicas: 2
  selector: {matchLabels: {app: test}}
  template: $(template Always "$CHECK && $SERVE")
YAML
  kubectl rollout status statefulset/db --timeout=150s
  eventually logs_have db-1 app 'big.bin: OK'
}

@test "a Job completes" {
  job train "$CHECK"
  kubectl wait --for=condition=complete job/train --timeout=150s
}

@test "a Job that fails does so with the application's exit code, after its retries" {
  job train "cat /data/hello.txt; exit 7" '"backoffLimit": 1'
  kubectl wait --for=condition=failed job/train --timeout=150s
  [ "$(kubectl get job train -o 'jsonpath={.status.conditions[0].reason}')" = BackoffLimitExceeded ]
  kubectl get pods -o json | jq -e '(.items | length) == 2 and all(.items[];
    .status.phase == "Failed" and any(.status.containerStatuses[]; .name == "app" and .state.terminated.exitCode == 7))'
}

@test "a Job whose container is retried in its Pod keeps its mount" {
  job train "cat /data/hello.txt; [ -e /scratch/tried ] && exit 0; touch /scratch/tried; sleep 1; exit 1" '' OnFailure
  eventually restarts app 1
  eventually restarts fluid-fuse 0
  eventually prints hello
}

@test "two Datasets of one Pod have a sidecar each" {
  dataset labels
  pod app Never "$CHECK && cd /labels && sha256sum -c SUMS" '.spec.volumes += [{"name": "labels", "persistentVolumeClaim": {"claimName": "labels"}}]
    | .spec.containers[0].volumeMounts += [{"name": "labels", "mountPath": "/labels"}]'
  eventually phase app Succeeded
  kubectl logs app -c app | grep -x '1.txt: OK'
  kubectl get pod app -o json | jq -e '[.spec.containers[].name] | sort == ["app", "fluid-fuse", "fluid-fuse-1"]'
}

@test "a sub path of a Dataset is seen alone" {
  pod app Never "cat /data/file" '.spec.containers[0].volumeMounts[0].subPath = "deep"'
  eventually phase app Succeeded
  [ "$(kubectl logs app -c app)" = below ]
}

@test "a Pod of a user without rights, under the default seccomp profile, reads its Dataset" {
  pod app Never "id -u; grep ^Seccomp: /proc/self/status; $CHECK" '.spec.securityContext = {"runAsUser": 1000, "runAsGroup": 1000,
    "runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}}'
  eventually phase app Succeeded
  kubectl logs app -c app | grep -x 1000
  kubectl logs app -c app | grep -x $'Seccomp:\t2'
  kubectl logs app -c app | grep -x 'big.bin: OK'
}

@test "an init container runs before, and one that reads the Dataset is refused with the way out" {
  init='.spec.initContainers = [{"name": "prepare", "image": "busybox:1", "command": ["touch", "/scratch/prepared"],
    "volumeMounts": [{"name": "scratch", "mountPath": "/scratch"}]}]'
  pod app Never "ls /scratch /data" "$init"
  eventually phase app Succeeded
  kubectl logs app -c app | grep -x prepared
  run pod reader Never true "$init | .spec.initContainers[0].volumeMounts += [{\"name\": \"data\", \"mountPath\": \"/data\"}]"
  [ "$status" -ne 0 ]
  [[ $output == *'initContainers[0] "prepare" mounts Dataset volume "data"'*nativeSidecar* ]]
}

@test "an ordinary claim beside a Dataset stays what it is" {
  directory=$(mktemp -d)
  echo ordinary >"$directory/file"
  kubectl apply -f - <<YAML
apiVersion: v1
kind: PersistentVolume
metadata: {name: $NAMESPACE-disk}
spec:
  accessModes: [ReadWriteOnce]
  capacity: {storage: 1Gi}
  storageClassName: disk
  hostPath: {path: $directory}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: disk}
spec:
  accessModes: [ReadWriteOnce]
  storageClassName: disk
  volumeName: $NAMESPACE-disk
  resources: {requests: {storage: 1Gi}}
YAML
  pod app Never "cat /disk/file /data/hello.txt" '.spec.volumes += [{"name": "disk", "persistentVolumeClaim": {"claimName": "disk"}}]
    | .spec.containers[0].volumeMounts += [{"name": "disk", "mountPath": "/disk"}]'
  eventually phase app Succeeded
  [ "$(kubectl logs app -c app)" = $'ordinary\nhello' ]
  rm -r "$directory"
}

@test "a namespace's label sends its Pods to the serverless node" {
  kubectl label namespace "$NAMESPACE" alibabacloud.com/eci=true
  pod app Never "cat /data/hello.txt" 'del(.metadata.labels["alibabacloud.com/eci"])'
  eventually phase app Succeeded
  [ "$(kubectl get pod app -o 'jsonpath={.spec.nodeName}')" = "$serverless" ]
}

@test "a Pod that goes elsewhere, and one that opts out, are left as they are" {
  pod elsewhere Never true 'del(.metadata.labels["alibabacloud.com/eci"])'
  pod out Never true '.metadata.labels["fluid.io/enable-injection"] = "false"'
  for name in elsewhere out; do
    kubectl get pod "$name" -o json | jq -e '(.spec.containers | length) == 1 and .spec.volumes[0].persistentVolumeClaim.claimName == "data"
      and (.metadata.annotations["fluid-sidecar-policy/injected"] | not)'
  done
}

@test "a Dataset that is not bound is told where the owner of a Deployment looks" {
  # It has no claim before it is bound.
  kubectl apply -f - <<YAML
apiVersion: data.fluid.io/v1alpha1
kind: Dataset
metadata: {name: pending}
spec: {mounts: [{mountPoint: "s3://data", name: data}]}
status: {phase: NotBound, conditions: []}
YAML
  deployment web 1 true '.spec.volumes[0].persistentVolumeClaim.claimName = "pending"'
  eventually describes replicaset "Dataset $NAMESPACE/pending"
  describes replicaset 'is not bound'
  [ -z "$(kubectl get pods -o name)" ]
}

@test "a restarted application finds its mount" {
  deployment web 1 "$SERVE_DATA"
  # By then it heeds the signal.
  eventually prints hello
  kubectl exec deployment/web -c app -- kill 1
  eventually restarts app 1
  eventually prints hello
  restarts fluid-fuse 0
}

@test "the Pods of a drained node run again when it is back" {
  deployment web 1 "$SERVE_DATA"
  eventually prints hello
  kubectl drain "$serverless" --force --delete-emptydir-data --grace-period=5 --timeout=150s
  eventually waits_for_a_node
  kubectl uncordon "$serverless"
  eventually prints hello
}

@test "when the policy does not answer, failurePolicy decides" {
  webhook_stop eci
  run pod refused Never true
  webhook_configure eci '.spec.failurePolicy = "Ignore"'
  # The API server reads its webhooks anew in its own time.
  eventually pod ignored Never true
  webhook_register eci '.spec.failurePolicy = "Fail"'
  [ "$status" -ne 0 ]
  [[ $output == *"failed calling webhook"* ]]
  # It is the Pod that hangs as if there were no policy.
  kubectl get pod ignored -o json | jq -e '.spec.volumes[0].persistentVolumeClaim.claimName == "data"'
}

@test "a Pod that is deleted while it reads goes within its grace period and leaves nothing" {
  pod app Never 'while :; do for i in 1 2 3 4 5 6 7 8; do cat /data/big.bin >/dev/null & done; wait; echo read; done'
  eventually logs_have app app read
  mounted
  kubectl delete pod app --grace-period=10 --timeout=150s
  eventually unmounted
}

@test "50 Pods at once all read every byte" {
  job crowd "$CHECK" '"parallelism": 50, "completions": 50'
  kubectl wait --for=condition=complete job/crowd --timeout=240s
  [ "$(kubectl get job crowd -o 'jsonpath={.status.succeeded}')" = 50 ]
}

@test "a CronJob has run" {
  kubectl delete namespace "$NAMESPACE" --wait=false
  enter cronjob eci
  eventually cronjob_succeeded
}
