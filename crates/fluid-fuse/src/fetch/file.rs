//! A version of an object, as its reader sees it.

use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::block::count;
use super::block_map::{Evict, Outcome, PendingRead};
use super::file_state::{FileState, ReadState, SMALL_FILE};
use super::request::{MAX_REQUEST_SIZE, Purpose, RangeRequest, request_ranges};
use super::shared::Shared;
use super::transfer::FetchJob;
use super::window::PrefetchLimits;
use crate::remote::Version;
use crate::store::{Answer, StoreError};
use crate::sync::lock;

/// A version of an object that can be opened and read.
pub struct RemoteFile {
    pub(super) state: Arc<FileState>,
    shared: Arc<Shared>,
}

impl RemoteFile {
    pub(super) fn new(state: Arc<FileState>, shared: Arc<Shared>) -> Self {
        RemoteFile { state, shared }
    }

    /// The version that is read.
    pub fn version(&self) -> &Version {
        &self.state.version
    }

    /// Whether the store was seen to have another version by now.
    pub fn is_stale(&self) -> bool {
        self.state.is_stale()
    }

    /// Adds a handle. A small file that the disk cache lacks is fetched at once: whoever opens it will read it.
    pub fn open(&self) {
        self.hold();
        let whole = self.whole_range();
        let has_gap = || self.state.disk().is_none_or(|disk| disk.gap(&whole).is_some());
        if whole.end <= SMALL_FILE && has_gap() {
            self.fetch_whole(Purpose::Read);
        }
    }

    /// Removes a handle. After the last one, prefetched blocks that nobody read are evicted.
    pub fn close(&self) {
        self.state.close();
    }

    /// Adds a handle for which nothing is fetched.
    pub fn hold(&self) {
        self.state.usage.open();
        self.find_in_disk_cache();
    }

    /// The file in the disk cache, if it has all bytes.
    pub fn whole(&self) -> Option<OwnedFd> {
        self.state.disk()?.whole()?.try_clone().ok().map(OwnedFd::from)
    }

    /// Prefetches the file, which is small, for somebody who is expected to open it.
    pub(super) fn expect(&self) {
        if self.state.usage.expect() {
            self.state.usage.touch();
            self.find_in_disk_cache();
            self.fetch_whole(Purpose::Prefetch);
        }
    }

    /// Reads. The answer may come at once, or later from another thread.
    pub fn read(&self, offset: u64, length: u32, answer: Answer) {
        let end = offset.saturating_add(u64::from(length)).min(self.version().size);
        if offset >= end {
            return answer(Ok(&[]));
        }
        if self.is_stale() {
            return answer(Err(StoreError::Stale));
        }
        self.state.usage.touch();
        let limits = self.limits();
        let mut requests = Vec::new();
        let (outcome, is_random) = {
            let mut state = lock(&self.state.reading);
            let advice = state.prefetcher.read(offset..end, &limits, self.state.usage.now());
            if !advice.abandoned.is_empty() {
                state.blocks.evict(usize::MAX, &Evict::Within(advice.abandoned));
            }
            let outcome = state.blocks.read(PendingRead::new(offset..end, answer), advice.demand_end);
            if matches!(outcome, Outcome::Waits) {
                state.prefetcher.waited(&(offset..end));
            }
            if advice.is_random
                && !matches!(outcome, Outcome::Complete(..))
                && state.prefetcher.random_read_waited()
            {
                self.request_rest(&mut state, &mut requests);
            }
            for range in std::iter::once(advice.prefetch).chain(advice.stride) {
                self.prefetch(&mut state, range, advice.request_size, &mut requests);
            }
            (outcome, advice.is_random)
        };
        for request in requests {
            self.shared.runner.start(self.job(request));
        }
        match outcome {
            // A prefetch that no thread has begun may be large.
            Outcome::MustStart(request) if is_random && request.purpose == Purpose::Read => {
                self.shared.runner.run_inline(self.job(request));
            }
            outcome => self.shared.runner.settle(&self.state, outcome),
        }
    }

    /// How much may be prefetched for the file now.
    fn limits(&self) -> PrefetchLimits {
        PrefetchLimits {
            window: self.shared.files.quota.window(),
            request: self.state.origin.shortest_request()..=MAX_REQUEST_SIZE,
            concurrency: self.shared.runner.concurrency(&self.state.origin) as u64,
        }
    }

    fn job(&self, request: Arc<RangeRequest>) -> FetchJob {
        FetchJob { file: Arc::clone(&self.state), request }
    }

    fn whole_range(&self) -> Range<u64> {
        0..self.version().size
    }

    fn find_in_disk_cache(&self) {
        let mut disk = lock(&self.state.disk);
        if disk.is_none() {
            let cache = self.shared.disk.as_ref();
            *disk = cache.and_then(|cache| cache.file(&self.state.origin.source, self.version()));
            if let Some(file) = disk.as_ref().filter(|file| file.is_unsealed()) {
                let file = Arc::clone(file);
                self.shared.runner.start_later(&self.state.origin, move || file.seal());
            }
        }
    }

    /// Requests the whole file at once, unless some of it is here.
    fn fetch_whole(&self, purpose: Purpose) {
        let request = {
            let mut state = lock(&self.state.reading);
            if !state.blocks.is_empty() || self.version().size == 0 {
                return;
            }
            state.blocks.request(self.whole_range(), purpose, None)
        };
        self.shared.runner.start(self.job(request));
    }

    /// Requests the gaps of a range ahead of its reads, as far as the quota allows.
    fn prefetch(
        &self,
        state: &mut ReadState,
        range: Range<u64>,
        request_size: u64,
        requests: &mut Vec<Arc<RangeRequest>>,
    ) {
        let mut start = range.start;
        while start < range.end {
            let end = (start + request_size).min(range.end);
            if !self.shared.files.may_prefetch(count(&(start..end))) {
                return state.prefetcher.refused(start);
            }
            let gaps: Vec<_> = state.blocks.gaps(start..end).collect();
            requests.extend(gaps.into_iter().map(|gap| state.blocks.request(gap, Purpose::Prefetch, None)));
            start = end;
        }
    }

    /// Requests the rest of the file, if it fits into the disk cache or well into memory.
    fn request_rest(&self, state: &mut ReadState, requests: &mut Vec<Arc<RangeRequest>>) {
        let whole = self.whole_range();
        match self.state.disk() {
            Some(_) => requests.extend(
                request_ranges(whole.end).map(|range| Arc::new(RangeRequest::new(range, Purpose::FillDisk))),
            ),
            None if count(&whole) <= self.shared.files.quota.limit() / 2 => {
                self.prefetch(state, whole, MAX_REQUEST_SIZE, requests);
            }
            None => {}
        }
    }
}
