#!/usr/bin/env bats
# An application outlives its sidecar, where the destination has a holder: kubelet starts the worker again, and reads go on.

load helpers

setup_file() {
  policies_apply
  webhook_register kubernetes "$(policy_for holder '{destination: "kubernetes", destinations: {kubernetes: {}},
    sidecarFrom: "fluid-fuse", sidecarImages: {thin: "'"$IMAGE"'"}}')"
  new_namespace asked-holder holder
  eventually admits_by_the_policy
  kubectl delete namespace "$NAMESPACE" --wait=false
}

setup() { new_namespace "outlive-$BATS_TEST_NUMBER" holder; }

# Reads all the time, also by a descriptor that it has from the beginning, and says when anything is not as it was.
# shellcheck disable=SC2016 # for the shell of a container
READ='cp /data/big.bin /scratch/big && exec 3</data/big.bin && echo READY
while cmp -s /data/big.bin /scratch/big && cat /data/hello.txt >/dev/null && head -c 1000 <&3 >/dev/null; do
  echo READ; sleep 0.1
done
echo WRONG; sleep 1000'

reads_on() {
  local since
  since=$(date -u +%Y-%m-%dT%H:%M:%SZ)
  reads_again() { kubectl logs "$(the_pod)" -c app --since-time="$since" | grep -Fx READ; }
  eventually reads_again
  never "$(the_pod)" WRONG
  restarts app 0
}

@test "an application reads on while its worker is killed and started again" {
  deployment web 1 "$READ"
  eventually prints READY
  for kill in 1 2 3; do
    kill_container "$(the_pod)" fluid-fuse
    eventually restarts fluid-fuse "$kill"
    reads_on
  done
  restarts fluid-fuse-mount 0
}

@test "an application reads on while the image of its worker is replaced" {
  deployment web 1 "$READ"
  eventually prints READY
  kubectl set image "pod/$(the_pod)" fluid-fuse=fluid-fuse:scratch
  eventually restarts fluid-fuse 1
  reads_on
  restarts fluid-fuse-mount 0
}

@test "the container that talks to the store is as Pod Security restricted wants it, but for its volumes" {
  deployment web 1 "$READ"
  eventually prints READY
  kubectl get pod "$(the_pod)" -o json | jq -e '.spec.initContainers[] | select(.name == "fluid-fuse").securityContext
    | .runAsNonRoot and .runAsUser != 0 and .allowPrivilegeEscalation == false and .privileged == false
      and .capabilities == {drop: ["ALL"]} and .seccompProfile.type == "RuntimeDefault" and .readOnlyRootFilesystem'
}

@test "a Pod with a holder ends, and leaves no mount" {
  pod once Never 'cat /data/hello.txt'
  eventually phase once Succeeded
  kubectl delete pod once --timeout=60s
  [ "$(on_node grep -cF "/$NAMESPACE/" /proc/1/mounts)" = 0 ]
}
