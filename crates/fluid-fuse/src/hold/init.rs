//! FUSE_INIT, which the kernel asks once in the life of a mount.
//!
//! The holder answers it the moment that it has mounted: whoever touches the directory would wait for that, kubelet
//! included. It agrees to what [`crate::fs`] can do and to being asked again (`FUSE_HAS_RESEND`), and never to
//! passthrough, whose files would be lost with the worker. A worker's FUSE library insists on a FUSE_INIT of its own, and
//! is given one with what was agreed upon.

use std::io;
use std::os::fd::AsFd;

use anyhow::{Context as _, ensure};
use fuser::InitFlags;
use rustix::io::{Errno, read, write};
use serde::{Deserialize, Serialize};

use crate::fs::{BACKGROUND, WANTED};

/// The version of the protocol that is spoken: that of the FUSE library, which is Linux 6.9's. Older kernels ignore what
/// they do not know.
const VERSION: (u32, u32) = (7, 40);

/// The oldest minor version with the long answer (Linux 3.15).
const OLDEST: u32 = 23;

/// `FUSE_INIT`.
const OPCODE: u32 = 26;

/// Before `fuse_init_in`: `fuse_in_header`.
const IN_HEADER: usize = 40;

/// `fuse_init_in` and `fuse_init_out`.
const INIT_IN: usize = 64;
const INIT_OUT: usize = 64;

/// The kernel refuses to be read with less (`FUSE_MIN_READ_BUFFER`).
const REQUEST_MAX: usize = 8192;

/// Bytes of a write, and so of all requests: what the FUSE library's buffers hold.
const MAX_WRITE: u32 = 16 << 20;

/// The same where requests go through a socket ([`super::journal`]): as much as the kernel reads ahead, and less than the
/// socket of an unprivileged process takes at a time (`net.core.wmem_default`, 208 KiB).
pub(super) const SMALL_WRITE: u32 = 128 << 10;

/// Bytes of a page of the kernel, at least.
const PAGE: u32 = 4096;

/// What was agreed upon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Agreed {
    minor: u32,
    max_readahead: u32,
    flags: u64,
}

impl Agreed {
    /// Whether the kernel asks again what a worker took and did not answer (Linux 6.9).
    pub(crate) fn resends(self) -> bool {
        InitFlags::from_bits_retain(self.flags).contains(InitFlags::FUSE_HAS_RESEND)
    }

    /// A FUSE_INIT that offers what was agreed upon.
    pub(crate) fn request(self) -> Vec<u8> {
        let [low, high] = halves(self.flags);
        let mut request = words(&[(IN_HEADER + INIT_IN) as u32, OPCODE, 1, 0]);
        request.resize(IN_HEADER, 0);
        request.extend(words(&[VERSION.0, self.minor, self.max_readahead, low, high]));
        request.resize(IN_HEADER + INIT_IN, 0);
        request
    }
}

/// Answers the kernel. Without `resend`, as one answers that does not know it (for tests).
pub(crate) fn answer(device: impl AsFd, resend: bool) -> anyhow::Result<Agreed> {
    let mut buffer = vec![0; REQUEST_MAX];
    let length = loop {
        match read(&device, &mut buffer) {
            Err(Errno::INTR | Errno::AGAIN) => {}
            length => break length.context("the kernel does not greet the file system")?,
        }
    };
    let request = &buffer[..length];
    let word =
        |at: usize| request.get(at..at + 4).and_then(|word| word.try_into().ok()).map(u32::from_ne_bytes);
    let body = |index: usize| word(IN_HEADER + 4 * index).context("the kernel's greeting is cut off");
    ensure!(word(4) == Some(OPCODE), "the kernel's first request is not FUSE_INIT");
    let (major, minor, max_readahead, low) = (body(0)?, body(1)?, body(2)?, body(3)?);
    ensure!(
        major == VERSION.0 && minor >= OLDEST,
        "the kernel speaks version {major}.{minor} of FUSE, and Linux 3.15 or newer is needed"
    );
    let is_long = InitFlags::from_bits_retain(low.into()).contains(InitFlags::FUSE_INIT_EXT);
    let high = if is_long { body(4)? } else { 0 };
    let offered = InitFlags::from_bits_retain(u64::from(high) << 32 | u64::from(low));
    let mut wanted = WANTED | InitFlags::FUSE_INIT_EXT | ALWAYS;
    wanted.set(InitFlags::FUSE_HAS_RESEND, resend);
    let agreed = Agreed { minor, max_readahead, flags: (wanted & offered).bits() };
    let [low, high] = halves(agreed.flags);
    let mut answer = words(&[(16 + INIT_OUT) as u32, 0]);
    answer.extend(request.get(8..16).context("the kernel's greeting is cut off")?);
    answer.extend(words(&[VERSION.0, VERSION.1, max_readahead, low]));
    for half in [BACKGROUND, BACKGROUND / 4 * 3] {
        answer.extend(half.to_ne_bytes());
    }
    // The granularity of times is a nanosecond.
    let most = if agreed.resends() { MAX_WRITE } else { SMALL_WRITE };
    answer.extend(words(&[most, 1]));
    // The kernel takes fewer pages if it does not have so many (256).
    for half in [(most / PAGE) as u16, 0] {
        answer.extend(half.to_ne_bytes());
    }
    answer.extend(words(&[high]));
    answer.resize(16 + INIT_OUT, 0);
    let written = write(&device, &answer).map_err(io::Error::from);
    written.context("the kernel does not take the answer to its greeting")?;
    Ok(agreed)
}

/// What the FUSE library agrees to by itself.
const ALWAYS: InitFlags = InitFlags::FUSE_ASYNC_READ.union(InitFlags::FUSE_BIG_WRITES);

fn halves(flags: u64) -> [u32; 2] {
    [flags as u32, (flags >> 32) as u32]
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}
