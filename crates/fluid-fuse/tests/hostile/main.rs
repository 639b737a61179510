//! What a malicious store, a planted link and a hostile Dataset get: nothing. Each test is named after the finding of
//! the security review that it keeps closed. They count requests, bytes and names, and do not measure time.
#![allow(clippy::panic, clippy::unwrap_used, reason = "helpers of tests are tests")]

#[path = "../support/mod.rs"]
mod support;

mod datasets;
mod links;
mod listings;
mod mounted;
mod redirects;
mod store;
mod versions;
