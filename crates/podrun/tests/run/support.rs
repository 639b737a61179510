//! How a test runs a Pod, and reads what podrun tells of it.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use serde_json::{Value, json};

/// A finished run of podrun.
pub(crate) struct Run {
    pub(crate) code: i32,
    pub(crate) events: Vec<Value>,
    pub(crate) stderr: String,
}

impl Run {
    /// The events in short, in order.
    pub(crate) fn trace(&self) -> Vec<String> {
        self.events.iter().filter_map(line).collect()
    }

    pub(crate) fn has(&self, line: &str) -> bool {
        self.trace().iter().any(|known| known == line)
    }

    /// The first event of a kind.
    #[track_caller]
    pub(crate) fn event(&self, kind: &str) -> &Value {
        self.events.iter().find(|event| event["event"] == kind).unwrap()
    }

    /// Asserts that these lines came, in this order, whatever came between.
    #[track_caller]
    pub(crate) fn assert_order(&self, lines: &[&str]) {
        let trace = self.trace();
        let mut rest = trace.iter();
        for line in lines {
            assert!(rest.any(|known| known == line), "{line:?} is missing or out of order in {trace:#?}");
        }
    }
}

/// An event as `container what`, if it is one that tests look for.
pub(crate) fn line(event: &Value) -> Option<String> {
    let text = |key: &str| event[key].as_str().unwrap_or_default();
    let container = text("container");
    match event["event"].as_str()? {
        "started" => Some(format!("{container} started")),
        "output" => Some(format!("{container}: {}", text("line"))),
        "hook" => Some(format!("{container} {} {}", text("hook"), event["exit_code"])),
        "stopping" => Some(format!("{container} {}", text("signal"))),
        "exited" => {
            let reason = event["reason"].as_str().map(|reason| format!(" {reason}"));
            Some(format!("{container} exited {}{}", event["exit_code"], reason.unwrap_or_default()))
        }
        _ => None,
    }
}

/// Starts podrun with a Pod's JSON; what it makes is in the temporary directory.
pub(crate) fn spawn(runtime: &str, pod: &str, options: &[&str], temporary: &Path) -> Child {
    let mut child = Command::new(env!("CARGO_BIN_EXE_podrun"))
        .args(["-", "--runtime", runtime])
        .args(options)
        .env("TMPDIR", temporary)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(pod.as_bytes()).unwrap();
    child
}

pub(crate) struct Podrun {
    child: Child,
    temporary: tempfile::TempDir,
}

impl Podrun {
    pub(crate) fn start(runtime: &str, spec: &Value, options: &[&str]) -> Podrun {
        let temporary = tempfile::tempdir().unwrap();
        let child = spawn(runtime, &manifest(spec), options, temporary.path());
        Podrun { child, temporary }
    }

    /// Sends SIGTERM to podrun when this came, such as a line that a container wrote.
    pub(crate) fn terminate_at(self, line: &str) -> Run {
        let podrun = self.child.id().into();
        self.signal_at(line, |_| podrun)
    }

    /// Sends SIGTERM to a container's process when this came.
    pub(crate) fn terminate_container_at(self, line: &str, container: &str) -> Run {
        self.signal_at(line, |events| {
            let started = |event: &&Value| event["event"] == "started" && event["container"] == container;
            events.iter().find(started).unwrap()["pid"].as_i64().unwrap()
        })
    }

    fn signal_at(mut self, line: &str, pid: impl Fn(&[Value]) -> i64) -> Run {
        let mut stdout = BufReader::new(self.child.stdout.take().unwrap());
        let mut before = String::new();
        while !before.contains(line) {
            assert!(stdout.read_line(&mut before).unwrap() > 0, "{line:?} never came: {before}");
        }
        let events: Vec<_> = before.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let pid = nix::unistd::Pid::from_raw(pid(&events).try_into().unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        std::io::Read::read_to_string(&mut stdout, &mut before).unwrap();
        self.finish(&before)
    }

    pub(crate) fn finish(self, before: &str) -> Run {
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

pub(crate) fn run(runtime: &str, spec: &Value, options: &[&str]) -> Run {
    let run = Podrun::start(runtime, spec, options).finish("");
    eprintln!("{runtime}: exit code {}, {}{:#?}", run.code, run.stderr, run.trace());
    run
}

/// The runtimes with which containers can run here.
pub(crate) fn runtimes() -> &'static [&'static str] {
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

/// The JSON of the Pod `test`.
pub(crate) fn manifest(spec: &Value) -> String {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "test"}, "spec": spec}).to_string()
}

pub(crate) fn pod(containers: Value) -> Value {
    json!({"restartPolicy": "Never", "terminationGracePeriodSeconds": 20, "containers": containers})
}

pub(crate) fn sh(name: &str, script: &str) -> Value {
    json!({"name": name, "image": "busybox", "command": ["sh", "-c", script]})
}

/// A value with more fields.
pub(crate) fn with(mut value: Value, fields: Value) -> Value {
    value.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    value
}

/// With an empty volume of all containers at /v.
pub(crate) fn with_volume(mut spec: Value) -> Value {
    for list in ["initContainers", "containers"] {
        for container in spec[list].as_array_mut().into_iter().flatten() {
            container["volumeMounts"] = json!([{"name": "v", "mountPath": "/v"}]);
        }
    }
    with(spec, json!({"volumes": [{"name": "v", "emptyDir": {}}]}))
}

pub(crate) fn exec(hook: &str, script: &str) -> Value {
    json!({"lifecycle": {hook: {"exec": {"command": ["sh", "-c", script]}}}})
}

pub(crate) fn vfuse(container: Value) -> Value {
    with(container, json!({"resources": {"limits": {fluid_sidecar_layout::contract::VFUSE_RESOURCE: "1"}}}))
}

/// Runs until it gets SIGTERM, and says so.
pub(crate) const SERVE: &str = "trap 'echo bye; exit 9' TERM; echo up; while :; do sleep 0.05; done";
