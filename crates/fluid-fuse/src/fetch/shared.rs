//! The parts that all buckets of the process share: memory, threads, the disk cache and the metrics.

use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use log::warn;

use super::block::{BLOCK_SIZE, BlockPool};
use super::disk::DiskCache;
use super::metrics::Metrics;
use super::open_files::OpenFiles;
use super::retry::Retry;
use super::runner::RequestRunner;
use super::transfer::Transfer;
use crate::outage::Availability;
use crate::queue::Queue;
use crate::sync::lock;

/// Blocks of memory for each request in flight: it fills one at a time, and those before are still to be read.
const BLOCKS_PER_REQUEST: usize = 8;

/// The time between two runs of the maintenance thread.
const MAINTENANCE_INTERVAL: Duration = Duration::from_secs(1);

/// Bytes of the maintenance thread's stack: it calls nothing that needs more.
const MAINTENANCE_STACK: usize = 256 * 1024;

/// How long after its deadline a read fails although its request still waits or hangs: a request that is carried out fails
/// its reads itself, and knows the reason.
const EXPIRY_DELAY: Duration = Duration::from_millis(300);

/// Log lines about reads and other operations that wait, for each run.
const MAX_OVERDUE_LINES: usize = 20;

/// How much may be spent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Bytes of memory for blocks.
    pub memory: u64,
    /// Requests in flight.
    pub requests: usize,
    /// How long an operation is tried for before it fails.
    pub io_timeout: Duration,
    /// Reads and other operations that take longer are logged.
    pub slow: Duration,
}

/// The parts that all buckets share, and the thread that maintains them.
pub struct Shared {
    pub(crate) retry: Arc<Retry>,
    pub(super) files: Arc<OpenFiles>,
    pub(super) runner: Arc<RequestRunner>,
    pub(super) disk: Option<Arc<DiskCache>>,
    pool: Arc<BlockPool>,
    metrics: Arc<Metrics>,
    sources: Mutex<Vec<Arc<Availability>>>,
    slow: Duration,
}

impl Shared {
    /// Makes the parts, and starts the maintenance thread, which ends with them.
    pub fn new(budget: Budget, disk: Option<Arc<DiskCache>>) -> anyhow::Result<Arc<Self>> {
        let blocks = usize::try_from(budget.memory / BLOCK_SIZE)?;
        let metrics = Arc::new(Metrics::default());
        let retry = Arc::new(Retry::new(budget.io_timeout, Arc::clone(&metrics)));
        let pool = BlockPool::new(blocks);
        let files = Arc::new(OpenFiles::new(blocks));
        let transfer = Transfer {
            pool: Arc::clone(&pool),
            files: Arc::clone(&files),
            metrics: Arc::clone(&metrics),
            queue: Queue::new(budget.requests.min(blocks / BLOCKS_PER_REQUEST).max(1)),
            io_timeout: budget.io_timeout,
        };
        let runner = RequestRunner::new(transfer, Arc::clone(&retry), budget.slow);
        let (sources, slow) = (Mutex::default(), budget.slow);
        let shared = Arc::new(Shared { retry, files, runner, disk, pool, metrics, sources, slow });
        let weak = Arc::downgrade(&shared);
        thread::Builder::new()
            .name("maintenance".into())
            .stack_size(MAINTENANCE_STACK)
            .spawn(move || {
                while let Some(shared) = weak.upgrade() {
                    shared.report_overdue();
                    shared.pool.trim();
                    shared.flush();
                    drop(shared);
                    thread::sleep(MAINTENANCE_INTERVAL);
                }
            })
            .context("cannot start a thread")?;
        Ok(shared)
    }

    /// Writes the index files of the disk cache that have changed.
    pub fn flush(&self) {
        if let Some(disk) = &self.disk {
            disk.flush();
        }
    }

    /// Counters since the process began.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Bytes of memory in use, and at most.
    pub fn memory(&self) -> (u64, u64) {
        (self.pool.used() as u64 * BLOCK_SIZE, self.pool.capacity() as u64 * BLOCK_SIZE)
    }

    /// Bytes in the disk cache, and at most, if there is one.
    pub fn disk_bytes(&self) -> Option<(u64, u64)> {
        self.disk.as_ref().map(|disk| disk.bytes())
    }

    /// Why sources do not work: a sentence for each that does not, with its last error, its store and what to check.
    /// Nothing if the last request to each was answered.
    pub fn trouble(&self) -> Option<String> {
        let sources = lock(&self.sources).clone();
        let sentences: Vec<_> = sources.iter().filter_map(|source| source.trouble()).collect();
        (!sentences.is_empty()).then(|| sentences.join("; "))
    }

    /// Adds a source whose troubles are reported.
    pub(super) fn watch(&self, source: &Arc<Availability>) {
        lock(&self.sources).push(Arc::clone(source));
    }

    /// Logs each operation, once, that still waits although it is slow, and each source that lets operations wait. Fails
    /// the reads whose time is over. Reads that do not wait pay nothing for this search.
    fn report_overdue(&self) {
        let mut lines = Vec::new();
        let files = self.files.all();
        for source in lock(&self.sources).clone() {
            let (mut reads, mut expired) = (Vec::new(), 0);
            for file in files.iter().filter(|file| Arc::ptr_eq(&file.origin.availability, &source)) {
                reads.append(&mut file.report_overdue(self.slow, &mut lines));
                expired += self.runner.expire(file, self.retry.io_timeout + EXPIRY_DELAY);
            }
            source.overdue(self.slow, &mut lines);
            if let Some(line) = source.silence(reads.len(), reads.into_iter().min(), Instant::now()) {
                warn!("{line}");
            }
            if expired > 0 {
                warn!("no answer in time errno=EIO reads={expired}: --io-timeout is over");
            }
        }
        for line in lines.iter().take(MAX_OVERDUE_LINES) {
            warn!("{line}");
        }
        if lines.len() > MAX_OVERDUE_LINES {
            warn!("no answer yet for {} further operations", lines.len() - MAX_OVERDUE_LINES);
        }
    }
}
