//! The program: which part of the benchmark is asked for. What each does is the library's.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use fuse_bench::run::Options;
use fuse_bench::serve::{Endpoint, Server};
use fuse_bench::{run, zeros};
use rustix::process::{Signal, set_parent_process_death_signal};

/// Measure fluid-fuse beside its peers and the limits of the machine.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve the directories in a directory as S3 buckets, and print the address
    Serve {
        #[command(flatten)]
        endpoint: Endpoint,
        /// End with the thread that started it
        #[arg(long)]
        with_parent: bool,
    },
    /// Mount a file of zeros: what FUSE itself allows
    Zeros {
        /// Where
        mountpoint: PathBuf,
    },
    /// Measure, and print the table
    Run(Options),
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Serve { endpoint, with_parent } => serve(&endpoint, with_parent),
        Command::Zeros { mountpoint } => zeros::mount(&mountpoint),
        Command::Run(options) => run::run(options),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("fuse-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn serve(endpoint: &Endpoint, with_parent: bool) -> anyhow::Result<()> {
    if with_parent {
        set_parent_process_death_signal(Some(Signal::TERM))?;
    }
    let server = Server::bind(endpoint)?;
    writeln!(io::stdout(), "{}", server.address()?)?;
    server.run()
}
