//! Whoever is killed while it waits for a store.
//!
//! The kernel asks a file system to interrupt a call whose caller gets a signal. fuser 0.18 answers all such requests with
//! `ENOSYS`, after which the kernel does not ask again and lets even a killed process wait for its answer. So those that wait
//! for names and attributes are looked at from outside: who has SIGKILL pending is answered at once. It needs the
//! processes to be visible here (`shareProcessNamespace`); other signals wait for the answer.

use std::collections::HashMap;
use std::fs;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use fuser::{Errno, ReplyAttr, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyOpen};
use log::warn;

use crate::inodes::lock;

/// Between two looks at those that wait.
const LOOK: Duration = Duration::from_millis(100);

/// Looks at nobody, after which the thread ends.
const IDLE_LOOKS: usize = 50;

/// SIGKILL in the masks of `/proc/PID/status`.
const KILL: u64 = 1 << 8;

/// What the kernel is answered with.
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

replies!(ReplyAttr, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyOpen);

/// Answers one that waits with an error.
type Refuse = Box<dyn Fn() + Send>;

/// Those that wait.
#[derive(Default)]
pub(super) struct Waiting(Mutex<Waiters>);

#[derive(Default)]
struct Waiters {
    last: u64,
    by_number: HashMap<u64, (u32, Refuse)>,
    is_watched: bool,
}

/// One that waits, until this is dropped; unanswered, it gets an error then.
pub(super) struct Waiter<R: Reply> {
    reply: Arc<Mutex<Option<R>>>,
    number: u64,
    all: Arc<Waiting>,
}

impl Waiting {
    /// The thread begins to wait for the reply.
    pub(super) fn add<R: Reply>(self: &Arc<Self>, thread: u32, reply: R) -> Waiter<R> {
        let reply = Arc::new(Mutex::new(Some(reply)));
        let its = Arc::clone(&reply);
        let refuse = move || {
            if let Some(reply) = lock(&its).take() {
                reply.refuse(Errno::EINTR);
            }
        };
        let mut waiters = lock(&self.0);
        waiters.last += 1;
        let number = waiters.last;
        // Of another PID namespace, nothing is known.
        if thread != 0 {
            waiters.by_number.insert(number, (thread, Box::new(refuse)));
            if !waiters.is_watched {
                let all = Arc::clone(self);
                match thread::Builder::new().name("killed".into()).spawn(move || all.watch()) {
                    Ok(_) => waiters.is_watched = true,
                    Err(error) => warn!("cannot start a thread: {error}"),
                }
            }
        }
        Waiter { reply, number, all: Arc::clone(self) }
    }

    fn watch(&self) {
        let mut idle = 0;
        loop {
            thread::sleep(LOOK);
            let mut waiters = lock(&self.0);
            idle = if waiters.by_number.is_empty() { idle + 1 } else { 0 };
            if idle > IDLE_LOOKS {
                waiters.is_watched = false;
                return;
            }
            for (thread, refuse) in waiters.by_number.values() {
                if is_killed(*thread) {
                    refuse();
                }
            }
        }
    }
}

impl<R: Reply> Waiter<R> {
    /// Whether it still waits.
    pub(super) fn waits(&self) -> bool {
        lock(&self.reply).is_some()
    }

    /// The reply, unless it was killed.
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
