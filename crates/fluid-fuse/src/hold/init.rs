//! FUSE_INIT, which the kernel sends once in the life of a mount.
//!
//! The holder answers it as soon as it has mounted: until then everybody who touches the directory waits, kubelet
//! included. It accepts the features of [`crate::fs`] and resent requests (`FUSE_HAS_RESEND`). It never accepts
//! passthrough, whose files would be lost with the worker. Each worker's FUSE library gets a FUSE_INIT that offers exactly
//! what the holder has accepted.

use std::io;
use std::os::fd::AsFd;

use anyhow::{Context as _, ensure};
use fuser::InitFlags;
use rustix::io::{Errno, read, write};
use serde::{Deserialize, Serialize};

use crate::fs::{BACKGROUND, WANTED};

/// The version of the protocol that the FUSE library speaks, from Linux 6.9. Older kernels ignore what they do not know.
const VERSION: (u32, u32) = (7, 40);

/// The oldest minor version with the long answer (Linux 3.15).
const OLDEST: u32 = 23;

/// `FUSE_INIT`.
const OPCODE: u32 = 26;

/// Bytes of `fuse_in_header`, before `fuse_init_in`.
const IN_HEADER: usize = 40;

/// Bytes of `fuse_out_header`, before `fuse_init_out`.
const OUT_HEADER: usize = 16;

/// Bytes of `fuse_init_in`.
const INIT_IN: usize = 64;

/// Bytes of `fuse_init_out`.
const INIT_OUT: usize = 64;

/// Bytes of the buffer for a request: the kernel refuses smaller ones (`FUSE_MIN_READ_BUFFER`).
const REQUEST_MAX: usize = 8192;

/// Bytes of a write, the largest request: the FUSE library's buffers hold no more.
const MAX_WRITE: u32 = 16 << 20;

/// The same where requests go through a socket ([`super::journal`]): as much as the kernel's read-ahead, and less than the
/// buffer of an unprivileged process's socket (`net.core.wmem_default`, 208 KiB).
pub(super) const SMALL_WRITE: u32 = 128 << 10;

/// Bytes of the kernel's smallest page.
const PAGE: u32 = 4096;

/// The features that kernel and holder have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Negotiated {
    minor: u32,
    max_readahead: u32,
    flags: u64,
}

impl Negotiated {
    /// Whether the kernel resends requests that a worker has read and not answered (Linux 6.9).
    pub(crate) fn resends(self) -> bool {
        InitFlags::from_bits_retain(self.flags).contains(InitFlags::FUSE_HAS_RESEND)
    }

    /// A FUSE_INIT that offers these features.
    pub(crate) fn request(self) -> Vec<u8> {
        let [low, high] = halves(self.flags);
        let mut request = words(&[(IN_HEADER + INIT_IN) as u32, OPCODE, 1, 0]);
        request.resize(IN_HEADER, 0);
        request.extend(words(&[VERSION.0, self.minor, self.max_readahead, low, high]));
        request.resize(IN_HEADER + INIT_IN, 0);
        request
    }
}

/// Answers the kernel. Without `resend` the answer is that of a program that does not know of it, for tests.
pub(crate) fn answer(device: impl AsFd, resend: bool) -> anyhow::Result<Negotiated> {
    let mut buffer = vec![0; REQUEST_MAX];
    let length = loop {
        match read(&device, &mut buffer) {
            Err(Errno::INTR | Errno::AGAIN) => {}
            length => break length.context("the kernel sends no FUSE_INIT")?,
        }
    };
    let request = &buffer[..length];
    let word =
        |at: usize| request.get(at..at + 4).and_then(|word| word.try_into().ok()).map(u32::from_ne_bytes);
    let body = |index: usize| word(IN_HEADER + 4 * index).context("the kernel's FUSE_INIT is cut off");
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
    let negotiated = Negotiated { minor, max_readahead, flags: (wanted & offered).bits() };
    let [low, high] = halves(negotiated.flags);
    let mut answer = words(&[(OUT_HEADER + INIT_OUT) as u32, 0]);
    answer.extend(request.get(8..16).context("the kernel's FUSE_INIT is cut off")?);
    answer.extend(words(&[VERSION.0, VERSION.1, max_readahead, low]));
    for half in [BACKGROUND, BACKGROUND / 4 * 3] {
        answer.extend(half.to_ne_bytes());
    }
    // The granularity of times is a nanosecond.
    let most = if negotiated.resends() { MAX_WRITE } else { SMALL_WRITE };
    answer.extend(words(&[most, 1]));
    // The kernel's own limit is 256 pages by default, and it takes the lower one.
    for half in [(most / PAGE) as u16, 0] {
        answer.extend(half.to_ne_bytes());
    }
    answer.extend(words(&[high]));
    answer.resize(OUT_HEADER + INIT_OUT, 0);
    let written = write(&device, &answer).map_err(io::Error::from);
    written.context("the kernel does not accept the answer to FUSE_INIT")?;
    Ok(negotiated)
}

/// The features that the FUSE library accepts by itself.
const ALWAYS: InitFlags = InitFlags::FUSE_ASYNC_READ.union(InitFlags::FUSE_BIG_WRITES);

fn halves(flags: u64) -> [u32; 2] {
    [flags as u32, (flags >> 32) as u32]
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}
