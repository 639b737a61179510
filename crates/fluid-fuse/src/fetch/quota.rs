//! How much of the memory prefetched blocks may take, over all files.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::block::BLOCK_SIZE;

/// The share of the memory that prefetched blocks may take, in quarters. The rest is left to reads that wait.
const QUARTERS: usize = 3;

/// The prefetched blocks of the process.
#[derive(Debug)]
pub(super) struct PrefetchQuota {
    limit: usize,
    /// Blocks that are prefetched or on their way.
    used: AtomicUsize,
    /// Files that have a prefetch window.
    windows: AtomicUsize,
}

impl PrefetchQuota {
    /// The quota of a pool with this capacity.
    pub(super) fn new(capacity: usize) -> Self {
        let limit = capacity / 4 * QUARTERS;
        PrefetchQuota { limit, used: AtomicUsize::new(0), windows: AtomicUsize::new(0) }
    }

    /// The largest number of prefetched blocks.
    pub(super) fn limit(&self) -> usize {
        self.limit
    }

    /// Whether this many blocks may be prefetched in addition.
    pub(super) fn has_room(&self, blocks: usize) -> bool {
        self.used.load(Ordering::Relaxed) + blocks <= self.limit
    }

    /// Bytes that one file may prefetch: files with a window share the quota evenly.
    pub(super) fn window(&self) -> u64 {
        let windows = self.windows.load(Ordering::Relaxed).max(1);
        (self.limit / windows) as u64 * BLOCK_SIZE
    }

    /// Blocks in use, and files that have a window.
    #[cfg(test)]
    pub(super) fn in_use(&self) -> (usize, usize) {
        (self.used.load(Ordering::Relaxed), self.windows.load(Ordering::Relaxed))
    }
}

/// How much of a file is prefetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PrefetchExtent {
    /// All of it: a small file.
    Whole,
    /// A window that moves through it, for which the file needs a share of the quota.
    Window,
}

/// The part of the quota that one file uses. Dropping it returns the part.
#[derive(Debug)]
pub(super) struct QuotaShare {
    quota: Arc<PrefetchQuota>,
    blocks: usize,
    extent: PrefetchExtent,
}

impl QuotaShare {
    /// Nothing yet.
    pub(super) fn new(quota: Arc<PrefetchQuota>, extent: PrefetchExtent) -> Self {
        QuotaShare { quota, blocks: 0, extent }
    }

    /// Takes this many blocks more. The caller has asked [`PrefetchQuota::has_room`].
    pub(super) fn take(&mut self, blocks: usize) {
        if self.blocks == 0 && self.extent == PrefetchExtent::Window {
            self.quota.windows.fetch_add(1, Ordering::Relaxed);
        }
        self.blocks += blocks;
        self.quota.used.fetch_add(blocks, Ordering::Relaxed);
    }

    /// Returns this many blocks.
    pub(super) fn release(&mut self, blocks: usize) {
        if blocks == 0 {
            return;
        }
        self.blocks -= blocks;
        if self.blocks == 0 && self.extent == PrefetchExtent::Window {
            self.quota.windows.fetch_sub(1, Ordering::Relaxed);
        }
        self.quota.used.fetch_sub(blocks, Ordering::Relaxed);
    }
}

impl Drop for QuotaShare {
    fn drop(&mut self) {
        self.release(self.blocks);
    }
}
