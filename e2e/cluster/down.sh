#!/usr/bin/env bash
# Ends the cluster and removes everything of it but the cache. Does nothing where there is none.
set -euo pipefail
# shellcheck source=e2e/cluster/common.sh
source "$(dirname "$0")/common.sh"
[ "$(id -u)" -eq 0 ] || die "needs root: try sudo -E make cluster-down"

[ ! -e "$run" ] || [ -d "$run/pki" ] || die "$run is no cluster's folder; see CLUSTER_RUN"

# The nodes first: when the first process of a node ends, the kernel ends all the others, and their mounts go.
if [ -e "$run" ]; then
  for name in "$serverless" "$ordinary"; do
    pid=$(cat "$run/pid/$name" 2>/dev/null || true)
    # After a restart of the machine the number may be another's.
    [ -z "$pid" ] || [[ $(tr '\0' ' ' 2>/dev/null <"/proc/$pid/cmdline") != *"$name"* ]] || kill -KILL "$pid" || true
  done
fi
for _ in {1..100}; do
  # The control plane, and what was started beside it (test.sh).
  processes | xargs -r kill -KILL 2>/dev/null || true
  [ -n "$(processes)" ] || break
  sleep 0.1
done

if [ -e "$run" ]; then
  while IFS=: read -r name value; do
    echo "$value" >"/proc/sys/$name" 2>/dev/null || say "cannot set $name back to $value" >&2
  done < <(cat "$run/sysctls" 2>/dev/null)
  [ ! -e "$run/made" ] || xargs rmdir <"$run/made" || true
  rm -rf --one-file-system "${run:?}"
fi
[ ! -e "/sys/class/net/$bridge" ] || ip link delete "$bridge"
proxy_tables | while read -r table; do
  # shellcheck disable=SC2086 # family and name
  nft delete table $table
done
cgroups | xargs -r rmdir
"$here/left.sh"
say "it is down, and nothing of it is left but the cache $cache"
