//! What a scenario needs: an object store, the policy, and Pods that run while the test looks and interferes.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::support::{Run, line, runtimes, spawn};

/// Longer than anything may take on the slowest machine.
const EVER: Duration = Duration::from_secs(90);

/// Everything on Elastic Container Instances, by `fluid-fuse`.
pub(crate) const ECI: &str = "sidecarFrom: fluid-fuse\nsidecarImages: {thin: 'fluid-fuse:0.1'}\n";

/// Everything on ordinary nodes, as native sidecars.
pub(crate) const NATIVE: &str =
    "sidecarFrom: fluid-fuse\nsidecarImages: {thin: 'fluid-fuse:0.1'}\ndestination: kubernetes\n";

/// The settings with more in them.
pub(crate) fn and(settings: &str, more: &str) -> String {
    format!("{settings}{more}\n")
}

/// A Pod for ECI whose only container is `app`, with the claim `data` at /data.
pub(crate) fn pod(restart_policy: &str, script: &str) -> String {
    format!(
        r#"
apiVersion: v1
kind: Pod
metadata: {{name: job, labels: {{alibabacloud.com/eci: "true"}}}}
spec:
  restartPolicy: {restart_policy}
  terminationGracePeriodSeconds: 20
  containers:
  - name: app
    image: busybox
    command: [sh, -c, {script}]
    volumeMounts: [{{name: data, mountPath: /data}}, {{name: scratch, mountPath: /scratch}}]
  volumes:
  - {{name: data, persistentVolumeClaim: {{claimName: data}}}}
  - {{name: scratch, emptyDir: {{}}}}
"#,
        script = serde_json::to_string(script).unwrap()
    )
}

/// What the tests run, made by `make wasm tools`.
fn tool(variable: &str, path: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    root.join(std::env::var_os(variable).map_or_else(|| path.into(), PathBuf::from))
}

fn policy() -> PathBuf {
    tool("POLICY", "target/policy.wasm")
}

fn evaluate() -> PathBuf {
    tool("EVALUATE", "target/debug/evaluate")
}

fn fluid_fuse() -> PathBuf {
    tool("FLUID_FUSE", "target/debug/fluid-fuse")
}

fn fuse_bench() -> PathBuf {
    tool("FUSE_BENCH", "target/debug/fuse-bench")
}

/// Each runtime that scenarios can run under here.
pub(crate) fn worlds() -> impl Iterator<Item = World> {
    static MISSING: OnceLock<Option<String>> = OnceLock::new();
    let missing = MISSING.get_or_init(|| {
        let tools = [policy(), evaluate(), fluid_fuse(), fuse_bench()];
        let absent = tools.iter().find(|path| !path.exists());
        let fuse = || File::options().read(true).write(true).open("/dev/fuse").is_err();
        absent
            .map(|path| format!("{} is not built (make wasm tools)", path.display()))
            .or_else(|| fuse().then(|| "needs /dev/fuse".to_owned()))
    });
    if let Some(reason) = missing {
        // Not by println, which the test harness swallows.
        let mut stderr = std::io::stderr();
        writeln!(stderr, "skipped test: {reason}").unwrap();
    }
    let runtimes = if missing.is_some() { &[] } else { runtimes() };
    runtimes.iter().map(|runtime| World::new(runtime))
}

/// A runtime, and an object store of its own.
pub(crate) struct World {
    runtime: &'static str,
    store: Store,
    temporary: tempfile::TempDir,
}

/// The endpoint of the benchmark, which serves the directories of [`buckets`].
pub(crate) struct Store {
    process: Child,
    address: String,
}

impl Store {
    fn start(listen: &str, slowly: &[&str]) -> Store {
        let mut process = Command::new(fuse_bench())
            .args(["serve", "--root"])
            .arg(buckets())
            .args(["--listen", listen])
            .args(slowly)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut address = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut address).unwrap();
        Store { process, address: address.trim().to_owned() }
    }

    /// It is gone, as if the network were.
    pub(crate) fn stop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// It is there again, where it was.
    pub(crate) fn resume(&mut self) {
        *self = Store::start(&self.address.clone(), &[]);
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// `train` and `labels`, each with a file that has the checksums of the others.
fn buckets() -> &'static Path {
    static BUCKETS: OnceLock<PathBuf> = OnceLock::new();
    BUCKETS.get_or_init(|| {
        let buckets = Path::new(env!("CARGO_TARGET_TMPDIR")).join("buckets");
        let script = r#"set -e; mkdir -p "$0/train/deep" "$0/labels"; cd "$0/train"
            [ -e big.bin ] || { head -c 50000000 /dev/urandom >new; mv new big.bin; }
            echo hello >hello.txt; echo below >deep/file; sha256sum big.bin hello.txt deep/file >SUMS
            cd ../labels; echo cat >1.txt; sha256sum 1.txt >SUMS"#;
        assert!(Command::new("sh").args(["-c", script]).arg(&buckets).status().unwrap().success());
        buckets
    })
}

impl World {
    fn new(runtime: &'static str) -> World {
        let temporary = tempfile::tempdir().unwrap();
        fs::create_dir_all(temporary.path().join("keys")).unwrap();
        for (key, value) in [("id", "AKID"), ("secret", "s3cr3t")] {
            fs::write(temporary.path().join("keys").join(key), value).unwrap();
        }
        fs::create_dir(temporary.path().join("node")).unwrap();
        eprintln!("-- {runtime}");
        World { runtime, store: Store::start("127.0.0.1:0", &[]), temporary }
    }

    /// The same with a store whose answers come late or slowly.
    pub(crate) fn slow(mut self, how: &[&str]) -> World {
        self.store = Store::start("127.0.0.1:0", how);
        self
    }

    pub(crate) fn is_crun(&self) -> bool {
        self.runtime == "crun"
    }

    pub(crate) fn store(&mut self) -> &mut Store {
        &mut self.store
    }

    /// The Pod as the policy leaves it.
    pub(crate) fn admit(&self, pod: &str, settings: &str) -> String {
        let write = |name: &str, text: &str| {
            let path = self.temporary.path().join(name);
            fs::write(&path, text).unwrap();
            path
        };
        let cluster = include_str!("cluster.yaml");
        let cluster = cluster.replace("ENDPOINT", &format!("\"http://{}\"", self.store.address));
        let admitted = Command::new(evaluate())
            .args(["--output", "pod", "--policy"])
            .arg(policy())
            .arg("--pod")
            .arg(write("pod.yaml", pod))
            .arg("--objects")
            .arg(write("cluster.yaml", &cluster))
            .arg("--settings")
            .arg(write("settings.yaml", settings))
            .output()
            .unwrap();
        assert!(admitted.status.success(), "{}", String::from_utf8_lossy(&admitted.stderr));
        String::from_utf8(admitted.stdout).unwrap()
    }

    /// Admits the Pod and starts it.
    pub(crate) fn start(&self, pod: &str, settings: &str) -> Pod {
        self.start_admitted(&self.admit(pod, settings), &[])
    }

    /// Starts what was admitted.
    pub(crate) fn start_admitted(&self, pod: &str, options: &[&str]) -> Pod {
        let pair = |name: &str, path: &Path| format!("{name}={}", path.display());
        let temporary = tempfile::tempdir_in(&self.temporary).unwrap();
        let image = pair("fluid-fuse", &fluid_fuse());
        let secret = pair("keys", &self.temporary.path().join("keys"));
        let node_root = self.temporary.path().join("node");
        let places = ["--image", &image, "--secret", &secret, "--node-root", node_root.to_str().unwrap()];
        let mut child = spawn(self.runtime, pod, &[&places, options].concat(), temporary.path());
        let (sender, receiver) = mpsc::channel();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        thread::spawn(move || {
            let events = stdout.lines().map_while(Result::ok);
            events.map(|event| sender.send(serde_json::from_str(&event).unwrap())).all(|sent| sent.is_ok())
        });
        Pod { child, events: receiver, seen: Vec::new(), node: None, temporary }
    }

    /// Admits the Pod and runs it to its end.
    pub(crate) fn run(&self, pod: &str, settings: &str) -> Run {
        self.start(pod, settings).end()
    }

    /// No process, and no mount in any process, has to do with this world's Pods.
    pub(crate) fn assert_nothing_left(&self) {
        let place = self.temporary.path().to_str().unwrap();
        for process in fs::read_dir("/proc").unwrap().flatten() {
            let mounts = fs::read_to_string(process.path().join("mountinfo")).unwrap_or_default();
            assert!(!mounts.contains(place), "{process:?} is left: {mounts}");
        }
    }
}

/// A Pod that runs.
pub(crate) struct Pod {
    child: Child,
    events: Receiver<Value>,
    seen: Vec<Value>,
    /// The name that podrun gives to what it makes.
    node: Option<String>,
    temporary: tempfile::TempDir,
}

impl Pod {
    fn next(&mut self, until: Instant) -> Option<&Value> {
        let event = self.events.recv_timeout(until.saturating_duration_since(Instant::now())).ok()?;
        // Of the test's own thread, so that it is printed if the test fails.
        eprintln!("{event}");
        if self.node.is_none() {
            let mut made = fs::read_dir(&self.temporary).unwrap().flatten();
            self.node = made.next().map(|entry| entry.file_name().into_string().unwrap());
        }
        self.seen.push(event);
        self.seen.last()
    }

    /// Waits until this happens (see [`line`]); what happened before does not count.
    #[track_caller]
    pub(crate) fn until(&mut self, what: &str) {
        let until = Instant::now() + EVER;
        loop {
            let event = self.next(until);
            assert!(event.is_some(), "{what:?} never came");
            if event.and_then(line).as_deref() == Some(what) {
                return;
            }
        }
    }

    fn pid(&self, container: &str) -> Pid {
        let started = |event: &&Value| event["event"] == "started" && event["container"] == container;
        let event = self.seen.iter().rfind(started).unwrap();
        Pid::from_raw(event["pid"].as_i64().unwrap().try_into().unwrap())
    }

    /// Sends a signal to the first process of a container.
    pub(crate) fn signal(&self, container: &str, signal: Signal) {
        kill(self.pid(container), signal).unwrap();
    }

    /// Whether a seccomp profile is applied to the first process of a container.
    pub(crate) fn is_confined(&self, container: &str) -> bool {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid(container))).unwrap();
        status.contains("Seccomp:\t2")
    }

    /// Deletes it, and waits for its end.
    pub(crate) fn delete(self) -> Run {
        kill(Pid::from_raw(self.child.id().try_into().unwrap()), Signal::SIGTERM).unwrap();
        self.end()
    }

    /// Waits for its end.
    pub(crate) fn end(mut self) -> Run {
        let until = Instant::now() + EVER;
        while self.next(until).is_some() {}
        assert!(Instant::now() < until, "it never ended");
        let code = self.child.wait().unwrap().code().unwrap();
        let mut stderr = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
        eprintln!("exit code {code} {stderr}");
        assert_eq!(fs::read_dir(&self.temporary).unwrap().count(), 0, "podrun left files");
        let cgroup = self.node.as_deref().and_then(|node| cgroup_of(node, Path::new("/sys/fs/cgroup")));
        assert_eq!(cgroup, None, "podrun left a cgroup");
        let events = std::mem::take(&mut self.seen);
        Run { code, events, stderr }
    }
}

/// A cgroup of the Pod's.
fn cgroup_of(node: &str, directory: &Path) -> Option<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut directories = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    directories.find_map(|entry| match entry.file_name().to_string_lossy().starts_with(node) {
        true => Some(entry.path()),
        false => cgroup_of(node, &entry.path()),
    })
}

impl Drop for Pod {
    fn drop(&mut self) {
        // Only of a test that failed: podrun tidies up.
        if self.child.try_wait().is_ok_and(|status| status.is_none()) {
            let _ = kill(Pid::from_raw(self.child.id() as i32), Signal::SIGTERM);
            let _ = self.child.wait();
        }
    }
}

/// The milliseconds at which something happened first.
#[track_caller]
pub(crate) fn at(run: &Run, what: &str) -> u64 {
    let event = run.events.iter().find(|event| line(event).as_deref() == Some(what));
    assert!(event.is_some(), "{what:?} never came");
    event.unwrap()["time_ms"].as_u64().unwrap()
}
