#!/usr/bin/env bash
# Writes go.mod and go.sum anew for the versions below. Run it after changing one.
set -euo pipefail
cd "$(dirname "$0")"
kubernetes=v1.37.2 etcd=v3.7.3 containerd=v2.4.2 runc=v1.4.3

rm -f go.mod go.sum
go mod init fluid-cluster
# Not the newest Go: `go get` raises it to what the programs need.
go mod edit -go=1.24
# Kubernetes requires its own libraries as v0.0.0, and replaces them by folders of its repository. Each is published with
# every release, as v0 instead of v1.
requirements=$(go mod download -json "k8s.io/kubernetes@$kubernetes" | jq -r .GoMod)
sed -nE 's|^\s*(k8s\.io/\S+) v0\.0\.0( //.*)?$|\1|p' "$requirements" | sort -u |
  sed "s|.*|-replace=&=&@v0${kubernetes#v1}|" | xargs go mod edit
go get -tool k8s.io/kubernetes/cmd/{kube-apiserver,kube-controller-manager,kube-scheduler,kube-proxy,kubelet,kubectl}@$kubernetes \
  go.etcd.io/etcd/server/v3@$etcd \
  github.com/containerd/containerd/v2/cmd/{containerd,ctr,containerd-shim-runc-v2}@$containerd \
  github.com/opencontainers/runc@$runc
