//! Every name by which others talk to the sidecar `fluid-fuse`, typed once.
//!
//! `fluid-fuse` is spoken to by the policy, which writes its container; by Fluid, which sets variables and mounts files
//! in the containers of a fuse DaemonSet; by kubelet, which runs hooks and probes and judges exit codes; and by people,
//! who write manifests and settings. A name is here when it can stand in the manifest of a Pod:
//!
//! | here | not here |
//! |---|---|
//! | every environment variable: a manifest, and `sidecars.<runtime>.env` of the settings, may set each | the variables of a store's own tools (`AWS_REGION`): `remote::options` of `fluid-fuse` |
//! | commands and options that hooks, probes and DaemonSets use | the other commands and options, which people type: `cli` of `fluid-fuse` |
//! | paths at which Fluid mounts files, and the fields of its configuration ([`crate::config`]) | the options of a mount: `remote::options` |
//! | exit codes | |
//!
//! What an option means, and its default, is told by `cli` of `fluid-fuse` alone; `docs/fluid-fuse.md` is made of it.
//!
//! Manifests and scripts cannot import a constant. `crates/fluid-fuse/tests/contract.rs` compares those of this
//! repository with the names here, and makes `e2e/cluster/contract.sh` of them.

use crate::named;

/// The directory of the node under which every Dataset is mounted (Fluid: `MOUNT_ROOT` of its charts).
pub const MOUNT_ROOT: &str = "/runtime-mnt";

/// The sidecar's container name, and the name of our sidecar's program inside its image.
pub const FLUID_FUSE: &str = "fluid-fuse";

/// The name of the container that mounts for the sidecar, and outlives it.
pub const HOLDER: &str = "fluid-fuse-mount";

/// The directory in which the two meet. Only they mount it.
pub const HOLDER_DIRECTORY: &str = "/run/fluid-fuse/holder";

/// Where in it the mount is handed over.
pub const HOLDER_SOCKET: &str = "/run/fluid-fuse/holder/socket";

/// The extended resource that grants a FUSE device on Alibaba Cloud ECI.
pub const VFUSE_RESOURCE: &str = "alibabacloud.com/vfuse";

/// Where Fluid mounts the configuration of a ThinRuntime: a [`Config`](crate::config::Config) as JSON.
pub const CONFIG_FILE: &str = "/etc/fluid/config/config.json";

/// The directory below which Fluid mounts the Secrets of a ThinRuntime's Dataset. An option of a mount whose value
/// begins so has its value in that file.
pub const SECRETS_DIRECTORY: &str = "/etc/fluid/secrets/";

/// Where kubelet mounts the file whose text becomes a container's termination message (Kubernetes' default of
/// `terminationMessagePath`).
pub const TERMINATION_LOG: &str = "/dev/termination-log";

/// The directory in which a sidecar sees the places of all Pods of its Dataset on this node; its own has the name that
/// ends [`env::PLACE`]. Only sidecars mount it.
pub const PLACES: &str = "/run/fluid-fuse/places";

/// Environment variables.
pub mod env {
    /// The kind of Runtime (Fluid's name).
    pub const RUNTIME_TYPE: &str = "FLUID_RUNTIME_TYPE";
    /// The Dataset's namespace (Fluid's name).
    pub const RUNTIME_NAMESPACE: &str = "FLUID_RUNTIME_NS";
    /// The Dataset's name (Fluid's name).
    pub const RUNTIME_NAME: &str = "FLUID_RUNTIME_NAME";
    /// The mount point (Fluid's name).
    pub const MOUNT_POINT: &str = "MOUNT_POINT";
    /// The options of the mount, as mount(8) takes them (Fluid's name).
    pub const MOUNT_OPTIONS: &str = "MOUNT_OPTIONS";

    /// Begins the names of the variables that are not Fluid's.
    pub const PREFIX: &str = "FLUID_FUSE_";

    /// What to mount: URLs.
    pub const SOURCE: &str = "FLUID_FUSE_SOURCE";
    /// Options of the sources.
    pub const OPTION: &str = "FLUID_FUSE_OPTION";
    /// What to mount: the path of Fluid's configuration of a ThinRuntime.
    pub const CONFIG: &str = "FLUID_FUSE_CONFIG";
    /// What to mount: Fluid's configuration of a ThinRuntime as JSON.
    pub const CONFIG_JSON: &str = "FLUID_FUSE_CONFIG_JSON";
    /// Begins the names of the variables that hold secrets; a number follows.
    pub const SECRET_PREFIX: &str = "FLUID_FUSE_SECRET_";
    /// The directories of which a Dataset may name some as its source.
    pub const ALLOW_DIRECTORIES: &str = "FLUID_FUSE_ALLOW_DIRECTORIES";
    /// The hosts to which a source may redirect.
    pub const ALLOW_REDIRECTS: &str = "FLUID_FUSE_ALLOW_REDIRECTS";
    /// The mount point; goes before [`MOUNT_POINT`].
    pub const MOUNTPOINT: &str = "FLUID_FUSE_MOUNTPOINT";
    /// The type of the file system in the mount table, without `fuse.`.
    pub const SUBTYPE: &str = "FLUID_FUSE_SUBTYPE";
    /// Whether nothing can be written.
    pub const READ_ONLY: &str = "FLUID_FUSE_READ_ONLY";
    /// Memory for what is read.
    pub const MEMORY: &str = "FLUID_FUSE_MEMORY";
    /// The directory of the cache.
    pub const CACHE_DIR: &str = "FLUID_FUSE_CACHE_DIR";
    /// The size of the cache.
    pub const CACHE_SIZE: &str = "FLUID_FUSE_CACHE_SIZE";
    /// Requests at a time.
    pub const REQUESTS: &str = "FLUID_FUSE_REQUESTS";
    /// How long a read is retried.
    pub const IO_TIMEOUT: &str = "FLUID_FUSE_IO_TIMEOUT";
    /// How long names and attributes are trusted.
    pub const METADATA_TTL: &str = "FLUID_FUSE_METADATA_TTL";
    /// The owner of files.
    pub const UID: &str = "FLUID_FUSE_UID";
    /// The group of files.
    pub const GID: &str = "FLUID_FUSE_GID";
    /// The permissions of files.
    pub const FILE_MODE: &str = "FLUID_FUSE_FILE_MODE";
    /// The permissions of directories.
    pub const DIR_MODE: &str = "FLUID_FUSE_DIR_MODE";
    /// Whether times of change that are kept with the objects are asked for.
    pub const KEPT_TIMES: &str = "FLUID_FUSE_KEPT_TIMES";
    /// How much a directory may hold that is renamed.
    pub const RENAME_DIR_LIMIT: &str = "FLUID_FUSE_RENAME_DIR_LIMIT";
    /// Whether the directory below the mount stays out of sight until the Pod has ended.
    pub const GUARD: &str = "FLUID_FUSE_GUARD";
    /// The directory of this Pod, among those of other Pods.
    pub const PLACE: &str = "FLUID_FUSE_PLACE";
    /// How long open files are served after SIGTERM.
    pub const LINGER: &str = "FLUID_FUSE_LINGER";
    /// What ends the sidecar beside signals and unmounts: an [`ExitWithPod`](super::ExitWithPod).
    pub const EXIT_WITH_POD: &str = "FLUID_FUSE_EXIT_WITH_POD";
    /// How many containers use the mount.
    pub const EXIT_CONTAINERS: &str = "FLUID_FUSE_EXIT_CONTAINERS";
    /// How long none of them runs before they have ended for good.
    pub const EXIT_SETTLE: &str = "FLUID_FUSE_EXIT_SETTLE";
    /// The descriptor of a FUSE device that is mounted already.
    pub const FD: &str = "FLUID_FUSE_FD";
    /// Where a holder hands its mount over.
    pub const SOCKET: &str = "FLUID_FUSE_SOCKET";
    /// How long a holder waits for a worker.
    pub const PATIENCE: &str = "FLUID_FUSE_PATIENCE";
    /// The address of the metrics.
    pub const METRICS: &str = "FLUID_FUSE_METRICS";
    /// Reads that take longer are logged.
    pub const SLOW_READ: &str = "FLUID_FUSE_SLOW_READ";
    /// Files that `warm` reads at a time.
    pub const WORKERS: &str = "FLUID_FUSE_WORKERS";
    /// The path below the mount point that `wait` waits for.
    pub const SUB_PATH: &str = "FLUID_FUSE_SUB_PATH";
    /// How long `wait` waits.
    pub const TIMEOUT: &str = "FLUID_FUSE_TIMEOUT";
    /// The level of the log.
    pub const LOG: &str = "FLUID_FUSE_LOG";
}

/// Commands of `fluid-fuse` that a container's command, hook or probe names.
pub mod command {
    /// Mounts and serves.
    pub const MOUNT: &str = "mount";
    /// Mounts, and has another process serve.
    pub const HOLD: &str = "hold";
    /// Waits for the mount.
    pub const WAIT: &str = "wait";
    /// Checks the mount.
    pub const CHECK: &str = "check";
    /// Takes the mount away.
    pub const UNMOUNT: &str = "unmount";
    /// Tells the mounted process that the Pod ends.
    pub const RELEASE: &str = "release";
}

/// Options of these commands that the policy writes, without the hyphens before them.
pub mod option {
    /// The directory of the mount.
    pub const MOUNTPOINT: &str = "mountpoint";
    /// How long `wait` waits.
    pub const TIMEOUT: &str = "timeout";
    /// `wait` is the gate of a Pod.
    pub const GATE: &str = "gate";
}

/// Words by which tools recognise the messages of `fluid-fuse`, in its log and in its termination message.
pub mod message {
    /// The store refuses the keys, or what they may do.
    pub const REFUSES: &str = "refuses access";
    /// The bucket does not exist, or not at this endpoint.
    pub const NO_BUCKET: &str = "has no such bucket";
    /// The store could not be reached, or failed.
    pub const UNAVAILABLE: &str = "is unavailable";
    /// A source begins to fail.
    pub const OUTAGE_BEGAN: &str = "outage began";
    /// It works again.
    pub const OUTAGE_ENDED: &str = "outage ended";
    /// A source says nothing while operations wait.
    pub const SILENT: &str = "source does not answer";
    /// It answers again, without a failed request.
    pub const ANSWERS_AGAIN: &str = "answers again";
    /// An operation waits.
    pub const WAITS: &str = "no answer yet";
    /// A read took long.
    pub const SLOW_READ: &str = "slow read";
    /// The gate's time is up.
    pub const NOT_READY: &str = "not ready after";
    /// The gate does not wait, as the store refuses.
    pub const NEVER_READY: &str = "never ready";
    /// The container has no FUSE device; its path follows.
    pub const NO_DEVICE: &str = "cannot open /dev/fuse";
}

/// Exit codes of every command, as kubelet sees them.
pub mod exit_code {
    /// `mount` ended because it was told to, and served well until then; any other command did what it was asked.
    pub const SUCCESS: u8 = 0;
    /// It could not be done. For `wait` and `check`: the mount is not there, or does not answer.
    pub const FAILURE: u8 = 1;
    /// The command line is wrong, or a variable has a value that its option does not take.
    pub const USAGE: u8 = 2;
}

named! {
    /// What ends a mount beside signals and unmounts.
    pub enum ExitWithPod {
        /// Nothing: for native sidecars and platforms that end sidecars.
        Signal = "signal",
        /// The end of the containers that use it: for Pods with shareProcessNamespace.
        ProcessNamespace = "process-namespace",
    }
}
