//! The policy's own library as it is linked into this program, called as a host calls the module.

use anyhow::{Context as _, Result, anyhow};
use fluid_sidecar_layout::Named as _;
use fluid_sidecar_policy::cluster::{Cluster, Masked, Masks};
use fluid_sidecar_policy::operation::Operation;
use kubewarden_policy_sdk::host_capabilities::kubernetes::GetResourceRequest;

use crate::engine::Host;

/// Calls an operation of the policy.
pub(crate) fn call(operation: &str, payload: &[u8], host: &Host) -> Result<Vec<u8>> {
    let known = Operation::from_name(operation);
    let answer = known.with_context(|| format!("the policy has no operation {operation:?}"))?;
    // As an error of the module reads.
    answer.answer(payload, &Reads(host)).map_err(|error| anyhow!("the policy's {operation} failed: {error}"))
}

struct Reads<'h>(&'h Host);

impl Cluster for Reads<'_> {
    fn get<M: Masks>(&self, request: &GetResourceRequest) -> Result<Masked<M>> {
        let answer = (self.0)("kubernetes", "get_resource", &serde_json::to_vec(request)?);
        // The error as it reaches a guest through waPC.
        Ok(serde_json::from_slice(&answer.map_err(|error| anyhow!("Host error: {error}"))?)?)
    }
}
