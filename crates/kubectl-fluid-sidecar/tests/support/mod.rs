//! Where the compiled policy and the golden cases are.
#![allow(dead_code, reason = "a module of each test program, which uses a part of it")]

#[allow(unreachable_pub, reason = "what other tests see")]
#[path = "../../../../tests/support/golden.rs"]
pub(crate) mod golden;

use std::io::Write as _;
use std::path::{Path, PathBuf};

pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// `POLICY` names another module than `target/policy.wasm`, which `make wasm` builds. `None` says why on standard
/// error, where `scripts/test.sh` counts it.
pub(crate) fn policy() -> Option<PathBuf> {
    let given = std::env::var_os("POLICY").map(|path| root().join(path));
    built(given.unwrap_or_else(|| root().join("target/policy.wasm")))
}

/// What the policy's cost is compared with; `make yardstick` builds it.
pub(crate) fn yardstick() -> Option<PathBuf> {
    built(root().join("target/yardstick.wasm"))
}

fn built(path: PathBuf) -> Option<PathBuf> {
    if !path.exists() {
        // Not by eprintln, which the test harness swallows.
        let mut stderr = std::io::stderr();
        writeln!(stderr, "skipped test: {} is not built", path.display()).unwrap();
    }
    path.exists().then_some(path)
}
