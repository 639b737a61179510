//! The program: logging, dispatch, exit code. The library implements the commands.

use std::io::Write as _;
use std::process::ExitCode;

use fluid_fuse::cli::{Cli, Command};
use fluid_fuse::daemon::Signals;
use fluid_fuse::in_pod::{self, News};
use fluid_fuse::plain::plain;
use fluid_fuse::{bench, daemon, hold, mount, probe, warm};
use fluid_sidecar_layout::contract::{FLUID_FUSE, command, env, exit_code};
use log::{LevelFilter, error};

fn main() -> ExitCode {
    let cli = Cli::read(std::env::args_os()).unwrap_or_else(|error| {
        guard_at_once();
        error.exit()
    });
    env_logger::Builder::new()
        // It warns of every operation that a read-only file system does without.
        .filter_module("fuser", LevelFilter::Error)
        // They log credentials, whole answers and signed URLs.
        .filter_module("reqsign", LevelFilter::Off)
        .filter_module("opendal", LevelFilter::Off)
        .filter_module("ureq", LevelFilter::Warn)
        .parse_env(env_logger::Env::new().filter_or(log_variable(), "info"))
        // Keys and words of a store are in messages, whoever wrote them.
        .format(|line, record| {
            let (time, message) = (line.timestamp(), record.args().to_string());
            writeln!(line, "[{time} {:<5} {}] {}", record.level(), record.target(), plain(&message))
        })
        .init();
    // A request ends with it, and not the process.
    std::panic::set_hook(Box::new(|fault| {
        let message = fault.payload_as_str().unwrap_or_default();
        let place = fault.location().map(ToString::to_string).unwrap_or_default();
        error!("a fault of the program at {place}, which ends the request: {message}");
    }));
    let explains_end = match &cli.command {
        Command::Mount(options) => options.life.guard,
        Command::Hold(options) => options.life.guard,
        _ => false,
    };
    match run(cli.command) {
        Ok(code) => code,
        Err(error) => {
            let reason = format!("{error:#}");
            eprintln!("{FLUID_FUSE}: {}", plain(&reason));
            if explains_end {
                in_pod::explain_end(&reason);
            }
            exit_code::FAILURE.into()
        }
    }
}

/// The options cannot be read, but the application must not see the bare directory.
fn guard_at_once() {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    let mounts = std::env::args_os().nth(1).is_some_and(|argument| {
        argument == command::HOLD || argument == command::MOUNT && variable(env::FD).is_none()
    });
    let place = variable(env::MOUNTPOINT).or_else(|| variable(env::MOUNT_POINT));
    if let (true, Some(place), Some(_)) = (mounts, place, variable(env::GUARD)) {
        // The options' error is the one to tell.
        let _ = mount::prepare(&mount::absolute(place.as_ref()), true);
    }
}

fn log_variable() -> &'static str {
    if std::env::var_os(env::LOG).is_some() { env::LOG } else { "RUST_LOG" }
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Mount(options) => {
            let signals = Signals::take()?;
            if let (true, None, Some(path)) = (options.life.guard, &options.fuse_fd, options.target.known()) {
                // First of all: what follows may fail.
                mount::prepare(&mount::absolute(&path), true)?;
            }
            daemon::run(&options.resolve()?, signals)?;
        }
        Command::Hold(options) => {
            let signals = Signals::take()?;
            hold::run(&options.resolve()?, signals)?;
        }
        Command::Wait(options) => {
            let target = options.target.resolve()?;
            let ready = probe::wait(&target, options.sub_path.as_deref(), options.timeout);
            match &ready {
                Ok(()) if options.gate => drop(in_pod::tell(News::GatePassed)),
                Err(error) if options.gate => {
                    // Before the other process ends, and the container with it.
                    in_pod::explain_end(&format!("{error:#}"));
                    in_pod::tell(News::GateFailed);
                }
                _ => {}
            }
            ready?;
        }
        Command::Release => {
            if !in_pod::tell(News::PodEnds) {
                log::info!("no process of this container mounts anything");
            }
        }
        Command::Check(options) => {
            probe::check(&options.target.resolve()?)?;
            if options.gate {
                in_pod::tell(News::GatePassed);
            }
        }
        Command::Unmount(target) => mount::unmount(&target.resolve()?)?,
        Command::Warm(options) => return warm::run(&options),
        Command::Bench(options) => bench::run(&options)?,
        Command::Probe(options) => return Ok(probe::report(&options)),
    }
    Ok(exit_code::SUCCESS.into())
}
