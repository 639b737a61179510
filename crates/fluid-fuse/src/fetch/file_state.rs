//! The state of one version of an object: its blocks in memory, its file in the disk cache, and who uses it.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::block::Block;
use super::block_map::{BlockMap, DemandUnit, Evict, Outcome, PendingRead, Readers};
use super::disk::CachedFile;
use super::origin::Origin;
use super::prefetcher::Prefetcher;
use super::quota::{PrefetchExtent, PrefetchQuota, QuotaShare};
use super::request::{Purpose, RangeRequest};
use crate::remote::Version;
use crate::store::StoreError;
use crate::sync::lock;

/// Files of up to 1 MiB are fetched whole when they are opened: they take one request of the usual size.
pub(super) const SMALL_FILE: u64 = 1024 * 1024;

/// A version of an object, for all who read it.
pub(super) struct FileState {
    pub(super) version: Version,
    pub(super) origin: Arc<Origin>,
    pub(super) reading: Mutex<ReadState>,
    /// Handles and expectations.
    pub(super) usage: Usage,
    /// Its file in the disk cache, while it is open.
    pub(super) disk: Mutex<Option<Arc<CachedFile>>>,
    /// The store was seen to have another version.
    is_stale: AtomicBool,
}

/// The state that changes with each read.
pub(super) struct ReadState {
    pub(super) blocks: BlockMap,
    pub(super) prefetcher: Prefetcher,
}

/// The handles of a file, and the time of its last use.
pub(super) struct Usage {
    handles: AtomicU32,
    /// The file was prefetched for a handle that was not opened yet.
    is_expected: AtomicBool,
    /// When the process began to fetch: the same moment for all files, so that their times compare.
    epoch: Instant,
    /// When it was used last, in milliseconds from then.
    used: AtomicU64,
}

/// Why a request ends without all of its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// It failed: reads that wait for it fail, too.
    Failed,
    /// It was cancelled while nobody waited for it. Reads that came since make requests of their own.
    Cancelled,
}

/// The reads that waited for a request which ended early.
pub(super) struct Released {
    /// These fail.
    pub(super) failed: Vec<PendingRead>,
    /// These have been looked for again.
    pub(super) retried: Vec<Outcome>,
}

impl Usage {
    fn new(epoch: Instant) -> Self {
        let (handles, is_expected) = (AtomicU32::new(0), AtomicBool::new(false));
        Usage { handles, is_expected, epoch, used: AtomicU64::new(0) }
    }

    /// Notes that the file is used now.
    pub(super) fn touch(&self) {
        self.used.store(self.epoch.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    /// When it was used last.
    pub(super) fn last(&self) -> Duration {
        Duration::from_millis(self.used.load(Ordering::Relaxed))
    }

    /// The time by which the prefetcher measures.
    pub(super) fn now(&self) -> Duration {
        self.epoch.elapsed()
    }

    /// Adds a handle.
    pub(super) fn open(&self) {
        self.handles.fetch_add(1, Ordering::Relaxed);
        self.is_expected.store(false, Ordering::Relaxed);
        self.touch();
    }

    /// Removes a handle. Returns whether it was the last one.
    pub(super) fn close(&self) -> bool {
        self.handles.fetch_sub(1, Ordering::Relaxed) == 1
    }

    /// Whether there are handles.
    pub(super) fn is_open(&self) -> bool {
        self.handles.load(Ordering::Relaxed) > 0
    }

    /// Notes that somebody will open the file. Returns false if that is known, or done.
    pub(super) fn expect(&self) -> bool {
        !self.is_open() && !self.is_expected.swap(true, Ordering::Relaxed)
    }

    /// Whether somebody may read what is prefetched.
    pub(super) fn readers(&self) -> Readers {
        match self.is_open() || self.is_expected.load(Ordering::Relaxed) {
            true => Readers::Expected,
            false => Readers::Gone,
        }
    }
}

impl FileState {
    pub(super) fn new(
        version: Version,
        origin: Arc<Origin>,
        quota: Arc<PrefetchQuota>,
        demand_unit: DemandUnit,
        epoch: Instant,
    ) -> Self {
        let extent = if version.size > SMALL_FILE { PrefetchExtent::Window } else { PrefetchExtent::Whole };
        let share = QuotaShare::new(quota, extent);
        let reading = ReadState {
            blocks: BlockMap::new(version.size, demand_unit, share),
            prefetcher: Prefetcher::new(version.size),
        };
        FileState {
            version,
            origin,
            reading: Mutex::new(reading),
            usage: Usage::new(epoch),
            disk: Mutex::new(None),
            is_stale: AtomicBool::new(false),
        }
    }

    /// Whether the store was seen to have another version.
    pub(super) fn is_stale(&self) -> bool {
        self.is_stale.load(Ordering::Relaxed)
    }

    /// Its file in the disk cache.
    pub(super) fn disk(&self) -> Option<Arc<CachedFile>> {
        lock(&self.disk).clone()
    }

    /// Removes a handle. After the last one, prefetched blocks that nobody read are evicted, and the disk cache may evict
    /// the file.
    pub(super) fn close(&self) {
        if self.usage.close() {
            lock(&self.reading).blocks.evict(usize::MAX, &Evict::Prefetched);
            let mut disk = lock(&self.disk);
            // It may have been opened again by now.
            if !self.usage.is_open() {
                *disk = None;
            }
        }
    }

    /// Puts fetched bytes where they were expected. Returns the reads that waited for them.
    pub(super) fn arrived(&self, block: u64, range: Range<u64>, bytes: Arc<Block>) -> Vec<Outcome> {
        let mut reading = lock(&self.reading);
        // Under the lock: a handle that is closed later evicts the block itself.
        let readers = self.usage.readers();
        reading.blocks.arrived(block, range, bytes, readers)
    }

    /// Takes back a request that brings nothing from an offset on.
    pub(super) fn take_back(
        &self,
        request: &RangeRequest,
        from: u64,
        error: &StoreError,
        end: End,
    ) -> Released {
        if matches!(error, StoreError::Stale) {
            self.is_stale.store(true, Ordering::Relaxed);
        }
        let mut reading = lock(&self.reading);
        let waiting = reading.blocks.cancel(request, from);
        if request.purpose != Purpose::FillDisk {
            reading.prefetcher.refused(from);
        }
        // A prefetch request was retried before the reads came: its deadline is not theirs.
        let is_prefetch = request.purpose != Purpose::Read && matches!(error, StoreError::Unavailable(_));
        if end == End::Cancelled || is_prefetch {
            let retried = waiting.into_iter().map(|read| reading.blocks.read(read, 0)).collect();
            return Released { failed: Vec::new(), retried };
        }
        Released { failed: waiting, retried: Vec::new() }
    }

    /// Evicts blocks. Does not wait for a file that is in use: the caller may hold another one.
    pub(super) fn try_evict(&self, most: usize, which: &Evict) -> usize {
        let Ok(mut reading) = self.reading.try_lock() else { return 0 };
        reading.blocks.evict(most, which)
    }

    /// Adds a log line for each read that has waited for at least `slow` and has none yet. Returns since when each read
    /// waits.
    pub(super) fn report_overdue(&self, slow: Duration, lines: &mut Vec<String>) -> Vec<Instant> {
        let availability = &self.origin.availability;
        let (mut reason, mut waiting_since) = (None, Vec::new());
        for read in lock(&self.reading).blocks.waiting() {
            waiting_since.extend(read.waiting_since());
            let Some(waited) = read.report_overdue(slow) else { continue };
            let (offset, length) = (read.range.start, read.length());
            let what = format!("operation=read path={:?} offset={offset} length={length}", self.version.key);
            let reason = reason.get_or_insert_with(|| availability.awaited());
            lines.push(availability.line(&what, waited, reason));
        }
        waiting_since
    }
}
