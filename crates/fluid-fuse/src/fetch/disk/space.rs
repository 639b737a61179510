//! The space of the disk cache: which files are kept, and which are evicted.
//!
//! Open files stay. Of the others, files that were used once are evicted first, so that a scan does not evict files that
//! are used again and again.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, Weak};

use log::{debug, warn};

use super::directory::{CacheDirectory, FileKind};
use crate::sync::lock;

/// The files in a cache directory. `F` is a file that is open.
#[derive(Debug)]
pub(super) struct CacheSpace<F> {
    pub(super) directory: CacheDirectory,
    limit: u64,
    entries: Mutex<CacheEntries<F>>,
}

#[derive(Debug)]
pub(super) struct CacheEntries<F> {
    by_stem: HashMap<String, CacheEntry<F>>,
    /// Bytes of all entries.
    bytes: u64,
    /// Uses so far.
    clock: u64,
    /// A write failed: the disk is full or broken. Nothing more is written.
    is_off: bool,
}

#[derive(Debug)]
struct CacheEntry<F> {
    bytes: u64,
    uses: u32,
    /// When it was used last, in uses of all entries.
    used: u64,
    open: Weak<F>,
}

impl<F> CacheSpace<F> {
    /// The space of a directory with these files, given with their bytes. None of them is open.
    pub(super) fn new(directory: CacheDirectory, limit: u64, files: HashMap<String, u64>) -> Arc<Self> {
        let bytes = files.values().sum();
        let closed = |bytes| CacheEntry { bytes, uses: 1, used: 0, open: Weak::new() };
        let by_stem = files.into_iter().map(|(stem, bytes)| (stem, closed(bytes))).collect();
        let entries = Mutex::new(CacheEntries { by_stem, bytes, clock: 0, is_off: false });
        Arc::new(CacheSpace { directory, limit, entries })
    }

    /// Bytes kept.
    pub(super) fn bytes(&self) -> u64 {
        lock(&self.entries).bytes
    }

    /// Bytes kept at most.
    pub(super) fn limit(&self) -> u64 {
        self.limit
    }

    /// The open file of a stem, which counts as used, or the one that `open` opens with its bytes. Nothing if the disk
    /// does not work, or if `open` fails.
    pub(super) fn open_file(
        &self,
        stem: &str,
        open: impl FnOnce() -> io::Result<(Arc<F>, u64)>,
    ) -> Option<Arc<F>> {
        let mut entries = lock(&self.entries);
        if entries.is_off {
            return None;
        }
        entries.clock += 1;
        let clock = entries.clock;
        if let Some(entry) = entries.by_stem.get_mut(stem) {
            entry.used = clock;
            entry.uses = entry.uses.saturating_add(1);
            if let Some(file) = entry.open.upgrade() {
                return Some(file);
            }
        }
        match open() {
            Ok((file, bytes)) => {
                let (old_bytes, uses) =
                    entries.by_stem.get(stem).map_or((0, 1), |entry| (entry.bytes, entry.uses));
                entries.bytes = entries.bytes - old_bytes + bytes;
                let entry = CacheEntry { bytes, uses, used: clock, open: Arc::downgrade(&file) };
                entries.by_stem.insert(stem.to_string(), entry);
                Some(file)
            }
            Err(error) => {
                warn!("the cache directory {} does not work: {error}", self.directory.path.display());
                entries.is_off = true;
                None
            }
        }
    }

    /// The files that are open.
    pub(super) fn open_files(&self) -> Vec<Arc<F>> {
        lock(&self.entries).by_stem.values().filter_map(|entry| entry.open.upgrade()).collect()
    }

    /// Takes room for bytes of a file, after others were evicted. Returns whether there is enough.
    pub(super) fn take_room(&self, stem: &str, bytes: u64) -> bool {
        let mut entries = lock(&self.entries);
        while !entries.is_off && entries.bytes + bytes > self.limit {
            if !self.evict_one(&mut entries, stem) {
                return false;
            }
        }
        if entries.is_off {
            return false;
        }
        entries.bytes += bytes;
        if let Some(entry) = entries.by_stem.get_mut(stem) {
            entry.bytes += bytes;
        }
        true
    }

    /// Returns room that is not used.
    pub(super) fn return_room(&self, stem: &str, bytes: u64) {
        let mut entries = lock(&self.entries);
        entries.bytes -= bytes;
        if let Some(entry) = entries.by_stem.get_mut(stem) {
            entry.bytes -= bytes;
        }
    }

    /// Evicts a file that is not open, and not the one of the stem. Returns false if there is none.
    fn evict_one(&self, entries: &mut CacheEntries<F>, stem: &str) -> bool {
        let victim = entries
            .by_stem
            .iter()
            .filter(|(other, entry)| *other != stem && entry.open.strong_count() == 0)
            .min_by_key(|(_, entry)| (entry.uses > 1, entry.used))
            .map(|(victim, _)| victim.clone());
        let Some(victim) = victim else { return false };
        entries.bytes -= entries.by_stem.remove(&victim).map_or(0, |entry| entry.bytes);
        for kind in [FileKind::Index, FileKind::Data] {
            if let Err(error) = self.directory.remove(&victim, kind) {
                debug!("cannot remove {victim}, {kind:?}: {error}");
            }
        }
        true
    }

    /// Stops all writes, since one failed.
    pub(super) fn turn_off(&self, error: &io::Error) {
        let mut entries = lock(&self.entries);
        if !entries.is_off {
            warn!("nothing more is kept in {}: {error}", self.directory.path.display());
        }
        entries.is_off = true;
    }

    #[cfg(test)]
    pub(super) fn stems(&self) -> Vec<String> {
        lock(&self.entries).by_stem.keys().cloned().collect()
    }
}
