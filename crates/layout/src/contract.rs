//! Every name by which the policy talks to the sidecar, typed once.
//!
//! The policy writes these into the sidecar's container, `fluid-fuse` reads them there, and a fuse DaemonSet of a
//! ThinRuntime may use them, too.

use crate::named;

/// The directory of the node under which every Dataset is mounted (Fluid: `MOUNT_ROOT` of its charts).
pub const MOUNT_ROOT: &str = "/runtime-mnt";

/// The sidecar's container name, and the name of our sidecar's program inside its image.
pub const FLUID_FUSE: &str = "fluid-fuse";

/// The extended resource that grants a FUSE device on Alibaba Cloud ECI.
pub const VFUSE_RESOURCE: &str = "alibabacloud.com/vfuse";

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
    /// What to mount: URLs.
    pub const SOURCE: &str = "FLUID_FUSE_SOURCE";
    /// What to mount: Fluid's configuration of a ThinRuntime as JSON.
    pub const CONFIG_JSON: &str = "FLUID_FUSE_CONFIG_JSON";
    /// Begins the names of the variables that hold secrets; a number follows.
    pub const SECRET_PREFIX: &str = "FLUID_FUSE_SECRET_";
    /// What ends the sidecar beside signals and unmounts: an [`ExitWithPod`](super::ExitWithPod).
    pub const EXIT_WITH_POD: &str = "FLUID_FUSE_EXIT_WITH_POD";
    /// How many containers use the mount.
    pub const EXIT_CONTAINERS: &str = "FLUID_FUSE_EXIT_CONTAINERS";
    /// How long none of them runs before they have ended for good.
    pub const EXIT_SETTLE: &str = "FLUID_FUSE_EXIT_SETTLE";
}

/// Commands of `fluid-fuse`.
pub mod command {
    /// Mounts and serves.
    pub const MOUNT: &str = "mount";
    /// Waits for the mount.
    pub const WAIT: &str = "wait";
    /// Checks the mount.
    pub const CHECK: &str = "check";
}

/// Options of `fluid-fuse`, without the hyphens before them.
pub mod option {
    /// The directory of the mount.
    pub const MOUNTPOINT: &str = "mountpoint";
    /// How long `wait` waits.
    pub const TIMEOUT: &str = "timeout";
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
