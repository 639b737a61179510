#!/usr/bin/env bash
# Prints what is left of a cluster: processes, mounts, network, cgroups, files. Fails if anything is.
set -euo pipefail
# shellcheck source=e2e/cluster/common.sh
source "$(dirname "$0")/common.sh"

left=$({
  processes | xargs -r ps -o 'pid=,args=' -p | cut -c 1-100 | sed 's/^ */process /'
  findmnt -rno TARGET,SOURCE | grep -E "$run/|^$mount_root| ${mount_root#/}" | sed 's/^/mount /' || true
  [ ! -e "/sys/class/net/$bridge" ] || echo "network interface $bridge"
  ip -o link show type veth | grep -F "master $bridge" | sed 's/^/network interface /' || true
  proxy_tables | sed 's/^/table of nftables /'
  cgroups | grep "/$cgroup\$" | sed 's/^/cgroup /' || true
  [ ! -e "$run" ] || echo "folder $run"
})
[ -z "$left" ] || {
  printf 'left of the cluster:\n%s\n' "$left"
  exit 1
}
