//! The program: logging, dispatch, exit code. What each command does is the library's.

use std::process::ExitCode;

use fluid_fuse::cli::{Cli, Command};
use fluid_fuse::{bench, daemon, mount, probe, warm};
use fluid_sidecar_layout::contract::{FLUID_FUSE, env, exit_code};
use log::LevelFilter;

fn main() -> ExitCode {
    let cli = Cli::read(std::env::args_os()).unwrap_or_else(|error| error.exit());
    env_logger::Builder::new()
        // It warns of every operation that a read-only file system does without.
        .filter_module("fuser", LevelFilter::Error)
        // They log credentials, whole answers and signed URLs.
        .filter_module("reqsign", LevelFilter::Off)
        .filter_module("opendal", LevelFilter::Off)
        .filter_module("ureq", LevelFilter::Warn)
        .parse_env(env_logger::Env::new().filter_or(log_variable(), "info"))
        .init();
    match run(cli.command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("{FLUID_FUSE}: {error:#}");
            exit_code::FAILURE.into()
        }
    }
}

fn log_variable() -> &'static str {
    if std::env::var_os(env::LOG).is_some() { env::LOG } else { "RUST_LOG" }
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Mount(options) => daemon::run(&options.resolve()?)?,
        Command::Wait(options) => {
            probe::wait(&options.target.resolve()?, options.sub_path.as_deref(), options.timeout)?;
        }
        Command::Check(target) => probe::check(&target.resolve()?)?,
        Command::Unmount(target) => mount::unmount(&target.resolve()?)?,
        Command::Warm(options) => return warm::run(&options),
        Command::Bench(options) => bench::run(&options)?,
        Command::Probe(options) => return Ok(probe::report(&options)),
    }
    Ok(exit_code::SUCCESS.into())
}
