//! The numbers by which the prefetcher decides. `bench/notes.md` has the measurements behind them.

use std::ops::Range;
use std::time::Duration;

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
const GIB: u64 = 1024 * MIB;

/// When to prefetch, and how much.
#[derive(Clone, Debug)]
pub(super) struct Tuning {
    /// Streams that are followed in one file. The one that was unused for longest makes room for the next.
    pub(super) max_streams: usize,
    /// Streams share the window if each was read among this many of the file's last reads.
    pub(super) sharing_reads: u64,
    /// Bytes by which reads of one stream may come out of order: the kernel sends its own requests in parallel.
    pub(super) max_disorder: u64,
    /// Bytes that a stream has to read before it is prefetched for, unless it begins at the file's start.
    pub(super) min_sequential: u64,
    /// Bytes of the window with which a stream begins.
    pub(super) opening_window: u64,
    /// The opening window has at most this many of the shortest requests: a near store needs less.
    pub(super) opening_requests: u64,
    /// Requests that a window is divided into at most. More took processor time and brought no byte sooner.
    pub(super) max_window_requests: u64,
    /// The factor by which a window is widened or narrowed.
    pub(super) window_step: u64,
    /// The shortest time over which speed is measured: other work delays the process by milliseconds.
    pub(super) min_measured: Duration,
    /// The gain in speed for which a wider window is kept.
    pub(super) min_gain: f64,
    /// Bytes up to which a window grows without measurements if the store has a high latency.
    pub(super) ramp_window: u64,
    /// The gain in speed that proves a high latency. A smaller one may be the time to connect.
    pub(super) certain_gain: f64,
    /// Bytes to read before the next trial, after one that failed. They double with each trial, from the start of the
    /// range to its end: luck may have decided, and the best width may change.
    pub(super) trial_interval: Range<u64>,
    /// The shortest such interval after a gain that was certain: to try a narrower window would cost much.
    pub(super) certain_interval: u64,
    /// Reads at the same distance from each other that make a stride.
    pub(super) min_stride_reads: u32,
    /// Reads of a stride that are prefetched at most.
    pub(super) max_stride_ahead: u64,
    /// Random reads that had to wait, after which the rest of the file is fetched too, if it fits.
    pub(super) max_random_waits: u32,
}

impl Default for Tuning {
    fn default() -> Self {
        Tuning {
            max_streams: 8,
            sharing_reads: 64,
            max_disorder: 512 * KIB,
            min_sequential: 512 * KIB,
            opening_window: 4 * MIB,
            opening_requests: 8,
            max_window_requests: 32,
            window_step: 4,
            min_measured: Duration::from_millis(50),
            min_gain: 1.15,
            ramp_window: 64 * MIB,
            certain_gain: 4.0,
            trial_interval: 256 * MIB..8 * GIB,
            certain_interval: 2 * GIB,
            min_stride_reads: 3,
            max_stride_ahead: 16,
            max_random_waits: 12,
        }
    }
}

impl Tuning {
    /// Bytes of the opening window, given those of the shortest request.
    pub(super) fn opening(&self, shortest_request: u64) -> u64 {
        self.opening_window.min(self.opening_requests * shortest_request)
    }
}
