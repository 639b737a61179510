//! The threads that make requests, the concurrency limit of prefetches, and each source's share of both.
//!
//! Jobs that somebody waits for go first, and start at once if their lane has a thread. Prefetches start in their order, up to a concurrency limit for each source.
//! The limit starts high, since further requests cost nothing on a link that is full already. It grows by one for each
//! request that succeeds while others wait, and is halved when the store fails or refuses because of too many requests.
//!
//! Each source has a lane. Half of the threads are reserved for the lanes, in equal parts; the lanes compete for the other
//! half. So a source that does not answer cannot take the threads of another.

use std::collections::{HashMap, VecDeque};
use std::panic::{self, AssertUnwindSafe};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use log::error;

use crate::sync::lock;

/// The concurrency limit of prefetches before the first answer. 8 requests fill a fast link; a link with 15 ms to the
/// first byte and 90 MB/s for a connection brings 0.6, 1.1, 1.5 GB/s with 8, 16, 32.
const INITIAL_LIMIT: usize = 32;

/// The lowest concurrency limit, after failures: with one request alone, a stream would wait for each first byte.
const MIN_LIMIT: usize = 2;

/// Failures within this time have one cause, and halve the limit once.
const FAILURE_WINDOW: Duration = Duration::from_millis(500);

/// A thread without a job ends after this time.
const IDLE_TIMEOUT: Duration = Duration::from_secs(5);

/// Bytes of a thread's stack: the future of a request, with a TLS handshake in it, lies on it.
const STACK_SIZE: usize = 1024 * 1024;

/// A job that takes longer is stuck: the store is slow, or malicious.
const STUCK_AFTER: Duration = Duration::from_secs(1);

/// Time between two checks for stuck jobs, while others wait.
const CHECK_INTERVAL: Duration = Duration::from_millis(250);

/// The part of the threads that is reserved for the lanes: 1/2. A single busy source of two has three quarters of
/// `--requests`, and one beside a dead source a quarter: 16 of 64, which fill a fast link.
const RESERVED_PART: usize = 2;

/// A request to be made, or an operation to be run.
pub(crate) type Job = Box<dyn FnOnce() + Send>;

/// Jobs and the threads that run them.
pub(crate) struct Queue {
    most: usize,
    /// The number of additional threads, each in the place of one that is stuck.
    spare: usize,
    state: Mutex<QueueState>,
    work: Condvar,
}

struct QueueState {
    lanes: Vec<Lane>,
    /// The lane whose turn is next.
    turn: usize,
    /// The present limit of threads: higher while jobs are stuck.
    most: usize,
    threads: usize,
    idle: usize,
    /// When the running jobs started.
    running: HashMap<ThreadId, Instant>,
    is_watched: bool,
}

/// The jobs of one source.
#[derive(Default)]
struct Lane {
    urgent: VecDeque<Job>,
    ahead: VecDeque<Job>,
    /// Running jobs of both kinds.
    running: usize,
    ahead_running: usize,
    limit: ConcurrencyLimit,
}

impl Queue {
    /// A queue without lanes, with at most this many threads, but at least one for each lane that is added.
    pub(crate) fn new(most: usize) -> Arc<Self> {
        Self::with_spare(most, 0, 0)
    }

    /// The same with lanes, and with spare threads in the place of stuck ones: a slow store must not take all threads.
    pub(crate) fn with_spare(most: usize, spare: usize, lanes: usize) -> Arc<Self> {
        let state = QueueState {
            lanes: std::iter::repeat_with(Lane::default).take(lanes).collect(),
            turn: 0,
            most,
            threads: 0,
            idle: 0,
            running: HashMap::new(),
            is_watched: false,
        };
        Arc::new(Queue { most, spare, state: Mutex::new(state), work: Condvar::new() })
    }

    /// Adds a lane for one more source. Returns its number.
    pub(crate) fn add_lane(&self) -> usize {
        let mut state = lock(&self.state);
        state.lanes.push(Lane::default());
        state.lanes.len() - 1
    }

    /// Adds a job that somebody waits for.
    pub(crate) fn urgent(self: &Arc<Self>, lane: usize, job: Job) {
        self.push(lane, |lane| lane.urgent.push_back(job));
    }

    /// Adds a prefetch, which starts when the concurrency limit allows it.
    pub(crate) fn ahead(self: &Arc<Self>, lane: usize, job: Job) {
        self.push(lane, |lane| lane.ahead.push_back(job));
    }

    /// The concurrency limit of a source's prefetches.
    pub(crate) fn concurrency_limit(&self, lane: usize) -> usize {
        lock(&self.state).lanes.get(lane).map_or(MIN_LIMIT, |lane| lane.limit.requests).min(self.most)
    }

    /// Notes that a request of a source succeeded.
    pub(crate) fn note_success(&self, lane: usize) {
        let mut state = lock(&self.state);
        let Some(lane) = state.lanes.get_mut(lane) else { return };
        if !lane.ahead.is_empty() {
            lane.limit.requests = (lane.limit.requests + 1).min(self.most);
        }
    }

    /// Notes that a request of a source failed.
    pub(crate) fn note_failure(&self, lane: usize) {
        let mut state = lock(&self.state);
        let Some(lane) = state.lanes.get_mut(lane) else { return };
        if lane.limit.failed.is_none_or(|failed| failed.elapsed() > FAILURE_WINDOW) {
            lane.limit.requests = (lane.limit.requests / 2).max(MIN_LIMIT);
            lane.limit.failed = Some(Instant::now());
        }
    }

    fn push(self: &Arc<Self>, lane: usize, job: impl FnOnce(&mut Lane)) {
        let mut state = lock(&self.state);
        if let Some(lane) = state.lanes.get_mut(lane) {
            job(lane);
        }
        self.wake(state);
    }

    fn wake(self: &Arc<Self>, mut state: MutexGuard<'_, QueueState>) {
        self.work.notify_one();
        // A thread that was woken before counts as idle until it runs.
        if state.idle < state.ready() && state.threads < state.limit() {
            state.threads += 1;
            drop(state);
            return self.start("requests", Self::serve);
        }
        if self.spare > 0 && !state.is_watched && state.waiting() > state.idle {
            state.is_watched = true;
            drop(state);
            self.start("watch", Self::watch);
        }
    }

    fn start(self: &Arc<Self>, name: &str, work: fn(Arc<Self>)) {
        let queue = Arc::clone(self);
        let started =
            thread::Builder::new().name(name.into()).stack_size(STACK_SIZE).spawn(move || work(queue));
        if let Err(error) = started {
            error!("no further thread for requests: {error}");
            let mut state = lock(&self.state);
            match name {
                "watch" => state.is_watched = false,
                _ => state.threads -= 1,
            }
        }
    }

    /// Adds threads in the place of stuck ones, as long as there are any.
    fn watch(self: Arc<Self>) {
        loop {
            thread::sleep(CHECK_INTERVAL);
            let mut state = lock(&self.state);
            let stuck = state.running.values().filter(|begun| begun.elapsed() >= STUCK_AFTER).count();
            state.most = self.most + stuck.min(self.spare);
            if stuck == 0 && state.waiting() == 0 {
                state.is_watched = false;
                return;
            }
            let more = state.ready().saturating_sub(state.idle);
            let more = more.min(state.limit().saturating_sub(state.threads));
            state.threads += more;
            drop(state);
            self.work.notify_all();
            (0..more).for_each(|_| self.start("requests", Self::serve));
        }
    }

    fn serve(self: Arc<Self>) {
        let mut state = lock(&self.state);
        loop {
            if let Some((job, lane, ahead)) = state.next() {
                state.running.insert(thread::current().id(), Instant::now());
                drop(state);
                // A panic ends one request. The operations that wait for it get an error from the values it drops.
                let _ = panic::catch_unwind(AssertUnwindSafe(job));
                state = lock(&self.state);
                state.running.remove(&thread::current().id());
                if let Some(lane) = state.lanes.get_mut(lane) {
                    lane.running -= 1;
                    lane.ahead_running -= usize::from(ahead);
                }
                continue;
            }
            state.idle += 1;
            let waited = self.work.wait_timeout(state, IDLE_TIMEOUT);
            let (guard, timeout) = waited.unwrap_or_else(std::sync::PoisonError::into_inner);
            state = guard;
            state.idle -= 1;
            if timeout.timed_out() && state.ready() == 0 {
                state.threads -= 1;
                return;
            }
        }
    }
}

impl Lane {
    /// Jobs that the lane's own limit allows to start.
    fn ready(&self) -> usize {
        self.urgent.len() + self.limit.requests.saturating_sub(self.ahead_running).min(self.ahead.len())
    }
}

impl QueueState {
    /// Threads that are reserved for each lane.
    fn reserve(&self) -> usize {
        (self.most / RESERVED_PART / self.lanes.len().max(1)).max(1)
    }

    fn limit(&self) -> usize {
        self.most.max(self.reserve() * self.lanes.len())
    }

    /// Threads that are neither reserved nor taken.
    fn shared(&self) -> usize {
        let reserve = self.reserve();
        let taken: usize = self.lanes.iter().map(|lane| lane.running.saturating_sub(reserve)).sum();
        self.limit().saturating_sub(reserve * self.lanes.len() + taken)
    }

    /// Jobs that may start now.
    fn ready(&self) -> usize {
        let (reserve, mut shared) = (self.reserve(), self.shared());
        let ready = |lane: &Lane| {
            let own = lane.ready().min(reserve.saturating_sub(lane.running));
            let more = (lane.ready() - own).min(shared);
            shared -= more;
            own + more
        };
        self.lanes.iter().map(ready).sum()
    }

    /// Jobs that somebody waits for and that have not started.
    fn waiting(&self) -> usize {
        self.lanes.iter().map(|lane| lane.urgent.len()).sum()
    }

    /// The next job, its lane, and whether it is a prefetch. Lanes take turns.
    fn next(&mut self) -> Option<(Job, usize, bool)> {
        let (reserve, shared, count) = (self.reserve(), self.shared(), self.lanes.len());
        for ahead in [false, true] {
            for number in (self.turn..self.turn + count).map(|number| number % count) {
                let Some(lane) = self.lanes.get_mut(number) else { continue };
                if lane.running >= reserve && shared == 0
                    || ahead && lane.ahead_running >= lane.limit.requests
                {
                    continue;
                }
                let jobs = if ahead { &mut lane.ahead } else { &mut lane.urgent };
                let Some(job) = jobs.pop_front() else { continue };
                lane.running += 1;
                lane.ahead_running += usize::from(ahead);
                self.turn = number + 1;
                return Some((job, number, ahead));
            }
        }
        None
    }
}

/// The concurrency limit of a source's prefetches.
struct ConcurrencyLimit {
    requests: usize,
    /// When it was halved last.
    failed: Option<Instant>,
}

impl Default for ConcurrencyLimit {
    fn default() -> Self {
        ConcurrencyLimit { requests: INITIAL_LIMIT, failed: None }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn f11_a_panic_ends_one_job() {
        let queue = Queue::with_spare(1, 0, 1);
        let (sender, done) = mpsc::channel();
        queue.urgent(0, Box::new(|| panic!("a fault in a library")));
        queue.urgent(0, Box::new(move || sender.send(()).unwrap()));
        done.recv().unwrap();
    }

    #[test]
    fn f11_stuck_jobs_do_not_take_all_threads() {
        let queue = Queue::with_spare(2, 3, 1);
        let (sender, done) = mpsc::channel();
        let (end, stuck) = (Arc::new(Mutex::new(())), 4);
        let held = end.lock().unwrap();
        for _ in 0..stuck {
            let end = Arc::clone(&end);
            queue.urgent(0, Box::new(move || drop(end.lock())));
        }
        queue.urgent(0, Box::new(move || sender.send(()).unwrap()));
        done.recv().unwrap();
        assert!(lock(&queue.state).threads <= 5);
        drop(held);
    }

    #[test]
    fn a_lane_whose_jobs_hang_leaves_the_others_their_threads() {
        for (most, lanes) in [(8, 2), (4, 3), (1, 2)] {
            let queue = Queue::with_spare(most, 0, lanes);
            let end = Arc::new(Mutex::new(()));
            let held = end.lock().unwrap();
            // All lanes but the last hang, with read-ahead, too.
            for lane in 0..lanes - 1 {
                for number in 0..40 {
                    let end = Arc::clone(&end);
                    let job = Box::new(move || drop(end.lock()));
                    if number % 2 == 0 { queue.urgent(lane, job) } else { queue.ahead(lane, job) }
                }
            }
            let (sender, done) = mpsc::channel();
            for number in 0..20 {
                let sender = sender.clone();
                let job = Box::new(move || sender.send(()).unwrap());
                if number % 2 == 0 { queue.urgent(lanes - 1, job) } else { queue.ahead(lanes - 1, job) }
            }
            for _ in 0..20 {
                done.recv_timeout(Duration::from_secs(30)).expect("the last lane goes on");
            }
            let state = lock(&queue.state);
            assert!(state.threads <= most.max(lanes), "{} of {most}", state.threads);
            assert!(state.lanes.iter().all(|lane| lane.running <= state.limit()));
            drop(state);
            drop(held);
        }
    }
}
