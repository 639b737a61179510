//! Times, counted by size: a relaxed addition each. What they are the times of, and who looks, is not known here.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper ends of the buckets. The first is for no time at all; beyond the last there is one more.
pub(crate) const MILLISECONDS: [u64; 9] = [0, 5, 20, 50, 100, 250, 1000, 5000, 20_000];

const BUCKETS: usize = MILLISECONDS.len() + 1;

/// Times, by size.
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

    /// How many there were in each bucket, and their sum.
    pub(crate) fn read(&self) -> ([u64; BUCKETS], Duration) {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        (
            std::array::from_fn(|bucket| get(&self.buckets[bucket])),
            Duration::from_micros(get(&self.microseconds)),
        )
    }
}
