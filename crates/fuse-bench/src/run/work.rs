//! The work: what is read in which pattern, and what counts as its time. It does not know whose files they
//! are.
//!
//! Nothing but the reads is in the time. Their bytes are compared with the source's afterwards: those of
//! random reads and small files from where they were read to, those of a large file from the page cache, by
//! the descriptor that they were read by. A pattern that takes too long is cut off, and its rate is that of
//! the part that was done.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use super::data::{Group, Random};
use crate::size::MIB;

/// What an application reads at a time.
const BLOCK: u64 = MIB;

/// How much was done in which time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Done {
    /// Bytes or files.
    pub(super) amount: u64,
    pub(super) time: Duration,
}

impl Done {
    /// The amount in a second.
    pub(super) fn rate(self) -> f64 {
        self.amount as f64 / self.time.as_secs_f64()
    }
}

fn open(path: &Path) -> anyhow::Result<File> {
    File::open(path).with_context(|| format!("cannot open {}", path.display()))
}

/// A large file that was read.
pub(super) struct Whole {
    pub(super) done: Done,
    /// How busy the machine's processors were meanwhile, in per cent.
    pub(super) busy: f64,
    file: File,
    /// From where, how much.
    parts: Vec<(u64, u64)>,
}

/// Reads a file by so many threads over one descriptor, each its share from front to back.
pub(super) fn whole(path: &Path, threads: u64, limit: Duration) -> anyhow::Result<Whole> {
    let processors = Processors::now()?;
    let start = Instant::now();
    let file = open(path)?;
    let share = file.metadata()?.len() / threads;
    let read = |first: u64| -> anyhow::Result<(u64, u64)> {
        let mut buffer = vec![0; BLOCK as usize];
        let mut offset = first;
        while offset < first + share && start.elapsed() < limit {
            let wanted = (first + share - offset).min(BLOCK) as usize;
            file.read_exact_at(&mut buffer[..wanted], offset)?;
            offset += wanted as u64;
        }
        Ok((first, offset - first))
    };
    let parts = parallel((0..threads).map(|thread| move || read(thread * share)))?;
    let done = Done { amount: parts.iter().map(|(_, count)| count).sum(), time: start.elapsed() };
    Ok(Whole { done, busy: processors.busy()?, file, parts })
}

/// What the machine's processors have done by a moment, in ticks.
pub(super) struct Processors {
    all: u64,
    idle: u64,
}

impl Processors {
    /// As the kernel tells it in `/proc/stat`.
    pub(super) fn now() -> anyhow::Result<Self> {
        let stat = fs::read_to_string("/proc/stat")?;
        let line = stat.lines().next().context("/proc/stat is empty")?;
        // user, nice, system, idle, iowait, irq, softirq, steal; guests are in user.
        let ticks = line.split_whitespace().skip(1).take(8).map(str::parse);
        let ticks: Vec<u64> = ticks.collect::<Result<_, _>>()?;
        Ok(Processors { all: ticks.iter().sum(), idle: ticks.iter().skip(3).take(2).sum() })
    }

    /// How busy they have been since then, in per cent.
    pub(super) fn busy(&self) -> anyhow::Result<f64> {
        let now = Self::now()?;
        let (all, idle) = (now.all - self.all, now.idle.saturating_sub(self.idle));
        Ok(100.0 * (1.0 - idle as f64 / all.max(1) as f64))
    }
}

impl Whole {
    /// Compares what was read with the source.
    pub(super) fn verify(&self, source: &Path) -> anyhow::Result<()> {
        let source = open(source)?;
        let mut buffer = vec![0; BLOCK as usize];
        for (first, count) in &self.parts {
            let end = first + count;
            let mut offset = *first;
            while offset < end {
                let wanted = (end - offset).min(BLOCK) as usize;
                self.file.read_exact_at(&mut buffer[..wanted], offset)?;
                compare(&buffer[..wanted], &source, offset)?;
                offset += wanted as u64;
            }
        }
        Ok(())
    }
}

fn compare(bytes: &[u8], source: &File, offset: u64) -> anyhow::Result<()> {
    let mut expected = vec![0; bytes.len()];
    source.read_exact_at(&mut expected, offset)?;
    if bytes != expected {
        bail!("wrong bytes between {offset} and {}", offset + bytes.len() as u64);
    }
    Ok(())
}

/// Runs all of it at the same time.
pub(super) fn parallel<T: Send>(
    work: impl Iterator<Item = impl FnOnce() -> anyhow::Result<T> + Send>,
) -> anyhow::Result<Vec<T>> {
    thread::scope(|scope| {
        let threads: Vec<_> = work.map(|work| scope.spawn(work)).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|_| bail!("a reader panicked")))
            .collect()
    })
}

/// Reads that jump about: where, how long, how often.
pub(super) struct Jumps {
    pub(super) seed: u64,
    pub(super) size: u64,
    pub(super) count: u64,
}

impl Jumps {
    /// The offsets for a file of the size.
    pub(super) fn offsets(&self, file: u64) -> impl Iterator<Item = u64> {
        let mut random = Random(self.seed);
        let places = (file - self.size) / 4096;
        (0..self.count).map(move |_| random.next() % places * 4096)
    }
}

/// Reads at random offsets, one after the other. Returns how long each took.
pub(super) fn random(
    path: &Path,
    source: &Path,
    jumps: &Jumps,
    limit: Duration,
) -> anyhow::Result<Vec<Duration>> {
    let file = open(path)?;
    let size = jumps.size as usize;
    // Not zeros: those would be pages that are not there yet.
    let mut bytes = vec![1; size * jumps.count as usize];
    let mut times = Vec::new();
    let start = Instant::now();
    let offsets: Vec<u64> = jumps.offsets(file.metadata()?.len()).collect();
    for (offset, buffer) in offsets.iter().zip(bytes.chunks_exact_mut(size)) {
        if start.elapsed() > limit {
            break;
        }
        let begin = Instant::now();
        file.read_exact_at(buffer, *offset)?;
        times.push(begin.elapsed());
    }
    let source = open(source)?;
    for ((_, offset), buffer) in times.iter().zip(offsets).zip(bytes.chunks_exact(size)) {
        compare(buffer, &source, offset)?;
    }
    Ok(times)
}

/// Reads files whole, in the order of their names, by so many readers. Whoever does this has listed the
/// directory before; that is not in the time.
pub(super) fn files(
    mount: &Path,
    source: &Path,
    group: &Group,
    readers: usize,
    limit: Duration,
) -> anyhow::Result<Done> {
    let listed = fs::read_dir(mount.join(group.directory))?.count() as u64;
    if listed != group.count {
        bail!("{} lists {listed} files, not {}", group.directory, group.count);
    }
    let mut bytes = vec![1; (group.size * group.count) as usize];
    let start = Instant::now();
    let jobs = Mutex::new((0..group.count).zip(bytes.chunks_exact_mut(group.size as usize)));
    let read = || -> anyhow::Result<u64> {
        let mut count = 0;
        while start.elapsed() < limit {
            let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).next();
            let Some((number, buffer)) = job else { break };
            open(&mount.join(group.file(number)))?.read_exact(buffer)?;
            count += 1;
        }
        Ok(count)
    };
    let amount = parallel((0..readers).map(|_| read))?.iter().sum();
    let time = start.elapsed();
    // Jobs are taken in order, and what was taken was done.
    for (number, bytes) in (0..amount).zip(bytes.chunks_exact(group.size as usize)) {
        compare(bytes, &open(&source.join(group.file(number)))?, 0)?;
    }
    Ok(Done { amount, time })
}

/// Lists a directory and asks for each file's attributes, as `ls -l` does.
pub(super) fn list(mount: &Path, group: &Group) -> anyhow::Result<Duration> {
    let start = Instant::now();
    let mut count = 0;
    for entry in fs::read_dir(mount.join(group.directory))? {
        let entry = entry?;
        let length = entry.metadata()?.len();
        if length != group.size {
            bail!("{} has a size of {length}", entry.path().display());
        }
        count += 1;
    }
    if count != group.count {
        bail!("{} lists {count} files, not {}", group.directory, group.count);
    }
    Ok(start.elapsed())
}

/// Walks through all directories of a group, as `find` does.
pub(super) fn find(mount: &Path, group: &Group) -> anyhow::Result<Duration> {
    let start = Instant::now();
    let mut directories = VecDeque::from([mount.join(group.directory)]);
    let mut count = 0;
    while let Some(directory) = directories.pop_front() {
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            match entry.file_type()?.is_dir() {
                true => directories.push_back(entry.path()),
                false => count += 1,
            }
        }
    }
    if count != group.count {
        bail!("{} has {count} files, not {}", group.directory, group.count);
    }
    Ok(start.elapsed())
}

/// Appends lines to a file, each by opening and closing it. Returns how long that took, and the lines.
pub(super) fn append(path: &Path, lines: u64, limit: Duration) -> anyhow::Result<(Done, String)> {
    let start = Instant::now();
    let (mut amount, mut text) = (0, String::new());
    while amount < lines && start.elapsed() < limit {
        let line = format!("line {amount}\n");
        let mut file = File::options().append(true).open(path)?;
        file.write_all(line.as_bytes())?;
        // What the store has not, it says here or in no way that a program sees.
        file.sync_all()?;
        text.push_str(&line);
        amount += 1;
    }
    Ok((Done { amount, time: start.elapsed() }, text))
}
