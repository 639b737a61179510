//! Why does a Pod with a Dataset not work?
//!
//! ```text
//!  cluster ──▶ gather ──▶ Evidence ──▶ table (one row for each diagnosis) ──▶ findings ──▶ print
//!                         │    ▲
//!                 --record▼    │--objects
//!                        a directory
//! ```
//!
//! - [`evidence`]: what was found, as plain data.
//! - [`gather`]: the only module that reads a cluster. It changes nothing there.
//! - [`table`]: the diagnoses, functions over the evidence; docs/troubleshooting.md is made of it.
//! - [`case`]: the evidence, as the diagnoses look at it.
//! - [`admission`]: whether the policy was asked, and what it says.
//! - [`mod@print`]: the findings for people and for tools.

pub mod admission;
pub mod case;
pub mod evidence;
pub mod gather;
pub mod print;
pub mod table;

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::Args;
use fluid_sidecar_layout::{clap_parser, named};

use self::evidence::Evidence;
use crate::live::{self, Connection};
use crate::verbs::Outcome;

/// What to look at.
#[derive(Args)]
#[command(after_help = AFTER_HELP)]
pub struct Options {
    /// The Pod, or KIND/NAME of its owner (deployment, replicaset, statefulset, daemonset, job, cronjob): then its newest
    /// Pod, or why it has none.
    #[arg(value_name = "POD|KIND/NAME", required_unless_present = "objects")]
    target: Option<String>,
    /// The namespace [default: the context's].
    #[arg(short, long)]
    namespace: Option<String>,
    #[command(flatten)]
    connection: Connection,
    /// Write down everything that was read, to look at it again with --objects. The variables of the Pod are in it as they
    /// stand: look before you pass it on.
    #[arg(long, value_name = "DIRECTORY")]
    record: Option<PathBuf>,
    /// Read no cluster, but what --record has written.
    #[arg(long, value_name = "DIRECTORY", conflicts_with_all = ["target", "namespace", "kubeconfig", "context", "record"])]
    objects: Option<PathBuf>,
    /// What to print.
    #[arg(short, long, default_value_t = Output::Text, value_parser = clap_parser::<Output>())]
    output: Output,
}

named! {
    /// What to print.
    enum Output {
        /// For people: what is wrong, what shows it, what to do; the most likely cause first.
        Text = "text",
        /// For tools.
        Json = "json",
    }
}

const AFTER_HELP: &str = "\
It only reads, with the rights of the kubeconfig; what it may not read is a finding with the commands that grant it.
docs/troubleshooting.md has every diagnosis.

Exit status: 0 nothing wrong was found, 1 something was found, 2 the cluster or the Pod could not be looked at.

Examples:
  kubectl fluid-sidecar doctor app                          why does the Pod app not work?
  kubectl fluid-sidecar doctor -n training job/train        the same of a Job: its newest Pod, or why it has none
  kubectl fluid-sidecar doctor app --output json | jq -r '.findings[0].code'
  kubectl fluid-sidecar doctor app --record bundle          keep what was read, for somebody else
  kubectl fluid-sidecar doctor --objects bundle             look at that";

/// The kind of the Runtime that a Dataset's status names by its type.
fn runtime_kind(name: &str) -> Option<&'static str> {
    Some(match name {
        "alluxio" => "AlluxioRuntime",
        "cache" => "CacheRuntime",
        "efc" => "EFCRuntime",
        "goosefs" => "GooseFSRuntime",
        "jindo" | "jindofs" => "JindoRuntime",
        "juicefs" => "JuiceFSRuntime",
        "thin" => "ThinRuntime",
        "vineyard" => "VineyardRuntime",
        _ => return None,
    })
}

fn look(options: &Options) -> Result<Evidence> {
    if let Some(directory) = &options.objects {
        return Evidence::read(directory);
    }
    let target = options.target.as_deref().context("POD is missing")?;
    let configured = live::configuration(&options.connection)?;
    let config = configured.context("there is no kubeconfig: `--kubeconfig` names one")?.config;
    let runtime = tokio::runtime::Runtime::new().context("no threads")?;
    let evidence = runtime.block_on(gather::gather(config, options.namespace.as_deref(), target))?;
    if let Some(directory) = &options.record {
        evidence.write(directory)?;
    }
    Ok(evidence)
}

/// Looks, and says what is wrong: bad if anything is; the error says that there was nothing to look at.
pub fn run(options: &Options) -> Result<Outcome> {
    let evidence = look(options)?;
    let findings = table::diagnose(&evidence);
    match options.output {
        Output::Text => anstream::print!("{}", print::text(&evidence, &findings)),
        Output::Json => anstream::println!("{:#}", print::json(&evidence, &findings)),
    }
    // Whoever may not see the Pod itself has not looked at it.
    let has_seen =
        evidence.objects.iter().any(|object| evidence::text(object, "/kind") == evidence.asked.kind);
    anyhow::ensure!(has_seen, "{} {} could not be read", evidence.asked.kind, evidence.asked.name);
    Ok(if findings.is_empty() { Outcome::Good } else { Outcome::Bad })
}
