//! The memory that fetched bytes are kept in: blocks of one size, never more of them than the pool's capacity.
//!
//! One thread fills a block, then shares it. The block returns to the pool when its last user drops it. Each block is
//! an anonymous mapping of its own, so that blocks which are not needed go back to the system at once, whatever the
//! allocator keeps. If the pool is empty, its caller decides what to evict.

use std::ops::{Deref, DerefMut, Range};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use memmap2::MmapMut;

use crate::store::StoreError;
use crate::sync::lock;

/// Bytes of a block: 128 KiB, the largest read that the kernel makes unless its read-ahead was raised.
pub(crate) const BLOCK_SIZE: u64 = 128 * 1024;

/// How long a thread waits for an empty pool before it evicts again: 20 ms. A block that returns to the pool wakes the
/// thread at once; other blocks may have become evictable since.
const EVICTION_INTERVAL: Duration = Duration::from_millis(20);

/// The numbers of the blocks that have bytes of the range.
pub(super) fn blocks(range: &Range<u64>) -> Range<u64> {
    range.start / BLOCK_SIZE..range.end.div_ceil(BLOCK_SIZE)
}

/// The number of these blocks.
pub(super) fn count(range: &Range<u64>) -> usize {
    blocks(range).count()
}

/// The part of a range that lies in a block, counted from the block's start.
pub(super) fn within(block: u64, range: &Range<u64>) -> Range<u64> {
    let start = block * BLOCK_SIZE;
    range.start.max(start) - start..range.end.min(start + BLOCK_SIZE) - start
}

/// The gaps of a range, each as far as it goes in one piece. The predicate tells whether a block is missing.
pub(super) fn gaps(range: Range<u64>, is_missing: impl Fn(u64) -> bool) -> impl Iterator<Item = Range<u64>> {
    let mut left = blocks(&range);
    std::iter::from_fn(move || {
        let first = left.find(|block| is_missing(*block))?;
        let end = left.find(|block| !is_missing(*block)).unwrap_or(left.end);
        Some(range.start.max(first * BLOCK_SIZE)..range.end.min(end * BLOCK_SIZE))
    })
}

/// The blocks of a process.
#[derive(Debug)]
pub(super) struct BlockPool {
    capacity: usize,
    blocks: Mutex<PooledBlocks>,
    returned: Condvar,
}

#[derive(Debug, Default)]
struct PooledBlocks {
    free: Vec<MmapMut>,
    /// Blocks that exist, free or not.
    allocated: usize,
    /// The fewest free blocks since the last [`BlockPool::trim`].
    least_free: usize,
}

impl BlockPool {
    /// A pool of at most this many blocks.
    pub(super) fn new(capacity: usize) -> Arc<Self> {
        Arc::new(BlockPool { capacity, blocks: Mutex::default(), returned: Condvar::new() })
    }

    /// The largest number of blocks.
    pub(super) fn capacity(&self) -> usize {
        self.capacity
    }

    /// The number of blocks in use.
    pub(super) fn used(&self) -> usize {
        let blocks = lock(&self.blocks);
        blocks.allocated - blocks.free.len()
    }

    /// Takes a block. While there is none, it calls `evict` again and again.
    pub(super) fn take(self: &Arc<Self>, evict: impl Fn()) -> Result<Block, StoreError> {
        let mut blocks = lock(&self.blocks);
        loop {
            if let Some(map) = blocks.free.pop() {
                blocks.least_free = blocks.least_free.min(blocks.free.len());
                return Ok(Block { map: Some(map), pool: Arc::clone(self) });
            }
            if blocks.allocated < self.capacity {
                blocks.allocated += 1;
                break;
            }
            drop(blocks);
            evict();
            blocks = lock(&self.blocks);
            if blocks.free.is_empty() {
                let waited = self.returned.wait_timeout(blocks, EVICTION_INTERVAL);
                blocks = waited.map_or_else(|poisoned| poisoned.into_inner().0, |(blocks, _)| blocks);
            }
        }
        drop(blocks);
        match MmapMut::map_anon(BLOCK_SIZE as usize) {
            Ok(map) => Ok(Block { map: Some(map), pool: Arc::clone(self) }),
            Err(error) => {
                lock(&self.blocks).allocated -= 1;
                Err(StoreError::Unavailable(format!("no memory for fetched bytes: {error}")))
            }
        }
    }

    /// Returns the blocks to the system that were free since the last call.
    pub(super) fn trim(&self) {
        let spare: Vec<MmapMut> = {
            let mut blocks = lock(&self.blocks);
            let count = blocks.least_free.min(blocks.free.len());
            blocks.allocated -= count;
            let spare = blocks.free.drain(..count).collect();
            blocks.least_free = blocks.free.len();
            spare
        };
        // The system takes its time to unmap them: not while others wait for the lock.
        drop(spare);
    }
}

/// [`BLOCK_SIZE`] bytes. Its owner may write them until it shares the block behind an `Arc`.
#[derive(Debug)]
pub(super) struct Block {
    /// `None` only while the block is dropped.
    map: Option<MmapMut>,
    pool: Arc<BlockPool>,
}

impl Deref for Block {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.map.as_deref().unwrap_or_default()
    }
}

impl DerefMut for Block {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.map.as_deref_mut().unwrap_or_default()
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        if let Some(map) = self.map.take() {
            lock(&self.pool.blocks).free.push(map);
            self.pool.returned.notify_one();
        }
    }
}
