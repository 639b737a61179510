//! What is known of each Runtime of Fluid: one block for each.
//!
//! The source of every line is what Fluid's own controllers made on a Kubernetes API server, v1.0.8 (its last release)
//! and HEAD of July 2026 (`tests/cases/fluid/` has the objects), and Fluid's `pkg/ddc/<runtime>` where that is named.

use crate::{Named as _, named};

/// What Fluid's controllers do for one Runtime, and what a sidecar can make of it.
#[derive(Debug)]
pub struct Facts {
    /// What follows the Runtime's own name in the name of its fuse DaemonSet (`getFuseDaemonset` in
    /// `pkg/ddc/base/runtime.go`). A Dataset that refers to another one is always served by a ThinRuntime's.
    pub daemonset_suffix: &'static str,
    /// The directory that the file system is mounted on (`getMountPoint` of each engine).
    pub fuse_directory: &'static str,
    /// What tells the client where to mount.
    pub told_by: &'static str,
    /// The ConfigMaps that Fluid copies into the namespace of a Dataset that refers to this one; `*` stands for the
    /// Runtime's name (`createConfigMapForRefDataset` in `pkg/ddc/thin/referencedataset`). Secrets are never copied.
    pub copied_config_maps: &'static [&'static str],
    /// Why a sidecar cannot be made of its DaemonSet, and what to do instead.
    pub refused: Option<&'static str>,
    /// The versions of Fluid that make it.
    pub fluid: FluidVersions,
    /// How far a Pod with such a Dataset was tried.
    pub tried: Tried,
}

named! {
    /// Versions of Fluid.
    pub enum FluidVersions {
        /// The last release, and what will be the next one.
        Both = "v1.0.8, HEAD",
        /// Removed since the last release.
        Released = "v1.0.8",
        /// Not released yet.
        Head = "HEAD",
    }
}

named! {
    /// How far the sidecar of a Runtime was tried, on objects that Fluid's controllers had made.
    pub enum Tried {
        /// `fluid-fuse` itself mounted and served, on ordinary and on serverless nodes of a cluster of one machine.
        Whole = "whole: the client, on a kubelet",
        /// A program in the place of the client mounted where that would; kubelet ran gate, mounts and end.
        OnKubelet = "on a kubelet, a script in the place of the client",
        /// The Pod was made, and a Kubernetes API server took it.
        Evaluated = "the Pod was made and taken by an API server, not run",
        /// No Pod is made.
        Refused = "refused",
    }
}

named! {
    /// The kinds of Runtime that Fluid knows (`Dataset.status.runtimes[].type`). The name is also the first directory
    /// below the mount root.
    pub enum Runtime: Facts {
        /// AlluxioRuntime.
        Alluxio = "alluxio" => Facts {
            daemonset_suffix: "-fuse",
            fuse_directory: "alluxio-fuse",
            told_by: "its arguments",
            copied_config_maps: &["*-config"],
            refused: None,
            fluid: FluidVersions::Both,
            tried: Tried::OnKubelet,
        },
        /// CacheRuntime.
        // Its container mounts the directory of the mount itself; the others' mount the directory above.
        Cache = "cache" => Facts {
            daemonset_suffix: "-client",
            fuse_directory: "cache-fuse",
            told_by: "the variables of its CacheRuntimeClass and `targetPath` of `runtime.json`",
            copied_config_maps: &["fluid-runtime-config-*"],
            refused: None,
            fluid: FluidVersions::Head,
            tried: Tried::OnKubelet,
        },
        /// EFCRuntime.
        Efc = "efc" => Facts {
            daemonset_suffix: "-fuse",
            fuse_directory: "efc-fuse",
            told_by: "its arguments",
            copied_config_maps: &[],
            refused: Some(
                "the client needs the socket of a session manager that only Fluid's CSI plugin starts on a node; \
                 mount the NAS file system as an nfs volume, or serve its files by a ThinRuntime",
            ),
            fluid: FluidVersions::Both,
            tried: Tried::Refused,
        },
        /// GooseFSRuntime.
        GooseFs = "goosefs" => Facts {
            daemonset_suffix: "-fuse",
            fuse_directory: "goosefs-fuse",
            told_by: "its image",
            copied_config_maps: &["*-config"],
            refused: None,
            fluid: FluidVersions::Released,
            tried: Tried::Evaluated,
        },
        /// JindoRuntime.
        Jindo = "jindo" => Facts {
            daemonset_suffix: "-jindofs-fuse",
            fuse_directory: "jindofs-fuse",
            told_by: "`FLUID_FUSE_MOUNTPOINT`",
            copied_config_maps: &["*-jindofs-config", "*-jindofs-client-config"],
            refused: None,
            fluid: FluidVersions::Both,
            tried: Tried::OnKubelet,
        },
        /// JuiceFSRuntime.
        JuiceFs = "juicefs" => Facts {
            daemonset_suffix: "-fuse",
            fuse_directory: "juicefs-fuse",
            told_by: "`script.sh` of the ConfigMap `*-fuse-script`",
            copied_config_maps: &["*-fuse-script"],
            refused: None,
            fluid: FluidVersions::Both,
            tried: Tried::OnKubelet,
        },
        /// ThinRuntime, which `fluid-fuse` is made for.
        Thin = "thin" => Facts {
            daemonset_suffix: "-fuse",
            fuse_directory: "thin-fuse",
            told_by: "`MOUNT_POINT` and `targetPath` of `config.json`",
            copied_config_maps: &[],
            refused: None,
            fluid: FluidVersions::Both,
            tried: Tried::Whole,
        },
        /// VineyardRuntime.
        Vineyard = "vineyard" => Facts {
            daemonset_suffix: "-fuse",
            fuse_directory: "vineyard-fuse",
            told_by: "`FUSE_DIR`",
            copied_config_maps: &[],
            refused: Some(
                "the client mounts no file system: applications reach Vineyard by a socket of the node; connect to its \
                 service instead of mounting the claim, or mount a Dataset of another Runtime",
            ),
            fluid: FluidVersions::Both,
            tried: Tried::Refused,
        },
    }
}

impl Runtime {
    /// Whether Fluid copies this ConfigMap of the Runtime `name` for Datasets that refer to it.
    pub fn copies_config_map(self, name: &str, config_map: &str) -> bool {
        self.facts().copied_config_maps.iter().any(|pattern| {
            let (before, behind) = pattern.split_once('*').unwrap_or((pattern, ""));
            config_map.strip_prefix(before).and_then(|rest| rest.strip_suffix(behind)) == Some(name)
        })
    }

    /// The Runtimes that a sidecar can be made of.
    pub fn served() -> impl Iterator<Item = Runtime> {
        Self::ALL.iter().copied().filter(|runtime| runtime.facts().refused.is_none())
    }
}
