//! The part of a Pod that podrun knows, under Kubernetes' names.
//!
//! Of a container and of the Pod's spec an unknown field is an error: to ignore it could change what the Pod means.
//! What is accepted and not heeded has a name with `_`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fmt, fs};

use anyhow::{Context as _, Result, bail, ensure};
use fluid_sidecar_layout::contract::VFUSE_RESOURCE;
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::cli::given;

#[derive(Debug, Deserialize)]
pub(crate) struct Pod {
    pub(crate) spec: Spec,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Spec {
    #[serde(default)]
    init_containers: Vec<Container>,
    /// Once read, the init containers and then the others.
    pub(crate) containers: Vec<Container>,
    #[serde(default)]
    pub(crate) restart_policy: RestartPolicy,
    #[serde(default)]
    pub(crate) share_process_namespace: bool,
    #[serde(default = "default_grace")]
    termination_grace_period_seconds: u64,
    #[serde(default)]
    pub(crate) volumes: Vec<Volume>,
}

fn default_grace() -> u64 {
    30
}

impl Spec {
    /// How long a container may take to end after SIGTERM.
    pub(crate) fn grace(&self) -> Duration {
        Duration::from_secs(self.termination_grace_period_seconds)
    }
}

#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
pub(crate) enum RestartPolicy {
    Never,
    OnFailure,
    #[default]
    Always,
}

/// What a container is in the life of the Pod.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Role {
    /// Runs to its end before anything after it.
    Init,
    /// An init container with `restartPolicy: Always`: runs beside what comes after it.
    NativeSidecar,
    /// The Pod lives as long as one of these.
    #[default]
    Main,
    /// A main container that ECI ends after the others.
    EciSidecar,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Container {
    #[serde(skip)]
    pub(crate) role: Role,
    pub(crate) name: String,
    pub(crate) image: String,
    /// Required: podrun knows no image's entrypoint.
    pub(crate) command: Vec<String>,
    #[serde(default)]
    pub(crate) env: Vec<Variable>,
    #[serde(default)]
    lifecycle: Hooks,
    #[serde(default)]
    resources: Resources,
    #[serde(default)]
    restart_policy: Option<RestartPolicy>,
    #[serde(default)]
    pub(crate) security_context: SecurityContext,
    #[serde(default)]
    pub(crate) volume_mounts: Vec<VolumeMount>,
    #[serde(default, rename = "imagePullPolicy")]
    _image_pull_policy: IgnoredAny,
    #[serde(default, rename = "readinessProbe")]
    _readiness_probe: IgnoredAny,
    #[serde(default, rename = "terminationMessagePolicy")]
    _termination_message_policy: IgnoredAny,
}

impl Container {
    /// A container of podrun's own.
    pub(crate) fn shell(script: &str) -> Self {
        let command = ["sh", "-c", script].map(str::to_owned).into();
        Container { image: "busybox".to_owned(), command, ..Container::default() }
    }

    fn has(&self, variable: &str, value: &str) -> bool {
        self.env.iter().any(|known| known.name == variable && known.value == value)
    }

    /// Its failure is not the Pod's.
    pub(crate) fn ignore_exit_code(&self) -> bool {
        self.role == Role::NativeSidecar || self.has("ECI_CONTAINER_IGNORE_EXIT_CODE", "true")
    }

    /// It may mount FUSE, by the serverless platform's resource.
    pub(crate) fn vfuse(&self) -> bool {
        self.resources.limits.contains_key(VFUSE_RESOURCE)
    }

    /// The command of a hook.
    pub(crate) fn hook(&self, hook: Hook) -> Option<&[String]> {
        let handler = match hook {
            Hook::PostStart => &self.lifecycle.post_start,
            Hook::PreStop => &self.lifecycle.pre_stop,
        };
        handler.as_ref().map(|handler| handler.exec.command.as_slice())
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Variable {
    pub(crate) name: String,
    /// Once read, that of the Secret where the variable is from one.
    #[serde(default)]
    pub(crate) value: String,
    value_from: Option<VariableSource>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct VariableSource {
    secret_key_ref: SecretKey,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SecretKey {
    name: String,
    key: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Hooks {
    post_start: Option<Handler>,
    pre_stop: Option<Handler>,
}

/// Another process in a container, beside its first one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hook {
    PostStart,
    PreStop,
}

impl fmt::Display for Hook {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Hook::PostStart => "postStart",
            Hook::PreStop => "preStop",
        })
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Handler {
    exec: Exec,
}

#[derive(Debug, Deserialize)]
struct Exec {
    command: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
struct Resources {
    #[serde(default)]
    limits: BTreeMap<String, IgnoredAny>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub(crate) struct SecurityContext {
    pub(crate) allow_privilege_escalation: Option<bool>,
    pub(crate) capabilities: Capabilities,
    pub(crate) privileged: bool,
    pub(crate) run_as_group: u32,
    pub(crate) run_as_user: u32,
    #[serde(rename = "runAsNonRoot")]
    _run_as_non_root: IgnoredAny,
    #[serde(rename = "seccompProfile")]
    _seccomp_profile: IgnoredAny,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Capabilities {
    pub(crate) drop: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct VolumeMount {
    pub(crate) name: String,
    pub(crate) mount_path: String,
    #[serde(default)]
    pub(crate) mount_propagation: Propagation,
    #[serde(default)]
    pub(crate) read_only: bool,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
pub(crate) enum Propagation {
    #[default]
    None,
    HostToContainer,
    Bidirectional,
}

/// A volume of another kind has neither, and is for `--volume` to provide.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Volume {
    pub(crate) name: String,
    pub(crate) host_path: Option<HostPath>,
    pub(crate) empty_dir: Option<IgnoredAny>,
}

/// The directory is made where it is missing: by kubelet for the one type, by the container's runtime for the other.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct HostPath {
    pub(crate) path: String,
    #[serde(default, rename = "type")]
    _kind: HostPathKind,
}

#[derive(Debug, Default, Deserialize)]
enum HostPathKind {
    #[default]
    #[serde(rename = "")]
    Unchecked,
    DirectoryOrCreate,
}

/// Reads a Pod from a file, and the Secrets that its variables are from.
pub(crate) fn read(path: &Path, secrets: &[(String, PathBuf)]) -> Result<Pod> {
    let text = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    parse(&text, secrets)
}

fn parse(text: &[u8], secrets: &[(String, PathBuf)]) -> Result<Pod> {
    let mut pod: Pod = serde_json::from_slice(text).context("the Pod is not one that podrun can run")?;
    for container in &mut pod.spec.init_containers {
        container.role = match container.restart_policy {
            None => Role::Init,
            Some(RestartPolicy::Always) => Role::NativeSidecar,
            Some(other) => bail!("{}: restartPolicy {other:?} is not possible here", container.name),
        };
    }
    for container in &mut pod.spec.containers {
        ensure!(container.restart_policy.is_none(), "{}: restartPolicy is not possible here", container.name);
        if container.has("ECI_CONTAINER_TYPE", "sidecar") {
            container.role = Role::EciSidecar;
        }
    }
    pod.spec.containers.splice(0..0, pod.spec.init_containers.drain(..));
    for variable in pod.spec.containers.iter_mut().flat_map(|container| &mut container.env) {
        if let Some(VariableSource { secret_key_ref: SecretKey { name, key } }) = &variable.value_from {
            let directory =
                given(secrets, name).with_context(|| format!("Secret {name:?}: give --secret {name}=DIR"))?;
            let value = fs::read_to_string(directory.join(key));
            variable.value =
                value.with_context(|| format!("Secret {name:?}: cannot read its key {key:?}"))?;
        }
    }
    Ok(pod)
}

#[cfg(test)]
pub(crate) mod tests {
    use serde_json::{Value, json};

    use super::*;

    pub(crate) fn pod(spec: Value) -> Result<Pod> {
        parse(json!({"kind": "Pod", "spec": spec}).to_string().as_bytes(), &[])
    }

    /// The only container of a Pod, with more fields.
    pub(crate) fn container(fields: Value) -> Result<Container> {
        let mut app = json!({"name": "app", "image": "busybox", "command": ["true"]});
        app.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        pod(json!({"containers": [app]})).map(|mut pod| pod.spec.containers.remove(0))
    }

    #[test]
    fn what_is_not_known_is_refused() {
        for (fields, expected) in [
            (json!({"livenessProbe": {}}), "unknown field `livenessProbe`"),
            (json!({"lifecycle": {"stopSignal": "SIGINT"}}), "unknown field `stopSignal`"),
            (json!({"securityContext": {"readOnlyRootFilesystem": true}}), "`readOnlyRootFilesystem`"),
            (json!({"volumeMounts": [{"name": "v", "mountPath": "/", "subPath": "a"}]}), "`subPath`"),
            (json!({"env": [{"name": "A", "valueFrom": {"fieldRef": {}}}]}), "`fieldRef`"),
            (json!({"restartPolicy": "Always"}), "app: restartPolicy is not possible here"),
            (
                json!({"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]}),
                "give --secret s=DIR",
            ),
        ] {
            let error = format!("{:#}", container(fields).unwrap_err());
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn host_paths_are_directories() {
        let host_path = |kind: Value| {
            pod(
                json!({"containers": [], "volumes": [{"name": "v", "hostPath": {"path": "/a", "type": kind}}]}),
            )
        };
        assert!(host_path(json!("")).is_ok() && host_path(json!("DirectoryOrCreate")).is_ok());
        assert!(format!("{:#}", host_path(json!("Socket")).unwrap_err()).contains("`Socket`"));
    }

    #[test]
    fn roles() {
        let named = |name: &str, more: Value| {
            let mut container = json!({"name": name, "image": "busybox", "command": ["true"]});
            container.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            container
        };
        let sidecar = json!({"env": [{"name": "ECI_CONTAINER_TYPE", "value": "sidecar"}]});
        let pod = pod(json!({
            "initContainers": [named("i", json!({})), named("n", json!({"restartPolicy": "Always"}))],
            "containers": [named("e", sidecar), named("m", json!({}))],
        }))
        .unwrap();
        let roles = pod.spec.containers.iter().map(|container| (container.name.as_str(), container.role));
        let expected =
            [("i", Role::Init), ("n", Role::NativeSidecar), ("e", Role::EciSidecar), ("m", Role::Main)];
        assert_eq!(roles.collect::<Vec<_>>(), expected);
        assert_eq!((pod.spec.restart_policy, pod.spec.grace().as_secs()), (RestartPolicy::Always, 30));
    }
}
