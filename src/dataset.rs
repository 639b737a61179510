//! Which claims are Datasets, where is each mounted, and what serves it?
//!
//! With `datasetsFrom: cluster` the answer is found by Fluid's own rules, in a fixed order of reads, at most
//! four for a claim: PersistentVolumeClaim, Dataset, PersistentVolume and the fuse DaemonSet or, where `fluid-fuse`
//! serves a Dataset that refers to another one, that Dataset; and one for each claim that the client mounts itself. An
//! ordinary claim costs one. With `datasetsFrom: settings` nothing is read.
//!
//! This module finds; what becomes of the findings in the Pod is decided in [`crate::sidecar`] and
//! [`crate::injection`]. Of the Pod it knows the volumes that are claims.

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use fluid_sidecar_layout::config::{Config, Mount, writable};
use fluid_sidecar_layout::contract::env;
use fluid_sidecar_layout::source::{self, SourceError};
use fluid_sidecar_layout::{MountPoint, Named as _, Runtime, below};
use serde_json::Value;

use crate::cluster::{CAPABILITY, Cluster, Kind, Masks, ObjectRef, READS_MAX, ReadError, get, is_name};
use crate::json::{Mask, Places, all, at, done, elements, name_of, text};
use crate::reason::{Because as _, Code, Reason};
use crate::request::{ClaimVolume, Entries, Texts};
use crate::settings::{ClaimRule, DatasetsFrom, Settings, SidecarFrom, entry_of};

/// One Dataset and its place.
#[derive(Clone, Debug, PartialEq)]
pub struct Dataset {
    /// Its namespace, which is the claim's.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The kind of Runtime that serves it: of a Dataset that refers to another one, that one's.
    pub runtime: Runtime,
    /// Where its client mounts it, by Fluid's convention.
    pub mount_point: MountPoint,
    /// The type of its file system, as Fluid looks for it in the mount table.
    pub file_system: String,
    /// Namespace and name of the Dataset that it refers to, if that is in another namespace.
    pub refers_to: Option<(String, String)>,
}

/// What serves a Dataset.
#[derive(Clone, PartialEq)]
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
#[derive(Clone, PartialEq)]
pub enum Source {
    /// One URL.
    Url(String),
    /// The mounts of a Dataset.
    Mounts {
        /// In the form of Fluid's configuration of a ThinRuntime, with the names of environment variables
        /// where Fluid has files of secrets.
        config: Config,
        /// The variables that hold secrets.
        secrets: Vec<SecretVariable>,
    },
}

impl Source {
    /// Whether some of it may be a directory of the sidecar's.
    pub fn may_be_local(&self) -> bool {
        let is_local = |url: &str| matches!(source::parse(url), Ok(source::Source::Directory(_)) | Err(_));
        match self {
            Source::Url(url) => is_local(url),
            Source::Mounts { config, .. } => config.mounts.iter().any(|mount| is_local(&mount.mount_point)),
        }
    }
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

/// A mount and the volumes that show it.
#[derive(Clone)]
pub struct Use {
    /// What is mounted: of several Datasets of one mount point, the one that was found first.
    pub dataset: Dataset,
    /// What serves it.
    pub server: Server,
    /// The volumes, in their order.
    pub volumes: Vec<Shown>,
}

/// A volume that shows a mount, or a part of it.
#[derive(Clone)]
pub struct Shown {
    /// The volume.
    pub volume: ClaimVolume,
    /// The name of the Dataset whose claim it is.
    pub dataset: String,
    /// What the Dataset has of the mount: a path without `.` and `..`; empty is all.
    pub sub_path: String,
}

/// A Dataset that was found for a claim.
struct Found {
    dataset: Dataset,
    server: Server,
    sub_path: String,
}

/// Finds the Datasets of claims, in the order of their first volumes. Several claims may show one mount: of one Dataset,
/// of references to one, or of a Dataset and a reference to it. Two sidecars would mount over one another. Claims that are
/// not Datasets are noted.
pub fn uses(
    claims: Vec<ClaimVolume>,
    namespace: &str,
    settings: &Settings,
    cluster: &impl Cluster,
    notes: &mut Vec<Reason>,
) -> Result<Vec<Use>, Reason> {
    let mut uses: Vec<Use> = Vec::new();
    // What was found for each claim, and where it was put: the place in `uses`, the name of the Dataset, and the sub path.
    let mut found: Vec<Option<(usize, String, String)>> = Vec::new();
    let (mut by_claim, mut by_mount_point) = (Places::new(), Places::new());
    for volume in claims {
        let claim = volume.claim.as_str();
        if claim.is_empty() {
            let text = format!(
                "spec.volumes[{}].persistentVolumeClaim.claimName is missing; name the claim",
                volume.index
            );
            return Err(Reason::new(Code::Malformed, text));
        }
        let place = match by_claim.get(claim) {
            Some(place) => *place,
            None => {
                let one = resolve(claim, namespace, settings, cluster).because(Code::Unresolved)?;
                if one.is_none() {
                    let text = format!("claim {claim} is not a Dataset's");
                    notes.push(Reason::new(Code::OrdinaryClaim, text));
                }
                found.push(one.map(|Found { dataset, server, sub_path }| {
                    let name = dataset.name.clone();
                    let mount_point = dataset.mount_point.to_string();
                    let place = *by_mount_point.entry(mount_point).or_insert_with(|| {
                        uses.push(Use { dataset, server, volumes: Vec::new() });
                        uses.len() - 1
                    });
                    (place, name, sub_path)
                }));
                by_claim.insert(claim.to_string(), found.len() - 1);
                found.len() - 1
            }
        };
        if let Some((place, dataset, sub_path)) = &found[place] {
            let shown = Shown { volume, dataset: dataset.clone(), sub_path: sub_path.clone() };
            uses[*place].volumes.push(shown);
        }
    }
    Ok(uses)
}

/// Finds the Dataset of a claim. `None`: an ordinary claim. The error is one sentence that names the object
/// and the fix.
fn resolve(
    claim: &str,
    namespace: &str,
    settings: &Settings,
    cluster: &impl Cluster,
) -> Result<Option<Found>> {
    match settings.datasets_from {
        DatasetsFrom::Cluster => from_cluster(claim, namespace, settings, cluster),
        DatasetsFrom::Settings => {
            let Some(rule) = rule(claim, namespace, settings) else { return Ok(None) };
            ensure!(is_name(claim), "{claim:?} is no name of a PersistentVolumeClaim");
            let mount_point = MountPoint::new(&settings.mount_root, rule.runtime, namespace, claim)
                .with_context(|| format!("claim {namespace}/{claim}"))?;
            let image = settings.image(rule.runtime).unwrap_or_default().to_string();
            let server = match &rule.source {
                Some(url) => Server::FluidFuse { image, source: Source::Url(url.clone()) },
                None => Server::Image(image),
            };
            let dataset = Dataset {
                namespace: namespace.to_string(),
                name: claim.to_string(),
                runtime: rule.runtime,
                mount_point,
                file_system: String::new(),
                refers_to: None,
            };
            Ok(Some(Found { dataset, server, sub_path: String::new() }))
        }
    }
}

/// What the settings say of a claim: the first rule that matches.
fn rule<'s>(claim: &str, namespace: &str, settings: &'s Settings) -> Option<&'s ClaimRule> {
    settings.datasets.iter().find(|rule| rule.claim.matches(claim) && rule.namespace.matches(namespace))
}

/// The first claim that is a Dataset's, without asking what serves it. A claim that does not exist is none.
pub fn first<'c>(
    claims: impl IntoIterator<Item = &'c str>,
    namespace: &str,
    settings: &Settings,
    cluster: &impl Cluster,
) -> Result<Option<&'c str>> {
    let mut asked = Places::new();
    for claim in claims.into_iter().filter(|claim| asked.insert(claim.to_string(), 0).is_none()) {
        let is_dataset = match settings.datasets_from {
            DatasetsFrom::Cluster => {
                let object = claim_ref(claim, namespace);
                match get::<ClaimMask>(cluster, &object) {
                    Ok(found) => dataset_name(&found, claim).is_some(),
                    Err(ReadError::NotFound) => false,
                    Err(error) => return Err(explain(&object, error, "")),
                }
            }
            DatasetsFrom::Settings => rule(claim, namespace, settings).is_some(),
        };
        if is_dataset {
            return Ok(Some(claim));
        }
    }
    Ok(None)
}

/// What is read of a claim. A mask must name something beside metadata, or the host sends all.
#[derive(Clone, Debug)]
struct ClaimMask;

impl Masks for ClaimMask {
    const MASKS: &'static [Mask] = &[Mask("metadata", &[all("labels")]), Mask("spec", &[all("volumeName")])];
}

/// What says whether a Dataset can be mounted, and by which Runtime.
const STATUS: Mask = Mask("status", &[all("conditions"), all("phase"), Mask("runtimes", &[all("type")])]);

/// What is read of a Dataset.
#[derive(Clone, Debug)]
struct StatusMask;

impl Masks for StatusMask {
    const MASKS: &'static [Mask] = &[STATUS];
}

/// The same with its mounts.
#[derive(Clone, Debug)]
struct StatusAndMountsMask;

impl Masks for StatusAndMountsMask {
    const MASKS: &'static [Mask] = &[
        Mask("spec", &[all("accessModes"), all("mounts"), all("sharedEncryptOptions"), all("sharedOptions")]),
        STATUS,
    ];
}

/// What is read of a PersistentVolume.
#[derive(Clone, Debug)]
struct VolumeMask;

impl Masks for VolumeMask {
    const MASKS: &'static [Mask] = &[Mask(
        "spec",
        &[
            Mask("claimRef", &[all("name"), all("namespace")]),
            Mask(
                "csi",
                &[
                    all("driver"),
                    Mask("volumeAttributes", &[all("fluid_path"), all("fluid_sub_path"), all("mount_type")]),
                ],
            ),
        ],
    )];
}

/// What is read of a fuse DaemonSet.
#[derive(Clone, Debug)]
struct PodTemplateMask;

impl Masks for PodTemplateMask {
    const MASKS: &'static [Mask] = &[Mask("spec", &[Mask("template", &[all("spec")])])];
}

/// What is read of a Namespace.
#[derive(Clone, Debug)]
struct LabelsMask;

impl Masks for LabelsMask {
    const MASKS: &'static [Mask] = &[Mask("metadata", &[all("labels")]), Mask("spec", &[all("finalizers")])];
}

fn claim_ref<'a>(claim: &'a str, namespace: &'a str) -> ObjectRef<'a> {
    ObjectRef { kind: Kind::PersistentVolumeClaim, namespace: Some(namespace), name: claim }
}

fn from_cluster(
    claim: &str,
    namespace: &str,
    settings: &Settings,
    cluster: &impl Cluster,
) -> Result<Option<Found>> {
    let object = claim_ref(claim, namespace);
    let found = match get::<ClaimMask>(cluster, &object) {
        Err(ReadError::NotFound) => return Err(missing_claim(&object, cluster)),
        found => found.map_err(|error| explain(&object, error, ""))?,
    };
    let Some(name) = dataset_name(&found, claim) else { return Ok(None) };

    let object = ObjectRef { kind: Kind::Dataset, namespace: Some(namespace), name: &name };
    let fix = "create it, or remove the claim";
    let dataset = match settings.sidecar_from {
        SidecarFrom::DaemonSet => read::<StatusMask>(cluster, &object, fix)?,
        SidecarFrom::FluidFuse => read::<StatusAndMountsMask>(cluster, &object, fix)?,
    };
    let status = at(&dataset, &["status"]);
    check_bound(status, &object)?;
    ensure!(
        text(status, "phase") != Some("Failed") || settings.inject_failed_datasets,
        "{object} is in phase Failed; repair its Runtime, or set injectFailedDatasets: true"
    );
    let named = runtime(status, &object);
    let named = match settings.sidecar_from {
        SidecarFrom::DaemonSet => Some(named?),
        SidecarFrom::FluidFuse => named.ok(),
    };

    // Fluid names the volume after the Dataset (`RuntimeInfo.GetPersistentVolumeName`).
    let volume_name = format!("{namespace}-{name}");
    let volume_ref = ObjectRef { kind: Kind::PersistentVolume, namespace: None, name: &volume_name };
    let volume = read::<VolumeMask>(cluster, &volume_ref, "wait until Fluid has made it")?;
    // `a-b` and `c` give the same name as `a` and `b-c`.
    let owner = at(&volume, &["spec", "claimRef"]);
    ensure!(
        text(owner, "namespace") == Some(namespace) && text(owner, "name") == Some(&name),
        "{volume_ref} is not that of claim {namespace}/{name}, but of another one, or of none; rename the Dataset, or remove \
         the volume"
    );
    let csi = at(&volume, &["spec", "csi"]);
    ensure!(
        text(csi, "driver") == Some("fuse.csi.fluid.io"),
        "{volume_ref}: spec.csi.driver is not fuse.csi.fluid.io; it is not a volume that Fluid made"
    );
    let attributes = at(csi, &["volumeAttributes"]);
    let (mount_point, sub_path) =
        mount_point(attributes, &settings.mount_root).with_context(|| volume_ref.to_string())?;
    // A Dataset that refers to another one has the mount point of that one, and a ThinRuntime, whatever serves that one.
    let owner = mount_point.owner(&settings.mount_root);
    let refers_to = owner.filter(|(_, owners_namespace, _)| *owners_namespace != namespace);
    let refers_to = refers_to.map(|(_, namespace, name)| (namespace.to_string(), name.to_string()));

    let runtime = owner.map(|(runtime, ..)| runtime).or(named);
    let refused = runtime.and_then(|runtime| {
        let because = runtime.facts().refused?;
        Some(anyhow!("{object}: no sidecar can be made of its {}: {because}", runtime.about()))
    });

    let (runtime, server) = match named.filter(|_| settings.sidecar_from == SidecarFrom::DaemonSet) {
        Some(named) => {
            if let Some(refused) = refused {
                return Err(refused);
            }
            (runtime.unwrap_or(named), daemonset(&name, namespace, named, cluster)?)
        }
        None => {
            let image = settings.image(Runtime::Thin).unwrap_or_default().to_string();
            let owner = owner.map(|(_, namespace, name)| (namespace, name));
            let source = mounts(at(&dataset, &["spec"]), &object, owner, settings, cluster);
            // Its own client could not serve them either.
            let source = source.map_err(|error| refused.unwrap_or(error))?;
            (Runtime::Thin, Server::FluidFuse { image, source })
        }
    };
    let file_system = text(attributes, "mount_type").unwrap_or_default().to_string();
    done((found, dataset, volume));
    let namespace = namespace.to_string();
    let dataset = Dataset { namespace, name, runtime, mount_point, file_system, refers_to };
    Ok(Some(Found { dataset, server, sub_path }))
}

/// Why there is no claim. Fluid makes that of a Dataset when the Dataset is bound, and nobody else should.
fn missing_claim(object: &ObjectRef<'_>, cluster: &impl Cluster) -> anyhow::Error {
    let dataset = ObjectRef { kind: Kind::Dataset, ..object.clone() };
    match get::<StatusMask>(cluster, &dataset) {
        Ok(found) => match check_bound(at(&found, &["status"]), &dataset) {
            Ok(()) => anyhow!("{object} does not exist, although {dataset} is bound; try again in a second"),
            Err(error) => error,
        },
        Err(_) => anyhow!(
            "{object} does not exist; create it before the Pod, or the Dataset of its name, of which Fluid makes it"
        ),
    }
}

/// Whether Fluid has set up what serves a Dataset: its check before injection (`DatasetMutator.PreCheck`). A Dataset
/// stays bound when what serves it ends.
fn check_bound(status: &Value, object: &ObjectRef<'_>) -> Result<()> {
    if !matches!(text(status, "phase"), None | Some("" | "NotBound")) {
        return Ok(());
    }
    let not_ready = elements(status.get("conditions")).iter().find_map(|condition| {
        (text(condition, "type") == Some("NotReady")).then(|| text(condition, "message")).flatten()
    });
    match not_ready {
        Some(message) => {
            bail!(
                "{object} is not bound, because Fluid could not set up its Runtime: {message}; mend that first"
            )
        }
        None => bail!(
            "{object} is not bound; create a Runtime of the same name, if there is none, and wait until the phase of the \
             Dataset is Bound"
        ),
    }
}

/// The kind of Runtime that a Dataset names.
fn runtime(status: &Value, object: &ObjectRef<'_>) -> Result<Runtime> {
    let kind = elements(status.get("runtimes")).first().and_then(|runtime| text(runtime, "type"));
    let kind =
        kind.ok_or_else(|| anyhow!("{object} names no Runtime in status.runtimes; create its Runtime"))?;
    Runtime::from_name(kind).ok_or_else(|| {
        let known: Vec<_> = Runtime::served().map(Runtime::name).collect();
        let known = known.join(", ");
        anyhow!(
            "{object} is served by runtime {kind:?}, which this policy does not know; it knows {known}, and with \
             sidecarFrom: fluid-fuse the Runtime does not matter"
        )
    })
}

fn daemonset(dataset: &str, namespace: &str, runtime: Runtime, cluster: &impl Cluster) -> Result<Server> {
    let name = format!("{dataset}{}", runtime.facts().daemonset_suffix);
    let object = ObjectRef { kind: Kind::DaemonSet, namespace: Some(namespace), name: &name };
    // Fluid makes it before the claim.
    let fix = match runtime {
        Runtime::Cache => {
            "Fluid does not make it again: create the Runtime anew, with a client (not spec.client.disabled)"
        }
        _ => "Fluid does not make it again: create the Runtime anew",
    };
    let mut daemonset = read::<PodTemplateMask>(cluster, &object, fix)?;
    let pod_spec = daemonset.get_mut("spec").and_then(|spec| spec.get_mut("template")?.get_mut("spec"));
    let pod_spec = pod_spec.map(Value::take).unwrap_or_default();
    ensure!(
        !elements(pod_spec.get("containers")).is_empty(),
        "{object} has no container in spec.template.spec.containers"
    );
    check_claims(&object, &pod_spec, namespace, cluster)?;
    Ok(Server::DaemonSet { name: object.to_string(), pod_spec })
}

/// Checks the claims that the client mounts itself. One that its Dataset wraps (`pvc://`) is mounted as it is; one of another
/// Dataset would need a sidecar for the sidecar.
fn check_claims(
    daemonset: &ObjectRef<'_>,
    pod_spec: &Value,
    namespace: &str,
    cluster: &impl Cluster,
) -> Result<()> {
    let container = at(pod_spec, &["containers"]).get(0);
    let mounted: Vec<_> = ["volumeMounts", "volumeDevices"]
        .iter()
        .flat_map(|list| elements(container.and_then(|container| container.get(*list))))
        .filter_map(name_of)
        .collect();
    for volume in elements(pod_spec.get("volumes")) {
        let claim = text(at(volume, &["persistentVolumeClaim"]), "claimName");
        let Some(claim) = claim.filter(|_| name_of(volume).is_some_and(|name| mounted.contains(&name)))
        else {
            continue;
        };
        let object = claim_ref(claim, namespace);
        match get::<ClaimMask>(cluster, &object) {
            Ok(found) => ensure!(
                !is_made_by_fluid(&found),
                "{daemonset} mounts {object}, which is another Dataset's: a sidecar cannot read through another one; \
                 have the Dataset name the sources of that one instead of pvc://{claim}"
            ),
            // It is said of references that nobody copies it; otherwise kubelet waits for it.
            Err(ReadError::NotFound) => {}
            Err(error) => return Err(explain(&object, error, "")),
        }
    }
    Ok(())
}

/// What `fluid-fuse` serves of a Dataset: its mounts, or those of the Dataset that it refers to. That is the one that
/// Fluid has bound it to, whatever its owner writes afterwards.
fn mounts(
    spec: &Value,
    object: &ObjectRef<'_>,
    bound_to: Option<(&str, &str)>,
    settings: &Settings,
    cluster: &impl Cluster,
) -> Result<Source> {
    let modes = access_modes(spec);
    let Some((namespace, name)) = bound_to.filter(|_| is_reference(spec)) else {
        return own_mounts(spec, modes, settings).with_context(|| object.to_string());
    };
    let owner = ObjectRef { kind: Kind::Dataset, namespace: Some(namespace), name };
    let found = read::<StatusAndMountsMask>(cluster, &owner, "create it, or correct the mountPoint")
        .with_context(|| format!("{object} refers to another one"))?;
    let owners = at(&found, &["spec"]);
    // What may not be written here may not be written there, and the other way round.
    let modes = if writable(&modes) { access_modes(owners) } else { modes };
    let source = own_mounts(owners, modes, settings).with_context(|| owner.to_string());
    done(found);
    source
}

/// Whether a Dataset refers to another one: `dataset://<namespace>/<name>[/<part>]`, and nothing beside it.
fn is_reference(spec: &Value) -> bool {
    let [mount] = elements(spec.get("mounts")) else { return false };
    text(mount, "mountPoint").is_some_and(|url| url.starts_with("dataset://"))
}

/// `spec.accessModes`.
fn access_modes(spec: &Value) -> Vec<String> {
    let modes = elements(spec.get("accessModes")).iter().filter_map(Value::as_str);
    modes.map(str::to_string).collect()
}

/// `spec.mounts` of a Dataset with the shared options, as Fluid gives them to a ThinRuntime, but for secrets:
/// each becomes a variable, named in `secretOptions`.
fn own_mounts(spec: &Value, access_modes: Vec<String>, settings: &Settings) -> Result<Source> {
    let overrides = entry_of(&settings.sidecars, Runtime::Thin);
    let has_directories =
        overrides.is_some_and(|overrides| overrides.env.contains_key(env::ALLOW_DIRECTORIES));
    let mut secrets = Vec::new();
    let mut mounts = Vec::new();
    for (index, mount) in elements(spec.get("mounts")).iter().enumerate() {
        let url =
            text(mount, "mountPoint").ok_or_else(|| anyhow!("spec.mounts[{index}].mountPoint is missing"))?;
        let source = source::parse(url).map_err(|error| {
            let text = format!("spec.mounts[{index}].mountPoint: {error}");
            match error {
                SourceError::Unsupported(_) => anyhow!("{text}; such a Dataset needs sidecarFrom: daemonset"),
                _ => anyhow!(text),
            }
        })?;
        ensure!(
            has_directories || !matches!(source, source::Source::Directory(_)),
            "spec.mounts[{index}].mountPoint: {url} is a directory of a node, which a sidecar that is made for fluid-fuse does \
             not have; such a Dataset needs sidecarFrom: daemonset, or an image with the directory and its name in \
             sidecars.thin.env.{}",
            env::ALLOW_DIRECTORIES
        );
        let mut options = Entries::new();
        for given in [at(spec, &["sharedOptions"]), at(mount, &["options"])] {
            for (option, value) in given.as_object().into_iter().flatten() {
                let value = value.as_str();
                let value = value
                    .with_context(|| format!("option {option:?} of spec.mounts[{index}] must be a string"))?;
                options.insert(option.clone(), value.to_string());
            }
        }
        let mut secret_options = Entries::new();
        let encrypted = [spec.get("sharedEncryptOptions"), mount.get("encryptOptions")];
        for option in encrypted.into_iter().flat_map(elements) {
            let reference = at(option, &["valueFrom", "secretKeyRef"]);
            let (Some(option), Some(secret), Some(key)) =
                (text(option, "name"), text(reference, "name"), text(reference, "key"))
            else {
                bail!(
                    "an encrypted option of spec.mounts[{index}] needs name and valueFrom.secretKeyRef with name and key"
                );
            };
            let name = format!("{}{}", env::SECRET_PREFIX, secrets.len());
            secret_options.insert(option.to_string(), name.clone());
            secrets.push(SecretVariable { name, secret: secret.to_string(), key: key.to_string() });
        }
        mounts.push(Mount {
            mount_point: url.to_string(),
            name: text(mount, "name").unwrap_or_default().to_string(),
            options,
            path: text(mount, "path").unwrap_or_default().to_string(),
            read_only: mount.get("readOnly").and_then(Value::as_bool).unwrap_or_default(),
            secret_options,
        });
    }
    ensure!(!mounts.is_empty(), "spec.mounts is empty; there is nothing to serve");
    Ok(Source::Mounts { config: Config { access_modes, mounts, target_path: None }, secrets })
}

/// Fluid's rule (`kubeclient.IsDatasetPVC`, `GetManagingDatasetFromLabels`): a claim is a Dataset's when it
/// has a label `fluid.io/s-…`, and the Dataset bears its name; or when a label names the Dataset.
fn dataset_name(claim: &Value, claim_name: &str) -> Option<String> {
    let labels = at(claim, &["metadata", "labels"]);
    let named = ["fluid.io/managed-by", "fluid.io/wrapped-by"].iter().find_map(|key| labels.get(*key));
    match named.and_then(Value::as_str) {
        Some(name) => Some(name.to_string()),
        None => is_made_by_fluid(claim).then(|| claim_name.to_string()),
    }
}

/// Whether Fluid's CSI driver serves a claim, and no storage of its own.
fn is_made_by_fluid(claim: &Value) -> bool {
    let labels = at(claim, &["metadata", "labels"]).as_object();
    let mut keys = labels.into_iter().flat_map(|labels| labels.keys());
    keys.any(|key| key == "fluid.io/managed-by" || key.starts_with("fluid.io/s-"))
}

/// Where Fluid's CSI driver would find the mount: `fluid_path` is the file system's root on the node,
/// `fluid_sub_path` what a Dataset that refers to a part of another one shows.
fn mount_point(attributes: &Value, root: &str) -> Result<(MountPoint, String)> {
    let path = text(attributes, "fluid_path")
        .context("spec.csi.volumeAttributes.fluid_path is missing; it is not a volume that Fluid made")?;
    let mount_point = MountPoint::within(root, path)
        .map_err(|error| anyhow!("fluid_path: {error}; is the setting mountRoot Fluid's MOUNT_ROOT?"))?;
    // Above it a directory of its own, and not one that Datasets share.
    ensure!(
        mount_point.as_str()[root.len()..].split('/').count() > 4,
        "fluid_path: {mount_point} is not <Runtime>/<namespace>/<Dataset>/<directory> below {root}"
    );
    let sub_path = below(text(attributes, "fluid_sub_path").unwrap_or_default())
        .map_err(|error| anyhow!("fluid_sub_path: {error}; correct the mountPoint of the Dataset"))?;
    Ok((mount_point, sub_path))
}

/// The labels of a namespace.
pub fn namespace_labels(namespace: &str, cluster: &impl Cluster) -> Result<Value> {
    let object = ObjectRef { kind: Kind::Namespace, namespace: None, name: namespace };
    let mut object = read::<LabelsMask>(cluster, &object, "create it before its Pods")?;
    let labels = object.get_mut("metadata").and_then(|metadata| metadata.get_mut("labels"));
    let labels = labels.map(Value::take).unwrap_or_default();
    ensure!(Texts::of(&labels).is_some(), "Namespace {namespace}: metadata.labels: must be a map of strings");
    Ok(labels)
}

fn read<M: Masks>(cluster: &impl Cluster, object: &ObjectRef<'_>, fix: &str) -> Result<Value> {
    get::<M>(cluster, object).map_err(|error| explain(object, error, fix))
}

/// One sentence with what to do; `fix` is for an object that does not exist.
fn explain(object: &ObjectRef<'_>, error: ReadError, fix: &str) -> anyhow::Error {
    let (api_version, kind) = (object.kind.facts(), object.kind);
    let instead = match kind {
        Kind::Namespace => "or use neither namespaceLabels: read nor namespaceLabels of selectors",
        _ => "or use the setting datasetsFrom: settings",
    };
    match error {
        ReadError::NotFound => anyhow!("{object} does not exist; {fix}"),
        ReadError::Forbidden => anyhow!(
            "{object} may not be read by the policy server's service account; grant it get on {api_version} {kind}"
        ),
        ReadError::NotGranted => anyhow!(
            "{object} may not be read by this policy; add {api_version} {kind} to its contextAwareResources, \
             {instead}"
        ),
        ReadError::NoCapability => anyhow!(
            "{object} may not be read by this policy; add {CAPABILITY} to its hostCapabilities, {instead}"
        ),
        ReadError::UnknownKind => {
            anyhow!("{object} cannot be read: the cluster has no {api_version} {kind}; install Fluid")
        }
        ReadError::TooMany => {
            anyhow!("{object} is not read: a Pod may take {READS_MAX} reads; mount fewer claims")
        }
        ReadError::Unreachable(text) => anyhow!("{object} could not be read: {text}; try again"),
    }
}
