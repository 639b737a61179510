//! Secrets that anybody would recognise go through every output of the policy: the Pod's annotation, warnings, messages,
//! audit annotations, answers to settings, and what `kubectl fluid-sidecar` explains. None may show any.
//!
//! Texts that stand in the Pod anyway (`options`, literal variables) are in it afterwards, too; nowhere else.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test")]

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use fluid_sidecar_policy::review::review;
use fluid_sidecar_policy::settings::validate_settings;
use serde_json::{Value, json};
use support::{Cluster, as_seen, cases, cluster_of, create, given, name, root};

const CANARY: &str = "CANARY-2f9a81";

/// Puts the canary where a literal secret could stand: values of variables, options and Secrets, and behind all text that
/// is data of the user alone. How many there are.
fn poison(value: &mut Value) -> usize {
    match value {
        Value::Array(elements) => elements.iter_mut().map(poison).sum(),
        Value::Object(map) => {
            let variable = map.get("name").is_some_and(Value::is_string) && map.len() == 2;
            let mut put = 0;
            for (key, value) in map.iter_mut() {
                let data = matches!(key.as_str(), "options" | "sharedOptions" | "data" | "stringData");
                match value {
                    Value::String(text) if key == "value" && variable => {
                        *text = CANARY.into();
                        put += 1;
                    }
                    Value::Object(entries) if data => {
                        entries.insert("unknown-secret".into(), CANARY.into());
                        put += 1;
                    }
                    inner => put += poison(inner),
                }
            }
            put
        }
        _ => 0,
    }
}

/// A Secret under every name that the objects refer to: were one read, its content would be somewhere.
fn secrets(objects: &[Value]) -> Vec<Value> {
    let text = json!(objects).to_string();
    let names = text.split(r#""secretKeyRef":{"#).skip(1).filter_map(|rest| {
        let reference: Value = serde_json::from_str(&format!("{{{}}}", rest.split('}').next()?)).ok()?;
        Some(reference["name"].as_str()?.to_owned())
    });
    let secret = |name: String| {
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": "default"},
            "stringData": {"id": CANARY, "secret": CANARY}})
    };
    let names: std::collections::BTreeSet<_> = names.collect();
    names.into_iter().map(secret).collect()
}

/// Everything of an answer but the Pod, and of the Pod what the policy says of it.
fn said(answer: &Value) -> String {
    let mut answer = answer.clone();
    let annotation =
        answer["mutated_object"]["metadata"]["annotations"]["fluid-sidecar-policy/injected"].take();
    answer.as_object_mut().unwrap().remove("mutated_object");
    format!("{answer}{annotation}")
}

#[test]
fn no_answer_shows_a_secret() {
    let (mut poisoned, mut injected, mut rejected) = (0, 0, 0);
    for case in cases("tests/cases") {
        let Some(mut objects) = given_objects(&case) else { continue };
        poisoned += objects.iter_mut().map(poison).sum::<usize>();
        objects.extend(secrets(&objects));
        let cluster = Cluster::of(objects);
        let settings = given_or(&case, "settings.yaml");
        for settings in [settings.clone(), with(&settings, "onUnresolved", "allow")] {
            let answer = create(&given(&case, "pod.yaml"), &cluster, &settings);
            let said = said(&answer);
            assert!(!said.contains(CANARY), "{}: {said}", name(&case));
            injected += usize::from(answer.get("mutated_object").is_some());
            rejected += usize::from(answer["accepted"] == false);
        }
    }
    assert!(poisoned > 30 && injected > 30 && rejected > 10, "{poisoned}, {injected}, {rejected}");
}

fn given_objects(case: &Path) -> Option<Vec<Value>> {
    let file = support::golden::given(case, "objects.yaml");
    file.exists().then(|| tool::yaml::read_file(&file).unwrap())
}

fn given_or(case: &Path, file: &str) -> Value {
    match support::golden::given(case, file).exists() {
        true => given(case, file),
        false => json!({}),
    }
}

fn with(settings: &Value, name: &str, value: &str) -> Value {
    let mut settings = settings.clone();
    if settings.is_object() {
        settings[name] = value.into();
    }
    settings
}

/// A Dataset whose keys are in a Secret, which lies beside the objects that the policy may read: not even the Pod, nor what
/// `kubectl fluid-sidecar` explains of it, has any of it.
#[test]
fn an_explanation_shows_no_content_of_a_secret() {
    let case = root().join("tests/cases/fluid-fuse-for-a-dataset-with-secrets");
    let mut objects = given_objects(&case).unwrap();
    let secrets = secrets(&objects);
    assert!(!secrets.is_empty());
    objects.extend(secrets);
    let (pod, settings) = (given(&case, "pod.yaml"), given(&case, "settings.yaml"));
    let answer = create(&pod, &Cluster::of(objects.clone()), &settings);
    assert!(answer["mutated_object"].to_string().contains("secretKeyRef"), "{answer:#}");
    assert!(!answer.to_string().contains(CANARY), "{answer:#}");

    let built = |variable: &str, default: &str| {
        root().join(std::env::var_os(variable).map_or_else(|| default.into(), PathBuf::from))
    };
    let tool = built("TOOL", "target/debug/kubectl-fluid_sidecar");
    let policy = built("POLICY", "target/policy.wasm");
    if !tool.exists() || !policy.exists() {
        return support::skip(
            "target/debug/kubectl-fluid_sidecar and target/policy.wasm are not built (make wasm tools)",
        );
    }
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("canary");
    fs::create_dir_all(&directory).unwrap();
    let write = |file: &str, content: &Value| {
        let path = directory.join(file);
        fs::write(&path, content.to_string()).unwrap();
        path
    };
    let pod = write("pod.json", &pod);
    let objects = write("objects.json", &json!({"kind": "List", "items": objects}));
    let settings = write("settings.json", &settings);
    for output in ["explain", "json", "pod", "patch", "response", "request"] {
        let mut command = Command::new(&tool);
        command.arg("explain").arg(&pod).args(["--output", output, "--policy"]).arg(&policy);
        let answer =
            command.arg("--objects").arg(&objects).arg("--settings").arg(&settings).output().unwrap();
        let said = String::from_utf8_lossy(&[answer.stdout, answer.stderr].concat()).into_owned();
        assert!(answer.status.success() && !said.contains(CANARY), "{output}: {said}");
    }
}

/// What cannot be read or served is told without what it says: URLs, options, variables, broken requests.
#[test]
fn no_refusal_quotes_a_secret() {
    let case = root().join("tests/cases/fluid-fuse-for-a-dataset-with-secrets");
    let (pod, settings) = (given(&case, "pod.yaml"), given(&case, "settings.yaml"));
    let mut refused = 0;
    for (pointer, value) in [
        ("/spec/mounts/0/mountPoint", json!(format!("oss://key:{CANARY}@bucket/train"))),
        ("/spec/mounts/0/mountPoint", json!(format!("oss://bucket/train?token={CANARY}"))),
        ("/spec/mounts/0/mountPoint", json!(format!("ftp://key:{CANARY}@host/train"))),
        ("/spec/mounts/0/mountPoint", json!({"url": CANARY})),
        ("/spec/mounts/0/options", json!({"fs.oss.accessKeySecret": CANARY})),
        ("/spec/mounts/0/options", json!({"timeout": {"secret": CANARY}})),
        ("/spec/mounts/0/options", json!(CANARY)),
        ("/spec/mounts/0/encryptOptions", json!([{"name": "fs.oss.accessKeySecret", "valueFrom": CANARY}])),
        ("/spec/mounts/0/encryptOptions", json!(CANARY)),
        ("/spec/sharedOptions", json!({"fs.oss.accessKeySecret": CANARY})),
        ("/spec/sharedEncryptOptions", json!(CANARY)),
        ("/spec/mounts", json!(CANARY)),
        ("/status/runtimes", json!(CANARY)),
    ] {
        let mut objects = given_objects(&case).unwrap();
        let dataset = objects.iter_mut().find(|it| it["kind"] == "Dataset").unwrap();
        *dataset.pointer_mut(pointer).unwrap() = value.clone();
        let answer = create(&pod, &Cluster::of(objects), &settings);
        let said = said(&answer);
        assert!(!said.contains(CANARY), "{pointer} = {value}: {said}");
        refused += usize::from(answer["accepted"] == false);
    }
    assert!(refused > 5, "{refused}");

    for payload in [
        format!("{{\"request\": \"{CANARY}\"}}"),
        format!(
            "{{\"request\": {{\"object\": {{\"kind\": \"Pod\", \"spec\": {{\"volumes\": \"{CANARY}\"}}}}}}, \"settings\": {{}}}}"
        ),
        format!("{{\"settings\": {{\"onUnresolved\": \"{CANARY}\"}}, \"request\": {{}}}}"),
        format!("{CANARY} is no JSON"),
    ] {
        let answer = as_seen(review(payload.as_bytes(), &cluster_of(&case)));
        assert!(!said(&answer).contains(CANARY), "{payload}: {answer}");
    }

    // Values that are secrets or may be; a setting whose values are words of ours may quote a wrong one.
    for settings in [
        json!({"sidecars": {"thin": {"env": [{"name": "SECRET", "value": {"of": CANARY}}]}}}),
        json!({"sidecars": {"thin": {"env": {"SECRET": {"of": CANARY}}}}}),
        json!({"datasetsFrom": "settings", "sidecarFrom": "fluid-fuse", "sidecarImages": {"thin": "fluid-fuse"},
            "datasets": [{"claim": "a", "source": format!("s3://key:{CANARY}@bucket")}]}),
    ] {
        let answer = validate_settings(settings.to_string().as_bytes());
        assert!(!answer.valid, "{settings}");
        assert!(
            !answer.message.clone().unwrap_or_default().contains(CANARY),
            "{settings}: {:?}",
            answer.message
        );
    }
}
