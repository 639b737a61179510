//! The operations of the policy: the names by which a host calls them, and their answers.
//!
//! Every host of the policy comes through [`Operation::answer`]: the WebAssembly host through the waPC entry points, and
//! the kubectl plugin, into which the policy is linked.

use anyhow::{Result, anyhow};
use fluid_sidecar_layout::named;
use kubewarden_policy_sdk::protocol_version_guest;
use serde::Serialize;
use serde_json::Value;

use crate::cluster::Cluster;
use crate::json::done;
use crate::review::review;
use crate::settings::validate_settings;
use crate::status::uninject;

named! {
    /// What a host may ask of the policy.
    pub enum Operation {
        /// The version of Kubewarden's protocol.
        ProtocolVersion = "protocol_version",
        /// The review of an AdmissionRequest.
        Validate = "validate",
        /// Whether settings are valid, and all their problems.
        ValidateSettings = "validate_settings",
        /// A Pod as it was before its injection. Not Kubewarden's: `kubectl fluid-sidecar uninject` calls it.
        Uninject = "uninject",
    }
}

impl Operation {
    /// The answer to a payload. An error is one of the payload.
    pub fn answer(self, payload: &[u8], cluster: &impl Cluster) -> Result<Vec<u8>> {
        match self {
            Operation::ProtocolVersion => protocol_version_guest(payload).map_err(|error| anyhow!("{error}")),
            Operation::Validate => {
                let response = review(payload, cluster);
                let json = to_json(&response);
                done(response);
                json
            }
            Operation::ValidateSettings => to_json(&validate_settings(payload)),
            Operation::Uninject => {
                let mut pod: Value = serde_json::from_slice(payload)?;
                uninject(&mut pod)?;
                to_json(&pod)
            }
        }
    }
}

fn to_json(response: &impl Serialize) -> Result<Vec<u8>> {
    Ok(serde_json::to_vec(response)?)
}
