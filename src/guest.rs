//! The waPC entry points: the only code that knows it runs inside a WebAssembly host.

use anyhow::anyhow;
use fluid_sidecar_layout::Named as _;
use kubewarden_policy_sdk::Error;
use kubewarden_policy_sdk::host_capabilities::kubernetes::{GetResourceRequest, get_resource};
use wapc_guest::{CallResult, register_function};

use crate::cluster::{Cluster, Masked, Masks};
use crate::operation::Operation;

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
    // waPC takes functions without an environment, so each operation has its own.
    register(Operation::ProtocolVersion, |payload| answer(Operation::ProtocolVersion, payload));
    register(Operation::Validate, |payload| answer(Operation::Validate, payload));
    register(Operation::ValidateSettings, |payload| answer(Operation::ValidateSettings, payload));
    register(Operation::Uninject, |payload| answer(Operation::Uninject, payload));
}

fn register(operation: Operation, function: fn(&[u8]) -> CallResult) {
    register_function(operation.name(), function);
}

fn answer(operation: Operation, payload: &[u8]) -> CallResult {
    Ok(operation.answer(payload, &Kubewarden)?)
}
