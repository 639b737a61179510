//! The life of the mounted process: mount, serve, end.
//!
//! It ends with exit code 0 on SIGTERM, on SIGINT, when another process unmounts and, if it is configured so, when the
//! containers that use the mount have ended: a sidecar must not make a finished Job look failed. It takes the mount away
//! first. Then it serves open files and finishes written ones until none is left, `--linger` is over or a second signal
//! comes. An error of the store never ends it.
//!
//! With `--guard`, containers that start after it has ended must not see the directory below the mount. So it takes the
//! mount away only once it knows that the Pod ends ([`News::PodEnds`]):
//!
//! | the signal to end comes | the mount |
//! |---|---|
//! | when the Pod ends | goes, with the guard and the Pod's directory |
//! | after the gate has passed | stays without a server; the next process mounts upon it |
//! | before the gate has passed | goes, the guard stays; the exit code is 1 |
//!
//! With a holder ([`crate::hold`]) the mount is the holder's, which follows this table. The worker passes the hooks' news on to
//! it, and on a signal serves until no file is open or `--linger` is over.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use fluid_sidecar_layout::contract::ExitWithPod;
use fuser::{Config, Session, SessionACL};
use log::{debug, error, info, warn};
use nix::sys::signal::{SigSet, Signal};
use rustix::process::{Resource, getrlimit, setrlimit};

use crate::fetch::{Budget, DiskCache, Shared};
use crate::fs::{View, Writes};
use crate::in_pod::News;
use crate::limits;
use crate::metrics::{self, Mounted};
use crate::mount::{self, Mount};
use crate::object_store::{ObjectStore, Presentation};
use crate::place::Place;
use crate::plain::shown_url;
use crate::remote;
use crate::settings::Settings;
use crate::store::{LocalStore, Store, local_directory};
use crate::trust::{self, Trust};
use crate::union::Union;
use crate::users;

/// Threads that answer requests, each with a descriptor of its own.
const THREADS: usize = 2;

/// Time between two checks whether files are open, while the process ends.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

enum Event {
    Signal,
    News(News),
    /// The containers that used the mount have ended.
    Unused,
    Ended(io::Result<()>),
    /// No file is being written any more.
    Written,
    /// The holder of the mount has ended.
    HolderGone,
}

/// The end, once it has begun: all waits share one time limit, and a second signal ends them.
struct Ending<'a> {
    events: &'a Receiver<Event>,
    began: Instant,
    linger: Duration,
    signals: usize,
}

impl Ending<'_> {
    /// The next event; nothing once the time limit is over or a second signal came.
    fn next(&mut self) -> Option<Event> {
        self.next_within(Duration::MAX)
    }

    /// The same, within this time.
    fn next_within(&mut self, time: Duration) -> Option<Event> {
        while self.signals < 2 {
            match self.events.recv_timeout(self.left().min(time)).ok()? {
                Event::Signal => self.signals += 1,
                Event::News(_) => {}
                other => return Some(other),
            }
        }
        None
    }

    fn left(&self) -> Duration {
        self.linger.saturating_sub(self.began.elapsed())
    }

    fn is_over(&self) -> bool {
        self.signals > 1 || self.left().is_zero()
    }
}

/// The mounts that remain when the process ends.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mounts {
    /// It goes, with all that is mounted below it.
    Go,
    /// It stays, without a server.
    Stay,
    /// It goes, and the guard below it stays.
    Guard,
}

/// The news that kubelet's hooks have told so far.
#[derive(Default)]
pub(crate) struct Pod {
    gate_passed: bool,
    ends: bool,
}

impl Pod {
    pub(crate) fn hear(&mut self, news: News) {
        match news {
            News::GatePassed => self.gate_passed = true,
            News::PodEnds => self.ends = true,
            News::GateFailed => {}
        }
    }

    pub(crate) fn mounts(&self, guarded: bool) -> Mounts {
        match (guarded && !self.ends, self.gate_passed) {
            (false, _) => Mounts::Go,
            (true, true) => Mounts::Stay,
            (true, false) => Mounts::Guard,
        }
    }
}

/// The news after which the process goes on; a failed gate ends it.
const NEWS: [News; 2] = [News::GatePassed, News::PodEnds];

/// The signals that [`run`] hears, blocked in this thread and those that it starts. One thread waits for them, so they come
/// in the order in which they were sent: with handlers, two threads may run the handlers of `PodEnds` and of SIGTERM at
/// the same time.
#[derive(Clone, Copy, Debug)]
pub struct Signals(SigSet);

impl Signals {
    /// Takes the signals. To be called before anything is mounted and before there are threads: a signal that comes early
    /// must not leave a mount behind.
    pub fn take() -> anyhow::Result<Self> {
        let mut set = SigSet::empty();
        set.add(Signal::SIGTERM);
        set.add(Signal::SIGINT);
        for news in NEWS.into_iter().chain([News::GateFailed]) {
            set.add(signal_of(news)?);
        }
        set.thread_block().context("cannot block signals")?;
        Ok(Signals(set))
    }

    /// Waits for the next one. Returns its news, or nothing if it ends the process.
    pub(crate) fn wait(self) -> anyhow::Result<Option<News>> {
        let signal = self.0.wait().context("cannot wait for signals")?;
        Ok(NEWS.into_iter().find(|news| signal_of(*news).is_ok_and(|known| known == signal)))
    }
}

fn signal_of(news: News) -> anyhow::Result<Signal> {
    Ok(Signal::try_from(news.signal().as_raw())?)
}

/// Mounts and serves until the end.
pub fn run(settings: &Settings, signals: Signals) -> anyhow::Result<()> {
    if settings.users.is_some() {
        users::require_shared_namespace()?;
    }
    raise_open_files();
    let path = mount::absolute(&settings.mountpoint);
    let pod_place = settings.place.as_deref().map(Place::take).transpose()?;
    let budget = Budget {
        memory: settings.memory,
        requests: settings.requests,
        io_timeout: settings.io_timeout,
        slow: settings.slow_read,
    };
    let disk = settings.cache_dir.as_deref().map(|directory| DiskCache::open(directory, settings.cache_size));
    let shared = Shared::new(budget, disk.transpose()?)?;
    let store = open(settings, &path, &shared)?;
    let place = path.display().to_string();
    let mounted = Mounted {
        subtype: settings.subtype.clone(),
        sources: settings.mounts.iter().map(|mount| (mount.path.clone(), shown_url(&mount.url))).collect(),
        dataset: settings.dataset.clone().unwrap_or_default(),
    };
    let source = mounted.sources.iter().map(|(_, source)| source.as_str()).collect::<Vec<_>>().join(" ");
    let read_only = settings.mounts.iter().all(|mount| !store.is_writable(&mount.path));
    let writes = Writes::new(settings.memory, settings.io_timeout);
    let view = View::new(store, Arc::clone(&writes));
    if let Some(address) = &settings.metrics {
        metrics::serve(address, mounted, view.answers(), Arc::clone(&shared))?;
    }
    let (mount, descriptor, held) = match &settings.fuse_fd {
        Some(from) => Mount::handed_over(path.clone(), from)?,
        None => {
            mount::prepare(&path, settings.guard)?;
            // A directory of the node that other containers have, and that is nobody else's.
            if settings.dataset.is_some() {
                mount::close(&path);
            }
            let (mount, descriptor) = Mount::new(path.clone(), &source, &settings.subtype, read_only)?;
            (mount, descriptor, None)
        }
    };
    let mut config = Config::default();
    config.n_threads = Some(THREADS);
    let open_files = view.open_files();
    let (session, held) = match held {
        Some(held) => {
            let (session, held) = held.session(view, descriptor, config)?;
            (session, Some(held))
        }
        None => {
            config.clone_fd = true;
            let session = Session::from_fd(view, descriptor, SessionACL::All, config)
                .context("the kernel and the file system do not agree")?;
            (Box::new(|| session.run()) as Box<dyn FnOnce() -> io::Result<()> + Send>, None)
        }
    };
    info!(
        "mounted source={source:?} mountpoint={place:?} subtype={} dataset={:?}",
        settings.subtype,
        settings.dataset.as_deref().unwrap_or_default()
    );

    let (sender, events) = mpsc::channel();
    let (ended, unused, written, alone) = (sender.clone(), sender.clone(), sender.clone(), sender.clone());
    thread::spawn(move || {
        let event = |news: Option<News>| news.map_or(Event::Signal, Event::News);
        while signals.wait().is_ok_and(|news| sender.send(event(news)).is_ok()) {}
    });
    thread::spawn(move || ended.send(Event::Ended(session())));
    if let Some(held) = &held {
        let connection = held.try_clone()?;
        thread::spawn(move || {
            connection.wait_for_end();
            alone.send(Event::HolderGone)
        });
    }
    if let Some(expected) = settings.users {
        let device = mount.device().map(str::to_string);
        let device = device.with_context(|| {
            let mode = ExitWithPod::ProcessNamespace;
            format!("--exit-with-pod={mode}: the mount cannot be seen in this container")
        })?;
        thread::spawn(move || {
            users::wait_until_gone(&device, expected, || None);
            unused.send(Event::Unused)
        });
    }

    let mut pod = Pod::default();
    let first = loop {
        match events.recv()? {
            Event::News(news) => {
                pod.hear(news);
                if let Some(error) = held.as_ref().and_then(|held| held.tell(news).err()) {
                    warn!("the holder of the mount does not hear of {news:?}: {error}");
                }
            }
            other => break other,
        }
    };
    pod.ends |= matches!(first, Event::Unused);
    let mounts = pod.mounts(settings.guard);
    let signals = usize::from(matches!(first, Event::Signal));
    let mut ending = Ending { events: &events, began: Instant::now(), linger: settings.linger, signals };
    let is_unmounted = matches!(first, Event::Ended(Ok(())));
    shared.flush();
    let end = match &held {
        Some(_) if !matches!(first, Event::Ended(_) | Event::HolderGone) => {
            leave(&mut ending, open_files, &place)
        }
        _ => serve(first, &mut ending, &mount, mounts, &place),
    };
    let (waiting, linger) = (Arc::clone(&writes), settings.linger);
    thread::spawn(move || {
        waiting.wait(linger);
        let _ = written.send(Event::Written);
    });
    while ending.next().is_some_and(|event| !matches!(event, Event::Written)) {}
    match writes.wait(Duration::ZERO) {
        0 => {}
        lost => error!("ending although {lost} files are still being written: they stay as they were"),
    }
    if is_unmounted || mounts == Mounts::Stay {
        mount.leave();
    }
    match mounts {
        Mounts::Go => pod_place.into_iter().for_each(|pod_place| pod_place.remove(&path)),
        Mounts::Stay => {}
        Mounts::Guard => {
            bail!("{}", shared.trouble().unwrap_or_else(|| "the gate of the Pod has not passed".into()))
        }
    }
    end
}

/// The steps of the end.
fn serve(
    first: Event,
    ending: &mut Ending<'_>,
    mount: &Mount,
    mounts: Mounts,
    place: &str,
) -> anyhow::Result<()> {
    if let Event::HolderGone = first {
        bail!("the process that holds {place} has ended: files that are open have to be opened again");
    }
    if let Event::Ended(result) = first {
        result.with_context(|| format!("serving {place} failed"))?;
        info!("{place} was unmounted: ending");
        return Ok(());
    }
    let reason = if let Event::Unused = first { "the containers that used it have ended" } else { "signal" };
    if mounts == Mounts::Stay {
        info!("{reason}: {place} stays mounted for the next process");
        return Ok(());
    }
    info!("{reason}: unmounting {place}");
    let detached = if mounts == Mounts::Go { mount.detach_all() } else { mount.detach() };
    match detached {
        Ok(true) => {}
        Ok(false) => {
            info!("{place} is not ours to unmount: ending");
            return Ok(());
        }
        Err(error) => error!("{error:#}"),
    }
    if mounts == Mounts::Guard {
        return Ok(());
    }
    match ending.next() {
        Some(Event::Ended(Err(error))) => warn!("unmounted {place}: ending, with {error}"),
        Some(_) => info!("unmounted {place}: ending"),
        None if ending.signals > 1 => warn!("second signal: ending at once"),
        None => warn!("files of {place} are still open: ending nevertheless"),
    }
    Ok(())
}

/// Serves until no file is open or the time limit is over. The holder keeps the mount for the next worker.
fn leave(ending: &mut Ending<'_>, open_files: impl Fn() -> usize, place: &str) -> anyhow::Result<()> {
    info!("signal: {place} is left to its holder");
    while open_files() > 0 {
        match ending.next_within(POLL_INTERVAL) {
            Some(Event::Ended(_) | Event::HolderGone) => break,
            None if ending.is_over() => {
                info!("{} files of {place} are open: the next process continues them", open_files());
                break;
            }
            _ => {}
        }
    }
    Ok(())
}

/// Every open file may cost a descriptor.
fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    let raised = rustix::process::Rlimit { current: limit.maximum, ..limit };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        debug!("the limit of open files stays as it is: {error}");
    }
}

/// The stores of all mounts as one.
fn open(settings: &Settings, mountpoint: &Path, shared: &Arc<Shared>) -> anyhow::Result<Box<dyn Store>> {
    let (uid, gid) = settings.owner;
    let mut stores = Vec::new();
    for mount in &settings.mounts {
        let store: Box<dyn Store> = match local_directory(&mount.url)? {
            Some(directory) => {
                let used = [Some(mountpoint), settings.cache_dir.as_deref(), settings.place.as_deref()];
                let used: Vec<_> = used.into_iter().flatten().collect();
                let opened = match mount.trust {
                    Trust::Administrator => None,
                    Trust::Dataset => Some(trust::directory(&directory, &settings.allow_directories, &used)?),
                };
                refuse_recursion(&directory, mountpoint)?;
                if !mount.read_only {
                    warn!("{} is read-only: only object stores are written to", mount.url);
                }
                Box::new(match opened {
                    Some(root) => LocalStore::of(root, settings.slow_read)?,
                    None => LocalStore::new(&directory, settings.slow_read)?,
                })
            }
            None => {
                let (file_mode, directory_mode) = settings.modes;
                let (ttl, read_only) = (settings.metadata_ttl, mount.read_only);
                let show = Presentation {
                    uid,
                    gid,
                    directory_mode,
                    file_mode,
                    read_only,
                    kept_times: settings.kept_times,
                    rename_limit: settings.rename_limit,
                    ttl,
                    name_bytes: name_bytes(settings.memory, settings.mounts.len()),
                };
                let terms = remote::BucketConfig {
                    ttl,
                    io_timeout: settings.io_timeout,
                    redirects: settings.allow_redirects.clone().into(),
                    trust: mount.trust,
                };
                let bucket = remote::open_with(&mount.url, &mount.options.0, &terms)?;
                Box::new(ObjectStore::new(&mount.url, bucket, Arc::clone(shared), show))
            }
        };
        stores.push((mount.path.clone(), store));
    }
    match stores.as_slice() {
        [(path, _)] if path.as_os_str().is_empty() => {
            stores.pop().map(|(_, store)| store).context("there is nothing to mount")
        }
        _ => Ok(Box::new(Union::new(stores, settings.owner)?)),
    }
}

/// The memory for the names of each of so many mounts.
fn name_bytes(memory: u64, mounts: usize) -> usize {
    usize::try_from(memory / limits::NAMES_SHARE).unwrap_or(usize::MAX) / mounts.max(1)
}

/// A mount inside its own source would wait for itself when it lists the source.
fn refuse_recursion(source: &Path, mountpoint: &Path) -> anyhow::Result<()> {
    let source = source.canonicalize().with_context(|| format!("cannot resolve {}", source.display()))?;
    if mountpoint.starts_with(&source) {
        bail!("the mount point {} must not be inside the source {}", mountpoint.display(), source.display());
    }
    Ok(())
}
