//! What does Kubewarden know of a policy before it runs it?
//!
//! The fields of `policy-metadata.yml`, their defaults and their order are those of kwctl (`policy_metadata.rs` of
//! Kubewarden's policy-evaluator), so that `kwctl inspect`, the policy server and Rancher's UI read what we write. More
//! strictly than there, unknown fields are refused: a misplaced `hostCapabilities` would otherwise be no capability.
//! What only kwctl knows, whether the module uses what the metadata declares, is left to it.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, bail, ensure};
use semver::Version;
use serde::{Deserialize, Serialize};

/// The annotation with the policy's version, without a `v`.
pub const VERSION: &str = "io.kubewarden.policy.version";
/// The annotation with the policy's source repository.
pub const SOURCE: &str = "io.kubewarden.policy.source";
/// The annotation with the policy's documentation, several lines of Markdown.
pub const USAGE: &str = "io.kubewarden.policy.usage";

/// The metadata of a policy.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Metadata {
    /// How the host talks to the policy; `src/lib.rs` answers the same.
    #[serde(default = "v1")]
    pub protocol_version: String,
    /// The requests that the policy is for.
    pub rules: Vec<Rule>,
    /// Texts for people and catalogues; those of one line become annotations of the artifact in a registry.
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
    /// Whether the policy changes objects.
    pub mutating: bool,
    /// Whether the audit scanner asks the policy about objects that exist.
    #[serde(default = "yes")]
    pub background_audit: bool,
    /// `kubewarden-wapc`, the only one that this project's policy has.
    #[serde(default = "wapc")]
    pub execution_mode: String,
    /// `kubernetes`: the policy is asked about admission requests.
    #[serde(default = "kubernetes")]
    pub policy_type: String,
    /// What the policy may read of the cluster.
    #[serde(default)]
    pub context_aware_resources: BTreeSet<ContextAwareResource>,
    /// The calls of the host that the policy makes (Kubewarden 1.35 and newer).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_capabilities: Option<BTreeSet<String>>,
    /// The oldest Kubewarden that may load the policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minimum_kubewarden_version: Option<Version>,
}

/// Requests, as in a webhook configuration.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[allow(missing_docs, reason = "the fields of Kubernetes")]
pub struct Rule {
    pub api_groups: Vec<String>,
    pub api_versions: Vec<String>,
    pub resources: Vec<String>,
    pub operations: Vec<String>,
}

/// A kind of object.
#[derive(Clone, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[allow(missing_docs, reason = "the fields of Kubernetes")]
pub struct ContextAwareResource {
    pub api_version: String,
    pub kind: String,
}

fn v1() -> String {
    "v1".into()
}

fn yes() -> bool {
    true
}

fn wapc() -> String {
    "kubewarden-wapc".into()
}

fn kubernetes() -> String {
    "kubernetes".into()
}

impl Metadata {
    /// Reads `policy-metadata.yml`, and takes `usage`, without its HTML comments, as the policy's documentation. Errors
    /// name the field.
    pub fn parse(yaml: &str, usage: Option<&str>) -> Result<Self> {
        let mut metadata: Self = serde_saphyr::from_str(yaml)?;
        metadata.annotations.extend(usage.map(|usage| (USAGE.to_owned(), without_comments(usage))));
        metadata.check()?;
        Ok(metadata)
    }

    /// The policy's version, of the annotation [`VERSION`].
    pub fn version(&self) -> Result<Version> {
        let version = self.annotations.get(VERSION);
        let version = version.with_context(|| format!("annotations: {VERSION} is missing"))?;
        Version::parse(version).with_context(|| format!("annotations: {VERSION}: {version:?}"))
    }

    /// What kwctl refuses, and the modes of policies that are not ours.
    fn check(&self) -> Result<()> {
        for (field, value, only) in [
            ("protocolVersion", &self.protocol_version, v1()),
            ("executionMode", &self.execution_mode, wapc()),
            ("policyType", &self.policy_type, kubernetes()),
        ] {
            ensure!(*value == only, "{field}: must be {only}, not {value}");
        }
        ensure!(!self.rules.is_empty(), "rules: there is none, so the policy would never be asked");
        for (number, rule) in self.rules.iter().enumerate() {
            rule.check().with_context(|| format!("rules[{number}]"))?;
        }
        for resource in &self.context_aware_resources {
            let whole = !resource.api_version.is_empty() && !resource.kind.is_empty();
            ensure!(whole, "contextAwareResources: {resource:?} needs apiVersion and kind");
        }
        self.version().map(drop)
    }
}

impl Rule {
    fn check(&self) -> Result<()> {
        for (field, values) in [
            ("apiGroups", &self.api_groups),
            ("apiVersions", &self.api_versions),
            ("resources", &self.resources),
            ("operations", &self.operations),
        ] {
            ensure!(!values.is_empty(), "{field}: is empty");
            let alone = values.len() == 1 || !values.iter().any(|value| value == "*");
            ensure!(alone, "{field}: \"*\" must stand alone");
        }
        let known = ["CREATE", "UPDATE", "DELETE", "CONNECT", "*"];
        match self.operations.iter().find(|operation| !known.contains(&operation.as_str())) {
            Some(unknown) => bail!("operations: {unknown:?} is not one of {}", known.join(", ")),
            None => Ok(()),
        }
    }
}

/// Markdown without the HTML comments that stand on lines of their own: `kwctl inspect` prints them. Code blocks stay as
/// they are.
fn without_comments(markdown: &str) -> String {
    let mut kept = String::with_capacity(markdown.len());
    let mut fence: Option<&str> = None;
    let mut comment = false;
    for line in markdown.split_inclusive('\n') {
        let text = line.trim_start_matches(' ');
        // With four spaces it may be code.
        let block = line.len() - text.len() < 4;
        comment |= fence.is_none() && block && text.starts_with("<!--");
        if comment {
            let Some((_, behind)) = line.split_once("-->") else { continue };
            comment = false;
            if !behind.trim().is_empty() {
                kept.push_str(behind);
            }
            continue;
        }
        kept.push_str(line);
        match fence {
            // The end is at least as long as the beginning, and has nothing behind it.
            Some(begin) => {
                let ends = text.starts_with(begin) && text.trim_end().chars().all(|it| begin.starts_with(it));
                fence = fence.filter(|_| !ends);
            }
            None if text.starts_with("```") || text.starts_with("~~~") => {
                let info = text.trim_start_matches(['`', '~']);
                fence = text.get(..text.len() - info.len());
            }
            None => {}
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const MINIMAL: &str = r#"
rules:
- {apiGroups: [""], apiVersions: [v1], resources: [pods], operations: [CREATE]}
mutating: true
annotations: {io.kubewarden.policy.version: 1.2.3}
"#;

    #[test]
    fn the_json_is_what_kwctl_writes() {
        let yaml = format!(
            "{MINIMAL}contextAwareResources: [{{apiVersion: v1, kind: PersistentVolumeClaim}}, \
             {{apiVersion: apps/v1, kind: DaemonSet}}]\nhostCapabilities: [kubernetes/get_resource]\n\
             minimumKubewardenVersion: 1.33.0\n"
        );
        let metadata = Metadata::parse(&yaml, Some("# Usage\n")).unwrap();
        // The order of the fields, too: a byte stream, not a value.
        assert_eq!(
            serde_json::to_string(&metadata).unwrap(),
            r##"{"protocolVersion":"v1","rules":[{"apiGroups":[""],"apiVersions":["v1"],"resources":["pods"],"operations":["CREATE"]}],"annotations":{"io.kubewarden.policy.usage":"# Usage\n","io.kubewarden.policy.version":"1.2.3"},"mutating":true,"backgroundAudit":true,"executionMode":"kubewarden-wapc","policyType":"kubernetes","contextAwareResources":[{"apiVersion":"apps/v1","kind":"DaemonSet"},{"apiVersion":"v1","kind":"PersistentVolumeClaim"}],"hostCapabilities":["kubernetes/get_resource"],"minimumKubewardenVersion":"1.33.0"}"##
        );
        let absent = serde_json::to_value(Metadata::parse(MINIMAL, None).unwrap()).unwrap();
        assert_eq!(absent["contextAwareResources"], json!([]));
        assert_eq!(absent.get("hostCapabilities"), None);
    }

    #[test]
    fn problems_name_their_field() {
        for (from, to, problem) in [
            ("mutating: true", "mutating: yes please", "mutating"),
            ("mutating: true", "mutating: true\nhostCapability: []", "hostCapability"),
            ("mutating: true", "mutating: true\nexecutionMode: opa", "executionMode"),
            ("mutating: true", "mutating: true\nminimumKubewardenVersion: 1.33", "minimumKubewardenVersion"),
            ("operations: [CREATE]", "operations: [CREATE, '*']", "rules[0]: operations"),
            ("operations: [CREATE]", "operations: [Create]", "rules[0]: operations"),
            ("resources: [pods]", "resources: []", "rules[0]: resources"),
            ("version: 1.2.3", "version: v1.2.3", "policy.version"),
            ("version: 1.2.3", "title: x", "policy.version"),
        ] {
            let yaml = MINIMAL.replace(from, to);
            assert_ne!(yaml, MINIMAL, "{from}");
            let error = format!("{:#}", Metadata::parse(&yaml, None).expect_err(to));
            assert!(error.contains(problem), "{to}: {error}");
        }
    }
    #[test]
    fn comments_do_not_get_into_the_usage() {
        for (markdown, expected) in [
            ("a\n\n<!-- run -->\n```sh\nb\n```\n", "a\n\n```sh\nb\n```\n"),
            ("  <!-- several\nlines\n-->\na", "a"),
            ("<!-- x --> a\nb <!-- c -->\n", " a\nb <!-- c -->\n"),
            ("```html\n<!-- code -->\n```\n<!-- x -->\n", "```html\n<!-- code -->\n```\n"),
            ("~~~~\n~~~\n<!-- code -->\n~~~~~\n<!-- x -->", "~~~~\n~~~\n<!-- code -->\n~~~~~\n"),
            ("- a\n  ```\n  <!-- code -->\n  ```\n  <!-- x -->\n", "- a\n  ```\n  <!-- code -->\n  ```\n"),
            ("    <!-- code -->\n", "    <!-- code -->\n"),
            ("a\n<!-- no end\nb\n", "a\n"),
        ] {
            assert_eq!(without_comments(markdown), expected, "{markdown}");
            let metadata = Metadata::parse(MINIMAL, Some(markdown)).unwrap();
            assert_eq!(metadata.annotations[USAGE], expected);
        }
    }
}
