//! The real program on real mounts against a model of what it must show, under generated trees and operations.
//!
//! The model is written from the rules (`src/object_store.rs`): a directory is what keys have in common up to a
//! `/`; where a key is a directory, too, the directory is seen; what cannot be a name is not seen. A descriptor
//! reads one version of an object, or fails with ESTALE or ENOENT once that version is gone.
#![allow(clippy::panic, clippy::unwrap_used, reason = "helpers of tests are tests")]

#[path = "../support/mod.rs"]
mod support;

mod bytes;
mod model;
mod names;

use proptest::test_runner::Config;

/// As many cases as `PROPTEST_CASES`, or so many.
fn cases(number: u32) -> Config {
    let mut config = Config { failure_persistence: None, max_shrink_iters: 100, ..Config::default() };
    if std::env::var_os("PROPTEST_CASES").is_none() {
        config.cases = number;
    }
    config
}
