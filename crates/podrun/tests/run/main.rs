//! Pods that really run, under every OCI runtime of this machine.
//!
//! Each test tells one rule. Where a machine cannot run containers, it prints `skipped: …` and passes.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod life;
mod machine;
mod probes;
mod processes;
mod support;
