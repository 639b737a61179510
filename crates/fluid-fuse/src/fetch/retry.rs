//! Retries: a request that fails because the store is unavailable is made again, until its time is over. Reads use the
//! pauses of this module in `RequestRunner::run_with_retries`; all other operations use [`Retry`].

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use super::metrics::Metrics;
use crate::limits::Until;
use crate::outage::Availability;
use crate::store::StoreError;

/// The pause before the first retry of a thread: 50 ms, so that a single failure is hardly felt.
pub(super) const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// The longest pause, so that reads go on within seconds of the end of an outage.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// How long and how often requests are tried.
pub(crate) struct Retry {
    /// How long an operation is tried for before it fails (`--io-timeout`).
    pub(super) io_timeout: Duration,
    metrics: Arc<Metrics>,
}

/// The pauses between the retries of one operation: each is twice as long as the one before.
pub(super) struct Backoff(Duration);

impl Backoff {
    pub(super) fn new() -> Self {
        Backoff(FIRST_PAUSE)
    }

    /// The longest that the next pause may be.
    pub(super) fn next(&self) -> Duration {
        self.0
    }

    /// Begins with short pauses again, since something succeeded.
    pub(super) fn reset(&mut self) {
        *self = Backoff::new();
    }
}

impl Retry {
    pub(super) fn new(io_timeout: Duration, metrics: Arc<Metrics>) -> Self {
        Retry { io_timeout, metrics }
    }

    /// Makes a request for names, attributes or changes, and retries it while the store is unavailable, until the deadline.
    pub(crate) fn request<T>(
        &self,
        source: &Availability,
        request: impl FnMut() -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let answer = self.write(source, request);
        if answer.is_ok() {
            source.answered();
        }
        answer
    }

    /// The same for a step of an operation that takes as many steps as it needs: the next one has as much time again.
    pub(crate) fn step<T>(
        &self,
        source: &Availability,
        request: impl FnMut() -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let answer = self.request(source, request)?;
        Until::renew(self.io_timeout);
        Ok(answer)
    }

    /// The same for bytes that are written. They may stay in memory, so a first success does not prove that the store
    /// answers.
    pub(crate) fn write<T>(
        &self,
        source: &Availability,
        mut request: impl FnMut() -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let deadline = Instant::now() + self.io_timeout;
        // The operation may have waited for its turn, and a store that makes progress is given more time.
        let deadline = || Until::moment().unwrap_or(deadline);
        let mut backoff = Backoff::new();
        let mut has_failed = false;
        if Instant::now() >= deadline() {
            return Err(StoreError::Unavailable(
                "others have waited for the store for all of the time".into(),
            ));
        }
        let _asking = source.begin_request();
        loop {
            match request() {
                Err(error) => {
                    source.failed(&error);
                    let is_retried = matches!(error, StoreError::Unavailable(_));
                    if !is_retried || Instant::now() + backoff.next() >= deadline() {
                        return Err(error);
                    }
                    has_failed = true;
                    self.pause(&mut backoff);
                }
                Ok(answer) => {
                    if has_failed {
                        source.answered();
                    }
                    return Ok(answer);
                }
            }
        }
    }

    /// Whether the deadline comes before the end of a pause, for an operation that began at that moment.
    pub(super) fn is_over(&self, since: Instant, pause: Duration) -> bool {
        since.elapsed() + pause >= self.io_timeout
    }

    /// Sleeps before a retry: between half of the pause and all of it, so that requests that failed together do not
    /// return together.
    pub(super) fn pause(&self, backoff: &mut Backoff) {
        self.metrics.retries.fetch_add(1, Ordering::Relaxed);
        thread::sleep(backoff.0.mul_f64(0.5 + fastrand::f64() / 2.0));
        backoff.0 = (backoff.0 * 2).min(LONGEST_PAUSE);
    }
}
