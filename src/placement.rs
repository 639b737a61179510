//! Where does the Pod go?
//!
//! Placement is decided from what the Pod (and, by setting, its namespace) says at admission: a table of markers,
//! read from the top; the first row that holds answers. Other webhooks may add to the Pod later and the scheduler has
//! the last word: where a marker leaves the choice to the scheduler, the answer is [`Placement::Undecidable`], because
//! a Pod with a FUSE device limit can run nowhere but on a serverless node. What moves Pods after admission
//! (virtual-kubelet-autoscaler, ResourcePolicy, the label that ack-virtual-node adds) cannot be seen here at all. This
//! module does not know what happens with an answer ([`crate::review`]).

use std::cell::OnceCell;

use fluid_sidecar_layout::{Named as _, named};
use serde_json::Value;

use crate::destination::{Destination, VIRTUAL_NODES};
use crate::marker::{Marker, Subject};
use crate::reason::{Because as _, Code, Reason};
use crate::request::{PodGlance, Texts};
use crate::settings::{NamespaceLabels, Settings};

/// The answer, with the marker that gave it (`label alibabacloud.com/eci=true`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Placement {
    /// The Pod goes to a serverless node.
    Serverless(Destination, String),
    /// It may or may not, or goes to a platform that no destination is known for; and what makes it certain.
    Undecidable(String, String),
    /// It does not, or nothing says so.
    NotServerless(String),
}

named! {
    /// Platforms whose FUSE support this policy does not know, with what sends a Pod there.
    enum Platform: &'static [Marker] {
        /// Volcengine Container Instance.
        VolcengineVci = "Volcengine VCI" => &[Marker::Annotation("vke.volcengine.com/burst-to-vci", "enforce")],
        /// Huawei Cloud Container Instance.
        HuaweiCci = "Huawei CCI" => &[
            Marker::Label("virtual-kubelet.io/burst-to-cci", "enforce"),
            Marker::Label("bursting.cci.io/burst-to-cci", "enforce"),
        ],
        /// Tencent Elastic Kubernetes Service.
        TencentEks = "Tencent super nodes" => &[Marker::NodeSelector("node.kubernetes.io/instance-type", "eklet")],
    }
}

/// What names an ordinary node.
const ORDINARY: &[Marker] =
    &[Marker::OtherNodeName(VIRTUAL_NODES), Marker::ExcludedAffinity("type", "virtual-kubelet")];

/// What asks for a sidecar there, and for which.
const ASKED_ON_ORDINARY_NODES: &(Marker, Destination) =
    &(Marker::Fluid { unprivileged: false }, Destination::Kubernetes);

#[derive(Clone, Copy, Debug)]
enum Answer {
    To(Destination),
    Ordinary,
    /// No destination is known for the platform.
    Other(Platform),
    /// The scheduler decides.
    Possible,
}

use Answer::{Ordinary, Other, Possible, To};

/// The marker and the answer of each row, unordered but for rows of one [`rank`].
fn rows() -> impl Iterator<Item = (&'static Marker, Answer)> {
    let to = |destination: &Destination| {
        let destination = *destination;
        destination.facts().markers.iter().map(move |marker| (marker, To(destination)))
    };
    let other = |platform: &Platform| {
        let platform = *platform;
        platform.facts().iter().map(move |marker| (marker, Other(platform)))
    };
    let possible =
        |destination: &Destination| destination.facts().possible.iter().map(|marker| (marker, Possible));
    let destinations = Destination::ALL.iter();
    (destinations.clone().flat_map(to))
        .chain(ORDINARY.iter().map(|marker| (marker, Ordinary)))
        .chain(Platform::ALL.iter().flat_map(other))
        .chain(destinations.flat_map(possible))
}

const LAST_RANK: usize = 9;

/// How late a row is asked. The Pod's labels override node selectors and affinity, as Alibaba Cloud documents
/// ("Comparison of virtual node scheduling solutions"). Fluid's labels say whether there is to be a sidecar: where the Pod
/// goes they say only if nothing else does. What leaves a choice comes last.
fn rank(marker: &Marker, answer: Answer) -> usize {
    match (answer, marker) {
        (Possible, _) => LAST_RANK,
        (Other(_), _) => 7,
        (_, Marker::SidecarTarget(_)) => 0,
        (_, Marker::Label(..)) => 1,
        (_, Marker::NodeName(_) | Marker::OtherNodeName(_)) => 2,
        (_, Marker::NodeSelector(..)) => 3,
        (_, Marker::RequiredAffinity(..) | Marker::ExcludedAffinity(..)) => 4,
        (_, Marker::Annotation(..)) => 5,
        (_, Marker::NamespaceLabel(..)) => 6,
        (_, Marker::Fluid { .. }) => 8,
        (_, Marker::SomeNodeName(_) | Marker::SomeAffinity(..) | Marker::Toleration(_)) => LAST_RANK,
    }
}

/// The rows in order of precedence.
fn ordered_rows() -> impl Iterator<Item = (&'static Marker, Answer)> {
    (0..=LAST_RANK).flat_map(|wanted| rows().filter(move |(marker, answer)| rank(marker, *answer) == wanted))
}

/// The table as documentation: marker and answer of each row, in order.
pub fn table() -> impl Iterator<Item = (String, String)> {
    ordered_rows().map(|(marker, answer)| {
        let answer = match answer {
            To(destination) => format!("`{destination}`"),
            Possible => "undecidable".into(),
            Other(platform) => format!("undecidable: {platform} has no destination of its own"),
            Ordinary => {
                format!("not serverless; with Fluid's label of `{}` below, that", ASKED_ON_ORDINARY_NODES.1)
            }
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
    namespace_labels: impl Fn() -> Result<Value, Reason>,
) -> Result<Placement, Reason> {
    if let Some(destination) = settings.destination {
        let marker = format!("setting destination: {destination}");
        return Ok(Placement::Serverless(destination, marker));
    }
    let mut subject = Subject::of(pod).because(Code::Malformed)?;
    // Read once, and only when it is needed.
    let read = OnceCell::new();
    let read_namespace = || -> Result<Option<Texts<'_>>, Reason> {
        let labels = match read.get() {
            Some(labels) => labels,
            None => {
                let labels = namespace_labels()?;
                read.get_or_init(|| labels)
            }
        };
        Ok(Texts::of(labels))
    };
    for (index, selector) in settings.selectors.iter().enumerate() {
        if !subject.labels.contain(&selector.pod_labels) {
            continue;
        }
        if !selector.namespace_labels.is_empty() {
            subject.namespace_labels = read_namespace()?;
        }
        if subject.namespace_labels.is_none_or(|labels| labels.contain(&selector.namespace_labels)) {
            return Ok(Placement::Serverless(selector.destination, format!("setting selectors[{index}]")));
        }
    }
    let mut not_enabled = None;
    for (mut marker, mut answer) in ordered_rows() {
        if let Marker::NamespaceLabel(..) = marker {
            if settings.namespace_labels == NamespaceLabels::Ignore {
                continue;
            }
            subject.namespace_labels = read_namespace()?;
        }
        if !subject.has(marker) {
            continue;
        }
        let also = matches!(answer, Ordinary).then_some(ASKED_ON_ORDINARY_NODES);
        if let Some((asked, destination)) = also.filter(|(asked, _)| subject.has(asked)) {
            (marker, answer) = (asked, To(*destination));
        }
        let fluids = matches!(marker, Marker::Fluid { .. });
        let marker = marker.plain();
        return Ok(match answer {
            To(destination) if settings.enables(destination) => Placement::Serverless(destination, marker),
            To(destination) => {
                let asks = format!(
                    "{marker} asks for {destination}, which the setting destinations does not enable"
                );
                // Fluid's labels ask for a sidecar; that the scheduler may choose is still to be said.
                if fluids && also.is_none() {
                    not_enabled = Some(asks);
                    continue;
                }
                Placement::NotServerless(asks)
            }
            Possible => Placement::Undecidable(
                format!("the scheduler decides ({marker})"),
                "the label alibabacloud.com/eci=true makes it certain".into(),
            ),
            Other(platform) => Placement::Undecidable(
                format!("it goes to {platform} ({marker}), which no destination is built in for"),
                "map it with the setting selectors".into(),
            ),
            Ordinary => Placement::NotServerless(format!("the Pod goes to an ordinary node ({marker})")),
        });
    }
    let nothing = || "nothing says that the Pod goes to a serverless node".into();
    Ok(Placement::NotServerless(not_enabled.unwrap_or_else(nothing)))
}
