//! `warm`: fills the caches of a mount before somebody reads the files.
//!
//! It reads files through the mount, several at a time, and reports progress and failures. The bytes go into the cache
//! directory of the mount and into the kernel's page cache. The mount alone decides what it caches and for how long.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, ErrorKind, IsTerminal, Read, Write};
use std::path::{Component, Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use fluid_sidecar_layout::contract::exit_code;
use indicatif::{ProgressBar, ProgressStyle};
use log::info;

use crate::cli::WarmOptions;
use crate::mount::mounted_at;
use crate::plain::plain;
use crate::sync::lock;

/// Bytes of one read(2): 1 MiB, eight of the kernel's requests, so that system calls cost little.
const READ_SIZE: usize = 1024 * 1024;

/// Time between two log lines of progress, where stderr is no terminal.
const LOG_INTERVAL: Duration = Duration::from_secs(5);

/// Time between two updates of the progress bar on a terminal: short enough that it moves smoothly.
const REDRAW_INTERVAL: Duration = Duration::from_millis(100);

/// Reads the files. The exit code is a failure if one of them could not be read.
pub fn run(options: &WarmOptions) -> anyhow::Result<ExitCode> {
    let began = Instant::now();
    let mountpoint = options.target.resolve()?;
    let place = mountpoint.display();
    let found =
        mounted_at(&mountpoint).with_context(|| format!("cannot find out what is mounted at {place}"))?;
    ensure!(found.is_some_and(|entry| entry.is_fuse()), "{place} is not a mount of fluid-fuse");
    let progress = Tally::default();
    let mut files = Vec::new();
    for path in paths(options)? {
        let failed = |path: &Path, error: io::Error| progress.ended(path, Err(error));
        files.extend(files_below(&mountpoint, &path, failed));
    }
    read_all(&mountpoint, files, options.workers, &progress);
    let seconds = began.elapsed().as_secs_f64();
    let failures = lock(&progress.failures);
    let mut stderr = io::stderr();
    for (path, error) in failures.iter() {
        let line = format!("{}: {error}", path.display());
        let _ = writeln!(stderr, "fluid-fuse: {}", plain(&line));
    }
    let bytes = get(&progress.bytes);
    let _ = writeln!(
        io::stdout(),
        "{} files, {bytes} bytes, {} failed, {seconds:.1} s, {:.0} MB/s",
        get(&progress.files),
        failures.len(),
        bytes as f64 / 1e6 / seconds
    );
    Ok(if failures.is_empty() { exit_code::SUCCESS } else { exit_code::FAILURE }.into())
}

/// The paths to read, relative to the mount point; `""` for all.
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

/// Counts of what was read so far.
#[derive(Default)]
struct Tally {
    files: AtomicU64,
    bytes: AtomicU64,
    failures: Mutex<Vec<(PathBuf, io::Error)>>,
}

fn get(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

impl Tally {
    fn add(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    fn ended(&self, path: &Path, outcome: io::Result<()>) {
        match outcome {
            Ok(()) => {
                self.files.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => lock(&self.failures).push((path.to_path_buf(), error)),
        }
    }

    /// Shows the progress until all workers have ended.
    fn show(&self, files: u64, bytes: u64, ended: &mpsc::Receiver<()>) {
        let terminal = io::stderr().is_terminal();
        let bar = if terminal { ProgressBar::new(bytes) } else { ProgressBar::hidden() };
        let style = "{wide_bar} {msg} {decimal_bytes}/{decimal_total_bytes} {decimal_bytes_per_sec} {eta}";
        if let Ok(style) = ProgressStyle::with_template(style) {
            bar.set_style(style);
        }
        let pause = if terminal { REDRAW_INTERVAL } else { LOG_INTERVAL };
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

/// Reads files, as many at a time as there are workers, and shows the progress.
fn read_all(mountpoint: &Path, files: Vec<(PathBuf, u64)>, workers: u16, progress: &Tally) {
    let (count, bytes) = (files.len() as u64, files.iter().map(|(_, size)| size).sum());
    let files = Mutex::new(files.into_iter());
    // The channel closes when the last worker drops its end.
    let (working, ended) = mpsc::channel::<()>();
    thread::scope(|scope| {
        scope.spawn(move || progress.show(count, bytes, &ended));
        for _ in 0..workers {
            let (working, files) = (working.clone(), &files);
            scope.spawn(move || {
                let next = || lock(files).next();
                while let Some((path, _)) = next() {
                    let read = read_whole(&mountpoint.join(&path), |read| progress.add(read as u64));
                    progress.ended(&path, read);
                }
                drop(working);
            });
        }
        drop(working);
    });
}

/// The files at and below a path of a directory, with their sizes. Empty files are left out.
pub(crate) fn files_below(
    root: &Path,
    path: &Path,
    mut failed: impl FnMut(&Path, io::Error),
) -> Vec<(PathBuf, u64)> {
    let mut files = Vec::new();
    let mut pending = VecDeque::from([path.to_path_buf()]);
    while let Some(path) = pending.pop_front() {
        match names_or_size(&root.join(&path)) {
            Ok((_, size)) if size > 0 => files.push((path, size)),
            Ok((names, _)) => pending.extend(names.into_iter().map(|name| path.join(name))),
            Err(error) => failed(&path, error),
        }
    }
    files
}

/// The names in a directory, or the size of a file. Symbolic links are not followed: their targets are found
/// elsewhere in the tree.
fn names_or_size(path: &Path) -> io::Result<(Vec<OsString>, u64)> {
    let metadata = fs::symlink_metadata(path)?;
    match metadata.is_dir() {
        true => {
            let names = fs::read_dir(path)?.map(|entry| entry.map(|entry| entry.file_name()));
            Ok((names.collect::<io::Result<_>>()?, 0))
        }
        false => Ok((Vec::new(), if metadata.is_file() { metadata.len() } else { 0 })),
    }
}

/// Reads a file to its end and drops the bytes.
pub(crate) fn read_whole(path: &Path, mut piece: impl FnMut(usize)) -> io::Result<()> {
    let mut file = File::open(path)?;
    let mut buffer = vec![0; READ_SIZE];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(read) => piece(read),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
