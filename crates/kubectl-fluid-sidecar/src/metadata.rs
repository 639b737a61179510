//! What a policy declares about itself, as far as a host enforces it.
//!
//! Kubewarden copies it from the metadata into the ClusterAdmissionPolicy; either is taken at its word here.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde::Deserialize;
use serde_json::Value;

use crate::reads::Read;
use crate::yaml;

/// `policy-metadata.yml`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Metadata {
    /// Whether the policy may change what it reviews.
    pub mutating: bool,
    #[serde(default)]
    context_aware_resources: BTreeSet<Resource>,
}

#[derive(Debug, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "camelCase")]
struct Resource {
    api_version: String,
    kind: String,
}

impl Metadata {
    /// Reads the file.
    pub fn read(path: &Path) -> Result<Metadata> {
        Metadata::deserialize(yaml::read_single(path)?)
            .with_context(|| format!("{} is not the metadata of a Kubewarden policy", path.display()))
    }

    /// Takes it from the spec of a ClusterAdmissionPolicy or an AdmissionPolicy.
    pub fn of_spec(spec: &Value) -> Result<Metadata> {
        Metadata::deserialize(spec).context("spec: not that of a Kubewarden policy")
    }

    /// Refuses what is not in `contextAwareResources`, compared case and all; the error is the host's text.
    pub fn grant(&self, read: &Read) -> Result<(), String> {
        let Read { api_version, kind, .. } = read;
        let asked = Resource { api_version: api_version.clone(), kind: kind.clone() };
        if self.context_aware_resources.contains(&asked) {
            return Ok(());
        }
        Err(format!(
            "Policy has not been granted access to Kubernetes {api_version}/{kind} resources. The violation has \
             been reported."
        ))
    }
}
