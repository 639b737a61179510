//! Which Pods are never touched, whatever else they say?

use crate::marker::{Marker, Subject};
use crate::reason::{Code, Reason};
use crate::request::PodGlance;

/// What, beside `spec.os`, sends a Pod to nodes with Windows.
const WINDOWS: &[Marker] = &[
    Marker::NodeSelector("kubernetes.io/os", "windows"),
    Marker::NodeSelector("beta.kubernetes.io/os", "windows"),
    Marker::RequiredAffinity("kubernetes.io/os", "windows"),
];

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
    } else if let Some(marker) = on_windows(pod) {
        format!("Windows has no FUSE ({})", marker.plain())
    } else {
        return None;
    };
    Some(Reason::new(Code::Exempt, why))
}

fn on_windows(pod: &PodGlance<'_>) -> Option<&'static Marker> {
    // What cannot be read is told of later.
    let subject = Subject::of(pod).ok()?;
    WINDOWS.iter().find(|marker| subject.has(marker))
}
