//! How a test says that it does not run here.

use std::io::{self, Write};

/// Says why, past the capture of the test runner: `scripts/test.sh` counts such lines.
pub(crate) fn skip(reason: &str) {
    let mut stderr = io::stderr();
    writeln!(stderr, "skipped test: {reason}").unwrap();
}
