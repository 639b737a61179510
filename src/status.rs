//! What was done to a Pod, written on the Pod: for people, and to undo it.
//!
//! Of an injection the annotation decides one thing: what came with a sidecar is not served again. It names objects and holds no values of secrets. [`uninject`] gives
//! back the Pod as it was before; [`crate::verify`] does that, too, and injects it anew to compare.

use anyhow::{Context as _, Result};
use fluid_sidecar_layout::Named as _;
use serde::Serialize;
use serde_json::Value;

use crate::destination::Destination;
use crate::json::{CONTAINER_LISTS, Places, elements, name_of, places, text};
use crate::limits;
use crate::request::Texts;

/// Says on the Pod what was injected, and by which settings. JSON of a [`Status`].
pub const ANNOTATION: &str = "fluid-sidecar-policy/injected";

/// Which container `kubectl logs` and `kubectl exec` are about when nobody names one: this, or else the first.
pub const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";

/// The volumes on the node that the cluster autoscaler need not save: without it it does not remove a node on which the Pod
/// runs.
pub const EVICTABLE: &str = "cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes";

/// What was done.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// Where the Pod goes.
    pub destination: String,
    /// The hash of the settings.
    pub settings: String,
    /// Names the Pod's directories on nodes that Pods share: the uid of the request that was injected.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub directory: String,
    /// What was added.
    pub sidecars: Vec<InjectedSidecar>,
    /// The claims that were replaced.
    pub claims: Vec<Claim>,
    /// Secrets that were added to the Pod's.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub image_pull_secrets: Vec<String>,
    /// The Pod's own grace period, where it was raised; `null` where it had none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub termination_grace_period_seconds: Option<Option<i64>>,
    /// Whether the first of the user's containers was made kubectl's default.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub default_container: bool,
    /// Whether [`EVICTABLE`] was set.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub evictable: bool,
    /// Whether `shareProcessNamespace` was set.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub share_process_namespace: bool,
}

/// One sidecar.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct InjectedSidecar {
    /// The container's name.
    pub container: String,
    /// Namespace and name of the Dataset.
    pub dataset: String,
    /// Names of the volumes that came with it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<String>,
}

/// A claim that was replaced.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Claim {
    /// The name of its volume.
    pub volume: String,
    /// The volume's source, as it was.
    pub persistent_volume_claim: Value,
    /// What stands before the sub paths of its mounts.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub sub_path: String,
    /// The mounts of it that had a propagation or readOnly of their own.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mounts: Vec<Mount>,
}

/// What a mount had before.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Mount {
    container: String,
    mount_path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    mount_propagation: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    read_only: Option<Value>,
}

impl Mount {
    /// What of a mount may be changed, if it has any of it.
    pub fn of(container: &str, mount: &Value) -> Option<Mount> {
        let mount_propagation = mount.get("mountPropagation").cloned();
        let read_only = mount.get("readOnly").cloned();
        (mount_propagation.is_some() || read_only.is_some()).then(|| Mount {
            container: container.to_string(),
            mount_path: mount.get("mountPath").and_then(Value::as_str).unwrap_or_default().to_string(),
            mount_propagation,
            read_only,
        })
    }
}

impl Status {
    /// Nothing done yet, by settings with this hash.
    pub fn new(destination: Destination, settings: String) -> Status {
        Status {
            destination: destination.name().into(),
            settings,
            directory: String::new(),
            sidecars: Vec::new(),
            claims: Vec::new(),
            image_pull_secrets: Vec::new(),
            termination_grace_period_seconds: None,
            default_container: false,
            evictable: false,
            share_process_namespace: false,
        }
    }

    /// The annotation's text.
    pub fn to_json(&self) -> Result<String> {
        serde_json::to_string(self).map_err(anyhow::Error::new)
    }

    /// The places of the claims by the names of their volumes.
    pub(crate) fn claims_by_volume(&self) -> Places {
        places(self.claims.iter().map(|claim| claim.volume.as_str()))
    }

    /// Whether annotations have a status.
    pub fn is_on(annotations: Texts<'_>) -> bool {
        annotations.get(ANNOTATION).is_some()
    }

    /// The volumes that came with sidecars, each with the place of its sidecar: the status says so, and only that sidecar
    /// mounts it. So a status can take no volume from a container of the user's, and a sidecar's own claim is served by no
    /// other sidecar.
    pub(crate) fn own_volumes(&self, pod: &Value) -> Places {
        let of = |(place, sidecar): (usize, &InjectedSidecar)| {
            sidecar.volumes.iter().map(|volume| (volume.clone(), place)).collect::<Vec<_>>()
        };
        let mut own: Places = self.sidecars.iter().enumerate().flat_map(of).collect();
        for list in CONTAINER_LISTS {
            for container in elements(pod.get("spec").and_then(|spec| spec.get(list))) {
                for uses in ["volumeMounts", "volumeDevices"] {
                    for volume in elements(container.get(uses)).iter().filter_map(name_of) {
                        let owner = own.get(volume).map(|place| self.sidecars[*place].container.as_str());
                        if owner.is_some() && owner != name_of(container) {
                            own.remove(volume);
                        }
                    }
                }
            }
        }
        own
    }

    /// The status that a Pod has. `None`: it has none.
    pub fn of(pod: &Value) -> Result<Option<Status>> {
        let annotation =
            pod.get("metadata").and_then(|metadata| metadata.get("annotations")?.get(ANNOTATION));
        let Some(text) = annotation.and_then(Value::as_str) else { return Ok(None) };
        // The API server would not have taken more.
        let status: Value =
            if text.len() > limits::ANNOTATIONS_MAX { Value::Null } else { text.parse().unwrap_or_default() };
        let status = Status::read(&status);
        status
            .map(Some)
            .with_context(|| format!("annotation {ANNOTATION} cannot be read: no injection wrote it"))
    }

    /// Read by hand: derived, this is 20 KB of the module.
    fn read(value: &Value) -> Option<Status> {
        Some(Status {
            destination: owned(value, "destination")?,
            settings: owned(value, "settings")?,
            directory: owned(value, "directory").unwrap_or_default(),
            sidecars: each(value, "sidecars", |sidecar| {
                Some(InjectedSidecar {
                    container: owned(sidecar, "container")?,
                    dataset: owned(sidecar, "dataset")?,
                    volumes: each(sidecar, "volumes", string)?,
                })
            })?,
            claims: each(value, "claims", |claim| {
                Some(Claim {
                    volume: owned(claim, "volume")?,
                    persistent_volume_claim: claim.get("persistentVolumeClaim")?.clone(),
                    sub_path: owned(claim, "subPath").unwrap_or_default(),
                    mounts: each(claim, "mounts", |mount| {
                        Some(Mount {
                            container: owned(mount, "container")?,
                            mount_path: owned(mount, "mountPath")?,
                            mount_propagation: mount.get("mountPropagation").cloned(),
                            read_only: mount.get("readOnly").cloned(),
                        })
                    })?,
                })
            })?,
            image_pull_secrets: each(value, "imagePullSecrets", string)?,
            termination_grace_period_seconds: value.get("terminationGracePeriodSeconds").map(Value::as_i64),
            default_container: value.get("defaultContainer") == Some(&Value::Bool(true)),
            evictable: value.get("evictable") == Some(&Value::Bool(true)),
            share_process_namespace: value.get("shareProcessNamespace") == Some(&Value::Bool(true)),
        })
    }
}

fn each<T>(value: &Value, key: &str, read: fn(&Value) -> Option<T>) -> Option<Vec<T>> {
    elements(value.get(key)).iter().map(read).collect()
}

fn owned(value: &Value, key: &str) -> Option<String> {
    string(value.get(key)?)
}

fn string(value: &Value) -> Option<String> {
    value.as_str().map(str::to_string)
}

/// Gives back the Pod as it was before the injection. `false`: nothing was injected.
pub fn uninject(pod: &mut Value) -> Result<bool> {
    let status = Status::of(pod)?;
    if let Some(status) = &status {
        undo(status, pod);
    }
    Ok(status.is_some())
}

/// Takes back what a status says.
pub fn undo(status: &Status, pod: &mut Value) {
    let claims = status.claims_by_volume();
    let mounts: Vec<_> = status.claims.iter().flat_map(|claim| &claim.mounts).collect();
    let place = |container: &str, path: &str| format!("{container}:{path}");
    let mounted = mounts.iter().map(|mount| place(&mount.container, &mount.mount_path));
    let by_place: Places = mounted.zip(0..).collect();
    let containers = places(status.sidecars.iter().map(|sidecar| sidecar.container.as_str()));
    let volumes = places(status.sidecars.iter().flat_map(|sidecar| &sidecar.volumes).map(String::as_str));
    let secrets = places(status.image_pull_secrets.iter().map(String::as_str));

    for list in ["initContainers", "containers"] {
        remove(pod, list, &containers);
        for container in elements_mut(pod, list) {
            let name = name_of(container).unwrap_or_default().to_string();
            let found = container.get_mut("volumeMounts").and_then(Value::as_array_mut);
            for mount in found.into_iter().flatten() {
                if let Some(claim) = name_of(mount).and_then(|volume| claims.get(volume)) {
                    let before = by_place.get(&place(&name, text(mount, "mountPath").unwrap_or_default()));
                    restore(before.map(|before| mounts[*before]), &status.claims[*claim].sub_path, mount);
                }
            }
        }
    }
    remove(pod, "volumes", &volumes);
    for volume in elements_mut(pod, "volumes") {
        let claim = name_of(volume).and_then(|name| status.claims.get(*claims.get(name)?));
        if let (Some(claim), Some(volume)) = (claim, volume.as_object_mut()) {
            volume.remove("hostPath");
            volume.insert("persistentVolumeClaim".into(), claim.persistent_volume_claim.clone());
        }
    }
    remove(pod, "imagePullSecrets", &secrets);
    if let Some(spec) = pod.get_mut("spec").and_then(Value::as_object_mut) {
        match status.termination_grace_period_seconds {
            Some(Some(seconds)) => drop(spec.insert("terminationGracePeriodSeconds".into(), seconds.into())),
            Some(None) => drop(spec.remove("terminationGracePeriodSeconds")),
            None => {}
        }
        if status.share_process_namespace {
            spec.remove("shareProcessNamespace");
        }
    }
    if let Some(metadata) = pod.get_mut("metadata").and_then(Value::as_object_mut) {
        if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
            annotations.remove(ANNOTATION);
            let added = [(DEFAULT_CONTAINER, status.default_container), (EVICTABLE, status.evictable)];
            for (key, _) in added.iter().filter(|(_, is_added)| *is_added) {
                annotations.remove(*key);
            }
            if annotations.is_empty() {
                metadata.remove("annotations");
            }
        }
    }
}

/// Puts back what a mount of a replaced claim had.
fn restore(before: Option<&Mount>, sub_path: &str, mount: &mut Value) {
    let Some(mount) = mount.as_object_mut() else { return };
    let put_before = [("subPath", sub_path.to_string()), ("subPathExpr", sub_path.replace("$(", "$$("))];
    for (key, put_before) in put_before.into_iter().filter(|_| !sub_path.is_empty()) {
        let own = mount.get(key).and_then(Value::as_str).and_then(|path| path.strip_prefix(&put_before));
        match own.map(|own| own.strip_prefix('/').unwrap_or(own).to_string()) {
            Some(own) if own.is_empty() => drop(mount.remove(key)),
            Some(own) => drop(mount.insert(key.into(), own.into())),
            None => {}
        }
    }
    let mut put_back = |key: &str, value: Option<&Value>| match value {
        Some(value) => drop(mount.insert(key.into(), value.clone())),
        None => drop(mount.remove(key)),
    };
    put_back("mountPropagation", before.and_then(|before| before.mount_propagation.as_ref()));
    put_back("readOnly", before.and_then(|before| before.read_only.as_ref()));
}

fn elements_mut<'v>(pod: &'v mut Value, list: &str) -> &'v mut [Value] {
    let list = pod.get_mut("spec").and_then(|spec| spec.get_mut(list)).and_then(Value::as_array_mut);
    list.map(Vec::as_mut_slice).unwrap_or_default()
}

/// Removes elements of a list by name, and the list when nothing is left of it.
fn remove(pod: &mut Value, key: &str, added: &Places) {
    let Some(spec) = pod.get_mut("spec").and_then(Value::as_object_mut) else { return };
    let Some(list) = spec.get_mut(key).and_then(Value::as_array_mut) else { return };
    let before = list.len();
    list.retain(|element| !name_of(element).is_some_and(|name| added.contains_key(name)));
    if list.is_empty() && before > 0 {
        spec.remove(key);
    }
}
