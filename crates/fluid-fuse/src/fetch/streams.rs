//! What to read ahead: decided from the offsets of one file's reads alone.
//!
//! Reads that follow each other are a stream, whoever makes them: one descriptor, several threads on one
//! descriptor, several processes. A file has up to [`STREAMS`] at a time. A stream that has shown that it
//! goes on is read ahead of, by a multiple of what it has read; other reads get what they asked for and no
//! more. Streams that were left before they used what was fetched for them make the file's next ones wait
//! longer for that trust. This module knows neither memory nor requests nor time.

use std::ops::Range;

use super::memory::GRANULE;

/// Streams that a file is followed on at a time; the longest unused gives way.
const STREAMS: usize = 8;

/// The kernel's own requests reach us out of order by as much.
const DISORDER: u64 = 512 * 1024;

/// What a stream has to read before it is read ahead of, unless it began at the file's start.
const PATIENCE: u64 = 512 * 1024;

/// What a read brings at least: a page cache that is read at random reads near again.
const LEAST: u64 = 64 * 1024;

/// What is fetched at once when a file is read from its start.
const OPENING: u64 = 4 * 1024 * 1024;

/// The read-ahead of a trusted stream, in multiples of what it has read.
const GROWTH: u64 = 4;

/// How much may be fetched, as far as the rest of the process is concerned.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Bytes that a stream may be ahead.
    pub(crate) window: u64,
    /// Bytes of a request in a stream that flows.
    pub(crate) part: u64,
    /// Requests that should be under way.
    pub(crate) requests: u64,
}

/// What should be under way because of a read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Advice {
    /// Where the request ends that brings the read's own bytes, should they be missing.
    pub(crate) demand_end: u64,
    /// What comes after, to be fetched by requests of `part` bytes.
    pub(crate) ahead: Range<u64>,
    /// Bytes of such a request.
    pub(crate) part: u64,
    /// What was fetched ahead for a stream that is followed no longer.
    pub(crate) left: Range<u64>,
    /// The read is not known to continue a stream.
    pub(crate) random: bool,
}

/// The streams of a file.
#[derive(Debug)]
pub(crate) struct Streams {
    size: u64,
    patience: u64,
    clock: u64,
    streams: Vec<Stream>,
}

#[derive(Debug)]
struct Stream {
    /// The end of the furthest read.
    next: u64,
    /// Bytes read in sequence.
    seen: u64,
    /// The end of what was advised.
    ahead: u64,
    /// It began at the file's start.
    from_start: bool,
    used: u64,
}

impl Streams {
    /// The streams of a file that was not read yet.
    pub(crate) fn new(size: u64) -> Self {
        Streams { size, patience: PATIENCE, clock: 0, streams: Vec::new() }
    }

    /// Follows a read (not empty, within the file).
    pub(crate) fn read(&mut self, read: Range<u64>, limits: &Limits) -> Advice {
        self.clock += 1;
        let (index, left) = match self.find(&read) {
            Some(index) => (index, 0..0),
            None => self.begin(&read),
        };
        let size = self.size;
        let (clock, patience) = (self.clock, self.patience);
        let Some(stream) = self.streams.get_mut(index) else {
            return Advice { demand_end: read.end, ahead: 0..0, part: limits.part, left, random: true };
        };
        stream.used = clock;
        if read.end > stream.next {
            stream.seen += read.end - stream.next.max(read.start);
            stream.next = read.end;
        }
        let opening = stream.from_start && patience == PATIENCE;
        let window = match stream.seen >= patience {
            true => (GROWTH * stream.seen).max(OPENING),
            false if opening => OPENING,
            false => 0,
        };
        let window = window.min(limits.window);
        // Whole granules, so that none is brought in two pieces.
        let part = (window / limits.requests.max(1)).clamp(limits.part.min(1 << 20), limits.part);
        let part = part.next_multiple_of(GRANULE);
        if window == 0 {
            let demand_end = read.end.max(read.start + LEAST).min(size);
            stream.ahead = stream.ahead.max(demand_end);
            return Advice { demand_end, ahead: 0..0, part, left, random: true };
        }
        let demand_end = read.end.max(read.start + part.min(window)).next_multiple_of(GRANULE).min(size);
        let begin = if stream.ahead < read.end { demand_end } else { stream.ahead / GRANULE * GRANULE };
        let target = (stream.next + window).min(size);
        // Whole requests only, but for the file's last.
        let end = match target == size {
            true => size,
            false => begin + target.saturating_sub(begin) / part * part,
        };
        let ahead = begin..end.max(begin);
        stream.ahead = ahead.end;
        Advice { demand_end, ahead, part, left, random: false }
    }

    /// What was advised ahead and could not be had after all: the stream asks for it again.
    pub(crate) fn refused(&mut self, from: u64) {
        for stream in &mut self.streams {
            if stream.ahead > from && stream.next <= from {
                stream.ahead = from;
            }
        }
    }

    fn find(&self, read: &Range<u64>) -> Option<usize> {
        let near = |stream: &Stream| {
            let last = stream.ahead.max(stream.next + DISORDER);
            read.start + DISORDER >= stream.next && read.start <= last
        };
        (0..self.streams.len())
            .filter(|&index| near(&self.streams[index]))
            .min_by_key(|&index| self.streams[index].next.abs_diff(read.start))
            .filter(|&index| {
                let stream = &self.streams[index];
                // A stream of few bytes is no reason to take what only comes near it for its continuation.
                let gap = stream.next.abs_diff(read.start);
                gap <= stream.seen.max(read.end - read.start)
            })
    }

    fn begin(&mut self, read: &Range<u64>) -> (usize, Range<u64>) {
        let stream = Stream {
            next: read.start,
            seen: 0,
            ahead: read.start,
            from_start: read.start == 0,
            used: self.clock,
        };
        if self.streams.len() < STREAMS {
            self.streams.push(stream);
            return (self.streams.len() - 1, 0..0);
        }
        let oldest = (0..self.streams.len()).min_by_key(|&index| self.streams[index].used).unwrap_or(0);
        let old = std::mem::replace(&mut self.streams[oldest], stream);
        let left = old.next..old.ahead.max(old.next);
        if left.end - left.start > LEAST {
            self.patience = self.patience.max(2 * old.seen);
        }
        (oldest, left)
    }
}
