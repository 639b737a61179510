//! What was done and seen, by kind, with the first example of each.
//!
//! It counts; whether something may happen is [`super::weather`]'s to say.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const MIB: f64 = (1 << 20) as f64;

/// What must not happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Finding {
    /// Bytes or names that no version has.
    Wrong,
    /// A success was told, and the store has something else.
    Lost,
    /// An error that no rule allows.
    Error,
    /// A version that is older than the mount may trust.
    Old,
    /// The process itself.
    Process,
}

pub(crate) struct Tally {
    began: Instant,
    reads: AtomicU64,
    bytes: AtomicU64,
    writes: AtomicU64,
    expected: Mutex<BTreeMap<String, u64>>,
    findings: Mutex<BTreeMap<(Finding, String), (u64, String)>>,
}

impl Tally {
    pub(crate) fn new() -> Self {
        Tally {
            began: Instant::now(),
            reads: AtomicU64::default(),
            bytes: AtomicU64::default(),
            writes: AtomicU64::default(),
            expected: Mutex::default(),
            findings: Mutex::default(),
        }
    }

    pub(crate) fn read(&self, bytes: usize) {
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn wrote(&self) {
        self.writes.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn expected(&self, kind: String) {
        *self.expected.lock().unwrap().entry(kind).or_default() += 1;
    }

    pub(crate) fn found(&self, finding: Finding, kind: &str, example: impl FnOnce() -> String) {
        let mut findings = self.findings.lock().unwrap();
        let (count, _) = findings.entry((finding, kind.to_string())).or_insert_with(|| {
            let example = format!("at {:.1} s: {}", self.began.elapsed().as_secs_f64(), example());
            println!("FOUND {finding:?} {kind}: {example}");
            (0, example)
        });
        *count += 1;
    }

    /// How often it was found.
    fn count(&self, of: Finding) -> u64 {
        let findings = self.findings.lock().unwrap();
        findings.iter().filter(|((finding, _), _)| *finding == of).map(|(_, (count, _))| count).sum()
    }

    pub(crate) fn is_clean(&self) -> bool {
        self.findings.lock().unwrap().is_empty()
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    pub(crate) fn progress(&self) -> String {
        let expected: u64 = self.expected.lock().unwrap().values().sum();
        let found: u64 = self.findings.lock().unwrap().values().map(|(count, _)| count).sum();
        format!(
            "{:5.0} s  {:8} reads  {:7.2} GB checked  {:5} writes  {expected:6} expected errors  {found} findings",
            self.began.elapsed().as_secs_f64(),
            self.reads.load(Ordering::Relaxed),
            self.bytes.load(Ordering::Relaxed) as f64 / 1e9,
            self.writes.load(Ordering::Relaxed),
        )
    }

    pub(crate) fn table(&self) -> String {
        let mut table = String::new();
        let mut row = |name: &str, value: String| writeln!(table, "{name:<44} {value}").unwrap();
        let bytes = self.bytes.load(Ordering::Relaxed) as f64;
        row("reads", self.reads.load(Ordering::Relaxed).to_string());
        row("bytes checked", format!("{:.2} GB ({:.0} MiB)", bytes / 1e9, bytes / MIB));
        row("writes", self.writes.load(Ordering::Relaxed).to_string());
        for (kind, count) in &*self.expected.lock().unwrap() {
            row(&format!("expected: {kind}"), count.to_string());
        }
        row("UNEXPECTED errors", self.count(Finding::Error).to_string());
        row("WRONG bytes or names", self.count(Finding::Wrong).to_string());
        row("LOST writes", self.count(Finding::Lost).to_string());
        row("versions too old", self.count(Finding::Old).to_string());
        for ((finding, kind), (count, example)) in &*self.findings.lock().unwrap() {
            row(&format!("{finding:?}: {kind}"), format!("{count}, first {example}"));
        }
        table
    }
}
