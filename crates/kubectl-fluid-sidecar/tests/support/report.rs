//! The report `bench/review.md`: what reviews cost, measured and written as tables.
//!
//! Instructions, bytes and reads are the same in every run, so the test compares them with the report. Times are not,
//! so they are only written down.
#![allow(dead_code, reason = "a module of the test and of the benchmark, which use parts of it")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;
use tool::count::{Cost, Counter};
use tool::engine::Host;
use tool::objects::Objects;

use crate::cases::{Case, NAMES};
use crate::support::root;

/// A case that has as many of something as its argument says.
pub type Growing = fn(usize) -> Case;

/// What grows, and numbers of it up to the most that a Pod may have.
pub const KINDS: [(&str, Growing, [usize; 3]); 3] = [
    ("claims", Case::claims, [6, 12, 25]),
    ("containers", Case::containers, [64, 128, 256]),
    ("volumes", Case::volumes, [128, 256, 510]),
];

/// The row of the yardstick, which reviews the case `seed`.
pub const YARDSTICK: &str = "seed, the yardstick";

/// Where the report is.
pub fn path() -> PathBuf {
    root().join("bench/review.md")
}

impl Case {
    /// The cluster that answers the policy's reads.
    pub fn host(&self) -> Host {
        let mut objects = Objects::default();
        for object in &self.objects {
            objects.add(object.clone()).unwrap();
        }
        Arc::new(move |namespace, operation, payload| objects.answer(namespace, operation, payload))
    }
}

/// What was measured.
#[derive(Debug)]
pub struct Measured {
    /// By the names of their rows, in order.
    pub reviews: Vec<(String, Cost)>,
    /// The answers to `seed`, of the policy and of the yardstick.
    pub answers: [Vec<u8>; 2],
    modules: [(&'static str, u64); 2],
}

impl Measured {
    /// Counts all reviews. Fails if the policy does not accept one of them.
    pub fn count(policy: &Path, yardstick: &Path) -> Measured {
        let length = |path: &Path| fs::metadata(path).unwrap().len();
        let modules = [("policy", length(policy)), ("yardstick", length(yardstick))];
        let [policy, yardstick] = [policy, yardstick].map(|path| Counter::load(path).unwrap());
        let mut answers = [Vec::new(), Vec::new()];
        let mut reviews = Vec::new();
        let review = |name: &str, policy: &Counter, case: &Case| {
            let (cost, answer) = policy.call("validate", &case.payload(), &case.host()).unwrap();
            let parsed: Value = serde_json::from_slice(&answer).unwrap();
            assert_eq!(parsed["accepted"], true, "{name}: {parsed}");
            ((name.to_string(), cost), answer)
        };
        for name in NAMES {
            let case = Case::named(name);
            let (row, answer) = review(name, &policy, &case);
            reviews.push(row);
            if name == "seed" {
                let (row, by_yardstick) = review(YARDSTICK, &yardstick, &case);
                reviews.push(row);
                answers = [answer, by_yardstick];
            }
        }
        for (kind, case, growth) in KINDS {
            for number in growth {
                reviews.push(review(&format!("{number} {kind}"), &policy, &case(number)).0);
            }
        }
        Measured { reviews, answers, modules }
    }

    /// The cost of one row.
    pub fn cost(&self, name: &str) -> Cost {
        self.reviews.iter().find(|(row, _)| row == name).unwrap().1
    }

    /// Instructions of the policy for each of the yardstick's, the start of the instance included.
    pub fn ratio(&self) -> f64 {
        let [policy, yardstick] =
            ["seed", YARDSTICK].map(|name| self.cost(name)).map(|it| it.start + it.call);
        policy as f64 / yardstick as f64
    }

    /// The report, with times by the names of their rows.
    pub fn report(&self, times: &BTreeMap<String, String>) -> String {
        let mut text = HEAD.to_string();
        for (name, cost) in &self.reviews {
            let Cost { start, call, allocated, reads } = cost;
            let numbers = [start, call, allocated, reads].map(|number| grouped(*number)).join(" | ");
            let time = times.get(name).map_or("", String::as_str);
            text += &format!("| {name} | {numbers} | {time} |\n");
        }
        text += &format!(
            "\nFor the seed's Pod the policy takes {:.2} times the instructions of the yardstick.\n{MODULES}",
            self.ratio()
        );
        for (name, bytes) in self.modules {
            text += &format!("| {name} | {} |\n", grouped(bytes));
        }
        text
    }
}

const HEAD: &str = "\
# Cost of a review

For developers. `make bench` writes this page. A test compares all numbers but the times (`crates/kubectl-fluid-sidecar/tests/cost.rs`),
which are those of one machine at one time: median of instance and review under a release build of the host.
`UPDATE_EXPECT=1 cargo test -p kubectl-fluid-sidecar --features server --test cost` writes the numbers and leaves the times.

Instructions are WebAssembly's, as wasmtime's fuel counts them; bytes are how far the call extended the memory in use
(`crates/kubectl-fluid-sidecar/src/count.rs` says what that is). `not-ours` to `hundred-containers` are the cases of
`benches/cases/mod.rs`. The yardstick (`crates/yardstick`) makes the same reads as the policy and gives the same answer
without a decision. The last rows are the seed's Pod with that many claims, containers or other volumes.

| review | instructions to start | instructions for the review | bytes allocated | reads | time |
|---|---:|---:|---:|---:|---:|
";

const MODULES: &str = "
| module | bytes |
|---|---:|
";

/// The rows of a report that have numbers, by name; times and text are no numbers.
pub fn numbers(report: &str) -> BTreeMap<String, Vec<u64>> {
    let number = |cell: &String| cell.replace(',', "").parse().ok();
    let rows = rows(report).map(|(name, cells)| (name, cells.iter().filter_map(number).collect::<Vec<_>>()));
    rows.filter(|(_, numbers)| !numbers.is_empty()).collect()
}

/// The times of a report, by the names of their rows.
pub fn times(report: &str) -> BTreeMap<String, String> {
    rows(report)
        .filter_map(|(name, mut cells)| Some((name, cells.pop()?)))
        .filter(|(_, it)| it.ends_with(" µs"))
        .collect()
}

fn rows(report: &str) -> impl Iterator<Item = (String, Vec<String>)> {
    report.lines().filter_map(|line| {
        let mut cells =
            line.strip_prefix("| ")?.strip_suffix(" |")?.split(" | ").map(|it| it.trim().to_string());
        Some((cells.next()?, cells.collect()))
    })
}

/// `1234567` as `1,234,567`.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
