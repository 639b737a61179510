//! The guard: a FUSE file system without a server, mounted below the sidecar's for the life of a Pod.
//!
//! When the gate of a Pod has failed, kubelet starts the application nevertheless, and a sidecar that is started
//! again leaves its mount point empty for a moment. Without a guard the application would then see the bare directory:
//! it would list no files, and what it writes would be lost. The guard answers every request with the error
//! "Transport endpoint is not connected", since the connection that serves it is closed.
//!
//! One thing must succeed: container runtimes ask for the attributes of a directory before they bind it into a
//! container. So the guard's root answers that one request before its connection is closed, with attributes that the
//! kernel keeps for good. A container that starts upon the guard sees the sidecar's file system as soon as it is
//! mounted on the guard, by mount propagation.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use fluid_sidecar_layout::contract::FLUID_FUSE;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::mount;

/// `X` in the guard's file system type `fuse.X`.
pub const SUBTYPE: &str = "fluid-fuse-guard";

/// How long the kernel may take to ask for the attributes of the guard's root.
const PROMPT: Duration = Duration::from_secs(5);

/// The kernel sends no request that is larger: the negotiated `MAX_WRITE` and headers, or FUSE_MIN_READ_BUFFER.
const REQUEST_MAX: usize = 16 * 1024;
const MAX_WRITE: u32 = 4096;

/// Requests and answers as `include/uapi/linux/fuse.h` has them.
mod wire {
    pub(super) const FORGET: u32 = 2;
    pub(super) const GETATTR: u32 = 3;
    pub(super) const INIT: u32 = 26;
    pub(super) const INTERRUPT: u32 = 36;
    pub(super) const BATCH_FORGET: u32 = 42;
    /// Linux 6.6 and newer ask so first, and then by GETATTR.
    pub(super) const STATX: u32 = 52;
    /// The version of the protocol that the answers below are of (Linux 5.4); newer kernels speak it, too.
    pub(super) const VERSION: (u32, u32) = (7, 31);
    /// `FUSE_ROOT_ID`.
    pub(super) const ROOT: u64 = 1;
    pub(super) const DIRECTORY: u32 = 0o040_555;
}

/// Mounts the guard on a directory that nothing is mounted on.
pub fn mount(path: &Path) -> anyhow::Result<()> {
    let mut connection = File::from(mount::attach(path, FLUID_FUSE, SUBTYPE, false)?);
    let asked = path.to_path_buf();
    let attributes = thread::spawn(move || std::fs::metadata(asked).map(drop));
    let answered = answer(&mut connection, || attributes.is_finished());
    // All requests that wait get an error from now on, that of this thread included.
    drop(connection);
    let known = attributes.join().map_err(|_| io::Error::other("the question failed"));
    answered.and(known?.map_err(anyhow::Error::new)).context("the guard's attributes are not known")
}

/// Answers requests until there is no need to.
fn answer(connection: &mut File, done: impl Fn() -> bool) -> anyhow::Result<()> {
    let pause = Timespec { tv_sec: 0, tv_nsec: 1_000_000 };
    let end = Instant::now() + PROMPT;
    let mut request = vec![0; REQUEST_MAX];
    while !done() {
        ensure!(Instant::now() < end, "the kernel did not ask within {PROMPT:?}");
        let length = match poll(&mut [PollFd::new(connection, PollFlags::IN)], Some(&pause)) {
            Ok(0) | Err(Errno::INTR) => continue,
            Ok(_) => connection.read(&mut request),
            Err(errno) => Err(errno.into()),
        };
        let length = match length {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            length => length?,
        };
        if let Some(answer) = answer_to(&request[..length]) {
            match connection.write(&answer) {
                // The caller has been interrupted.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                written => drop(written?),
            }
        }
    }
    Ok(())
}

/// The answer to a request; nothing if it wants none.
fn answer_to(request: &[u8]) -> Option<Vec<u8>> {
    let word = |at: usize| Some(u32::from_ne_bytes(request.get(at..at + 4)?.try_into().ok()?));
    let unique = request.get(8..16)?;
    let (code, body) = match word(4)? {
        wire::INIT => (0, init(word(48)?)),
        wire::GETATTR => (0, root_attributes()),
        wire::STATX => (-Errno::NOSYS.raw_os_error(), Vec::new()),
        wire::FORGET | wire::BATCH_FORGET | wire::INTERRUPT => return None,
        _ => (-Errno::NOTCONN.raw_os_error(), Vec::new()),
    };
    let length = u32::try_from(16 + body.len()).ok()?;
    Some([&length.to_ne_bytes()[..], &i32::to_ne_bytes(code), unique, &body].concat())
}

/// `fuse_init_out`: no features.
fn init(max_readahead: u32) -> Vec<u8> {
    let mut body = words(&[wire::VERSION.0, wire::VERSION.1, max_readahead, 0]);
    body.extend(words(&[0, MAX_WRITE, 1]));
    body.resize(64, 0);
    body
}

/// `fuse_attr_out` of an empty directory, valid for longer than the Pod lives.
fn root_attributes() -> Vec<u8> {
    let valid_seconds: u64 = 1 << 40;
    let mut body = valid_seconds.to_ne_bytes().to_vec();
    body.extend(words(&[0, 0]));
    body.extend(wire::ROOT.to_ne_bytes());
    // Size, blocks and times.
    body.extend([0; 5 * 8 + 3 * 4]);
    // Mode and links; then owner, device, block size and flags.
    body.extend(words(&[wire::DIRECTORY, 2, 0, 0, 0, MAX_WRITE, 0]));
    body
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}
