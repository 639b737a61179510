//! How long a review takes in the host: a new instance and one call, as in policy-server. kwctl's own benchmark
//! keeps one warm instance and measures mostly the host's JSON.

use std::fmt;
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::engine::{Host, Policy};

/// Times of many reviews, and of as many instances that do nothing but tell their protocol version, measured in turn
/// with them: the difference is the policy's own time.
#[derive(Clone, Debug)]
pub struct Times {
    reviews: Vec<Duration>,
    instances: Vec<Duration>,
    payload: usize,
}

/// Sends a payload of `validate` `runs` times, after a tenth of that to warm up.
pub fn bench(policy: &Policy, payload: &[u8], host: &Host, runs: NonZeroU32) -> Result<Times> {
    let mut times = Times { reviews: Vec::new(), instances: Vec::new(), payload: payload.len() };
    let warm_up = runs.get() / 10;
    for run in 0..warm_up + runs.get() {
        let begun = Instant::now();
        policy.call("validate", payload, host)?;
        let review = begun.elapsed();
        let begun = Instant::now();
        policy.call("protocol_version", &[], host)?;
        let instance = begun.elapsed();
        if run >= warm_up {
            times.reviews.push(review);
            times.instances.push(instance);
        }
    }
    times.reviews.sort();
    times.instances.sort();
    Ok(times)
}

impl Times {
    /// The median of instance and review, in microseconds.
    pub fn median(&self) -> f64 {
        micros(&self.reviews, 0.5)
    }
}

impl fmt::Display for Times {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let runs = self.reviews.len();
        write!(formatter, "{runs} reviews of {} bytes, a new instance each, in microseconds:", self.payload)?;
        for (what, times) in [("instance and review", &self.reviews), ("instance alone", &self.instances)] {
            let at = |share: f64| micros(times, share);
            write!(formatter, "\n{what:>20}  p50 {:>8.1}  p99 {:>8.1}", at(0.5), at(0.99))?;
        }
        Ok(())
    }
}

/// Of sorted times the one that `share` of them do not exceed.
fn micros(times: &[Duration], share: f64) -> f64 {
    let last = times.len().saturating_sub(1);
    times.get((last as f64 * share) as usize).map_or(0.0, |time| time.as_secs_f64() * 1e6)
}
