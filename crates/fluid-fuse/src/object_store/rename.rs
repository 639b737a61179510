//! Renames of directories, which object stores do not have: all that is below is copied, and then deleted.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::ObjectStore;
use super::keys::is_reachable;
use super::table::Child;
use crate::inodes::lock;
use crate::limits::Until;
use crate::remote::{Item, LARGEST_COPY, Version};
use crate::store::{Stat, StoreError};

/// Objects of a directory that is renamed that are copied or deleted at a time.
const MOVING: usize = 8;

/// Directories of which it is known that they were renamed not to the end.
const HALF_MOVED: usize = 100;

/// How long that is known.
const HALF_MOVED_FOR: Duration = Duration::from_secs(10 * 60);

/// What is below a directory, by what follows its prefix.
#[derive(Default)]
struct Tree {
    files: BTreeMap<String, Version>,
    /// Whether each, the directory itself being `""`, has an object of its own.
    directories: BTreeMap<String, bool>,
}

impl ObjectStore {
    /// What is below a prefix, as long as it can be renamed.
    fn tree(&self, prefix: &str) -> Result<Tree, StoreError> {
        let limit = self.names.show.rename_limit;
        let (mut tree, mut prefixes) = (Tree::default(), vec![prefix.to_string()]);
        // A key that is not shown cannot be asked for either.
        let below = |key: &str| {
            let rest = key.strip_prefix(prefix)?;
            (is_reachable(rest) && !rest.starts_with('/') && !rest.contains("//")).then(|| rest.to_string())
        };
        while let Some(at) = prefixes.pop() {
            let mut items = Vec::new();
            self.retry_step(|| {
                items.clear();
                self.bucket.list(&at, &mut |page| {
                    items.extend(page);
                    let is_too_much = tree.files.len() + items.len() > limit;
                    if is_too_much { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
                })
            })?;
            // Where directories are no objects, an empty one has nothing to be seen by.
            let mut has_marker = items.is_empty();
            for item in items {
                match item {
                    Item::Object(marker) if marker.key == at => has_marker = true,
                    Item::Object(version) if version.size <= LARGEST_COPY => {
                        tree.files.insert(below(&version.key).ok_or(StoreError::NotMovable)?, version);
                    }
                    Item::Prefix(deeper) if deeper.len() > at.len() && deeper.starts_with(&at) => {
                        prefixes.push(deeper);
                    }
                    _ => return Err(StoreError::NotMovable),
                }
            }
            tree.directories.insert(below(&at).ok_or(StoreError::NotMovable)?, has_marker);
            if tree.files.len().max(tree.directories.len()) > limit {
                return Err(StoreError::NotMovable);
            }
        }
        Ok(tree)
    }

    /// Copies all that is below, and then deletes it. What ends before goes on when it is asked for again: what is there
    /// already is the same.
    pub(super) fn rename_directory(&self, from: &str, to: &str) -> Result<Stat, StoreError> {
        if self.names.show.rename_limit == 0 {
            return Err(StoreError::NotMovable);
        }
        let _waiting = self.availability.wait("rename", from);
        let (old, new) = (format!("{from}/"), format!("{to}/"));
        let (tree, there) = (self.tree(&old)?, self.tree(&new)?.files);
        let is_same = |(key, version): (&String, &Version)| {
            let found = there.get(key);
            found.is_some_and(|found| {
                found.size == version.size && found.etag.is_some() && found.etag == version.etag
            })
        };
        // The copies are not complete, or all are there and not all is deleted.
        let is_copied = there.keys().all(|key| tree.files.contains_key(key))
            && tree.files.iter().filter(|(key, _)| there.contains_key(*key)).all(is_same);
        let is_half_moved = lock(&self.half_moved)
            .get(from)
            .is_some_and(|(target, since)| target == to && since.elapsed() < HALF_MOVED_FOR);
        if !is_copied && !is_half_moved && !tree.files.iter().all(is_same) {
            return Err(StoreError::NotEmpty);
        }
        {
            let mut half_moved = lock(&self.half_moved);
            if half_moved.len() >= HALF_MOVED {
                half_moved.clear();
            }
            half_moved.insert(from.to_string(), (to.to_string(), Instant::now()));
        }
        for marker in tree.directories.iter().filter(|(_, has_marker)| **has_marker).map(|(key, _)| key) {
            self.retry_step(|| self.bucket.make_directory(&format!("{new}{marker}")))?;
        }
        let files: Vec<_> = tree.files.iter().collect();
        self.all_at_once(&files, |file| match is_same(*file) {
            true => Ok(()),
            false => {
                self.retry_step(|| self.bucket.copy(&format!("{old}{}", file.0), &format!("{new}{}", file.0)))
            }
        })?;
        // Nothing is deleted that is not there.
        let taken = Instant::now();
        let copies = self.tree(&new)?.files;
        let is_missing = |(key, version): &(&String, &Version)| {
            copies.get(*key).is_none_or(|copy| copy.size != version.size)
        };
        if let Some((key, _)) = tree.files.iter().find(is_missing) {
            return Err(StoreError::Failed(format!(
                "{new}{key} is no copy of {old}{key}, so nothing is deleted"
            )));
        }
        let delete = |key: &str| match self.bucket.delete(&format!("{old}{key}")) {
            Err(StoreError::NotFound) => Ok(()),
            deleted => deleted,
        };
        self.all_at_once(&files, |(key, _)| self.retry_step(|| delete(key)))?;
        // The innermost first, where they are more than markers.
        for directory in tree.directories.keys().rev() {
            self.retry_step(|| delete(directory))?;
        }
        lock(&self.half_moved).remove(from);
        self.names.invalidate_below(&[&old, &new]);
        self.names.note(from, Instant::now(), None);
        for directory in tree.directories.keys() {
            let key = format!("{new}{directory}");
            self.names.note(key.trim_end_matches('/'), Instant::now(), Some(Child::Directory));
        }
        for (key, version) in &tree.files {
            if let Some(copy) = copies.get(key) {
                let time = self.names.time_of(version).flatten();
                self.names.note_file(&copy.key, taken, copy, time);
            }
        }
        Ok(self.names.directory_stat())
    }

    /// Does the same with all, some at a time; the first failure ends it.
    fn all_at_once<T: Sync>(
        &self,
        all: &[T],
        what: impl Fn(&T) -> Result<(), StoreError> + Sync,
    ) -> Result<(), StoreError> {
        let (next, failed) = (AtomicUsize::new(0), Mutex::new(None));
        let deadline = Until::shared();
        thread::scope(|scope| {
            for _ in 0..MOVING.min(all.len()) {
                scope.spawn(|| {
                    let _until = deadline.as_ref().map(Until::share);
                    while let Some(one) = all.get(next.fetch_add(1, Ordering::Relaxed)) {
                        if lock(&failed).is_some() {
                            return;
                        }
                        if let Err(error) = what(one) {
                            lock(&failed).get_or_insert(error);
                        }
                    }
                });
            }
        });
        failed.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
    }
}
