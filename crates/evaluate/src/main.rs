//! `evaluate`: see what the policy does to Pods, without a cluster.

use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

#[cfg(not(feature = "server"))]
use anyhow::bail;
use anyhow::{Context as _, Result, ensure};
#[cfg(feature = "server")]
use clap::Subcommand;
use clap::{Args, Parser};
use evaluate::answer::{Answer, check_settings};
use evaluate::bench::bench;
#[cfg(feature = "server")]
use evaluate::count::Counter;
use evaluate::engine::{Host, Policy, no_reads};
use evaluate::explain::explain;
use evaluate::input::{Request, Requests};
use evaluate::objects::Objects;
use evaluate::session::Session;
use evaluate::yaml;
#[cfg(feature = "server")]
use evaluate::{doctor, serve};
use fluid_sidecar_layout::{clap_parser, named};
use serde_json::{Value, json};

/// See what the policy does to a Pod, without a cluster.
///
/// Runs the compiled policy as Kubewarden's policy-server does, on the Pods of a manifest, and answers the
/// policy's reads of the cluster from files.
#[derive(Parser)]
#[command(version, after_help = AFTER_HELP, args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
struct Arguments {
    #[cfg(feature = "server")]
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    review: Option<Review>,
}

#[cfg(feature = "server")]
#[derive(Subcommand)]
enum Command {
    /// Serve the policy as a webhook for a real API server, for development and tests.
    Serve(serve::Options),
    /// Say why a Pod with a Dataset does not work.
    Doctor(doctor::Options),
}

#[derive(Args)]
struct Review {
    /// The compiled policy.
    #[arg(long, value_name = "FILE", default_value = "target/policy.wasm")]
    policy: PathBuf,
    /// Pods, objects with Pod templates, AdmissionReviews, and Lists of them; YAML or JSON; `-` reads standard input.
    ///
    /// Each Pod is evaluated. Of a Deployment, StatefulSet, DaemonSet, Job, CronJob or ReplicaSet it is the Pod that its
    /// controller makes; of any other object (PyTorchJob, RayCluster, Workflow, SparkApplication, InferenceService, …)
    /// what is written in it, without the labels, names and containers that its controller adds and without patches
    /// like Argo's `podSpecPatch`. Documents without Pods are skipped, which is said on standard error.
    #[arg(long, value_name = "FILE|-")]
    pod: PathBuf,
    /// The namespace of the request [default: the manifest's, else `default`].
    #[arg(long)]
    namespace: Option<String>,
    /// The operation of the request.
    #[arg(long, default_value = "CREATE", value_parser = ["CREATE", "UPDATE", "DELETE", "CONNECT"])]
    operation: String,
    /// Objects of the cluster that the policy may read; a directory means all its YAML and JSON files.
    /// A document `{error: {kind: …, name: …, message: …}}` makes that read fail.
    #[arg(long, value_name = "FILE_OR_DIR")]
    objects: Vec<PathBuf>,
    /// The policy's settings, as under `spec.settings` of a ClusterAdmissionPolicy.
    #[arg(long, value_name = "FILE")]
    settings: Option<PathBuf>,
    /// Write down the policy's reads and their answers, for kwctl's --replay-host-capabilities-interactions. For one Pod.
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
    /// What to print.
    #[arg(long, default_value_t = Output::Explain, value_parser = clap_parser::<Output>())]
    output: Output,
    /// Instead of a review: print the Pods as they were before their injection, and other objects as they are. Other
    /// changes stay.
    #[arg(long, conflicts_with_all = ["objects", "settings", "record", "output", "bench", "count"])]
    uninject: bool,
    /// Instead of the answer: the time that N reviews of one Pod take, each in a new instance as in policy-server.
    #[arg(long, value_name = "N", conflicts_with_all = ["record", "output"])]
    bench: Option<NonZeroU32>,
    /// Instead of the answer: the instructions and the bytes of memory that the review of one Pod takes, which are the
    /// same on every machine.
    #[arg(long, conflicts_with_all = ["record", "output", "bench"])]
    count: bool,
}

named! {
    /// What to print.
    enum Output {
        /// The Pod after admission, as JSON, for `kubectl apply -f -` and other tools.
        Pod = "pod",
        /// The RFC 6902 patch that Kubewarden makes of the answer; `[]` when nothing changes.
        Patch = "patch",
        /// The AdmissionResponse, its patch decoded.
        Response = "response",
        /// The AdmissionRequest that the policy was asked, for kwctl's --request-path.
        Request = "request",
        /// The reasons in words, and the changes as a diff.
        Explain = "explain",
    }
}

const AFTER_HELP: &str = "\
With a cluster: `evaluate serve --help`.

Of several Pods the outputs follow one another, JSON as kubectl and jq read it. `response` and `request` are there for
each Pod, `pod` and `patch` for each that is allowed.

Exit status: 0 the Pod is allowed, 1 it is denied (the message is on standard error), 2 anything else; of several Pods
the highest.

Examples:
  evaluate --pod pod.yaml --objects cluster/                 explain what happens to a Pod
  evaluate --pod deployment.yaml --settings settings.yaml    the same for the Pods of a Deployment
  helm template app chart/ | evaluate --pod - --objects cluster/   the same for all Pods of a chart
  evaluate --pod pod.yaml --objects cluster/ --output patch  the JSON patch, for a script
  evaluate --pod pod.yaml --objects cluster/ --output pod | kubectl apply -f -
  evaluate --pod pod.yaml --objects cluster/ --count         what the review costs the policy server
  kubectl get pod app -o yaml | evaluate --pod - --uninject  the Pod as its owner wrote it";

/// As the exit status tells it; of several Pods the worst counts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    Allowed = 0,
    Denied = 1,
    Failed = 2,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    #[cfg(feature = "server")]
    match &arguments.command {
        Some(Command::Serve(options)) => return outcome(serve::serve(options).map(|()| Outcome::Allowed)),
        Some(Command::Doctor(options)) => {
            let found = |is_found| if is_found { Outcome::Denied } else { Outcome::Allowed };
            return outcome(doctor::run(options).map(found));
        }
        None => {}
    }
    outcome(arguments.review.context("--pod is missing").and_then(|review| run(&review)))
}

fn outcome(outcome: Result<Outcome>) -> ExitCode {
    ExitCode::from(outcome.unwrap_or_else(|error| failed(&error)) as u8)
}

/// Tells an error.
fn failed(error: &anyhow::Error) -> Outcome {
    anstream::eprintln!("evaluate: {error:#}");
    Outcome::Failed
}

fn run(arguments: &Review) -> Result<Outcome> {
    let file = arguments.pod.display().to_string();
    let documents = yaml::read_file(&arguments.pod)?;
    if arguments.uninject {
        ensure!(!documents.is_empty(), "{file} is empty");
        let policy = Policy::load(&arguments.policy)?;
        for document in documents {
            let pod = policy.call("uninject", &serde_json::to_vec(&document)?, &no_reads())?;
            anstream::print!("{}", pretty(&serde_json::from_slice(&pod)?)?);
        }
        return Ok(Outcome::Allowed);
    }
    let settings = yaml::read_settings(arguments.settings.as_deref())?;
    let objects = Objects::read(&arguments.objects)?;
    let session = Arc::new(Session::default());
    let recorder = Arc::clone(&session);
    let host: Host = Arc::new(move |namespace, operation, payload| {
        let answer = objects.answer(namespace, operation, payload);
        recorder.add(payload, &answer);
        answer
    });
    let all = Requests::of(documents, arguments.namespace.as_deref(), &arguments.operation)
        .context(file.clone())?;
    if !all.without_pods.is_empty() {
        anstream::eprintln!(
            "evaluate: {file}: skipped what has no Pod or Pod template: {}",
            all.kinds_without_pods()
        );
    }
    let mut requests = all.requests;
    let several = requests.len() > 1;
    for (option, given) in [
        ("--record", arguments.record.is_some()),
        ("--bench", arguments.bench.is_some()),
        ("--count", arguments.count),
    ] {
        ensure!(!given || !several, "{option} is for one Pod, and {file} has {}", requests.len());
    }
    if arguments.count || arguments.bench.is_some() {
        let request = requests.swap_remove(0).context(file)?;
        let payload = serde_json::to_vec(&json!({"request": request.admission, "settings": settings}))?;
        let text = match arguments.bench {
            Some(runs) => bench(&Policy::load(&arguments.policy)?, &payload, &host, runs)?.to_string(),
            None => count(&arguments.policy, &payload, &host)?,
        };
        anstream::println!("{text}");
        return Ok(Outcome::Allowed);
    }
    let policy = Policy::load(&arguments.policy)?;
    check_settings(&policy, &settings)?;
    let mut worst = Outcome::Allowed;
    for (number, request) in requests.into_iter().enumerate() {
        if number > 0 && arguments.output == Output::Explain {
            anstream::println!();
        }
        let outcome = request.with_context(|| file.clone()).and_then(|request| {
            let name = if several { format!("{}: ", request.title()) } else { String::new() };
            let answer = Answer::ask(&policy, &request, &settings, &host).with_context(|| request.title())?;
            if let Some(file) = &arguments.record {
                std::fs::write(file, session.to_yaml()?)
                    .with_context(|| format!("cannot write {}", file.display()))?;
            }
            print(&request, &answer, arguments.output, &name)
        });
        worst = worst.max(outcome.unwrap_or_else(|error| failed(&error)));
    }
    Ok(worst)
}

#[cfg(feature = "server")]
fn count(policy: &Path, payload: &[u8], host: &Host) -> Result<String> {
    Ok(Counter::load(policy)?.call("validate", payload, host)?.0.to_string())
}

#[cfg(not(feature = "server"))]
fn count(_: &Path, _: &[u8], _: &Host) -> Result<String> {
    bail!("--count needs an evaluate with the feature `server`: make tools")
}

/// Prints the answer, with the Pod's name before what goes to standard error.
fn print(request: &Request, answer: &Answer, output: Output, name: &str) -> Result<Outcome> {
    let text = match output {
        Output::Pod => pretty(answer.object(request))?,
        Output::Patch => pretty(&serde_json::to_value(answer.patch(request))?)?,
        Output::Response => pretty(&answer.response(request))?,
        Output::Request => pretty(&request.admission)?,
        Output::Explain => explain(request, answer)?,
    };
    // A rejected Pod never comes to be; printing it would feed it to the next program.
    if answer.accepted || !matches!(output, Output::Pod | Output::Patch) {
        anstream::print!("{text}");
    }
    if output != Output::Explain {
        for warning in answer.warnings.iter().flatten() {
            anstream::eprintln!("Warning: {name}{warning}");
        }
    }
    if answer.accepted {
        return Ok(Outcome::Allowed);
    }
    anstream::eprintln!("{name}{}", answer.message.as_deref().unwrap_or("rejected without a message"));
    Ok(Outcome::Denied)
}

fn pretty(value: &Value) -> Result<String> {
    Ok(serde_json::to_string_pretty(value)? + "\n")
}
