//! A range request: which bytes of a file are fetched, and why.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use crate::sync::lock;

/// Bytes of the largest request: 8 MiB. At 90 MB/s it takes 93 ms, of which a latency of 15 ms is the smaller part.
pub(super) const MAX_REQUEST_SIZE: u64 = 8 * 1024 * 1024;

/// The ranges of the requests that a whole file of this size takes.
pub(crate) fn request_ranges(size: u64) -> impl Iterator<Item = Range<u64>> {
    (0..size.div_ceil(MAX_REQUEST_SIZE))
        .map(move |number| number * MAX_REQUEST_SIZE..((number + 1) * MAX_REQUEST_SIZE).min(size))
}

/// The reason for a request, which decides when it starts and where its bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// A read needs the bytes, or will at once.
    Read,
    /// The prefetcher expects a read. The bytes count against the prefetch quota.
    Prefetch,
    /// The disk cache is filled. No block of the file knows of the request.
    FillDisk,
}

/// Consecutive bytes of a file that one thread fetches.
#[derive(Debug)]
pub(super) struct RangeRequest {
    pub(super) range: Range<u64>,
    pub(super) purpose: Purpose,
    is_claimed: AtomicBool,
    awaited_since: OnceLock<Instant>,
    /// When a block of it came last.
    arrived_at: Mutex<Option<Instant>>,
}

impl RangeRequest {
    pub(super) fn new(range: Range<u64>, purpose: Purpose) -> Self {
        RangeRequest {
            range,
            purpose,
            is_claimed: AtomicBool::new(false),
            awaited_since: OnceLock::new(),
            arrived_at: Mutex::default(),
        }
    }

    /// Claims the request for this thread. A request may be in two queues; only the first claim succeeds.
    pub(super) fn claim(&self) -> bool {
        !self.is_claimed.swap(true, Ordering::AcqRel)
    }

    /// Whether a thread carries the request out, or has done so.
    pub(super) fn is_claimed(&self) -> bool {
        self.is_claimed.load(Ordering::Relaxed)
    }

    /// Notes that somebody waits for the request from now on.
    pub(super) fn await_from_now(&self) {
        self.awaited_since.get_or_init(Instant::now);
    }

    /// Notes that a block of it came.
    pub(super) fn note_arrival(&self) {
        *lock(&self.arrived_at) = Some(Instant::now());
    }

    /// Whether a block of it came within that time.
    pub(super) fn arrived_within(&self, time: Duration) -> bool {
        lock(&self.arrived_at).is_some_and(|at| at.elapsed() < time)
    }

    /// Since when somebody waits for the request.
    pub(super) fn awaited_since(&self) -> Option<Instant> {
        self.awaited_since.get().copied()
    }
}
