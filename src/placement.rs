//! Where does the Pod go? A table, read from the top: the first row that holds answers.
//!
//! Placement is decided from what the Pod (and, by setting, its namespace) says at admission. Other webhooks
//! may add to it later and the scheduler has the last word: where a marker leaves the choice to the scheduler,
//! the answer is [`Placement::Undecidable`], because a Pod with a FUSE device limit can run nowhere but on a
//! serverless node. What moves Pods after admission (virtual-kubelet-autoscaler, ResourcePolicy, the label
//! that ack-virtual-node adds) cannot be seen here at all. This module does not know what happens with an
//! answer ([`crate::review`]).

use std::fmt;

use serde_json::Value;

use crate::destination::Destination;
use crate::json::elements;
use crate::request::{Entries, PodGlance};
use crate::settings::Settings;

/// The answer, with the marker that gave it (`label alibabacloud.com/eci=true`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Placement {
    /// The Pod goes to a serverless node.
    Serverless(Destination, String),
    /// It may or may not, or goes to a platform that no destination is known for.
    Undecidable(String),
    /// It does not, or nothing says so.
    NotServerless(String),
}

/// What a row looks at.
#[derive(Clone, Copy, Debug)]
enum Marker {
    /// A label of the Pod; an empty value: any.
    Label(&'static str, &'static str),
    /// A label of the Pod's namespace; rows of this kind are read by the setting `namespaceLabels: read`.
    NamespaceLabel(&'static str, &'static str),
    Annotation(&'static str, &'static str),
    NodeSelector(&'static str, &'static str),
    /// The node's name matches one of the patterns, `*` being a wildcard.
    NodeName(&'static [&'static str]),
    /// Each of the required node selector terms wants the label.
    RequiredAffinity(&'static str, &'static str),
    /// A required term excludes the label, so no virtual node is left.
    ExcludedAffinity(&'static str, &'static str),
    /// A required or preferred term mentions the label, but others do not.
    SomeAffinity(&'static str, &'static str),
    /// A toleration names the taint; one that tolerates everything says nothing.
    Toleration(&'static str),
    /// Fluid's labels: inject, and for an unprivileged sidecar a label or an annotation.
    Fluid {
        unprivileged: bool,
    },
}

#[derive(Clone, Copy, Debug)]
enum Answer {
    To(Destination),
    /// The scheduler decides.
    Undecidable,
    /// A platform whose FUSE support this policy does not know.
    Unknown(&'static str),
    NotServerless,
}

use Answer::{NotServerless, To, Undecidable, Unknown};
use Destination::{Acs, Eci, Kubernetes};
use Marker::*;

/// Nodes of ACK's virtual-kubelet, and of VNodes in self-managed clusters (`<region>.vnd-…`).
const VIRTUAL_NODES: &[&str] = &["virtual-kubelet-*", "virtual-node-*", "*.vnd-*"];

/// The truth table, in order of precedence. The Pod's label overrides node selectors and affinity, as Alibaba
/// Cloud documents ("Comparison of virtual node scheduling solutions"); what leaves a choice comes last.
const ROWS: &[(Marker, Answer)] = &[
    (Label("alibabacloud.com/fluid-sidecar-target", "eci"), To(Eci)),
    (Label("alibabacloud.com/fluid-sidecar-target", "acs"), To(Acs)),
    (Label("alibabacloud.com/eci", "true"), To(Eci)),
    (Label("eci", "true"), To(Eci)),
    (Label("alibabacloud.com/acs", "true"), To(Acs)),
    (Label("alibabacloud.com/compute-class", ""), To(Acs)),
    (Fluid { unprivileged: true }, To(Eci)),
    (Fluid { unprivileged: false }, To(Kubernetes)),
    (NodeName(VIRTUAL_NODES), To(Eci)),
    (NodeName(&["?*"]), NotServerless),
    (NodeSelector("type", "virtual-kubelet"), To(Eci)),
    (NodeSelector("k8s.aliyun.com/vnode", "true"), To(Eci)),
    (RequiredAffinity("type", "virtual-kubelet"), To(Eci)),
    (RequiredAffinity("k8s.aliyun.com/vnode", "true"), To(Eci)),
    (ExcludedAffinity("type", "virtual-kubelet"), NotServerless),
    (Annotation("alibabacloud.com/burst-resource", "eci_only"), To(Eci)),
    (NamespaceLabel("alibabacloud.com/eci", "true"), To(Eci)),
    (NamespaceLabel("eci", "true"), To(Eci)),
    (NamespaceLabel("virtual-node-affinity-injection", "enabled"), To(Eci)),
    (Annotation("vke.volcengine.com/burst-to-vci", "enforce"), Unknown("Volcengine VCI")),
    (Label("virtual-kubelet.io/burst-to-cci", "enforce"), Unknown("Huawei CCI")),
    (Label("bursting.cci.io/burst-to-cci", "enforce"), Unknown("Huawei CCI")),
    (NodeSelector("node.kubernetes.io/instance-type", "eklet"), Unknown("Tencent super nodes")),
    (Annotation("alibabacloud.com/burst-resource", "eci"), Undecidable),
    (SomeAffinity("type", "virtual-kubelet"), Undecidable),
    (SomeAffinity("k8s.aliyun.com/vnode", "true"), Undecidable),
    (Toleration("virtual-kubelet.io/provider"), Undecidable),
    (Toleration("k8s.aliyun.com/vnode"), Undecidable),
];

/// The table as documentation: marker and answer of each row, in order.
pub fn table() -> impl Iterator<Item = (String, String)> {
    ROWS.iter().map(|(marker, answer)| {
        let answer = match answer {
            To(destination) => format!("`{}`", destination.name()),
            Undecidable => "undecidable".into(),
            Unknown(platform) => format!("undecidable: {platform} has no destination of its own"),
            NotServerless => "not serverless".into(),
        };
        (marker.to_string(), answer)
    })
}

/// Answers for one Pod. First come the settings: a `destination` for every Pod (for clusters where each goes to
/// a serverless node, or a policy bound to chosen namespaces), then the administrator's `selectors`, then the
/// table. `namespace_labels` is asked only by rows that need it and when the settings say so.
pub fn decide(
    pod: &PodGlance<'_>,
    settings: &Settings,
    namespace_labels: &dyn Fn() -> Result<Entries, Error>,
) -> Result<Placement, Error> {
    if let Some(destination) = settings.destination {
        let marker = format!("setting destination: {}", destination.name());
        return Ok(Placement::Serverless(destination, marker));
    }
    let mut subject = Subject {
        labels: &pod.labels,
        annotations: &pod.annotations,
        node_selector: pod.node_selector()?,
        node_name: pod.node_name()?,
        affinity: pod.affinity()?,
        tolerations: pod.tolerations()?,
        namespace_labels: None,
    };
    for (index, selector) in settings.selectors.iter().enumerate() {
        if !selector.matches_pod(subject.labels) {
            continue;
        }
        if selector.namespace_labels.is_empty()
            || selector.matches_namespace(subject.read_namespace(namespace_labels)?)
        {
            return Ok(Placement::Serverless(selector.destination, format!("setting selectors[{index}]")));
        }
    }
    for (marker, answer) in ROWS {
        if let NamespaceLabel(..) = marker {
            if !settings.read_namespace_labels {
                continue;
            }
            subject.read_namespace(namespace_labels)?;
        }
        if subject.has(*marker) {
            let marker = marker.to_string().replace('`', "");
            return Ok(match answer {
                To(destination) => Placement::Serverless(*destination, marker),
                Undecidable => Placement::Undecidable(format!("the scheduler decides ({marker})")),
                Unknown(platform) => Placement::Undecidable(format!(
                    "it goes to {platform} ({marker}), which no destination is built in for; map it with the \
                     setting selectors"
                )),
                NotServerless => {
                    Placement::NotServerless(format!("the Pod goes to an ordinary node ({marker})"))
                }
            });
        }
    }
    Ok(Placement::NotServerless("nothing says that the Pod goes to a serverless node".into()))
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// A field of the Pod cannot be read.
    Malformed(String),
    /// The namespace cannot be read.
    Unresolved(String),
}

impl From<String> for Error {
    fn from(text: String) -> Error {
        Error::Malformed(text)
    }
}

struct Subject<'p> {
    labels: &'p Entries,
    annotations: &'p Entries,
    node_selector: Entries,
    node_name: String,
    affinity: Value,
    tolerations: Value,
    namespace_labels: Option<Entries>,
}

impl Subject<'_> {
    /// The labels of the namespace, read once and only when they are needed.
    fn read_namespace(&mut self, read: &dyn Fn() -> Result<Entries, Error>) -> Result<&Entries, Error> {
        if self.namespace_labels.is_none() {
            self.namespace_labels = Some(read()?);
        }
        Ok(self.namespace_labels.get_or_insert_default())
    }

    fn has(&self, marker: Marker) -> bool {
        let is = |entries: &Entries, key: &str, value: &str| {
            entries.get(key).is_some_and(|found| value.is_empty() || found == value)
        };
        match marker {
            Label(key, value) => is(self.labels, key, value),
            NamespaceLabel(key, value) => {
                self.namespace_labels.as_ref().is_some_and(|labels| is(labels, key, value))
            }
            Annotation(key, value) => is(self.annotations, key, value),
            NodeSelector(key, value) => is(&self.node_selector, key, value),
            NodeName(patterns) => {
                patterns.iter().any(|pattern| wildmatch::WildMatch::new(pattern).matches(&self.node_name))
            }
            RequiredAffinity(key, value) => {
                let terms = self.required_terms();
                let only = |values: &[Value]| values.iter().all(|found| found == value);
                !terms.is_empty() && terms.iter().all(|term| wants(term, "In", key, only))
            }
            ExcludedAffinity(key, value) => {
                let terms = self.required_terms();
                !terms.is_empty() && terms.iter().all(|term| wants(term, "NotIn", key, among(value)))
            }
            SomeAffinity(key, value) => {
                let preferred = elements(
                    self.affinity.pointer("/nodeAffinity/preferredDuringSchedulingIgnoredDuringExecution"),
                );
                let preferences = preferred.iter().filter_map(|term| term.get("preference"));
                self.required_terms()
                    .iter()
                    .chain(preferences)
                    .any(|term| wants(term, "In", key, among(value)))
            }
            Toleration(key) => elements(Some(&self.tolerations))
                .iter()
                .any(|toleration| toleration.get("key").and_then(Value::as_str) == Some(key)),
            Fluid { unprivileged } => {
                let inject = ["serverless.fluid.io/inject", "fuse.sidecar.fluid.io/inject"];
                inject.iter().any(|key| is(self.labels, key, "true"))
                    && unprivileged
                        == (is(self.labels, "unprivileged.sidecar.fluid.io/inject", "true")
                            || is(self.annotations, "serverless.fluid.io/platform", "unprivileged"))
            }
        }
    }

    fn required_terms(&self) -> &[Value] {
        elements(
            self.affinity
                .pointer("/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms"),
        )
    }
}

/// Whether a node selector term has an expression with this operator, whose values are as wanted.
fn wants(term: &Value, operator: &str, key: &str, values: impl Fn(&[Value]) -> bool) -> bool {
    elements(term.pointer("/matchExpressions")).iter().any(|expression| {
        let found = elements(expression.pointer("/values"));
        expression.get("key").and_then(Value::as_str) == Some(key)
            && expression.get("operator").and_then(Value::as_str) == Some(operator)
            && !found.is_empty()
            && values(found)
    })
}

fn among(value: &str) -> impl Fn(&[Value]) -> bool + '_ {
    move |values| values.iter().any(|found| found == value)
}

impl fmt::Display for Marker {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut entry = |what: &str, key: &str, value: &str| match value {
            "" => write!(formatter, "{what} `{key}`"),
            _ => write!(formatter, "{what} `{key}={value}`"),
        };
        match self {
            Label(key, value) => entry("label", key, value),
            NamespaceLabel(key, value) => entry("namespace label", key, value),
            Annotation(key, value) => entry("annotation", key, value),
            NodeSelector(key, value) => entry("nodeSelector", key, value),
            NodeName(["?*"]) => formatter.write_str("any other `spec.nodeName`"),
            NodeName(patterns) => write!(formatter, "nodeName `{}`", patterns.join("`, `")),
            RequiredAffinity(key, value) => entry("required node affinity to", key, value),
            ExcludedAffinity(key, value) => entry("required node affinity away from", key, value),
            SomeAffinity(key, value) => entry("preferred or alternative node affinity to", key, value),
            Toleration(key) => entry("toleration of", key, ""),
            Fluid { unprivileged: true } => formatter.write_str(
                "label `serverless.fluid.io/inject=true` (or `fuse.sidecar.fluid.io/inject=true`) with label \
                 `unprivileged.sidecar.fluid.io/inject=true` or annotation \
                 `serverless.fluid.io/platform=unprivileged`",
            ),
            Fluid { unprivileged: false } => formatter
                .write_str("label `serverless.fluid.io/inject=true` or `fuse.sidecar.fluid.io/inject=true`"),
        }
    }
}
