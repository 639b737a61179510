//! `record`: a review for kwctl.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use super::{Outcome, Question, pretty};

/// What to record, and where.
#[derive(Args, Clone, Debug)]
#[command(after_help = AFTER_HELP)]
pub struct Options {
    #[command(flatten)]
    question: Question,
    /// Where to write the policy's reads and their answers.
    #[arg(long, value_name = "FILE", default_value = "session.yaml")]
    session: PathBuf,
}

const AFTER_HELP: &str = "\
Prints the AdmissionRequest of one Pod, and writes down the policy's reads of the cluster with their answers. Together
they are a case that kwctl runs again without a cluster, whatever becomes of the Pod:

  kubectl fluid-sidecar record pod/app --session session.yaml >request.json
  kwctl run --allow-context-aware --request-path request.json \\
    --replay-host-capabilities-interactions session.yaml annotated-policy.wasm

Names and contents of the objects that the policy reads are in the session: of claims, their volumes, Datasets and
DaemonSets. The policy reads no Secrets.";

/// Records.
pub fn run(options: &Options) -> Result<Outcome> {
    let mut asked = options.question.read()?;
    let request = asked.single("record")?;
    asked.answer(&request)?;
    asked.write_session(&options.session)?;
    anstream::print!("{}", pretty(&request.admission)?);
    Ok(Outcome::Good)
}
