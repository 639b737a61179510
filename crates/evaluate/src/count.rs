//! Counts the WebAssembly instructions and the bytes of memory of a call. The counts are the same on every machine.
//!
//! The engine of [`crate::engine`] cannot count, so this is a second waPC host, on the same wasmtime, which differs in
//! two ways: each instruction uses up fuel, and WASI's random numbers are constant. Without the second, the order of
//! a hash map, and with it the number of instructions, would change with every instance. The same module, the same
//! payload and the same answers to its reads give the same counts.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Result, anyhow, bail};
use wapc::HOST_NAMESPACE;
use wapc::wapc_functions::{GUEST_CALL, REQUIRED_STARTS};
use wasmtime::{Caller, Config, Engine, Instance, InstancePre, Linker, Memory, Module, Store};
use wasmtime_wasi::WasiCtxBuilder;
use wasmtime_wasi::p1::{self, WasiP1Ctx};
use wasmtime_wasi::random::Deterministic;

use crate::engine::{Host, ask, read_module};

/// More than any call uses; fuel that is left is subtracted from it.
const FUEL: u64 = 1 << 62;

/// The cost of one call in an instance of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cost {
    /// WebAssembly instructions that run when an instance is made, before it is asked anything.
    pub start: u64,
    /// WebAssembly instructions of the call itself, without what the host does to answer its reads.
    pub call: u64,
    /// Bytes by which the call extended the memory in use: the distance from the last byte of linear memory that is
    /// not zero after the start to the last that is not zero after the call. The heap is the end of linear memory
    /// (rustc puts the stack before the data), so of an allocator that never frees this is all that it gave out, the
    /// request and the answer included. Of one that frees it is the heap's largest extent, in whole pages of 64 KiB if
    /// it writes to the end of the pages that it takes.
    pub allocated: u64,
    /// Calls of the host's capabilities.
    pub reads: u64,
}

impl fmt::Display for Cost {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Cost { start, call, allocated, reads } = self;
        writeln!(formatter, "{start:>12} instructions to start an instance")?;
        writeln!(formatter, "{call:>12} instructions for the review")?;
        writeln!(formatter, "{allocated:>12} bytes allocated")?;
        write!(formatter, "{reads:>12} reads of the cluster")
    }
}

/// A policy compiled so that its instructions are counted.
pub struct Counter {
    engine: Engine,
    instance: InstancePre<Guest>,
}

/// The buffers that a waPC guest exchanges with its host.
struct Guest {
    wasi: WasiP1Ctx,
    host: Host,
    operation: Vec<u8>,
    payload: Vec<u8>,
    answer: Option<Vec<u8>>,
    error: Vec<u8>,
    host_answer: Vec<u8>,
    host_error: Vec<u8>,
    reads: u64,
}

impl Counter {
    /// Compiles a module.
    pub fn load(path: &Path) -> Result<Counter> {
        let module = read_module(path)?;
        let compiled = || {
            let mut config = Config::new();
            config.consume_fuel(true);
            let engine = Engine::new(&config)?;
            let module = Module::new(&engine, &module)?;
            let instance = linker(&engine)?.instantiate_pre(&module)?;
            Ok(Counter { engine, instance })
        };
        compiled().map_err(|error: wasmtime::Error| anyhow!("{}: {error:#}", path.display()))
    }

    /// Calls an operation in a new instance; gives its answer, too.
    pub fn call(&self, operation: &str, payload: &[u8], host: &Host) -> Result<(Cost, Vec<u8>)> {
        let random = || Deterministic::new(vec![0]);
        let wasi = WasiCtxBuilder::new().secure_random(random()).insecure_random(random()).build_p1();
        let guest = Guest {
            wasi,
            host: Arc::clone(host),
            operation: operation.into(),
            payload: payload.into(),
            answer: None,
            error: Vec::new(),
            host_answer: Vec::new(),
            host_error: Vec::new(),
            reads: 0,
        };
        let mut store = Store::new(&self.engine, guest);
        let cost =
            self.run(&mut store).map_err(|error| anyhow!("the policy's {operation} failed: {error:#}"))?;
        let guest = store.into_data();
        match guest.answer {
            Some(answer) => Ok((cost, answer)),
            None => bail!("the policy's {operation} failed: {}", String::from_utf8_lossy(&guest.error)),
        }
    }

    fn run(&self, store: &mut Store<Guest>) -> wasmtime::Result<Cost> {
        store.set_fuel(FUEL)?;
        let instance = self.instance.instantiate(&mut *store)?;
        for start in REQUIRED_STARTS {
            if let Some(function) = instance.get_func(&mut *store, start) {
                function.typed::<(), ()>(&*store)?.call(&mut *store, ())?;
            }
        }
        let (start, before) = (FUEL - store.get_fuel()?, in_use(&instance, store)?);
        let lengths = (length(&store.data().operation)?, length(&store.data().payload)?);
        let guest_call = instance.get_typed_func::<(i32, i32), i32>(&mut *store, GUEST_CALL)?;
        let successful = guest_call.call(&mut *store, lengths)?;
        if successful == 0 {
            store.data_mut().answer = None;
        }
        let call = FUEL - store.get_fuel()? - start;
        let allocated = in_use(&instance, store)?.saturating_sub(before);
        Ok(Cost { start, call, allocated, reads: store.data().reads })
    }
}

/// The length of linear memory without the zeros at its end.
fn in_use(instance: &Instance, store: &mut Store<Guest>) -> wasmtime::Result<u64> {
    let memory = instance.get_memory(&mut *store, "memory");
    let memory = memory.ok_or_else(|| wasmtime::Error::msg("the module exports no memory"))?;
    let last = memory.data(&*store).iter().rposition(|byte| *byte != 0);
    Ok(last.map_or(0, |last| last as u64 + 1))
}

fn length(bytes: &[u8]) -> wasmtime::Result<i32> {
    Ok(i32::try_from(bytes.len())?)
}

/// The functions that a guest imports: WASI's, and waPC's as wasmtime-provider has them.
fn linker(engine: &Engine) -> wasmtime::Result<Linker<Guest>> {
    let mut linker = Linker::new(engine);
    p1::add_to_linker_sync(&mut linker, |guest: &mut Guest| &mut guest.wasi)?;
    let wapc = HOST_NAMESPACE;
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
        wasmtime::Result::Ok(())
    })?;
    linker.func_wrap(wapc, "__guest_error", |mut caller: Caller<'_, Guest>, at: i32, length: i32| {
        caller.data_mut().error = read(&mut caller, at, length)?;
        wasmtime::Result::Ok(())
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
) -> wasmtime::Result<i32> {
    let mut text = |at, length| -> wasmtime::Result<String> {
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

fn memory(caller: &mut Caller<'_, Guest>) -> wasmtime::Result<Memory> {
    let memory = caller.get_export("memory").and_then(wasmtime::Extern::into_memory);
    memory.ok_or_else(|| wasmtime::Error::msg("the module exports no memory"))
}

fn read(caller: &mut Caller<'_, Guest>, at: i32, length: i32) -> wasmtime::Result<Vec<u8>> {
    // Addresses are unsigned, in waPC's signatures as elsewhere in WebAssembly.
    let (at, length) = (at.cast_unsigned() as usize, length.cast_unsigned() as usize);
    let bytes = memory(caller)?.data(&*caller).get(at..at.saturating_add(length)).map(<[u8]>::to_vec);
    bytes.ok_or_else(|| wasmtime::Error::msg("the guest names bytes outside of its memory"))
}

fn write(
    caller: &mut Caller<'_, Guest>,
    at: i32,
    bytes: impl FnOnce(&Guest) -> &Vec<u8>,
) -> wasmtime::Result<()> {
    let (memory, guest) = memory(caller)?.data_and_store_mut(&mut *caller);
    let (at, bytes) = (at.cast_unsigned() as usize, bytes(guest));
    let place = memory.get_mut(at..at.saturating_add(bytes.len()));
    place
        .ok_or_else(|| wasmtime::Error::msg("the guest names bytes outside of its memory"))?
        .copy_from_slice(bytes);
    Ok(())
}
