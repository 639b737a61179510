//! The life of the mounted process: mount, serve, end.
//!
//! It ends well, with exit code 0, on SIGTERM, on SIGINT, and when somebody else unmounts: a sidecar must not
//! make a finished Job look failed. A signal takes the mount away first; files that are open then are served
//! until they are closed, the time to linger is over or a second signal comes. It does not know who uses the
//! mount, and an error of the store never ends it.

use std::io;
use std::path::Path;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;

use anyhow::{Context, bail};
use fuser::{Config, Session, SessionACL};
use log::{error, info, warn};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::cli::Settings;
use crate::fs::View;
use crate::mount::{self, Mount};
use crate::store::{LocalStore, Source, Store};

/// Threads that answer requests, each with a descriptor of its own.
const THREADS: usize = 2;

enum Event {
    Signal,
    Ended(io::Result<()>),
}

/// Mounts and serves until the end.
pub fn run(settings: &Settings) -> anyhow::Result<()> {
    // Before the mount: a signal that comes early must not leave it behind.
    let mut signals = Signals::new([SIGTERM, SIGINT]).context("cannot handle signals")?;
    let store = open(&settings.source)?;
    let path = mount::canonical(&settings.mountpoint);
    refuse_recursion(&settings.source, &path)?;
    mount::prepare(&path)?;
    let place = path.display().to_string();
    let (mount, descriptor) = Mount::new(path, &settings.source.to_string(), &settings.subtype)?;
    let mut config = Config::default();
    config.n_threads = Some(THREADS);
    config.clone_fd = true;
    let session = Session::from_fd(View::new(store), descriptor, SessionACL::All, config)
        .context("the kernel and the file system do not agree")?;
    info!("mounted {} at {place}", settings.source);

    let (sender, events) = mpsc::channel();
    let ended = sender.clone();
    thread::spawn(move || signals.forever().try_for_each(|_| sender.send(Event::Signal)));
    thread::spawn(move || ended.send(Event::Ended(session.run())));

    if let Event::Ended(result) = events.recv()? {
        result.with_context(|| format!("serving {place} failed"))?;
        info!("{place} was unmounted: ending");
        return Ok(());
    }
    info!("signal: unmounting {place}");
    if let Err(error) = mount.detach() {
        error!("{error:#}");
    }
    match events.recv_timeout(settings.linger) {
        Ok(Event::Ended(Ok(()))) => info!("unmounted {place}: ending"),
        Ok(Event::Ended(Err(error))) => warn!("unmounted {place}: ending, with {error}"),
        Ok(Event::Signal) => warn!("second signal: ending at once"),
        Err(RecvTimeoutError::Timeout) => warn!("files of {place} are still open: ending nevertheless"),
        Err(error) => bail!(error),
    }
    Ok(())
}

fn open(source: &Source) -> anyhow::Result<Box<dyn Store>> {
    match source {
        Source::Local(path) => Ok(Box::new(LocalStore::new(path)?)),
    }
}

/// A mount inside its own source would have to ask itself for its listing.
fn refuse_recursion(source: &Source, mountpoint: &Path) -> anyhow::Result<()> {
    let Source::Local(path) = source;
    if mountpoint.starts_with(path.canonicalize().with_context(|| format!("cannot resolve {source}"))?) {
        bail!("the mount point {} must not be inside the source {source}", mountpoint.display());
    }
    Ok(())
}
