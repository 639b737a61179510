//! The file system that the kernel sees: a [`Store`] behind inode numbers and handles.
//!
//! It decides how long the kernel may trust an answer, which error number an error becomes, which thread waits, and which
//! ways of writing are allowed: a file is written from its beginning while nobody reads it, or continued at its end, and
//! the kernel keeps no pages of a file that is being written. Where a store is read-only, each operation that changes
//! something gets `EROFS`. The threads that take the kernel's requests do not wait for a remote store: other threads make
//! the requests to it, but for one random read at a time ([`crate::fetch`]). This module knows neither where the bytes come from nor where it is mounted.

mod changes;
mod renames;
mod resumed;
mod waiters;
mod writing;

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::io;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use fuser::{
    AccessFlags, BackingId, BsdFileFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags,
    Generation, INodeNo, InitFlags, KernelConfig, LockOwner, OpenAccMode, OpenFlags, RenameFlags, ReplyAttr,
    ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyOpen,
    ReplyStatfs, ReplyWrite, Request, TimeOrNow, WriteFlags,
};
use log::{Level, debug, error, info, log};
use rustix::fs::OFlags;

use self::renames::Renames;
use self::resumed::{Opening, Resumed, Suspended};
use self::waiters::{Reply, Waiter, WaitingCalls};
pub use self::writing::Writes;
use self::writing::{Done, Opened, Writing};
use crate::flight::{self, Flight};
use crate::handles::{Handles, Line, Listing};
use crate::inodes::Inodes;
use crate::limits::{Deadline, Until};
use crate::metrics::Answers;
use crate::queue::Queue;
use crate::store::{Kind, Object, Stat, Store, StoreError};
use crate::sync::lock;

/// Always 0: an inode number is never reused for another file ([`crate::inodes`]).
const GENERATION: Generation = Generation(0);

const BLOCK: u32 = 4096;

/// Threads for operations on names and attributes of remote stores.
const ASKING: usize = 32;

/// Additional threads, each in the place of one that is stuck.
const ASKING_SPARE: usize = 224;

/// Requests of the kernel's own read-ahead that may be in flight.
pub(crate) const BACKGROUND: u16 = 64;

/// Stacked file systems that a passthrough file may be on: the kernel's own limit.
const STACKED: u32 = 2;

/// The kernel repeats a failed read of its read-ahead within this time: it does so at once.
const ASKED_AGAIN: Duration = Duration::from_millis(100);

/// Failed reads of an open file that are remembered for that, at most.
const FAILED_READS: usize = 256;

/// Directories of which it is remembered that the kernel has cached their listings, at most.
const LISTED: usize = 4096;

/// Features that save requests, each used where the kernel has it. `AUTO_INVAL_DATA`: the kernel drops the pages of a
/// file that changed, although it keeps them from one open to the next (`FOPEN_KEEP_CACHE`). `ATOMIC_O_TRUNC`: an open
/// says that the file will be truncated.
pub(crate) const WANTED: InitFlags = InitFlags::FUSE_AUTO_INVAL_DATA
    .union(InitFlags::FUSE_DO_READDIRPLUS)
    .union(InitFlags::FUSE_READDIRPLUS_AUTO)
    .union(InitFlags::FUSE_PARALLEL_DIROPS)
    .union(InitFlags::FUSE_CACHE_SYMLINKS)
    .union(InitFlags::FUSE_MAX_PAGES)
    .union(InitFlags::FUSE_ATOMIC_O_TRUNC);

/// A store as a file system.
pub struct View(Arc<Core>);

struct Core {
    store: Box<dyn Store>,
    ttl: Duration,
    inodes: Inodes,
    files: Handles<OpenFile>,
    /// The open files by inode number, and whether the kernel reads them by passthrough.
    modes: Mutex<HashMap<u64, Mode>>,
    /// Whether the kernel supports passthrough and allows it to this process.
    passthrough: AtomicBool,
    directories: Handles<Mutex<Option<Arc<Listing>>>>,
    /// When the listings that the kernel has cached were read, by inode number.
    listed: Mutex<HashMap<u64, Instant>>,
    /// When a name was last changed by this mount. The kernel must not cache listings from before.
    last_change: Mutex<Option<Instant>>,
    asking: Arc<Queue>,
    /// The operations that wait for a store.
    waiting: Arc<WaitingCalls>,
    answers: Arc<Answers>,
    writes: Arc<Writes>,
    /// The files that are open for writing, with their identities until they are finished.
    writing: Mutex<HashMap<PathBuf, (u64, Arc<Writing>)>>,
    /// The paths that an operation is changing. Locked after `writing`.
    held: Mutex<HashSet<PathBuf>>,
    renames: Renames,
    /// The state that outlives this worker, if the mount is held.
    resumed: OnceLock<Resumed>,
}

enum OpenFile {
    Read {
        object: Box<dyn Object>,
        ino: u64,
        failed: Arc<Mutex<Vec<FailedRead>>>,
    },
    /// `unsaved`: whether something was written of which the next worker would not know that the store has it.
    Write {
        path: PathBuf,
        open: Opened,
        unsaved: Mutex<bool>,
    },
    /// An earlier worker had it open for writing.
    Suspended(Suspended),
}

/// A read that was answered with `EIO`.
struct FailedRead {
    at: Instant,
    bytes: Range<u64>,
}

/// An open inode. Its handles all use passthrough, or none does: the kernel refuses a mixture.
struct Mode {
    handles: usize,
    stat: Option<Stat>,
    backing: Option<Arc<BackingId>>,
}

/// `.` and `..`, which the kernel never counts as looked up.
const DOTS: usize = 2;

impl View {
    /// A view of the store.
    pub fn new(store: Box<dyn Store>, writes: Arc<Writes>) -> Self {
        let lanes = store.lanes();
        View(Arc::new(Core {
            ttl: store.ttl(),
            store,
            inodes: Inodes::default(),
            files: Handles::default(),
            modes: Mutex::default(),
            passthrough: AtomicBool::new(false),
            directories: Handles::default(),
            listed: Mutex::default(),
            last_change: Mutex::default(),
            asking: Queue::with_spare(ASKING, ASKING_SPARE, lanes),
            waiting: Arc::default(),
            answers: Arc::default(),
            writes,
            writing: Mutex::default(),
            held: Mutex::default(),
            renames: Renames::default(),
            resumed: OnceLock::new(),
        }))
    }

    /// The counters of the kernel's requests.
    pub fn answers(&self) -> Arc<Answers> {
        Arc::clone(&self.0.answers)
    }

    /// Runs an operation that may wait for a remote store, in another thread unless `known` says that the answer is cached.
    /// Then calls `answer`, unless the caller was killed or the deadline is over. The question may be asked again.
    fn ask<R: Reply, T: 'static>(
        &self,
        request: &Request,
        reply: R,
        lane: impl FnOnce(&Core) -> usize,
        known: impl FnOnce(&Core) -> bool,
        question: impl Fn(&Core) -> T + Send + 'static,
        answer: impl FnOnce(&Core, T, R) + Send + 'static,
    ) {
        if !self.0.store.is_remote() || known(&self.0) {
            return calmly(|| answer(&self.0, question(&self.0), reply));
        }
        let core = Arc::clone(&self.0);
        let deadline = core.deadline();
        let waiter = core.waiting.add(request.pid(), &deadline, reply);
        let lane = lane(&core);
        Question { core, lane, deadline, waiter, question, answer }.enqueue(None);
    }

    /// Changes something at a path, and then answers. `answer` gets no reply if the deadline is over.
    fn change<R: Reply, T>(
        &self,
        path: Result<PathBuf, StoreError>,
        reply: R,
        work: impl FnOnce(&Arc<Core>, PathBuf) -> Result<T, Errno> + Send + 'static,
        answer: impl FnOnce(&Arc<Core>, T, Option<R>) + Send + 'static,
    ) {
        let path = match path.map_err(errno) {
            Ok(path) if self.0.store.is_writable(&path) => path,
            Ok(_) => return reply.refuse(Errno::EROFS),
            Err(errno) => return reply.refuse(errno),
        };
        let core = Arc::clone(&self.0);
        let deadline = core.deadline();
        // The caller of a change cannot be killed: nobody would learn whether it was made.
        let waiter = core.waiting.add(0, &deadline, reply);
        self.0.asking.urgent(
            self.0.store.lane(&path),
            Box::new(move || {
                if !waiter.waits() {
                    return;
                }
                let _until = Until::share(&deadline);
                flight::alone();
                let made = work(&core, path);
                match (made, waiter.answered()) {
                    (Ok(made), reply) => answer(&core, made, reply),
                    (Err(errno), Some(reply)) => reply.refuse(errno),
                    (Err(_), None) => {}
                }
            }),
        );
    }

    /// The error of an operation that a store does not support: `EROFS` where the path is read-only.
    fn missing(&self, parent: INodeNo, name: &OsStr, errno: Errno) -> Errno {
        let path = self.0.below(parent, name);
        if path.is_ok_and(|path| self.0.store.is_writable(&path)) { errno } else { Errno::EROFS }
    }
}

/// A question to a store, and the operation that waits for its answer.
struct Question<R: Reply, Q, A> {
    core: Arc<Core>,
    lane: usize,
    deadline: Arc<Deadline>,
    waiter: Waiter<R>,
    question: Q,
    answer: A,
}

impl<R, Q, A, T> Question<R, Q, A>
where
    R: Reply,
    T: 'static,
    Q: Fn(&Core) -> T + Send + 'static,
    A: FnOnce(&Core, T, R) + Send + 'static,
{
    /// Queues the question in the lane of its source, after the flight that it has waited for.
    fn enqueue(self, landed: Option<Arc<Flight>>) {
        let asking = Arc::clone(&self.core.asking);
        asking.urgent(self.lane, Box::new(move || self.run(landed)));
    }

    fn run(self, landed: Option<Arc<Flight>>) {
        if !self.waiter.waits() {
            return;
        }
        let _until = Until::share(&self.deadline);
        match flight::run(landed, || (self.question)(&self.core)) {
            Ok(found) => {
                if let Some(reply) = self.waiter.answered() {
                    (self.answer)(&self.core, found, reply);
                }
            }
            Err(flight) => {
                let deadline = Arc::clone(&self.deadline);
                flight.then(&deadline, Box::new(move |flight| self.enqueue(Some(flight))));
            }
        }
    }
}

impl Core {
    /// The deadline of an operation that is requested now.
    fn deadline(&self) -> Arc<Deadline> {
        Deadline::at(Instant::now() + self.writes.io_timeout())
    }

    /// The lane of the source that has the inode's path.
    fn lane(&self, ino: INodeNo) -> usize {
        self.path(ino).map_or(0, |path| self.store.lane(&path))
    }

    fn path(&self, ino: INodeNo) -> Result<Arc<Path>, StoreError> {
        self.inodes.get(ino.0).map(|node| node.path).ok_or(StoreError::Stale)
    }

    fn below(&self, parent: INodeNo, name: &OsStr) -> Result<PathBuf, StoreError> {
        self.path(parent).map(|parent| parent.join(name))
    }

    /// How long the kernel may trust the store's answer for a path.
    fn trusted(&self, path: &Path) -> Duration {
        let since = self.store.cached_since(path);
        since.map_or(Duration::ZERO, |since| self.ttl.saturating_sub(since.elapsed()))
    }

    /// Whether the attributes of the inode are cached.
    fn knows(&self, ino: INodeNo) -> bool {
        self.path(ino).is_ok_and(|path| self.store.cached_stat(&path).is_some())
    }

    /// The attributes, if they are those of the file that has the inode number.
    fn checked(&self, ino: INodeNo, stat: Stat) -> Result<Stat, StoreError> {
        match self.inodes.get(ino.0) {
            Some(node) if ino == INodeNo::ROOT || node.identity == stat.identity => Ok(stat),
            _ => Err(StoreError::Stale),
        }
    }

    fn stat(&self, ino: INodeNo) -> Result<Stat, StoreError> {
        if let Some(file) = self.writing_of(ino) {
            return Ok(file.stat());
        }
        self.checked(ino, self.store.stat(&self.path(ino)?)?)
    }

    /// The attributes of an open file whose path names another version now, or none.
    fn opened_stat(&self, ino: INodeNo) -> Option<Stat> {
        let stat = lock(&self.modes).get(&ino.0)?.stat?;
        Some(Stat { links: 0, ..stat })
    }

    fn open(&self, ino: INodeNo) -> Result<Box<dyn Object>, StoreError> {
        let object = self.store.open(&self.path(ino)?, self.inodes.opened(ino.0))?;
        self.checked(ino, object.stat()?)?;
        Ok(object)
    }

    /// Answers an open, with passthrough if it is possible.
    fn opened(&self, ino: INodeNo, object: Box<dyn Object>, opening: Opening, reply: ReplyOpen) {
        let writing = lock(&self.writing);
        let path = self.path(ino).unwrap_or_else(|_| Path::new("").into());
        let written = writing.get(&*path).map(|(_, file)| file);
        if written.is_some_and(|file| file.is_changed() && !file.continues() && !file.is_untouched()) {
            return reply.error(Errno::EBUSY);
        }
        let mut modes = lock(&self.modes);
        let mode = modes.entry(ino.0).or_insert_with(|| Mode { handles: 0, stat: None, backing: None });
        mode.stat = object.stat().ok().or(mode.stat);
        if mode.handles == 0 && written.is_none() && self.passthrough.load(Ordering::Relaxed) {
            mode.backing = object.backing().and_then(|file| match reply.open_backing(file) {
                Ok(backing) => Some(Arc::new(backing)),
                Err(error) => {
                    if error.raw_os_error() == Some(Errno::EPERM.code()) {
                        info!("no passthrough, as the kernel does not allow it to this process: {error}");
                        self.passthrough.store(false, Ordering::Relaxed);
                    }
                    debug!("no passthrough for a file: {error}");
                    None
                }
            });
        }
        mode.handles += 1;
        let backing = mode.backing.clone();
        drop(modes);
        drop(writing);
        self.answers.opened();
        let version = object.version();
        let handle = self.files.add(OpenFile::Read { object, ino: ino.0, failed: Arc::default() });
        self.note_opened(handle, ino, &opening, &version);
        match backing {
            Some(backing) => reply.opened_passthrough(handle, FopenFlags::FOPEN_NOFLUSH, &backing),
            None => reply.opened(handle, FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_NOFLUSH),
        }
    }

    /// An inode has one open handle for reading less.
    fn read_ended(&self, ino: u64) {
        let mut modes = lock(&self.modes);
        if let Some(mode) = modes.get_mut(&ino) {
            mode.handles -= 1;
            if mode.handles == 0 {
                modes.remove(&ino);
            }
        }
    }

    fn closed(self: &Arc<Self>, handle: FileHandle) {
        let Some(open) = self.files.get(handle) else { return };
        self.files.remove(handle);
        self.note_closed(handle);
        match &*open {
            OpenFile::Read { ino, .. } => self.read_ended(*ino),
            OpenFile::Suspended(file) => self.suspended_closed(file),
            OpenFile::Write { path, open: Opened { file, .. }, .. } => {
                let (core, path, ours) = (Arc::clone(self), path.clone(), Arc::clone(file));
                file.release(Box::new(move |result| {
                    if result.is_err() {
                        error!("{}: what was written is lost", path.display());
                    }
                    core.left(&path, &ours);
                }));
            }
        }
    }

    /// Removes the handle of an open for writing whose caller got an error before.
    fn withdrawn(self: &Arc<Self>, handle: FileHandle) {
        if let Some(open) = self.files.get(handle)
            && let OpenFile::Write { path, open: Opened { file, .. }, .. } = &*open
        {
            let (core, path, ours) = (Arc::clone(self), path.clone(), Arc::clone(file));
            file.withdraw(Box::new(move |_| core.left(&path, &ours)));
        }
        self.files.remove(handle);
    }

    /// Notes that names were changed: the listings that the kernel has cached are outdated.
    fn changed(&self) {
        let mut listed = lock(&self.listed);
        *lock(&self.last_change) = Some(Instant::now());
        listed.clear();
    }

    /// Whether the kernel has cached a listing that is not outdated.
    fn is_listed(&self, ino: INodeNo) -> bool {
        lock(&self.listed).get(&ino.0).is_some_and(|taken| taken.elapsed() < self.ttl)
    }

    /// Adds a line with its attributes. Returns whether there was no room for it.
    fn add_line(&self, listing: &Listing, line: &Line, index: usize, reply: &mut ReplyDirectoryPlus) -> bool {
        let counted = index >= DOTS;
        let number = match counted {
            true => self.inodes.remember(&line.path, line.stat.identity),
            false => Inodes::number(&line.path, line.stat.identity),
        };
        let (stat, ttl) = match self.being_written(&line.path) {
            Some((identity, file)) if identity == line.stat.identity => (file.stat(), Duration::ZERO),
            _ if !listing.are_complete && self.store.cached_stat(&line.path).is_none() => {
                (line.stat, Duration::ZERO)
            }
            // The attributes are as old as the listing.
            _ => (line.stat, self.ttl.saturating_sub(listing.taken.elapsed())),
        };
        let attributes = attributes(INodeNo(number), &stat);
        let next = listing.position(index);
        let full = reply.add(attributes.ino, next, &line.name, &ttl, &attributes, GENERATION);
        if full && counted {
            self.inodes.forget(number, 1);
        }
        full
    }

    /// Whether an open directory was listed. The kernel may go on where it left another handle of the directory.
    fn has_listing(&self, handle: FileHandle) -> bool {
        self.directories.get(handle).is_some_and(|directory| lock(&directory).is_some())
    }

    /// The listing of an open directory, which is requested anew when it is read from its beginning.
    fn listing(&self, ino: INodeNo, handle: FileHandle, offset: u64) -> Result<Arc<Listing>, Errno> {
        let directory = self.directory(handle).ok_or(Errno::EBADF)?;
        if let Some(known) = lock(&directory).clone().filter(|_| offset > 0) {
            return Ok(known);
        }
        let path = self.path(ino).map_err(errno)?;
        let written = self.written_in(&path);
        let fresh = Listing::take(self.store.as_ref(), &path, || self.entries_of(&written)).map_err(errno)?;
        let fresh = Arc::new(fresh);
        *lock(&directory) = Some(Arc::clone(&fresh));
        if offset > 0 {
            // The kernel has cached the beginning of an older listing.
            return Ok(fresh);
        }
        let mut listed = lock(&self.listed);
        if listed.len() >= LISTED {
            listed.clear();
        }
        if lock(&self.last_change).is_none_or(|changed| changed < fresh.taken) {
            listed.insert(ino.0, fresh.taken);
        }
        Ok(fresh)
    }
}

/// Passes the lines from a position on to `add`, each with its place, until `add` has no room.
fn add_lines(listing: &Listing, position: u64, mut add: impl FnMut(&Line, usize) -> bool) {
    for (index, line) in listing.lines.iter().enumerate().skip(listing.index(position)) {
        if add(line, index) {
            break;
        }
    }
}

/// Whether the kernel repeats a read that just failed. After a failure of its read-ahead the kernel requests one page once
/// more, and the reader would wait for the store twice.
fn is_asked_again(failed: &Mutex<Vec<FailedRead>>, offset: u64) -> bool {
    let mut failed = lock(failed);
    failed.retain(|failed| failed.at.elapsed() < ASKED_AGAIN);
    let again = failed.iter().position(|failed| failed.bytes.contains(&offset));
    again.map(|index| failed.swap_remove(index)).is_some()
}

fn note_failed(failed: &Mutex<Vec<FailedRead>>, bytes: Range<u64>) {
    let mut failed = lock(failed);
    failed.retain(|failed| failed.at.elapsed() < ASKED_AGAIN);
    if failed.len() < FAILED_READS {
        failed.push(FailedRead { at: Instant::now(), bytes });
    }
}

/// The reason why a look-up finds nothing.
enum Missing {
    /// Nothing has the name, which may be trusted for this time.
    Known(Duration),
    Failed(StoreError),
}

impl From<StoreError> for Missing {
    fn from(error: StoreError) -> Self {
        Missing::Failed(error)
    }
}

/// Runs a request. A panic ends this request, whose reply is an error when it is dropped, and not the mount.
fn calmly(work: impl FnOnce()) {
    let _ = panic::catch_unwind(AssertUnwindSafe(work));
}

/// The error number of an error, for all operations.
fn errno(error: StoreError) -> Errno {
    match error {
        StoreError::NotFound => Errno::ENOENT,
        // Not ENOENT: C libraries take that of a listing for the end of an empty directory.
        StoreError::NoBucket(_) => Errno::ENXIO,
        StoreError::Denied(_) => Errno::EACCES,
        StoreError::Stale => Errno::ESTALE,
        StoreError::ReadOnly => Errno::EROFS,
        StoreError::NotEmpty => Errno::ENOTEMPTY,
        StoreError::NotMovable => Errno::EXDEV,
        StoreError::Unsupported(_) | StoreError::NotImplemented(_) => Errno::ENOTSUP,
        StoreError::NoParts(_) | StoreError::Unavailable(_) | StoreError::Failed(_) => {
            // The operation that made the request has logged the failure.
            let level = if flight::is_repeated() { Level::Debug } else { Level::Warn };
            log!(level, "the source failed errno=EIO error={:?}", error.to_string());
            Errno::EIO
        }
    }
}

fn kind(kind: Kind) -> FileType {
    match kind {
        Kind::File => FileType::RegularFile,
        Kind::Directory => FileType::Directory,
        Kind::Symlink => FileType::Symlink,
    }
}

fn attributes(ino: INodeNo, stat: &Stat) -> FileAttr {
    FileAttr {
        ino,
        size: stat.size,
        blocks: stat.size.div_ceil(512),
        atime: stat.modified,
        mtime: stat.modified,
        ctime: stat.modified,
        crtime: stat.modified,
        kind: kind(stat.kind),
        perm: stat.mode,
        nlink: stat.links,
        uid: stat.uid,
        gid: stat.gid,
        rdev: 0,
        blksize: BLOCK,
        flags: 0,
    }
}

/// The answer for a name that nothing has: the kernel caches it without an inode number.
fn nothing() -> FileAttr {
    attributes(INodeNo(0), &Stat::directory(0, (0, 0), SystemTime::UNIX_EPOCH))
}

fn is_set(flags: i32, flag: OFlags) -> bool {
    OFlags::from_bits_retain(flags.cast_unsigned()).contains(flag)
}

/// The result of a removal: a repeated request may find that an earlier worker removed the name.
fn already_gone(removed: Result<(), Errno>, is_repeated: bool) -> Result<(), Errno> {
    removed.or_else(|error| if is_repeated && error == Errno::ENOENT { Ok(()) } else { Err(error) })
}

fn done(reply: ReplyEmpty) -> Done {
    Box::new(move |result| match result {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(error),
    })
}

/// Answers a change without a result.
fn changed(_: &Arc<Core>, (): (), reply: Option<ReplyEmpty>) {
    if let Some(reply) = reply {
        reply.ok();
    }
}

/// Answers the request with the value, or with the error's number.
macro_rules! answer {
    ($reply:ident, $result:expr, $value:pat => $answer:expr) => {
        match $result {
            Ok($value) => $answer,
            Err(error) => $reply.error(errno(error)),
        }
    };
}

impl Filesystem for View {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let offered = WANTED & config.capabilities();
        config
            .add_capabilities(offered)
            .map_err(|missing| io::Error::other(format!("not offered: {missing:?}")))?;
        let passthrough = config.capabilities().contains(InitFlags::FUSE_PASSTHROUGH)
            && config.add_capabilities(InitFlags::FUSE_PASSTHROUGH).is_ok()
            && config.set_max_stack_depth(STACKED).is_ok();
        self.0.passthrough.store(passthrough, Ordering::Relaxed);
        // Otherwise the kernel's own maximum.
        if let Err(most) = config.set_max_background(BACKGROUND) {
            debug!("the kernel grants {most} requests in the background");
        }
        Ok(())
    }

    fn destroy(&mut self) {
        let unfinished =
            |(_, (_, file)): &(PathBuf, (u64, Arc<Writing>))| file.is_changed() && !file.is_closed();
        for (path, (_, file)) in lock(&self.0.writing).drain().filter(unfinished) {
            error!("{}: the mount ended before the file was closed, so it stays as it was", path.display());
            file.abandon();
        }
    }

    fn lookup(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let path = self.0.below(parent, name);
        let (known, asked) = (path.clone().ok(), path.clone());
        self.ask(
            request,
            reply,
            |core| asked.map_or(0, |path| core.store.lane(&path)),
            |core| known.is_none_or(|path| core.store.cached_stat(&path).is_some()),
            move |core| {
                let path = path.clone()?;
                Ok(match core.being_written(&path) {
                    Some((identity, file)) => (Stat { identity, ..file.stat() }, Duration::ZERO, path),
                    None => match core.store.stat(&path) {
                        Err(StoreError::NotFound) => return Err(Missing::Known(core.trusted(&path))),
                        stat => (stat?, core.trusted(&path), path),
                    },
                })
            },
            |core, found, reply| match found {
                Ok((stat, ttl, path)) => {
                    let number = INodeNo(core.inodes.remember(&path, stat.identity));
                    reply.entry(&ttl, &attributes(number, &stat), GENERATION);
                }
                Err(Missing::Known(ttl)) => reply.entry(&ttl, &nothing(), GENERATION),
                Err(Missing::Failed(error)) => reply.error(errno(error)),
            },
        );
    }

    fn forget(&self, _: &Request, ino: INodeNo, lookups: u64) {
        self.0.inodes.forget(ino.0, lookups);
    }

    fn getattr(&self, request: &Request, ino: INodeNo, handle: Option<FileHandle>, reply: ReplyAttr) {
        if let Some(file) = self.0.writing_of(ino) {
            return reply.attr(&Duration::ZERO, &attributes(ino, &file.stat()));
        }
        let file = handle.and_then(|handle| self.0.files.get(handle));
        let is_open = file.is_some();
        self.ask(
            request,
            reply,
            |core| core.lane(ino),
            |core| is_open || core.knows(ino),
            move |core| match file.as_deref() {
                Some(OpenFile::Read { object, .. }) => object.stat(),
                _ => core.stat(ino).or_else(|error| core.opened_stat(ino).ok_or(error)),
            },
            move |core, stat, reply| {
                let ttl = match (is_open, core.path(ino)) {
                    (false, Ok(path)) => core.trusted(&path),
                    // An open file does not change.
                    _ => core.ttl,
                };
                answer!(reply, stat, stat => reply.attr(&ttl, &attributes(ino, &stat)));
            },
        );
    }

    fn readlink(&self, _: &Request, ino: INodeNo, reply: ReplyData) {
        calmly(|| {
            let target = self.0.path(ino).and_then(|path| self.0.store.read_link(&path));
            answer!(reply, target, target => reply.data(target.as_bytes()));
        });
    }

    fn open(&self, request: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        if flags.acc_mode() == OpenAccMode::O_RDONLY {
            if is_set(flags.0, OFlags::TRUNC) {
                return reply.error(Errno::EINVAL);
            }
            let opening = self.0.opening(request.unique().0, flags.0);
            return self.ask(
                request,
                reply,
                |core| core.lane(ino),
                |core| core.knows(ino) && core.writing_of(ino).is_none(),
                move |core| core.open_to_read(ino),
                move |core, object, reply| match object {
                    Ok(object) => core.opened(ino, object, opening, reply),
                    Err(error) => reply.error(error),
                },
            );
        }
        let pid = request.pid();
        let opening = self.0.opening(request.unique().0, flags.0);
        self.change(
            self.0.path(ino).map(|path| path.to_path_buf()),
            reply,
            move |core, path| {
                core.awaited(ino);
                let stat = core.stat(ino).map_err(errno)?;
                core.overwrite(&path, Some(ino), stat, flags.0, pid)
            },
            move |core, (handle, ..), reply| {
                let Some(reply) = reply else { return core.withdrawn(handle) };
                core.note_opened(handle, ino, &opening, &[]);
                reply.opened(handle, FopenFlags::FOPEN_DIRECT_IO);
            },
        );
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        _: u32,
        _: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let pid = request.pid();
        let opening = self.0.opening(request.unique().0, flags);
        self.change(
            self.0.below(parent, name),
            reply,
            move |core, path| Ok((core.create(&path, flags, pid)?, path)),
            move |core, ((handle, identity, stat), path), reply| {
                let Some(reply) = reply else { return core.withdrawn(handle) };
                let ino = INodeNo(core.inodes.remember(&path, identity));
                core.note_opened(handle, ino, &opening, &[]);
                let attributes = attributes(ino, &stat);
                let flags = FopenFlags::FOPEN_DIRECT_IO;
                reply.created(&Duration::ZERO, &attributes, GENERATION, handle, flags);
            },
        );
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let file = self.0.files.get(handle);
        calmly(|| match file.as_deref() {
            Some(OpenFile::Write { .. }) => self.0.write(handle, offset, data, owner, reply),
            Some(OpenFile::Suspended(file)) => {
                let (path, data) = (Ok(file.path().to_path_buf()), data.to_vec());
                self.change(
                    path,
                    reply,
                    move |core, _| core.reopen(handle),
                    move |core, (), reply| {
                        if let Some(reply) = reply {
                            core.write(handle, offset, &data, owner, reply);
                        }
                    },
                );
            }
            _ => reply.error(Errno::EBADF),
        });
    }

    fn flush(&self, request: &Request, _: INodeNo, handle: FileHandle, owner: LockOwner, reply: ReplyEmpty) {
        calmly(|| match self.0.files.get(handle).as_deref() {
            Some(OpenFile::Write { path, open, .. }) => {
                open.flush(request.pid(), owner, self.0.answer_end(path, handle, &open.file, reply));
            }
            Some(OpenFile::Suspended(file)) => done(reply)(file.finish()),
            _ => reply.ok(),
        });
    }

    fn fsync(&self, _: &Request, _: INodeNo, handle: FileHandle, _: bool, reply: ReplyEmpty) {
        calmly(|| match self.0.files.get(handle).as_deref() {
            Some(OpenFile::Write { path, open: Opened { file, .. }, .. }) => {
                file.finish(self.0.answer_end(path, handle, file, reply));
            }
            Some(OpenFile::Suspended(file)) => done(reply)(file.finish()),
            _ => reply.ok(),
        });
    }

    fn fsyncdir(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        reply.ok();
    }

    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        size: Option<u64>,
        _: Option<TimeOrNow>,
        modified: Option<TimeOrNow>,
        _: Option<SystemTime>,
        handle: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        self.change(
            self.0.path(ino).map(|path| path.to_path_buf()),
            reply,
            move |core, _| {
                // Through a handle it is open, and stays so.
                if size.is_some() && handle.is_none() {
                    core.awaited(ino);
                }
                if let (Some(_), Some(handle)) = (size, handle) {
                    core.about_to_change(handle)?;
                }
                // Owner and permissions are options of the mount.
                match (size, modified) {
                    (Some(size), _) => core.truncate(ino, size, handle.is_some()),
                    (None, Some(TimeOrNow::SpecificTime(time))) => core.set_time(ino, time),
                    (None, Some(TimeOrNow::Now)) => core.set_time(ino, SystemTime::now()),
                    (None, None) => core.stat(ino).map_err(errno),
                }
            },
            move |_, stat, reply| {
                if let Some(reply) = reply {
                    reply.attr(&Duration::ZERO, &attributes(ino, &stat));
                }
            },
        );
    }

    fn mkdir(&self, request: &Request, parent: INodeNo, name: &OsStr, _: u32, _: u32, reply: ReplyEntry) {
        let is_repeated = self.0.is_repeated(request);
        self.change(
            self.0.below(parent, name),
            reply,
            move |core, path| {
                let stat = core.make_directory(&path, is_repeated).map_err(errno)?;
                core.changed();
                Ok((stat, path))
            },
            |core, (stat, path), reply| {
                if let Some(reply) = reply {
                    let ino = INodeNo(core.inodes.remember(&path, stat.identity));
                    reply.entry(&core.ttl, &attributes(ino, &stat), GENERATION);
                }
            },
        );
    }

    fn unlink(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let is_repeated = self.0.is_repeated(request);
        let remove = move |core: &Arc<Core>, path: PathBuf| already_gone(core.remove(&path), is_repeated);
        self.change(self.0.below(parent, name), reply, remove, changed);
    }

    fn rmdir(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let is_repeated = self.0.is_repeated(request);
        let remove =
            move |core: &Arc<Core>, path: PathBuf| already_gone(core.remove_directory(&path), is_repeated);
        self.change(self.0.below(parent, name), reply, remove, changed);
    }

    fn rename(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let to = self.0.below(new_parent, new_name).map_err(errno);
        let from = self.0.below(parent, name);
        let (number, is_repeated) = (request.unique().0, self.0.is_repeated(request));
        let rename = move |core: &Arc<Core>, from: PathBuf| match to? {
            to if is_repeated && core.is_renamed(&from, &to) => {
                core.rename_ended(&from);
                Ok(())
            }
            to => core.rename(&from, &to, flags, number),
        };
        self.change(from, reply, rename, changed);
    }

    fn mknod(&self, _: &Request, parent: INodeNo, name: &OsStr, _: u32, _: u32, _: u32, reply: ReplyEntry) {
        reply.error(self.missing(parent, name, Errno::EPERM));
    }

    fn symlink(&self, _: &Request, parent: INodeNo, name: &OsStr, _: &Path, reply: ReplyEntry) {
        reply.error(self.missing(parent, name, Errno::EPERM));
    }

    fn link(&self, _: &Request, _: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        reply.error(self.missing(parent, name, Errno::EPERM));
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let answers = self.answers();
        calmly(|| match self.0.files.get(handle).as_deref() {
            Some(OpenFile::Read { failed, .. }) if is_asked_again(failed, offset) => {
                answers.read(Err(Errno::EIO.code()));
                reply.error(Errno::EIO);
            }
            Some(OpenFile::Read { object, failed, .. }) => {
                let failed = Arc::clone(failed);
                let bytes = offset..offset.saturating_add(u64::from(size));
                object.read(
                    offset,
                    size,
                    Box::new(move |read| {
                        let read = read.map_err(errno);
                        answers.read(read.as_ref().map(|bytes| bytes.len()).map_err(|errno| errno.code()));
                        match read {
                            Ok(bytes) => reply.data(bytes),
                            Err(errno) => {
                                if errno.code() == Errno::EIO.code() {
                                    note_failed(&failed, bytes);
                                }
                                reply.error(errno);
                            }
                        }
                    }),
                );
            }
            // There is nothing to read.
            Some(OpenFile::Write { open, .. }) if open.file.stat().size == 0 => reply.data(&[]),
            _ => reply.error(Errno::EBADF),
        });
    }

    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        calmly(|| self.0.closed(handle));
        reply.ok();
    }

    fn opendir(&self, request: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        self.ask(
            request,
            reply,
            |core| core.lane(ino),
            |core| core.knows(ino),
            move |core| core.stat(ino),
            move |core, stat, reply| {
                answer!(reply, stat, _ => {
                    let flags = match core.store.is_remote() {
                        true if core.is_listed(ino) => FopenFlags::FOPEN_CACHE_DIR | FopenFlags::FOPEN_KEEP_CACHE,
                        true => FopenFlags::FOPEN_CACHE_DIR,
                        false => FopenFlags::empty(),
                    };
                    reply.opened(core.directories.add(Mutex::default()), flags);
                });
            },
        );
    }

    fn readdir(
        &self,
        request: &Request,
        ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        reply: ReplyDirectory,
    ) {
        self.ask(
            request,
            reply,
            |core| core.lane(ino),
            |core| offset > 0 && core.has_listing(handle),
            move |core| core.listing(ino, handle, offset),
            move |_, listing, mut reply| match listing {
                Ok(listing) => {
                    add_lines(&listing, offset, |line, index| {
                        let number = INodeNo(Inodes::number(&line.path, line.stat.identity));
                        reply.add(number, listing.position(index), kind(line.stat.kind), &line.name)
                    });
                    reply.ok();
                }
                Err(error) => reply.error(error),
            },
        );
    }

    fn readdirplus(
        &self,
        request: &Request,
        ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        reply: ReplyDirectoryPlus,
    ) {
        self.ask(
            request,
            reply,
            |core| core.lane(ino),
            |core| offset > 0 && core.has_listing(handle),
            move |core| core.listing(ino, handle, offset),
            move |core, listing, mut reply| match listing {
                Ok(listing) => {
                    add_lines(&listing, offset, |line, index| {
                        core.add_line(&listing, line, index, &mut reply)
                    });
                    reply.ok();
                }
                Err(error) => reply.error(error),
            },
        );
    }

    fn releasedir(&self, _: &Request, _: INodeNo, handle: FileHandle, _: OpenFlags, reply: ReplyEmpty) {
        self.0.directories.remove(handle);
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let block = u64::from(BLOCK);
        calmly(|| {
            answer!(reply, self.0.store.space(), space => {
                let (all, free) = (space.bytes / block, space.free_bytes / block);
                reply.statfs(all, free, free, space.files, space.free_files, BLOCK, 255, BLOCK);
            })
        });
    }

    fn access(&self, request: &Request, ino: INodeNo, mask: AccessFlags, reply: ReplyEmpty) {
        let writable = self.0.path(ino).is_ok_and(|path| self.0.store.is_writable(&path));
        if mask.contains(AccessFlags::W_OK) && !writable {
            return reply.error(Errno::EROFS);
        }
        self.ask(
            request,
            reply,
            |core| core.lane(ino),
            |core| core.knows(ino),
            move |core| core.stat(ino),
            |_, stat, reply| answer!(reply, stat, _ => reply.ok()),
        );
    }
}
