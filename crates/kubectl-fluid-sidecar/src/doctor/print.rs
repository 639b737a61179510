//! The findings for people, for tools, and the table as a document.

use std::fmt::Write as _;

use anstyle::{AnsiColor, Style};
use serde_json::{Value, json};

use super::evidence::Evidence;
use super::table::{Finding, ROWS, Row};

const STRONG: Style = Style::new().bold();
const BAD: Style = AnsiColor::Red.on_default().bold();
const GOOD: Style = AnsiColor::Green.on_default();
const FAINT: Style = Style::new().dimmed();

/// Begins a step that is a command.
const COMMAND: &str = "kubectl ";

/// For people, with terminal colours; strip them where they do not belong.
pub fn text(evidence: &Evidence, findings: &[Finding]) -> String {
    let mut text = String::new();
    let asked = &evidence.asked;
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{STRONG}{} {}/{}{STRONG:#}", asked.kind, asked.namespace, asked.name);
    if findings.is_empty() {
        let _ = writeln!(text, "{GOOD}Nothing wrong was found.{GOOD:#} Looked at:");
        for line in looked_at(evidence) {
            let _ = writeln!(text, "  {line}");
        }
        return text;
    }
    for (number, Finding { row, found, remedy }) in findings.iter().enumerate() {
        let sentence = &found.sentence;
        let _ = writeln!(
            text,
            "\n{BAD}{}. {sentence}{BAD:#} {FAINT}[{}, {}]{FAINT:#}",
            number + 1,
            row.code,
            row.likelihood
        );
        for quote in &found.quotes {
            let _ = writeln!(text, "   {FAINT}{}:{FAINT:#} {}", quote.source, quote.text);
        }
        let _ = writeln!(text, "   {STRONG}What to do{STRONG:#}");
        for step in remedy {
            let indent = if step.starts_with(COMMAND) { "      " } else { "   " };
            let _ = writeln!(text, "{indent}{step}");
        }
    }
    text
}

/// For tools.
pub fn json(evidence: &Evidence, findings: &[Finding]) -> Value {
    let asked = &evidence.asked;
    let findings = findings.iter().map(|Finding { row, found, remedy }| {
        json!({
            "code": row.code,
            "likelihood": row.likelihood.to_string(),
            "sentence": found.sentence,
            "meaning": row.meaning,
            "evidence": found.quotes.iter().map(|it| json!({"source": it.source, "text": it.text})).collect::<Vec<_>>(),
            "remedy": remedy,
        })
    });
    json!({
        "kind": asked.kind, "namespace": asked.namespace, "name": asked.name, "time": asked.now,
        "findings": findings.collect::<Vec<_>>(),
        "lookedAt": looked_at(evidence),
    })
}

/// What was read, in words.
fn looked_at(evidence: &Evidence) -> Vec<String> {
    let mut lines = Vec::new();
    let mut events = 0;
    for object in &evidence.objects {
        let field = |path| super::evidence::text(object, path);
        match field("/kind") {
            "Event" => events += 1,
            kind => lines.push(format!("{kind} {}", field("/metadata/name"))),
        }
    }
    lines.push(format!("{events} events of these"));
    for (container, previous) in evidence.logs.keys() {
        lines.push(format!(
            "the log of container {container}{}",
            if *previous { ", the one before" } else { "" }
        ));
    }
    lines.extend(evidence.metrics.keys().map(|container| format!("the metrics of container {container}")));
    lines
}

/// The table as a document.
pub fn document() -> String {
    let mut text = String::from(DOCUMENT_HEAD);
    text.push_str("| code | diagnosis | how sure |\n|---|---|---|\n");
    for Row { code, title, likelihood, .. } in ROWS {
        let _ = writeln!(text, "| [`{code}`](#{code}) | {title} | {likelihood} |");
    }
    for Row { code, title, meaning, remedy, .. } in ROWS {
        let _ = write!(text, "\n## {code}\n\n**{title}.** {meaning}\n");
        let mut is_code = false;
        for step in *remedy {
            let step = step
                .replace("{pod}", "POD")
                .replace("{namespace}", "NAMESPACE")
                .replace("{container}", "CONTAINER");
            if is_code != step.starts_with(COMMAND) {
                text.push_str(if is_code { "```\n" } else { "\n<!-- not run: needs a cluster -->\n```sh\n" });
                is_code = !is_code;
            }
            if !is_code {
                text.push('\n');
            }
            let _ = writeln!(text, "{step}");
        }
        if is_code {
            text.push_str("```\n");
        }
    }
    text
}

const DOCUMENT_HEAD: &str = "\
<!-- Written from the table in src/doctor/table.rs by `UPDATE_EXPECT=1 cargo test --test doctor`. -->
# Why does my Pod not work?

`doctor` looks at a Pod, its owner, its claims, the policy and the sidecar, and says what is wrong, with the evidence and the
way out. It only reads. These are its diagnoses, the causes above what they lead to; of those that apply, `certain` ones come
first.

";
