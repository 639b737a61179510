//! The holder's socket: how the device and the session's state get to whoever serves.
//!
//! A worker connects, is sent both with what was agreed upon with the kernel, and keeps the connection as long as it
//! lives. The holder serves one connection after the other, so that there is one worker at a time. What the worker tells
//! it is single bytes, each a [`News`].

use std::fs::File;
use std::io::{self, IoSlice, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use anyhow::{Context as _, ensure};
use fuser::Config;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde::{Deserialize, Serialize};

use super::init::Agreed;
use super::journal::{self, Again};
use super::session::{self, Begun};
use super::state::Log;
use crate::fs::View;
use crate::in_pod::News;

/// The version of this conversation. A worker takes what has its own.
const VERSION: u32 = 1;

/// What goes along with the descriptors, as JSON.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Offer {
    fluid_fuse_hold: u32,
    agreed: Agreed,
}

/// What a holder has handed over, beside the device.
#[derive(Debug)]
pub struct Held {
    pub(crate) agreed: Agreed,
    state: File,
    connection: UnixStream,
}

/// The connection to the holder: there is a worker as long as this lives.
#[derive(Debug)]
pub(crate) struct Connection(UnixStream);

/// Serves until the end.
pub(crate) type Run = Box<dyn FnOnce() -> io::Result<()> + Send>;

impl Offer {
    pub(crate) fn new(agreed: Agreed) -> Self {
        Offer { fluid_fuse_hold: VERSION, agreed }
    }

    /// Sends the descriptors.
    pub(crate) fn send(
        &self,
        to: &UnixStream,
        device: BorrowedFd<'_>,
        state: BorrowedFd<'_>,
    ) -> anyhow::Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let descriptors = [device, state];
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
    /// What came with the device; nothing if it was not sent by a holder, whose text is not ours.
    pub(crate) fn read(
        text: &[u8],
        state: Option<OwnedFd>,
        connection: UnixStream,
    ) -> anyhow::Result<Option<Self>> {
        let Ok(offer) = serde_json::from_slice::<Offer>(text) else { return Ok(None) };
        ensure!(
            offer.fluid_fuse_hold == VERSION,
            "the holder speaks version {} of the hand-over, and this program version {VERSION}",
            offer.fluid_fuse_hold
        );
        let state = state.context("the holder sent no state")?.into();
        Ok(Some(Held { agreed: offer.agreed, state, connection }))
    }

    /// Begins a session where another process ended: what is to be run, and what is left of the hand-over.
    pub(crate) fn session(
        self,
        view: View,
        device: OwnedFd,
        config: Config,
    ) -> anyhow::Result<(Run, Connection)> {
        let state = self.state.try_clone()?;
        let (log, known) = Log::take_over(state).context("the state of the mount is lost")?;
        let connection = Connection(self.connection);
        if !self.agreed.resends() {
            let run = journal::begin(view, (log, known), device, self.state, self.agreed, config)?;
            return Ok((run, connection));
        }
        view.resume(Arc::new(log), known, Again::default());
        let Begun { session, slot, .. } = session::begin(view, self.agreed, config)?;
        slot.put(device.as_fd())?;
        session::resend(&device).context("the kernel does not send again what was not answered")?;
        Ok((Box::new(|| session.run()), connection))
    }
}

impl Connection {
    /// Another of the same.
    pub(crate) fn second(&self) -> io::Result<Self> {
        self.0.try_clone().map(Connection)
    }

    /// Returns when the holder has ended, which says nothing.
    pub(crate) fn wait_for_end(&self) {
        listen(&self.0, |_| {});
    }

    /// Tells the holder what a hook of this container has told.
    pub(crate) fn tell(&self, news: News) -> io::Result<()> {
        (&self.0).write_all(&[byte(news)])
    }
}

/// Waits for what a worker tells, until it is gone.
pub(crate) fn listen(mut worker: &UnixStream, mut hear: impl FnMut(News)) {
    let mut said = [0];
    loop {
        match worker.read(&mut said) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Ok(1..) => ALL.into_iter().filter(|news| byte(*news) == said[0]).for_each(&mut hear),
            Ok(0) | Err(_) => return,
        }
    }
}

const ALL: [News; 3] = [News::GatePassed, News::GateFailed, News::PodEnds];

fn byte(news: News) -> u8 {
    match news {
        News::GatePassed => b'p',
        News::GateFailed => b'f',
        News::PodEnds => b'e',
    }
}
