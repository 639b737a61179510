//! What is read from Pods, and what is refused, as data.

use serde_json::{Value, json};

use super::*;

fn plan(spec: Value) -> Result<Plan> {
    let metadata = json!({"name": "job-1", "namespace": "team"});
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec});
    read(&serde_json::from_value(pod).unwrap(), "example.com/vfuse")
}

fn with(container: Value) -> Result<Plan> {
    let mut app = json!({"name": "app", "image": "busybox"});
    app.as_object_mut().unwrap().extend(container.as_object().unwrap().clone());
    plan(json!({"restartPolicy": "Never", "containers": [app], "volumes": [{"name": "v", "emptyDir": {}}]}))
}

#[test]
fn refusals_name_the_field() {
    let mount = |extra: Value| {
        let mut mount = json!({"name": "v", "mountPath": "/v"});
        mount.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        json!({"volumeMounts": [mount]})
    };
    for (container, expected) in [
        (json!({"envFrom": [{"prefix": "A"}]}), "envFrom"),
        (json!({"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"key": "k"}}}]}), "env A"),
        (json!({"env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}]}), "env A"),
        (json!({"lifecycle": {"postStart": {"httpGet": {"port": 80}}}}), "lifecycle.postStart"),
        (json!({"lifecycle": {"preStop": {"sleep": {"seconds": 1}}}}), "lifecycle.preStop"),
        (json!({"restartPolicy": "Always"}), "restartPolicy"),
        (json!({"securityContext": {"runAsUser": -1}}), "runAsUser"),
        (mount(json!({"mountPropagation": "Bidirectional"})), "privileged"),
        (mount(json!({"mountPropagation": "both"})), "unknown"),
        (mount(json!({"subPath": "../x"})), "subPath"),
        (mount(json!({"subPathExpr": "$(A)"})), "subPathExpr"),
        (mount(json!({"name": "w"})), "no volume \"w\""),
    ] {
        let error = format!("{:#}", with(container).unwrap_err());
        assert!(error.starts_with("spec.containers[0] (app): ") && error.contains(expected), "{error}");
    }
    for (spec, expected) in [
        (json!({"containers": [], "shareProcessNamespace": true}), "shareProcessNamespace"),
        (json!({"containers": [], "hostUsers": false}), "hostUsers"),
        (json!({"containers": [{"name": "a"}, {"name": "a"}]}), "same name"),
        (json!({"containers": [], "volumes": [{"name": "h", "hostPath": {"path": "/a/../b"}}]}), "volume h"),
    ] {
        let error = format!("{:#}", plan(spec).unwrap_err());
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn roles() {
    let sidecar = json!([{"name": "ECI_CONTAINER_TYPE", "value": "sidecar"}]);
    let plan = plan(json!({
        "initContainers": [{"name": "i"}, {"name": "n", "restartPolicy": "Always", "env": sidecar}],
        "containers": [{"name": "e", "env": sidecar}, {"name": "m"}],
    }))
    .unwrap();
    let roles: Vec<_> = plan.containers.iter().map(|container| container.role).collect();
    assert_eq!(roles, [Role::Init, Role::NativeSidecar, Role::EciSidecar, Role::Main]);
    assert!(plan.restart && plan.notes.len() == 1 && plan.grace.as_secs() == 30);
}

#[test]
fn variables() {
    let plan = with(json!({
        "env": [
            {"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            {"name": "BOTH", "value": "$(NAME).$(LATER)"},
            {"name": "LATER", "valueFrom": {"fieldRef": {"fieldPath": "metadata.namespace"}}},
        ],
        "command": ["echo", "$(BOTH)"],
        "args": ["$(LATER)", "$$(LATER)"],
    }));
    let container = &plan.unwrap().containers[0];
    assert_eq!(container.env[1], ("BOTH".into(), "job-1.$(LATER)".into()));
    assert_eq!(container.command, ["echo", "job-1.$(LATER)"]);
    assert_eq!(container.args, ["team", "$(LATER)"]);
}

#[test]
fn rights() {
    let container = with(json!({
        "resources": {"limits": {"example.com/vfuse": "1"}},
        "securityContext": {"privileged": true, "runAsUser": 7, "allowPrivilegeEscalation": false},
        "volumeMounts": [{"name": "v", "mountPath": "/v", "mountPropagation": "Bidirectional", "readOnly": true}],
    }));
    let container = &container.unwrap().containers[0];
    assert!(container.vfuse && container.privileged && container.no_new_privileges);
    assert_eq!((container.user, container.group), (7, 0));
    assert_eq!(container.mounts[0].propagation, Propagation::Bidirectional);
    assert!(container.mounts[0].read_only);
    assert!(!with(json!({})).unwrap().containers[0].vfuse);
}

#[test]
fn volumes() {
    let plan = plan(json!({"containers": [], "volumes": [
        {"name": "a", "emptyDir": {"medium": "Memory"}},
        {"name": "b", "hostPath": {"path": "/x", "type": "Directory"}},
        {"name": "c", "nfs": {"server": "s", "path": "/"}},
    ]}));
    let sources: Vec<_> = plan.unwrap().volumes.into_iter().map(|volume| volume.source).collect();
    let host_path = Source::HostPath { path: "/x".into(), kind: "Directory".into() };
    assert_eq!(sources, [Source::EmptyDir, host_path, Source::Other("nfs".into())]);
}
