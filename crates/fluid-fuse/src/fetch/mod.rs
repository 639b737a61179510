//! Reading objects: requests for what is read and for what will be, the bytes on their way, and who waits.
//!
//! A [`Fetcher`] belongs to one [`Bucket`]; what they [share](Shared) is the process's memory and its
//! threads. This module carries requests out: it retries what may go better, until the deadline, and goes on
//! where the bytes ended. `file` knows which bytes are where, `streams` what to read ahead, `memory` what
//! it all may cost, and `queue` how many requests the store bears.

mod disk;
mod file;
mod memory;
mod streams;

use std::collections::{HashMap, VecDeque};
use std::io::{ErrorKind, Read};
use std::ops::{Range, RangeInclusive};
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use log::warn;

use self::disk::CachedFile;
pub use self::disk::DiskCache;
pub use self::file::RemoteFile;
use self::file::Run;
use self::memory::{GRANULE, Granule, Memory, within};
use self::streams::Limits;
use crate::histogram::Histogram;
use crate::inodes::lock;
use crate::limits::Until;
use crate::outage::Availability;
use crate::queue::Queue;
use crate::remote::{Bucket, Version};
use crate::store::StoreError;

/// Bytes of the largest request.
pub(crate) const PART: u64 = 8 * 1024 * 1024;

/// Bytes of the shortest request ahead: to a store that answers at once, and to others.
const SHORT_PARTS: RangeInclusive<u64> = 256 * 1024..=1024 * 1024;

/// Bytes that make a request worth a second that it has to wait for its first byte. Short ones come in the order in
/// which they are read, and what comes is read before it has left the processor's caches.
const WORTH_A_SECOND: u64 = 512 * 1024 * 1024;

/// Files that are remembered after they were closed, or before they are opened.
const RECENT: usize = 256;

/// Threads that read from the disk what somebody waits for.
const LOADING: usize = 4;

/// The lane of the disk, which has its threads for itself.
const LOCAL: usize = 0;

/// A file that was not read for so long does not need what was read ahead for it.
const FORSAKEN: Duration = Duration::from_secs(2);

/// Milliseconds between two looks for files that were forsaken.
const RECLAIM: u64 = 100;

/// How long after its deadline a read is answered although its request still waits or hangs. Who asks the store ends by
/// itself, and knows the reason.
const GRACE: Duration = Duration::from_millis(300);

/// Lines at a time about operations that wait.
const MAX_LINES: usize = 20;

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// What may be spent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Bytes of memory for what is read.
    pub memory: u64,
    /// Requests at a time.
    pub requests: usize,
    /// How long a read is tried for before it fails.
    pub deadline: Duration,
    /// Reads that take longer are logged, and operations that wait for longer.
    pub slow: Duration,
}

/// What happened so far.
#[derive(Debug, Default)]
pub struct Counts {
    /// Requests for bytes.
    pub requests: AtomicU64,
    /// Bytes that came.
    pub bytes: AtomicU64,
    /// Bytes that were on the disk.
    pub disk_bytes: AtomicU64,
    /// Requests that were made again.
    pub retries: AtomicU64,
    /// Requests that were given up.
    pub failures: AtomicU64,
    /// How long reads waited; nothing for those whose bytes were here.
    pub waits: Histogram,
}

/// What all fetchers of the process have in common.
pub struct Shared {
    budget: Budget,
    memory: Arc<Memory>,
    queue: Arc<Queue>,
    /// For what is on the disk, which need not wait for a store that hangs.
    local: Arc<Queue>,
    disk: Option<Arc<DiskCache>>,
    /// Held by who fetches in a thread that takes the kernel's requests.
    here: Mutex<()>,
    started: Instant,
    /// Granules that were read ahead, or are.
    ahead: AtomicUsize,
    /// Large files that are read ahead of.
    active: AtomicUsize,
    /// When forsaken files were looked for, by [`Shared::now`].
    reclaimed: AtomicU64,
    files: Mutex<Vec<Weak<RemoteFile>>>,
    sources: Mutex<Vec<Arc<Availability>>>,
    counts: Counts,
}

impl Shared {
    /// The memory and the threads, none of them taken yet.
    pub fn new(budget: Budget, disk: Option<Arc<DiskCache>>) -> anyhow::Result<Arc<Self>> {
        let granules = usize::try_from(budget.memory / GRANULE)?;
        let shared = Arc::new(Shared {
            budget,
            memory: Memory::new(granules),
            // A request needs a granule at a time, and what it brings needs to go somewhere.
            queue: Queue::new(budget.requests.min(granules / 8).max(1)),
            local: Queue::with_spare(LOADING, 0, LOCAL + 1),
            disk,
            here: Mutex::default(),
            started: Instant::now(),
            ahead: AtomicUsize::new(0),
            active: AtomicUsize::new(0),
            reclaimed: AtomicU64::new(0),
            files: Mutex::default(),
            sources: Mutex::default(),
            counts: Counts::default(),
        });
        let weak = Arc::downgrade(&shared);
        thread::Builder::new()
            .name("tidy".into())
            .stack_size(256 * 1024)
            .spawn(move || {
                while let Some(shared) = weak.upgrade() {
                    shared.report_overdue();
                    shared.memory.trim();
                    shared.flush();
                    drop(shared);
                    thread::sleep(Duration::from_secs(1));
                }
            })
            .context("cannot start a thread")?;
        Ok(shared)
    }

    /// Writes down what the disk has.
    pub fn flush(&self) {
        if let Some(disk) = &self.disk {
            disk.flush();
        }
    }

    /// What happened so far.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Bytes of memory in use, and at most.
    pub fn memory(&self) -> (u64, u64) {
        (self.memory.used() as u64 * GRANULE, self.memory.cap() as u64 * GRANULE)
    }

    /// Bytes in the disk cache, and at most, if there is one.
    pub fn disk_bytes(&self) -> Option<(u64, u64)> {
        self.disk.as_ref().map(|disk| disk.bytes())
    }

    /// Why the sources do not work, a sentence for each that does not: what failed last, at which store, and what to
    /// check. Nothing if the last request to each was answered.
    pub fn trouble(&self) -> Option<String> {
        let sources = lock(&self.sources).clone();
        let sentences: Vec<_> = sources.iter().filter_map(|source| source.trouble()).collect();
        (!sentences.is_empty()).then(|| sentences.join("; "))
    }

    /// Logs each operation, once, that still waits although it is slow, and each source that lets operations wait. Answers
    /// the reads whose time is over.
    fn report_overdue(&self) {
        let mut lines = Vec::new();
        let files: Vec<_> = lock(&self.files).iter().filter_map(Weak::upgrade).collect();
        for source in lock(&self.sources).clone() {
            let (mut reads, mut first_read, mut late) = (0, None, 0);
            for file in files.iter().filter(|file| Arc::ptr_eq(&file.origin.availability, &source)) {
                let (count, first) = file.overdue(self.budget.slow, &mut lines);
                reads += count;
                first_read = first_read.into_iter().chain(first).min();
                late += file.expire(self.budget.deadline + GRACE);
            }
            source.overdue(self.budget.slow, &mut lines);
            if let Some(line) = source.silence(reads, first_read, Instant::now()) {
                warn!("{line}");
            }
            if late > 0 {
                warn!("no answer in time errno=EIO reads={late}: --io-timeout is over");
            }
        }
        for line in lines.iter().take(MAX_LINES) {
            warn!("{line}");
        }
        if lines.len() > MAX_LINES {
            warn!("no answer yet for {} further operations", lines.len() - MAX_LINES);
        }
    }

    /// Makes a request that is no read, and again while it is unavailable, until the deadline.
    pub(crate) fn insist<T>(
        &self,
        source: &Availability,
        request: impl FnMut() -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let answer = self.insist_on_write(source, request);
        if answer.is_ok() {
            source.answered();
        }
        answer
    }

    /// The same for one of the steps of an operation that takes as many as it needs: it has as much time for the next one.
    pub(crate) fn insist_on_step<T>(
        &self,
        source: &Availability,
        request: impl FnMut() -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let answer = self.insist(source, request)?;
        Until::renew(self.budget.deadline);
        Ok(answer)
    }

    /// The same for bytes that are written, which may stay in memory: the first success does not prove that the store
    /// answers.
    pub(crate) fn insist_on_write<T>(
        &self,
        source: &Availability,
        mut request: impl FnMut() -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let deadline = Instant::now() + self.budget.deadline;
        // The operation may have waited for its turn, and may have proved that it gets on.
        let deadline = || Until::moment().unwrap_or(deadline);
        let mut pause = FIRST_PAUSE;
        let mut has_failed = false;
        if Instant::now() >= deadline() {
            return Err(StoreError::Unavailable(
                "others have waited for the store for all of the time".into(),
            ));
        }
        let _asking = source.asking();
        loop {
            match request() {
                Err(error) => {
                    source.failed(&error);
                    let is_retried = matches!(error, StoreError::Unavailable(_));
                    if !is_retried || Instant::now() + pause >= deadline() {
                        return Err(error);
                    }
                    has_failed = true;
                    self.wait(&mut pause);
                }
                Ok(answer) => {
                    if has_failed {
                        source.answered();
                    }
                    return Ok(answer);
                }
            }
        }
    }

    fn now(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    /// Granules that may be ahead: some memory is always left to what is waited for.
    fn most_ahead(&self) -> usize {
        self.memory.cap() / 4 * 3
    }

    fn limits(&self, origin: &Origin) -> Limits {
        let least = WORTH_A_SECOND.saturating_mul(origin.latency.load(Ordering::Relaxed)) / 1_000_000;
        let least = least.clamp(*SHORT_PARTS.start(), *SHORT_PARTS.end());
        let active = self.active.load(Ordering::Relaxed).max(1);
        let window = (self.most_ahead() / active) as u64 * GRANULE;
        Limits { window, part: least..=PART, requests: self.queue.requests(origin.lane) as u64 }
    }

    fn may_read_ahead(&self, granules: usize) -> bool {
        let fits = || self.ahead.load(Ordering::Relaxed) + granules <= self.most_ahead();
        fits() || {
            let now = self.now();
            if self.reclaimed.load(Ordering::Relaxed) + RECLAIM > now {
                return false;
            }
            self.reclaimed.store(now, Ordering::Relaxed);
            let forsaken = |file: &RemoteFile| file.used() + (FORSAKEN.as_millis() as u64) < now;
            for file in self.files().into_iter().filter(|file| forsaken(file)) {
                file.make_room(usize::MAX, true);
            }
            fits()
        }
    }

    fn know(&self, file: &Arc<RemoteFile>) {
        let mut known = lock(&self.files);
        // Before it grows: what is gone keeps its room as long as it is known.
        if known.len() == known.capacity() {
            known.retain(|file| file.strong_count() > 0);
        }
        known.push(Arc::downgrade(file));
    }

    /// The files, the longest unused first.
    fn files(&self) -> Vec<Arc<RemoteFile>> {
        let mut files: Vec<_> = {
            let mut known = lock(&self.files);
            known.retain(|file| file.strong_count() > 0);
            known.iter().filter_map(Weak::upgrade).collect()
        };
        // Cached: it changes meanwhile, and an order that is none makes the sort panic.
        files.sort_by_cached_key(|file| file.used());
        files
    }

    /// Gives up some of what is here. What was read ahead goes last, and only for somebody who waits.
    fn make_room(&self, urgent: bool) {
        let wanted = (self.memory.cap() / 16).max(1);
        let files = self.files();
        for all in [false, true] {
            let mut given = 0;
            for file in &files {
                given += file.make_room(wanted - given, all);
                if given >= wanted {
                    return;
                }
            }
            if given > 0 || !urgent {
                return;
            }
        }
    }

    fn begin(self: &Arc<Self>, run: Arc<Run>) {
        if !run.ahead {
            return self.begin_urgent(run);
        }
        let shared = Arc::clone(self);
        self.queue.ahead(run.file.origin.lane, Box::new(move || shared.carry_out(&run)));
    }

    fn begin_urgent(self: &Arc<Self>, run: Arc<Run>) {
        let shared = Arc::clone(self);
        let is_here = run.file.disk().is_some_and(|disk| disk.gap(&run.range).is_none());
        let (queue, lane) = if is_here { (&self.local, LOCAL) } else { (&self.queue, run.file.origin.lane) };
        queue.urgent(lane, Box::new(move || shared.carry_out(&run)));
    }

    /// Begins a short run in the thread of the one who waits, which saves two changes of threads. Only one may
    /// do so at a time, and only try once: there are others to be served by its like.
    fn begin_here(self: &Arc<Self>, run: Arc<Run>) {
        let Ok(_turn) = self.here.try_lock() else { return self.begin_urgent(run) };
        if run.begun.swap(true, Ordering::AcqRel) {
            return;
        }
        let mut progress = Progress::from(run.range.start);
        let streamed = panic::catch_unwind(AssertUnwindSafe(|| self.stream(&run, &mut progress)));
        match streamed.unwrap_or_else(|_| Err(fault())) {
            Ok(()) => {}
            Err(StoreError::Unavailable(_)) => {
                let shared = Arc::clone(self);
                let lane = run.file.origin.lane;
                self.queue.urgent(lane, Box::new(move || shared.persist_calmly(&run, progress)));
            }
            Err(error) => self.give_up(&run, progress.done, &error, false),
        }
    }

    /// Fetches a run, unless somebody does already.
    fn carry_out(&self, run: &Run) {
        if run.begun.swap(true, Ordering::AcqRel) {
            return;
        }
        let awaited = run.awaited.get();
        if run.ahead && awaited.is_none() && run.file.is_left() {
            let error = StoreError::Unavailable("nobody reads it".into());
            return run.file.failed(run, run.range.start, &error, true);
        }
        // Those who waited for it were told that their time is over.
        if !run.ahead && awaited.is_some() && !run.fill && !run.file.has_readers(run) {
            let error = StoreError::Unavailable("nobody waits for it any more".into());
            return run.file.failed(run, run.range.start, &error, true);
        }
        // Its time was spent on others, and in vain.
        let is_late = |since: &Instant| since.elapsed() + FIRST_PAUSE >= self.budget.deadline;
        let failed = *lock(&run.file.origin.failed);
        if awaited.is_some_and(|since| is_late(since) && failed > Some(*since)) {
            let error = StoreError::Unavailable("the store fails those who were before it".into());
            return self.give_up(run, run.range.start, &error, false);
        }
        self.persist_calmly(run, Progress::from(run.range.start));
    }

    /// The same as [`Self::persist`]; who waits is told of a fault of ours, too.
    fn persist_calmly(&self, run: &Run, mut progress: Progress) {
        let persisted = panic::catch_unwind(AssertUnwindSafe(|| drop(self.persist(run, &mut progress))));
        if persisted.is_err() {
            self.give_up(run, progress.done, &fault(), false);
        }
    }

    /// Fetches the rest of a run, again and again if need be. Who waits for it is told by [`RemoteFile::failed`].
    fn persist(&self, run: &Run, progress: &mut Progress) -> Result<(), StoreError> {
        let mut pause = FIRST_PAUSE;
        loop {
            let begun_at = progress.done;
            let error = match self.stream(run, progress) {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            let done = progress.done;
            if done > begun_at {
                pause = FIRST_PAUSE;
            }
            let StoreError::Unavailable(_) = &error else {
                self.give_up(run, done, &error, false);
                return Err(error);
            };
            self.queue.ended(run.file.origin.lane, false);
            *lock(&run.file.origin.failed) = Some(Instant::now());
            // What nobody waits for is asked for again by who will.
            let awaited = run.awaited.get();
            let unseen = awaited.is_none() && done == begun_at;
            // Those who wait for its first byte do so since before its turn came.
            let since = awaited.filter(|since| done == run.range.start && **since < progress.at);
            if unseen || since.unwrap_or(&progress.at).elapsed() + pause >= self.budget.deadline {
                self.give_up(run, done, &error, unseen);
                return Err(error);
            }
            self.wait(&mut pause);
        }
    }

    /// Waits before something is asked for again: between half of the pause and all of it, so that many that
    /// fail together do not come back together. The next pause is longer.
    fn wait(&self, pause: &mut Duration) {
        self.counts.retries.fetch_add(1, Ordering::Relaxed);
        thread::sleep(pause.mul_f64(0.5 + fastrand::f64() / 2.0));
        *pause = (*pause * 2).min(LONGEST_PAUSE);
    }

    fn give_up(&self, run: &Run, done: u64, error: &StoreError, unseen: bool) {
        self.counts.failures.fetch_add(1, Ordering::Relaxed);
        if !unseen && run.awaited.get().is_some() {
            warn!("cannot fetch path={:?} offset={done} error={:?}", run.file.version.key, error.to_string());
        }
        run.file.failed(run, done, error, unseen);
    }

    /// The rest of a run, from the disk and by requests.
    fn stream(&self, run: &Run, progress: &mut Progress) -> Result<(), StoreError> {
        let file = &run.file;
        let disk = file.disk();
        while progress.done < run.range.end {
            let rest = progress.done..run.range.end;
            match disk.as_ref().map(|disk| (disk, disk.gap(&rest))) {
                None => self.request(run, None, rest, progress)?,
                Some((disk, Some(gap))) if gap.start == rest.start => {
                    self.request(run, Some(disk), gap, progress)?;
                }
                Some((_, gap)) if run.fill => progress.to(gap.map_or(rest.end, |gap| gap.start)),
                Some((disk, _)) => self.load(run, disk, progress)?,
            }
        }
        Ok(())
    }

    fn room(&self, run: &Run) -> Result<Granule, StoreError> {
        self.memory.take(|| self.make_room(!run.ahead || run.awaited.get().is_some()))
    }

    /// The next granule from the disk; nothing if it turns out to be damaged.
    fn load(&self, run: &Run, disk: &CachedFile, progress: &mut Progress) -> Result<(), StoreError> {
        let granule = progress.done / GRANULE;
        let whole = within(granule, &(0..run.file.version.size));
        let mut bytes = self.room(run)?;
        if disk.load(granule, &mut bytes[..whole.end as usize]) {
            self.counts.disk_bytes.fetch_add(whole.end, Ordering::Relaxed);
            progress.to((granule * GRANULE + whole.end).min(run.range.end));
            run.file.arrived(granule, whole, Arc::new(bytes));
        }
        Ok(())
    }

    /// One request.
    fn request(
        &self,
        run: &Run,
        disk: Option<&Arc<CachedFile>>,
        range: Range<u64>,
        progress: &mut Progress,
    ) -> Result<(), StoreError> {
        let file = &run.file;
        self.counts.requests.fetch_add(1, Ordering::Relaxed);
        let mut body = file.origin.get(&file.version, range.clone())?;
        while progress.done < range.end {
            let granule = progress.done / GRANULE;
            let piece = within(granule, &(progress.done..range.end));
            let mut bytes = self.room(run)?;
            let room = &mut bytes[piece.start as usize..piece.end as usize];
            fill(&mut body, room, progress.at + self.budget.deadline)
                .map_err(|error| file.origin.cut(&file.version, error))?;
            self.counts.bytes.fetch_add(piece.end - piece.start, Ordering::Relaxed);
            progress.to(granule * GRANULE + piece.end);
            let bytes = Arc::new(bytes);
            let whole = within(granule, &(0..file.version.size));
            let keep = disk.filter(|_| piece == whole).map(|disk| (disk, Arc::clone(&bytes)));
            file.arrived(granule, piece, bytes);
            if let Some((disk, bytes)) = keep {
                disk.store(granule, &bytes[..whole.end as usize]);
            }
        }
        self.queue.ended(file.origin.lane, true);
        *lock(&file.origin.failed) = None;
        file.origin.availability.answered();
        Ok(())
    }
}

/// What whoever waits is told of a fault of this program or of a library.
fn fault() -> StoreError {
    StoreError::Failed("a fault of the program, told before".into())
}

/// How far a run has come, and when.
struct Progress {
    done: u64,
    at: Instant,
}

impl Progress {
    fn from(done: u64) -> Self {
        Progress { done, at: Instant::now() }
    }

    fn to(&mut self, done: u64) {
        *self = Progress::from(done);
    }
}

/// Fills the room. Some servers never keep silent for long, and never come to an end.
fn fill(body: &mut dyn Read, mut room: &mut [u8], deadline: Instant) -> Result<(), StoreError> {
    while !room.is_empty() {
        if Instant::now() > deadline {
            return Err(StoreError::Unavailable("the bytes come too slowly".into()));
        }
        match body.read(room) {
            Ok(0) => return Err(StoreError::Unavailable("the answer ended too early".into())),
            Ok(read) => room = &mut room[read..],
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(StoreError::Unavailable(error.to_string())),
        }
    }
    Ok(())
}

/// Where files come from.
pub(crate) struct Origin {
    /// The bucket's URL.
    source: String,
    bucket: Arc<dyn Bucket>,
    /// The shortest time that it took to answer, in microseconds.
    latency: AtomicU64,
    /// When a request ended badly, unless one ended well since.
    failed: Mutex<Option<Instant>>,
    availability: Arc<Availability>,
    /// Whose share of the threads its requests have.
    lane: usize,
}

impl Origin {
    /// Reports a request whose bytes did not come, which the reason does not name.
    fn cut(&self, version: &Version, error: StoreError) -> StoreError {
        let named = StoreError::Unavailable(format!("the bytes of {:?}: {error}", version.key));
        self.availability.failed(&named);
        error
    }

    fn get(&self, version: &Version, range: Range<u64>) -> Result<Box<dyn Read + Send>, StoreError> {
        let asked = Instant::now();
        let _asking = self.availability.asking();
        let body = self.bucket.get(version, range).inspect_err(|error| self.availability.failed(error))?;
        let latency = u64::try_from(asked.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.latency.fetch_min(latency, Ordering::Relaxed);
        Ok(body)
    }
}

/// Reads the objects of one bucket.
pub struct Fetcher {
    origin: Arc<Origin>,
    shared: Arc<Shared>,
    files: Mutex<Files>,
}

#[derive(Default)]
struct Files {
    known: HashMap<Version, Weak<RemoteFile>>,
    recent: VecDeque<Arc<RemoteFile>>,
}

impl Fetcher {
    /// A reader of the bucket that the URL names.
    pub fn new(source: &str, bucket: Arc<dyn Bucket>, shared: Arc<Shared>) -> Self {
        let availability =
            Arc::new(Availability::new(source, bucket.endpoint().as_deref(), shared.budget.deadline));
        lock(&shared.sources).push(Arc::clone(&availability));
        let latency = AtomicU64::new(u64::MAX);
        let lane = shared.queue.add_lane();
        let origin = Origin {
            source: source.to_string(),
            bucket,
            latency,
            failed: Mutex::default(),
            availability,
            lane,
        };
        Fetcher { origin: Arc::new(origin), shared, files: Mutex::default() }
    }

    /// Whether the bucket answers.
    pub(crate) fn availability(&self) -> Arc<Availability> {
        Arc::clone(&self.origin.availability)
    }

    /// The file of a version, the same for everybody who asks.
    pub fn file(&self, version: &Version) -> Arc<RemoteFile> {
        let mut files = lock(&self.files);
        if let Some(file) = files.known.get(version).and_then(Weak::upgrade) {
            return file;
        }
        let file =
            Arc::new(RemoteFile::new(version.clone(), Arc::clone(&self.origin), Arc::clone(&self.shared)));
        files.known.insert(version.clone(), Arc::downgrade(&file));
        self.shared.know(&file);
        files.recent.push_back(Arc::clone(&file));
        if files.recent.len() > RECENT {
            files.recent.pop_front();
            if files.known.len() > 4 * RECENT {
                files.known.retain(|_, file| file.strong_count() > 0);
            }
        }
        file
    }

    /// Fetches small files that are likely to be opened next.
    pub fn expect(&self, versions: &[Version]) {
        for version in versions.iter().filter(|version| version.size <= file::SMALL) {
            let granules = version.size.div_ceil(GRANULE) as usize;
            if !self.shared.may_read_ahead(granules) {
                return;
            }
            self.file(version).expect();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;
    use std::ops::ControlFlow;
    use std::sync::mpsc;
    use std::time::SystemTime;

    use crate::remote::{Item, Upload};

    /// Bytes that tell their place, from a store that fails so many of ten requests, in every way it may.
    struct Numbers {
        fails: u8,
    }

    fn byte(at: u64) -> u8 {
        (at ^ (at >> 8) ^ (at >> 16).wrapping_mul(31)) as u8
    }

    impl Bucket for Numbers {
        fn get(&self, _: &Version, range: Range<u64>) -> Result<Box<dyn Read + Send>, StoreError> {
            thread::sleep(Duration::from_micros(fastrand::u64(..2000)));
            let end = match fastrand::u8(..10) {
                fault if fault >= self.fails => range.end,
                fault if fault % 2 == 1 => fastrand::u64(range.clone()),
                _ => return Err(StoreError::Unavailable("503".into())),
            };
            Ok(Box::new(Cursor::new((range.start..end).map(byte).collect::<Vec<_>>())))
        }

        fn head(&self, _: &str) -> Result<Version, StoreError> {
            Err(StoreError::NotFound)
        }

        fn list(&self, _: &str, _: &mut dyn FnMut(Vec<Item>) -> ControlFlow<()>) -> Result<bool, StoreError> {
            Ok(true)
        }

        fn put(&self, _: &str) -> Result<Box<dyn Upload>, StoreError> {
            Err(StoreError::Unsupported("put"))
        }

        fn make_directory(&self, _: &str) -> Result<(), StoreError> {
            Err(StoreError::Unsupported("make_directory"))
        }

        fn delete(&self, _: &str) -> Result<(), StoreError> {
            Err(StoreError::Unsupported("delete"))
        }

        fn copy(&self, _: &str, _: &str) -> Result<(), StoreError> {
            Err(StoreError::Unsupported("copy"))
        }
    }

    fn read(file: &Arc<RemoteFile>, at: u64, length: u32) -> Vec<u8> {
        let (sender, answer) = mpsc::channel();
        let answered = move |read: Result<&[u8], StoreError>| sender.send(read.map(<[u8]>::to_vec)).unwrap();
        file.read(at, length, Box::new(answered));
        answer.recv_timeout(Duration::from_secs(30)).expect("an answer").unwrap()
    }

    /// One reader's way through a file: in sequence, at random, backwards or at a stride.
    fn read_somehow(file: &Arc<RemoteFile>, seed: u64) {
        let size = file.version().size;
        let mut random = fastrand::Rng::with_seed(seed);
        let mut at = if seed % 4 == 2 { size } else { random.u64(..size / 2) };
        for _ in 0..60 {
            let length = random.u32(1..300_000);
            at = match seed % 4 {
                0 => at,
                1 => random.u64(..size),
                2 => at.saturating_sub(u64::from(length)),
                _ => at + 700_000,
            };
            let bytes = read(file, at, length);
            assert_eq!(bytes.len() as u64, u64::from(length).min(size.saturating_sub(at)), "{at}+{length}");
            assert!(bytes.iter().zip(at..).all(|(read, at)| *read == byte(at)), "{at}+{length}");
            if seed.is_multiple_of(4) {
                at += u64::from(length);
            }
        }
    }

    fn version(size: u64, key: &str) -> Version {
        Version { key: key.to_string(), size, etag: None, modified: SystemTime::UNIX_EPOCH }
    }

    fn budget() -> Budget {
        Budget { memory: 8 << 20, requests: 16, deadline: Duration::from_secs(60), slow: Duration::MAX }
    }

    /// What is under way ends by itself.
    fn settles(mut settled: impl FnMut() -> bool) -> bool {
        (0..1000).any(|_| {
            thread::sleep(Duration::from_millis(10));
            settled()
        })
    }

    #[test]
    fn reads_that_wait_for_their_turn_fail_with_those_before_them() {
        let budget = Budget { deadline: Duration::from_millis(300), ..budget() };
        let shared = Shared::new(budget, None).unwrap();
        let fetcher = Fetcher::new("s3://down", Arc::new(Numbers { fails: 10 }), Arc::clone(&shared));
        let (sender, answers) = mpsc::channel();
        for number in 0..200 {
            let sender = sender.clone();
            let answered = move |read: Result<&[u8], StoreError>| sender.send(read.is_err()).unwrap();
            fetcher.file(&version(1, &number.to_string())).read(0, 1, Box::new(answered));
        }
        drop(sender);
        assert!(answers.iter().all(|failed| failed));
        // Not each for as long as the first.
        let requests = shared.counts().requests.load(Ordering::Relaxed);
        assert!(requests < 200, "{requests}");
    }

    #[test]
    fn only_an_answer_of_the_store_ends_an_outage() {
        let budget = Budget { deadline: Duration::from_millis(300), ..budget() };
        let shared = Shared::new(budget, None).unwrap();
        let down = Fetcher::new("s3://down", Arc::new(Numbers { fails: 10 }), Arc::clone(&shared));
        let up = Fetcher::new("s3://up", Arc::new(Numbers { fails: 0 }), Arc::clone(&shared));
        let read_once = |fetcher: &Fetcher| {
            let (sender, answer) = mpsc::channel();
            let answered = move |read: Result<&[u8], StoreError>| sender.send(read.is_ok()).unwrap();
            fetcher.file(&version(1, "file")).read(0, 1, Box::new(answered));
            answer.recv_timeout(Duration::from_secs(30)).expect("an answer")
        };
        assert_eq!(shared.trouble(), None);
        assert!(!read_once(&down) && read_once(&up));
        let trouble = || shared.trouble().unwrap_or_default();
        assert!(trouble().starts_with("s3://down is unavailable (") && !trouble().contains("s3://up"));
        // Bytes that are written stay in memory first.
        let source = down.availability();
        shared.insist_on_write(&source, || Ok(())).unwrap();
        assert!(!trouble().is_empty());
        shared.insist(&source, || Ok(())).unwrap();
        assert_eq!(shared.trouble(), None);

        let patient = Shared::new(Budget { deadline: Duration::from_secs(60), ..budget }, None).unwrap();
        let mut attempts = 0;
        let write = || {
            attempts += 1;
            if attempts < 3 { Err(StoreError::Unavailable("503".into())) } else { Ok(()) }
        };
        patient.insist_on_write(&source, write).unwrap();
        assert_eq!(shared.trouble(), None);
        let refused = || Err::<(), _>(StoreError::Denied("GET x: 403".into()));
        assert!(patient.insist(&source, refused).is_err());
        assert!(trouble().contains("s3://down refuses access (GET x: 403)"));
    }

    #[test]
    fn what_nobody_came_to_read_is_reserved_no_longer() {
        let shared = Shared::new(budget(), None).unwrap();
        let fetcher = Fetcher::new("s3://flaky", Arc::new(Numbers { fails: 2 }), Arc::clone(&shared));
        let reserved = || (shared.ahead.load(Ordering::Relaxed), shared.active.load(Ordering::Relaxed));
        // Closed while requests are under way.
        let file = fetcher.file(&version(30 << 20, "large"));
        for _ in 0..50 {
            file.open();
            file.read(0, GRANULE as u32, Box::new(|_| ()));
            file.close();
        }
        assert!(settles(|| reserved() == (0, 0)), "{:?}", reserved());
        // Expected, and forgotten.
        let small: Vec<_> = (0..20).map(|number| version(1000, &number.to_string())).collect();
        fetcher.expect(&small);
        drop((file, fetcher));
        assert!(settles(|| reserved() == (0, 0)), "{:?}", reserved());
    }

    #[test]
    fn a_file_that_fits_is_fetched_whole_once_random_reads_have_cost_enough() {
        let shared = Shared::new(budget(), None).unwrap();
        let fetcher = Fetcher::new("s3://sound", Arc::new(Numbers { fails: 0 }), Arc::clone(&shared));
        let read_at_random = |size: u64, count: u64| {
            let file = fetcher.file(&version(size, &size.to_string()));
            file.open();
            let granules = size / GRANULE;
            for number in 1..=count {
                // Not from the start, which is read ahead of; hardly ever two that follow each other, nor at one
                // distance.
                let granule = number * number * 7 % granules;
                read(&file, granule * GRANULE, 4096);
            }
            file
        };
        let bytes = || shared.counts().bytes.load(Ordering::Relaxed);
        let fits = 23 * GRANULE;
        let _file = read_at_random(fits, u64::from(file::PROMOTED) + 4);
        // But for the rest of what was being read then.
        assert!(settles(|| bytes() >= fits - GRANULE), "{} of {fits}", bytes());
        // One that does not fit is not.
        let before = bytes();
        let _file = read_at_random(1009 * GRANULE, 40);
        thread::sleep(Duration::from_millis(100));
        assert!(bytes() - before < 40 * GRANULE, "{}", bytes() - before);
    }

    #[test]
    fn readers_get_their_bytes_and_leave_nothing_behind() {
        let place = tempfile::tempdir().unwrap();
        for disk in [None, Some(DiskCache::open(place.path(), 40 << 20).unwrap())] {
            let shared = Shared::new(budget(), disk).unwrap();
            let fetcher = Fetcher::new("s3://flaky", Arc::new(Numbers { fails: 2 }), Arc::clone(&shared));
            let files: Vec<_> = [30 << 20, 3_333_333, 999_999, 1]
                .map(|size| fetcher.file(&version(size, &size.to_string())))
                .into_iter()
                .collect();
            thread::scope(|scope| {
                for seed in 0..12 {
                    let file = &files[seed as usize % 3];
                    scope.spawn(move || {
                        file.open();
                        read_somehow(file, seed);
                        file.close();
                    });
                }
            });
            let (used, cap) = shared.memory();
            assert!(used <= cap, "{used} of {cap}");
            let rest = || {
                let (ahead, active) = (&shared.ahead, &shared.active);
                (ahead.load(Ordering::Relaxed), active.load(Ordering::Relaxed), shared.memory().0)
            };
            let settled = settles(|| {
                for file in &files {
                    file.make_room(usize::MAX, true);
                }
                rest() == (0, 0, 0)
            });
            assert!(settled, "{:?}", rest());
        }
    }
}
