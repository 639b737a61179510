//! How long a review takes in the host: a new instance and one call, as in policy-server. kwctl's own benchmark
//! keeps one warm instance and measures mostly the host's JSON.

use std::fmt::Write as _;
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::{Value, json};

use crate::engine::{Host, Policy};
use crate::input::Request;

/// Reviews a request `runs` times, after a tenth of that to warm up. An instance that does nothing but tell its
/// protocol version is measured in turn with it: the difference is the policy's own time.
pub fn bench(
    policy: &Policy,
    request: &Request,
    settings: &Value,
    host: &Host,
    runs: NonZeroU32,
) -> Result<String> {
    let payload = serde_json::to_vec(&json!({"request": request.admission, "settings": settings}))?;
    let mut reviews = Vec::new();
    let mut instances = Vec::new();
    let warm_up = runs.get() / 10;
    for run in 0..warm_up + runs.get() {
        let begun = Instant::now();
        policy.call("validate", &payload, host)?;
        let review = begun.elapsed();
        let begun = Instant::now();
        policy.call("protocol_version", &[], host)?;
        let instance = begun.elapsed();
        if run >= warm_up {
            reviews.push(review);
            instances.push(instance);
        }
    }
    let mut text = String::new();
    writeln!(text, "{} reviews of {} bytes, a new instance each, in microseconds:", runs, payload.len())?;
    for (what, times) in [("instance and review", &mut reviews), ("instance alone", &mut instances)] {
        times.sort();
        let at = |share: f64| micros(times[((times.len() - 1) as f64 * share) as usize]);
        writeln!(text, "{what:>20}  p50 {:>8.1}  p99 {:>8.1}", at(0.5), at(0.99))?;
    }
    Ok(text)
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}
