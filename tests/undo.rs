//! An injection can be undone, and damage to it is seen.
#![allow(clippy::unwrap_used, reason = "a test")]

mod support;

use std::path::{Path, PathBuf};

use fluid_sidecar_policy::status::uninject;
use serde_json::{Value, json};
use support::{cases, cluster_of, create, given, name, read, root, settings_of};

/// Each case that injects, with its Pod before and after.
fn injected() -> Vec<(String, Value, Value)> {
    let after = |case: &Path| read(&case.join("expected.yaml")).get("pod").cloned();
    let before = |case: &Path| given(case, "pod.yaml");
    let injected =
        cases("tests/cases").into_iter().filter_map(|case| Some((name(&case), before(&case), after(&case)?)));
    // The controller's Pod of a workload is not the manifest.
    injected.filter(|(_, before, _)| before["kind"] == "Pod").collect()
}

#[test]
fn uninject_gives_back_the_pod() {
    let cases = injected();
    assert!(cases.len() > 20);
    for (name, before, after) in cases {
        let mut pod = after;
        assert!(uninject(&mut pod).unwrap(), "{name}");
        assert_eq!(pod, before, "{name}");
        assert!(!uninject(&mut pod).unwrap(), "{name}");
    }
}

/// Verifies a Pod of a case as a validating policy does that runs after all others.
fn verify(case: &Path, pod: &Value) -> Value {
    let mut settings = settings_of(case);
    settings["mode"] = "verify".into();
    create(pod, &cluster_of(case), &settings)
}

/// The directory of a case, and what its Pod becomes.
fn outcome(case: &str) -> (PathBuf, Value) {
    let directory = root().join("tests/cases").join(case);
    let pod = read(&directory.join("expected.yaml"))["pod"].clone();
    (directory, pod)
}

#[test]
fn what_was_injected_is_verified() {
    for case in cases("tests/cases") {
        let Some(pod) = read(&case.join("expected.yaml")).get("pod").cloned() else { continue };
        let answer = verify(&case, &pod);
        assert_eq!(answer["accepted"], true, "{}: {answer}", name(&case));
        assert_eq!(answer.get("mutated_object"), None);
    }
}

/// A sidecar of its own for the application's machine, a DaemonSet's on a node, and `fluid-fuse` on one.
const VERIFIED: [&str; 3] = ["seed-thin", "kubernetes-native-sidecar", "kubernetes-fluid-fuse"];

#[test]
fn what_the_api_server_and_others_add_is_no_damage() {
    for case in VERIFIED {
        let (case, mut pod) = outcome(case);
        for list in ["containers", "initContainers"] {
            for container in pod["spec"][list].as_array_mut().into_iter().flatten() {
                container["imagePullPolicy"] = "Always".into();
                container["terminationMessagePath"] = "/dev/termination-log".into();
                for (kind, amount) in [("limits", "3"), ("requests", "250m")] {
                    container["resources"][kind]["cpu"] = amount.into();
                }
                add(&mut container["env"], json!({"name": "OTEL_SERVICE_NAME", "value": "app"}));
                add(&mut container["volumeMounts"], json!({"name": "ca", "mountPath": "/etc/ssl/certs"}));
                if container["readinessProbe"].is_object() {
                    container["readinessProbe"]["failureThreshold"] = 3.into();
                }
            }
        }
        add(
            &mut pod["spec"]["volumes"],
            json!({"name": "ca", "configMap": {"name": "ca", "defaultMode": 420}}),
        );
        add(&mut pod["spec"]["tolerations"], json!({"key": "a", "operator": "Exists"}));
        let proxy = json!({"name": "istio-proxy", "image": "proxyv2", "restartPolicy": "Always"});
        if let Some(list) = pod["spec"]["initContainers"].as_array_mut() {
            list.insert(0, proxy);
        }
        let answer = verify(&case, &pod);
        assert_eq!(answer["accepted"], true, "{}: {answer}", name(&case));
    }
}

fn add(list: &mut Value, element: Value) {
    if list.is_null() {
        *list = json!([]);
    }
    list.as_array_mut().unwrap().push(element);
}

/// The paths of the texts, numbers and truth values of a document.
fn leaves(value: &Value, path: String, all: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            map.iter()
                .for_each(|(key, value)| leaves(value, format!("{path}/{}", key.replace('/', "~1")), all));
        }
        Value::Array(list) => {
            list.iter().enumerate().for_each(|(index, value)| leaves(value, format!("{path}/{index}"), all));
        }
        _ => all.push(path),
    }
}

#[test]
fn security_f13_whatever_is_replaced_in_an_injection_is_seen() {
    // Amounts are others' to change, and when an image is pulled.
    let free = |path: &str| {
        path.ends_with("/imagePullPolicy") || path.contains("/resources/") && !path.contains("~1vfuse")
    };
    for case in VERIFIED {
        let (directory, pod) = outcome(case);
        let status: Value = annotation(&pod).parse().unwrap();
        let names = |list: &Value, key: &str| -> Vec<Value> {
            list.as_array().unwrap().iter().map(|entry| entry[key].clone()).collect()
        };
        let sidecars = names(&status["sidecars"], "container");
        let mut volumes = names(&status["claims"], "volume");
        for sidecar in status["sidecars"].as_array().unwrap() {
            volumes.extend(sidecar["volumes"].as_array().into_iter().flatten().cloned());
        }
        let mut paths = Vec::new();
        for (list, injected) in
            [("containers", &sidecars), ("initContainers", &sidecars), ("volumes", &volumes)]
        {
            for (index, element) in pod["spec"][list].as_array().into_iter().flatten().enumerate() {
                if injected.contains(&element["name"]) {
                    leaves(element, format!("/spec/{list}/{index}"), &mut paths);
                }
            }
        }
        paths.retain(|path| !free(path));
        assert!(paths.len() > 30, "{paths:?}");
        for path in paths {
            let mut pod = pod.clone();
            let leaf = pod.pointer_mut(&path).unwrap();
            *leaf = match leaf {
                Value::Bool(value) => json!(!*value),
                Value::Number(_) => json!(7),
                _ => json!("evil"),
            };
            let answer = verify(&directory, &pod);
            assert_eq!(answer["accepted"], false, "{case}: {path} was replaced: {answer}");
        }
    }
}

fn annotation(pod: &Value) -> &str {
    pod["metadata"]["annotations"]["fluid-sidecar-policy/injected"].as_str().unwrap()
}

#[test]
fn damage_is_rejected_with_the_field() {
    type Damage = fn(&mut Value);
    fn sidecar(pod: &mut Value) -> &mut Value {
        &mut pod["spec"]["containers"][0]
    }
    fn forge(pod: &mut Value, what: &str, with: &str) {
        let forged = annotation(pod).replace(what, with);
        pod["metadata"]["annotations"]["fluid-sidecar-policy/injected"] = forged.into();
    }
    let damages: &[(&str, Damage, &str)] = &[
        (
            "seed-thin",
            |pod| drop(pod["spec"]["containers"].as_array_mut().unwrap().remove(0)),
            "spec.containers[fluid-fuse] is missing",
        ),
        (
            "seed-thin",
            |pod| pod["spec"]["containers"].as_array_mut().unwrap().swap(0, 1),
            "container app now starts before sidecar fluid-fuse",
        ),
        (
            "seed-thin",
            |pod| drop(sidecar(pod).as_object_mut().unwrap().remove("resources")),
            "spec.containers[fluid-fuse].resources is missing",
        ),
        (
            "seed-thin",
            |pod| drop(sidecar(pod).as_object_mut().unwrap().remove("lifecycle")),
            "spec.containers[fluid-fuse].lifecycle is missing",
        ),
        (
            "seed-thin",
            |pod| add(&mut sidecar(pod)["env"], json!({"name": "LD_PRELOAD", "value": "/evil.so"})),
            "spec.containers[fluid-fuse].env[LD_PRELOAD] was added",
        ),
        (
            "seed-thin",
            |pod| add(&mut sidecar(pod)["env"], json!({"name": "MOUNT_POINT", "value": "/etc"})),
            "spec.containers[fluid-fuse].env[MOUNT_POINT].value is not what",
        ),
        (
            "seed-thin",
            |pod| sidecar(pod)["command"] = json!(["sh", "-c", "evil"]),
            "spec.containers[fluid-fuse].command",
        ),
        (
            "seed-thin",
            |pod| sidecar(pod)["securityContext"]["capabilities"]["add"] = json!(["SYS_ADMIN"]),
            "spec.containers[fluid-fuse].securityContext.capabilities.add",
        ),
        (
            "seed-thin",
            |pod| pod["spec"]["volumes"][0]["hostPath"]["path"] = "/runtime-mnt/../etc".into(),
            "spec.volumes[data].hostPath.path",
        ),
        (
            "kubernetes-native-sidecar",
            |pod| drop(pod["spec"]["initContainers"][1].as_object_mut().unwrap().remove("restartPolicy")),
            "restartPolicy is missing",
        ),
        (
            "kubernetes-native-sidecar",
            |pod| {
                let sidecar = pod["spec"]["initContainers"].as_array_mut().unwrap().remove(1);
                pod["spec"]["containers"].as_array_mut().unwrap().push(sidecar);
            },
            "spec.initContainers[fluid-fuse] is missing",
        ),
        (
            "seed-thin",
            |pod| forge(pod, "\"eci\"", "\"kubernetes\""),
            "\"kubernetes\", to which these settings send",
        ),
        (
            "seed-thin",
            |pod| forge(pod, "\"volume\":\"data\"", "\"volume\":\"other\""),
            "names no claim of a Dataset",
        ),
        (
            "kubernetes-native-sidecar",
            |pod| forge(pod, "\"directory\":\"0", "\"directory\":\"1"),
            "hostPath.path is not what",
        ),
    ];
    for (case, damage, lost) in damages {
        let (directory, mut pod) = outcome(case);
        damage(&mut pod);
        let answer = verify(&directory, &pod);
        let message = answer["message"].as_str().unwrap_or_default();
        assert!(message.contains(lost), "{case}: {lost:?} is not in {message:?}");
    }
}

#[test]
fn a_claim_that_nobody_replaced_is_rejected() {
    let case = root().join("tests/cases/seed-from-settings");
    let answer = verify(&case, &given(&case, "pod.yaml"));
    assert_eq!(answer["audit_annotations"]["decision"], "rejected");
    assert!(answer["message"].as_str().unwrap().contains("claim data"), "{answer}");
}
