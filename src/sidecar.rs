//! What container serves a Dataset?
//!
//! Either the first container of the Runtime's fuse DaemonSet, taken as JSON so that no field of it is lost,
//! or one that we make for `fluid-fuse`. Both are then dressed alike: name, environment, device, security,
//! gate. The module does not know the Pod: names are given to it, and where the container goes is decided in
//! [`crate::plan`].

use fluid_sidecar_layout::FLUID_FUSE;
use k8s_openapi::api::core::v1::{
    Capabilities, Container, EnvVar, HostPathVolumeSource, SeccompProfile, SecurityContext, VolumeMount,
};
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::dataset::{Dataset, Server};
use crate::destination::{Destination, Device, Order};
use crate::lifecycle::Gate;
use crate::settings::Settings;

/// A container and the volumes that it mounts.
#[derive(Clone, Debug, PartialEq)]
pub struct Sidecar {
    /// The container.
    pub container: Map<String, Value>,
    /// Its volumes, by the names that the container's mounts use.
    pub volumes: Vec<Value>,
    /// Names of volumes of the DaemonSet that were left out: a serverless node has no directories to share.
    pub dropped_volumes: Vec<String>,
}

/// Makes the sidecar of one Dataset. The error is one sentence that names the object.
pub fn build(
    dataset: &Dataset,
    name: &str,
    destination: Destination,
    settings: &Settings,
) -> Result<Sidecar, String> {
    let device = destination.device();
    let (mut sidecar, gate) = match &dataset.server {
        Server::DaemonSet { name, pod_spec } => {
            from_daemonset(dataset, pod_spec, device).map_err(|error| format!("{name}: {error}"))?
        }
        Server::Settings { image, source } => from_settings(dataset, image, source.as_deref(), device)?,
    };
    let container = &mut sidecar.container;
    container.insert("name".into(), name.into());
    if let Some(image) = settings.sidecar_images.get(&dataset.runtime) {
        container.insert("image".into(), image.as_str().into());
    }
    if !container.get("image").is_some_and(Value::is_string) {
        let runtime = dataset.runtime;
        return Err(format!(
            "the fuse container of Dataset {}/{} has no image; set sidecarImages.{runtime}",
            dataset.namespace, dataset.name
        ));
    }
    let env = list_field(container, "env")?;
    for (key, value) in destination.sidecar_env() {
        env.retain(|entry| entry.get("name").and_then(Value::as_str) != Some(key));
        env.push(json!({"name": key, "value": value}));
    }
    if env.is_empty() {
        container.remove("env");
    }
    if device == Device::ExtendedResource {
        // Kubernetes wants extended resources whole, with the request, if any, equal to the limit.
        let resources = map_field(container, "resources")?;
        for kind in ["limits", "requests"] {
            map_field(resources, kind)?.insert(settings.vfuse_resource_name.clone(), "1".into());
        }
    }
    container.insert("lifecycle".into(), typed(gate.lifecycle(settings.gate_timeout_seconds))?);
    if destination == Destination::Eci {
        container.insert("readinessProbe".into(), typed(gate.readiness_probe())?);
    }
    if destination.order() == Order::NativeSidecar {
        container.insert("restartPolicy".into(), "Always".into());
    }
    Ok(sidecar)
}

/// The first container of the DaemonSet's Pods, and of their volumes those that it mounts: what Fluid takes.
fn from_daemonset(dataset: &Dataset, pod_spec: &Value, device: Device) -> Result<(Sidecar, Gate), String> {
    let Some(Value::Object(template)) = pod_spec.pointer("/containers/0") else {
        return Err("spec.template.spec.containers[0] must be a map".into());
    };
    let mut container = template.clone();
    let volumes = pod_spec.get("volumes").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let mount_point = container_mount_point(dataset, &container, volumes)?;
    let fluid_fuse = container
        .get("command")
        .and_then(|command| command.get(0))
        .and_then(Value::as_str)
        .is_some_and(|program| program.rsplit('/').next() == Some(FLUID_FUSE));

    let mounts = list_field(&mut container, "volumeMounts")?;
    let mut kept = Vec::new();
    let mut dropped_volumes = Vec::new();
    for volume in volumes {
        let name = volume.get("name").unwrap_or(&Value::Null);
        if !mounts.iter().any(|mount| mount.get("name") == Some(name)) {
            continue;
        }
        if let (Device::ExtendedResource, Some(path)) = (device, host_path(volume)) {
            mounts.retain(|mount| mount.get("name") != Some(name));
            // The device and the mount are what the platform gives instead.
            if path != "/dev/fuse" && !dataset.mount_point.as_str().starts_with(path) {
                dropped_volumes.push(name.as_str().unwrap_or_default().to_string());
            }
        } else {
            kept.push(volume.clone());
        }
    }
    if mounts.is_empty() {
        container.remove("volumeMounts");
    }
    let template_user = pod_spec.get("securityContext").and_then(Value::as_object);
    let security = map_field(&mut container, "securityContext")?;
    pin_user(security, template_user);
    match device {
        Device::ExtendedResource => unprivileged(security)?,
        Device::Privileged => {
            security.insert("privileged".into(), true.into());
            // A contradiction that the API server refuses.
            security.remove("allowPrivilegeEscalation");
        }
    }
    Ok((Sidecar { container, volumes: kept, dropped_volumes }, Gate { mount_point, fluid_fuse, device }))
}

/// Where the DaemonSet's container sees the mount point: it mounts a directory of the node above it.
fn container_mount_point(
    dataset: &Dataset,
    container: &Map<String, Value>,
    volumes: &[Value],
) -> Result<String, String> {
    let mounts =
        container.get("volumeMounts").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    volumes
        .iter()
        .filter_map(|volume| {
            let below =
                dataset.mount_point.as_str().strip_prefix(host_path(volume)?.trim_end_matches('/'))?;
            let mount = mounts.iter().find(|mount| mount.get("name") == volume.get("name"))?;
            let path = mount.get("mountPath")?.as_str()?.trim_end_matches('/');
            below.starts_with('/').then(|| format!("{path}{below}"))
        })
        .next()
        .ok_or_else(|| format!("its container mounts no hostPath above {}", dataset.mount_point))
}

fn from_settings(
    dataset: &Dataset,
    image: &str,
    source: Option<&str>,
    device: Device,
) -> Result<(Sidecar, Gate), String> {
    let mount_point = dataset.mount_point.as_str();
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
        variable("MOUNT_POINT", mount_point),
    ];
    env.extend(source.map(|source| variable("FLUID_FUSE_SOURCE", source)));
    let words = |words: &[&str]| words.iter().map(|word| word.to_string()).collect();
    let mut container = Container {
        image: Some(image.into()),
        command: source.map(|_| words(&[FLUID_FUSE, "mount"])),
        env: Some(env),
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
            // The directory above the mount point: a dead mount could not be a volume.
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
    Ok((Sidecar { container, volumes, dropped_volumes: Vec::new() }, gate))
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
