//! Writing through a real mount to a store, and what is on its disk then. Without root or `/dev/fuse`
//! each test says that it was skipped.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod attributes;
mod continued;
mod directories;
mod faults;
mod files;
#[path = "../mount/place.rs"]
#[allow(dead_code, reason = "not all of it is needed here")]
mod place;
mod server;

use std::path::PathBuf;
use std::process::Command;

use fluid_sidecar_layout::contract::env;
use place::Place;
use server::Server;

/// A place where the server's bucket `data` is mounted.
struct Mounted {
    place: Place,
    server: Server,
}

impl Mounted {
    /// With a file `old` in the bucket.
    fn new(arguments: &[&str]) -> Option<Self> {
        Self::by(Command::new(env!("CARGO_BIN_EXE_fluid-fuse")), arguments)
    }

    /// By another program that starts ours.
    fn by(mut program: Command, arguments: &[&str]) -> Option<Self> {
        let mut mounted = Mounted { place: place::place()?, server: Server::start() };
        std::fs::write(mounted.stored("old"), "old content").unwrap();
        mounted.spawn(&mut program, arguments);
        Some(mounted)
    }

    fn spawn(&mut self, program: &mut Command, arguments: &[&str]) {
        program.arg("mount").env(env::MOUNTPOINT, self.place.mountpoint());
        program.args(["--source", "s3://data"]).env("AWS_ACCESS_KEY_ID", test_store::KEY);
        program.env("AWS_SECRET_ACCESS_KEY", test_store::SECRET).args(["-o", "region=us-east-1"]);
        program.args(["-o", &format!("endpoint={}", self.server.endpoint())]).args(arguments);
        self.place.spawn(program);
    }

    /// Ends the mount, and mounts anew.
    fn again(&mut self, arguments: &[&str]) {
        self.place.signal(rustix::process::Signal::TERM);
        assert!(self.place.ended().success());
        self.spawn(&mut Command::new(env!("CARGO_BIN_EXE_fluid-fuse")), arguments);
    }

    fn writable() -> Option<Self> {
        Self::new(&["--read-only=false", "--io-timeout=3s"])
    }

    /// A path in the mount.
    fn path(&self, name: &str) -> PathBuf {
        self.place.mountpoint().join(name)
    }

    /// Where the server keeps the object.
    fn stored(&self, name: &str) -> PathBuf {
        self.server.root.path().join("data").join(name)
    }
}
