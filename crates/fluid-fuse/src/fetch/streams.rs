//! What to read ahead: decided from the offsets of one file's reads alone.
//!
//! Reads that follow each other are a stream, whoever makes them: one descriptor, several threads on one
//! descriptor, several processes. A file has up to [`STREAMS`] at a time. A stream that has shown that it goes
//! on is read ahead of; other reads get what they asked for and no more. How far ahead is found out: when
//! reads had to wait although their bytes were under way, the window is widened, and narrowed again if that
//! made the stream no faster. Over a long way the first steps are taken at once. So a store with a long way
//! gets the window it needs, and bytes that come as fast as they are read stay in the processor's caches. No
//! stream is read ahead of into what another has read, and those that are read at a time share what may be ahead:
//! the first would leave nothing for the others otherwise. Streams that were left before they used most of what
//! was fetched for them make the file's next ones wait longer for that trust. Short reads at even distances
//! are a stride: the next of them are fetched, too. This module knows neither memory nor requests, and time as
//! a number.

use std::ops::{Range, RangeInclusive};
use std::time::Duration;

use super::memory::GRANULE;

/// Streams that a file is followed on at a time; the longest unused gives way.
const STREAMS: usize = 8;

/// Streams share what may be ahead if each was read among so many of the file's last reads.
const TOGETHER: u64 = 64;

/// The kernel's own requests reach us out of order by as much.
const DISORDER: u64 = 512 * 1024;

/// What a stream has to read before it is read ahead of, unless it began at the file's start.
const PATIENCE: u64 = 512 * 1024;

/// What is fetched at once when a file is read from its start, at most.
const OPENING: u64 = 4 * 1024 * 1024;

/// As many of the shortest requests, if that is less.
const OPENING_REQUESTS: u64 = 8;

/// Requests that a stream's window is divided into at most. With 64 instead of 32 at a time, bytes over a long way
/// came no faster, and took more of the processor.
const DIVIDED: u64 = 32;

/// By how much a window is widened or narrowed at a time.
const STEP: u64 = 4;

/// How long a stream's speed is measured at least: what else the processor does meanwhile takes milliseconds.
const LONG_ENOUGH: Duration = Duration::from_millis(50);

/// A window that is wider for less gain in speed is wider for nothing.
const WORTH: f64 = 1.15;

/// As wide as a window over a long way is before its gain is known.
const LONG_WAY: u64 = 64 * 1024 * 1024;

/// A window that was widened for as much gain is what the way to the store takes. Less may be what connecting
/// took when the stream began.
const CERTAIN: f64 = 4.0;

/// Bytes that are read until another width is tried after one was for nothing: twice as many each time. What
/// was right may have been chance, and what is right may change.
const HOLD: Range<u64> = 256 << 20..8 << 30;

/// The same after a gain that was certain: to try a narrower window would cost much.
const HOLD_CERTAIN: u64 = 2 << 30;

/// Reads at one distance from each other that make a stride.
const STRIDE: u32 = 3;

/// Reads of a stride that are fetched ahead at most.
const STRIDES_AHEAD: u64 = 16;

/// How much may be fetched, as far as the rest of the process is concerned.
#[derive(Clone, Debug)]
pub(crate) struct Limits {
    /// Bytes that the file's streams may be ahead.
    pub(crate) window: u64,
    /// Bytes of a request in a stream that flows: so many at least, and at most. How few pay depends on how far
    /// away the store is.
    pub(crate) part: RangeInclusive<u64>,
    /// Requests that should be under way.
    pub(crate) requests: u64,
}

impl Limits {
    fn opening(&self) -> u64 {
        OPENING.min(OPENING_REQUESTS * self.part.start())
    }
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
    /// Reads of a stride that are expected next.
    pub(crate) stride: Vec<Range<u64>>,
    /// The read is not known to continue anything.
    pub(crate) random: bool,
}

/// The streams of a file.
#[derive(Debug)]
pub(crate) struct Streams {
    size: u64,
    patience: u64,
    clock: u64,
    streams: Vec<Stream>,
    stride: Stride,
}

/// Where the last streams began.
#[derive(Debug, Default)]
struct Stride {
    start: u64,
    distance: u64,
    /// Reads that were so far apart.
    count: u32,
    /// The end of what was advised.
    ahead: u64,
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
    window: Window,
}

impl Stream {
    fn begin(&self) -> u64 {
        self.next.saturating_sub(self.seen)
    }
}

/// How far ahead of a stream is fetched.
#[derive(Debug)]
struct Window {
    bytes: u64,
    /// What it began with, which is the least.
    opening: u64,
    /// The widest that was allowed last.
    most: u64,
    /// Before this was read, what is read was still asked for by the window as it was before.
    settled: u64,
    /// What had been read when the measurement began, and when that was.
    begun: Option<(u64, Duration)>,
    /// A read had to wait since.
    waited: bool,
    /// It is widened with each read.
    ramping: bool,
    /// Bytes a second before another width was tried, and the width.
    trial: Option<(f64, u64)>,
    /// What has to be read before the next trial, and how much it is from then to the one after.
    hold: u64,
    next_hold: u64,
    /// The next trial is whether narrower does as well.
    narrow: bool,
}

impl Window {
    fn new(opening: u64, now: Duration) -> Self {
        Window {
            bytes: opening,
            opening,
            most: opening,
            settled: 0,
            begun: Some((0, now)),
            waited: false,
            ramping: false,
            trial: None,
            hold: 0,
            next_hold: HOLD.start,
            narrow: false,
        }
    }

    /// Measures some reading, and decides on the width.
    fn adapt(&mut self, seen: u64, now: Duration, limits: &Limits) {
        let most = limits.window;
        if most > self.most && self.bytes == self.most {
            // It was not the way to the store that it stopped at.
            (self.hold, self.narrow) = (0, false);
        }
        self.most = most;
        let opening = limits.opening();
        if opening < self.opening {
            // The store is nearer than was known.
            if self.bytes == self.opening || self.ramping {
                (self.bytes, self.begun) = (opening, Some((seen, now)));
                (self.ramping, self.trial) = (false, None);
            }
            self.opening = opening;
        }
        let untried = self.bytes == OPENING && self.trial.is_none() && self.hold == 0 && most > OPENING;
        if let Some((0, since)) = self.begun
            && untried
            && self.waited
            && seen >= OPENING
            && now > since
        {
            // Over a long way that is too little for any bandwidth, and to measure step by step takes long. All of
            // the width asked for at once would come at once, the first of it last.
            let speed = seen as f64 / (now - since).as_secs_f64();
            (self.trial, self.ramping, self.begun) = (Some((speed, OPENING)), true, None);
        }
        if self.ramping {
            let end = LONG_WAY.min(most).max(opening);
            self.bytes = (STEP * seen).min(end);
            self.ramping = self.bytes < end;
            self.settled = seen + self.bytes;
            return;
        }
        let Some((from, since)) = self.begun else {
            if seen >= self.settled {
                (self.begun, self.waited) = (Some((seen, now)), false);
            }
            return;
        };
        let (read, time) = (seen - from, now.saturating_sub(since));
        // What was asked for together comes together: one window alone would tell nothing.
        if read < 2 * self.bytes || time < LONG_ENOUGH {
            return;
        }
        let speed = read as f64 / time.as_secs_f64();
        let width = self.bytes;
        let failed = self.trial.take().is_some_and(|(before, other)| {
            if width > other && speed >= CERTAIN * before {
                self.next_hold = self.next_hold.max(HOLD_CERTAIN);
            }
            let failed = if width > other { speed < WORTH * before } else { WORTH * speed < before };
            if failed {
                self.bytes = other;
            }
            failed
        });
        let next = match self.narrow {
            true => (width / STEP).max(self.opening),
            false if self.waited => (width * STEP).min(most).max(self.opening),
            false => width,
        };
        if failed || (seen >= self.hold && next == width && (self.narrow || width > self.opening)) {
            self.hold = seen + self.next_hold;
            self.next_hold = (2 * self.next_hold).min(HOLD.end);
            self.narrow = !self.narrow && self.bytes > self.opening;
        } else if seen >= self.hold && next != width {
            self.bytes = next;
            self.trial = Some((speed, width));
        }
        self.waited = false;
        self.settled = seen + width.max(self.bytes);
        self.begun = (self.bytes == width).then_some((seen, now));
    }
}

impl Streams {
    /// The streams of a file that was not read yet.
    pub(crate) fn new(size: u64) -> Self {
        Streams { size, patience: PATIENCE, clock: 0, streams: Vec::new(), stride: Stride::default() }
    }

    /// Follows a read (not empty, within the file).
    pub(crate) fn read(&mut self, read: Range<u64>, limits: &Limits, now: Duration) -> Advice {
        self.clock += 1;
        let (index, left, stride) = match self.find(&read) {
            Some(index) => (index, 0..0, Vec::new()),
            None => {
                let stride = self.follow_stride(&read, limits);
                let (index, left) = self.begin(&read, limits.opening(), now);
                (index, left, stride)
            }
        };
        let (size, clock, patience) = (self.size, self.clock, self.patience);
        let next = self.streams[index].next.max(read.end);
        let begins = self.streams.iter().filter(|other| other.seen >= PATIENCE).map(Stream::begin);
        let others = begins.filter(|begin| *begin >= next).min().unwrap_or(size);
        let end = others.next_multiple_of(GRANULE).min(size);
        let goes_on = |other: &&Stream| other.seen >= PATIENCE && clock - other.used < TOGETHER;
        let sharing = self.streams.iter().filter(goes_on).count().max(1) as u64;
        let limits = &Limits { window: limits.window / sharing, ..limits.clone() };
        let stream = &mut self.streams[index];
        stream.used = clock;
        if read.end > stream.next {
            stream.seen += read.end - stream.next.max(read.start);
            stream.next = read.end;
        }
        stream.window.adapt(stream.seen, now, limits);
        let trusted = stream.seen >= patience || (stream.from_start && patience == PATIENCE);
        let window = if trusted { stream.window.bytes.min(limits.window) } else { 0 };
        // Whole granules, so that none is brought in two pieces.
        let part =
            (window / limits.requests.clamp(1, DIVIDED)).clamp(*limits.part.start(), *limits.part.end());
        let part = part.next_multiple_of(GRANULE);
        if window == 0 {
            // The kernel asks for more than it was asked for where that pays.
            let demand_end = read.end;
            stream.ahead = stream.ahead.max(demand_end);
            let random = self.stride.count < STRIDE;
            return Advice { demand_end, ahead: 0..0, part, left, stride, random };
        }
        let demand_end = read.end.max(read.start + part.min(window)).next_multiple_of(GRANULE).min(end);
        let begin = match stream.ahead {
            ahead if ahead < read.end => demand_end,
            ahead if ahead == size => size,
            ahead => ahead / GRANULE * GRANULE,
        };
        let target = (stream.next + window).min(end);
        // Whole requests only, but for the last.
        let end = match target == end {
            true => end,
            false => begin + target.saturating_sub(begin) / part * part,
        };
        let ahead = begin..end.max(begin);
        stream.ahead = ahead.end;
        Advice { demand_end, ahead, part, left, stride, random: false }
    }

    /// A read had to wait for bytes that were under way.
    pub(crate) fn waited(&mut self, read: &Range<u64>) {
        if let Some(stream) = self.streams.iter_mut().find(|stream| stream.next == read.end) {
            stream.window.waited = true;
        }
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

    /// The next reads of a stride, if the read that begins is one of it.
    fn follow_stride(&mut self, read: &Range<u64>, limits: &Limits) -> Vec<Range<u64>> {
        let stride = &mut self.stride;
        let distance = read.start.saturating_sub(stride.start);
        let seen = self.streams.iter().find(|stream| stream.begin() == stride.start);
        let length = seen.map_or(read.end - read.start, |stream| stream.seen.max(read.end - read.start));
        match distance > 0 && distance == stride.distance {
            true => stride.count += 1,
            false => *stride = Stride { distance, count: 1, ..Stride::default() },
        }
        stride.start = read.start;
        if stride.count < STRIDE || length >= PATIENCE {
            return Vec::new();
        }
        let most = (u64::from(stride.count)).min(STRIDES_AHEAD).min(limits.window / length.max(1));
        let next = (1..=most).map(|step| read.start.saturating_add(step.saturating_mul(distance)));
        let size = self.size;
        let ahead = stride.ahead;
        let reads: Vec<_> = next
            .filter(|start| *start >= ahead && *start < size)
            .map(|start| start..start.saturating_add(length).min(size))
            .collect();
        stride.ahead = reads.last().map_or(ahead, |last| last.end);
        reads
    }

    fn begin(&mut self, read: &Range<u64>, opening: u64, now: Duration) -> (usize, Range<u64>) {
        let stream = Stream {
            next: read.start,
            seen: 0,
            ahead: read.start,
            from_start: read.start == 0,
            used: self.clock,
            window: Window::new(opening, now),
        };
        if self.streams.len() < STREAMS {
            self.streams.push(stream);
            return (self.streams.len() - 1, 0..0);
        }
        // What was never more than a read goes first.
        let value = |&index: &usize| (self.streams[index].seen >= PATIENCE, self.streams[index].used);
        let oldest = (0..self.streams.len()).min_by_key(value).unwrap_or(0);
        let old = std::mem::replace(&mut self.streams[oldest], stream);
        let left = old.next..old.ahead.max(old.next);
        if left.end - left.start > old.seen.max(GRANULE) {
            self.patience = self.patience.max(2 * old.seen);
        }
        (oldest, left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const LIMITS: Limits = Limits { window: 64 * MIB, part: MIB..=8 * MIB, requests: 32 };

    /// What is advised in all for reads of 128 KiB, one after the other.
    fn sequence(streams: &mut Streams, reads: impl Iterator<Item = u64>) -> Vec<Advice> {
        reads.map(|at| streams.read(at * GRANULE..(at + 1) * GRANULE, &LIMITS, Duration::ZERO)).collect()
    }

    /// One that has to wait for each granule that it reads, and the time.
    struct Waiting {
        streams: Streams,
        now: Duration,
    }

    impl Waiting {
        fn new() -> Self {
            Waiting { streams: Streams::new(1 << 40), now: Duration::ZERO }
        }

        fn read(&mut self, at: u64, limits: &Limits) -> Advice {
            let read = at * GRANULE..(at + 1) * GRANULE;
            let advice = self.streams.read(read.clone(), limits, self.now);
            self.streams.waited(&read);
            advice
        }

        fn window(&self) -> u64 {
            self.streams.streams[0].window.bytes
        }

        /// The granule comes at so many bytes a second.
        fn comes(&mut self, speed: f64) {
            self.now += Duration::from_secs_f64(GRANULE as f64 / speed);
        }
    }

    /// Over a long way: as much as is under way, every 20 ms.
    fn far(window: u64) -> f64 {
        window as f64 / 0.02
    }

    #[test]
    fn a_file_that_is_read_through_is_asked_for_once() {
        let size = 300 * MIB + 5;
        let mut streams = Streams::new(size);
        let mut asked = 0;
        for at in 0..size.div_ceil(GRANULE) {
            let read = at * GRANULE..((at + 1) * GRANULE).min(size);
            let advice = streams.read(read.clone(), &LIMITS, Duration::ZERO);
            if read.end > asked {
                asked = advice.demand_end;
            }
            if !advice.ahead.is_empty() {
                assert_eq!(advice.ahead.start, asked);
                asked = advice.ahead.end;
            }
            assert!(asked >= read.end && asked <= read.end + LIMITS.window + advice.part);
        }
        assert_eq!(asked, size);
    }

    #[test]
    fn random_reads_bring_what_they_asked_for() {
        let mut streams = Streams::new(1 << 40);
        for at in [77, 3, 500, 90, 4000, 12, 65000, 8, 999, 31] {
            let advice = streams.read(at * MIB..at * MIB + 4096, &LIMITS, Duration::ZERO);
            assert_eq!((advice.demand_end, advice.random), (at * MIB + 4096, true));
            assert!(advice.ahead.is_empty() && advice.stride.is_empty());
        }
    }

    #[test]
    fn several_streams_on_one_file_are_all_read_ahead_of() {
        let mut streams = Streams::new(1 << 40);
        let begins = [0, 8000, 16000, 24000];
        let rounds = (0..100).flat_map(|round| begins.map(|begin| begin + round));
        let advices = sequence(&mut streams, rounds);
        for (index, begin) in begins.iter().enumerate() {
            let last = advices.iter().skip(index).step_by(4).rfind(|advice| !advice.ahead.is_empty());
            assert!(last.unwrap().ahead.end >= (begin + 100) * GRANULE + OPENING / 2);
        }
        // Random reads between them do not drive them out.
        for at in 0..50 {
            streams.read(
                (100 + 7 * at * at) * 31 * MIB..(100 + 7 * at * at) * 31 * MIB + 4096,
                &LIMITS,
                Duration::ZERO,
            );
        }
        assert!(!sequence(&mut streams, 100..164).iter().all(|advice| advice.ahead.is_empty()));
    }

    #[test]
    fn streams_share_what_may_be_ahead() {
        let mut reader = Waiting::new();
        // How far ahead is asked for.
        let mut read = |at: u64| {
            let ahead = reader.read(at, &LIMITS).ahead.end.saturating_sub((at + 1) * GRANULE);
            reader.comes(4.0 * far(ahead.max(OPENING)));
            ahead
        };
        let mut ahead = [0; 4];
        for at in 0..2000 {
            ahead = [0, 100_000, 200_000, 300_000].map(|begin| read(begin + at));
        }
        assert!(ahead.iter().all(|ahead| *ahead > LIMITS.window / 8), "{ahead:?}");
        assert!(ahead.iter().sum::<u64>() <= LIMITS.window, "{ahead:?}");
        let alone = (2000..6000).map(&mut read).last();
        assert!(alone > Some(LIMITS.window / 4 * 3), "{alone:?}");
    }

    #[test]
    fn disorder_does_not_end_a_stream() {
        let mut streams = Streams::new(1 << 40);
        sequence(&mut streams, [0, 1, 3, 2, 5, 4, 7, 6, 8, 10, 9].into_iter());
        assert_eq!(streams.streams.len(), 1);
        assert_eq!(streams.streams[0].next, 11 * GRANULE);
    }

    #[test]
    fn trust_that_was_disappointed_has_to_be_earned() {
        let mut streams = Streams::new(1 << 40);
        // Records of 1 MiB at random places: each is read ahead of, for nothing.
        let record = |streams: &mut Streams, at: u64| {
            let advices = sequence(streams, (0..8).map(|read| at * 8 + read));
            advices.iter().map(|advice| advice.ahead.end - advice.ahead.start).sum::<u64>()
        };
        assert!(record(&mut streams, 1000) > 0);
        for at in 1..30_u64 {
            record(&mut streams, at * at * 7919 % 100_000);
        }
        assert_eq!(record(&mut streams, 200_000), 0);
        assert!(
            !sequence(&mut streams, (200_000 * 8 + 8)..(200_000 * 8 + 200))
                .iter()
                .all(|a| a.ahead.is_empty())
        );
    }

    #[test]
    fn a_stride_is_followed() {
        let mut streams = Streams::new(100 * MIB);
        let mut coming: Vec<Range<u64>> = Vec::new();
        let mut hits = 0;
        for row in 0..33 {
            let read = row * 3 * MIB..row * 3 * MIB + GRANULE;
            hits +=
                usize::from(coming.iter().any(|known| known.start <= read.start && read.end <= known.end));
            let advice = streams.read(read, &LIMITS, Duration::ZERO);
            for next in advice.stride {
                assert!(!coming.contains(&next) && next.end <= 100 * MIB);
                coming.push(next);
            }
        }
        assert!(hits >= 33 - STRIDE as usize - 1, "{hits}");
    }

    #[test]
    fn what_another_stream_has_read_is_not_read_ahead() {
        let mut streams = Streams::new(1 << 40);
        sequence(&mut streams, 1000..1100);
        let advices = sequence(&mut streams, 0..1000);
        let most = advices.iter().map(|advice| advice.ahead.end.max(advice.demand_end)).max();
        assert_eq!(most, Some(1000 * GRANULE));
        // It may go on all the same.
        let ahead = sequence(&mut streams, 1000..1008).iter().map(|advice| advice.ahead.end).max();
        assert!(ahead > Some(1020 * GRANULE));
    }

    #[test]
    fn a_stream_that_used_what_it_got_costs_no_trust() {
        let mut streams = Streams::new(1 << 40);
        sequence(&mut streams, 0..1000);
        for at in 0..STREAMS as u64 {
            sequence(&mut streams, 100_000 * (at + 1)..100_000 * (at + 1) + 8);
        }
        assert_eq!(streams.patience, PATIENCE);
    }

    /// In how many of a hundred looks at 2 GiB being read the window was at least so wide, if the store brings
    /// them at this speed, given how much is under way, and given chance, between 0 and 1: the mean of ten such.
    fn share(wide: u64, speed: impl Fn(u64, f64) -> f64) -> usize {
        (0..10).map(|seed| share_once(seed, wide, &speed)).sum::<usize>() / 10
    }

    fn share_once(seed: u64, wide: u64, speed: impl Fn(u64, f64) -> f64) -> usize {
        let mut reader = Waiting::new();
        let mut chance = fastrand::Rng::with_seed(seed);
        // The window by which each granule was asked for.
        let mut asked = Vec::new();
        let mut looks = 0;
        let mut luck = 0.0;
        for at in 0..16384 {
            reader.read(at, &LIMITS);
            let window = reader.window();
            asked.resize(asked.len().max((at + window / GRANULE) as usize), window);
            if at % 32 == 0 {
                luck = chance.f64();
            }
            reader.comes(speed(asked[at as usize], luck));
            looks += usize::from(at % 164 == 0 && window >= wide);
        }
        looks
    }

    #[test]
    fn a_window_is_as_wide_as_it_pays() {
        assert!(share(LIMITS.window, |window, _| far(window)) > 90);
        assert!(share(16 * MIB, |window, _| far(window.min(16 * MIB))) > 90);
        // As fast as it is, whatever is under way.
        assert!(share(4 * OPENING, |_, _| 2e9) < 25);
        // The same where nothing is certain.
        for noise in [0.25, 0.5, 1.0] {
            assert!(share(LIMITS.window, |window, luck| far(window) * (0.3 + noise * luck)) > 80, "{noise}");
            assert!(share(4 * OPENING, |_, luck| 2e9 * (0.3 + noise * luck)) < 40, "{noise}");
        }
    }

    #[test]
    fn over_a_long_way_a_window_widens_before_much_is_read() {
        let (mut reader, mut looks) = (Waiting::new(), Vec::new());
        for at in 0..(64 * MIB / GRANULE) {
            reader.read(at, &LIMITS);
            reader.comes(160e6);
            looks.push(reader.window());
        }
        // Never by more than a few requests at once.
        assert!(looks.windows(2).all(|pair| pair[1] - pair[0] <= 3 * OPENING), "{looks:?}");
        assert_eq!(looks[(17 * MIB / GRANULE) as usize], LONG_WAY);
    }

    #[test]
    fn a_stream_that_had_to_share_widens_when_it_is_alone() {
        let shared = Limits { window: OPENING, ..LIMITS };
        let mut reader = Waiting::new();
        for at in 0..(256 * MIB / GRANULE) {
            reader.read(at, if at < 400 { &shared } else { &LIMITS });
            reader.comes(far(reader.window()));
        }
        assert_eq!(reader.window(), LIMITS.window);
    }

    #[test]
    fn a_store_that_turns_out_near_is_asked_for_less_at_a_time() {
        let near = Limits { part: 2 * GRANULE..=8 * MIB, ..LIMITS };
        let mut streams = Streams::new(1 << 40);
        let mut most_ahead = |reads: Range<u64>, limits: &Limits| {
            let ahead = |at: u64| {
                let advice = streams.read(at * GRANULE..(at + 1) * GRANULE, limits, Duration::ZERO);
                advice.ahead.end.max(advice.demand_end) - (at + 1) * GRANULE
            };
            reads.map(ahead).max()
        };
        assert_eq!(most_ahead(0..8, &LIMITS), Some(OPENING));
        // What was asked for already comes all the same.
        most_ahead(8..40, &near);
        assert_eq!(most_ahead(40..200, &near), Some(OPENING_REQUESTS * 2 * GRANULE));
    }

    #[test]
    fn what_was_refused_is_asked_for_again() {
        let mut streams = Streams::new(1 << 40);
        let first = &sequence(&mut streams, 0..1)[0];
        streams.refused(first.ahead.start);
        let second = &sequence(&mut streams, 1..2)[0];
        assert_eq!(second.ahead.start, first.ahead.start);
    }
}
