//! Requests on their way from the device to the journal, for kernels that do not resend them (before Linux 6.9).
//!
//! A process that takes requests with read(2) can be killed before it notes one, and the request is lost. So splice(2)
//! brings each request in one step from the device into a pipe that the holder keeps. The worker reads a copy of its beginning
//! (tee(2)), notes it in the journal, and then takes it out of the pipe. At every moment a request is in the kernel's queue,
//! in the pipe or in the journal. The next worker begins with the request in the pipe.
//!
//! A thread that waits for a request inside splice(2) would hold the lock of the pipe, and could get the request after its
//! process was killed and its successor has looked into the pipe. So the device is only read when it has a request.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use anyhow::Context as _;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::{Errno, ioctl_fionread, read, retry_on_intr};
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice, tee};

use super::journal::{MESSAGE_MAX, NOTED_MAX, length};
use crate::limits;

/// A pipe that the holder keeps. It has at most one request.
#[derive(Debug)]
pub(crate) struct Pipe {
    pub(super) reader: OwnedFd,
    pub(super) writer: OwnedFd,
}

impl Pipe {
    /// A pipe for the largest request. Only privileged processes may make one when the user has many pipes.
    pub(super) fn new() -> io::Result<Self> {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        fcntl_setpipe_size(&writer, limits::PIPE)?;
        Ok(Pipe { reader, writer })
    }
}

/// The way of requests from the device into this process.
pub(super) struct Intake {
    device: Arc<OwnedFd>,
    pipe: Pipe,
    /// Reading and writing end of a pipe for copies of the beginnings of requests.
    copies: (OwnedFd, OwnedFd),
}

impl Intake {
    pub(super) fn new(device: Arc<OwnedFd>, pipe: Pipe) -> anyhow::Result<Self> {
        fcntl_setfl(&device, fcntl_getfl(&device)? | OFlags::NONBLOCK)
            .context("the device cannot be polled")?;
        let copies = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        Ok(Intake { device, pipe, copies })
    }

    /// The beginning of the request that another worker has left in the pipe, if `is_waiting` finds that the kernel
    /// waits for its answer.
    ///
    /// A worker may have been killed while it took a request out. Its remains are bytes that an application writes, so they
    /// must not pass for a request.
    pub(super) fn left(&self, is_waiting: impl FnOnce(&[u8]) -> bool) -> io::Result<Option<Vec<u8>>> {
        let Some(beginning) = self.beginning()? else { return Ok(None) };
        if length(&beginning) == Some(ioctl_fionread(&self.pipe.reader)?) && is_waiting(&beginning) {
            return Ok(Some(beginning));
        }
        self.take(&mut vec![0; MESSAGE_MAX])?;
        Ok(None)
    }

    /// The beginning of the request in the pipe, which stays there.
    pub(super) fn beginning(&self) -> io::Result<Option<Vec<u8>>> {
        let copy = || tee(&self.pipe.reader, &self.copies.1, NOTED_MAX, SpliceFlags::NONBLOCK);
        match retry_on_intr(copy) {
            Err(Errno::AGAIN) => return Ok(None),
            copied => copied?,
        };
        let mut bytes = vec![0; NOTED_MAX];
        let read = retry_on_intr(|| read(&self.copies.0, &mut bytes))?;
        bytes.truncate(read);
        Ok(Some(bytes))
    }

    /// Takes the request out of the pipe.
    pub(super) fn take<'b>(&self, bytes: &'b mut [u8]) -> io::Result<&'b [u8]> {
        let length = retry_on_intr(|| read(&self.pipe.reader, &mut *bytes))?;
        Ok(&bytes[..length])
    }

    /// Waits for a request, which is in the pipe afterwards. Returns false when the file system is unmounted.
    pub(super) fn wait(&self) -> io::Result<bool> {
        loop {
            retry_on_intr(|| poll(&mut [PollFd::new(&self.device, PollFlags::IN)], None))?;
            match splice(&self.device, None, &self.pipe.writer, None, limits::PIPE, SpliceFlags::NONBLOCK) {
                // The caller was killed meanwhile.
                Err(Errno::AGAIN | Errno::INTR | Errno::NOENT) => {}
                Err(Errno::NODEV) => return Ok(false),
                taken => return Ok(taken? > 0),
            }
        }
    }
}
