//! `evaluate`: see what the policy does to a Pod, without a cluster.

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use clap::{Args, Parser, Subcommand};
use evaluate::answer::{Answer, check_settings};
use evaluate::bench::bench;
use evaluate::count::Counter;
use evaluate::engine::{Host, Policy, no_reads};
use evaluate::explain::explain;
use evaluate::input::request;
use evaluate::objects::Objects;
use evaluate::session::Session;
use evaluate::{serve, yaml};
use fluid_sidecar_layout::{clap_parser, named};
use serde_json::{Value, json};

/// See what the policy does to a Pod, without a cluster.
///
/// Runs the compiled policy as Kubewarden's policy-server does, on the Pod of a manifest, and answers the
/// policy's reads of the cluster from files.
#[derive(Parser)]
#[command(version, after_help = AFTER_HELP, args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    review: Option<Review>,
}

#[derive(Subcommand)]
enum Command {
    /// Serve the policy as a webhook for a real API server, for development and tests.
    Serve(serve::Options),
}

#[derive(Args)]
struct Review {
    /// The compiled policy.
    #[arg(long, value_name = "FILE", default_value = "target/policy.wasm")]
    policy: PathBuf,
    /// A Pod, a workload (Deployment, StatefulSet, DaemonSet, Job, CronJob, ReplicaSet), whose Pod is evaluated,
    /// or an AdmissionReview; YAML or JSON; `-` reads standard input.
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
    /// Write down the policy's reads and their answers, for kwctl's --replay-host-capabilities-interactions.
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
    /// What to print.
    #[arg(long, default_value_t = Output::Explain, value_parser = clap_parser::<Output>())]
    output: Output,
    /// Instead of a review: print the Pod as it was before its injection. Other changes stay.
    #[arg(long, conflicts_with_all = ["objects", "settings", "record", "output", "bench", "count"])]
    uninject: bool,
    /// Instead of the answer: the time that N reviews take, each in a new instance as in policy-server.
    #[arg(long, value_name = "N", conflicts_with_all = ["record", "output"])]
    bench: Option<NonZeroU32>,
    /// Instead of the answer: the instructions and the bytes of memory that the review takes, which are the same on
    /// every machine.
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

Exit status: 0 the Pod is allowed, 1 it is denied (the message is on standard error), 2 anything else.

Examples:
  evaluate --pod pod.yaml --objects cluster/                 explain what happens to a Pod
  evaluate --pod deployment.yaml --settings settings.yaml    the same for the Pods of a Deployment
  evaluate --pod pod.yaml --objects cluster/ --output patch  the JSON patch, for a script
  evaluate --pod pod.yaml --objects cluster/ --output pod | kubectl apply -f -
  evaluate --pod pod.yaml --objects cluster/ --count         what the review costs the policy server
  kubectl get pod app -o yaml | evaluate --pod - --uninject  the Pod as its owner wrote it";

fn main() -> ExitCode {
    let Arguments { command, review } = Arguments::parse();
    let outcome = match command {
        Some(Command::Serve(options)) => serve::serve(&options).map(|()| true),
        None => review.context("--pod is missing").and_then(|review| run(&review)),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            anstream::eprintln!("evaluate: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(arguments: &Review) -> Result<bool> {
    let manifest = yaml::read_single(&arguments.pod)?;
    if arguments.uninject {
        let policy = Policy::load(&arguments.policy)?;
        let pod = policy.call("uninject", &serde_json::to_vec(&manifest)?, &no_reads())?;
        anstream::print!("{}", pretty(&serde_json::from_slice(&pod)?)?);
        return Ok(true);
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
    let request = request(manifest, arguments.namespace.as_deref(), &arguments.operation)
        .with_context(|| arguments.pod.display().to_string())?;
    let payload = || serde_json::to_vec(&json!({"request": request.admission, "settings": settings}));
    if arguments.count {
        let (cost, _) = Counter::load(&arguments.policy)?.call("validate", &payload()?, &host)?;
        anstream::println!("{cost}");
        return Ok(true);
    }
    let policy = Policy::load(&arguments.policy)?;
    if let Some(runs) = arguments.bench {
        anstream::println!("{}", bench(&policy, &payload()?, &host, runs)?);
        return Ok(true);
    }
    check_settings(&policy, &settings)?;
    let answer = Answer::ask(&policy, &request, &settings, &host)?;
    if let Some(file) = &arguments.record {
        std::fs::write(file, session.to_yaml()?)
            .with_context(|| format!("cannot write {}", file.display()))?;
    }

    let text = match arguments.output {
        Output::Pod => pretty(answer.object(&request))?,
        Output::Patch => pretty(&serde_json::to_value(answer.patch(&request))?)?,
        Output::Response => pretty(&answer.response(&request))?,
        Output::Request => pretty(&request.admission)?,
        Output::Explain => explain(&request, &answer)?,
    };
    // A rejected Pod never comes to be; printing it would feed it to the next program.
    if answer.accepted || !matches!(arguments.output, Output::Pod | Output::Patch) {
        anstream::print!("{text}");
    }
    if arguments.output != Output::Explain {
        for warning in answer.warnings.iter().flatten() {
            anstream::eprintln!("Warning: {warning}");
        }
    }
    if !answer.accepted {
        anstream::eprintln!("{}", answer.message.as_deref().unwrap_or("rejected without a message"));
    }
    Ok(answer.accepted)
}

fn pretty(value: &Value) -> Result<String> {
    Ok(serde_json::to_string_pretty(value)? + "\n")
}
