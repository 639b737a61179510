//! An injection can be undone, and damage to it is seen.
#![allow(clippy::unwrap_used, reason = "a test")]

mod support;

use fluid_sidecar_policy::status::uninject;
use serde_json::{Value, json};
use support::{Cluster, cases, create, given, name, read};

/// Each case that injects, with its Pod before and after.
fn injected() -> Vec<(String, Value, Value)> {
    let after = |case: &std::path::Path| read(&case.join("expected.yaml")).get("pod").cloned();
    let before = |case: &std::path::Path| given(case, "pod.yaml");
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

/// Verifies a Pod as a validating policy does that runs after all others.
fn verify(pod: &Value, settings: &Value) -> Value {
    let mut settings = if settings.is_null() { json!({}) } else { settings.clone() };
    settings["mode"] = "verify".into();
    create(pod, &Cluster::of(Vec::new()), &settings)
}

#[test]
fn what_was_injected_is_verified() {
    for case in cases("tests/cases") {
        let Some(pod) = read(&case.join("expected.yaml")).get("pod").cloned() else { continue };
        // An ordinary claim beside the Dataset's would be read.
        if pod.to_string().contains("persistentVolumeClaim") {
            continue;
        }
        let answer = verify(&pod, &given(&case, "settings.yaml"));
        assert_eq!(answer["accepted"], true, "{}: {answer}", name(&case));
        assert_eq!(answer.get("mutated_object"), None);
    }
}

#[test]
fn damage_is_rejected_with_what_was_lost() {
    type Damage = fn(&mut Value);
    let damages: &[(&str, Damage, &str)] = &[
        ("seed-thin", |pod| drop(pod["spec"]["containers"].as_array_mut().unwrap().remove(0)), "is missing"),
        (
            "seed-thin",
            |pod| pod["spec"]["containers"].as_array_mut().unwrap().swap(0, 1),
            "app now starts before",
        ),
        (
            "seed-thin",
            |pod| drop(pod["spec"]["containers"][0].as_object_mut().unwrap().remove("resources")),
            "limit",
        ),
        (
            "seed-thin",
            |pod| drop(pod["spec"]["containers"][0].as_object_mut().unwrap().remove("lifecycle")),
            "postStart",
        ),
        ("seed-thin", |pod| pod["spec"]["volumes"][0]["hostPath"]["path"] = "/etc".into(), "volume data"),
        (
            "kubernetes-native-sidecar",
            |pod| drop(pod["spec"]["initContainers"][1].as_object_mut().unwrap().remove("restartPolicy")),
            "restartPolicy: Always",
        ),
        (
            "kubernetes-native-sidecar",
            |pod| pod["spec"]["initContainers"][1]["securityContext"]["privileged"] = false.into(),
            "securityContext.privileged",
        ),
        (
            "kubernetes-native-sidecar",
            |pod| {
                let sidecar = pod["spec"]["initContainers"].as_array_mut().unwrap().remove(1);
                pod["spec"]["containers"].as_array_mut().unwrap().push(sidecar);
            },
            "was moved to spec.containers",
        ),
    ];
    for (case, damage, lost) in damages {
        let directory = std::path::Path::new("tests/cases").join(case);
        let mut pod = read(&directory.join("expected.yaml"))["pod"].clone();
        damage(&mut pod);
        let answer = verify(&pod, &read(&directory.join("settings.yaml")));
        let message = answer["message"].as_str().unwrap_or_default();
        assert!(message.contains(lost), "{case}: {lost:?} is not in {message:?}");
    }
}

#[test]
fn a_claim_that_nobody_replaced_is_rejected() {
    let pod = read(std::path::Path::new("tests/cases/seed-from-settings/pod.yaml"));
    let settings = read(std::path::Path::new("tests/cases/seed-from-settings/settings.yaml"));
    let answer = verify(&pod, &settings);
    assert_eq!(answer["audit_annotations"]["decision"], "rejected");
    assert!(answer["message"].as_str().unwrap().contains("claim data"), "{answer}");
}
