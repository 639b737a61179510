//! Which claims are Datasets, where is each mounted, and what serves it?
//!
//! With `datasetsFrom: cluster` the answer is found by Fluid's own rules, in a fixed order of reads, at most
//! four for a claim: PersistentVolumeClaim, Dataset, PersistentVolume and, unless `fluid-fuse` serves the
//! Dataset's own mounts, the fuse DaemonSet. An ordinary claim costs one. With `datasetsFrom: settings` nothing
//! is read.
//!
//! This module finds; what becomes of the findings in the Pod is decided in [`crate::sidecar`] and
//! [`crate::plan`]. It does not know the Pod.

use fluid_sidecar_layout::{MountPoint, Runtime};
use serde_json::{Map, Value, json};

use crate::cluster::{Host, Kind, ObjectRef, ReadError, get};
use crate::request::Entries;
use crate::settings::{DatasetsFrom, Settings, SidecarFrom};

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
    /// An image of the settings, which knows itself what to serve.
    Image(String),
    /// `fluid-fuse`.
    FluidFuse {
        /// From `sidecarImages`.
        image: String,
        /// What it serves.
        source: Source,
    },
}

/// What `fluid-fuse` serves.
#[derive(Clone, Debug, PartialEq)]
pub enum Source {
    /// One URL.
    Url(String),
    /// The mounts of a Dataset.
    Mounts {
        /// In the form of Fluid's configuration of a ThinRuntime, with the names of environment variables
        /// where Fluid has files of secrets.
        config: Value,
        /// The variables that hold secrets.
        secrets: Vec<SecretVariable>,
    },
}

/// An environment variable whose value kubelet takes from a Secret: the policy never sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretVariable {
    /// The variable.
    pub name: String,
    /// The Secret, in the Pod's namespace.
    pub secret: String,
    /// Its key.
    pub key: String,
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
            let image = settings.image(rule.runtime).unwrap_or_default().to_string();
            Ok(Some(Dataset {
                namespace: namespace.to_string(),
                name: claim.to_string(),
                runtime: rule.runtime,
                data: mount_point.clone(),
                mount_point,
                server: match &rule.source {
                    Some(url) => Server::FluidFuse { image, source: Source::Url(url.clone()) },
                    None => Server::Image(image),
                },
            }))
        }
    }
}

/// Whether a claim is a Dataset's, without asking what serves it. A claim that does not exist is none.
pub fn is_dataset(
    claim: &str,
    namespace: &str,
    settings: &Settings,
    host: &dyn Host,
) -> Result<bool, String> {
    match &settings.datasets_from {
        DatasetsFrom::Cluster => {
            let object = claim_ref(claim, namespace);
            match get(host, &object, CLAIM_MASKS) {
                Ok(found) => Ok(dataset_name(&found, claim).is_some()),
                Err(ReadError::NotFound) => Ok(false),
                Err(error) => Err(explain(&object, error, "")),
            }
        }
        DatasetsFrom::Settings(rules) => {
            Ok(rules.iter().any(|rule| rule.claim.matches(claim) && rule.namespace.matches(namespace)))
        }
    }
}

const CLAIM_MASKS: &[&str] = &["spec.volumeName"];

fn claim_ref<'a>(claim: &'a str, namespace: &'a str) -> ObjectRef<'a> {
    ObjectRef { kind: Kind::PersistentVolumeClaim, namespace: Some(namespace), name: claim }
}

fn from_cluster(
    claim: &str,
    namespace: &str,
    settings: &Settings,
    host: &dyn Host,
) -> Result<Option<Dataset>, String> {
    let found = read(host, &claim_ref(claim, namespace), CLAIM_MASKS, "create it before the Pod")?;
    let Some(name) = dataset_name(&found, claim) else { return Ok(None) };

    let object = ObjectRef { kind: Kind::Dataset, namespace: Some(namespace), name: &name };
    let mut masks = vec!["status.conditions", "status.phase", "status.runtimes"];
    if settings.sidecar_from == SidecarFrom::FluidFuse {
        masks.extend(["spec.accessModes", "spec.mounts", "spec.sharedEncryptOptions", "spec.sharedOptions"]);
    }
    let dataset = read(host, &object, &masks, "create it, or remove the claim")?;
    let runtime = bound_runtime(&dataset, &object, settings)?;

    // Fluid names the volume after the Dataset (`RuntimeInfo.GetPersistentVolumeName`).
    let volume_name = format!("{namespace}-{name}");
    let volume_ref = ObjectRef { kind: Kind::PersistentVolume, namespace: None, name: &volume_name };
    let volume = read(host, &volume_ref, &["spec.claimRef", "spec.csi"], "wait until Fluid has made it")?;
    // `a-b` and `c` give the same name as `a` and `b-c`.
    if text(&volume, "/spec/claimRef/namespace").is_some_and(|other| other != namespace) {
        return Err(format!("{volume_ref} is another namespace's; rename the Dataset"));
    }
    let (mount_point, data) =
        mount_point(&volume, &settings.mount_root).map_err(|error| format!("{volume_ref}: {error}"))?;

    let server = match settings.sidecar_from {
        SidecarFrom::DaemonSet => daemonset(&name, namespace, runtime, host)?,
        SidecarFrom::FluidFuse => Server::FluidFuse {
            image: settings.image(Runtime::Thin).unwrap_or_default().to_string(),
            source: mounts(&dataset).map_err(|error| format!("{object}: {error}"))?,
        },
    };
    Ok(Some(Dataset { namespace: namespace.to_string(), name, runtime, mount_point, data, server }))
}

/// The Runtime of a Dataset that can be mounted: Fluid's check before injection (`DatasetMutator.PreCheck`).
fn bound_runtime(dataset: &Value, object: &ObjectRef<'_>, settings: &Settings) -> Result<Runtime, String> {
    let phase = text(dataset, "/status/phase").unwrap_or_default();
    if matches!(phase, "" | "NotBound") {
        let conditions = dataset.pointer("/status/conditions").and_then(Value::as_array);
        let not_ready = conditions.into_iter().flatten().find_map(|condition| {
            (text(condition, "/type") == Some("NotReady")).then(|| text(condition, "/message")).flatten()
        });
        let because = not_ready.map(|message| format!(" ({message})")).unwrap_or_default();
        return Err(format!(
            "{object} is not bound{because}; create its Runtime and wait until its phase is Bound"
        ));
    }
    if phase == "Failed" && !settings.inject_failed_datasets {
        return Err(format!(
            "{object} is in phase Failed; repair its Runtime, or set injectFailedDatasets: true"
        ));
    }
    let kind = text(dataset, "/status/runtimes/0/type")
        .ok_or_else(|| format!("{object} names no Runtime in status.runtimes; create its Runtime"))?;
    Runtime::from_name(kind).ok_or_else(|| {
        let known = Runtime::ALL.map(Runtime::name).join(", ");
        format!("{object} is served by runtime {kind:?}, which this policy does not know; it knows {known}")
    })
}

fn daemonset(dataset: &str, namespace: &str, runtime: Runtime, host: &dyn Host) -> Result<Server, String> {
    let name = format!("{dataset}{}", runtime.daemonset_suffix());
    let object = ObjectRef { kind: Kind::DaemonSet, namespace: Some(namespace), name: &name };
    let mut daemonset =
        read(host, &object, &["spec.template.spec"], "wait until Fluid has set up the Runtime")?;
    let pod_spec = daemonset.pointer_mut("/spec/template/spec").map(Value::take).unwrap_or_default();
    if pod_spec.pointer("/containers/0").is_none() {
        return Err(format!("{object} has no container in spec.template.spec.containers"));
    }
    Ok(Server::DaemonSet { name: object.to_string(), pod_spec })
}

/// `spec.mounts` of a Dataset with the shared options, as Fluid gives them to a ThinRuntime, but for secrets:
/// each becomes a variable, named in `secretOptions`.
fn mounts(dataset: &Value) -> Result<Source, String> {
    let list = |value: &Value, pointer: &str| {
        value.pointer(pointer).and_then(Value::as_array).cloned().unwrap_or_default()
    };
    let mut secrets = Vec::new();
    let mut mounts = Vec::new();
    for (index, mount) in list(dataset, "/spec/mounts").iter().enumerate() {
        let url = text(mount, "/mountPoint")
            .ok_or_else(|| format!("spec.mounts[{index}].mountPoint is missing"))?;
        if url.starts_with("dataset://") {
            return Err(format!(
                "spec.mounts[{index}] refers to {url}, which sidecarFrom: fluid-fuse does not follow; \
                 use sidecarFrom: daemonset"
            ));
        }
        let mut options =
            dataset.pointer("/spec/sharedOptions").and_then(Value::as_object).cloned().unwrap_or_default();
        options.extend(mount.get("options").and_then(Value::as_object).cloned().unwrap_or_default());
        let mut secret_options = Map::new();
        let encrypted = [list(dataset, "/spec/sharedEncryptOptions"), list(mount, "/encryptOptions")];
        for option in encrypted.iter().flatten() {
            let field = |pointer: &str| text(option, pointer).map(str::to_string);
            let (Some(option), Some(secret), Some(key)) =
                (field("/name"), field("/valueFrom/secretKeyRef/name"), field("/valueFrom/secretKeyRef/key"))
            else {
                return Err(format!(
                    "an encrypted option of spec.mounts[{index}] needs name and valueFrom.secretKeyRef with name and key"
                ));
            };
            let name = format!("FLUID_FUSE_SECRET_{}", secrets.len());
            secret_options.insert(option, name.as_str().into());
            secrets.push(SecretVariable { name, secret, key });
        }
        let mut config = json!({"mountPoint": url, "options": options, "secretOptions": secret_options});
        for key in ["name", "path", "readOnly"] {
            if let Some(value) = mount.get(key) {
                config[key] = value.clone();
            }
        }
        mounts.push(config);
    }
    if mounts.is_empty() {
        return Err("spec.mounts is empty; there is nothing to serve".into());
    }
    let access_modes = list(dataset, "/spec/accessModes");
    Ok(Source::Mounts { config: json!({"mounts": mounts, "accessModes": access_modes}), secrets })
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

/// The labels of a namespace.
pub fn namespace_labels(namespace: &str, host: &dyn Host) -> Result<Entries, String> {
    let object = ObjectRef { kind: Kind::Namespace, namespace: None, name: namespace };
    // A mask must name something; all that is wanted is metadata, which always comes.
    let object = read(host, &object, &["spec.finalizers"], "create it before its Pods")?;
    let labels = object.pointer("/metadata/labels").and_then(Value::as_object);
    let text = |(key, value): (&String, &Value)| Some((key.clone(), value.as_str()?.to_string()));
    Ok(labels.into_iter().flatten().filter_map(text).collect())
}

fn read(host: &dyn Host, object: &ObjectRef<'_>, masks: &[&str], fix: &str) -> Result<Value, String> {
    get(host, object, masks).map_err(|error| explain(object, error, fix))
}

/// One sentence with what to do; `fix` is for an object that does not exist.
fn explain(object: &ObjectRef<'_>, error: ReadError, fix: &str) -> String {
    let (api_version, kind) = (object.kind.api_version(), object.kind.name());
    match error {
        ReadError::NotFound => format!("{object} does not exist; {fix}"),
        ReadError::Forbidden => format!(
            "{object} may not be read by the policy server's service account; grant it get on {api_version} {kind}"
        ),
        ReadError::NotGranted => format!(
            "{object} may not be read by this policy; add {api_version} {kind} to its contextAwareResources, \
             or use the setting datasetsFrom: settings"
        ),
        ReadError::UnknownKind => {
            format!("{object} cannot be read: the cluster has no {api_version} {kind}; install Fluid")
        }
        ReadError::Unreachable(text) => format!("{object} could not be read: {text}; try again"),
    }
}
