//! Requests on their way from the device to the journal, for kernels that do not resend them (before Linux 6.9).
//!
//! A process that takes requests with read(2) can be killed before it notes one, and the request is lost. So splice(2)
//! brings each request in one step from the device into a pipe that the holder keeps. The worker reads a copy of it
//! (tee(2)), notes it in the journal, and then removes it from the pipe. At every moment a request is in the kernel's queue,
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
use rustix::io::{Errno, read, retry_on_intr};
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice, tee};

use super::journal::{MESSAGE_MAX, length};
use crate::limits;

/// The pipes that the holder keeps. Only privileged processes may make such large ones when the user has many pipes.
#[derive(Debug)]
pub(crate) struct Pipes {
    /// Has at most one request.
    pub(super) requests: Pipe,
    /// For a copy of it.
    pub(super) copies: Pipe,
}

/// A pipe for the largest request.
#[derive(Debug)]
pub(crate) struct Pipe {
    pub(super) reader: OwnedFd,
    pub(super) writer: OwnedFd,
}

impl Pipes {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Pipes { requests: Pipe::new()?, copies: Pipe::new()? })
    }
}

impl Pipe {
    fn new() -> io::Result<Self> {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        fcntl_setpipe_size(&writer, limits::PIPE)?;
        Ok(Pipe { reader, writer })
    }

    /// Takes everything out.
    fn drain<'b>(&self, bytes: &'b mut [u8]) -> io::Result<&'b [u8]> {
        match retry_on_intr(|| read(&self.reader, &mut *bytes)) {
            Err(Errno::AGAIN) => Ok(&[]),
            length => Ok(&bytes[..length?]),
        }
    }
}

/// The way of requests from the device into this process.
pub(super) struct Intake {
    device: Arc<OwnedFd>,
    pipes: Pipes,
}

impl Intake {
    pub(super) fn new(device: Arc<OwnedFd>, pipes: Pipes) -> anyhow::Result<Self> {
        fcntl_setfl(&device, fcntl_getfl(&device)? | OFlags::NONBLOCK)
            .context("the device cannot be polled")?;
        // Another worker was killed with a copy.
        pipes.copies.drain(&mut vec![0; MESSAGE_MAX])?;
        Ok(Intake { device, pipes })
    }

    /// Looks for the request that another worker has left in the pipe. Returns its number if `is_waiting` finds that the
    /// kernel waits for its answer.
    ///
    /// A worker may have been killed while it removed a request. Its remains are bytes that an application writes, so they
    /// must not pass for a request.
    pub(super) fn left(&self, is_waiting: impl FnOnce(&[u8]) -> Option<u64>) -> io::Result<Option<u64>> {
        let mut bytes = vec![0; MESSAGE_MAX];
        let Some(request) = self.request(&mut bytes)? else { return Ok(None) };
        let is_whole = length(request) == u32::try_from(request.len()).ok();
        let number = is_whole.then(|| is_waiting(request)).flatten();
        if number.is_none() {
            self.remove(&mut bytes)?;
        }
        Ok(number)
    }

    /// The request in the pipe, which stays there.
    pub(super) fn request<'b>(&self, bytes: &'b mut [u8]) -> io::Result<Option<&'b [u8]>> {
        let Pipes { requests, copies } = &self.pipes;
        match retry_on_intr(|| tee(&requests.reader, &copies.writer, limits::PIPE, SpliceFlags::NONBLOCK)) {
            Err(Errno::AGAIN) => return Ok(None),
            copied => copied?,
        };
        copies.drain(bytes).map(Some)
    }

    /// Removes the request from the pipe.
    pub(super) fn remove(&self, bytes: &mut [u8]) -> io::Result<()> {
        self.pipes.requests.drain(bytes).map(drop)
    }

    /// Waits for a request, which is in the pipe afterwards. Returns false when the file system is unmounted.
    pub(super) fn wait(&self) -> io::Result<bool> {
        loop {
            retry_on_intr(|| poll(&mut [PollFd::new(&self.device, PollFlags::IN)], None))?;
            match splice(
                &self.device,
                None,
                &self.pipes.requests.writer,
                None,
                limits::PIPE,
                SpliceFlags::NONBLOCK,
            ) {
                // The caller was killed meanwhile.
                Err(Errno::AGAIN | Errno::INTR | Errno::NOENT) => {}
                Err(Errno::NODEV) => return Ok(false),
                taken => return Ok(taken? > 0),
            }
        }
    }
}
