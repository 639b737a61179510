//! The command line, and the teaching text of `--help`.
//!
//! It decides what an option means, not what is done with it. Wrong usage ends with exit code 2 (clap).

use std::fs::File;
use std::io::Read;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Parser;
use fluid_sidecar_layout::contract::{MOUNT_ROOT, VFUSE_RESOURCE};
use fluid_sidecar_layout::{clap_parser, named};

use crate::event::Format;

/// Run the containers of one Pod here, under runc or crun, and tell what happens.
#[derive(Clone, Debug, Parser)]
#[command(name = "podrun", version, after_long_help = help())]
pub struct Options {
    /// The Pod as JSON, as an admission policy leaves it; `-` is stdin
    #[arg(value_name = "POD.json")]
    pub pod: PathBuf,

    /// What an image is made of: a directory is a root file system, an executable file is put into busybox's
    ///
    /// NAME is the image's full reference or the last component of its repository, so `fluid-fuse` is
    /// `registry.example/a/fluid-fuse:0.1`. An executable becomes a file of /usr/bin, with the shared
    /// libraries that ldd names. An image without a rule is busybox.
    #[arg(long = "image", value_name = "NAME=PATH", value_parser = name_and_path)]
    pub images: Vec<(String, PathBuf)>,

    /// The directory that stands for a volume which podrun cannot provide (nfs, csi, configMap, ...)
    #[arg(long = "volume", value_name = "NAME=DIR", value_parser = name_and_path)]
    pub volumes: Vec<(String, PathBuf)>,

    /// A Secret for secretKeyRef and volumes of kind secret: a directory with one file per key
    ///
    /// As a mounted Secret is on a real node. Without it only what is optional may ask for the Secret.
    #[arg(long = "secret", value_name = "NAME=DIR", value_parser = name_and_path)]
    pub secrets: Vec<(String, PathBuf)>,

    /// The root of the node for hostPath volumes [default: an empty directory, removed at the end]
    #[arg(long, value_name = "DIR")]
    pub node_root: Option<PathBuf>,

    /// The OCI runtime; `auto` is runc, else crun
    #[arg(long, default_value_t = Choice::Auto, value_parser = clap_parser::<Choice>())]
    pub runtime: Choice,

    /// The extended resource for which a container may mount FUSE
    #[arg(long, value_name = "RESOURCE", default_value = VFUSE_RESOURCE)]
    pub vfuse_resource: String,

    /// Delete the Pod when it has not ended by then: 500ms, 60s, 2m
    #[arg(long, default_value = "60s", value_parser = duration)]
    pub timeout: Duration,

    /// How often one container is restarted at most; this ends restartPolicy Always too
    #[arg(long, value_name = "COUNT", default_value_t = 5)]
    pub max_restarts: u32,

    /// How events are written to stdout
    #[arg(long, default_value_t = Format::Json, value_parser = clap_parser::<Format>())]
    pub format: Format,
}

named! {
    /// The value of `--runtime`.
    #[allow(missing_docs, reason = "each is the runtime of its name")]
    pub enum Choice {
        Auto = "auto",
        Runc = "runc",
        Crun = "crun",
    }
}

impl Options {
    /// Opens the Pod's JSON.
    pub fn open_pod(&self) -> Result<Box<dyn Read>> {
        if self.pod.as_os_str() == "-" {
            return Ok(Box::new(std::io::stdin()));
        }
        let file = File::open(&self.pod).with_context(|| format!("cannot open {}", self.pod.display()))?;
        Ok(Box::new(std::io::BufReader::new(file)))
    }
}

fn name_and_path(text: &str) -> Result<(String, PathBuf), String> {
    match text.rsplit_once('=') {
        Some((name, path)) if !name.is_empty() && !path.is_empty() => Ok((name.to_owned(), path.into())),
        _ => Err("must be NAME=PATH".to_owned()),
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        _ => return Err("must be a number and one of ms, s, m".to_owned()),
    };
    let number: u64 = digits.parse().map_err(|_| "must be a number and one of ms, s, m".to_owned())?;
    Ok(Duration::from_millis(number.saturating_mul(unit)))
}

fn help() -> String {
    format!(
        "\
Example:
  podrun pod.json --image fluid-fuse=target/release/fluid-fuse --format text

What it does as kubelet does:
  * init containers in order; of those with restartPolicy Always (native
    sidecars) postStart and an exec startupProbe hold up the next; they keep
    running, and get SIGTERM in reverse order after the main containers;
  * main containers in order, each start blocked by the postStart hook of the
    one before; a failing hook costs its own container's life, not the next
    one's start;
  * preStop, SIGTERM, terminationGracePeriodSeconds, SIGKILL; SIGTERM or
    SIGINT to podrun deletes the Pod;
  * restartPolicy Never, OnFailure and Always; what has been restarted
    --max-restarts times ends for good with its last exit code;
  * exec probes with their delays, periods, timeouts and thresholds: a
    container whose livenessProbe or startupProbe fails is stopped (preStop,
    SIGTERM, ...) and, unless the restartPolicy is Never, started again;
  * shareProcessNamespace: pid 1 is a pause process; a container ends with its
    first process, and the other processes it has then are killed;
  * resources.limits.memory, with \"reason\": \"OOMKilled\" where a process was
    killed for it; the container sees its cgroups in /sys/fs/cgroup;
  * runAsNonRoot: a container that would run as root is not started;
  * seccompProfile RuntimeDefault (the rules of containerd) and Unconfined,
    which is also what a container gets that asks for nothing;
  * env from fieldRef (name, namespace, node name) and from secretKeyRef
    (--secret);
  * emptyDir, hostPath (below --node-root), secret (--secret, with the modes
    of the files there), readOnly, subPath and mountPropagation of volumes.

What it does as the serverless platform (Alibaba Cloud ECI) does:
  * a container whose limits name --vfuse-resource gets /dev/fuse,
    CAP_SYS_ADMIN, and the node's {MOUNT_ROOT} as a shared mount, so that what
    it mounts there shows up in hostPath volumes;
  * env ECI_CONTAINER_TYPE=sidecar: SIGTERM once all other containers have
    ended for good;
  * env ECI_CONTAINER_IGNORE_EXIT_CODE=true: the exit code does not fail the
    Pod;
  * env ECI_CONTAINER_LAUNCH_PRIORITY (default 0): a main container starts
    when those of a higher priority are ready (exec readinessProbe; without
    one, started) or have ended for good.
    (ECI starts and ends containers of one priority concurrently; podrun keeps
    to kubelet's order.)

What it does not do:
  * the backoff between restarts is 0.1 s to 2 s, not 10 s to 5 min, and no
    container is restarted more often than --max-restarts;
  * no network of its own: containers use the machine's, and its
    /etc/resolv.conf and /etc/hosts;
  * no image is pulled, no image configuration (ENTRYPOINT, ENV, USER) is
    known; an executable given by --image is its image's entrypoint, and sh is
    busybox's;
  * no CPU limits, no AppArmor, SELinux or fsGroup;
  * probes that are not exec are left out, with a note; only as the
    startupProbe of a native sidecar they are refused, as are hooks that are
    not exec;
  * a native sidecar that is restarted once main containers run delays nothing;
  * no hostPID, no user namespace, no seccompProfile Localhost, no envFrom and
    no env from ConfigMaps: these are refused;
  * containers do not share an IPC namespace; of the devices a privileged one
    gets only /dev/fuse;
  * under crun podrun makes the cgroups, without rules for devices: only a
    missing node keeps a container from a device.

A container that cannot be started counts as one that ended with exit code
128.

Needs root and one of runc, crun; /bin/busybox (package busybox-static) where
images are built from it. Everything happens in a mount namespace of its own
and is gone afterwards; killed by SIGKILL, it cannot stop its containers.

Exit code: 0 the Pod Succeeded, 1 it Failed, 2 anything else (usage, machine,
deleted, --timeout)."
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn arguments() {
        Options::command().debug_assert();
        for (text, millis) in [("500ms", Some(500)), ("60s", Some(60_000)), ("2m", Some(120_000))] {
            assert_eq!(duration(text).ok(), millis.map(Duration::from_millis));
        }
        for text in ["", "s", "5", "5h", "-1s", "1.5s"] {
            assert!(duration(text).is_err(), "{text}");
        }
        assert_eq!(name_and_path("a=/b").unwrap(), ("a".into(), "/b".into()));
        assert!(name_and_path("a").is_err());
    }
}
