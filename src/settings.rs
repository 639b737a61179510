//! What the administrator decided, checked as a whole.
//!
//! Settings arrive as free-form JSON. [`Settings::parse`] walks all of it and reports every problem at once,
//! each with the path of its field, because Kubewarden shows them only when a policy server fails to start.
//! Unknown fields are refused: a misspelt one would otherwise silently keep its default.
//!
//! Settings are read again for each request (Kubewarden gives each request a new instance), so this stays a
//! plain walk without tables or regular expressions.

use std::hash::Hasher as _;

use fluid_sidecar_layout::{FLUID_FUSE, MOUNT_ROOT, Runtime, VFUSE_RESOURCE};
use serde::Serialize;
use serde_json::{Map, Value};
use wildmatch::WildMatch;

use crate::destination::{Destination, Device, Exit, Order, Strategy};
use crate::request::Entries;

mod checks;
mod fields;

pub use checks::quantity;
use checks::{any, check_image, check_path, check_quantity, check_resource_name, check_source};
use fields::Fields;

/// The settings, resolved: valid as a whole, defaults filled in.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// `datasetsFrom` and `datasets`: how claims are known to be Datasets.
    pub datasets_from: DatasetsFrom,
    /// `destination`: where all Pods go; `None` (`auto`): to be found out for each Pod.
    pub destination: Option<Destination>,
    /// `destinations`: how things are done on each, where it differs from the defaults.
    pub strategies: [Strategy; Destination::ALL.len()],
    /// `gateTimeoutSeconds`: how long the start of the application waits for the file system, in seconds.
    pub gate_timeout_seconds: u32,
    /// `injectFailedDatasets`: whether a Dataset in phase Failed is served, as Fluid does; its data may still be
    /// there.
    pub inject_failed_datasets: bool,
    /// `mode`: whether Pods are changed, or what an earlier webhook made of them is checked.
    pub mode: Mode,
    /// `mountRoot`: Fluid's own `MOUNT_ROOT`; nothing outside it is ever mounted.
    pub mount_root: String,
    /// `namespaceLabels`: whether the labels of the Pod's namespace are read to place it.
    pub read_namespace_labels: bool,
    /// `onUndecidable`: what to do with Pods that may or may not land on a serverless node.
    pub on_undecidable: OnProblem,
    /// `onUnresolved`: what to do with Pods whose Dataset cannot be served.
    pub on_unresolved: OnProblem,
    /// `podOverrides`: the most that a Pod may ask for its sidecars by annotation; absent: nothing.
    pub pod_overrides: Entries,
    /// `selectors`: the administrator's own ways to a serverless node.
    pub selectors: Vec<Selector>,
    /// `sidecarFrom`: what serves Datasets that are found in the cluster.
    pub sidecar_from: SidecarFrom,
    /// `sidecarImages`: images that replace those of the Runtimes.
    pub sidecar_images: Vec<(Runtime, String)>,
    /// `sidecars`: what is changed in or added to the sidecars of a Runtime.
    pub sidecars: Vec<(Runtime, SidecarOverrides)>,
    /// `vfuseResourceName`: the extended resource that grants a FUSE device.
    pub vfuse_resource_name: String,
    /// Identifies the settings that a Pod was mutated with (FNV-1a of their JSON, hexadecimal).
    pub hash: String,
}

/// How claims are known to be Datasets.
#[derive(Clone, Debug, PartialEq)]
pub enum DatasetsFrom {
    /// Claims, Datasets and fuse DaemonSets are read from the cluster.
    Cluster,
    /// The settings name the claims; nothing is read from the cluster.
    Settings(Vec<ClaimRule>),
}

/// What the settings say of the claims that match.
#[derive(Clone, Debug, PartialEq)]
pub struct ClaimRule {
    /// Names of claims, `*` and `?` being wildcards.
    pub claim: WildMatch,
    /// Namespaces, likewise.
    pub namespace: WildMatch,
    /// Decides the host path and the image.
    pub runtime: Runtime,
    /// What `fluid-fuse` shall serve; absent for images that know their source themselves.
    pub source: Option<String>,
}

/// Whether Pods are changed or checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Inject sidecars.
    Mutate,
    /// Change nothing; reject Pods whose injection is missing or was damaged after it.
    Verify,
}

/// What serves Datasets that are found in the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SidecarFrom {
    /// The container of the Runtime's fuse DaemonSet.
    DaemonSet,
    /// `fluid-fuse`, with the mounts of the Dataset.
    FluidFuse,
}

/// An administrator's rule: Pods with these labels, in namespaces with those, go to the destination (the form
/// of eci-profile's ConfigMap).
#[derive(Clone, Debug, PartialEq)]
pub struct Selector {
    /// `podLabels`: all of them; empty: any Pod.
    pub pod_labels: Entries,
    /// `namespaceLabels`: all of them; empty: any namespace, and no read.
    pub namespace_labels: Entries,
    /// `destination`.
    pub destination: Destination,
}

impl Selector {
    /// Whether the labels of a Pod have what is selected.
    pub fn matches_pod(&self, labels: &Entries) -> bool {
        contains(labels, &self.pod_labels)
    }

    /// Whether the labels of a namespace have what is selected.
    pub fn matches_namespace(&self, labels: &Entries) -> bool {
        contains(labels, &self.namespace_labels)
    }
}

fn contains(labels: &Entries, wanted: &Entries) -> bool {
    wanted.iter().all(|(key, value)| labels.get(key) == Some(value))
}

/// What is changed in or added to the sidecars of one Runtime.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SidecarOverrides {
    /// `args`: appended to the container's arguments.
    pub args: Vec<String>,
    /// `cacheDirectory`: the path of an emptyDir of its own.
    pub cache_directory: Option<String>,
    /// `cacheSizeLimit`: how much it may hold.
    pub cache_size_limit: Option<String>,
    /// `env`: set, by name.
    pub env: Entries,
    /// `imagePullSecrets`: added to the Pod.
    pub image_pull_secrets: Vec<String>,
    /// `limits` and `requests`: set, by resource.
    pub limits: Entries,
    /// See `limits`.
    pub requests: Entries,
}

/// What to do when a Pod should be injected and cannot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnProblem {
    /// Reject the Pod with the reason.
    Reject,
    /// Admit it untouched with the reason as a warning.
    Allow,
}

/// The answer to `validate_settings`.
#[derive(Debug, Serialize)]
pub struct SettingsResponse {
    /// Whether the policy can run with them.
    pub valid: bool,
    /// All problems, one a line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// Answers `validate_settings` for the JSON of the settings.
pub fn validate_settings(payload: &[u8]) -> SettingsResponse {
    let raw = std::str::from_utf8(payload).map_err(|error| error.to_string());
    let raw = raw.and_then(|text| text.parse().map_err(|error: serde_json::Error| error.to_string()));
    let checked = match raw {
        Ok(raw) => Settings::parse(&raw).map(drop),
        Err(error) => Err(vec![format!("settings: not JSON: {error}")]),
    };
    let message = checked.err().map(|problems| problems.join("\n"));
    SettingsResponse { valid: message.is_none(), message }
}

const DESTINATION_FIELDS: &[&str] = &["device", "exit", "order", "readinessProbe"];
const SIDECAR_FIELDS: &[&str] =
    &["args", "cacheDirectory", "cacheSizeLimit", "env", "imagePullSecrets", "limits", "requests"];
const ON_PROBLEM: &[(&str, OnProblem)] = &[("reject", OnProblem::Reject), ("allow", OnProblem::Allow)];
const BOOLEAN: &[(&str, bool)] = &[("true", true), ("false", false)];

/// Fields of `podOverrides`, which are also the ends of the annotations that use them.
pub const POD_OVERRIDES: &[&str] = &["cpu", "memory"];

impl Settings {
    /// Reads the settings; `null` means all defaults.
    pub fn parse(raw: &Value) -> Result<Settings, Vec<String>> {
        let mut problems = Vec::new();
        let empty = Value::Object(Map::new());
        let raw = if raw.is_null() { &empty } else { raw };
        let Some(mut fields) = Fields::new("", raw, &mut problems) else {
            return Err(problems);
        };
        let mut destinations = vec![("auto", None)];
        destinations.extend(Destination::ALL.map(|destination| (destination.name(), Some(destination))));
        let sidecar_from = fields
            .choice(
                "sidecarFrom",
                &[("daemonset", SidecarFrom::DaemonSet), (FLUID_FUSE, SidecarFrom::FluidFuse)],
            )
            .unwrap_or(SidecarFrom::DaemonSet);
        let sidecar_images = sidecar_images(&mut fields);
        let settings = Settings {
            destination: fields.choice("destination", &destinations).unwrap_or_default(),
            strategies: strategies(&mut fields),
            gate_timeout_seconds: fields.seconds("gateTimeoutSeconds", 1..=600).unwrap_or(30),
            inject_failed_datasets: fields.choice("injectFailedDatasets", BOOLEAN).unwrap_or(true),
            mode: fields
                .choice("mode", &[("mutate", Mode::Mutate), ("verify", Mode::Verify)])
                .unwrap_or(Mode::Mutate),
            mount_root: fields.checked("mountRoot", check_path).unwrap_or(MOUNT_ROOT).to_string(),
            read_namespace_labels: fields
                .choice("namespaceLabels", &[("ignore", false), ("read", true)])
                .unwrap_or(false),
            on_undecidable: fields.choice("onUndecidable", ON_PROBLEM).unwrap_or(OnProblem::Allow),
            on_unresolved: fields.choice("onUnresolved", ON_PROBLEM).unwrap_or(OnProblem::Reject),
            pod_overrides: pod_overrides(&mut fields),
            selectors: selectors(&mut fields),
            sidecar_from,
            datasets_from: datasets_from(&mut fields, sidecar_from, &sidecar_images),
            sidecar_images,
            sidecars: sidecars(&mut fields),
            vfuse_resource_name: fields
                .checked("vfuseResourceName", check_resource_name)
                .unwrap_or(VFUSE_RESOURCE)
                .to_string(),
            hash: hash(raw),
        };
        if problems.is_empty() { Ok(settings) } else { Err(problems) }
    }

    /// How things are done on a destination.
    pub fn strategy(&self, destination: Destination) -> Strategy {
        self.strategies[destination as usize]
    }

    /// The image that the settings name for a Runtime.
    pub fn image(&self, runtime: Runtime) -> Option<&str> {
        self.sidecar_images.iter().find(|(known, _)| *known == runtime).map(|(_, image)| image.as_str())
    }

    /// What the settings change in the sidecars of a Runtime.
    pub fn overrides(&self, runtime: Runtime) -> Option<&SidecarOverrides> {
        self.sidecars.iter().find(|(known, _)| *known == runtime).map(|(_, overrides)| overrides)
    }
}

/// How claims are known to be Datasets. A container of ours has no image of its own, and `fluid-fuse` must know what
/// it serves.
fn datasets_from(
    fields: &mut Fields<'_>,
    sidecar_from: SidecarFrom,
    images: &[(Runtime, String)],
) -> DatasetsFrom {
    let from_settings =
        fields.choice("datasetsFrom", &[("cluster", false), ("settings", true)]).unwrap_or(false);
    let Some(entries) = fields.list("datasets") else { return DatasetsFrom::Cluster };
    let fluid_fuse = sidecar_from == SidecarFrom::FluidFuse;
    let has_image = |runtime| images.iter().any(|(known, _)| *known == runtime);
    if !from_settings {
        if !entries.is_empty() {
            fields
                .problem("datasets", "only used with datasetsFrom: settings; set that or remove this".into());
        }
        if fluid_fuse && !has_image(Runtime::Thin) {
            fields.problem(
                "sidecarImages.thin",
                "required with sidecarFrom: fluid-fuse, whose image it is".into(),
            );
        }
        return DatasetsFrom::Cluster;
    }
    if entries.is_empty() {
        fields.problem("datasets", "required with datasetsFrom: settings; name at least one claim".into());
    }
    let runtimes = Runtime::ALL.map(|runtime| (runtime.name(), runtime));
    let rules = entries.iter().enumerate().filter_map(|(index, entry)| {
        let mut rule = Fields::new(&format!("datasets[{index}]"), entry, fields.problems)?;
        let claim = WildMatch::new(rule.string("claim").unwrap_or_default());
        if rule.get("claim").is_none() {
            rule.problem("claim", "required: the name of a PersistentVolumeClaim, or a pattern".into());
        }
        if fluid_fuse && rule.get("source").is_none() {
            rule.problem("source", "required with sidecarFrom: fluid-fuse, which serves it".into());
        }
        let namespace = WildMatch::new(rule.string("namespace").unwrap_or("*"));
        let runtime = rule.choice("runtime", &runtimes).unwrap_or(Runtime::Thin);
        let source = rule.checked("source", check_source).map(str::to_string);
        if !has_image(runtime) {
            fields.problem(
                &format!("sidecarImages.{runtime}"),
                format!("required, because datasets[{index}] is served by runtime {runtime}"),
            );
        }
        Some(ClaimRule { claim, namespace, runtime, source })
    });
    DatasetsFrom::Settings(rules.collect())
}

fn sidecar_images(fields: &mut Fields<'_>) -> Vec<(Runtime, String)> {
    let Some(mut images) = fields.section("sidecarImages") else { return Vec::new() };
    let mut all = Vec::new();
    for runtime in Runtime::ALL {
        if let Some(image) = images.checked(runtime.name(), check_image) {
            all.push((runtime, image.to_string()));
        }
    }
    all
}

fn sidecars(fields: &mut Fields<'_>) -> Vec<(Runtime, SidecarOverrides)> {
    let Some(mut runtimes) = fields.section("sidecars") else { return Vec::new() };
    let mut all = Vec::new();
    for runtime in Runtime::ALL {
        let Some(mut one) = runtimes.section(runtime.name()) else { continue };
        if one.get("cacheSizeLimit").is_some() && one.get("cacheDirectory").is_none() {
            one.problem("cacheSizeLimit", "only used with cacheDirectory; set that or remove this".into());
        }
        let overrides = SidecarOverrides {
            args: one.strings("args"),
            cache_directory: one.checked("cacheDirectory", check_path).map(str::to_string),
            cache_size_limit: one.quantity("cacheSizeLimit"),
            env: one.entries("env", any),
            image_pull_secrets: one.strings("imagePullSecrets"),
            limits: one.entries("limits", check_quantity),
            requests: one.entries("requests", check_quantity),
        };
        all.push((runtime, overrides));
    }
    all
}

fn pod_overrides(fields: &mut Fields<'_>) -> Entries {
    let Some(mut most) = fields.section("podOverrides") else { return Entries::new() };
    let mut all = Entries::new();
    for resource in POD_OVERRIDES {
        if let Some(quantity) = most.quantity(resource) {
            all.insert(resource.to_string(), quantity);
        }
    }
    all
}

fn selectors(fields: &mut Fields<'_>) -> Vec<Selector> {
    let entries = fields.list("selectors").unwrap_or_default();
    let destinations = Destination::ALL.map(|destination| (destination.name(), destination));
    let selectors = entries.iter().enumerate().filter_map(|(index, entry)| {
        let mut selector = Fields::new(&format!("selectors[{index}]"), entry, fields.problems)?;
        let (pod_labels, namespace_labels) =
            (selector.entries("podLabels", any), selector.entries("namespaceLabels", any));
        if pod_labels.is_empty() && namespace_labels.is_empty() {
            selector.problem("podLabels", "select something by podLabels or namespaceLabels; for every Pod there is the setting destination".into());
        }
        if selector.get("destination").is_none() {
            selector.problem("destination", "required: where the selected Pods go".into());
        }
        let destination = selector.choice("destination", &destinations)?;
        Some(Selector { pod_labels, namespace_labels, destination })
    });
    selectors.collect()
}

fn strategies(fields: &mut Fields<'_>) -> [Strategy; Destination::ALL.len()] {
    let mut strategies = Destination::ALL.map(Destination::strategy);
    let Some(mut all) = fields.section("destinations") else { return strategies };
    for destination in Destination::ALL {
        let Some(mut one) = all.section(destination.name()) else { continue };
        let strategy = &mut strategies[destination as usize];
        strategy.device = one.choice("device", Device::NAMES).unwrap_or(strategy.device);
        strategy.order = one.choice("order", Order::NAMES).unwrap_or(strategy.order);
        strategy.exit = one.choice("exit", Exit::NAMES).unwrap_or(strategy.exit);
        strategy.readiness_probe = one.choice("readinessProbe", BOOLEAN).unwrap_or(strategy.readiness_probe);
    }
    strategies
}

/// The names of the fields of the map at a path, `[…]` being any index and a Runtime or destination itself.
fn known_fields(path: &str) -> Vec<&'static str> {
    let runtimes = || Runtime::ALL.map(Runtime::name).to_vec();
    let path = path.split('[').next().unwrap_or_default();
    match path.split_once('.').map_or((path, false), |(section, _)| (section, true)) {
        ("", _) => vec![
            "datasets",
            "datasetsFrom",
            "destination",
            "destinations",
            "gateTimeoutSeconds",
            "injectFailedDatasets",
            "mode",
            "mountRoot",
            "namespaceLabels",
            "onUndecidable",
            "onUnresolved",
            "podOverrides",
            "selectors",
            "sidecarFrom",
            "sidecarImages",
            "sidecars",
            "vfuseResourceName",
        ],
        ("datasets", _) => vec!["claim", "namespace", "runtime", "source"],
        ("destinations", false) => Destination::ALL.map(Destination::name).to_vec(),
        ("destinations", true) => DESTINATION_FIELDS.to_vec(),
        ("podOverrides", _) => POD_OVERRIDES.to_vec(),
        ("selectors", _) => vec!["destination", "namespaceLabels", "podLabels"],
        ("sidecars", true) => SIDECAR_FIELDS.to_vec(),
        _ => runtimes(),
    }
}

fn hash(raw: &Value) -> String {
    let mut hasher = fnv::FnvHasher::default();
    hasher.write(raw.to_string().as_bytes());
    format!("{:016x}", hasher.finish())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(raw: Value, problems: &[&str]) {
        let found = Settings::parse(&raw).err().unwrap_or_default();
        assert_eq!(found, problems, "{raw}");
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
                "destination: \"eic\" is not one of auto, eci, acs, kubernetes (did you mean eci?)",
                "gateTimeoutSeconds: must be a whole number of seconds from 1 to 600, not 0.5",
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
            json!({"datasets": [{"claim": "data"}]}),
            &["datasets: only used with datasetsFrom: settings; set that or remove this"],
        );
        check(
            json!({"datasetsFrom": "settings", "datasets": [
                {"runtime": "fuse", "source": "/mnt"},
                {"claim": "data", "source": "s3://key:secret@bucket/"},
                7,
            ]}),
            &[
                "datasets[0].claim: required: the name of a PersistentVolumeClaim, or a pattern",
                "datasets[0].runtime: \"fuse\" is not one of alluxio, cache, efc, jindo, juicefs, thin, vineyard",
                "datasets[0].source: \"/mnt\" is no URL; expected <scheme>://… like file:///mnt/nas/data",
                "sidecarImages.thin: required, because datasets[0] is served by runtime thin",
                "datasets[1].source: the s3 URL holds credentials; they would be readable in every Pod",
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
        check(settings(json!([{"claim": "data", "runtime": "jindo", "source": "file:///data"}])), &[]);
        check(
            settings(json!([{"claim": "data", "runtime": "jindo"}])),
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
