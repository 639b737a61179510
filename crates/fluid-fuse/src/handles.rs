//! File handles: the numbers that the kernel uses between an open and its release, and the listings of open directories.

use std::collections::HashMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use fuser::FileHandle;

use crate::store::{Entries, Entry, Stat, Store, StoreError};
use crate::sync::lock;

/// Open files or directories, by their handles.
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
    /// Adds a value. Returns its new handle.
    pub(crate) fn add(&self, value: T) -> FileHandle {
        let handle = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        lock(&self.open).insert(handle, Arc::new(value));
        FileHandle(handle)
    }

    /// The value of a handle.
    pub(crate) fn get(&self, handle: FileHandle) -> Option<Arc<T>> {
        lock(&self.open).get(&handle.0).cloned()
    }

    /// Removes a handle.
    pub(crate) fn remove(&self, handle: FileHandle) {
        lock(&self.open).remove(&handle.0);
    }
}

/// The entries of a directory at one moment, so that offsets keep their meaning until it is read from the start again.
pub(crate) struct Listing {
    /// When they were requested.
    pub(crate) taken: Instant,
    /// Whether the attributes of the entries are complete.
    pub(crate) are_complete: bool,
    /// The entries, from `.` and `..` on.
    pub(crate) lines: Vec<Line>,
}

/// An entry of a listing.
pub(crate) struct Line {
    /// The name.
    pub(crate) name: OsString,
    /// Its path.
    pub(crate) path: PathBuf,
    /// Its attributes.
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
        let Entries { since, entries, are_complete } = store.list(directory)?;
        lines.extend(entries.into_iter().map(line));
        Ok(Listing { taken: since, are_complete, lines })
    }
}
