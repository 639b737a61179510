//! Where the files of one bucket come from, and how well it answers.

use std::io::Read;
use std::ops::{Range, RangeInclusive};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::outage::Availability;
use crate::remote::{Bucket, Version};
use crate::store::StoreError;
use crate::sync::lock;

/// Bytes of the shortest prefetch request: 256 KiB to a store that answers at once, 1 MiB to others.
const SHORTEST_REQUEST: RangeInclusive<u64> = 256 * 1024..=1024 * 1024;

/// Request size for each second of time to first byte: 512 MiB. A request should outlast the wait for its first byte,
/// and no more: bytes that come long before they are read have left the processor's caches (bench/notes.md).
const BYTES_PER_LATENCY_SECOND: u64 = 512 * 1024 * 1024;

/// A bucket, as files see it.
pub(super) struct Origin {
    /// The bucket's URL.
    pub(super) source: String,
    pub(super) availability: Arc<Availability>,
    bucket: Arc<dyn Bucket>,
    /// The shortest time to first byte, in microseconds.
    latency: AtomicU64,
    /// When a request failed, unless one succeeded since.
    failed_at: Mutex<Option<Instant>>,
    /// Its share of the threads ([`crate::queue`]).
    pub(super) lane: usize,
}

impl Origin {
    pub(super) fn new(source: &str, bucket: Arc<dyn Bucket>, io_timeout: Duration, lane: usize) -> Self {
        let availability = Arc::new(Availability::new(source, bucket.endpoint().as_deref(), io_timeout));
        let (latency, failed_at) = (AtomicU64::new(u64::MAX), Mutex::default());
        Origin { source: source.to_string(), availability, bucket, latency, failed_at, lane }
    }

    /// Requests a range.
    pub(super) fn get(
        &self,
        version: &Version,
        range: Range<u64>,
    ) -> Result<Box<dyn Read + Send>, StoreError> {
        let asked = Instant::now();
        let _asking = self.availability.begin_request();
        let body = self.bucket.get(version, range).inspect_err(|error| self.availability.failed(error))?;
        let latency = u64::try_from(asked.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.latency.fetch_min(latency, Ordering::Relaxed);
        Ok(body)
    }

    /// Bytes of the shortest prefetch request that is worth its time to first byte.
    pub(super) fn shortest_request(&self) -> u64 {
        let latency = self.latency.load(Ordering::Relaxed);
        let worth = BYTES_PER_LATENCY_SECOND.saturating_mul(latency) / 1_000_000;
        worth.clamp(*SHORTEST_REQUEST.start(), *SHORTEST_REQUEST.end())
    }

    /// Reports that the bytes of an answer ended too early. The error does not name the object.
    pub(super) fn interrupted(&self, version: &Version, error: &StoreError) {
        let named = StoreError::Unavailable(format!("the bytes of {:?}: {error}", version.key));
        self.availability.failed(&named);
    }

    /// Notes that a request failed which may be retried.
    pub(super) fn note_failure(&self) {
        *lock(&self.failed_at) = Some(Instant::now());
    }

    /// Notes that a request succeeded.
    pub(super) fn note_success(&self) {
        *lock(&self.failed_at) = None;
        self.availability.answered();
    }

    /// Whether a request failed after that moment, and none succeeded since.
    pub(super) fn failed_since(&self, moment: Instant) -> bool {
        *lock(&self.failed_at) > Some(moment)
    }
}
