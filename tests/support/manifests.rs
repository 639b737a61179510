//! Is a manifest one that the API server would take as it is meant? Each is read into the type of its kind and written
//! again: a field that the type does not know is lost, one of the wrong type is an error.
//!
//! Kubernetes' types are those of k8s-openapi. Of Kubewarden's (`policies.kubewarden.io/v1`, of its controller 1.36)
//! and Fluid's (`data.fluid.io/v1alpha1`, Fluid 1.1) the fields that `deploy/` uses are ported here, and a few beside
//! them; one that is missing here is refused, which is the safe mistake. Types say nothing of values beyond enums:
//! for Pods `support/validation.rs` does.

use k8s_openapi::api::{admissionregistration, apps, batch, core, rbac};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

/// The error says what was lost, or where a type is wrong.
pub fn check(manifest: &Value) -> Result<(), String> {
    let text = |field: &str| manifest[field].as_str().unwrap_or_default();
    let again = match (text("apiVersion"), text("kind")) {
        ("v1", "Namespace") => again::<core::v1::Namespace>(manifest),
        ("v1", "Secret") => again::<core::v1::Secret>(manifest),
        ("v1", "ServiceAccount") => again::<core::v1::ServiceAccount>(manifest),
        ("admissionregistration.k8s.io/v1", "ValidatingAdmissionPolicy") => {
            again::<admissionregistration::v1::ValidatingAdmissionPolicy>(manifest)
        }
        ("admissionregistration.k8s.io/v1", "ValidatingAdmissionPolicyBinding") => {
            again::<admissionregistration::v1::ValidatingAdmissionPolicyBinding>(manifest)
        }
        ("apps/v1", "DaemonSet") => again::<apps::v1::DaemonSet>(manifest),
        ("apps/v1", "Deployment") => again::<apps::v1::Deployment>(manifest),
        ("apps/v1", "StatefulSet") => again::<apps::v1::StatefulSet>(manifest),
        ("batch/v1", "CronJob") => again::<batch::v1::CronJob>(manifest),
        ("batch/v1", "Job") => again::<batch::v1::Job>(manifest),
        ("rbac.authorization.k8s.io/v1", "ClusterRole") => again::<rbac::v1::ClusterRole>(manifest),
        ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding") => {
            again::<rbac::v1::ClusterRoleBinding>(manifest)
        }
        ("policies.kubewarden.io/v1", "ClusterAdmissionPolicy") => {
            again::<Custom<ClusterAdmissionPolicySpec>>(manifest)
        }
        ("policies.kubewarden.io/v1", "PolicyServer") => again::<Custom<PolicyServerSpec>>(manifest),
        ("data.fluid.io/v1alpha1", "Dataset") => again::<Custom<DatasetSpec>>(manifest),
        ("data.fluid.io/v1alpha1", "ThinRuntime") => again::<Custom<ThinRuntimeSpec>>(manifest),
        ("data.fluid.io/v1alpha1", "ThinRuntimeProfile") => again::<Custom<ThinRuntimeProfileSpec>>(manifest),
        (api_version, kind) => Err(format!("no type is known for {api_version} {kind}")),
    }?;
    super::same(("the manifest", manifest), ("read as its kind", &again))
}

fn again<T: DeserializeOwned + Serialize>(manifest: &Value) -> Result<Value, String> {
    let typed: T = serde_json::from_value(manifest.clone()).map_err(|error| error.to_string())?;
    Ok(without_nulls(serde_json::to_value(typed).map_err(|error| error.to_string())?))
}

/// Fields that are absent.
fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let kept = map.into_iter().filter(|(_, value)| !value.is_null());
            kept.map(|(key, value)| (key, without_nulls(value))).collect()
        }
        Value::Array(elements) => elements.into_iter().map(without_nulls).collect(),
        scalar => scalar,
    }
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Custom<Spec> {
    api_version: String,
    kind: String,
    metadata: ObjectMeta,
    spec: Spec,
}

// --- Kubewarden --------------------------------------------------------------------------------------------

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ClusterAdmissionPolicySpec {
    module: String,
    mutating: bool,
    rules: Vec<Rule>,
    policy_server: Option<String>,
    mode: Option<Mode>,
    settings: Option<serde_json::Map<String, Value>>,
    background_audit: Option<bool>,
    context_aware_resources: Option<Vec<ContextAwareResource>>,
    failure_policy: Option<FailurePolicy>,
    match_conditions: Option<Vec<MatchCondition>>,
    message: Option<String>,
    namespace_selector: Option<LabelSelector>,
    object_selector: Option<LabelSelector>,
    timeout_eval_seconds: Option<Seconds>,
    timeout_seconds: Option<Seconds>,
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Rule {
    api_groups: Vec<String>,
    api_versions: Vec<String>,
    operations: Vec<String>,
    resources: Vec<String>,
    scope: Option<String>,
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
enum Mode {
    Monitor,
    Protect,
}

#[derive(Deserialize, Serialize)]
enum FailurePolicy {
    Fail,
    Ignore,
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ContextAwareResource {
    api_version: String,
    kind: String,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct MatchCondition {
    name: String,
    expression: String,
}

#[derive(Deserialize, Serialize)]
#[serde(try_from = "u8")]
struct Seconds(u8);

impl TryFrom<u8> for Seconds {
    type Error = String;

    fn try_from(seconds: u8) -> Result<Seconds, String> {
        match seconds {
            2..=30 => Ok(Seconds(seconds)),
            _ => Err(format!("a timeout of {seconds} seconds; Kubewarden takes 2 to 30")),
        }
    }
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct PolicyServerSpec {
    image: String,
    replicas: i32,
    affinity: Option<core::v1::Affinity>,
    env: Option<Vec<core::v1::EnvVar>>,
    image_pull_secret: Option<String>,
    insecure_sources: Option<Vec<String>>,
    limits: Option<BTreeMap<String, Quantity>>,
    min_available: Option<IntOrString>,
    requests: Option<BTreeMap<String, Quantity>>,
    service_account_name: Option<String>,
    sigstore_trust_config: Option<String>,
    source_authorities: Option<BTreeMap<String, Vec<String>>>,
}

// --- Fluid -------------------------------------------------------------------------------------------------

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct DatasetSpec {
    access_modes: Option<Vec<String>>,
    mounts: Vec<Mount>,
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Mount {
    mount_point: String,
    name: Option<String>,
    path: Option<String>,
    options: Option<BTreeMap<String, String>>,
    encrypt_options: Option<Vec<EncryptOption>>,
    read_only: Option<bool>,
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct EncryptOption {
    name: String,
    value_from: EncryptOptionSource,
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct EncryptOptionSource {
    secret_key_ref: SecretKey,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct SecretKey {
    name: String,
    key: String,
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ThinRuntimeSpec {
    profile_name: String,
    fuse: Option<ThinFuse>,
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ThinRuntimeProfileSpec {
    file_system_type: String,
    fuse: ThinFuse,
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ThinFuse {
    image: Option<String>,
    image_tag: Option<String>,
    image_pull_policy: Option<String>,
    image_pull_secrets: Option<Vec<core::v1::LocalObjectReference>>,
    command: Option<Vec<String>>,
    args: Option<Vec<String>>,
    env: Option<Vec<core::v1::EnvVar>>,
    options: Option<BTreeMap<String, String>>,
    resources: Option<core::v1::ResourceRequirements>,
}
