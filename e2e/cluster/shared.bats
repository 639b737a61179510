#!/usr/bin/env bats
# Pods that share an ordinary node: native sidecars (DESTINATION kubernetes), and beside them ordinary containers (acs).

load helpers

setup() {
  new_namespace "shared-$BATS_TEST_NUMBER" kubernetes
}

@test "an init container and the application read their Dataset, and the native sidecar ends last" {
  pod app Never "$CHECK" '.spec.initContainers = [{"name": "prepare", "image": "busybox:1", "command": ["cat", "/data/hello.txt"],
    "volumeMounts": [{"name": "data", "mountPath": "/data"}]}]'
  eventually phase app Succeeded
  [ "$(kubectl logs app -c prepare)" = hello ]
  kubectl logs app -c app | grep -x 'big.bin: OK'
  kubectl get pod app -o json | jq -e '.status
    | (.initContainerStatuses[] | select(.name == "fluid-fuse").state.terminated) as $sidecar
    | .containerStatuses[0].state.terminated as $app
    | $sidecar.finishedAt >= $app.finishedAt
      and [.initContainerStatuses[0, 1] | .name, .state.terminated.exitCode] == ["fluid-fuse-mount", 0, "fluid-fuse", 0]'
  eventually nothing_on_the_node
}

@test "a startup probe holds the init container and the application back as the hook does" {
  new_namespace "probes-$BATS_TEST_NUMBER" probes
  pod app Never "$CHECK" '.spec.initContainers = [{"name": "prepare", "image": "busybox:1", "command": ["cat", "/data/hello.txt"],
    "volumeMounts": [{"name": "data", "mountPath": "/data"}]}]'
  eventually phase app Succeeded
  [ "$(kubectl logs app -c prepare)" = hello ]
  kubectl get pod app -o json | jq -e '(.spec.initContainers[1] | .name == "fluid-fuse" and .lifecycle.postStart == null)
    and all(.status.initContainerStatuses[]; .state.terminated.exitCode == 0)'
}

@test "a Job with two Datasets completes" {
  dataset labels
  kubectl apply -f - <<YAML
{"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "train"}, "spec": {"template": $(
    template Never "$CHECK && cd /labels && sha256sum -c SUMS" '.spec.volumes += [{"name": "labels", "persistentVolumeClaim": {"claimName": "labels"}}]
      | .spec.containers[0].volumeMounts += [{"name": "labels", "mountPath": "/labels"}]')}}
YAML
  kubectl wait --for=condition=complete job/train --timeout=150s
  eventually nothing_on_the_node
}

@test "two Pods of one Dataset on one node read, and one goes on when the other is killed or deleted" {
  for name in first second; do pod "$name" Always "$SERVE_DATA"; done
  for name in first second; do eventually logs_have "$name" app hello; done
  # No directory of the node is in both, but the one that only sidecars see.
  kubectl get pods -o json | jq -e '[.items[] | [.spec.volumes[] | select(.name != "fluid-fuse-places").hostPath.path | values] | unique[]]
    | length == (unique | length)'
  kill_container first fluid-fuse
  back() { kubectl get pod first -o json | jq -e '.status.initContainerStatuses[1] | .restartCount == 1 and .started'; }
  eventually back
  kubectl delete pod first --timeout=150s
  kubectl get pod second -o json | jq -e 'all(.status | (.containerStatuses + .initContainerStatuses)[]; .restartCount == 0 and .ready)'
  kubectl delete pod second --timeout=150s
  eventually nothing_on_the_node
}

@test "a Deployment of three rolls out without losing a Pod" {
  kubectl apply -f - <<YAML
{"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": {
  "replicas": 3, "strategy": {"rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
  "selector": {"matchLabels": {"app": "test"}}, "template": $(template Always "$SERVE_DATA")}}
YAML
  kubectl rollout status deployment/web --timeout=150s
  kubectl set env deployment/web --containers=app GENERATION=2
  kubectl rollout status deployment/web --timeout=240s
  kubectl get pods -o json | jq -e '[.items[] | select(.metadata.deletionTimestamp | not)]
    | length == 3 and all(.[]; all(.status.containerStatuses[]; .restartCount == 0))'
  kubectl delete deployment web --cascade=foreground --timeout=150s
  eventually nothing_on_the_node
}

@test "a native sidecar that runs out of memory is told so, and comes back" {
  kubectl set resources daemonset/data-fuse --limits=memory=64Mi
  deployment web 1 "$WATCH"
  eventually prints LISTED
  kubectl exec deployment/web -c app -- \
    sh -c '(while cat /data/huge.bin >/dev/null; do :; done; touch /scratch/failed) >/dev/null 2>&1 &'
  out_of_memory "$(the_pod)" fluid-fuse
  killed() { kubectl get pod "$(the_pod)" -o json | jq -e '.status.initContainerStatuses[1] | .restartCount > 0 and
    (.lastState.terminated.reason == "OOMKilled" or .lastState.terminated.exitCode == 137)'; }
  eventually killed
  # The application waits for the next one.
  kubectl exec deployment/web -c app -- test ! -e /scratch/failed
  restarts app 0
  never "$(the_pod)" BARE WRITTEN
}

@test "a Pod whose sidecar was killed goes when it is deleted, and the next sidecar removes what it left" {
  pod killed Always "$SERVE_DATA"
  eventually logs_have killed app hello
  # The second time kubelet waits before it starts it again.
  kill_container killed fluid-fuse-mount
  eventually restarts fluid-fuse-mount 1
  kill_container killed fluid-fuse-mount
  kubectl delete pod killed --grace-period=1 --timeout=150s
  mapfile -t left < <(on_the_node)
  [ ${#left[@]} -gt 0 ]
  # As if that were long ago.
  on_node touch -d '1 hour ago' "${left[@]/%//.fluid-fuse}"
  pod next Never "cat /data/hello.txt; sleep 2"
  eventually phase next Succeeded
  eventually nothing_on_the_node
}

@test "a container that may be restarted alone is, and finds its Dataset" {
  pod app Never 'cat /data/hello.txt; [ -e /scratch/tried ] && exit 0; touch /scratch/tried; exit 42' '.spec.containers[0] += {
    "restartPolicy": "Never", "restartPolicyRules": [{"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}}]}'
  eventually phase app Succeeded
  kubectl get pod app -o json | jq -e '.status.containerStatuses[0].restartCount == 1'
  [ "$(kubectl logs app -c app)" = hello ]
}

@test "an evicted Pod ends in order and leaves nothing" {
  pod app Never "$SERVE_DATA"
  eventually logs_have app app hello
  jq -n --arg namespace "$NAMESPACE" '{apiVersion: "policy/v1", kind: "Eviction", metadata: {name: "app", $namespace}}' |
    kubectl create --raw "/api/v1/namespaces/$NAMESPACE/pods/app/eviction" -f -
  kubectl wait --for=delete pod/app --timeout=150s
  eventually nothing_on_the_node
}

# with_cache SIZE_LIMIT CACHE_SIZE: the sidecar keeps what it reads on disk.
with_cache() {
  kubectl patch daemonset data-fuse --type json --patch "[
    {\"op\": \"add\", \"path\": \"/spec/template/spec/volumes/-\", \"value\": {\"name\": \"cache\", \"emptyDir\": {\"sizeLimit\": \"$1\"}}},
    {\"op\": \"add\", \"path\": \"/spec/template/spec/containers/0/volumeMounts/-\", \"value\": {\"name\": \"cache\", \"mountPath\": \"/cache\"}}]"
  kubectl set env daemonset/data-fuse FLUID_FUSE_CACHE_DIR=/cache "FLUID_FUSE_CACHE_SIZE=$2"
}

@test "a disk cache stays within its size" {
  with_cache 64Mi 32MiB
  pod app Never "$CHECK && $CHECK"
  eventually phase app Succeeded
}

@test "a disk cache that outgrows its volume gets the Pod evicted, and the reason is told" {
  with_cache 4Mi 1GiB
  pod app Never "while cat /data/big.bin >/dev/null; do sleep 0.2; done; exit 1"
  eventually describes pod 'exceeds the limit "4Mi"'
  eventually phase app Failed
}

@test "kubelet and containerd are started again while a Pod reads" {
  pod app Always "$SERVE_DATA"
  eventually logs_have app app hello
  for program in kubelet containerd; do
    node_restart "$ordinary" "$program"
    eventually kubectl exec app -c app -- cat /data/hello.txt
  done
  kubectl get pod app -o json | jq -e 'all(.status | (.containerStatuses + .initContainerStatuses)[]; .restartCount == 0)'
  kubectl delete pod app --timeout=150s
  eventually nothing_on_the_node
}

@test "a Pod of ordinary containers shares the node, too, and leaves nothing" {
  kubectl delete namespace "$NAMESPACE" --wait=false
  new_namespace "shared-$BATS_TEST_NUMBER-acs" acs
  for name in first second; do pod "$name" Always "$SERVE_DATA"; done
  for name in first second; do eventually logs_have "$name" app hello; done
  kubectl delete pods --all --timeout=150s
  eventually nothing_on_the_node
}
