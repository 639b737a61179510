//! A holder, and the workers that serve its mount one after the other.

use std::fs::{self, File, Permissions};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use fluid_sidecar_layout::contract::env;
use rustix::process::{Pid, Signal, kill_process};

use crate::support::place::{Place, eventually, place, words};
use crate::support::s3;

/// Longer than anything may take on the slowest machine.
const EVER: Duration = Duration::from_secs(60);

/// Starts a worker for each line, and prints its process number and its exit code. A child of the tests has their open files
/// until it executes another program, and closes them then: as a child, a worker would wait for itself.
const SUPERVISOR: &str = r#"
    [ -z "$0" ] || echo $$ > "$0/cgroup.procs"
    while read -r _; do "$@" & echo $!; wait $!; echo $?; done"#;

/// The exit code that a shell has for a program that SIGKILL has ended.
pub(crate) const KILLED: i32 = 128 + 9;

/// A holder and its worker.
pub(crate) struct Pair {
    pub(crate) holder: Child,
    supervisor: Child,
    orders: ChildStdin,
    told: Receiver<i32>,
    worker: i32,
    pub(crate) place: Place,
}

impl Drop for Pair {
    fn drop(&mut self) {
        let _ = self.supervisor.kill();
        let _ = kill_process(Pid::from_raw(self.worker).unwrap(), Signal::KILL);
        for process in [&mut self.supervisor, &mut self.holder] {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

impl Pair {
    /// Starts both; nothing where mounts are not possible.
    pub(crate) fn start(endpoint: &str, holding: &[&str], options: &[&str]) -> Option<Self> {
        Self::start_in(endpoint, holding, options, None)
    }

    /// The same with the worker in a cgroup.
    pub(crate) fn start_in(
        endpoint: &str,
        holding: &[&str],
        options: &[&str],
        cgroup: Option<&Path>,
    ) -> Option<Self> {
        Self::start_by(&[], endpoint, holding, options, cgroup)
    }

    /// The same with the worker started by another program.
    pub(crate) fn start_by(
        starter: &[&str],
        endpoint: &str,
        holding: &[&str],
        options: &[&str],
        cgroup: Option<&Path>,
    ) -> Option<Self> {
        let place = place()?;
        // A worker may have another user.
        fs::set_permissions(place.root.path(), Permissions::from_mode(0o755)).unwrap();
        let holder = holder(&place).args(holding).spawn().unwrap();
        let mut shell = Command::new("sh");
        shell.args(["-c", SUPERVISOR]).arg(cgroup.unwrap_or(Path::new("")));
        shell.args(starter).args([env!("CARGO_BIN_EXE_fluid-fuse"), "mount"]).args(options);
        shell.env(env::MOUNTPOINT, place.mountpoint()).env(env::SOURCE, "s3://data");
        shell.env(env::FD, format!("unix:{}", socket(&place).display()));
        shell.env(env::OPTION, format!("endpoint={endpoint} region=us-east-1"));
        shell.env("AWS_ACCESS_KEY_ID", s3::KEY).env("AWS_SECRET_ACCESS_KEY", s3::SECRET);
        shell.env("NO_PROXY", "*").env(env::LOG, "info").stderr(log_file(&place));
        let mut supervisor = shell.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let orders = supervisor.stdin.take().unwrap();
        let output = BufReader::new(supervisor.stdout.take().unwrap());
        let (sender, told) = mpsc::channel();
        thread::spawn(move || {
            let numbers = output.lines().map_while(Result::ok).filter_map(|line| line.parse().ok());
            numbers.into_iter().try_for_each(|number| sender.send(number))
        });
        let mut pair = Pair { holder, supervisor, orders, told, worker: 0, place };
        pair.next_worker();
        pair.wait();
        Some(pair)
    }

    fn wait(&self) {
        let ready = self.place.program("wait").output().unwrap();
        assert!(ready.status.success(), "{} {}", words(&ready), self.log());
    }

    /// The socket of the holder.
    pub(crate) fn socket(&self) -> PathBuf {
        socket(&self.place)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.place.mountpoint().join(name)
    }

    /// The worker's process number.
    pub(crate) fn worker(&self) -> i32 {
        self.worker
    }

    pub(crate) fn signal_worker(&self, signal: Signal) {
        kill_process(Pid::from_raw(self.worker).unwrap(), signal).unwrap();
    }

    pub(crate) fn kill_worker(&mut self) {
        self.signal_worker(Signal::KILL);
        assert_eq!(self.worker_ended(), KILLED);
    }

    /// Waits for the worker's exit code.
    pub(crate) fn worker_ended(&self) -> i32 {
        self.told.recv_timeout(EVER).unwrap()
    }

    /// The worker's exit code, if it has ended.
    pub(crate) fn worker_has_ended(&self) -> Option<i32> {
        self.told.try_recv().ok()
    }

    /// Another worker, as kubelet starts one.
    pub(crate) fn next_worker(&mut self) {
        self.orders.write_all(b"\n").unwrap();
        self.worker = self.told.recv_timeout(EVER).unwrap();
    }

    /// Starts both once more, on the same directory.
    pub(crate) fn again(&mut self) {
        self.holder = holder(&self.place).spawn().unwrap();
        self.next_worker();
        self.wait();
    }

    pub(crate) fn signal_holder(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.holder), signal).unwrap();
    }

    pub(crate) fn holder_ended(&mut self) -> Option<i32> {
        let holder = &mut self.holder;
        eventually(|| holder.try_wait().unwrap()).code()
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(log(&self.place)).unwrap()
    }

    /// Kilobytes of memory that are the holder's own.
    pub(crate) fn holder_memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.holder.id())).unwrap();
        let field = |name: &str| -> u64 {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.trim().trim_end_matches(" kB").parse().unwrap()
        };
        field("RssAnon:") + field("RssShmem:")
    }
}

fn holder(place: &Place) -> Command {
    let mut program = place.program("hold");
    program.env(env::SOCKET, socket(place)).env(env::LOG, "info").stderr(log_file(place));
    program.stdin(Stdio::null()).stdout(Stdio::null());
    program
}

fn socket(place: &Place) -> PathBuf {
    place.root.path().join("socket")
}

fn log(place: &Place) -> PathBuf {
    place.root.path().join("log")
}

fn log_file(place: &Place) -> OwnedFd {
    File::options().create(true).append(true).open(log(place)).unwrap().into()
}
