//! Measures reviews in the compiled policy, counts and times, and writes `bench/review.md`.
#![allow(clippy::unwrap_used, unreachable_pub, reason = "a benchmark")]

#[path = "../../../benches/cases/mod.rs"]
mod cases;
#[path = "../tests/support/report.rs"]
mod report;
#[path = "../tests/support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::num::NonZeroU32;

use tool::bench::bench;
use tool::engine::Policy;

use crate::cases::{Case, NAMES};
use crate::report::{Measured, YARDSTICK};

/// Of each case, after a tenth of them to warm up.
const RUNS: NonZeroU32 = NonZeroU32::new(1000).unwrap();

fn main() {
    let (Some(policy), Some(yardstick)) = (support::policy(), support::yardstick()) else { return };
    let measured = Measured::count(&policy, &yardstick);
    let [policy, yardstick] = [policy, yardstick].map(|path| Policy::load(&path).unwrap());
    let mut times = BTreeMap::new();
    for (row, name, policy) in
        NAMES.map(|name| (name, name, &policy)).into_iter().chain([(YARDSTICK, "seed", &yardstick)])
    {
        let case = Case::named(name);
        let time = bench(policy, &case.payload(), &case.host(), RUNS).unwrap();
        anstream::println!("{row}: {time}");
        times.insert(row.to_string(), format!("{:.0} µs", time.median()));
    }
    let report = measured.report(&times);
    anstream::println!("\n{report}");
    std::fs::write(report::path(), report).unwrap();
}
