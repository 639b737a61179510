# shellcheck shell=bash
# shellcheck disable=SC2154 # the variables of common.sh
# The policy behind a webhook, as Kubewarden's controller and policy-server would have it from deploy/. Sourced, after
# common.sh.

policy=$project/deploy/eci.yaml
webhook_port=18443

# Lets the policy be asked about Pods, and the server read what deploy/ grants it, by an account of its own.
webhook_register() {
  local account=fluid-sidecar-policy-server namespace=kubewarden
  mkdir -p "$run/webhook"
  kubectl create namespace "$namespace" --dry-run=client -o yaml | kubectl apply -f -
  # What Kubewarden's own kinds say is done here.
  yq -c 'select(.kind != "PolicyServer")' "$project/deploy/policy-server.yaml" | kubectl apply -f -
  jq -n '{apiVersion: "authentication.k8s.io/v1", kind: "TokenRequest", spec: {expirationSeconds: 86400}}' |
    kubectl create --raw "/api/v1/namespaces/$namespace/serviceaccounts/$account/token" -f - |
    jq -j .status.token >"$run/webhook/token"
  kubeconfig "$run/webhook/token" >"$run/webhook/kubeconfig"

  openssl req -x509 -newkey rsa:2048 -nodes -days 30 -keyout "$run/webhook/tls.key" -out "$run/webhook/tls.crt" \
    -subj /CN=evaluate -addext subjectAltName=IP:127.0.0.1 2>/dev/null
  yq -c .spec.settings "$policy" >"$run/webhook/settings.json"
  webhook_start
  failure_policy Fail
}

# failure_policy Fail|Ignore: (re)registers the webhook.
failure_policy() {
  # shellcheck disable=SC2016 # jq's variables
  yq -c --arg policy "$1" --arg url "https://127.0.0.1:$webhook_port/validate/" \
    --arg authority "$(base64 -w 0 "$run/webhook/tls.crt")" '{
      apiVersion: "admissionregistration.k8s.io/v1", kind: "MutatingWebhookConfiguration",
      metadata: {name: "clusterwide-\(.metadata.name)"},
      webhooks: ["clusterwide-\(.metadata.name)" as $id | .spec | {
        name: "\($id).kubewarden.admission", sideEffects: "None", admissionReviewVersions: ["v1"],
        clientConfig: {url: ($url + $id), caBundle: $authority}, failurePolicy: $policy,
        rules, namespaceSelector, objectSelector, timeoutSeconds}]}' "$policy" |
    kubectl apply -f -
}

webhook_start() {
  start evaluate "${EVALUATE:-$project/target/debug/evaluate}" serve --listen "127.0.0.1:$webhook_port" \
    --tls-cert "$run/webhook/tls.crt" --tls-key "$run/webhook/tls.key" --kubeconfig "$run/webhook/kubeconfig" \
    --settings "$run/webhook/settings.json" --policy "${POLICY:-$project/target/policy.wasm}" \
    --metadata "$project/policy-metadata.yml"
  until curl -sk -o /dev/null "https://127.0.0.1:$webhook_port/readiness"; do
    kill -0 "$(cat "$run/pid/evaluate")"
    sleep 0.2
  done
}

webhook_stop() {
  kill "$(cat "$run/pid/evaluate")"
  while curl -sk -o /dev/null "https://127.0.0.1:$webhook_port/readiness"; do sleep 0.1; done
}
