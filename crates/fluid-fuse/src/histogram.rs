//! A histogram of times. Counting is a relaxed addition.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds of the buckets, in milliseconds. The first is for no time at all; one more is for all above the last.
pub(crate) const MILLISECONDS: [u64; 9] = [0, 5, 20, 50, 100, 250, 1000, 5000, 20_000];

const BUCKETS: usize = MILLISECONDS.len() + 1;

/// Counts of times, by size.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [AtomicU64; BUCKETS],
    microseconds: AtomicU64,
}

impl Histogram {
    /// Counts a time.
    pub fn add(&self, time: Duration) {
        let longer = |limit: &&u64| time > Duration::from_millis(**limit);
        let bucket = MILLISECONDS.iter().take_while(longer).count();
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        if !time.is_zero() {
            self.microseconds.fetch_add(time.as_micros() as u64, Ordering::Relaxed);
        }
    }

    /// The count of each bucket, and the sum of all times.
    pub(crate) fn read(&self) -> ([u64; BUCKETS], Duration) {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        (
            std::array::from_fn(|bucket| get(&self.buckets[bucket])),
            Duration::from_micros(get(&self.microseconds)),
        )
    }
}
