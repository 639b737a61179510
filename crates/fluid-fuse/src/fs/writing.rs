//! Files that are open for writing.
//!
//! Each file has a thread of its own, which alone waits for the store. It buffers up to `AHEAD` bytes; further writes are
//! answered when there is room again. A file is written from its beginning to its end: gaps are filled with zeros, and
//! no byte can be written twice. A finished file can be continued. It may be open several times, and each descriptor that
//! writes at its end appends to it. After the first failure every operation gets the same error.
//!
//! This module decides how much memory writing takes: each file has up to `SMALL` bytes as it needs them. For more it
//! waits for one of the few places of [`Writes`]. It knows neither paths nor how a store keeps a file.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use fuser::{Errno, LockOwner};
use log::warn;

use super::errno;
use crate::limits::Until;
use crate::store::{Stat, StoreError, Writer};
use crate::sync::lock;

/// Bytes that are buffered before the store has them.
const AHEAD: usize = 2 << 20;

/// Bytes of a file that needs no place.
const SMALL: u64 = 1 << 20;

/// Bytes of memory of a large file: a part that is being uploaded and one that is being filled, each with room for a
/// write, and the buffer.
const LARGE: u64 = (20 << 20) + AHEAD as u64;

/// The kernel reports the end of a file within this time after the close.
pub(super) const CLOSING: Duration = Duration::from_secs(1);

/// Files open for writing.
const MOST: usize = 256;

/// Called once with the outcome.
pub(crate) type Done = Box<dyn FnOnce(Result<(), Errno>) + Send>;

/// The limits that all files share that are being written.
pub struct Writes {
    places: usize,
    io_timeout: Duration,
    taken: Mutex<Taken>,
    given_back: Condvar,
}

#[derive(Default)]
struct Taken {
    files: usize,
    changed: usize,
    places: usize,
    /// The number of large files of each source.
    places_by_lane: HashMap<usize, usize>,
}

impl Writes {
    /// Places for large files in half of the memory, at least two. A file waits for one for `io_timeout` at most.
    pub fn new(memory: u64, io_timeout: Duration) -> Arc<Self> {
        let places = usize::try_from(memory / 2 / LARGE).unwrap_or(usize::MAX).max(2);
        Arc::new(Writes { places, io_timeout, taken: Mutex::default(), given_back: Condvar::new() })
    }

    /// Waits until the stores have all files, or the time is up. Returns the number of files that are left.
    pub fn wait(&self, time: Duration) -> usize {
        let taken = lock(&self.taken);
        let waited = self.given_back.wait_timeout_while(taken, time, |taken| taken.changed > 0);
        waited.unwrap_or_else(PoisonError::into_inner).0.changed
    }

    /// How long an operation waits for a store.
    pub(super) fn io_timeout(&self) -> Duration {
        self.io_timeout
    }

    /// A place for a large file of a source. If other sources have taken all, a source without one gets an additional one: it
    /// must not wait for a source that does not answer.
    fn place(self: &Arc<Self>, lane: usize) -> Result<Place, StoreError> {
        let full = |taken: &mut Taken| {
            let has_one = taken.places_by_lane.contains_key(&lane);
            taken.places >= self.places + usize::from(!has_one)
        };
        let time = Until::left(self.io_timeout);
        let waited = self.given_back.wait_timeout_while(lock(&self.taken), time, full);
        let (mut taken, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
        if timeout.timed_out() {
            return Err(StoreError::Failed(format!(
                "{} large files are being written, and --memory allows no more",
                self.places
            )));
        }
        taken.places += 1;
        *taken.places_by_lane.entry(lane).or_default() += 1;
        Ok(Place { writes: Arc::clone(self), lane })
    }

    fn count(self: &Arc<Self>, as_what: fn(&mut Taken) -> &mut usize) -> Counted {
        *as_what(&mut lock(&self.taken)) += 1;
        Counted { writes: Arc::clone(self), as_what }
    }
}

/// The place of a large file, until this is dropped.
struct Place {
    writes: Arc<Writes>,
    lane: usize,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = lock(&self.writes.taken);
        taken.places -= 1;
        if let Entry::Occupied(mut places) = taken.places_by_lane.entry(self.lane) {
            *places.get_mut() -= 1;
            if *places.get() == 0 {
                places.remove();
            }
        }
        drop(taken);
        self.writes.given_back.notify_all();
    }
}

/// Counts a file, or a changed one, until this is dropped.
struct Counted {
    writes: Arc<Writes>,
    as_what: fn(&mut Taken) -> &mut usize,
}

impl Drop for Counted {
    fn drop(&mut self) {
        *(self.as_what)(&mut lock(&self.writes.taken)) -= 1;
        self.writes.given_back.notify_all();
    }
}

/// A file that is open for writing.
pub(crate) struct Writing {
    writes: Arc<Writes>,
    /// The attributes when it was opened.
    stat: Stat,
    state: Mutex<State>,
}

struct State {
    /// The channel to its thread; nothing after the last close.
    jobs: Option<Sender<Job>>,
    /// The number of open descriptors.
    open: usize,
    /// The offset of the next byte.
    end: u64,
    /// The size that was set (`ftruncate`), with zeros beyond the written end.
    size: u64,
    modified: SystemTime,
    /// Bytes that the store does not have yet.
    ahead: usize,
    /// Changes, how many of them the store has, and the count of changed files while these differ.
    changes: u64,
    finished: u64,
    changed: Option<Counted>,
    /// Finishes that are requested and not done.
    finishing: usize,
    /// Whether something was written.
    written: bool,
    /// Whether the store has a version that it continues.
    continues: bool,
    writer: LockOwner,
    /// When a process closed a descriptor that others may still have, unless the file was written since.
    passed_on: Option<Instant>,
    failed: Option<Errno>,
    /// Whether its path names another file, or none.
    gone: bool,
}

/// One open of a file for writing.
pub(crate) struct Opened {
    pub(crate) file: Arc<Writing>,
    opener: Process,
    appends: bool,
    has_written: AtomicBool,
}

enum Job {
    Write { gap: u64, bytes: Vec<u8>, expected: u64, done: Option<Done> },
    Restart,
    Time(SystemTime),
    Finish { gap: u64, changes: u64, done: Done },
}

impl Opened {
    /// An open by the process, of which each write goes to the end or where it says.
    pub(crate) fn new(file: Arc<Writing>, pid: u32, appends: bool) -> Self {
        Opened { file, opener: Process::of(pid), appends, has_written: AtomicBool::new(false) }
    }

    /// The process that opened it; 0 if it is unknown.
    pub(crate) fn process(&self) -> u32 {
        match self.opener {
            Process::Known(process) => process,
            Process::Unknown => 0,
        }
    }

    /// Writes bytes.
    pub(crate) fn write(&self, offset: u64, bytes: &[u8], owner: Option<LockOwner>, done: Done) {
        let mut state = lock(&self.file.state);
        let offset = if self.appends { state.size } else { offset };
        let refused = match state.failed {
            Some(errno) => Some(errno),
            None if state.gone => Some(Errno::ESTALE),
            // A descriptor that has written nothing loses nothing, and must not fail the file of the others.
            None if offset < state.end && !self.has_written.load(Ordering::Relaxed) => {
                Some(if state.written { Errno::EBUSY } else { Errno::EINVAL })
            }
            None if offset < state.end => Some(state.fail(Errno::EINVAL)),
            None => None,
        };
        if let Some(errno) = refused {
            drop(state);
            return done(Err(errno));
        }
        self.has_written.store(true, Ordering::Relaxed);
        let gap = offset - state.end;
        state.end = offset + bytes.len() as u64;
        state.size = state.size.max(state.end);
        state.ahead += bytes.len();
        state.writer = owner.unwrap_or(state.writer);
        state.written = true;
        self.file.change(&mut state);
        let (now, later) = if state.ahead <= AHEAD { (Some(done), None) } else { (None, Some(done)) };
        let expected = state.size;
        state.send(Job::Write { gap, bytes: bytes.to_vec(), expected, done: later });
        drop(state);
        if let Some(done) = now {
            done(Ok(()));
        }
    }

    /// A process closes it. The file is finished if that is the one that opened it, or, where processes cannot be
    /// told apart, the one that wrote last. A process that closes it without a write has passed it on.
    pub(crate) fn flush(&self, pid: u32, owner: LockOwner, done: Done) {
        let closer = Process::of(pid);
        let mut state = lock(&self.file.state);
        let ours = match (closer, self.opener) {
            (Process::Unknown, _) | (_, Process::Unknown) => state.writer == owner,
            (closer, opener) => closer == opener,
        };
        if state.failed.is_none() && (!state.written || !ours) {
            state.passed_on = Some(Instant::now());
            drop(state);
            return done(Ok(()));
        }
        drop(state);
        self.file.finish(done);
    }
}

impl Writing {
    /// Begins, with an empty file, or behind the end of one that the store has; `finished` is told the new attributes
    /// before anybody else is, each time.
    pub(crate) fn begin(
        writes: &Arc<Writes>,
        lane: usize,
        writer: Box<dyn Writer>,
        stat: Stat,
        continues: bool,
        finished: impl Fn(Stat) + Send + 'static,
    ) -> Result<Arc<Self>, Errno> {
        let counted = writes.count(|taken| &mut taken.files);
        if lock(&writes.taken).files > MOST {
            warn!("{MOST} files are open for writing, and no more can be");
            return Err(Errno::ENFILE);
        }
        let (jobs, todo) = mpsc::channel();
        let state = State {
            jobs: Some(jobs),
            open: 1,
            end: stat.size,
            size: stat.size,
            modified: stat.modified,
            ahead: 0,
            changes: 0,
            finished: 0,
            changed: None,
            finishing: 0,
            written: false,
            continues,
            writer: LockOwner(0),
            passed_on: None,
            failed: None,
            gone: false,
        };
        let file = Arc::new(Writing { writes: Arc::clone(writes), stat, state: Mutex::new(state) });
        if !continues {
            file.change(&mut lock(&file.state));
        }
        let worker = Worker {
            file: Arc::clone(&file),
            writer,
            lane,
            _counted: counted,
            place: None,
            sent: 0,
            finished: Box::new(finished),
        };
        thread::Builder::new().name("write".into()).spawn(move || worker.work(&todo)).map_err(|error| {
            warn!("cannot start a thread: {error}");
            Errno::EAGAIN
        })?;
        Ok(file)
    }

    /// Its attributes now.
    pub(crate) fn stat(&self) -> Stat {
        let state = lock(&self.state);
        Stat { size: state.size, modified: state.modified, ..self.stat }
    }

    /// Whether it has changes that the store does not have.
    pub(crate) fn is_changed(&self) -> bool {
        !lock(&self.state).is_finished()
    }

    /// Whether nothing was ever written, and no old version is continued.
    pub(crate) fn is_untouched(&self) -> bool {
        let state = lock(&self.state);
        !state.written && state.size == 0
    }

    /// Whether the store has a version that it continues.
    pub(crate) fn continues(&self) -> bool {
        lock(&self.state).continues
    }

    /// Whether it is closed and only its end is missing.
    pub(crate) fn is_closed(&self) -> bool {
        lock(&self.state).jobs.is_none()
    }

    /// Whether it is closed, or may be, so that an operation that has waited since that moment should go on waiting.
    pub(crate) fn is_closing(&self, since: Instant) -> bool {
        let state = lock(&self.state);
        let may_be = |at: Instant| at.elapsed() < CLOSING && since.elapsed() < CLOSING;
        state.jobs.is_none() || state.passed_on.is_some_and(may_be)
    }

    /// Opens it once more, unless it is closed or has failed.
    pub(crate) fn join(&self) -> bool {
        let mut state = lock(&self.state);
        let can = state.jobs.is_some() && state.failed.is_none() && !state.gone;
        state.open += usize::from(can);
        can
    }

    /// Notes a change, which the store does not have yet.
    fn change(&self, state: &mut State) {
        state.changes += 1;
        state.modified = SystemTime::now();
        state.passed_on = None;
        state.changed.get_or_insert_with(|| self.writes.count(|taken| &mut taken.changed));
    }

    /// It is going to be changed: nobody may take its name until it is finished.
    pub(crate) fn resume(&self) {
        let mut state = lock(&self.state);
        if state.jobs.is_some() {
            self.change(&mut state);
        }
    }

    /// Makes it longer, or empty.
    pub(crate) fn truncate(&self, size: u64) -> Result<(), Errno> {
        let mut state = lock(&self.state);
        match state.failed {
            Some(errno) => return Err(errno),
            None if state.gone || state.jobs.is_none() => return Err(Errno::ESTALE),
            None if size == state.size => return Ok(()),
            None if size >= state.end => state.size = size,
            None if size == 0 => {
                (state.end, state.size, state.written) = (0, 0, true);
                state.continues = false;
                state.send(Job::Restart);
            }
            None => return Err(state.fail(Errno::EOPNOTSUPP)),
        }
        self.change(&mut state);
        Ok(())
    }

    /// Sets its time of change, until more is written; not of a file that is closed.
    pub(crate) fn set_time(&self, time: SystemTime) -> bool {
        let mut state = lock(&self.state);
        if state.jobs.is_none() || state.gone {
            return false;
        }
        let passed_on = state.passed_on;
        self.change(&mut state);
        (state.modified, state.passed_on) = (time, passed_on);
        state.send(Job::Time(time));
        true
    }

    /// Finishes the bytes that were written until now.
    pub(crate) fn finish(&self, done: Done) {
        let mut state = lock(&self.state);
        let result = state.failed.map_or(Ok(()), Err);
        if result.is_err() || state.jobs.is_none() || state.is_finished() {
            drop(state);
            return done(result);
        }
        let gap = state.size - state.end;
        state.end = state.size;
        let changes = state.changes;
        state.finishing += 1;
        state.send(Job::Finish { gap, changes, done });
    }

    /// One who has it open does not any more. When nobody does, what nobody finished is finished, what failed is left,
    /// and `done` is called.
    pub(crate) fn release(&self, done: Done) {
        {
            let mut state = lock(&self.state);
            state.open = state.open.saturating_sub(1);
            if state.open > 0 {
                return;
            }
        }
        self.finish(done);
        self.abandon();
    }

    /// One who was told that he does not have it open does not: what he asked for is not done if nobody has written, nor
    /// has it open.
    pub(crate) fn withdraw(&self, done: Done) {
        let is_unused = {
            let state = lock(&self.state);
            state.open == 1 && !state.written
        };
        if is_unused {
            self.detach();
        }
        self.release(done);
    }

    /// Notes that its path names another file, or none. It cannot be finished any more.
    pub(crate) fn detach(&self) {
        lock(&self.state).detach();
    }

    /// The same, if it is new, and neither written nor on its way to the store yet.
    pub(crate) fn discard(&self) -> bool {
        let mut state = lock(&self.state);
        let is_idle = state.jobs.is_some() && state.finishing == 0;
        let can = is_idle && !state.continues && !state.written && state.size == 0;
        if can {
            state.detach();
        }
        can
    }

    /// Leaves it as far as it is.
    pub(crate) fn abandon(&self) {
        lock(&self.state).jobs = None;
    }
}

impl State {
    fn is_finished(&self) -> bool {
        self.changes == self.finished
    }

    fn detach(&mut self) {
        self.gone = true;
        self.finished = self.changes;
        self.changed = None;
    }

    /// Notes the first failure, which all operations get from now on: a part of a file must not replace a whole one.
    fn fail(&mut self, errno: Errno) -> Errno {
        *self.failed.get_or_insert(errno)
    }

    fn send(&mut self, job: Job) {
        if let Some(jobs) = &self.jobs
            && let Err(mpsc::SendError(job)) = jobs.send(job)
        {
            match job {
                Job::Write { done: None, .. } | Job::Restart | Job::Time(_) => {}
                Job::Write { done: Some(done), .. } | Job::Finish { done, .. } => done(Err(Errno::EIO)),
            }
        }
    }
}

struct Worker {
    file: Arc<Writing>,
    writer: Box<dyn Writer>,
    /// The lane of its source.
    lane: usize,
    _counted: Counted,
    place: Option<Place>,
    /// Bytes since it was finished last.
    sent: u64,
    finished: Box<dyn Fn(Stat) + Send>,
}

impl Worker {
    fn work(mut self, todo: &Receiver<Job>) {
        for job in todo {
            let failed = lock(&self.file.state).failed;
            let finishes = matches!(job, Job::Finish { .. });
            let (length, result, done) = match job {
                Job::Write { gap, bytes, expected, done } => {
                    let result = failed.map_or_else(|| self.write(gap, &bytes, expected), Err);
                    (bytes.len(), result, done)
                }
                Job::Restart => (0, failed.map_or_else(|| self.writer.restart().map_err(errno), Err), None),
                Job::Time(time) => {
                    self.writer.set_time(time);
                    (0, Ok(()), None)
                }
                Job::Finish { gap, changes, done } => {
                    (0, failed.map_or_else(|| self.finish(gap, changes), Err), Some(done))
                }
            };
            {
                let mut state = lock(&self.file.state);
                state.ahead -= length;
                state.finishing -= usize::from(finishes);
                if let Err(errno) = result {
                    state.fail(errno);
                }
            }
            if let Some(done) = done {
                done(result);
            }
        }
        lock(&self.file.state).changed = None;
    }

    fn write(&mut self, gap: u64, bytes: &[u8], expected: u64) -> Result<(), Errno> {
        static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];
        self.writer.expect(expected);
        let mut gap = gap;
        while gap > 0 {
            let zeros = gap.min(ZEROS.len() as u64);
            self.send(&ZEROS[..zeros as usize])?;
            gap -= zeros;
        }
        if bytes.is_empty() { Ok(()) } else { self.send(bytes) }
    }

    fn send(&mut self, bytes: &[u8]) -> Result<(), Errno> {
        let _until = self.until();
        self.sent += bytes.len() as u64;
        if self.sent > SMALL {
            self.take_place()?;
        }
        self.writer.write(bytes).map_err(errno)
    }

    /// Until when the store may take what it is sent next, whatever that waits for: it has taken all before.
    fn until(&self) -> Until {
        Until::set(Instant::now() + self.file.writes.io_timeout)
    }

    fn take_place(&mut self) -> Result<(), Errno> {
        if self.place.is_none() {
            self.place = Some(self.file.writes.place(self.lane).map_err(errno)?);
        }
        Ok(())
    }

    fn finish(&mut self, gap: u64, changes: u64) -> Result<(), Errno> {
        // The second one has nothing to do.
        if lock(&self.file.state).finished >= changes {
            return Ok(());
        }
        let size = lock(&self.file.state).size;
        self.write(gap, &[], size)?;
        let _until = self.until();
        if size > SMALL {
            self.take_place()?;
        }
        let stat = self.writer.finish().map_err(errno)?;
        if !lock(&self.file.state).gone {
            (self.finished)(stat);
        }
        // The tail that it keeps for a continuation is small.
        (self.sent, self.place) = (0, None);
        let mut state = lock(&self.file.state);
        state.finished = changes;
        state.continues = true;
        if state.is_finished() {
            state.changed = None;
            state.modified = stat.modified;
        }
        Ok(())
    }
}

/// A process, as far as it can be told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Process {
    Known(u32),
    /// It is in another PID namespace.
    Unknown,
}

impl Process {
    /// The process of a thread: the kernel names threads.
    fn of(thread: u32) -> Self {
        let status = fs::read_to_string(format!("/proc/{thread}/status")).unwrap_or_default();
        let process = status.lines().find_map(|line| line.strip_prefix("Tgid:")?.trim().parse().ok());
        match thread {
            0 => Process::Unknown,
            thread => Process::Known(process.unwrap_or(thread)),
        }
    }
}
