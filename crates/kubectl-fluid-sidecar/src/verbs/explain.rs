//! `explain`: the policy's answer to Pods.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use fluid_sidecar_layout::{clap_parser, named};
use serde_json::{Value, json};

use super::{Asked, Outcome, Question, failed, pretty};
use crate::answer::Answer;
use crate::explain::explain;
use crate::html::Page;
use crate::input::Request;

/// What to explain, and how.
#[derive(Args, Clone, Debug)]
#[command(after_help = AFTER_HELP)]
pub struct Options {
    #[command(flatten)]
    question: Question,
    /// What to print.
    #[arg(short, long, default_value_t = Output::Explain, value_parser = clap_parser::<Output>())]
    output: Output,
    /// Write down the policy's reads and their answers, for kwctl's --replay-host-capabilities-interactions. For one Pod.
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
}

named! {
    /// What to print.
    enum Output {
        /// The reasons in words, and the changes as a diff.
        Explain = "explain",
        /// The same as a page of HTML to attach to a review, with pictures of the Pod.
        Html = "html",
        /// The verdict, reasons, warnings and patch, for programs.
        Json = "json",
        /// The Pod after admission, as JSON, for `kubectl apply -f -` and other tools.
        Pod = "pod",
        /// The RFC 6902 patch that Kubewarden makes of the answer; `[]` when nothing changes.
        Patch = "patch",
        /// The AdmissionResponse, its patch decoded.
        Response = "response",
        /// The AdmissionRequest that the policy was asked, for kwctl's --request-path.
        Request = "request",
    }
}

named! {
    /// What becomes of a Pod.
    enum Verdict {
        /// It is admitted with changes.
        Mutated = "mutated",
        /// It is admitted as it is.
        Untouched = "untouched",
        /// It is refused.
        Rejected = "rejected",
        /// It is not known.
        Failed = "failed",
    }
}

const AFTER_HELP: &str = "\
The policy's reads are answered by the live cluster of the kubeconfig, with your rights; nothing is written. With
--objects they are answered from files, and no cluster is asked.

Of several Pods the outputs follow one another, JSON as kubectl and jq read it. `json`, `response` and `request` are
there for each Pod, `pod` and `patch` for each that is allowed.

Exit status: 0 the Pod is allowed, 1 it is denied (the message is on standard error), 2 anything else; of several Pods
the highest.

Examples:
  kubectl fluid-sidecar explain pod/app                       why a live Pod has a sidecar
  kubectl fluid-sidecar explain deployment/web -n team        the Pods of a live Deployment
  kubectl fluid-sidecar explain pod.yaml                      a Pod that is not there yet
  kubectl fluid-sidecar explain pod.yaml --objects cluster/   the same without a cluster
  helm template app chart/ | kubectl fluid-sidecar explain -  all Pods of a chart
  kubectl fluid-sidecar explain job.yaml --settings settings.yaml
  kubectl fluid-sidecar explain job.yaml --settings clusteradmissionpolicy/fluid-sidecar-eci
  kubectl fluid-sidecar explain pod.yaml --output html >review.html
  kubectl fluid-sidecar explain pod.yaml --output pod | kubectl apply -f -
  kubectl fluid-sidecar explain pods/ --output json | jq -r 'select(.verdict == \"rejected\") | .message'";

/// Explains.
pub fn run(options: &Options) -> Result<Outcome> {
    let mut asked = options.question.read()?;
    if options.record.is_some() {
        asked.check_single("--record")?;
    }
    let several = asked.requests.len() > 1;
    let mut worst = Outcome::Good;
    let mut page = Page::default();
    for (number, request) in std::mem::take(&mut asked.requests).into_iter().enumerate() {
        if number > 0 && options.output == Output::Explain {
            anstream::println!();
        }
        let outcome = request.and_then(|request| one(options, &asked, &request, several, &mut page));
        worst = worst.max(outcome.unwrap_or_else(|error| {
            if options.output == Output::Json {
                let text = json!({"verdict": Verdict::Failed.to_string(), "message": format!("{error:#}")});
                anstream::print!("{}", pretty(&text).unwrap_or_default());
            }
            failed(&error)
        }));
    }
    if options.output == Output::Html {
        anstream::print!("{}", page.finish());
    }
    Ok(worst)
}

fn one(
    options: &Options,
    asked: &Asked,
    request: &Request,
    several: bool,
    page: &mut Page,
) -> Result<Outcome> {
    let answer = asked.answer(request)?;
    if options.output == Output::Html {
        page.add(request, &answer)?;
    }
    if let Some(file) = &options.record {
        asked.write_session(file)?;
    }
    let name = if several { format!("{}: ", request.title()) } else { String::new() };
    print(request, &answer, options.output, &name)
}

/// Prints the answer, with the Pod's name before what goes to standard error.
fn print(request: &Request, answer: &Answer, output: Output, name: &str) -> Result<Outcome> {
    let text = match output {
        Output::Pod => pretty(answer.object(request))?,
        Output::Patch => pretty(&serde_json::to_value(answer.patch(request))?)?,
        Output::Response => pretty(&answer.response(request))?,
        Output::Request => pretty(&request.admission)?,
        Output::Json => pretty(&document(request, answer))?,
        Output::Explain => explain(request, answer)?,
        // All Pods are on one page, which follows.
        Output::Html => String::new(),
    };
    // A rejected Pod never comes to be; printing it would feed it to the next program.
    if answer.accepted || !matches!(output, Output::Pod | Output::Patch) {
        anstream::print!("{text}");
    }
    if !matches!(output, Output::Explain | Output::Html | Output::Json) {
        for warning in answer.warnings.iter().flatten() {
            anstream::eprintln!("Warning: {name}{warning}");
        }
    }
    if answer.accepted {
        return Ok(Outcome::Good);
    }
    anstream::eprintln!("{name}{}", answer.message.as_deref().unwrap_or("rejected without a message"));
    Ok(Outcome::Bad)
}

/// The answer for programs.
fn document(request: &Request, answer: &Answer) -> Value {
    let verdict = match (answer.accepted, &answer.mutated_object) {
        (false, _) => Verdict::Rejected,
        (true, Some(_)) => Verdict::Mutated,
        (true, None) => Verdict::Untouched,
    };
    let reasons = answer.reasons().map(|line| match line.split_once(": ") {
        Some((code, text)) => json!({"code": code, "text": text}),
        None => json!({"text": line}),
    });
    json!({
        "pod": request.full_name(),
        "foundAt": request.found_at(),
        "verdict": verdict.to_string(),
        "message": answer.message,
        "reasons": reasons.collect::<Vec<_>>(),
        "warnings": answer.warnings.iter().flatten().collect::<Vec<_>>(),
        "patch": answer.patch(request),
    })
}
