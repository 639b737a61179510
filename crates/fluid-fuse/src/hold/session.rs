//! A worker's session on a device whose FUSE_INIT was answered before.
//!
//! The FUSE library begins each session with the kernel's FUSE_INIT, which comes once in the life of a mount. So the
//! library gets one end of a socket pair with a FUSE_INIT of the same content. Afterwards the device takes the place of that
//! end, under the same number.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, IntoRawFd, OwnedFd, RawFd};

use anyhow::Context as _;
use fuser::{Config, Filesystem, Notifier, Session, SessionACL};
use nix::fcntl::OFlag;
use nix::unistd::dup3_raw;
use rustix::io::{read, write};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use super::init::Negotiated;

/// Bytes for the library's answer to FUSE_INIT: it has 80.
const ANSWER_MAX: usize = 1024;

/// `FUSE_NOTIFY_RESEND` as an answer to no request: its length, its code, and the request number 0.
const RESEND: [u32; 4] = [16, 7, 0, 0];

/// A session that has begun.
pub(crate) struct Begun<FS: Filesystem> {
    pub(crate) session: Session<FS>,
    /// The descriptor that the session reads requests from.
    pub(crate) slot: Slot,
    /// The other end of the socket pair: it sends requests and receives answers until the device is in the slot.
    pub(crate) peer: OwnedFd,
}

/// The descriptor of a session, which can be replaced.
pub(crate) struct Slot {
    number: RawFd,
    /// Keeps the number open for as long as this lives.
    _open: Notifier,
}

/// Begins a session of the file system with a FUSE_INIT of what was negotiated.
pub(crate) fn begin<FS: Filesystem>(
    filesystem: FS,
    negotiated: Negotiated,
    config: Config,
) -> anyhow::Result<Begun<FS>> {
    let (peer, socket) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    write(&peer, &negotiated.request())?;
    let session = Session::from_fd(filesystem, socket, SessionACL::All, config)
        .context("the file system cannot do what the holder has negotiated with the kernel")?;
    read(&peer, &mut [0; ANSWER_MAX])?;
    let slot = Slot { number: session.as_fd().as_raw_fd(), _open: session.notifier() };
    Ok(Begun { session, slot, peer })
}

/// Makes the kernel resend all requests that were read and not answered. To be called before this process reads any.
pub(crate) fn resend(device: impl AsFd) -> io::Result<()> {
    let message: Vec<u8> = RESEND.iter().flat_map(|word| word.to_ne_bytes()).collect();
    write(device, &message)?;
    Ok(())
}

impl Slot {
    /// Puts the device into the slot, before the session reads from it.
    #[allow(unsafe_code, reason = "a descriptor that the library owns, which it has no way to replace")]
    pub(crate) fn put(&self, device: BorrowedFd<'_>) -> io::Result<()> {
        // SAFETY: the number is open, since `_open` shares the library's ownership of it. The library still owns the
        // descriptor afterwards, and only reads from it and writes to it.
        let replaced = unsafe { dup3_raw(device, self.number, OFlag::O_CLOEXEC) };
        // The result is the same number, which the library closes.
        replaced.map(IntoRawFd::into_raw_fd).map(drop).map_err(io::Error::from)
    }
}
