//! A worker's session on a device whose kernel has been greeted already.
//!
//! The FUSE library begins each session with the kernel's FUSE_INIT. So it gets one end of a socket pair, from which it
//! reads a FUSE_INIT that was made up, and then the device is put in the place of that end, under the same number.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, IntoRawFd, OwnedFd, RawFd};

use anyhow::Context as _;
use fuser::{Config, Filesystem, Notifier, Session, SessionACL};
use nix::fcntl::OFlag;
use nix::unistd::dup3_raw;
use rustix::io::{read, write};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use super::init::Agreed;

/// The library's answer to FUSE_INIT is shorter.
const ANSWER_MAX: usize = 1024;

/// `FUSE_NOTIFY_RESEND`, as an answer to nobody: its length, its code, and no request.
const RESEND: [u32; 4] = [16, 7, 0, 0];

/// A session that begins where another ended.
pub(crate) struct Begun<FS: Filesystem> {
    pub(crate) session: Session<FS>,
    /// Where its requests come from, until the device is put there.
    pub(crate) slot: Slot,
    /// Its requests until then, and its answers.
    pub(crate) ours: OwnedFd,
}

/// The place of a session's descriptor.
pub(crate) struct Slot {
    number: RawFd,
    /// Keeps the number open for as long as this lives.
    _open: Notifier,
}

/// Greets the file system in the kernel's name.
pub(crate) fn begin<FS: Filesystem>(
    filesystem: FS,
    agreed: Agreed,
    config: Config,
) -> anyhow::Result<Begun<FS>> {
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    write(&ours, &agreed.request())?;
    let session = Session::from_fd(filesystem, theirs, SessionACL::All, config)
        .context("the file system cannot be what was agreed upon with the kernel")?;
    read(&ours, &mut [0; ANSWER_MAX])?;
    let slot = Slot { number: session.as_fd().as_raw_fd(), _open: session.notifier() };
    Ok(Begun { session, slot, ours })
}

/// Has the kernel send again all that was taken and not answered. To be called before anything is taken.
pub(crate) fn resend(device: impl AsFd) -> io::Result<()> {
    let message: Vec<u8> = RESEND.iter().flat_map(|word| word.to_ne_bytes()).collect();
    write(device, &message)?;
    Ok(())
}

impl Slot {
    /// Puts the device there. Whoever waits for the socket must be woken by it.
    #[allow(unsafe_code, reason = "a descriptor that the library owns, which it has no way to replace")]
    pub(crate) fn put(&self, device: BorrowedFd<'_>) -> io::Result<()> {
        // SAFETY: the number is open, since `_open` shares the library's ownership of it. The library keeps owning what
        // it stands for afterwards, and only reads from it and writes to it.
        let replaced = unsafe { dup3_raw(device, self.number, OFlag::O_CLOEXEC) };
        // What comes back is the same number: the library's to close.
        replaced.map(IntoRawFd::into_raw_fd).map(drop).map_err(io::Error::from)
    }
}
