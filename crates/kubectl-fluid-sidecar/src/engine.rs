//! The policy, in one of two forms: linked into this program (feature `kubectl`), or a compiled module under waPC. With
//! the feature `server` a module runs in the engine of Kubewarden's policy-server, wasmtime; with `interpreter` in wasmi,
//! which is quick to build.
//!
//! A module is compiled once; each call gets a new instance, as each request does in policy-server: nothing
//! that a policy remembers can reach the next Pod.

use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
#[cfg(any(feature = "server", feature = "interpreter"))]
use anyhow::{Context as _, anyhow};
#[cfg(feature = "server")]
use wapc::WapcHost;
#[cfg(feature = "server")]
use wasmtime_provider::{WasmtimeEngineProviderBuilder, WasmtimeEngineProviderPre};

#[cfg(all(feature = "interpreter", not(feature = "server")))]
use crate::guest::{self, Compiled};

/// How to build a program that runs compiled policies.
pub const BUILD_AN_ENGINE: &str = "this kubectl-fluid_sidecar has no engine for compiled policies; build one that has by \
    `make tools` or `cargo install --path crates/kubectl-fluid-sidecar --features server`";

/// Answers the host calls of a policy: namespace, operation, payload; the error is the host's text.
pub type Host = Arc<dyn Fn(&str, &str, &[u8]) -> Result<Vec<u8>, String> + Send + Sync>;

/// Asks the host what a guest asks of a binding; there is only Kubewarden's.
#[cfg(any(feature = "server", feature = "interpreter"))]
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
#[cfg(any(feature = "server", feature = "interpreter"))]
pub(crate) fn read_module(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path)
        .with_context(|| format!("cannot read the policy {}; `make wasm` builds it", path.display()))
}

/// A policy.
pub struct Policy(Form);

enum Form {
    #[cfg(feature = "kubectl")]
    Linked,
    #[cfg(any(feature = "server", feature = "interpreter"))]
    Compiled(Box<Compiled>),
}

impl Policy {
    /// The policy that is linked into this program.
    #[cfg(feature = "kubectl")]
    pub fn linked() -> Policy {
        Policy(Form::Linked)
    }

    /// The module of a file; without one the policy that is linked into this program.
    pub fn open(module: Option<&Path>) -> Result<Policy> {
        match module {
            Some(path) => Policy::load(path),
            #[cfg(feature = "kubectl")]
            None => Ok(Policy::linked()),
            #[cfg(not(feature = "kubectl"))]
            None => {
                anyhow::bail!("no policy is linked into this program; `--policy FILE` names a compiled one")
            }
        }
    }

    /// Compiles a module.
    #[cfg(any(feature = "server", feature = "interpreter"))]
    pub fn load(path: &Path) -> Result<Policy> {
        let module = read_module(path)?;
        let compiled = compile(&module);
        compiled
            .map(|compiled| Policy(Form::Compiled(Box::new(compiled))))
            .map_err(|error| anyhow!("{} is no WebAssembly module: {error:#}", path.display()))
    }

    /// Says that there is nothing to run a module with.
    #[cfg(not(any(feature = "server", feature = "interpreter")))]
    pub fn load(_: &Path) -> Result<Policy> {
        anyhow::bail!(BUILD_AN_ENGINE)
    }

    /// Calls an operation of the policy (`validate`, `validate_settings`, `protocol_version`, `uninject`), of a module in a
    /// new instance.
    pub fn call(&self, operation: &str, payload: &[u8], host: &Host) -> Result<Vec<u8>> {
        match &self.0 {
            #[cfg(feature = "kubectl")]
            Form::Linked => crate::linked::call(operation, payload, host),
            #[cfg(any(feature = "server", feature = "interpreter"))]
            Form::Compiled(compiled) => call(compiled, operation, payload, host),
        }
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

#[cfg(all(feature = "interpreter", not(feature = "server")))]
fn compile(module: &[u8]) -> Result<Compiled> {
    Compiled::new(module, &wasmi::Config::default()).map_err(|error| anyhow!("{error:#}"))
}

#[cfg(all(feature = "interpreter", not(feature = "server")))]
fn call(compiled: &Compiled, operation: &str, payload: &[u8], host: &Host) -> Result<Vec<u8>> {
    let mut store = compiled.store(operation, payload, host);
    let called = compiled.start(&mut store).and_then(|instance| guest::call(&instance, &mut store));
    called.map_err(|error| anyhow!("the policy's {operation} failed: {error:#}"))?;
    guest::answer(store, operation)
}
