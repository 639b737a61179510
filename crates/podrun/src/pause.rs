//! The process that holds a Pod's pid namespace, as the pause container of a real node does.
//!
//! It is podrun itself under the name `pause`, so that the machine needs nothing more. As pid 1 of the
//! namespace it inherits the orphans of all containers, and reaps them. It knows nothing of podrun.

use std::path::Path;
use std::process::ExitCode;

use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use signal_hook::consts::{SIGCHLD, SIGINT, SIGTERM};

/// The name under which podrun is a pause process, and its place in the root of its container.
pub const PROGRAM: &str = "/pause";

/// Whether this process was started under that name.
pub fn is_called() -> bool {
    std::env::args_os().next().is_some_and(|name| Path::new(&name) == Path::new(PROGRAM))
}

/// Reaps orphans until SIGTERM or SIGINT.
pub fn run() -> ExitCode {
    let Ok(mut signals) = signal_hook::iterator::Signals::new([SIGCHLD, SIGINT, SIGTERM]) else {
        return ExitCode::FAILURE;
    };
    for signal in signals.forever() {
        if signal != SIGCHLD {
            break;
        }
        while !matches!(waitpid(None, Some(WaitPidFlag::WNOHANG)), Ok(WaitStatus::StillAlive) | Err(_)) {}
    }
    ExitCode::SUCCESS
}
