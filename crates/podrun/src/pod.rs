//! Reads a Pod into a plan: what to run, in which role, with which rights.
//!
//! Pure, but for the Secrets, which variables are read from. Decides what of a Pod podrun honours; what it
//! cannot honour and what would change the Pod's meaning is an error that names the field, or at least a note,
//! never a silent difference. It does not know whether an image, a volume's directory or a device exists, and
//! validates no more than it needs: the API server did.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use k8s_openapi::api::core::v1 as k8s;

use crate::expand::expand;
use crate::quantity;
use crate::secrets::Secrets;

/// A Pod to run.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// `metadata.name`, which is also the containers' host name.
    pub name: String,
    /// Which containers are started again.
    pub restart: Restart,
    /// Whether the containers see each other's processes (`shareProcessNamespace`).
    pub share_processes: bool,
    /// How long a container may take to end after SIGTERM.
    pub grace: Duration,
    /// `initContainers`, then `containers`, in order.
    pub containers: Vec<Container>,
    /// `volumes`.
    pub volumes: Vec<Volume>,
    /// The limit for which the platform lets a container mount FUSE.
    pub vfuse_resource: String,
    /// What the user ought to know about how this Pod is run.
    pub notes: Vec<String>,
}

/// `restartPolicy`: which containers that ended are started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restart {
    /// None.
    Never,
    /// Those that failed.
    OnFailure,
    /// All.
    Always,
}

/// What a container is in the life of the Pod.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Role {
    /// Runs to its end before anything after it.
    Init,
    /// An init container with `restartPolicy: Always`: runs beside what comes after it.
    NativeSidecar,
    /// The Pod lives as long as one of these.
    #[default]
    Main,
    /// A main container that the platform ends after the others (`ECI_CONTAINER_TYPE=sidecar`).
    EciSidecar,
}

/// A container to run.
#[derive(Clone, Debug, Default, PartialEq)]
#[allow(missing_docs, reason = "fields named as in Kubernetes hold what they hold there")]
pub struct Container {
    pub name: String,
    pub image: String,
    pub role: Role,
    /// Its failure is not the Pod's (`ECI_CONTAINER_IGNORE_EXIT_CODE=true`).
    pub ignore_exit_code: bool,
    /// Main containers of a higher priority are ready before this one starts
    /// (`ECI_CONTAINER_LAUNCH_PRIORITY`).
    pub launch_priority: i32,
    /// Why kubelet would not start it.
    pub forbidden: Option<String>,
    pub command: Vec<String>,
    pub args: Vec<String>,
    pub env: Vec<(String, String)>,
    pub working_dir: String,
    pub user: u32,
    pub group: u32,
    pub capabilities_added: Vec<String>,
    pub capabilities_dropped: Vec<String>,
    pub privileged: bool,
    pub read_only_root: bool,
    pub no_new_privileges: bool,
    pub seccomp_profile: SeccompProfile,
    /// It may mount FUSE: its limits name the platform's resource.
    pub vfuse: bool,
    /// The limit of its memory in bytes.
    pub memory: Option<u64>,
    pub mounts: Vec<Mount>,
    pub post_start: Option<Vec<String>>,
    pub pre_stop: Option<Vec<String>>,
    pub startup_probe: Option<Probe>,
    pub liveness_probe: Option<Probe>,
    pub readiness_probe: Option<Probe>,
}

/// `seccompProfile.type`: which system calls a container may make.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SeccompProfile {
    /// All; what kubelet does where nothing is asked for.
    #[default]
    Unconfined,
    /// Those of the container runtime's own profile ([`crate::seccomp`]).
    RuntimeDefault,
}

/// A volume of the Pod in a container.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "fields named as in Kubernetes hold what they hold there")]
pub struct Mount {
    pub volume: String,
    pub path: String,
    pub sub_path: Option<String>,
    pub read_only: bool,
    pub propagation: Propagation,
}

/// `mountPropagation`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "named as in Kubernetes")]
pub enum Propagation {
    None,
    HostToContainer,
    Bidirectional,
}

/// A volume of the Pod.
#[derive(Clone, Debug, PartialEq)]
pub struct Volume {
    /// Its name in the Pod.
    pub name: String,
    /// Where its files come from.
    pub source: Source,
}

/// Where the files of a volume come from.
#[derive(Clone, Debug, PartialEq)]
pub enum Source {
    /// A directory of the Pod's own.
    EmptyDir,
    /// A path of the node.
    #[allow(missing_docs, reason = "named as in Kubernetes")]
    HostPath { path: String, kind: String },
    /// Keys of a Secret as files: those that are listed, by their paths, else all.
    #[allow(missing_docs, reason = "named as in Kubernetes")]
    Secret { name: String, items: Option<Vec<(String, String)>>, optional: bool },
    /// Something that only the user can provide, by its name in Kubernetes.
    Other(String),
}

/// An exec probe.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "fields named as in Kubernetes hold what they hold there")]
pub struct Probe {
    pub command: Vec<String>,
    pub initial_delay: Duration,
    pub period: Duration,
    pub timeout: Duration,
    pub success_threshold: i32,
    pub failure_threshold: i32,
    /// How long the container may take to end when this probe failed, if not as long as the Pod says.
    pub grace: Option<Duration>,
}

/// Reads a Pod; `vfuse_resource` is the limit for which the platform lets a container mount FUSE.
pub fn read(pod: &k8s::Pod, vfuse_resource: &str, secrets: Secrets<'_>) -> Result<Plan> {
    let spec = pod.spec.as_ref().context("spec: the Pod has none")?;
    ensure!(
        spec.host_pid != Some(true),
        "spec.hostPID: podrun does not support it; spec.shareProcessNamespace it does"
    );
    ensure!(spec.host_users != Some(false), "spec.hostUsers: podrun does not support user namespaces");
    let restart = match spec.restart_policy.as_deref() {
        Some("Never") => Restart::Never,
        Some("OnFailure") => Restart::OnFailure,
        None | Some("Always") => Restart::Always,
        Some(other) => bail!("spec.restartPolicy: unknown {other:?}"),
    };
    let volumes = spec.volumes.iter().flatten().map(read_volume).collect::<Result<Vec<_>>>()?;
    let names = volumes.iter().map(|volume| volume.name.as_str()).collect();
    let reader = Reader { pod, spec, vfuse_resource, secrets, volumes: names };
    let mut containers = Vec::new();
    for (field, list) in
        [("initContainers", spec.init_containers.as_deref()), ("containers", Some(&spec.containers[..]))]
    {
        for (index, container) in list.into_iter().flatten().enumerate() {
            let read = reader.container(container, field == "initContainers");
            containers.push(read.with_context(|| format!("spec.{field}[{index}] ({})", container.name))?);
        }
    }
    let names: BTreeSet<_> = containers.iter().map(|container| &container.name).collect();
    ensure!(names.len() == containers.len(), "spec: two containers have the same name");
    let grace = seconds(spec.termination_grace_period_seconds.unwrap_or(30));
    let share_processes = spec.share_process_namespace == Some(true);
    let (name, vfuse_resource) = (reader.name().to_owned(), vfuse_resource.to_owned());
    let notes = probes_left_out(spec);
    Ok(Plan { name, restart, share_processes, grace, containers, volumes, vfuse_resource, notes })
}

/// What to say of probes that podrun cannot run, and that a container can do without.
fn probes_left_out(spec: &k8s::PodSpec) -> Vec<String> {
    let main = spec.containers.iter().map(|main| (&main.name, "startupProbe", &main.startup_probe));
    let all = spec.init_containers.iter().flatten().chain(&spec.containers);
    let others = all.flat_map(|container| {
        [("livenessProbe", &container.liveness_probe), ("readinessProbe", &container.readiness_probe)]
            .map(|(field, probe)| (&container.name, field, probe))
    });
    let probes = main.chain(others);
    let left_out = probes.filter(|(_, _, probe)| probe.as_ref().is_some_and(|probe| probe.exec.is_none()));
    left_out
        .map(|(name, field, _)| format!("{field} of {name} is not exec, so podrun leaves it out"))
        .collect()
}

fn seconds(count: impl TryInto<u64>) -> Duration {
    Duration::from_secs(count.try_into().unwrap_or(0))
}

fn read_volume(volume: &k8s::Volume) -> Result<Volume> {
    let name = volume.name.clone();
    if let Some(host_path) = &volume.host_path {
        let path = host_path.path.clone();
        let normal = path.starts_with('/') && !path.split('/').any(|component| component == "..");
        ensure!(normal, "volume {name}: hostPath.path {path:?} must be absolute and without \"..\"");
        let kind = host_path.type_.clone().unwrap_or_default();
        return Ok(Volume { name, source: Source::HostPath { path, kind } });
    }
    if let Some(secret) = &volume.secret {
        let items = secret.items.as_ref().map(|items| {
            let item = |item: &k8s::KeyToPath| {
                ensure!(is_inside(&item.path), "volume {name}: secret.items: path {:?} leaves it", item.path);
                Ok((item.key.clone(), item.path.clone()))
            };
            items.iter().map(item).collect::<Result<_>>()
        });
        let (items, optional) = (items.transpose()?, secret.optional == Some(true));
        let secret = secret.secret_name.clone().unwrap_or_default();
        return Ok(Volume { name, source: Source::Secret { name: secret, items, optional } });
    }
    if volume.empty_dir.is_some() {
        return Ok(Volume { name, source: Source::EmptyDir });
    }
    let json = serde_json::to_value(volume)?;
    let kind = json.as_object().and_then(|fields| fields.keys().find(|key| *key != "name"));
    Ok(Volume { name, source: Source::Other(kind.map_or("volume without a source", |kind| kind).to_owned()) })
}

fn is_inside(path: &str) -> bool {
    !path.is_empty() && !path.starts_with('/') && !path.split('/').any(|part| part == "..")
}

struct Reader<'a> {
    pod: &'a k8s::Pod,
    spec: &'a k8s::PodSpec,
    vfuse_resource: &'a str,
    secrets: Secrets<'a>,
    volumes: BTreeSet<&'a str>,
}

impl Reader<'_> {
    fn name(&self) -> &str {
        let metadata = &self.pod.metadata;
        metadata.name.as_deref().or(metadata.generate_name.as_deref()).unwrap_or("pod").trim_end_matches('-')
    }

    fn container(&self, container: &k8s::Container, init: bool) -> Result<Container> {
        ensure!(container.env_from.as_ref().is_none_or(Vec::is_empty), "envFrom: podrun does not support it");
        ensure!(container.volume_devices.as_ref().is_none_or(Vec::is_empty), "volumeDevices: not supported");
        let env = self.env(container.env.as_deref().unwrap_or_default())?;
        let value = |name: &str| env.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
        let expanded =
            |list: &Option<Vec<String>>| list.iter().flatten().map(|text| expand(text, value)).collect();
        let (command, args) = (expanded(&container.command), expanded(&container.args));
        let role = match (init, container.restart_policy.as_deref()) {
            (true, None) => Role::Init,
            (true, Some("Always")) => Role::NativeSidecar,
            (_, Some(other)) => bail!("restartPolicy: {other:?} is not possible here"),
            (false, None) if value("ECI_CONTAINER_TYPE") == Some("sidecar") => Role::EciSidecar,
            (false, None) => Role::Main,
        };
        let security = container.security_context.clone().unwrap_or_default();
        let pod_security = self.spec.security_context.clone().unwrap_or_default();
        let forbidden = self.forbidden(&container.name, &security, &pod_security);
        let privileged = security.privileged == Some(true);
        let seccomp_profile = match (&security.seccomp_profile, &pod_security.seccomp_profile) {
            (Some(own), _) => seccomp_profile(own).context("securityContext.seccompProfile.type"),
            (None, Some(pods)) => {
                seccomp_profile(pods).context("the Pod's spec.securityContext.seccompProfile.type")
            }
            (None, None) => Ok(SeccompProfile::default()),
        };
        let id = |own: Option<i64>, pod: Option<i64>| u32::try_from(own.or(pod).unwrap_or(0));
        let capabilities = security.capabilities.unwrap_or_default();
        let mounts = container.volume_mounts.iter().flatten().map(|mount| {
            self.mount(mount, privileged).with_context(|| format!("volumeMounts {}", mount.mount_path))
        });
        let lifecycle = container.lifecycle.clone().unwrap_or_default();
        let limits = container.resources.as_ref().and_then(|resources| resources.limits.as_ref());
        let limit = |name: &str| limits.and_then(|limits| limits.get(name)).map(|limit| limit.0.as_str());
        let memory = limit("memory").map(|text| quantity::whole(text).with_context(|| format!("{text:?}")));
        let launch_priority = value("ECI_CONTAINER_LAUNCH_PRIORITY").map(|text| {
            let number = text.parse::<i32>();
            number.with_context(|| format!("env ECI_CONTAINER_LAUNCH_PRIORITY: {text:?} is no whole number"))
        });
        // An init container has none; the API server refuses them. What is not exec is told in a note.
        let exec_probe = |field: &Option<k8s::Probe>| {
            field.as_ref().filter(|probe| role != Role::Init && probe.exec.is_some()).map(probe).transpose()
        };
        let startup_probe = match &container.startup_probe {
            // Without it the order of what comes after this one would not be the Pod's.
            Some(startup_probe) if role == Role::NativeSidecar => probe(startup_probe).map(Some),
            startup_probe => exec_probe(startup_probe),
        };
        Ok(Container {
            name: container.name.clone(),
            image: container.image.clone().unwrap_or_default(),
            role,
            ignore_exit_code: value("ECI_CONTAINER_IGNORE_EXIT_CODE") == Some("true"),
            launch_priority: launch_priority.transpose()?.unwrap_or(0),
            forbidden,
            command,
            args,
            working_dir: container.working_dir.clone().unwrap_or_else(|| "/".to_owned()),
            user: id(security.run_as_user, pod_security.run_as_user).context("securityContext.runAsUser")?,
            group: id(security.run_as_group, pod_security.run_as_group)
                .context("securityContext.runAsGroup")?,
            capabilities_added: capabilities.add.unwrap_or_default(),
            capabilities_dropped: capabilities.drop.unwrap_or_default(),
            privileged,
            read_only_root: security.read_only_root_filesystem == Some(true),
            no_new_privileges: security.allow_privilege_escalation == Some(false),
            seccomp_profile: seccomp_profile?,
            vfuse: limit(self.vfuse_resource).is_some_and(|count| count != "0"),
            // 0 is no limit, as for kubelet.
            memory: memory.transpose().context("resources.limits.memory")?.filter(|bytes| *bytes > 0),
            mounts: mounts.collect::<Result<_>>()?,
            post_start: lifecycle.post_start.map(exec_handler).transpose().context("lifecycle.postStart")?,
            pre_stop: lifecycle.pre_stop.map(exec_handler).transpose().context("lifecycle.preStop")?,
            startup_probe: startup_probe.context("startupProbe")?,
            liveness_probe: exec_probe(&container.liveness_probe).context("livenessProbe")?,
            readiness_probe: exec_probe(&container.readiness_probe).context("readinessProbe")?,
            env,
        })
    }

    /// What kubelet says to a container that must not run as root and would. No image here names a user.
    fn forbidden(
        &self,
        name: &str,
        security: &k8s::SecurityContext,
        pod_security: &k8s::PodSecurityContext,
    ) -> Option<String> {
        let non_root = security.run_as_non_root.or(pod_security.run_as_non_root) == Some(true);
        let what = match security.run_as_user.or(pod_security.run_as_user) {
            Some(0) => "container's runAsUser breaks non-root policy",
            None => "container has runAsNonRoot and image will run as root",
            Some(_) => return None,
        };
        non_root.then(|| format!("{what} (pod: {:?}, container: {name})", self.name()))
    }

    fn env(&self, variables: &[k8s::EnvVar]) -> Result<Vec<(String, String)>> {
        let mut env: Vec<(String, String)> = Vec::new();
        for variable in variables {
            let value = match &variable.value_from {
                None => {
                    let known =
                        |name: &str| env.iter().find(|(known, _)| known == name).map(|(_, v)| v.as_str());
                    Some(expand(variable.value.as_deref().unwrap_or_default(), known))
                }
                Some(source) => {
                    self.value_from(source).with_context(|| format!("env {}: valueFrom", variable.name))?
                }
            };
            // What is optional and missing leaves the variable as it was.
            let Some(value) = value else { continue };
            env.retain(|(name, _)| *name != variable.name);
            env.push((variable.name.clone(), value));
        }
        Ok(env)
    }

    fn value_from(&self, source: &k8s::EnvVarSource) -> Result<Option<String>> {
        if let Some(secret) = &source.secret_key_ref {
            let value = self.secrets.text(&secret.name, &secret.key, secret.optional == Some(true));
            return value.context("secretKeyRef");
        }
        Ok(Some(match source.field_ref.as_ref().map(|field| field.field_path.as_str()) {
            Some("metadata.name") => self.name().to_owned(),
            Some("metadata.namespace") => {
                self.pod.metadata.namespace.clone().unwrap_or_else(|| "default".to_owned())
            }
            Some("spec.nodeName") => self.spec.node_name.clone().unwrap_or_else(|| "podrun".to_owned()),
            _ => bail!(
                "podrun knows secretKeyRef and the fieldRefs metadata.name, metadata.namespace and spec.nodeName \
                 only"
            ),
        }))
    }

    fn mount(&self, mount: &k8s::VolumeMount, privileged: bool) -> Result<Mount> {
        ensure!(self.volumes.contains(mount.name.as_str()), "the Pod has no volume {:?}", mount.name);
        ensure!(mount.sub_path_expr.is_none(), "subPathExpr: podrun does not support it");
        let sub_path = mount.sub_path.clone().filter(|path| !path.is_empty());
        ensure!(sub_path.as_deref().is_none_or(is_inside), "subPath must be relative and without \"..\"");
        let propagation = match mount.mount_propagation.as_deref() {
            None | Some("None") => Propagation::None,
            Some("HostToContainer") => Propagation::HostToContainer,
            Some("Bidirectional") if privileged => Propagation::Bidirectional,
            Some("Bidirectional") => {
                bail!(
                    "mountPropagation: Bidirectional is for privileged containers (the API server refuses this)"
                )
            }
            Some(other) => bail!("mountPropagation: unknown {other:?}"),
        };
        Ok(Mount {
            volume: mount.name.clone(),
            path: mount.mount_path.clone(),
            sub_path,
            read_only: mount.read_only == Some(true),
            propagation,
        })
    }
}

fn seccomp_profile(profile: &k8s::SeccompProfile) -> Result<SeccompProfile> {
    match profile.type_.as_str() {
        "Unconfined" => Ok(SeccompProfile::Unconfined),
        "RuntimeDefault" => Ok(SeccompProfile::RuntimeDefault),
        other => bail!("podrun knows RuntimeDefault and Unconfined, not {other:?}"),
    }
}

fn exec_handler(handler: k8s::LifecycleHandler) -> Result<Vec<String>> {
    exec_command(handler.exec)
}

fn exec_command(exec: Option<k8s::ExecAction>) -> Result<Vec<String>> {
    let command = exec.and_then(|exec| exec.command).unwrap_or_default();
    ensure!(!command.is_empty(), "podrun runs exec with a command only");
    Ok(command)
}

fn probe(probe: &k8s::Probe) -> Result<Probe> {
    let given = |field: Option<i32>, default| seconds(field.unwrap_or(default));
    Ok(Probe {
        command: exec_command(probe.exec.clone())?,
        initial_delay: given(probe.initial_delay_seconds, 0),
        period: given(probe.period_seconds, 10),
        // The API server makes 0 the default.
        timeout: given(probe.timeout_seconds.filter(|seconds| *seconds > 0), 1),
        success_threshold: probe.success_threshold.unwrap_or(1),
        failure_threshold: probe.failure_threshold.unwrap_or(3),
        grace: probe.termination_grace_period_seconds.map(seconds),
    })
}

#[cfg(test)]
#[path = "pod_tests.rs"]
pub(crate) mod tests;
