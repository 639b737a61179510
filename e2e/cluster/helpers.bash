# shellcheck shell=bash
# shellcheck disable=SC2034 # what the tests use
# What the scenarios share. NAMESPACE is the test's own; kubectl is bound to it.

bats_require_minimum_version 1.5.0
# shellcheck source=e2e/cluster/common.sh
source "$BATS_TEST_DIRNAME/common.sh"
# shellcheck source=e2e/cluster/webhook.sh
source "$BATS_TEST_DIRNAME/webhook.sh"

# Reads everything there is and compares it with its checksums.
CHECK='cd /data && sha256sum -c SUMS'
# Runs until it is told to end.
SERVE="trap 'exit 0' TERM; while :; do sleep 0.1; done"
# The same, reading all the time; the Dataset's failure is its own.
SERVE_DATA="trap 'exit 0' TERM; cat /data/hello.txt; while cat /data/hello.txt >/dev/null; do sleep 0.2; done; exit 3"

setup() {
  new_namespace "test-$BATS_TEST_NUMBER"
}

teardown() {
  # What somebody would look at; bats prints it of a test that failed.
  kubectl get all -o wide
  kubectl describe pods | sed -n '/^Name:/p;/^Events:/,/^$/p'
  for pod in $(kubectl get pods -o name); do kubectl logs --all-containers --prefix --tail=20 "$pod"; done
  kubectl delete namespace "$NAMESPACE" --wait=false
}

# new_namespace NAME: makes it, with the Dataset `data` and the key of the store.
new_namespace() {
  NAMESPACE=$1
  echo "$NAMESPACE" >"$BATS_FILE_TMPDIR/$1"
  kubectl create namespace "$NAMESPACE"
  # Before its account is there, no Pod is taken.
  kubectl wait --for=create serviceaccount/default --namespace="$NAMESPACE" --timeout=60s
  kubectl config set-context --current --namespace="$NAMESPACE"
  kubectl create secret generic keys --from-literal=id=access-key --from-literal=secret=secret-that-nobody-sees
  dataset data Bound
}

# dataset NAME PHASE
dataset() {
  sed "s|__NAMESPACE__|$NAMESPACE|g; s|__NAME__|$1|g; s|__PHASE__|$2|g; s|__ENDPOINT__|$STORE|g; s|__IMAGE__|$IMAGE|g" "$BATS_TEST_DIRNAME/fluid/dataset.yaml" |
    kubectl apply -f -
}

# template RESTART_POLICY SCRIPT [JQ]: the Pod of a workload, marked for ECI, with the claim `data` at /data; as JSON.
template() {
  jq -cn --arg restart "$1" --arg script "$2" '{
    metadata: {labels: {app: "test", "alibabacloud.com/eci": "true"}},
    spec: {
      restartPolicy: $restart,
      terminationGracePeriodSeconds: 10,
      tolerations: [{key: "virtual-kubelet.io/provider", operator: "Exists"}],
      containers: [{
        name: "app", image: "busybox:1", command: ["sh", "-c", $script],
        volumeMounts: [{name: "data", mountPath: "/data"}, {name: "scratch", mountPath: "/scratch"}]}],
      volumes: [{name: "data", persistentVolumeClaim: {claimName: "data"}}, {name: "scratch", emptyDir: {}}]}}' |
    jq -c "${3:-.}"
}

# pod NAME RESTART_POLICY SCRIPT [JQ]
pod() {
  template "$2" "$3" "${4:-.}" | jq --arg name "$1" '. + {apiVersion: "v1", kind: "Pod"} | .metadata.name = $name' |
    kubectl apply -f -
}

# job NAME SCRIPT [FIELDS] [RESTART_POLICY]
job() {
  kubectl apply -f - <<YAML
{"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "$1"},
 "spec": {${3:+$3,} "template": $(template "${4:-Never}" "$2")}}
YAML
}

# deployment NAME REPLICAS SCRIPT [JQ]
deployment() {
  kubectl apply -f - <<YAML
{"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "$1"},
 "spec": {"replicas": $2, "selector": {"matchLabels": {"app": "test"}}, "template": $(template Always "$3" "${4:-.}")}}
YAML
}

# eventually COMMAND…: longer than anything takes on a slow machine.
eventually() {
  local until=$((SECONDS + 150))
  until "$@" >/dev/null; do
    [ $SECONDS -lt $until ] || {
      echo "never came true: $*"
      return 1
    }
    sleep 0.3
  done
}

# phase POD PHASE
phase() { [ "$(kubectl get pod "$1" -o 'jsonpath={.status.phase}')" = "$2" ]; }

# The Pod that is not on its way out.
the_pod() {
  kubectl get pods -o json | jq -r '[.items[] | select(.metadata.deletionTimestamp | not)][0].metadata.name'
}

# restarts CONTAINER COUNT: of the only Pod, where the container is running or has ended well.
restarts() {
  kubectl get pod "$(the_pod)" -o json | jq -e --arg name "$1" --argjson count "$2" '.status.containerStatuses[]
    | select(.name == $name) | .restartCount == $count and (.state.running or .state.terminated.exitCode == 0)'
}

# logs_have POD CONTAINER LINE
logs_have() { kubectl logs "$1" -c "$2" | grep -Fx "$3"; }

# prints LINE: a Pod's application does. Its rollout is over as soon as its container has started.
prints() { logs_have "$(the_pod)" app "$1"; }

waits_for_a_node() { kubectl get pod "$(the_pod)" -o json | jq -e '.status.phase == "Pending" and (.spec.nodeName | not)'; }

# The API server knows the webhook: it refuses what the policy would.
admits_by_the_policy() {
  local answer
  answer=$(pod probe Never true '.spec.volumes[0].persistentVolumeClaim.claimName = "nobodys"' 2>&1) && kubectl delete pod probe
  [[ $answer == *"fluid-sidecar-policy: PersistentVolumeClaim default/nobodys"* ]]
}

# A Dataset of the test's namespace is mounted on the serverless node, whose mounts the machine does not see.
mounted() { grep -F "/$NAMESPACE/" "/proc/$(cat "$run/pid/$SERVERLESS_NODE")/mounts"; }
unmounted() { ! mounted; }

# describes KIND TEXT
describes() { kubectl describe "$1" | grep -F "$2"; }

cronjob_succeeded() {
  kubectl get jobs -o json | jq -e 'any(.items[]; .metadata.ownerReferences[0].kind == "CronJob" and .status.succeeded == 1)'
}
