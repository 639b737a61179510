//! The answer to one AdmissionReview: the order of all questions, and what becomes of their answers.
//!
//! [`review`] never fails. What cannot be read is rejected with a sentence that names the field, as long as it
//! could be a Pod with a Dataset; everything else is accepted without a change.

use fluid_sidecar_layout::{Named as _, named};
use kubewarden_policy_sdk::response::ValidationResponse;
use serde_json::Value;

use crate::cluster::{Budget, Cluster};
use crate::destination::Destination;
use crate::injection;
use crate::placement::{self, Placement};
use crate::reason::{Because as _, Code, DECISION_ANNOTATION, REASONS_ANNOTATION, Reason};
use crate::request::{ClaimVolume, Payload, PodGlance};
use crate::settings::{self, Mode, OnProblem, Settings};
use crate::status::Status;
use crate::{asked, dataset, exemption, limits, reason, status, verify};

named! {
    /// What was decided about one request.
    enum Decision {
        /// The object stays as it is.
        Untouched = "untouched",
        /// The Pod was changed.
        Injected = "injected",
        /// The object is refused.
        Rejected = "rejected",
    }
}

/// What is said of the way to a decision.
#[derive(Default)]
struct Log {
    reasons: Vec<Reason>,
    warnings: Vec<String>,
}

impl Log {
    fn note(&mut self, code: Code, text: impl Into<String>) {
        self.reasons.push(Reason::new(code, text));
    }

    fn warn(&mut self, reason: Reason) {
        self.warnings.extend(reason.warnings());
        self.reasons.push(reason);
    }

    /// What the settings make of a problem: the reason of a rejection, or a warning.
    fn problem(&mut self, reaction: OnProblem, reason: Reason) -> Result<Option<Value>, Reason> {
        match reaction {
            OnProblem::Reject => Err(reason),
            OnProblem::Allow => {
                self.warn(reason);
                Ok(None)
            }
        }
    }

    /// The same for a Dataset that cannot be served. What cannot be read is refused whatever the settings say.
    fn unresolved(&mut self, settings: &Settings, reason: Reason) -> Result<Option<Value>, Reason> {
        match reason.code {
            Code::Malformed => Err(reason),
            _ => self.problem(settings.on_unresolved, reason),
        }
    }
}

/// Answers the payload of `validate`. Objects are read from the cluster only for Pods that mount a claim and may go to a
/// serverless node.
pub fn review(payload: &[u8], cluster: &impl Cluster) -> ValidationResponse {
    let mut log = Log::default();
    let outcome = decide(payload, &Budget::of(cluster), &mut log);
    let mut message = None;
    let (decision, mutated_object) = match outcome {
        Ok(None) => (Decision::Untouched, None),
        Ok(Some(pod)) => (Decision::Injected, Some(pod)),
        Err(reason) => {
            message = Some(reason.message());
            log.reasons.push(reason);
            (Decision::Rejected, None)
        }
    };
    let annotations = [
        (DECISION_ANNOTATION, decision.name().to_string()),
        (REASONS_ANNOTATION, reason::lines(&log.reasons)),
    ];
    ValidationResponse {
        accepted: message.is_none(),
        message,
        code: None,
        mutated_object,
        audit_annotations: Some(annotations.map(|(key, text)| (key.to_string(), text)).into()),
        warnings: Some(log.warnings).filter(|warnings| !warnings.is_empty()),
    }
}

/// The changed Pod, or `None` if it stays as it is; an error rejects it.
fn decide(payload: &[u8], cluster: &impl Cluster, log: &mut Log) -> Result<Option<Value>, Reason> {
    // Is a Pod created?
    let payload = Payload::read(payload).because(Code::Malformed)?;
    let Some(pod) = payload.created_pod() else {
        let (operation, kind) = payload.operation();
        log.note(Code::NotAPodCreation, format!("{operation} of {kind}"));
        return Ok(None);
    };
    let pod = pod.because(Code::Malformed)?;
    let namespace = payload.namespace();

    // May it be touched?
    if let Some(reason) = exemption::of(&pod, namespace) {
        log.reasons.push(reason);
        return Ok(None);
    }

    // Has it claims, or had it some?
    let mut claims = pod.claims().because(Code::Malformed)?;
    if !claims.is_empty() && Status::is_on(pod.annotations) {
        drop_own_claims(&payload, &mut claims).because(Code::Malformed)?;
    }
    let no_claims = || Reason::new(Code::NoClaims, "the Pod mounts no PersistentVolumeClaim");
    if let Some(reason) = asked::ignored_configuration(&pod) {
        log.warn(reason);
    }
    if claims.is_empty() && !Status::is_on(pod.annotations) {
        log.reasons.push(no_claims());
        return Ok(None);
    }

    // What did the administrator decide?
    let settings = Settings::parse(payload.settings())
        .map_err(|problems| Reason::new(Code::Malformed, format!("settings: {}", problems.join("; "))))?;

    // Is what was injected still whole?
    if settings.mode == Mode::Verify {
        limits::check_glance(payload.size(), claims.len())?;
        match check_injection(&payload, &settings, cluster) {
            Ok(verified) => log.reasons.extend(verified),
            Err(reason) if reason.code == Code::Unresolved => drop(log.unresolved(&settings, reason)?),
            Err(reason) => return Err(reason),
        }
    }
    if claims.is_empty() {
        log.reasons.push(no_claims());
        return Ok(None);
    }

    // Where does it go?
    let first_dataset = || {
        let names = claims.iter().map(|volume| volume.claim.as_str());
        dataset::first(names, namespace, &settings, cluster).because(Code::Unresolved)
    };
    let namespace_labels = || dataset::namespace_labels(namespace, cluster).because(Code::Unresolved);
    let destination = match placement::decide(&pod, &settings, namespace_labels) {
        Ok(Placement::Serverless(destination, marker)) => {
            log.note(Code::Serverless, format!("the Pod goes to {destination} ({marker})"));
            destination
        }
        Ok(Placement::NotServerless(why)) => {
            log.note(Code::NotServerless, why);
            return Ok(None);
        }
        // Only a Pod with a Dataset has a problem.
        Ok(Placement::Undecidable(why, advice)) => match first_dataset() {
            Ok(Some(_)) => {
                let text = format!("no sidecar: {why}; {advice}");
                return log.problem(settings.on_undecidable, Reason::new(Code::Undecidable, text));
            }
            Ok(None) => {
                log.note(Code::NotServerless, format!("{why}, but no claim is a Dataset's"));
                return Ok(None);
            }
            Err(reason) => return log.unresolved(&settings, reason),
        },
        Err(reason) => return log.unresolved(&settings, reason),
    };

    // Has every Dataset its sidecar?
    if settings.mode == Mode::Verify {
        return match first_dataset() {
            Ok(None) => Ok(None),
            Ok(Some(claim)) => Err(verify::never_injected(claim)),
            Err(reason) => log.unresolved(&settings, reason),
        };
    }

    // Is it of a size that one can look at, and what changes in it?
    let whole = || payload.whole_object().because(Code::Malformed);
    let changed = limits::check_glance(payload.size(), claims.len()).and_then(|()| {
        inject(&payload, &pod, claims, whole, destination, payload.uid(), &settings, cluster, log)
    });
    changed.or_else(|reason| log.unresolved(&settings, reason))
}

/// Leaves out the claims that came with sidecars.
fn drop_own_claims(payload: &Payload<'_>, claims: &mut Vec<ClaimVolume>) -> anyhow::Result<()> {
    // It is said later of a Pod with Datasets that it is too large.
    if limits::check_glance(payload.size(), claims.len()).is_ok() {
        let pod = payload.whole_object()?;
        // What cannot be read says nothing; mode: verify refuses it.
        if let Ok(Some(status)) = Status::of(&pod) {
            let own = status.own_volumes(&pod);
            claims.retain(|claim| !own.contains_key(claim.name.as_str()));
        }
    }
    Ok(())
}

/// With `mode: verify`: injects the Pod anew as it was before, and compares. `None`: nothing was injected.
fn check_injection(
    payload: &Payload<'_>,
    settings: &Settings,
    cluster: &impl Cluster,
) -> Result<Option<Reason>, Reason> {
    let pod = payload.whole_object().because(Code::Malformed)?;
    let Some(status) = Status::of(&pod).because(Code::Malformed)? else { return Ok(None) };
    let destination = verify::destination(&status, settings)?;
    let mut before = pod.clone();
    status::undo(&status, &mut before);
    let glance = PodGlance::new(&before).because(Code::Malformed)?;
    let claims = glance.claims().because(Code::Malformed)?;
    limits::check_glance(payload.size(), claims.len())?;
    let whole = || Ok(before.clone());
    let directory = status.directory.as_str();
    let log = &mut Log::default();
    let expected = inject(payload, &glance, claims, whole, destination, directory, settings, cluster, log);
    verify::compare(&pod, destination, expected, settings).map(Some)
}

/// What becomes of a Pod of which only a glance was taken, and the `whole` of it.
#[allow(clippy::too_many_arguments, reason = "the parts of a Pod and of its request, which differ in verify")]
fn inject(
    payload: &Payload<'_>,
    glance: &PodGlance<'_>,
    claims: Vec<ClaimVolume>,
    whole: impl FnOnce() -> Result<Value, Reason>,
    destination: Destination,
    directory: &str,
    settings: &Settings,
    cluster: &impl Cluster,
    log: &mut Log,
) -> Result<Option<Value>, Reason> {
    // Which claims are Datasets, and what serves them?
    let uses = dataset::uses(claims, payload.namespace(), settings, cluster, &mut log.reasons)?;
    if uses.is_empty() {
        return Ok(None);
    }

    // What does the Pod ask for its sidecars?
    let limits = asked::limits(glance.annotations, settings)?;

    let mut changed = whole()?;
    limits::check_size(&changed)?;
    let status = Status::new(destination, settings::hash(payload.settings()));
    for reason in injection::inject(&mut changed, uses, destination, &limits, settings, directory, status)? {
        match reason.code {
            // The Pod does not start before somebody does something.
            Code::IncompleteReference => log.warn(reason),
            _ => log.reasons.push(reason),
        }
    }
    if let Some(reason) = asked::ignored(glance.annotations) {
        log.warn(reason);
    }
    Ok(Some(changed))
}
