//! The compiled policy, on all golden cases of the repository and on broken ones.
//!
//! What the cases expect of the library they must get from the module; and whatever it is asked, it must
//! answer: a trap would be an internal error of the policy server for a Pod that anybody may create.
#![allow(clippy::panic, clippy::unwrap_used, reason = "a test")]

use std::sync::{Arc, OnceLock};

use serde_json::{Value, json};
use tool::engine::{Host, Policy};
use tool::objects::Objects;
use tool::{input, yaml};

use crate::support::{golden, root};

mod support;

/// Compiled once.
fn policy() -> Option<&'static Policy> {
    static POLICY: OnceLock<Option<Policy>> = OnceLock::new();
    POLICY.get_or_init(|| Some(Policy::load(&support::policy()?).unwrap())).as_ref()
}

/// One question with its cluster, and the answer as `expected.yaml` has it.
struct Case {
    name: String,
    request: Value,
    settings: Value,
    host: Host,
    expected: Value,
}

impl Case {
    /// The payload of `validate`.
    fn payload(&self) -> Value {
        json!({"request": self.request, "settings": self.settings})
    }
}

/// `tests/cases`, and `tests/fluid` where one file holds both the Pod and the cluster.
fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for directory in ["tests/cases", "tests/fluid"] {
        for path in golden::below(&root().join(directory)) {
            let read = |file: &str| match golden::given(&path, file) {
                file if file.exists() => yaml::read_file(&file).unwrap(),
                _ => Vec::new(),
            };
            let one = |file: &str| read(file).pop().unwrap_or_default();
            let case = one("case.yaml");
            let (manifest, documents, settings) = if case.is_null() {
                (one("pod.yaml"), read("objects.yaml"), one("settings.yaml"))
            } else {
                let mut pod = case["pod"].clone();
                // As tests/fluid.rs asks about Pods that Fluid's webhook was asked about.
                if path.join("fluid-v1.0.3.yaml").exists() {
                    for label in ["serverless.fluid.io/inject", "unprivileged.sidecar.fluid.io/inject"] {
                        pod["metadata"]["labels"][label] = "true".into();
                    }
                }
                (pod, case["objects"].as_array().cloned().unwrap_or_default(), Value::Null)
            };
            let namespace = case["namespace"].as_str().or((!case.is_null()).then_some("default"));
            let mut objects = Objects::default();
            for document in documents {
                objects.add(document).unwrap();
            }
            cases.push(Case {
                name: path.strip_prefix(root()).unwrap().display().to_string(),
                request: input::request(manifest, namespace, "CREATE").unwrap().admission,
                settings: if settings.is_null() { json!({}) } else { settings },
                host: Arc::new(move |namespace, operation, payload| {
                    objects.answer(namespace, operation, payload)
                }),
                expected: one("expected.yaml"),
            });
        }
    }
    cases
}

/// An answer; to the host, `null` is as good as absent.
fn read(answer: &[u8]) -> Value {
    let mut answer: Value = serde_json::from_slice(answer).unwrap();
    answer.as_object_mut().unwrap().retain(|_, value| !value.is_null());
    answer
}

#[test]
fn the_module_answers_every_case_as_expected() {
    let Some(policy) = policy() else { return };
    let cases = cases();
    assert!(cases.len() > 100, "{} cases", cases.len());
    for case in cases {
        let answer = policy.call("validate", case.payload().to_string().as_bytes(), &case.host);
        let answer = read(&answer.unwrap());
        let (name, expected, annotations) = (&case.name, &case.expected, &answer["audit_annotations"]);
        assert_eq!(annotations["decision"], expected["decision"], "{name}");
        let reasons: Value = annotations["reasons"].as_str().unwrap().lines().collect();
        assert_eq!(reasons, expected["reasons"], "{name}");
        assert_eq!(answer.get("mutated_object"), expected.get("pod"), "{name}");
        for key in ["message", "warnings"] {
            assert_eq!(answer.get(key), expected.get(key), "{name}");
        }
        assert_eq!(answer["accepted"], expected["decision"] != "rejected", "{name}");
    }
}

/// The library in the program is the policy of the module.
#[test]
fn the_linked_policy_answers_as_the_module_does() {
    let Some(module) = policy() else { return };
    let linked = Policy::linked();
    let same = |name: &str, operation: &str, payload: &[u8], host: &Host| {
        let answers = [module, &linked].map(|policy| policy.call(operation, payload, host));
        match answers {
            [Ok(module), Ok(linked)] => {
                let [module, linked] =
                    [module, linked].map(|it| serde_json::from_slice::<Value>(&it).unwrap());
                assert_eq!(linked, module, "{name}: {operation}");
                true
            }
            [Err(module), Err(linked)] => {
                // Before and behind it the engine has words of its own.
                let text = linked.to_string();
                let own = text.trim_start_matches(&format!("the policy's {operation} failed: ")).to_string();
                assert!(format!("{module:#}").contains(&own), "{name}: {operation}: {module:#}, {linked:#}");
                false
            }
            [module, linked] => panic!("{name}: {operation}: {module:?}, {linked:?}"),
        }
    };
    let no_reads = tool::engine::no_reads();
    assert!(same("any", "protocol_version", &[], &no_reads));
    assert!(!same("no JSON", "uninject", b"{", &no_reads));
    let status = json!({"metadata": {"annotations": {"fluid-sidecar-policy/injected": "x"}}});
    assert!(!same("no status", "uninject", status.to_string().as_bytes(), &no_reads));
    let mut injected = 0;
    for case in cases() {
        assert!(same(&case.name, "validate", case.payload().to_string().as_bytes(), &case.host));
        assert!(same(&case.name, "validate_settings", case.settings.to_string().as_bytes(), &no_reads));
        if let Some(pod) = case.expected.get("pod") {
            assert!(same(&case.name, "uninject", pod.to_string().as_bytes(), &no_reads));
            injected += 1;
        }
    }
    assert!(injected > 50, "{injected}");
}

/// Numbers that are the same in every run (SplitMix64).
struct Seeded(u64);

impl Seeded {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut number = self.0;
        number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((number ^ (number >> 31)) % u64::try_from(limit).unwrap()).unwrap()
    }

    /// Something else in the place of one node; or, of every fourth document, only its beginning.
    fn broken(&mut self, mut document: Value) -> Vec<u8> {
        if self.below(4) == 0 {
            let mut bytes = document.to_string().into_bytes();
            bytes.truncate(self.below(bytes.len()));
            return bytes;
        }
        let scalars = [
            json!(null),
            json!(true),
            json!(-1),
            json!(1e300),
            json!(u64::MAX),
            json!(""),
            json!("ä\u{0}"),
            json!("Always"),
            json!("{\"sidecars\":7}"),
        ];
        let mut pointers = Vec::new();
        collect_pointers(&document, String::new(), &mut pointers);
        let node = document.pointer_mut(&pointers[self.below(pointers.len())]).unwrap();
        *node = scalars[self.below(scalars.len())].clone();
        document.to_string().into_bytes()
    }
}

fn collect_pointers(value: &Value, pointer: String, all: &mut Vec<String>) {
    let children: Vec<(String, &Value)> = match value {
        Value::Array(entries) => {
            entries.iter().enumerate().map(|(index, entry)| (index.to_string(), entry)).collect()
        }
        Value::Object(map) => map.iter().map(|(key, entry)| (key.clone(), entry)).collect(),
        _ => Vec::new(),
    };
    for (key, child) in children {
        let key = key.replace('~', "~0").replace('/', "~1");
        collect_pointers(child, format!("{pointer}/{key}"), all);
    }
    all.push(pointer);
}

#[test]
fn the_module_answers_whatever_it_is_asked() {
    const BROKEN: usize = 200;
    let Some(policy) = policy() else { return };
    let cases = cases();
    let mut seeded = Seeded(1);
    let (mut accepted, mut invalid, mut refused) = (0, 0, 0);
    for number in 0..BROKEN {
        let case = &cases[seeded.below(cases.len())];
        let ask = |operation: &str, payload: &[u8]| {
            let answer = policy.call(operation, payload, &case.host);
            answer.map_err(|error| {
                let payload = String::from_utf8_lossy(payload).into_owned();
                (format!("{number}, {} of {}: {error:#}", operation, case.name), payload)
            })
        };
        let payload = seeded.broken(case.payload());
        let answer = ask("validate", &payload).unwrap();
        let answer = read(&answer);
        assert_eq!(answer.get("message").is_some(), answer["accepted"] == false, "{number}: {answer}");
        accepted += usize::from(answer["accepted"] == true);

        let settings = if case.settings == json!({}) { every_setting() } else { case.settings.clone() };
        let answer = ask("validate_settings", &seeded.broken(settings)).unwrap();
        let answer = read(&answer);
        assert_eq!(answer.get("message").is_some(), answer["valid"] == false, "{number}: {answer}");
        invalid += usize::from(answer["valid"] == false);

        // Half of the time it is the status that is broken, which is JSON inside of JSON.
        let mut pod = case.expected.get("pod").unwrap_or(&case.request["object"]).clone();
        let status = pod.pointer_mut("/metadata/annotations/fluid-sidecar-policy~1injected");
        let pod = match status.filter(|_| number % 2 == 0) {
            Some(status) => {
                let parsed = serde_json::from_str(status.as_str().unwrap()).unwrap();
                *status = String::from_utf8_lossy(&seeded.broken(parsed)).into();
                pod.to_string().into_bytes()
            }
            None => seeded.broken(pod),
        };
        match ask("uninject", &pod) {
            Ok(answer) => drop(serde_json::from_slice::<Value>(&answer).unwrap()),
            Err((text, payload)) => {
                refused += 1;
                assert!(is_the_policys_own(&text), "{text}\n{payload}");
            }
        }
    }
    // Otherwise the documents were broken too little, or beyond recognition.
    for (what, count) in [("accepted", accepted), ("invalid", invalid), ("refused", refused)] {
        assert!((10..BROKEN - 10).contains(&count), "{count} of {BROKEN} are {what}");
    }
}

/// The text of an error that the policy returns: of its own, or what the JSON parser says. A trap of the
/// module has a backtrace of it.
fn is_the_policys_own(text: &str) -> bool {
    let own = text.contains("annotation fluid-sidecar-policy/injected cannot be read: ");
    let parser = text.contains(" at line 1 column ") || text.contains("utf-8");
    (own || parser) && !["wasm backtrace", "wasm trap"].iter().any(|word| text.contains(word))
}

/// Settings that have something to break everywhere.
fn every_setting() -> Value {
    json!({
        "destination": "auto",
        "destinations": {"eci": {"device": "extendedResource", "order": "nativeSidecar",
            "exit": "kubelet", "readinessProbe": false}},
        "datasetsFrom": "settings",
        "datasets": [{"claim": "data-*", "namespace": "team-?", "runtime": "jindo", "source": "file:///mnt"}],
        "gateTimeoutSeconds": 60,
        "mountRoot": "/runtime-mnt",
        "podOverrides": {"cpu": "1", "memory": "1Gi"},
        "selectors": [{"podLabels": {"a": "b"}, "namespaceLabels": {"c": "d"}, "destination": "acs"}],
        "sidecarImages": {"jindo": "jindo", "thin": "thin"},
        "sidecars": {"thin": {"args": ["-v"], "env": {"A": "b", "N": 1}, "limits": {"cpu": 2},
            "cacheDirectory": "/cache", "cacheSizeLimit": "1Gi", "imagePullSecrets": ["pull"]}},
        "vfuseResourceName": "fluid.io/fuse",
    })
}
