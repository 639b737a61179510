//! What the host asks and the form in which it is answered: the waPC protocol of Kubewarden, version 1.
//!
//! Most Pods are not ours, so the object is not read into a tree at first: [`PodGlance`] takes only what
//! decides that, and leaves the rest where it lies. This module knows the shape of the messages and nothing
//! of Fluid.
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
    #[serde(default)]
    pub settings: Value,
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

/// The parts of a Pod that decide whether it is ours.
#[derive(Debug, Deserialize)]
pub struct PodGlance {
    /// Labels and annotations.
    #[serde(default)]
    pub metadata: MetadataGlance,
    /// Where the Pod wants to run, and its volumes.
    #[serde(default)]
    pub spec: SpecGlance,
}

/// Of `metadata`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct MetadataGlance {
    /// `metadata.labels`.
    pub labels: Option<BTreeMap<String, String>>,
    /// `metadata.annotations`.
    pub annotations: Option<BTreeMap<String, String>>,
}

/// Of `spec`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct SpecGlance {
    /// `spec.nodeSelector`.
    pub node_selector: Option<BTreeMap<String, String>>,
    /// `spec.os`.
    pub os: Option<OsGlance>,
    /// `spec.volumes`.
    pub volumes: Option<Vec<VolumeGlance>>,
}

/// Of `spec.os`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct OsGlance {
    /// `linux` or `windows`.
    pub name: String,
}

/// Of one volume.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct VolumeGlance {
    /// The volume's name.
    pub name: String,
    /// Present when the volume is a claim.
    pub persistent_volume_claim: Option<ClaimGlance>,
}

/// Of a claim volume.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ClaimGlance {
    /// The claim, in the Pod's namespace. Empty when the field is missing.
    pub claim_name: String,
    /// The claim may only be read in this Pod.
    pub read_only: bool,
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

/// Reads JSON; the error names the field (`spec.volumes[0].name`) but never quotes the input.
pub fn read<'a, T: Deserialize<'a>>(json: &'a str) -> Result<T, String> {
    let mut deserializer = serde_json::Deserializer::from_str(json);
    let value = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let path = error.path().to_string();
        let cause = error.into_inner();
        if path == "." { cause.to_string() } else { format!("{path}: {cause}") }
    })?;
    deserializer.end().map_err(|error| error.to_string())?;
    Ok(value)
}
