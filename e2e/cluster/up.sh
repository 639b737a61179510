#!/usr/bin/env bash
# Starts the cluster, and builds its programs before if need be. Does nothing to one that runs; what is left of one whose
# processes ended is removed. See README.md.
#
#   up.sh [--build]    with it only builds the programs
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

# Fails if a program that was started has ended: waiting for it is in vain.
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
  [ -z "$(processes)" ] || die "there is a cluster at $run, but it does not answer or is not ready. Its logs are in $run/log.
To start anew: make cluster-down cluster-up"
  # As after a restart of the machine.
  say "none of the processes of the cluster at $run is there; removing what they left"
  "$here/down.sh"
fi

"$project/scripts/need.sh" cluster || exit "$cannot"
"$here/build.sh"
[ "${1:-}" != --build ] || exit 0
"$here/images.sh" build

for port in "$api_port" "$etcd_port" "$etcd_peer_port" "$proxy_health_port" "$proxy_metrics_port" \
  "${kubelet_port[@]}"; do
  owner=$(ss -Hltnp "sport = :$port")
  [ -z "$owner" ] || die "port $port is taken: $owner"
done
route=$(ip -4 route show match "$gateway" | grep -v ^default || true)
[ -z "$route" ] || die "the network of the Pods, $subnet, is there already: $route"
[ -z "$(proxy_tables)" ] || die "a kube-proxy has its tables here already (nft list tables): is this a node of another cluster?"

begun=$SECONDS
trap '[ $? -eq 0 ] || say "starting failed. The logs are in $run/log; clean up by make cluster-down" >&2' EXIT
mkdir -p "$run"/{pki,log,pid,etc}
# The root of a Pod with user namespaces is nobody to the machine, and its files are below.
chmod 711 "$run"
chmod 700 "$run/pki"
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
# An address that was set stays. Else the bridge takes the lowest of its ports', which changes when a Pod goes, and the
# other Pods do not reach the machine until they ask for it again.
ip link set "$bridge" address "$(cat "/sys/class/net/$bridge/address")"
ip address add "$gateway/${subnet#*/}" dev "$bridge"
ip link set "$bridge" up
cat >"$run/etc/bridge.conflist" <<EOF
{"cniVersion": "0.4.0", "name": "pods", "plugins": [{
  "type": "bridge", "bridge": "$bridge", "isGateway": true,
  "ipam": {"type": "host-local", "ranges": [[{"subnet": "$subnet"}]], "dataDir": "$run/addresses",
    "routes": [{"dst": "0.0.0.0/0"}]}}]}
EOF

# Keys: of the API server, of it as kubelet's client, and of service accounts. The only user has administrator rights.
cd "$run/pki"
sign() { # NAME SUBJECT [EXTENSION]
  openssl req -newkey rsa:2048 -nodes -keyout "$1.key" -subj "$2" -out "$1.csr"
  openssl x509 -req -in "$1.csr" -CA ca.crt -CAkey ca.key -CAcreateserial -days 365 -out "$1.crt" \
    -extfile <(printf '%s\n' "${3:-}")
}
{
  openssl req -x509 -newkey rsa:2048 -nodes -keyout ca.key -subj /CN=fluid-cluster -days 365 -out ca.crt
  sign api /CN=kube-apiserver "subjectAltName=IP:$gateway,IP:$api_service,$(
    printf ',DNS:%s' kubernetes{,.default{,.svc{,.cluster.local}}} | cut -c 2-)"
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
start kube-apiserver kube-apiserver --etcd-servers "http://127.0.0.1:$etcd_port" --bind-address "$gateway" \
  --advertise-address "$gateway" --secure-port "$api_port" --cert-dir "$run/pki" --tls-cert-file api.crt \
  --tls-private-key-file api.key --token-auth-file tokens --authorization-mode RBAC --allow-privileged=true \
  --service-cluster-ip-range "$services" --service-account-issuer https://kubernetes.default.svc \
  --service-account-key-file accounts.key --service-account-signing-key-file accounts.key \
  --kubelet-client-certificate kubelet-client.crt --kubelet-client-key kubelet-client.key \
  --kubelet-preferred-address-types InternalIP --audit-policy-file "$run/etc/audit.yaml" \
  --audit-log-path "$run/log/audit.log"
for _ in {1..300}; do
  ! kubectl get --raw /readyz >/dev/null 2>&1 || break
  alive
  sleep 0.2
done
start kube-controller-manager kube-controller-manager --kubeconfig "$KUBECONFIG" --leader-elect=false --secure-port=0 \
  --service-account-private-key-file accounts.key --root-ca-file ca.crt --use-service-account-credentials
start kube-scheduler kube-scheduler --kubeconfig "$KUBECONFIG" --leader-elect=false --secure-port=0
# One for both nodes, as they share the machine's network. Of the settings for the whole machine it changes none.
cat >"$run/etc/kube-proxy.yaml" <<EOF
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
clientConnection: {kubeconfig: $KUBECONFIG}
hostnameOverride: $ordinary
mode: nftables
nftables:
  # Else a Pod of the same bridge would answer its peer directly, which knows the address of the Service only.
  masqueradeAll: true
bindAddress: $gateway
healthzBindAddress: 127.0.0.1:$proxy_health_port
metricsBindAddress: 127.0.0.1:$proxy_metrics_port
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
EOF
start kube-proxy kube-proxy --config "$run/etc/kube-proxy.yaml"

say "starting the nodes $serverless and $ordinary"
for node in "$serverless" "$ordinary"; do
  # When the first process of the node ends, the kernel ends all the others, and their mounts go.
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
alive
say "started in $((SECONDS - begun)) s"
usage
