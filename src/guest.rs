//! The waPC entry points: the only code that knows it runs inside a WebAssembly host.

use anyhow::anyhow;
use kubewarden_policy_sdk::host_capabilities::kubernetes::{GetResourceRequest, get_resource};
use kubewarden_policy_sdk::{Error, protocol_version_guest};
use serde::Serialize;
use serde_json::Value;
use wapc_guest::{CallResult, register_function};

use crate::cluster::{Cluster, Masked, Masks};
use crate::json::done;
use crate::review::review;
use crate::settings::validate_settings;
use crate::status::uninject;

struct Kubewarden;

impl Cluster for Kubewarden {
    fn get<M: Masks>(&self, request: &GetResourceRequest) -> anyhow::Result<Masked<M>> {
        get_resource(request).map_err(|error| match error {
            // The SDK's own text begins with one more prefix.
            Error::HostCall { source, .. } => anyhow!("{source}"),
            other => anyhow!("{other}"),
        })
    }
}

/// Called once by the host in each new instance.
#[allow(unsafe_code, reason = "waPC looks the function up by this name; nothing else exports it")]
#[unsafe(no_mangle)]
extern "C" fn wapc_init() {
    register_function("protocol_version", protocol_version_guest);
    register_function("validate", |payload| {
        let response = review(payload, &Kubewarden);
        let json = to_json(&response);
        done(response);
        json
    });
    register_function("validate_settings", |payload| to_json(&validate_settings(payload)));
    // Not Kubewarden's: `evaluate --uninject` calls it.
    register_function("uninject", |payload| {
        let mut pod: Value = serde_json::from_slice(payload)?;
        uninject(&mut pod)?;
        to_json(&pod)
    });
}

fn to_json(response: &impl Serialize) -> CallResult {
    Ok(serde_json::to_vec(response)?)
}
