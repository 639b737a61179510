//! What container serves a Dataset?
//!
//! Either the first container of the Runtime's fuse DaemonSet, taken as JSON so that no field of it is lost,
//! or one that we make for `fluid-fuse` or an image of the settings. All are then dressed alike: name,
//! environment, device, security, gate, and what the settings override. The module does not know the Pod:
//! names are given to it, and where the container goes is decided in [`crate::plan`].

use fluid_sidecar_layout::FLUID_FUSE;
use serde_json::{Map, Value, json};

use crate::dataset::{Dataset, SecretVariable, Server, Source};
use crate::destination::{Device, Exit, Order, Strategy};
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

/// Longer than the longest pause that kubelet makes before it starts a container again (five minutes).
const LONGEST_BACKOFF: &str = "310s";

impl Sidecar {
    /// Tells it how many containers of the Pod it ends with, and to wait for those that kubelet starts again.
    pub fn end_with(&mut self, containers: usize, restarts: bool) -> Result<(), String> {
        set_env(&mut self.container, "FLUID_FUSE_EXIT_CONTAINERS", &containers.to_string())?;
        match restarts {
            true => set_env(&mut self.container, "FLUID_FUSE_EXIT_SETTLE", LONGEST_BACKOFF),
            false => Ok(()),
        }
    }

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
        Server::Image(image) => from_image(dataset, image, None, strategy.device),
        Server::FluidFuse { image, source } => from_image(dataset, image, Some(source), strategy.device),
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

    if strategy.exit == Exit::ProcessNamespace && !gate.fluid_fuse {
        let Dataset { namespace, name, .. } = dataset;
        return Err(format!(
            "the sidecar of Dataset {namespace}/{name} is not fluid-fuse, which alone knows exit: processNamespace; \
             set sidecarFrom: fluid-fuse, or another exit in destinations"
        ));
    }
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
    container.insert("lifecycle".into(), gate.lifecycle(settings.gate_timeout_seconds));
    if strategy.readiness_probe {
        container.insert("readinessProbe".into(), gate.readiness_probe());
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
        mounts.push(json!({"name": CACHE_VOLUME, "mountPath": path}));
        // What was mounted there before may be mounted no longer.
        let used = volume_names(container);
        sidecar.volumes.retain(|volume| used.iter().any(|name| volume.get("name") == Some(name)));
        let mut empty_dir = Map::new();
        if let Some(limit) = &overrides.cache_size_limit {
            empty_dir.insert("sizeLimit".into(), limit.as_str().into());
        }
        sidecar.volumes.push(json!({"name": CACHE_VOLUME, "emptyDir": empty_dir}));
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

    let mut used = sidecar.container.clone();
    let used = volume_names(&mut used);
    let mounts = list_field(&mut sidecar.container, "volumeMounts")?;
    for volume in volumes {
        let name = volume.get("name").unwrap_or(&Value::Null);
        if !used.iter().any(|used| *used == name) {
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
fn from_image(dataset: &Dataset, image: &str, source: Option<&Source>, device: Device) -> (Sidecar, Gate) {
    let mut container = Map::from_iter([
        ("image".to_string(), image.into()),
        ("env".to_string(), environment(dataset, source).into()),
    ]);
    if source.is_some() {
        container.insert("command".into(), [FLUID_FUSE, "mount"].as_slice().into());
    }
    // The Pod may have a user of its own for its application; the device needs root.
    let mut security = json!({
        "privileged": device == Device::Privileged,
        "runAsUser": 0,
        "runAsGroup": 0,
        "runAsNonRoot": false,
        "seccompProfile": {"type": "RuntimeDefault"},
    });
    let mut volumes = Vec::new();
    match device {
        Device::ExtendedResource => {
            security["allowPrivilegeEscalation"] = false.into();
            security["capabilities"] = json!({"drop": ["ALL"]});
        }
        Device::Privileged => {
            // The directory above the mount point: a dead mount could not be a volume (Fluid #1345).
            let path = dataset.mount_point.parent().to_string();
            let mount = json!({"name": FLUID_FUSE, "mountPath": path, "mountPropagation": "Bidirectional"});
            container.insert("volumeMounts".into(), vec![mount].into());
            volumes
                .push(json!({"name": FLUID_FUSE, "hostPath": {"path": path, "type": "DirectoryOrCreate"}}));
        }
    }
    container.insert("securityContext".into(), security);
    let mount_point = dataset.mount_point.to_string();
    let gate = Gate { mount_point, fluid_fuse: source.is_some(), device };
    (Sidecar { container, volumes, ..Default::default() }, gate)
}

fn environment(dataset: &Dataset, source: Option<&Source>) -> Vec<Value> {
    let variable = |name: &str, value: &str| {
        // `$(…)` in a value would be replaced by kubelet.
        json!({"name": name, "value": value.replace("$(", "$$(")})
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
            env.extend(secrets.iter().map(|SecretVariable { name, secret, key }| {
                json!({"name": name, "valueFrom": {"secretKeyRef": {"name": secret, "key": key}}})
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

/// Where a container names volumes: in its mounts, its block devices, and its variables from files.
pub(crate) fn volume_names(container: &mut Map<String, Value>) -> Vec<&mut Value> {
    let mut names = Vec::new();
    for (field, entries) in container {
        for entry in entries.as_array_mut().into_iter().flatten() {
            names.extend(match field.as_str() {
                "volumeMounts" | "volumeDevices" => entry.get_mut("name"),
                "env" => entry.pointer_mut("/valueFrom/fileKeyRef/volumeName"),
                _ => None,
            });
        }
    }
    names
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
