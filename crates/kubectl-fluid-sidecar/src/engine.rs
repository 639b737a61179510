//! The policy as a WebAssembly module under waPC. With the feature `server` it runs in the engine of Kubewarden's
//! policy-server, wasmtime, without it in an interpreter, wasmi, which is quick to build.
//!
//! A module is compiled once; each call gets a new instance, as each request does in policy-server: nothing
//! that a policy remembers can reach the next Pod.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result, anyhow};
#[cfg(feature = "server")]
use wapc::WapcHost;
#[cfg(feature = "server")]
use wasmtime_provider::{WasmtimeEngineProviderBuilder, WasmtimeEngineProviderPre};

#[cfg(not(feature = "server"))]
use crate::guest::{self, Compiled};

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
pub struct Policy(Compiled);

impl Policy {
    /// Compiles a module.
    pub fn load(path: &Path) -> Result<Policy> {
        let module = read_module(path)?;
        let compiled = compile(&module);
        compiled
            .map(Policy)
            .map_err(|error| anyhow!("{} is no WebAssembly module: {error:#}", path.display()))
    }

    /// Calls an operation of the policy (`validate`, `validate_settings`, `protocol_version`) in a new
    /// instance.
    pub fn call(&self, operation: &str, payload: &[u8], host: &Host) -> Result<Vec<u8>> {
        call(&self.0, operation, payload, host)
    }
}

#[cfg(feature = "server")]
type Compiled = WasmtimeEngineProviderPre;

#[cfg(feature = "server")]
fn compile(module: &[u8]) -> Result<Compiled> {
    let compiled = WasmtimeEngineProviderBuilder::new().module_bytes(module).build_pre();
    compiled.map_err(|error| anyhow!("{error:#}"))
}

#[cfg(feature = "server")]
fn call(compiled: &Compiled, operation: &str, payload: &[u8], host: &Host) -> Result<Vec<u8>> {
    let instance = compiled.rehydrate(None).map_err(|error| anyhow!("no instance: {error:#}"))?;
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

#[cfg(not(feature = "server"))]
fn compile(module: &[u8]) -> Result<Compiled> {
    Compiled::new(module, &wasmi::Config::default()).map_err(|error| anyhow!("{error:#}"))
}

#[cfg(not(feature = "server"))]
fn call(compiled: &Compiled, operation: &str, payload: &[u8], host: &Host) -> Result<Vec<u8>> {
    let mut store = compiled.store(operation, payload, host);
    let called = compiled.start(&mut store).and_then(|instance| guest::call(&instance, &mut store));
    called.map_err(|error| anyhow!("the policy's {operation} failed: {error:#}"))?;
    guest::answer(store, operation)
}
