//! Descriptors of `/dev/fuse` from another process that has mounted: a driver of the node, or `fusermount3`.
//!
//! A driver that may mount passes its descriptor to a sidecar that may not, as those of GKE and Mountpoint do: by
//! inheritance, or as SCM_RIGHTS over a unix socket. `fusermount3`, which has the set-user-ID bit, mounts for its caller
//! and sends the descriptor over a socket, too. This module does not know the mount point of a descriptor.

use std::fmt;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::str::FromStr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use rustix::fs::{FileType, fstat, major, minor};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketFlags, SocketType, recvmsg,
    socketpair,
};

use crate::hold::{DESCRIPTORS_MAX, Held};

/// The program that mounts for users who may not.
pub const HELPER: &str = "fusermount3";

/// The variable with the number of the helper's descriptor that is connected to this process.
const COMMAND_FD: &str = "_FUSE_COMMFD";

/// The number of the device `/dev/fuse`.
const FUSE: (u32, u32) = (10, 229);

/// Where a descriptor of a mounted file system comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FuseFd {
    /// It was inherited.
    Inherited(RawFd),
    /// The process that listens on the socket sends it.
    Socket(PathBuf),
}

impl FromStr for FuseFd {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:").filter(|path| path.starts_with('/')) {
            return Ok(FuseFd::Socket(path.into()));
        }
        let number = text.strip_prefix("/dev/fd/").unwrap_or(text).parse().ok().filter(|number| *number > 2);
        number.map(FuseFd::Inherited).ok_or_else(|| "a number above 2, or unix:/PATH".to_string())
    }
}

impl fmt::Display for FuseFd {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FuseFd::Inherited(number) => write!(formatter, "{number}"),
            FuseFd::Socket(path) => write!(formatter, "unix:{}", path.display()),
        }
    }
}

/// How long nobody may listen at a socket: the process that mounts may have been started at the same moment.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Time between two attempts to connect: less than a process needs to start.
const CONNECT_INTERVAL: Duration = Duration::from_millis(20);

/// How long a holder may take, which waits until the process that serves its mount has ended.
const HAND_OVER_TIMEOUT: Duration = Duration::from_secs(60);

/// Takes the descriptor of another process, with the session of a [holder](crate::hold), if it is one.
pub fn handed_over(from: &FuseFd) -> anyhow::Result<(OwnedFd, Option<Held>)> {
    let (descriptor, held) = match from {
        FuseFd::Inherited(number) => (inherited(*number)?, None),
        FuseFd::Socket(path) => {
            let socket = connect(path).context("nobody listens there")?;
            socket.set_read_timeout(Some(HAND_OVER_TIMEOUT))?;
            let Received { text, descriptor, others } =
                receive(&socket).context("nothing was handed over")?;
            socket.set_read_timeout(None)?;
            (descriptor, Held::read(&text, others, socket)?)
        }
    };
    let stat = fstat(&descriptor)?;
    let is_fuse = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
        && (major(stat.st_rdev), minor(stat.st_rdev)) == FUSE;
    ensure!(is_fuse, "it is not a descriptor of /dev/fuse");
    Ok((descriptor, held))
}

fn connect(path: &Path) -> io::Result<UnixStream> {
    let until = Instant::now() + CONNECT_TIMEOUT;
    loop {
        match UnixStream::connect(path) {
            Err(_) if Instant::now() < until => thread::sleep(CONNECT_INTERVAL),
            connected => return connected,
        }
    }
}

/// Sends itself the descriptor of this number: a number in a message need not be known to be open, and what
/// arrives is owned. pidfd_getfd(2) does the same, but container runtimes forbid it (seccomp).
fn inherited(number: RawFd) -> anyhow::Result<OwnedFd> {
    let (ours, theirs) = UnixStream::pair()?;
    let (text, descriptors) = ([IoSlice::new(b".")], [number]);
    let rights = [ControlMessage::ScmRights(&descriptors)];
    sendmsg::<()>(theirs.as_raw_fd(), &text, &rights, MsgFlags::empty(), None)
        .context("this process was not started with such a descriptor")?;
    Ok(receive(&ours)?.descriptor)
}

/// A message with descriptors: one, or those of a holder.
struct Received {
    text: Vec<u8>,
    descriptor: OwnedFd,
    others: Vec<OwnedFd>,
}

/// Waits for a message with a descriptor.
fn receive(socket: impl AsFd) -> anyhow::Result<Received> {
    let mut text = vec![0; 1024];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received =
        recvmsg(socket, &mut [IoSliceMut::new(&mut text)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    text.truncate(received.bytes);
    let mut descriptors = ancillary.drain().flat_map(|message| match message {
        RecvAncillaryMessage::ScmRights(descriptors) => descriptors.collect(),
        _ => Vec::new(),
    });
    let descriptor = descriptors.next().context("what came had no descriptor with it")?;
    let others = descriptors.collect();
    Ok(Received { text, descriptor, others })
}

/// Lets [`HELPER`] mount.
pub fn from_helper(path: &Path, source: &str, subtype: &str, read_only: bool) -> anyhow::Result<OwnedFd> {
    let (ours, theirs) = socketpair(
        AddressFamily::UNIX,
        SocketType::STREAM,
        // The helper inherits its end.
        SocketFlags::empty(),
        None,
    )?;
    let escaped = source.replace('\\', "\\\\").replace(',', "\\,");
    let access = if read_only { "ro" } else { "rw" };
    let options =
        format!("nosuid,nodev,allow_other,default_permissions,{access},subtype={subtype},fsname={escaped}");
    let mut command = Command::new(HELPER);
    command.arg("-o").arg(options).arg("--").arg(path).env(COMMAND_FD, theirs.as_raw_fd().to_string());
    run(&mut command)?;
    // With this end open the read below would never end.
    drop(theirs);
    Ok(receive(ours).context("it has mounted, and sent no descriptor")?.descriptor)
}

/// Lets [`HELPER`] unmount.
pub fn unmount(path: &Path) -> anyhow::Result<()> {
    run(Command::new(HELPER).args(["-u", "-z", "--"]).arg(path))
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let output = match command.stdin(Stdio::null()).output() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => bail!("not installed"),
        output => output.context("cannot be run")?,
    };
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}", said.trim());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_descriptors_come_from() {
        let read = |text: &str| text.parse::<FuseFd>();
        assert_eq!(read("3"), Ok(FuseFd::Inherited(3)));
        assert_eq!(read("/dev/fd/12"), Ok(FuseFd::Inherited(12)));
        assert_eq!(read("unix:/a/b"), Ok(FuseFd::Socket("/a/b".into())));
        for wrong in ["", "-1", "2", "unix:a", "unix:", "/dev/fuse", "99999999999"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
