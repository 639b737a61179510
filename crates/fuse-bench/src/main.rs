//! The program: which part of the benchmark is asked for. What each does is the library's.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::{Parser, Subcommand};
use fuse_bench::run::Options;
use fuse_bench::{run, size, zeros};
use rustix::process::{Signal, set_parent_process_death_signal};
use test_store::{Pace, S3, Store};

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
    Serve(Endpoint),
    /// Mount a file of zeros: what FUSE itself allows
    Zeros {
        /// Where
        mountpoint: PathBuf,
    },
    /// Measure, and print the table
    Run(Options),
}

/// What to serve, and how slowly.
#[derive(clap::Args)]
struct Endpoint {
    /// The directory whose directories are the buckets
    #[arg(long)]
    root: PathBuf,
    /// The address to listen on; port 0 is any that is free
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Take writes; without it, names and listings are kept as long as their directory is the same
    #[arg(long)]
    writable: bool,
    /// The access key that requests must be signed with; without it, any. Signatures are not checked
    #[arg(long)]
    access_key: Option<String>,
    /// How long each answer waits before its first byte
    #[arg(long, default_value = "0ms", value_parser = humantime::parse_duration)]
    first_byte: Duration,
    /// How many bytes a second a connection carries, such as 90MB; without it, what the machine does
    #[arg(long, value_parser = size::parse)]
    rate: Option<u64>,
    /// End with the thread that started it
    #[arg(long)]
    with_parent: bool,
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Serve(endpoint) => serve(endpoint),
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

fn serve(endpoint: Endpoint) -> anyhow::Result<()> {
    if endpoint.with_parent {
        set_parent_process_death_signal(Some(Signal::TERM))?;
    }
    let store = Store::directories(&endpoint.root, endpoint.writable);
    let store = store.with_context(|| format!("cannot serve {}", endpoint.root.display()))?;
    let pace = Pace { first_byte: endpoint.first_byte, rate: endpoint.rate };
    let server = S3::bind(endpoint.listen, Arc::new(store.for_key(endpoint.access_key)), pace);
    let server = server.with_context(|| format!("cannot listen on {}", endpoint.listen))?;
    writeln!(io::stdout(), "{}", server.address())?;
    server.wait();
    Ok(())
}
