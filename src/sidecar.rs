//! What container serves a Dataset?
//!
//! Either the first container of the Runtime's fuse DaemonSet, taken as JSON so that no field of it is lost,
//! or one that we make for `fluid-fuse` or an image of the settings. All are then dressed alike: name,
//! environment, device, security, gate, and what the settings override. The module does not know the Pod:
//! names are given to it, and where the container goes is decided in [`crate::plan`].

use fluid_sidecar_layout::FLUID_FUSE;
use k8s_openapi::api::core::v1::{
    Capabilities, Container, EmptyDirVolumeSource, EnvVar, EnvVarSource, HostPathVolumeSource,
    SeccompProfile, SecretKeySelector, SecurityContext, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::dataset::{Dataset, Server, Source};
use crate::destination::{Device, Order, Strategy};
use crate::json::elements;
use crate::lifecycle::Gate;
use crate::request::Entries;
use crate::settings::{Settings, quantity};

/// The volume of `cacheDirectory`.
const CACHE_VOLUME: &str = "fluid-fuse-cache";

/// A container and what it needs of the Pod.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sidecar {
    /// The container.
    pub container: Map<String, Value>,
    /// Its volumes, by the names that the container's mounts use.
    pub volumes: Vec<Value>,
    /// Secrets that its image is pulled with.
    pub image_pull_secrets: Vec<String>,
    /// How long it needs to end, in seconds, when the DaemonSet says so.
    pub grace_seconds: Option<i64>,
    /// What of the DaemonSet it runs without.
    pub left_out: Vec<String>,
}

impl Sidecar {
    /// Gives up its own cpu and memory: the Pod has some for all of its containers, and the API server refuses a
    /// Pod whose containers ask for more than that.
    pub fn share_resources(&mut self) {
        let resources = self.container.get_mut("resources").and_then(Value::as_object_mut);
        let mut shared = false;
        for kind in resources.into_iter().flat_map(|resources| resources.values_mut()) {
            for resource in ["cpu", "memory"] {
                shared |= kind.as_object_mut().is_some_and(|kind| kind.remove(resource).is_some());
            }
        }
        if shared {
            self.left_out.push("cpu and memory of its own: the Pod has some for all containers".into());
        }
    }
}

/// Makes the sidecar of one Dataset. `limits` are what the Pod asks for. The error is one sentence that names
/// the object.
pub fn build(
    dataset: &Dataset,
    name: &str,
    strategy: Strategy,
    limits: &Entries,
    settings: &Settings,
) -> Result<Sidecar, String> {
    let (mut sidecar, gate) = match &dataset.server {
        Server::DaemonSet { name, pod_spec } => {
            from_daemonset(dataset, pod_spec, strategy.device).map_err(|error| format!("{name}: {error}"))?
        }
        Server::Image(image) => from_image(dataset, image, None, strategy.device)?,
        Server::FluidFuse { image, source } => from_image(dataset, image, Some(source), strategy.device)?,
    };
    let old_name = sidecar.container.insert("name".into(), name.into());
    if let Some(Value::String(old_name)) = old_name {
        let env = sidecar.container.get_mut("env").into_iter();
        env.chain(&mut sidecar.volumes).for_each(|part| follow_name(part, &old_name, name));
    }
    let container = &mut sidecar.container;
    let ours = matches!(dataset.server, Server::FluidFuse { .. });
    if let Some(image) = settings.image(dataset.runtime).filter(|_| !ours) {
        container.insert("image".into(), image.into());
    }
    if !container.get("image").is_some_and(Value::is_string) {
        let Dataset { namespace, name, runtime, .. } = dataset;
        return Err(format!(
            "the fuse container of Dataset {namespace}/{name} has no image; set sidecarImages.{runtime}"
        ));
    }
    override_fields(&mut sidecar, dataset, settings)?;

    let container = &mut sidecar.container;
    for (key, value) in strategy.exit.sidecar_env() {
        set_env(container, key, value)?;
    }
    set_resources(container, "limits", limits)?;
    clamp_requests(container);
    if strategy.device == Device::ExtendedResource {
        // Kubernetes wants extended resources whole, with the request, if any, equal to the limit.
        let resources = map_field(container, "resources")?;
        for kind in ["limits", "requests"] {
            map_field(resources, kind)?.insert(settings.vfuse_resource_name.clone(), "1".into());
        }
    }
    container.insert("lifecycle".into(), typed(gate.lifecycle(settings.gate_timeout_seconds))?);
    if strategy.readiness_probe {
        container.insert("readinessProbe".into(), typed(gate.readiness_probe())?);
    }
    if strategy.order == Order::NativeSidecar {
        container.insert("restartPolicy".into(), "Always".into());
    }
    // Forbidden in init containers, and its RestartContainer in Pods that never restart.
    container.remove("resizePolicy");
    for list in ["env", "volumeMounts"] {
        if container.get(list).is_some_and(|value| value.as_array().is_some_and(Vec::is_empty)) {
            container.remove(list);
        }
    }
    Ok(sidecar)
}

/// What the administrator changes in the sidecars of this Runtime.
fn override_fields(sidecar: &mut Sidecar, dataset: &Dataset, settings: &Settings) -> Result<(), String> {
    let Some(overrides) = settings.overrides(dataset.runtime) else { return Ok(()) };
    let container = &mut sidecar.container;
    if !overrides.args.is_empty() {
        list_field(container, "args")?.extend(overrides.args.iter().map(|arg| arg.as_str().into()));
    }
    for (name, value) in &overrides.env {
        set_env(container, name, value)?;
    }
    set_resources(container, "limits", &overrides.limits)?;
    set_resources(container, "requests", &overrides.requests)?;
    if let Some(path) = &overrides.cache_directory {
        let mounts = list_field(container, "volumeMounts")?;
        mounts.retain(|mount| mount.get("mountPath").and_then(Value::as_str) != Some(path));
        mounts.push(typed(VolumeMount {
            name: CACHE_VOLUME.into(),
            mount_path: path.clone(),
            ..Default::default()
        })?);
        // What was mounted there before may be mounted no longer.
        let mounts = mounts.clone();
        let devices = elements(container.get("volumeDevices"));
        sidecar.volumes.retain(|volume| {
            let name = volume.get("name");
            mounts.iter().chain(devices).any(|used| used.get("name") == name)
        });
        let empty_dir = EmptyDirVolumeSource {
            size_limit: overrides.cache_size_limit.clone().map(Quantity),
            ..Default::default()
        };
        sidecar.volumes.push(json!({"name": CACHE_VOLUME, "emptyDir": typed(empty_dir)?}));
    }
    sidecar.image_pull_secrets.extend(overrides.image_pull_secrets.iter().cloned());
    Ok(())
}

/// The first container of the DaemonSet's Pods, and of their volumes those that it mounts: what Fluid takes.
/// What Fluid forgets and the container needs comes along: pull secrets, its user, its time to end.
fn from_daemonset(dataset: &Dataset, pod_spec: &Value, device: Device) -> Result<(Sidecar, Gate), String> {
    let Some(Value::Object(template)) = pod_spec.pointer("/containers/0") else {
        return Err("spec.template.spec.containers[0] must be a map".into());
    };
    let mut sidecar = Sidecar { container: template.clone(), ..Default::default() };
    let volumes = elements(pod_spec.get("volumes"));
    let mount_point = container_mount_point(dataset, template, volumes)?;
    let program = template.get("command").and_then(|command| command.get(0)).and_then(Value::as_str);
    let fluid_fuse = program.is_some_and(|program| program.rsplit('/').next() == Some(FLUID_FUSE));

    let mounts = list_field(&mut sidecar.container, "volumeMounts")?;
    for volume in volumes {
        let name = volume.get("name").unwrap_or(&Value::Null);
        let devices = elements(template.get("volumeDevices"));
        if !mounts.iter().chain(devices).any(|used| used.get("name") == Some(name)) {
            continue;
        }
        if let (Device::ExtendedResource, Some(path)) = (device, host_path(volume)) {
            mounts.retain(|mount| mount.get("name") != Some(name));
            // The device and the mount are what the platform gives instead.
            if path != "/dev/fuse" && !is_above(path, dataset) {
                sidecar.left_out.push(format!("hostPath volume {}", name.as_str().unwrap_or_default()));
            }
        } else {
            sidecar.volumes.push(volume.clone());
        }
    }
    // On a DaemonSet with hostNetwork the API server has set it for every port.
    for port in sidecar.container.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some(port) = port.as_object_mut() {
            port.remove("hostPort");
        }
    }
    let template_user = pod_spec.get("securityContext").and_then(Value::as_object);
    let security = map_field(&mut sidecar.container, "securityContext")?;
    pin_user(security, template_user);
    match device {
        Device::ExtendedResource => {
            unprivileged(security)?;
            for mount in list_field(&mut sidecar.container, "volumeMounts")? {
                if let Some(mount) = mount.as_object_mut() {
                    if mount.get("mountPropagation").and_then(Value::as_str) == Some("Bidirectional") {
                        mount.remove("mountPropagation");
                    }
                }
            }
        }
        Device::Privileged => {
            security.insert("privileged".into(), true.into());
            // A contradiction that the API server refuses.
            security.remove("allowPrivilegeEscalation");
            for mount in list_field(&mut sidecar.container, "volumeMounts")? {
                let volume = volumes.iter().find(|volume| volume.get("name") == mount.get("name"));
                let above = volume.and_then(host_path).is_some_and(|path| is_above(path, dataset));
                if let Some(mount) = mount.as_object_mut().filter(|_| above) {
                    mount.insert("mountPropagation".into(), "Bidirectional".into());
                }
            }
        }
    }
    sidecar.grace_seconds = pod_spec.get("terminationGracePeriodSeconds").and_then(Value::as_i64);
    let secrets = elements(pod_spec.get("imagePullSecrets"));
    let secrets = secrets.iter().filter_map(|secret| secret.get("name")?.as_str());
    sidecar.image_pull_secrets.extend(secrets.map(str::to_string));
    for (list, first) in [("initContainers", 0), ("containers", 1)] {
        let more = elements(pod_spec.get(list)).iter().skip(first);
        let names = more.filter_map(|container| container.get("name")?.as_str());
        sidecar.left_out.extend(names.map(|name| format!("container {name}")));
    }
    for field in ["dnsConfig", "hostPID", "hostIPC", "runtimeClassName", "serviceAccountName"] {
        if pod_spec.get(field).is_some_and(|value| !matches!(value, Value::Null | Value::Bool(false))) {
            sidecar.left_out.push(field.to_string());
        }
    }
    Ok((sidecar, Gate { mount_point, fluid_fuse, device }))
}

/// Whether a directory of the node holds the mount point.
fn is_above(path: &str, dataset: &Dataset) -> bool {
    let below = dataset.mount_point.as_str().strip_prefix(path.trim_end_matches('/'));
    below.is_some_and(|below| below.starts_with('/'))
}

/// Where the DaemonSet's container sees the mount point: it mounts a directory of the node above it.
fn container_mount_point(
    dataset: &Dataset,
    container: &Map<String, Value>,
    volumes: &[Value],
) -> Result<String, String> {
    let mounts = elements(container.get("volumeMounts"));
    volumes
        .iter()
        .filter_map(|volume| {
            let path = host_path(volume).filter(|path| is_above(path, dataset))?.trim_end_matches('/');
            let mount = mounts.iter().find(|mount| mount.get("name") == volume.get("name"))?;
            let mount_path = mount.get("mountPath")?.as_str()?.trim_end_matches('/');
            Some(format!("{mount_path}{}", dataset.mount_point.as_str().strip_prefix(path)?))
        })
        .next()
        .ok_or_else(|| format!("its container mounts no hostPath above {}", dataset.mount_point))
}

/// A container of ours: `fluid-fuse` with its source, or an image that knows its own.
fn from_image(
    dataset: &Dataset,
    image: &str,
    source: Option<&Source>,
    device: Device,
) -> Result<(Sidecar, Gate), String> {
    let mount_point = dataset.mount_point.as_str();
    let words = |words: &[&str]| words.iter().map(|word| word.to_string()).collect();
    let mut container = Container {
        image: Some(image.into()),
        command: source.map(|_| words(&[FLUID_FUSE, "mount"])),
        env: Some(environment(dataset, source)),
        security_context: Some(SecurityContext {
            // The Pod may have a user of its own for its application; the device needs this one.
            run_as_user: Some(0),
            run_as_group: Some(0),
            run_as_non_root: Some(false),
            privileged: Some(device == Device::Privileged),
            seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".into(), ..Default::default() }),
            ..Default::default()
        }),
        ..Default::default()
    };
    let mut volumes = Vec::new();
    match device {
        Device::ExtendedResource => {
            if let Some(security) = &mut container.security_context {
                security.allow_privilege_escalation = Some(false);
                security.capabilities =
                    Some(Capabilities { drop: Some(vec!["ALL".into()]), ..Default::default() });
            }
        }
        Device::Privileged => {
            // The directory above the mount point: a dead mount could not be a volume (Fluid #1345).
            let directory = dataset.mount_point.parent().to_string();
            container.volume_mounts = Some(vec![VolumeMount {
                name: FLUID_FUSE.into(),
                mount_path: directory.clone(),
                mount_propagation: Some("Bidirectional".into()),
                ..Default::default()
            }]);
            let host_path = HostPathVolumeSource { path: directory, type_: Some("DirectoryOrCreate".into()) };
            // A typed Volume would bring the code of every kind of volume into the module: 250 KB.
            volumes.push(json!({"name": FLUID_FUSE, "hostPath": typed(host_path)?}));
        }
    }
    let Value::Object(container) = typed(container)? else {
        return Err("the sidecar's container is no map".into());
    };
    let gate = Gate { mount_point: mount_point.into(), fluid_fuse: source.is_some(), device };
    Ok((Sidecar { container, volumes, ..Default::default() }, gate))
}

fn environment(dataset: &Dataset, source: Option<&Source>) -> Vec<EnvVar> {
    let variable = |name: &str, value: &str| EnvVar {
        name: name.into(),
        // `$(…)` in a value would be replaced by kubelet.
        value: Some(value.replace("$(", "$$(")),
        value_from: None,
    };
    // The names that Fluid gives to the containers of a ThinRuntime.
    let mut env = vec![
        variable("FLUID_RUNTIME_TYPE", dataset.runtime.name()),
        variable("FLUID_RUNTIME_NS", &dataset.namespace),
        variable("FLUID_RUNTIME_NAME", &dataset.name),
        variable("MOUNT_POINT", dataset.mount_point.as_str()),
    ];
    match source {
        None => {}
        Some(Source::Url(url)) => env.push(variable("FLUID_FUSE_SOURCE", url)),
        Some(Source::Mounts { config, secrets }) => {
            env.push(variable("FLUID_FUSE_CONFIG_JSON", &config.to_string()));
            env.extend(secrets.iter().map(|secret| EnvVar {
                name: secret.name.clone(),
                value: None,
                value_from: Some(EnvVarSource {
                    secret_key_ref: Some(SecretKeySelector {
                        name: secret.secret.clone(),
                        key: secret.key.clone(),
                        optional: None,
                    }),
                    ..Default::default()
                }),
            }));
        }
    }
    env
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

/// Serverless nodes admit no privileged containers; the device is granted by the extended resource.
fn unprivileged(security: &mut Map<String, Value>) -> Result<(), String> {
    security.insert("privileged".into(), false.into());
    if security.contains_key("capabilities") {
        let capabilities = map_field(security, "capabilities")?;
        let added = list_field(capabilities, "add")?;
        added
            .retain(|capability| !matches!(capability.as_str(), Some("SYS_ADMIN" | "CAP_SYS_ADMIN" | "ALL")));
        if added.is_empty() {
            capabilities.remove("add");
        }
        if capabilities.is_empty() {
            security.remove("capabilities");
        }
    }
    Ok(())
}

/// The downward API names the container whose resources it shows (`resourceFieldRef.containerName`).
fn follow_name(value: &mut Value, old: &str, new: &str) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                if key == "containerName" && value == old {
                    *value = new.into();
                }
                follow_name(value, old, new);
            }
        }
        Value::Array(elements) => elements.iter_mut().for_each(|element| follow_name(element, old, new)),
        _ => {}
    }
}

/// Sets a variable, in its old place if it had one: later variables may refer to it.
fn set_env(container: &mut Map<String, Value>, name: &str, value: &str) -> Result<(), String> {
    let env = list_field(container, "env")?;
    let entry = json!({"name": name, "value": value});
    match env.iter_mut().find(|known| known.get("name").and_then(Value::as_str) == Some(name)) {
        Some(known) => *known = entry,
        None => env.push(entry),
    }
    Ok(())
}

fn set_resources(container: &mut Map<String, Value>, kind: &str, entries: &Entries) -> Result<(), String> {
    if !entries.is_empty() {
        let resources = map_field(map_field(container, "resources")?, kind)?;
        resources.extend(entries.iter().map(|(name, value)| (name.clone(), value.as_str().into())));
    }
    Ok(())
}

/// Lowers requests that are above their limits, which may be others' than theirs.
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
    volume.get("hostPath")?.get("path")?.as_str()
}

/// Our own typed values as JSON.
pub(crate) fn typed(value: impl Serialize) -> Result<Value, String> {
    serde_json::to_value(value).map_err(|error| error.to_string())
}

fn map_field<'m>(map: &'m mut Map<String, Value>, key: &str) -> Result<&'m mut Map<String, Value>, String> {
    let value = map.entry(key).or_insert(Value::Null);
    if value.is_null() {
        *value = Value::Object(Map::new());
    }
    value.as_object_mut().ok_or_else(|| format!("{key} must be a map"))
}

fn list_field<'m>(map: &'m mut Map<String, Value>, key: &str) -> Result<&'m mut Vec<Value>, String> {
    let value = map.entry(key).or_insert(Value::Null);
    if value.is_null() {
        *value = Value::Array(Vec::new());
    }
    value.as_array_mut().ok_or_else(|| format!("{key} must be a list"))
}
