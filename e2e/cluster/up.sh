#!/usr/bin/env bash
# Starts the cluster, and builds it before if need be. Does nothing to one that runs. See README.md.
set -euo pipefail
# shellcheck source=e2e/cluster/common.sh
source "$(dirname "$0")/common.sh"

usage() {
  say "it runs. To use it:
  export KUBECONFIG=$KUBECONFIG PATH=$cache/bin:\$PATH
  kubectl get nodes
The Pods' images: busybox:1, fluid-fuse:$("$here/images.sh" --version). The machine as the Pods see it: $gateway.
Logs: $run/log. To end it: make cluster-down"
}

# Of programs that were started; a dead one will not get better.
alive() {
  local name
  for name in "$run"/pid/*; do
    [ -d "/proc/$(cat "$name")" ] || die "${name##*/} ended: $(tail -3 "$run/log/${name##*/}.log")"
  done
}

ready() {
  [ "$(kubectl get nodes --request-timeout=5s -o json 2>/dev/null | jq -r --arg serverless "$serverless" --arg resource "$vfuse_resource" '
    [.items[] | select(any(.status.conditions[]; .type == "Ready" and .status == "True"))
      | select(.metadata.name != $serverless or .status.allocatable[$resource] > "0")] | length')" = \
    "${#kubelet_port[@]}" ]
}

missing=()
[ "$(id -u)" -eq 0 ] || missing+=("root: try sudo -E make cluster-up")
[ -c /dev/fuse ] || missing+=("/dev/fuse: try modprobe fuse")
[ -c /dev/kmsg ] || missing+=("/dev/kmsg, which kubelet reads")
for controller in memory pids cpu; do
  [ -d "/sys/fs/cgroup/$controller" ] || grep -qsw "$controller" /sys/fs/cgroup/cgroup.controllers ||
    missing+=("the cgroup controller $controller below /sys/fs/cgroup")
done
for folder in /sys/fs/cgroup /sys/fs/cgroup/memory; do
  [ ! -d "$folder" ] || [ -w "$folder" ] || missing+=("a writable $folder")
done
[ ${#run} -le 50 ] || missing+=("a CLUSTER_RUN of at most 50 bytes, for the sockets below it")
[ ${#missing[@]} -eq 0 ] || {
  printf 'cluster: missing: %s\n' "${missing[@]}" >&2
  exit "$cannot"
}

if [ -e "$run" ]; then
  ! ready || {
    usage
    exit 0
  }
  die "there is a cluster at $run, but it does not answer or is not ready. Its logs are in $run/log.
To start anew: make cluster-down cluster-up"
fi

packages=(etcd-server containernetworking-plugins iproute2 jq openssl)
# They may be of Docker's package, which Debian's would replace.
for program in containerd runc; do
  command -v "$program" >/dev/null || packages+=("$program")
done
"$project/scripts/need.sh" "${packages[@]}" || exit "$cannot"
"$here/build.sh"
"$here/images.sh" build

for port in "$api_port" "$etcd_port" "$etcd_peer_port" "${kubelet_port[@]}"; do
  owner=$(ss -Hltnp "sport = :$port")
  [ -z "$owner" ] || die "port $port is taken: $owner"
done
route=$(ip -4 route show match "$gateway" | grep -v ^default || true)
[ -z "$route" ] || die "the network of the Pods, $subnet, is there already: $route"

begun=$SECONDS
trap '[ $? -eq 0 ] || say "starting failed. The logs are in $run/log; clean up by make cluster-down" >&2' EXIT
mkdir -p "$run"/{log,pid,pki,etc}
chmod 700 "$run"
for name in "${sysctls[@]}"; do
  [ ! -w "/proc/sys/$name" ] || echo "$name:$(cat "/proc/sys/$name")" >>"$run/sysctls"
done

# Folders that a node mounts its own upon; those that are not there are removed in the end.
for folder in "${node_folders[@]#*:}" "$mount_root"; do
  [ -d "$folder" ] || {
    mkdir -p "$folder"
    echo "$folder" >>"$run/made"
  }
done

ip link add "$bridge" type bridge
ip address add "$gateway/${subnet#*/}" dev "$bridge"
ip link set "$bridge" up
cat >"$run/etc/bridge.conflist" <<EOF
{"cniVersion": "0.4.0", "name": "pods", "plugins": [{
  "type": "bridge", "bridge": "$bridge", "isGateway": true,
  "ipam": {"type": "host-local", "ranges": [[{"subnet": "$subnet"}]], "dataDir": "$run/addresses",
    "routes": [{"dst": "0.0.0.0/0"}]}}]}
EOF

# Keys: of the API server, of it as kubelet's client, and of service accounts. The one user is an administrator.
cd "$run/pki"
sign() { # NAME SUBJECT [EXTENSION]
  openssl req -newkey rsa:2048 -nodes -keyout "$1.key" -subj "$2" -out "$1.csr"
  openssl x509 -req -in "$1.csr" -CA ca.crt -CAkey ca.key -CAcreateserial -days 365 -out "$1.crt" \
    -extfile <(printf '%s\n' "${3:-}")
}
{
  openssl req -x509 -newkey rsa:2048 -nodes -keyout ca.key -subj /CN=fluid-cluster -days 365 -out ca.crt
  sign api /CN=kube-apiserver "subjectAltName=IP:127.0.0.1,IP:$gateway,DNS:localhost"
  sign kubelet-client /CN=kube-apiserver/O=system:masters
  openssl genpkey -algorithm rsa -out accounts.key
} >"$run/log/openssl.log" 2>&1
openssl rand -hex 16 >token
echo "$(<token),admin,admin,system:masters" >tokens
kubeconfig "$run/pki/token" >"$KUBECONFIG"
# What admission was asked about Pods, and which annotations its webhooks gave.
cat >"$run/etc/audit.yaml" <<EOF
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules: [{level: Metadata, verbs: [create], resources: [{group: "", resources: [pods]}]}, {level: None}]
EOF

say "starting the control plane"
start etcd etcd --data-dir "$run/etcd" --listen-client-urls "http://127.0.0.1:$etcd_port" \
  --advertise-client-urls "http://127.0.0.1:$etcd_port" --listen-peer-urls "http://127.0.0.1:$etcd_peer_port" \
  --initial-advertise-peer-urls "http://127.0.0.1:$etcd_peer_port" \
  --initial-cluster "default=http://127.0.0.1:$etcd_peer_port"
start kube-apiserver kube-apiserver --etcd-servers "http://127.0.0.1:$etcd_port" --bind-address 127.0.0.1 \
  --advertise-address 127.0.0.1 --secure-port "$api_port" --cert-dir "$run/pki" --tls-cert-file api.crt \
  --tls-private-key-file api.key --token-auth-file tokens --authorization-mode RBAC --allow-privileged=true \
  --service-cluster-ip-range 10.96.0.0/24 --service-account-issuer https://kubernetes.default.svc \
  --service-account-key-file accounts.key --service-account-signing-key-file accounts.key \
  --kubelet-client-certificate kubelet-client.crt --kubelet-client-key kubelet-client.key \
  --kubelet-preferred-address-types InternalIP --audit-policy-file "$run/etc/audit.yaml" \
  --audit-log-path "$run/log/audit.log" --disable-admission-plugins ServiceAccount
for _ in {1..300}; do
  ! kubectl get --raw /readyz >/dev/null 2>&1 || break
  alive
  sleep 0.2
done
for program in kube-controller-manager kube-scheduler; do
  start "$program" "$program" --kubeconfig "$KUBECONFIG" --leader-elect=false --port=0 --secure-port=0
done

say "starting the nodes $serverless and $ordinary"
for node in "$serverless" "$ordinary"; do
  # With its first process everything of a node ends, and with its namespaces every mount.
  start "$node" unshare --mount --pid --fork --kill-child --mount-proc "$here/node.sh" "$node"
done
for node in "$serverless" "$ordinary"; do
  "$here/images.sh" import "$run/$node/containerd.sock" >"$run/log/images-$node.log" 2>&1 ||
    die "cannot import the images: $(tail -3 "$run/log/images-$node.log")"
done
for _ in {1..300}; do
  ! ready || break
  alive
  sleep 0.2
done
ready || die "the nodes are not ready after a minute: $(kubectl get nodes 2>&1)"
say "started in $((SECONDS - begun)) s"
usage
