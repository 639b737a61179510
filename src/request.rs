//! What the host asks, and what a Pod says of itself at a glance.
//!
//! Most Pods have no Dataset, so the payload is not read into a tree at first: one pass reads only what decides that
//! (`Glance`), and skips the rest. The whole Pod is read when something changes in it. This module knows the shape
//! of the messages and nothing of Fluid.
//!
//! The request is not read as the SDK's `ValidationRequest`: its reader quotes the whole payload in its error, which may
//! carry secrets, and makes a tree of every object.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, anyhow, ensure};
use serde_json::{Map, Value};

use crate::json::{Mask, Masked, Masks, all, at, elements, text};

/// What is read of every payload.
#[derive(Clone, Debug)]
struct Glance;

impl Masks for Glance {
    const MASKS: &'static [Mask] = &[
        Mask(
            "request",
            &[
                all("operation"),
                all("uid"),
                Mask("kind", &[all("group"), all("kind")]),
                all("namespace"),
                all("subResource"),
                Mask(
                    "object",
                    &[
                        Mask("metadata", &[all("labels"), all("annotations")]),
                        Mask(
                            "spec",
                            &[
                                all("affinity"),
                                all("nodeName"),
                                all("nodeSelector"),
                                all("os"),
                                Mask("tolerations", &[all("key")]),
                                Mask("volumes", &[all("name"), all("persistentVolumeClaim")]),
                            ],
                        ),
                    ],
                ),
            ],
        ),
        all("settings"),
    ];
}

/// The object of a payload.
#[derive(Clone, Debug)]
struct WholeObject;

impl Masks for WholeObject {
    const MASKS: &'static [Mask] = &[Mask("request", &[all("object")])];
}

/// The payload of `validate`: an AdmissionRequest and the policy's settings.
#[derive(Debug)]
pub struct Payload<'a> {
    bytes: &'a [u8],
    glance: Value,
    creates_pod: bool,
}

impl<'a> Payload<'a> {
    /// Reads the payload.
    pub fn read(bytes: &'a [u8]) -> Result<Self> {
        let Masked::<Glance>(glance, _) =
            serde_json::from_slice(bytes).map_err(|error| anyhow!("the request: {error}"))?;
        let request = at(&glance, &["request"]);
        let kind = at(request, &["kind"]);
        // One after the other: the first that is something else decides.
        let creates_pod = string(request, "operation")? == "CREATE"
            && string(kind, "kind")? == "Pod"
            && optional(kind, "group")?.is_empty()
            && optional(request, "subResource")?.is_empty();
        optional(request, "namespace")?;
        Ok(Payload { bytes, glance, creates_pod })
    }

    fn request(&self) -> &Value {
        at(&self.glance, &["request"])
    }

    /// The settings as they came; `null` when there are none.
    pub fn settings(&self) -> &Value {
        at(&self.glance, &["settings"])
    }

    /// `CREATE`, `UPDATE`, `DELETE` or `CONNECT`, and the kind of the object.
    pub fn operation(&self) -> (&str, &str) {
        let operation = text(self.request(), "operation").unwrap_or_default();
        (operation, at(self.request(), &["kind", "kind"]).as_str().unwrap_or_default())
    }

    /// The Pod that is created. `None`: it is a request of another kind.
    pub fn created_pod(&self) -> Option<Result<PodGlance<'_>>> {
        let object = self.request().get("object").filter(|_| self.creates_pod)?;
        Some(PodGlance::new(object))
    }

    /// The namespace that the Pod is created in; `metadata.namespace` of the object may be empty.
    pub fn namespace(&self) -> &str {
        text(self.request(), "namespace").filter(|namespace| !namespace.is_empty()).unwrap_or("default")
    }

    /// What tells this request from all others: a UUID that the API server chose. Empty if it is missing.
    pub fn uid(&self) -> &str {
        text(self.request(), "uid").unwrap_or_default()
    }

    /// The size of the request, in bytes: about that of the object.
    pub fn size(&self) -> usize {
        self.bytes.len()
    }

    /// All of the object.
    pub fn whole_object(&self) -> Result<Value> {
        let Masked::<WholeObject>(mut whole, _) =
            serde_json::from_slice(self.bytes).map_err(|error| anyhow!("the request: {error}"))?;
        let object = whole.get_mut("request").and_then(|request| request.get_mut("object"));
        Ok(object.map(Value::take).unwrap_or_default())
    }
}

/// A field of the request that is a text.
fn string<'v>(of: &'v Value, name: &str) -> Result<&'v str> {
    text(of, name).with_context(|| format!("the request: {name}: must be a string"))
}

/// A field of the request that is a text, or nothing.
fn optional<'v>(of: &'v Value, name: &str) -> Result<&'v str> {
    match of.get(name) {
        None | Some(Value::Null) => Ok(""),
        Some(_) => string(of, name),
    }
}

/// The parts of a Pod that decide whether it has a Dataset, and how. The errors of all methods name the field.
#[derive(Clone, Copy, Debug)]
pub struct PodGlance<'v> {
    /// `metadata.labels`.
    pub labels: Texts<'v>,
    /// `metadata.annotations`.
    pub annotations: Texts<'v>,
    spec: &'v Value,
}

/// Texts by name, as settings have them.
pub type Entries = BTreeMap<String, String>;

/// Texts by name: labels, annotations, node selectors.
#[derive(Clone, Copy, Debug, Default)]
pub struct Texts<'v>(Option<&'v Map<String, Value>>);

impl<'v> Texts<'v> {
    /// The texts of a map; `null` has none.
    pub fn of(value: &'v Value) -> Option<Self> {
        let map = value.as_object();
        let texts = map.into_iter().flatten().all(|(_, value)| value.is_string());
        ((map.is_some() || value.is_null()) && texts).then_some(Texts(map))
    }

    /// A text.
    pub fn get(&self, name: &str) -> Option<&'v str> {
        self.0?.get(name)?.as_str()
    }

    /// Whether all of these are there.
    pub fn contain(&self, wanted: &Entries) -> bool {
        wanted.iter().all(|(name, value)| self.get(name) == Some(value))
    }
}

/// A volume of a Pod that is a claim.
#[derive(Clone, Debug, PartialEq)]
pub struct ClaimVolume {
    /// Its index in `spec.volumes`.
    pub index: usize,
    /// Its name.
    pub name: String,
    /// `persistentVolumeClaim.claimName`.
    pub claim: String,
    /// `persistentVolumeClaim.readOnly`.
    pub read_only: bool,
}

impl<'v> PodGlance<'v> {
    /// Looks at a Pod.
    pub fn new(pod: &'v Value) -> Result<Self> {
        for part in [&["metadata"][..], &["spec"], &[]] {
            let value = at(pod, part);
            ensure!(value.is_object() || value.is_null(), "the Pod: {}must be a map", path(part, ": "));
        }
        Ok(PodGlance {
            labels: texts(pod, &["metadata", "labels"])?,
            annotations: texts(pod, &["metadata", "annotations"])?,
            spec: at(pod, &["spec"]),
        })
    }

    /// `spec.affinity`, as it is.
    pub fn affinity(&self) -> &'v Value {
        at(self.spec, &["affinity"])
    }

    /// `spec.nodeName`, empty when absent.
    pub fn node_name(&self) -> Result<&'v str> {
        match at(self.spec, &["nodeName"]) {
            Value::Null => Ok(""),
            name => name.as_str().context("the Pod: spec.nodeName: must be a string"),
        }
    }

    /// `spec.nodeSelector`.
    pub fn node_selector(&self) -> Result<Texts<'v>> {
        let selector = Texts::of(at(self.spec, &["nodeSelector"]));
        selector.context("the Pod: spec.nodeSelector: must be a map of strings")
    }

    /// `spec.os.name`, empty when absent.
    pub fn os(&self) -> &'v str {
        at(self.spec, &["os", "name"]).as_str().unwrap_or_default()
    }

    /// `spec.tolerations`, as they are.
    pub fn tolerations(&self) -> &'v Value {
        at(self.spec, &["tolerations"])
    }

    /// The volumes that are claims, in their order.
    pub fn claims(&self) -> Result<Vec<ClaimVolume>> {
        let volumes = at(self.spec, &["volumes"]);
        ensure!(volumes.is_array() || volumes.is_null(), "the Pod: spec.volumes: must be a list");
        let mut claims = Vec::new();
        for (index, volume) in elements(Some(volumes)).iter().enumerate() {
            ensure!(volume.is_object(), "the Pod: spec.volumes[{index}]: must be a map");
            let source = at(volume, &["persistentVolumeClaim"]);
            if source.is_null() {
                continue;
            }
            let field = |of: &'v Value, key: &str| match of.get(key) {
                Some(Value::Null) | None => None,
                some => some,
            };
            let wrong =
                |key: &str, what: &str| format!("the Pod: spec.volumes[{index}].{key}: must be a {what}");
            ensure!(source.is_object(), wrong("persistentVolumeClaim", "map"));
            let name =
                field(volume, "name").map(|name| name.as_str().with_context(|| wrong("name", "string")));
            let claim = field(source, "claimName").map(|claim| {
                claim.as_str().with_context(|| wrong("persistentVolumeClaim.claimName", "string"))
            });
            let read_only = field(source, "readOnly").map(|read_only| {
                read_only.as_bool().with_context(|| wrong("persistentVolumeClaim.readOnly", "boolean"))
            });
            claims.push(ClaimVolume {
                index,
                name: name.transpose()?.unwrap_or_default().to_string(),
                claim: claim.transpose()?.unwrap_or_default().to_string(),
                read_only: read_only.transpose()?.unwrap_or_default(),
            });
        }
        Ok(claims)
    }
}

fn texts<'v>(pod: &'v Value, field: &[&str]) -> Result<Texts<'v>> {
    Texts::of(at(pod, field))
        .with_context(|| format!("the Pod: {}must be a map of strings", path(field, ": ")))
}

/// A path with what follows it.
fn path(fields: &[&str], then: &str) -> String {
    if fields.is_empty() { String::new() } else { fields.join(".") + then }
}
