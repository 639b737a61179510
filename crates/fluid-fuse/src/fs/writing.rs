//! Files that are open for writing: what was written, what of it is on its way, and what went wrong.
//!
//! Each has a thread of its own, which alone waits for the store. What is written is taken ahead of it up to
//! `AHEAD` bytes; further writes are answered when there is room again. A file is written from its beginning
//! to its end: what is skipped is zeros, and nothing that was written can be written again. The first failure
//! is every later answer. It knows neither paths nor how a store keeps a file; it decides how much memory
//! writing takes: up to `SMALL` bytes each file has as it needs them, for more it needs one of the [`Writes`]'
//! few places, and waits until there is one.

use std::fs;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use fuser::{Errno, LockOwner};
use log::warn;

use super::errno;
use crate::inodes::lock;
use crate::store::{Stat, StoreError, Writer};

/// Bytes that are taken before the store has them.
const AHEAD: usize = 2 << 20;

/// Bytes of a file for which no place is needed.
const SMALL: u64 = 1 << 20;

/// What a large file takes: a part on its way and one being filled, each with the least that may follow, and what
/// is taken ahead.
const LARGE: u64 = (26 << 20) + AHEAD as u64;

/// How long after a close a file may be open only because the kernel has not told of its end yet.
pub(super) const CLOSING: Duration = Duration::from_secs(1);

/// Files open for writing.
const MOST: usize = 256;

/// Called once with what became of it.
pub(crate) type Done = Box<dyn FnOnce(Result<(), Errno>) + Send>;

/// What all files that are being written have in common.
pub struct Writes {
    places: usize,
    patience: Duration,
    taken: Mutex<Taken>,
    given_back: Condvar,
}

#[derive(Default)]
struct Taken {
    files: usize,
    places: usize,
}

impl Writes {
    /// Room for large files in half of the memory, at least for two; who finds none waits for so long.
    pub fn new(memory: u64, patience: Duration) -> Arc<Self> {
        let places = usize::try_from(memory / 2 / LARGE).unwrap_or(usize::MAX).max(2);
        Arc::new(Writes { places, patience, taken: Mutex::default(), given_back: Condvar::new() })
    }

    /// Waits until no file is being written, or the time is up: how many still are.
    pub fn wait(&self, time: Duration) -> usize {
        let taken = lock(&self.taken);
        let waited = self.given_back.wait_timeout_while(taken, time, |taken| taken.files > 0);
        waited.unwrap_or_else(PoisonError::into_inner).0.files
    }

    /// How long anybody waits for a store.
    pub(super) fn patience(&self) -> Duration {
        self.patience
    }

    fn place(self: &Arc<Self>) -> Result<Place, StoreError> {
        let full = |taken: &mut Taken| taken.places >= self.places;
        let waited = self.given_back.wait_timeout_while(lock(&self.taken), self.patience, full);
        let (mut taken, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
        if timeout.timed_out() {
            return Err(StoreError::Failed(format!(
                "{} large files are being written, and --memory allows no more",
                self.places
            )));
        }
        taken.places += 1;
        Ok(Place(Arc::clone(self)))
    }
}

/// Being one of the files.
struct Counted(Arc<Writes>);

impl Drop for Counted {
    fn drop(&mut self) {
        lock(&self.0.taken).files -= 1;
        self.0.given_back.notify_all();
    }
}

/// Being one of the large files.
struct Place(Arc<Writes>);

impl Drop for Place {
    fn drop(&mut self) {
        lock(&self.0.taken).places -= 1;
        self.0.given_back.notify_all();
    }
}

/// A file that is open for writing.
pub(crate) struct Writing {
    /// Its attributes when it was opened.
    stat: Stat,
    opener: Process,
    state: Mutex<State>,
}

struct State {
    /// Nothing after the file was finished or closed.
    jobs: Option<Sender<Job>>,
    /// Where the next byte comes.
    end: u64,
    /// The size that was asked for, zeros beyond the end.
    size: u64,
    /// Bytes that the store does not have yet.
    ahead: usize,
    writer: LockOwner,
    /// When a process closed what others may have open still, unless it was written since.
    passed_on: Option<Instant>,
    failed: Option<Errno>,
    finished: bool,
}

enum Job {
    Write { gap: u64, bytes: Vec<u8>, done: Option<Done> },
    Finish { gap: u64, done: Done },
}

impl Writing {
    /// Begins; `finished` is told the new attributes before anybody else is.
    pub(crate) fn begin(
        writes: &Arc<Writes>,
        writer: Box<dyn Writer>,
        stat: Stat,
        pid: u32,
        finished: impl FnOnce(Stat) + Send + 'static,
    ) -> Result<Arc<Self>, Errno> {
        {
            let mut taken = lock(&writes.taken);
            if taken.files >= MOST {
                warn!("{MOST} files are open for writing, and no more can be");
                return Err(Errno::ENFILE);
            }
            taken.files += 1;
        }
        let counted = Counted(Arc::clone(writes));
        let (jobs, todo) = mpsc::channel();
        let state = State {
            jobs: Some(jobs),
            end: 0,
            size: 0,
            ahead: 0,
            writer: LockOwner(0),
            passed_on: None,
            failed: None,
            finished: false,
        };
        let file = Arc::new(Writing { stat, opener: Process::of(pid), state: Mutex::new(state) });
        let worker = Worker {
            file: Arc::clone(&file),
            writer,
            counted,
            place: None,
            sent: 0,
            finished: Some(Box::new(finished)),
        };
        thread::Builder::new().name("write".into()).spawn(move || worker.work(&todo)).map_err(|error| {
            warn!("cannot start a thread: {error}");
            Errno::EAGAIN
        })?;
        Ok(file)
    }

    /// Its attributes at this moment.
    pub(crate) fn stat(&self) -> Stat {
        Stat { size: lock(&self.state).size, ..self.stat }
    }

    /// Whether it is closed, and only its end is waited for.
    pub(crate) fn is_closed(&self) -> bool {
        lock(&self.state).jobs.is_none()
    }

    /// Whether it is closed, or may be, so that whoever has waited since that moment should go on.
    pub(crate) fn is_closing(&self, since: Instant) -> bool {
        let state = lock(&self.state);
        let may_be = |at: Instant| at.elapsed() < CLOSING && since.elapsed() < CLOSING;
        state.jobs.is_none() || state.passed_on.is_some_and(may_be)
    }

    /// Takes bytes.
    pub(crate) fn write(&self, offset: u64, bytes: &[u8], owner: Option<LockOwner>, done: Done) {
        let mut state = lock(&self.state);
        let refused = match state.failed {
            Some(errno) => Some(errno),
            None if state.finished => Some(Errno::EBADF),
            None if offset < state.end => Some(state.fail(Errno::EINVAL)),
            None => None,
        };
        if let Some(errno) = refused {
            drop(state);
            return done(Err(errno));
        }
        let gap = offset - state.end;
        state.end = offset + bytes.len() as u64;
        state.size = state.size.max(state.end);
        state.ahead += bytes.len();
        state.writer = owner.unwrap_or(state.writer);
        state.passed_on = None;
        let (now, later) = if state.ahead <= AHEAD { (Some(done), None) } else { (None, Some(done)) };
        state.send(Job::Write { gap, bytes: bytes.to_vec(), done: later });
        drop(state);
        if let Some(done) = now {
            done(Ok(()));
        }
    }

    /// Makes it longer.
    pub(crate) fn truncate(&self, size: u64) -> Result<(), Errno> {
        let mut state = lock(&self.state);
        match state.failed {
            Some(errno) => Err(errno),
            None if size == state.size => Ok(()),
            None if state.finished => Err(Errno::EBADF),
            None if size < state.end => Err(state.fail(Errno::EOPNOTSUPP)),
            None => {
                state.size = size;
                Ok(())
            }
        }
    }

    /// A process closes it. It is finished if that is the one that opened it, or, where processes cannot be
    /// told apart, the one that wrote last. What closes it with nothing written does so to pass it on.
    pub(crate) fn flush(&self, pid: u32, owner: LockOwner, done: Done) {
        let ours = match (Process::of(pid), self.opener) {
            (Process::Unknown, _) | (_, Process::Unknown) => lock(&self.state).writer == owner,
            (closer, opener) => closer == opener,
        };
        let mut state = lock(&self.state);
        if state.failed.is_none() && (state.size == 0 || !ours) {
            state.passed_on = Some(Instant::now());
            drop(state);
            return done(Ok(()));
        }
        drop(state);
        self.finish(done);
    }

    /// Finishes it: nothing can be written any more.
    pub(crate) fn finish(&self, done: Done) {
        let mut state = lock(&self.state);
        let result = state.failed.map_or(Ok(()), Err);
        if result.is_err() || state.jobs.is_none() {
            drop(state);
            return done(result);
        }
        let gap = state.size - state.end;
        state.end = state.size;
        // Once is enough; whoever asks again waits for the same end.
        state.finished = true;
        state.send(Job::Finish { gap, done });
    }

    /// Nobody has it open any more: what nobody finished is finished, what failed is left.
    pub(crate) fn release(&self, done: Done) {
        let finished = lock(&self.state).finished;
        match finished {
            true => done(Ok(())),
            false => self.finish(done),
        }
        self.abandon();
    }

    /// Leaves it as far as it is.
    pub(crate) fn abandon(&self) {
        lock(&self.state).jobs = None;
    }
}

impl State {
    /// The first failure is what everybody is told from now on: half a file must not take the place of a whole.
    fn fail(&mut self, errno: Errno) -> Errno {
        *self.failed.get_or_insert(errno)
    }

    fn send(&mut self, job: Job) {
        if let Some(jobs) = &self.jobs
            && let Err(mpsc::SendError(job)) = jobs.send(job)
        {
            match job {
                Job::Write { done: None, .. } => {}
                Job::Write { done: Some(done), .. } | Job::Finish { done, .. } => done(Err(Errno::EIO)),
            }
        }
    }
}

struct Worker {
    file: Arc<Writing>,
    writer: Box<dyn Writer>,
    counted: Counted,
    place: Option<Place>,
    sent: u64,
    finished: Option<Box<dyn FnOnce(Stat) + Send>>,
}

impl Worker {
    fn work(mut self, todo: &Receiver<Job>) {
        for job in todo {
            let failed = lock(&self.file.state).failed;
            let (length, result, done) = match job {
                Job::Write { gap, bytes, done } => {
                    let result = failed.map_or_else(|| self.write(gap, &bytes), Err);
                    (bytes.len(), result, done)
                }
                Job::Finish { gap, done } => (0, failed.map_or_else(|| self.finish(gap), Err), Some(done)),
            };
            {
                let mut state = lock(&self.file.state);
                state.ahead -= length;
                if let Err(errno) = result {
                    state.fail(errno);
                }
            }
            if let Some(done) = done {
                done(result);
            }
        }
    }

    fn write(&mut self, gap: u64, bytes: &[u8]) -> Result<(), Errno> {
        static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];
        let mut gap = gap;
        while gap > 0 {
            let zeros = gap.min(ZEROS.len() as u64);
            self.send(&ZEROS[..zeros as usize])?;
            gap -= zeros;
        }
        self.send(bytes)
    }

    fn send(&mut self, bytes: &[u8]) -> Result<(), Errno> {
        self.sent += bytes.len() as u64;
        if self.place.is_none() && self.sent > SMALL {
            let Counted(writes) = &self.counted;
            self.place = Some(writes.place().map_err(errno)?);
        }
        self.writer.write(bytes).map_err(errno)
    }

    fn finish(&mut self, gap: u64) -> Result<(), Errno> {
        // Nothing to do for whoever comes second.
        if self.finished.is_none() {
            return Ok(());
        }
        self.write(gap, &[])?;
        let stat = self.writer.finish().map_err(errno)?;
        if let Some(finished) = self.finished.take() {
            finished(stat);
        }
        self.file.abandon();
        Ok(())
    }
}

/// A process, as far as it can be told from here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Process {
    Known(u32),
    /// It is in another PID namespace.
    Unknown,
}

impl Process {
    /// The process of a thread, which is what the kernel names.
    fn of(thread: u32) -> Self {
        let status = fs::read_to_string(format!("/proc/{thread}/status")).unwrap_or_default();
        let process = status.lines().find_map(|line| line.strip_prefix("Tgid:")?.trim().parse().ok());
        match thread {
            0 => Process::Unknown,
            thread => Process::Known(process.unwrap_or(thread)),
        }
    }
}
