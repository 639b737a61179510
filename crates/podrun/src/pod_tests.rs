//! What is read from Pods, and what is refused, as data.

use serde_json::{Value, json};

use super::*;

pub(crate) fn plan(spec: Value) -> Result<Plan> {
    let metadata = json!({"name": "job-1", "namespace": "team"});
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec});
    read(&serde_json::from_value(pod).unwrap(), "example.com/vfuse", Secrets::default())
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
        (
            json!({"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]}),
            "env A: valueFrom: secretKeyRef: podrun has no Secret \"s\": give --secret s=DIR",
        ),
        (json!({"env": [{"name": "A", "valueFrom": {"configMapKeyRef": {"key": "k"}}}]}), "env A"),
        (json!({"env": [{"name": "ECI_CONTAINER_LAUNCH_PRIORITY", "value": "high"}]}), "LAUNCH_PRIORITY"),
        (json!({"resources": {"limits": {"memory": "much"}}}), "resources.limits.memory"),
        (json!({"livenessProbe": {"exec": {"command": []}}}), "livenessProbe"),
        (json!({"env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}]}), "env A"),
        (json!({"lifecycle": {"postStart": {"httpGet": {"port": 80}}}}), "lifecycle.postStart"),
        (json!({"lifecycle": {"preStop": {"sleep": {"seconds": 1}}}}), "lifecycle.preStop"),
        (json!({"restartPolicy": "Always"}), "restartPolicy"),
        (json!({"securityContext": {"runAsUser": -1}}), "runAsUser"),
        (
            json!({"securityContext": {"seccompProfile": {"type": "Localhost", "localhostProfile": "a.json"}}}),
            "securityContext.seccompProfile.type: podrun knows RuntimeDefault and Unconfined",
        ),
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
        (json!({"containers": [], "hostPID": true}), "hostPID"),
        (
            json!({"containers": [], "volumes": [{"name": "s", "secret": {"items": [{"key": "k", "path": "../x"}]}}]}),
            "volume s",
        ),
        (json!({"containers": [], "hostUsers": false}), "hostUsers"),
        (
            json!({"containers": [{"name": "a"}], "securityContext": {"seccompProfile": {"type": "Localhost"}}}),
            "spec.securityContext.seccompProfile",
        ),
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
    assert_eq!((plan.restart, plan.notes.len(), plan.grace.as_secs()), (Restart::Always, 0, 30));
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
        {"name": "d", "secret": {"secretName": "s", "items": [{"key": "k", "path": "x/y"}]}},
    ]}));
    let sources: Vec<_> = plan.unwrap().volumes.into_iter().map(|volume| volume.source).collect();
    let host_path = Source::HostPath { path: "/x".into(), kind: "Directory".into() };
    let items = Some(vec![("k".into(), "x/y".into())]);
    let secret = Source::Secret { name: "s".into(), items, optional: false };
    assert_eq!(sources, [Source::EmptyDir, host_path, Source::Other("nfs".into()), secret]);
}

#[test]
fn what_is_optional_leaves_no_variable() {
    let secret = |key: &str| json!({"secretKeyRef": {"name": "s", "key": key, "optional": true}});
    let plan = with(json!({"env": [
        {"name": "A", "value": "kept"},
        {"name": "A", "valueFrom": secret("a")},
        {"name": "B", "valueFrom": secret("b")},
    ]}));
    assert_eq!(plan.unwrap().containers[0].env, [("A".into(), "kept".into())]);
}

#[test]
fn who_may_not_run_as_root() {
    for (pod, own, expected) in [
        (json!({}), json!({}), None),
        (json!({"runAsNonRoot": true}), json!({}), Some("image will run as root")),
        (json!({"runAsNonRoot": true}), json!({"runAsNonRoot": false}), None),
        (json!({"runAsNonRoot": true, "runAsUser": 7}), json!({}), None),
        (
            json!({"runAsUser": 7}),
            json!({"runAsNonRoot": true, "runAsUser": 0}),
            Some("breaks non-root policy"),
        ),
    ] {
        let containers = json!([{"name": "app", "securityContext": own}]);
        let plan = plan(json!({"containers": containers, "securityContext": pod})).unwrap();
        let forbidden = plan.containers[0].forbidden.as_deref();
        assert_eq!(forbidden.is_some(), expected.is_some(), "{pod} {own}");
        assert!(forbidden.unwrap_or_default().contains(expected.unwrap_or_default()), "{forbidden:?}");
    }
}

#[test]
fn probes_that_are_not_exec() {
    let http = json!({"httpGet": {"port": 80}});
    let app = with(
        json!({"livenessProbe": http, "startupProbe": http, "readinessProbe": {"exec": {"command": ["a"]}}}),
    );
    let app = app.unwrap();
    assert_eq!(
        app.notes,
        [
            "startupProbe of app is not exec, so podrun leaves it out",
            "livenessProbe of app is not exec, so podrun leaves it out"
        ]
    );
    let container = &app.containers[0];
    assert!(container.liveness_probe.is_none() && container.startup_probe.is_none());
    let probe = container.readiness_probe.as_ref().unwrap();
    assert_eq!((probe.timeout.as_secs(), probe.period.as_secs(), probe.failure_threshold), (1, 10, 3));
    let sidecar = json!({"name": "n", "restartPolicy": "Always", "startupProbe": http});
    let error = plan(json!({"initContainers": [sidecar], "containers": []})).unwrap_err();
    assert!(format!("{error:#}").contains("startupProbe"), "{error:#}");
}
