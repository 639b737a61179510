//! The real program at its limits: memory, disks, crashes, large directories and large objects; and what
//! programs that read files rely on.
#![allow(clippy::panic, clippy::unwrap_used, reason = "helpers of tests are tests")]

#[path = "../support/mod.rs"]
mod support;

mod cache;
mod memory;
mod names;
mod posix;
mod walks;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
