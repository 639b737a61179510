//! Who fetches when: the threads that carry requests out, and how many at a time.
//!
//! What somebody waits for is begun at once; what is read ahead is begun in its order, with no more requests
//! at a time than the store bears: it begins with many, since on a wire that is full already they cost
//! nothing, takes one more for each that ends well while others wait, and half of them when the store fails or
//! says that they are too many.

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

/// A piece of work.
pub(crate) type Job = Box<dyn FnOnce() + Send>;

/// Jobs and the threads that do them.
pub(crate) struct Queue {
    most: usize,
    /// Threads that there may be beside, each in the place of one that is stuck.
    spare: usize,
    state: Mutex<State>,
    work: Condvar,
}

#[derive(Default)]
struct State {
    urgent: VecDeque<Job>,
    ahead: VecDeque<Job>,
    threads: usize,
    idle: usize,
    ahead_running: usize,
    pace: Pace,
    /// When the jobs that are being done began.
    running: HashMap<ThreadId, Instant>,
    is_watched: bool,
}

impl Queue {
    /// A queue with at most as many threads.
    pub(crate) fn new(most: usize) -> Arc<Self> {
        Self::with_spare(most, 0)
    }

    /// The same, with as many further threads where jobs are stuck: a slow store must not take all of them.
    pub(crate) fn with_spare(most: usize, spare: usize) -> Arc<Self> {
        Arc::new(Queue { most, spare, state: Mutex::default(), work: Condvar::new() })
    }

    /// To be done now.
    pub(crate) fn urgent(self: &Arc<Self>, job: Job) {
        let mut state = lock(&self.state);
        state.urgent.push_back(job);
        self.wake(state);
    }

    /// To be done when the number of requests allows it.
    pub(crate) fn ahead(self: &Arc<Self>, job: Job) {
        let mut state = lock(&self.state);
        state.ahead.push_back(job);
        self.wake(state);
    }

    /// How many requests ahead there are to be at a time.
    pub(crate) fn requests(&self) -> usize {
        lock(&self.state).pace.requests.min(self.most)
    }

    /// A request has ended, well or not.
    pub(crate) fn ended(&self, well: bool) {
        let mut state = lock(&self.state);
        if well && !state.ahead.is_empty() {
            state.pace.requests = (state.pace.requests + 1).min(self.most);
        } else if !well && state.pace.failed.is_none_or(|failed| failed.elapsed() > TOGETHER) {
            state.pace.requests = (state.pace.requests / 2).max(FEWEST);
            state.pace.failed = Some(Instant::now());
        }
    }

    fn wake(self: &Arc<Self>, mut state: MutexGuard<'_, State>) {
        self.work.notify_one();
        // A thread that was woken before counts as idle until it runs.
        let ahead = state.pace.requests.saturating_sub(state.ahead_running).min(state.ahead.len());
        if state.idle >= state.urgent.len() + ahead {
            return;
        }
        if state.threads < self.most {
            state.threads += 1;
            drop(state);
            self.start("fetch", Self::serve);
        } else if self.spare > 0 && !state.is_watched {
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

    /// Starts threads in the place of those that are stuck, as long as anybody waits for one.
    fn watch(self: Arc<Self>) {
        loop {
            thread::sleep(WATCH);
            let mut state = lock(&self.state);
            if state.urgent.is_empty() {
                state.is_watched = false;
                return;
            }
            let stuck = state.running.values().filter(|begun| begun.elapsed() >= STUCK).count();
            let room = (self.most + stuck.min(self.spare)).saturating_sub(state.threads);
            let more = room.min(state.urgent.len());
            state.threads += more;
            drop(state);
            (0..more).for_each(|_| self.start("fetch", Self::serve));
        }
    }

    fn serve(self: Arc<Self>) {
        let mut state = lock(&self.state);
        loop {
            if let Some((job, ahead)) = state.next() {
                state.running.insert(thread::current().id(), Instant::now());
                drop(state);
                // A fault in one request ends that request. Who waits for it is told by what it drops.
                let _ = panic::catch_unwind(AssertUnwindSafe(job));
                state = lock(&self.state);
                state.running.remove(&thread::current().id());
                if ahead {
                    state.ahead_running -= 1;
                }
                continue;
            }
            state.idle += 1;
            let waited = self.work.wait_timeout(state, IDLE);
            let (guard, timeout) = waited.unwrap_or_else(std::sync::PoisonError::into_inner);
            state = guard;
            state.idle -= 1;
            if timeout.timed_out() && !state.has_work() {
                state.threads -= 1;
                return;
            }
        }
    }
}

impl State {
    fn has_work(&self) -> bool {
        !self.urgent.is_empty() || (!self.ahead.is_empty() && self.ahead_running < self.pace.requests)
    }

    fn next(&mut self) -> Option<(Job, bool)> {
        if let Some(job) = self.urgent.pop_front() {
            return Some((job, false));
        }
        if self.ahead_running >= self.pace.requests {
            return None;
        }
        let job = self.ahead.pop_front()?;
        self.ahead_running += 1;
        Some((job, true))
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
        let queue = Queue::new(1);
        let (sender, done) = mpsc::channel();
        queue.urgent(Box::new(|| panic!("a fault in a library")));
        queue.urgent(Box::new(move || sender.send(()).unwrap()));
        done.recv().unwrap();
    }

    #[test]
    fn f11_stuck_jobs_do_not_take_all_threads() {
        let queue = Queue::with_spare(2, 3);
        let (sender, done) = mpsc::channel();
        let (end, stuck) = (Arc::new(Mutex::new(())), 4);
        let held = end.lock().unwrap();
        for _ in 0..stuck {
            let end = Arc::clone(&end);
            queue.urgent(Box::new(move || drop(end.lock())));
        }
        queue.urgent(Box::new(move || sender.send(()).unwrap()));
        done.recv().unwrap();
        assert!(lock(&queue.state).threads <= 5);
        drop(held);
    }
}
