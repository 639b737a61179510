//! Why the policy did what it did: every decision is a [`Reason`].
//!
//! A reason is a code, stable for tools and dashboards, and a sentence for people, which names the object and
//! the fix. Where it is shown depends on what was decided: a rejection's sentence is the message of the
//! rejection; what the user should know although the Pod was admitted is a warning; all of them are written
//! to the audit annotation [`REASONS_ANNOTATION`], one a line.

use std::fmt;

/// The audit annotation (prefixed by the API server with the webhook's name) that says what was done:
/// `injected`, `untouched` or `rejected`.
pub const DECISION_ANNOTATION: &str = "decision";

/// The audit annotation that lists the reasons, one a line, each `<code>: <sentence>`.
pub const REASONS_ANNOTATION: &str = "reasons";

/// Stable names of the reasons.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Code {
    /// Not the creation of a Pod.
    NotAPodCreation,
    /// The Pod asks to be left alone.
    OptedOut,
    /// A Pod that no policy may touch: of the system, of a node's static manifests, of Windows.
    Exempt,
    /// Nothing says that the Pod goes to a serverless node.
    NotServerless,
    /// It depends on the scheduler whether the Pod goes to a serverless node.
    Undecidable,
    /// The Pod goes to a serverless node.
    Serverless,
    /// The Pod mounts no PersistentVolumeClaim.
    NoClaims,
    /// The claim is not a Dataset's.
    OrdinaryClaim,
    /// A Dataset is served by a sidecar.
    Injected,
    /// Something of the Runtime's own sidecar was left out.
    TemplateReduced,
    /// The Pod has more time to end than it asked for.
    GracePeriodRaised,
    /// With `mode: verify`: the injection is whole.
    Verified,
    /// With `mode: verify`: the injection is missing or was damaged.
    Damaged,
    /// What serves the Dataset could not be found.
    Unresolved,
    /// The Pod's use of the Dataset cannot be served by a sidecar.
    Unsupported,
    /// The Pod, the request or the settings cannot be read.
    Malformed,
}

impl Code {
    /// The name as it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Code::NotAPodCreation => "not-a-pod-creation",
            Code::OptedOut => "opted-out",
            Code::Exempt => "exempt",
            Code::NotServerless => "not-serverless",
            Code::Undecidable => "undecidable",
            Code::Serverless => "serverless",
            Code::NoClaims => "no-claims",
            Code::OrdinaryClaim => "ordinary-claim",
            Code::Injected => "injected",
            Code::TemplateReduced => "template-reduced",
            Code::GracePeriodRaised => "grace-period-raised",
            Code::Verified => "verified",
            Code::Damaged => "damaged",
            Code::Unresolved => "unresolved",
            Code::Unsupported => "unsupported",
            Code::Malformed => "malformed",
        }
    }
}

/// One decision and its ground.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    /// The stable name.
    pub code: Code,
    /// One line for people. Never holds a secret: texts from the cluster are names, never values.
    pub text: String,
}

impl Reason {
    /// A reason; line breaks in the text (of an error that was quoted) become spaces.
    pub fn new(code: Code, text: impl Into<String>) -> Self {
        let text: String = text.into();
        Reason { code, text: text.split_whitespace().collect::<Vec<_>>().join(" ") }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.code.as_str(), self.text)
    }
}
