//! What follows when a probe fails, and when it succeeds.

use serde_json::{Value, json};

use crate::support::*;

/// With a probe that has time, however busy the machine is.
fn probe(field: &str, script: &str, more: Value) -> Value {
    let probe = json!({"exec": {"command": ["sh", "-c", script]}, "periodSeconds": 1, "timeoutSeconds": 30});
    json!({field: with(probe, more)})
}

/// The first probe succeeds, the others do not; the container that finds it has been probed ends by itself.
const SICKENS: &str = "[ -e /v/probed ] && exit 3; touch /v/probed";
const IS_CURED: &str =
    "[ -e /v/probed ] && exit 0; trap 'echo bye; exit 0' TERM; while :; do sleep 0.05; done";

#[test]
fn a_failing_liveness_probe_ends_and_restarts_a_container() {
    for runtime in runtimes() {
        let fields = json!({"initialDelaySeconds": 1, "failureThreshold": 2});
        let app = with(sh("app", IS_CURED), probe("livenessProbe", SICKENS, fields));
        let app = with(app, exec("preStop", "echo stop"));
        let spec = with(with_volume(pod(json!([app]))), json!({"restartPolicy": "OnFailure"}));
        let run = run(runtime, &spec, &[]);
        run.assert_order(&[
            "app started",
            "app livenessProbe 0",
            "app livenessProbe 3",
            "app livenessProbe 3",
            "app preStop 0",
            "app SIGTERM",
            "app: bye",
            // Though it ended well.
            "app exited 0",
            "app started",
            "app exited 0",
        ]);
        assert_eq!(run.event("stopping")["reason"], "its liveness probe failed");
        assert_eq!(run.code, 0);
    }
}

#[test]
fn without_a_restart_a_failing_liveness_probe_ends_it_for_good() {
    for runtime in runtimes() {
        let app = with(sh("app", SERVE), probe("livenessProbe", "exit 3", json!({"failureThreshold": 1})));
        let run = run(runtime, &pod(json!([app])), &[]);
        run.assert_order(&["app livenessProbe 3", "app SIGTERM", "app exited 9"]);
        assert_eq!(run.trace().iter().filter(|line| *line == "app started").count(), 1);
        assert_eq!(run.code, 1);
    }
}

#[test]
fn a_native_sidecar_whose_liveness_probe_fails_is_restarted() {
    for runtime in runtimes() {
        let fields = json!({"failureThreshold": 1});
        let sidecar = with(sh("sidecar", SERVE), probe("livenessProbe", "test -e /v/cured", fields));
        let sidecar = with(sidecar, json!({"restartPolicy": "Always"}));
        let sidecar = with(sidecar, exec("preStop", "touch /v/cured"));
        let app = sh("app", "until [ -e /v/cured ]; do sleep 0.05; done; sleep 2");
        let spec = with_volume(with(pod(json!([app])), json!({"initContainers": [sidecar]})));
        let run = run(runtime, &spec, &[]);
        run.assert_order(&[
            "app started",
            "sidecar SIGTERM",
            "sidecar exited 9",
            "sidecar started",
            "sidecar livenessProbe 0",
            "app exited 0",
            "sidecar exited 9",
        ]);
        assert_eq!(run.code, 0);
    }
}

#[test]
fn a_probe_that_hangs_fails_when_its_time_is_up_and_blocks_nothing() {
    for runtime in runtimes() {
        let fields = json!({"failureThreshold": 1, "timeoutSeconds": 4});
        let hanging = with(sh("hanging", SERVE), probe("livenessProbe", "sleep 1000; true", fields));
        let hanging = with(hanging, json!({"restartPolicy": "Always"}));
        let other = sh("app", "[ -e /v/again ] && sleep 6 && exit 0; touch /v/again; exit 1");
        let spec =
            with(pod(json!([other])), json!({"initContainers": [hanging], "restartPolicy": "OnFailure"}));
        let run = run(runtime, &with_volume(spec), &[]);
        run.assert_order(&[
            "hanging started",
            "app exited 1",
            "app started",
            "hanging livenessProbe 137",
            "hanging SIGTERM",
            "app exited 0",
        ]);
        let output = run.event("hook")["output"].as_str().unwrap();
        assert!(output.contains("timed out after 4s"), "{output}");
        assert_eq!(run.code, 0);
    }
}

#[test]
fn containers_of_a_lower_priority_wait_until_the_others_are_ready() {
    let priority =
        |priority: &str| json!({"env": [{"name": "ECI_CONTAINER_LAUNCH_PRIORITY", "value": priority}]});
    for runtime in runtimes() {
        let high = sh("high", "sleep 0.5; touch /ready; until [ -e /v/done ]; do sleep 0.05; done");
        let high = with(with(high, priority("10")), probe("readinessProbe", "test -e /ready", json!({})));
        let spec = pod(json!([
            sh("default", "touch /v/done"),
            with(sh("low", "true"), priority("-1")),
            with(sh("middle", "sleep 0.2"), priority("5")),
            high,
        ]));
        let run = run(runtime, &with_volume(spec), &[]);
        run.assert_order(&[
            "high started",
            "high readinessProbe 0",
            "middle started",
            "default started",
            "low started",
            "high exited 0",
        ]);
        assert_eq!(run.code, 0);
    }
}

#[test]
fn nothing_waits_for_a_container_that_ended_before_it_was_ready() {
    let priority = json!({"env": [{"name": "ECI_CONTAINER_LAUNCH_PRIORITY", "value": "1"}]});
    for runtime in runtimes() {
        let high = with(sh("high", "exit 3"), priority.clone());
        let high = with(high, probe("readinessProbe", "false", json!({})));
        let run = run(runtime, &pod(json!([sh("low", "true"), high])), &[]);
        run.assert_order(&["high exited 3", "low started", "low exited 0"]);
        assert_eq!(run.code, 1);
    }
}
