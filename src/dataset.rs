//! Which claims are Datasets, where is each mounted, and what serves it?
//!
//! With `datasetsFrom: cluster` the answer is found by Fluid's own rules, in a fixed order of reads, at most
//! four for a claim: PersistentVolumeClaim, Dataset, PersistentVolume, fuse DaemonSet. An ordinary claim
//! costs one. With `datasetsFrom: settings` nothing is read.
//!
//! This module finds; what becomes of the findings in the Pod is decided in [`crate::sidecar`] and
//! [`crate::plan`]. It does not know the Pod.

use fluid_sidecar_layout::{MountPoint, Runtime};
use serde_json::Value;

use crate::cluster::{Host, ObjectRef, ReadError, get};
use crate::settings::{DatasetsFrom, Settings};

const FLUID: &str = "data.fluid.io/v1alpha1";

/// One Dataset, ready to be served.
#[derive(Clone, Debug, PartialEq)]
pub struct Dataset {
    /// Its namespace, which is the claim's.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The kind of Runtime behind it.
    pub runtime: Runtime,
    /// The directory of the node that the sidecar mounts.
    pub mount_point: MountPoint,
    /// What the application sees: the mount point, or a sub path of it.
    pub data: MountPoint,
    /// What serves it.
    pub server: Server,
}

/// What serves a Dataset.
#[derive(Clone, Debug, PartialEq)]
pub enum Server {
    /// The Pod template of the Runtime's fuse DaemonSet (`spec.template.spec`).
    DaemonSet {
        /// For messages.
        name: String,
        /// `spec.template.spec`.
        pod_spec: Value,
    },
    /// The settings alone: an image, and for `fluid-fuse` the source.
    Settings {
        /// From `sidecarImages`.
        image: String,
        /// The URL that `fluid-fuse` shall serve; without it the image knows.
        source: Option<String>,
    },
}

/// Finds the Dataset of a claim. `None`: an ordinary claim. The error is one sentence that names the object
/// and the fix.
pub fn resolve(
    claim: &str,
    namespace: &str,
    settings: &Settings,
    host: &dyn Host,
) -> Result<Option<Dataset>, String> {
    match &settings.datasets_from {
        DatasetsFrom::Cluster => from_cluster(claim, namespace, settings, host),
        DatasetsFrom::Settings(rules) => {
            let rule =
                rules.iter().find(|rule| rule.claim.matches(claim) && rule.namespace.matches(namespace));
            let Some(rule) = rule else { return Ok(None) };
            let mount_point = MountPoint::new(&settings.mount_root, rule.runtime, namespace, claim)
                .map_err(|error| format!("claim {namespace}/{claim}: {error}"))?;
            Ok(Some(Dataset {
                namespace: namespace.to_string(),
                name: claim.to_string(),
                runtime: rule.runtime,
                data: mount_point.clone(),
                mount_point,
                server: Server::Settings {
                    image: settings.sidecar_images.get(&rule.runtime).cloned().unwrap_or_default(),
                    source: rule.source.clone(),
                },
            }))
        }
    }
}

fn from_cluster(
    claim: &str,
    namespace: &str,
    settings: &Settings,
    host: &dyn Host,
) -> Result<Option<Dataset>, String> {
    let claim_ref = ObjectRef {
        api_version: "v1",
        kind: "PersistentVolumeClaim",
        namespace: Some(namespace),
        name: claim,
    };
    let claim_object = read(host, &claim_ref, &["spec.volumeName"], "create it before the Pod")?;
    let Some(name) = dataset_name(&claim_object, claim) else { return Ok(None) };

    let dataset_ref =
        ObjectRef { api_version: FLUID, kind: "Dataset", namespace: Some(namespace), name: &name };
    let dataset =
        read(host, &dataset_ref, &["status.phase", "status.runtimes"], "create it, or remove the claim")?;
    let phase = text(&dataset, "/status/phase").unwrap_or_default();
    if matches!(phase, "" | "NotBound") {
        return Err(format!(
            "{dataset_ref} is not bound; create its Runtime and wait until its phase is Bound"
        ));
    }
    let kind = text(&dataset, "/status/runtimes/0/type")
        .ok_or_else(|| format!("{dataset_ref} names no Runtime in status.runtimes; create its Runtime"))?;
    let runtime = Runtime::from_name(kind).ok_or_else(|| {
        let known = Runtime::ALL.map(Runtime::name).join(", ");
        format!(
            "{dataset_ref} is served by runtime {kind:?}, which this policy does not know; it knows {known}"
        )
    })?;

    // Fluid names the volume after the Dataset (`RuntimeInfo.GetPersistentVolumeName`).
    let volume_name = format!("{namespace}-{name}");
    let volume_ref =
        ObjectRef { api_version: "v1", kind: "PersistentVolume", namespace: None, name: &volume_name };
    let volume = read(host, &volume_ref, &["spec.csi"], "wait until Fluid has made it")?;
    let (mount_point, data) =
        mount_point(&volume, &settings.mount_root).map_err(|error| format!("{volume_ref}: {error}"))?;

    let daemonset_name = format!("{name}{}", runtime.daemonset_suffix());
    let daemonset_ref = ObjectRef {
        api_version: "apps/v1",
        kind: "DaemonSet",
        namespace: Some(namespace),
        name: &daemonset_name,
    };
    let mut daemonset =
        read(host, &daemonset_ref, &["spec.template.spec"], "wait until Fluid has set up the Runtime")?;
    let pod_spec = daemonset.pointer_mut("/spec/template/spec").map(Value::take).unwrap_or_default();
    if pod_spec.pointer("/containers/0").is_none() {
        return Err(format!("{daemonset_ref} has no container in spec.template.spec.containers"));
    }
    let server = Server::DaemonSet { name: daemonset_ref.to_string(), pod_spec };
    Ok(Some(Dataset { namespace: namespace.to_string(), name, runtime, mount_point, data, server }))
}

/// Fluid's rule (`kubeclient.IsDatasetPVC`, `GetManagingDatasetFromLabels`): a claim is a Dataset's when it
/// has a label `fluid.io/s-…`, and the Dataset bears its name; or when a label names the Dataset.
fn dataset_name(claim: &Value, claim_name: &str) -> Option<String> {
    let labels = claim.pointer("/metadata/labels")?.as_object()?;
    let named = ["fluid.io/managed-by", "fluid.io/wrapped-by"].iter().find_map(|key| labels.get(*key));
    match named.and_then(Value::as_str) {
        Some(name) => Some(name.to_string()),
        None if labels.keys().any(|key| key.starts_with("fluid.io/s-")) => Some(claim_name.to_string()),
        None => None,
    }
}

/// Where Fluid's CSI driver would find the mount: `fluid_path` is the file system's root on the node,
/// `fluid_sub_path` what a Dataset that refers to a part of another one shows.
fn mount_point(volume: &Value, root: &str) -> Result<(MountPoint, MountPoint), String> {
    let attribute = |name: &str| text(volume, &format!("/spec/csi/volumeAttributes/{name}"));
    let path = attribute("fluid_path")
        .ok_or("spec.csi.volumeAttributes.fluid_path is missing; it is not a volume that Fluid made")?;
    let mount_point = MountPoint::within(root, path)
        .map_err(|error| format!("fluid_path: {error}; is the setting mountRoot Fluid's MOUNT_ROOT?"))?;
    let data = mount_point
        .join(attribute("fluid_sub_path").unwrap_or_default())
        .map_err(|error| format!("fluid_sub_path: {error}; correct the mountPoint of the Dataset"))?;
    Ok((mount_point, data))
}

fn text<'v>(object: &'v Value, pointer: &str) -> Option<&'v str> {
    object.pointer(pointer)?.as_str()
}

fn read(host: &dyn Host, object: &ObjectRef<'_>, masks: &[&str], fix: &str) -> Result<Value, String> {
    let ObjectRef { api_version, kind, .. } = object;
    get(host, object, masks).map_err(|error| match error {
        ReadError::NotFound => format!("{object} does not exist; {fix}"),
        ReadError::Forbidden => format!(
            "{object} may not be read by the policy server's service account; grant it get on {api_version} {kind}"
        ),
        ReadError::NotGranted => format!(
            "{object} may not be read by this policy; add {api_version} {kind} to its contextAwareResources, \
             or use the setting datasetsFrom: settings"
        ),
        ReadError::UnknownKind => format!("{object} cannot be read: the cluster has no {api_version} {kind}; install Fluid"),
        ReadError::Unreachable(text) => format!("{object} could not be read: {text}; try again"),
    })
}
