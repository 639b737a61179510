//! What the tests of the data path share: a store that does as a test says, the real program mounted on it, and
//! content that can be told apart by version and place.
#![allow(dead_code, reason = "each test program uses its part of it")]

pub(crate) mod content;
#[path = "../mount/place.rs"]
pub(crate) mod place;
pub(crate) mod s3s;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use content::Content;
use fluid_sidecar_layout::contract::env;
use place::Place;
use s3::S3;
pub(crate) use test_store as s3;

/// Short waits for a store that does not answer, so that a test can see several of them.
const PATIENCE: &str = "connect_timeout=300ms first_byte_timeout=300ms stall_timeout=300ms";

/// A store with a bucket and a place where it is mounted.
pub(crate) struct Mounted {
    // Declared first: the mount ends before its store does.
    pub(crate) place: Place,
    pub(crate) s3: S3,
}

impl Mounted {
    /// An empty store, mounted; nothing where mounts are not possible.
    pub(crate) fn new(arguments: &[&str]) -> Option<Self> {
        Self::with(S3::start(), arguments)
    }

    /// A store that has its objects already.
    pub(crate) fn with(s3: S3, arguments: &[&str]) -> Option<Self> {
        let mut mounted = Mounted { place: place::place()?, s3 };
        mounted.start(arguments);
        Some(mounted)
    }

    /// Mounts (again).
    pub(crate) fn start(&mut self, arguments: &[&str]) {
        let endpoint = self.s3.endpoint();
        start(&mut self.place, &endpoint, &[&["--source", "s3://data"], arguments].concat());
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.place.mountpoint().join(name)
    }

    pub(crate) fn open(&self, name: &str) -> std::io::Result<File> {
        File::open(self.path(name))
    }

    /// What the program has logged.
    pub(crate) fn log(&self) -> String {
        log(&self.place)
    }

    /// Kilobytes from the program's `/proc/PID/status`.
    pub(crate) fn status(&self, field: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.place.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':')).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }
}

/// Mounts a store at an endpoint.
pub(crate) fn start(place: &mut Place, endpoint: &str, arguments: &[&str]) {
    let mut program = place.program("mount");
    program.env(env::OPTION, format!("endpoint={endpoint} region=nowhere {PATIENCE}"));
    program.env("AWS_ACCESS_KEY_ID", s3::KEY).env("AWS_SECRET_ACCESS_KEY", s3::SECRET);
    program.args(arguments);
    spawn(place, &mut program);
}

/// Mounts; the log goes to a file.
pub(crate) fn spawn(place: &mut Place, program: &mut Command) {
    let log = File::options().create(true).append(true).open(log_file(place)).unwrap();
    program.stderr(log).env(env::LOG, "debug").env("NO_PROXY", "*");
    place.spawn(program);
}

/// What was logged.
pub(crate) fn log(place: &Place) -> String {
    fs::read_to_string(log_file(place)).unwrap()
}

fn log_file(place: &Place) -> PathBuf {
    place.root.path().join("log")
}

/// Reads all of a file, and says where it is wrong.
pub(crate) fn check(path: &Path, content: &Content) {
    let bytes = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert_eq!(bytes.len() as u64, content.size, "{}", path.display());
    assert_eq!(content.difference(0, &bytes), None, "{}", path.display());
}
