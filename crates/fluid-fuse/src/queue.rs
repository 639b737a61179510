//! Threads that carry requests out, how many at a time, and each source's share of them.
//!
//! Jobs that somebody waits for begin at once; read-ahead begins in its order, with no more requests
//! at a time than the store bears: it begins with many, since on a wire that is full already they cost
//! nothing, takes one more for each that ends well while others wait, and half of them when the store fails or
//! says that they are too many.
//!
//! Each source has a lane. Half of the threads are reserved, in equal parts, for the lanes; the lanes compete for the other
//! half. So a source that does not answer cannot take the threads of another.

use std::collections::{HashMap, VecDeque};
use std::panic::{self, AssertUnwindSafe};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use log::error;

use crate::inodes::lock;

/// Requests ahead at a time, before anything is known of the store. From 8 on a fast wire is full; one with
/// 15 ms to the first byte and 90 MB/s for a connection brings 0.6, 1.1, 1.5 GB/s with 8, 16, 32.
const FIRST: usize = 32;

/// Requests ahead at a time, when the store has failed again and again.
const FEWEST: usize = 2;

/// Failures so close together have one cause.
const TOGETHER: Duration = Duration::from_millis(500);

/// How long a thread waits for something to do before it ends.
const IDLE: Duration = Duration::from_secs(5);

/// A store's future, with a TLS handshake in it, lies on the stack.
const STACK: usize = 1024 * 1024;

/// A job that takes longer is stuck: it waits for a store that is slow, or means harm.
const STUCK: Duration = Duration::from_secs(1);

/// Between two looks for stuck jobs, while others wait.
const WATCH: Duration = Duration::from_millis(250);

/// The part of the threads that is reserved for the lanes: 1/2. A single busy source of two has three quarters of
/// `--requests`, and one beside a dead source a quarter: 16 of 64, which fill a fast wire.
const RESERVED: usize = 2;

/// A piece of work.
pub(crate) type Job = Box<dyn FnOnce() + Send>;

/// Jobs and the threads that do them.
pub(crate) struct Queue {
    most: usize,
    /// Threads that there may be beside, each in the place of one that is stuck.
    spare: usize,
    state: Mutex<QueueState>,
    work: Condvar,
}

struct QueueState {
    lanes: Vec<Lane>,
    /// The lane whose job is looked for first.
    turn: usize,
    /// Threads that there may be: more while jobs are stuck.
    most: usize,
    threads: usize,
    idle: usize,
    /// When the jobs that are being done began.
    running: HashMap<ThreadId, Instant>,
    is_watched: bool,
}

/// The jobs of one source.
#[derive(Default)]
struct Lane {
    urgent: VecDeque<Job>,
    ahead: VecDeque<Job>,
    /// Jobs of both kinds that are being done.
    running: usize,
    ahead_running: usize,
    pace: Pace,
}

impl Queue {
    /// A queue with at most as many threads (and at least one for each lane), without lanes.
    pub(crate) fn new(most: usize) -> Arc<Self> {
        Self::with_spare(most, 0, 0)
    }

    /// The same with lanes, and as many further threads where jobs are stuck: a slow store must not take all of them.
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

    /// A lane for one more source.
    pub(crate) fn add_lane(&self) -> usize {
        let mut state = lock(&self.state);
        state.lanes.push(Lane::default());
        state.lanes.len() - 1
    }

    /// To be done now.
    pub(crate) fn urgent(self: &Arc<Self>, lane: usize, job: Job) {
        self.push(lane, |lane| lane.urgent.push_back(job));
    }

    /// To be done when the number of requests allows it.
    pub(crate) fn ahead(self: &Arc<Self>, lane: usize, job: Job) {
        self.push(lane, |lane| lane.ahead.push_back(job));
    }

    /// How many requests ahead a source may have at a time.
    pub(crate) fn requests(&self, lane: usize) -> usize {
        lock(&self.state).lanes.get(lane).map_or(FEWEST, |lane| lane.pace.requests).min(self.most)
    }

    /// A request of a source has ended, well or not.
    pub(crate) fn ended(&self, lane: usize, well: bool) {
        let mut state = lock(&self.state);
        let Some(lane) = state.lanes.get_mut(lane) else { return };
        if well && !lane.ahead.is_empty() {
            lane.pace.requests = (lane.pace.requests + 1).min(self.most);
        } else if !well && lane.pace.failed.is_none_or(|failed| failed.elapsed() > TOGETHER) {
            lane.pace.requests = (lane.pace.requests / 2).max(FEWEST);
            lane.pace.failed = Some(Instant::now());
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
            return self.start("fetch", Self::serve);
        }
        if self.spare > 0 && !state.is_watched && state.waiting() > state.idle {
            state.is_watched = true;
            drop(state);
            self.start("watch", Self::watch);
        }
    }

    fn start(self: &Arc<Self>, name: &str, work: fn(Arc<Self>)) {
        let queue = Arc::clone(self);
        let started = thread::Builder::new().name(name.into()).stack_size(STACK).spawn(move || work(queue));
        if let Err(error) = started {
            error!("no further thread for requests: {error}");
            let mut state = lock(&self.state);
            match name {
                "watch" => state.is_watched = false,
                _ => state.threads -= 1,
            }
        }
    }

    /// Allows threads in the place of those that are stuck, as long as there are any.
    fn watch(self: Arc<Self>) {
        loop {
            thread::sleep(WATCH);
            let mut state = lock(&self.state);
            let stuck = state.running.values().filter(|begun| begun.elapsed() >= STUCK).count();
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
            (0..more).for_each(|_| self.start("fetch", Self::serve));
        }
    }

    fn serve(self: Arc<Self>) {
        let mut state = lock(&self.state);
        loop {
            if let Some((job, lane, ahead)) = state.next() {
                state.running.insert(thread::current().id(), Instant::now());
                drop(state);
                // A fault in one request ends that request. Who waits for it is told by what it drops.
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
            let waited = self.work.wait_timeout(state, IDLE);
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
    /// Jobs that may begin, as far as it depends on the lane.
    fn ready(&self) -> usize {
        self.urgent.len() + self.pace.requests.saturating_sub(self.ahead_running).min(self.ahead.len())
    }
}

impl QueueState {
    /// Threads that each lane has for itself.
    fn reserve(&self) -> usize {
        (self.most / RESERVED / self.lanes.len().max(1)).max(1)
    }

    fn limit(&self) -> usize {
        self.most.max(self.reserve() * self.lanes.len())
    }

    /// Threads beyond those that are reserved which no lane has taken.
    fn shared(&self) -> usize {
        let reserve = self.reserve();
        let taken: usize = self.lanes.iter().map(|lane| lane.running.saturating_sub(reserve)).sum();
        self.limit().saturating_sub(reserve * self.lanes.len() + taken)
    }

    /// Jobs that may begin now.
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

    /// Jobs that somebody waits for and that have not begun.
    fn waiting(&self) -> usize {
        self.lanes.iter().map(|lane| lane.urgent.len()).sum()
    }

    /// The next job, its lane, and whether it is one of read-ahead. Lanes take turns.
    fn next(&mut self) -> Option<(Job, usize, bool)> {
        let (reserve, shared, count) = (self.reserve(), self.shared(), self.lanes.len());
        for ahead in [false, true] {
            for number in (self.turn..self.turn + count).map(|number| number % count) {
                let Some(lane) = self.lanes.get_mut(number) else { continue };
                if lane.running >= reserve && shared == 0 || ahead && lane.ahead_running >= lane.pace.requests
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

/// How many requests ahead the store bears.
struct Pace {
    requests: usize,
    /// When it was too many.
    failed: Option<Instant>,
}

impl Default for Pace {
    fn default() -> Self {
        Pace { requests: FIRST, failed: None }
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
