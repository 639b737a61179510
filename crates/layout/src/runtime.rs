//! What is known of each Runtime of Fluid.

use crate::named;

/// What Fluid's controllers do for one Runtime (Fluid: `pkg/ddc/<runtime>`).
#[derive(Debug)]
pub struct Facts {
    /// What follows the Runtime's own name in the name of its fuse DaemonSet (`getFuseDaemonset` in
    /// `pkg/ddc/base/runtime.go`).
    pub daemonset_suffix: &'static str,
    /// The directory that the file system is mounted on (`getMountPoint` of each engine).
    pub fuse_directory: &'static str,
}

named! {
    /// The kinds of Runtime that Fluid knows (`Dataset.status.runtimes[].type`). The name is also the first directory
    /// below the mount root.
    pub enum Runtime: Facts {
        /// AlluxioRuntime.
        Alluxio = "alluxio" => Facts { daemonset_suffix: "-fuse", fuse_directory: "alluxio-fuse" },
        /// CacheRuntime.
        Cache = "cache" => Facts { daemonset_suffix: "-client", fuse_directory: "cache-fuse" },
        /// EFCRuntime.
        Efc = "efc" => Facts { daemonset_suffix: "-fuse", fuse_directory: "efc-fuse" },
        /// JindoRuntime.
        Jindo = "jindo" => Facts { daemonset_suffix: "-jindofs-fuse", fuse_directory: "jindofs-fuse" },
        /// JuiceFSRuntime.
        JuiceFs = "juicefs" => Facts { daemonset_suffix: "-fuse", fuse_directory: "juicefs-fuse" },
        /// ThinRuntime, which `fluid-fuse` is made for.
        Thin = "thin" => Facts { daemonset_suffix: "-fuse", fuse_directory: "thin-fuse" },
        /// VineyardRuntime.
        Vineyard = "vineyard" => Facts { daemonset_suffix: "-fuse", fuse_directory: "vineyard-fuse" },
    }
}
