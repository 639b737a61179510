//! Fluid's configuration of a ThinRuntime, `config.json`: which mounts a Dataset has.
//!
//! Fluid mounts it at [`CONFIG_FILE`](crate::contract::CONFIG_FILE), the policy writes it into the variable
//! [`CONFIG_JSON`](crate::contract::env::CONFIG_JSON), and `fluid-fuse` reads both. Only fields that it uses are here.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

/// What a Dataset consists of. It has no `Debug`: options may be secrets.
#[derive(Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Config {
    /// `spec.accessModes` of the Dataset, which say whether it may be written to.
    #[serde(default)]
    pub access_modes: Vec<String>,
    /// Its mounts.
    #[serde(default)]
    pub mounts: Vec<Mount>,
    /// Where to mount.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_path: Option<String>,
}

/// A mount of the Dataset.
#[derive(Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Mount {
    /// The URL of what is mounted.
    pub mount_point: String,
    /// The mount's name.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Options by name.
    #[serde(default)]
    pub options: BTreeMap<String, String>,
    /// Where it is seen, below the directory of the Dataset.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub path: String,
    /// Nothing may be written.
    #[serde(default, skip_serializing_if = "core::ops::Not::not")]
    pub read_only: bool,
    /// Options whose values are in the variables named. Only the policy writes it; Fluid writes paths of files into
    /// `options` ([`SECRETS_DIRECTORY`](crate::contract::SECRETS_DIRECTORY)).
    #[serde(default)]
    pub secret_options: BTreeMap<String, String>,
}

/// Whether these access modes of a Dataset say that it may be written to.
pub fn writable(access_modes: &[String]) -> bool {
    access_modes.iter().any(|mode| mode.starts_with("ReadWrite"))
}
