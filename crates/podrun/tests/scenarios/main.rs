//! Pods from admission to their end: a manifest as its owner wrote it, the compiled policy, the real sidecar over an
//! object store, real containers. Nothing is made by hand in between, and no cluster is needed.
//!
//! A test tells what the Pod's owner would see; [`podrun`] has those of podrun itself. On a failure the timeline is
//! printed. `make wasm tools` builds what the tests need; where a machine cannot run containers or mount, they print
//! `skipped test: …` and pass.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod deaths;
mod ends;
mod podrun;
mod running;
mod starts;
mod world;
