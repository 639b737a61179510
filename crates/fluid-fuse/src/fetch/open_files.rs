//! The files of the process: whose blocks are evicted when memory or the prefetch quota is used up.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use super::block_map::Evict;
use super::file_state::FileState;
use super::quota::PrefetchQuota;
use crate::sync::lock;

/// Prefetched blocks are evicted from files that were not read for this long, if others want to prefetch.
const IDLE_TIMEOUT: Duration = Duration::from_secs(2);

/// The time between two searches for idle files: 100 ms, since each search visits all files.
const IDLE_SEARCH_INTERVAL: Duration = Duration::from_millis(100);

/// The share of the memory that is evicted at once: a sixteenth, so that few searches for victims are needed.
const EVICTED_SHARE: usize = 16;

/// How urgently memory is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Urgency {
    /// A read waits: prefetched blocks are evicted, too, if nothing else is left.
    ReadWaits,
    /// Nobody waits.
    Background,
}

/// The files that may have blocks in memory.
pub(super) struct OpenFiles {
    pub(super) quota: Arc<PrefetchQuota>,
    files: Mutex<Vec<Weak<FileState>>>,
    /// Blocks that are evicted at once.
    batch: usize,
    /// When the process began to fetch.
    pub(super) epoch: Instant,
    /// When idle files were searched for last, in milliseconds from then.
    searched: AtomicU64,
}

impl OpenFiles {
    /// No files, which will share a pool of this capacity.
    pub(super) fn new(capacity: usize) -> Self {
        OpenFiles {
            quota: Arc::new(PrefetchQuota::new(capacity)),
            files: Mutex::default(),
            batch: (capacity / EVICTED_SHARE).max(1),
            epoch: Instant::now(),
            searched: AtomicU64::new(0),
        }
    }

    /// Adds a file.
    pub(super) fn add(&self, file: &Arc<FileState>) {
        let mut files = lock(&self.files);
        // Entries of dropped files keep their memory until they are removed: before the list grows.
        if files.len() == files.capacity() {
            files.retain(|file| file.strong_count() > 0);
        }
        files.push(Arc::downgrade(file));
    }

    /// Whether this many blocks may be prefetched in addition, after idle files gave theirs back.
    pub(super) fn may_prefetch(&self, blocks: usize) -> bool {
        self.quota.has_room(blocks) || (self.evict_idle() && self.quota.has_room(blocks))
    }

    /// Evicts the blocks of idle files. Returns false if it did so a moment ago.
    fn evict_idle(&self) -> bool {
        let now = self.epoch.elapsed();
        let searched = Duration::from_millis(self.searched.load(Ordering::Relaxed));
        if searched + IDLE_SEARCH_INTERVAL > now {
            return false;
        }
        self.searched.store(now.as_millis() as u64, Ordering::Relaxed);
        for file in self.by_last_use().iter().filter(|file| file.usage.last() + IDLE_TIMEOUT < now) {
            file.try_evict(usize::MAX, &Evict::All);
        }
        true
    }

    /// Evicts some blocks, of the files first that were unused for longest.
    pub(super) fn evict(&self, urgency: Urgency) {
        let files = self.by_last_use();
        for which in [Evict::Read, Evict::All] {
            let mut evicted = 0;
            for file in &files {
                evicted += file.try_evict(self.batch - evicted, &which);
                if evicted >= self.batch {
                    return;
                }
            }
            if evicted > 0 || urgency == Urgency::Background {
                return;
            }
        }
    }

    /// All files.
    pub(super) fn all(&self) -> Vec<Arc<FileState>> {
        lock(&self.files).iter().filter_map(Weak::upgrade).collect()
    }

    /// The files, the longest unused first.
    fn by_last_use(&self) -> Vec<Arc<FileState>> {
        let mut files: Vec<_> = {
            let mut files = lock(&self.files);
            files.retain(|file| file.strong_count() > 0);
            files.iter().filter_map(Weak::upgrade).collect()
        };
        // Cached: the times change meanwhile, and a sort panics if its order is inconsistent.
        files.sort_by_cached_key(|file| file.usage.last());
        files
    }
}
