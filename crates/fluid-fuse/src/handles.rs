//! What is open: the numbers that the kernel uses between an open and its release, and the listings behind
//! those of directories. It does not know what a number is asked for.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::hash::{DefaultHasher, Hash, Hasher};
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
    /// Numbers of this life, which no other has: a release may still be under way of one of the last.
    pub(crate) fn resume(&self, life: u64) {
        self.last.store(life << LIFE_BITS, Ordering::Relaxed);
    }

    /// Whether a number was given before this life.
    pub(crate) fn is_of_former_life(&self, handle: FileHandle, life: u64) -> bool {
        handle.0 >> LIFE_BITS < life
    }

    /// Has a number stand for something, which was given in a former life or to something else.
    pub(crate) fn insert(&self, handle: u64, value: Arc<T>) {
        lock(&self.open).insert(handle, value);
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        lock(&self.open).len()
    }

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

/// Numbers that one life may give, as bits: as many as a thousand opens in each second of thirty years.
const LIFE_BITS: u32 = 40;

/// Bits of a position in a directory that are of the name there.
const TAG_BITS: u32 = 24;

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
    /// The position behind a line: its place in the order, and a part of the hash of its name. So the position is found
    /// again in a listing that is taken in another life, where names have come and gone meanwhile.
    pub(crate) fn position(&self, index: usize) -> u64 {
        let tag = self.lines.get(index).map_or(0, |line| tag(&line.name));
        (index as u64 + 1) << TAG_BITS | tag
    }

    /// The line that follows a position: after the line of that name that is nearest to the place, or else at the place.
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

    /// Lists a directory.
    pub(crate) fn take(store: &dyn Store, directory: &Path) -> Result<Self, StoreError> {
        let parent = directory.parent().unwrap_or(directory);
        let mut lines = Vec::new();
        for (name, path) in [(".", directory), ("..", parent)] {
            lines.push(Line { name: name.into(), path: path.into(), stat: store.stat(path)? });
        }
        let line = |Entry { name, stat }| Line { path: directory.join(&name), name, stat };
        let Entries { since, mut entries, is_all_known } = store.list(directory)?;
        // In the same order in every life.
        entries.sort_by(|one, other| one.name.cmp(&other.name));
        lines.extend(entries.into_iter().map(line));
        Ok(Listing { taken: since, is_all_known, lines })
    }
}

fn tag(name: &OsStr) -> u64 {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    hasher.finish() >> (u64::BITS - TAG_BITS)
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
        Listing { taken: Instant::now(), is_all_known: true, lines: names.into_iter().map(line).collect() }
    }

    #[test]
    fn a_position_is_found_again_where_names_came_and_went() {
        let before = listing(0..1000);
        assert_eq!((before.index(0), before.index(before.position(999))), (0, 1000));
        let same: Vec<_> = (0..1000).map(|index| before.index(before.position(index))).collect();
        assert!(same.into_iter().eq(1..=1000));
        // Half of the names are gone, and as many came before them.
        let after = listing((0..1000).filter(|number| number % 2 == 1));
        for number in (1..1000).step_by(2) {
            assert_eq!(after.index(before.position(number)), number / 2 + 1, "{number}");
        }
        let later = listing((5000..5300).chain(0..1000));
        assert_eq!(later.index(before.position(10)), 311);
        // Of one that is gone itself, the place counts.
        assert_eq!(after.index(before.position(100)), 101);
        assert_eq!(listing(0..3).index(u64::MAX), (u64::MAX >> TAG_BITS) as usize);
    }
}
