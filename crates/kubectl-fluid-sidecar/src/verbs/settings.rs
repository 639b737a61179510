//! `settings check`: whether a policy takes its settings.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail, ensure};
use clap::{Args, Subcommand};
use fluid_sidecar_layout::{clap_parser, named};
use serde_json::{Value, json};

use super::{LiveOptions, Outcome, note, pretty};
use crate::answer::settings_problems;
use crate::engine::Policy;
use crate::policies::{self, Reference};
use crate::yaml;

/// What to do with settings.
#[derive(Subcommand, Clone, Debug)]
pub enum Verb {
    /// Say whether settings are valid, with every problem and its field.
    Check(Options),
}

/// Which settings.
#[derive(Args, Clone, Debug)]
#[command(after_help = AFTER_HELP)]
pub struct Options {
    /// A file with what stands under `spec.settings` of a policy, or with ClusterAdmissionPolicies and AdmissionPolicies; `-`
    /// reads standard input. Of the live cluster: clusteradmissionpolicy/NAME, admissionpolicy/NAMESPACE/NAME.
    #[arg(value_name = "FILE|DIRECTORY|-|POLICY", required = true)]
    inputs: Vec<String>,
    #[command(flatten)]
    cluster: LiveOptions,
    /// What to print.
    #[arg(short, long, default_value_t = Output::Text, value_parser = clap_parser::<Output>())]
    output: Output,
    /// A compiled policy, instead of the one in this program: a newer one, before an upgrade.
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
}

named! {
    /// What to print.
    enum Output {
        /// A line for each problem.
        Text = "text",
        /// A document for each of the settings: whether they are valid, and their problems.
        Json = "json",
    }
}

const AFTER_HELP: &str = "\
A policy server does not start with settings that are not valid.

Exit status: 0 all are valid, 1 some are not, 2 anything else.

Examples:
  kubectl fluid-sidecar settings check settings.yaml
  kubectl fluid-sidecar settings check deploy/eci.yaml
  kubectl fluid-sidecar settings check clusteradmissionpolicy/fluid-sidecar-eci --output json";

/// Checks settings.
pub fn check(options: &Options) -> Result<Outcome> {
    let policy = Policy::open(options.policy.as_deref())?;
    let mut worst = Outcome::Good;
    for (name, settings) in read_all(options)? {
        let problems = settings_problems(&policy, &settings)?;
        worst = worst.max(if problems.is_empty() { Outcome::Good } else { Outcome::Bad });
        match options.output {
            Output::Json => anstream::print!("{}", pretty(&document(&name, &problems))?),
            Output::Text if problems.is_empty() => anstream::println!("{name}: valid"),
            Output::Text => {
                anstream::println!("{name}: not valid");
                problems.iter().for_each(|problem| anstream::println!("  {problem}"));
            }
        }
    }
    Ok(worst)
}

fn document(name: &str, problems: &[String]) -> Value {
    let problems = problems.iter().map(|problem| match problem.split_once(": ") {
        Some((field, text)) => json!({"field": field, "text": text}),
        None => json!({"text": problem}),
    });
    let problems: Vec<_> = problems.collect();
    json!({"name": name, "valid": problems.is_empty(), "problems": problems})
}

/// All settings that are given, each with its name.
fn read_all(options: &Options) -> Result<Vec<(String, Value)>> {
    let mut all = Vec::new();
    let references: Vec<_> = options.inputs.iter().map(|input| reference(input)).collect::<Result<_>>()?;
    let cluster = options.cluster.open_if(references.iter().any(Option::is_some))?;
    for (input, reference) in options.inputs.iter().zip(references) {
        match reference {
            Some(reference) => {
                let policy = read_live(&reference, input, &cluster)?;
                all.push((policies::title(&policy), policies::settings_of(&policy)));
            }
            None => {
                let path = Path::new(input);
                for file in yaml::files(path)? {
                    match of_file(&file)? {
                        // Of a directory with manifests it is the policies that count.
                        none if none.is_empty() && path.is_dir() => {}
                        none if none.is_empty() => {
                            bail!("{input} has no settings of {}, and none of its policies", policies::MODULE)
                        }
                        some => all.extend(some),
                    }
                }
            }
        }
    }
    ensure!(!all.is_empty(), "there are no settings in {}", options.inputs.join(", "));
    Ok(all)
}

fn reference(input: &str) -> Result<Option<Reference>> {
    if Path::new(input).exists() { Ok(None) } else { Reference::parse(input) }
}

#[cfg(feature = "kubectl")]
fn read_live(reference: &Reference, input: &str, cluster: &super::Cluster) -> Result<Value> {
    reference.read(cluster.live(input)?)
}

#[cfg(not(feature = "kubectl"))]
fn read_live(_: &Reference, input: &str, _: &super::Cluster) -> Result<Value> {
    bail!("{input} is no file, and this program reads no live cluster")
}

/// The settings of a file: those of its policies, or the file itself; nothing if it has other objects alone.
fn of_file(file: &Path) -> Result<Vec<(String, Value)>> {
    let documents = yaml::read_file(file)?;
    let name = file.display().to_string();
    if let [settings] = documents.as_slice()
        && settings.get("kind").is_none()
    {
        return Ok(vec![(name, settings.clone())]);
    }
    let (ours, foreign): (Vec<_>, Vec<_>) =
        documents.into_iter().filter(|it| policies::kind(it).is_some()).partition(policies::is_ours);
    for policy in foreign {
        let (title, module) = (policies::title(&policy), policies::MODULE);
        note(format_args!("{name}: skipped {title}, whose module is not {module}"));
    }
    let settings =
        |policy: &Value| (format!("{name}: {}", policies::title(policy)), policies::settings_of(policy));
    Ok(ours.iter().map(settings).collect())
}
