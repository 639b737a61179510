//! `bench`: what a review costs the policy server.

use std::num::NonZeroU32;
use std::path::Path;

use anyhow::{Context as _, Result};
use clap::Args;

use super::{Asked, Outcome, Question};
use crate::bench::bench;
use crate::input::Request;

/// What to measure.
#[derive(Args, Clone, Debug)]
#[command(after_help = AFTER_HELP)]
pub struct Options {
    #[command(flatten)]
    question: Question,
    /// How many reviews, each in a new instance as in policy-server.
    #[arg(long, value_name = "N", default_value = "100")]
    runs: NonZeroU32,
    /// Instead of times: the instructions and the bytes of memory that the review takes, which are the same on every
    /// machine.
    #[arg(long, conflicts_with = "runs")]
    count: bool,
}

const AFTER_HELP: &str = "\
Measures the compiled policy, which `--policy` names, on one Pod.

Examples:
  kubectl fluid-sidecar bench pod.yaml --objects cluster/ --policy target/policy.wasm --runs 1000
  kubectl fluid-sidecar bench pod.yaml --objects cluster/ --policy target/policy.wasm --count";

/// Measures.
pub fn run(options: &Options) -> Result<Outcome> {
    let module = options.question.policy.as_deref();
    let module =
        module.context("--policy is missing: the compiled policy is measured, which `make wasm` builds")?;
    let mut asked = options.question.read()?;
    let request = asked.single("bench")?;
    let text = match options.count {
        true => count(module, &asked, &request)?,
        false => bench(&asked.policy, &asked.payload(&request)?, &asked.host, options.runs)?.to_string(),
    };
    anstream::println!("{text}");
    Ok(Outcome::Good)
}

#[cfg(feature = "server")]
fn count(module: &Path, asked: &Asked, request: &Request) -> Result<String> {
    let counter = crate::count::Counter::load(module)?;
    Ok(counter.call("validate", &asked.payload(request)?, &asked.host)?.0.to_string())
}

#[cfg(not(feature = "server"))]
fn count(_: &Path, _: &Asked, _: &Request) -> Result<String> {
    anyhow::bail!("--count: {}", crate::engine::BUILD_AN_ENGINE)
}
