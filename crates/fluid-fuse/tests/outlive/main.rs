//! Applications that outlive the process that serves them: the real programs `hold` and `mount`, and SIGKILL.
#![allow(clippy::panic, clippy::print_stdout, clippy::unwrap_used, reason = "helpers of tests are tests")]

mod ends;
mod kills;
mod pair;
mod readers;
#[path = "../support/mod.rs"]
mod support;
mod taken;
