//! What Kubewarden and Artifact Hub are told of the policy is true: `policy-metadata.yml` names what the code reads
//! and the version that Cargo.toml has, and `artifacthub-pkg.yml` is what `kwctl scaffold artifacthub` makes of it.
//!
//! `UPDATE_EXPECT=1 cargo test --test metadata` writes `artifacthub-pkg.yml` anew, with the time of the last version.
//! The format is kwctl's (`policy_artifacthub.rs` of its policy-evaluator, 1.36); where kwctl is installed it is
//! asked, too.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test")]

mod support;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

use fluid_sidecar_layout::Named as _;
use fluid_sidecar_policy::cluster::{self, CAPABILITY, Kind, Masked, Masks};
use kubewarden_policy_sdk::host_capabilities::kubernetes::GetResourceRequest;
use serde_json::{Value, json};
use support::{Cluster, cases, cluster_of, given, metadata, read, root, settings_of, validate};
use tool::{input, yaml};

fn annotation(name: &str) -> String {
    metadata()["annotations"][name].as_str().unwrap_or_else(|| panic!("{name} is missing")).to_string()
}

/// `apiVersion kind` of a list of them.
fn kinds(list: &Value) -> BTreeSet<String> {
    let name = |field: &Value| field.as_str().unwrap().to_string();
    let kinds = list.as_array().unwrap().iter();
    kinds.map(|entry| format!("{} {}", name(&entry["apiVersion"]), name(&entry["kind"]))).collect()
}

#[test]
fn the_package_and_the_metadata_agree() {
    for (name, expected) in [
        ("io.kubewarden.policy.version", env!("CARGO_PKG_VERSION")),
        ("io.kubewarden.policy.title", env!("CARGO_PKG_NAME")),
        ("io.kubewarden.policy.license", env!("CARGO_PKG_LICENSE")),
        ("io.kubewarden.policy.source", env!("CARGO_PKG_REPOSITORY")),
    ] {
        assert_eq!(annotation(name), expected, "{name}");
    }
    // Kubewarden's workflows read it under this name.
    assert_eq!(fs::read_link(root().join("metadata.yml")).unwrap(), Path::new("policy-metadata.yml"));
}

/// A cluster that remembers what it was asked.
struct Recorder {
    cluster: Cluster,
    kinds: RefCell<BTreeSet<String>>,
}

impl cluster::Cluster for Recorder {
    fn get<M: Masks>(&self, request: &GetResourceRequest) -> anyhow::Result<Masked<M>> {
        let kind = json!([{"apiVersion": request.api_version, "kind": request.kind}]);
        self.kinds.borrow_mut().append(&mut kinds(&kind));
        self.cluster.get(request)
    }
}

/// The golden cases together read everything that the policy can read.
#[test]
fn the_metadata_grants_what_the_code_reads_and_no_more() {
    let mut read_kinds = BTreeSet::new();
    for case in cases("tests/cases") {
        let recorder = Recorder { cluster: cluster_of(&case), kinds: RefCell::default() };
        let request = input::request(given(&case, "pod.yaml"), None, "CREATE").unwrap();
        validate(&json!({"request": request.admission, "settings": settings_of(&case)}), &recorder);
        read_kinds.append(&mut recorder.kinds.take());
    }
    let table = Kind::ALL.iter().map(|kind| format!("{} {kind}", kind.facts()));
    assert_eq!(table.collect::<BTreeSet<_>>(), read_kinds, "Kind::ALL and what the cases read");
    assert_eq!(kinds(&metadata()["contextAwareResources"]), read_kinds);
    assert_eq!(metadata()["hostCapabilities"], json!([CAPABILITY]));
}

// --- artifacthub-pkg.yml -----------------------------------------------------------------------------------

/// What kwctl leaves to the moment.
fn lasting(mut package: Value) -> Value {
    for field in ["createdAt", "digest"] {
        package.as_object_mut().unwrap().remove(field);
    }
    package
}

fn document(text: &str) -> Value {
    yaml::parse(text).unwrap().pop().unwrap()
}

#[test]
fn the_artifact_hub_package_is_current() {
    let path = root().join("artifacthub-pkg.yml");
    let committed = if path.exists() { read(&path) } else { json!({"createdAt": "1970-01-01T00:00:00Z"}) };
    let created = committed["createdAt"].as_str().expect("createdAt").to_string();
    let generated = artifact_hub_package(&created);
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        fs::write(&path, generated).unwrap();
        return;
    }
    let expected = lasting(document(&generated));
    let diff = support::same(("generated", &expected), ("artifacthub-pkg.yml", &lasting(committed)));
    assert_eq!(diff, Ok(()), "UPDATE_EXPECT=1 writes it anew");
}

#[test]
fn kwctl_makes_the_same_artifact_hub_package() {
    let files = ["-m", "policy-metadata.yml", "-q", "questions-ui.yml"];
    let kwctl =
        Command::new("kwctl").args(["scaffold", "artifacthub"]).args(files).current_dir(root()).output();
    let Ok(kwctl) = kwctl else {
        support::skip("kwctl is not installed");
        return;
    };
    assert!(kwctl.status.success(), "{}", String::from_utf8_lossy(&kwctl.stderr));
    let theirs = lasting(document(&String::from_utf8(kwctl.stdout).unwrap()));
    let committed = lasting(read(&root().join("artifacthub-pkg.yml")));
    assert_eq!(support::same(("kwctl's", &theirs), ("artifacthub-pkg.yml", &committed)), Ok(()));
}

/// In kwctl's order and, as far as a reader sees it, in kwctl's style.
fn artifact_hub_package(created: &str) -> String {
    let metadata = metadata();
    let kubewarden = |name: &str| annotation(&format!("io.kubewarden.policy.{name}"));
    let (version, source) = (kubewarden("version"), kubewarden("source"));
    let image = format!("{}:v{version}", kubewarden("ociUrl"));
    let keywords: String =
        annotation("io.artifacthub.keywords").split(',').map(|word| format!("- {}\n", word.trim())).collect();
    let install = format!(
        "The policy can be obtained using [kwctl](https://docs.kubewarden.io/howtos/install-kwctl):\n\
         ```console\nkwctl pull {image}\n```\n\
         Then, generate the policy manifest and tune it to your liking. For example:\n\
         ```console\nkwctl scaffold manifest -t ClusterAdmissionPolicy registry://{image}\n```\n"
    );
    let author = kubewarden("author");
    let (name, email) = author.split_once(" <").expect("author: NAME <ADDRESS>");
    let rule_fields = ["apiGroups", "apiVersions", "resources", "operations"];
    let resources: String = kinds(&metadata["contextAwareResources"])
        .iter()
        .map(|kind| kind.split_once(' ').unwrap())
        .map(|(api_version, kind)| format!("- apiVersion: {api_version}\n  kind: {kind}\n"))
        .collect();
    let questions = fs::read_to_string(root().join("questions-ui.yml")).unwrap();
    format!(
        "# Kubewarden Artifacthub Package config\n\
         #\n\
         # Use this config to submit the policy to https://artifacthub.io.\n\
         #\n\
         # This config can be saved to its default location with:\n\
         #   kwctl scaffold artifacthub > artifacthub-pkg.yml\n\
         version: {version}\n\
         name: {title}\n\
         displayName: {display_name}\n\
         createdAt: {created}\n\
         description: {description}\n\
         license: {license}\n\
         homeURL: {url}\n\
         containersImages:\n\
         - name: policy\n  image: {image}\n\
         keywords:\n{keywords}\
         links:\n\
         - name: policy\n  url: {source}/releases/download/v{version}/policy.wasm\n\
         - name: source\n  url: {source}\n\
         install: {install}\
         maintainers:\n\
         - name: {name}\n  email: {email}\n\
         provider:\n  name: kubewarden\n\
         recommendations:\n\
         - url: https://artifacthub.io/packages/helm/kubewarden/kubewarden-controller\n\
         annotations:\n\
         \x20 kubewarden/contextAwareResources: {resources}\
         \x20 kubewarden/mutation: '{mutation}'\n\
         \x20 kubewarden/questions-ui: {questions}\
         \x20 kubewarden/resources: {pods}\n\
         \x20 kubewarden/rules: {rules}",
        title = kubewarden("title"),
        display_name = annotation("io.artifacthub.displayName"),
        description = kubewarden("description"),
        license = kubewarden("license"),
        url = kubewarden("url"),
        install = literal(&install, 2),
        email = email.trim_end_matches('>'),
        resources = literal(&resources, 4),
        mutation = metadata["mutating"],
        questions = literal(&questions, 4),
        pods = annotation("io.artifacthub.resources"),
        rules = literal(&list_of_lists(&metadata["rules"], &rule_fields), 4),
    )
}

/// A text of whole lines, as YAML has it.
fn literal(text: &str, indent: usize) -> String {
    text.lines().fold("|\n".into(), |mut block, line| {
        let indent = if line.is_empty() { 0 } else { indent };
        let _ = writeln!(block, "{:indent$}{line}", "");
        block
    })
}

/// Maps whose fields are lists of strings, as serde_yaml prints them.
fn list_of_lists(maps: &Value, fields: &[&str]) -> String {
    let mut text = String::new();
    for map in maps.as_array().unwrap() {
        for (number, field) in fields.iter().enumerate() {
            let _ = writeln!(text, "{} {field}:", if number == 0 { "-" } else { " " });
            for value in map[field].as_array().unwrap() {
                let value = value.as_str().unwrap();
                let _ = writeln!(text, "  - {}", if value.is_empty() { "''" } else { value });
            }
        }
    }
    text
}
