//! Who is measured, and how each is called. The tuned forms are what their own documentation recommends for
//! large reads. It does not know what they are good at.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;
use fluid_sidecar_layout::contract::option;
use fluid_sidecar_layout::{contract, named};

use super::data::BUCKET;

named! {
    /// A file system over an object store.
    pub(super) enum Peer {
        /// Ours.
        FluidFuse = "fluid-fuse",
        /// Ours, with a holder; only if it is asked for.
        Held = "fluid-fuse-held",
        /// s3fs as it is.
        S3fs = "s3fs",
        /// s3fs with a disk cache, the kernel's cache and 16 requests at a time.
        S3fsTuned = "s3fs-tuned",
        /// rclone as it is.
        Rclone = "rclone",
        /// rclone with a disk cache, read-ahead and 16 streams.
        RcloneTuned = "rclone-tuned",
        /// mountpoint-s3 as it is: `bench/mount-s3`.
        MountS3 = "mount-s3",
    }
}

/// What is to be mounted.
pub(super) struct Mounting<'a> {
    pub(super) endpoint: SocketAddr,
    pub(super) mountpoint: &'a Path,
    /// An empty directory, or one from before.
    pub(super) cache: &'a Path,
    /// Whether those that can do without a cache on the disk use it.
    pub(super) cached: bool,
    /// In MiB.
    pub(super) memory: u64,
    pub(super) access: Access,
}

/// What a mount is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    Read,
    Write,
}

impl Peer {
    /// Its program.
    pub(super) fn program(self, fluid_fuse: &Path) -> anyhow::Result<PathBuf> {
        let name = match self {
            Peer::FluidFuse | Peer::Held => {
                return fluid_fuse.canonicalize().with_context(|| format!("no {}", fluid_fuse.display()));
            }
            Peer::S3fs | Peer::S3fsTuned => "s3fs",
            Peer::Rclone | Peer::RcloneTuned => "rclone",
            Peer::MountS3 => "mount-s3",
        };
        let path = std::env::var_os("PATH").unwrap_or_default();
        let found =
            std::env::split_paths(&path).map(|directory| directory.join(name)).find(|file| file.is_file());
        found.with_context(|| format!("{name} is not on PATH"))
    }

    /// Whether it has a cache on the disk.
    pub(super) fn keeps_files(self) -> bool {
        !matches!(self, Peer::S3fs | Peer::Rclone)
    }

    /// The command that mounts and stays in the foreground.
    pub(super) fn command(self, program: &Path, mounting: &Mounting<'_>) -> Command {
        let Mounting { mountpoint, cache, .. } = mounting;
        let url = format!("http://{}", mounting.endpoint);
        let writes = mounting.access == Access::Write;
        let mut command = match self {
            Peer::Held => {
                // $0 is the program, $1 the mount point, $2 the socket; the rest is the worker's.
                let both = "\"$0\" hold --mountpoint \"$1\" --socket \"$2\" & socket=$2; shift 2; \
                            exec \"$0\" \"$@\" --fuse-fd unix:\"$socket\"";
                let mut shell = Command::new("sh");
                shell.args(["-c", both]).arg(program).arg(mountpoint).arg(cache.join("holder"));
                shell
            }
            _ => Command::new(program),
        };
        command.env("AWS_ACCESS_KEY_ID", "bench").env("AWS_SECRET_ACCESS_KEY", "bench-secret");
        command.env("AWS_REGION", "us-east-1");
        match self {
            Peer::FluidFuse | Peer::Held => {
                command.env("AWS_ENDPOINT_URL", url);
                command.args([contract::command::MOUNT, "--source"]).arg(format!("s3://{BUCKET}/"));
                command.arg(format!("--{}", option::MOUNTPOINT)).arg(mountpoint);
                command.arg("--memory").arg(format!("{}MiB", mounting.memory));
                command.arg(format!("--read-only={}", !writes));
                if mounting.cached {
                    command.arg("--cache-dir").arg(cache).args(["--cache-size", "2GiB"]);
                }
            }
            Peer::S3fs | Peer::S3fsTuned => {
                command.arg(BUCKET).arg(mountpoint).args(["-f", "-o", "use_path_request_style", "-o"]);
                command.arg(format!("url={url}"));
                if !writes {
                    command.args(["-o", "ro"]);
                }
                if self == Peer::S3fsTuned {
                    command.args(["-o", "kernel_cache,parallel_count=16,multipart_size=16", "-o"]);
                    command.arg(format!("use_cache={}", cache.display()));
                }
            }
            Peer::Rclone | Peer::RcloneTuned => {
                command.arg("mount").arg(format!(":s3:{BUCKET}")).arg(mountpoint);
                command.args(["--config", "/dev/null", "--s3-provider", "Other", "--s3-env-auth"]);
                command.args(["--s3-force-path-style", "--s3-endpoint", &url]);
                if !writes {
                    command.arg("--read-only");
                }
                command.arg("--cache-dir").arg(cache);
                if self == Peer::RcloneTuned {
                    command.args([
                        "--vfs-cache-mode",
                        "full",
                        "--vfs-read-ahead",
                        "64M",
                        "--buffer-size",
                        "32M",
                    ]);
                    command.args(["--vfs-read-chunk-size", "4M", "--vfs-read-chunk-streams", "16"]);
                    command.args([
                        "--use-server-modtime",
                        "--vfs-fast-fingerprint",
                        "--dir-cache-time",
                        "1h",
                    ]);
                }
            }
            Peer::MountS3 => {
                command.arg(BUCKET).arg(mountpoint).args(["--endpoint-url", &url]);
                if !writes {
                    command.arg("--read-only");
                }
                if mounting.cached {
                    command.arg("--cache").arg(cache);
                }
            }
        }
        command
    }
}
