//! What the tests share: the policy's library, run on manifests as the compiled policy is by `kubectl fluid-sidecar`.
#![allow(
    clippy::expect_used,
    clippy::panic,
    dead_code,
    unreachable_pub,
    missing_docs,
    reason = "a module of each test program, which uses a part of it"
)]

pub mod admission;
pub mod expect;
pub mod golden;
pub mod manifests;
pub mod validation;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::anyhow;
use fluid_sidecar_policy::cluster::{self, Masked, Masks};
use fluid_sidecar_policy::review::review;
use kubewarden_policy_sdk::host_capabilities::kubernetes::GetResourceRequest;
use kubewarden_policy_sdk::response::ValidationResponse;
use serde_json::{Value, json};
use tool::objects::Objects;
use tool::{input, yaml};

/// The cluster of a test.
pub struct Cluster(pub Objects);

impl cluster::Cluster for Cluster {
    fn get<M: Masks>(&self, request: &GetResourceRequest) -> anyhow::Result<Masked<M>> {
        let request = serde_json::to_vec(request).unwrap();
        // As the text reaches a guest through waPC.
        let answer = self.0.answer("kubernetes", "get_resource", &request);
        Ok(serde_json::from_slice(&answer.map_err(|error| anyhow!("Host error: {error}"))?)?)
    }
}

impl Cluster {
    pub fn of(documents: Vec<Value>) -> Cluster {
        let mut objects = Objects::default();
        for document in documents {
            objects.add(document).unwrap();
        }
        Cluster(objects)
    }
}

/// Reviews the creation of a manifest's Pod.
pub fn create(manifest: &Value, cluster: &Cluster, settings: &Value) -> Value {
    create_in(None, manifest, cluster, settings)
}

/// The same in a namespace that the manifest does not name.
pub fn create_in(namespace: Option<&str>, manifest: &Value, cluster: &Cluster, settings: &Value) -> Value {
    let request = input::request(manifest.clone(), namespace, "CREATE").unwrap();
    validate(&json!({"request": request.admission, "settings": settings}), cluster)
}

/// The answer to `validate`, as the host sees it.
pub fn validate(payload: &Value, host: &impl cluster::Cluster) -> Value {
    as_seen(review(payload.to_string().as_bytes(), host))
}

/// An answer as the host sees it.
pub fn as_seen(response: ValidationResponse) -> Value {
    let mut answer = serde_json::to_value(response).unwrap();
    // To the host, `null` is as good as absent.
    answer.as_object_mut().unwrap().retain(|_, value| !value.is_null());
    answer
}

/// The project's directory.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Says that a test does not run, past the capture of the test runner: `scripts/test.sh` counts such lines.
pub fn skip(reason: &str) {
    let mut stderr = std::io::stderr();
    writeln!(stderr, "skipped test: {reason}").unwrap();
}

/// What is in a directory of the project, in order.
pub fn files(directory: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(root().join(directory)).unwrap();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

/// The cases of a directory of the project, in order.
pub fn cases(directory: &str) -> Vec<PathBuf> {
    golden::below(&root().join(directory))
}

/// The cluster that a case is about.
pub fn cluster_of(case: &Path) -> Cluster {
    let objects = Some(golden::given(case, "objects.yaml")).filter(|path| path.exists());
    Cluster(Objects::read(objects.as_slice()).unwrap())
}

/// One of the files that a case is given; `null` when there is none.
pub fn given(case: &Path, file: &str) -> Value {
    read(&golden::given(case, file))
}

/// The settings of a case.
pub fn settings_of(case: &Path) -> Value {
    let settings = given(case, "settings.yaml");
    if settings.is_null() { json!({}) } else { settings }
}

/// Its path below the directory of all cases.
pub fn name(case: &Path) -> String {
    let path = case.strip_prefix(root()).unwrap_or(case);
    path.iter().skip(2).collect::<PathBuf>().display().to_string()
}

/// A file that no test reads is one that somebody believes in for nothing.
pub fn has_only(case: &Path, files: &[&str]) {
    for entry in fs::read_dir(case).unwrap() {
        let file = entry.unwrap().file_name().into_string().unwrap();
        assert!(files.contains(&file.as_str()), "{}/{file} is stale: no test reads it", name(case));
    }
}

/// The one document of a file; `null` when there is none.
pub fn read(path: &Path) -> Value {
    if path.exists() { yaml::read_file(path).unwrap().pop().unwrap_or_default() } else { Value::Null }
}

/// What Kubewarden is told of the policy.
pub fn metadata() -> Value {
    read(&root().join("policy-metadata.yml"))
}

/// Compares the answer with the case's `expected.yaml`, or writes that with `UPDATE_EXPECT=1`.
pub fn compare(case: &Path, answer: &Value) -> Result<(), String> {
    let found = summary(answer);
    let path = case.join("expected.yaml");
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        fs::write(&path, yaml::print(&found).unwrap()).unwrap();
        return Ok(());
    }
    same(("expected", &read(&path)), ("found", &found)).map_err(|diff| format!("{}:\n{diff}", name(case)))
}

/// The error is a diff of the two as YAML.
pub fn same(expected: (&str, &Value), found: (&str, &Value)) -> Result<(), String> {
    if expected.1 == found.1 {
        return Ok(());
    }
    let (left, right) = (yaml::print(expected.1).unwrap(), yaml::print(found.1).unwrap());
    let diff = similar::TextDiff::from_lines(&left, &right);
    Err(diff.unified_diff().header(expected.0, found.0).to_string())
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

/// Whatever a case is about: planning again on the outcome changes nothing.
pub fn is_settled(case: &Path, answer: &Value, again: impl Fn(&Value) -> Value) {
    if let Some(pod) = answer.get("mutated_object") {
        let (name, again) = (name(case), again(pod));
        assert_eq!(again.get("mutated_object"), None, "{name}: a second run changes the Pod again");
        assert_eq!(again["accepted"], true, "{name}: {again}");
    }
}
