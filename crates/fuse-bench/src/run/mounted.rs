//! A mount that is measured: its process, its figures, its end.
//!
//! It decides that nothing outlives its time: what hangs is killed when its limit is over, and the mount is
//! taken away by force when it does not go by itself, also when the benchmark is interrupted. There is one
//! mount at a time, always at the same place. It does not know what is mounted.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use rustix::fs::{major, minor};
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Pid, Signal, kill_process};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// How long a mount may take to come.
const START: Duration = Duration::from_secs(20);
/// How long a process may take to end by itself.
const END: Duration = Duration::from_secs(3);
/// As short as the machine sleeps.
const POLL: Duration = Duration::from_micros(100);

/// The process that has the mount, 0 for none.
static SERVING: AtomicI32 = AtomicI32::new(0);

/// Where mounts, caches and logs go.
pub(super) struct Place {
    directory: PathBuf,
    /// Where everything is mounted.
    pub(super) mountpoint: PathBuf,
}

impl Place {
    /// Clears what a run that was killed has left, and sees that a signal leaves nothing.
    pub(super) fn prepare(directory: &Path) -> anyhow::Result<Self> {
        let directory = std::path::absolute(directory)?.join("work");
        let place = Place { mountpoint: directory.join("mount"), directory };
        place.clear();
        fs::create_dir_all(&place.mountpoint)
            .with_context(|| format!("cannot make {}", place.mountpoint.display()))?;
        let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).context("cannot handle signals")?;
        let interrupted = Place { directory: place.directory.clone(), mountpoint: place.mountpoint.clone() };
        thread::spawn(move || {
            if let Some(signal) = signals.forever().next() {
                kill(SERVING.load(Ordering::Relaxed));
                interrupted.clear();
                std::process::exit(128 + signal);
            }
        });
        Ok(place)
    }

    /// A cache directory with nothing in it.
    pub(super) fn fresh_cache(&self) -> anyhow::Result<PathBuf> {
        self.fresh("cache")
    }

    /// A directory for a store that is written to, with nothing in it.
    pub(super) fn fresh_store(&self) -> anyhow::Result<PathBuf> {
        self.fresh("store")
    }

    fn fresh(&self, name: &str) -> anyhow::Result<PathBuf> {
        let directory = self.directory.join(name);
        if directory.exists() {
            fs::remove_dir_all(&directory)
                .with_context(|| format!("cannot clear {}", directory.display()))?;
        }
        fs::create_dir_all(&directory)?;
        Ok(directory)
    }

    fn clear(&self) {
        detach(&self.mountpoint);
        // Never through a mount.
        if fs::remove_dir(&self.mountpoint).is_ok() {
            let _ = fs::remove_dir_all(&self.directory);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.clear();
    }
}

fn kill(process: i32) {
    if let Some(pid) = Pid::from_raw(process) {
        // It may have ended already.
        let _ = kill_process(pid, Signal::KILL);
    }
}

/// Takes all mounts away, whether or not somebody still answers there.
fn detach(mountpoint: &Path) {
    while unmount(mountpoint, UnmountFlags::DETACH | UnmountFlags::FORCE).is_ok() {}
}

/// A mount.
pub(super) struct Mounted {
    child: Child,
    root: PathBuf,
    /// From exec to the first attributes of a file.
    pub(super) ready: Duration,
}

impl Mounted {
    /// Runs the program until a file can be seen in the mount.
    pub(super) fn start(place: &Place, command: &mut Command, file: &str) -> anyhow::Result<Self> {
        let log = place.directory.join("log");
        let output = File::create(&log)?;
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let path = place.mountpoint.join(file);
        let start = Instant::now();
        let child = command.spawn().with_context(|| format!("cannot run {:?}", command.get_program()))?;
        let mut mounted = Mounted { child, root: place.mountpoint.clone(), ready: Duration::ZERO };
        SERVING.store(mounted.process(), Ordering::Relaxed);
        mounted.ready = mounted.within(START, |mounted| {
            loop {
                match fs::metadata(&path) {
                    Ok(_) => return Ok(start.elapsed()),
                    // The directory below, or the mount as it comes.
                    Err(_) if start.elapsed() < START => thread::sleep(POLL),
                    Err(error) => bail!("no file in the mount: {error}"),
                }
                if !alive(mounted.process()) {
                    bail!("it ended: {}", last_line(&log));
                }
            }
        })?;
        Ok(mounted)
    }

    fn process(&self) -> i32 {
        self.child.id().cast_signed()
    }

    /// Where it is.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Does something with the mount. When the time is over the process is killed, so that whoever waits for
    /// it has an error.
    pub(super) fn within<T>(
        &self,
        limit: Duration,
        work: impl FnOnce(&Self) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let (done, waiting) = mpsc::channel::<()>();
        let late = AtomicBool::new(false);
        let result = thread::scope(|scope| {
            let late = &late;
            scope.spawn(move || {
                if waiting.recv_timeout(limit) == Err(mpsc::RecvTimeoutError::Timeout) {
                    late.store(true, Ordering::Relaxed);
                    kill(self.process());
                    detach(&self.root);
                }
            });
            let result = work(self);
            drop(done);
            result
        });
        match late.load(Ordering::Relaxed) {
            true => Err(anyhow!("no answer within {} s", limit.as_secs())),
            false => result,
        }
    }

    /// The processor time of the process, in seconds.
    pub(super) fn processor_time(&self) -> anyhow::Result<f64> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.process()))?;
        // The name, in parentheses, may have spaces.
        let fields = stat.rsplit_once(')').context("no name in stat")?.1;
        let ticks = fields.split_whitespace().skip(11).take(2).map(str::parse::<u64>);
        let ticks: u64 = ticks.sum::<Result<_, _>>()?;
        Ok(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
    }

    /// A line of the process's status that is in kB, in MB: `VmRSS` now, `VmHWM` at its height.
    pub(super) fn memory(&self, line: &str) -> anyhow::Result<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process()))?;
        let value = status.lines().find_map(|known| known.strip_prefix(line)?.strip_prefix(':'));
        let kibibytes = value.and_then(|value| value.trim().strip_suffix("kB")?.trim().parse::<f64>().ok());
        Ok(kibibytes.with_context(|| format!("no {line}"))? * 1024.0 / 1e6)
    }

    /// Where the kernel keeps how far it reads ahead in this mount.
    pub(super) fn read_ahead_file(&self) -> anyhow::Result<PathBuf> {
        let device = rustix::fs::stat(&self.root)?.st_dev;
        Ok(format!("/sys/class/bdi/{}:{}/read_ahead_kb", major(device), minor(device)).into())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if unmount(&self.root, UnmountFlags::empty()).is_err() {
            detach(&self.root);
        }
        let start = Instant::now();
        while start.elapsed() < END && matches!(self.child.try_wait(), Ok(None)) {
            thread::sleep(Duration::from_millis(1));
        }
        SERVING.store(0, Ordering::Relaxed);
        // Nothing is to be done about one that ended in between.
        let _ = self.child.kill().and_then(|()| self.child.wait());
        detach(&self.root);
    }
}

/// Not for one that was waited for.
fn alive(process: i32) -> bool {
    fs::read_to_string(format!("/proc/{process}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

fn last_line(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("without a word").trim().to_owned()
}

/// What the files of a directory take on the disk.
pub(super) fn allocated(directory: &Path) -> io::Result<u64> {
    use std::os::unix::fs::MetadataExt;
    let mut sum = 0;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        sum += if metadata.is_dir() { allocated(&entry.path())? } else { metadata.blocks() * 512 };
    }
    Ok(sum)
}
