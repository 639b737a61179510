//! Golden cases: `tests/cases/<name>/` holds what goes in and what must come out.
//!
//! - `pod.yaml`: a Pod, a workload or an AdmissionReview;
//! - `objects.yaml`: the cluster that the policy reads (optional);
//! - `settings.yaml`: the policy's settings (optional);
//! - `expected.yaml`: decision, reasons, warnings, message, and the Pod when it was changed.
//!
//! `UPDATE_EXPECT=1 cargo test --test cases` writes `expected.yaml` anew: read the difference before you
//! commit it. The same cases run through the compiled policy in `e2e.bats`.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test")]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use evaluate::objects::Objects;
use evaluate::yaml;
use serde_json::{Value, json};
use support::{Cluster, create};

const FILES: [&str; 4] = ["expected.yaml", "objects.yaml", "pod.yaml", "settings.yaml"];

#[test]
fn every_case_gives_what_it_expects() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases");
    let mut cases: Vec<PathBuf> =
        fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    cases.sort();
    let failures: Vec<String> = cases.iter().filter_map(|case| check(case).err()).collect();
    assert!(failures.is_empty(), "{} of {} cases:\n\n{}", failures.len(), cases.len(), failures.join("\n"));
}

fn check(case: &Path) -> Result<(), String> {
    let name = case.file_name().unwrap().to_string_lossy();
    let read = |file: &str| yaml::read_file(&case.join(file)).unwrap().pop().unwrap_or_default();
    let optional = |file: &str| if case.join(file).exists() { read(file) } else { json!({}) };
    for entry in fs::read_dir(case).unwrap() {
        let file = entry.unwrap().file_name().into_string().unwrap();
        assert!(FILES.contains(&file.as_str()), "{name}/{file} is stale: no test reads it");
    }

    let objects: Vec<PathBuf> =
        [case.join("objects.yaml")].into_iter().filter(|path| path.exists()).collect();
    let cluster = Cluster(Objects::read(&objects).unwrap());
    let settings = optional("settings.yaml");
    let answer = create(&read("pod.yaml"), &cluster, &settings);
    let found = summary(&answer);

    // Whatever the case is about: planning again on the outcome changes nothing.
    if let Some(pod) = answer.get("mutated_object") {
        let again = create(pod, &cluster, &settings);
        assert_eq!(again.get("mutated_object"), None, "{name}: a second run changes the Pod again");
        assert_eq!(again["accepted"], true, "{name}: {again}");
    }

    let path = case.join("expected.yaml");
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        fs::write(&path, yaml::print(&found).unwrap()).unwrap();
        return Ok(());
    }
    let expected = if path.exists() { read("expected.yaml") } else { Value::Null };
    if found == expected {
        return Ok(());
    }
    let (expected, found) = (yaml::print(&expected).unwrap(), yaml::print(&found).unwrap());
    let diff = similar::TextDiff::from_lines(&expected, &found);
    Err(format!("{name}:\n{}", diff.unified_diff().header("expected", "found")))
}

/// The answer as a person would write it down.
fn summary(answer: &Value) -> Value {
    let mut found = BTreeMap::new();
    let annotations = &answer["audit_annotations"];
    found.insert("decision", annotations["decision"].clone());
    found.insert("reasons", annotations["reasons"].as_str().unwrap().lines().collect());
    for (name, field) in [("message", "message"), ("pod", "mutated_object"), ("warnings", "warnings")] {
        if let Some(value) = answer.get(field) {
            found.insert(name, value.clone());
        }
    }
    json!(found)
}
