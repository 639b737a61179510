//! The answer to one AdmissionReview: the order of all questions, and what happens when one has no answer.
//!
//! [`review`] never fails. What cannot be read is rejected with a sentence that names the field, as long as it
//! could be a Pod of ours; what is not ours is accepted without a change.

use serde_json::Value;

use crate::cluster::Host;
use crate::dataset;
use crate::destination::Destination;
use crate::placement::{self, Placement};
use crate::plan::{self, ClaimVolume, Use};
use crate::reason::{Code, DECISION_ANNOTATION, REASONS_ANNOTATION, Reason};
use crate::request::{self, AdmissionRequest, Entries, Payload, PodGlance, Response};
use crate::settings::{Mode, OnProblem, POD_OVERRIDES, Settings, quantity};
use crate::status::Status;
use crate::verify;

/// The length that Kubernetes advises for a warning; longer ones may be cut.
const WARNING_MAX: usize = 120;

/// Has Fluid add a container that reads files into the cache before the application does.
const PREFETCH: &str = "file-prefetcher.fluid.io/inject";

/// What was decided about one request.
enum Decision {
    Untouched,
    Injected(Value),
    Rejected,
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
        self.warnings.push(reason.text.clone());
        self.reasons.push(reason);
    }

    /// What the settings make of a problem: the reason of a rejection, or a warning.
    fn problem(&mut self, reaction: OnProblem, reason: Reason) -> Result<Decision, Reason> {
        match reaction {
            OnProblem::Reject => Err(reason),
            OnProblem::Allow => {
                self.warn(reason);
                Ok(Decision::Untouched)
            }
        }
    }
}

/// Answers the payload of `validate`. Objects of the cluster are read through `host`, and only for Pods that
/// go to a serverless node and mount a claim.
pub fn review(payload: &[u8], host: &dyn Host) -> Response {
    let mut log = Log::default();
    let decision = decide(payload, host, &mut log).unwrap_or_else(|reason| {
        log.reasons.push(reason);
        Decision::Rejected
    });
    let Log { reasons, warnings } = log;
    let name = match &decision {
        Decision::Untouched => "untouched",
        Decision::Injected(_) => "injected",
        Decision::Rejected => "rejected",
    };
    let message = match &decision {
        Decision::Rejected => reasons.last().map(|reason| format!("fluid-sidecar-policy: {}", reason.text)),
        _ => None,
    };
    let lines: Vec<_> = reasons.iter().map(Reason::to_string).collect();
    Response {
        accepted: message.is_none(),
        message,
        audit_annotations: [(DECISION_ANNOTATION, name.to_string()), (REASONS_ANNOTATION, lines.join("\n"))]
            .into(),
        warnings: warnings.iter().flat_map(|text| wrap(&format!("fluid-sidecar-policy: {text}"))).collect(),
        mutated_object: match decision {
            Decision::Injected(pod) => Some(pod),
            _ => None,
        },
    }
}

/// An error rejects the Pod.
fn decide(payload: &[u8], host: &dyn Host, log: &mut Log) -> Result<Decision, Reason> {
    let payload = std::str::from_utf8(payload)
        .map_err(|error| malformed(format!("the request is not UTF-8: {error}")))?;
    let Payload { request, settings } =
        serde_json::from_str(payload).map_err(|error| malformed(format!("the request: {error}")))?;
    let Some(object) = pod_creation(&request) else {
        let AdmissionRequest { operation, kind, .. } = &request;
        log.note(Code::NotAPodCreation, format!("{operation} of {}", kind.kind));
        return Ok(Decision::Untouched);
    };
    let settings = request::value("settings", settings).map_err(malformed)?;
    let settings = Settings::parse(&settings)
        .map_err(|problems| malformed(format!("settings: {}", problems.join("; "))))?;
    let unreadable = |error: String| malformed(format!("the Pod: {error}"));
    let pod = PodGlance::new(object).map_err(unreadable)?;
    let namespace =
        request.namespace.as_deref().filter(|namespace| !namespace.is_empty()).unwrap_or("default");

    if let Some(reason) = exemption(&pod, namespace).map_err(unreadable)? {
        log.reasons.push(reason);
        return Ok(Decision::Untouched);
    }
    if settings.mode == Mode::Verify {
        check_injection(object, &settings, log)?;
    }
    let claims = claims(&pod).map_err(unreadable)?;
    if claims.is_empty() {
        log.note(Code::NoClaims, "the Pod mounts no PersistentVolumeClaim");
        return Ok(Decision::Untouched);
    }
    let namespace_labels =
        || dataset::namespace_labels(namespace, host).map_err(placement::Error::Unresolved);
    let placement = match placement::decide(&pod, &settings, &namespace_labels) {
        Ok(placement) => placement,
        Err(placement::Error::Malformed(error)) => return Err(unreadable(error)),
        Err(placement::Error::Unresolved(error)) => {
            return log.problem(settings.on_unresolved, Reason::new(Code::Unresolved, error));
        }
    };
    let destination = match placement {
        Placement::Serverless(destination, marker) => {
            log.note(Code::Serverless, format!("the Pod goes to {} ({marker})", destination.name()));
            destination
        }
        Placement::NotServerless(why) => {
            log.note(Code::NotServerless, why);
            return Ok(Decision::Untouched);
        }
        Placement::Undecidable(why) => {
            // Only a Pod with a Dataset has a problem.
            match first_dataset(&claims, namespace, &settings, host) {
                Ok(Some(_)) => {}
                Ok(None) => {
                    log.note(Code::NotServerless, format!("{why}, but no claim is a Dataset's"));
                    return Ok(Decision::Untouched);
                }
                Err(error) => {
                    return log.problem(settings.on_unresolved, Reason::new(Code::Unresolved, error));
                }
            }
            let text = format!("no sidecar: {why}; the label alibabacloud.com/eci=true makes it certain");
            return log.problem(settings.on_undecidable, Reason::new(Code::Undecidable, text));
        }
    };
    if settings.mode == Mode::Verify {
        return match first_dataset(&claims, namespace, &settings, host) {
            Ok(None) => Ok(Decision::Untouched),
            Ok(Some(claim)) => Err(Reason::new(
                Code::Damaged,
                format!("claim {claim} is a Dataset's, but no sidecar was injected for it"),
            )),
            Err(error) => log.problem(settings.on_unresolved, Reason::new(Code::Unresolved, error)),
        };
    }
    match inject(object, &pod, namespace, claims, destination, &settings, host, log) {
        Ok(decision) => Ok(decision),
        Err(reason) if reason.code == Code::Malformed => Err(reason),
        Err(reason) => log.problem(settings.on_unresolved, reason),
    }
}

/// The first claim that is a Dataset's.
fn first_dataset<'a>(
    claims: &'a [Claim],
    namespace: &str,
    settings: &Settings,
    host: &dyn Host,
) -> Result<Option<&'a str>, String> {
    for claim in claims {
        if dataset::is_dataset(&claim.name, namespace, settings, host)? {
            return Ok(Some(&claim.name));
        }
    }
    Ok(None)
}

fn malformed(text: String) -> Reason {
    Reason::new(Code::Malformed, text)
}

/// Rejects a Pod whose injection is no longer whole.
fn check_injection(object: &str, settings: &Settings, log: &mut Log) -> Result<(), Reason> {
    let pod: Value = object.parse().map_err(|error| malformed(format!("the Pod: {error}")))?;
    let Some(status) = Status::of(&pod).map_err(malformed)? else { return Ok(()) };
    let destination = Destination::ALL.into_iter().find(|known| known.name() == status.destination);
    let destination = destination.ok_or_else(|| {
        malformed(format!("the Pod's status names an unknown destination {:?}", status.destination))
    })?;
    let damages = verify::damages(&pod, &status, settings.strategy(destination), settings);
    if damages.is_empty() {
        log.note(Code::Verified, format!("the injection for {} is whole", destination.name()));
        return Ok(());
    }
    Err(Reason::new(Code::Damaged, format!("a later webhook damaged the injection: {}", damages.join("; "))))
}

#[allow(clippy::too_many_arguments, reason = "all that is known by then")]
fn inject(
    object: &str,
    glance: &PodGlance<'_>,
    namespace: &str,
    claims: Vec<Claim>,
    destination: Destination,
    settings: &Settings,
    host: &dyn Host,
    log: &mut Log,
) -> Result<Decision, Reason> {
    let mut uses: Vec<Use> = Vec::new();
    for Claim { name, volumes } in claims {
        if name.is_empty() {
            let index = volumes.first().map(|volume| volume.index).unwrap_or_default();
            return Err(malformed(format!(
                "spec.volumes[{index}].persistentVolumeClaim.claimName is missing; name the claim"
            )));
        }
        match dataset::resolve(&name, namespace, settings, host) {
            // Two claims may be one Dataset's; two sidecars would mount over one another.
            Ok(Some(dataset)) => match uses.iter_mut().find(|known| known.dataset == dataset) {
                Some(known) => known.volumes.extend(volumes),
                None => uses.push(Use { dataset, volumes }),
            },
            Ok(None) => log.note(Code::OrdinaryClaim, format!("claim {name} is not a Dataset's")),
            Err(text) => return Err(Reason::new(Code::Unresolved, text)),
        }
    }
    if uses.is_empty() {
        return Ok(Decision::Untouched);
    }
    let limits = asked_limits(&glance.annotations, settings)?;
    let mut pod: Value = object.parse().map_err(|error| malformed(format!("the Pod: {error}")))?;
    let plan = plan::make(&pod, &uses, destination, &limits, settings)?;
    log.reasons.extend(plan.reasons.iter().cloned());
    if glance.annotations.get(PREFETCH).is_some_and(|value| value == "true") {
        log.warn(Reason::new(
            Code::Ignored,
            format!("annotation {PREFETCH} is ignored: nothing prefetches files"),
        ));
    }
    plan.apply(&mut pod).map_err(malformed)?;
    Ok(Decision::Injected(pod))
}

/// What the Pod asks for its sidecars by annotations, if the administrator lets it.
fn asked_limits(annotations: &Entries, settings: &Settings) -> Result<Entries, Reason> {
    let mut limits = Entries::new();
    for resource in POD_OVERRIDES {
        let key = format!("fluid-sidecar-policy/{resource}");
        let Some(asked) = annotations.get(&key) else { continue };
        let refuse = |why: String| Err(Reason::new(Code::Unsupported, format!("annotation {key}: {why}")));
        let Some(amount) = quantity(asked) else {
            return refuse(format!("{asked:?} is no quantity; expected one like 500m, 2 or 4Gi"));
        };
        match settings.pod_overrides.get(*resource) {
            None => {
                return refuse(format!(
                    "the policy's settings allow none; they need podOverrides.{resource}"
                ));
            }
            Some(most) if quantity(most) < Some(amount) => {
                return refuse(format!(
                    "{asked} is more than the {most} that podOverrides.{resource} allows"
                ));
            }
            Some(_) => drop(limits.insert(resource.to_string(), asked.clone())),
        }
    }
    Ok(limits)
}

/// The object of a request that creates a Pod. Of other requests not even the settings matter.
fn pod_creation<'a>(request: &AdmissionRequest<'a>) -> Option<&'a str> {
    let pod = request.kind.group.is_empty() && request.kind.kind == "Pod";
    let whole = request.sub_resource.as_deref().unwrap_or_default().is_empty();
    let object = request.object.filter(|_| pod && whole && request.operation == "CREATE")?;
    Some(object.get())
}

/// Pods that are never touched, whatever else they say.
fn exemption(pod: &PodGlance<'_>, namespace: &str) -> Result<Option<Reason>, String> {
    let opt_out = "fluid.io/enable-injection";
    if pod.labels.get(opt_out).is_some_and(|value| value == "false") {
        return Ok(Some(Reason::new(Code::OptedOut, format!("label {opt_out}=false"))));
    }
    let mirror = "kubernetes.io/config.mirror";
    let exempt = if namespace == "kube-system" {
        "Pods of namespace kube-system are left alone".to_string()
    } else if pod.annotations.contains_key(mirror) {
        format!("a static Pod of a node (annotation {mirror})")
    } else if pod.os()? == "windows" {
        "Windows has no FUSE (spec.os.name)".to_string()
    } else {
        return Ok(None);
    };
    Ok(Some(Reason::new(Code::Exempt, exempt)))
}

/// A claim and the volumes that are it.
struct Claim {
    name: String,
    volumes: Vec<ClaimVolume>,
}

/// The distinct claims, in the order of the volumes.
fn claims(pod: &PodGlance<'_>) -> Result<Vec<Claim>, String> {
    let mut claims: Vec<Claim> = Vec::new();
    for (index, volume) in pod.volumes()?.into_iter().enumerate() {
        let Some(source) = volume.persistent_volume_claim else { continue };
        let source = request::value("spec.volumes", Some(source))?;
        let (name, read_only) = (
            claim_field(&source, index, "claimName", Value::as_str)?.unwrap_or_default().to_string(),
            claim_field(&source, index, "readOnly", Value::as_bool)?.unwrap_or_default(),
        );
        let volume = ClaimVolume { index, name: volume.name, read_only, source };
        match claims.iter_mut().find(|known| known.name == name) {
            Some(known) => known.volumes.push(volume),
            None => claims.push(Claim { name, volumes: vec![volume] }),
        }
    }
    Ok(claims)
}

/// A field of a claim volume; absent and `null` are none.
fn claim_field<'v, T>(
    source: &'v Value,
    index: usize,
    field: &str,
    read: impl Fn(&'v Value) -> Option<T>,
) -> Result<Option<T>, String> {
    match source.get(field).filter(|value| !value.is_null()) {
        None if source.is_object() => Ok(None),
        None => Err(format!("spec.volumes[{index}].persistentVolumeClaim: must be a map")),
        Some(value) => read(value)
            .map(Some)
            .ok_or_else(|| format!("spec.volumes[{index}].persistentVolumeClaim.{field}: not of its type")),
    }
}

/// Long texts become several warnings, as nothing of them may be lost.
fn wrap(text: &str) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
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
