//! The command: reads its arguments, runs the Pod, and turns its end into an exit code.
//!
//! 0 = the Pod's phase would be Succeeded, 1 = Failed, 2 = anything else. It knows nothing of Pods itself.
//! In a container of podrun's own the same program is the Pod's pause process.

use std::process::ExitCode;

use clap::Parser;
use podrun::cli::Options;
use podrun::event::Phase;

fn main() -> ExitCode {
    if podrun::pause::is_called() {
        return podrun::pause::run();
    }
    match podrun::run(&Options::parse()) {
        Ok(Phase::Succeeded) => ExitCode::SUCCESS,
        Ok(Phase::Failed) => ExitCode::from(1),
        Err(error) => {
            eprintln!("podrun: {error:#}");
            ExitCode::from(2)
        }
    }
}
