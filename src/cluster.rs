//! Reading objects of the cluster: the policy's only way out.
//!
//! [`Host`] is the seam: inside a cluster it is Kubewarden's host capability, offline it is answered from
//! files. The host reports errors as text only; [`ReadError`] tells apart what matters to the user, and
//! everything unknown is a failure to read, never "not found": a Pod must not slip through because the API
//! server was slow.

use std::fmt;

use serde_json::{Value, json};

/// Calls a capability of the host (waPC binding `kubewarden`).
pub trait Host {
    /// Sends `payload` to `<namespace>/<operation>` and returns the answer, or the host's error text.
    fn call(&self, namespace: &str, operation: &str, payload: &[u8]) -> Result<Vec<u8>, String>;
}

/// A kind of object that the policy reads. There are no others: `policy-metadata.yml` and the ClusterRole in
/// `deploy/` name exactly these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// What a Pod mounts.
    PersistentVolumeClaim,
    /// What says where Fluid's CSI driver would find the mount.
    PersistentVolume,
    /// Fluid's Dataset.
    Dataset,
    /// Of a Runtime's fuse Pods.
    DaemonSet,
    /// For its labels.
    Namespace,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Kind; 5] = [
        Kind::PersistentVolumeClaim,
        Kind::PersistentVolume,
        Kind::Dataset,
        Kind::DaemonSet,
        Kind::Namespace,
    ];

    /// As in `apiVersion:`.
    pub fn api_version(self) -> &'static str {
        match self {
            Kind::PersistentVolumeClaim | Kind::PersistentVolume | Kind::Namespace => "v1",
            Kind::Dataset => "data.fluid.io/v1alpha1",
            Kind::DaemonSet => "apps/v1",
        }
    }

    /// As in `kind:`, case and all: Kubewarden compares it with the policy's contextAwareResources.
    pub fn name(self) -> &'static str {
        match self {
            Kind::PersistentVolumeClaim => "PersistentVolumeClaim",
            Kind::PersistentVolume => "PersistentVolume",
            Kind::Dataset => "Dataset",
            Kind::DaemonSet => "DaemonSet",
            Kind::Namespace => "Namespace",
        }
    }
}

/// Names one object.
#[derive(Clone, Debug)]
pub struct ObjectRef<'a> {
    /// What it is.
    pub kind: Kind,
    /// `None` for kinds without namespace.
    pub namespace: Option<&'a str>,
    /// `metadata.name`.
    pub name: &'a str,
}

impl fmt::Display for ObjectRef<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.namespace {
            Some(namespace) => write!(formatter, "{} {namespace}/{}", self.kind.name(), self.name),
            None => write!(formatter, "{} {}", self.kind.name(), self.name),
        }
    }
}

/// Why an object could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReadError {
    /// There is none of that name.
    NotFound,
    /// The API server refuses: RBAC of the policy server's account.
    Forbidden,
    /// Kubewarden refuses: the kind is not in the policy's contextAwareResources, or the capability is not
    /// among its hostCapabilities.
    NotGranted,
    /// The cluster does not know the kind: Fluid's CRDs are not installed.
    UnknownKind,
    /// Anything else, with the first line of the host's text.
    Unreachable(String),
}

/// Reads one object, reduced to the fields under `field_masks` (dot paths below the root; metadata always
/// comes along). Hosts older than 1.33 ignore the masks and return all.
///
/// Answers may be up to five seconds old: the policy server caches them.
///
/// Nothing is asked of a name that no object can have. A Pod's claims are not yet validated when admission sees them,
/// and the policy server puts the name into a path as it is: with `..` it would lead to another object.
pub fn get(host: &dyn Host, object: &ObjectRef<'_>, field_masks: &[&str]) -> Result<Value, ReadError> {
    let allowed = |byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.');
    if object.name.starts_with('.') || !object.name.bytes().all(allowed) {
        return Err(ReadError::NotFound);
    }
    let request = json!({
        "api_version": object.kind.api_version(),
        "kind": object.kind.name(),
        "name": object.name,
        "namespace": object.namespace,
        "disable_cache": false,
        "field_masks": field_masks,
    });
    let answer = host
        .call("kubernetes", "get_resource", request.to_string().as_bytes())
        .map_err(|text| classify(&text, object))?;
    let unreadable =
        |error: &dyn fmt::Display| ReadError::Unreachable(format!("the host's answer is not JSON: {error}"));
    let answer = std::str::from_utf8(&answer).map_err(|error| unreadable(&error))?;
    answer.parse().map_err(|error| unreadable(&error))
}

/// The texts are those of Kubewarden's `policy-evaluator` (callback handler) and of kube-rs' errors in it.
fn classify(text: &str, object: &ObjectRef<'_>) -> ReadError {
    let text = text.lines().next().unwrap_or_default();
    let text = text.strip_prefix("Host error: ").unwrap_or(text);
    let text = text.strip_prefix("Callback evaluation failure: ").unwrap_or(text);
    let (api_version, kind, name) = (object.kind.api_version(), object.kind.name(), object.name);
    if text.contains("has not been granted access to") {
        ReadError::NotGranted
    } else if text.contains(&format!("Cannot find {api_version}/{kind} named '{name}'")) {
        ReadError::NotFound
    } else if text.contains(&format!("Cannot find resource {api_version}/{kind}"))
        || text.contains(&format!("error finding resource {api_version} / {kind}"))
    {
        ReadError::UnknownKind
    } else if text.contains("ApiError") && text.contains("code: 403") {
        ReadError::Forbidden
    } else {
        ReadError::Unreachable(text.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_texts_are_told_apart() {
        let object = ObjectRef { kind: Kind::DaemonSet, namespace: Some("ns"), name: "data-fuse" };
        for (text, expected) in [
            (
                "Host error: Callback evaluation failure: Cannot find apps/v1/DaemonSet named 'data-fuse' inside of namespace 'Some(\"ns\")'",
                ReadError::NotFound,
            ),
            (
                "Callback evaluation failure: ApiError: forbidden: User \"x\" cannot get resource: Forbidden (Status { code: 403 })",
                ReadError::Forbidden,
            ),
            (
                "Callback evaluation failure: error finding resource apps/v1 / DaemonSet: ApiError: not found: NotFound (Status { code: 404 })",
                ReadError::UnknownKind,
            ),
            ("Callback evaluation failure: Cannot find resource apps/v1/DaemonSet", ReadError::UnknownKind),
            (
                "Policy has not been granted access to Kubernetes apps/v1/DaemonSet resources. The violation has been reported.",
                ReadError::NotGranted,
            ),
            ("kube::Client was not initialized properly\nbacktrace", {
                ReadError::Unreachable("kube::Client was not initialized properly".into())
            }),
        ] {
            assert_eq!(classify(text, &object), expected, "{text}");
        }
    }
}
