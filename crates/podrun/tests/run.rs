//! Pods that really run, under every OCI runtime of this machine.
//!
//! Each test tells one rule. Where a machine cannot run containers, it prints `skipped: …` and passes.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use serde_json::{Value, json};

/// A finished run of podrun.
struct Run {
    code: i32,
    events: Vec<Value>,
    stderr: String,
}

impl Run {
    /// The events of a kind as `container[:what]`, in order.
    fn trace(&self) -> Vec<String> {
        let text = |event: &Value, key: &str| event[key].as_str().unwrap_or_default().to_owned();
        let line = |event: &Value| {
            let container = text(event, "container");
            match event["event"].as_str()? {
                "started" => Some(format!("{container} started")),
                "output" => Some(format!("{container}: {}", text(event, "line"))),
                "hook" => Some(format!("{container} {} {}", text(event, "hook"), event["exit_code"])),
                "stopping" => Some(format!("{container} {}", text(event, "signal"))),
                "exited" => Some(format!("{container} exited {}", event["exit_code"])),
                _ => None,
            }
        };
        self.events.iter().filter_map(line).collect()
    }

    fn has(&self, line: &str) -> bool {
        self.trace().iter().any(|known| known == line)
    }

    /// Asserts that these lines came, in this order, whatever came between.
    #[track_caller]
    fn assert_order(&self, lines: &[&str]) {
        let trace = self.trace();
        let mut rest = trace.iter();
        for line in lines {
            assert!(rest.any(|known| known == line), "{line:?} is missing or out of order in {trace:#?}");
        }
    }
}

struct Podrun {
    child: Child,
    temporary: tempfile::TempDir,
}

impl Podrun {
    fn start(runtime: &str, spec: &Value, options: &[&str]) -> Podrun {
        let temporary = tempfile::tempdir().unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_podrun"))
            .args(["-", "--runtime", runtime])
            .args(options)
            .env("TMPDIR", temporary.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "test"}, "spec": spec});
        child.stdin.take().unwrap().write_all(pod.to_string().as_bytes()).unwrap();
        Podrun { child, temporary }
    }

    /// Sends SIGTERM to podrun when a container wrote this line.
    fn terminate_at(mut self, line: &str) -> Run {
        let mut stdout = BufReader::new(self.child.stdout.take().unwrap());
        let mut before = String::new();
        while !before.contains(line) {
            assert!(stdout.read_line(&mut before).unwrap() > 0, "{line:?} never came: {before}");
        }
        let pid = nix::unistd::Pid::from_raw(self.child.id().try_into().unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        std::io::Read::read_to_string(&mut stdout, &mut before).unwrap();
        self.finish(&before)
    }

    fn finish(self, before: &str) -> Run {
        let output = self.child.wait_with_output().unwrap();
        let stdout = before.to_owned() + std::str::from_utf8(&output.stdout).unwrap();
        let events = stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_nothing_left(self.temporary.path());
        let stderr = String::from_utf8(output.stderr).unwrap();
        Run { code: output.status.code().unwrap(), events, stderr }
    }
}

/// No file, and no process (this one included) that has a mount of it: a container's root is one.
fn assert_nothing_left(temporary: &Path) {
    assert_eq!(std::fs::read_dir(temporary).unwrap().count(), 0, "podrun left files");
    for process in std::fs::read_dir("/proc").unwrap().flatten() {
        let mounts = std::fs::read_to_string(process.path().join("mountinfo")).unwrap_or_default();
        assert!(!mounts.contains(temporary.to_str().unwrap()), "{process:?} is left: {mounts}");
    }
}

fn run(runtime: &str, spec: &Value, options: &[&str]) -> Run {
    let run = Podrun::start(runtime, spec, options).finish("");
    eprintln!("{runtime}: exit code {}, {}{:#?}", run.code, run.stderr, run.trace());
    run
}

/// The runtimes with which containers can run here.
fn runtimes() -> &'static [&'static str] {
    static RUNTIMES: OnceLock<Vec<&str>> = OnceLock::new();
    let works = |runtime: &&str| {
        let run = Podrun::start(runtime, &pod(json!([sh("app", "true")])), &[]).finish("");
        let lacking = run.code == 2 && run.stderr.contains("needs ");
        if lacking {
            // Not by println, which the test harness swallows.
            let mut stderr = std::io::stderr().lock();
            writeln!(stderr, "skipped: {runtime}: {}", run.stderr.trim()).unwrap();
        }
        !lacking
    };
    let runtimes = RUNTIMES.get_or_init(|| ["runc", "crun"].into_iter().filter(works).collect());
    if runtimes.is_empty() {
        let mut stderr = std::io::stderr();
        writeln!(stderr, "skipped test: no runtime can run containers here").unwrap();
    }
    runtimes
}

fn pod(containers: Value) -> Value {
    json!({"restartPolicy": "Never", "terminationGracePeriodSeconds": 20, "containers": containers})
}

fn sh(name: &str, script: &str) -> Value {
    json!({"name": name, "image": "busybox", "command": ["sh", "-c", script]})
}

/// A value with more fields.
fn with(mut value: Value, fields: Value) -> Value {
    value.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    value
}

fn exec(hook: &str, script: &str) -> Value {
    json!({"lifecycle": {hook: {"exec": {"command": ["sh", "-c", script]}}}})
}

fn vfuse(container: Value) -> Value {
    with(container, json!({"resources": {"limits": {fluid_sidecar_layout::VFUSE_RESOURCE: "1"}}}))
}

/// Runs until it gets SIGTERM, and says so.
const SERVE: &str = "trap 'echo bye; exit 9' TERM; echo up; while :; do sleep 0.05; done";

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
