//! Pods from admission to their end: a manifest as its owner wrote it, the compiled policy, the real sidecar over
//! an object store, real containers under every OCI runtime of this machine. Nothing is made by hand in between.
//!
//! A test tells what its user would see. On a failure the timeline of events is printed. `make wasm tools` builds
//! what the tests need; where a machine cannot run containers or mount, they print `skipped: …` and pass.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod confined;
mod data;
mod deaths;
mod ends;
mod jobs;
#[path = "../run/support.rs"]
#[allow(dead_code, reason = "each test program uses its part of it")]
mod support;
mod world;
