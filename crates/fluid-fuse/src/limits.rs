//! How much a store may cost, but for the bytes of files: the one table of it.
//!
//! What a store sends is not trusted: it may be somebody else's, or somebody else may sit on its `http`. The bytes
//! of files have limits of their own, `--memory` and `--requests` ([`crate::fetch`]). Here are the limits for all
//! other answers, what counts the memory that they take ([`Held`]), and the moment until which the present thread
//! may wait for them ([`Until`]). What happens to an answer beyond a limit is decided where it arrives.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Bytes of an answer that is not the bytes of a file. A page of 1,000 keys of 1,024 bytes, each byte of them escaped,
/// has 6 MiB; the index or the manifest of a web server with 200,000 names has 16 MiB.
pub(crate) const ANSWER: usize = 16 << 20;

/// Bytes of a file that is fetched as a whole because its server sends no parts of files.
pub(crate) const WHOLE: usize = 32 << 20;

/// Bytes of all such answers, and of the names of listings, that are being received at a time, over all stores.
const ALL_ANSWERS: usize = 256 << 20;

/// Bytes of what one listing tells: some 500,000 names of ordinary length, each counted with what it costs to keep.
pub(crate) const LISTING: usize = 128 << 20;

/// What an entry of a listing costs beside its key and its ETag: the structures around them, measured as the
/// growth of the process by a directory of 100,000 names.
pub(crate) const ENTRY: usize = 200;

/// Entries in one answer. Stores send 1,000 or 5,000, HDFS without batches all of a directory.
pub(crate) const ENTRIES: usize = 200_000;

/// Commas and opening brackets in an answer in JSON, each of which may become a value in memory: 15 for each entry
/// of HDFS, 30 for each of Google's.
pub(crate) const JSON_VALUES: usize = 2_000_000;

/// Pages of a listing: ten million names of a store that sends 1,000 in a page.
pub(crate) const PAGES: usize = 10_000;

/// Pages in a row that bring no name. S3 sends some where it has much to skip.
pub(crate) const EMPTY_PAGES: usize = 100;

/// Bytes of a key: what S3, OSS, Google and Azure allow.
pub(crate) const KEY: usize = 1024;

/// Bytes of an ETag, and of what else is told of one entry. MD5 takes 34, and of the parts of an upload some more.
pub(crate) const ETAG: usize = 1024;

/// Bytes of the longest name that Linux has (`NAME_MAX`).
pub(crate) const NAME: usize = 255;

/// Bytes of the names whose listings are kept, over all directories: 200,000 of ordinary length.
pub(crate) const REMEMBERED: usize = 64 << 20;

/// What an entry adds to the time that a listing may take, which begins with `--io-timeout`: a page of 1,000 may take
/// two seconds, ten times what stores take.
pub(crate) const TIME_PER_ENTRY: Duration = Duration::from_millis(2);

/// What a name adds to that time about which a web server must be asked alone.
pub(crate) const TIME_PER_QUESTION: Duration = Duration::from_millis(50);

/// How long the answer to what was sent may take once it has begun. S3 joins the parts of an upload, and copies, for minutes
/// while it sends blanks.
pub(crate) const WRITTEN: Duration = Duration::from_secs(10 * 60);

/// Redirects that are followed in a row: HDFS needs one, web servers rarely two.
pub(crate) const REDIRECTS: usize = 10;

/// Bytes of the state that a worker leaves to the next one ([`crate::hold`]): some 600,000 names of ordinary length. It is
/// the worker's memory.
pub(crate) const STATE: u64 = 64 << 20;

/// Bytes of it that names may take; the rest is for open files.
pub(crate) const STATE_OF_NAMES: u64 = STATE / 4 * 3;

/// Requests that are kept for the next worker where the kernel does not ask again. It has 64 under way for nobody
/// (`max_background`), and one for each thread that waits.
pub(crate) const JOURNAL_SLOTS: u64 = 4096;

/// Bytes of one: its head, its arguments, and two names.
pub(crate) const JOURNAL_SLOT: u64 = 1024;

/// Bytes of all.
pub(crate) const JOURNAL: u64 = JOURNAL_SLOTS * JOURNAL_SLOT;

/// Entries of listings that were left out since the process began, because they cannot be what they say.
pub(crate) static SKIPPED: AtomicU64 = AtomicU64::new(0);

/// Bytes that are held at the moment.
static HELD: AtomicUsize = AtomicUsize::new(0);

/// Memory for an answer, counted until this is dropped.
#[derive(Debug, Default)]
pub(crate) struct Held(usize);

impl Held {
    /// Takes so many bytes more, if all that is held then is not too much.
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

thread_local! {
    static UNTIL: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// The moment until which this thread may wait for a store, as long as this lives. An operation has one, however many
/// requests it makes.
#[derive(Debug)]
pub(crate) struct Until(Option<Instant>);

impl Until {
    /// From now on that moment, or the earlier one that counts already.
    pub(crate) fn set(moment: Instant) -> Self {
        let before = UNTIL.get();
        UNTIL.set(Some(before.map_or(moment, |before| before.min(moment))));
        Until(before)
    }

    /// The moment that counts, if there is one.
    pub(crate) fn moment() -> Option<Instant> {
        UNTIL.get()
    }

    /// What is left of a time that would begin now.
    pub(crate) fn left(time: Duration) -> Duration {
        UNTIL.get().map_or(time, |until| until.saturating_duration_since(Instant::now()).min(time))
    }

    /// Puts the moment off: the store has proved that it gets on.
    pub(crate) fn put_off(by: Duration) {
        UNTIL.set(UNTIL.get().map(|until| until + by));
    }
}

impl Drop for Until {
    fn drop(&mut self) {
        UNTIL.set(self.0);
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
}
