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
use crate::request::{AdmissionRequest, Payload, PodGlance, Response, read};
use crate::settings::{OnProblem, Settings};

/// What the API server shows of a warning at least; longer ones may be cut.
const WARNING_MAX: usize = 256;

/// What was decided about one request.
enum Decision {
    Untouched,
    Injected(Value),
    Rejected,
}

/// Answers the payload of `validate`. Objects of the cluster are read through `host`, and only for Pods that
/// go to a serverless node and mount a claim.
pub fn review(payload: &[u8], host: &dyn Host) -> Response {
    let mut reasons = Vec::new();
    let mut warnings = Vec::new();
    let decision = decide(payload, host, &mut reasons, &mut warnings).unwrap_or_else(|reason| {
        reasons.push(reason);
        Decision::Rejected
    });
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
        warnings: warnings.into_iter().map(|text| shorten(format!("fluid-sidecar-policy: {text}"))).collect(),
        mutated_object: match decision {
            Decision::Injected(pod) => Some(pod),
            _ => None,
        },
    }
}

/// An error rejects the Pod.
fn decide(
    payload: &[u8],
    host: &dyn Host,
    reasons: &mut Vec<Reason>,
    warnings: &mut Vec<String>,
) -> Result<Decision, Reason> {
    let malformed = |text: String| Reason::new(Code::Malformed, text);
    let payload = std::str::from_utf8(payload)
        .map_err(|error| malformed(format!("the request is not UTF-8: {error}")))?;
    let Payload { request, settings } =
        read(payload).map_err(|error| malformed(format!("the request: {error}")))?;
    let Some(object) = pod_creation(&request) else {
        let AdmissionRequest { operation, kind, .. } = &request;
        reasons.push(Reason::new(Code::NotAPodCreation, format!("{operation} of {}", kind.kind)));
        return Ok(Decision::Untouched);
    };
    let settings = Settings::parse(&settings)
        .map_err(|problems| malformed(format!("settings: {}", problems.join("; "))))?;
    let pod: PodGlance = read(object).map_err(|error| malformed(format!("the Pod: {error}")))?;
    let namespace =
        request.namespace.as_deref().filter(|namespace| !namespace.is_empty()).unwrap_or("default");

    if let Some(reason) = exemption(&pod, namespace) {
        reasons.push(reason);
        return Ok(Decision::Untouched);
    }
    let claims = claims(&pod);
    if claims.is_empty() {
        reasons.push(Reason::new(Code::NoClaims, "the Pod mounts no PersistentVolumeClaim"));
        return Ok(Decision::Untouched);
    }
    let destination = match placement::decide(&pod, &settings) {
        Placement::Serverless(destination, marker) => {
            let text = format!("the Pod goes to {} ({marker})", destination.name());
            reasons.push(Reason::new(Code::Serverless, text));
            destination
        }
        Placement::NotServerless => {
            reasons.push(Reason::new(
                Code::NotServerless,
                "nothing says that the Pod goes to a serverless node",
            ));
            return Ok(Decision::Untouched);
        }
        Placement::Undecidable(marker) => {
            let reason = Reason::new(
                Code::Undecidable,
                format!(
                    "the scheduler may or may not choose a serverless node ({marker}), so no Dataset is injected; \
                     add the label alibabacloud.com/eci=true, or remove the marker"
                ),
            );
            return allow_or_reject(settings.on_undecidable, reason, reasons, warnings);
        }
    };
    match inject(object, namespace, claims, destination, &settings, host, reasons) {
        Ok(decision) => Ok(decision),
        Err(reason) if reason.code == Code::Malformed => Err(reason),
        Err(reason) => allow_or_reject(settings.on_unresolved, reason, reasons, warnings),
    }
}

fn allow_or_reject(
    setting: OnProblem,
    reason: Reason,
    reasons: &mut Vec<Reason>,
    warnings: &mut Vec<String>,
) -> Result<Decision, Reason> {
    match setting {
        OnProblem::Reject => Err(reason),
        OnProblem::Allow => {
            warnings.push(reason.text.clone());
            reasons.push(reason);
            Ok(Decision::Untouched)
        }
    }
}

fn inject(
    object: &str,
    namespace: &str,
    claims: Vec<Claim>,
    destination: Destination,
    settings: &Settings,
    host: &dyn Host,
    reasons: &mut Vec<Reason>,
) -> Result<Decision, Reason> {
    let mut uses: Vec<Use> = Vec::new();
    for Claim { name, volumes } in claims {
        if name.is_empty() {
            let index = volumes.first().map(|volume| volume.index).unwrap_or_default();
            return Err(Reason::new(
                Code::Malformed,
                format!("spec.volumes[{index}].persistentVolumeClaim.claimName is missing; name the claim"),
            ));
        }
        match dataset::resolve(&name, namespace, settings, host) {
            // Two claims may be one Dataset's; two sidecars would mount over one another.
            Ok(Some(dataset)) => match uses.iter_mut().find(|known| known.dataset == dataset) {
                Some(known) => known.volumes.extend(volumes),
                None => uses.push(Use { dataset, volumes }),
            },
            Ok(None) => {
                reasons.push(Reason::new(Code::OrdinaryClaim, format!("claim {name} is not a Dataset's")));
            }
            Err(text) => return Err(Reason::new(Code::Unresolved, text)),
        }
    }
    if uses.is_empty() {
        return Ok(Decision::Untouched);
    }
    let mut pod: Value = serde_json::from_str(object)
        .map_err(|error| Reason::new(Code::Malformed, format!("the Pod: {error}")))?;
    let plan = plan::make(&pod, &uses, destination, settings)?;
    reasons.extend(plan.reasons.iter().cloned());
    plan.apply(&mut pod).map_err(|error| Reason::new(Code::Malformed, error))?;
    Ok(Decision::Injected(pod))
}

/// The object of a request that creates a Pod. Of other requests not even the settings matter.
fn pod_creation<'a>(request: &AdmissionRequest<'a>) -> Option<&'a str> {
    let pod = request.kind.group.is_empty() && request.kind.kind == "Pod";
    let whole = request.sub_resource.as_deref().unwrap_or_default().is_empty();
    let object = request.object.filter(|_| pod && whole && request.operation == "CREATE")?;
    Some(object.get())
}

/// Pods that are never touched, whatever else they say.
fn exemption(pod: &PodGlance, namespace: &str) -> Option<Reason> {
    let has = |entries: &Option<std::collections::BTreeMap<String, String>>, key: &str| {
        entries.as_ref().and_then(|entries| entries.get(key)).cloned()
    };
    let opt_out = "fluid.io/enable-injection";
    if has(&pod.metadata.labels, opt_out).is_some_and(|value| value == "false") {
        return Some(Reason::new(Code::OptedOut, format!("label {opt_out}=false")));
    }
    let mirror = "kubernetes.io/config.mirror";
    let exempt = if namespace == "kube-system" {
        "Pods of namespace kube-system are left alone".to_string()
    } else if has(&pod.metadata.annotations, mirror).is_some() {
        format!("a static Pod of a node (annotation {mirror})")
    } else if pod.spec.os.as_ref().is_some_and(|os| os.name == "windows") {
        "Windows has no FUSE (spec.os.name)".to_string()
    } else {
        return None;
    };
    Some(Reason::new(Code::Exempt, exempt))
}

/// A claim and the volumes that are it.
struct Claim {
    name: String,
    volumes: Vec<ClaimVolume>,
}

/// The distinct claims, in the order of the volumes.
fn claims(pod: &PodGlance) -> Vec<Claim> {
    let mut claims: Vec<Claim> = Vec::new();
    for (index, volume) in pod.spec.volumes.iter().flatten().enumerate() {
        let Some(claim) = &volume.persistent_volume_claim else { continue };
        let volume = ClaimVolume { index, name: volume.name.clone(), read_only: claim.read_only };
        match claims.iter_mut().find(|known| known.name == claim.claim_name) {
            Some(known) => known.volumes.push(volume),
            None => claims.push(Claim { name: claim.claim_name.clone(), volumes: vec![volume] }),
        }
    }
    claims
}

fn shorten(text: String) -> String {
    if text.len() <= WARNING_MAX {
        return text;
    }
    let end = (0..=WARNING_MAX - '…'.len_utf8()).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    format!("{}…", &text[..end])
}
