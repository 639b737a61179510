//! The documents say what the code does.
//!
//! Tables between `<!-- …:begin -->` and `<!-- …:end -->` are made of the code's own; `UPDATE_EXPECT=1 cargo test --test
//! semantics` writes them anew. What to do about a message people have written (docs/operators.md, README.md): those tables have every reason,
//! and every rejection and warning of the golden cases, and none that does not occur there.
#![allow(clippy::unwrap_used, reason = "a test")]

mod support;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;

use fluid_sidecar_layout::runtime::Facts;
use fluid_sidecar_layout::{Named as _, Runtime};
use fluid_sidecar_policy::placement;
use fluid_sidecar_policy::reason::Code;
use serde_json::{Value, json};
use support::expect::expect;
use support::{Cluster, cases, create, read};

#[test]
fn the_tables_are_those_of_the_code() {
    let mut rows = String::from("| the Pod has | it goes to |\n|---|---|\n");
    for (marker, answer) in placement::table() {
        writeln!(rows, "| {marker} | {answer} |").unwrap();
    }
    rows.push_str("| none of these | not serverless |\n");
    let mut reasons = String::from("| code | meaning |\n|---|---|\n");
    for code in Code::ALL {
        writeln!(reasons, "| `{code}` | {}. |", code.about()).unwrap();
    }

    has_tables("SEMANTICS.md", &[("placement", rows), ("reasons", reasons)]);
}

#[test]
fn the_table_of_runtimes_is_what_is_known_of_them() {
    let mut rows = String::from(
        "| Runtime | Fluid | its client is told the mount point by | copied for a reference | tried |\n\
         |---|---|---|---|---|\n",
    );
    for runtime in Runtime::ALL {
        let Facts { told_by, copied_config_maps, refused, fluid, tried, .. } = runtime.facts();
        let copied: Vec<_> = copied_config_maps.iter().map(|name| format!("`{name}`")).collect();
        let copied = if copied.is_empty() { "nothing".to_string() } else { copied.join(", ") };
        let tried = match refused {
            Some(because) => format!("**{tried}**: {because}"),
            None => tried.to_string(),
        };
        writeln!(rows, "| {} (`{runtime}`) | {fluid} | {told_by} | {copied} | {tried} |", runtime.about())
            .unwrap();
    }
    has_tables("docs/operators.md", &[("runtimes", rows)]);
}

fn has_tables(document: &str, tables: &[(&str, String)]) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(document);
    let mut document = std::fs::read_to_string(&path).unwrap();
    for (name, table) in tables {
        let (begin, end) = (format!("<!-- {name}:begin -->\n"), format!("<!-- {name}:end -->"));
        let (before, rest) = document.split_once(&begin).unwrap();
        let (_, after) = rest.split_once(&end).unwrap();
        document = format!("{before}{begin}{table}{end}{after}");
    }
    expect(&path, &document).unwrap();
}

/// A row of troubleshooting: a code and a message, in which `…` stands for anything.
struct Row {
    document: &'static str,
    code: String,
    message: String,
}

impl Row {
    /// The rows of all tables of a document that begin with a code and a message.
    fn all(document: &'static str) -> Vec<Row> {
        let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(document)).unwrap();
        let quoted = |cell: &str| Some(cell.trim().strip_prefix('`')?.strip_suffix('`')?.to_string());
        let row = |line: &str| {
            let mut cells = line.strip_prefix('|')?.split('|');
            let (code, message) = (quoted(cells.next()?)?, quoted(cells.next()?)?);
            Some(Row { document, code, message })
        };
        text.lines().filter_map(row).collect()
    }

    fn is_of(&self, code: &str, message: &str) -> bool {
        let mut parts = self.message.split('…');
        let mut rest = message.strip_prefix(parts.next().unwrap_or_default());
        for part in parts {
            rest = rest.and_then(|rest| match part {
                "" => Some(""),
                part => rest.find(part).map(|at| &rest[at + part.len()..]),
            });
        }
        self.code == code && rest == Some("")
    }
}

#[test]
fn troubleshooting_knows_every_reason() {
    let mut said = BTreeSet::new();
    let mut heard = BTreeSet::new();
    for case in cases("tests/cases") {
        let answer = read(&case.join("expected.yaml"));
        // Long warnings are wrapped.
        let warnings = answer["warnings"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let shown = warnings.chain(answer["message"].as_str()).collect::<Vec<_>>().join(" ");
        for reason in answer["reasons"].as_array().unwrap() {
            let (code, text) = reason.as_str().unwrap().split_once(": ").unwrap();
            said.insert((code.to_string(), text.to_string()));
            if shown.contains(text) {
                heard.insert((code.to_string(), text.to_string()));
            }
        }
    }
    // Too long for a case.
    let mut pod = read(Path::new("tests/cases/seed-from-settings/pod.yaml"));
    pod["metadata"]["annotations"] = json!({"note": "x".repeat(256 << 10)});
    let settings = read(Path::new("tests/cases/seed-from-settings/settings.yaml"));
    let answer = create(&pod, &Cluster::of(Vec::new()), &settings);
    let message = answer["message"].as_str().unwrap().strip_prefix("fluid-sidecar-policy: ").unwrap();
    for set in [&mut said, &mut heard] {
        set.insert(("unsupported".into(), message.into()));
    }

    let rows = Row::all("docs/operators.md");
    let mut missing = Vec::new();
    for code in Code::ALL {
        if !rows.iter().any(|row| row.code == code.name()) {
            missing.push(format!("docs/operators.md has no row for {code}"));
        }
    }
    for (code, text) in &heard {
        if !rows.iter().any(|row| row.is_of(code, text)) {
            missing.push(format!("docs/operators.md has no row for {code}: {text}"));
        }
    }
    for Row { document, code, message } in rows
        .iter()
        .chain(&Row::all("README.md"))
        .filter(|row| !said.iter().any(|(code, text)| row.is_of(code, text)))
    {
        missing.push(format!("{document}: no golden case has {code}: {message}"));
    }
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}
