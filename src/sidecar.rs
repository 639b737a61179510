//! What container serves a Dataset?
//!
//! Either the first container of the Runtime's fuse DaemonSet, taken as JSON so that no field of it is lost,
//! or one that we make for `fluid-fuse` or an image of the settings. On top of both comes what every sidecar has: name,
//! gate, environment, device, and what the settings override. The module does not know the Pod: names are given to it,
//! and where the container goes is decided in [`crate::injection`].

use std::iter;

use anyhow::{Context as _, Result, bail, ensure};
use fluid_sidecar_layout::contract::{
    ExitWithPod, FLUID_FUSE, HOLDER_DIRECTORY, HOLDER_SOCKET, PLACES, command, env,
};
use fluid_sidecar_layout::{MountPoint, Named as _, Runtime};
use k8s_openapi::api::core::v1::{
    Capabilities, Container, EmptyDirVolumeSource, EnvVar, EnvVarSource, HostPathVolumeSource,
    SeccompProfile, SecretKeySelector, SecurityContext, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use serde_json::{Map, Value};

use crate::dataset::{Dataset, SecretVariable, Server, Source};
use crate::destination::{Device, Exit, Order, Strategy};
use crate::json::{at, elements, json, list_field, map_field, name_of, text};
use crate::lifecycle::{self, Gate};
use crate::limits::VOLUMES_MAX;
use crate::request::Entries;
use crate::settings::text::quantity;
use crate::settings::{PodResource, Settings, SidecarOverrides, entry_of};

/// The volume of the directories of all Pods of a Dataset.
const PLACES_VOLUME: &str = "fluid-fuse-places";

/// The volume of `cacheDirectory`.
const CACHE_VOLUME: &str = "fluid-fuse-cache";

/// The empty volume in the place of the Pod's service account token, which the API server mounts into every container that
/// has nothing there, also into those that come later. All sidecars of a Pod have the same.
pub const NO_TOKEN_VOLUME: &str = "fluid-fuse-no-token";

/// Where a container has the token (Kubernetes' `DefaultAPITokenMountPath`).
const TOKEN_DIRECTORY: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// A container and what it needs of the Pod.
#[derive(Clone, Debug, PartialEq)]
pub struct Sidecar {
    /// The container.
    pub container: Map<String, Value>,
    /// The directory of the node that it mounts.
    pub mount_point: MountPoint,
    /// Its volumes, by the names that the container's mounts use.
    pub volumes: Vec<Value>,
    /// Secrets that its image is pulled with.
    pub image_pull_secrets: Vec<String>,
    /// How long it needs to end, in seconds, when the DaemonSet says so.
    pub grace_seconds: Option<i64>,
    /// What of the DaemonSet it runs without.
    pub left_out: Vec<String>,
    /// What it names in the Pod's namespace and Fluid does not copy there from that of the Dataset which this one refers
    /// to.
    pub not_copied: Vec<String>,
    /// The client expects the directory of its mount: kubelet is to make it.
    pub needs_directory: bool,
    /// It is to have the token of the Pod's service account.
    pub has_token: bool,
    /// Its program is ours.
    pub is_fluid_fuse: bool,
    /// How it can be divided ([`Sidecar::divide`]).
    division: Option<Division>,
    /// The container that mounts for it.
    pub holder: Option<Map<String, Value>>,
    /// The directory of the node in which each Pod has its own, if Pods share the node.
    shared_directory: Option<String>,
}

/// What is known of a sidecar whose program is ours, and which can be divided.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Division {
    /// The program, as the image has it.
    program: String,
    /// Where the container mounts.
    mount_point: String,
    /// The worker need not be root, and writes nowhere but into volumes: the policy has made the container, and its source
    /// is no directory.
    is_bare: bool,
}

/// Names in the Pod: of a holder, and of what it shares with its worker.
#[derive(Debug)]
pub struct HolderNames {
    /// The container.
    pub container: String,
    /// The volume in which holder and worker meet.
    pub volume: String,
    /// A volume by which the application sees the mount.
    pub shown: String,
}

/// The volume in which holder and worker meet.
pub const HOLDER_VOLUME: &str = "fluid-fuse-holder";

/// The user and group of a worker: "nobody" of most images.
const WORKER: i64 = 65534;

/// The variables of a sidecar that concern the life of its mount, and so its holder: these alone, and those that it shares
/// with the worker.
const OF_THE_HOLDER: &[&str] = &[env::PLACE, env::EXIT_WITH_POD, env::EXIT_CONTAINERS, env::EXIT_SETTLE];
const OF_BOTH: &[&str] =
    &[env::MOUNT_POINT, env::MOUNTPOINT, env::SUBTYPE, env::GUARD, env::LINGER, env::LOG];

/// Longer than the longest pause that kubelet makes before it starts a container again (five minutes).
const LONGEST_BACKOFF: &str = "310s";

impl Sidecar {
    /// An empty one that mounts there.
    fn on(mount_point: MountPoint) -> Self {
        Sidecar {
            container: Map::new(),
            mount_point,
            volumes: Vec::new(),
            image_pull_secrets: Vec::new(),
            grace_seconds: None,
            left_out: Vec::new(),
            not_copied: Vec::new(),
            needs_directory: false,
            has_token: false,
            is_fluid_fuse: false,
            division: None,
            holder: None,
            shared_directory: None,
        }
    }

    /// Has it end with this many containers of the Pod, and wait for those that kubelet starts again.
    pub fn end_with(&mut self, containers: usize, restarts: bool) -> Result<()> {
        let containers = containers.to_string();
        let variables = [
            (env::EXIT_WITH_POD, ExitWithPod::ProcessNamespace.name()),
            (env::EXIT_CONTAINERS, &containers),
            (env::EXIT_SETTLE, LONGEST_BACKOFF),
        ];
        set_env(&mut self.container, if restarts { &variables } else { &variables[..2] })
    }

    /// Whether it can be divided into a holder and a worker.
    pub fn can_be_divided(&self) -> bool {
        self.division.is_some()
    }

    /// Divides it into a holder, which has the device and mounts, and a worker, which serves, without privileges. The
    /// holder gets these resources. To be called when nothing else is changed in the sidecar.
    pub fn divide(
        &mut self,
        names: HolderNames,
        resources: Option<Value>,
        strategy: Strategy,
        settings: &Settings,
    ) -> Result<()> {
        let Some(Division { program, mount_point, is_bare }) = self.division.take() else { return Ok(()) };
        let worker = &mut self.container;
        let mut holder = Map::new();
        for field in
            ["image", "imagePullPolicy", "restartPolicy", "securityContext", "terminationMessagePolicy"]
        {
            if let Some(value) = worker.get(field) {
                holder.insert(field.to_string(), value.clone());
            }
        }
        holder.insert("name".to_string(), names.container.into());
        holder.insert("command".to_string(), Value::Array(vec![program.into(), command::HOLD.into()]));
        holder.extend(resources.map(|resources| ("resources".to_string(), resources)));
        let platform: Vec<&str> = strategy.exit.facts().iter().map(|(name, _)| *name).collect();
        let mut shared = Vec::new();
        let mut as_root = vec![(env::UID, "0"), (env::GID, "0")];
        list_field(worker, "env")?.retain(|variable| {
            let name = name_of(variable).unwrap_or_default();
            let moves = OF_THE_HOLDER.contains(&name);
            if moves || OF_BOTH.contains(&name) || platform.contains(&name) {
                shared.push(variable.clone());
            }
            as_root.retain(|(known, _)| *known != name);
            !moves
        });
        holder.insert("env".to_string(), Value::Array(shared));
        set_env(&mut holder, &[(env::MOUNT_POINT, mount_point.as_str()), (env::SOCKET, HOLDER_SOCKET)])?;
        let descriptor = format!("unix:{HOLDER_SOCKET}");
        set_env(worker, &[(env::FD, descriptor.as_str())])?;
        if is_bare {
            // Files look as if root had served them, as they do without a holder.
            set_env(worker, &as_root)?;
        }

        let hooks = map_field(worker, "lifecycle")?;
        if let Some(hook) = hooks.remove("preStop") {
            map_field(&mut holder, "lifecycle")?.insert("preStop".to_string(), hook);
        }
        if hooks.is_empty() {
            worker.remove("lifecycle");
        }
        let mut shared = Vec::new();
        let mounts = list_field(worker, "volumeMounts")?;
        mounts.push(json(VolumeMount {
            name: names.volume.clone(),
            mount_path: HOLDER_DIRECTORY.to_string(),
            ..VolumeMount::default()
        })?);
        let is_device = |volume: &&Value| host_path(volume) == Some(FUSE_DEVICE);
        let device = self.volumes.iter().find(is_device).and_then(name_of);
        mounts.retain_mut(|mount| {
            let path = text(mount, "mountPath").unwrap_or_default();
            let moves = path == PLACES || device.is_some_and(|device| name_of(mount) == Some(device));
            let is_both = [HOLDER_DIRECTORY, TOKEN_DIRECTORY].contains(&path);
            let propagates = text(mount, "mountPropagation") == Some("Bidirectional");
            if moves || propagates || is_both {
                shared.push(mount.clone());
            }
            if let (true, Some(mount)) = (propagates, mount.as_object_mut()) {
                // It looks whether the mount answers.
                mount.insert("mountPropagation".into(), "HostToContainer".into());
                mount.insert("readOnly".into(), true.into());
            }
            !moves
        });
        holder.insert("volumeMounts".to_string(), Value::Array(shared));
        if strategy.device == Device::ExtendedResource {
            // The platform shows the mount to the worker as it does to the application.
            mounts.push(json(VolumeMount {
                name: names.shown,
                mount_path: mount_point,
                mount_propagation: Some("HostToContainer".to_string()),
                read_only: Some(true),
                ..VolumeMount::default()
            })?);
        }
        // What grants the device, wherever it is from.
        if let Some(resources) = worker.get_mut("resources").and_then(Value::as_object_mut) {
            for kind in ["limits", "requests"] {
                let amounts = resources.get_mut(kind).and_then(Value::as_object_mut);
                if let Some((name, device)) =
                    amounts.and_then(|amounts| amounts.remove_entry(&settings.vfuse_resource_name))
                {
                    map_field(map_field(&mut holder, "resources")?, kind)?.insert(name, device);
                }
            }
            resources.retain(|_, amounts| {
                !amounts.is_null() && amounts.as_object().is_none_or(|amounts| !amounts.is_empty())
            });
            if resources.is_empty() {
                worker.remove("resources");
            }
        }
        self.volumes.push(volume(&names.volume, "emptyDir", json(EmptyDirVolumeSource::default())?));
        let security = map_field(worker, "securityContext")?;
        let Value::Object(unprivileged) = json(security_context(false, WORKER))? else {
            bail!("a securityContext must be a map");
        };
        security.extend(unprivileged.into_iter().filter(|(field, _)| is_bare || !field.starts_with("runAs")));
        if is_bare {
            security.insert("readOnlyRootFilesystem".to_string(), true.into());
        } else if security.get("runAsUser").and_then(Value::as_i64) == Some(0) {
            // It may serve a directory, whose files have owners.
            map_field(security, "capabilities")?.insert("add".to_string(), vec!["DAC_OVERRIDE"].into());
        }
        self.holder = Some(holder);
        Ok(())
    }

    /// Mounts a volume of this name where the container mounts something else, or nothing.
    fn mount_instead(&mut self, name: &str, path: &str, read_only: bool) -> Result<()> {
        let mounts = list_field(&mut self.container, "volumeMounts")?;
        let before = mounts.len();
        mounts.retain(|mount| text(mount, "mountPath").map(|path| path.trim_end_matches('/')) != Some(path));
        let replaces = mounts.len() < before;
        mounts.push(json(VolumeMount {
            name: name.to_string(),
            mount_path: path.to_string(),
            read_only: read_only.then_some(true),
            ..VolumeMount::default()
        })?);
        if replaces {
            // What was mounted there before may be mounted no longer.
            let used = volume_names(&mut self.container);
            self.volumes.retain(|volume| used.iter().any(|name| volume.get("name") == Some(name)));
        }
        Ok(())
    }

    /// Has it see an empty volume of this name, which it brings if `is_first`, in the place of the Pod's token.
    pub fn hide_token(&mut self, name: &str, is_first: bool) -> Result<()> {
        self.mount_instead(name, TOKEN_DIRECTORY, true)?;
        if is_first {
            self.volumes.insert(0, volume(name, "emptyDir", json(EmptyDirVolumeSource::default())?));
        }
        Ok(())
    }

    /// Gives up what the Pod has for all of its containers (cpu, memory, huge pages): the API server refuses a Pod whose
    /// containers ask for more than that.
    pub fn share_resources(&mut self) {
        let resources = self.container.get_mut("resources").and_then(Value::as_object_mut);
        let mut shared = false;
        for kind in resources.into_iter().flat_map(|resources| resources.values_mut()) {
            let Some(kind) = kind.as_object_mut() else { continue };
            let before = kind.len();
            kind.retain(|resource, _| {
                !matches!(resource.as_str(), "cpu" | "memory") && !resource.starts_with("hugepages-")
            });
            shared |= kind.len() < before;
        }
        if shared {
            self.left_out.push("resources of its own: the Pod has some for all containers".into());
        }
    }

    /// Requests what the settings have for those who request nothing, of the resources for which it is `wanted`. Returns
    /// what was added, as `<resource> <amount>`.
    pub fn request_defaults(
        &mut self,
        settings: &Settings,
        wanted: impl Fn(PodResource) -> bool,
    ) -> Result<Vec<String>> {
        let mut added = Vec::new();
        for (resource, amount) in settings.default_requests.iter().filter(|(resource, _)| wanted(*resource)) {
            let resources = map_field(&mut self.container, "resources")?;
            let has =
                |kind: &str| resources.get(kind).is_some_and(|kind| kind.get(resource.name()).is_some());
            if !has("requests") && !has("limits") {
                map_field(resources, "requests")?.insert(resource.to_string(), amount.as_str().into());
                added.push(format!("{resource} {amount}"));
            }
        }
        Ok(added)
    }

    /// Gives up its ports, which would be ports of the node. Its probes and hooks name their numbers instead.
    pub fn drop_ports(&mut self) {
        let ports = self.container.remove("ports");
        let number = |name: &Value| {
            let port = elements(ports.as_ref()).iter().find(|port| port.get("name") == Some(name))?;
            port.get("containerPort").cloned()
        };
        for port in named_ports(&mut self.container) {
            if let Some(number) = number(port) {
                *port = number;
            }
        }
    }

    /// Serves for `seconds` after the Pod is told to end: the other containers are told in the same moment, and may still
    /// read and write.
    pub fn serve_on(&mut self, seconds: i64) -> Result<()> {
        if self.is_fluid_fuse {
            let linger = format!("{seconds}s");
            let env = elements(self.container.get("env"));
            if env.iter().any(|variable| name_of(variable) == Some(env::LINGER)) {
                return Ok(());
            }
            let variable = [(env::LINGER, linger.as_str())];
            if let Some(holder) = &mut self.holder {
                set_env(holder, &variable)?;
            }
            return set_env(&mut self.container, &variable);
        }
        let hook = json(lifecycle::serve_on(seconds))?;
        map_field(&mut self.container, "lifecycle")?.insert("preStop".into(), hook);
        Ok(())
    }

    /// What the container names and has not, so that it could not start, or would get what is somebody else's: a volume
    /// beside its own and `shared`, a port, the resources of another container.
    pub fn dangling(&mut self, shared: Option<&str>) -> Option<String> {
        let Sidecar { container, volumes, .. } = self;
        let own_name = container.get("name").cloned().unwrap_or_default();
        let is_own = |name: &Value| {
            name.as_str().is_some_and(|name| {
                shared == Some(name) || volumes.iter().any(|volume| name_of(volume) == Some(name))
            })
        };
        if let Some(volume) = volume_names(container).into_iter().find(|name| !is_own(name)) {
            return Some(format!("volume {volume}"));
        }
        let named: Vec<Value> = named_ports(container).into_iter().map(|port| port.clone()).collect();
        let ports = elements(container.get("ports"));
        let has = |port: &Value| ports.iter().any(|known| known.get("name") == Some(port));
        if let Some(port) = named.iter().find(|port| !has(port)) {
            return Some(format!("port {port}"));
        }
        let shown = shown_containers(container.get_mut("env")).into_iter();
        let mut shown = shown.chain(volumes.iter_mut().flat_map(shown_by));
        shown.find(|name| **name != own_name).map(|name| format!("container {name}"))
    }
}

/// Makes the sidecar of one Dataset from what serves it. `limits` are what the Pod asks for. The error is one sentence
/// that names the object.
pub fn build(
    dataset: &Dataset,
    server: Server,
    name: &str,
    strategy: Strategy,
    limits: &Entries,
    settings: &Settings,
    request_uid: &str,
) -> Result<Sidecar> {
    let keeps_image = matches!(server, Server::FluidFuse { .. });
    let (mut sidecar, gate) = match server {
        Server::DaemonSet { name, pod_spec } => {
            from_daemonset(dataset, pod_spec, strategy.device, settings, request_uid).context(name)?
        }
        Server::Image(image) => from_image(dataset, image, None, strategy.device, request_uid)?,
        Server::FluidFuse { image, source } => {
            from_image(dataset, image, Some(source), strategy.device, request_uid)?
        }
    };
    if let Some((_, owner)) = &dataset.refers_to {
        sidecar.not_copied = configuration(&sidecar.container, &sidecar.volumes, &sidecar.image_pull_secrets);
        sidecar.not_copied.retain(|object| match object.strip_prefix(CONFIG_MAP) {
            Some(name) => !dataset.runtime.copies_config_map(owner, name),
            None => true,
        });
    }
    sidecar.is_fluid_fuse = gate.fluid_fuse.is_some();
    if sidecar.is_fluid_fuse {
        guard(&mut sidecar, request_uid)?;
    }
    let who = || format!("Dataset {}/{}", dataset.namespace, dataset.name);
    ensure!(
        sidecar.is_fluid_fuse || strategy.exit != Exit::ProcessNamespace,
        "the sidecar of {} is not fluid-fuse, which alone knows exit: processNamespace; \
         set sidecarFrom: fluid-fuse, or another exit in destinations",
        who()
    );
    let container = &mut sidecar.container;
    let old_name = container.get_mut("name").map(Value::take);
    if let Some(Value::String(old_name)) = old_name.filter(|old| *old != name) {
        let variables = shown_containers(container.get_mut("env"));
        let files = sidecar.volumes.iter_mut().flat_map(shown_by);
        for shown in variables.into_iter().chain(files).filter(|shown| **shown == old_name) {
            *shown = name.into();
        }
    }
    let every_sidecar = Container {
        name: name.to_string(),
        image: settings.image(dataset.runtime).filter(|_| !keeps_image).map(str::to_string),
        lifecycle: Some(gate.lifecycle(strategy.gate, settings.gate_timeout_seconds)),
        // What `kubectl describe pod` shows, where the container writes nothing for it.
        termination_message_policy: Some("FallbackToLogsOnError".to_string()),
        readiness_probe: strategy.readiness_probe.then(|| gate.readiness_probe()),
        startup_probe: gate.startup_probe(strategy.gate, settings.gate_timeout_seconds),
        restart_policy: (strategy.order == Order::NativeSidecar).then(|| "Always".to_string()),
        ..Container::default()
    };
    if let Value::Object(fields) = json(every_sidecar)? {
        container.extend(fields);
    }
    ensure!(
        container.get("image").is_some_and(Value::is_string),
        "the fuse container of {} has no image; set sidecarImages.{}",
        who(),
        dataset.runtime
    );
    dress(&mut sidecar, dataset.runtime, strategy, limits, settings).with_context(who)?;
    Ok(sidecar)
}

/// `fluid-fuse` keeps a guard below its mount, and removes the Pod's directory from a node that Pods share. For that it
/// sees the directory above, which the application never does.
fn guard(sidecar: &mut Sidecar, request_uid: &str) -> Result<()> {
    let place = format!("{PLACES}/{request_uid}");
    let mut variables = vec![(env::GUARD, "true")];
    if let Some(above) = sidecar.shared_directory.take() {
        variables.push((env::PLACE, place.as_str()));
        sidecar.volumes.push(host_directory(PLACES_VOLUME, &above)?);
        list_field(&mut sidecar.container, "volumeMounts")?.push(json(VolumeMount {
            name: PLACES_VOLUME.to_string(),
            mount_path: PLACES.to_string(),
            mount_propagation: Some("Bidirectional".to_string()),
            ..VolumeMount::default()
        })?);
    }
    // It writes to the default one.
    sidecar.container.remove("terminationMessagePath");
    set_env(&mut sidecar.container, &variables)
}

/// The mount point in the directory of this Pod below the one that all Pods of the Dataset share.
fn own_place(mount_point: &MountPoint, shared: &str, request_uid: &str) -> Result<MountPoint> {
    mount_point.for_pod(shared, request_uid).context("the request's uid, which names the Pod's directory")
}

/// A directory of the node, which is made if it is missing.
fn host_directory(name: &str, path: &str) -> Result<Value> {
    let type_ = Some("DirectoryOrCreate".to_string());
    Ok(volume(name, "hostPath", json(HostPathVolumeSource { path: path.to_string(), type_ })?))
}

/// Adds what the settings, the destination and the Pod want of a sidecar, on top of what it has.
fn dress(
    sidecar: &mut Sidecar,
    runtime: Runtime,
    strategy: Strategy,
    limits: &Entries,
    settings: &Settings,
) -> Result<()> {
    let overrides = entry_of(&settings.sidecars, runtime);
    if let Some(overrides) = overrides {
        override_fields(sidecar, overrides)?;
    }
    sidecar.has_token = overrides.is_some_and(|overrides| overrides.service_account_token);
    let container = &mut sidecar.container;
    set_env(container, strategy.exit.facts())?;
    set_resources(container, "limits", limits)?;
    clamp_requests(container);
    if strategy.device == Device::ExtendedResource {
        // Kubernetes wants extended resources whole, with the request, if any, equal to the limit.
        let resources = map_field(container, "resources")?;
        for kind in ["limits", "requests"] {
            map_field(resources, kind)?
                .insert(settings.vfuse_resource_name.clone(), json(Quantity("1".to_string()))?);
        }
    }
    // Forbidden in init containers, and its RestartContainer in Pods that never restart.
    container.remove("resizePolicy");
    for list in ["env", "volumeMounts"] {
        if container.get(list).is_some_and(|value| value.as_array().is_some_and(Vec::is_empty)) {
            container.remove(list);
        }
    }
    Ok(())
}

/// What the administrator changes in the sidecars of this Runtime.
fn override_fields(sidecar: &mut Sidecar, overrides: &SidecarOverrides) -> Result<()> {
    let container = &mut sidecar.container;
    if !overrides.args.is_empty() {
        list_field(container, "args")?.extend(overrides.args.iter().map(|arg| arg.as_str().into()));
    }
    let variables: Vec<_> =
        overrides.env.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    set_env(container, &variables)?;
    set_resources(container, "limits", &overrides.limits)?;
    set_resources(container, "requests", &overrides.requests)?;
    sidecar.image_pull_secrets.extend(overrides.image_pull_secrets.iter().cloned());
    let Some(path) = &overrides.cache_directory else { return Ok(()) };
    let mut name = CACHE_VOLUME.to_string();
    while sidecar.volumes.iter().any(|volume| name_of(volume) == Some(&name)) {
        name.push_str("-own");
    }
    sidecar.mount_instead(&name, path, false)?;
    let source = EmptyDirVolumeSource {
        size_limit: overrides.cache_size_limit.clone().map(Quantity),
        ..EmptyDirVolumeSource::default()
    };
    sidecar.volumes.push(volume(&name, "emptyDir", json(source)?));
    Ok(())
}

/// A volume of one source. The type `Volume` with all sources is half a megabyte of the module.
pub(crate) fn volume(name: &str, kind: &str, source: Value) -> Value {
    Value::Object(Map::from_iter([("name".to_string(), name.into()), (kind.to_string(), source)]))
}

/// The first container of the DaemonSet's Pods, and of their volumes those that it mounts: what Fluid takes.
/// What Fluid forgets and the container needs comes along: pull secrets, its user, its time to end.
fn from_daemonset(
    dataset: &Dataset,
    mut pod_spec: Value,
    device: Device,
    settings: &Settings,
    request_uid: &str,
) -> Result<(Sidecar, Gate)> {
    let mount_point = &dataset.mount_point;
    let template =
        pod_spec.get_mut("containers").and_then(|containers| containers.get_mut(0)).map(Value::take);
    let Some(Value::Object(mut container)) = template else {
        bail!("spec.template.spec.containers[0] must be a map");
    };
    // The gate waits for the same, and for no longer than the settings say.
    container.remove("startupProbe");
    let claims = elements(container.get("resources").and_then(|resources| resources.get("claims")));
    if let Some(claim) = claims.first().and_then(name_of) {
        bail!("its container has the device of resourceClaims {claim:?}, which a sidecar cannot bring");
    }
    let volumes = elements(pod_spec.get("volumes"));
    ensure!(
        volumes.len().max(elements(container.get("volumeMounts")).len()) <= VOLUMES_MAX,
        "it has more than {VOLUMES_MAX} volumes, or mounts of them"
    );
    let Above { volume: above_name, directory, seen_at, mounted_on } =
        above(mount_point, &container, volumes)?;
    let image = settings.image(dataset.runtime).or(container.get("image").and_then(Value::as_str));
    let fluid_fuse = fluid_fuse_in(&container, image.unwrap_or_default(), &dataset.file_system);
    let mut sidecar = Sidecar::on(mount_point.clone());
    if device == Device::Privileged {
        container.retain(|field, _| {
            let keep = PRIVILEGED_FIELDS.contains(&field.as_str());
            if !keep {
                sidecar.left_out.push(field.clone());
            }
            keep
        });
        sidecar.mount_point = own_place(mount_point, &directory, request_uid)?;
        sidecar.shared_directory = Some(directory.clone());
        sidecar.needs_directory = mounted_on.is_some();
    }

    let used: Vec<Value> = volume_names(&mut container).into_iter().map(|name| name.clone()).collect();
    let mounts = list_field(&mut container, "volumeMounts")?;
    for volume in volumes {
        let name = volume.get("name").unwrap_or(&Value::Null);
        if !used.contains(name) {
            continue;
        }
        if device == Device::Privileged && name == &above_name {
            sidecar.volumes.push(host_directory(&above_name, &format!("{directory}/{request_uid}"))?);
            continue;
        }
        let path = host_path(volume);
        let keep = match device {
            Device::ExtendedResource => path.is_none(),
            Device::Privileged => path == Some(FUSE_DEVICE) || is_of_the_pod(volume),
        };
        if keep {
            sidecar.volumes.push(volume.clone());
            continue;
        }
        mounts.retain(|mount| mount.get("name") != Some(name));
        // The device and the mount are what the platform gives instead.
        if path.is_none_or(|path| path != FUSE_DEVICE && below(path, mount_point).is_none()) {
            let kind = if path.is_some() { "hostPath volume" } else { "volume" };
            sidecar.left_out.push(format!("{kind} {}", name.as_str().unwrap_or_default()));
        }
    }
    for mount in mounts {
        let above = mount.get("name").is_some_and(|name| name == &above_name);
        let Some(mount) = mount.as_object_mut() else { continue };
        match device {
            Device::Privileged if above => {
                mount.insert("mountPropagation".into(), "Bidirectional".into());
                if let Some(directory) = mounted_on
                    .as_ref()
                    .filter(|_| mount.get("mountPath").is_some_and(|path| *path == seen_at))
                {
                    mount.insert("mountPath".into(), directory.as_str().into());
                }
            }
            Device::ExtendedResource
                if mount.get("mountPropagation").is_some_and(|it| it == "Bidirectional") =>
            {
                mount.remove("mountPropagation");
            }
            _ => {}
        }
    }
    // On a DaemonSet with hostNetwork the API server has set it for every port.
    for port in container.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some(port) = port.as_object_mut() {
            port.remove("hostPort");
        }
    }
    let security = map_field(&mut container, "securityContext")?;
    pin_user(security, pod_spec.get("securityContext").and_then(Value::as_object));
    match device {
        Device::ExtendedResource => sidecar.left_out.extend(unprivileged(security)?),
        Device::Privileged => {
            security.insert("privileged".into(), true.into());
            // A contradiction that the API server refuses.
            security.remove("allowPrivilegeEscalation");
        }
    }
    sidecar.grace_seconds = pod_spec.get("terminationGracePeriodSeconds").and_then(Value::as_i64);
    let secrets = elements(pod_spec.get("imagePullSecrets")).iter().filter_map(name_of);
    sidecar.image_pull_secrets.extend(secrets.map(str::to_string));
    for (list, first) in [("initContainers", 0), ("containers", 1)] {
        let names = elements(pod_spec.get(list)).iter().skip(first).filter_map(name_of);
        sidecar.left_out.extend(names.map(|name| format!("container {name}")));
    }
    let of_the_pod = at(&pod_spec, &["securityContext"]);
    let fields = ["dnsConfig", "hostAliases", "hostPID", "hostIPC", "runtimeClassName", "serviceAccountName"];
    let lost = (fields.into_iter().map(|field| (field, pod_spec.get(field))))
        .chain(["fsGroup", "supplementalGroups", "sysctls"].map(|field| (field, of_the_pod.get(field))));
    for (field, value) in lost {
        if value.is_some_and(|value| !matches!(value, Value::Null | Value::Bool(false))) {
            sidecar.left_out.push(field.to_string());
        }
    }
    // What else a wrapper does may need what a worker may not.
    let command = elements(container.get("command")).first();
    let is_direct = command.is_none_or(|first| first.as_str() == fluid_fuse.as_deref());
    sidecar.division = fluid_fuse.clone().filter(|_| is_direct).map(|program| Division {
        program,
        mount_point: seen_at.clone(),
        is_bare: false,
    });
    sidecar.container = container;
    Ok((sidecar, Gate { mount_point: seen_at, fluid_fuse, device }))
}

/// The device of FUSE.
const FUSE_DEVICE: &str = "/dev/fuse";

/// What a privileged sidecar takes from a DaemonSet's container. What else it may have, or will have in some later version
/// of Kubernetes, nobody has weighed against its privilege.
const PRIVILEGED_FIELDS: &[&str] = &[
    "args",
    "command",
    "env",
    "envFrom",
    "image",
    "imagePullPolicy",
    "lifecycle",
    "livenessProbe",
    "name",
    "ports",
    "readinessProbe",
    "resources",
    "restartPolicy",
    "resizePolicy",
    "securityContext",
    "terminationMessagePath",
    "terminationMessagePolicy",
    "volumeMounts",
    "workingDir",
];

/// Whether a volume shows nothing of the node: of these kinds a privileged sidecar takes volumes from a DaemonSet.
fn is_of_the_pod(volume: &Value) -> bool {
    const KINDS: [&str; 9] = [
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "nfs",
        "persistentVolumeClaim",
        "projected",
        "secret",
    ];
    KINDS.iter().any(|kind| volume.get(*kind).is_some_and(Value::is_object))
}

/// What follows a directory of the node in the path of a mount point that it holds, or is.
fn below<'m>(path: &str, mount_point: &'m MountPoint) -> Option<&'m str> {
    let below = mount_point.as_str().strip_prefix(path.trim_end_matches('/'))?;
    (below.is_empty() || below.starts_with('/')).then_some(below)
}

/// The volume through which the DaemonSet's container mounts.
struct Above {
    /// Its name.
    volume: String,
    /// The directory of the node, above the mount point.
    directory: String,
    /// Where the container sees the mount point.
    seen_at: String,
    /// Of a volume that is the mount point itself: the directory that its place is to be mounted on instead. kubelet's
    /// mount of the volume would look as if the client had mounted, and a dead one could not be a volume (Fluid #1345).
    mounted_on: Option<String>,
}

/// Of several that the container mounts, the one that is nearest to the mount point.
fn above(mount_point: &MountPoint, container: &Map<String, Value>, volumes: &[Value]) -> Result<Above> {
    let mounts = elements(container.get("volumeMounts"));
    let seen = volumes.iter().filter_map(|volume| {
        let directory = host_path(volume)?.trim_end_matches('/');
        let below = below(directory, mount_point)?;
        let mount = mounts.iter().find(|mount| mount.get("name") == volume.get("name"))?;
        let seen_at = format!("{}{below}", text(mount, "mountPath")?.trim_end_matches('/'));
        let (directory, mounted_on) = match below {
            "" => (mount_point.parent(), seen_at.rsplit_once('/').map(|(above, _)| above.to_string())),
            _ => (directory, None),
        };
        Some(Above {
            volume: name_of(volume)?.to_string(),
            directory: directory.to_string(),
            seen_at,
            mounted_on,
        })
    });
    let nearest = seen.max_by_key(|above| above.directory.len());
    let nearest =
        nearest.with_context(|| format!("its container mounts no hostPath that holds {mount_point}"))?;
    ensure!(
        nearest.mounted_on.as_ref().is_none_or(|directory| !directory.is_empty()),
        "its container mounts at {}, which has no directory above it for a volume",
        nearest.seen_at
    );
    Ok(nearest)
}

/// Our program in a container, as its hooks call it: the word of its command that names it or, of a container without
/// command, its image's entry point. That is known by the last part of the image's name, or by the type of file system
/// of the ThinRuntimeProfile.
fn fluid_fuse_in(container: &Map<String, Value>, image: &str, file_system: &str) -> Option<String> {
    let command = elements(container.get("command"));
    if command.is_empty() {
        let name = image.rsplit('/').next().and_then(|name| name.split(['@', ':']).next());
        let is_ours = name == Some(FLUID_FUSE) || file_system.trim_start_matches("fuse.") == FLUID_FUSE;
        return is_ours.then(|| FLUID_FUSE.to_string());
    }
    let is_ours =
        |word: &&str| word.rsplit('/').next() == Some(FLUID_FUSE) && !word.contains(char::is_whitespace);
    command.iter().filter_map(Value::as_str).find(is_ours).map(str::to_string)
}

/// What begins the names of objects, among others.
const CONFIG_MAP: &str = "ConfigMap ";
const SECRET: &str = "Secret ";

/// What a container and its volumes name in the Pod's namespace and cannot start without, as `<kind> <name>`.
fn configuration(
    container: &Map<String, Value>,
    volumes: &[Value],
    image_pull_secrets: &[String],
) -> Vec<String> {
    let mut objects: Vec<String> = image_pull_secrets.iter().map(|name| format!("{SECRET}{name}")).collect();
    let mut add = |kind: &str, source: Option<&Value>, name: &str| {
        let Some(source) = source.filter(|source| source.get("optional") != Some(&Value::Bool(true))) else {
            return;
        };
        // Kubernetes makes it in every namespace.
        if let Some(name) = text(source, name).filter(|name| *name != "kube-root-ca.crt") {
            objects.push(format!("{kind}{name}"));
        }
    };
    for volume in volumes {
        let projected = volume.get("projected").and_then(|projected| projected.get("sources"));
        add(SECRET, volume.get("secret"), "secretName");
        for volume in iter::once(volume).chain(elements(projected)) {
            add(CONFIG_MAP, volume.get("configMap"), "name");
            add(SECRET, volume.get("secret"), "name");
        }
        add("PersistentVolumeClaim ", volume.get("persistentVolumeClaim"), "claimName");
    }
    for variables in elements(container.get("envFrom")) {
        add(CONFIG_MAP, variables.get("configMapRef"), "name");
        add(SECRET, variables.get("secretRef"), "name");
    }
    for value in elements(container.get("env")).iter().filter_map(|variable| variable.get("valueFrom")) {
        add(CONFIG_MAP, value.get("configMapKeyRef"), "name");
        add(SECRET, value.get("secretKeyRef"), "name");
    }
    objects.sort_unstable();
    objects.dedup();
    objects
}

/// A container that the policy makes: `fluid-fuse` with its source, or an image that knows its own.
fn from_image(
    dataset: &Dataset,
    image: String,
    source: Option<Source>,
    device: Device,
    request_uid: &str,
) -> Result<(Sidecar, Gate)> {
    let fluid_fuse = source.is_some();
    let division = source.as_ref().map(|source| Division {
        program: FLUID_FUSE.to_string(),
        mount_point: dataset.mount_point.to_string(),
        is_bare: !source.may_be_local(),
    });
    let privileged = device == Device::Privileged;
    // The directory above the mount point: a dead mount could not be a volume (Fluid #1345).
    let directory = dataset.mount_point.parent();
    let container = Container {
        image: Some(image),
        command: fluid_fuse.then(|| vec![FLUID_FUSE.to_string(), command::MOUNT.to_string()]),
        env: Some(environment(dataset, source)?),
        // The Pod may have a user of its own for its application; the device needs root.
        security_context: Some(security_context(privileged, 0)),
        volume_mounts: privileged.then(|| {
            vec![VolumeMount {
                name: FLUID_FUSE.to_string(),
                mount_path: directory.to_string(),
                mount_propagation: Some("Bidirectional".to_string()),
                ..VolumeMount::default()
            }]
        }),
        ..Container::default()
    };
    let Value::Object(container) = json(container)? else { bail!("a container must be a map") };
    let mut sidecar = Sidecar { container, ..Sidecar::on(dataset.mount_point.clone()) };
    if privileged {
        sidecar.mount_point = own_place(&dataset.mount_point, directory, request_uid)?;
        sidecar.volumes.push(host_directory(FLUID_FUSE, &format!("{directory}/{request_uid}"))?);
        sidecar.shared_directory = Some(directory.to_string());
    }
    sidecar.division = division;
    let fluid_fuse = fluid_fuse.then(|| FLUID_FUSE.to_string());
    Ok((sidecar, Gate { mount_point: dataset.mount_point.to_string(), fluid_fuse, device }))
}

/// What a container of ours may do: everything, or what every process can; as that user and group.
#[inline(never)]
fn security_context(privileged: bool, user: i64) -> SecurityContext {
    SecurityContext {
        privileged: Some(privileged),
        allow_privilege_escalation: (!privileged).then_some(false),
        capabilities: (!privileged)
            .then(|| Capabilities { drop: Some(vec!["ALL".to_string()]), ..Capabilities::default() }),
        run_as_user: Some(user),
        run_as_group: Some(user),
        run_as_non_root: Some(user != 0),
        seccomp_profile: Some(SeccompProfile {
            type_: "RuntimeDefault".to_string(),
            ..SeccompProfile::default()
        }),
        ..SecurityContext::default()
    }
}

fn environment(dataset: &Dataset, source: Option<Source>) -> Result<Vec<EnvVar>> {
    let variable = |name: &str, value: &str| EnvVar {
        name: name.to_string(),
        // `$(…)` in a value would be replaced by kubelet.
        value: Some(value.replace("$(", "$$(")),
        value_from: None,
    };
    // The names that Fluid gives to the containers of a ThinRuntime.
    let mut variables = vec![
        variable(env::RUNTIME_TYPE, dataset.runtime.name()),
        variable(env::RUNTIME_NAMESPACE, &dataset.namespace),
        variable(env::RUNTIME_NAME, &dataset.name),
        variable(env::MOUNT_POINT, dataset.mount_point.as_str()),
    ];
    match source {
        None => {}
        Some(Source::Url(url)) => variables.push(variable(env::SOURCE, &url)),
        Some(Source::Mounts { config, secrets }) => {
            let config = serde_json::to_string(&config).map_err(anyhow::Error::new)?;
            variables.push(variable(env::CONFIG_JSON, &config));
            variables.extend(secrets.into_iter().map(|SecretVariable { name, secret, key }| EnvVar {
                name,
                value: None,
                value_from: Some(EnvVarSource {
                    secret_key_ref: Some(SecretKeySelector { name: secret, key, optional: None }),
                    ..EnvVarSource::default()
                }),
            }));
        }
    }
    Ok(variables)
}

/// A user that the application's Pod asks for must not reach the sidecar (Fluid #2500), so the sidecar always
/// has its own: the container's, else that of the DaemonSet's Pods, else root.
fn pin_user(security: &mut Map<String, Value>, template: Option<&Map<String, Value>>) {
    for (key, default) in [("runAsUser", 0), ("runAsGroup", 0)] {
        let inherited = template.and_then(|template| template.get(key)).cloned();
        let entry = security.entry(key).or_insert(Value::Null);
        if entry.is_null() {
            *entry = inherited.unwrap_or_else(|| default.into());
        }
    }
    let root = security.get("runAsUser").and_then(Value::as_i64) == Some(0);
    security.insert("runAsNonRoot".into(), (!root).into());
}

/// What a sidecar without privileges may have of its DaemonSet's capabilities, without `CAP_`: those that Pod Security
/// allows under `baseline`, and what keeps memory from being swapped.
const CAPABILITIES: &[&str] = &[
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "IPC_LOCK",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

/// Serverless nodes admit no privileged containers; the device is granted by the extended resource. Returns what else is
/// taken away, though SYS_ADMIN, which every DaemonSet of that kind has, is not worth a word.
fn unprivileged(security: &mut Map<String, Value>) -> Result<Vec<String>> {
    let mut taken = Vec::new();
    security.insert("privileged".into(), false.into());
    if security.contains_key("capabilities") {
        let capabilities = map_field(security, "capabilities")?;
        let added = list_field(capabilities, "add")?;
        added.retain(|capability| {
            // Container runtimes take a name in any case, with and without `CAP_`.
            let name = capability.as_str().unwrap_or_default().to_ascii_uppercase();
            let name = name.strip_prefix("CAP_").unwrap_or(&name);
            let keep = CAPABILITIES.contains(&name);
            if !keep && name != "SYS_ADMIN" {
                taken.push(format!("capability {name}"));
            }
            keep
        });
        if added.is_empty() {
            capabilities.remove("add");
        }
        if capabilities.is_empty() {
            security.remove("capabilities");
        }
    }
    for (field, allowed) in [
        ("procMount", "Default"),
        ("seccompProfile", "RuntimeDefault"),
        ("appArmorProfile", "RuntimeDefault"),
    ] {
        let is_allowed = |value: &Value| {
            let kind = value.get("type").unwrap_or(value);
            kind == allowed || kind == "Localhost"
        };
        if security.get(field).is_some_and(|value| !is_allowed(value)) {
            security.remove(field);
            taken.push(field.to_string());
        }
    }
    Ok(taken)
}

/// Where variables of a container, or volumes, name the containers whose resources they show (the downward API).
pub(crate) fn shown_containers(list: Option<&mut Value>) -> Vec<&mut Value> {
    entries_of(list).flat_map(shown_by).collect()
}

fn shown_by(variable_or_volume: &mut Value) -> Vec<&mut Value> {
    let mut parts = Vec::new();
    for (field, value) in variable_or_volume.as_object_mut().into_iter().flatten() {
        match field.as_str() {
            "valueFrom" => parts.push(value),
            "downwardAPI" => parts.extend(entries_of(value.get_mut("items"))),
            "projected" => {
                for source in entries_of(value.get_mut("sources")) {
                    let files = source.get_mut("downwardAPI");
                    parts.extend(entries_of(files.and_then(|files| files.get_mut("items"))));
                }
            }
            _ => {}
        }
    }
    parts.into_iter().filter_map(|part| part.get_mut("resourceFieldRef")?.get_mut("containerName")).collect()
}

fn entries_of(list: Option<&mut Value>) -> impl Iterator<Item = &mut Value> {
    list.and_then(Value::as_array_mut).into_iter().flatten()
}

/// Where a container names volumes: in its mounts, its block devices, and its variables from files.
pub(crate) fn volume_names(container: &mut Map<String, Value>) -> Vec<&mut Value> {
    let mut names = Vec::new();
    for (field, entries) in container {
        for entry in entries.as_array_mut().into_iter().flatten() {
            names.extend(match field.as_str() {
                "volumeMounts" | "volumeDevices" => entry.get_mut("name"),
                "env" => entry
                    .get_mut("valueFrom")
                    .and_then(|from| from.get_mut("fileKeyRef")?.get_mut("volumeName")),
                _ => None,
            });
        }
    }
    names
}

/// Where the probes and hooks of a container name ports, and not numbers.
fn named_ports(container: &mut Map<String, Value>) -> Vec<&mut Value> {
    let mut handlers = Vec::new();
    for (field, value) in container {
        match field.as_str() {
            "livenessProbe" | "readinessProbe" | "startupProbe" => handlers.push(value),
            "lifecycle" => {
                handlers.extend(value.as_object_mut().into_iter().flat_map(|hooks| hooks.values_mut()))
            }
            _ => {}
        }
    }
    let kinds =
        handlers.into_iter().filter_map(Value::as_object_mut).flat_map(|handler| handler.values_mut());
    kinds.filter_map(|kind| kind.get_mut("port")).filter(|port| port.is_string()).collect()
}

/// Sets variables, each in its old place if it had one: later variables may refer to it.
pub(crate) fn set_env(container: &mut Map<String, Value>, variables: &[(&str, &str)]) -> Result<()> {
    let env = list_field(container, "env")?;
    for &(name, value) in variables {
        // Two texts, of which every sidecar has a handful: the type would only be serialised.
        let entry = [("name", name), ("value", value)].map(|(key, text)| (key.to_string(), text.into()));
        let entry = Value::Object(Map::from_iter(entry));
        match env.iter_mut().find(|known| name_of(known) == Some(name)) {
            Some(known) => *known = entry,
            None => env.push(entry),
        }
    }
    Ok(())
}

fn set_resources(container: &mut Map<String, Value>, kind: &str, entries: &Entries) -> Result<()> {
    if !entries.is_empty() {
        let resources = map_field(map_field(container, "resources")?, kind)?;
        resources.extend(entries.iter().map(|(name, value)| (name.clone(), value.as_str().into())));
    }
    Ok(())
}

/// Lowers requests that are above their limits, which the settings may have changed.
fn clamp_requests(container: &mut Map<String, Value>) {
    let Some(Value::Object(resources)) = container.get_mut("resources") else { return };
    let Some(Value::Object(limits)) = resources.get("limits").cloned() else { return };
    let Some(Value::Object(requests)) = resources.get_mut("requests") else { return };
    for (resource, request) in requests {
        if let Some(limit) = limits.get(resource) {
            // Numbers are quantities, too.
            let amount = |value: &Value| match value {
                Value::String(text) => quantity(text),
                other => quantity(&other.to_string()),
            };
            if amount(request).zip(amount(limit)).is_some_and(|(request, limit)| request > limit) {
                *request = limit.clone();
            }
        }
    }
}

fn host_path(volume: &Value) -> Option<&str> {
    text(volume.get("hostPath")?, "path")
}
