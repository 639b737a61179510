//! The answer as a page to attach to a review: the verdict, the reasons, the Pod before and after as a picture, and the
//! changes as a diff.
//!
//! The page stands alone: it has no scripts and loads nothing, which its Content-Security-Policy also forbids. Names,
//! paths and messages come from whoever wrote the Pod. Markup is added by `Markup::raw`, which takes constants only;
//! everything else goes through `Markup::text`, which escapes it.

mod picture;

use std::fmt::{self, Display, Write as _};

use anyhow::Result;
use serde_json::Value;
use similar::{ChangeTag, TextDiff};

use crate::answer::Answer;
use crate::input::Request;
use crate::yaml;

use picture::{Injected, picture};

const HEAD: &str = "<!doctype html>
<html lang=\"en\">
<head>
<meta charset=\"utf-8\">
<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">
<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">
<title>Review of Pods</title>
<style>
";

const STYLE: &str = include_str!("html/page.css");

const LEGEND: &str = "<p class=\"legend\">A line is a mount. An arrow is a sidecar that mounts a Dataset on the path of a \
volume, and a green line reads that. Boxes with dashes were added.</p>\n";

/// A page under construction.
#[derive(Debug, Default)]
pub struct Page {
    body: Markup,
    /// Number of Pods, which makes the ids of pictures unique.
    pods: usize,
}

impl Page {
    /// Adds the answer for a Pod.
    pub fn add(&mut self, request: &Request, answer: &Answer) -> Result<()> {
        self.pods += 1;
        let body = &mut self.body;
        let (class, verdict) = match (answer.accepted, &answer.mutated_object) {
            (false, _) => ("bad", "rejected"),
            (true, Some(_)) => ("good", "admitted, mutated"),
            (true, None) => ("plain", "admitted, untouched"),
        };
        body.raw("<article>\n<h1>")
            .text(request.title())
            .raw(" <span class=\"verdict ")
            .raw(class)
            .raw("\">");
        body.raw(verdict).raw("</span></h1>\n");
        if let Some(message) = answer.message.as_ref().filter(|_| !answer.accepted) {
            body.raw("<p class=\"message\">").text(message).raw("</p>\n");
        }
        let annotations = answer.audit_annotations.iter().flatten();
        let reasons =
            annotations.filter(|(key, _)| *key == "reasons").filter_map(|(_, value)| value.as_str());
        let reasons: Vec<&str> = reasons.flat_map(str::lines).collect();
        if !reasons.is_empty() {
            body.raw("<h2>Reasons</h2>\n<dl>\n");
            for reason in reasons {
                let (code, sentence) = reason.split_once(": ").unwrap_or(("", reason));
                body.raw("<dt>").text(code).raw("</dt><dd>").text(sentence).raw("</dd>\n");
            }
            body.raw("</dl>\n");
        }
        let warnings = answer.warnings.as_deref().unwrap_or_default();
        if !warnings.is_empty() {
            body.raw("<h2>Warnings</h2>\n<ul class=\"warnings\">\n");
            for warning in warnings {
                body.raw("<li>").text(warning).raw("</li>\n");
            }
            body.raw("</ul>\n");
        }
        // Of a Pod that the policy left alone, its author may have written the note.
        let injected = answer.mutated_object.as_ref().map(Injected::of).unwrap_or_default();
        body.raw("<h2>The Pod</h2>\n<div class=\"pictures\">\n");
        self.picture("As created", request.object(), None, &injected);
        if let Some(after) = &answer.mutated_object {
            self.picture("As admitted", after, Some(request.object()), &injected);
        }
        self.body.raw("</div>\n");
        if answer.mutated_object.is_some() {
            self.body.raw(LEGEND);
        }
        if let Some(after) = &answer.mutated_object {
            self.body.raw("<h2>Changes</h2>\n");
            diff(&mut self.body, &yaml::print(request.object())?, &yaml::print(after)?);
        }
        self.body.raw("</article>\n");
        Ok(())
    }

    fn picture(&mut self, title: &'static str, pod: &Value, before: Option<&Value>, injected: &Injected) {
        let body = &mut self.body;
        body.raw("<figure>\n<figcaption>").raw(title).raw("</figcaption>\n");
        let id = format!("{}{}", if before.is_some() { "after" } else { "before" }, self.pods);
        picture(body, &id, title, pod, before, injected);
        body.raw("</figure>\n");
    }

    /// The page.
    pub fn finish(self) -> String {
        format!("{HEAD}{STYLE}</style>\n</head>\n<body>\n<main>\n{}</main>\n</body>\n</html>\n", self.body.0)
    }
}

fn diff(body: &mut Markup, before: &str, after: &str) {
    body.raw("<pre class=\"diff\"><span class=\"removed\">--- as created</span>\n");
    body.raw("<span class=\"added\">+++ as admitted</span>\n");
    let diff = TextDiff::from_lines(before, after);
    for hunk in diff.unified_diff().context_radius(3).iter_hunks() {
        body.raw("<span class=\"place\">").text(hunk.header()).raw("</span>\n");
        for change in hunk.iter_changes() {
            let (start, end) = match change.tag() {
                ChangeTag::Delete => ("<span class=\"removed\">-", "</span>\n"),
                ChangeTag::Insert => ("<span class=\"added\">+", "</span>\n"),
                ChangeTag::Equal => (" ", "\n"),
            };
            body.raw(start).text(change.value().trim_end_matches('\n')).raw(end);
        }
    }
    body.raw("</pre>\n");
}

/// HTML and SVG.
#[derive(Debug, Default)]
struct Markup(String);

impl Markup {
    /// Adds markup, which nobody outside has written.
    fn raw(&mut self, markup: &'static str) -> &mut Self {
        self.0.push_str(markup);
        self
    }

    /// Adds text, for an element or an attribute in double quotes.
    fn text(&mut self, text: impl Display) -> &mut Self {
        // Writing to a String cannot fail.
        let _ = write!(Escaped(&mut self.0), "{text}");
        self
    }
}

struct Escaped<'a>(&'a mut String);

impl fmt::Write for Escaped<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for character in text.chars() {
            match character {
                '&' => self.0.push_str("&amp;"),
                '<' => self.0.push_str("&lt;"),
                '>' => self.0.push_str("&gt;"),
                '"' => self.0.push_str("&quot;"),
                '\'' => self.0.push_str("&#39;"),
                '\n' | '\t' => self.0.push(character),
                // HTML has no control characters. Those of bidirectional text could show a line in another order.
                '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
                    self.0.push('\u{fffd}');
                }
                // What is no character in HTML, although Rust has it.
                '\u{fdd0}'..='\u{fdef}' => self.0.push('\u{fffd}'),
                _ if character.is_control() || u32::from(character) & 0xfffe == 0xfffe => {
                    self.0.push('\u{fffd}');
                }
                _ => self.0.push(character),
            }
        }
        Ok(())
    }
}
