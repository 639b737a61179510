//! The OCI runtime's `config.json` of one container.
//!
//! Pure. Decides what a container may do: namespaces, capabilities, devices, mounts and how these propagate.
//! It does not know where a root file system or a volume comes from. The defaults are those of containerd;
//! what podrun leaves out (masked paths, CPU limits) no test of a FUSE sidecar needs.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::pod::{Container, Propagation, SeccompProfile};
use crate::seccomp;

/// What the machine can give.
#[derive(Clone, Debug)]
pub struct Machine {
    /// The capabilities that podrun has itself, such as `CAP_KILL`.
    pub capabilities: Vec<String>,
    /// Major and minor number of `/dev/fuse`.
    pub fuse: Option<(u64, u64)>,
    /// Whether it can limit the memory of the containers that have a limit.
    pub memory: bool,
    /// The pid namespace that the containers share, if they do.
    pub pid_namespace: Option<PathBuf>,
}

/// A directory or file of the machine in a container.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "fields are named for what they hold")]
pub struct Bind {
    pub source: PathBuf,
    pub destination: String,
    pub read_only: bool,
    pub propagation: Propagation,
}

/// The capabilities of containerd's containers.
const DEFAULT_CAPABILITIES: &str = "AUDIT_WRITE CHOWN DAC_OVERRIDE FOWNER FSETID KILL MKNOD NET_BIND_SERVICE \
                                    NET_RAW SETFCAP SETGID SETPCAP SETUID SYS_CHROOT";

/// Every capability, by its number.
const ALL_CAPABILITIES: &str = "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP \
    LINUX_IMMUTABLE NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO \
    SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE \
    AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON \
    BPF CHECKPOINT_RESTORE";

/// The names of the capabilities in a mask such as `CapEff` of `/proc/self/status`.
pub fn capability_names(mask: u64) -> Vec<String> {
    let all = ALL_CAPABILITIES.split_whitespace().enumerate();
    all.filter(|(bit, _)| mask & (1 << bit) != 0).map(|(_, name)| format!("CAP_{name}")).collect()
}

/// The capabilities of a container, in the order of the machine's.
fn capabilities(container: &Container, machine: &Machine) -> Vec<String> {
    let (added, dropped) = (&container.capabilities_added, &container.capabilities_dropped);
    let all = |list: &[String]| list.iter().any(|item| item == "ALL");
    let lists = |list: &[String], name: &str| list.iter().any(|item| format!("CAP_{item}") == name);
    let default =
        |name: &str| DEFAULT_CAPABILITIES.split_whitespace().any(|item| format!("CAP_{item}") == name);
    let has = |name: &str| {
        container.privileged
            || container.vfuse && name == "CAP_SYS_ADMIN"
            || !lists(dropped, name) && (lists(added, name) || !all(dropped) && (all(added) || default(name)))
    };
    machine.capabilities.iter().filter(|name| has(name)).cloned().collect()
}

/// The process that runs `args` in the container: its own, or a hook's.
pub fn process(container: &Container, args: &[String], hostname: &str, machine: &Machine) -> Value {
    let mut env = vec![
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned(),
        format!("HOSTNAME={hostname}"),
    ];
    for (name, value) in &container.env {
        env.retain(|known| !known.starts_with(&format!("{name}=")));
        env.push(format!("{name}={value}"));
    }
    let capabilities = capabilities(container, machine);
    json!({
        "terminal": false,
        "user": {"uid": container.user, "gid": container.group},
        "args": args,
        "env": env,
        "cwd": container.working_dir,
        "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
        "noNewPrivileges": container.no_new_privileges,
    })
}

/// The whole configuration. `binds` are mounted in their order.
pub fn config(
    container: &Container,
    process: Value,
    root: &Path,
    hostname: &str,
    binds: &[Bind],
    machine: &Machine,
) -> Value {
    let fuse = machine.fuse.filter(|_| container.vfuse || container.privileged);
    let mut allowed = vec![json!({"allow": container.privileged, "access": "rwm"})];
    allowed.extend(fuse.map(
        |(major, minor)| json!({"allow": true, "type": "c", "major": major, "minor": minor, "access": "rwm"}),
    ));
    let devices = fuse.map(|(major, minor)| {
        json!({
            "path": "/dev/fuse", "type": "c", "major": major, "minor": minor, "fileMode": 0o666, "uid": 0, "gid": 0,
        })
    });
    let mut mounts = system_mounts();
    mounts.extend(binds.iter().map(bind_mount));
    let mut namespaces = ["pid", "mount", "uts", "ipc"].map(|kind| json!({"type": kind}));
    if let Some(path) = &machine.pid_namespace {
        namespaces[0]["path"] = json!(path);
    }
    let mut linux = json!({
        "namespaces": namespaces,
        "devices": devices.into_iter().collect::<Vec<_>>(),
        "resources": {"devices": allowed},
    });
    if let Some(bytes) = container.memory.filter(|_| machine.memory) {
        linux["resources"]["memory"] = json!({"limit": bytes});
    }
    // A privileged container has none, whatever it asks for.
    if container.seccomp_profile == SeccompProfile::RuntimeDefault && !container.privileged {
        let capabilities = capabilities(container, machine);
        linux["seccomp"] = seccomp::runtime_default(std::env::consts::ARCH, &capabilities);
    }
    if let Some(propagation) = root_propagation(binds) {
        linux["rootfsPropagation"] = json!(propagation);
    }
    json!({
        "ociVersion": "1.0.2",
        "process": process,
        "root": {"path": root, "readonly": container.read_only_root},
        "hostname": hostname,
        "mounts": mounts,
        "linux": linux,
    })
}

/// What the container's own root must be for its binds to propagate at all. Without it runc makes everything
/// a slave, and what a Bidirectional mount receives never leaves the container.
fn root_propagation(binds: &[Bind]) -> Option<&'static str> {
    let any = |propagation| binds.iter().any(|bind| bind.propagation == propagation);
    match () {
        () if any(Propagation::Bidirectional) => Some("rshared"),
        () if any(Propagation::HostToContainer) => Some("rslave"),
        () => None,
    }
}

fn bind_mount(bind: &Bind) -> Value {
    let propagation = match bind.propagation {
        Propagation::None => "rprivate",
        Propagation::HostToContainer => "rslave",
        Propagation::Bidirectional => "rshared",
    };
    let access = if bind.read_only { "ro" } else { "rw" };
    let options = ["rbind", propagation, access];
    json!({"destination": bind.destination, "type": "bind", "source": bind.source, "options": options})
}

fn system_mounts() -> Vec<Value> {
    [
        ("/proc", "proc", "proc", "nosuid,noexec,nodev"),
        ("/dev", "tmpfs", "tmpfs", "nosuid,strictatime,mode=755,size=65536k"),
        ("/dev/pts", "devpts", "devpts", "nosuid,noexec,newinstance,ptmxmode=0666,mode=0620,gid=5"),
        ("/dev/shm", "tmpfs", "shm", "nosuid,noexec,nodev,mode=1777,size=65536k"),
        ("/dev/mqueue", "mqueue", "mqueue", "nosuid,noexec,nodev"),
        // Not of type sysfs: that needs a network namespace of the container's own.
        ("/sys", "bind", "/sys", "bind,nosuid,noexec,nodev,ro"),
        // The container's own cgroups, where programs look for their limits.
        ("/sys/fs/cgroup", "cgroup", "cgroup", "nosuid,noexec,nodev,relatime,ro"),
    ]
    .map(|(destination, kind, source, options)| {
        let options: Vec<_> = options.split(',').collect();
        json!({"destination": destination, "type": kind, "source": source, "options": options})
    })
    .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(edit: Value) -> Container {
        let mut spec = json!({"name": "app", "securityContext": {}});
        spec.as_object_mut().unwrap().extend(edit.as_object().unwrap().clone());
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "spec": {"containers": [spec]}});
        let pod = serde_json::from_value(pod).unwrap();
        crate::pod::read(&pod, "vfuse", Default::default()).unwrap().containers.remove(0)
    }

    fn machine() -> Machine {
        Machine {
            capabilities: capability_names(u64::MAX >> 23),
            fuse: Some((10, 229)),
            memory: true,
            pid_namespace: None,
        }
    }

    #[test]
    fn capabilities_of_containers() {
        let limits = json!({"limits": {"vfuse": "1"}});
        for (edit, count, contains, lacks) in [
            (json!({}), 14, "CAP_CHOWN", "CAP_SYS_ADMIN"),
            (json!({"resources": limits}), 15, "CAP_SYS_ADMIN", "CAP_SYS_RESOURCE"),
            (json!({"securityContext": {"privileged": true}}), 41, "CAP_SYS_ADMIN", ""),
            (
                json!({"securityContext": {"capabilities": {"drop": ["ALL"], "add": ["KILL"]}}}),
                1,
                "CAP_KILL",
                "",
            ),
            (json!({"securityContext": {"capabilities": {"drop": ["KILL"]}}}), 13, "CAP_CHOWN", "CAP_KILL"),
        ] {
            let names = capabilities(&container(edit.clone()), &machine());
            assert_eq!(names.len(), count, "{edit}");
            assert!(names.iter().any(|name| name == contains), "{edit}");
            assert!(!names.iter().any(|name| name == lacks), "{edit}");
        }
    }

    #[test]
    fn fuse_only_for_those_who_may() {
        for (edit, devices) in [
            (json!({}), 0),
            (json!({"resources": {"limits": {"vfuse": "1"}}}), 1),
            (json!({"securityContext": {"privileged": true}}), 1),
        ] {
            let config = config(&container(edit), json!({}), Path::new("/r"), "h", &[], &machine());
            assert_eq!(config["linux"]["devices"].as_array().unwrap().len(), devices);
            assert_eq!(config["linux"]["resources"]["devices"].as_array().unwrap().len(), devices + 1);
        }
    }

    #[test]
    fn memory_and_the_pid_namespace() {
        let limited = container(json!({"resources": {"limits": {"memory": "64Mi"}}}));
        let linux = |machine: &Machine| {
            config(&limited, json!({}), Path::new("/r"), "h", &[], machine)["linux"].clone()
        };
        let plain = linux(&machine());
        assert_eq!(plain["resources"]["memory"], json!({"limit": 64 << 20}));
        assert_eq!(plain["namespaces"][0], json!({"type": "pid"}));
        let other = Machine { memory: false, pid_namespace: Some("/proc/7/ns/pid".into()), ..machine() };
        let other = linux(&other);
        assert!(other["resources"].get("memory").is_none());
        assert_eq!(other["namespaces"][0], json!({"type": "pid", "path": "/proc/7/ns/pid"}));
    }

    #[test]
    fn propagation_of_the_root_follows_the_binds() {
        use Propagation::{Bidirectional, HostToContainer, None as Private};
        for (propagations, expected) in [
            (&[][..], None),
            (&[Private], None),
            (&[Private, HostToContainer], Some("rslave")),
            (&[Bidirectional, HostToContainer], Some("rshared")),
        ] {
            let bind = |propagation: &Propagation| Bind {
                source: "/a".into(),
                destination: "/b".into(),
                read_only: false,
                propagation: *propagation,
            };
            let binds: Vec<_> = propagations.iter().map(bind).collect();
            assert_eq!(root_propagation(&binds), expected);
        }
    }

    #[test]
    fn environment_overrides_the_defaults() {
        let container = container(json!({"env": [{"name": "PATH", "value": "/x"}]}));
        let process = process(&container, &["a".into()], "h", &machine());
        assert_eq!(process["env"], json!(["HOSTNAME=h", "PATH=/x"]));
    }
}
