//! Which container starts, restarts and ends, and when.

use std::process::Command;

use serde_json::json;

use crate::support::*;

#[test]
fn a_post_start_hook_blocks_the_next_container() {
    for runtime in runtimes() {
        let first = sh("first", "until [ -e /done ]; do sleep 0.05; done");
        let first = with(first, exec("postStart", "sleep 0.3; touch /done"));
        let run = run(runtime, &pod(json!([first, sh("second", "echo here")])), &[]);
        run.assert_order(&["first started", "first postStart 0", "second started", "second: here"]);
        assert_eq!(run.code, 0);
        assert_eq!(run.events.last().unwrap()["phase"], "Succeeded");
    }
}

#[test]
fn a_failing_post_start_hook_kills_its_container_only() {
    for runtime in runtimes() {
        let first = with(sh("first", SERVE), exec("postStart", "echo no good; exit 4"));
        let run = run(runtime, &pod(json!([first, sh("second", "echo here")])), &[]);
        run.assert_order(&[
            "first postStart 4",
            "first SIGTERM",
            "first exited 9",
            "second started",
            "second: here",
        ]);
        let hook = run.events.iter().find(|event| event["event"] == "hook").unwrap();
        assert_eq!(hook["output"], "no good\n");
        assert_eq!(run.code, 1);
    }
}

#[test]
fn exit_codes_decide_the_phase() {
    for runtime in runtimes() {
        let run = run(runtime, &pod(json!([sh("good", "true"), sh("bad", "exit 3")])), &[]);
        let last = run.events.last().unwrap();
        assert_eq!(
            (&last["phase"], &last["container"], &last["exit_code"]),
            (&json!("Failed"), &json!("bad"), &json!(3))
        );
        assert_eq!(run.code, 1);
    }
}

#[test]
fn what_fails_is_restarted_a_few_times() {
    for runtime in runtimes() {
        let count = json!({"volumeMounts": [{"name": "v", "mountPath": "/v"}]});
        let app = with(sh("app", "echo x >> /v/n; test $(wc -l < /v/n) = 3"), count);
        let spec = with(pod(json!([app])), json!({"volumes": [{"name": "v", "emptyDir": {}}]}));
        let spec = with(spec, json!({"restartPolicy": "OnFailure"}));
        let finished = run(runtime, &spec, &[]);
        finished.assert_order(&[
            "app exited 1",
            "app started",
            "app exited 1",
            "app started",
            "app exited 0",
        ]);
        assert_eq!(finished.code, 0);
        let exhausted = run(runtime, &spec, &["--max-restarts", "1"]);
        assert_eq!(exhausted.trace().iter().filter(|line| *line == "app started").count(), 2);
        assert_eq!(exhausted.code, 1);
    }
}

#[test]
fn a_command_that_is_not_there_fails_the_pod() {
    for runtime in runtimes() {
        let missing = json!({"name": "app", "image": "busybox", "command": ["/no/such"]});
        let run = run(runtime, &pod(json!([missing])), &[]);
        let failed = run.events.iter().find(|event| event["event"] == "start-failed").unwrap();
        assert!(failed["message"].as_str().unwrap().contains("no/such"), "{failed}");
        assert_eq!(run.code, 1);
    }
}

#[test]
fn init_containers_come_first_and_native_sidecars_last() {
    for runtime in runtimes() {
        let always = json!({"restartPolicy": "Always"});
        let probe = json!({"startupProbe": {"periodSeconds": 0, "failureThreshold": 100,
                                            "exec": {"command": ["test", "-e", "/up"]}}});
        let one = with(with(sh("one", &format!("sleep 0.2; touch /up; {SERVE}")), always.clone()), probe);
        let two = with(sh("two", SERVE), always);
        let init = json!([sh("init", "echo first"), one, two, sh("late", "echo late")]);
        let run =
            run(runtime, &with(pod(json!([sh("app", "echo app")])), json!({"initContainers": init})), &[]);
        run.assert_order(&[
            "init exited 0",
            "one started",
            "one startupProbe 0",
            "two started",
            "late exited 0",
            "app started",
            "app exited 0",
            "two SIGTERM",
            "two: bye",
            "two exited 9",
            "one SIGTERM",
            "one: bye",
            "one exited 9",
        ]);
        assert_eq!(run.code, 0);
    }
}

#[test]
fn a_native_sidecar_that_ends_is_restarted() {
    for runtime in runtimes() {
        let sidecar = with(sh("sidecar", "echo up; exit 1"), json!({"restartPolicy": "Always"}));
        let app = sh("app", "sleep 1");
        let spec = with(pod(json!([app])), json!({"initContainers": [sidecar]}));
        let run = run(runtime, &spec, &["--max-restarts", "2"]);
        run.assert_order(&["sidecar started", "sidecar exited 1", "sidecar started", "sidecar exited 1"]);
        assert_eq!(run.code, 0);
    }
}

#[test]
fn a_failing_init_container_fails_the_pod() {
    for runtime in runtimes() {
        let spec = with(pod(json!([sh("app", "true")])), json!({"initContainers": [sh("init", "exit 5")]}));
        let run = run(runtime, &spec, &[]);
        assert!(!run.has("app started"));
        assert_eq!((run.code, &run.events.last().unwrap()["exit_code"]), (1, &json!(5)));
    }
}

#[test]
fn the_platform_ends_its_sidecars_after_the_others() {
    let env = |ignore: &str| {
        json!({"env": [{"name": "ECI_CONTAINER_TYPE", "value": "sidecar"},
                       {"name": "ECI_CONTAINER_IGNORE_EXIT_CODE", "value": ignore}]})
    };
    for runtime in runtimes() {
        for (ignore, code) in [("true", 0), ("false", 1)] {
            let sidecar = with(with(sh("sidecar", SERVE), env(ignore)), exec("preStop", "echo stop"));
            let run = run(runtime, &pod(json!([sidecar, sh("app", "sleep 0.3")])), &[]);
            run.assert_order(&[
                "app exited 0",
                "sidecar preStop 0",
                "sidecar SIGTERM",
                "sidecar: bye",
                "sidecar exited 9",
            ]);
            assert_eq!(run.code, code);
        }
    }
}

#[test]
fn who_ignores_sigterm_is_killed_after_the_grace_period() {
    for runtime in runtimes() {
        let sidecar = with(
            sh("sidecar", "trap '' TERM; while :; do sleep 0.05; done"),
            json!({"restartPolicy": "Always"}),
        );
        let spec = with(pod(json!([sh("app", "true")])), json!({"initContainers": [sidecar]}));
        let run = run(runtime, &with(spec, json!({"terminationGracePeriodSeconds": 1})), &[]);
        run.assert_order(&["sidecar SIGTERM", "sidecar SIGKILL", "sidecar exited 137"]);
        assert_eq!(run.code, 0);
    }
}

#[test]
fn sigterm_to_podrun_deletes_the_pod() {
    for runtime in runtimes() {
        let name = format!("left-{}", std::process::id());
        let blocked = with(sh(&name, SERVE), exec("postStart", "sleep 1000"));
        let run =
            Podrun::start(runtime, &pod(json!([blocked, sh("app", "true")])), &[]).terminate_at("\"up\"");
        run.assert_order(&[&format!("{name} SIGTERM"), &format!("{name}: bye"), &format!("{name} exited 9")]);
        assert!(!run.has("app started"));
        assert!(run.code == 2 && run.stderr.contains("SIGTERM"), "{}", run.stderr);
        let find =
            Command::new("find").args(["/sys/fs/cgroup", "-name", &format!("*{name}*")]).output().unwrap();
        assert!(find.stdout.is_empty(), "a cgroup is left");
    }
}

#[test]
fn a_pod_that_does_not_end_is_deleted() {
    for runtime in runtimes() {
        let run = run(runtime, &pod(json!([sh("app", SERVE)])), &["--timeout", "500ms"]);
        run.assert_order(&["app SIGTERM", "app exited 9"]);
        assert!(run.code == 2 && run.stderr.contains("--timeout"), "{}", run.stderr);
    }
}

#[test]
fn with_always_what_succeeds_is_restarted_too() {
    for runtime in runtimes() {
        let init = sh("init", "true");
        let spec = with(pod(json!([sh("app", "true")])), json!({"initContainers": [init]}));
        let spec = with(spec, json!({"restartPolicy": "Always"}));
        let run = run(runtime, &spec, &["--max-restarts", "2"]);
        let count = |wanted: &str| run.trace().iter().filter(|line| *line == wanted).count();
        assert_eq!((count("init started"), count("app started"), count("app exited 0")), (1, 3, 3));
        assert_eq!((run.code, &run.event("finished")["phase"]), (0, &json!("Succeeded")));
    }
}

#[test]
fn with_always_a_pod_lives_until_it_is_deleted() {
    for runtime in runtimes() {
        let spec = with(pod(json!([sh("app", "true")])), json!({"restartPolicy": "Always"}));
        let run = Podrun::start(runtime, &spec, &["--max-restarts", "1000"]).terminate_at("\"restarts\":2");
        run.assert_order(&["app exited 0", "app started", "app exited 0", "app started"]);
        assert!(run.code == 2 && run.stderr.contains("SIGTERM"), "{}", run.stderr);
    }
}
