//! `kubectl fluid-sidecar`: see what the policy does to Pods.

use std::process::ExitCode;

#[cfg(feature = "kubectl")]
use clap::CommandFactory as _;
use clap::{Parser, Subcommand};
#[cfg(feature = "kubectl")]
use tool::doctor;
#[cfg(feature = "server")]
use tool::serve;
use tool::verbs::{self, Outcome, failed};

/// See what the policy does to Pods, why, and what becomes of its settings.
///
/// The policy itself is in this program. It reads the live cluster of your kubeconfig, or files, and writes nothing to it.
#[derive(Parser)]
#[command(name = "kubectl-fluid_sidecar", bin_name = "kubectl fluid-sidecar", version, after_help = AFTER_HELP)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Explain what the policy does to Pods: the reasons in words, and the changes.
    Explain(Box<verbs::explain::Options>),
    /// Say why a Pod with a Dataset does not work, what shows it, and what to do.
    #[cfg(feature = "kubectl")]
    Doctor(doctor::Options),
    /// Print Pods as they were before their injection.
    Uninject(verbs::uninject::Options),
    /// Check settings of the policy.
    #[command(subcommand)]
    Settings(verbs::settings::Verb),
    /// Record the review of a Pod, to run it again with kwctl.
    Record(Box<verbs::record::Options>),
    /// Measure what the review of a Pod costs the policy server.
    Bench(Box<verbs::bench::Options>),
    /// Serve the compiled policy as a webhook for a real API server, for development and tests.
    #[cfg(feature = "server")]
    Serve(serve::Options),
    /// Serve the compiled policy as a webhook; this program cannot.
    #[cfg(not(feature = "server"))]
    Serve {
        #[arg(hide = true, trailing_var_arg = true, allow_hyphen_values = true)]
        ignored: Vec<String>,
    },
    /// Print the script by which a shell completes command lines.
    #[cfg(feature = "kubectl")]
    Completions(verbs::completions::Options),
    /// Print what the last word may become; kubectl calls it.
    #[cfg(feature = "kubectl")]
    #[command(name = "__complete", hide = true)]
    Complete {
        #[arg(last = true)]
        words: Vec<String>,
    },
}

const AFTER_HELP: &str = "\
Examples:
  kubectl fluid-sidecar explain pod/app                       why a live Pod has a sidecar
  kubectl fluid-sidecar explain pod.yaml --objects cluster/   the same without a cluster
  kubectl fluid-sidecar doctor app                            why a Pod does not work, and what to do
  kubectl fluid-sidecar uninject pod/app --output yaml        a live Pod as its owner wrote it
  kubectl fluid-sidecar settings check settings.yaml          every problem of settings
  kubectl fluid-sidecar explain --help                        all about one verb

As a plugin of kubectl it is the file kubectl-fluid_sidecar in a directory of PATH.";

fn main() -> ExitCode {
    let outcome = match Arguments::parse().verb {
        Verb::Explain(options) => verbs::explain::run(&options),
        #[cfg(feature = "kubectl")]
        Verb::Doctor(options) => doctor::run(&options),
        Verb::Uninject(options) => verbs::uninject::run(&options),
        Verb::Settings(verbs::settings::Verb::Check(options)) => verbs::settings::check(&options),
        Verb::Record(options) => verbs::record::run(&options),
        Verb::Bench(options) => verbs::bench::run(&options),
        #[cfg(feature = "server")]
        Verb::Serve(options) => serve::serve(&options).map(|()| Outcome::Good),
        #[cfg(not(feature = "server"))]
        Verb::Serve { .. } => Err(anyhow::anyhow!("serve: {}", tool::engine::BUILD_AN_ENGINE)),
        #[cfg(feature = "kubectl")]
        Verb::Completions(options) => verbs::completions::run(&options, &mut Arguments::command()),
        #[cfg(feature = "kubectl")]
        Verb::Complete { words } => Ok(verbs::completions::complete(&words, &mut Arguments::command())),
    };
    let outcome: Outcome = outcome.unwrap_or_else(|error| failed(&error));
    ExitCode::from(outcome as u8)
}
