//! An application outlives the process that serves it: the mount and its session are held by another one.
//!
//! A FUSE connection lives as long as somebody has its descriptor. So there are two processes, each in a container of its
//! own, since the memory limit of a container kills all that is in it:
//!
//! - the **holder** (`fluid-fuse hold`, this module) mounts, answers the kernel's greeting (`init`), and keeps the
//!   descriptor and the state. It has no network, no secret and no source, reads nothing that anybody sends, and needs the
//!   privilege to mount;
//! - the **worker** (`fluid-fuse mount --fuse-fd unix:…`) is handed both over a socket (`hand_over`) and serves. It talks to
//!   the network and needs no privilege.
//!
//! When a worker dies, the kernel keeps what the application asks for. The next one reads what the kernel knows by number
//! from the state ([`state`]), begins a session without a greeting (`session`), and has the kernel send again what was taken
//! and not answered; kernels older than Linux 6.9 cannot, and there the workers keep a journal of it ([`journal`]).
//! [`crate::fs`] takes over the files that are open and makes twice no harm.

mod hand_over;
mod init;
pub(crate) mod journal;
pub(crate) mod session;
pub(crate) mod state;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileTypeExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use fluid_sidecar_layout::contract::FLUID_FUSE;
use log::{error, info, warn};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, Mode, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use rustix::net::sockopt::socket_peercred;
use rustix::process::umask;
use signal_hook::iterator::Signals;

pub use self::hand_over::Held;
use self::hand_over::Offer;
pub(crate) use self::journal::Again;
use crate::daemon::{self, Mounts, Pod};
use crate::in_pod::News;
use crate::inodes::lock;
use crate::mount::{self, Mount};
use crate::place::Place;
use crate::users::{self, Expected};

/// Between two looks whether the mount is still there.
const LOOK: Duration = Duration::from_secs(1);

/// What to hold.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The directory to mount on.
    pub mountpoint: PathBuf,
    /// `X` in the type `fuse.X`.
    pub subtype: String,
    /// Where the descriptor and the state are handed over.
    pub socket: PathBuf,
    /// As `mount` has them.
    pub guard: bool,
    /// As `mount` has it.
    pub place: Option<PathBuf>,
    /// How long the worker may take to end after the mount went.
    pub linger: Duration,
    /// How long there may be no worker.
    pub patience: Duration,
    /// As `mount` has them.
    pub users: Option<Expected>,
    /// Whether the kernel is asked to send again what was not answered.
    pub resend: bool,
}

enum Event {
    Signal,
    News(News),
    Unused,
    /// A worker has come.
    Came,
    /// It has gone.
    Left,
}

/// Mounts and holds until the end.
pub fn run(settings: &Settings, mut signals: Signals) -> anyhow::Result<()> {
    if settings.users.is_some() {
        users::require_shared_namespace()?;
    }
    let path = mount::absolute(&settings.mountpoint);
    let place = settings.place.as_deref().map(Place::take).transpose()?;
    let listener = listen(&settings.socket)?;
    let state = memory().context("there is no memory file for the state")?;
    mount::prepare(&path, settings.guard)?;
    if settings.guard {
        mount::close(&path);
    }
    let (mount, device) = Mount::new(path.clone(), FLUID_FUSE, &settings.subtype, false)?;
    let agreed = init::answer(&device, settings.resend)?;
    info!(
        "holds mountpoint={:?} socket={:?} resend={}",
        path.display().to_string(),
        settings.socket.display().to_string(),
        agreed.resends()
    );

    let (sender, events) = mpsc::channel();
    let (of_signals, of_users) = (sender.clone(), sender.clone());
    thread::spawn(move || {
        signals.forever().try_for_each(|signal| {
            of_signals.send(daemon::news_of(signal).map_or(Event::Signal, Event::News))
        })
    });
    // The cgroups of workers, which look at their own mount.
    let workers = Arc::new(Mutex::new(BTreeSet::new()));
    if let Some(expected) = settings.users {
        let its = Arc::clone(&workers);
        let number = mount.device().unwrap_or_default().to_string();
        thread::spawn(move || {
            users::wait_until_gone(&number, expected, |cgroup| lock(&its).contains(cgroup));
            of_users.send(Event::Unused)
        });
    }
    let device = Arc::new(device);
    let offer = Offer::new(agreed);
    let shared = Arc::clone(&device);
    thread::spawn(move || serve(&listener, &offer, (&shared, &state), &workers, &sender));

    let mut pod = Pod::default();
    let (mut worker, mut since) = (false, Instant::now());
    let mut signals = 0;
    loop {
        match events.recv_timeout(LOOK) {
            Ok(Event::Signal) => {
                signals += 1;
                break;
            }
            Ok(Event::News(News::GateFailed) | Event::Unused) => break,
            Ok(Event::News(news)) => pod.hear(news),
            Ok(Event::Came) => worker = true,
            Ok(Event::Left) => {
                warn!("the process that served {} has ended: its requests wait for the next", path.display());
                (worker, since) = (false, Instant::now());
            }
            Err(RecvTimeoutError::Disconnected) => bail!("nobody can be waited for any more"),
            Err(RecvTimeoutError::Timeout) if is_gone(&device) => {
                info!("{} was unmounted: ending", path.display());
                return Ok(());
            }
            Err(RecvTimeoutError::Timeout) if !worker && since.elapsed() >= settings.patience => {
                // Whoever waits gets an error now.
                drop(mount);
                bail!("no process has served {} for {:?}", path.display(), settings.patience);
            }
            Err(RecvTimeoutError::Timeout) => {}
        }
    }
    let fate = pod.mounts(settings.guard);
    match fate {
        Mounts::Go => drop(mount.detach_all().map_err(|error| error!("{error:#}"))),
        Mounts::Guard => drop(mount.detach().map_err(|error| error!("{error:#}"))),
        Mounts::Stay => {}
    }
    let began = Instant::now();
    while worker && signals < 2 {
        match events.recv_timeout(settings.linger.saturating_sub(began.elapsed())) {
            Ok(Event::Left) => worker = false,
            Ok(Event::Signal) => signals += 1,
            Ok(_) => {}
            Err(_) => break,
        }
    }
    let _ = fs::remove_file(&settings.socket);
    match fate {
        Mounts::Go => place.into_iter().for_each(|place| place.remove(&path)),
        Mounts::Stay => mount.leave(),
        Mounts::Guard => bail!("the gate of the Pod has not passed"),
    }
    Ok(())
}

/// Hands everything to one worker after the other.
fn serve(
    listener: &UnixListener,
    offer: &Offer,
    (device, state): (&OwnedFd, &File),
    workers: &Mutex<BTreeSet<Vec<u8>>>,
    events: &Sender<Event>,
) {
    for worker in listener.incoming() {
        let handed = worker.map_err(anyhow::Error::from).and_then(|worker| {
            // One life after another has the same, or a new one.
            let cgroup = socket_peercred(&worker).ok().and_then(|peer| users::cgroup_of(peer.pid));
            let mut cgroups = lock(workers);
            cgroups.clear();
            cgroups.extend(cgroup);
            offer.send(&worker, device.as_fd(), state.as_fd())?;
            Ok(worker)
        });
        let heard = match handed {
            Ok(worker) => attend(&worker, events),
            Err(error) => {
                warn!("the mount was not handed over: {error:#}");
                thread::sleep(LOOK);
                Ok(())
            }
        };
        if heard.is_err() {
            return;
        }
    }
}

fn attend(worker: &UnixStream, events: &Sender<Event>) -> Result<(), mpsc::SendError<Event>> {
    events.send(Event::Came)?;
    hand_over::listen(worker, |news| {
        let _ = events.send(Event::News(news));
    });
    events.send(Event::Left)
}

/// Listens at the path, which only the containers of the pair have. A socket that another holder left is removed.
fn listen(path: &Path) -> anyhow::Result<UnixListener> {
    let failed = || format!("cannot listen at {}", path.display());
    if fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket()) {
        fs::remove_file(path).with_context(failed)?;
    }
    // The worker may have another user. It may also put a link in the socket's place, so that no mode is set by the path.
    let mask = umask(Mode::empty());
    let listener = UnixListener::bind(path);
    umask(mask);
    listener.with_context(failed)
}

/// A file for the state, which no worker can make shorter or longer. What a worker writes there is counted as the worker's
/// memory.
fn memory() -> io::Result<File> {
    let file = memfd_create(c"fluid-fuse-state", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    ftruncate(&file, state::SIZE)?;
    fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    Ok(file.into())
}

/// Whether the connection has ended, without waiting.
fn is_gone(device: impl AsFd) -> bool {
    let mut ask = [PollFd::new(&device, PollFlags::empty())];
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut ask, Some(&at_once)).is_ok_and(|count| count > 0) && ask[0].revents().contains(PollFlags::ERR)
}
