//! Counters of what the process fetched.

use std::sync::atomic::AtomicU64;

use crate::histogram::Histogram;

/// Counters since the process began.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Range requests to object stores.
    pub requests: AtomicU64,
    /// Bytes from object stores.
    pub bytes: AtomicU64,
    /// Bytes from the disk cache.
    pub disk_bytes: AtomicU64,
    /// Requests that were made again.
    pub retries: AtomicU64,
    /// Requests that failed for good.
    pub failures: AtomicU64,
    /// How long reads waited; zero for those whose bytes were in memory.
    pub waits: Histogram,
}
