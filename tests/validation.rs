//! What the policy puts out passes the API server's validation, as far as `support/validation.rs` ports it, and
//! that port can say no: each of its rules is seen to refuse something.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test")]

mod support;

use fluid_sidecar_policy::status;
use serde_json::{Value, json};
use support::validation::violations;
use support::{cases, given, name, read};
use tool::input;

/// Containers are made as JSON, whose field names no compiler checks; Kubernetes' types know them.
#[test]
fn our_containers_have_the_fields_of_kubernetes() {
    let newer = ["fields-newer-than-any-kubernetes", "file-key-follows-its-volume"];
    let mut checked = 0;
    for case in cases("tests/cases") {
        let answer = read(&case.join("expected.yaml"));
        let Some(status) = status::Status::of(&answer["pod"]).unwrap() else { continue };
        let containers = ["initContainers", "containers"].map(|list| answer["pod"]["spec"][list].as_array());
        for container in containers.into_iter().flatten().flatten() {
            let ours = status.sidecars.iter().any(|sidecar| container["name"] == sidecar.container.as_str());
            if ours && !newer.contains(&name(&case).as_str()) {
                let typed: k8s_openapi::api::core::v1::Container =
                    serde_json::from_value(container.clone()).unwrap();
                assert_eq!(&serde_json::to_value(typed).unwrap(), container, "{}", name(&case));
                checked += 1;
            }
        }
    }
    assert!(checked > 20);
}

#[track_caller]
fn check(pod: &Value, expected: &[&str]) {
    assert_eq!(violations(pod), expected, "{pod:#}");
}

/// A Pod of one container, which has `fields`, and two volumes.
#[track_caller]
fn container(fields: Value, expected: &[&str]) {
    check(&pod_of(json!({"containers": [with(fields)]})), expected);
}

#[track_caller]
fn init_container(fields: Value, expected: &[&str]) {
    let mut fields = fields;
    fields["name"] = "init".into();
    check(&pod_of(json!({"initContainers": [with(fields)]})), expected);
}

/// A Pod of one container, and these fields of `spec`.
#[track_caller]
fn spec(fields: Value, expected: &[&str]) {
    check(&pod_of(fields), expected);
}

#[track_caller]
fn metadata(fields: Value, expected: &[&str]) {
    check(&json!({"metadata": fields, "spec": pod_of(json!({}))["spec"]}), expected);
}

fn with(fields: Value) -> Value {
    merge(json!({"name": "app", "image": "i"}), fields)
}

fn pod_of(fields: Value) -> Value {
    let spec = json!({
        "containers": [with(json!({}))],
        "volumes": [{"name": "dir", "emptyDir": {}}, {"name": "claim", "persistentVolumeClaim": {"claimName": "c"}}],
    });
    json!({"metadata": {"name": "p"}, "spec": merge(spec, fields)})
}

fn merge(mut map: Value, fields: Value) -> Value {
    for (key, value) in fields.as_object().unwrap() {
        map[key] = value.clone();
    }
    map
}

#[test]
fn the_outcome_of_every_case_is_valid() {
    let mut checked = 0;
    for case in cases("tests/cases") {
        let expected = read(&case.join("expected.yaml"));
        let Some(mutated) = expected.get("pod") else { continue };
        let request = input::request(given(&case, "pod.yaml"), None, "CREATE").unwrap();
        if violations(request.object()).is_empty() {
            assert_eq!(violations(mutated), [""; 0], "{}", case.display());
            checked += 1;
        }
    }
    assert!(checked > 10, "only {checked} cases have a valid Pod that was changed");
}

#[test]
fn what_is_no_pod_is_refused() {
    check(&json!(null), &[": must be a map", "metadata: required", "spec: required"]);
    check(
        &json!({"metadata": {"name": "p"}, "spec": {"containers": {}}}),
        &["spec.containers: must be a list", "spec.containers: required"],
    );
    spec(
        json!({"volumes": [7]}),
        &[
            "spec.volumes[0]: must be a map",
            "spec.volumes[0].name: required",
            "spec.volumes[0]: must specify a volume type",
        ],
    );
}

#[test]
fn metadata_is_checked() {
    let long = "a".repeat(63);
    metadata(json!({"generateName": "app-", "labels": {"a.b/C_d": "", &long: &long}}), &[]);
    metadata(json!({"name": ""}), &["metadata.name: name or generateName is required"]);
    metadata(json!({"name": "A"}), &[r#"metadata.name: "A" is no DNS-1123 subdomain"#]);
    metadata(json!({"name": "a..b"}), &[r#"metadata.name: "a..b" is no DNS-1123 subdomain"#]);
    let prefix = r#"metadata.generateName: "A-" is no start of a DNS-1123 subdomain"#;
    metadata(json!({"generateName": "A-"}), &[prefix]);
    let key = |key: &str| format!("metadata.labels[{key}]: the key is no qualified name");
    let longer = "a".repeat(64);
    for bad in ["", "a/b/c", "/a", "A/b", "-a", &longer] {
        metadata(json!({"name": "p", "labels": {bad: "x"}}), &[&key(bad)]);
    }
    metadata(
        json!({"name": "p", "labels": {"a": "b c"}}),
        &[r#"metadata.labels[a]: "b c" is no label value"#],
    );
    metadata(json!({"name": "p", "labels": {"a": true}}), &["metadata.labels[a]: must be a string"]);
    metadata(
        json!({"name": "p", "annotations": {"a b": ""}}),
        &["metadata.annotations[a b]: the key is no qualified name"],
    );
    let most = "x".repeat((256 << 10) - 1);
    metadata(json!({"name": "p", "annotations": {"A": most}}), &[]);
    let more = "x".repeat(256 << 10);
    metadata(
        json!({"name": "p", "annotations": {"a": more}}),
        &["metadata.annotations: must have at most 262144 bytes"],
    );
}

#[test]
fn the_spec_is_checked() {
    spec(
        json!({"terminationGracePeriodSeconds": 0, "activeDeadlineSeconds": 1, "restartPolicy": "Never"}),
        &[],
    );
    spec(
        json!({"terminationGracePeriodSeconds": -1}),
        &["spec.terminationGracePeriodSeconds: must not be negative"],
    );
    spec(json!({"activeDeadlineSeconds": 0}), &["spec.activeDeadlineSeconds: must be from 1 to 2147483647"]);
    spec(json!({"restartPolicy": "X"}), &[r#"spec.restartPolicy: "X" is none of Always, OnFailure, Never"#]);
    spec(
        json!({"securityContext": {"runAsUser": -1}}),
        &["spec.securityContext.runAsUser: must be from 0 to 2147483647"],
    );
    spec(json!({"containers": []}), &["spec.containers: required"]);
    spec(json!({"nodeSelector": {"a": "b c"}}), &[r#"spec.nodeSelector[a]: "b c" is no label value"#]);
    let ephemeral = "spec.ephemeralContainers: must not be set when the Pod is created";
    spec(json!({"ephemeralContainers": [{"name": "debug", "image": "i"}]}), &[ephemeral]);
}

#[test]
fn volumes_are_checked() {
    let long = "a".repeat(64);
    let name = |name: &str| format!("spec.volumes[0].name: {name:?} is no DNS-1123 label");
    for bad in ["A", "a.b", "-a", "a-", &long] {
        spec(json!({"volumes": [{"name": bad, "emptyDir": {}}]}), &[&name(bad)]);
    }
    spec(json!({"volumes": [{"name": &long[1..], "of-tomorrow": {}}]}), &[]);
    spec(json!({"volumes": [{"emptyDir": {}}]}), &["spec.volumes[0].name: required"]);
    spec(
        json!({"volumes": [{"name": "a", "emptyDir": {}}, {"name": "a", "emptyDir": {}}]}),
        &[r#"spec.volumes[1].name: duplicate "a""#],
    );
    spec(
        json!({"volumes": [{"name": "a", "hostPath": null}]}),
        &["spec.volumes[0]: must specify a volume type"],
    );
    spec(
        json!({"volumes": [{"name": "a", "emptyDir": {}, "hostPath": {"path": "/a"}}]}),
        &["spec.volumes[0]: may not specify more than one volume type"],
    );
    let host_path = |host_path: Value, expected: &[&str]| {
        spec(json!({"volumes": [{"name": "a", "hostPath": host_path}]}), expected);
    };
    host_path(json!({"path": "/a/..b", "type": ""}), &[]);
    host_path(json!({}), &["spec.volumes[0].hostPath.path: required"]);
    host_path(json!({"path": "/a/../b"}), &["spec.volumes[0].hostPath.path: must not contain '..'"]);
    host_path(
        json!({"path": "/a", "type": "Dir"}),
        &[
            r#"spec.volumes[0].hostPath.type: "Dir" is none of , DirectoryOrCreate, Directory, FileOrCreate, File, Socket, CharDevice, BlockDevice"#,
        ],
    );
    spec(
        json!({"volumes": [{"name": "a", "persistentVolumeClaim": {}}]}),
        &["spec.volumes[0].persistentVolumeClaim.claimName: required"],
    );
}

#[test]
fn names_and_images_of_containers_are_checked() {
    container(json!({"name": "a".repeat(63)}), &[]);
    container(json!({"name": "A"}), &[r#"spec.containers[0].name: "A" is no DNS-1123 label"#]);
    container(json!({"name": null}), &["spec.containers[0].name: required"]);
    container(json!({"image": ""}), &["spec.containers[0].image: required"]);
    container(
        json!({"image": " i"}),
        &["spec.containers[0].image: must not have leading or trailing whitespace"],
    );
    let twins = json!([with(json!({})), with(json!({}))]);
    spec(json!({"containers": twins}), &[r#"spec.containers[1].name: duplicate "app""#]);
    spec(json!({"initContainers": [with(json!({}))]}), &[r#"spec.initContainers[0].name: duplicate "app""#]);
    container(
        json!({"restartPolicy": "Always"}),
        &["spec.containers[0].restartPolicy: may not be set for non-init containers"],
    );
    container(
        json!({"imagePullPolicy": "X"}),
        &[r#"spec.containers[0].imagePullPolicy: "X" is none of Always, IfNotPresent, Never"#],
    );
    container(
        json!({"terminationMessagePolicy": "X"}),
        &[r#"spec.containers[0].terminationMessagePolicy: "X" is none of File, FallbackToLogsOnError"#],
    );
}

#[test]
fn mounts_are_checked() {
    let mounts = |mounts: Value, expected: &[&str]| container(json!({"volumeMounts": mounts}), expected);
    let one = |fields: Value, expected: &[&str]| {
        mounts(json!([merge(json!({"name": "dir", "mountPath": "/a"}), fields)]), expected);
    };
    mounts(
        json!([{"name": "dir", "mountPath": "/a"}, {"name": "dir", "mountPath": "/b", "subPath": "a/..b"}]),
        &[],
    );
    one(json!({"name": "none"}), &[r#"spec.containers[0].volumeMounts[0].name: no volume "none""#]);
    one(json!({"mountPath": ""}), &["spec.containers[0].volumeMounts[0].mountPath: required"]);
    mounts(
        json!([{"name": "dir", "mountPath": "/a"}, {"name": "claim", "mountPath": "/a"}]),
        &[r#"spec.containers[0].volumeMounts[1].mountPath: "/a" must be unique"#],
    );
    one(json!({"subPath": "../a"}), &["spec.containers[0].volumeMounts[0].subPath: must not contain '..'"]);
    one(
        json!({"subPathExpr": "/$(A)"}),
        &["spec.containers[0].volumeMounts[0].subPathExpr: must be a relative path"],
    );
    one(
        json!({"subPath": "a", "subPathExpr": "b"}),
        &["spec.containers[0].volumeMounts[0].subPathExpr: subPathExpr and subPath are mutually exclusive"],
    );

    for read_only in ["Enabled", "IfPossible"] {
        one(json!({"recursiveReadOnly": read_only, "readOnly": true, "mountPropagation": "None"}), &[]);
        one(
            json!({"recursiveReadOnly": read_only, "readOnly": true, "mountPropagation": "HostToContainer"}),
            &[
                "spec.containers[0].volumeMounts[0].recursiveReadOnly: may only be specified when mountPropagation is None",
            ],
        );
        one(
            json!({"recursiveReadOnly": read_only}),
            &[
                "spec.containers[0].volumeMounts[0].recursiveReadOnly: may only be specified when readOnly is true",
            ],
        );
    }
    one(json!({"recursiveReadOnly": "Disabled", "mountPropagation": "HostToContainer"}), &[]);
    one(
        json!({"recursiveReadOnly": "X"}),
        &[
            r#"spec.containers[0].volumeMounts[0].recursiveReadOnly: "X" is none of Disabled, Enabled, IfPossible"#,
        ],
    );

    let bidirectional = json!([{"name": "dir", "mountPath": "/a", "mountPropagation": "Bidirectional"}]);
    container(json!({"volumeMounts": bidirectional, "securityContext": {"privileged": true}}), &[]);
    container(
        json!({"volumeMounts": bidirectional, "securityContext": {"privileged": false}}),
        &[
            "spec.containers[0].volumeMounts[0].mountPropagation: Bidirectional is available only to privileged containers",
        ],
    );
    one(
        json!({"mountPropagation": "X"}),
        &[
            r#"spec.containers[0].volumeMounts[0].mountPropagation: "X" is none of None, HostToContainer, Bidirectional"#,
        ],
    );
}

#[test]
fn devices_are_checked() {
    let devices = |devices: Value, expected: &[&str]| container(json!({"volumeDevices": devices}), expected);
    devices(json!([{"name": "claim", "devicePath": "/dev/x"}]), &[]);
    devices(
        json!([{"name": "dir", "devicePath": "/dev/x"}]),
        &["spec.containers[0].volumeDevices[0].name: only a PersistentVolumeClaim can be a block device"],
    );
    devices(
        json!([{"name": "none", "devicePath": "/../x"}]),
        &[
            r#"spec.containers[0].volumeDevices[0].name: no volume "none""#,
            "spec.containers[0].volumeDevices[0].devicePath: must not contain '..'",
        ],
    );
    devices(
        json!([{"name": "claim", "devicePath": "/x"}, {"name": "claim", "devicePath": "/x"}]),
        &[
            r#"spec.containers[0].volumeDevices[1].name: "claim" must be unique"#,
            r#"spec.containers[0].volumeDevices[1].devicePath: "/x" must be unique"#,
        ],
    );
    container(
        json!({
            "volumeDevices": [{"name": "claim", "devicePath": "/x"}],
            "volumeMounts": [{"name": "claim", "mountPath": "/x"}],
        }),
        &[
            "spec.containers[0].volumeMounts[0].name: must not already exist in volumeDevices",
            "spec.containers[0].volumeMounts[0].mountPath: must not already exist as a path in volumeDevices",
        ],
    );
}

#[test]
fn environments_are_checked() {
    let env = |variable: Value, expected: &[&str]| container(json!({"env": [variable]}), expected);
    env(json!({"name": "a.b-c 1", "value": ""}), &[]);
    env(json!({"name": "A", "value": "", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}), &[]);
    env(json!({"name": ""}), &["spec.containers[0].env[0].name: required"]);
    env(
        json!({"name": "A=B"}),
        &[r#"spec.containers[0].env[0].name: "A=B" is no name of an environment variable"#],
    );
    env(
        json!({"name": "A", "value": "x", "valueFrom": {"fieldRef": {}}}),
        &["spec.containers[0].env[0].valueFrom: may not be specified when value is not empty"],
    );
    env(
        json!({"name": "A", "valueFrom": {"fieldRef": {}, "secretKeyRef": {}}}),
        &["spec.containers[0].env[0].valueFrom: must have exactly one source"],
    );
}

#[test]
fn ports_are_checked() {
    let ports = |ports: Value, expected: &[&str]| container(json!({"ports": ports}), expected);
    ports(
        json!([{"containerPort": 1}, {"containerPort": 65535, "name": "http-2", "protocol": "SCTP", "hostPort": 0}]),
        &[],
    );
    ports(json!([{}]), &["spec.containers[0].ports[0].containerPort: required"]);
    ports(
        json!([{"containerPort": 65536}]),
        &["spec.containers[0].ports[0].containerPort: must be from 1 to 65535"],
    );
    ports(
        json!([{"containerPort": 1, "hostPort": -1}]),
        &["spec.containers[0].ports[0].hostPort: must be from 1 to 65535"],
    );
    for bad in ["1", "a--b", "a234567890123456", "A"] {
        let message = format!("spec.containers[0].ports[0].name: {bad:?} is no port name");
        ports(json!([{"containerPort": 1, "name": bad}]), &[&message]);
    }
    ports(
        json!([{"containerPort": 1, "name": "a"}, {"containerPort": 2, "name": "a"}]),
        &[r#"spec.containers[0].ports[1].name: duplicate "a""#],
    );
    ports(
        json!([{"containerPort": 1, "protocol": "X"}]),
        &[r#"spec.containers[0].ports[0].protocol: "X" is none of TCP, UDP, SCTP"#],
    );

    let two = |first: Value, second: Value| {
        json!([with(json!({"ports": [first]})), with(json!({"name": "b", "ports": [second]}))])
    };
    let same = two(json!({"containerPort": 1, "hostPort": 9}), json!({"containerPort": 2, "hostPort": 9}));
    spec(json!({"containers": same}), &["spec.containers[1].ports[0].hostPort: duplicate TCP//9"]);
    let other = two(
        json!({"containerPort": 1, "hostPort": 9}),
        json!({"containerPort": 2, "hostPort": 9, "protocol": "UDP"}),
    );
    spec(json!({"containers": other}), &[]);
    let alone = two(json!({"containerPort": 1}), json!({"containerPort": 1}));
    spec(json!({"containers": alone}), &[]);
    spec(
        json!({"containers": alone, "hostNetwork": true}),
        &["spec.containers[1].ports[0].hostPort: duplicate TCP//1"],
    );
    let port = json!([{"containerPort": 1, "hostPort": 2}]);
    spec(
        json!({"containers": [with(json!({"ports": port}))], "hostNetwork": true}),
        &["spec.containers[0].ports[0].hostPort: must match containerPort when hostNetwork is true"],
    );
}

#[test]
fn hooks_and_probes_are_checked() {
    let exec = json!({"exec": {"command": ["x"]}});
    container(json!({"lifecycle": {"postStart": exec, "preStop": {"sleep": {"seconds": 30}}}}), &[]);
    container(
        json!({"lifecycle": {"preStop": {}}}),
        &["spec.containers[0].lifecycle.preStop: must specify a handler type"],
    );
    container(
        json!({"lifecycle": {"postStart": {"exec": {"command": []}, "tcpSocket": {"port": 0}}}}),
        &[
            "spec.containers[0].lifecycle.postStart: may not specify more than one handler type",
            "spec.containers[0].lifecycle.postStart.exec.command: required",
            "spec.containers[0].lifecycle.postStart.tcpSocket.port: must be from 1 to 65535",
        ],
    );
    container(
        json!({"lifecycle": {"preStop": {"sleep": {"seconds": 31}}}}),
        &["spec.containers[0].lifecycle.preStop.sleep: must be at most terminationGracePeriodSeconds"],
    );
    container(
        json!({"lifecycle": {"stopSignal": "SIGHUP"}}),
        &["spec.containers[0].lifecycle.stopSignal: may not be set without spec.os.name"],
    );

    container(json!({"readinessProbe": {"httpGet": {"port": "http"}, "successThreshold": 2}}), &[]);
    container(
        json!({"livenessProbe": {"grpc": {"port": 1}, "successThreshold": 0, "terminationGracePeriodSeconds": 1}}),
        &[],
    );
    container(
        json!({"livenessProbe": {}}),
        &["spec.containers[0].livenessProbe: must specify a handler type"],
    );
    for probe in ["livenessProbe", "startupProbe"] {
        let message = format!("spec.containers[0].{probe}.successThreshold: must be 1");
        container(json!({probe: merge(exec.clone(), json!({"successThreshold": 2}))}), &[&message]);
    }
    container(
        json!({"startupProbe": merge(exec.clone(), json!({"periodSeconds": -1, "terminationGracePeriodSeconds": 0}))}),
        &[
            "spec.containers[0].startupProbe.periodSeconds: must not be negative",
            "spec.containers[0].startupProbe.terminationGracePeriodSeconds: must be greater than 0",
        ],
    );
    container(
        json!({"readinessProbe": merge(exec.clone(), json!({"terminationGracePeriodSeconds": 1}))}),
        &[
            "spec.containers[0].readinessProbe.terminationGracePeriodSeconds: must not be set for readinessProbes",
        ],
    );
    container(
        json!({"readinessProbe": {"httpGet": {"port": "", "scheme": "ftp"}}}),
        &[
            "spec.containers[0].readinessProbe.httpGet.port: must be a number or the name of a port",
            r#"spec.containers[0].readinessProbe.httpGet.scheme: "ftp" is none of HTTP, HTTPS"#,
        ],
    );
}

#[test]
fn init_containers_are_checked() {
    let exec = json!({"exec": {"command": ["x"]}});
    let hooks = json!({"lifecycle": {"postStart": exec}, "livenessProbe": exec, "readinessProbe": exec, "startupProbe": exec});
    init_container(merge(hooks.clone(), json!({"restartPolicy": "Always"})), &[]);
    init_container(
        hooks,
        &["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"].map(|field| {
            format!("spec.initContainers[0].{field}: may not be set for init containers without restartPolicy=Always")
        })
        .each_ref()
        .map(String::as_str),
    );
    init_container(
        json!({"restartPolicy": "Never"}),
        &[r#"spec.initContainers[0].restartPolicy: "Never" is none of Always"#],
    );
    init_container(
        json!({"resizePolicy": [{}]}),
        &["spec.initContainers[0].resizePolicy: must not be set for init containers"],
    );
    init_container(
        json!({"restartPolicy": "Always", "startupProbe": {}}),
        &["spec.initContainers[0].startupProbe: must specify a handler type"],
    );
    // They do not run at the same time as others, as far as ports go.
    let port = json!([{"containerPort": 1, "hostPort": 9}]);
    spec(
        json!({
            "containers": [with(json!({"ports": port}))],
            "initContainers": [with(json!({"name": "init", "ports": port}))],
        }),
        &[],
    );
    let ports = json!([{"containerPort": 1, "hostPort": 9}, {"containerPort": 2, "hostPort": 9}]);
    init_container(json!({"ports": ports}), &["spec.initContainers[0].ports[1].hostPort: duplicate TCP//9"]);
}

#[test]
fn resources_are_checked() {
    let resources =
        |resources: Value, expected: &[&str]| container(json!({"resources": resources}), expected);
    let device = "example.com/device";
    for (request, limit) in
        [("100m", "0.1"), ("1", "1000m"), ("1023Mi", "1Gi"), ("1e3", "1k"), ("1M", "1E"), (".5", "500000u")]
    {
        resources(json!({"requests": {"cpu": request}, "limits": {"cpu": limit}}), &[]);
    }
    resources(
        json!({"requests": {"cpu": 1, "memory": "1Gi"}, "limits": {device: "1", "hugepages-2Mi": "2Mi"}}),
        &[],
    );
    resources(json!({"requests": {device: "1"}, "limits": {device: 1}}), &[]);
    for (request, limit) in [("101m", "0.1"), ("1.1Gi", "1Gi"), ("2", "1"), ("1n", "0")] {
        resources(
            json!({"requests": {"memory": request}, "limits": {"memory": limit}}),
            &["spec.containers[0].resources.requests[memory]: must be less than or equal to the limit"],
        );
    }
    for bad in [json!("1x"), json!(""), json!("Gi"), json!(true), json!("1.1.1")] {
        resources(
            json!({"limits": {"cpu": bad}}),
            &["spec.containers[0].resources.limits[cpu]: must be a quantity"],
        );
    }
    resources(
        json!({"limits": {"cpu": "-1"}}),
        &["spec.containers[0].resources.limits[cpu]: must not be negative"],
    );
    let of_device =
        |kind: &str, message: &str| format!("spec.containers[0].resources.{kind}[{device}]: {message}");
    resources(json!({"limits": {device: "500m"}}), &[&of_device("limits", "must be an integer")]);
    resources(
        json!({"requests": {device: "1"}, "limits": {device: "2"}}),
        &[&of_device("requests", "must be equal to the limit")],
    );
    resources(
        json!({"requests": {device: "1"}}),
        &[&of_device("requests", "a limit must be set for a resource that is not overcommitted")],
    );
    resources(
        json!({"limits": {"gpu": 1}}),
        &["spec.containers[0].resources.limits[gpu]: must be a standard resource or a qualified name"],
    );
    for bad in ["requests.example.com/device", "example.com/a b"] {
        let message = if bad.contains(' ') {
            "must be a standard resource or a qualified name"
        } else {
            "is no name of an extended resource"
        };
        let message = format!("spec.containers[0].resources.limits[{bad}]: {message}");
        resources(json!({"limits": {bad: 1}}), &[&message]);
    }
    resources(
        json!({"claims": [{"name": "gpu"}]}),
        &["spec.containers[0].resources.claims[0].name: must be one of the names in spec.resourceClaims"],
    );
    let claims = json!({"resources": {"claims": [{"name": "gpu"}]}});
    spec(json!({"containers": [with(claims)], "resourceClaims": [{"name": "gpu"}]}), &[]);

    let resize = json!([{"resourceName": "cpu", "restartPolicy": "RestartContainer"}]);
    container(json!({"resizePolicy": resize}), &[]);
    spec(
        json!({"containers": [with(json!({"resizePolicy": resize}))], "restartPolicy": "Never"}),
        &[
            "spec.containers[0].resizePolicy[0].restartPolicy: must be NotRequired when the Pod's restartPolicy is Never",
        ],
    );
}

#[test]
fn resources_of_the_pod_hold_those_of_its_containers() {
    let cpu =
        |name: &str, request: &str| with(json!({"name": name, "resources": {"requests": {"cpu": request}}}));
    let sum = "spec.resources.requests[cpu]: must be greater than or equal to aggregate container requests";
    let containers = json!([cpu("a", "1"), cpu("b", "1")]);
    spec(json!({"containers": containers, "resources": {"requests": {"cpu": "2"}}}), &[]);
    spec(json!({"containers": containers, "resources": {"requests": {"cpu": "1900m"}}}), &[sum]);
    spec(json!({"containers": containers, "resources": {"limits": {"cpu": "1900m"}}}), &[sum]);
    let mut native = cpu("init", "500m");
    let with_init = |init: &Value| json!({"containers": containers, "initContainers": [init], "resources": {"requests": {"cpu": "2"}}});
    spec(with_init(&native), &[]);
    native["restartPolicy"] = "Always".into();
    spec(with_init(&native), &[sum]);
    let limited = with(json!({"resources": {"limits": {"cpu": "2"}, "requests": {"cpu": "1"}}}));
    spec(
        json!({"containers": [limited], "resources": {"limits": {"cpu": "1"}}}),
        &["spec.containers[0].resources.limits[cpu]: must be less than or equal to pod limits"],
    );
    spec(
        json!({"resources": {"limits": {"cpu": "1"}, "requests": {"cpu": "2"}}}),
        &["spec.resources.requests[cpu]: must be less than or equal to the limit"],
    );
}

#[test]
fn security_contexts_are_checked() {
    let security =
        |security: Value, expected: &[&str]| container(json!({"securityContext": security}), expected);
    security(json!({"privileged": true, "allowPrivilegeEscalation": true, "runAsUser": 2147483647}), &[]);
    security(json!({"allowPrivilegeEscalation": false, "capabilities": {"add": ["SYS_ADMIN"]}}), &[]);
    security(
        json!({"privileged": true, "allowPrivilegeEscalation": false}),
        &[
            "spec.containers[0].securityContext: cannot set allowPrivilegeEscalation to false and privileged to true",
        ],
    );
    security(
        json!({"allowPrivilegeEscalation": false, "capabilities": {"add": ["CAP_SYS_ADMIN"]}}),
        &[
            "spec.containers[0].securityContext: cannot set allowPrivilegeEscalation to false and add CAP_SYS_ADMIN",
        ],
    );
    security(
        json!({"runAsGroup": 2147483648i64}),
        &["spec.containers[0].securityContext.runAsGroup: must be from 0 to 2147483647"],
    );
    security(
        json!({"privileged": "yes"}),
        &["spec.containers[0].securityContext.privileged: must be a boolean"],
    );
}
