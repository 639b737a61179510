//! The holder keeps a mount while the processes that serve it come and go, so that an application outlives them.
//!
//! A FUSE connection lives as long as a process has its descriptor. So there are two processes, each in a container of its
//! own, since the memory limit of a container kills all processes in it:
//!
//! - the **holder** (`fluid-fuse hold`, this module) mounts, answers FUSE_INIT (`init`), and keeps the descriptor and the
//!   state. It has neither network nor secrets nor sources, and reads no data of others. It needs the privilege to mount;
//! - the **worker** (`fluid-fuse mount --fuse-fd unix:…`) gets both over a socket (`hand_over`) and serves. It uses the
//!   network and needs no privilege.
//!
//! When a worker ends, the kernel keeps the requests of the application. The next worker reads the inodes and open files of
//! the kernel from the state (`state`), begins a session without the kernel's FUSE_INIT (`session`), and makes the kernel
//! resend the requests that were read and not answered. Kernels before Linux 6.9 cannot resend; there the workers keep a
//! journal of these requests (`journal`), and take them so that a kill loses none (`intake`). `fs/resumed.rs` continues the
//! open files, and makes repeated requests harmless.

mod hand_over;
mod init;
mod intake;
pub(crate) mod journal;
pub(crate) mod session;
pub(crate) mod state;

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
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
use rustix::process::{Pid, umask};

pub(crate) use self::hand_over::DESCRIPTORS_MAX;
pub use self::hand_over::Held;
use self::hand_over::{Kept, Offer};
use self::intake::Pipes;
pub(crate) use self::journal::Repeated;
use crate::daemon::{Mounts, Pod, Signals};
use crate::in_pod::News;
use crate::mount::{self, Mount};
use crate::place::Place;
use crate::sync::lock;
use crate::users::{self, Expected};

/// Time between two checks whether the mount is still there and a worker serves it.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// The settings of a holder.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The directory to mount on.
    pub mountpoint: PathBuf,
    /// `X` in the type `fuse.X`.
    pub subtype: String,
    /// The socket over which workers get the descriptor and the state.
    pub socket: PathBuf,
    /// Whether a guard is mounted first, as by `mount`.
    pub guard: bool,
    /// The place of the Pod, as for `mount`.
    pub place: Option<PathBuf>,
    /// How long the worker may take to end after the mount was taken away.
    pub linger: Duration,
    /// How long there may be no worker.
    pub patience: Duration,
    /// The containers whose end ends the holder, as for `mount`.
    pub users: Option<Expected>,
    /// Whether the kernel may resend requests.
    pub resend: bool,
}

enum Event {
    Signal,
    News(News),
    /// The containers that used the mount have ended.
    Unused,
    /// A worker has connected.
    WorkerBegan,
    /// Its connection has ended.
    WorkerEnded,
}

/// Mounts, and holds the mount until the end.
pub fn run(settings: &Settings, signals: Signals) -> anyhow::Result<()> {
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
    let negotiated = init::answer(&device, settings.resend)?;
    info!(
        "holds mountpoint={:?} socket={:?} resend={}",
        path.display().to_string(),
        settings.socket.display().to_string(),
        negotiated.resends()
    );

    let (sender, events) = mpsc::channel();
    let (of_signals, of_users) = (sender.clone(), sender.clone());
    thread::spawn(move || {
        let event = |news: Option<News>| news.map_or(Event::Signal, Event::News);
        while signals.wait().is_ok_and(|news| of_signals.send(event(news)).is_ok()) {}
    });
    // The worker, which has the mount as its users do, and does not count as such.
    let worker_pid = Arc::new(Mutex::new(None));
    if let Some(expected) = settings.users {
        let its = Arc::clone(&worker_pid);
        let number = mount.device().unwrap_or_default().to_string();
        thread::spawn(move || {
            users::wait_until_gone(&number, expected, || *lock(&its));
            of_users.send(Event::Unused)
        });
    }
    let device = Arc::new(device);
    let offer = Offer::new(negotiated);
    let pipes = (!negotiated.resends()).then(Pipes::new).transpose();
    let pipes = pipes.context("there are no pipes for requests")?;
    let kept = Kept { device: Arc::clone(&device), state, pipes };
    thread::spawn(move || serve(&listener, &offer, &kept, &worker_pid, &sender));

    let mut pod = Pod::default();
    let (mut worker, mut since) = (false, Instant::now());
    let mut signals = 0;
    loop {
        match events.recv_timeout(POLL_INTERVAL) {
            Ok(Event::Signal) => {
                signals += 1;
                break;
            }
            Ok(Event::Unused) => {
                pod.hear(News::PodEnds);
                break;
            }
            Ok(Event::News(news)) => pod.hear(news),
            Ok(Event::WorkerBegan) => worker = true,
            Ok(Event::WorkerEnded) => {
                warn!("the process that served {} has ended: requests wait for the next one", path.display());
                (worker, since) = (false, Instant::now());
            }
            Err(RecvTimeoutError::Disconnected) => bail!("no event can come any more"),
            Err(RecvTimeoutError::Timeout) if is_gone(&device) => {
                info!("{} was unmounted: ending", path.display());
                mount.leave();
                return Ok(());
            }
            Err(RecvTimeoutError::Timeout) if !worker && since.elapsed() >= settings.patience => {
                // All requests that wait get an error now.
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
            Ok(Event::WorkerEnded) => worker = false,
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

/// Hands the mount over to one worker after the other.
fn serve(
    listener: &UnixListener,
    offer: &Offer,
    kept: &Kept,
    worker_pid: &Mutex<Option<Pid>>,
    events: &Sender<Event>,
) {
    for worker in listener.incoming() {
        let worker = match worker {
            Ok(worker) => worker,
            Err(error) => {
                warn!("no process can connect to {FLUID_FUSE}: {error}");
                // The next attempt may fail for the same reason, such as too many open files.
                thread::sleep(POLL_INTERVAL);
                continue;
            }
        };
        *lock(worker_pid) = socket_peercred(&worker).ok().map(|peer| peer.pid);
        match offer.send(&worker, kept) {
            Ok(()) if attend(&worker, events).is_err() => return,
            Ok(()) => {}
            // The process was killed meanwhile: its successor must not wait.
            Err(error) => warn!("the mount was not handed over: {error:#}"),
        }
        // Its number may be that of a user's process from now on.
        *lock(worker_pid) = None;
    }
}

/// Waits until a worker ends, and passes its news on.
fn attend(worker: &UnixStream, events: &Sender<Event>) -> Result<(), mpsc::SendError<Event>> {
    events.send(Event::WorkerBegan)?;
    hand_over::listen(worker, |news| {
        let _ = events.send(Event::News(news));
    });
    events.send(Event::WorkerEnded)
}

/// Listens at the path, which only the containers of holder and worker have. Removes the socket of an earlier holder.
fn listen(path: &Path) -> anyhow::Result<UnixListener> {
    let failed = || format!("cannot listen at {}", path.display());
    if fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket()) {
        fs::remove_file(path).with_context(failed)?;
    }
    // The worker may have another user, so all may connect. It may also put a link in the socket's place, so chmod(2) by the
    // path is no way.
    let mask = umask(Mode::empty());
    let listener = UnixListener::bind(path);
    umask(mask);
    listener.with_context(failed)
}

/// The memory file of the state, whose size no worker can change. The kernel counts the pages that a worker writes as the
/// worker's memory.
fn memory() -> io::Result<File> {
    let file = memfd_create(c"fluid-fuse-state", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    ftruncate(&file, state::SIZE)?;
    fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    Ok(file.into())
}

/// Whether the FUSE connection has ended. Does not wait.
fn is_gone(device: impl AsFd) -> bool {
    let mut polled = [PollFd::new(&device, PollFlags::empty())];
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut polled, Some(&at_once)).is_ok_and(|count| count > 0)
        && polled[0].revents().contains(PollFlags::ERR)
}
