//! Where does the Pod go? A table, read from the top: the first row that holds answers.
//!
//! Placement is decided from what the Pod says of itself at admission. Other webhooks may add to it later and
//! the scheduler has the last word: where a marker leaves the choice to the scheduler, the answer is
//! [`Placement::Undecidable`], because a Pod with a FUSE device limit can run nowhere but on a serverless
//! node. This module does not know what happens then ([`crate::review`]).

use crate::destination::Destination;
use crate::request::PodGlance;
use crate::settings::Settings;

/// The answer, with the marker that gave it (`label alibabacloud.com/eci=true`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Placement {
    /// The Pod goes to a serverless node.
    Serverless(Destination, String),
    /// It may or may not.
    Undecidable(String),
    /// Nothing says so.
    NotServerless,
}

/// Where a marker stands in the Pod.
#[derive(Clone, Copy, Debug)]
enum Place {
    Label,
    Annotation,
    NodeSelector,
}

impl Place {
    fn name(self) -> &'static str {
        match self {
            Place::Label => "label",
            Place::Annotation => "annotation",
            Place::NodeSelector => "nodeSelector",
        }
    }
}

/// `None`: undecidable.
type Answer = Option<Destination>;

const ECI: Answer = Some(Destination::Eci);
const ACS: Answer = Some(Destination::Acs);
const UNDECIDABLE: Answer = None;

/// The truth table, in order of precedence. Alibaba Cloud documents that the Pod's label overrides node
/// selectors and the burst annotation ("Comparison of virtual node scheduling solutions").
const MARKERS: &[(Place, &str, &str, Answer)] = &[
    (Place::Label, "alibabacloud.com/fluid-sidecar-target", "eci", ECI),
    (Place::Label, "alibabacloud.com/fluid-sidecar-target", "acs", ACS),
    (Place::Label, "alibabacloud.com/eci", "true", ECI),
    (Place::Label, "eci", "true", ECI),
    (Place::Label, "alibabacloud.com/acs", "true", ACS),
    (Place::NodeSelector, "type", "virtual-kubelet", ECI),
    (Place::Annotation, "alibabacloud.com/burst-resource", "eci_only", ECI),
    (Place::Annotation, "alibabacloud.com/burst-resource", "eci", UNDECIDABLE),
];

/// Answers for one Pod. A `destination` in the settings (for clusters where every Pod is serverless, or a
/// policy bound to chosen namespaces) overrides the table.
pub fn decide(pod: &PodGlance, settings: &Settings) -> Placement {
    if let Some(destination) = settings.destination {
        return Placement::Serverless(destination, format!("setting destination: {}", destination.name()));
    }
    for (place, key, value, answer) in MARKERS {
        let entries = match place {
            Place::Label => &pod.metadata.labels,
            Place::Annotation => &pod.metadata.annotations,
            Place::NodeSelector => &pod.spec.node_selector,
        };
        if entries.as_ref().and_then(|entries| entries.get(*key)).is_some_and(|found| found == value) {
            let marker = format!("{} {key}={value}", place.name());
            return match answer {
                Some(destination) => Placement::Serverless(*destination, marker),
                None => Placement::Undecidable(marker),
            };
        }
    }
    Placement::NotServerless
}
