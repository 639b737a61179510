# shellcheck shell=bash
# shellcheck disable=SC2034 # what the tests use
# What the scenarios share. NAMESPACE is the test's own, and kubectl is bound to it; DESTINATION is where its Pods go:
#
# | DESTINATION | node | sidecar |
# |---|---|---|
# | eci | serverless | by the policy deploy/eci.yaml, for Pods with a marker |
# | processes | serverless | the same with exit: processNamespace, for all Pods |
# | acs | ordinary | privileged, an ordinary container |
# | kubernetes | ordinary | privileged, a native sidecar |
# | probes | ordinary | the same with gate: startupProbe |

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

# look: says what is at /data, unless it is an error: the Dataset (LISTED), or the directory below it (BARE), which may
# even be written to (WRITTEN). busybox's ls says nothing of an error in the middle, and lists nothing then, not even
# `.`.
# shellcheck disable=SC2016 # for the shell of a container
LOOK='look() {
  set -- $(ls -a /data 2>/dev/null)
  case "$*" in *hello.txt*) echo LISTED ;; ". ..") echo BARE ;; esac
  if echo x 2>/dev/null >/data/written; then echo WRITTEN; fi
}'
# Does so all the time.
WATCH="$LOOK; while :; do look; sleep 0.1; done"

setup_file() {
  policies_apply
}

setup() {
  new_namespace "$(basename "$BATS_TEST_FILENAME" .bats)-$BATS_TEST_NUMBER" eci
}

# The policies, a webhook for each, unless another file of tests has applied them.
policies_apply() {
  ! kubectl get mutatingwebhookconfiguration clusterwide-fluid-sidecar-eci 2>/dev/null || return 0
  kubectl apply -f "$BATS_TEST_DIRNAME/fluid/crds.yaml"
  # At once, and again until the API server knows the kind.
  until sed "s|__TAG__|${IMAGE#*:}|" "$BATS_TEST_DIRNAME/fluid/profile.yaml" | kubectl apply -f -; do sleep 0.2; done
  # Not Ignore, as a Pod that was admitted without its sidecar would hang instead of telling why.
  webhook_register eci '.spec.failurePolicy = "Fail"'
  webhook_register kubernetes "$(policy_for kubernetes '{destination: "kubernetes"}')"
  webhook_register kubernetes "$(policy_for probes '{destination: "kubernetes", destinations: {kubernetes: {gate: "startupProbe"}}}')"
  webhook_register kubernetes "$(policy_for acs '{destination: "acs"}')"
  webhook_register kubernetes "$(policy_for processes '{destination: "eci",
    destinations: {eci: {exit: "processNamespace", readinessProbe: false}}}')"
  local destination
  for destination in eci kubernetes probes acs processes; do
    new_namespace "asked-$destination" "$destination"
    eventually admits_by_the_policy
    kubectl delete namespace "$NAMESPACE" --wait=false
  done
}

# policy_for DESTINATION SETTINGS: what makes of deploy/kubernetes.yaml a policy for the namespaces of a DESTINATION.
policy_for() {
  echo ".metadata.name = \"fluid-sidecar-$1\" | .spec.failurePolicy = \"Fail\" | .spec.settings = $2
    | .spec.namespaceSelector.matchExpressions += [{key: \"destination\", operator: \"In\", values: [\"$1\"]}]"
}

teardown() {
  show
  kubectl delete namespace "$NAMESPACE" --wait=false
}

# What somebody would look at; bats prints it of a test that failed.
show() {
  kubectl get all -o wide
  kubectl describe pods | sed -n '/^Name:/p;/^Events:/,/^$/p'
  for pod in $(kubectl get pods -o name); do kubectl logs --all-containers --prefix --tail=20 "$pod"; done
}

# empty_namespace NAME DESTINATION
empty_namespace() {
  # That of a test before, in the same cluster.
  kubectl wait --for=delete "namespace/$1" --timeout=150s
  kubectl create -f - <<YAML
apiVersion: v1
kind: Namespace
metadata: {name: $1, labels: {destination: $2, pod-security.kubernetes.io/enforce: privileged}}
YAML
  enter "$1" "$2"
  # Before its account is there, no Pod is taken.
  kubectl wait --for=create serviceaccount/default --timeout=60s
}

# new_namespace NAME DESTINATION: makes it, with the Dataset `data` and the key of the store.
new_namespace() {
  empty_namespace "$1" "$2"
  kubectl create secret generic keys --from-literal=id=access-key --from-literal=secret=secret-that-nobody-sees
  dataset data
}

# enter NAMESPACE DESTINATION
enter() {
  NAMESPACE=$1 DESTINATION=$2
  kubectl config set-context --current --namespace="$NAMESPACE"
}

# dataset NAME
dataset() {
  sed "s|__NAMESPACE__|$NAMESPACE|g; s|__NAME__|$1|g; s|__ENDPOINT__|$STORE|g; s|__IMAGE__|$IMAGE|g" "$BATS_TEST_DIRNAME/fluid/dataset.yaml" |
    kubectl apply -f -
}

# template RESTART_POLICY SCRIPT [JQ]: the Pod of a workload for DESTINATION, with the claim `data` at /data; as JSON.
template() {
  jq -cn --arg restart "$1" --arg script "$2" --arg destination "$DESTINATION" '{
    metadata: {labels: ({app: "test"} + if $destination == "eci" then {"alibabacloud.com/eci": "true"} else {} end)},
    spec: {
      restartPolicy: $restart,
      terminationGracePeriodSeconds: 10,
      tolerations: (if $destination | IN("eci", "processes") then [{key: "virtual-kubelet.io/provider", operator: "Exists"}]
        else [] end),
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
  kubectl get pod "$(the_pod)" -o json | jq -e --arg name "$1" --argjson count "$2" '
    .status | (.containerStatuses + (.initContainerStatuses // []))[]
    | select(.name == $name) | .restartCount == $count and (.state.running or .state.terminated.exitCode == 0)'
}

# container_id POD CONTAINER
container_id() {
  kubectl get pod "$1" -o json | jq -r --arg name "$2" '
    .status | (.containerStatuses + (.initContainerStatuses // []))[] | select(.name == $name).containerID
    | ltrimstr("containerd://")'
}

# The container without which the application has no mount: the holder, if the sidecar has one.
mounter() {
  kubectl get pod "$(the_pod)" -o json |
    jq -r '[.spec | .initContainers[]?, .containers[] | .name] | map(select(. == "fluid-fuse-mount"))[0] // "fluid-fuse"'
}

# kill_container POD CONTAINER: as the kernel does it.
kill_container() {
  local node
  node=$(kubectl get pod "$1" -o 'jsonpath={.spec.nodeName}')
  ctr --address "$run/$node/containerd.sock" --namespace k8s.io task kill --signal SIGKILL "$(container_id "$1" "$2")"
}

# out_of_memory POD CONTAINER: has the kernel kill its process at the memory limit, by a neighbour that takes all of it: of
# the two the kernel prefers a process of a Pod. One that approaches its limit by itself can live for minutes, while the
# kernel takes the pages of its program again and again.
out_of_memory() {
  local id folder limit
  id=$(container_id "$1" "$2")
  for folder in $(cgroups | grep "/$id\$"); do
    limit=$(cat "$folder/memory.limit_in_bytes" "$folder/memory.max" 2>/dev/null || true)
    [ -z "$limit" ] || break
  done
  (
    echo "$BASHPID" >"$folder/cgroup.procs"
    exec timeout 20 sh -c "head -c $limit /dev/zero | tail -c $limit >/dev/null"
  ) || true
}

# ended_because POD TEXT: the sidecar's termination message has it, as kubectl describe pod shows it.
ended_because() { kubectl describe pod "$1" | sed -n '/^ *fluid-fuse:/,/^ *app:/p' | grep -F 'Message:' -A 3 | grep -F "$2"; }

# never POD LINE…: the application has not printed any of them.
never() {
  local pod=$1 line
  shift
  for line; do
    ! logs_have "$pod" app "$line" || {
      echo "$pod has printed $line"
      return 1
    }
  done
}

# on_node COMMAND…: on the ordinary node, whose mounts the machine does not see.
on_node() { nsenter --mount --target "$(cat "$run/pid/$ordinary")" "$@"; }

# node_restart NODE kubelet|containerd: tells it to end; its node starts it again.
node_restart() {
  local pattern before
  case $2 in
  kubelet) pattern="^kubelet .*--hostname-override $1( |$)" ;;
  containerd) pattern="^containerd --config $run/$1/" ;;
  esac
  before=$(pgrep -f "$pattern")
  kill "$before"
  # shellcheck disable=SC2317 # called by eventually
  another() { pgrep -f "$pattern" | grep -vx "$before"; }
  eventually another
}

# What Pods of the test's namespace have on the ordinary node.
on_the_node() { on_node find "$mount_root" -mindepth 4 -maxdepth 4 -path "*/$NAMESPACE/*"; }
nothing_on_the_node() { [ -z "$(on_the_node)" ]; }

# logs_have POD CONTAINER LINE
logs_have() { kubectl logs "$1" -c "$2" | grep -Fx "$3"; }

# prints LINE: a Pod's application does. Its rollout is over as soon as its container has started.
prints() { logs_have "$(the_pod)" app "$1"; }

waits_for_a_node() { kubectl get pod "$(the_pod)" -o json | jq -e '.status.phase == "Pending" and (.spec.nodeName | not)'; }

# The API server knows the webhook: it refuses what the policy would.
admits_by_the_policy() {
  local answer
  answer=$(pod probe Never true '.spec.volumes[0].persistentVolumeClaim.claimName = "nobodys"' 2>&1) && kubectl delete pod probe
  [[ $answer == *"fluid-sidecar-policy: PersistentVolumeClaim $NAMESPACE/nobodys"* ]]
}

# A Dataset of the test's namespace is mounted on the serverless node, whose mounts the machine does not see.
mounted() { grep -F "/$NAMESPACE/" "/proc/$(cat "$run/pid/$serverless")/mounts"; }
unmounted() { ! mounted; }

# describes KIND TEXT
describes() { kubectl describe "$1" | grep -F "$2"; }

cronjob_succeeded() {
  kubectl get jobs -o json | jq -e 'any(.items[]; .metadata.ownerReferences[0].kind == "CronJob" and .status.succeeded == 1)'
}
