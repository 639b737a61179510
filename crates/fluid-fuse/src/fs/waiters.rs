//! Operations that wait for a store. A timer answers those whose caller was killed or whose deadline is over.
//!
//! The kernel asks a file system to interrupt a call whose caller gets a signal. fuser 0.18 answers all such requests with
//! `ENOSYS`, after which the kernel does not ask again and lets even a killed process wait for its answer. So a thread polls
//! the callers of operations on names and attributes, and answers those with a pending SIGKILL at once. It needs the
//! processes to be visible here (`shareProcessNamespace`). Other signals wait for the answer.
//!
//! The same thread answers each operation but reads whose deadline is over, wherever it waits: for a thread, for a flight, or for a
//! call that does not return.

use std::collections::HashMap;
use std::fs;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use fuser::{
    Errno, ReplyAttr, ReplyCreate, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyOpen,
    ReplyWrite,
};
use log::warn;

use crate::limits::Deadline;
use crate::sync::lock;

/// Time between two polls of the operations that wait: the longest that a killed caller waits in vain.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Polls without an operation after which the thread ends: 5 s.
const MAX_IDLE_POLLS: usize = 50;

/// The timer answers an operation this long after its deadline. An operation that makes requests ends at the deadline by
/// itself, and knows the reason.
const GRACE: Duration = Duration::from_millis(300);

/// SIGKILL in the masks of `/proc/PID/status`.
const KILL: u64 = 1 << 8;

/// A reply to the kernel.
pub(super) trait Reply: Send + 'static {
    /// Answers with an error.
    fn refuse(self, errno: Errno);
}

macro_rules! replies {
    ($($reply:ty),*) => {$(
        impl Reply for $reply {
            fn refuse(self, errno: Errno) {
                self.error(errno);
            }
        }
    )*};
}

replies!(
    ReplyAttr,
    ReplyCreate,
    ReplyDirectory,
    ReplyDirectoryPlus,
    ReplyEmpty,
    ReplyEntry,
    ReplyOpen,
    ReplyWrite
);

/// Answers an operation with an error, unless it was answered. Returns whether it did.
type Refuse = Box<dyn Fn(Errno) -> bool + Send>;

/// The operations that wait.
#[derive(Default)]
pub(super) struct WaitingCalls(Mutex<Waiters>);

#[derive(Default)]
struct Waiters {
    last: u64,
    by_number: HashMap<u64, WaitingCall>,
    is_watched: bool,
}

struct WaitingCall {
    /// The caller's thread; 0 if it is in another PID namespace, or must not be interrupted.
    thread: u32,
    deadline: Arc<Deadline>,
    refuse: Refuse,
}

/// An operation that waits, until this is dropped. If it was not answered, it gets an error then.
pub(super) struct Waiter<R: Reply> {
    reply: Arc<Mutex<Option<R>>>,
    number: u64,
    all: Arc<WaitingCalls>,
}

impl WaitingCalls {
    /// Adds the operation of a thread, 0 for one that cannot be interrupted, until the deadline.
    pub(super) fn add<R: Reply>(
        self: &Arc<Self>,
        thread: u32,
        deadline: &Arc<Deadline>,
        reply: R,
    ) -> Waiter<R> {
        let reply = Arc::new(Mutex::new(Some(reply)));
        let its = Arc::clone(&reply);
        let refuse = move |errno| {
            let reply = lock(&its).take();
            let waited = reply.is_some();
            if let Some(reply) = reply {
                reply.refuse(errno);
            }
            waited
        };
        let mut waiters = lock(&self.0);
        waiters.last += 1;
        let number = waiters.last;
        let one = WaitingCall { thread, deadline: Arc::clone(deadline), refuse: Box::new(refuse) };
        waiters.by_number.insert(number, one);
        if !waiters.is_watched {
            let all = Arc::clone(self);
            match thread::Builder::new().name("waiters".into()).spawn(move || all.watch()) {
                Ok(_) => waiters.is_watched = true,
                Err(error) => warn!("cannot start a thread: {error}"),
            }
        }
        Waiter { reply, number, all: Arc::clone(self) }
    }

    fn watch(&self) {
        let mut idle = 0;
        loop {
            thread::sleep(POLL_INTERVAL);
            let mut waiters = lock(&self.0);
            idle = if waiters.by_number.is_empty() { idle + 1 } else { 0 };
            if idle > MAX_IDLE_POLLS {
                waiters.is_watched = false;
                return;
            }
            let mut late = 0_usize;
            let now = Instant::now();
            for one in waiters.by_number.values() {
                if now > one.deadline.moment() + GRACE {
                    late += usize::from((one.refuse)(Errno::EIO));
                } else if one.thread != 0 && is_killed(one.thread) {
                    (one.refuse)(Errno::EINTR);
                }
            }
            drop(waiters);
            if late > 0 {
                warn!("no answer in time errno=EIO operations={late}: --io-timeout is over");
            }
        }
    }
}

impl<R: Reply> Waiter<R> {
    /// Whether it was not answered yet.
    pub(super) fn waits(&self) -> bool {
        lock(&self.reply).is_some()
    }

    /// The reply, unless the timer has used it.
    pub(super) fn answered(self) -> Option<R> {
        lock(&self.reply).take()
    }
}

impl<R: Reply> Drop for Waiter<R> {
    fn drop(&mut self) {
        lock(&self.all.0).by_number.remove(&self.number);
    }
}

fn is_killed(thread: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{thread}/status")).unwrap_or_default();
    let pending = |name: &str| {
        let mask = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
    };
    (pending("SigPnd") | pending("ShdPnd")) & KILL != 0
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{self, Sender};

    use super::*;

    struct Recorder(Sender<i32>);

    impl Reply for Recorder {
        fn refuse(self, errno: Errno) {
            self.0.send(errno.code()).unwrap();
        }
    }

    #[test]
    fn whoever_waits_for_a_thread_is_answered_when_its_time_is_over() {
        let waiting = Arc::<WaitingCalls>::default();
        let now = Instant::now();
        let ((late, told), (patient, silent)) = (mpsc::channel(), mpsc::channel());
        let late = waiting.add(0, &Deadline::at(now), Recorder(late));
        let patient = waiting.add(0, &Deadline::at(now + Duration::from_secs(60)), Recorder(patient));
        assert_eq!(told.recv_timeout(Duration::from_secs(30)), Ok(Errno::EIO.code()));
        assert!(now.elapsed() >= GRACE && !late.waits() && late.answered().is_none());
        assert!(patient.waits() && silent.try_recv().is_err());
        assert!(patient.answered().is_some());
    }
}
