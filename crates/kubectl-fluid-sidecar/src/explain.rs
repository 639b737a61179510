//! The answer in words, and the Pod's changes as a unified diff.
//!
//! The words are the policy's own audit annotations: what is explained here is what auditors of a cluster
//! read, from the same source.

use std::fmt::Write as _;

use anstyle::{AnsiColor, Style};
use anyhow::Result;
use similar::{ChangeTag, TextDiff};

use crate::answer::Answer;
use crate::input::Request;
use crate::yaml;

const GOOD: Style = AnsiColor::Green.on_default();
const BAD: Style = AnsiColor::Red.on_default();
const NOTE: Style = AnsiColor::Yellow.on_default();
const PLACE: Style = AnsiColor::Cyan.on_default();
const STRONG: Style = Style::new().bold();

/// Explains an answer, with terminal colours; strip them where they do not belong.
pub fn explain(request: &Request, answer: &Answer) -> Result<String> {
    let mut text = String::new();
    let title = request.title();
    let (style, verdict) = match (answer.accepted, &answer.mutated_object) {
        (false, _) => (BAD, "rejected"),
        (true, Some(_)) => (GOOD, "admitted, mutated"),
        (true, None) => (GOOD, "admitted, untouched"),
    };
    writeln!(text, "{STRONG}{title}: {STRONG:#}{style}{verdict}{style:#}")?;
    for line in answer.reasons() {
        writeln!(text, "  {line}")?;
    }
    for warning in answer.warnings.iter().flatten() {
        writeln!(text, "{NOTE}Warning: {warning}{NOTE:#}")?;
    }
    if answer.mutated_object.is_some() {
        text.push('\n');
        text.push_str(&diff(&yaml::print(request.object())?, &yaml::print(answer.object(request))?)?);
    }
    Ok(text)
}

fn diff(before: &str, after: &str) -> Result<String> {
    let mut text = String::new();
    writeln!(text, "{BAD}--- as created{BAD:#}\n{GOOD}+++ as admitted{GOOD:#}")?;
    let diff = TextDiff::from_lines(before, after);
    for hunk in diff.unified_diff().context_radius(3).iter_hunks() {
        writeln!(text, "{PLACE}{}{PLACE:#}", hunk.header())?;
        for change in hunk.iter_changes() {
            let (style, sign) = match change.tag() {
                ChangeTag::Delete => (BAD, '-'),
                ChangeTag::Insert => (GOOD, '+'),
                ChangeTag::Equal => (Style::new(), ' '),
            };
            writeln!(text, "{style}{sign}{}{style:#}", change.value().trim_end_matches('\n'))?;
        }
    }
    Ok(text)
}
