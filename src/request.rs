//! What the host asks and the form in which it is answered: the waPC protocol of Kubewarden, version 1.
//!
//! Most Pods are not ours, so the object is not read into a tree at first: [`PodGlance`] reads only what decides
//! that, field by field, and leaves the rest where it lies. This module knows the shape of the messages and
//! nothing of Fluid.
//!
//! Own types instead of kubewarden-policy-sdk's: its request error quotes the whole payload, which may carry
//! secrets, and its answer keeps annotations in a hash map, whose order changes from run to run.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

/// The payload of `validate`.
#[derive(Debug, Deserialize)]
pub struct Payload<'a> {
    /// The AdmissionRequest.
    #[serde(borrow)]
    pub request: AdmissionRequest<'a>,
    /// The policy's settings, as in the ClusterAdmissionPolicy.
    #[serde(borrow, default)]
    pub settings: Option<&'a RawValue>,
}

/// The fields of Kubernetes' AdmissionRequest that matter here.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AdmissionRequest<'a> {
    /// `CREATE`, `UPDATE`, `DELETE` or `CONNECT`.
    pub operation: String,
    /// What the object is.
    pub kind: GroupVersionKind,
    /// The namespace of the request; `metadata.namespace` of the object may be empty.
    #[serde(default)]
    pub namespace: Option<String>,
    /// `status`, `exec`, …; absent or empty for the object itself.
    #[serde(default)]
    pub sub_resource: Option<String>,
    /// The object as it came; absent in a DELETE.
    #[serde(borrow, default)]
    pub object: Option<&'a RawValue>,
}

/// Names a kind of objects.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct GroupVersionKind {
    /// Empty for core kinds.
    pub group: String,
    /// Without the group.
    pub kind: String,
}

/// The parts of a Pod that decide whether it is ours, and how. Those of `spec` are read from the text when they are
/// asked for.
#[derive(Debug)]
pub struct PodGlance<'a> {
    /// `metadata.labels`.
    pub labels: Entries,
    /// `metadata.annotations`.
    pub annotations: Entries,
    spec: Spec<'a>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, expecting = "metadata to be a map")]
struct Metadata<'a> {
    #[serde(borrow)]
    labels: Option<&'a RawValue>,
    #[serde(borrow)]
    annotations: Option<&'a RawValue>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", expecting = "spec to be a map")]
struct Spec<'a> {
    #[serde(borrow)]
    affinity: Option<&'a RawValue>,
    #[serde(borrow)]
    node_name: Option<&'a RawValue>,
    #[serde(borrow)]
    node_selector: Option<&'a RawValue>,
    #[serde(borrow)]
    os: Option<&'a RawValue>,
    #[serde(borrow)]
    tolerations: Option<&'a RawValue>,
    #[serde(borrow)]
    volumes: Option<&'a RawValue>,
}

/// Labels, annotations, node selectors.
pub type Entries = BTreeMap<String, String>;

impl<'a> PodGlance<'a> {
    /// Looks at the JSON of a Pod. The errors of this and of all methods name the field.
    pub fn new(pod: &'a str) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Pod<'a> {
            #[serde(borrow, default)]
            metadata: Option<Metadata<'a>>,
            #[serde(borrow, default)]
            spec: Option<Spec<'a>>,
        }
        let Pod { metadata, spec } = serde_json::from_str(pod).map_err(|error| without_place(&error))?;
        let Metadata { labels, annotations } = metadata.unwrap_or_default();
        Ok(PodGlance {
            labels: field("metadata.labels", labels)?,
            annotations: field("metadata.annotations", annotations)?,
            spec: spec.unwrap_or_default(),
        })
    }

    /// `spec.affinity`, as it is.
    pub fn affinity(&self) -> Result<Value, String> {
        value("spec.affinity", self.spec.affinity)
    }

    /// `spec.nodeName`, empty when absent.
    pub fn node_name(&self) -> Result<String, String> {
        field("spec.nodeName", self.spec.node_name)
    }

    /// `spec.nodeSelector`.
    pub fn node_selector(&self) -> Result<Entries, String> {
        field("spec.nodeSelector", self.spec.node_selector)
    }

    /// `spec.os.name`, empty when absent.
    pub fn os(&self) -> Result<String, String> {
        let os = value("spec.os", self.spec.os)?;
        Ok(os.get("name").and_then(Value::as_str).unwrap_or_default().to_string())
    }

    /// `spec.tolerations`, as they are.
    pub fn tolerations(&self) -> Result<Value, String> {
        value("spec.tolerations", self.spec.tolerations)
    }

    /// `spec.volumes`.
    pub fn volumes(&self) -> Result<Vec<VolumeGlance<'a>>, String> {
        field("spec.volumes", self.spec.volumes)
    }
}

/// Of one volume.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct VolumeGlance<'a> {
    /// The volume's name.
    pub name: String,
    /// Present when the volume is a claim.
    #[serde(borrow)]
    pub persistent_volume_claim: Option<&'a RawValue>,
}

/// The answer to `validate`.
#[derive(Debug, Serialize)]
pub struct Response {
    /// Whether the request is allowed.
    pub accepted: bool,
    /// Said to the user when it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// The whole object, present only when it differs from the one that came.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mutated_object: Option<Value>,
    /// For the audit log of the API server.
    pub audit_annotations: BTreeMap<&'static str, String>,
    /// Said to the user also when the request is allowed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// Reads one field; absent and `null` are its default, as everywhere in Kubernetes. The error never quotes a
/// value.
fn field<'a, T: Deserialize<'a> + Default>(path: &str, raw: Option<&'a RawValue>) -> Result<T, String> {
    let Some(raw) = raw.filter(|raw| raw.get() != "null") else { return Ok(T::default()) };
    serde_json::from_str(raw.get()).map_err(|error| format!("{path}: {}", without_place(&error)))
}

/// Reads one field as it is; serde_json's own reader of a whole `Value` is faster than one that is made for a type.
pub fn value(path: &str, raw: Option<&RawValue>) -> Result<Value, String> {
    let text = raw.map_or("null", RawValue::get);
    text.parse().map_err(|error| format!("{path}: {}", without_place(&error)))
}

/// Line and column mean nothing to somebody who wrote YAML.
fn without_place(error: &serde_json::Error) -> String {
    let text = error.to_string();
    text.split(" at line ").next().unwrap_or_default().to_string()
}
