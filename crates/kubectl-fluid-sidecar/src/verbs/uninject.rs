//! `uninject`: Pods as they were before their injection.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::Args;
use fluid_sidecar_layout::{clap_parser, named};
use serde_json::Value;

use super::{Input, LiveOptions, Outcome, pretty};
use crate::engine::{Policy, no_reads};
use crate::yaml;

/// What to give back, and how.
#[derive(Args, Clone, Debug)]
#[command(after_help = AFTER_HELP)]
pub struct Options {
    /// Pods, and Lists of them, as YAML or JSON: files, directories, or `-` for standard input. KIND/NAME is an object of
    /// the live cluster, which is printed without the fields that the cluster set.
    ///
    /// Changes that others made of a Pod stay. Objects that were not injected are printed as they are.
    #[arg(value_name = "FILE|DIRECTORY|-|KIND/NAME", required = true)]
    inputs: Vec<String>,
    #[command(flatten)]
    cluster: LiveOptions,
    /// The format.
    #[arg(short, long, default_value_t = Output::Json, value_parser = clap_parser::<Output>())]
    output: Output,
    /// A compiled policy, instead of the one in this program.
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
}

named! {
    /// A format.
    enum Output {
        /// One document after another, as kubectl and jq read it.
        Json = "json",
        /// The same as YAML.
        Yaml = "yaml",
    }
}

const AFTER_HELP: &str = "\
Nothing is written to the cluster.

Examples:
  kubectl fluid-sidecar uninject pod/app --output yaml            a live Pod as its owner wrote it
  kubectl get pod app -o yaml | kubectl fluid-sidecar uninject -
  kubectl fluid-sidecar uninject pod/app | kubectl replace --force -f -   have it injected anew";

/// Gives back Pods.
pub fn run(options: &Options) -> Result<Outcome> {
    let policy = Policy::open(options.policy.as_deref())?;
    let inputs = Input::parse_all(&options.inputs)?;
    let cluster = options.cluster.open_if(inputs.iter().any(Input::is_object))?;
    for input in &inputs {
        for (name, documents) in input.read(&cluster, options.cluster.namespace.as_deref(), &policy)? {
            ensure!(!documents.is_empty(), "{name} is empty");
            for document in documents {
                let pod = uninject(&policy, &document)?;
                match options.output {
                    Output::Json => anstream::print!("{}", pretty(&pod)?),
                    Output::Yaml => anstream::print!("---\n{}", yaml::print(&pod)?),
                }
            }
        }
    }
    Ok(Outcome::Good)
}

/// The Pod before its injection; another object as it is.
pub(super) fn uninject(policy: &Policy, object: &Value) -> Result<Value> {
    let pod = policy.call("uninject", &serde_json::to_vec(object)?, &no_reads())?;
    Ok(serde_json::from_slice(&pod)?)
}
