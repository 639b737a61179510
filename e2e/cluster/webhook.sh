# shellcheck shell=bash
# shellcheck disable=SC2154 # the variables of common.sh
# Policies of deploy/ behind webhooks, registered as Kubewarden's controller does it, with `kubectl-fluid_sidecar serve` for
# its policy-server. Sourced, after common.sh.
#
# FILE is a file of deploy/ without .yaml; what is done with it is done with each policy in it. CHANGE is a jq filter of
# the policy, for a test that wants other settings or another failurePolicy than deploy/ has.

webhooks=$run/webhook webhook_namespace=kubewarden
# The first server's.
webhook_port=18443

# webhook_register FILE [CHANGE]: starts the policies' servers, and has the API server ask them.
webhook_register() {
  webhook_account
  webhook_start "$@"
  webhook_configure "$@"
}

# webhook_configure FILE [CHANGE]: how the API server asks, of which the servers know nothing. Without a server the policy is
# one that does not answer.
webhook_configure() {
  local policy
  while read -r policy; do
    webhook_folder >/dev/null
    # The controller's other fields are the API server's defaults: matchPolicy Equivalent, reinvocationPolicy Never, scope *.
    # shellcheck disable=SC2016 # jq's variables
    jq --arg namespace "$webhook_namespace" --arg authority "$(base64 -w 0 "$webhooks/$(webhook_name)/tls.crt")" '
      .metadata.name as $name | "clusterwide-\($name)" as $id | .spec | {
        apiVersion: "admissionregistration.k8s.io/v1",
        kind: (if .mutating then "MutatingWebhookConfiguration" else "ValidatingWebhookConfiguration" end),
        metadata: {name: $id},
        webhooks: [{
          name: "\($id).kubewarden.admission", sideEffects: "None", admissionReviewVersions: ["v1"],
          clientConfig: {service: {$namespace, $name, path: "/validate/\($id)"}, caBundle: $authority},
          namespaceSelector: {matchExpressions: ([{key: "kubernetes.io/metadata.name", operator: "NotIn", values: [$namespace]}]
            + (.namespaceSelector.matchExpressions // []))}
        } + ({rules, objectSelector, matchConditions, failurePolicy, timeoutSeconds} | with_entries(select(.value != null)))]}' <<<"$policy" |
      kubectl apply -f -
  done < <(webhook_policies "$@")
}

# webhook_start FILE [CHANGE]: a server for each policy, and a Service of the policy's name for each server.
webhook_start() {
  local policy name folder port
  while read -r policy; do
    name=$(webhook_name) folder=$(webhook_folder)
    port=$(<"$folder/port")
    jq .spec.settings <<<"$policy" >"$folder/settings.json"
    # What the policy may read is what its manifest grants it.
    jq .spec <<<"$policy" >"$folder/metadata.json"
    # Without a selector, as the server runs beside the cluster.
    kubectl apply -f - <<YAML
apiVersion: v1
kind: Service
metadata: {name: $name, namespace: $webhook_namespace}
spec: {ports: [{name: https, port: 443, targetPort: $port}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: $name, namespace: $webhook_namespace, labels: {kubernetes.io/service-name: $name}}
addressType: IPv4
ports: [{name: https, port: $port}]
endpoints: [{addresses: [$gateway]}]
YAML
    start "$name" "${TOOL:-$project/target/debug/kubectl-fluid_sidecar}" serve --listen "$gateway:$port" \
      --tls-cert "$folder/tls.crt" --tls-key "$folder/tls.key" --kubeconfig "$webhooks/kubeconfig" \
      --settings "$folder/settings.json" --metadata "$folder/metadata.json" --policy "${POLICY:-$project/target/policy.wasm}"
    until webhook_answers "$port"; do
      kill -0 "$(<"$run/pid/$name")"
      sleep 0.2
    done
  done < <(webhook_policies "$@")
}

# webhook_stop FILE: the API server asks on, and nobody answers.
webhook_stop() {
  local policy name
  while read -r policy; do
    name=$(webhook_name)
    kill "$(<"$run/pid/$name")"
    while webhook_answers "$(<"$webhooks/$name/port")"; do sleep 0.1; done
  done < <(webhook_policies "$@")
}

# webhook_remove FILE: the API server asks no more.
webhook_remove() {
  local policy
  while read -r policy; do
    kubectl delete --ignore-not-found "mutatingwebhookconfiguration/clusterwide-$(webhook_name)" \
      "validatingwebhookconfiguration/clusterwide-$(webhook_name)"
  done < <(webhook_policies "$@")
  webhook_stop "$@"
}

# The servers' account, and what deploy/ grants it. Kubewarden's own kinds are unknown here.
webhook_account() {
  local account=fluid-sidecar-policy-server
  [ ! -e "$webhooks/kubeconfig" ] || return 0
  mkdir -m 700 "$webhooks"
  kubectl create namespace "$webhook_namespace"
  yq -c 'select(.kind != "PolicyServer")' "$project/deploy/policy-server.yaml" | kubectl apply -f -
  kubectl create token "$account" --namespace "$webhook_namespace" --duration 24h | tr -d '\n' >"$webhooks/token"
  kubeconfig "$webhooks/token" >"$webhooks/kubeconfig"
}

# The policies, each as a line of JSON.
webhook_policies() { yq -c "select(.kind == \"ClusterAdmissionPolicy\") | ${2:-.}" "$project/deploy/$1.yaml"; }

webhook_name() { jq -r .metadata.name <<<"$policy"; }

# The folder of the policy, with its port and its key.
webhook_folder() {
  local name folder
  name=$(webhook_name) folder=$webhooks/$(webhook_name)
  echo "$folder"
  [ ! -d "$folder" ] || return 0
  mkdir "$folder"
  echo $((webhook_port - 1 + $(find "$webhooks" -mindepth 1 -type d | wc -l))) >"$folder/port"
  openssl req -x509 -newkey rsa:2048 -nodes -days 30 -keyout "$folder/tls.key" -out "$folder/tls.crt" \
    -subj "/CN=$name" -addext "subjectAltName=DNS:$name.$webhook_namespace.svc" 2>/dev/null
}

webhook_answers() { curl -sk -o /dev/null "https://$gateway:$1/readiness"; }
