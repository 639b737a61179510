//! What the administrator decided, checked as a whole.
//!
//! A setting is one block here (those of a destination are in [`crate::destination`]): its documentation, name, type,
//! default, form, and what documents say of it. The reader, README's table, docs/settings.md, the JSON schema and
//! Rancher's form are made of the blocks.
//!
//! [`Settings::parse`] walks all of the JSON and reports every problem at once, each with the path of its field,
//! because Kubewarden shows them only when a policy server fails to start. Settings are read again for each request
//! (Kubewarden gives each request a new instance), so this stays a plain walk without tables or regular expressions.

use std::hash::Hasher as _;

use fluid_sidecar_layout::contract::{MOUNT_ROOT, VFUSE_RESOURCE};
use fluid_sidecar_layout::{Named as _, Runtime, named};
use kubewarden_policy_sdk::settings::SettingsValidationResponse;
use serde_json::Value;
use wildmatch::WildMatch;

use crate::destination::{Destination, Strategy};
use crate::reason::POLICY;
use crate::request::Entries;

pub mod form;
pub mod rules;
pub mod section;
pub mod text;

use form::{AutoOr, Boolean, Choice, Each, Entry, List, Map, Optional, Pattern, Seconds, Text, Whole};
pub(crate) use section::section;
pub use section::{Field, Fields, Group, Note, Place, Section};
use text::{ELEMENT, IMAGE, LIMIT, PATH, QUANTITY, RESOURCE, STRING, URL, VALUE};

section! {
    /// The settings: valid as a whole, defaults filled in.
    pub struct Settings {
        /// Whether Pods are changed, or checked after all other webhooks have changed them. Run the policy a second
        /// time with `verify`, as a policy with `mutating: false` and otherwise the same settings, when other webhooks
        /// change Pods after this one.
        mode: Mode = Mode::Mutate, Choice, {
            name: "mode",
            group: Some(Group::General),
            label: "Mode",
            example: "
mode: verify",
        }

        /// Where Pods run: decided for each Pod, or one destination for all. Name a destination for clusters such as
        /// ACK Serverless, where every Pod goes to a serverless node, or when the policy is bound to chosen
        /// namespaces; then no marker and no selector is looked at.
        destination: Option<Destination> = None,
            AutoOr("what the Pod says decides, by `selectors` and the built-in markers"),
        {
            name: "destination",
            group: Some(Group::Placement),
            label: "Destination",
            example: "
destination: eci",
        }

        /// Rules of your own that send Pods to a destination, by labels of the Pod and of its namespace. They are
        /// tried in their order, before the built-in markers; the first that matches decides. Use them for virtual
        /// nodes that the built-in markers do not know, or to repeat the selectors of an `eci-profile`.
        selectors: Vec<Selector> = Vec::new(), List(Whole), {
            name: "selectors",
            group: Some(Group::Placement),
            label: "Selectors",
            show_if: Some("destination=auto"),
            example: "
selectors:
- podLabels: {team: ai}
  namespaceLabels: {env: prod}
  destination: eci
- podLabels: {node: virtual}
  destination: acs",
        }

        /// Whether markers on the Pod's namespace count, such as the label `alibabacloud.com/eci=true`. Set it to
        /// `read` when whole namespaces are sent to virtual nodes; the policy then needs `v1` `Namespace` in its
        /// `contextAwareResources`. The `namespaceLabels` of `selectors` do not depend on it.
        namespace_labels: NamespaceLabels = NamespaceLabels::Ignore, Choice, {
            name: "namespaceLabels",
            group: Some(Group::Placement),
            label: "Namespace markers",
            show_if: Some("destination=auto"),
            example: "
namespaceLabels: read",
        }

        /// What happens to a Pod with a Dataset that may or may not land on a serverless node. With `allow` it starts
        /// only where Fluid's CSI driver runs; use `reject` to have owners say where their Pods go.
        on_undecidable: OnProblem = OnProblem::Allow, Choice, {
            name: "onUndecidable",
            group: Some(Group::Placement),
            label: "When the placement is undecidable",
            show_if: Some("destination=auto"),
            example: "
onUndecidable: reject",
        }

        /// How the policy knows which claims are Datasets. Use `settings` where the policy may not read the cluster or
        /// Fluid is not installed.
        datasets_from: DatasetsFrom = DatasetsFrom::Cluster, Choice, {
            name: "datasetsFrom",
            group: Some(Group::Dataset),
            label: "Datasets from",
            example: "
datasetsFrom: settings
datasets:
- {claim: \"training-*\", namespace: ai, source: \"file:///mnt/nas/training\"}
sidecarImages: {thin: \"registry.example/fluid-fuse:0.1.0\"}",
        }

        /// The claims that are Datasets, with `datasetsFrom: settings`; at least one there, and none otherwise. The
        /// first entry that matches a claim and its namespace counts. The image comes from `sidecarImages` of the
        /// entry's runtime, which must be set.
        datasets: Vec<ClaimRule> = Vec::new(), List(Whole), {
            name: "datasets",
            group: Some(Group::Dataset),
            label: "Datasets",
            show_if: Some("datasetsFrom=settings"),
            example: "
datasetsFrom: settings
datasets:
- claim: imagenet
  namespace: \"team-*\"
  source: file:///mnt/nas/imagenet
- claim: \"jfs-*\"
  namespace: \"*\"
  runtime: juicefs
sidecarImages:
  thin: registry.example/fluid-fuse:0.1.0
  juicefs: registry.example/juicefs-fuse:1.2",
        }

        /// Whether a Dataset in phase `Failed` is served, as Fluid does; with `false` it is treated as `onUnresolved`
        /// says. No Fluid that was tried (v1.0.8 and HEAD) ever set that phase: a Dataset whose Runtime is down stays
        /// `Bound`, so neither value protects a Pod from it.
        inject_failed_datasets: bool = true, Boolean, {
            name: "injectFailedDatasets",
            group: Some(Group::Dataset),
            label: "Inject failed Datasets",
            show_if: Some("datasetsFrom=cluster"),
            example: "
injectFailedDatasets: false",
        }

        /// Whether a Pod is injected whose Dataset refers to one in another namespace (`dataset://…`), although Fluid
        /// does not copy all ConfigMaps and Secrets that the sidecar needs. Set it to `true` where you copy them
        /// yourself: a warning names them. With `false` the Pod is treated as `onUnresolved` says, with the same names.
        inject_incomplete_references: bool = false, Boolean, {
            name: "injectIncompleteReferences",
            group: Some(Group::Dataset),
            label: "Inject incomplete references",
            show_if: Some("datasetsFrom=cluster"),
            example: "
injectIncompleteReferences: true",
        }

        /// Fluid's `MOUNT_ROOT`, the directory of the node under which Datasets are mounted. Change it only together
        /// with Fluid; nothing outside it is ever mounted.
        mount_root: String = MOUNT_ROOT.into(), Text(&PATH), {
            name: "mountRoot",
            group: Some(Group::Dataset),
            label: "Mount root",
            example: "
mountRoot: /var/lib/fluid/mounts",
        }

        /// What happens to a Pod that goes to a serverless node and whose Dataset cannot be served, for example
        /// because it is not bound, an object is missing, or the cluster cannot be read. An admitted Pod cannot start
        /// on a serverless node; use `allow` while introducing the policy.
        on_unresolved: OnProblem = OnProblem::Reject, Choice, {
            name: "onUnresolved",
            group: Some(Group::Dataset),
            label: "When a Dataset cannot be served",
            example: "
onUnresolved: allow",
        }

        /// The client that serves the Datasets of the cluster. Use `fluid-fuse` when the Runtime's own image needs
        /// a privileged container, or a cache cluster that serverless Pods do not reach: it reads the Dataset's mounts
        /// itself, from object stores (`s3://`, `oss://` and others) and directories (`local://`, `file://`), or those
        /// of the Dataset that it refers to. The kind of Runtime does not matter then: image and overrides are `thin`'s.
        /// With
        /// `datasetsFrom: settings` each entry of `datasets` with a `source` is served by `fluid-fuse` anyway, in the
        /// image of its own runtime; there `sidecarFrom: fluid-fuse` only demands that all of them have one.
        sidecar_from: SidecarFrom = SidecarFrom::DaemonSet, Choice, {
            name: "sidecarFrom",
            group: Some(Group::Sidecar),
            label: "Sidecar from",
            show_if: Some("datasetsFrom=cluster"),
            example: "
sidecarFrom: fluid-fuse
sidecarImages: {thin: \"registry.example/fluid-fuse:0.1.0\"}",
        }

        /// Images of the sidecars by Runtime, instead of those of the fuse DaemonSets. Required for each runtime that
        /// `datasets` uses, and `thin` for `sidecarFrom: fluid-fuse` with `datasetsFrom: cluster`.
        sidecar_images: Vec<(Runtime, String)> = Vec::new(), EACH_IMAGE, {
            name: "sidecarImages",
            group: Some(Group::Sidecar),
            label: "Sidecar images",
            example: "
sidecarImages:
  jindo: registry.example/jindo-fuse:6.2
  thin: registry.example/fluid-fuse:0.1.0",
        }

        /// Changes of the sidecars and additions to them, by Runtime of the Dataset. It applies to containers of fuse
        /// DaemonSets, to `fluid-fuse`, and to images of `sidecarImages` alike.
        sidecars: Vec<(Runtime, SidecarOverrides)> = Vec::new(), EACH_SIDECAR, {
            name: "sidecars",
            group: Some(Group::Sidecar),
            label: "Sidecar overrides",
            in_form: false,
            example: "
sidecars:
  jindo:
    args: [-ometrics_port=0]
    env: {LOG_LEVEL: debug}
    limits: {memory: 6Gi}
    requests: {memory: 3Gi}
    imagePullSecrets: [registry]
    cacheDirectory: /var/cache/jindo
    cacheSizeLimit: 16Gi",
        }

        /// The most that a Pod may ask for each of its sidecars, by the annotations `fluid-sidecar-policy/cpu` and
        /// `fluid-sidecar-policy/memory`. A Pod that asks for more, or for a resource that is not listed here, is
        /// treated as `onUnresolved` says.
        pod_overrides: Vec<(PodResource, String)> = Vec::new(), EACH_MOST, {
            name: "podOverrides",
            group: Some(Group::Sidecar),
            label: "Pod overrides",
            example: "
podOverrides: {cpu: \"4\", memory: 8Gi}",
        }

        /// The requests of a sidecar that has neither a request nor a limit of that resource, in Pods whose containers all
        /// have one. Without them the Pod has no utilisation for a HorizontalPodAutoscaler, and a ResourceQuota refuses it.
        /// On ECI they count towards the size of the instance. `{}` is none; `sidecars.<runtime>.requests` go before it.
        default_requests: Vec<(PodResource, String)> =
            vec![(PodResource::Cpu, "100m".into()), (PodResource::Memory, "256Mi".into())], EACH_REQUEST, {
            name: "defaultRequests",
            group: Some(Group::Sidecar),
            label: "Default requests",
            // A form would take both away with one of them.
            in_form: false,
            example: "
defaultRequests: {cpu: 250m, memory: 1Gi}",
        }

        /// Init containers that mount a Dataset's volume, as operators give every container all volumes, but need none of
        /// its files: patterns of their names or, with a space in it, of their command and arguments. Where the sidecar is an
        /// ordinary container, which starts after them, they see an empty directory that is read-only; other init
        /// containers that mount the volume are refused there. A Pod may name more of its own by the annotation
        /// `fluid-sidecar-policy/init-containers-without-data`. The default has those of KubeRay, Airflow, GitLab Runner and
        /// Argo Workflows; it is replaced as a whole.
        init_containers_without_data: Vec<String> = texts(INIT_CONTAINERS_WITHOUT_DATA), List(Text(&STRING)), {
            name: "initContainersWithoutData",
            group: Some(Group::Sidecar),
            label: "Init containers without data",
            example: "
initContainersWithoutData: [wait-gcs-ready, check-db, \"argoexec init*\", \"wait-for-*\"]",
        }

        /// Runtime classes (`spec.runtimeClassName`) whose sandbox does not let the mount of a privileged sidecar reach the
        /// other containers: patterns. A Pod of such a class is treated as `onUnresolved` says where sidecars are
        /// privileged. The list is replaced as a whole.
        sandboxed_runtime_classes: Vec<String> = texts(SANDBOXED_RUNTIME_CLASSES), List(Text(&STRING)), {
            name: "sandboxedRuntimeClasses",
            group: Some(Group::Platform),
            label: "Sandboxed runtime classes",
            example: "
sandboxedRuntimeClasses: [\"kata*\", gvisor, our-sandbox]",
        }

        /// How long the start of the application waits for its file system, in seconds. After that the sidecar's
        /// postStart hook fails, and the sidecar is ended and, by the Pod's `restartPolicy`, restarted. Kubernetes sets
        /// no limit, and waiting costs less than a new start; `fluid-fuse` does not wait for a store that refuses. Raise
        /// it for file systems that take long to mount, lower it where a failure must be known soon.
        gate_timeout_seconds: u32 = 300, Seconds(1, 3600), {
            name: "gateTimeoutSeconds",
            group: Some(Group::Sidecar),
            label: "Gate timeout",
            example: "
gateTimeoutSeconds: 900",
        }

        /// The destinations that markers on Pods may choose, each with what differs there from the defaults; without this
        /// setting `eci` alone. A Pod that asks for another is left as it is. Name `acs` or `kubernetes`, whose sidecars
        /// are privileged, only where whoever may create Pods may have that. `destination` and `selectors` are your own
        /// choice and need no entry here; it says how sidecars are run there, too.
        destinations: Vec<(Destination, Strategy)> = vec![(Destination::Eci, Destination::Eci.facts().strategy)],
            EACH_DESTINATION,
        {
            name: "destinations",
            group: Some(Group::Platform),
            label: "Destinations",
            // A form names every field of it, and would enable all of them.
            in_form: false,
            example: "
destinations:
  acs: {order: nativeSidecar, exit: kubelet}
  eci: {}",
        }

        /// The extended resource that grants a FUSE device, as `<domain>/<name>`. Change it for a device plugin of
        /// another name; only destinations with `device: extendedResource` use it.
        vfuse_resource_name: String = VFUSE_RESOURCE.into(), Text(&RESOURCE), {
            name: "vfuseResourceName",
            group: Some(Group::Platform),
            label: "vfuse resource",
            example: "
vfuseResourceName: fluid.io/fuse",
        }
    }
    check: rules::check_settings
}

/// Init containers of operators that mount all volumes of the main container and wait for something else: KubeRay #1130,
/// the chart of Airflow, GitLab Runner, Argo Workflows.
const INIT_CONTAINERS_WITHOUT_DATA: &[&str] =
    &["wait-gcs-ready", "check-db", "wait-for-airflow-migrations", "init-permissions", "argoexec init*"];

/// gVisor, Kata Containers, and Alibaba Cloud's sandboxed containers.
const SANDBOXED_RUNTIME_CLASSES: &[&str] = &["gvisor*", "runsc*", "kata*", "runv*", "rund*"];

fn texts(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| text.to_string()).collect()
}

named! {
    /// Whether Pods are changed or checked.
    pub enum Mode {
        /// inject sidecars
        Mutate = "mutate",
        /// change nothing, and reject Pods whose sidecars are missing or were damaged after injection
        Verify = "verify",
    }
}

named! {
    /// Whether markers of the namespace count.
    pub enum NamespaceLabels {
        /// only the Pod decides
        Ignore = "ignore",
        /// the Namespace is read, once for each Pod that mounts a claim and that no earlier marker places
        Read = "read",
    }
}

named! {
    /// What to do when a Pod should be injected and cannot.
    pub enum OnProblem {
        /// admit the Pod unchanged, with a warning
        Allow = "allow",
        /// reject the Pod with the reason
        Reject = "reject",
    }
}

named! {
    /// How claims are known to be Datasets.
    pub enum DatasetsFrom {
        /// claims, volumes, Datasets and fuse DaemonSets are read from the cluster
        Cluster = "cluster",
        /// `datasets` names the claims, and nothing is read to find them
        Settings = "settings",
    }
}

named! {
    /// What serves Datasets that are found in the cluster.
    pub enum SidecarFrom {
        /// the container of the Runtime's fuse DaemonSet, made fit for the destination
        DaemonSet = "daemonset",
        /// `fluid-fuse`, with the mounts of the Dataset; its image is `sidecarImages.thin`, which must be set
        FluidFuse = "fluid-fuse",
    }
}

section! {
    /// An administrator's rule: Pods with these labels, in namespaces with those, go to the destination (the form of
    /// eci-profile's ConfigMap).
    pub struct Selector {
        /// The labels that the Pod must have, all of them. Without any, every Pod of the selected namespaces matches;
        /// one of `podLabels` and `namespaceLabels` must select something.
        pod_labels: Entries = Entries::new(), Map(Text(&VALUE)), {
            name: "podLabels",
            label: "Pod labels",
            example: "
selectors:
- {podLabels: {team: ai}, destination: eci}",
        }

        /// The labels that the Pod's namespace must have, all of them. The Namespace is read from the cluster only for
        /// Pods that match `podLabels`; the policy needs `v1` `Namespace` in its `contextAwareResources`.
        namespace_labels: Entries = Entries::new(), Map(Text(&VALUE)), {
            name: "namespaceLabels",
            label: "Namespace labels",
            example: "
selectors:
- {namespaceLabels: {env: prod}, destination: eci}",
        }

        /// Where the selected Pods go.
        destination: Destination = Destination::Eci, Choice, {
            name: "destination",
            required: Some("where the selected Pods go"),
            label: "Destination",
            example: "
selectors:
- podLabels: {team: ai}
  destination: acs",
        }
    }
    check: rules::check_selector
}

section! {
    /// What the settings say of the claims that match.
    pub struct ClaimRule {
        /// The name of the PersistentVolumeClaim. `*` stands for any characters, `?` for one.
        claim: WildMatch = WildMatch::new(""), Pattern, {
            name: "claim",
            required: Some("the name of a PersistentVolumeClaim, or a pattern"),
            label: "Claim",
            example: "
datasetsFrom: settings
datasets:
- claim: \"training-*\"
  namespace: ai
sidecarImages: {thin: \"registry.example/nfs-fuse:1.0\"}",
        }

        /// The namespace of the claim, with the same wildcards. Claims of one name exist in many namespaces, so say which
        /// you mean.
        namespace: WildMatch = WildMatch::new(""), Pattern, {
            name: "namespace",
            required: Some("the namespace of the claim, or a pattern; \"*\" is every namespace"),
            label: "Namespace",
            example: "
datasetsFrom: settings
datasets:
- {claim: data, namespace: \"team-?\"}
sidecarImages: {thin: \"registry.example/nfs-fuse:1.0\"}",
        }

        /// The kind of Fluid Runtime: it decides the sidecar's image, its entry in `sidecars`, and the directory that
        /// it mounts.
        runtime: Runtime = Runtime::Thin, Choice, {
            name: "runtime",
            label: "Runtime",
            example: "
datasetsFrom: settings
datasets:
- {claim: data, namespace: ai, runtime: juicefs}
sidecarImages: {juicefs: \"registry.example/juicefs-fuse:1.2\"}",
        }

        /// The URL that the sidecar serves, such as `s3://bucket/prefix`, `oss://bucket/prefix` or
        /// `file:///directory`. With a source the image must have the program `fluid-fuse`; without one it runs as it
        /// is and must know its source. The URL stands in the Pod, so it must not hold credentials: give them, and the
        /// endpoint, as `env` of the sidecar.
        source: Option<String> = None, Optional(Text(&URL)), {
            name: "source",
            label: "Source",
            example: "
datasetsFrom: settings
datasets:
- {claim: data, namespace: ai, source: \"file:///mnt/nas/data\"}
sidecarImages: {thin: \"registry.example/fluid-fuse:0.1.0\"}",
        }
    }
}

section! {
    /// Changes of the sidecars of one Runtime, and additions to them.
    pub struct SidecarOverrides {
        /// Arguments appended to those of the container.
        args: Vec<String> = Vec::new(), List(Text(&ELEMENT)), {
            name: "args",
            label: "Arguments",
            example: "
sidecars:
  jindo:
    args: [-ometrics_port=0]",
        }

        /// Environment variables by name; a variable that the container already has is replaced. The values stand in
        /// the Pod, so they must not hold secrets.
        env: Entries = Entries::new(), Map(Text(&VALUE)), {
            name: "env",
            label: "Environment",
            example: "
sidecars:
  jindo:
    env: {LOG_LEVEL: debug}",
        }

        /// Resource limits by resource; others of the container stay. Set them when the DaemonSet's are made for a
        /// whole node: on ECI they count towards the size of the instance.
        limits: Entries = Entries::new(), Map(Text(&LIMIT)), {
            name: "limits",
            label: "Limits",
            example: "
sidecars:
  jindo:
    limits: {cpu: 2, memory: 6Gi, ephemeral-storage: 20Gi}",
        }

        /// Resource requests by resource; others of the container stay.
        requests: Entries = Entries::new(), Map(Text(&QUANTITY)), {
            name: "requests",
            label: "Requests",
            example: "
sidecars:
  jindo:
    requests: {cpu: 500m, memory: 3Gi}",
        }

        /// Names of Secrets, added to the Pod's `imagePullSecrets`. The Secrets must exist in the namespace of the
        /// Pod.
        image_pull_secrets: Vec<String> = Vec::new(), List(Text(&ELEMENT)), {
            name: "imagePullSecrets",
            label: "Image pull secrets",
            example: "
sidecars:
  jindo:
    imagePullSecrets: [registry]",
        }

        /// Whether the sidecar has the token of the Pod's service account, as other containers do. Set it to `true` for a
        /// client that asks the API server; whoever decides what the client does (its DaemonSet, its image, its stores)
        /// may then act as the Pod. Tokens at other places (RRSA, IRSA) are not touched.
        service_account_token: bool = false, Boolean, {
            name: "serviceAccountToken",
            label: "Service account token",
            example: "
sidecars:
  juicefs:
    serviceAccountToken: true",
        }

        /// A path in the sidecar where an `emptyDir` of its own is mounted, instead of what the container mounts
        /// there. Use it when the Runtime caches on a disk of the node, which a serverless node does not have.
        cache_directory: Option<String> = None, Optional(Text(&PATH)), {
            name: "cacheDirectory",
            label: "Cache directory",
            example: "
sidecars:
  jindo:
    cacheDirectory: /var/cache/jindo",
        }

        /// The `sizeLimit` of the cache directory's `emptyDir`, in bytes; without it there is none. Only together with
        /// `cacheDirectory`.
        cache_size_limit: Option<String> = None, Optional(Text(&LIMIT)), {
            name: "cacheSizeLimit",
            label: "Cache size limit",
            example: "
sidecars:
  jindo:
    cacheDirectory: /var/cache/jindo
    cacheSizeLimit: 16Gi",
        }
    }
    check: rules::check_overrides
}

named! {
    /// What a Pod may ask for by annotation.
    pub enum PodResource {
        /// in cores
        Cpu = "cpu",
        /// in bytes
        Memory = "memory",
    }
}

const EACH_IMAGE: Each<Runtime, String, Text> = Each {
    of: Text(&IMAGE),
    base: |_| String::new(),
    entry: Entry {
        about: "The image of the sidecars of this Runtime. Change it when serverless nodes need another image than the \
                Runtime's, or pull from another registry.",
        note: Note {
            name: "<runtime>",
            label: "Image",
            example: "
sidecarImages:
  jindo: registry.example/jindo-fuse:6.2",
            ..Note::BLANK
        },
    },
};

const EACH_SIDECAR: Each<Runtime, SidecarOverrides, Whole> = Each {
    of: Whole,
    base: |_| SidecarOverrides::default(),
    entry: Entry {
        about: "The overrides for sidecars of this Runtime.",
        note: Note {
            name: "<runtime>",
            label: "Overrides",
            example: "
sidecars:
  juicefs:
    limits: {memory: 4Gi}",
            ..Note::BLANK
        },
    },
};

const EACH_MOST: Each<PodResource, String, Text> = Each {
    of: Text(&LIMIT),
    base: |_| String::new(),
    entry: Entry {
        about: "The largest limit of this resource that a Pod may ask for: `cpu` in cores, `memory` in bytes.",
        note: Note {
            name: "<resource>",
            label: "Most",
            example: "
podOverrides: {cpu: 500m, memory: 8Gi}",
            ..Note::BLANK
        },
    },
};

const EACH_REQUEST: Each<PodResource, String, Text> = Each {
    of: Text(&QUANTITY),
    base: |_| String::new(),
    entry: Entry {
        about: "What a sidecar requests of this resource by default: `cpu` in cores, `memory` in bytes.",
        note: Note {
            name: "<resource>",
            label: "Request",
            example: "
defaultRequests: {cpu: 250m}",
            ..Note::BLANK
        },
    },
};

const EACH_DESTINATION: Each<Destination, Strategy, Whole> = Each {
    of: Whole,
    base: |destination: Destination| destination.facts().strategy,
    entry: Entry {
        about: "What differs on this destination.",
        note: Note {
            name: "<destination>",
            label: "Destination",
            example: "
destinations:
  acs: {order: nativeSidecar, exit: kubelet}",
            ..Note::BLANK
        },
    },
};

impl Settings {
    /// Reads the settings; `null` means all defaults. The error has every problem, with the path of its field.
    pub fn parse(raw: &Value) -> Result<Settings, Vec<String>> {
        let mut problems = Vec::new();
        let mut settings = Settings::default();
        if !raw.is_null() {
            settings = form::Form::read(&Whole, &mut Place::root(&mut problems), raw, settings);
        }
        if problems.is_empty() { Ok(settings) } else { Err(problems) }
    }

    /// How a sidecar is run on a destination.
    pub fn strategy(&self, destination: Destination) -> Strategy {
        entry_of(&self.destinations, destination).copied().unwrap_or(destination.facts().strategy)
    }

    /// Whether markers on Pods may choose a destination.
    pub fn enables(&self, destination: Destination) -> bool {
        entry_of(&self.destinations, destination).is_some()
    }

    /// The image that the settings name for a Runtime.
    pub fn image(&self, runtime: Runtime) -> Option<&str> {
        entry_of(&self.sidecar_images, runtime).map(String::as_str)
    }
}

/// What the settings say of one of several.
pub(crate) fn entry_of<N: PartialEq, T>(each: &[(N, T)], name: N) -> Option<&T> {
    each.iter().find(|(known, _)| *known == name).map(|(_, said)| said)
}

/// Identifies the settings that a Pod was mutated with: FNV-1a of their JSON, hexadecimal.
pub fn hash(raw: &Value) -> String {
    let mut hasher = fnv::FnvHasher::default();
    hasher.write(if raw.is_null() { "{}".into() } else { raw.to_string() }.as_bytes());
    format!("{:016x}", hasher.finish())
}

/// Answers `validate_settings` for the JSON of the settings. All problems are told at once, one a line; each begins with
/// the policy's name, as several policies share a policy server and its log.
pub fn validate_settings(payload: &[u8]) -> SettingsValidationResponse {
    let raw: Result<Value, _> = serde_json::from_slice(payload);
    let problems = match &raw {
        Ok(raw) => Settings::parse(raw).err().unwrap_or_default(),
        Err(error) => vec![format!("settings: not JSON: {error}")],
    };
    let verify = raw.is_ok_and(|raw| raw.get("mode").is_some_and(|mode| mode == Mode::Verify.name()));
    let policy = if verify { format!("{POLICY} (mode: {})", Mode::Verify) } else { POLICY.to_string() };
    let lines: Vec<_> = problems.iter().map(|problem| format!("{policy}: {problem}")).collect();
    SettingsValidationResponse {
        valid: lines.is_empty(),
        message: (!lines.is_empty()).then(|| lines.join("\n")),
    }
}

#[cfg(test)]
mod tests {
    use fluid_sidecar_layout::Named;
    use serde_json::json;

    use super::*;

    /// The problems, in any order.
    #[track_caller]
    fn check(raw: Value, problems: &[&str]) {
        let mut found = Settings::parse(&raw).err().unwrap_or_default();
        let mut problems: Vec<_> = problems.iter().map(|problem| problem.to_string()).collect();
        found.sort();
        problems.sort();
        assert_eq!(found, problems, "{raw}");
    }

    /// All names of an enumeration, as a message lists them.
    fn names<T: Named>() -> String {
        T::ALL.iter().map(|value| value.name()).collect::<Vec<_>>().join(", ")
    }

    #[test]
    fn each_line_of_the_servers_log_names_the_policy() {
        let lines = |settings: &str| validate_settings(settings.as_bytes()).message.unwrap_or_default();
        assert_eq!(
            lines(r#"{"mod": "verify", "mountRoot": "x"}"#),
            "fluid-sidecar-policy: mod: unknown field; did you mean mode?\n\
             fluid-sidecar-policy: mountRoot: \"x\" must be absolute, without empty, \".\" or \"..\" components"
        );
        let of_the_twin = lines(r#"{"mode": "verify", "destination": ""}"#);
        assert_eq!(of_the_twin, "fluid-sidecar-policy (mode: verify): destination: must not be empty");
        assert!(lines("{").starts_with("fluid-sidecar-policy: settings: not JSON: "));
        assert!(validate_settings(b"null").valid);
    }

    #[test]
    fn every_problem_is_reported_with_its_path() {
        check(json!(null), &[]);
        check(json!([]), &["settings: must be a map, not a list"]);
        check(
            json!({"sidecarImage": {}, "vfuseResourceName": 7, "mountRoot": "/a/../b", "destination": "eic",
                   "gateTimeoutSeconds": 0.5, "sidecarImages": {"jindofs": "x", "thin": ""}}),
            &[
                "sidecarImage: unknown field; did you mean sidecarImages?",
                "sidecarImages.jindofs: unknown field; did you mean jindo?",
                "sidecarImages.thin: must not be empty",
                &format!(
                    "destination: \"eic\" is not one of auto, {} (did you mean eci?)",
                    names::<Destination>()
                ),
                "gateTimeoutSeconds: must be a whole number of seconds from 1 to 3600, not 0.5",
                "mountRoot: \"/a/../b\" must be absolute, without empty, \".\" or \"..\" components",
                "vfuseResourceName: must be a string, not a number",
            ],
        );
    }

    #[test]
    fn datasets_named_by_the_settings_are_checked_one_by_one() {
        check(
            json!({"datasetsFrom": "settings"}),
            &["datasets: required with datasetsFrom: settings; name at least one claim"],
        );
        check(
            json!({"datasets": [{"claim": "data", "namespace": "*"}]}),
            &["datasets: only used with datasetsFrom: settings; set that or remove this"],
        );
        check(
            json!({"datasetsFrom": "settings", "datasets": [
                {"runtime": "fuse", "source": "/mnt"},
                {"claim": "data", "namespace": "ai", "source": "s3://key:secret@bucket/"},
                7,
            ]}),
            &[
                "datasets[0].claim: required: the name of a PersistentVolumeClaim, or a pattern",
                "datasets[0].namespace: required: the namespace of the claim, or a pattern; \"*\" is every namespace",
                &format!("datasets[0].runtime: \"fuse\" is not one of {}", names::<Runtime>()),
                "datasets[0].source: \"/mnt\" is not a URL such as s3://bucket/prefix or file:///path",
                "sidecarImages.thin: required, because datasets[0] is served by runtime thin",
                "datasets[1].source: the s3 URL must not have credentials in it, which everybody could read who sees the Pod: give them as options",
                "sidecarImages.thin: required, because datasets[1] is served by runtime thin",
                "datasets[2]: must be a map, not a number",
            ],
        );
    }

    #[test]
    fn fluid_fuse_needs_an_image_in_the_cluster_and_a_source_in_the_settings() {
        check(
            json!({"sidecarFrom": "fluid-fuse", "sidecarImages": {"jindo": "x"}}),
            &["sidecarImages.thin: required with sidecarFrom: fluid-fuse, whose image it is"],
        );
        let settings = |datasets: Value| {
            json!({"sidecarFrom": "fluid-fuse", "datasetsFrom": "settings", "datasets": datasets,
                   "sidecarImages": {"jindo": "x"}})
        };
        check(
            settings(
                json!([{"claim": "data", "namespace": "*", "runtime": "jindo", "source": "file:///data"}]),
            ),
            &[],
        );
        check(
            settings(json!([{"claim": "data", "namespace": "*", "runtime": "jindo"}])),
            &["datasets[0].source: required with sidecarFrom: fluid-fuse, which serves it"],
        );
    }

    #[test]
    fn quantities_may_be_numbers_and_fields_that_do_nothing_are_refused() {
        check(
            json!({"podOverrides": {"cpu": 2}, "sidecars": {"thin": {
                "cacheDirectory": "/cache", "cacheSizeLimit": 1_000_000, "limits": {"cpu": 0.5, "memory": "1e9"}}}}),
            &[],
        );
        check(
            json!({"podOverrides": {"cpu": true}, "sidecars": {"thin": {"cacheSizeLimit": -1}},
                   "selectors": [{"podLabels": {"team": "ai"}}]}),
            &[
                "podOverrides.cpu: must be a string, not a boolean",
                "selectors[0].destination: required: where the selected Pods go",
                "sidecars.thin.cacheSizeLimit: only used with cacheDirectory; set that or remove this",
                "sidecars.thin.cacheSizeLimit: \"-1\" is no quantity; expected one like 500m, 2 or 4Gi",
            ],
        );
    }
}
