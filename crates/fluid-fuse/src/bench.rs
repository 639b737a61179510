//! `bench`: compares a mount with its own source. It reads the same bytes through the mount and, by the same library and
//! with as many requests, without it.
//!
//! It prints one table, and hints about the ratios. It knows neither the mount's settings nor whether the network was busy;
//! one run is no benchmark of a store.

use std::fs::File;
use std::io::{self, Read, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use rustix::fs::{Advice, fadvise};

use crate::cli::BenchOptions;
use crate::fetch::request_ranges;
use crate::plain::shown_url;
use crate::remote::{self, Bucket, Version};
use crate::store::local_directory;
use crate::sync::lock;
use crate::union::innermost;
use crate::warm::{files_below, read_whole};

/// Bytes of a large file that are read: 1 GiB, so that a run ends within a minute on ordinary links.
const MAX_SEQUENTIAL: u64 = 1 << 30;

/// Number of reads at random offsets, enough for a median.
const RANDOM_READS: usize = 64;
/// Bytes of each of them: one block.
const RANDOM_BYTES: u64 = 128 * 1024;

/// Bytes that every mount requests ahead. A source whose bandwidth-delay product is smaller does not wait for requests.
const SMALL_WINDOW: f64 = 8e6;

/// Bytes of a small file at most, as for the files that a mount fetches when they are opened.
const SMALL: u64 = 1024 * 1024;
/// Number of small files that are read.
const SMALL_FILES: usize = 400;
/// Threads that read small files.
const SMALL_READERS: usize = 8;

/// Measures and prints.
pub fn run(options: &BenchOptions) -> anyhow::Result<()> {
    let (mounts, mountpoint) = options.resolve()?;
    let mut buckets = Vec::new();
    for mount in mounts {
        let source = shown_url(&mount.url);
        ensure!(
            local_directory(&mount.url)?.is_none(),
            "{source} is a directory: there is nothing to compare with"
        );
        let redirects = options.source.allow_redirects.clone().into();
        let terms = remote::BucketConfig { redirects, trust: mount.trust, ..remote::BucketConfig::default() };
        buckets.push((mount.path, remote::open_with(&mount.url, &mount.options.0, &terms)?));
    }
    let mut unread = None;
    let mut files = files_below(&mountpoint, Path::new(""), |_, error| unread = Some(error));
    if let Some(error) = unread {
        return Err(error).with_context(|| format!("cannot list {}", mountpoint.display()));
    }
    let large = match &options.file {
        Some(file) => files.iter().find(|(path, _)| path == file),
        None => files.iter().max_by_key(|(_, size)| *size),
    };
    let (large, size) = large.context("the mount does not have such a file")?.clone();
    files.retain(|(path, size)| *size <= SMALL && *path != large);
    files.truncate(SMALL_FILES);
    let direct = Direct { buckets };
    let file = direct.file(&large)?;
    let end = size.min(MAX_SEQUENTIAL);

    let mut table = ResultTable(vec![]);
    let (through, first) = sequential(&mountpoint.join(&large), end)?;
    let direct_first = timed(|| fetch(&file, 0..RANDOM_BYTES.min(size)))?;
    let took = timed(|| at_once(options.requests.into(), request_ranges(end), |range| fetch(&file, range)))?;
    let [mounted, straight] = [through, took].map(|time| end as f64 / 1e6 / time.as_secs_f64());
    let sequential = table.more(&format!("sequential, {} MB", end / 1_000_000), "MB/s", mounted, straight);
    let [mounted, straight] = [first, direct_first].map(milliseconds);
    let opened = table.less("first byte", "ms", mounted, straight);

    let offsets: Vec<u64> = (0..RANDOM_READS).map(|_| fastrand::u64(0..size) / 4096 * 4096).collect();
    let through = random(&mountpoint.join(&large), &offsets)?;
    let mut straight = Vec::new();
    for offset in &offsets {
        straight.push(timed(|| fetch(&file, *offset..(offset + RANDOM_BYTES).min(size)))?);
    }
    let random = table.less("random 128 KiB, median", "ms", median(through), median(straight));

    let count = files.len();
    if count > 0 {
        let paths = || files.iter().map(|(path, _)| path);
        let through = timed(|| {
            at_once(SMALL_READERS, paths(), |path| Ok(read_whole(&mountpoint.join(path), |_| {})?))
        })?;
        let known = paths().map(|path| direct.file(path)).collect::<anyhow::Result<Vec<_>>>()?;
        let straight = timed(|| at_once(SMALL_READERS, known.iter(), |file| fetch(file, 0..file.1.size)))?;
        let [mounted, straight] = [through, straight].map(|time| count as f64 / time.as_secs_f64());
        table.more(&format!("{count} small files, {SMALL_READERS} readers"), "files/s", mounted, straight);
    }
    table.print(&hints(
        sequential,
        opened,
        random,
        end as f64 / took.as_secs_f64(),
        direct_first,
        options.requests,
    ))
}

/// The source without the mount.
struct Direct {
    buckets: Vec<(PathBuf, Arc<dyn Bucket>)>,
}

type DirectFile = (Arc<dyn Bucket>, Version);

impl Direct {
    fn file(&self, path: &Path) -> anyhow::Result<DirectFile> {
        let owner = innermost(&self.buckets, path);
        let (_, bucket, key) = owner.with_context(|| format!("no source has {}", path.display()))?;
        let key = key.to_str().context("a name that is not UTF-8")?;
        let version =
            bucket.head(key).with_context(|| format!("the source of {} does not answer", path.display()))?;
        Ok((Arc::clone(bucket), version))
    }
}

fn fetch((bucket, version): &DirectFile, range: Range<u64>) -> anyhow::Result<()> {
    let length = range.end - range.start;
    if length == 0 {
        return Ok(());
    }
    let mut body = bucket.get(version, range)?;
    let mut buffer = vec![0; (length as usize).min(128 * 1024)];
    let mut left = length;
    while left > 0 {
        let most = buffer.len().min(usize::try_from(left)?);
        let read = body.read(&mut buffer[..most])?;
        ensure!(read > 0, "the answer ended too early");
        left -= read as u64;
    }
    Ok(())
}

fn timed(work: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<Duration> {
    let began = Instant::now();
    work().map(|()| began.elapsed())
}

fn at_once<T: Send>(
    workers: usize,
    jobs: impl Iterator<Item = T> + Send,
    work: impl Fn(T) -> anyhow::Result<()> + Sync,
) -> anyhow::Result<()> {
    let jobs = Mutex::new(jobs);
    let run = || {
        let next = || lock(&jobs).next();
        while let Some(job) = next() {
            work(job)?;
        }
        Ok(())
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(run)).collect();
        workers.into_iter().try_for_each(|worker| {
            worker.join().unwrap_or_else(|_| Err(anyhow::anyhow!("a thread ended before its time")))
        })
    })
}

/// Opens a file and drops its pages from the kernel's cache.
fn open_cold(path: &Path, advice: Advice) -> io::Result<File> {
    let file = File::open(path)?;
    fadvise(&file, 0, None, Advice::DontNeed)?;
    fadvise(&file, 0, None, advice)?;
    Ok(file)
}

/// The times to read this many bytes, and to read the first one.
fn sequential(path: &Path, end: u64) -> anyhow::Result<(Duration, Duration)> {
    let began = Instant::now();
    let mut file = open_cold(path, Advice::Normal)?.take(end);
    let mut buffer = vec![0; 1024 * 1024];
    file.read_exact(&mut buffer[..1.min(end as usize)])?;
    let first = began.elapsed();
    while file.read(&mut buffer)? > 0 {}
    Ok((began.elapsed(), first))
}

fn random(path: &Path, offsets: &[u64]) -> anyhow::Result<Vec<Duration>> {
    let file = open_cold(path, Advice::Random)?;
    let mut buffer = vec![0; RANDOM_BYTES as usize];
    offsets.iter().map(|offset| timed(|| Ok(file.read_at(&mut buffer, *offset).map(drop)?))).collect()
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn median(mut times: Vec<Duration>) -> f64 {
    times.sort();
    times.get(times.len() / 2).copied().map(milliseconds).unwrap_or_default()
}

struct ResultTable(Vec<String>);

impl ResultTable {
    /// Adds a row of figures of which more is better. Returns the ratio.
    fn more(&mut self, what: &str, unit: &str, mount: f64, direct: f64) -> f64 {
        self.row(what, unit, mount, direct, mount / direct)
    }

    /// Adds a row of figures of which less is better. Returns the ratio.
    fn less(&mut self, what: &str, unit: &str, mount: f64, direct: f64) -> f64 {
        self.row(what, unit, mount, direct, direct / mount)
    }

    fn row(&mut self, what: &str, unit: &str, mount: f64, direct: f64, ratio: f64) -> f64 {
        self.0.push(format!("{what:<30} {unit:>8} {mount:>10.1} {direct:>10.1} {ratio:>8.2}"));
        ratio
    }

    fn print(&self, hints: &[String]) -> anyhow::Result<()> {
        let mut out = io::stdout().lock();
        writeln!(out, "{:<30} {:>8} {:>10} {:>10} {:>8}", "", "", "mount", "direct", "ratio")?;
        for line in self.0.iter().chain(hints) {
            writeln!(out, "{line}")?;
        }
        Ok(())
    }
}

/// Hints about the ratios. `rate` is in bytes a second without the mount; `trip` is the time to the first of them.
fn hints(sequential: f64, first: f64, random: f64, rate: f64, trip: Duration, requests: u16) -> Vec<String> {
    let mut hints = Vec::new();
    if sequential > 1.5 || random > 1.5 {
        hints.push("Faster than its source: some of the bytes were cached by the mount already.".to_string());
    }
    if sequential < 0.9 {
        let window = rate * trip.as_secs_f64();
        hints.push(match window > SMALL_WINDOW {
            true => format!(
                "Sequential: {:.0} MB must be under way at any time, in {requests} requests here; is --memory (three \
                 quarters of which are for prefetching) twice as much, and --requests the same?",
                window / 1e6
            ),
            false => "Sequential: the latency of the source is low; FUSE and this machine's CPUs are the limit.".to_string(),
        });
    }
    if random < 0.7 {
        hints.push(format!("Random: a read takes {:.1} times as long as its request.", 1.0 / random));
    }
    if first < 0.5 {
        hints
            .push("First byte: the mount requested names and attributes first (--metadata-ttl).".to_string());
    }
    hints
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hints_where_there_is_something_to_say() {
        let of =
            |sequential, first, random| hints(sequential, first, random, 1e9, Duration::from_millis(20), 64);
        assert!(of(1.0, 1.0, 1.0).is_empty());
        let slow = of(0.5, 0.4, 0.5);
        assert!(slow.len() == 3 && slow[0].contains("20 MB") && slow[1].contains("2.0 times"), "{slow:?}");
        assert!(of(3.0, 1.0, 9.0)[0].contains("cache"));
        assert!(hints(0.5, 1.0, 1.0, 3e9, Duration::from_millis(1), 64)[0].contains("CPU"));
    }
}
