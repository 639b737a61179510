# shellcheck shell=bash
# What the cluster's scripts share: where its files are, its names and ports. Sourced.
# shellcheck disable=SC2034 # most of it is for those who source this

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
project=$(cd "$here/../.." && pwd)
# shellcheck source=e2e/cluster/contract.sh
source "$here/contract.sh"

# Built once; safe to delete while the cluster is down.
cache=$(realpath -m "${CLUSTER_CACHE:-$here/.cache}")
# All that a running cluster writes. Short, since the path of a socket may have 108 bytes.
run=$(realpath -m "${CLUSTER_RUN:-/var/lib/fluid-cluster}")
# The sidecar, built statically.
FLUID_FUSE=$(realpath -m "${FLUID_FUSE:-$(echo "$project"/target/*/debug/fluid-fuse)}")
export FLUID_FUSE
export PATH=$cache/bin:$PATH KUBECONFIG=$run/kubeconfig

# The nodes, each with its kubelet's port.
serverless=virtual-kubelet-eci-0 ordinary=ordinary-node
declare -A kubelet_port=([$serverless]=10250 [$ordinary]=10260)
api_port=16443 etcd_port=12379 etcd_peer_port=12380
# kube-proxy cannot do without them.
proxy_health_port=10256 proxy_metrics_port=10249

# The Pods' network. Its gateway is the machine itself, and the address of the API server and of both nodes: neither
# takes a loopback one.
bridge=fluid-cluster0 gateway=10.213.0.1 subnet=10.213.0.0/24
# The network of Services, and the address of the first, the API server.
services=10.96.0.0/24 api_service=10.96.0.1
# Below every hierarchy of cgroups.
cgroup=fluid-cluster

# Directories that each node needs for itself although their paths are fixed: the name below $run/NODE, and the path.
node_folders=(kubelet:/var/lib/kubelet cni:/var/lib/cni pod-logs:/var/log/pods container-logs:/var/log/containers
  shims:/run/containerd)

# What kubelet and the bridge set for the whole machine, below /proc/sys.
sysctls=(vm/overcommit_memory vm/panic_on_oom kernel/panic kernel/panic_on_oops kernel/keys/root_maxkeys
  kernel/keys/root_maxbytes net/ipv4/ip_forward)

# The exit status where a cluster cannot run: something is missing that is not ours to make.
cannot=77

say() { printf '%s\n' "cluster: $*"; }
die() {
  printf '%s\n' "cluster: $*" >&2
  exit 1
}

# A kubeconfig of the user whose token is in the file.
kubeconfig() { # TOKEN_FILE
  cat <<EOF
apiVersion: v1
kind: Config
current-context: cluster
clusters: [{name: cluster, cluster: {server: "https://$gateway:$api_port", certificate-authority: $run/pki/ca.crt}}]
users: [{name: user, user: {tokenFile: $1}}]
contexts: [{name: cluster, context: {cluster: cluster, user: user}}]
EOF
}

# Starts a program with its output in a log; its process id tells down.sh whom to end. Its environment has a mark,
# which the processes that it starts inherit.
start() { # NAME PROGRAM ARGUMENT...
  local name=$1
  shift
  (
    # Whoever waits for the end of an inherited pipe (bats) or lock would wait for the end of the cluster.
    for descriptor in /proc/self/fd/*; do
      descriptor=${descriptor##*/}
      [ "$descriptor" -le 2 ] || eval "exec $descriptor>&-"
    done
    FLUID_CLUSTER_PROCESS=1 exec setsid "$@"
  ) >"$run/log/$name.log" 2>&1 </dev/null &
  echo $! >"$run/pid/$name"
  # down.sh ends it; this keeps the shell from reporting that.
  disown
}

# kube-proxy's tables of nftables, as FAMILY NAME.
proxy_tables() {
  ! command -v nft >/dev/null || nft list tables | sed -n 's/^table \(.* kube-proxy\)$/\1/p'
}

# The hierarchies of cgroups: one of v2, or each controller's of v1.
hierarchies() {
  if [ -e /sys/fs/cgroup/cgroup.procs ]; then
    echo /sys/fs/cgroup
  else
    dirname /sys/fs/cgroup/*/cgroup.procs
  fi
}

# The cgroups of the cluster, deepest first.
cgroups() { hierarchies | xargs -I{} find "{}/$cgroup" -depth -type d 2>/dev/null || true; }

# The processes of the cluster: those with the mark, and the containers'.
processes() {
  {
    grep -lzx FLUID_CLUSTER_PROCESS=1 /proc/[0-9]*/environ 2>/dev/null | cut -d / -f 3 || true
    cgroups | while read -r folder; do cat "$folder/cgroup.procs" 2>/dev/null || true; done
  } | sort -un
}
