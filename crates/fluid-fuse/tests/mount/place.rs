//! Where a test takes place, and what it asks for there.

#[path = "../support/skip.rs"]
pub(crate) mod skip;

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use fluid_fuse::mount::mounted_at;
use fluid_sidecar_layout::contract::env;
use rustix::mount::UnmountFlags;
use rustix::process::{Pid, Signal, kill_process};

/// Longer than anything may take on the slowest machine.
const EVER: Duration = Duration::from_secs(30);

/// A source, a mount point (not made yet) and what was started, all gone at the end.
pub(crate) struct Place {
    // Declared first: ends first.
    daemons: Vec<Daemon>,
    pub(crate) root: tempfile::TempDir,
}

struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.daemons.clear();
        while rustix::mount::unmount(self.mountpoint(), UnmountFlags::DETACH).is_ok() {}
    }
}

/// Nothing, and why, where mounts are not possible.
pub(crate) fn place() -> Option<Place> {
    let reason = if !rustix::process::geteuid().is_root() {
        "needs root"
    } else if File::options().read(true).write(true).open("/dev/fuse").is_err() {
        "needs /dev/fuse"
    } else {
        let place = Place { daemons: Vec::new(), root: tempfile::tempdir().unwrap() };
        fs::create_dir(place.source()).unwrap();
        return Some(place);
    };
    skip::skip(reason);
    None
}

impl Place {
    pub(crate) fn source(&self) -> PathBuf {
        self.root.path().join("the source")
    }

    pub(crate) fn mountpoint(&self) -> PathBuf {
        self.root.path().join("deep/mount point")
    }

    pub(crate) fn url(&self) -> String {
        format!("file://{}", self.source().to_str().unwrap().replace(' ', "%20"))
    }

    pub(crate) fn program(&self, command: &str) -> Command {
        let mut program = Command::new(env!("CARGO_BIN_EXE_fluid-fuse"));
        program.arg(command).env(env::MOUNTPOINT, self.mountpoint());
        program
    }

    pub(crate) fn start(&mut self, arguments: &[&str]) {
        let mut program = self.program("mount");
        self.spawn(program.env(env::SOURCE, self.url()).args(arguments));
    }

    pub(crate) fn spawn(&mut self, program: &mut Command) {
        self.daemons.push(Daemon(program.spawn().unwrap()));
        let ready = self.program("wait").output().unwrap();
        assert!(ready.status.success(), "{}", words(&ready));
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let daemon = &self.daemons.last().unwrap().0;
        kill_process(Pid::from_child(daemon), signal).unwrap();
    }

    #[allow(dead_code, reason = "for other test programs")]
    pub(crate) fn pid(&self) -> u32 {
        self.daemons.last().unwrap().0.id()
    }

    pub(crate) fn ended(&mut self) -> ExitStatus {
        let daemon = &mut self.daemons.last_mut().unwrap().0;
        eventually(|| daemon.try_wait().unwrap())
    }

    pub(crate) fn kind(&self) -> Option<String> {
        mounted_at(&self.mountpoint()).unwrap().map(|entry| entry.kind)
    }
}

pub(crate) fn eventually<T>(mut attempt: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + EVER;
    loop {
        if let Some(value) = attempt() {
            return value;
        }
        assert!(Instant::now() < end, "it did not happen");
        thread::sleep(Duration::from_millis(2));
    }
}

pub(crate) fn words(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

pub(crate) fn fails(program: &mut Command) -> String {
    let output = program.stdin(Stdio::null()).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", words(&output));
    words(&output)
}

/// The names in a directory, sorted.
#[allow(dead_code, reason = "for other test programs")]
pub(crate) fn names(directory: &Path) -> Vec<OsString> {
    let mut names: Vec<_> =
        fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    names
}

pub(crate) fn bytes(length: usize) -> Vec<u8> {
    let mut state = length as u64 + 1;
    let mut next = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 56) as u8
    };
    (0..length).map(|_| next()).collect()
}
