//! The command line, and the text of `--help`. Wrong usage ends with exit code 2 (clap).

use std::path::{Path, PathBuf};

use clap::Parser;
use fluid_sidecar_layout::contract::{MOUNT_ROOT, VFUSE_RESOURCE};

/// Run the containers of one Pod here, under runc, and print what happens
#[derive(Debug, Parser)]
#[command(version, after_long_help = help())]
pub(crate) struct Options {
    /// The Pod as JSON, as an admission policy leaves it
    #[arg(value_name = "POD.json")]
    pub(crate) pod: PathBuf,

    /// What an image is made of: a directory is a root file system, a static executable is put into busybox's
    ///
    /// NAME is the last component of the image's repository, so `fluid-fuse` is
    /// `registry.example/a/fluid-fuse:0.1`. An executable becomes a file of /usr/bin. The image `busybox` needs no
    /// option.
    #[arg(long = "image", value_name = "NAME=PATH", value_parser = name_and_path)]
    pub(crate) images: Vec<(String, PathBuf)>,

    /// The directory that stands for a volume of another kind than hostPath and emptyDir
    #[arg(long = "volume", value_name = "NAME=DIR", value_parser = name_and_path)]
    pub(crate) volumes: Vec<(String, PathBuf)>,

    /// A Secret for secretKeyRef: a directory with one file per key
    #[arg(long = "secret", value_name = "NAME=DIR", value_parser = name_and_path)]
    pub(crate) secrets: Vec<(String, PathBuf)>,

    /// The root of the node for hostPath volumes [default: an empty directory, removed at the end]
    #[arg(long, value_name = "DIR")]
    pub(crate) node_root: Option<PathBuf>,
}

/// The path that an option gives for a name.
pub(crate) fn given<'a>(options: &'a [(String, PathBuf)], name: &str) -> Option<&'a Path> {
    options.iter().find(|(known, _)| known == name).map(|(_, path)| path.as_path())
}

fn name_and_path(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((name, path)) if !name.is_empty() && !path.is_empty() => Ok((name.to_owned(), path.into())),
        _ => Err("must be NAME=PATH".to_owned()),
    }
}

fn help() -> String {
    format!(
        "\
Example:
  podrun pod.json --image fluid-fuse=target/x86_64-unknown-linux-gnu/debug/fluid-fuse

What it does as kubelet does:
  * init containers in order; those with restartPolicy Always (native
    sidecars) hold up the next until their postStart hook is through, keep
    running, and get SIGTERM in reverse order after the main containers;
  * main containers in order, each start blocked by the postStart hook of the
    one before; a failing hook ends its own container, not the next one's
    start;
  * a container is ended by its preStop hook, SIGTERM, and SIGKILL when
    terminationGracePeriodSeconds are over; at the Pod's end all preStop hooks
    run at first. SIGTERM or SIGINT to podrun deletes the Pod;
  * restartPolicy Never, OnFailure and Always;
  * shareProcessNamespace: pid 1 is a process of podrun's; a container ends
    with its first process, and the other processes it has then are killed;
  * emptyDir, hostPath (below --node-root), readOnly and mountPropagation.

What it does as the serverless platform (Alibaba Cloud ECI) does:
  * a container whose limits name {VFUSE_RESOURCE} gets /dev/fuse,
    CAP_SYS_ADMIN, and the node's {MOUNT_ROOT} as a shared mount, so that what
    it mounts there shows up in hostPath volumes;
  * env ECI_CONTAINER_TYPE=sidecar: SIGTERM once all other containers have
    ended for good;
  * env ECI_CONTAINER_IGNORE_EXIT_CODE=true: the exit code does not fail the
    Pod.

What it accepts and does not heed: readinessProbe, seccompProfile,
runAsNonRoot, terminationMessagePolicy, other limits, requests, other variables
of ECI. Other fields that it does not know are refused. The backoff between
restarts is 0.1 s to 2 s, not 10 s to 5 min. Containers use the machine's
network.

A container that cannot be started counts as one that ended with exit code 128.

Needs root, runc, and /bin/busybox (package busybox-static). Everything happens
in a mount namespace of its own and is gone afterwards; killed by SIGKILL, it
cannot stop its containers.

Exit code: 0 the Pod Succeeded, 1 it Failed, 2 anything else (usage, machine,
deleted)."
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn arguments() {
        Options::command().debug_assert();
        let options = [name_and_path("a=/b=c").unwrap()];
        assert_eq!(given(&options, "a"), Some(Path::new("/b=c")));
        assert_eq!(given(&options, "b"), None);
        for text in ["a", "=/b", "a="] {
            assert!(name_and_path(text).is_err(), "{text}");
        }
    }
}
