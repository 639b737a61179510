//! Why the policy did what it did: every decision is a [`Reason`].
//!
//! A reason is a code, stable for tools and dashboards, and a sentence for people, which names the object and
//! the fix. Where it is shown depends on what was decided: a rejection's sentence is the message of the
//! rejection; what the user should know although the Pod was admitted is a warning; all of them are written
//! to the audit annotation [`REASONS_ANNOTATION`], one a line.

use fluid_sidecar_layout::{Named as _, named};

/// Begins every message, so that it is known whose it is.
pub const POLICY: &str = "fluid-sidecar-policy";

/// The audit annotation (prefixed by the API server with the webhook's name) that says what was done:
/// `injected`, `untouched` or `rejected`.
pub const DECISION_ANNOTATION: &str = "decision";

/// The audit annotation that lists the reasons, one a line, each `<code>: <sentence>`.
pub const REASONS_ANNOTATION: &str = "reasons";

/// The most bytes of a reason, but for the last character of it.
const TEXT_MAX: usize = 1 << 10;

/// Whether a character changes the direction of those behind it (Unicode's `Bidi_Control`).
fn is_bidirectional(char: char) -> bool {
    matches!(char, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// A text in one line that shows as it is. What is quoted in it others have written: line breaks become spaces, what a
/// terminal would obey is escaped, and what is too long is cut.
pub fn one_line(text: String) -> String {
    let is_plain = |char: char| !char.is_control() && !is_bidirectional(char);
    if text.len() <= TEXT_MAX && text.chars().all(is_plain) {
        return text;
    }
    let mut shown = String::new();
    for char in text.chars() {
        if shown.len() > TEXT_MAX {
            shown.push('…');
            break;
        }
        match char {
            '\n' | '\r' | '\t' | ' ' if shown.ends_with(' ') => {}
            '\n' | '\r' | '\t' => shown.push(' '),
            char if is_plain(char) => shown.push(char),
            char => shown.extend(char.escape_unicode()),
        }
    }
    shown
}

/// The length that Kubernetes advises for a warning; longer ones may be cut.
const WARNING_MAX: usize = 120;

named! {
    /// Stable names of the reasons.
    pub enum Code {
        /// Not the creation of a Pod.
        NotAPodCreation = "not-a-pod-creation",
        /// The Pod asks to be left alone.
        OptedOut = "opted-out",
        /// A Pod that no policy may touch: of the system, of a node's static manifests, of Windows.
        Exempt = "exempt",
        /// The Pod mounts no PersistentVolumeClaim.
        NoClaims = "no-claims",
        /// The Pod goes to an ordinary node, or nothing says otherwise.
        NotServerless = "not-serverless",
        /// The scheduler may or may not choose a serverless node, or none is known for the platform.
        Undecidable = "undecidable",
        /// The Pod goes to a serverless node.
        Serverless = "serverless",
        /// A claim is not a Dataset's.
        OrdinaryClaim = "ordinary-claim",
        /// A Dataset is served by a sidecar.
        Injected = "injected",
        /// The sidecar runs without something that its DaemonSet has.
        TemplateReduced = "template-reduced",
        /// A Dataset refers to one in another namespace, and what the sidecar needs of there must be copied by hand.
        IncompleteReference = "incomplete-reference",
        /// The Pod has more time to end than it asked for.
        GracePeriodRaised = "grace-period-raised",
        /// The sidecar has a request that nobody gave it.
        RequestsAdded = "requests-added",
        /// The Pod is of a lower QoS class than without the sidecar.
        QosLowered = "qos-lowered",
        /// An init container that needs no data of its Dataset sees an empty directory.
        InitWithoutData = "init-without-data",
        /// The sidecar sees the processes of the Pod's containers, and they see each other's.
        ProcessesShared = "processes-shared",
        /// The Pod asks for something of Fluid's that this policy does not do.
        Ignored = "ignored",
        /// With `mode: verify`: the injection is whole.
        Verified = "verified",
        /// With `mode: verify`: the injection is missing or was damaged.
        Damaged = "damaged",
        /// The client of a Dataset, or the labels of the namespace, cannot be found or read.
        Unresolved = "unresolved",
        /// The Pod's use of a Dataset cannot be served by a sidecar.
        Unsupported = "unsupported",
        /// The request, the settings or the Pod cannot be read.
        Malformed = "malformed",
    }
}

/// One decision and its ground.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    /// The stable name.
    pub code: Code,
    /// One line for people. Never holds a secret: of the cluster it has names, the messages of a Dataset's conditions, and
    /// the host's errors.
    pub text: String,
}

impl Reason {
    /// A reason, in one line that shows as it is.
    pub fn new(code: Code, text: impl Into<String>) -> Self {
        Reason { code, text: one_line(text.into()) }
    }

    /// The text as a message of the policy.
    pub fn message(&self) -> String {
        format!("{POLICY}: {}", self.text)
    }

    /// The message as warnings: a long one becomes several, as nothing of it may be lost.
    pub fn warnings(&self) -> Vec<String> {
        let message = self.message();
        let mut lines = vec![String::new()];
        for word in message.split(' ') {
            match lines.last_mut() {
                Some(line) if line.is_empty() => line.push_str(word),
                Some(line) if line.len() + 1 + word.len() <= WARNING_MAX => {
                    line.push(' ');
                    line.push_str(word);
                }
                _ => lines.push(word.to_string()),
            }
        }
        lines
    }
}

/// Reasons as the audit annotation has them: one a line, `<code>: <sentence>`.
pub fn lines(reasons: &[Reason]) -> String {
    let mut lines = String::new();
    for Reason { code, text } in reasons {
        if !lines.is_empty() {
            lines.push('\n');
        }
        lines.extend([code.name(), ": ", text]);
    }
    lines
}

/// Makes a reason of an error that is only shown to people.
pub trait Because<T> {
    /// The error with the code.
    fn because(self, code: Code) -> Result<T, Reason>;
}

impl<T> Because<T> for anyhow::Result<T> {
    fn because(self, code: Code) -> Result<T, Reason> {
        self.map_err(|error| Reason::new(code, format!("{error:#}")))
    }
}
