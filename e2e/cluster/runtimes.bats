#!/usr/bin/env bats
# Datasets as Fluid's own controllers make them (tests/cases/fluid), on the ordinary node. The clients of other Runtimes
# are played by a program of ours that mounts where the real one would (images.sh).

load helpers

setup_file() {
  policies_apply
  webhook_register kubernetes "$(policy_for clients '{destination: "kubernetes", sidecarImages: {
    alluxio: "runtime-client:1", cache: "runtime-client:1", jindo: "runtime-client:1", juicefs: "runtime-client:1"}}')"
  webhook_register kubernetes "$(policy_for borrowers '{destination: "kubernetes", injectIncompleteReferences: true}')"
  webhook_register kubernetes "$(policy_for followers '{destination: "kubernetes", injectIncompleteReferences: true,
    sidecarFrom: "fluid-fuse", sidecarImages: {thin: "fluid-fuse:scratch"},
    sidecars: {thin: {env: {FLUID_FUSE_ALLOW_DIRECTORIES: "/srv"}}}}')"
}

# The cases name their namespaces.
setup() { :; }

teardown() {
  show
  kubectl delete namespace --selector=fluid-case --wait=false
}

# fluid_made CASE DESTINATION [SED]: the namespaces and the objects of a golden case, without what only Fluid's own
# programs read and what the API server gives. The last namespace is the test's.
fluid_made() {
  local objects namespace
  objects=$(yq -c '
    select(.kind | IN("Dataset", "PersistentVolumeClaim", "PersistentVolume", "DaemonSet", "ConfigMap", "Secret"))
    | del(.metadata.ownerReferences, .metadata.finalizers, .spec.claimRef.uid, .spec.claimRef.resourceVersion)' \
    "$project/tests/cases/fluid/$1/objects.yaml" | sed "${3:-}")
  for namespace in $(jq -r '.metadata.namespace // empty' <<<"$objects" | sort -u); do
    empty_namespace "$namespace" "$2"
    kubectl label namespace "$namespace" fluid-case="$1"
  done
  kubectl apply -f - <<<"$objects"
}

# reading CLAIM [FILE]: a Pod of the namespace that reads its Dataset and ends.
reading() {
  pod app Never "cat /data/${2:-hello.txt}" ".spec.volumes[0].persistentVolumeClaim.claimName = \"$1\""
}

has_read() {
  eventually phase app Succeeded
  kubectl logs app -c app | grep -x hello
}

@test "the client of a JuiceFSRuntime, which has its mount point from a ConfigMap" {
  fluid_made juicefs clients
  kubectl create configmap train-fuse-script --dry-run=client -o yaml \
    --from-literal=script.sh='exec /stub /runtime-mnt/juicefs/juicefs/train/juicefs-fuse' | kubectl replace -f -
  reading train
  has_read
}

@test "the client of a CacheRuntime, whose volume is the mount point itself, holds the application back" {
  # The mount of the volume is there from the beginning; the client's comes later.
  # shellcheck disable=SC2016 # for the shell of a container
  fluid_made cache clients 's|\["/stub"\]|["sh", "-c", "sleep 5; exec /stub \\"$@\\"", "sh"]|'
  reading train
  has_read
}

@test "the client of a JindoRuntime, which sees its mount point elsewhere" {
  # Its image is pulled always, which must fail here.
  fluid_made jindo clients 's/"imagePullPolicy":"Always"/"imagePullPolicy":"IfNotPresent"/'
  reading train
  has_read
}

@test "a reference to an AlluxioRuntime, of which Fluid copies all that its client needs" {
  fluid_made reference-to-alluxio clients
  enter alluxio clients
  reading train
  has_read
  enter ref-alluxio clients
  reading borrowed
  has_read
}

@test "fluid-fuse as the image of a ThinRuntime without a command" {
  fluid_made thin-fluid-fuse-by-entrypoint kubernetes
  reading train images/hello.txt
  has_read
}

@test "a reference is refused with what is missing, works with that, and fluid-fuse follows it" {
  fluid_made reference kubernetes 's|hub-fuse:v1|fluid-fuse:scratch|; s|s3://train-bucket/images|file:///srv/hub/images|g'
  enter hub-b kubernetes
  run reading borrowed
  [[ $output == *"refers to hub-a/train, whose ConfigMap train-fuse-conf and Secret hub-keys Fluid does not copy"* ]]

  kubectl get secret hub-keys --namespace hub-a -o json | jq '.metadata |= {name}' | kubectl apply -f -
  kubectl label namespace hub-b destination=followers --overwrite
  eventually reading borrowed
  has_read
  kubectl delete pod app

  kubectl get configmap train-fuse-conf --namespace hub-a -o json | jq '.metadata |= {name}' | kubectl apply -f -
  kubectl label namespace hub-b destination=borrowers --overwrite
  eventually reading borrowed
  has_read
}

# Ways from "may create Pods" to the node that a review found, and where they end now. A third one, a link that is planted
# for fluid-fuse, needs the first.

@test "security F1: a container that mounts what nobody declared gets nothing of the sidecar" {
  fluid_made thin-over-a-claim kubernetes 's|hub-fuse:v1|runtime-client:1|'
  run pod app Never 'cat /data/hello.txt' '.spec.volumes[0].persistentVolumeClaim.claimName = "train"
    | .spec.initContainers = [{name: "plant", image: "busybox:1", command: ["ln", "-s", "/etc", "/parent/thin-fuse"],
        volumeMounts: [{name: "thin-fuse-mount", mountPath: "/parent"}, {name: "thin-conf", mountPath: "/conf"}]}]'
  [ "$status" -ne 0 ]
  [[ $output == *'volumeMounts[0].name: Not found: "thin-fuse-mount"'* ]]
  [[ $output == *'volumeMounts[1].name: Not found: "thin-conf"'* ]]
}

@test "security F2: a link in the data at the part of a Dataset does not lead to the node" {
  fluid_made reference-sub-path borrowers \
    's|hub-fuse:v1|fluid-fuse:scratch|; s|s3://train-bucket/images|file:///srv/hub/images|g; s|images/small|out|g'
  enter hub-d borrowers
  kubectl get configmap train-fuse-conf --namespace hub-c -o json | jq '.metadata |= {name}' | kubectl apply -f -
  pod app Never 'cat /data/shadow /data/passwd' '.spec.volumes[0].persistentVolumeClaim.claimName = "borrowed-part"'
  eventually describes pod/app 'failed to prepare subPath'
  ! kubectl logs app -c app | grep root
}
