//! What is open: the numbers that the kernel uses between an open and its release, and the listings behind
//! those of directories. It does not know what a number is asked for.

use std::collections::HashMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use fuser::FileHandle;

use crate::inodes::lock;
use crate::store::{Entries, Entry, Stat, Store, StoreError};

/// What is open, by the number that the kernel knows it by.
pub(crate) struct Handles<T> {
    last: AtomicU64,
    open: Mutex<HashMap<u64, Arc<T>>>,
}

impl<T> Default for Handles<T> {
    fn default() -> Self {
        Handles { last: AtomicU64::new(0), open: Mutex::default() }
    }
}

impl<T> Handles<T> {
    /// A new number.
    pub(crate) fn add(&self, value: T) -> FileHandle {
        let handle = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        lock(&self.open).insert(handle, Arc::new(value));
        FileHandle(handle)
    }

    /// What the number stands for.
    pub(crate) fn get(&self, handle: FileHandle) -> Option<Arc<T>> {
        lock(&self.open).get(&handle.0).cloned()
    }

    /// Gives the number back.
    pub(crate) fn remove(&self, handle: FileHandle) {
        lock(&self.open).remove(&handle.0);
    }
}

/// A directory at one moment, so that an offset means the same until it is read from the start again.
pub(crate) struct Listing {
    /// The moment, or a little before it.
    pub(crate) taken: Instant,
    /// Whether nobody needs to ask for more of what it held.
    pub(crate) is_all_known: bool,
    /// What it held, from `.` and `..` on.
    pub(crate) lines: Vec<Line>,
}

/// A name of a listing.
pub(crate) struct Line {
    /// The name.
    pub(crate) name: OsString,
    /// The path it leads to.
    pub(crate) path: PathBuf,
    /// What is there.
    pub(crate) stat: Stat,
}

impl Listing {
    /// Lists a directory.
    pub(crate) fn take(store: &dyn Store, directory: &Path) -> Result<Self, StoreError> {
        let parent = directory.parent().unwrap_or(directory);
        let mut lines = Vec::new();
        for (name, path) in [(".", directory), ("..", parent)] {
            lines.push(Line { name: name.into(), path: path.into(), stat: store.stat(path)? });
        }
        let line = |Entry { name, stat }| Line { path: directory.join(&name), name, stat };
        let Entries { since, entries, is_all_known } = store.list(directory)?;
        lines.extend(entries.into_iter().map(line));
        Ok(Listing { taken: since, is_all_known, lines })
    }
}
