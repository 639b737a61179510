//! A small host of waPC. [`crate::count`] needs it on wasmtime, since policy-server's own host cannot count instructions.
//! Builds with the feature `interpreter` have it on an interpreter, wasmi, whose names are wasmtime's.
//!
//! Random numbers are zeros here: the order of a hash map, and with it the number of instructions of a call, would
//! otherwise change with every instance.

use std::sync::Arc;

use anyhow::{Result, bail};
#[cfg(not(feature = "server"))]
use wasmi as machine;
#[cfg(feature = "server")]
use wasmtime as machine;

use crate::engine::{Host, ask};
use machine::{Caller, Config, Engine, Instance, Linker, Memory, Module, Store};

/// Of the machine, whose functions end a call with its own errors only.
pub(crate) type Run<T> = std::result::Result<T, machine::Error>;

/// The namespace of waPC's imports.
const WAPC: &str = "wapc";
/// The namespace of WASI's imports.
const WASI: &str = "wasi_snapshot_preview1";
/// The functions that start a guest, as wasmtime-provider calls them; each may be absent.
const STARTS: [&str; 2] = ["_start", "wapc_init"];
/// WASI's status of a call that succeeded.
const SUCCESS: i32 = 0;
/// WASI's status of a call that names a file which is not open.
const BAD_DESCRIPTOR: i32 = 8;
/// The descriptor of standard error, where a guest's panics are written.
const STDERR: i32 = 2;
/// Bytes of an entry of `fd_write`'s list: an address and a length.
const IO_VECTOR: i32 = 8;
/// Bytes of a `size_t` of wasm32.
const SIZE: i32 = 4;
/// Entries that one `fd_write` may have: more than a guest's standard library passes at once.
const MAX_IO_VECTORS: i32 = 1024;

/// A compiled policy.
pub(crate) struct Compiled {
    module: Module,
    linker: Linker<Guest>,
}

/// The buffers that a waPC guest exchanges with its host.
pub(crate) struct Guest {
    host: Host,
    operation: Vec<u8>,
    payload: Vec<u8>,
    answer: Option<Vec<u8>>,
    error: Vec<u8>,
    host_answer: Vec<u8>,
    host_error: Vec<u8>,
    /// Calls of the host's capabilities.
    pub(crate) reads: u64,
}

impl Compiled {
    /// Compiles a module.
    pub(crate) fn new(module: &[u8], config: &Config) -> Run<Compiled> {
        #[cfg(feature = "server")]
        let engine = Engine::new(config)?;
        #[cfg(not(feature = "server"))]
        let engine = Engine::new(config);
        Ok(Compiled { module: Module::new(&engine, module)?, linker: linker(&engine)? })
    }

    /// The state of one call.
    pub(crate) fn store(&self, operation: &str, payload: &[u8], host: &Host) -> Store<Guest> {
        let guest = Guest {
            host: Arc::clone(host),
            operation: operation.into(),
            payload: payload.into(),
            answer: None,
            error: Vec::new(),
            host_answer: Vec::new(),
            host_error: Vec::new(),
            reads: 0,
        };
        Store::new(self.linker.engine(), guest)
    }

    /// A started instance.
    pub(crate) fn start(&self, store: &mut Store<Guest>) -> Run<Instance> {
        #[cfg(feature = "server")]
        let instance = self.linker.instantiate(&mut *store, &self.module)?;
        #[cfg(not(feature = "server"))]
        let instance = self.linker.instantiate_and_start(&mut *store, &self.module)?;
        for start in STARTS {
            if let Some(function) = instance.get_func(&mut *store, start) {
                function.typed::<(), ()>(&*store)?.call(&mut *store, ())?;
            }
        }
        Ok(instance)
    }
}

/// Has the instance answer.
pub(crate) fn call(instance: &Instance, store: &mut Store<Guest>) -> Run<()> {
    let lengths = (length(&store.data().operation)?, length(&store.data().payload)?);
    let guest_call = instance.get_typed_func::<(i32, i32), i32>(&mut *store, "__guest_call")?;
    let successful = guest_call.call(&mut *store, lengths)?;
    if successful == 0 {
        store.data_mut().answer = None;
    }
    Ok(())
}

/// The answer of a call that has ended.
pub(crate) fn answer(store: Store<Guest>, operation: &str) -> Result<Vec<u8>> {
    let guest = store.into_data();
    match guest.answer {
        Some(answer) => Ok(answer),
        None => bail!("the policy's {operation} failed: {}", String::from_utf8_lossy(&guest.error)),
    }
}

fn error(text: &str) -> machine::Error {
    #[cfg(feature = "server")]
    return machine::Error::msg(text.to_string());
    #[cfg(not(feature = "server"))]
    machine::Error::new(text.to_string())
}

fn length(bytes: &[u8]) -> Run<i32> {
    i32::try_from(bytes.len()).map_err(|_| error("more bytes than a guest has memory"))
}

/// The functions that a guest imports: waPC's as wasmtime-provider has them, and of WASI's those that Rust's standard
/// library calls.
fn linker(engine: &Engine) -> Run<Linker<Guest>> {
    let mut linker = Linker::new(engine);
    linker.func_wrap(WASI, "random_get", |mut caller: Caller<'_, Guest>, at: i32, length: i32| {
        slice(&mut caller, at, length)?.fill(0);
        Run::Ok(SUCCESS)
    })?;
    // There are no environment variables: their number and the bytes that they take.
    linker.func_wrap(
        WASI,
        "environ_sizes_get",
        |mut caller: Caller<'_, Guest>, number: i32, bytes: i32| {
            for at in [number, bytes] {
                slice(&mut caller, at, SIZE)?.fill(0);
            }
            Run::Ok(SUCCESS)
        },
    )?;
    linker.func_wrap(WASI, "environ_get", |_: Caller<'_, Guest>, _: i32, _: i32| SUCCESS)?;
    linker.func_wrap(WASI, "fd_write", fd_write)?;
    linker.func_wrap(WASI, "proc_exit", |_: Caller<'_, Guest>, _: i32| {
        Run::<()>::Err(error("the guest ended itself"))
    })?;
    let wapc = WAPC;
    linker.func_wrap(
        wapc,
        "__guest_request",
        |mut caller: Caller<'_, Guest>, operation: i32, payload: i32| {
            write(&mut caller, operation, |guest| &guest.operation)?;
            write(&mut caller, payload, |guest| &guest.payload)
        },
    )?;
    linker.func_wrap(wapc, "__guest_response", |mut caller: Caller<'_, Guest>, at: i32, length: i32| {
        caller.data_mut().answer = Some(read(&mut caller, at, length)?);
        Run::Ok(())
    })?;
    linker.func_wrap(wapc, "__guest_error", |mut caller: Caller<'_, Guest>, at: i32, length: i32| {
        caller.data_mut().error = read(&mut caller, at, length)?;
        Run::Ok(())
    })?;
    linker.func_wrap(wapc, "__host_call", host_call)?;
    linker.func_wrap(wapc, "__host_response_len", |caller: Caller<'_, Guest>| {
        length(&caller.data().host_answer)
    })?;
    linker.func_wrap(wapc, "__host_response", |mut caller: Caller<'_, Guest>, at: i32| {
        write(&mut caller, at, |guest| &guest.host_answer)
    })?;
    linker
        .func_wrap(wapc, "__host_error_len", |caller: Caller<'_, Guest>| length(&caller.data().host_error))?;
    linker.func_wrap(wapc, "__host_error", |mut caller: Caller<'_, Guest>, at: i32| {
        write(&mut caller, at, |guest| &guest.host_error)
    })?;
    linker.func_wrap(wapc, "__console_log", |_: Caller<'_, Guest>, _: i32, _: i32| {})?;
    Ok(linker)
}

/// WASI's `fd_write`, which a guest writes its panic to standard error with.
fn fd_write(
    mut caller: Caller<'_, Guest>,
    descriptor: i32,
    vectors: i32,
    number: i32,
    written: i32,
) -> Run<i32> {
    if descriptor != STDERR {
        return Ok(BAD_DESCRIPTOR);
    }
    let mut total: u32 = 0;
    for index in 0..number.clamp(0, MAX_IO_VECTORS) {
        let vector = read(&mut caller, vectors.wrapping_add(index * IO_VECTOR), IO_VECTOR)?;
        let field = |bytes: &[u8]| bytes.iter().rev().fold(0, |number, byte| number << 8 | i32::from(*byte));
        let (at, length) = vector.split_at(vector.len() / 2);
        let text = read(&mut caller, field(at), field(length))?;
        anstream::eprint!("{}", String::from_utf8_lossy(&text));
        total = total.saturating_add(field(length).cast_unsigned());
    }
    let bytes = total.to_le_bytes();
    slice(&mut caller, written, length(&bytes)?)?.copy_from_slice(&bytes);
    Ok(SUCCESS)
}

#[allow(clippy::too_many_arguments, reason = "waPC's signature: four pairs of address and length")]
fn host_call(
    mut caller: Caller<'_, Guest>,
    binding: i32,
    binding_length: i32,
    namespace: i32,
    namespace_length: i32,
    operation: i32,
    operation_length: i32,
    payload: i32,
    payload_length: i32,
) -> Run<i32> {
    let mut text = |at, length| -> Run<String> {
        let bytes = read(&mut caller, at, length)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let binding = text(binding, binding_length)?;
    let namespace = text(namespace, namespace_length)?;
    let operation = text(operation, operation_length)?;
    let payload = read(&mut caller, payload, payload_length)?;
    let guest = caller.data_mut();
    guest.reads += 1;
    match ask(&guest.host, &binding, &namespace, &operation, &payload) {
        Ok(answer) => {
            guest.host_answer = answer;
            Ok(1)
        }
        Err(text) => {
            guest.host_error = text.into_bytes();
            Ok(0)
        }
    }
}

fn memory(caller: &mut Caller<'_, Guest>) -> Run<Memory> {
    let memory = caller.get_export("memory").and_then(machine::Extern::into_memory);
    memory.ok_or_else(|| error("the module exports no memory"))
}

/// Bytes of the guest's memory.
fn slice<'a>(caller: &'a mut Caller<'_, Guest>, at: i32, length: i32) -> Run<&'a mut [u8]> {
    // Addresses are unsigned, in waPC's signatures as elsewhere in WebAssembly.
    let (at, length) = (at.cast_unsigned() as usize, length.cast_unsigned() as usize);
    let bytes = memory(caller)?.data_mut(caller).get_mut(at..at.saturating_add(length));
    bytes.ok_or_else(|| error("the guest names bytes outside of its memory"))
}

fn read(caller: &mut Caller<'_, Guest>, at: i32, length: i32) -> Run<Vec<u8>> {
    slice(caller, at, length).map(|bytes| bytes.to_vec())
}

fn write(caller: &mut Caller<'_, Guest>, at: i32, bytes: impl FnOnce(&Guest) -> &Vec<u8>) -> Run<()> {
    let (memory, guest) = memory(caller)?.data_and_store_mut(&mut *caller);
    let (at, bytes) = (at.cast_unsigned() as usize, bytes(guest));
    let place = memory.get_mut(at..at.saturating_add(bytes.len()));
    place.ok_or_else(|| error("the guest names bytes outside of its memory"))?.copy_from_slice(bytes);
    Ok(())
}
