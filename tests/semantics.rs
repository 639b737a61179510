//! The documents say what the code does.
//!
//! Tables between `<!-- …:begin -->` and `<!-- …:end -->` are made of the code's own; `UPDATE_EXPECT=1 cargo test --test
//! semantics` writes them anew. People have written what to do about a message (docs/operators.md): those
//! tables have every reason, and every rejection and warning of the golden cases, and none that does not occur there.
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
use tool::yaml;

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

/// Codes and messages.
fn too_long_for_a_case() -> Vec<(&'static str, String)> {
    let of = |file: &str| read(&Path::new("tests/cases/seed-from-settings").join(file));
    let settings = of("settings.yaml");
    let message = |changes: &dyn Fn(&mut Value), settings: &Value, cluster: Vec<Value>| {
        let mut pod = of("pod.yaml");
        changes(&mut pod);
        let answer = create(&pod, &Cluster::of(cluster), settings);
        answer["message"].as_str().unwrap().strip_prefix("fluid-sidecar-policy: ").unwrap().to_string()
    };
    let many = |list: &'static str, count: usize, entry: fn(usize) -> Value| {
        move |pod: &mut Value| {
            let list = pod["spec"][list].as_array_mut().unwrap();
            list.extend((0..count).map(entry));
        }
    };
    let volume = |number| json!({"name": format!("v{number}"), "emptyDir": {}});
    let container = |number| json!({"name": format!("c{number}"), "image": "i"});
    let claim = |number| json!({"name": format!("v{number}"), "persistentVolumeClaim": {"claimName": format!("data{number}")}});
    let annotated = |pod: &mut Value| pod["metadata"]["annotations"] = json!({"note": "x".repeat(256 << 10)});
    // Forty claims of the Dataset of most cases, each of which is found anew.
    let mut cluster = yaml::read_file(Path::new("tests/cases/objects.yaml")).unwrap();
    cluster.extend((0..40).map(|number| {
        json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {
            "name": format!("data{number}"), "namespace": "default", "labels": {"fluid.io/managed-by": "data"}}})
    }));
    let volumes = |pod: &mut Value| pod["spec"]["volumes"] = (0..40).map(claim).collect();
    let from_cluster = json!({"destination": "eci"});
    vec![
        ("unsupported", message(&annotated, &settings, Vec::new())),
        ("unsupported", message(&many("volumes", 100, claim), &settings, Vec::new())),
        ("unsupported", message(&many("volumes", 600, volume), &settings, Vec::new())),
        ("unsupported", message(&many("containers", 300, container), &settings, Vec::new())),
        ("unresolved", message(&volumes, &from_cluster, cluster)),
    ]
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
    for (code, message) in too_long_for_a_case() {
        for set in [&mut said, &mut heard] {
            set.insert((code.into(), message.clone()));
        }
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
    let unsaid = |row: &&Row| !said.iter().any(|(code, text)| row.is_of(code, text));
    for Row { document, code, message } in rows.iter().filter(unsaid) {
        missing.push(format!("{document}: no golden case has {code}: {message}"));
    }
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}
