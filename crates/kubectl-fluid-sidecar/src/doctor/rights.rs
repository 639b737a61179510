//! The commands that grant the rights that are missing.

use std::collections::{BTreeMap, BTreeSet};

use super::evidence::{Evidence, Unread};

/// What the roles and bindings are called.
const NAME: &str = "fluid-sidecar-doctor";

/// What is read of any cluster. One read leads to others, so that all of it is granted at once.
const OF_THE_CLUSTER: &[&str] = &[
    "mutatingwebhookconfigurations.admissionregistration.k8s.io",
    "namespaces",
    "persistentvolumes",
    "validatingwebhookconfigurations.admissionregistration.k8s.io",
];
/// The same of the namespace.
const OF_THE_NAMESPACE: &[&str] = &[
    "cronjobs.batch",
    "daemonsets.apps",
    "deployments.apps",
    "events",
    "jobs.batch",
    "persistentvolumeclaims",
    "pods",
    "pods/log",
    "replicasets.apps",
    "statefulsets.apps",
];

/// The commands, for the account that the API server names in its refusals.
pub fn grants(evidence: &Evidence) -> Vec<String> {
    let is_word =
        |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._/".contains(&byte));
    let are_words = |unread: &&Unread| {
        let namespace = unread.namespace.as_deref().unwrap_or_default();
        [unread.resource.as_str(), namespace].iter().all(|text| is_word(text))
    };
    // A record may come from anybody, and these go into command lines.
    let denied: Vec<&Unread> =
        evidence.unread.iter().filter(|unread| unread.forbidden).filter(are_words).collect();
    let account = denied.iter().find_map(|unread| account(&unread.message));
    let account = account.unwrap_or_else(|| "--user=NAME".to_string());
    let mut by_place: BTreeMap<Option<&str>, BTreeSet<&str>> = BTreeMap::new();
    for unread in denied {
        let usual = if unread.namespace.is_some() { OF_THE_NAMESPACE } else { OF_THE_CLUSTER };
        let resources = by_place.entry(unread.namespace.as_deref()).or_default();
        resources.extend(usual);
        resources.insert(&unread.resource);
    }
    let mut commands = Vec::new();
    for (namespace, resources) in by_place {
        let rules = format!("--verb=get,list --resource={}", Vec::from_iter(resources).join(","));
        commands.extend(match namespace {
            Some(namespace) => [
                format!("kubectl create role {NAME} {rules} --namespace {namespace}"),
                format!("kubectl create rolebinding {NAME} --role={NAME} {account} --namespace {namespace}"),
            ],
            None => [
                format!("kubectl create clusterrole {NAME} {rules}"),
                format!("kubectl create clusterrolebinding {NAME} --clusterrole={NAME} {account}"),
            ],
        });
    }
    commands
}

/// The option of kubectl that names the account of a refusal: `User "…" cannot get resource …`.
fn account(message: &str) -> Option<String> {
    let name = message.split_once("User \"")?.1.split_once('"')?.0;
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:@".contains(&byte);
    if !name.bytes().all(is_plain) {
        return None;
    }
    Some(match name.strip_prefix("system:serviceaccount:") {
        Some(account) => format!("--serviceaccount={account}"),
        None => format!("--user={name}"),
    })
}
