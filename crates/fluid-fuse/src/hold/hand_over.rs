//! The holder's socket, over which a worker gets the device and the session's state.
//!
//! A worker connects and receives the descriptors, with what was negotiated with the kernel. Where the kernel does not resend
//! requests, it also receives the ends of two pipes ([`super::intake`]). It keeps the connection as long
//! as it lives. The holder serves one connection after the other, so there is one worker at a time. The worker passes on the
//! news of its container's hooks as single bytes.

use std::fs::File;
use std::io::{self, IoSlice, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use anyhow::{Context as _, ensure};
use fuser::Config;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde::{Deserialize, Serialize};

use super::init::Negotiated;
use super::intake::{Pipe, Pipes};
use super::journal::{self, Repeated};
use super::session::{self, Begun};
use super::state::Log;
use crate::fs::View;
use crate::in_pod::News;

/// The version of this conversation. A worker refuses any other.
const VERSION: u32 = 1;

/// Descriptors in a message: the device, the state, and the ends of two pipes.
pub(crate) const DESCRIPTORS_MAX: usize = 6;

/// The news that a worker passes on, each with its byte. After a failed gate the worker ends, and the next one has a gate of
/// its own: the holder keeps the mount.
const MESSAGES: [(News, u8); 2] = [(News::GatePassed, b'p'), (News::PodEnds, b'e')];

/// The text that goes along with the descriptors, as JSON.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Offer {
    fluid_fuse_hold: u32,
    negotiated: Negotiated,
}

/// The session that a holder hands over, beside the device.
#[derive(Debug)]
pub struct Held {
    pub(crate) negotiated: Negotiated,
    state: File,
    pipes: Option<Pipes>,
    connection: UnixStream,
}

/// The descriptors that the holder keeps.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) device: Arc<OwnedFd>,
    pub(crate) state: File,
    /// Only where the kernel does not resend requests.
    pub(crate) pipes: Option<Pipes>,
}

/// The connection to the holder, for which this process is the worker as long as this lives.
#[derive(Debug)]
pub(crate) struct Connection(UnixStream);

/// Serves until the end.
pub(crate) type Run = Box<dyn FnOnce() -> io::Result<()> + Send>;

impl Offer {
    pub(crate) fn new(negotiated: Negotiated) -> Self {
        Offer { fluid_fuse_hold: VERSION, negotiated }
    }

    /// Sends the descriptors.
    pub(crate) fn send(&self, to: &UnixStream, kept: &Kept) -> anyhow::Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let mut descriptors = vec![kept.device.as_fd(), kept.state.as_fd()];
        let pipes = kept.pipes.iter().flat_map(|pipes| [&pipes.requests, &pipes.copies]);
        descriptors.extend(pipes.flat_map(|pipe| [pipe.reader.as_fd(), pipe.writer.as_fd()]));
        ensure!(
            ancillary.push(SendAncillaryMessage::ScmRights(&descriptors)),
            "there is no room for descriptors"
        );
        let text = serde_json::to_vec(self)?;
        sendmsg(to, &[IoSlice::new(&text)], &mut ancillary, SendFlags::NOSIGNAL)?;
        Ok(())
    }
}

impl Held {
    /// Reads the text that came with a device. Returns nothing if it is not a holder's: drivers of others send any text.
    pub(crate) fn read(
        text: &[u8],
        descriptors: Vec<OwnedFd>,
        connection: UnixStream,
    ) -> anyhow::Result<Option<Self>> {
        let Ok(offer) = serde_json::from_slice::<Offer>(text) else { return Ok(None) };
        ensure!(
            offer.fluid_fuse_hold == VERSION,
            "the holder speaks version {} of the hand-over, and this program version {VERSION}",
            offer.fluid_fuse_hold
        );
        let mut descriptors = descriptors.into_iter();
        let state = descriptors.next().context("the holder sent no state")?.into();
        let mut pipe =
            || descriptors.next().zip(descriptors.next()).map(|(reader, writer)| Pipe { reader, writer });
        let pipes = pipe().zip(pipe()).map(|(requests, copies)| Pipes { requests, copies });
        Ok(Some(Held { negotiated: offer.negotiated, state, pipes, connection }))
    }

    /// Begins a session where another worker has ended. Returns the function that serves, and the connection.
    pub(crate) fn session(
        self,
        view: View,
        device: OwnedFd,
        config: Config,
    ) -> anyhow::Result<(Run, Connection)> {
        let state = self.state.try_clone()?;
        let (log, state) = Log::take_over(state).context("the state of the mount is lost")?;
        let connection = Connection(self.connection);
        if !self.negotiated.resends() {
            let pipes = self.pipes.context("the holder sent no pipes")?;
            let run =
                journal::begin(view, (log, state), device, (self.state, pipes), self.negotiated, config)?;
            return Ok((run, connection));
        }
        view.resume(Arc::new(log), state, Repeated::default());
        let Begun { session, slot, .. } = session::begin(view, self.negotiated, config)?;
        slot.put(device.as_fd())?;
        session::resend(&device).context("the kernel does not resend requests")?;
        Ok((Box::new(|| session.run()), connection))
    }
}

impl Connection {
    /// Another descriptor of the same connection.
    pub(crate) fn try_clone(&self) -> io::Result<Self> {
        self.0.try_clone().map(Connection)
    }

    /// Returns when the holder has ended. It sends nothing before.
    pub(crate) fn wait_for_end(&self) {
        listen(&self.0, |_| {});
    }

    /// Passes news on to the holder.
    pub(crate) fn tell(&self, news: News) -> io::Result<()> {
        let message = MESSAGES.into_iter().find(|(known, _)| *known == news);
        message.map_or(Ok(()), |(_, byte)| (&self.0).write_all(&[byte]))
    }
}

/// Calls `hear` with the news from a worker until the connection ends.
pub(crate) fn listen(mut worker: &UnixStream, mut hear: impl FnMut(News)) {
    let mut message = [0];
    loop {
        match worker.read(&mut message) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Ok(1..) => {
                let news = MESSAGES.into_iter().find(|(_, byte)| *byte == message[0]);
                news.map(|(news, _)| news).into_iter().for_each(&mut hear);
            }
            Ok(0) | Err(_) => return,
        }
    }
}
