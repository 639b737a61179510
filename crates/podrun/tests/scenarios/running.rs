//! A Pod that podrun runs while the test looks and interferes.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

/// Longer than anything may take on the slowest machine.
const EVER: Duration = Duration::from_secs(180);

/// A Pod that runs.
pub(crate) struct Running {
    child: Child,
    lines: Receiver<String>,
    seen: Vec<String>,
    /// The name that podrun gives to what it makes.
    node: Option<String>,
    /// Where podrun makes it.
    temporary: TempDir,
}

/// A Pod that has ended.
pub(crate) struct Run {
    pub(crate) code: i32,
    /// What podrun printed, without times and padding: `app exited 0`.
    pub(crate) lines: Vec<String>,
    stderr: String,
}

/// Whether a line says this; what it has in brackets after that does not matter.
fn says(line: &str, what: &str) -> bool {
    line.strip_prefix(what).is_some_and(|rest| rest.is_empty() || rest.starts_with(" ("))
}

/// A line of podrun's without its time and padding.
fn plain(line: &str) -> String {
    let rest = line.split_once("s  ").unwrap().1;
    let (container, what) = rest.split_once(' ').unwrap();
    format!("{container} {}", what.trim_start())
}

/// Whether podrun can run containers here.
pub(crate) fn runs_containers() -> bool {
    static MISSING: OnceLock<Option<String>> = OnceLock::new();
    let missing = MISSING.get_or_init(|| {
        let container = r#"{"name": "app", "image": "busybox", "command": ["true"]}"#;
        let pod = format!(r#"{{"spec": {{"restartPolicy": "Never", "containers": [{container}]}}}}"#);
        let run = Running::start(&pod, &[]).end();
        (run.code == 2 && run.stderr.contains("needs ")).then_some(run.stderr)
    });
    if let Some(reason) = missing {
        skip(reason.trim());
    }
    missing.is_none()
}

pub(crate) fn skip(reason: &str) {
    // Not by eprintln, which the test harness swallows.
    let mut stderr = std::io::stderr();
    writeln!(stderr, "skipped test: {reason}").unwrap();
}

impl Running {
    /// Starts podrun with a Pod's JSON.
    pub(crate) fn start(pod: &str, options: &[&str]) -> Running {
        let temporary = tempfile::tempdir().unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_podrun"))
            .arg("/dev/stdin")
            .args(options)
            .env("TMPDIR", temporary.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(pod.as_bytes()).unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || stdout.lines().map_while(Result::ok).all(|line| sender.send(line).is_ok()));
        Running { child, lines, seen: Vec::new(), node: None, temporary }
    }

    fn next(&mut self, until: Instant) -> Option<&str> {
        let line = self.lines.recv_timeout(until.saturating_duration_since(Instant::now())).ok()?;
        // By the test's own thread, so that it is printed if the test fails.
        eprintln!("{line}");
        if self.node.is_none() {
            let mut made = fs::read_dir(&self.temporary).unwrap().flatten();
            self.node = made.next().map(|entry| entry.file_name().into_string().unwrap());
        }
        self.seen.push(plain(&line));
        self.seen.last().map(String::as_str)
    }

    /// Waits until a line says this; earlier ones do not count.
    #[track_caller]
    pub(crate) fn until(&mut self, what: &str) {
        let until = Instant::now() + EVER;
        loop {
            let line = self.next(until);
            assert!(line.is_some(), "{what:?} never came");
            if says(line.unwrap(), what) {
                return;
            }
        }
    }

    /// Whether a line has said this so far.
    pub(crate) fn has(&mut self, what: &str) -> bool {
        while self.next(Instant::now()).is_some() {}
        self.seen.iter().any(|line| says(line, what))
    }

    /// Sends a signal to the first process of a container.
    pub(crate) fn signal(&self, container: &str, signal: Signal) {
        let start = format!("{container} started (pid ");
        let pid = self.seen.iter().rev().find_map(|line| line.strip_prefix(&start)).unwrap();
        kill(Pid::from_raw(pid.trim_end_matches(')').parse().unwrap()), signal).unwrap();
    }

    fn terminate(&self) {
        let _ = kill(Pid::from_raw(self.child.id().try_into().unwrap()), Signal::SIGTERM);
    }

    /// Deletes the Pod, and waits for its end.
    #[track_caller]
    pub(crate) fn delete(self) -> Run {
        self.terminate();
        self.end()
    }

    /// Waits for the Pod's end, after which nothing of it is left.
    #[track_caller]
    pub(crate) fn end(mut self) -> Run {
        let until = Instant::now() + EVER;
        while self.next(until).is_some() {}
        assert!(Instant::now() < until, "it never ended");
        let code = self.child.wait().unwrap().code().unwrap();
        let mut stderr = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
        eprintln!("exit code {code} {stderr}");
        self.assert_nothing_left();
        Run { code, lines: std::mem::take(&mut self.seen), stderr }
    }

    /// No file, no cgroup, and no process that has a mount of podrun's: a container's root is one.
    #[track_caller]
    fn assert_nothing_left(&self) {
        let temporary = self.temporary.path();
        assert_eq!(fs::read_dir(temporary).unwrap().count(), 0, "podrun left files");
        for process in fs::read_dir("/proc").unwrap().flatten() {
            let mounts = fs::read_to_string(process.path().join("mountinfo")).unwrap_or_default();
            assert!(!mounts.contains(temporary.to_str().unwrap()), "{process:?} is left: {mounts}");
        }
        let cgroup = self.node.as_deref().and_then(|node| cgroup_of(node, Path::new("/sys/fs/cgroup")));
        assert_eq!(cgroup, None, "podrun left a cgroup");
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

impl Drop for Running {
    fn drop(&mut self) {
        // Only of a test that failed: podrun tidies up, if it can.
        if self.child.try_wait().is_ok_and(|status| status.is_none()) {
            self.terminate();
            let until = Instant::now() + Duration::from_secs(30);
            while self.next(until).is_some() {}
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

impl Run {
    pub(crate) fn has(&self, what: &str) -> bool {
        self.count(what) > 0
    }

    /// How many lines say this.
    pub(crate) fn count(&self, what: &str) -> usize {
        self.lines.iter().filter(|line| says(line, what)).count()
    }

    /// Asserts that lines said this, in this order, whatever came between.
    #[track_caller]
    pub(crate) fn assert_order(&self, all: &[&str]) {
        let mut lines = self.lines.iter();
        for what in all {
            let lines_left = lines.any(|line| says(line, what));
            assert!(lines_left, "{what:?} is missing or out of order in {:#?}", self.lines);
        }
    }
}
