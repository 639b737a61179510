//! The OCI runtime's `config.json` of one container.
//!
//! Pure. Decides what a container may do: namespaces, capabilities, devices, mounts and how these propagate. It does
//! not know where a root file system or a volume comes from. The capabilities are those of containerd.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::pod::{Container, Propagation};

/// A directory or file of the machine in a container.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Bind {
    pub(crate) source: PathBuf,
    pub(crate) destination: String,
    pub(crate) read_only: bool,
    pub(crate) propagation: Propagation,
}

/// Linux's numbers of /dev/fuse.
const FUSE: (u32, u32) = (10, 229);

/// The capabilities of containerd's containers.
const DEFAULT_CAPABILITIES: &str = "AUDIT_WRITE CHOWN DAC_OVERRIDE FOWNER FSETID KILL MKNOD NET_BIND_SERVICE \
                                    NET_RAW SETFCAP SETGID SETPCAP SETUID SYS_CHROOT";

/// Every capability, by its number.
const ALL_CAPABILITIES: &str = "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP \
    LINUX_IMMUTABLE NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO \
    SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE \
    AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON \
    BPF CHECKPOINT_RESTORE";

/// The capabilities of a container; `mask` has those of podrun itself, which can give no others.
fn capabilities(container: &Container, mask: u64) -> Vec<String> {
    let security = &container.security_context;
    let drops = |name: &str| security.capabilities.drop.iter().any(|drop| drop == "ALL" || drop == name);
    let has = |name: &str| {
        security.privileged
            || container.vfuse() && name == "SYS_ADMIN"
            || DEFAULT_CAPABILITIES.split_whitespace().any(|default| default == name) && !drops(name)
    };
    let own = ALL_CAPABILITIES.split_whitespace().enumerate().filter(|(bit, _)| mask & (1 << bit) != 0);
    own.filter(|(_, name)| has(name)).map(|(_, name)| format!("CAP_{name}")).collect()
}

/// The process that runs `args` in the container: its own, or a hook's.
pub(crate) fn process(container: &Container, args: &[String], mask: u64) -> Value {
    let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned();
    let variables = container.env.iter().map(|variable| format!("{}={}", variable.name, variable.value));
    let env: Vec<_> = [path].into_iter().chain(variables).collect();
    let (security, capabilities) = (&container.security_context, capabilities(container, mask));
    json!({
        "user": {"uid": security.run_as_user, "gid": security.run_as_group},
        "args": args,
        "env": env,
        "cwd": "/",
        "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
        "noNewPrivileges": security.allow_privilege_escalation == Some(false),
    })
}

/// The whole configuration. `binds` are mounted in their order; `pid_namespace` is that of the Pod, if it has one.
pub(crate) fn config(
    container: &Container,
    process: &Value,
    root: &Path,
    binds: &[Bind],
    pid_namespace: Option<&Path>,
) -> Value {
    let privileged = container.security_context.privileged;
    let mut allowed = vec![json!({"allow": privileged, "access": "rwm"})];
    let mut devices = Vec::new();
    if privileged || container.vfuse() {
        let (major, minor) = FUSE;
        allowed.push(json!({"allow": true, "type": "c", "major": major, "minor": minor, "access": "rwm"}));
        devices.push(
            json!({"path": "/dev/fuse", "type": "c", "major": major, "minor": minor, "fileMode": 0o666}),
        );
    }
    let mut namespaces = ["pid", "mount", "uts", "ipc"].map(|kind| json!({"type": kind}));
    if let Some(path) = pid_namespace {
        namespaces[0]["path"] = json!(path);
    }
    let mut linux = json!({"namespaces": namespaces, "devices": devices, "resources": {"devices": allowed}});
    if let Some(propagation) = root_propagation(binds) {
        linux["rootfsPropagation"] = json!(propagation);
    }
    let mut mounts = vec![
        json!({"destination": "/proc", "type": "proc", "source": "proc"}),
        json!({"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]}),
        // Not of type sysfs: that needs a network namespace of the container's own.
        json!({"destination": "/sys", "type": "bind", "source": "/sys", "options": ["bind", "ro"]}),
    ];
    mounts.extend(binds.iter().map(bind_mount));
    json!({"ociVersion": "1.0.2", "process": process, "root": {"path": root}, "mounts": mounts, "linux": linux})
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::tests::container;

    #[test]
    fn capabilities_and_fuse() {
        let limits = json!({"limits": {fluid_sidecar_layout::contract::VFUSE_RESOURCE: "1"}});
        let drop = |name: &str| json!({"capabilities": {"drop": [name]}});
        for (fields, count, admin, devices) in [
            (json!({}), 14, false, 0),
            (json!({"resources": limits}), 15, true, 1),
            (json!({"resources": limits, "securityContext": drop("ALL")}), 1, true, 1),
            (json!({"securityContext": drop("KILL")}), 13, false, 0),
            (json!({"securityContext": {"privileged": true}}), 41, true, 1),
        ] {
            let container = container(fields.clone()).unwrap();
            let names = capabilities(&container, u64::MAX);
            let has_admin = names.iter().any(|name| name == "CAP_SYS_ADMIN");
            assert_eq!((names.len(), has_admin), (count, admin), "{fields}");
            let config = config(&container, &json!({}), Path::new("/r"), &[], None);
            assert_eq!(config["linux"]["devices"].as_array().unwrap().len(), devices, "{fields}");
        }
        assert_eq!(capabilities(&container(json!({})).unwrap(), 1), ["CAP_CHOWN"]);
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
}
