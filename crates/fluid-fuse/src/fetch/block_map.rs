//! The blocks of one file that are in memory or on their way, and the reads that wait for them.
//!
//! A read whose blocks are all here is complete at once. Any other read waits in the list of the first block that is not
//! here; the thread that completes the block looks for the rest of the read's blocks. So a read waits for
//! its own bytes only, however large the request is that brings them: one round trip for each gap, and many reads of the same bytes share one request. A block that
//! was handed out whole leaves the map at once, since the kernel caches it.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::block::{BLOCK_SIZE, Block, blocks, count, gaps, within};
use super::quota::QuotaShare;
use super::request::{Purpose, RangeRequest};
use crate::store::Answer;

/// The order in which blocks came is cleaned of blocks that have gone once it has this many entries, and twice as many
/// as there are blocks.
const MIN_CLEANED: usize = 64;

/// A read that has no answer yet.
pub(super) struct PendingRead {
    pub(super) range: Range<u64>,
    pub(super) answer: Answer,
    waiting_since: Option<Instant>,
    /// A log line told that the read still waits.
    is_reported: bool,
}

impl PendingRead {
    pub(super) fn new(range: Range<u64>, answer: Answer) -> Self {
        PendingRead { range, answer, waiting_since: None, is_reported: false }
    }

    /// Bytes that it asks for.
    pub(super) fn length(&self) -> u64 {
        self.range.end - self.range.start
    }

    /// How long it has waited; zero if its blocks were here.
    pub(super) fn waited(&self) -> Duration {
        self.waiting_since.map(|since| since.elapsed()).unwrap_or_default()
    }

    /// Since when it waits, if its blocks were not here.
    pub(super) fn waiting_since(&self) -> Option<Instant> {
        self.waiting_since
    }

    /// How long it has waited, if that is at least `slow` and was not reported: from now on it was.
    pub(super) fn report_overdue(&mut self, slow: Duration) -> Option<Duration> {
        let waited = self.waiting_since.filter(|_| !self.is_reported)?.elapsed();
        self.is_reported = waited >= slow;
        self.is_reported.then_some(waited)
    }

    fn wait(mut self) -> Self {
        self.waiting_since.get_or_insert_with(Instant::now);
        self
    }
}

/// The state of a read after the map was searched for its blocks.
pub(super) enum Outcome {
    /// These pieces of blocks are its bytes.
    Complete(PendingRead, Vec<(Arc<Block>, Range<usize>)>),
    /// It waits for this request, which has to be started.
    MustStart(Arc<RangeRequest>),
    /// It waits for a request that a thread carries out.
    Waits,
}

/// Which blocks are evicted.
#[derive(Clone, Debug)]
pub(super) enum Evict {
    /// Those that were not prefetched: somebody has read at them already.
    Read,
    /// Those that were prefetched.
    Prefetched,
    /// Those of a range.
    Within(Range<u64>),
    All,
}

/// Whether somebody may read what is prefetched for a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Readers {
    /// The file is open, or is expected to be opened.
    Expected,
    /// The file was closed.
    Gone,
}

/// Which bytes a read without prefetching requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DemandUnit {
    /// Those that it asked for.
    Bytes,
    /// All bytes of the blocks: the disk cache keeps whole blocks.
    Blocks,
}

/// The blocks of one file.
pub(super) struct BlockMap {
    size: u64,
    demand_unit: DemandUnit,
    slots: BTreeMap<u64, Slot>,
    /// Blocks in the order in which they came; some may have gone by now.
    arrivals: VecDeque<u64>,
    prefetched: QuotaShare,
}

/// A block, or a piece of it, that is here or on its way.
struct Slot {
    /// Which bytes of the block.
    range: Range<u64>,
    /// It counts against the quota.
    is_prefetched: bool,
    /// Bytes that were handed out.
    taken: u64,
    content: Content,
}

enum Content {
    Requested { request: Arc<RangeRequest>, reads: Vec<PendingRead> },
    Cached(Arc<Block>),
}

impl BlockMap {
    pub(super) fn new(size: u64, demand_unit: DemandUnit, prefetched: QuotaShare) -> Self {
        BlockMap { size, demand_unit, slots: BTreeMap::new(), arrivals: VecDeque::new(), prefetched }
    }

    /// Whether no block is here or on its way.
    pub(super) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Finds the bytes of a read, or lets it wait for the first block that is missing. A request that has to be made
    /// for it goes on until `demand_end`.
    pub(super) fn read(&mut self, read: PendingRead, demand_end: u64) -> Outcome {
        let end = read.range.end;
        let mut at = read.range.start;
        while at < end {
            let block = at / BLOCK_SIZE;
            let wanted = within(block, &(at..end));
            match self.slots.get_mut(&block) {
                // If other bytes of the block are on their way, the read finds that out once they are here.
                Some(Slot { content: Content::Requested { request, reads }, .. }) => {
                    reads.push(read.wait());
                    request.await_from_now();
                    return match request.is_claimed() {
                        true => Outcome::Waits,
                        false => Outcome::MustStart(Arc::clone(request)),
                    };
                }
                Some(slot) if slot.range.start <= wanted.start && wanted.end <= slot.range.end => {}
                Some(_) | None => {
                    self.remove(block);
                    let demand_end = demand_end.max(end);
                    let range = match self.demand_unit {
                        DemandUnit::Bytes => at..demand_end,
                        DemandUnit::Blocks => {
                            block * BLOCK_SIZE..demand_end.next_multiple_of(BLOCK_SIZE).min(self.size)
                        }
                    };
                    let gap = self.gaps(range.clone()).next().unwrap_or(range);
                    return Outcome::MustStart(self.request(gap, Purpose::Read, Some(read.wait())));
                }
            }
            at = block * BLOCK_SIZE + wanted.end;
        }
        let pieces = blocks(&read.range).filter_map(|block| self.take(block, &read.range)).collect();
        Outcome::Complete(read, pieces)
    }

    /// Hands out the bytes of a range that are in a block.
    fn take(&mut self, block: u64, range: &Range<u64>) -> Option<(Arc<Block>, Range<usize>)> {
        let wanted = within(block, range);
        let slot = self.slots.get_mut(&block)?;
        let Content::Cached(bytes) = &slot.content else { return None };
        let piece = (Arc::clone(bytes), wanted.start as usize..wanted.end as usize);
        slot.taken += wanted.end - wanted.start;
        if slot.taken >= slot.range.end - slot.range.start {
            self.remove(block);
        }
        Some(piece)
    }

    /// The gaps of a range: bytes that are neither here nor on their way.
    pub(super) fn gaps(&self, range: Range<u64>) -> impl Iterator<Item = Range<u64>> {
        gaps(range, |block| !self.slots.contains_key(&block))
    }

    /// Notes that one request brings a gap. The read, if there is one, waits for the gap's first block.
    pub(super) fn request(
        &mut self,
        gap: Range<u64>,
        purpose: Purpose,
        read: Option<PendingRead>,
    ) -> Arc<RangeRequest> {
        let request = Arc::new(RangeRequest::new(gap.clone(), purpose));
        if read.is_some() {
            request.await_from_now();
        }
        let mut reads = Vec::from_iter(read);
        let is_prefetched = purpose == Purpose::Prefetch;
        for block in blocks(&gap) {
            let content =
                Content::Requested { request: Arc::clone(&request), reads: std::mem::take(&mut reads) };
            self.slots.insert(block, Slot { range: within(block, &gap), is_prefetched, taken: 0, content });
        }
        if is_prefetched {
            self.prefetched.take(count(&gap));
        }
        request
    }

    /// Puts bytes of a block where they were expected, and looks for the rest of the reads that waited for them. A
    /// prefetched block is dropped if the file's readers are gone: nobody would evict it.
    pub(super) fn arrived(
        &mut self,
        block: u64,
        range: Range<u64>,
        bytes: Arc<Block>,
        readers: Readers,
    ) -> Vec<Outcome> {
        let Some(slot) = self.slots.get_mut(&block) else { return Vec::new() };
        let before = std::mem::replace(&mut slot.content, Content::Cached(bytes));
        slot.range = range;
        let is_prefetched = slot.is_prefetched;
        self.arrivals.push_back(block);
        if self.arrivals.len() > MIN_CLEANED && self.arrivals.len() > 2 * self.slots.len() {
            let slots = &self.slots;
            self.arrivals.retain(|block| slots.contains_key(block));
        }
        let Content::Requested { request, reads } = before else { return Vec::new() };
        request.note_arrival();
        if reads.is_empty() && is_prefetched && readers == Readers::Gone {
            self.remove(block);
        }
        reads.into_iter().map(|read| self.read(read, 0)).collect()
    }

    /// Removes the blocks that a request does not bring after all, from an offset on. Returns the reads that waited.
    pub(super) fn cancel(&mut self, request: &RangeRequest, from: u64) -> Vec<PendingRead> {
        let mut waiting = Vec::new();
        for block in blocks(&(from..request.range.end)) {
            let is_from = |slot: &Slot| match &slot.content {
                Content::Requested { request: other, .. } => std::ptr::eq(&**other, request),
                Content::Cached(_) => false,
            };
            if self.slots.get(&block).is_some_and(is_from)
                && let Some(Slot { content: Content::Requested { reads, .. }, .. }) = self.remove(block)
            {
                waiting.extend(reads);
            }
        }
        waiting
    }

    /// Evicts up to `most` blocks that are here, the oldest first. Returns how many.
    pub(super) fn evict(&mut self, most: usize, which: &Evict) -> usize {
        let is_wanted = |block: &u64, slot: &Slot| {
            matches!(slot.content, Content::Cached(_))
                && match which {
                    Evict::Read => !slot.is_prefetched,
                    Evict::Prefetched => slot.is_prefetched,
                    Evict::Within(range) => blocks(range).contains(block),
                    Evict::All => true,
                }
        };
        let mut arrivals = std::mem::take(&mut self.arrivals);
        let mut evicted = 0;
        arrivals.retain(|block| match self.slots.get(block) {
            None => false,
            Some(slot) if evicted < most && is_wanted(block, slot) => {
                self.remove(*block);
                evicted += 1;
                false
            }
            Some(_) => true,
        });
        self.arrivals = arrivals;
        evicted
    }

    /// The reads that wait.
    pub(super) fn waiting(&mut self) -> impl Iterator<Item = &mut PendingRead> {
        self.slots.values_mut().flat_map(|slot| match &mut slot.content {
            Content::Requested { reads, .. } => reads.as_mut_slice(),
            Content::Cached(_) => &mut [],
        })
    }

    /// Whether a read waits for some block of a request.
    pub(super) fn is_awaited(&self, request: &RangeRequest) -> bool {
        blocks(&request.range).filter_map(|block| self.slots.get(&block)).any(|slot| match &slot.content {
            Content::Requested { request: other, reads } => {
                std::ptr::eq(&**other, request) && !reads.is_empty()
            }
            Content::Cached(_) => false,
        })
    }

    /// Takes out the reads that have waited for this long, and whose request has brought nothing meanwhile: it may have
    /// no thread yet, or one that hangs.
    pub(super) fn expire(&mut self, timeout: Duration) -> Vec<PendingRead> {
        let mut expired = Vec::new();
        for slot in self.slots.values_mut() {
            if let Content::Requested { request, reads } = &mut slot.content
                && !request.arrived_within(timeout)
            {
                expired.extend(reads.extract_if(.., |read| read.waited() >= timeout));
            }
        }
        expired
    }

    fn remove(&mut self, block: u64) -> Option<Slot> {
        let removed = self.slots.remove(&block);
        if removed.as_ref().is_some_and(|slot| slot.is_prefetched) {
            self.prefetched.release(1);
        }
        removed
    }
}
