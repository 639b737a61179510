//! The kinds of node that a Pod with a sidecar can run on: one block for each, with what is done there unless the
//! settings say otherwise, what it refuses, and how a Pod says that it goes there.
//!
//! What the public record cannot confirm (whether ECI honours native sidecars, the value of ACS's variable, …) is a
//! setting. Only a privileged container may mount with `Bidirectional` propagation (the API server refuses it
//! otherwise), which is why device and propagation go together.

use fluid_sidecar_layout::named;

use crate::marker::Marker;
use crate::settings::form::{Boolean, Choice};
use crate::settings::{rules, section};

/// What is known of a destination.
#[derive(Debug)]
pub struct Facts {
    /// How a sidecar is run there, unless the setting `destinations` says otherwise.
    pub strategy: Strategy,
    /// What a Pod becomes there, and the most containers, and the most volumes, that one can have; `None`: as many as it
    /// likes.
    pub limit: Option<(&'static str, usize)>,
    /// What on a Pod, or its namespace, sends it there.
    pub markers: &'static [Marker],
    /// What leaves it to the scheduler whether the Pod goes there.
    pub possible: &'static [Marker],
}

/// Nodes of virtual-kubelet: ACK's, the one of ASK and old clusters, and VNodes of self-managed clusters
/// (`<region>.vnd-…`).
pub const VIRTUAL_NODES: &[&str] = &["virtual-kubelet", "virtual-kubelet-*", "virtual-node-*", "*.vnd-*"];

named! {
    /// Where the Pod runs.
    pub enum Destination: Facts {
        /// Alibaba Cloud Elastic Container Instance (ECI), a virtual machine for each Pod, without privileged containers.
        Eci = "eci" => Facts {
            strategy: Strategy {
                device: Device::ExtendedResource,
                order: Order::FirstContainer,
                exit: Exit::Eci,
                gate: GateKind::Hook,
                // ECI starts a container of a lower launch priority once those of a higher one are ready.
                readiness_probe: true,
                holder: false,
            },
            // ECI user guide, "Limits of elastic container instances".
            limit: Some(("an ECI instance", 20)),
            markers: &[
                Marker::SidecarTarget("eci"),
                Marker::Label("alibabacloud.com/eci", "true"),
                Marker::Label("eci", "true"),
                Marker::Fluid { unprivileged: true },
                Marker::NodeName(VIRTUAL_NODES),
                Marker::NodeSelector("type", "virtual-kubelet"),
                Marker::NodeSelector("k8s.aliyun.com/vnode", "true"),
                Marker::RequiredAffinity("type", "virtual-kubelet"),
                Marker::RequiredAffinity("k8s.aliyun.com/vnode", "true"),
                Marker::Annotation("alibabacloud.com/burst-resource", "eci_only"),
                Marker::NamespaceLabel("alibabacloud.com/eci", "true"),
                Marker::NamespaceLabel("eci", "true"),
                Marker::NamespaceLabel("virtual-node-affinity-injection", "enabled"),
            ],
            possible: &[
                Marker::SomeNodeName(VIRTUAL_NODES),
                Marker::Annotation("alibabacloud.com/burst-resource", "eci"),
                Marker::SomeAffinity("type", "virtual-kubelet"),
                Marker::SomeAffinity("k8s.aliyun.com/vnode", "true"),
                Marker::Toleration("virtual-kubelet.io/provider"),
                Marker::Toleration("k8s.aliyun.com/vnode"),
            ],
        },
        /// Alibaba Cloud Container Compute Service (ACS).
        Acs = "acs" => Facts {
            strategy: Strategy {
                device: Device::Privileged,
                order: Order::FirstContainer,
                exit: Exit::Acs,
                gate: GateKind::Hook,
                readiness_probe: false,
                holder: true,
            },
            limit: None,
            markers: &[
                Marker::SidecarTarget("acs"),
                Marker::Label("alibabacloud.com/acs", "true"),
                Marker::Label("alibabacloud.com/compute-class", ""),
            ],
            possible: &[],
        },
        /// A node with a kubelet, Kubernetes 1.29 or newer.
        Kubernetes = "kubernetes" => Facts {
            strategy: Strategy {
                device: Device::Privileged,
                order: Order::NativeSidecar,
                exit: Exit::Kubelet,
                gate: GateKind::Hook,
                readiness_probe: false,
                holder: true,
            },
            limit: None,
            markers: &[Marker::Fluid { unprivileged: false }],
            possible: &[],
        },
    }
}

section! {
    /// How a sidecar is run.
    #[derive(Copy)]
    pub struct Strategy {
        /// How the sidecar gets its FUSE device, and how its mount reaches the other containers.
        device: Device, Choice, {
            name: "device",
            label: "Device",
            example: "
destinations:
  kubernetes: {device: extendedResource}",
        }

        /// What makes the sidecar start before the containers that read the data. Use `nativeSidecar` where the
        /// platform supports it and init containers read the data.
        order: Order, Choice, {
            name: "order",
            label: "Order",
            example: "
destinations:
  eci: {order: nativeSidecar}",
        }

        /// What ends the sidecar when the containers of a Job have ended; environment variables of the sidecar tell
        /// the platform. Set it to `kubelet` together with `order: nativeSidecar`. Where neither the platform nor
        /// kubelet ends sidecars, `processNamespace` needs nothing of them (with `order: nativeSidecar` it is as
        /// `kubelet`); with `restartPolicy: OnFailure` the Pod then ends some five minutes after its containers, since
        /// they might be started again.
        exit: Exit, Choice, {
            name: "exit",
            label: "Exit",
            example: "
destinations:
  acs: {order: nativeSidecar, exit: kubelet}",
        }

        /// What holds the other containers back until the file system is mounted. kubelet tells others the address of the
        /// Pod only once the hooks of its first containers have returned; where a network policy lets no packet out before
        /// (Calico, Cilium, OVN, Kuma's CNI in some versions), the hook would wait for a store that it cannot reach: use
        /// `startupProbe` there, together with `order: nativeSidecar`.
        gate: GateKind, Choice, {
            name: "gate",
            label: "Gate",
            example: "
destinations:
  kubernetes: {gate: startupProbe}",
        }

        /// Whether the sidecar has a readiness probe that succeeds once the file system is mounted. ECI starts
        /// containers of a lower launch priority when those of a higher one are ready.
        readiness_probe: bool, Boolean, {
            name: "readinessProbe",
            label: "Readiness probe",
            example: "
destinations:
  eci: {readinessProbe: false}",
        }

        /// Whether a container of its own, `fluid-fuse-mount`, mounts the file system, so that the application outlives the
        /// sidecar: when that is killed, or its image is replaced, reads wait for the next one. This container alone has
        /// the device, and the privilege where it needs one; the sidecar has neither capabilities nor, unless it serves a
        /// directory (`file://`), root. Only `fluid-fuse` has one; and Pods with `restartPolicy: Never` only if the
        /// sidecar is native, since nobody would start it again.
        holder: bool, Boolean, {
            name: "holder",
            label: "Holder",
            example: "
destinations:
  eci: {holder: true}",
        }
    }
    check: rules::check_strategy
}

named! {
    /// What holds the other containers back.
    pub enum GateKind {
        /// the sidecar's postStart hook returns once the file system is mounted
        Hook = "postStart",
        /// kubelet starts the containers after a native sidecar once its startup probe, which asks each second whether the
        /// file system is mounted, has succeeded
        Probe = "startupProbe",
    }
}

named! {
    /// How the sidecar gets its FUSE device and how its mount reaches the other containers.
    pub enum Device {
        /// the sidecar is unprivileged and has a limit of `vfuseResourceName`; the platform gives it a FUSE device and
        /// publishes what it mounts under the mount root
        ExtendedResource = "extendedResource",
        /// the sidecar is privileged and mounts with `Bidirectional` propagation
        Privileged = "privileged",
    }
}

named! {
    /// What makes the sidecar start before the containers that read the data.
    pub enum Order {
        /// the sidecar comes before the other containers, which wait for its postStart hook; init containers cannot
        /// read the data
        FirstContainer = "firstContainer",
        /// the sidecar is an init container with `restartPolicy: Always` (KEP-753); init containers after it can read
        /// the data
        NativeSidecar = "nativeSidecar",
    }
}

/// Environment variables by which the platform knows that the container is a sidecar: it ends it when the other
/// containers have ended, and a failure of it does not fail the Pod.
pub type SidecarEnv = &'static [(&'static str, &'static str)];

/// Containers of a larger launch priority are started first on ECI, and waited for until they are ready (-1000 to 1000; ECI
/// user guide, "Configure start and exit priorities").
pub const LAUNCH_PRIORITY: &str = "ECI_CONTAINER_LAUNCH_PRIORITY";
/// Containers of a smaller exit priority are ended last.
pub const EXIT_PRIORITY: &str = "ECI_CONTAINER_EXIT_PRIORITY";

named! {
    /// What makes the sidecar end with the Pod.
    pub enum Exit: SidecarEnv {
        /// nothing is set; kubelet ends native sidecars after the containers
        Kubelet = "kubelet" => &[],
        /// ECI, told by `ECI_CONTAINER_TYPE` and the exit and launch priorities
        // ECI starts and stops the containers of a Pod all at once unless priorities say otherwise (ECI user guide,
        // "Declare container types").
        Eci = "eci" => &[
            ("ECI_CONTAINER_TYPE", "sidecar"),
            ("ECI_CONTAINER_IGNORE_EXIT_CODE", "true"),
            (LAUNCH_PRIORITY, "1000"),
            (EXIT_PRIORITY, "-1000"),
        ],
        /// ACS, told by `__IS_SIDECAR__`
        Acs = "acs" => &[("__IS_SIDECAR__", "true")],
        /// OpenKruise's SidecarTerminator, told by `KRUISE_TERMINATE_SIDECAR_WHEN_JOB_EXIT`
        Kruise = "kruise" => &[("KRUISE_TERMINATE_SIDECAR_WHEN_JOB_EXIT", "true")],
        /// the sidecar itself, which must be fluid-fuse and sees the processes of the other containers; the Pod gets
        /// `shareProcessNamespace: true`
        ProcessNamespace = "processNamespace" => &[],
    }
}

impl Order {
    /// The list of a Pod's containers that the sidecar is in.
    pub fn list(self) -> &'static str {
        match self {
            Order::FirstContainer => "containers",
            Order::NativeSidecar => "initContainers",
        }
    }
}

impl Exit {
    /// The same where the sidecar need not look for itself.
    pub fn unwatched(self) -> Exit {
        if self == Exit::ProcessNamespace { Exit::Kubelet } else { self }
    }
}
