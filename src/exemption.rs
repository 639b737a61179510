//! Which Pods are never touched, whatever else they say?

use crate::reason::{Code, Reason};
use crate::request::PodGlance;

/// Why the Pod is left alone, if it is.
pub fn of(pod: &PodGlance<'_>, namespace: &str) -> Option<Reason> {
    let opt_out = "fluid.io/enable-injection";
    if pod.labels.get(opt_out) == Some("false") {
        return Some(Reason::new(Code::OptedOut, format!("label {opt_out}=false")));
    }
    let mirror = "kubernetes.io/config.mirror";
    let why = if namespace == "kube-system" {
        "Pods of namespace kube-system are left alone".to_string()
    } else if pod.annotations.get(mirror).is_some() {
        format!("a static Pod of a node (annotation {mirror})")
    } else if pod.os() == "windows" {
        "Windows has no FUSE (spec.os.name)".to_string()
    } else {
        return None;
    };
    Some(Reason::new(Code::Exempt, why))
}
