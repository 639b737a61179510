//! The Pods that are found in custom resources: `pods/*.yaml` has the objects, `pods/*.expected.yaml` what is found in
//! them, by its place; `UPDATE_EXPECT=1 cargo test -p kubectl-fluid-sidecar --test pods` writes that anew.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::fs;
use std::path::Path;

use serde_json::{Map, Value, json};
use tool::{input, pods, yaml};

#[test]
fn pods_are_found_where_they_stand() {
    let mut files = 0;
    for entry in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/pods")).unwrap() {
        let path = entry.unwrap().path();
        let expected_path = path.with_extension("expected.yaml");
        if path.display().to_string().ends_with(".expected.yaml") {
            continue;
        }
        files += 1;
        let mut found = Map::new();
        for object in yaml::read_file(&path).unwrap() {
            for pod in pods::find(&object).unwrap() {
                let kind = object["kind"].as_str().unwrap();
                found.insert(format!("{kind} {}", pod.path), pod.pod);
            }
        }
        let found = yaml::print(&found.into()).unwrap();
        if std::env::var_os("UPDATE_EXPECT").is_some() {
            fs::write(&expected_path, &found).unwrap();
        }
        assert_eq!(fs::read_to_string(&expected_path).unwrap(), found, "{}", path.display());
    }
    assert_eq!(files, 7);
}

#[test]
fn a_file_asks_for_each_of_its_pods() {
    let documents = yaml::parse(
        "{kind: Service}
---
{kind: RayCluster, apiVersion: ray.io/v1, metadata: {name: demo, namespace: training}, spec: {
  headGroupSpec: {template: {spec: {containers: [{name: head}]}}},
  workerGroupSpecs: [{template: {spec: {containers: [{name: worker}]}}}]}}
---
{kind: Deployment, metadata: {name: broken}}
---
{kind: List, items: [{kind: Pod, metadata: {name: app}}, {kind: ConfigMap}, {kind: Service}]}",
    )
    .unwrap();
    let all = input::Requests::of(documents.clone(), None, "CREATE").unwrap();
    let shown = |request: &anyhow::Result<input::Request>| match request {
        Ok(request) => request.title(),
        Err(error) => format!("{error:#}"),
    };
    assert_eq!(
        all.requests.iter().map(shown).collect::<Vec<_>>(),
        [
            "Pod of RayCluster training/demo: spec.headGroupSpec.template",
            "Pod of RayCluster training/demo: spec.workerGroupSpecs[0].template",
            "document 3: Deployment broken has no spec.template",
            "Pod default/app",
        ]
    );
    assert_eq!(all.kinds_without_pods(), "1 ConfigMap, 2 Service");
    let error = input::request(documents[1].clone(), None, "CREATE").unwrap_err();
    assert_eq!(error.to_string(), "kind RayCluster has 2 Pods; expected one");
    for (documents, expected) in [
        (vec![], "there is no document"),
        (vec![documents[0].clone()], "no Pod or Pod template in 1 Service"),
    ] {
        let error = input::Requests::of(documents, None, "CREATE").unwrap_err();
        assert!(error.to_string().starts_with(expected), "{error}");
    }
}

#[test]
fn what_is_searched_has_bounds() {
    let template = json!({"spec": {"containers": [{"name": "c"}]}});
    let job = |pods: usize| json!({"kind": "X", "spec": {"jobs": vec![&template; pods]}});
    assert_eq!(pods::find(&job(100)).unwrap().len(), 100);
    assert_eq!(pods::find(&job(101)).unwrap_err().to_string(), "more than 100 Pods in one object");
    let mut deep = template;
    for _ in 0..100 {
        deep = json!([deep]);
    }
    assert_eq!(pods::find(&json!({"kind": "X", "spec": deep})).unwrap().len(), 0);
}

#[test]
fn what_has_other_types_is_no_panic() {
    let odd = [json!(null), json!(1), json!("x"), json!([1]), json!({"a": 1}), json!([{"name": 1}])];
    for kind in [
        "apps/v1 StatefulSet",
        "argoproj.io/v1 Workflow",
        "sparkoperator.k8s.io/v1 SparkApplication",
        "serving.kserve.io/v1 InferenceService",
        "batch.volcano.sh/v1 Job",
        "example.org/v1 X",
    ] {
        let (api_version, kind) = kind.split_once(' ').unwrap();
        let whole = json!({"apiVersion": api_version, "kind": kind, "metadata": {"name": "n"}, "spec": {
            "podMetadata": {"labels": {}}, "templateDefaults": {"metadata": {}}, "image": "i",
            "volumeClaimTemplates": [{"metadata": {"name": "v"}}],
            "volumes": [{"name": "v"}, {"volumeClaimName": "v", "mountPath": "/v"}],
            "template": {"metadata": {"labels": {}}, "spec": {"containers": [{"name": "c"}]}},
            "templates": [{"metadata": {"labels": {}}, "container": {"volumeMounts": [{"name": "v"}]}}],
            "driver": {"labels": {}, "volumeMounts": [], "template": {"spec": {"containers": [], "volumes": []}}},
            "predictor": {"model": {"storageUri": "pvc://a", "volumeMounts": []}, "volumes": []},
            "tasks": [{"template": {"metadata": {}, "spec": {"containers": [{"name": "c", "volumeMounts": []}]}}}],
        }});
        let mut places = Vec::new();
        collect(&whole, String::new(), &mut places);
        for place in places {
            for odd in &odd {
                let mut manifest = whole.clone();
                *manifest.pointer_mut(&place).unwrap() = odd.clone();
                // An error or not: what counts is that there is an answer.
                let _ = input::Requests::of(vec![manifest], None, "CREATE");
            }
        }
    }
}

fn collect(value: &Value, pointer: String, all: &mut Vec<String>) {
    match value {
        Value::Array(list) => {
            list.iter().enumerate().for_each(|(index, it)| collect(it, format!("{pointer}/{index}"), all))
        }
        Value::Object(map) => map.iter().for_each(|(key, it)| collect(it, format!("{pointer}/{key}"), all)),
        _ => {}
    }
    all.push(pointer);
}
