//! Whether the API server asks the policy about a Pod, and what the policy says of it.
//!
//! The policy itself is asked, with its settings and with the objects that were found; its reasons are the diagnosis.

use fluid_sidecar_layout::Named as _;
use fluid_sidecar_policy::cluster::{Cluster, Masked, Masks};
use fluid_sidecar_policy::reason::{Code, DECISION_ANNOTATION, REASONS_ANNOTATION};
use fluid_sidecar_policy::review::review;
use kubewarden_policy_sdk::host_capabilities::kubernetes::GetResourceRequest;
use serde_json::{Value, json};

use super::evidence::{Evidence, list, text};
use crate::{input, policies};

/// A part of the names of this project's webhooks, to recognise those whose policies cannot be read.
const NAME: &str = "fluid-sidecar";
/// The longest matchCondition that is evaluated here; the API server takes no longer ones.
const LONGEST_EXPRESSION: usize = 5 << 10;

/// A policy of this project, with its webhook.
pub struct Policy<'e> {
    /// The ClusterAdmissionPolicy or AdmissionPolicy, if there is one and it may be read.
    pub object: Option<&'e Value>,
    /// The name of the webhook configuration; of a policy that has none, the policy's.
    pub name: &'e str,
    /// The webhook, if there is one.
    pub webhook: Option<&'e Value>,
    /// When the webhook was made.
    pub since: &'e str,
}

impl<'e> Policy<'e> {
    /// Those that change Pods.
    pub fn all(evidence: &'e Evidence) -> Vec<Policy<'e>> {
        let mut all: Vec<Policy<'_>> = Vec::new();
        for kind in policies::Kind::ALL {
            for object in evidence.of_kind(kind.facts()) {
                if policies::is_ours(object) && object.pointer("/spec/mutating") == Some(&Value::Bool(true)) {
                    let name = text(object, "/metadata/name");
                    all.push(Policy { object: Some(object), name, webhook: None, since: "" });
                }
            }
        }
        for configuration in evidence.of_kind("MutatingWebhookConfiguration") {
            let name = text(configuration, "/metadata/name");
            let Some(webhook) = list(configuration, "/webhooks").first() else { continue };
            let since = text(configuration, "/metadata/creationTimestamp");
            // As Kubewarden names them.
            let of = |policy: &&mut Policy<'_>| {
                let namespace = policy.object.map_or("", |object| text(object, "/metadata/namespace"));
                name == format!("clusterwide-{}", policy.name)
                    || !namespace.is_empty() && name == format!("namespaced-{namespace}-{}", policy.name)
            };
            match all.iter_mut().find(of) {
                Some(policy) => (policy.name, policy.webhook, policy.since) = (name, Some(webhook), since),
                None if name.contains(NAME) => {
                    all.push(Policy { object: None, name, webhook: Some(webhook), since });
                }
                None => {}
            }
        }
        all
    }

    /// The settings, as far as they are known.
    pub fn settings(&self) -> Option<Value> {
        self.object.map(policies::settings_of)
    }

    /// Why its webhook is not called for a Pod; nothing if it is, or may be. A policy that has no webhook yet will have one
    /// with the same rules.
    pub fn spares(&self, pod: &Value, namespace: &Value) -> Option<Spared> {
        let webhook = self.webhook.or_else(|| self.object?.get("spec"))?;
        let selector = webhook.get("namespaceSelector").unwrap_or(&Value::Null);
        if !namespace.is_null() && !selects(selector, namespace.pointer("/metadata/labels")) {
            return Some(Spared::new("namespaceSelector", selector));
        }
        let selector = webhook.get("objectSelector").unwrap_or(&Value::Null);
        if !selects(selector, pod.pointer("/metadata/labels")) {
            return Some(Spared::new("objectSelector", selector));
        }
        let fails = |condition: &&Value| holds(text(condition, "/expression"), pod) == Some(false);
        list(webhook, "/matchConditions")
            .iter()
            .find(fails)
            .map(|condition| Spared::new("matchConditions", condition))
    }

    /// Whether it works, as Kubewarden says; the text is what says otherwise.
    pub fn inactive(&self) -> Option<String> {
        let object = self.object?;
        let status = text(object, "/status/policyStatus");
        let condition =
            list(object, "/status/conditions").iter().find(|it| text(it, "/type") == "PolicyActive");
        let is_false = condition.is_some_and(|condition| text(condition, "/status") == "False");
        if status != "active" && !status.is_empty() || is_false {
            let message = condition.map_or("", |condition| text(condition, "/message"));
            return Some(format!("status.policyStatus: {status}, condition PolicyActive: {message}"));
        }
        (text(object, "/spec/mode") == "monitor").then(|| "spec.mode: monitor".to_string())
    }
}

/// The field by which a webhook is not called.
pub struct Spared {
    /// The field of the webhook.
    pub field: &'static str,
    /// What stands there.
    pub value: String,
}

impl Spared {
    fn new(field: &'static str, value: &Value) -> Spared {
        Spared { field, value: value.to_string() }
    }
}

/// Whether a label selector selects, by Kubernetes' rules.
fn selects(selector: &Value, labels: Option<&Value>) -> bool {
    let label = |key: &str| labels.and_then(|labels| labels.get(key)?.as_str());
    let entries = selector.get("matchLabels").and_then(Value::as_object);
    let equal = entries.into_iter().flatten().all(|(key, value)| label(key) == value.as_str());
    equal
        && list(selector, "/matchExpressions").iter().all(|expression| {
            let found = label(text(expression, "/key"));
            let is_among =
                found.is_some_and(|found| list(expression, "/values").iter().any(|value| value == found));
            match text(expression, "/operator") {
                "In" => is_among,
                "NotIn" => !is_among,
                "Exists" => found.is_some(),
                "DoesNotExist" => found.is_none(),
                _ => true,
            }
        })
}

/// Whether an expression of CEL holds for a Pod; nothing if it cannot be told here.
fn holds(expression: &str, pod: &Value) -> Option<bool> {
    if expression.len() > LONGEST_EXPRESSION {
        return None;
    }
    let mut context = cel::Context::default();
    context.add_variable("object", pod).ok()?;
    match cel::Program::compile(expression).ok()?.execute(&context).ok()? {
        cel::Value::Bool(holds) => Some(holds),
        _ => None,
    }
}

/// What the policy says.
#[derive(Debug, Default)]
pub struct Verdict {
    /// Whether it gives the Pod a sidecar.
    pub injects: bool,
    /// Its reasons.
    pub reasons: Vec<(Code, String)>,
}

impl Verdict {
    /// Asks the policy about the creation of a Pod in the cluster that was found.
    pub fn of(evidence: &Evidence, pod: &Value, settings: &Value) -> Verdict {
        let namespace = Some(evidence.asked.namespace.as_str());
        let Ok(request) = input::request(pod.clone(), namespace, "CREATE") else { return Verdict::default() };
        let payload = json!({"request": request.admission, "settings": settings}).to_string();
        let response = review(payload.as_bytes(), &Found(evidence));
        let annotations = response.audit_annotations.unwrap_or_default();
        let lines = annotations.get(REASONS_ANNOTATION).map(String::as_str).unwrap_or_default().lines();
        let reason = |line: &str| {
            let (code, text) = line.split_once(": ")?;
            Some((Code::from_name(code)?, text.to_string()))
        };
        Verdict {
            injects: annotations.get(DECISION_ANNOTATION).is_some_and(|decision| decision == "injected"),
            reasons: lines.filter_map(reason).collect(),
        }
    }

    /// The first reason with one of the codes.
    pub fn because(&self, codes: &[Code]) -> Option<&str> {
        self.reasons.iter().find(|(code, _)| codes.contains(code)).map(|(_, text)| text.as_str())
    }
}

/// The evidence as a cluster. What could not be read is told apart from what is not there.
struct Found<'e>(&'e Evidence);

impl Cluster for Found<'_> {
    fn get<M: Masks>(&self, request: &GetResourceRequest) -> anyhow::Result<Masked<M>> {
        let GetResourceRequest { api_version, kind, name, namespace, .. } = request;
        let is_it = |object: &&Value| {
            text(object, "/kind") == kind
                && text(object, "/metadata/name") == name
                && namespace
                    .as_deref()
                    .is_none_or(|namespace| text(object, "/metadata/namespace") == namespace)
        };
        match self.0.objects.iter().find(is_it) {
            Some(object) => Ok(serde_json::from_value(object.clone())?),
            // As Kubewarden says it, since the policy has nothing else to go by.
            None => anyhow::bail!(
                "Callback evaluation failure: Cannot find {api_version}/{kind} named '{name}' inside of namespace \
                 '{namespace:?}'"
            ),
        }
    }
}
