//! Whether a store answers: its outages, its refusals, its silence, and the operations that wait for it.
//!
//! An outage begins with the first request that fails and ends with the first that is answered. Both are logged, at most
//! one such pair in `LOG_INTERVAL`, so that a store which fails now and then does not fill the log. A refusal is an answer.
//!
//! An operation registers itself while it waits for the store, so at most as many are registered as there are threads.
//! Operations whose answer is cached do not register. Those that wait for a flight ([`crate::flight`]) are only counted.
//! Reads are found where they wait ([`crate::fetch`]). A source is silent once an operation has waited for `PATIENCE`. The
//! log says so then, and again in growing intervals as long as operations wait.
//!
//! This module makes no requests: callers report how each request ended.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use fluid_sidecar_layout::contract::message::{
    ANSWERS_AGAIN, NO_BUCKET, OUTAGE_BEGAN, OUTAGE_ENDED, REFUSES, SILENT, UNAVAILABLE, WAITS,
};
use humantime::format_duration;
use log::{debug, warn};

use crate::plain::shown_url;
use crate::store::StoreError;
use crate::sync::lock;

/// Least time between two outages that are logged, and between two refusals.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// An operation that has waited for this long is mentioned by [`Availability::trouble`], and its source by the log.
const PATIENCE: Duration = Duration::from_secs(5);

/// The longest time between two lines about a silent source, up to which the intervals double.
const LONGEST_INTERVAL: Duration = Duration::from_secs(10 * 60);

thread_local! {
    /// The counts of the source to which this thread makes requests.
    static ASKED: RefCell<Option<Arc<Phases>>> = const { RefCell::new(None) };
}

/// The phases of a request before it is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ConnectPhase {
    /// It waits for the address of a host.
    Name,
    /// It waits for a connection.
    Connection,
}

/// The number of requests in each phase.
#[derive(Debug, Default)]
struct Phases {
    names: AtomicUsize,
    connections: AtomicUsize,
}

impl Phases {
    fn count(&self, phase: ConnectPhase) -> &AtomicUsize {
        match phase {
            ConnectPhase::Name => &self.names,
            ConnectPhase::Connection => &self.connections,
        }
    }
}

/// A request that is in a phase, until it is dropped.
pub(crate) struct InPhase(Option<(Arc<Phases>, ConnectPhase)>);

impl InPhase {
    /// Notes that the request of this thread enters a phase.
    pub(crate) fn begin(phase: ConnectPhase) -> Self {
        let phases = ASKED.with_borrow(Clone::clone);
        if let Some(phases) = &phases {
            phases.count(phase).fetch_add(1, Ordering::Relaxed);
        }
        InPhase(phases.map(|phases| (phases, phase)))
    }
}

impl Drop for InPhase {
    fn drop(&mut self) {
        if let Some((phases, phase)) = &self.0 {
            phases.count(*phase).fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// This thread makes requests to a source, until this is dropped.
pub(crate) struct Asking(Option<Arc<Phases>>);

impl Drop for Asking {
    fn drop(&mut self) {
        ASKED.set(self.0.take());
    }
}

/// Whether one source answers.
pub(crate) struct Availability {
    /// The source and its endpoint, without secrets.
    name: String,
    /// How long requests are retried.
    io_timeout: Duration,
    /// Whether the next answer changes the state, so that most answers need no lock.
    troubled: AtomicBool,
    state: Mutex<AvailabilityState>,
    operations: Mutex<PendingOperations>,
    /// Operations that wait for a flight.
    parked: AtomicUsize,
    started: Instant,
    /// When the last answer came, in milliseconds since `started`.
    last_answer: AtomicU64,
    phases: Arc<Phases>,
}

/// A source that does not answer while operations wait.
struct Silence {
    /// Since when the first of them waits.
    since: Instant,
    /// When the next line is due, and the interval before it.
    next: Instant,
    interval: Duration,
}

#[derive(Default)]
struct AvailabilityState {
    silence: Option<Silence>,
    outages: Outages,
    refusals: Limited,
    /// The failure of the last request, if it failed.
    trouble: Option<StoreError>,
}

#[derive(Default)]
struct PendingOperations {
    last: u64,
    waiting: HashMap<u64, PendingOperation>,
}

struct PendingOperation {
    kind: &'static str,
    path: String,
    since: Instant,
    is_reported: bool,
}

/// An operation that waits, until it is dropped.
pub(crate) struct WaitGuard<'a> {
    availability: &'a Availability,
    number: u64,
}

impl Drop for WaitGuard<'_> {
    fn drop(&mut self) {
        lock(&self.availability.operations).waiting.remove(&self.number);
    }
}

impl Availability {
    /// The availability of the source with this URL. Requests to it are retried for `io_timeout`.
    pub(crate) fn new(source: &str, endpoint: Option<&str>, io_timeout: Duration) -> Self {
        let (source, endpoint) = (shown_url(source), endpoint.map(shown_url));
        // The URL of a web server begins with its endpoint.
        let name = match endpoint.filter(|endpoint| !source.starts_with(endpoint.as_str())) {
            Some(endpoint) => format!("{source} at {endpoint}"),
            None => source,
        };
        Availability {
            name,
            io_timeout,
            troubled: AtomicBool::new(false),
            state: Mutex::default(),
            operations: Mutex::default(),
            parked: AtomicUsize::new(0),
            started: Instant::now(),
            last_answer: AtomicU64::new(0),
            phases: Arc::default(),
        }
    }

    /// Notes that this thread makes requests to this source from now on.
    pub(crate) fn begin_request(&self) -> Asking {
        Asking(ASKED.replace(Some(Arc::clone(&self.phases))))
    }

    /// Notes that this many operations more, or fewer, wait for a flight.
    pub(crate) fn parked(&self, more: isize) {
        self.parked.fetch_add(more.cast_unsigned(), Ordering::Relaxed);
    }

    /// Notes that a request, or a part of it, was answered.
    pub(crate) fn answered(&self) {
        let now = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_answer.store(now, Ordering::Relaxed);
        if self.troubled.load(Ordering::Acquire) {
            let mut state = lock(&self.state);
            self.end_outage(&mut state);
            state.trouble = None;
            self.troubled.store(false, Ordering::Release);
        }
    }

    /// Notes that a request failed or was refused.
    pub(crate) fn failed(&self, error: &StoreError) {
        match error {
            StoreError::Unavailable(reason) => {
                let mut state = lock(&self.state);
                state.trouble = Some(error.clone());
                self.troubled.store(true, Ordering::Release);
                match state.outages.failed(Instant::now()) {
                    Some(others) => warn!(
                        "{OUTAGE_BEGAN} source={:?} reason={reason:?}: requests are retried until --io-timeout \
                         ({}){}",
                        self.name,
                        format_duration(self.io_timeout),
                        plus(others, "shorter outages since the last message"),
                    ),
                    None => debug!("{}: {reason}", self.name),
                }
            }
            StoreError::Denied(_)
            | StoreError::NoBucket(_)
            | StoreError::NotImplemented(_)
            | StoreError::Failed(_) => {
                let mut state = lock(&self.state);
                self.end_outage(&mut state);
                state.trouble = Some(error.clone());
                self.troubled.store(true, Ordering::Release);
                if let StoreError::Failed(_) = error {
                    return;
                }
                match state.refusals.report(Instant::now()) {
                    Some(others) => warn!(
                        "{}{}",
                        self.sentence(error),
                        plus(others, "further refusals since the last message")
                    ),
                    None => debug!("{}: {error}", self.name),
                }
            }
            StoreError::NotFound | StoreError::Stale | StoreError::NoParts(_) => self.answered(),
            // These do not come from the store.
            StoreError::ReadOnly
            | StoreError::NotEmpty
            | StoreError::NotMovable
            | StoreError::Unsupported(_) => {}
        }
    }

    fn end_outage(&self, state: &mut AvailabilityState) {
        let silence = state.silence.take();
        let ended = state.outages.answered(Instant::now());
        if let (Some(silence), None) = (silence, &ended) {
            let seconds = silence.since.elapsed().as_secs_f64();
            warn!("{ANSWERS_AGAIN} source={:?} seconds={seconds:.1}", self.name);
        }
        if let Some((lasted, failures)) = ended {
            warn!(
                "{OUTAGE_ENDED} source={:?} seconds={:.1} failed_requests={failures}",
                self.name,
                lasted.as_secs_f64()
            );
        }
    }

    /// Registers an operation that waits for the store from now on.
    pub(crate) fn register(&self, kind: &'static str, path: &str) -> WaitGuard<'_> {
        let mut operations = lock(&self.operations);
        operations.last += 1;
        let number = operations.last;
        let operation =
            PendingOperation { kind, path: path.to_string(), since: Instant::now(), is_reported: false };
        operations.waiting.insert(number, operation);
        WaitGuard { availability: self, number }
    }

    /// A log line about the source, if it is silent and a line is due. `reads` is the number of reads that wait, since
    /// `first_read`.
    pub(crate) fn silence(&self, reads: usize, first_read: Option<Instant>, now: Instant) -> Option<String> {
        let (operations, first) = {
            let waiting = &lock(&self.operations).waiting;
            (waiting.len(), waiting.values().map(|operation| operation.since).min())
        };
        let first = first.into_iter().chain(first_read).min()?;
        // A large listing may take long although its pages come.
        let answered = self.started + Duration::from_millis(self.last_answer.load(Ordering::Relaxed));
        let since = first.max(answered);
        if now.saturating_duration_since(since) < PATIENCE {
            return None;
        }
        let reason = self.awaited();
        let mut state = lock(&self.state);
        let silence = match &mut state.silence {
            Some(silence) if silence.next > now => return None,
            Some(silence) => {
                silence.interval = (silence.interval * 2).min(LONGEST_INTERVAL);
                silence
            }
            None => state.silence.insert(Silence { since, next: now, interval: PATIENCE }),
        };
        silence.next = now + silence.interval;
        self.troubled.store(true, Ordering::Release);
        let waiting = operations + reads + self.parked.load(Ordering::Relaxed);
        Some(format!(
            "{SILENT} source={:?} seconds={:.1} operations={waiting} waiting_for={reason:?}",
            self.name,
            now.saturating_duration_since(silence.since).as_secs_f64(),
        ))
    }

    /// Adds a log line for each operation that has waited for `slow` and has none yet.
    pub(crate) fn overdue(&self, slow: Duration, lines: &mut Vec<String>) {
        let reason = self.awaited();
        for operation in lock(&self.operations).waiting.values_mut() {
            let waited = operation.since.elapsed();
            if !operation.is_reported && waited >= slow {
                operation.is_reported = true;
                let what = format!("operation={} path={:?}", operation.kind, operation.path);
                lines.push(self.line(&what, waited, &reason));
            }
        }
    }

    /// The log line of an operation that still waits.
    pub(crate) fn line(&self, what: &str, waited: Duration, reason: &str) -> String {
        format!(
            "{WAITS} {what} seconds={:.1} source={:?} waiting_for={reason:?}",
            waited.as_secs_f64(),
            self.name
        )
    }

    /// The reason why operations wait: another attempt after the failure that it names, or an answer.
    pub(crate) fn awaited(&self) -> String {
        match &lock(&self.state).trouble {
            Some(StoreError::Unavailable(reason)) => format!("another attempt after {reason}"),
            _ if self.phases.names.load(Ordering::Relaxed) > 0 => "the address of its name".to_string(),
            _ if self.phases.connections.load(Ordering::Relaxed) > 0 => "a connection".to_string(),
            _ => "the store's answer".to_string(),
        }
    }

    /// The last failure, or how long an operation has waited, as a sentence. Nothing if the last request was answered.
    pub(crate) fn trouble(&self) -> Option<String> {
        if let Some(error) = &lock(&self.state).trouble {
            return Some(self.sentence(error));
        }
        let waited = lock(&self.operations).waiting.values().map(|operation| operation.since.elapsed()).max();
        let waited = waited.filter(|waited| *waited >= PATIENCE)?;
        let reason = format!("no answer for {} s", waited.as_secs());
        Some(self.sentence(&StoreError::Unavailable(reason)))
    }

    fn sentence(&self, error: &StoreError) -> String {
        let (what, advice) = match error {
            StoreError::Denied(_) => (
                REFUSES,
                "check the access key, the secret, the role, the policy of the bucket and the region",
            ),
            StoreError::NoBucket(_) => {
                (NO_BUCKET, "check the name of the bucket, the endpoint and the region")
            }
            StoreError::Unavailable(_) => (
                UNAVAILABLE,
                "check that the endpoint is right and can be reached from the Pod (address, port, network \
                 policy, proxy), and that the store is well",
            ),
            _ => ("cannot be used", "check the options of the mount"),
        };
        let (StoreError::Denied(reason) | StoreError::NoBucket(reason)) = error else {
            return format!("{} {what} ({error}): {advice}", self.name);
        };
        format!("{} {what} ({reason}): {advice}", self.name)
    }
}

fn plus(others: u64, what: &str) -> String {
    if others > 0 { format!(" ({others} {what})") } else { String::new() }
}

/// A kind of line that is logged at most once in [`LOG_INTERVAL`].
#[derive(Default)]
struct Limited {
    last: Option<Instant>,
    /// Lines that were left out since.
    others: u64,
}

impl Limited {
    fn is_due(&self, now: Instant) -> bool {
        self.last.is_none_or(|last| now.saturating_duration_since(last) >= LOG_INTERVAL)
    }

    /// If a line is due: the number of lines that were left out before it.
    fn report(&mut self, now: Instant) -> Option<u64> {
        if !self.is_due(now) {
            self.others += 1;
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.others))
    }
}

/// Decides which outages are logged.
#[derive(Default)]
struct Outages {
    current: Option<Outage>,
    reports: Limited,
}

struct Outage {
    since: Instant,
    failures: u64,
    is_reported: bool,
}

impl Outages {
    /// If the beginning of the outage is to be logged now: the number of outages that were left out before. One that
    /// begins too early is logged as soon as a line is due again, if it lasts until then.
    fn failed(&mut self, now: Instant) -> Option<u64> {
        let outage = self.current.get_or_insert(Outage { since: now, failures: 0, is_reported: false });
        outage.failures += 1;
        if outage.is_reported || !self.reports.is_due(now) {
            return None;
        }
        outage.is_reported = true;
        self.reports.report(now)
    }

    /// If the end of the outage is to be logged: its duration, and the number of failed requests.
    fn answered(&mut self, now: Instant) -> Option<(Duration, u64)> {
        let outage = self.current.take()?;
        if !outage.is_reported {
            self.reports.others += 1;
            return None;
        }
        Some((now.saturating_duration_since(outage.since), outage.failures))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The lines of a sequence of requests: outages that began and ended, and outages that were left out.
    #[derive(Default)]
    struct Reports {
        began: Vec<Instant>,
        ended: usize,
        others: u64,
    }

    proptest! {
        #[test]
        fn messages_are_bounded_and_no_outage_that_lasts_is_missed(
            // Whether a request is answered, and how many milliseconds after the one before.
            requests in prop::collection::vec((any::<bool>(), prop_oneof![0..50_u64, 0..20_000_u64]), 1..400)
        ) {
            let mut outages = Outages::default();
            let (mut now, mut told) = (Instant::now(), Reports::default());
            let (mut in_outage, mut is_reported, mut silent) = (false, false, 0);
            for (is_answered, milliseconds) in requests {
                now += Duration::from_millis(milliseconds);
                if is_answered {
                    let report = outages.answered(now);
                    prop_assert_eq!(report.is_some(), in_outage && is_reported);
                    told.ended += usize::from(report.is_some());
                    silent += u64::from(in_outage && !is_reported);
                    (in_outage, is_reported) = (false, false);
                    continue;
                }
                let is_due = told.began.last().is_none_or(|last| now - *last >= LOG_INTERVAL);
                let report = outages.failed(now);
                prop_assert_eq!(report.is_some(), !is_reported && is_due);
                if let Some(others) = report {
                    told.began.push(now);
                    told.others += others;
                    // Those that were not reported are counted in the next report.
                    prop_assert_eq!(told.others, silent);
                    is_reported = true;
                }
                in_outage = true;
            }
            prop_assert!(told.began.windows(2).all(|two| two[1] - two[0] >= LOG_INTERVAL));
            prop_assert_eq!(told.began.len(), told.ended + usize::from(is_reported));
        }
    }

    fn availability() -> Availability {
        Availability::new(
            "s3://key:secret@data/x?token=secret",
            Some("http://u:p@store:9000"),
            Duration::ZERO,
        )
    }

    #[test]
    fn the_last_failure_is_explained_until_a_request_is_answered() {
        let availability = availability();
        assert_eq!(availability.trouble(), None);
        for (error, expected) in [
            (
                StoreError::Denied("GET x: 403 AccessDenied".into()),
                "(GET x: 403 AccessDenied): check the access key",
            ),
            (
                StoreError::NoBucket("GET x: 404 NoSuchBucket".into()),
                "(GET x: 404 NoSuchBucket): check the name",
            ),
            (StoreError::Failed("GET x: 400 Bad".into()), "cannot be used (GET x: 400 Bad)"),
            (StoreError::Unavailable("GET x: refused".into()), "is unavailable (GET x: refused): check that"),
        ] {
            availability.failed(&error);
            let trouble = availability.trouble().unwrap_or_default();
            assert!(trouble.starts_with("s3://data/x at http://store:9000 "), "{trouble}");
            assert!(trouble.contains(expected), "{trouble}");
        }
        // An object that is not there is an answer.
        availability.failed(&StoreError::NotFound);
        assert_eq!(availability.trouble(), None);
        availability.failed(&StoreError::Denied(String::new()));
        availability.answered();
        assert_eq!(availability.trouble(), None);
    }

    #[test]
    fn each_operation_that_waits_has_one_line() {
        let availability = availability();
        let lines = |slow| {
            let mut lines = Vec::new();
            availability.overdue(slow, &mut lines);
            lines
        };
        let first = availability.register("list", "a/");
        assert_eq!(lines(Duration::from_secs(60)), Vec::<String>::new());
        let one = lines(Duration::ZERO);
        assert!(one.len() == 1 && one[0].contains("operation=list path=\"a/\""), "{one:?}");
        assert!(one[0].ends_with("waiting_for=\"the store's answer\""), "{one:?}");
        availability.failed(&StoreError::Unavailable("503".into()));
        let second = availability.register("stat", "b");
        let one = lines(Duration::ZERO);
        assert!(one.len() == 1 && one[0].ends_with("waiting_for=\"another attempt after 503\""), "{one:?}");
        assert!(lines(Duration::ZERO).is_empty());
        drop((first, second));
        assert!(lock(&availability.operations).waiting.is_empty());
    }
}
