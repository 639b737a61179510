//! The rules of podrun that the scenarios rest on, with Pods that need neither policy nor sidecar.

use fluid_sidecar_layout::contract::VFUSE_RESOURCE;
use serde_json::{Value, json};

use crate::running::{Run, Running, runs_containers};

/// Runs until it gets SIGTERM.
const SERVE: &str = "trap 'exit 9' TERM; touch /up; while :; do sleep 0.05; done";

/// Until it heeds SIGTERM, which the first process of a pid namespace ignores without a trap.
const WAIT: &str = "until [ -e /up ]; do sleep 0.05; done";

fn sh(name: &str, script: &str) -> Value {
    let mounts = json!([{"name": "v", "mountPath": "/v"}]);
    json!({"name": name, "image": "busybox", "command": ["sh", "-c", script], "volumeMounts": mounts})
}

/// A value with more fields.
fn with(mut value: Value, fields: Value) -> Value {
    value.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    value
}

fn native(container: Value) -> Value {
    with(container, json!({"restartPolicy": "Always"}))
}

/// With one more hook.
fn hook(mut container: Value, name: &str, script: &str) -> Value {
    container["lifecycle"][name] = json!({"exec": {"command": ["sh", "-c", script]}});
    container
}

fn post_start(container: Value, script: &str) -> Value {
    hook(container, "postStart", script)
}

fn pre_stop(container: Value, script: &str) -> Value {
    hook(container, "preStop", script)
}

/// Has started when it heeds SIGTERM.
fn serving(name: &str) -> Value {
    post_start(sh(name, SERVE), WAIT)
}

/// The JSON of a Pod with the volume `v`, which all containers have at /v.
fn pod(spec: Value) -> String {
    let volumes =
        json!([{"name": "v", "emptyDir": {}}, {"name": "h", "hostPath": {"path": "/runtime-mnt/d"}}]);
    let defaults = json!({"restartPolicy": "Never", "terminationGracePeriodSeconds": 60, "volumes": volumes});
    json!({"spec": with(defaults, spec)}).to_string()
}

fn run(spec: Value) -> Run {
    Running::start(&pod(spec), &[]).end()
}

#[test]
fn a_post_start_hook_blocks_the_next_container_and_ends_its_own_when_it_fails() {
    if !runs_containers() {
        return;
    }
    let first = post_start(sh("first", "until [ -e /done ]; do sleep 0.05; done"), "sleep 0.3; touch /done");
    let second = post_start(sh("second", SERVE), &format!("{WAIT}; echo no good; exit 4"));
    let second = pre_stop(second, "echo bye");
    let run = run(json!({"containers": [first, second, sh("third", "echo here")]}));
    run.assert_order(&[
        "first started",
        "first postStart exited 0",
        "second started",
        "second postStart exited 4",
        "second preStop exited 0",
        "second gets SIGTERM (its postStart hook failed)",
        "second exited 9",
        "third started",
        "third | here",
        "pod Failed (second exited 9)",
    ]);
    assert!(run.lines.iter().any(|line| line.ends_with(": no good")));
    assert!(run.lines.iter().any(|line| line.ends_with(": bye")));
    assert_eq!((run.has("first preStop exited 0"), run.code), (false, 1));
}

#[test]
fn at_the_end_all_pre_stop_hooks_run_first_and_then_the_containers_are_ended() {
    if !runs_containers() {
        return;
    }
    // Neither hook ends unless both run.
    let meet =
        |own: &str, other: &str| format!("touch /v/{own}; until [ -e /v/{other} ]; do sleep 0.05; done");
    let sidecar = native(pre_stop(serving("sidecar"), &meet("a", "b")));
    let app = pre_stop(serving("app"), &meet("b", "a"));
    let mut running = Running::start(&pod(json!({"initContainers": [sidecar], "containers": [app]})), &[]);
    running.until("app postStart exited 0");
    let run = running.delete();
    for name in ["app", "sidecar"] {
        run.assert_order(&["pod is deleted", &format!("{name} preStop exited 0"), "app gets SIGTERM"]);
    }
    run.assert_order(&["app gets SIGTERM", "app exited 9", "sidecar gets SIGTERM", "sidecar exited 9"]);
}

#[test]
fn a_pre_stop_hook_has_no_more_than_the_grace_period() {
    if !runs_containers() {
        return;
    }
    // In two seconds more the container can end.
    let sidecar = |name: &str| native(pre_stop(serving(name), "sleep 1000"));
    let pod = |grace: u64| {
        let (sidecars, app) = (json!([sidecar("sidecar")]), sh("app", "true"));
        json!({"initContainers": sidecars, "containers": [app], "terminationGracePeriodSeconds": grace})
    };
    run(pod(1)).assert_order(&["app exited 0", "sidecar gets SIGTERM", "sidecar exited 9"]);
    let run = run(pod(0));
    run.assert_order(&["app exited 0", "sidecar gets SIGTERM", "sidecar exited 9"]);
    assert!(!run.lines.iter().any(|line| line.contains("preStop")));
}

#[test]
fn init_containers_come_first_and_native_sidecars_end_last_in_reverse_order() {
    if !runs_containers() {
        return;
    }
    let (one, two) = (native(serving("one")), native(serving("two")));
    let init = json!([sh("init", "echo first"), one, two, sh("late", "echo late")]);
    let run = run(json!({"initContainers": init, "containers": [sh("app", "echo app")]}));
    run.assert_order(&[
        "init exited 0",
        "one started",
        "one postStart exited 0",
        "two started",
        "late started",
        "late exited 0",
        "app started",
        "app exited 0",
        "two gets SIGTERM",
        "two exited 9",
        "one gets SIGTERM",
        "one exited 9",
        "pod Succeeded",
    ]);
    assert_eq!(run.code, 0);
}

#[test]
fn an_init_container_that_fails_fails_the_pod() {
    if !runs_containers() {
        return;
    }
    let run = run(json!({"initContainers": [sh("init", "exit 5")], "containers": [sh("app", "true")]}));
    assert!(run.has("pod Failed (init exited 5)") && !run.has("app started"));
    assert_eq!(run.code, 1);
}

#[test]
fn the_restart_policy_says_what_starts_again() {
    if !runs_containers() {
        return;
    }
    // Both run three times; the sidecar whatever the Pod's policy is.
    let count = |file: &str| format!("echo x >>/v/{file}; test $(wc -l </v/{file}) = 3");
    let sidecar = native(sh("sidecar", &format!("{} || exit; {SERVE}", count("s"))));
    let app = sh("app", &format!("until [ $(wc -l </v/s) = 3 ]; do sleep 0.05; done; {}", count("a")));
    let finished =
        run(json!({"initContainers": [sidecar], "containers": [app], "restartPolicy": "OnFailure"}));
    assert_eq!((finished.count("app started"), finished.count("sidecar started")), (3, 3));
    assert_eq!(finished.code, 0);

    let always = pod(json!({"containers": [sh("app", "true")], "restartPolicy": "Always"}));
    let mut running = Running::start(&always, &[]);
    for _ in 0..3 {
        running.until("app exited 0");
    }
    assert_eq!(running.delete().code, 2);
}

#[test]
fn the_platform_ends_its_sidecars_after_the_others() {
    if !runs_containers() {
        return;
    }
    for (ignore, code) in [("true", 0), ("false", 1)] {
        let env = json!([{"name": "ECI_CONTAINER_TYPE", "value": "sidecar"},
                         {"name": "ECI_CONTAINER_IGNORE_EXIT_CODE", "value": ignore}]);
        let sidecar = with(serving("sidecar"), json!({"env": env}));
        let run = run(json!({"containers": [sidecar, sh("app", "sleep 0.3")]}));
        run.assert_order(&["app exited 0", "sidecar gets SIGTERM", "sidecar exited 9"]);
        assert_eq!(run.code, code);
    }
}

#[test]
fn a_container_that_ignores_sigterm_is_killed_after_the_grace_period() {
    if !runs_containers() {
        return;
    }
    let deaf = "trap '' TERM; touch /v/up; while :; do sleep 0.05; done";
    let app = sh("app", "until [ -e /v/up ]; do sleep 0.05; done");
    let run = run(json!({
        "initContainers": [native(sh("sidecar", deaf))],
        "containers": [app],
        "terminationGracePeriodSeconds": 1,
    }));
    run.assert_order(&["sidecar gets SIGTERM", "sidecar gets SIGKILL", "sidecar exited 137"]);
    assert_eq!(run.code, 0);
}

#[test]
fn a_command_that_is_not_there_fails_the_pod() {
    if !runs_containers() {
        return;
    }
    let run = run(json!({"containers": [with(sh("app", ""), json!({"command": ["/no/such"]}))]}));
    assert!(run.lines.iter().any(|line| line.starts_with("app cannot start") && line.contains("no/such")));
    assert!(run.has("pod Failed (app exited 128)") && run.code == 1);
}

#[test]
fn a_mount_under_the_mount_root_reaches_the_container_that_asks_for_it() {
    if !runs_containers() {
        return;
    }
    // The readers run before the mount is made.
    let server = "until [ -e /v/with ] && [ -e /v/without ]; do sleep 0.05; done; (: <>/dev/fuse) || exit; \
                  mount -t tmpfs none /runtime-mnt/d && echo hello >/runtime-mnt/d/f; touch /v/mounted; sleep 1000";
    let env = json!([{"name": "ECI_CONTAINER_TYPE", "value": "sidecar"},
                     {"name": "ECI_CONTAINER_IGNORE_EXIT_CODE", "value": "true"}]);
    let limits = json!({"limits": {VFUSE_RESOURCE: "1"}});
    let sidecar = with(sh("sidecar", server), json!({"env": env, "resources": limits}));
    let reader = |name: &str, propagation: &str| {
        let script = format!(
            "test -e /dev/fuse && echo fuse; mount -t tmpfs none /tmp 2>&- && echo admin; touch /v/{name}; \
             until [ -e /v/mounted ]; do sleep 0.05; done; cat /h/f || echo none"
        );
        let mounts = json!([{"name": "v", "mountPath": "/v"},
                            {"name": "h", "mountPath": "/h", "mountPropagation": propagation, "readOnly": true}]);
        with(sh(name, &script), json!({"volumeMounts": mounts}))
    };
    let spec = json!({
        "containers": [sidecar, reader("with", "HostToContainer"), reader("without", "None")],
        "terminationGracePeriodSeconds": 1,
    });
    let run = run(spec);
    assert!(run.has("with | hello") && run.has("without | none"));
    // Only the limit grants these.
    assert!(!run.lines.iter().any(|line| line.ends_with("| fuse") || line.ends_with("| admin")));
    assert_eq!(run.code, 0);
}

#[test]
fn containers_see_each_others_processes_where_they_share_them_and_nothing_outlives_its_container() {
    if !runs_containers() {
        return;
    }
    // What it leaves behind also holds its output open.
    let one =
        sh("one", "(trap '' TERM HUP; exec sleep 5432) & until [ -e /v/seen ]; do sleep 0.05; done; exit 3");
    let look = "find() { for p in /proc/[0-9]*; do [ \"$(tr '\\0' ' ' <$p/cmdline)\" = 'sleep 5432 ' ] && return; done \
                2>/dev/null; false; }";
    let two = sh(
        "two",
        &format!(
            "{look}; until find; do sleep 0.05; done; cmp -s $p/cgroup /proc/self/cgroup || echo distinct; \
             touch /v/seen; while find; do sleep 0.05; done; echo gone; [ $$ = 1 ] || echo not first"
        ),
    );
    let run = run(json!({"containers": [one, two], "shareProcessNamespace": true}));
    run.assert_order(&["two | distinct", "two | gone", "two | not first", "two exited 0"]);
    assert!(run.has("one exited 3"));

    let alone = sh("alone", "set -- /proc/[0-9]*; echo $# process");
    let run = self::run(json!({"containers": [sh("other", "sleep 2"), alone]}));
    assert!(run.has("alone | 1 process"));
}
