//! The processes of containers: who sees them, what limits them, and as whom they run.

use serde_json::json;

use crate::support::*;

fn shared(containers: serde_json::Value) -> serde_json::Value {
    with_volume(with(pod(containers), json!({"shareProcessNamespace": true})))
}

/// Waits for a process of this command, and sets `p` to its directory of /proc.
fn find(command: &str) -> String {
    format!(
        "find() {{ for p in /proc/[0-9]*; do [ \"$(tr '\\0' ' ' <$p/cmdline)\" = '{command} ' ] && return; done \
         2>/dev/null; false; }}; until find; do sleep 0.05; done"
    )
}

#[test]
fn containers_see_and_signal_each_other_where_they_share_processes() {
    for runtime in runtimes() {
        let look = find("sleep 4321");
        let two = format!(
            "{look}; tr '\\0' ' ' </proc/1/cmdline; echo; cmp -s $p/cgroup /proc/self/cgroup || echo distinct; \
             readlink /proc/self/ns/pid; kill ${{p#/proc/}}"
        );
        let spec = shared(json!([sh("one", "exec sleep 4321"), sh("two", &two)]));
        let run = run(runtime, &spec, &[]);
        run.assert_order(&["one started", "two: /pause ", "two: distinct", "one exited 143"]);
        assert!(run.has("two exited 0"));
        assert!(!run.events.iter().any(|event| event["event"] == "note"));
        let namespace =
            run.trace().into_iter().find_map(|line| Some(line.strip_prefix("two: pid:")?.to_owned()));
        let namespace = format!("pid:{}", namespace.unwrap());
        for process in std::fs::read_dir("/proc").unwrap().flatten() {
            let left = std::fs::read_link(process.path().join("ns/pid"));
            assert!(left.map_or(true, |link| link.as_os_str() != namespace.as_str()), "{process:?} is left");
        }
    }
}

#[test]
fn what_a_container_leaves_behind_is_killed_when_it_ends() {
    for runtime in runtimes() {
        // It also holds the container's output open.
        let one = sh(
            "one",
            "(trap '' TERM HUP; exec sleep 5432) & until [ -e /v/seen ]; do sleep 0.05; done; exit 3",
        );
        let look = find("sleep 5432");
        let two =
            sh("two", &format!("{look}; touch /v/seen; while [ -e $p ]; do sleep 0.05; done; echo gone"));
        let run = run(runtime, &shared(json!([one, two])), &[]);
        assert!(run.has("one exited 3") && run.has("two: gone") && run.has("two exited 0"));
    }
}

#[test]
fn a_container_that_is_restarted_stays_in_the_shared_namespace() {
    for runtime in runtimes() {
        let app = sh(
            "app",
            "tr '\\0' ' ' </proc/1/cmdline; echo; [ -e /v/again ] && exit 0; touch /v/again; exit 1",
        );
        let app = with(app, exec("postStart", "true"));
        let run = run(runtime, &with(shared(json!([app])), json!({"restartPolicy": "OnFailure"})), &[]);
        run.assert_order(&["app: /pause ", "app exited 1", "app started", "app: /pause ", "app exited 0"]);
        assert_eq!(run.code, 0);
    }
}

#[test]
fn the_pause_process_reaps_orphans() {
    for runtime in runtimes() {
        let script = "(sleep 0.1 &); sleep 1; grep -l '^State:.Z' /proc/[0-9]*/status || echo reaped";
        assert!(run(runtime, &shared(json!([sh("app", script)])), &[]).has("app: reaped"));
    }
}

#[test]
fn containers_without_a_shared_namespace_are_alone() {
    for runtime in runtimes() {
        let spec = pod(json!([
            sh("one", "sleep 2"),
            sh("two", "echo pid $$$$; set -- /proc/[0-9]*; echo $# process")
        ]));
        // By the shell itself: of a pipe's programs not all need to be there yet.
        run(runtime, &spec, &[]).assert_order(&["two: pid 1", "two: 1 process"]);
    }
}

#[test]
fn memory_is_limited() {
    for runtime in runtimes() {
        let limit = json!({"resources": {"limits": {"memory": "64Mi"}}});
        let eat = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes || cat /sys/fs/cgroup/memory.max; \
                   exec dd if=/dev/zero of=/dev/null bs=100M count=1";
        let spec = pod(json!([with(sh("limited", eat), limit), sh("free", eat)]));
        let run = run(runtime, &spec, &[]);
        if run.events.iter().any(|event| event["event"] == "note") {
            eprintln!("skipped: {runtime}: {}", run.event("note")["message"]);
            continue;
        }
        assert!(run.has("limited: 67108864") && run.has("limited exited 137 OOMKilled"));
        assert!(run.has("free exited 0"));
        assert_eq!(run.code, 1);
    }
}

#[test]
fn the_started_event_tells_the_process() {
    for runtime in runtimes() {
        let podrun = Podrun::start(runtime, &pod(json!([sh("app", SERVE)])), &[]);
        let run = podrun.terminate_container_at("\"up\"", "app");
        run.assert_order(&["app started", "app: up", "app: bye", "app exited 9"]);
        assert_eq!(run.code, 1);
    }
}

#[test]
fn who_may_not_run_as_root_is_not_started_as_root() {
    for runtime in runtimes() {
        let user = json!({"securityContext": {"runAsUser": 7}});
        let spec = pod(json!([sh("root", "true"), with(sh("other", "id -u"), user)]));
        let run = run(runtime, &with(spec, json!({"securityContext": {"runAsNonRoot": true}})), &[]);
        let failed = run.event("start-failed");
        assert_eq!(failed["container"], "root");
        let expected =
            "container has runAsNonRoot and image will run as root (pod: \"test\", container: root)";
        assert_eq!(failed["message"], expected);
        assert!(!run.has("root started") && run.has("other: 7"));
        assert_eq!(run.code, 1);
    }
}

fn seccomp(profile: &str) -> serde_json::Value {
    json!({"seccompProfile": {"type": profile}})
}

/// Succeeds for who has CAP_SYS_ADMIN, but for the last step where the default profile is applied.
const PIVOT: &str = "mkdir -p /n; unshare -m sh -c 'mount -t tmpfs none /n && mkdir /n/old && echo mounted && \
                     pivot_root /n /n/old && echo pivoted'";

#[test]
fn the_default_seccomp_profile_confines_who_asks_for_it_and_the_containers_word_counts() {
    for runtime in runtimes() {
        for (pods, own, confined) in [
            (None, None, false),
            (None, Some("RuntimeDefault"), true),
            (Some("RuntimeDefault"), None, true),
            (Some("RuntimeDefault"), Some("Unconfined"), false),
            (Some("Unconfined"), Some("RuntimeDefault"), true),
        ] {
            let own = own.map_or(json!({}), seccomp);
            let security = with(own, json!({"capabilities": {"add": ["SYS_ADMIN"]}}));
            let app = with(sh("app", PIVOT), json!({"securityContext": security}));
            let spec = with(pod(json!([app])), json!({"securityContext": pods.map_or(json!({}), seccomp)}));
            let run = run(runtime, &spec, &[]);
            assert!(run.has("app: mounted"));
            assert_eq!((run.has("app: pivoted"), run.code), (!confined, i32::from(confined)));
        }
    }
}

#[test]
fn hooks_are_confined_as_their_container_and_a_privileged_one_is_not() {
    for runtime in runtimes() {
        let app = |name: &str, security| {
            let app = with(sh(name, "sleep 1"), json!({"securityContext": security}));
            with(app, exec("postStart", PIVOT))
        };
        let containers = json!([
            app("confined", json!({"capabilities": {"add": ["SYS_ADMIN"]}})),
            app("privileged", json!({"privileged": true})),
        ]);
        let spec = with(pod(containers), json!({"securityContext": seccomp("RuntimeDefault")}));
        let run = run(runtime, &spec, &[]);
        assert!(run.has("confined postStart 1") && run.has("privileged postStart 0"));
    }
}
