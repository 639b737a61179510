//! Renames of directories, which object stores do not have: everything below is copied, and then deleted.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use super::ObjectStore;
use super::keys::is_reachable;
use super::table::Child;
use crate::limits::Until;
use crate::remote::{Item, LARGEST_COPY, Version};
use crate::store::{Attempt, Stat, StoreError};
use crate::sync::lock;

/// Objects that are copied or deleted at a time.
const CONCURRENCY: usize = 8;

/// Everything below a directory, by the part of the key behind its prefix.
#[derive(Default)]
struct Tree {
    files: BTreeMap<String, Version>,
    /// Directories, `""` being the directory itself, and whether they have objects of their own.
    directories: BTreeMap<String, bool>,
}

impl ObjectStore {
    /// Everything below a prefix, if it can be renamed.
    fn tree(&self, prefix: &str) -> Result<Tree, StoreError> {
        let limit = self.names.show.rename_limit;
        let (mut tree, mut prefixes) = (Tree::default(), vec![prefix.to_string()]);
        // A key that is not shown cannot be requested either.
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
            // Where directories are not objects, an empty one lists nothing, and is made like a marker.
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

    /// Copies everything below a directory, and then deletes it. A rename that was interrupted continues when it is
    /// requested again: copies that exist are not made again.
    pub(super) fn rename_directory(
        &self,
        from: &str,
        to: &str,
        attempt: &Attempt<'_>,
    ) -> Result<Stat, StoreError> {
        if self.names.show.rename_limit == 0 {
            return Err(StoreError::NotMovable);
        }
        let _waiting = self.availability.register("rename", from);
        let (old, new) = (format!("{from}/"), format!("{to}/"));
        let (tree, there) = (self.tree(&old)?, self.tree(&new)?.files);
        let is_same = |(key, version): (&String, &Version)| {
            let found = there.get(key);
            found.is_some_and(|found| {
                found.size == version.size && found.etag.is_some() && found.etag == version.etag
            })
        };
        // An interrupted rename: some copies are missing, or all exist and some originals, too.
        let is_copied = there.keys().all(|key| tree.files.contains_key(key))
            && tree.files.iter().filter(|(key, _)| there.contains_key(*key)).all(is_same);
        if !is_copied && !attempt.is_continued && !tree.files.iter().all(is_same) {
            return Err(StoreError::NotEmpty);
        }
        (attempt.begins)();
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
        // No original is deleted unless the store lists its copy.
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
        // The innermost first: some stores delete empty directories only.
        for directory in tree.directories.keys().rev() {
            self.retry_step(|| delete(directory))?;
        }
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

    /// Does the same with all, some at a time, until the first failure.
    fn all_at_once<T: Sync>(
        &self,
        all: &[T],
        what: impl Fn(&T) -> Result<(), StoreError> + Sync,
    ) -> Result<(), StoreError> {
        let (next, failed) = (AtomicUsize::new(0), Mutex::new(None));
        let deadline = Until::shared();
        thread::scope(|scope| {
            for _ in 0..CONCURRENCY.min(all.len()) {
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
