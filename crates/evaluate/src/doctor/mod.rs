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

pub mod evidence;
pub mod gather;

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::Args;

use evidence::Evidence;

/// What to look at.
#[derive(Args)]
pub struct Options {
    /// The Pod, or KIND/NAME of its owner (deployment, replicaset, statefulset, daemonset, job, cronjob): then its newest
    /// Pod, or why it has none.
    #[arg(value_name = "POD|KIND/NAME", required_unless_present = "objects")]
    target: Option<String>,
    /// The namespace [default: the context's].
    #[arg(short, long)]
    namespace: Option<String>,
    /// The kubeconfig [default: KUBECONFIG, ~/.kube/config].
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// The context of the kubeconfig [default: its current one].
    #[arg(long)]
    context: Option<String>,
    /// Write down everything that was read, to look at it again with --objects.
    #[arg(long, value_name = "DIRECTORY")]
    record: Option<PathBuf>,
    /// Read no cluster, but what --record has written.
    #[arg(long, value_name = "DIRECTORY", conflicts_with_all = ["target", "namespace", "kubeconfig", "context", "record"])]
    objects: Option<PathBuf>,
}

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
    let source = gather::Source {
        kubeconfig: options.kubeconfig.clone(),
        context: options.context.clone(),
        namespace: options.namespace.clone(),
    };
    let target = options.target.as_deref().context("POD is missing")?;
    rustls::crypto::ring::default_provider().install_default().ok();
    let runtime = tokio::runtime::Runtime::new().context("no threads")?;
    let evidence = runtime.block_on(gather::gather(&source, target))?;
    if let Some(directory) = &options.record {
        evidence.write(directory)?;
    }
    Ok(evidence)
}

/// Looks, and says what is wrong. Whether anything was found.
pub fn run(options: &Options) -> Result<bool> {
    let evidence = look(options)?;
    anstream::println!("{}", evidence.objects.len());
    Ok(true)
}
