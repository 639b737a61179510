//! Decides which bytes to prefetch, from the offsets of one file's reads alone.
//!
//! Reads that follow each other are a stream, whoever makes them: one descriptor, several threads on one descriptor or
//! several processes. A stream that has shown that it goes on is prefetched for, as far as its [`Window`] reaches. Any
//! other read requests its own bytes alone; with a disk cache, the whole blocks that have them. Three rules keep prefetched bytes from being wasted:
//!
//! - No stream is prefetched for into bytes that another stream has read.
//! - Streams that are read at the same time share the window. The first of them would leave nothing to the others
//!   otherwise.
//! - If streams end before they used most of their prefetched bytes, the file's next streams have to read more before
//!   they are prefetched for.
//!
//! Short reads at equal distances are a stride: the next of them are prefetched, too. After many random reads that had
//! to wait, the caller requests the rest of the file. This module makes no requests and takes no memory: it is given
//! limits and returns advice.

use std::ops::Range;
use std::time::Duration;

use super::block::BLOCK_SIZE;
use super::tuning::Tuning;
use super::window::{PrefetchLimits, Window};

/// The requests that a read should cause.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Advice {
    /// The end of the request for the read's own bytes, if they are missing.
    pub(super) demand_end: u64,
    /// The bytes to prefetch, in requests of `request_size` bytes.
    pub(super) prefetch: Range<u64>,
    /// Bytes of such a request.
    pub(super) request_size: u64,
    /// Bytes that were prefetched for a stream which is no longer followed.
    pub(super) abandoned: Range<u64>,
    /// The next reads of a stride.
    pub(super) stride: Vec<Range<u64>>,
    /// The read continues no stream, or one that is too short to be prefetched for.
    pub(super) is_random: bool,
}

/// The streams of a file.
#[derive(Debug)]
pub(super) struct Prefetcher {
    size: u64,
    tuning: Tuning,
    /// Bytes that a stream has to read before it is prefetched for.
    min_sequential: u64,
    /// Reads so far.
    clock: u64,
    streams: Vec<SequentialStream>,
    stride: Stride,
    random_waits: u32,
}

/// The distance between the last streams' starts.
#[derive(Debug, Default)]
struct Stride {
    start: u64,
    distance: u64,
    /// Reads that had this distance.
    reads: u32,
    /// The end of the bytes that were advised.
    advised: u64,
}

#[derive(Debug)]
struct SequentialStream {
    /// The end of the furthest read.
    next: u64,
    /// Bytes read in sequence.
    seen: u64,
    /// The end of the bytes that were advised.
    advised: u64,
    /// It began at the file's start.
    is_from_start: bool,
    /// When it was read last, in reads of the file.
    used: u64,
    window: Window,
}

impl SequentialStream {
    fn start(&self) -> u64 {
        self.next.saturating_sub(self.seen)
    }
}

impl Prefetcher {
    /// The prefetcher of a file that was not read yet.
    pub(super) fn new(size: u64) -> Self {
        let tuning = Tuning::default();
        Prefetcher {
            size,
            min_sequential: tuning.min_sequential,
            tuning,
            clock: 0,
            streams: Vec::new(),
            stride: Stride::default(),
            random_waits: 0,
        }
    }

    /// Follows a read, which is not empty and within the file.
    pub(super) fn read(&mut self, read: Range<u64>, limits: &PrefetchLimits, now: Duration) -> Advice {
        self.clock += 1;
        let (index, abandoned, stride) = match self.find(&read) {
            Some(index) => (index, 0..0, Vec::new()),
            None => {
                let stride = self.follow_stride(&read, limits);
                let (index, abandoned) = self.begin(&read, limits, now);
                (index, abandoned, stride)
            }
        };
        let end = self.end_of(self.streams[index].next.max(read.end));
        let limits = self.share(limits);
        let (size, tuning) = (self.size, &self.tuning);
        let stream = &mut self.streams[index];
        stream.used = self.clock;
        if read.end > stream.next {
            stream.seen += read.end - stream.next.max(read.start);
            stream.next = read.end;
        }
        stream.window.adapt(stream.seen, now, &limits, tuning);
        // The file's start is trusted until streams ended early.
        let is_trusted = stream.seen >= self.min_sequential
            || (stream.is_from_start && self.min_sequential == tuning.min_sequential);
        let window = if is_trusted { stream.window.bytes().min(limits.window) } else { 0 };
        let request_size = (window / limits.concurrency.clamp(1, tuning.max_window_requests))
            .clamp(*limits.request.start(), *limits.request.end())
            // Whole blocks, so that no block comes in two pieces.
            .next_multiple_of(BLOCK_SIZE);
        if window == 0 {
            // The kernel's own read-ahead is part of the read.
            let demand_end = read.end;
            stream.advised = stream.advised.max(demand_end);
            let is_random = self.stride.reads < tuning.min_stride_reads;
            return Advice { demand_end, prefetch: 0..0, request_size, abandoned, stride, is_random };
        }
        let demand_end =
            read.end.max(read.start + request_size.min(window)).next_multiple_of(BLOCK_SIZE).min(end);
        let start = match stream.advised {
            advised if advised < read.end => demand_end,
            advised if advised == size => size,
            advised => advised / BLOCK_SIZE * BLOCK_SIZE,
        };
        let target = (stream.next + window).min(end);
        // Whole requests only, but for the last.
        let end = match target == end {
            true => end,
            false => start + target.saturating_sub(start) / request_size * request_size,
        };
        let prefetch = start..end.max(start);
        stream.advised = prefetch.end;
        Advice { demand_end, prefetch, request_size, abandoned, stride, is_random: false }
    }

    /// Notes that a read had to wait for bytes that were on their way.
    pub(super) fn waited(&mut self, read: &Range<u64>) {
        if let Some(stream) = self.streams.iter_mut().find(|stream| stream.next == read.end) {
            stream.window.waited();
        }
    }

    /// Notes that a random read had to wait. Returns whether the rest of the file should be fetched now: many such reads
    /// cost a round trip each, and all of the file costs no more than some of them.
    pub(super) fn random_read_waited(&mut self) -> bool {
        self.random_waits += 1;
        self.random_waits == self.tuning.max_random_waits
    }

    /// Notes that bytes could not be prefetched after all. Streams ask for them again.
    pub(super) fn refused(&mut self, from: u64) {
        for stream in &mut self.streams {
            if stream.advised > from && stream.next <= from {
                stream.advised = from;
            }
        }
    }

    /// Where the next stream begins that was read, or the file's end.
    fn end_of(&self, next: u64) -> u64 {
        let established = self.streams.iter().filter(|other| other.seen >= self.tuning.min_sequential);
        let starts = established.map(SequentialStream::start).filter(|start| *start >= next);
        starts.min().unwrap_or(self.size).next_multiple_of(BLOCK_SIZE).min(self.size)
    }

    /// The limits of one of the streams that are read at the same time.
    fn share(&self, limits: &PrefetchLimits) -> PrefetchLimits {
        let is_read = |other: &&SequentialStream| {
            other.seen >= self.tuning.min_sequential && self.clock - other.used < self.tuning.sharing_reads
        };
        let streams = self.streams.iter().filter(is_read).count().max(1) as u64;
        PrefetchLimits { window: limits.window / streams, ..limits.clone() }
    }

    /// The stream that a read continues.
    fn find(&self, read: &Range<u64>) -> Option<usize> {
        let disorder = self.tuning.max_disorder;
        let is_near = |stream: &SequentialStream| {
            let last = stream.advised.max(stream.next + disorder);
            read.start + disorder >= stream.next && read.start <= last
        };
        (0..self.streams.len())
            .filter(|&index| is_near(&self.streams[index]))
            .min_by_key(|&index| self.streams[index].next.abs_diff(read.start))
            .filter(|&index| {
                let stream = &self.streams[index];
                // A read that is merely near does not continue a stream of few bytes.
                let gap = stream.next.abs_diff(read.start);
                gap <= stream.seen.max(read.end - read.start)
            })
    }

    /// The next reads of a stride, if the read is one of it.
    fn follow_stride(&mut self, read: &Range<u64>, limits: &PrefetchLimits) -> Vec<Range<u64>> {
        let stride = &mut self.stride;
        let distance = read.start.saturating_sub(stride.start);
        let previous = self.streams.iter().find(|stream| stream.start() == stride.start);
        let length = previous.map_or(0, |stream| stream.seen).max(read.end - read.start);
        match distance > 0 && distance == stride.distance {
            true => stride.reads += 1,
            false => *stride = Stride { distance, reads: 1, ..Stride::default() },
        }
        stride.start = read.start;
        if stride.reads < self.tuning.min_stride_reads || length >= self.tuning.min_sequential {
            return Vec::new();
        }
        let most =
            u64::from(stride.reads).min(self.tuning.max_stride_ahead).min(limits.window / length.max(1));
        let (size, advised) = (self.size, stride.advised);
        let reads: Vec<_> = (1..=most)
            .map(|step| read.start.saturating_add(step.saturating_mul(distance)))
            .filter(|start| *start >= advised && *start < size)
            .map(|start| start..start.saturating_add(length).min(size))
            .collect();
        stride.advised = reads.last().map_or(advised, |last| last.end);
        reads
    }

    /// Begins a stream. Returns its index, and the bytes that were prefetched for the one that made room for it.
    fn begin(&mut self, read: &Range<u64>, limits: &PrefetchLimits, now: Duration) -> (usize, Range<u64>) {
        let opening = self.tuning.opening(*limits.request.start());
        let stream = SequentialStream {
            next: read.start,
            seen: 0,
            advised: read.start,
            is_from_start: read.start == 0,
            used: self.clock,
            window: Window::new(opening, now, &self.tuning),
        };
        if self.streams.len() < self.tuning.max_streams {
            self.streams.push(stream);
            return (self.streams.len() - 1, 0..0);
        }
        // Single reads make room first.
        let value = |&index: &usize| {
            let stream = &self.streams[index];
            (stream.seen >= self.tuning.min_sequential, stream.used)
        };
        let oldest = (0..self.streams.len()).min_by_key(value).unwrap_or(0);
        let old = std::mem::replace(&mut self.streams[oldest], stream);
        let abandoned = old.next..old.advised.max(old.next);
        if abandoned.end - abandoned.start > old.seen.max(BLOCK_SIZE) {
            self.min_sequential = self.min_sequential.max(2 * old.seen);
        }
        (oldest, abandoned)
    }
}

#[cfg(test)]
mod tests;
