//! The disk cache: fetched blocks that are kept for later reads, also those of the next process.
//!
//! Each version of an object has two files. `<stem>.data` is as large as the object and has holes for the blocks that were
//! not fetched. `<stem>.map` is its [`index`]. [`space`] decides which files are evicted, [`file`](mod@file) reads and
//! writes blocks, and [`directory`] is the only module that knows the names. When to fetch is decided elsewhere.

mod directory;
mod file;
mod index;
mod space;

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use log::debug;

use self::directory::{CacheDirectory, FileKind, stem};
pub(crate) use self::file::CachedFile;
use self::file::SharedFile;
use self::space::CacheSpace;
use super::block::BLOCK_SIZE;
use crate::remote::Version;

/// A directory with fetched blocks.
#[derive(Debug)]
pub struct DiskCache {
    space: Arc<CacheSpace<SharedFile>>,
}

impl DiskCache {
    /// Opens a directory for at most `limit` bytes. It belongs to this process as long as the cache lives.
    pub fn open(path: &Path, limit: u64) -> anyhow::Result<Arc<Self>> {
        let directory = CacheDirectory::open(path)?;
        let mut kept = HashMap::new();
        // Indexes come first: data is kept if its index is.
        for (kind, stem) in directory.files()? {
            let is_kept = match kind {
                FileKind::Index => match file::find(&directory, &stem) {
                    Some((index, _)) => kept.insert(stem.clone(), index.bytes()).is_none(),
                    None => false,
                },
                FileKind::NewIndex => false,
                FileKind::Data => kept.contains_key(&stem),
            };
            if !is_kept {
                let place = directory.path.display();
                debug!("removing {stem}, {kind:?}, from {place}");
                directory
                    .remove(&stem, kind)
                    .with_context(|| format!("cannot remove {stem}, {kind:?}, from {place}"))?;
            }
        }
        Ok(Arc::new(DiskCache { space: CacheSpace::new(directory, limit, kept) }))
    }

    /// The stem of the names of a version's files, for tests that plant some.
    pub fn stem(source: &str, version: &Version) -> String {
        stem(source, version)
    }

    /// Bytes kept, and at most.
    pub fn bytes(&self) -> (u64, u64) {
        (self.space.bytes(), self.space.limit())
    }

    /// The file of a version. Nothing if it would not fit, or if the disk does not work.
    pub(crate) fn file(&self, source: &str, version: &Version) -> Option<Arc<CachedFile>> {
        // Sizes come from listings, and may be absurd.
        let fits = |bytes: u64| bytes <= self.space.limit();
        if version.size == 0 || !version.size.checked_next_multiple_of(BLOCK_SIZE).is_some_and(fits) {
            return None;
        }
        let stem = stem(source, version);
        let open = || SharedFile::open(&self.space, &stem, source, version);
        let file = self.space.open_file(&stem, open)?;
        // The open file of another version may have the same stem.
        file.is_of(source, version).then(|| CachedFile::new(file))
    }

    /// Writes the index files that have changed.
    pub(crate) fn flush(&self) {
        for file in self.space.open_files() {
            file.flush();
        }
    }
}

#[cfg(test)]
mod tests;
