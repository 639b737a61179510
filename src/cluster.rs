//! Reading objects of the cluster: the policy's only way out.
//!
//! [`Cluster`] is the seam: inside a cluster it is Kubewarden's host capability, offline it is answered from
//! files. The host reports errors as text only; [`ReadError`] tells apart what matters to the user, and
//! everything unknown is a failure to read, never "not found": a Pod must not slip through because the API
//! server was slow.

use std::cell::Cell;
use std::fmt;

use anyhow::Context as _;

use fluid_sidecar_layout::{Named as _, named};
use kubewarden_policy_sdk::host_capabilities::kubernetes::GetResourceRequest;
use serde_json::Value;

pub use crate::json::{Masked, Masks};

use crate::json::{Mask, paths};

/// What the policy needs of its host, as its metadata declares it.
pub const CAPABILITY: &str = "kubernetes/get_resource";

/// Where objects are read.
pub trait Cluster {
    /// Reads of one object what `M` names; the error is the host's text.
    fn get<M: Masks>(&self, request: &GetResourceRequest) -> anyhow::Result<Masked<M>>;
}

named! {
    /// A kind of object that the policy reads. There are no others: `policy-metadata.yml` and the ClusterRole in
    /// `deploy/` name exactly these. The name is spelt as Kubewarden compares it with the policy's
    /// contextAwareResources, case and all; with it comes the `apiVersion`.
    pub enum Kind: &'static str {
        /// What a Pod mounts.
        PersistentVolumeClaim = "PersistentVolumeClaim" => "v1",
        /// What says where Fluid's CSI driver would find the mount.
        PersistentVolume = "PersistentVolume" => "v1",
        /// Fluid's Dataset.
        Dataset = "Dataset" => "data.fluid.io/v1alpha1",
        /// Of a Runtime's fuse Pods.
        DaemonSet = "DaemonSet" => "apps/v1",
        /// For its labels.
        Namespace = "Namespace" => "v1",
    }
}

/// The most reads of one review. A Dataset takes four, so a Pod can have 25 of them; its other claims take one each.
pub const READS_MAX: usize = 100;

/// What is said of a read that is one too many.
const TOO_MANY: &str = "too many reads for one review";

/// A cluster that is read so many times and no more: whoever writes a Pod decides how many claims it has, and the policy
/// server waits for each read.
pub struct Budget<'c, C> {
    cluster: &'c C,
    left: Cell<usize>,
}

impl<'c, C> Budget<'c, C> {
    /// For one review.
    pub fn of(cluster: &'c C) -> Self {
        Budget { cluster, left: Cell::new(READS_MAX) }
    }
}

impl<C: Cluster> Cluster for Budget<'_, C> {
    fn get<M: Masks>(&self, request: &GetResourceRequest) -> anyhow::Result<Masked<M>> {
        self.left.set(self.left.get().checked_sub(1).context(TOO_MANY)?);
        self.cluster.get(request)
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
            Some(namespace) => write!(formatter, "{} {namespace}/{}", self.kind, self.name),
            None => write!(formatter, "{} {}", self.kind, self.name),
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
    /// Kubewarden refuses: the kind is not in the policy's contextAwareResources.
    NotGranted,
    /// Kubewarden refuses: `kubernetes/get_resource` is not among the policy's hostCapabilities.
    NoCapability,
    /// The cluster does not know the kind: Fluid's CRDs are not installed.
    UnknownKind,
    /// The review has read as much as it may.
    TooMany,
    /// Anything else, with the first line of the host's text.
    Unreachable(String),
}

/// Reads of one object the fields that `M` names. The host is told them, too: it sends nothing else but metadata, and
/// everything if it is older than 1.33.
///
/// Answers may be up to five seconds old: the policy server caches them.
///
/// Nothing is asked of a name that no object can have. A Pod's claims are not yet validated when admission sees them,
/// and the policy server puts the name into a path as it is: with `..` it would lead to another object.
pub fn get<M: Masks>(cluster: &impl Cluster, object: &ObjectRef<'_>) -> Result<Value, ReadError> {
    let request = request(object, M::MASKS).ok_or(ReadError::NotFound)?;
    answer(cluster.get::<M>(&request).map(|Masked(parts, _)| parts), object)
}

// Apart from `get`, so that the module has them once and not for each mask.
#[inline(never)]
fn request(object: &ObjectRef<'_>, masks: &'static [Mask]) -> Option<GetResourceRequest> {
    is_name(object.name).then(|| GetResourceRequest {
        api_version: object.kind.facts().to_string(),
        kind: object.kind.name().to_string(),
        name: object.name.to_string(),
        namespace: object.namespace.map(str::to_string),
        disable_cache: false,
        field_masks: Some(paths(masks)),
    })
}

/// Whether an object can have this name (a DNS-1123 subdomain).
pub fn is_name(name: &str) -> bool {
    let allowed = |byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.');
    !name.is_empty() && name.len() <= 253 && !name.starts_with('.') && name.bytes().all(allowed)
}

#[inline(never)]
fn answer(found: anyhow::Result<Value>, object: &ObjectRef<'_>) -> Result<Value, ReadError> {
    found.map_err(|error| classify(&error.to_string(), object))
}

/// The texts are those of Kubewarden's `policy-evaluator` (callback handler) and of kube-rs' errors in it.
fn classify(text: &str, object: &ObjectRef<'_>) -> ReadError {
    let text = text.lines().next().unwrap_or_default();
    let text = text.strip_prefix("Host error: ").unwrap_or(text);
    let text = text.strip_prefix("Callback evaluation failure: ").unwrap_or(text);
    let (api_version, kind, name) = (object.kind.facts(), object.kind, object.name);
    if text == TOO_MANY {
        ReadError::TooMany
    } else if text.contains("has not been granted access to") {
        match text.contains("host capability") {
            true => ReadError::NoCapability,
            false => ReadError::NotGranted,
        }
    } else if text.contains(&format!("Cannot find {api_version}/{kind} named '{name}'")) {
        ReadError::NotFound
    } else if text.contains(&format!("Cannot find resource {api_version}/{kind}"))
        || text.contains(&format!("error finding resource {api_version} / {kind}"))
    {
        ReadError::UnknownKind
    } else if text.contains("ApiError") && text.contains("code: 403") {
        ReadError::Forbidden
    } else {
        // What follows is the API server's answer as Rust prints it.
        ReadError::Unreachable(text.split(" (Status {").next().unwrap_or_default().to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_texts_are_told_apart() {
        let object = ObjectRef { kind: Kind::DaemonSet, namespace: Some("ns"), name: "data-fuse" };
        let unreachable = |text: &str| ReadError::Unreachable(text.to_string());
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
            (
                "Policy has not been granted access to the 'kubernetes/get_resource' host capability. The violation has been reported.",
                ReadError::NoCapability,
            ),
            (
                "Callback evaluation failure: ApiError: etcdserver: request timed out: InternalError (Status { status: Some(Failure), code: 500 })",
                unreachable("ApiError: etcdserver: request timed out: InternalError"),
            ),
            (
                "kube::Client was not initialized properly\nbacktrace",
                unreachable("kube::Client was not initialized properly"),
            ),
        ] {
            assert_eq!(classify(text, &object), expected, "{text}");
        }
    }
}
