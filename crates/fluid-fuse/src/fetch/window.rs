//! How far ahead of a stream is prefetched: as far as makes the stream faster.
//!
//! If reads had to wait although their bytes were on the way, the window is widened for a trial, and narrowed again if
//! the stream was not faster for it. After a while a narrower window is tried, too. If the store has a high latency, the
//! window ramps up with what was read, and its gain is measured afterwards.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::tuning::Tuning;

/// How much may be prefetched, as far as the rest of the process is concerned.
#[derive(Clone, Debug)]
pub(super) struct PrefetchLimits {
    /// Bytes that may be prefetched for the file.
    pub(super) window: u64,
    /// Bytes of a request: the shortest that is worth its latency, and the largest.
    pub(super) request: RangeInclusive<u64>,
    /// Requests that should be in flight.
    pub(super) concurrency: u64,
}

/// The prefetch window of a stream.
#[derive(Debug)]
pub(super) struct Window {
    /// Its width.
    bytes: u64,
    /// The narrowest width: the one it began with.
    opening: u64,
    /// The widest width that was allowed last.
    most: u64,
    phase: Phase,
    /// A read had to wait since the measurement began.
    has_waited: bool,
    /// The width that is compared with the present one.
    trial: Option<Trial>,
    /// Which width is tried next.
    next: Direction,
    /// The stream's bytes from which on the next trial may begin.
    next_trial: u64,
    /// Bytes from a failed trial to the next one.
    interval: u64,
}

#[derive(Debug)]
enum Phase {
    /// The window follows what was read, up to [`Tuning::ramp_window`].
    Ramping,
    /// Until the stream has read this much, its bytes were requested by the width before.
    Settling { until: u64 },
    /// The speed is measured since the stream had read this much, and since this time.
    Measuring { from: u64, since: Duration },
}

/// What another width achieved.
#[derive(Debug)]
struct Trial {
    /// Bytes a second.
    speed: f64,
    /// Bytes of the window.
    width: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direction {
    /// A wider window, if reads had to wait.
    Wider,
    /// A narrower one, whether it does as well.
    Narrower,
}

impl Window {
    /// The window of a stream that begins now.
    pub(super) fn new(opening: u64, now: Duration, tuning: &Tuning) -> Self {
        Window {
            bytes: opening,
            opening,
            most: opening,
            phase: Phase::Measuring { from: 0, since: now },
            has_waited: false,
            trial: None,
            next: Direction::Wider,
            next_trial: 0,
            interval: tuning.trial_interval.start,
        }
    }

    /// Bytes to prefetch.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Notes that a read had to wait for bytes that were on their way.
    pub(super) fn waited(&mut self) {
        self.has_waited = true;
    }

    /// Decides on the width, after the stream has read `seen` bytes in all.
    pub(super) fn adapt(&mut self, seen: u64, now: Duration, limits: &PrefetchLimits, tuning: &Tuning) {
        self.follow_limits(seen, now, limits, tuning);
        self.ramp_at_high_latency(seen, now, tuning);
        match self.phase {
            Phase::Ramping => {
                let end = tuning.ramp_window.min(self.most).max(tuning.opening(*limits.request.start()));
                self.bytes = (tuning.window_step * seen).min(end);
                if self.bytes == end {
                    self.phase = Phase::Settling { until: seen + self.bytes };
                }
            }
            Phase::Settling { until } => {
                if seen >= until {
                    self.phase = Phase::Measuring { from: seen, since: now };
                    self.has_waited = false;
                }
            }
            Phase::Measuring { from, since } => {
                let (read, time) = (seen - from, now.saturating_sub(since));
                // Bytes that are requested together come together: the speed of one window alone tells nothing.
                if read >= 2 * self.bytes && time >= tuning.min_measured {
                    self.judge(read as f64 / time.as_secs_f64(), seen, now, tuning);
                }
            }
        }
    }

    fn follow_limits(&mut self, seen: u64, now: Duration, limits: &PrefetchLimits, tuning: &Tuning) {
        if limits.window > self.most && self.bytes == self.most {
            // The limit stopped the window, not the store: it may grow at once.
            (self.next_trial, self.next) = (0, Direction::Wider);
        }
        self.most = limits.window;
        let opening = tuning.opening(*limits.request.start());
        if opening < self.opening {
            // The store has a lower latency than was known.
            if self.bytes == self.opening || matches!(self.phase, Phase::Ramping) {
                self.bytes = opening;
                self.phase = Phase::Measuring { from: seen, since: now };
                self.trial = None;
            }
            self.opening = opening;
        }
    }

    /// Ramps up if the first reads had to wait with the opening window of a distant store. To measure step by step would
    /// take long there. Nor is the whole width requested at once: it would come at once, the first of it last.
    fn ramp_at_high_latency(&mut self, seen: u64, now: Duration, tuning: &Tuning) {
        let opening = tuning.opening_window;
        let is_untried =
            self.bytes == opening && self.trial.is_none() && self.next_trial == 0 && self.most > opening;
        if let Phase::Measuring { from: 0, since } = self.phase
            && is_untried
            && self.has_waited
            && seen >= opening
            && now > since
        {
            let speed = seen as f64 / (now - since).as_secs_f64();
            self.trial = Some(Trial { speed, width: opening });
            self.phase = Phase::Ramping;
        }
    }

    /// Compares the speed with that of the trial's other width, and decides what is tried next.
    fn judge(&mut self, speed: f64, seen: u64, now: Duration, tuning: &Tuning) {
        let width = self.bytes;
        let has_failed = match self.trial.take() {
            None => false,
            Some(other) if width > other.width => {
                if speed >= tuning.certain_gain * other.speed {
                    self.interval = self.interval.max(tuning.certain_interval);
                }
                let is_slow = speed < tuning.min_gain * other.speed;
                self.bytes = if is_slow { other.width } else { width };
                is_slow
            }
            Some(other) => {
                let is_slow = tuning.min_gain * speed < other.speed;
                self.bytes = if is_slow { other.width } else { width };
                is_slow
            }
        };
        let next = match self.next {
            Direction::Narrower => (width / tuning.window_step).max(self.opening),
            Direction::Wider if self.has_waited => {
                (width * tuning.window_step).min(self.most).max(self.opening)
            }
            Direction::Wider => width,
        };
        let may_try = seen >= self.next_trial;
        let is_at_rest = next == width && (self.next == Direction::Narrower || width > self.opening);
        if has_failed || (may_try && is_at_rest) {
            self.next_trial = seen + self.interval;
            self.interval = (2 * self.interval).min(tuning.trial_interval.end);
            self.next = match self.next {
                Direction::Wider if self.bytes > self.opening => Direction::Narrower,
                _ => Direction::Wider,
            };
        } else if may_try && next != width {
            self.bytes = next;
            self.trial = Some(Trial { speed, width });
        }
        self.has_waited = false;
        self.phase = match self.bytes == width {
            true => Phase::Measuring { from: seen, since: now },
            false => Phase::Settling { until: seen + width.max(self.bytes) },
        };
    }
}
