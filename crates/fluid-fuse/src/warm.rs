//! `warm`: fetching a Dataset, or some of its files, before anybody waits for it.
//!
//! It fills the cache directory that a later mount has, through the same code and with the same checks, or reads
//! through a mount that is there. Files are cut into parts, so that the workers share a large one as they share
//! many small ones. It decides what is fetched and tells how it goes; what a mount keeps of it, and for how long,
//! is the cache's matter.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, ErrorKind, IsTerminal, Read, Write};
use std::ops::Range;
use std::path::{Component, Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use fluid_sidecar_layout::contract::exit_code;
use fluid_sidecar_layout::contract::option::MOUNTPOINT;
use indicatif::{ProgressBar, ProgressStyle};
use log::{info, warn};

use crate::cli::WarmOptions;
use crate::fetch::{Budget, DiskCache, MAX_REQUEST_SIZE, RemoteFile, Shared};
use crate::inodes::lock;
use crate::limits;
use crate::mount::mounted_at;
use crate::object_store::{ObjectStore, Presentation};
use crate::plain::plain;
use crate::remote;
use crate::store::{Kind, Store, StoreError, local_directory};
use crate::union::innermost;
use crate::watch::shown;

/// Memory for the parts that a worker has in its hands.
const PER_WORKER: u64 = 512 * 1024;

/// What was listed stays true for as long as this takes.
const LISTED: Duration = Duration::from_secs(7 * 24 * 3600);

const BUFFER: usize = 1024 * 1024;
const REPORT: Duration = Duration::from_secs(5);
const REDRAW: Duration = Duration::from_millis(100);

/// Fetches; the exit code tells whether all of it is there now.
pub fn run(options: &WarmOptions) -> anyhow::Result<ExitCode> {
    let began = Instant::now();
    let paths = paths(options)?;
    let progress = Progress::default();
    let mut fetched = None;
    match &options.mountpoint {
        Some(mountpoint) => read_through(mountpoint, &paths, options.workers, &progress)?,
        None => fetched = Some(fill_cache(options, &paths, &progress)?),
    }
    let seconds = began.elapsed().as_secs_f64();
    let failures = lock(&progress.failures);
    let mut stderr = io::stderr();
    for (path, reason) in failures.iter() {
        let line = format!("{}: {reason}", path.display());
        let _ = writeln!(stderr, "fluid-fuse: {}", plain(&line));
    }
    let bytes = get(&progress.bytes);
    let moved = fetched.unwrap_or(bytes);
    let kept = if moved < bytes {
        format!(" ({} MB were there)", (bytes - moved) / 1_000_000)
    } else {
        String::new()
    };
    let _ = writeln!(
        io::stdout(),
        "{} files, {bytes} bytes{kept}, {} failed, {seconds:.1} s, {:.0} MB/s",
        get(&progress.files),
        failures.len(),
        moved as f64 / 1e6 / seconds
    );
    Ok(if failures.is_empty() { exit_code::SUCCESS } else { exit_code::FAILURE }.into())
}

/// What is asked for; `""` for all.
fn paths(options: &WarmOptions) -> anyhow::Result<Vec<PathBuf>> {
    let clean =
        |path: &PathBuf| path.components().filter(|part| matches!(part, Component::Normal(_))).collect();
    let mut paths: Vec<PathBuf> = options.paths.iter().map(clean).collect();
    if let Some(list) = &options.files {
        let lines: Box<dyn BufRead> = match list.as_os_str() == "-" {
            true => Box::new(io::stdin().lock()),
            false => Box::new(BufReader::new(
                File::open(list).with_context(|| format!("cannot open {}", list.display()))?,
            )),
        };
        for line in lines.lines() {
            let line = line.with_context(|| format!("cannot read {}", list.display()))?;
            let line = line.trim_start_matches('/');
            if !line.is_empty() {
                paths.push(crate::config::below(line)?);
            }
        }
    } else if paths.is_empty() {
        paths.push(PathBuf::new());
    }
    Ok(paths)
}

#[derive(Default)]
struct Progress {
    files: AtomicU64,
    bytes: AtomicU64,
    failures: Mutex<Vec<(PathBuf, String)>>,
}

fn get(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

impl Progress {
    fn add(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    fn ended(&self, path: &Path, outcome: Result<(), String>) {
        match outcome {
            Ok(()) => {
                self.files.fetch_add(1, Ordering::Relaxed);
            }
            Err(reason) => lock(&self.failures).push((path.to_path_buf(), reason)),
        }
    }

    /// Does the jobs, several at a time, and shows how far it is.
    fn work<J: FnOnce() + Send>(&self, workers: u16, all: (u64, u64), jobs: impl Iterator<Item = J> + Send) {
        let (files, bytes) = all;
        let jobs = Mutex::new(jobs);
        let (working, ended) = mpsc::channel::<()>();
        thread::scope(|scope| {
            scope.spawn(move || self.show(files, bytes, &ended));
            for _ in 0..workers {
                let working = working.clone();
                let jobs = &jobs;
                scope.spawn(move || {
                    let next = || lock(jobs).next();
                    while let Some(job) = next() {
                        job();
                    }
                    drop(working);
                });
            }
            drop(working);
        });
    }

    /// Until nobody works any more.
    fn show(&self, files: u64, bytes: u64, ended: &mpsc::Receiver<()>) {
        let terminal = io::stderr().is_terminal();
        let bar = if terminal { ProgressBar::new(bytes) } else { ProgressBar::hidden() };
        let style = "{wide_bar} {msg} {decimal_bytes}/{decimal_total_bytes} {decimal_bytes_per_sec} {eta}";
        if let Ok(style) = ProgressStyle::with_template(style) {
            bar.set_style(style);
        }
        let pause = if terminal { REDRAW } else { REPORT };
        while let Err(RecvTimeoutError::Timeout) = ended.recv_timeout(pause) {
            let (done, so_far) = (get(&self.files), get(&self.bytes));
            bar.set_position(so_far);
            bar.set_message(format!("{done}/{files} files"));
            if !terminal {
                let failed = lock(&self.failures).len();
                info!("warming files={done}/{files} bytes={so_far}/{bytes} failed={failed}");
            }
        }
        bar.finish_and_clear();
    }
}

// --- into the cache ---------------------------------------------------------------------------------------

/// A file on its way to the disk.
struct Item<'a> {
    store: &'a ObjectStore,
    /// In its store, and below the mount point.
    path: PathBuf,
    shown: PathBuf,
    size: u64,
    /// Parts that are not done.
    left: AtomicU64,
    file: OnceLock<Result<Arc<RemoteFile>, String>>,
    failed: OnceLock<String>,
}

/// The bytes that had to be fetched.
fn fill_cache(options: &WarmOptions, paths: &[PathBuf], progress: &Progress) -> anyhow::Result<u64> {
    let directory = options.cache.cache_dir.as_deref().with_context(|| {
        format!(
            "nowhere to keep what is fetched: give --cache-dir, or --{MOUNTPOINT} to read through a mount"
        )
    })?;
    let disk = DiskCache::open(directory, options.cache.cache_size).with_context(|| {
        format!("cannot use --cache-dir; what a mount has, fill through its --{MOUNTPOINT}")
    })?;
    let workers = usize::from(options.workers);
    let budget = Budget {
        memory: workers as u64 * PER_WORKER,
        requests: workers,
        deadline: options.cache.io_timeout,
        slow: Duration::MAX,
    };
    let shared = Shared::new(budget, Some(disk))?;
    let show = Presentation {
        uid: 0,
        gid: 0,
        directory_mode: 0o755,
        file_mode: 0o644,
        read_only: true,
        kept_times: false,
        rename_limit: 0,
        ttl: LISTED,
        name_bytes: limits::LISTING,
    };
    let mut stores = Vec::new();
    for mount in options.source.mounts()? {
        match local_directory(&mount.url)? {
            Some(_) => info!("nothing to fetch source={:?}", shown(&mount.url)),
            None => {
                let terms = remote::BucketConfig {
                    ttl: LISTED,
                    io_timeout: options.cache.io_timeout,
                    redirects: options.source.allow_redirects.clone().into(),
                    trust: mount.trust,
                };
                let bucket = remote::open_with(&mount.url, &mount.options.0, &terms)?;
                stores.push((mount.path, ObjectStore::new(&mount.url, bucket, Arc::clone(&shared), show)));
            }
        }
    }
    let mut items = Vec::new();
    for path in paths {
        list(&stores, path, &mut items, progress);
    }
    let bytes = items.iter().map(|item| item.size).sum();
    if bytes > options.cache.cache_size {
        warn!("not all of it will be kept bytes={bytes} cache_size={}", options.cache.cache_size);
    }
    let all = (items.len() as u64, bytes);
    let parts = items.into_iter().map(Arc::new).flat_map(|item| {
        let ranges = (0..item.size.div_ceil(MAX_REQUEST_SIZE).max(1)).map(|part| part * MAX_REQUEST_SIZE);
        ranges.map(move |from| {
            let item = Arc::clone(&item);
            move || item.part(from..(from + MAX_REQUEST_SIZE).min(item.size), progress)
        })
    });
    progress.work(options.workers, all, parts);
    shared.flush();
    Ok(shared.metrics().bytes.load(Ordering::Relaxed))
}

/// The files at and below a path, over all mounts.
fn list<'a>(
    stores: &'a [(PathBuf, ObjectStore)],
    path: &Path,
    items: &mut Vec<Item<'a>>,
    progress: &Progress,
) {
    let owner = innermost(stores, path);
    let below = stores.iter().filter(|(at, _)| at.starts_with(path) && at != path);
    let below: Vec<_> = below.map(|(at, store)| (at.as_path(), store, Path::new(""))).collect();
    if owner.is_none() && below.is_empty() {
        progress.ended(path, Err("no source has this path".to_string()));
    }
    for (at, store, start) in owner.into_iter().chain(below) {
        let mut left = VecDeque::from([start.to_path_buf()]);
        while let Some(path) = left.pop_front() {
            let found = store.stat(&path).and_then(|stat| match stat.kind {
                Kind::Directory => Ok((stat, store.list(&path)?.entries)),
                _ => Ok((stat, Vec::new())),
            });
            let mut file = |path: PathBuf, size: u64| {
                let left = AtomicU64::new(size.div_ceil(MAX_REQUEST_SIZE).max(1));
                let shown = at.join(&path);
                let (file, failed) = (OnceLock::new(), OnceLock::new());
                items.push(Item { store, path, shown, size, left, file, failed });
            };
            match found {
                Ok((stat, _)) if stat.kind != Kind::Directory => file(path, stat.size),
                Ok((_, entries)) => {
                    for entry in entries {
                        let path = path.join(&entry.name);
                        match entry.stat.kind {
                            Kind::Directory => left.push_back(path),
                            _ => file(path, entry.stat.size),
                        }
                    }
                }
                Err(error) => progress.ended(&at.join(&path), Err(error.to_string())),
            }
        }
    }
}

impl Item<'_> {
    /// Fetches a part; the last one tells how the file ended.
    fn part(&self, range: Range<u64>, progress: &Progress) {
        if self.size > 0 && self.failed.get().is_none() {
            let length = range.end - range.start;
            let file = self.file.get_or_init(|| self.open());
            match file.as_ref().map_err(String::clone).and_then(|file| file.keep(range).map_err(words)) {
                Ok(()) => progress.add(length),
                Err(reason) => drop(self.failed.set(reason)),
            }
        }
        if self.left.fetch_sub(1, Ordering::AcqRel) > 1 {
            return;
        }
        let file = self.file.get().and_then(|file| file.as_ref().ok());
        let outcome = match self.failed.get() {
            Some(reason) => Err(reason.clone()),
            None if file.is_none_or(|file| file.is_whole()) => Ok(()),
            None => Err("the cache directory has no room for it".to_string()),
        };
        if let Some(file) = file {
            file.close();
        }
        progress.ended(&self.shown, outcome);
    }

    fn open(&self) -> Result<Arc<RemoteFile>, String> {
        let file = self.store.file(&self.path).map_err(words)?;
        let reason = match file.hold() {
            true if file.version().size == self.size => return Ok(file),
            true => "it was replaced",
            false => "the cache directory cannot hold it",
        };
        file.close();
        Err(reason.to_string())
    }
}

fn words(error: StoreError) -> String {
    error.to_string()
}

// --- through a mount --------------------------------------------------------------------------------------

fn read_through(
    mountpoint: &Path,
    paths: &[PathBuf],
    workers: u16,
    progress: &Progress,
) -> anyhow::Result<()> {
    let place = mountpoint.display();
    let found =
        mounted_at(mountpoint).with_context(|| format!("cannot find out what is mounted at {place}"))?;
    ensure!(found.is_some_and(|entry| entry.is_fuse()), "{place} is not a mount of fluid-fuse");
    let mut files = Vec::new();
    for path in paths {
        let failed = |path: &Path, error: io::Error| progress.ended(path, Err(error.to_string()));
        files.extend(files_below(mountpoint, path, failed));
    }
    let all = (files.len() as u64, files.iter().map(|(_, size)| size).sum());
    let jobs = files.into_iter().map(|(path, _)| {
        move || {
            let read = read_whole(&mountpoint.join(&path), |read| progress.add(read as u64));
            progress.ended(&path, read.map_err(|error| error.to_string()));
        }
    });
    progress.work(workers, all, jobs);
    Ok(())
}

/// The files at and below a path of a directory, with their sizes.
pub(crate) fn files_below(
    root: &Path,
    path: &Path,
    mut failed: impl FnMut(&Path, io::Error),
) -> Vec<(PathBuf, u64)> {
    let mut files = Vec::new();
    let mut left = VecDeque::from([path.to_path_buf()]);
    while let Some(path) = left.pop_front() {
        match look(&root.join(&path)) {
            Ok((_, size)) if size > 0 => files.push((path, size)),
            Ok((names, _)) => left.extend(names.into_iter().map(|name| path.join(name))),
            Err(error) => failed(&path, error),
        }
    }
    files
}

/// The names in a directory, or the size of a file. A link leads to what is found elsewhere, too.
fn look(path: &Path) -> io::Result<(Vec<std::ffi::OsString>, u64)> {
    let metadata = fs::symlink_metadata(path)?;
    match metadata.is_dir() {
        true => {
            let names = fs::read_dir(path)?.map(|entry| entry.map(|entry| entry.file_name()));
            Ok((names.collect::<io::Result<_>>()?, 0))
        }
        false => Ok((Vec::new(), if metadata.is_file() { metadata.len() } else { 0 })),
    }
}

/// Reads a file to its end and forgets it.
pub(crate) fn read_whole(path: &Path, mut piece: impl FnMut(usize)) -> io::Result<()> {
    let mut file = File::open(path)?;
    let mut buffer = vec![0; BUFFER];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(read) => piece(read),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
