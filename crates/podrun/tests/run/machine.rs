//! What a container finds: images, volumes, mounts, devices.

use serde_json::json;

use crate::support::*;

#[test]
fn a_mount_under_the_mount_root_reaches_who_asks_for_it() {
    let server = "trap 'exit 0' TERM; umask 0; mount -t tmpfs none /runtime-mnt/d && echo hello > /runtime-mnt/d/f && \
                  touch /flag/mounted; while :; do sleep 0.05; done";
    let reader = "touch /flag/$0; until [ -e /flag/mounted ]; do sleep 0.05; done; cat /data/f || echo none";
    let mounts = |propagation: &str| {
        json!({"volumeMounts": [
            {"name": "flag", "mountPath": "/flag"},
            {"name": "data", "mountPath": "/data", "mountPropagation": propagation},
        ]})
    };
    for runtime in runtimes() {
        // The readers run before the mount is made.
        let wait = "until [ -e /flag/with ] && [ -e /flag/without ]; do sleep 0.05; done;";
        let sidecar = vfuse(with(
            sh("sidecar", &format!("{wait} {server}")),
            json!({
                "volumeMounts": [{"name": "flag", "mountPath": "/flag"}],
                "env": [{"name": "ECI_CONTAINER_TYPE", "value": "sidecar"}],
            }),
        ));
        let reading =
            |name: &str| json!({"name": name, "image": "busybox", "command": ["sh", "-c", reader, name]});
        let spec = with(
            pod(json!([
                sidecar,
                with(reading("with"), mounts("HostToContainer")),
                with(reading("without"), mounts("None")),
            ])),
            json!({"volumes": [{"name": "flag", "emptyDir": {"medium": "Memory"}},
                               {"name": "data", "hostPath": {"path": "/runtime-mnt/d"}}]}),
        );
        let run = run(runtime, &spec, &[]);
        assert!(run.has("with: hello") && run.has("without: none"));
        assert_eq!(run.code, 0);
    }
}

#[test]
fn a_privileged_container_publishes_by_bidirectional_propagation() {
    let mounts = |propagation: &str| json!({"volumeMounts": [{"name": "data", "mountPath": "/data", "mountPropagation": propagation}]});
    for runtime in runtimes() {
        let script = "mkdir /data/d; mount -t tmpfs none /data/d; echo hello > /data/d/f; sleep 1";
        let server = with(sh("server", script), mounts("Bidirectional"));
        let server = with(server, json!({"securityContext": {"privileged": true}}));
        let app = with(sh("app", "until cat /data/d/f; do sleep 0.05; done 2>&-"), mounts("HostToContainer"));
        let spec = with(
            pod(json!([server, app])),
            json!({"volumes": [{"name": "data", "hostPath": {"path": "/d"}}]}),
        );
        assert!(run(runtime, &spec, &[]).has("app: hello"));
    }
}

#[test]
fn only_the_limit_grants_fuse() {
    let look = "test -c /dev/fuse && (: <> /dev/fuse) && echo fuse; mount -t tmpfs none /tmp 2>/dev/null && echo admin; \
                test -d /runtime-mnt && echo root; true";
    for runtime in runtimes() {
        let run = run(runtime, &pod(json!([vfuse(sh("granted", look)), sh("plain", look)])), &[]);
        for granted in ["fuse", "admin", "root"] {
            assert!(
                run.has(&format!("granted: {granted}")) && !run.has(&format!("plain: {granted}")),
                "{granted}"
            );
        }
        let granted: Vec<_> = run.events.iter().filter(|event| event["event"] == "granted").collect();
        assert!(granted.len() == 1 && granted[0]["container"] == "granted");
    }
}

#[test]
fn volumes_are_shared_read_only_and_in_parts() {
    let given = tempfile::tempdir().unwrap();
    std::fs::write(given.path().join("f"), "given\n").unwrap();
    let node = tempfile::tempdir().unwrap();
    for runtime in runtimes() {
        let init = with(
            sh("init", "mkdir /a/sub; echo part > /a/sub/f"),
            json!({
            "volumeMounts": [{"name": "empty", "mountPath": "/a"}]}),
        );
        let app = with(
            sh("app", "cat /b/f /c/f; echo x > /c/g || echo denied; echo node > /h/f"),
            json!({"volumeMounts": [
                {"name": "empty", "mountPath": "/b", "subPath": "sub"},
                {"name": "claim", "mountPath": "/c", "readOnly": true},
                {"name": "host", "mountPath": "/h"},
            ]}),
        );
        let volumes = json!([
            {"name": "empty", "emptyDir": {}},
            {"name": "claim", "persistentVolumeClaim": {"claimName": "c"}},
            {"name": "host", "hostPath": {"path": "/some/where", "type": "DirectoryOrCreate"}},
        ]);
        let spec = with(pod(json!([app])), json!({"initContainers": [init], "volumes": volumes}));
        let volume = format!("claim={}", given.path().display());
        let options = ["--volume", &volume, "--node-root", node.path().to_str().unwrap()];
        run(runtime, &spec, &options).assert_order(&["app: part", "app: given", "app: denied"]);
        assert_eq!(std::fs::read_to_string(node.path().join("some/where/f")).unwrap(), "node\n");

        let refused = run(runtime, &spec, &[]);
        assert!(
            refused.code == 2 && refused.stderr.contains("give --volume claim=DIR"),
            "{}",
            refused.stderr
        );
    }
}

#[test]
fn images_are_executables_or_directories() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(
        directory.path().join("hello"),
        "#!/bin/sh\necho hello $1 $HOSTNAME $(id -u):$(id -g) $(pwd)\ntouch /tmp/x || echo denied\n",
    )
    .unwrap();
    let program = directory.path().join("hello");
    std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    for runtime in runtimes() {
        let app = json!({"name": "app", "image": "r.example/x/hello:1", "args": ["$(WHO)"], "workingDir": "/tmp",
                         "env": [{"name": "WHO", "value": "you"}],
                         "securityContext": {"runAsUser": 7, "runAsGroup": 8, "readOnlyRootFilesystem": true}});
        let image = format!("hello={}", program.display());
        let run = run(runtime, &pod(json!([app])), &["--image", &image]);
        run.assert_order(&["app: hello you test 7:8 /tmp", "app: denied"]);
        assert_eq!(run.code, 0);
    }
}

#[test]
fn an_executable_brings_its_shared_libraries() {
    for runtime in runtimes() {
        let app = json!({"name": "app", "image": "podrun", "args": ["--version"]});
        let image = format!("podrun={}", env!("CARGO_BIN_EXE_podrun"));
        let run = run(runtime, &pod(json!([app])), &["--image", &image]);
        assert!(run.has(concat!("app: podrun ", env!("CARGO_PKG_VERSION"))));
    }
}

#[test]
fn secrets_are_variables_and_files() {
    let secret = tempfile::tempdir().unwrap();
    for (key, value) in [("user", "me"), ("password", "x y")] {
        std::fs::write(secret.path().join(key), value).unwrap();
    }
    let variable = |name: &str, secret: &str, key: &str, optional: bool| {
        let reference = json!({"name": secret, "key": key, "optional": optional});
        json!({"name": name, "valueFrom": {"secretKeyRef": reference}})
    };
    for runtime in runtimes() {
        let app = with(
            sh(
                "app",
                "echo $A.$B.$C.; ls /all /some /none; cat /some/in/it; echo; touch /all/x || echo denied",
            ),
            json!({
                "env": [
                    variable("A", "s", "password", false),
                    variable("B", "s", "none", true),
                    variable("C", "none", "none", true),
                    {"name": "D", "value": "$(A)"},
                ],
                "volumeMounts": [
                    {"name": "all", "mountPath": "/all"},
                    {"name": "some", "mountPath": "/some"},
                    {"name": "none", "mountPath": "/none"},
                ],
            }),
        );
        let volumes = json!([
            {"name": "all", "secret": {"secretName": "s"}},
            {"name": "some", "secret": {"secretName": "s", "items": [{"key": "user", "path": "in/it"}]}},
            {"name": "none", "secret": {"secretName": "none", "optional": true}},
        ]);
        let spec = with(pod(json!([app])), json!({"volumes": volumes}));
        let rule = format!("s={}", secret.path().display());
        let given = run(runtime, &spec, &["--secret", &rule]);
        given.assert_order(&[
            "app: x y...",
            "app: /all:",
            "app: password",
            "app: user",
            "app: /none:",
            "app: /some:",
            "app: in",
            "app: me",
            "app: denied",
        ]);
        let refused = run(runtime, &spec, &[]);
        assert!(refused.code == 2 && refused.stderr.contains("give --secret s=DIR"), "{}", refused.stderr);
    }
}
