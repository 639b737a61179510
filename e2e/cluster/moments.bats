#!/usr/bin/env bats
# The moments in which there is no Dataset at the application's mount path: it gets errors then, and never sees the
# directory below, to read or to write. On every destination.

load helpers

DESTINATIONS=(eci acs kubernetes)

# Each test has a namespace for each destination.
setup() { :; }
teardown() {
  local namespace
  for namespace in "${namespaces[@]}"; do
    enter "$namespace" eci
    show
    kubectl delete namespace "$namespace" --wait=false
  done
}

# everywhere COMMAND…: in the test's namespace of each destination.
everywhere() {
  local destination namespace
  for destination in "${DESTINATIONS[@]}"; do
    namespace=moments-$BATS_TEST_NUMBER-$destination
    if [[ " ${namespaces[*]} " != *" $namespace "* ]]; then
      new_namespace "$namespace" "$destination"
      namespaces+=("$namespace")
    fi
    enter "$namespace" "$destination"
    "$@"
  done
}

wrong_key() {
  kubectl create secret generic keys --from-literal=id=access-key --from-literal=secret=wrong --dry-run=client -o yaml |
    kubectl apply -f -
}

# A Job that fails at nothing: it succeeds if kubelet lets it.
careless() { job careless "$LOOK; look; exit 0" '"backoffLimit": 0'; }

# Neither has the Job succeeded, nor has its application been anywhere but on an error.
in_vain() {
  [ "$(kubectl get job careless -o 'jsonpath={.status.succeeded}')" = "" ]
  case $DESTINATION in
  # kubelet starts nothing behind a native sidecar that has not.
  kubernetes) [ -z "$(kubectl get pods -o 'jsonpath={.items[*].status.containerStatuses[?(@.name=="app")].containerID}')" ] ;;
  *)
    eventually describes job 'BackoffLimitExceeded'
    never "$(the_pod)" LISTED BARE WRITTEN
    ;;
  esac
}

@test "a store that refuses the keys is told by kubectl describe pod, and no application runs on nothing" {
  tells() { eventually ended_because "$(the_pod)" "$STORE"; }
  prepare() { wrong_key; careless; }
  everywhere prepare
  everywhere tells
  everywhere in_vain
}

@test "a sidecar that crashes at once is told, and no application runs on nothing" {
  prepare() {
    kubectl set env daemonset/data-fuse FLUID_FUSE_MEMORY=lots
    careless
  }
  tells() { eventually ended_because "$(the_pod)" "invalid value 'lots'"; }
  everywhere prepare
  everywhere tells
  everywhere in_vain
}

@test "a killed sidecar is an error while it is away, and the Dataset when it is back, without a restart" {
  begin() { deployment web 1 "$WATCH"; }
  reads() { eventually prints LISTED; }
  kill_twice() {
    kill_container "$(the_pod)" "$(mounter)"
    eventually restarts "$(mounter)" 1
    kill_container "$(the_pod)" "$(mounter)"
    eventually restarts "$(mounter)" 2
  }
  read_on() {
    # Only what is printed from now on counts.
    local since
    since=$(date -u +%Y-%m-%dT%H:%M:%SZ)
    lists_again() { kubectl logs "$(the_pod)" -c app --since-time="$since" | grep -Fx LISTED; }
    eventually lists_again
    never "$(the_pod)" BARE WRITTEN
    restarts app 0
  }
  everywhere begin
  everywhere reads
  everywhere kill_twice
  everywhere read_on
}

@test "an application that is started again while its sidecar is away never sees the directory below" {
  # It ends as soon as it gets an error, and looks at its first moment.
  begin() { deployment web 1 "$LOOK; look; while cat /data/hello.txt >/dev/null; do sleep 0.1; done; exit 3"; }
  reads() { eventually prints LISTED; }
  kill_both() {
    kill_container "$(the_pod)" "$(mounter)"
    kill_container "$(the_pod)" app || true
    eventually started_again
  }
  started_again() {
    kubectl get pod "$(the_pod)" -o json | jq -e 'any(.status.containerStatuses[]; .name == "app" and .restartCount > 0 and .ready)'
  }
  same() {
    eventually prints LISTED
    never "$(the_pod)" BARE WRITTEN
  }
  everywhere begin
  everywhere reads
  everywhere kill_both
  everywhere same
}

@test "a sub path of a Dataset is an error, too, while the sidecar is away" {
  begin() { deployment web 1 "${WATCH//hello.txt/file}" '.spec.containers[0].volumeMounts[0].subPath = "deep"'; }
  reads() { eventually prints LISTED; }
  killed() {
    kill_container "$(the_pod)" "$(mounter)"
    eventually restarts "$(mounter)" 1
    kill_container "$(the_pod)" app
    eventually restarts app 1
    eventually prints LISTED
    never "$(the_pod)" BARE WRITTEN
  }
  everywhere begin
  everywhere reads
  everywhere killed
}

@test "an application that outlives its deleted Pod's sidecar gets errors, and the Pod goes" {
  begin() { pod app Never "trap '' TERM; $WATCH"; }
  reads() { eventually logs_have app app LISTED; }
  delete() {
    kubectl delete pod app --grace-period=5 --wait=false
    kubectl logs app -c app -f >"$BATS_TEST_TMPDIR/$NAMESPACE" || true
    run ! grep -E 'BARE|WRITTEN' "$BATS_TEST_TMPDIR/$NAMESPACE"
    kubectl wait --for=delete pod/app --timeout=150s
  }
  everywhere begin
  everywhere reads
  everywhere delete
}
