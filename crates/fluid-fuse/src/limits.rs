//! The limits of what a store may cost, but for the ranges of files.
//!
//! The answers of a store are not trusted: the store may be malicious, or somebody may change its answers on the way
//! (`http`). Ranges of files have limits of their own, `--memory` and `--requests` ([`crate::fetch`]). This module has
//! the limits of the bodies of all other answers ([`crate::remote`] limits heads and errors), the count of their memory ([`Held`]), and the deadline of the operation on the present
//! thread ([`Until`]). The code that receives an answer decides what happens beyond a limit.

use std::cell::RefCell;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::sync::lock;

/// Bytes of an answer, other than the bytes of a file. A page of 1,000 keys of 1,024 bytes, each byte of them escaped,
/// has 6 MiB; the index or the manifest of a web server with 200,000 names has 16 MiB.
pub(crate) const ANSWER: usize = 16 << 20;

/// Bytes of a file that is fetched as a whole because its server does not support ranges.
pub(crate) const WHOLE: usize = 32 << 20;

/// Bytes of all such answers, and of the names of listings, that are being received at a time from all stores.
const ALL_ANSWERS: usize = 256 << 20;

/// Bytes of one listing: some 500,000 names of ordinary length, each counted with its [`ENTRY`].
pub(crate) const LISTING: usize = 128 << 20;

/// Bytes of an entry of a listing beside its key and its ETag: the structures around them, measured as the
/// growth of the process by a directory of 100,000 names.
pub(crate) const ENTRY: usize = 200;

/// Entries in one answer. Stores send 1,000 or 5,000; HDFS without batches sends a whole directory.
pub(crate) const ENTRIES: usize = 200_000;

/// Commas and opening brackets in an answer in JSON, each of which may become a value in memory: 15 for each entry
/// of HDFS, 30 for each of Google's.
pub(crate) const JSON_VALUES: usize = 2_000_000;

/// Pages of a listing: ten million names of a store that sends 1,000 in a page.
pub(crate) const PAGES: usize = 10_000;

/// Pages in a row without a name. S3 sends some where it has many keys to skip.
pub(crate) const EMPTY_PAGES: usize = 100;

/// Bytes of a key, as many as S3, OSS, Google and Azure allow.
pub(crate) const KEY: usize = 1024;

/// Bytes of an ETag, and of other values of an entry. An MD5 has 34, that of a multipart upload some more.
pub(crate) const ETAG: usize = 1024;

/// Bytes of the longest name that Linux has (`NAME_MAX`).
pub(crate) const MAX_NAME: usize = 255;

/// The part of `--memory` that names may take beside it, over all directories of all mounts. A name takes 30 bytes and its
/// length ([`crate::object_store`]), so that 32 MiB of the 128 MiB by default have 700,000 names of ordinary length.
pub(crate) const NAMES_SHARE: u64 = 4;

/// Each entry adds this to the time of a listing, which begins with `--io-timeout`: a page of 1,000 may take two
/// seconds, ten times as long as stores need.
pub(crate) const TIME_PER_ENTRY: Duration = Duration::from_millis(2);

/// Each name for which a web server needs a request of its own adds this to the time of a listing.
pub(crate) const TIME_PER_QUESTION: Duration = Duration::from_millis(50);

/// Time for the answer to a write once it has begun. S3 sends blanks for minutes while it copies an object or joins the
/// parts of an upload.
pub(crate) const WRITTEN: Duration = Duration::from_secs(10 * 60);

/// Redirects in a row that are followed: HDFS needs one, web servers rarely two.
pub(crate) const REDIRECTS: usize = 10;

/// Bytes of the state that a worker leaves to the next one ([`crate::hold`]): some 600,000 names of ordinary length. They
/// count as the worker's memory.
pub(crate) const STATE: u64 = 64 << 20;

/// Bytes of the state for names; the other quarter is for open files.
pub(crate) const STATE_OF_NAMES: u64 = STATE / 4 * 3;

/// Requests in the journal for the next worker, where the kernel does not resend them. The kernel has 64 in flight for its
/// read-ahead, and one for each thread that waits.
pub(crate) const JOURNAL_SLOTS: u64 = 4096;

/// Bytes of a request in the journal: its header, its arguments, and two names.
pub(crate) const JOURNAL_SLOT: u64 = 1024;

/// Long requests in the journal: one for each thread that writes.
pub(crate) const JOURNAL_LONG_SLOTS: u64 = 32;

/// Bytes of a long request in the journal: a write of 128 KiB, and a page for its headers.
pub(crate) const JOURNAL_LONG_SLOT: u64 = (128 << 10) + 4096;

/// Bytes of the pipe through which a worker takes requests, where the kernel does not resend them: a write of 128 KiB is in 33
/// pages, with its header in another one, and the size of a pipe is a power of two.
pub(crate) const PIPE: usize = 256 << 10;

/// Entries of listings that were not shown since the process began, because they cannot be files or directories.
pub(crate) static SKIPPED: AtomicU64 = AtomicU64::new(0);

/// Bytes of answers that are in memory now.
static HELD: AtomicUsize = AtomicUsize::new(0);

/// Counts the memory of an answer until it is dropped.
#[derive(Debug, Default)]
pub(crate) struct Held(usize);

impl Held {
    /// Counts this many bytes more, unless all answers together would exceed their limit. Returns whether it did.
    pub(crate) fn take(&mut self, bytes: usize) -> bool {
        let fits = |held: usize| held.checked_add(bytes).filter(|held| *held <= ALL_ANSWERS);
        let taken = HELD.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).is_ok();
        self.0 += if taken { bytes } else { 0 };
        taken
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        HELD.fetch_sub(self.0, Ordering::Relaxed);
    }
}

/// The moment at which an operation is answered at the latest. It is put off while the store makes progress.
#[derive(Debug)]
pub(crate) struct Deadline(Mutex<Due>);

#[derive(Debug)]
struct Due {
    at: Instant,
    is_put_off: bool,
    /// The deadline of the flight that the operation waits for.
    leader: Option<Arc<Deadline>>,
}

impl Deadline {
    /// A deadline at that moment.
    pub(crate) fn at(at: Instant) -> Arc<Self> {
        Arc::new(Deadline(Mutex::new(Due { at, is_put_off: false, leader: None })))
    }

    /// The moment as it is now.
    pub(crate) fn moment(&self) -> Instant {
        let due = lock(&self.0);
        let leader = due.leader.as_ref().and_then(|leader| {
            let leader = lock(&leader.0);
            leader.is_put_off.then_some(leader.at)
        });
        leader.map_or(due.at, |leader| leader.max(due.at))
    }

    /// An operation that waits for a flight gets the time by which the deadline of the flight is put off.
    pub(crate) fn follow(self: &Arc<Self>, leader: &Arc<Deadline>) {
        let moment = self.moment();
        let mut due = lock(&self.0);
        due.at = moment;
        due.leader = (!Arc::ptr_eq(self, leader)).then(|| Arc::clone(leader));
    }

    fn put_off(&self, to: impl FnOnce(Instant) -> Instant) {
        let mut due = lock(&self.0);
        due.at = to(due.at).max(due.at);
        due.is_put_off = true;
    }
}

thread_local! {
    static UNTIL: RefCell<Option<Arc<Deadline>>> = const { RefCell::new(None) };
}

/// The deadline of the operation on this thread, until this is dropped. An operation has one deadline for all its
/// requests.
#[derive(Debug)]
pub(crate) struct Until(Option<Arc<Deadline>>);

impl Until {
    /// Sets the deadline to that moment, or to the present one if it is earlier.
    pub(crate) fn set(moment: Instant) -> Self {
        let moment = Self::moment().map_or(moment, |before| before.min(moment));
        Self::share(&Deadline::at(moment))
    }

    /// Sets a deadline that other threads see, too.
    pub(crate) fn share(deadline: &Arc<Deadline>) -> Self {
        Until(UNTIL.replace(Some(Arc::clone(deadline))))
    }

    /// The moment of the deadline, if there is one.
    pub(crate) fn moment() -> Option<Instant> {
        UNTIL.with_borrow(|until| Some(until.as_ref()?.moment()))
    }

    /// The deadline itself, which may be put off later.
    pub(crate) fn shared() -> Option<Arc<Deadline>> {
        UNTIL.with_borrow(Clone::clone)
    }

    /// Whether there is a deadline, and it is over.
    pub(crate) fn is_over() -> bool {
        Self::moment().is_some_and(|moment| moment <= Instant::now())
    }

    /// The part of a time from now on that ends before the deadline.
    pub(crate) fn left(time: Duration) -> Duration {
        Self::moment().map_or(time, |until| until.saturating_duration_since(Instant::now()).min(time))
    }

    /// Puts the deadline off by the time until the result is dropped, by `most` at most.
    pub(crate) fn uncounted(most: Duration) -> Uncounted {
        let (deadline, begun) = (Self::shared(), Instant::now());
        if let Some(deadline) = &deadline {
            deadline.put_off(|at| at + most);
        }
        Uncounted { deadline, begun, most }
    }

    /// Gives the operation this much time from now on, if it has less: one of its steps has succeeded.
    pub(crate) fn renew(time: Duration) {
        if let Some(deadline) = Self::shared() {
            deadline.put_off(|_| Instant::now() + time);
        }
    }

    /// Puts the deadline off: the store has made progress.
    pub(crate) fn put_off(by: Duration) {
        if let Some(deadline) = Self::shared() {
            deadline.put_off(|at| at + by);
        }
    }
}

/// Time that does not count against the deadline.
#[derive(Debug)]
pub(crate) struct Uncounted {
    deadline: Option<Arc<Deadline>>,
    begun: Instant,
    most: Duration,
}

impl Drop for Uncounted {
    fn drop(&mut self) {
        if let Some(deadline) = &self.deadline {
            let rest = self.most.saturating_sub(self.begun.elapsed());
            let mut due = lock(&deadline.0);
            due.at = due.at.checked_sub(rest).unwrap_or(due.at);
        }
    }
}

impl Drop for Until {
    fn drop(&mut self) {
        UNTIL.set(self.0.take());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_is_given_back() {
        let (mut one, mut other) = (Held::default(), Held::default());
        assert!(one.take(ALL_ANSWERS / 2) && !other.take(ALL_ANSWERS) && !other.take(usize::MAX));
        drop(one);
        assert!(other.take(ALL_ANSWERS / 2));
    }

    #[test]
    fn the_earlier_moment_counts_until_it_is_over() {
        let minute = Duration::from_secs(60);
        assert_eq!((Until::moment(), Until::left(minute)), (None, minute));
        let outer = Until::set(Instant::now() + minute);
        {
            let _inner = Until::set(Instant::now());
            assert!(Until::left(minute).is_zero());
            Until::put_off(minute / 2);
            assert!(!Until::left(minute).is_zero());
        }
        assert!(Until::left(minute) > minute / 2);
        drop(outer);
        assert_eq!(Until::moment(), None);
    }

    #[test]
    fn those_who_wait_for_a_request_have_the_time_that_its_progress_earns() {
        let now = Instant::now();
        let minute = Duration::from_secs(60);
        let (leader, follower) = (Deadline::at(now + minute), Deadline::at(now + minute / 2));
        follower.follow(&leader);
        assert_eq!(follower.moment(), now + minute / 2);
        leader.put_off(|at| at + minute);
        assert_eq!(follower.moment(), now + 2 * minute);
        // A deadline that follows itself, or an earlier request, still ends.
        follower.follow(&follower);
        assert_eq!(follower.moment(), now + 2 * minute);
        let _until = Until::share(&follower);
        assert!(!Until::is_over());
    }

    #[test]
    fn time_that_is_not_counted_is_given_back_but_for_what_was_used() {
        let now = Instant::now();
        let minute = Duration::from_secs(60);
        let deadline = Deadline::at(now + minute);
        let _until = Until::share(&deadline);
        let uncounted = Until::uncounted(10 * minute);
        assert_eq!(deadline.moment(), now + 11 * minute);
        drop(uncounted);
        let used = deadline.moment() - (now + minute);
        assert!(used < minute / 2, "{used:?}");
        Until::renew(2 * minute);
        assert!(deadline.moment() >= now + 2 * minute);
        Until::renew(minute);
        assert!(deadline.moment() >= now + 2 * minute);
    }
}
