//! The kinds of node that a Pod with a sidecar can run on, and how four things are done on each.
//!
//! | | `eci` | `acs` | `kubernetes` |
//! |---|---|---|---|
//! | device | extended resource; the platform publishes `/runtime-mnt` | privileged, `Bidirectional` | privileged, `Bidirectional` |
//! | order | first container, blocking postStart | first container, blocking postStart | native sidecar |
//! | exit | ECI's env | ACS's env | by kubelet |
//! | readiness probe | yes | no | no |
//!
//! These are defaults: what the public record cannot confirm (whether ECI honours native sidecars, the value of
//! ACS's variable, …) is a setting. Only a privileged container may mount with `Bidirectional` propagation (the
//! API server refuses it otherwise), which is why device and propagation go together.
//!
//! This module decides how; it does not know which Pods go where ([`crate::placement`]).

/// Where the Pod runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    /// Elastic Container Instance: a virtual machine for each Pod, no privileged containers, no hostPath but
    /// the one that its FUSE support provides.
    Eci,
    /// Alibaba Cloud Container Compute Service.
    Acs,
    /// Any node with a kubelet of Kubernetes 1.29 or newer.
    Kubernetes,
}

/// How the sidecar gets its FUSE device and how its mount reaches the other containers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    /// The sidecar is unprivileged; the platform grants the device for an extended resource and publishes
    /// what the sidecar mounts under the mount root.
    ExtendedResource,
    /// The sidecar is privileged and mounts the directory above the mount point with `Bidirectional`
    /// propagation.
    Privileged,
}

/// What makes the sidecar start before the containers that read the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// First in `containers`; kubelet starts the next container once the postStart hook of this one returned.
    FirstContainer,
    /// An init container with `restartPolicy: Always` (KEP-753), which init containers can use, too.
    NativeSidecar,
}

/// What makes the sidecar end with the Pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// kubelet, which ends native sidecars after the containers.
    Kubelet,
    /// ECI, told by environment variables.
    Eci,
    /// ACS, likewise.
    Acs,
    /// OpenKruise's SidecarTerminator, likewise.
    Kruise,
    /// The sidecar itself, which sees the processes of the other containers (`spec.shareProcessNamespace`).
    /// Only `fluid-fuse` does.
    ProcessNamespace,
}

/// How things are done on a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Strategy {
    /// See [`Device`].
    pub device: Device,
    /// See [`Order`].
    pub order: Order,
    /// See [`Exit`].
    pub exit: Exit,
    /// Whether the sidecar has a readiness probe: ECI starts a container of a lower launch priority once those
    /// of a higher one are ready.
    pub readiness_probe: bool,
}

impl Device {
    /// As the settings spell them.
    pub const NAMES: &[(&str, Device)] =
        &[("extendedResource", Device::ExtendedResource), ("privileged", Device::Privileged)];
}

impl Order {
    /// As the settings spell them.
    pub const NAMES: &[(&str, Order)] =
        &[("firstContainer", Order::FirstContainer), ("nativeSidecar", Order::NativeSidecar)];
}

impl Exit {
    /// As the settings spell them.
    pub const NAMES: &[(&str, Exit)] = &[
        ("kubelet", Exit::Kubelet),
        ("eci", Exit::Eci),
        ("acs", Exit::Acs),
        ("kruise", Exit::Kruise),
        ("processNamespace", Exit::ProcessNamespace),
    ];

    /// The same where the sidecar need not look for itself.
    pub fn unwatched(self) -> Exit {
        if self == Exit::ProcessNamespace { Exit::Kubelet } else { self }
    }

    /// Environment variables by which the platform knows that the container is a sidecar: it ends it when the
    /// other containers have ended, and a failure of it does not fail the Pod. Or by which the sidecar knows.
    ///
    /// ECI starts and stops the containers of a Pod all at once unless priorities say otherwise: the larger
    /// launch priority starts first and is waited for until it is ready, the smaller exit priority ends last
    /// (-1000 to 1000; ECI user guide, "Declare container types", "Configure start and exit priorities").
    pub fn sidecar_env(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Exit::Kubelet => &[],
            Exit::Eci => &[
                ("ECI_CONTAINER_TYPE", "sidecar"),
                ("ECI_CONTAINER_IGNORE_EXIT_CODE", "true"),
                ("ECI_CONTAINER_LAUNCH_PRIORITY", "1000"),
                ("ECI_CONTAINER_EXIT_PRIORITY", "-1000"),
            ],
            Exit::Acs => &[("__IS_SIDECAR__", "true")],
            Exit::Kruise => &[("KRUISE_TERMINATE_SIDECAR_WHEN_JOB_EXIT", "true")],
            Exit::ProcessNamespace => &[("FLUID_FUSE_EXIT_WITH_POD", "process-namespace")],
        }
    }
}

impl Destination {
    /// Every destination.
    pub const ALL: [Destination; 3] = [Destination::Eci, Destination::Acs, Destination::Kubernetes];

    /// The name used in the settings and in annotations.
    pub fn name(self) -> &'static str {
        match self {
            Destination::Eci => "eci",
            Destination::Acs => "acs",
            Destination::Kubernetes => "kubernetes",
        }
    }

    /// How things are done here unless the settings say otherwise.
    pub fn strategy(self) -> Strategy {
        match self {
            Destination::Eci => Strategy {
                device: Device::ExtendedResource,
                order: Order::FirstContainer,
                exit: Exit::Eci,
                readiness_probe: true,
            },
            Destination::Acs => Strategy {
                device: Device::Privileged,
                order: Order::FirstContainer,
                exit: Exit::Acs,
                readiness_probe: false,
            },
            Destination::Kubernetes => Strategy {
                device: Device::Privileged,
                order: Order::NativeSidecar,
                exit: Exit::Kubelet,
                readiness_probe: false,
            },
        }
    }
}
