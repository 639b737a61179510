//! What on a Pod says where it goes.
//!
//! A marker is one thing that can stand on a Pod or on its namespace. Which destination it stands for is said by
//! [`crate::destination`], which of several counts by [`crate::placement`].

use std::fmt;

use anyhow::Result;
use serde_json::Value;
use wildmatch::WildMatch;

use crate::json::{at, elements, text};
use crate::request::{PodGlance, Texts};

/// One thing that a Pod, or its namespace, can have.
#[derive(Clone, Copy, Debug)]
pub enum Marker {
    /// Fluid's label that names the target of the sidecar.
    SidecarTarget(&'static str),
    /// A label of the Pod; an empty value: any.
    Label(&'static str, &'static str),
    /// Fluid's labels: inject, and for an unprivileged sidecar a label or an annotation.
    Fluid {
        /// Whether the sidecar is to be unprivileged.
        unprivileged: bool,
    },
    /// The Pod names its node, or several, and each name matches one of the patterns, `*` being a wildcard.
    NodeName(&'static [&'static str]),
    /// Some of the nodes that it names match.
    SomeNodeName(&'static [&'static str]),
    /// It names nodes, and none of them matches.
    OtherNodeName(&'static [&'static str]),
    /// An entry of the node selector.
    NodeSelector(&'static str, &'static str),
    /// Each of the required node selector terms wants the label.
    RequiredAffinity(&'static str, &'static str),
    /// Each of the required terms excludes the label, so no such node is left.
    ExcludedAffinity(&'static str, &'static str),
    /// An annotation of the Pod.
    Annotation(&'static str, &'static str),
    /// A label of the Pod's namespace; asked with the setting `namespaceLabels: read`.
    NamespaceLabel(&'static str, &'static str),
    /// A required or preferred term mentions the label, but others do not.
    SomeAffinity(&'static str, &'static str),
    /// A toleration names the taint; one that tolerates everything says nothing.
    Toleration(&'static str),
}

use Marker::*;

/// The label of [`Marker::SidecarTarget`].
const SIDECAR_TARGET: &str = "alibabacloud.com/fluid-sidecar-target";

/// What markers are looked for on.
pub struct Subject<'p> {
    /// `metadata.labels`.
    pub labels: Texts<'p>,
    /// `metadata.annotations`.
    pub annotations: Texts<'p>,
    /// `spec.nodeSelector`.
    pub node_selector: Texts<'p>,
    /// `spec.nodeName`, empty when absent.
    pub node_name: &'p str,
    /// `spec.affinity`.
    pub affinity: &'p Value,
    /// `spec.tolerations`.
    pub tolerations: &'p Value,
    /// The labels of the namespace, when they were read.
    pub namespace_labels: Option<Texts<'p>>,
}

/// The label of a node that is its name.
const HOSTNAME: &str = "kubernetes.io/hostname";

impl<'p> Subject<'p> {
    /// What a Pod says by itself.
    pub fn of(pod: &PodGlance<'p>) -> Result<Self> {
        Ok(Subject {
            labels: pod.labels,
            annotations: pod.annotations,
            node_selector: pod.node_selector()?,
            node_name: pod.node_name()?,
            affinity: pod.affinity(),
            tolerations: pod.tolerations(),
            namespace_labels: None,
        })
    }

    /// The names of the nodes that it can go to, by any of the fields that name nodes; none where it leaves the choice.
    fn node_names(&self) -> Vec<&'p str> {
        if !self.node_name.is_empty() {
            return vec![self.node_name];
        }
        if let Some(name) = self.node_selector.get(HOSTNAME) {
            return vec![name];
        }
        let mut names = Vec::new();
        for term in self.required_terms() {
            let by_label = values(term, "matchExpressions", "In", HOSTNAME);
            let Some(named) = by_label.or(values(term, "matchFields", "In", "metadata.name")) else {
                return Vec::new();
            };
            names.extend(named.iter().filter_map(Value::as_str));
        }
        names
    }

    /// Whether it has the marker.
    pub fn has(&self, marker: &Marker) -> bool {
        let is = |texts: Texts<'_>, key: &str, value: &str| {
            texts.get(key).is_some_and(|found| value.is_empty() || found == value)
        };
        match *marker {
            SidecarTarget(target) => is(self.labels, SIDECAR_TARGET, target),
            Label(key, value) => is(self.labels, key, value),
            Fluid { unprivileged } => {
                let inject = ["serverless.fluid.io/inject", "fuse.sidecar.fluid.io/inject"];
                inject.iter().any(|key| is(self.labels, key, "true"))
                    && unprivileged
                        == (is(self.labels, "unprivileged.sidecar.fluid.io/inject", "true")
                            || is(self.annotations, "serverless.fluid.io/platform", "unprivileged"))
            }
            NodeName(patterns) => {
                let names = self.node_names();
                !names.is_empty() && names.iter().all(|name| matches(patterns, name))
            }
            SomeNodeName(patterns) => self.node_names().iter().any(|name| matches(patterns, name)),
            OtherNodeName(patterns) => {
                let names = self.node_names();
                !names.is_empty() && !names.iter().any(|name| matches(patterns, name))
            }
            NodeSelector(key, value) => is(self.node_selector, key, value),
            RequiredAffinity(key, value) => {
                let terms = self.required_terms();
                let only = |values: &[Value]| values.iter().all(|found| found == value);
                !terms.is_empty() && terms.iter().all(|term| wants(term, "In", key, only))
            }
            ExcludedAffinity(key, value) => {
                let terms = self.required_terms();
                !terms.is_empty() && terms.iter().all(|term| wants(term, "NotIn", key, among(value)))
            }
            Annotation(key, value) => is(self.annotations, key, value),
            NamespaceLabel(key, value) => self.namespace_labels.is_some_and(|labels| is(labels, key, value)),
            SomeAffinity(key, value) => {
                let path = ["nodeAffinity", "preferredDuringSchedulingIgnoredDuringExecution"];
                let preferred = elements(Some(at(self.affinity, &path))).iter();
                let preferences = preferred.filter_map(|term| term.get("preference"));
                self.required_terms()
                    .iter()
                    .chain(preferences)
                    .any(|term| wants(term, "In", key, among(value)))
            }
            Toleration(key) => {
                elements(Some(self.tolerations)).iter().any(|toleration| text(toleration, "key") == Some(key))
            }
        }
    }

    fn required_terms(&self) -> &'p [Value] {
        let required =
            ["nodeAffinity", "requiredDuringSchedulingIgnoredDuringExecution", "nodeSelectorTerms"];
        elements(Some(at(self.affinity, &required)))
    }
}

/// Whether a text matches one of the patterns.
pub(crate) fn matches(patterns: &[impl AsRef<str>], text: &str) -> bool {
    patterns.iter().any(|pattern| WildMatch::new(pattern.as_ref()).matches(text))
}

/// The values that the expressions of a node selector term, labels or fields, want of a key by an operator.
fn values<'v>(term: &'v Value, list: &str, operator: &str, key: &str) -> Option<&'v [Value]> {
    elements(term.get(list)).iter().find_map(|expression| {
        let found = elements(expression.get("values"));
        let is_asked = text(expression, "key") == Some(key) && text(expression, "operator") == Some(operator);
        (is_asked && !found.is_empty()).then_some(found)
    })
}

/// Whether a term wants of a label values that are as said.
fn wants(term: &Value, operator: &str, key: &str, as_said: impl Fn(&[Value]) -> bool) -> bool {
    values(term, "matchExpressions", operator, key).is_some_and(as_said)
}

fn among(value: &str) -> impl Fn(&[Value]) -> bool + '_ {
    move |values| values.iter().any(|found| found == value)
}

impl Marker {
    /// The marker as a sentence has it.
    pub fn plain(&self) -> String {
        self.to_string().replace('`', "")
    }
}

/// As documents have it.
impl fmt::Display for Marker {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut entry = |what: &str, key: &str, value: &str| match value {
            "" => write!(formatter, "{what} `{key}`"),
            _ => write!(formatter, "{what} `{key}={value}`"),
        };
        match self {
            SidecarTarget(target) => entry("label", SIDECAR_TARGET, target),
            Label(key, value) => entry("label", key, value),
            Fluid { unprivileged: true } => formatter.write_str(
                "label `serverless.fluid.io/inject=true` (or `fuse.sidecar.fluid.io/inject=true`) with label \
                 `unprivileged.sidecar.fluid.io/inject=true` or annotation \
                 `serverless.fluid.io/platform=unprivileged`",
            ),
            Fluid { unprivileged: false } => formatter
                .write_str("label `serverless.fluid.io/inject=true` or `fuse.sidecar.fluid.io/inject=true`"),
            NodeName(patterns) => write!(formatter, "node name `{}`", patterns.join("`, `")),
            SomeNodeName(_) => formatter.write_str("several node names, some of them such"),
            OtherNodeName(_) => formatter.write_str("any other node name"),
            NodeSelector(key, value) => entry("nodeSelector", key, value),
            RequiredAffinity(key, value) => entry("required node affinity to", key, value),
            ExcludedAffinity(key, value) => entry("required node affinity away from", key, value),
            Annotation(key, value) => entry("annotation", key, value),
            NamespaceLabel(key, value) => entry("namespace label", key, value),
            SomeAffinity(key, value) => entry("preferred or alternative node affinity to", key, value),
            Toleration(key) => entry("toleration of", key, ""),
        }
    }
}
