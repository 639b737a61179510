//! Counts the WebAssembly instructions and the bytes of memory of a call. The counts are the same on every machine.
//!
//! In the host of `guest` each instruction uses up fuel. The same module, the same payload and the same answers
//! to its reads give the same counts.

use std::fmt;
use std::path::Path;

use anyhow::{Result, anyhow};
use wasmtime::{Config, Instance, Store};

use crate::engine::{Host, read_module};
use crate::guest::{self, Compiled, Guest};

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
pub struct Counter(Compiled);

impl Counter {
    /// Compiles a module.
    pub fn load(path: &Path) -> Result<Counter> {
        let module = read_module(path)?;
        let mut config = Config::new();
        config.consume_fuel(true);
        let compiled = Compiled::new(&module, &config);
        compiled.map(Counter).map_err(|error| anyhow!("{}: {error:#}", path.display()))
    }

    /// Calls an operation in a new instance; gives its answer, too.
    pub fn call(&self, operation: &str, payload: &[u8], host: &Host) -> Result<(Cost, Vec<u8>)> {
        let mut store = self.0.store(operation, payload, host);
        let cost =
            self.run(&mut store).map_err(|error| anyhow!("the policy's {operation} failed: {error:#}"))?;
        Ok((cost, guest::answer(store, operation)?))
    }

    fn run(&self, store: &mut Store<Guest>) -> wasmtime::Result<Cost> {
        store.set_fuel(FUEL)?;
        let instance = self.0.start(store)?;
        let (start, before) = (FUEL - store.get_fuel()?, in_use(&instance, store)?);
        guest::call(&instance, store)?;
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
