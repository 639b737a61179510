//! Kubewarden's policies, whose settings are those of a cluster.

use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use fluid_sidecar_layout::{Named as _, named};
use serde_json::{Map, Value};

use crate::metadata::Metadata;
use crate::{pods, yaml};

/// The last part of the module's reference, which is this project's policy.
pub const MODULE: &str = "fluid-sidecar-policy";
/// Kubewarden's group.
const GROUP: &str = "policies.kubewarden.io";
/// The version of it that has the policies.
#[cfg(feature = "kubectl")]
const API_VERSION: &str = "policies.kubewarden.io/v1";

named! {
    /// A kind of policies of Kubewarden, by the name that people type.
    pub enum Kind: &'static str {
        /// Of the whole cluster.
        Cluster = "clusteradmissionpolicy" => "ClusterAdmissionPolicy",
        /// Of a namespace.
        Namespaced = "admissionpolicy" => "AdmissionPolicy",
    }
}

/// The settings of a policy, and what the policy may do.
#[derive(Debug)]
pub struct Chosen {
    /// Whose settings they are.
    pub name: String,
    /// The settings, as under `spec.settings`.
    pub settings: Value,
    /// What the policy may read, and whether it may change Pods; `None` where nothing says it.
    pub metadata: Option<Metadata>,
}

impl Chosen {
    /// The settings of a policy that has none.
    pub fn defaults() -> Chosen {
        Chosen { name: "default settings".into(), settings: Value::Object(Map::new()), metadata: None }
    }

    /// The settings of a policy's manifest, and what the policy is granted.
    pub fn of_manifest(policy: &Value) -> Result<Chosen> {
        let name = title(policy);
        let spec = policy.get("spec").with_context(|| format!("{name} has no spec"))?;
        let metadata = Metadata::of_spec(spec).with_context(|| name.clone())?;
        Ok(Chosen { settings: settings_of(policy), name, metadata: Some(metadata) })
    }

    /// The settings of a file: its only document is the settings, or its only policy of this project has them.
    pub fn of_file(path: &Path) -> Result<Chosen> {
        let documents = yaml::read_file(path)?;
        let file = path.display();
        let policies: Vec<_> = documents.iter().filter(|it| kind(it).is_some()).collect();
        match (documents.as_slice(), policies.as_slice()) {
            ([], _) => bail!("{file} is empty"),
            (_, [policy]) => Chosen::of_manifest(policy),
            ([settings], []) => {
                Ok(Chosen { name: file.to_string(), settings: settings.clone(), metadata: None })
            }
            (_, []) => bail!("{file} has {} documents; expected one, or a policy", documents.len()),
            _ => bail!("{file} has {} policies; expected one", policies.len()),
        }
    }
}

/// The kind of policies that an object is of; `None`: it is no policy.
pub fn kind(object: &Value) -> Option<Kind> {
    let kind = object.get("kind").and_then(Value::as_str)?;
    Kind::ALL.iter().copied().find(|known| pods::group(object) == GROUP && *known.facts() == kind)
}

/// Whether a policy is this project's, by the name of its module.
pub fn is_ours(policy: &Value) -> bool {
    let module = policy.pointer("/spec/module").and_then(Value::as_str).unwrap_or_default();
    let last = module.rsplit('/').next().unwrap_or_default();
    last.split([':', '@']).next() == Some(MODULE)
}

/// The settings of a policy; none are an empty map.
pub fn settings_of(policy: &Value) -> Value {
    policy.pointer("/spec/settings").cloned().unwrap_or_else(|| Value::Object(Map::new()))
}

/// `clusteradmissionpolicy/NAME`, `admissionpolicy/NAMESPACE/NAME`: as `--settings` takes it.
pub fn title(policy: &Value) -> String {
    let text = |pointer: &str| policy.pointer(pointer).and_then(Value::as_str).unwrap_or("?");
    match kind(policy) {
        Some(Kind::Namespaced) => {
            format!("{}/{}/{}", Kind::Namespaced, text("/metadata/namespace"), text("/metadata/name"))
        }
        _ => format!("{}/{}", Kind::Cluster, text("/metadata/name")),
    }
}

/// A policy of a live cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    kind: Kind,
    namespace: String,
    name: String,
}

impl Reference {
    /// Understands what [`title`] writes, in the plural, too. `None`: it is something else.
    pub fn parse(text: &str) -> Result<Option<Reference>> {
        let Some((kind, rest)) = text.split_once('/') else { return Ok(None) };
        let kind = kind.strip_suffix(&format!(".{GROUP}")).unwrap_or(kind).to_ascii_lowercase();
        let is = |known: &&Kind| {
            let stem = known.name().trim_end_matches('y');
            kind == known.name() || kind == format!("{stem}ies")
        };
        let Some(kind) = Kind::ALL.iter().find(is).copied() else { return Ok(None) };
        let (namespace, name) = match (kind, rest.split_once('/')) {
            (Kind::Cluster, None) => ("", rest),
            (Kind::Namespaced, Some((namespace, name))) => (namespace, name),
            (Kind::Cluster, Some(_)) => bail!("{text}: expected clusteradmissionpolicy/NAME"),
            (Kind::Namespaced, None) => bail!("{text}: expected admissionpolicy/NAMESPACE/NAME"),
        };
        ensure!(!name.is_empty(), "{text}: the name is missing");
        Ok(Some(Reference { kind, namespace: namespace.into(), name: name.into() }))
    }
}

#[cfg(feature = "kubectl")]
mod live {
    use anyhow::{Context as _, Result, bail};
    use fluid_sidecar_layout::Named as _;
    use serde_json::Value;

    use super::{API_VERSION, Chosen, Kind, Reference, is_ours, title};
    use crate::api_server::Refusal;
    use crate::live::Live;

    impl Reference {
        /// The policy itself.
        pub fn read(&self, live: &Live) -> Result<Value> {
            let kind = live.server().kind_of(API_VERSION, self.kind.facts());
            let kind = kind.with_context(|| {
                format!(
                    "the cluster of {} has no {}: is Kubewarden installed?",
                    live.name(),
                    self.kind.facts()
                )
            })?;
            live.object_of(&kind, &self.name, &self.namespace)
        }
    }

    /// The settings of the only policy of this project that changes Pods of the namespace; the defaults, where there is none
    /// or where it cannot be known. The text says which, and why.
    pub fn find(live: &Live, namespace: &str) -> Result<(Chosen, String)> {
        let defaults = |why: String| {
            let note = format!("{why}; the default settings are used. `--settings` names others");
            Ok((Chosen::defaults(), note))
        };
        let mut policies = Vec::new();
        for kind in Kind::ALL.iter().copied() {
            let Some(known) = live.server().kind_of(API_VERSION, kind.facts()) else {
                return defaults(format!("the cluster has no {}, so Kubewarden is not there", kind.facts()));
            };
            let scope = (kind == Kind::Namespaced).then_some(namespace);
            match live.server().list(&known, scope) {
                Ok(found) => policies.extend(found.into_iter().map(|mut policy| {
                    // In a list the API server may leave them out.
                    policy["kind"] = (*kind.facts()).into();
                    policy["apiVersion"] = API_VERSION.into();
                    policy
                })),
                Err(Refusal::Forbidden(forbidden)) => {
                    return defaults(format!(
                        "the policies of the cluster may not be listed ({})",
                        forbidden.message
                    ));
                }
                Err(refusal) => return Err(live.refused("list", &known.resource(), scope, refusal)),
            }
        }
        policies.retain(|policy| is_ours(policy) && policy.pointer("/spec/mutating") == Some(&true.into()));
        match policies.as_slice() {
            [] => defaults("no policy of the cluster is fluid-sidecar-policy and changes Pods".into()),
            [policy] => {
                let chosen = Chosen::of_manifest(policy)?;
                let note = format!("the settings are those of {}", chosen.name);
                Ok((chosen, note))
            }
            several => {
                let names: Vec<_> = several.iter().map(|it| format!("--settings {}", title(it))).collect();
                bail!(
                    "the cluster has several policies of this project, for Pods of different namespaces or labels; choose \
                     one of them:\n  {}",
                    names.join("\n  ")
                )
            }
        }
    }
}

#[cfg(feature = "kubectl")]
pub use live::find;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn this_projects_policies_are_known_by_their_module() {
        for (module, ours) in [
            ("registry://ghcr.io/org/fluid-sidecar-policy:v0.1.0", true),
            ("registry://mirror.example:5000/a/fluid-sidecar-policy@sha256:00", true),
            ("registry://ghcr.io/org/fluid-sidecar-policy", true),
            ("registry://ghcr.io/fluid-sidecar-policy/other:v1", false),
            ("registry://ghcr.io/org/fluid-sidecar-policy-twin:v1", false),
            ("", false),
        ] {
            assert_eq!(is_ours(&json!({"spec": {"module": module}})), ours, "{module}");
        }
    }

    #[test]
    fn references_are_those_of_titles() {
        let policy = |kind: &str| {
            json!({"apiVersion": "policies.kubewarden.io/v1", "kind": kind,
                "metadata": {"name": "eci", "namespace": "team"}})
        };
        for (kind, expected) in [
            ("ClusterAdmissionPolicy", "clusteradmissionpolicy/eci"),
            ("AdmissionPolicy", "admissionpolicy/team/eci"),
        ] {
            let title = title(&policy(kind));
            assert_eq!(title, expected);
            let parsed = Reference::parse(&title).unwrap().unwrap();
            assert_eq!((*parsed.kind.facts(), parsed.name.as_str()), (kind, "eci"));
            let plural = title.replace("policy/", "policies.policies.kubewarden.io/");
            assert_eq!(Reference::parse(&plural).unwrap(), Some(parsed));
        }
        for other in ["settings.yaml", "deploy/eci.yaml", "pod/app"] {
            assert_eq!(Reference::parse(other).unwrap(), None, "{other}");
        }
        for wrong in ["admissionpolicy/eci", "clusteradmissionpolicy/team/eci", "clusteradmissionpolicy/"] {
            assert!(Reference::parse(wrong).is_err(), "{wrong}");
        }
    }
}
