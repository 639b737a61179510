//! One version of an object, being read: which of its bytes are here, which are coming, and who waits.
//!
//! A file is cut into granules at multiples of [`GRANULE`]. A read that finds its bytes here is answered at
//! once; one that does not waits at the first granule that is not, in a list, not in a thread: whoever brings
//! the granule answers it. So a read costs one round trip however large the request that brings it, and many
//! readers of the same bytes share one request. What was handed out whole is given up at once, since the
//! kernel keeps it. This module knows neither connections nor retries.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use super::disk::CachedFile;
use super::memory::{GRANULE, Granule, granules, within};
use super::streams::Streams;
use super::{Origin, PART, Progress, Shared};
use crate::inodes::lock;
use crate::remote::Version;
use crate::store::{Answer, Slow, StoreError};

/// Whole files up to this size are fetched when they are opened.
pub(crate) const SMALL: u64 = 1024 * 1024;

/// Reads that no stream accounts for, until the rest of the file is fetched, too, if there is room for all.
pub(super) const PROMOTED: u32 = 12;

/// A version of an object.
pub struct RemoteFile {
    pub(crate) version: Version,
    pub(super) origin: Arc<Origin>,
    shared: Arc<Shared>,
    state: Mutex<State>,
    /// The store has another version by now.
    stale: AtomicBool,
    /// Handles.
    opened: AtomicU32,
    /// What the disk has of it, while it is open.
    disk: Mutex<Option<Arc<CachedFile>>>,
    /// It was fetched for somebody who has not come yet.
    expected: AtomicBool,
    /// When it was used last, by the [`Shared`] clock.
    used: AtomicU64,
}

struct State {
    slots: BTreeMap<u64, Slot>,
    /// Granules in the order in which they came; some may be gone by now.
    order: VecDeque<u64>,
    streams: Streams,
    /// Slots that count against what may be read ahead.
    ahead: usize,
    /// Reads that found nothing and that no stream accounts for.
    misses: u32,
}

/// A granule of the file that is here or coming, or a part of it.
struct Slot {
    /// Which bytes of the granule.
    range: Range<u64>,
    /// It counts against what may be read ahead.
    ahead: bool,
    /// Bytes that were handed out.
    taken: u64,
    content: Content,
}

enum Content {
    Coming { run: Arc<Run>, waiting: Vec<Read> },
    Here(Arc<Granule>),
}

/// A request for consecutive bytes.
pub(crate) struct Run {
    pub(crate) file: Arc<RemoteFile>,
    pub(crate) range: Range<u64>,
    /// Fetched before it was asked for.
    pub(crate) ahead: bool,
    /// Fetched for the disk: nobody knows that it is coming.
    pub(crate) fill: bool,
    /// Somebody carries it out.
    pub(crate) begun: AtomicBool,
    /// Since when somebody waits for some of it.
    pub(crate) awaited: OnceLock<Instant>,
    /// When some of it came, by the [`Shared`] clock.
    came: AtomicU64,
}

struct Read {
    offset: u64,
    length: u64,
    answer: Answer,
    /// Since when it waits.
    parked: Option<Instant>,
    /// It was logged that it still waits.
    is_reported: bool,
}

impl Read {
    fn park(mut self) -> Self {
        self.parked.get_or_insert_with(Instant::now);
        self
    }
}

/// What became of a read.
enum Outcome {
    /// The bytes are in these granules.
    Here(Read, Vec<(Arc<Granule>, Range<usize>)>),
    /// It waits for a request, which must be begun if it is given.
    Waits(Option<Arc<Run>>),
}

impl RemoteFile {
    pub(super) fn new(version: Version, origin: Arc<Origin>, shared: Arc<Shared>) -> Self {
        let state = State {
            slots: BTreeMap::new(),
            order: VecDeque::new(),
            streams: Streams::new(version.size),
            ahead: 0,
            misses: 0,
        };
        RemoteFile {
            version,
            origin,
            shared,
            state: Mutex::new(state),
            stale: AtomicBool::new(false),
            opened: AtomicU32::new(0),
            disk: Mutex::new(None),
            expected: AtomicBool::new(false),
            used: AtomicU64::new(0),
        }
    }

    /// The version that is read.
    pub fn version(&self) -> &Version {
        &self.version
    }

    /// Whether the store was seen to have another version by now.
    pub fn is_stale(&self) -> bool {
        self.stale.load(Ordering::Relaxed)
    }

    /// A handle more. A small file is fetched now, unless the disk has it: whoever opens it will read it.
    pub fn open(self: &Arc<Self>) {
        self.hold();
        let whole = 0..self.version.size;
        if whole.end <= SMALL && self.disk().is_none_or(|disk| disk.gap(&whole).is_some()) {
            self.fetch_whole(false);
        }
    }

    /// A handle less. What was fetched ahead for nobody is given up.
    pub fn close(&self) {
        if self.opened.fetch_sub(1, Ordering::Relaxed) == 1 {
            let mut state = lock(&self.state);
            let unread = |_: &u64, slot: &Slot| slot.ahead && matches!(slot.content, Content::Here(_));
            self.give_up(&mut state, usize::MAX, unread);
            drop(state);
            // What is not open may be driven out. It may have been opened again by now.
            let mut disk = lock(&self.disk);
            if self.opened.load(Ordering::Relaxed) == 0 {
                *disk = None;
            }
        }
    }

    /// A handle more, for which nothing is fetched: whether the disk can [keep](RemoteFile::keep) the file.
    pub fn hold(&self) -> bool {
        self.opened.fetch_add(1, Ordering::Relaxed);
        self.expected.store(false, Ordering::Relaxed);
        self.touch();
        self.find_on_disk();
        self.disk().is_some()
    }

    /// Brings a part of the file, which begins and ends where granules do, to the disk. Whether it is there then
    /// is told by [`RemoteFile::is_whole`] when all parts are.
    pub fn keep(self: &Arc<Self>, range: Range<u64>) -> Result<(), StoreError> {
        let mut begun = Progress::from(range.start);
        self.shared.persist(&self.run(range, true, true, true), &mut begun)
    }

    /// Whether the disk has all of it for sure.
    pub fn is_whole(&self) -> bool {
        self.disk().is_some_and(|disk| {
            if disk.is_unsealed() {
                disk.seal();
            }
            disk.whole().is_some()
        })
    }

    fn run(self: &Arc<Self>, range: Range<u64>, ahead: bool, fill: bool, awaited: bool) -> Run {
        let file = Arc::clone(self);
        let awaited = if awaited { Instant::now().into() } else { OnceLock::new() };
        Run { file, range, ahead, fill, begun: AtomicBool::new(false), awaited, came: AtomicU64::new(0) }
    }

    fn find_on_disk(&self) {
        let mut disk = lock(&self.disk);
        if disk.is_none() {
            *disk =
                self.shared.disk.as_ref().and_then(|cache| cache.file(&self.origin.source, &self.version));
            if let Some(file) = disk.as_ref().filter(|file| file.is_unsealed()) {
                let file = Arc::clone(file);
                self.shared.queue.ahead(self.origin.lane, Box::new(move || file.seal()));
            }
        }
    }

    /// What the disk has of it.
    pub(crate) fn disk(&self) -> Option<Arc<CachedFile>> {
        lock(&self.disk).clone()
    }

    /// The file as it is on the disk, if all of it is there.
    pub fn whole(&self) -> Option<OwnedFd> {
        self.disk()?.whole()?.try_clone().ok().map(OwnedFd::from)
    }

    /// Somebody is expected to open this small file.
    pub(crate) fn expect(self: &Arc<Self>) {
        if self.opened.load(Ordering::Relaxed) == 0 && !self.expected.swap(true, Ordering::Relaxed) {
            self.touch();
            self.find_on_disk();
            self.fetch_whole(true);
        }
    }

    /// Nobody will read what is fetched ahead.
    pub(crate) fn is_left(&self) -> bool {
        self.opened.load(Ordering::Relaxed) == 0 && !self.expected.load(Ordering::Relaxed)
    }

    fn fetch_whole(self: &Arc<Self>, ahead: bool) {
        let run = {
            let mut state = lock(&self.state);
            if !state.slots.is_empty() || self.version.size == 0 {
                return;
            }
            self.plan(&mut state, 0..self.version.size, ahead, None)
        };
        self.shared.begin(run);
    }

    /// Reads. The answer may come at once or from another thread.
    pub fn read(self: &Arc<Self>, offset: u64, length: u32, answer: Answer) {
        let size = self.version.size;
        let end = offset.saturating_add(u64::from(length)).min(size);
        if offset >= end {
            return answer(Ok(&[]));
        }
        if self.is_stale() {
            return answer(Err(StoreError::Stale));
        }
        self.touch();
        let limits = self.shared.limits(&self.origin);
        let mut runs = Vec::new();
        let (outcome, random) = {
            let mut state = lock(&self.state);
            let advice = state.streams.read(offset..end, &limits, self.shared.started.elapsed());
            if !advice.left.is_empty() {
                let left = granules(&advice.left);
                self.give_up(&mut state, usize::MAX, |granule, slot| {
                    left.contains(granule) && matches!(slot.content, Content::Here(_))
                });
            }
            let read = Read { offset, length: end - offset, answer, parked: None, is_reported: false };
            let outcome = self.attempt(&mut state, read, advice.demand_end);
            if matches!(outcome, Outcome::Waits(None)) {
                state.streams.waited(&(offset..end));
            }
            if advice.random && matches!(outcome, Outcome::Waits(_)) {
                state.misses += 1;
                if state.misses == PROMOTED {
                    self.promote(&mut state, &mut runs);
                }
            }
            for ahead in std::iter::once(advice.ahead).chain(advice.stride) {
                self.read_ahead(&mut state, ahead, advice.part, &mut runs);
            }
            (outcome, advice.random)
        };
        for run in runs {
            self.shared.begin(run);
        }
        match outcome {
            Outcome::Waits(Some(run)) if random => self.shared.begin_here(run),
            outcome => self.settle(outcome),
        }
    }

    /// A line for each read that has waited for that long and has none yet; how many reads wait, and since when the first
    /// of them does. Only here are reads that wait looked for, so that those that do not cost nothing more.
    pub(crate) fn overdue(&self, slow: Duration, lines: &mut Vec<String>) -> (usize, Option<Instant>) {
        let availability = &self.origin.availability;
        let (mut reason, mut count, mut first) = (None, 0, None);
        for slot in lock(&self.state).slots.values_mut() {
            let Content::Coming { waiting, .. } = &mut slot.content else { continue };
            for read in waiting {
                count += 1;
                first = first.into_iter().chain(read.parked).min();
                let Some(waited) = read.parked.map(|since| since.elapsed()).filter(|waited| *waited >= slow)
                else {
                    continue;
                };
                if std::mem::replace(&mut read.is_reported, true) {
                    continue;
                }
                let (offset, length) = (read.offset, read.length);
                let what =
                    format!("operation=read path={:?} offset={offset} length={length}", self.version.key);
                let reason = reason.get_or_insert_with(|| availability.awaited());
                lines.push(availability.line(&what, waited, reason));
            }
        }
        (count, first)
    }

    /// Answers the reads whose time is over while nothing came of the request that they wait for: how many. The request
    /// may have no thread yet, or one that hangs.
    pub(crate) fn expire(&self, deadline: Duration) -> usize {
        let mut late = Vec::new();
        {
            let now = self.shared.now();
            let deadline_ms = deadline.as_millis() as u64;
            for slot in lock(&self.state).slots.values_mut() {
                let Content::Coming { run, waiting } = &mut slot.content else { continue };
                let came = run.came.load(Ordering::Relaxed);
                if came > 0 && now < came.saturating_add(deadline_ms) {
                    continue;
                }
                let is_late = |read: &mut Read| read.parked.is_some_and(|since| since.elapsed() >= deadline);
                late.extend(waiting.extract_if(.., is_late));
            }
        }
        let count = late.len();
        for read in late {
            self.answer(read, Err(StoreError::Unavailable("no answer in time".into())));
        }
        count
    }

    /// Whether anybody waits for some of a request.
    pub(crate) fn has_readers(&self, run: &Run) -> bool {
        let state = lock(&self.state);
        let mut slots = granules(&run.range).filter_map(|granule| state.slots.get(&granule));
        slots.any(|slot| match &slot.content {
            Content::Coming { run: other, waiting } => std::ptr::eq(&**other, run) && !waiting.is_empty(),
            Content::Here(_) => false,
        })
    }

    fn touch(&self) {
        self.used.store(self.shared.now(), Ordering::Relaxed);
    }

    /// When it was read last.
    pub(crate) fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    fn read_ahead(
        self: &Arc<Self>,
        state: &mut State,
        ahead: Range<u64>,
        part: u64,
        runs: &mut Vec<Arc<Run>>,
    ) {
        let mut from = ahead.start;
        while from < ahead.end {
            let to = (from + part).min(ahead.end);
            if !self.shared.may_read_ahead(granules(&(from..to)).count()) {
                state.streams.refused(from);
                return;
            }
            let gaps: Vec<_> = self.missing(state, &(from..to)).collect();
            runs.extend(gaps.into_iter().map(|gap| self.plan(state, gap, true, None)));
            from = to;
        }
    }

    /// Many reads at random places cost a round trip each; all of the file costs no more than some of them.
    fn promote(self: &Arc<Self>, state: &mut State, runs: &mut Vec<Arc<Run>>) {
        let whole = 0..self.version.size;
        match self.disk() {
            None if granules(&whole).count() <= self.shared.most_ahead() / 2 => {
                self.read_ahead(state, whole, PART, runs);
            }
            None => {}
            Some(_) => runs.extend((0..self.version.size.div_ceil(PART)).map(|part| {
                let range = part * PART..((part + 1) * PART).min(self.version.size);
                Arc::new(self.run(range, true, true, false))
            })),
        }
    }

    /// Finds a read's bytes, or lets it wait where the first of them is missing.
    fn attempt(self: &Arc<Self>, state: &mut State, read: Read, demand_end: u64) -> Outcome {
        let end = read.offset + read.length;
        let mut at = read.offset;
        while at < end {
            let granule = at / GRANULE;
            let wanted = within(granule, &(at..end));
            match state.slots.get_mut(&granule) {
                // Should other bytes of the granule be coming, what it has then is looked at again.
                Some(Slot { content: Content::Coming { run, waiting }, .. }) => {
                    waiting.push(read.park());
                    run.awaited.get_or_init(Instant::now);
                    let pending = !run.begun.load(Ordering::Relaxed);
                    return Outcome::Waits(pending.then(|| Arc::clone(run)));
                }
                Some(slot) if slot.range.start <= wanted.start && wanted.end <= slot.range.end => {}
                Some(_) | None => {
                    self.remove(state, granule);
                    // The disk keeps whole granules.
                    let range = match self.shared.disk {
                        Some(_) => {
                            granule * GRANULE
                                ..demand_end.max(end).next_multiple_of(GRANULE).min(self.version.size)
                        }
                        None => at..demand_end.max(end),
                    };
                    let gap = self.missing(state, &range).next().unwrap_or(range);
                    return Outcome::Waits(Some(self.plan(state, gap, false, Some(read.park()))));
                }
            }
            at = granule * GRANULE + wanted.end;
        }
        let pieces = granules(&(read.offset..end))
            .filter_map(|granule| {
                let wanted = within(granule, &(read.offset..end));
                let slot = state.slots.get_mut(&granule)?;
                let Content::Here(bytes) = &slot.content else { return None };
                let piece = (Arc::clone(bytes), wanted.start as usize..wanted.end as usize);
                slot.taken += wanted.end - wanted.start;
                if slot.taken >= slot.range.end - slot.range.start {
                    self.remove(state, granule);
                }
                Some(piece)
            })
            .collect();
        Outcome::Here(read, pieces)
    }

    /// The gaps of a range: what is neither here nor coming.
    fn missing<'a>(
        &self,
        state: &'a State,
        range: &Range<u64>,
    ) -> impl Iterator<Item = Range<u64>> + use<'a> {
        let range = range.clone();
        let mut left = granules(&range);
        std::iter::from_fn(move || {
            let first = left.find(|granule| !state.slots.contains_key(granule))?;
            let end = left.find(|granule| state.slots.contains_key(granule)).unwrap_or(left.end);
            Some(range.start.max(first * GRANULE)..range.end.min(end * GRANULE))
        })
    }

    /// Marks a gap as coming, by one request; the read waits for its beginning.
    fn plan(
        self: &Arc<Self>,
        state: &mut State,
        gap: Range<u64>,
        ahead: bool,
        read: Option<Read>,
    ) -> Arc<Run> {
        let run = Arc::new(self.run(gap.clone(), ahead, false, read.is_some()));
        let mut waiting = Vec::from_iter(read);
        for granule in granules(&gap) {
            let content = Content::Coming { run: Arc::clone(&run), waiting: std::mem::take(&mut waiting) };
            state.slots.insert(granule, Slot { range: within(granule, &gap), ahead, taken: 0, content });
        }
        if ahead {
            self.reserve(state, granules(&gap).count());
        }
        run
    }

    fn reserve(&self, state: &mut State, count: usize) {
        if state.ahead == 0 && self.has_window() {
            self.shared.active.fetch_add(1, Ordering::Relaxed);
        }
        state.ahead += count;
        self.shared.ahead.fetch_add(count, Ordering::Relaxed);
    }

    fn release(&self, state: &mut State, count: usize) {
        if count == 0 {
            return;
        }
        state.ahead -= count;
        if state.ahead == 0 && self.has_window() {
            self.shared.active.fetch_sub(1, Ordering::Relaxed);
        }
        self.shared.ahead.fetch_sub(count, Ordering::Relaxed);
    }

    /// Whether what is read ahead of it is a window, to which it needs a share of the memory, and not all of it.
    fn has_window(&self) -> bool {
        self.version.size > SMALL
    }

    fn remove(&self, state: &mut State, granule: u64) -> Option<Slot> {
        let removed = state.slots.remove(&granule);
        if removed.as_ref().is_some_and(|slot| slot.ahead) {
            self.release(state, 1);
        }
        removed
    }

    /// Gives up granules that are here, in the order in which they came.
    fn give_up(&self, state: &mut State, most: usize, which: impl Fn(&u64, &Slot) -> bool) -> usize {
        let mut order = std::mem::take(&mut state.order);
        let mut given = 0;
        order.retain(|granule| match state.slots.get(granule) {
            None => false,
            Some(slot) if given < most && which(granule, slot) => {
                self.remove(state, *granule);
                given += 1;
                false
            }
            Some(_) => true,
        });
        state.order = order;
        given
    }

    /// Makes room: granules that are here, those that were read ahead only if `all`.
    /// Does not wait for the file, so that it can be called by who holds another.
    pub(crate) fn make_room(&self, most: usize, all: bool) -> usize {
        let Ok(mut state) = self.state.try_lock() else { return 0 };
        self.give_up(&mut state, most, |_, slot| {
            matches!(slot.content, Content::Here(_)) && (all || !slot.ahead)
        })
    }

    /// A granule of a request has come.
    pub(crate) fn arrived(self: &Arc<Self>, granule: u64, range: Range<u64>, bytes: Arc<Granule>) {
        let outcomes: Vec<Outcome> = {
            let mut state = lock(&self.state);
            let state = &mut *state;
            let Some(slot) = state.slots.get_mut(&granule) else { return };
            let before = std::mem::replace(&mut slot.content, Content::Here(bytes));
            if let Content::Coming { run, .. } = &before {
                run.came.store(self.shared.now(), Ordering::Relaxed);
            }
            slot.range = range;
            let ahead = slot.ahead;
            state.order.push_back(granule);
            if state.order.len() > 64 && state.order.len() > 2 * state.slots.len() {
                let slots = &state.slots;
                state.order.retain(|granule| slots.contains_key(granule));
            }
            match before {
                Content::Coming { waiting, .. } if waiting.is_empty() && ahead && self.is_left() => {
                    // Closed meanwhile: nobody would give it up.
                    self.remove(state, granule);
                    Vec::new()
                }
                Content::Coming { waiting, .. } => {
                    waiting.into_iter().map(|read| self.attempt(state, read, 0)).collect()
                }
                Content::Here(_) => Vec::new(),
            }
        };
        for outcome in outcomes {
            self.settle(outcome);
        }
    }

    /// A request has failed from an offset on: whoever waits is told so. Where it was given up although it might
    /// have gone better, because nobody was seen to wait, those that came meanwhile ask by requests of their own.
    pub(crate) fn failed(self: &Arc<Self>, run: &Run, from: u64, error: &StoreError, unseen: bool) {
        if matches!(error, StoreError::Stale) {
            self.stale.store(true, Ordering::Relaxed);
        }
        let mut failed = Vec::new();
        let mut again = Vec::new();
        {
            let mut state = lock(&self.state);
            let state = &mut *state;
            for granule in granules(&(from..run.range.end)) {
                let ours = state.slots.get(&granule).is_some_and(|slot| {
                    matches!(&slot.content, Content::Coming { run: other, .. } if std::ptr::eq(&**other, run))
                });
                if !ours {
                    continue;
                }
                if let Some(Slot { content: Content::Coming { waiting, .. }, .. }) =
                    self.remove(state, granule)
                {
                    failed.extend(waiting);
                }
            }
            if !run.fill {
                state.streams.refused(from);
            }
            // What was read ahead was tried for a time that was not theirs.
            if unseen || (run.ahead && matches!(error, StoreError::Unavailable(_))) {
                again.extend(failed.drain(..).map(|read| self.attempt(state, read, 0)));
            }
        }
        for outcome in again {
            self.settle(outcome);
        }
        for read in failed {
            self.answer(read, Err(error.clone()));
        }
    }

    fn settle(&self, outcome: Outcome) {
        match outcome {
            Outcome::Waits(Some(run)) => self.shared.begin_urgent(run),
            Outcome::Waits(None) => {}
            Outcome::Here(read, pieces) => match pieces.as_slice() {
                [(bytes, range)] => self.answer(read, Ok(&bytes[range.clone()])),
                pieces => {
                    let length = pieces.iter().map(|(_, range)| range.len()).sum();
                    let mut whole = Vec::with_capacity(length);
                    for (bytes, range) in pieces {
                        whole.extend_from_slice(&bytes[range.clone()]);
                    }
                    self.answer(read, Ok(&whole));
                }
            },
        }
    }

    fn answer(&self, read: Read, bytes: Result<&[u8], StoreError>) {
        let waited = read.parked.map(|since| since.elapsed()).unwrap_or_default();
        self.shared.counts.waits.add(waited);
        let slow = Slow(self.shared.budget.slow);
        slow.tell(waited, &self.version.key, read.offset, read.length, &bytes);
        (read.answer)(bytes);
    }
}

impl Drop for RemoteFile {
    /// Gives back what was reserved for bytes that nobody came to read.
    fn drop(&mut self) {
        let mut state = lock(&self.state);
        let count = state.ahead;
        self.release(&mut state, count);
    }
}
