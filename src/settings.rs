//! What the administrator decided, checked as a whole.
//!
//! Settings arrive as free-form JSON. [`Settings::parse`] walks all of it and reports every problem at once,
//! each with the path of its field, because Kubewarden shows them only when a policy server fails to start.
//! Unknown fields are refused: a misspelt one would otherwise silently keep its default.
//!
//! Settings are read again for each request (Kubewarden gives each request a new instance), so this stays a
//! plain walk without tables or regular expressions.

use std::collections::BTreeMap;
use std::hash::Hasher as _;

use fluid_sidecar_layout::{MOUNT_ROOT, Runtime, VFUSE_RESOURCE, check_absolute};
use serde::Serialize;
use serde_json::{Map, Value};
use wildmatch::WildMatch;

use crate::destination::Destination;

/// The settings, resolved: valid as a whole, defaults filled in.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// `datasetsFrom` and `datasets`: how claims are known to be Datasets.
    pub datasets_from: DatasetsFrom,
    /// `destination`: where all Pods go; `None` (`auto`): to be found out for each Pod.
    pub destination: Option<Destination>,
    /// `gateTimeoutSeconds`: how long the start of the application waits for the file system, in seconds.
    pub gate_timeout_seconds: u32,
    /// `mountRoot`: Fluid's own `MOUNT_ROOT`; nothing outside it is ever mounted.
    pub mount_root: String,
    /// `onUndecidable`: what to do with Pods that may or may not land on a serverless node.
    pub on_undecidable: OnProblem,
    /// `onUnresolved`: what to do with Pods whose Dataset cannot be served.
    pub on_unresolved: OnProblem,
    /// `sidecarImages`: images that replace those of the Runtimes.
    pub sidecar_images: BTreeMap<Runtime, String>,
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
    let checked = match serde_json::from_slice(payload) {
        Ok(raw) => Settings::parse(&raw).map(drop),
        Err(error) => Err(vec![format!("settings: not JSON: {error}")]),
    };
    let message = checked.err().map(|problems| problems.join("\n"));
    SettingsResponse { valid: message.is_none(), message }
}

const FIELDS: &[&str] = &[
    "datasets",
    "datasetsFrom",
    "destination",
    "gateTimeoutSeconds",
    "mountRoot",
    "onUndecidable",
    "onUnresolved",
    "sidecarImages",
    "vfuseResourceName",
];
const CLAIM_RULE_FIELDS: &[&str] = &["claim", "namespace", "runtime", "source"];
const ON_PROBLEM: &[(&str, OnProblem)] = &[("reject", OnProblem::Reject), ("allow", OnProblem::Allow)];

impl Settings {
    /// Reads the settings; `null` means all defaults.
    pub fn parse(raw: &Value) -> Result<Settings, Vec<String>> {
        let mut problems = Vec::new();
        let empty = Value::Object(Map::new());
        let raw = if raw.is_null() { &empty } else { raw };
        let Some(mut fields) = Fields::new("", raw, FIELDS, &mut problems) else {
            return Err(problems);
        };
        let mut destinations = vec![("auto", None)];
        destinations.extend(Destination::ALL.map(|destination| (destination.name(), Some(destination))));
        let settings = Settings {
            destination: fields.choice("destination", &destinations).unwrap_or_default(),
            gate_timeout_seconds: fields.seconds("gateTimeoutSeconds", 1..=600).unwrap_or(30),
            mount_root: fields
                .checked("mountRoot", |path| check_absolute(path).map_err(|error| error.to_string()))
                .unwrap_or(MOUNT_ROOT)
                .to_string(),
            on_undecidable: fields.choice("onUndecidable", ON_PROBLEM).unwrap_or(OnProblem::Allow),
            on_unresolved: fields.choice("onUnresolved", ON_PROBLEM).unwrap_or(OnProblem::Reject),
            sidecar_images: sidecar_images(&mut fields),
            vfuse_resource_name: fields
                .checked("vfuseResourceName", check_resource_name)
                .unwrap_or(VFUSE_RESOURCE)
                .to_string(),
            datasets_from: datasets_from(&mut fields),
            hash: hash(raw),
        };
        settings.check_images(&mut problems);
        if problems.is_empty() { Ok(settings) } else { Err(problems) }
    }

    /// A container built from the settings alone has no image of its own.
    fn check_images(&self, problems: &mut Vec<String>) {
        let DatasetsFrom::Settings(rules) = &self.datasets_from else { return };
        for (index, rule) in rules.iter().enumerate() {
            if !self.sidecar_images.contains_key(&rule.runtime) {
                problems.push(format!(
                    "sidecarImages.{runtime}: required, because datasets[{index}] is served by runtime {runtime}",
                    runtime = rule.runtime
                ));
            }
        }
    }
}

fn datasets_from(fields: &mut Fields<'_>) -> DatasetsFrom {
    let from_settings =
        fields.choice("datasetsFrom", &[("cluster", false), ("settings", true)]).unwrap_or(false);
    let entries: &[Value] = match fields.get("datasets") {
        None => &[],
        Some(Value::Array(entries)) => entries,
        Some(other) => {
            fields.problem("datasets", format!("must be a list, not {}", kind_of(other)));
            return DatasetsFrom::Cluster;
        }
    };
    if !from_settings {
        if !entries.is_empty() {
            fields
                .problem("datasets", "only used with datasetsFrom: settings; set that or remove this".into());
        }
        return DatasetsFrom::Cluster;
    }
    if entries.is_empty() {
        fields.problem("datasets", "required with datasetsFrom: settings; name at least one claim".into());
    }
    let rules = entries.iter().enumerate().filter_map(|(index, entry)| {
        let mut rule = Fields::new(&format!("datasets[{index}]"), entry, CLAIM_RULE_FIELDS, fields.problems)?;
        let runtimes = Runtime::ALL.map(|runtime| (runtime.name(), runtime));
        let claim = rule.string("claim");
        if claim.is_none() && rule.get("claim").is_none() {
            rule.problem("claim", "required: the name of a PersistentVolumeClaim, or a pattern".into());
        }
        Some(ClaimRule {
            claim: WildMatch::new(claim.unwrap_or_default()),
            namespace: WildMatch::new(rule.string("namespace").unwrap_or("*")),
            runtime: rule.choice("runtime", &runtimes).unwrap_or(Runtime::Thin),
            source: rule.checked("source", check_source).map(str::to_string),
        })
    });
    DatasetsFrom::Settings(rules.collect())
}

fn sidecar_images(fields: &mut Fields<'_>) -> BTreeMap<Runtime, String> {
    let Some(raw) = fields.get("sidecarImages") else { return BTreeMap::new() };
    let names = Runtime::ALL.map(Runtime::name);
    let Some(mut images) = Fields::new("sidecarImages", raw, &names, fields.problems) else {
        return BTreeMap::new();
    };
    Runtime::ALL
        .into_iter()
        .filter_map(|runtime| Some((runtime, images.string(runtime.name())?.to_string())))
        .collect()
}

/// An extended resource: a domain and a name (Kubernetes: `IsExtendedResourceName`).
fn check_resource_name(name: &str) -> Result<(), String> {
    let plain = |part: &str| {
        part.starts_with(|first: char| first.is_ascii_alphanumeric())
            && part.ends_with(|last: char| last.is_ascii_alphanumeric())
            && part.len() <= 63
            && part.chars().all(|char| char.is_ascii_alphanumeric() || "-_.".contains(char))
    };
    match name.split_once('/') {
        Some((domain, resource))
            if plain(domain) && plain(resource) && !domain.ends_with("kubernetes.io") =>
        {
            Ok(())
        }
        _ => Err(format!("{name:?} is no extended resource; expected <domain>/<name> like {VFUSE_RESOURCE}")),
    }
}

/// The source goes into the sidecar's environment, where everybody who may read Pods can see it.
fn check_source(source: &str) -> Result<(), String> {
    let Some((scheme, rest)) = source.split_once("://") else {
        return Err(format!("{source:?} is no URL; expected <scheme>://… like file:///mnt/nas/data"));
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if authority.contains('@') {
        return Err(format!("the {scheme} URL holds credentials; they would be readable in every Pod"));
    }
    Ok(())
}

fn hash(raw: &Value) -> String {
    let mut hasher = fnv::FnvHasher::default();
    hasher.write(raw.to_string().as_bytes());
    format!("{:016x}", hasher.finish())
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "a map",
    }
}

/// The fields of one map, read by name; whatever is wrong is noted and reading goes on.
struct Fields<'a> {
    path: String,
    map: &'a Map<String, Value>,
    problems: &'a mut Vec<String>,
}

impl<'a> Fields<'a> {
    /// `None`, and a problem, when `raw` is no map. Fields that are not `known` are problems, too.
    fn new(path: &str, raw: &'a Value, known: &[&str], problems: &'a mut Vec<String>) -> Option<Self> {
        let Value::Object(map) = raw else {
            let path = if path.is_empty() { "settings" } else { path };
            problems.push(format!("{path}: must be a map, not {}", kind_of(raw)));
            return None;
        };
        let path = if path.is_empty() { String::new() } else { format!("{path}.") };
        let fields = Fields { path, map, problems };
        for unknown in map.keys().filter(|key| !known.contains(&key.as_str())) {
            let hint = match closest(unknown, known) {
                Some(name) => format!("did you mean {name}?"),
                None => format!("known are {}", known.join(", ")),
            };
            fields.problems.push(format!("{}{unknown}: unknown field; {hint}", fields.path));
        }
        Some(fields)
    }

    fn problem(&mut self, key: &str, what: String) {
        self.problems.push(format!("{}{key}: {what}", self.path));
    }

    /// A `null` is as good as an absent field, as everywhere in Kubernetes.
    fn get(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    fn string(&mut self, key: &str) -> Option<&'a str> {
        match self.get(key)? {
            Value::String(text) if text.is_empty() => {
                self.problem(key, "must not be empty".into());
                None
            }
            Value::String(text) => Some(text),
            other => {
                self.problem(key, format!("must be a string, not {}", kind_of(other)));
                None
            }
        }
    }

    fn checked(&mut self, key: &str, check: impl Fn(&str) -> Result<(), String>) -> Option<&'a str> {
        let text = self.string(key)?;
        match check(text) {
            Ok(()) => Some(text),
            Err(what) => {
                self.problem(key, what);
                None
            }
        }
    }

    fn choice<T: Copy>(&mut self, key: &str, choices: &[(&str, T)]) -> Option<T> {
        let text = self.string(key)?;
        let chosen = choices.iter().find(|(name, _)| *name == text).map(|(_, value)| *value);
        if chosen.is_none() {
            let names: Vec<_> = choices.iter().map(|(name, _)| *name).collect();
            let hint =
                closest(text, &names).map(|name| format!(" (did you mean {name}?)")).unwrap_or_default();
            self.problem(key, format!("{text:?} is not one of {}{hint}", names.join(", ")));
        }
        chosen
    }

    fn seconds(&mut self, key: &str, range: std::ops::RangeInclusive<u32>) -> Option<u32> {
        let value = self.get(key)?;
        let seconds = value.as_u64().and_then(|number| u32::try_from(number).ok());
        let seconds = seconds.filter(|seconds| range.contains(seconds));
        if seconds.is_none() {
            let (least, most) = (range.start(), range.end());
            self.problem(
                key,
                format!("must be a whole number of seconds from {least} to {most}, not {value}"),
            );
        }
        seconds
    }
}

/// The known name that a misspelt one probably means.
fn closest<'a>(unknown: &str, known: &[&'a str]) -> Option<&'a str> {
    let unknown = unknown.to_ascii_lowercase();
    let distance = |name: &str| strsim::osa_distance(&unknown, &name.to_ascii_lowercase());
    known
        .iter()
        .copied()
        .min_by_key(|name| distance(name))
        .filter(|name| distance(name) <= 1 + name.len() / 4)
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
                "destination: \"eic\" is not one of auto, eci, acs, kubernetes (did you mean eci?)",
                "gateTimeoutSeconds: must be a whole number of seconds from 1 to 600, not 0.5",
                "mountRoot: \"/a/../b\" must be absolute, without empty, \".\" or \"..\" components",
                "sidecarImages.jindofs: unknown field; did you mean jindo?",
                "sidecarImages.thin: must not be empty",
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
                "datasets[1].source: the s3 URL holds credentials; they would be readable in every Pod",
                "datasets[2]: must be a map, not a number",
                "sidecarImages.thin: required, because datasets[0] is served by runtime thin",
                "sidecarImages.thin: required, because datasets[1] is served by runtime thin",
            ],
        );
    }

    #[test]
    fn the_resource_must_be_an_extended_one() {
        for (name, ok) in [
            ("alibabacloud.com/vfuse", true),
            ("fluid.io/fuse", true),
            ("cpu", false),
            ("kubernetes.io/x", false),
            ("a/b/c", false),
        ] {
            assert_eq!(check_resource_name(name).is_ok(), ok, "{name}");
        }
    }
}
