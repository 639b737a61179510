//! `wait` and `check`: whether a mount is there and answers, seen from outside.
//!
//! A thread that waits for a file system which hangs cannot even be killed: its process does not end before the answer
//! comes. So a process of its own (the hidden command `probe`) asks the file system, and is left behind when the time is up.
//! Its exit code is the error number. This module cannot tell why a mount is missing or hangs.

use std::io;
use std::iter;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{anyhow, bail};
use fluid_sidecar_layout::contract::message::{NEVER_READY, NOT_READY};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, StatxFlags, openat, statx};
use rustix::io::Errno;

use crate::cli::{ProbeOptions, hidden};
use crate::inodes::ROOT;
use crate::{mount, nofollow};

/// Time in which a file system that works returns the attributes of its root.
const PROMPT: Duration = Duration::from_secs(1);

const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(100);

/// Why a mount is not ready.
struct NotReady {
    reason: anyhow::Error,
    /// The store refuses, so waiting does not help.
    for_good: bool,
}

impl From<anyhow::Error> for NotReady {
    fn from(reason: anyhow::Error) -> Self {
        NotReady { reason, for_good: false }
    }
}

/// Errors of a mount's root when the store denies access or has no such bucket (`crate::fs`).
const REFUSALS: [Errno; 2] = [Errno::ACCESS, Errno::NXIO];

/// Succeeds as soon as a FUSE file system is mounted on the directory and its root, and the path below it,
/// answer. Fails when the time is up, or at once when the store refuses.
pub fn wait(directory: &Path, sub_path: Option<&Path>, timeout: Duration) -> anyhow::Result<()> {
    let end = Instant::now() + timeout;
    let mut pause = FIRST_PAUSE;
    let mut last = None;
    loop {
        let began = Instant::now();
        let not_ready = match ready(directory, sub_path, end) {
            Ok(()) => return Ok(()),
            Err(NotReady { reason, for_good: true }) => bail!("{NEVER_READY}: {reason:#}"),
            Err(NotReady { reason, .. }) => reason,
        };
        let left = end.saturating_duration_since(Instant::now());
        // An attempt that was cut short by the timeout says less than the one before.
        if !left.is_zero() || began.elapsed() >= PROMPT || last.is_none() {
            last = Some(not_ready);
        }
        if let Some(reason) = last.as_ref().filter(|_| left.is_zero()) {
            bail!("{NOT_READY} {}: {reason:#}", humantime::format_duration(timeout));
        }
        thread::sleep(pause.min(left));
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

fn ready(directory: &Path, sub_path: Option<&Path>, end: Instant) -> Result<(), NotReady> {
    let device = require_mount(directory)?;
    for below in iter::once(None).chain(sub_path.map(Some)) {
        if let Err(error) = ask(directory, below, &device, true, end) {
            let refuses =
                error.raw_os_error().is_some_and(|code| REFUSALS.contains(&Errno::from_raw_os_error(code)));
            let path = below.map_or_else(|| directory.to_path_buf(), |below| directory.join(below));
            let reason = anyhow!("{} does not answer: {error}", path.display());
            return Err(NotReady { reason, for_good: below.is_none() && refuses });
        }
    }
    Ok(())
}

/// Succeeds if a FUSE file system is mounted on the directory and its root answers promptly.
pub fn check(directory: &Path) -> anyhow::Result<()> {
    let device = require_mount(directory)?;
    match stat(directory, &device) {
        Ok(()) => Ok(()),
        Err(error) => bail!("the mount at {} does not answer: {error}", directory.display()),
    }
}

/// The device of the FUSE file system that is mounted on the directory.
fn require_mount(directory: &Path) -> anyhow::Result<String> {
    match mount::mounted_at(directory)? {
        None => bail!("{} is not a mount", directory.display()),
        Some(entry) if !entry.is_fuse() => {
            bail!("{} is a mount of {}, not of FUSE", directory.display(), entry.kind)
        }
        Some(entry) => Ok(entry.device),
    }
}

/// Asks for a path's attributes; [`io::ErrorKind::TimedOut`] if the answer is not prompt.
pub(crate) fn stat(path: &Path, device: &str) -> io::Result<()> {
    ask(path, None, device, false, Instant::now() + PROMPT)
}

/// Whether the error is that of a mount without a server.
pub(crate) fn is_dead(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::NOTCONN.raw_os_error())
}

fn ask(path: &Path, below: Option<&Path>, device: &str, list: bool, end: Instant) -> io::Result<()> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg(hidden::PROBE).arg(format!("--{}={device}", hidden::DEVICE));
    command.args(list.then(|| format!("--{}", hidden::LIST))).arg("--").arg(path).args(below);
    let began = Instant::now();
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    loop {
        match child.try_wait()?.map(|status| status.code()) {
            Some(Some(0)) => return Ok(()),
            Some(Some(code)) => return Err(io::Error::from_raw_os_error(code)),
            Some(None) => return Err(io::Error::other("the probe was killed")),
            None if Instant::now() < end => thread::sleep(Duration::from_millis(1)),
            None => {
                child.kill()?;
                let waited =
                    humantime::format_duration(Duration::from_millis(began.elapsed().as_millis() as u64));
                return Err(io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {waited}")));
            }
        }
    }
}

/// The command `probe`: asks the file system, and returns the error number as exit code.
pub fn report(options: &ProbeOptions) -> ExitCode {
    match answer(options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            ExitCode::from(error.raw_os_error().and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX))
        }
    }
}

fn answer(options: &ProbeOptions) -> io::Result<()> {
    // Without links, which others may have planted since it was mounted.
    let root = nofollow::directory(&options.path).map_err(|error| match error.kind() {
        io::ErrorKind::InvalidInput => Errno::LOOP.into(),
        _ => error,
    })?;
    let asked = match &options.below {
        None => root.try_clone()?,
        // The content may have links; they count as long as they stay in it.
        Some(below) => nofollow::beneath(&root, below, OFlags::PATH)?,
    };
    // FORCE_SYNC: the kernel must not answer from its cache for a file system that is dead.
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_FORCE_SYNC;
    let stat = statx(&asked, "", flags, StatxFlags::BASIC_STATS)?;
    // While a dead mount is replaced, the directory below it answers for a moment.
    let is_mounted = format!("{}:{}", stat.stx_dev_major, stat.stx_dev_minor) == options.device;
    if !is_mounted || options.below.is_none() && stat.stx_ino != ROOT {
        return Err(Errno::STALE.into());
    }
    let is_directory = FileType::from_raw_mode(stat.stx_mode.into()) == FileType::Directory;
    if options.list && is_directory {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = openat(&asked, ".", flags, Mode::empty())?;
        drop(Dir::new(opened)?.next().transpose()?);
    }
    Ok(())
}
