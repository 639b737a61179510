//! What the process takes: memory, threads and descriptors, each second, over all its lives.
//!
//! It decides what growth is: within a life, the last third against the one before, by what it takes half of the
//! time and by the least of it, as a large file that is being written is no growth. It does not know what the memory
//! is for.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::sync::Mutex;
use std::time::Instant;

const KIB_PER_MIB: f64 = 1024.0;

/// What memory may grow by between two thirds of a life: a share, and MiB beside it.
const GROWTH: (f64, f64) = (1.2, 8.0);

/// Lives with fewer samples say nothing.
const SAMPLES: usize = 12;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    pub(crate) seconds: f64,
    pub(crate) life: usize,
    pub(crate) rss: f64,
    threads: u64,
    descriptors: usize,
}

#[derive(Default)]
pub(crate) struct Watch(Mutex<State>);

#[derive(Default)]
struct State {
    samples: Vec<Sample>,
    /// The peak of each life, in MiB.
    peaks: BTreeMap<usize, f64>,
}

impl Watch {
    /// Looks once; whether there is such a process, alive.
    pub(crate) fn look(&self, began: Instant, life: usize, pid: u32) -> bool {
        let Ok(status) = fs::read_to_string(format!("/proc/{pid}/status")) else { return false };
        let field = |name: &str| -> Option<u64> {
            let value = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
            value.split_whitespace().next()?.parse().ok()
        };
        let (Some(rss), Some(peak), Some(threads)) = (field("VmRSS"), field("VmHWM"), field("Threads"))
        else {
            return false;
        };
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count);
        let mut state = self.0.lock().unwrap();
        state.peaks.insert(life, peak as f64 / KIB_PER_MIB);
        let (seconds, rss) = (began.elapsed().as_secs_f64(), rss as f64 / KIB_PER_MIB);
        state.samples.push(Sample { seconds, life, rss, threads, descriptors });
        true
    }

    pub(crate) fn samples(&self) -> Vec<Sample> {
        self.0.lock().unwrap().samples.clone()
    }

    /// The lives in which memory grows, and by how much.
    pub(crate) fn growing(&self) -> Vec<String> {
        let mut lives: BTreeMap<usize, Vec<f64>> = BTreeMap::new();
        for sample in self.samples() {
            lives.entry(sample.life).or_default().push(sample.rss);
        }
        let grows = |(life, rss): (usize, Vec<f64>)| {
            let third = rss.len() / 3;
            let (second, last) = (&rss[third..2 * third], &rss[2 * third..]);
            let (share, beside) = GROWTH;
            let more = |of: fn(&[f64]) -> f64| of(last) > of(second) * share + beside;
            let grows = rss.len() >= SAMPLES && more(median) && more(least);
            let (second, last) = (median(second), median(last));
            grows.then(|| format!("life {life}: from {second:.1} to {last:.1} MiB"))
        };
        lives.into_iter().filter_map(grows).collect()
    }

    /// The most that any life took, in MiB.
    pub(crate) fn peak(&self) -> f64 {
        self.0.lock().unwrap().peaks.values().copied().fold(0.0, f64::max)
    }

    pub(crate) fn table(&self) -> String {
        let peak = self.peak();
        let state = self.0.lock().unwrap();
        let mut table = String::new();
        let mut row = |name: &str, value: String| writeln!(table, "{name:<44} {value}").unwrap();
        let third = state.samples.len().div_ceil(3).max(1);
        for (number, samples) in state.samples.chunks(third).enumerate() {
            let rss: Vec<f64> = samples.iter().map(|sample| sample.rss).collect();
            let most = rss.iter().copied().fold(0.0, f64::max);
            let first = rss.first().copied().unwrap_or_default();
            let name = format!("RSS, third {}: start, median, max", number + 1);
            row(&name, format!("{first:.1}, {:.1}, {most:.1} MiB", median(&rss)));
        }
        row("RSS, peak of all lives", format!("{peak:.1} MiB"));
        let most = |of: fn(&Sample) -> u64| state.samples.iter().map(of).max().unwrap_or_default();
        row(
            "threads, descriptors at most",
            format!("{}, {}", most(|sample| sample.threads), most(|sample| sample.descriptors as u64)),
        );
        table
    }
}

fn least(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::INFINITY, f64::min)
}

fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}
