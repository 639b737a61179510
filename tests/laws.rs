//! What holds for every Pod, whatever the cluster and the settings: the laws of ARCHITECTURE.md.
//!
//! Pods are put together from parts that mattered in the past: claims that are Datasets, ordinary ones and
//! missing ones, mounts of every form, names that the policy would like to have, fields nobody knows.
#![allow(clippy::unwrap_used, reason = "a test")]

mod support;

use fluid_sidecar_policy::cluster::Host;
use fluid_sidecar_policy::review::review;
use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::{Value, json};
use support::{Cluster, create};

/// Two Datasets, `thin` and `jindo`, and an ordinary claim. Any other claim is missing.
fn cluster() -> Cluster {
    let mut documents = vec![json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": {"name": "ordinary", "namespace": "default"},
    })];
    for (name, directory, suffix) in
        [("thin", "thin-fuse", "fuse"), ("jindo", "jindofs-fuse", "jindofs-fuse")]
    {
        let parent = format!("/runtime-mnt/{name}/default/{name}");
        documents.extend([
            json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {
                "name": name, "namespace": "default", "labels": {format!("fluid.io/s-default-{name}"): "true"}}}),
            json!({"apiVersion": "data.fluid.io/v1alpha1", "kind": "Dataset",
                "metadata": {"name": name, "namespace": "default"},
                "status": {"phase": "Bound", "runtimes": [{"type": name}]}}),
            json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": format!("default-{name}")},
                "spec": {"csi": {"volumeAttributes": {"fluid_path": format!("{parent}/{directory}")}}}}),
            json!({"apiVersion": "apps/v1", "kind": "DaemonSet",
                "metadata": {"name": format!("{name}-{suffix}"), "namespace": "default"},
                "spec": {"template": {"spec": {
                    "containers": [{"name": "fuse", "image": "fuse", "securityContext": {"privileged": true},
                        "volumeMounts": [{"name": "mount", "mountPath": parent}, {"name": "conf", "mountPath": "/c"}]}],
                    "volumes": [{"name": "mount", "hostPath": {"path": parent}},
                        {"name": "conf", "configMap": {"name": "conf"}}],
                }}}}),
        ]);
    }
    Cluster::of(documents)
}

fn claim() -> impl Strategy<Value = Value> {
    let name =
        prop_oneof![4 => Just("thin"), 4 => Just("jindo"), 2 => Just("ordinary"), 1 => Just("missing")];
    (name, any::<bool>()).prop_map(|(name, read_only)| {
        let mut claim = json!({"claimName": name});
        if read_only {
            claim["readOnly"] = true.into();
        }
        json!({"persistentVolumeClaim": claim})
    })
}

fn volumes() -> impl Strategy<Value = Vec<Value>> {
    let volume = prop_oneof![3 => claim(), 1 => Just(json!({"emptyDir": {}}))];
    vec(volume, 0..5).prop_map(|volumes| {
        let names = ["data", "conf", "fluid-fuse", "conf-1", "x"];
        let named = volumes.into_iter().zip(names).map(|(mut volume, name)| {
            volume["name"] = name.into();
            volume
        });
        named.collect()
    })
}

fn mount() -> impl Strategy<Value = Value> {
    let name = prop_oneof![Just("data"), Just("conf"), Just("fluid-fuse"), Just("x")];
    let more = prop_oneof![
        Just(json!({})),
        Just(json!({"mountPropagation": "None"})),
        Just(json!({"mountPropagation": "Bidirectional"})),
        Just(json!({"readOnly": true, "recursiveReadOnly": "Enabled"})),
        Just(json!({"subPath": "a", "unknown": [1.5, null]})),
    ];
    (name, more, 0..1000).prop_map(|(name, mut mount, path)| {
        mount["name"] = name.into();
        mount["mountPath"] = format!("/{path}").into();
        mount
    })
}

fn containers(names: &'static [&'static str]) -> impl Strategy<Value = Vec<Value>> {
    vec((vec(mount(), 0..4), any::<bool>()), 0..names.len()).prop_map(move |containers| {
        let named = containers.into_iter().zip(names).map(|((mounts, future), name)| {
            let mut container = json!({"name": name, "image": "i", "volumeMounts": mounts});
            if future {
                container["fieldOfTomorrow"] = json!({"deep": [{"er": 0.1}]});
            }
            container
        });
        named.collect()
    })
}

prop_compose! {
    fn pod()(
        volumes in volumes(),
        containers in containers(&["app", "fluid-fuse", "fluid-fuse-2", "sidecar"]),
        inits in containers(&["init", "fluid-fuse-1"]),
        marker in prop_oneof![
            4 => Just(json!({"alibabacloud.com/eci": "true"})),
            1 => Just(json!({"fluid-sidecar-policy/injected": "true", "alibabacloud.com/acs": "true"})),
            1 => Just(json!({})),
        ],
        init_reads in any::<bool>(),
    ) -> Value {
        let inits = if init_reads { inits } else { Vec::new() };
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "labels": marker, "annotations": marker},
            "spec": {"containers": containers, "initContainers": inits, "volumes": volumes, "unknown": {"a": 1e30}}})
    }
}

fn settings() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(json!({})),
        Just(json!({"onUnresolved": "allow"})),
        Just(json!({"destination": "kubernetes", "sidecarImages": {"thin": "other"}})),
        Just(json!({"datasetsFrom": "settings", "datasets": [{"claim": "*", "source": "file:///x"}],
            "sidecarImages": {"thin": "fluid-fuse"}})),
    ]
}

/// The Pod with all that the policy may change taken out: what is left is the user's.
fn of_the_user(pod: &Value) -> Value {
    let mut pod = pod.clone();
    if let Some(annotations) = pod["metadata"]["annotations"].as_object_mut() {
        annotations.remove("fluid-sidecar-policy/injected");
    }
    for list in ["containers", "initContainers"] {
        for container in pod["spec"][list].as_array_mut().into_iter().flatten() {
            for mount in container["volumeMounts"].as_array_mut().into_iter().flatten() {
                let mount = mount.as_object_mut().unwrap();
                mount.remove("mountPropagation");
                mount.remove("readOnly");
            }
        }
    }
    for volume in pod["spec"]["volumes"].as_array_mut().into_iter().flatten() {
        let volume = volume.as_object_mut().unwrap();
        volume.remove("persistentVolumeClaim");
        volume.remove("hostPath");
    }
    pod
}

fn names(pod: &Value, lists: &[&str]) -> Vec<String> {
    let entries = lists.iter().flat_map(|list| pod["spec"][*list].as_array().into_iter().flatten());
    entries.map(|entry| entry["name"].as_str().unwrap().to_string()).collect()
}

fn unique(mut names: Vec<String>) -> bool {
    let all = names.len();
    names.sort();
    names.dedup();
    names.len() == all
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..Default::default() })]

    #[test]
    fn injection_is_whole_keeps_the_users_fields_and_happens_once(pod in pod(), settings in settings()) {
        let cluster = cluster();
        let answer = create(&pod, &cluster, &settings);
        prop_assert_eq!(answer.to_string(), create(&pod, &cluster, &settings).to_string());
        let Some(mutated) = answer.get("mutated_object") else { return Ok(()) };
        prop_assert_eq!(&answer["accepted"], true);

        let again = create(mutated, &cluster, &settings);
        prop_assert_eq!(again.get("mutated_object"), None);
        prop_assert_eq!(&again["accepted"], true);

        // The user's containers and volumes, with what was added left out, are the ones that came.
        let mut rest = of_the_user(mutated);
        for list in ["containers", "initContainers", "volumes"] {
            let known = names(&pod, &[list]);
            let entries = rest["spec"][list].as_array_mut().unwrap();
            entries.retain(|entry| known.iter().any(|name| entry["name"] == **name));
        }
        let mut before = of_the_user(&pod);
        for pod in [&mut rest, &mut before] {
            if pod["metadata"]["annotations"] == json!({}) {
                pod["metadata"]["annotations"] = Value::Null;
            }
        }
        prop_assert_eq!(rest, before);

        prop_assert!(unique(names(mutated, &["containers", "initContainers"])));
        prop_assert!(unique(names(mutated, &["volumes"])));
        for volume in mutated["spec"]["volumes"].as_array().unwrap() {
            if let Some(path) = volume.pointer("/hostPath/path").and_then(Value::as_str) {
                prop_assert!(path.starts_with("/runtime-mnt/") && !path.contains(".."), "{}", path);
            }
        }
        let added = names(mutated, &["containers", "initContainers"]).len()
            - names(&pod, &["containers", "initContainers"]).len();
        prop_assert!(added > 0);
    }

    #[test]
    fn pods_that_are_not_ours_cost_no_read(pod in pod()) {
        struct NoReads;
        impl Host for NoReads {
            fn call(&self, _: &str, operation: &str, _: &[u8]) -> Result<Vec<u8>, String> {
                panic!("{operation} was called");
            }
        }
        let mut pod = pod;
        pod["metadata"]["labels"] = json!({"fluid.io/enable-injection": "false", "alibabacloud.com/eci": "true"});
        let request = json!({"request": {"operation": "CREATE", "kind": {"kind": "Pod"}, "object": pod}});
        let answer = serde_json::to_value(review(request.to_string().as_bytes(), &NoReads)).unwrap();
        prop_assert_eq!(&answer["accepted"], true);
        prop_assert_eq!(answer.get("mutated_object"), None);
    }

    #[test]
    fn any_bytes_get_an_answer(bytes in vec(any::<u8>(), 0..300), depth in 0..5000usize) {
        review(&bytes, &cluster());
        let deep = format!(r#"{{"request":{{"operation":"CREATE","kind":{{"kind":"Pod"}},"object":{}{}}}}}"#,
            r#"{"spec":"#.repeat(depth), "}".repeat(depth));
        review(deep.as_bytes(), &cluster());
    }
}
