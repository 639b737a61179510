use super::*;

const MIB: u64 = 1 << 20;
const LIMITS: PrefetchLimits = PrefetchLimits { window: 64 * MIB, request: MIB..=8 * MIB, concurrency: 32 };
const OPENING: u64 = 4 * MIB;
const RAMP_WINDOW: u64 = 64 * MIB;

/// The advice for reads of one block each, one after the other.
fn sequence(prefetcher: &mut Prefetcher, reads: impl Iterator<Item = u64>) -> Vec<Advice> {
    reads.map(|at| prefetcher.read(at * BLOCK_SIZE..(at + 1) * BLOCK_SIZE, &LIMITS, Duration::ZERO)).collect()
}

/// A reader that has to wait for each block, and the time.
struct WaitingReader {
    prefetcher: Prefetcher,
    now: Duration,
}

impl WaitingReader {
    fn new() -> Self {
        WaitingReader { prefetcher: Prefetcher::new(1 << 40), now: Duration::ZERO }
    }

    fn read(&mut self, at: u64, limits: &PrefetchLimits) -> Advice {
        let read = at * BLOCK_SIZE..(at + 1) * BLOCK_SIZE;
        let advice = self.prefetcher.read(read.clone(), limits, self.now);
        self.prefetcher.waited(&read);
        advice
    }

    fn window(&self) -> u64 {
        self.prefetcher.streams[0].window.bytes()
    }

    /// A block comes, at this many bytes a second.
    fn comes(&mut self, speed: f64) {
        self.now += Duration::from_secs_f64(BLOCK_SIZE as f64 / speed);
    }
}

/// The speed of a store with 20 ms of latency, given the bytes in flight.
fn speed_at_latency(window: u64) -> f64 {
    window as f64 / 0.02
}

#[test]
fn a_sequential_read_requests_each_byte_once() {
    let size = 300 * MIB + 5;
    let mut prefetcher = Prefetcher::new(size);
    let mut asked = 0;
    for at in 0..size.div_ceil(BLOCK_SIZE) {
        let read = at * BLOCK_SIZE..((at + 1) * BLOCK_SIZE).min(size);
        let advice = prefetcher.read(read.clone(), &LIMITS, Duration::ZERO);
        if read.end > asked {
            asked = advice.demand_end;
        }
        if !advice.prefetch.is_empty() {
            assert_eq!(advice.prefetch.start, asked);
            asked = advice.prefetch.end;
        }
        assert!(asked >= read.end && asked <= read.end + LIMITS.window + advice.request_size);
    }
    assert_eq!(asked, size);
}

#[test]
fn random_reads_prefetch_nothing() {
    let mut prefetcher = Prefetcher::new(1 << 40);
    for at in [77, 3, 500, 90, 4000, 12, 65000, 8, 999, 31] {
        let advice = prefetcher.read(at * MIB..at * MIB + 4096, &LIMITS, Duration::ZERO);
        assert_eq!((advice.demand_end, advice.is_random), (at * MIB + 4096, true));
        assert!(advice.prefetch.is_empty() && advice.stride.is_empty());
    }
}

#[test]
fn several_streams_of_one_file_are_prefetched_for() {
    let mut prefetcher = Prefetcher::new(1 << 40);
    let begins = [0, 8000, 16000, 24000];
    let rounds = (0..100).flat_map(|round| begins.map(|begin| begin + round));
    let advices = sequence(&mut prefetcher, rounds);
    for (index, begin) in begins.iter().enumerate() {
        let last = advices.iter().skip(index).step_by(4).rfind(|advice| !advice.prefetch.is_empty());
        assert!(last.unwrap().prefetch.end >= (begin + 100) * BLOCK_SIZE + OPENING / 2);
    }
    // Random reads between them do not replace the streams.
    for at in 0..50 {
        prefetcher.read(
            (100 + 7 * at * at) * 31 * MIB..(100 + 7 * at * at) * 31 * MIB + 4096,
            &LIMITS,
            Duration::ZERO,
        );
    }
    assert!(!sequence(&mut prefetcher, 100..164).iter().all(|advice| advice.prefetch.is_empty()));
}

#[test]
fn streams_share_the_window() {
    let mut reader = WaitingReader::new();
    // Returns how far ahead of the read bytes are requested.
    let mut read = |at: u64| {
        let ahead = reader.read(at, &LIMITS).prefetch.end.saturating_sub((at + 1) * BLOCK_SIZE);
        reader.comes(4.0 * speed_at_latency(ahead.max(OPENING)));
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
    let mut prefetcher = Prefetcher::new(1 << 40);
    sequence(&mut prefetcher, [0, 1, 3, 2, 5, 4, 7, 6, 8, 10, 9].into_iter());
    assert_eq!(prefetcher.streams.len(), 1);
    assert_eq!(prefetcher.streams[0].next, 11 * BLOCK_SIZE);
}

#[test]
fn streams_that_end_early_delay_the_next_prefetch() {
    let mut prefetcher = Prefetcher::new(1 << 40);
    // Records of 1 MiB at random places: bytes are prefetched for each, in vain.
    let record = |prefetcher: &mut Prefetcher, at: u64| {
        let advices = sequence(prefetcher, (0..8).map(|read| at * 8 + read));
        advices.iter().map(|advice| advice.prefetch.end - advice.prefetch.start).sum::<u64>()
    };
    assert!(record(&mut prefetcher, 1000) > 0);
    for at in 1..30_u64 {
        record(&mut prefetcher, at * at * 7919 % 100_000);
    }
    assert_eq!(record(&mut prefetcher, 200_000), 0);
    assert!(
        !sequence(&mut prefetcher, (200_000 * 8 + 8)..(200_000 * 8 + 200))
            .iter()
            .all(|a| a.prefetch.is_empty())
    );
}

#[test]
fn a_stride_is_followed() {
    let mut prefetcher = Prefetcher::new(100 * MIB);
    let mut coming: Vec<Range<u64>> = Vec::new();
    let mut hits = 0;
    for row in 0..33 {
        let read = row * 3 * MIB..row * 3 * MIB + BLOCK_SIZE;
        hits += usize::from(coming.iter().any(|known| known.start <= read.start && read.end <= known.end));
        let advice = prefetcher.read(read, &LIMITS, Duration::ZERO);
        for next in advice.stride {
            assert!(!coming.contains(&next) && next.end <= 100 * MIB);
            coming.push(next);
        }
    }
    assert!(hits >= 33 - prefetcher.tuning.min_stride_reads as usize - 1, "{hits}");
}

#[test]
fn no_stream_is_prefetched_for_into_the_bytes_of_another() {
    let mut prefetcher = Prefetcher::new(1 << 40);
    sequence(&mut prefetcher, 1000..1100);
    let advices = sequence(&mut prefetcher, 0..1000);
    let most = advices.iter().map(|advice| advice.prefetch.end.max(advice.demand_end)).max();
    assert_eq!(most, Some(1000 * BLOCK_SIZE));
    // The other stream may go on.
    let ahead = sequence(&mut prefetcher, 1000..1008).iter().map(|advice| advice.prefetch.end).max();
    assert!(ahead > Some(1020 * BLOCK_SIZE));
}

#[test]
fn a_stream_that_used_its_bytes_delays_no_other() {
    let mut prefetcher = Prefetcher::new(1 << 40);
    sequence(&mut prefetcher, 0..1000);
    for at in 0..Tuning::default().max_streams as u64 {
        sequence(&mut prefetcher, 100_000 * (at + 1)..100_000 * (at + 1) + 8);
    }
    assert_eq!(prefetcher.min_sequential, prefetcher.tuning.min_sequential);
}

/// In how many of a hundred samples the window was at least this wide, while 2 GiB were read: the mean of ten runs. The
/// speed of the store follows from the bytes in flight and from luck, between 0 and 1.
fn share(wide: u64, speed: impl Fn(u64, f64) -> f64) -> usize {
    (0..10).map(|seed| share_once(seed, wide, &speed)).sum::<usize>() / 10
}

fn share_once(seed: u64, wide: u64, speed: impl Fn(u64, f64) -> f64) -> usize {
    let mut reader = WaitingReader::new();
    let mut chance = fastrand::Rng::with_seed(seed);
    // The window by which each block was requested.
    let mut asked = Vec::new();
    let mut samples = 0;
    let mut luck = 0.0;
    for at in 0..16384 {
        reader.read(at, &LIMITS);
        let window = reader.window();
        asked.resize(asked.len().max((at + window / BLOCK_SIZE) as usize), window);
        if at % 32 == 0 {
            luck = chance.f64();
        }
        reader.comes(speed(asked[at as usize], luck));
        samples += usize::from(at % 164 == 0 && window >= wide);
    }
    samples
}

#[test]
fn a_window_is_as_wide_as_makes_reads_faster() {
    assert!(share(LIMITS.window, |window, _| speed_at_latency(window)) > 90);
    assert!(share(16 * MIB, |window, _| speed_at_latency(window.min(16 * MIB))) > 90);
    // A store whose speed does not depend on the bytes in flight.
    assert!(share(4 * OPENING, |_, _| 2e9) < 25);
    // The same with noise.
    for noise in [0.25, 0.5, 1.0] {
        assert!(
            share(LIMITS.window, |window, luck| speed_at_latency(window) * (0.3 + noise * luck)) > 80,
            "{noise}"
        );
        assert!(share(4 * OPENING, |_, luck| 2e9 * (0.3 + noise * luck)) < 40, "{noise}");
    }
}

#[test]
fn at_high_latency_a_window_ramps_up() {
    let (mut reader, mut samples) = (WaitingReader::new(), Vec::new());
    for at in 0..(64 * MIB / BLOCK_SIZE) {
        reader.read(at, &LIMITS);
        reader.comes(160e6);
        samples.push(reader.window());
    }
    // Never by more than a few requests at once.
    assert!(samples.windows(2).all(|pair| pair[1] - pair[0] <= 3 * OPENING), "{samples:?}");
    assert_eq!(samples[(17 * MIB / BLOCK_SIZE) as usize], RAMP_WINDOW);
}

#[test]
fn a_stream_that_had_to_share_widens_once_it_is_alone() {
    let shared = PrefetchLimits { window: OPENING, ..LIMITS };
    let mut reader = WaitingReader::new();
    for at in 0..(256 * MIB / BLOCK_SIZE) {
        reader.read(at, if at < 400 { &shared } else { &LIMITS });
        reader.comes(speed_at_latency(reader.window()));
    }
    assert_eq!(reader.window(), LIMITS.window);
}

#[test]
fn a_low_latency_that_is_learned_late_narrows_the_window() {
    let near = PrefetchLimits { request: 2 * BLOCK_SIZE..=8 * MIB, ..LIMITS };
    let mut prefetcher = Prefetcher::new(1 << 40);
    let mut most_ahead = |reads: Range<u64>, limits: &PrefetchLimits| {
        let ahead = |at: u64| {
            let advice = prefetcher.read(at * BLOCK_SIZE..(at + 1) * BLOCK_SIZE, limits, Duration::ZERO);
            advice.prefetch.end.max(advice.demand_end) - (at + 1) * BLOCK_SIZE
        };
        reads.map(ahead).max()
    };
    assert_eq!(most_ahead(0..8, &LIMITS), Some(OPENING));
    // Bytes that were requested before still come.
    most_ahead(8..40, &near);
    assert_eq!(most_ahead(40..200, &near), Some(Tuning::default().opening_requests * 2 * BLOCK_SIZE));
}

#[test]
fn refused_bytes_are_advised_again() {
    let mut prefetcher = Prefetcher::new(1 << 40);
    let first = &sequence(&mut prefetcher, 0..1)[0];
    prefetcher.refused(first.prefetch.start);
    let second = &sequence(&mut prefetcher, 1..2)[0];
    assert_eq!(second.prefetch.start, first.prefetch.start);
}
