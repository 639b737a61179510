//! The memory that bytes on their way are kept in: granules of one size, never more of them than the cap.
//!
//! A granule is filled by one thread, then shared, and comes back when its last user drops it. It is its own
//! anonymous mapping, so that what is not needed any more is the system's again at once, whatever the
//! allocator thinks. Who has to give one up when there are none left is decided by the caller.

use std::ops::{Deref, DerefMut, Range};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use memmap2::MmapMut;

use crate::inodes::lock;
use crate::store::StoreError;

/// Bytes of a granule: the largest read that the kernel asks for by default.
pub(crate) const GRANULE: u64 = 128 * 1024;

/// How long a full memory is waited for before the caller is asked again for something to give up.
const PAUSE: Duration = Duration::from_millis(20);

/// The granules of a file that have bytes of the range.
pub(crate) fn granules(range: &Range<u64>) -> Range<u64> {
    range.start / GRANULE..range.end.div_ceil(GRANULE)
}

/// What of a range lies in a granule, counted from the granule's beginning.
pub(crate) fn within(granule: u64, range: &Range<u64>) -> Range<u64> {
    let begin = granule * GRANULE;
    range.start.max(begin) - begin..range.end.min(begin + GRANULE) - begin
}

/// The granules of a process.
#[derive(Debug)]
pub(crate) struct Memory {
    cap: usize,
    pool: Mutex<Pool>,
    returned: Condvar,
}

#[derive(Debug, Default)]
struct Pool {
    free: Vec<MmapMut>,
    /// Granules that exist, free or not.
    exist: usize,
    /// The fewest free ones since the last [`Memory::trim`].
    spare: usize,
}

impl Memory {
    /// Memory of at most as many granules.
    pub(crate) fn new(cap: usize) -> Arc<Self> {
        Arc::new(Memory { cap, pool: Mutex::default(), returned: Condvar::new() })
    }

    /// Granules that there can be.
    pub(crate) fn cap(&self) -> usize {
        self.cap
    }

    /// Granules that are in use.
    pub(crate) fn used(&self) -> usize {
        let pool = lock(&self.pool);
        pool.exist - pool.free.len()
    }

    /// A granule. While there is none, `make_room` is called again and again.
    pub(crate) fn take(self: &Arc<Self>, mut make_room: impl FnMut()) -> Result<Granule, StoreError> {
        let mut pool = lock(&self.pool);
        loop {
            if let Some(map) = pool.free.pop() {
                pool.spare = pool.spare.min(pool.free.len());
                return Ok(Granule { map: Some(map), memory: Arc::clone(self) });
            }
            if pool.exist < self.cap {
                pool.exist += 1;
                break;
            }
            drop(pool);
            make_room();
            pool = lock(&self.pool);
            if pool.free.is_empty() {
                let waited = self.returned.wait_timeout(pool, PAUSE);
                pool = waited.map_or_else(|poisoned| poisoned.into_inner().0, |(pool, _)| pool);
            }
        }
        drop(pool);
        match MmapMut::map_anon(GRANULE as usize) {
            Ok(map) => Ok(Granule { map: Some(map), memory: Arc::clone(self) }),
            Err(error) => {
                lock(&self.pool).exist -= 1;
                Err(StoreError::Unavailable(format!("no memory for what is read: {error}")))
            }
        }
    }

    /// Gives back to the system what was not needed since the last call.
    pub(crate) fn trim(&self) {
        let spare: Vec<MmapMut> = {
            let mut pool = lock(&self.pool);
            let count = pool.spare.min(pool.free.len());
            pool.exist -= count;
            let spare = pool.free.drain(..count).collect();
            pool.spare = pool.free.len();
            spare
        };
        drop(spare);
    }
}

/// [`GRANULE`] bytes, its owner's alone until it is shared behind an `Arc`.
#[derive(Debug)]
pub(crate) struct Granule {
    /// Always there, but while it is dropped.
    map: Option<MmapMut>,
    memory: Arc<Memory>,
}

impl Deref for Granule {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.map.as_deref().unwrap_or_default()
    }
}

impl DerefMut for Granule {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.map.as_deref_mut().unwrap_or_default()
    }
}

impl Drop for Granule {
    fn drop(&mut self) {
        if let Some(map) = self.map.take() {
            lock(&self.memory.pool).free.push(map);
            self.memory.returned.notify_one();
        }
    }
}
