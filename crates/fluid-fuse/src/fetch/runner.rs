//! Runs range requests: in which thread, how often, and what happens with the reads that wait for them.

use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use log::warn;

use super::block_map::{Outcome, PendingRead, Readers};
use super::file_state::{End, FileState};
use super::metrics::Metrics;
use super::request::{Purpose, RangeRequest};
use super::retry::{Backoff, FIRST_PAUSE, Retry};
use super::transfer::{Position, Transfer};
use crate::queue::Queue;
use crate::store::{Slow, StoreError};

/// Threads that read from the disk cache for reads that wait: enough for a disk that answers several at a time.
const DISK_THREADS: usize = 4;

/// Runs the range requests of a process.
pub(super) struct RequestRunner {
    transfer: Transfer,
    retry: Arc<Retry>,
    metrics: Arc<Metrics>,
    queue: Arc<Queue>,
    /// For bytes of the disk cache, which need not wait for an object store that hangs.
    disk_queue: Arc<Queue>,
    /// Held by the thread that takes the kernel's requests while it runs a request itself.
    inline: Mutex<()>,
    /// Reads that take longer are logged.
    slow: Duration,
}

impl RequestRunner {
    pub(super) fn new(transfer: Transfer, retry: Arc<Retry>, slow: Duration) -> Arc<Self> {
        let (metrics, queue) = (Arc::clone(&transfer.metrics), Arc::clone(&transfer.queue));
        let disk_queue = Queue::new(DISK_THREADS);
        Arc::new(RequestRunner {
            transfer,
            retry,
            metrics,
            queue,
            disk_queue,
            inline: Mutex::default(),
            slow,
        })
    }

    /// Requests that should be in flight.
    pub(super) fn concurrency(&self) -> usize {
        self.queue.requests()
    }

    /// Runs a job when the concurrency limit allows it.
    pub(super) fn start_later(&self, job: impl FnOnce() + Send + 'static) {
        self.queue.ahead(Box::new(job));
    }

    /// Starts a request in another thread: at once if reads need it, else when the concurrency limit allows it.
    pub(super) fn start(self: &Arc<Self>, file: &Arc<FileState>, request: Arc<RangeRequest>) {
        if request.purpose == Purpose::Read {
            return self.start_now(file, request);
        }
        let (runner, file) = (Arc::clone(self), Arc::clone(file));
        self.start_later(move || runner.run(&file, &request));
    }

    fn start_now(self: &Arc<Self>, file: &Arc<FileState>, request: Arc<RangeRequest>) {
        let is_on_disk = file.disk().is_some_and(|disk| disk.gap(&request.range).is_none());
        let queue = if is_on_disk { &self.disk_queue } else { &self.queue };
        let (runner, file) = (Arc::clone(self), Arc::clone(file));
        queue.urgent(Box::new(move || runner.run(&file, &request)));
    }

    /// Runs a short request in the thread of its read, which saves two changes of threads. One thread at a time may do
    /// so, and may try once: the kernel's other requests wait for this thread.
    pub(super) fn run_inline(self: &Arc<Self>, file: &Arc<FileState>, request: Arc<RangeRequest>) {
        let Ok(_turn) = self.inline.try_lock() else { return self.start_now(file, request) };
        if !request.claim() {
            return;
        }
        let mut position = Position::at(request.range.start);
        let tried = panic::catch_unwind(AssertUnwindSafe(|| self.run_once(file, &request, &mut position)));
        match tried.unwrap_or_else(|_| Err(fault())) {
            Ok(()) => {}
            Err(StoreError::Unavailable(_)) => {
                let (runner, file) = (Arc::clone(self), Arc::clone(file));
                self.queue.urgent(Box::new(move || runner.run_from(&file, &request, position)));
            }
            Err(error) => self.fail(file, &request, position.offset, &error),
        }
    }

    /// Runs a request, unless another thread has claimed it.
    fn run(self: &Arc<Self>, file: &Arc<FileState>, request: &RangeRequest) {
        if !request.claim() {
            return;
        }
        let start = request.range.start;
        let Some(since) = request.awaited_since() else {
            if request.purpose != Purpose::Read && file.usage.readers() == Readers::Gone {
                let error = StoreError::Unavailable("nobody reads the file".into());
                return self.end(file, request, start, &error, End::Cancelled);
            }
            return self.run_from(file, request, Position::at(start));
        };
        // Requests before it used up its time, in vain.
        let is_late = since.elapsed() + FIRST_PAUSE >= self.retry.deadline;
        if is_late && file.origin.failed_since(since) {
            let error = StoreError::Unavailable("earlier requests to the store failed".into());
            return self.fail(file, request, start, &error);
        }
        self.run_from(file, request, Position::at(start));
    }

    /// Runs the rest of a request. A panic fails the reads that wait for it, too.
    fn run_from(self: &Arc<Self>, file: &Arc<FileState>, request: &RangeRequest, mut position: Position) {
        let run = AssertUnwindSafe(|| drop(self.run_with_retries(file, request, &mut position)));
        if panic::catch_unwind(run).is_err() {
            self.fail(file, request, position.offset, &fault());
        }
    }

    /// Runs the rest of a request in this thread, with retries. Reads that wait for it learn of its failure by
    /// themselves.
    pub(super) fn run_with_retries(
        self: &Arc<Self>,
        file: &Arc<FileState>,
        request: &RangeRequest,
        position: &mut Position,
    ) -> Result<(), StoreError> {
        let mut backoff = Backoff::new();
        loop {
            let start = position.offset;
            let Err(error) = self.run_once(file, request, position) else { return Ok(()) };
            let reached = *position;
            if reached.offset > start {
                backoff.reset();
            }
            let StoreError::Unavailable(_) = &error else {
                self.fail(file, request, reached.offset, &error);
                return Err(error);
            };
            self.queue.ended(false);
            file.origin.note_failure();
            let awaited_since = request.awaited_since();
            if awaited_since.is_none() && reached.offset == start {
                // The next read of these bytes requests them again.
                self.metrics.failures.fetch_add(1, Ordering::Relaxed);
                self.end(file, request, reached.offset, &error, End::Cancelled);
                return Err(error);
            }
            // Reads that wait for its first byte may have waited since before it started.
            let is_first = reached.offset == request.range.start;
            let since = awaited_since.filter(|since| is_first && *since < reached.reached_at);
            let spent = since.unwrap_or(reached.reached_at).elapsed();
            if spent + backoff.next() >= self.retry.deadline {
                self.fail(file, request, reached.offset, &error);
                return Err(error);
            }
            self.retry.pause(&mut backoff);
        }
    }

    fn run_once(
        self: &Arc<Self>,
        file: &Arc<FileState>,
        request: &RangeRequest,
        position: &mut Position,
    ) -> Result<(), StoreError> {
        self.transfer.run(file, request, position, &|block, range, bytes| {
            for outcome in file.arrived(block, range, bytes) {
                self.settle(file, outcome);
            }
        })
    }

    /// Answers a read that is complete, or starts the request that it waits for.
    pub(super) fn settle(self: &Arc<Self>, file: &Arc<FileState>, outcome: Outcome) {
        match outcome {
            Outcome::MustStart(request) => self.start_now(file, request),
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

    fn answer(&self, file: &FileState, read: PendingRead, bytes: Result<&[u8], StoreError>) {
        let waited = read.waited();
        self.metrics.waits.add(waited);
        Slow(self.slow).tell(waited, &file.version.key, read.range.start, read.length(), &bytes);
        (read.answer)(bytes);
    }

    /// Fails a request from an offset on.
    fn fail(
        self: &Arc<Self>,
        file: &Arc<FileState>,
        request: &RangeRequest,
        offset: u64,
        error: &StoreError,
    ) {
        if request.awaited_since().is_some() {
            warn!("cannot fetch path={:?} offset={offset} error={:?}", file.version.key, error.to_string());
        }
        self.metrics.failures.fetch_add(1, Ordering::Relaxed);
        self.end(file, request, offset, error, End::Failed);
    }

    /// Ends a request at an offset: tells the reads that wait for it, or starts requests for them.
    fn end(
        self: &Arc<Self>,
        file: &Arc<FileState>,
        request: &RangeRequest,
        offset: u64,
        error: &StoreError,
        end: End,
    ) {
        let released = file.take_back(request, offset, error, end);
        for outcome in released.retried {
            self.settle(file, outcome);
        }
        for read in released.failed {
            self.answer(file, read, Err(error.clone()));
        }
    }
}

/// The error of reads that wait for a request in which this program or a library panicked.
fn fault() -> StoreError {
    StoreError::Failed("a fault of the program, told before".into())
}
