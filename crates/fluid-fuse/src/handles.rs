//! File handles: the numbers that the kernel uses between an open and its release, and the listings of open directories.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use fuser::FileHandle;

use crate::stable_hash::StableHash;
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
    /// Begins with the numbers of this life, which no other life has: the release of an old handle may still be under way.
    pub(crate) fn resume(&self, life: u64) {
        self.last.store(life << LIFE_BITS, Ordering::Relaxed);
    }

    /// Whether a handle is one of an earlier life.
    pub(crate) fn is_of_earlier_life(&self, handle: FileHandle, life: u64) -> bool {
        handle.0 >> LIFE_BITS < life
    }

    /// Sets the value of a handle that exists already: of an earlier life, or with another value.
    pub(crate) fn insert(&self, handle: u64, value: Arc<T>) {
        lock(&self.open).insert(handle, value);
    }

    /// The number of handles.
    pub(crate) fn count(&self) -> usize {
        lock(&self.open).len()
    }

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

/// Bits of a handle that are counted within one life: a thousand opens in each second of thirty years.
const LIFE_BITS: u32 = 40;

/// Bits of a directory position that come from the name there. The others are enough for 2^39 entries.
const TAG_BITS: u32 = 24;

/// The entries of a directory at one moment, so that positions keep their meaning until it is read from the start again.
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
    /// The position behind a line: its place in the order, and a part of the hash of its name. So it is found in a listing of
    /// another life, too, after names were added and removed.
    pub(crate) fn position(&self, index: usize) -> u64 {
        let tag = self.lines.get(index).map_or(0, |line| tag(&line.name));
        (index as u64 + 1) << TAG_BITS | tag
    }

    /// The index of the line that follows a position: behind the line with that hash that is nearest to the place; without one,
    /// at the place.
    pub(crate) fn index(&self, position: u64) -> usize {
        let place = usize::try_from(position >> TAG_BITS).unwrap_or(usize::MAX);
        let Some(expected) = place.checked_sub(1) else { return 0 };
        let wanted = position & ((1 << TAG_BITS) - 1);
        let is_it = |index: &usize| self.lines.get(*index).is_some_and(|line| tag(&line.name) == wanted);
        if is_it(&expected) {
            return place;
        }
        let last = self.lines.len();
        let below = (0..expected.min(last)).rev().find(is_it);
        let above = (expected..last).find(is_it);
        let nearest = match (below, above) {
            (Some(below), Some(above)) if expected - below <= above - expected => Some(below),
            (below, above) => above.or(below),
        };
        nearest.map_or(place, |index| index + 1)
    }

    /// Lists a directory, with the files there that are written and that the store does not list yet.
    pub(crate) fn take(
        store: &dyn Store,
        directory: &Path,
        written: impl FnOnce() -> Vec<Entry>,
    ) -> Result<Self, StoreError> {
        let parent = directory.parent().unwrap_or(directory);
        let mut lines = Vec::new();
        for (name, path) in [(".", directory), ("..", parent)] {
            lines.push(Line { name: name.into(), path: path.into(), stat: store.stat(path)? });
        }
        let line = |Entry { name, stat }| Line { path: directory.join(&name), name, stat };
        let Entries { since, mut entries, are_complete } = store.list(directory)?;
        entries.extend(written());
        // In the same order in every life. Of two with a name the store's comes first, and stays.
        entries.sort_by(|one, other| one.name.cmp(&other.name));
        entries.dedup_by(|second, first| second.name == first.name);
        lines.extend(entries.into_iter().map(line));
        Ok(Listing { taken: since, are_complete, lines })
    }
}

/// The part of a name's hash that is in a position.
fn tag(name: &OsStr) -> u64 {
    StableHash::default().bytes(name.as_bytes()).finish() >> (u64::BITS - TAG_BITS)
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    fn listing(names: impl IntoIterator<Item = usize>) -> Listing {
        let line = |number: usize| Line {
            name: format!("name-{number:05}").into(),
            path: PathBuf::new(),
            stat: Stat::directory(0, (0, 0), SystemTime::UNIX_EPOCH),
        };
        Listing { taken: Instant::now(), are_complete: true, lines: names.into_iter().map(line).collect() }
    }

    #[test]
    fn a_position_is_found_after_names_were_added_and_removed() {
        let before = listing(0..1000);
        assert_eq!((before.index(0), before.index(before.position(999))), (0, 1000));
        let same: Vec<_> = (0..1000).map(|index| before.index(before.position(index))).collect();
        assert!(same.into_iter().eq(1..=1000));
        // Half of the names were removed.
        let after = listing((0..1000).filter(|number| number % 2 == 1));
        for number in (1..1000).step_by(2) {
            assert_eq!(after.index(before.position(number)), number / 2 + 1, "{number}");
        }
        let later = listing((5000..5300).chain(0..1000));
        assert_eq!(later.index(before.position(10)), 311);
        // Of a name that was removed itself, the place counts.
        assert_eq!(after.index(before.position(100)), 101);
        assert_eq!(listing(0..3).index(u64::MAX), (u64::MAX >> TAG_BITS) as usize);
    }
}
