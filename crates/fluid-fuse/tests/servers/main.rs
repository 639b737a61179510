//! The real program on the object stores of others, which `scripts/test-servers.sh` installs: moto for S3, Azurite
//! for Azure, gcp-storage-emulator for Google. Filled and looked at past the mount. A store that is not installed is
//! skipped with a word, as all of it is without root or `/dev/fuse`.
#![allow(clippy::panic, clippy::unwrap_used, reason = "helpers of tests are tests")]

#[path = "../support/mod.rs"]
mod support;

mod azurite;
mod google;
mod moto;
mod reads;
mod server;
mod writes;

use std::path::PathBuf;

use fluid_sidecar_layout::contract::env;
use support::place::{Place, place};

/// What a store has, asked past fluid-fuse.
pub(crate) trait Store {
    /// Makes an object, or replaces it.
    fn put(&self, key: &str, bytes: &[u8]);

    /// The object's bytes, if it is there.
    fn get(&self, key: &str) -> Option<Vec<u8>>;

    /// Where it is: URL, options, and variables for what is secret.
    fn mounted(&self) -> Mounting;
}

/// What makes a mount of a store.
pub(crate) struct Mounting {
    pub(crate) url: &'static str,
    pub(crate) options: Vec<(&'static str, String)>,
    pub(crate) secrets: Vec<(&'static str, String)>,
}

/// A store and a place where it is mounted.
pub(crate) struct Mounted<S> {
    // Declared first: the mount ends before its store does.
    pub(crate) place: Place,
    pub(crate) store: S,
}

impl<S: Store> Mounted<S> {
    /// Mounts what a store has by now; nothing where mounts are not possible.
    pub(crate) fn new(store: S, arguments: &[&str]) -> Option<Self> {
        let how = store.mounted();
        let mut mounted = Mounted { place: place()?, store };
        let mut program = mounted.place.program("mount");
        program.env(env::SOURCE, how.url).args(arguments).envs(how.secrets);
        for (name, value) in how.options {
            program.args(["--option", &format!("{name}={value}")]);
        }
        support::spawn(&mut mounted.place, &mut program);
        Some(mounted)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.place.mountpoint().join(name)
    }

    /// What the program has logged.
    pub(crate) fn log(&self) -> String {
        support::log(&self.place)
    }
}

impl<S> Drop for Mounted<S> {
    fn drop(&mut self) {
        server::tell_of_failure("fluid-fuse", self.place.root.path());
    }
}
