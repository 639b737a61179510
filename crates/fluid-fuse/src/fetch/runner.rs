//! Runs range requests: in which thread, how often, and what happens with the reads that wait for them.

use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use log::warn;

use super::block_map::{Outcome, PendingRead, Readers};
use super::file_state::{End, FileState};
use super::origin::Origin;
use super::request::Purpose;
use super::retry::{Backoff, FIRST_PAUSE, Retry};
use super::transfer::{FetchJob, Position, Transfer};
use crate::queue::Queue;
use crate::store::{Slow, StoreError};
use crate::sync::lock;

/// Threads that read from the disk cache for reads that wait: enough for a disk that answers several at a time.
const DISK_THREADS: usize = 4;

/// The only lane of their queue.
const DISK_LANE: usize = 0;

/// Runs the range requests of a process.
pub(super) struct RequestRunner {
    transfer: Transfer,
    retry: Arc<Retry>,
    /// For bytes of the disk cache, which need not wait for an object store that hangs.
    disk_queue: Arc<Queue>,
    /// Held by the thread that takes the kernel's requests while it runs a request itself.
    inline: Mutex<()>,
    /// Reads that take longer are logged.
    slow: Duration,
}

impl RequestRunner {
    pub(super) fn new(transfer: Transfer, retry: Arc<Retry>, slow: Duration) -> Arc<Self> {
        let (disk_queue, inline) = (Queue::with_spare(DISK_THREADS, 0, DISK_LANE + 1), Mutex::default());
        Arc::new(RequestRunner { transfer, retry, disk_queue, inline, slow })
    }

    /// Gives one more source its share of the threads.
    pub(super) fn add_lane(&self) -> usize {
        self.transfer.queue.add_lane()
    }

    /// Requests to a source that should be in flight.
    pub(super) fn concurrency(&self, origin: &Origin) -> usize {
        self.transfer.queue.concurrency_limit(origin.lane)
    }

    /// Runs a job when the concurrency limit of its source allows it.
    pub(super) fn start_later(&self, origin: &Origin, job: impl FnOnce() + Send + 'static) {
        self.transfer.queue.ahead(origin.lane, Box::new(job));
    }

    /// Starts a request in another thread: at once if reads need it, else when the concurrency limit allows it.
    pub(super) fn start(self: &Arc<Self>, job: FetchJob) {
        if job.request.purpose == Purpose::Read {
            return self.start_now(job);
        }
        let (runner, origin) = (Arc::clone(self), Arc::clone(&job.file.origin));
        self.start_later(&origin, move || runner.run(&job));
    }

    fn start_now(self: &Arc<Self>, job: FetchJob) {
        let is_on_disk = job.file.disk().is_some_and(|disk| disk.gap(&job.request.range).is_none());
        let (queue, lane) = match is_on_disk {
            true => (&self.disk_queue, DISK_LANE),
            false => (&self.transfer.queue, job.file.origin.lane),
        };
        let runner = Arc::clone(self);
        queue.urgent(lane, Box::new(move || runner.run(&job)));
    }

    /// Runs the request of a random read in the thread of the read, which saves two changes of threads. One thread at a
    /// time may do so, and may try once: the kernel's other requests wait for this thread. The first retry follows at once,
    /// in another thread.
    pub(super) fn run_inline(self: &Arc<Self>, job: FetchJob) {
        let Ok(_turn) = self.inline.try_lock() else { return self.start_now(job) };
        if !job.request.claim() {
            return;
        }
        let mut position = Position::at(job.request.range.start);
        let tried = panic::catch_unwind(AssertUnwindSafe(|| self.run_once(&job, &mut position)));
        match tried.unwrap_or_else(|_| Err(fault())) {
            Ok(()) => {}
            Err(StoreError::Unavailable(_)) => {
                let (runner, lane) = (Arc::clone(self), job.file.origin.lane);
                self.transfer.queue.urgent(lane, Box::new(move || runner.run_from(&job, position)));
            }
            Err(error) => self.fail(&job, position.offset, &error),
        }
    }

    /// Runs a request, unless another thread has claimed it.
    fn run(self: &Arc<Self>, job: &FetchJob) {
        let FetchJob { file, request } = job;
        if !request.claim() {
            return;
        }
        let start = request.range.start;
        match request.awaited_since() {
            None if request.purpose != Purpose::Read && file.usage.readers() == Readers::Gone => {
                let error = StoreError::Unavailable("nobody reads the file".into());
                self.end(job, start, &error, End::Cancelled);
            }
            // The reads that waited for it have expired.
            Some(_)
                if request.purpose == Purpose::Read && !lock(&file.reading).blocks.is_awaited(request) =>
            {
                let error = StoreError::Unavailable("no read waits for it any more".into());
                self.end(job, start, &error, End::Cancelled);
            }
            // Requests before it used up its time, in vain.
            Some(since) if self.retry.is_over(since, FIRST_PAUSE) && file.origin.failed_since(since) => {
                let error = StoreError::Unavailable("earlier requests to the store failed".into());
                self.fail(job, start, &error);
            }
            _ => self.run_from(job, Position::at(start)),
        }
    }

    /// Runs the rest of a request. A panic fails the reads that wait for it, too.
    fn run_from(self: &Arc<Self>, job: &FetchJob, mut position: Position) {
        let run = AssertUnwindSafe(|| self.run_with_retries(job, &mut position));
        if panic::catch_unwind(run).is_err() {
            self.fail(job, position.offset, &fault());
        }
    }

    /// Runs the rest of a request in this thread, with retries. If it fails, so do the reads that wait for it.
    fn run_with_retries(self: &Arc<Self>, job: &FetchJob, position: &mut Position) {
        let mut backoff = Backoff::new();
        loop {
            let start = position.offset;
            let Err(error) = self.run_once(job, position) else { return };
            if position.offset > start {
                backoff.reset();
            }
            let StoreError::Unavailable(_) = &error else {
                return self.fail(job, position.offset, &error);
            };
            self.transfer.queue.note_failure(job.file.origin.lane);
            job.file.origin.note_failure();
            let awaited_since = job.request.awaited_since();
            if awaited_since.is_none() && position.offset == start {
                // The next read of these bytes requests them again.
                self.transfer.metrics.failures.fetch_add(1, Ordering::Relaxed);
                return self.end(job, position.offset, &error, End::Cancelled);
            }
            // Reads that wait for its first byte may have waited since before it started.
            let is_first = position.offset == job.request.range.start;
            let since = awaited_since.filter(|since| is_first && *since < position.reached_at);
            if self.retry.is_over(since.unwrap_or(position.reached_at), backoff.next()) {
                return self.fail(job, position.offset, &error);
            }
            self.retry.pause(&mut backoff);
        }
    }

    fn run_once(self: &Arc<Self>, job: &FetchJob, position: &mut Position) -> Result<(), StoreError> {
        self.transfer.run(job, position, &|block, range, bytes| {
            for outcome in job.file.arrived(block, range, bytes) {
                self.settle(&job.file, outcome);
            }
        })
    }

    /// Answers a read that is complete, or starts the request that it waits for.
    pub(super) fn settle(self: &Arc<Self>, file: &Arc<FileState>, outcome: Outcome) {
        match outcome {
            Outcome::MustStart(request) => self.start_now(FetchJob { file: Arc::clone(file), request }),
            Outcome::Waits => {}
            Outcome::Complete(read, pieces) => match pieces.as_slice() {
                [(bytes, range)] => self.answer(file, read, Ok(&bytes[range.clone()])),
                pieces => {
                    let length = pieces.iter().map(|(_, range)| range.len()).sum();
                    let mut whole = Vec::with_capacity(length);
                    for (bytes, range) in pieces {
                        whole.extend_from_slice(&bytes[range.clone()]);
                    }
                    self.answer(file, read, Ok(&whole));
                }
            },
        }
    }

    /// Fails the reads of a file that waited for this long in vain. Returns how many.
    pub(super) fn expire(&self, file: &FileState, timeout: Duration) -> usize {
        let expired = lock(&file.reading).blocks.expire(timeout);
        let count = expired.len();
        for read in expired {
            self.answer(file, read, Err(StoreError::Unavailable("no answer in time".into())));
        }
        count
    }

    fn answer(&self, file: &FileState, read: PendingRead, bytes: Result<&[u8], StoreError>) {
        let waited = read.waited();
        self.transfer.metrics.waits.add(waited);
        Slow(self.slow).tell(waited, &file.version.key, read.range.start, read.length(), &bytes);
        (read.answer)(bytes);
    }

    /// Fails a request from an offset on.
    fn fail(self: &Arc<Self>, job: &FetchJob, offset: u64, error: &StoreError) {
        if job.request.awaited_since().is_some() {
            let key = &job.file.version.key;
            warn!("cannot fetch path={key:?} offset={offset} error={:?}", error.to_string());
        }
        self.transfer.metrics.failures.fetch_add(1, Ordering::Relaxed);
        self.end(job, offset, error, End::Failed);
    }

    /// Ends a request at an offset: the reads that wait for it get the error, or requests of their own.
    fn end(self: &Arc<Self>, job: &FetchJob, offset: u64, error: &StoreError, end: End) {
        let released = job.file.take_back(&job.request, offset, error, end);
        for outcome in released.retried {
            self.settle(&job.file, outcome);
        }
        for read in released.failed {
            self.answer(&job.file, read, Err(error.clone()));
        }
    }
}

/// The error of reads that wait for a request in which this program or a library panicked.
fn fault() -> StoreError {
    StoreError::Failed("a fault of the program, told before".into())
}
