//! What was found in the cluster about one Pod, as plain data: it can be written to a directory, and read from there.
//!
//! | file of a record | holds |
//! |---|---|
//! | `asked.yaml` | an [`Asked`]: what was asked, and when |
//! | `objects.yaml` | the objects, as `kubectl get --output yaml` prints them, and the events |
//! | `unread.yaml` | each [`Unread`] |
//! | `CONTAINER.log`, `CONTAINER.previous.log` | the ends of the logs |
//! | `CONTAINER.metrics` | the metrics |

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use k8s_openapi::jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::yaml;

const ASKED: &str = "asked.yaml";
const OBJECTS: &str = "objects.yaml";
const UNREAD: &str = "unread.yaml";
const LOG: &str = ".log";
const PREVIOUS_LOG: &str = ".previous.log";
const METRICS: &str = ".metrics";

/// What somebody wants to know of.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
pub struct Asked {
    /// `Pod`, or the kind of an owner of Pods.
    pub kind: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// When the cluster was looked at, as Kubernetes writes times.
    pub now: String,
}

/// A read that failed.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
pub struct Unread {
    /// What was to be read, in words.
    pub what: String,
    /// The verb of the API server's authorization.
    pub verb: String,
    /// The resource, with the subresource and the API group: `pods/log`, `datasets.data.fluid.io`.
    pub resource: String,
    /// The namespace; none for objects of the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// The API server's words.
    pub message: String,
    /// Whether a right is missing.
    pub forbidden: bool,
}

/// Everything that was found.
#[derive(Clone, Debug, Default)]
pub struct Evidence {
    /// The question.
    pub asked: Asked,
    /// Objects and events.
    pub objects: Vec<Value>,
    /// The ends of the logs by container, of the running container and of the one before (`true`).
    pub logs: BTreeMap<(String, bool), String>,
    /// The metrics by container.
    pub metrics: BTreeMap<String, String>,
    /// What could not be read.
    pub unread: Vec<Unread>,
}

impl Evidence {
    /// Adds an object, unless it is there already.
    pub fn add(&mut self, object: Value) {
        let has = |other: &Value| {
            ["/kind", "/metadata/namespace", "/metadata/name"]
                .iter()
                .all(|field| other.pointer(field) == object.pointer(field))
        };
        if !self.objects.iter().any(has) {
            self.objects.push(object);
        }
    }

    /// Reads a record.
    pub fn read(directory: &Path) -> Result<Evidence> {
        let asked = Asked::deserialize(yaml::read_single(&directory.join(ASKED))?)
            .with_context(|| format!("{}: {ASKED}", directory.display()))?;
        let mut evidence =
            Evidence { asked, objects: yaml::read_file(&directory.join(OBJECTS))?, ..Evidence::default() };
        for unread in yaml::read_file(&directory.join(UNREAD))? {
            evidence.unread.push(Unread::deserialize(unread).context(UNREAD)?);
        }
        let mut files = fs::read_dir(directory)
            .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>, _>>())
            .with_context(|| format!("cannot list {}", directory.display()))?;
        files.sort();
        for file in files {
            let name = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let text =
                || fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()));
            if let Some(container) = name.strip_suffix(PREVIOUS_LOG) {
                evidence.logs.insert((container.into(), true), text()?);
            } else if let Some(container) = name.strip_suffix(LOG) {
                evidence.logs.insert((container.into(), false), text()?);
            } else if let Some(container) = name.strip_suffix(METRICS) {
                evidence.metrics.insert(container.into(), text()?);
            }
        }
        Ok(evidence)
    }

    /// Writes a record.
    pub fn write(&self, directory: &Path) -> Result<()> {
        fs::create_dir_all(directory).with_context(|| format!("cannot create {}", directory.display()))?;
        let write = |name: &str, text: &str| {
            let file = directory.join(name);
            fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))
        };
        write(ASKED, &yaml::print(&serde_json::to_value(&self.asked)?)?)?;
        write(OBJECTS, &documents(&self.objects)?)?;
        let unread: Result<Vec<_>, _> = self.unread.iter().map(serde_json::to_value).collect();
        write(UNREAD, &documents(&unread?)?)?;
        for ((container, previous), text) in &self.logs {
            let suffix = if *previous { PREVIOUS_LOG } else { LOG };
            write(&format!("{container}{suffix}"), text)?;
        }
        for (container, text) in &self.metrics {
            write(&format!("{container}{METRICS}"), text)?;
        }
        Ok(())
    }

    /// An object by kind and name, in the namespace of the question or without one.
    pub fn object(&self, kind: &str, name: &str) -> Option<&Value> {
        self.objects
            .iter()
            .find(|object| text(object, "/kind") == kind && text(object, "/metadata/name") == name)
    }

    /// All objects of a kind.
    pub fn of_kind<'e>(&'e self, kind: &'e str) -> impl Iterator<Item = &'e Value> {
        self.objects.iter().filter(move |object| object.get("kind").and_then(Value::as_str) == Some(kind))
    }

    /// The events of an object, the newest last.
    pub fn events(&self, kind: &str, name: &str) -> Vec<&Value> {
        let is_its = |event: &&Value| {
            text(event, "/involvedObject/kind") == kind && text(event, "/involvedObject/name") == name
        };
        let mut events: Vec<_> = self.of_kind("Event").filter(is_its).collect();
        events.sort_by_key(|event| event_time(event));
        events
    }

    /// Seconds from a time until the cluster was looked at.
    pub fn age(&self, time: &str) -> Option<i64> {
        let (now, then): (Timestamp, Timestamp) = (self.asked.now.parse().ok()?, time.parse().ok()?);
        Some(now.as_second() - then.as_second())
    }
}

/// When an event was last seen.
pub fn event_time(event: &Value) -> String {
    let times = ["/series/lastObservedTime", "/lastTimestamp", "/eventTime", "/metadata/creationTimestamp"];
    times.iter().map(|field| text(event, field)).find(|time| !time.is_empty()).unwrap_or_default().into()
}

/// The text of a field; empty if there is none.
pub fn text<'v>(value: &'v Value, pointer: &str) -> &'v str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// The elements of a field that is a list.
pub fn list<'v>(value: &'v Value, pointer: &str) -> &'v [Value] {
    value.pointer(pointer).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

fn documents(values: &[Value]) -> Result<String> {
    let printed: Result<Vec<_>> = values.iter().map(yaml::print).collect();
    Ok(printed?.iter().map(|text| format!("---\n{text}")).collect())
}
