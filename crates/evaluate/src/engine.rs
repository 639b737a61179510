//! The policy as a WebAssembly module under waPC and wasmtime, the engine of Kubewarden's policy-server.
//!
//! A module is compiled once; each call gets a new instance, as each request does in policy-server: nothing
//! that a policy remembers can reach the next Pod.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result, anyhow};
use wapc::WapcHost;
use wasmtime_provider::{WasmtimeEngineProviderBuilder, WasmtimeEngineProviderPre};

/// Answers the host calls of a policy: namespace, operation, payload; the error is the host's text.
pub type Host = Arc<dyn Fn(&str, &str, &[u8]) -> Result<Vec<u8>, String> + Send + Sync>;

/// Asks the host what a guest asks of a binding; there is only Kubewarden's.
pub(crate) fn ask(
    host: &Host,
    binding: &str,
    namespace: &str,
    operation: &str,
    payload: &[u8],
) -> Result<Vec<u8>, String> {
    match binding {
        "kubewarden" => host(namespace, operation, payload),
        _ => Err(format!("unknown binding {binding:?}")),
    }
}

/// Refuses every call: for operations that need no host.
pub fn no_reads() -> Host {
    Arc::new(|namespace, operation, _| Err(format!("{namespace}/{operation} was not expected")))
}

/// The bytes of a policy's module.
pub(crate) fn read_module(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path)
        .with_context(|| format!("cannot read the policy {}; `make wasm` builds it", path.display()))
}

/// A compiled policy.
pub struct Policy {
    compiled: WasmtimeEngineProviderPre,
}

impl Policy {
    /// Compiles a module.
    pub fn load(path: &Path) -> Result<Policy> {
        let module = read_module(path)?;
        let compiled = WasmtimeEngineProviderBuilder::new()
            .module_bytes(&module)
            .build_pre()
            .map_err(|error| anyhow!("{} is no WebAssembly module: {error:#}", path.display()))?;
        Ok(Policy { compiled })
    }

    /// Calls an operation of the policy (`validate`, `validate_settings`, `protocol_version`) in a new
    /// instance.
    pub fn call(&self, operation: &str, payload: &[u8], host: &Host) -> Result<Vec<u8>> {
        let instance = self.compiled.rehydrate(None).map_err(|error| anyhow!("no instance: {error:#}"))?;
        let host = Arc::clone(host);
        let guest = WapcHost::new(
            Box::new(instance),
            Some(Box::new(move |_, binding, namespace, operation, payload| {
                Ok(ask(&host, binding, namespace, operation, payload)?)
            })),
        )
        .map_err(|error| anyhow!("the policy does not start: {error}"))?;
        guest.call(operation, payload).map_err(|error| anyhow!("the policy's {operation} failed: {error}"))
    }
}
