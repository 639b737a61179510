//! Prints what happens, a line each: the time since the start, the container, and what happened.

use std::fmt::Display;
use std::io::Write as _;
use std::time::Instant;

/// Prints to stdout.
#[derive(Debug)]
pub(crate) struct Timeline {
    start: Instant,
}

impl Timeline {
    /// Times count from now.
    pub(crate) fn new() -> Self {
        Timeline { start: Instant::now() }
    }

    /// Prints a line. A reader that went away is no reason to stop the Pod.
    pub(crate) fn print(&self, container: &str, what: impl Display) {
        let mut stdout = std::io::stdout().lock();
        let _ = writeln!(stdout, "{:>8.3}s  {container:<12} {what}", self.start.elapsed().as_secs_f64());
    }
}
