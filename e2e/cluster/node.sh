#!/usr/bin/env bash
# One node: containerd, kubelet and, on the serverless one, what makes it one. up.sh runs it as the first process of
# mount and pid namespaces of its own. So two nodes can have the same fixed paths, a Pod's mounts reach all of its
# node but not the machine, and nothing outlives it. It ends when one of its programs does.
set -euo pipefail
# shellcheck source=e2e/cluster/common.sh
source "$(dirname "$0")/common.sh"
node=$1
own=$run/$node

# As on a machine of systemd; else no mount would propagate.
mount --make-rshared /
for folder in "${node_folders[@]}"; do
  mkdir -p "$own/${folder%%:*}"
  mount --bind "$own/${folder%%:*}" "${folder#*:}"
done
# A file system of its own, so that a bind of one of its folders tells which it was (see eci-runtime).
mount -t tmpfs -o mode=0755,size=16m "${mount_root#/}" "$mount_root"

hierarchies | while read -r hierarchy; do mkdir -p "$hierarchy/$cgroup/$node"; done
# Of v2 a cgroup has the controllers that its parents hand on.
if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
  for folder in "" "/$cgroup" "/$cgroup/$node"; do
    sed 's/[^ ]*/+&/g' "/sys/fs/cgroup$folder/cgroup.controllers" >"/sys/fs/cgroup$folder/cgroup.subtree_control"
  done
fi

runtime=$(command -v runc) labels='' taint=''
if [ "$node" = "$serverless" ]; then
  runtime=$here/eci-runtime labels=type=virtual-kubelet
  taint='{key: virtual-kubelet.io/provider, value: alibabacloud, effect: NoSchedule}'
fi
cat >"$own/containerd.toml" <<EOF
version = 3
root = "$own/containerd"
state = "$own/state"
# They use fixed paths outside of these.
disabled_plugins = ["io.containerd.internal.v1.opt", "io.containerd.nri.v1.nri"]
[grpc]
address = "$own/containerd.sock"
[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = "docker.io/library/pause:1"
[plugins."io.containerd.cri.v1.runtime"]
# Without CAP_SYS_RESOURCE, as in many sandboxes, no score may be lowered.
restrict_oom_score_adj = true
# Its profile forbids to mount.
disable_apparmor = true
netns_mounts_under_state_dir = true
[plugins."io.containerd.cri.v1.runtime".cni]
bin_dirs = ["/usr/lib/cni"]
conf_dir = "$run/etc"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
BinaryName = "$runtime"
Root = "$own/runc"
EOF
# Runs a program, and again when it was told to end, as a node's service manager does.
keep() { # LOG PROGRAM ARGUMENT...
  local log=$1 status
  shift
  while :; do
    status=0
    "$@" >>"$log" 2>&1 || status=$?
    # 143: by SIGTERM.
    [ $status -eq 0 ] || [ $status -eq 143 ] || return $status
  done
}

programs=()
keep "$run/log/containerd-$node.log" containerd --config "$own/containerd.toml" &
programs+=($!)
until ctr --address "$own/containerd.sock" version >/dev/null 2>&1; do
  kill -0 "${programs[0]}" || { echo "containerd ended: $(tail -3 "$run/log/containerd-$node.log")"; exit 1; }
  sleep 0.1
done

# No eviction and no collection of images: a full disk is not the tests' business, and no image can be pulled again.
cat >"$own/kubelet.yaml" <<EOF
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: $gateway
port: ${kubelet_port[$node]}
healthzPort: 0
authentication: {x509: {clientCAFile: $run/pki/ca.crt}}
containerRuntimeEndpoint: unix://$own/containerd.sock
cgroupDriver: cgroupfs
cgroupRoot: /$cgroup/$node
failCgroupV1: false
failSwapOn: false
enforceNodeAllocatable: [none]
evictionHard: {memory.available: "0%", nodefs.available: "0%", nodefs.inodesFree: "0%", imagefs.available: "0%"}
imageGCHighThresholdPercent: 100
# There is no DNS.
resolvConf: ""
clusterDNS: [$gateway]
makeIPTablesUtilChains: false
oomScoreAdj: 0
nodeStatusUpdateFrequency: 1s
volumePluginDir: $own/volume-plugins
registerWithTaints: [$taint]
EOF
keep "$run/log/kubelet-$node.log" kubelet --config "$own/kubelet.yaml" --kubeconfig "$KUBECONFIG" --hostname-override "$node" --node-ip "$gateway" \
  --node-labels "$labels" &
programs+=($!)

if [ "$node" = "$serverless" ]; then
  until [ -S /var/lib/kubelet/device-plugins/kubelet.sock ]; do
    kill -0 "${programs[1]}" || { echo "kubelet ended: $(tail -3 "$run/log/kubelet-$node.log")"; exit 1; }
    sleep 0.1
  done
  vfuse-device-plugin >"$run/log/vfuse-device-plugin.log" 2>&1 &
  programs+=($!)
  "$here/eci-sidecars" "$node" "$own/containerd.sock" >"$run/log/eci-sidecars.log" 2>&1 &
  programs+=($!)
fi
wait -n "${programs[@]}" || true
echo "one of the node's programs ended; see their logs in $run/log"
exit 1
