//! The file system that the kernel sees: a [`Store`] behind inode numbers and handles.
//!
//! It decides how long the kernel may trust an answer, which error number an error becomes, who waits where,
//! and what of writing there is: a file is written from its beginning while nobody reads it, or on from its end, and
//! the kernel keeps no pages of what is written. Where a store is read-only, each operation that changes something
//! says so. The threads that take the kernel's requests never wait for a store that is far away: what
//! it must be asked for is done by threads of their own. It knows neither where the bytes come from nor where
//! it is mounted.

mod changes;
mod killed;
mod resumed;
mod writing;

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::io;
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
use log::{debug, error, info, warn};
use rustix::fs::OFlags;

use self::killed::{Reply, Waiting};
use self::resumed::{Lost, Opening, Resumed};
pub use self::writing::Writes;
use self::writing::{Done, Opened, Writing};
use crate::handles::{Handles, Line, Listing};
use crate::inodes::{Inodes, lock};
use crate::limits::Until;
use crate::queue::Queue;
use crate::store::{Kind, Object, Stat, Store, StoreError};
use crate::watch::Answers;

/// A path is never reused for another file under the same number ([`crate::inodes`]).
const GENERATION: Generation = Generation(0);

const BLOCK: u32 = 4096;

/// Threads that ask a store that is far away for names and attributes.
const ASKING: usize = 32;

/// Further ones, while as many are stuck.
const ASKING_SPARE: usize = 224;

/// Requests that the kernel may have under way without anybody waiting for them (its read-ahead).
pub(crate) const BACKGROUND: u16 = 64;

/// How many file systems a file that the kernel reads past us may lie on top of.
const STACKED: u32 = 2;

/// Directories whose listing the kernel is known to have.
const LISTED: usize = 4096;

/// What makes the file system cheap, each where the kernel offers it. `AUTO_INVAL_DATA`: the pages of a file that
/// changed are dropped, although they are kept from one open to the next (`FOPEN_KEEP_CACHE`).
/// `ATOMIC_O_TRUNC`: an open tells that the file will be written anew.
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
    /// How the kernel reads the files that are open, by inode number.
    modes: Mutex<HashMap<u64, Mode>>,
    /// It lets us hand it files to read past us.
    passthrough: AtomicBool,
    directories: Handles<Mutex<Option<Arc<Listing>>>>,
    /// When the kernel was given the listing that it keeps.
    listed: Mutex<HashMap<u64, Instant>>,
    /// When a name was last changed here: no listing from before is kept.
    last_change: Mutex<Option<Instant>>,
    asking: Arc<Queue>,
    /// Those that wait for what is asked.
    waiting: Arc<Waiting>,
    answers: Arc<Answers>,
    writes: Arc<Writes>,
    /// The files that are being written, with the identities that they have meanwhile.
    writing: Mutex<HashMap<PathBuf, (u64, Arc<Writing>)>>,
    /// The paths of which something is being changed, locked after `writing`.
    held: Mutex<HashSet<PathBuf>>,
    /// What this has of a former life and notes for the next, where there may be one.
    resumed: OnceLock<Resumed>,
}

enum OpenFile {
    Read {
        object: Box<dyn Object>,
        ino: u64,
    },
    /// `unsaved`: whether something was written of which the next life would not know that the store has it.
    Write {
        path: PathBuf,
        open: Opened,
        unsaved: Mutex<bool>,
    },
    /// It was open for writing in a former life.
    Lost(Lost),
}

/// An inode is read through us or past us, never both at a time: the kernel insists.
struct Mode {
    handles: usize,
    stat: Option<Stat>,
    past_us: Option<Arc<BackingId>>,
}

/// `.` and `..`, which the kernel never counts as looked up.
const DOTS: usize = 2;

impl View {
    /// A view of the store.
    pub fn new(store: Box<dyn Store>, writes: Arc<Writes>) -> Self {
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
            asking: Queue::with_spare(ASKING, ASKING_SPARE),
            waiting: Arc::default(),
            answers: Arc::default(),
            writes,
            writing: Mutex::default(),
            held: Mutex::default(),
            resumed: OnceLock::new(),
        }))
    }

    /// What is counted.
    pub fn answers(&self) -> Arc<Answers> {
        Arc::clone(&self.0.answers)
    }

    /// Asks what may have to be waited for, as the store is far away, unless `known` says that it need not, and then
    /// answers, unless whoever waits was killed.
    fn ask<R: Reply, T>(
        &self,
        request: &Request,
        reply: R,
        known: impl FnOnce(&Core) -> bool,
        question: impl FnOnce(&Core) -> T + Send + 'static,
        answer: impl FnOnce(&Core, T, R) + Send + 'static,
    ) {
        if !self.0.store.is_far() || known(&self.0) {
            return calmly(|| answer(&self.0, question(&self.0), reply));
        }
        let core = Arc::clone(&self.0);
        let waiter = core.waiting.add(request.pid(), reply);
        let until = Instant::now() + core.writes.patience();
        self.0.asking.urgent(Box::new(move || {
            if !waiter.waits() {
                return;
            }
            let _until = Until::set(until);
            let found = question(&core);
            if let Some(reply) = waiter.answered() {
                answer(&core, found, reply);
            }
        }));
    }

    /// Changes something at a path.
    fn change(
        &self,
        path: Result<PathBuf, StoreError>,
        work: impl FnOnce(&Arc<Core>, Result<PathBuf, Errno>) + Send + 'static,
    ) {
        let path = path.map_err(errno).and_then(|path| match self.0.store.is_writable(&path) {
            true => Ok(path),
            false => Err(Errno::EROFS),
        });
        let core = Arc::clone(&self.0);
        match path {
            Ok(path) => self.0.asking.urgent(Box::new(move || work(&core, Ok(path)))),
            refused => calmly(|| work(&core, refused)),
        }
    }

    /// What the store does not have, unless it has nothing of the kind.
    fn missing(&self, parent: INodeNo, name: &OsStr, errno: Errno) -> Errno {
        let path = self.0.below(parent, name);
        if path.is_ok_and(|path| self.0.store.is_writable(&path)) { errno } else { Errno::EROFS }
    }
}

impl Core {
    fn path(&self, ino: INodeNo) -> Result<Arc<Path>, StoreError> {
        self.inodes.get(ino.0).map(|node| node.path).ok_or(StoreError::Stale)
    }

    fn below(&self, parent: INodeNo, name: &OsStr) -> Result<PathBuf, StoreError> {
        self.path(parent).map(|parent| parent.join(name))
    }

    /// How long what the store has just told of a path is still true.
    fn trusted(&self, path: &Path) -> Duration {
        let since = self.store.known_since(path);
        since.map_or(Duration::ZERO, |since| self.ttl.saturating_sub(since.elapsed()))
    }

    /// Whether the attributes of the number need not be asked for.
    fn knows(&self, ino: INodeNo) -> bool {
        self.path(ino).is_ok_and(|path| self.store.known(&path).is_some())
    }

    /// The attributes, provided that they are those of the file that the number was given for.
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

    /// The attributes of a file that somebody reads although its path names another one by now, or none.
    fn opened_stat(&self, ino: INodeNo) -> Option<Stat> {
        let stat = lock(&self.modes).get(&ino.0)?.stat?;
        Some(Stat { links: 0, ..stat })
    }

    fn open(&self, ino: INodeNo) -> Result<Box<dyn Object>, StoreError> {
        let object = self.store.open(&self.path(ino)?, self.inodes.opened(ino.0))?;
        self.checked(ino, object.stat()?)?;
        Ok(object)
    }

    /// Makes the kernel read the file past us if it can.
    fn opened(&self, ino: INodeNo, object: Box<dyn Object>, opening: Opening, reply: ReplyOpen) {
        let writing = lock(&self.writing);
        let path = self.path(ino).unwrap_or_else(|_| Path::new("").into());
        let written = writing.get(&*path).map(|(_, file)| file);
        if written.is_some_and(|file| file.is_changed() && !file.continues() && !file.is_untouched()) {
            return reply.error(Errno::EBUSY);
        }
        let mut modes = lock(&self.modes);
        let mode = modes.entry(ino.0).or_insert_with(|| Mode { handles: 0, stat: None, past_us: None });
        mode.stat = object.stat().ok().or(mode.stat);
        if mode.handles == 0 && written.is_none() && self.passthrough.load(Ordering::Relaxed) {
            mode.past_us = object.backing().and_then(|file| match reply.open_backing(file) {
                Ok(backing) => Some(Arc::new(backing)),
                Err(error) => {
                    if error.raw_os_error() == Some(Errno::EPERM.code()) {
                        info!("the kernel reads no file past us: {error}");
                        self.passthrough.store(false, Ordering::Relaxed);
                    }
                    debug!("a file is not read past us: {error}");
                    None
                }
            });
        }
        mode.handles += 1;
        let past_us = mode.past_us.clone();
        drop(modes);
        drop(writing);
        self.answers.opened();
        let version = object.version();
        let handle = self.files.add(OpenFile::Read { object, ino: ino.0 });
        self.note_opened(handle, ino, &opening, &version);
        match past_us {
            Some(backing) => reply.opened_passthrough(handle, FopenFlags::FOPEN_NOFLUSH, &backing),
            None => reply.opened(handle, FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_NOFLUSH),
        }
    }

    fn closed(self: &Arc<Self>, handle: FileHandle) {
        let Some(open) = self.files.get(handle) else { return };
        self.files.remove(handle);
        self.note_closed(handle);
        match &*open {
            OpenFile::Read { ino, .. } => {
                let mut modes = lock(&self.modes);
                if let Some(mode) = modes.get_mut(ino) {
                    mode.handles -= 1;
                    if mode.handles == 0 {
                        modes.remove(ino);
                    }
                }
            }
            OpenFile::Lost(lost) => self.left_behind(lost),
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

    /// Names were changed: the listings that the kernel has are not true any more.
    fn changed(&self) {
        let mut listed = lock(&self.listed);
        *lock(&self.last_change) = Some(Instant::now());
        listed.clear();
    }

    /// Whether the kernel has a listing that is still true.
    fn is_listed(&self, ino: INodeNo) -> bool {
        lock(&self.listed).get(&ino.0).is_some_and(|taken| taken.elapsed() < self.ttl)
    }

    /// Adds a line with its attributes; whether there was no room for it.
    fn add_line(&self, listing: &Listing, line: &Line, index: usize, reply: &mut ReplyDirectoryPlus) -> bool {
        let counted = index >= DOTS;
        let number = match counted {
            true => self.inodes.remember(&line.path, line.stat.identity),
            false => Inodes::number(&line.path, line.stat.identity),
        };
        let (stat, ttl) = match self.being_written(&line.path) {
            Some((identity, file)) if identity == line.stat.identity => (file.stat(), Duration::ZERO),
            _ if !listing.is_all_known && self.store.known(&line.path).is_none() => {
                (line.stat, Duration::ZERO)
            }
            // What the listing says was true when it was taken.
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

    /// A directory as it was when it was read from its beginning, which is asked for anew.
    fn listing(&self, ino: INodeNo, handle: FileHandle, offset: u64) -> Result<Arc<Listing>, Errno> {
        let directory = self.directory(handle).ok_or(Errno::EBADF)?;
        if let Some(known) = lock(&directory).clone().filter(|_| offset > 0) {
            return Ok(known);
        }
        let path = self.path(ino).map_err(errno)?;
        let fresh = Arc::new(Listing::take(self.store.as_ref(), &path).map_err(errno)?);
        *lock(&directory) = Some(Arc::clone(&fresh));
        if offset > 0 {
            // The kernel has the beginning of an older one.
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

/// Hands the lines from the offset on to `add`, with their places, until it has had enough.
fn add_lines(listing: &Listing, offset: u64, mut add: impl FnMut(&Line, usize) -> bool) {
    for (index, line) in listing.lines.iter().enumerate().skip(listing.index(offset)) {
        if add(line, index) {
            break;
        }
    }
}

/// Why a look-up finds nothing.
enum Missing {
    /// There is nothing, which is true for so long.
    Known(Duration),
    Failed(StoreError),
}

impl From<StoreError> for Missing {
    fn from(error: StoreError) -> Self {
        Missing::Failed(error)
    }
}

/// Does what a request asks for. A fault in it ends that request, whose reply is an error when it is dropped, and not
/// the mount.
fn calmly(work: impl FnOnce()) {
    let _ = panic::catch_unwind(AssertUnwindSafe(work));
}

/// The one place where errors become error numbers.
fn errno(error: StoreError) -> Errno {
    match error {
        StoreError::NotFound => Errno::ENOENT,
        // Not ENOENT: of a listing, C libraries take that for the end of an empty directory.
        StoreError::NoBucket(_) => Errno::ENXIO,
        StoreError::Denied(_) => Errno::EACCES,
        StoreError::Stale => Errno::ESTALE,
        StoreError::ReadOnly => Errno::EROFS,
        StoreError::NotEmpty => Errno::ENOTEMPTY,
        StoreError::NotMovable => Errno::EXDEV,
        StoreError::Unsupported(_) | StoreError::NotImplemented(_) => Errno::ENOTSUP,
        StoreError::NoParts(_) | StoreError::Unavailable(_) | StoreError::Failed(_) => {
            warn!("the source failed errno=EIO error={:?}", error.to_string());
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

/// What the kernel is told of a name that nothing has: to remember that, without a number.
fn nothing() -> FileAttr {
    attributes(INodeNo(0), &Stat::directory(0, (0, 0), SystemTime::UNIX_EPOCH))
}

fn is_set(flags: i32, flag: OFlags) -> bool {
    OFlags::from_bits_retain(flags.cast_unsigned()).contains(flag)
}

/// A name that was to be removed, and was by the same request in a former life.
fn already_gone(removed: Result<(), Errno>, is_again: bool) -> Result<(), Errno> {
    removed.or_else(|error| if is_again && error == Errno::ENOENT { Ok(()) } else { Err(error) })
}

fn done(reply: ReplyEmpty) -> Done {
    Box::new(move |result| match result {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(error),
    })
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
        // The most that the kernel grants is the next best thing.
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
        let known = path.clone().ok();
        self.ask(
            request,
            reply,
            |core| known.is_none_or(|path| core.store.known(&path).is_some()),
            move |core| {
                let path = path?;
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
            |core| is_open || core.knows(ino),
            move |core| match file.as_deref() {
                Some(OpenFile::Read { object, .. }) => object.stat(),
                _ => core.stat(ino).or_else(|error| core.opened_stat(ino).ok_or(error)),
            },
            move |core, stat, reply| {
                let ttl = match (is_open, core.path(ino)) {
                    (false, Ok(path)) => core.trusted(&path),
                    // What is open does not change.
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
            let opening = self.0.opening(request, flags.0);
            return self.ask(
                request,
                reply,
                |core| core.knows(ino) && core.writing_of(ino).is_none(),
                move |core| core.open_to_read(ino),
                move |core, object, reply| match object {
                    Ok(object) => core.opened(ino, object, opening, reply),
                    Err(error) => reply.error(error),
                },
            );
        }
        let pid = request.pid();
        let opening = self.0.opening(request, flags.0);
        self.change(self.0.path(ino).map(|path| path.to_path_buf()), move |core, path| {
            let opened = path.and_then(|path| {
                core.awaited(ino);
                let stat = core.stat(ino).map_err(errno)?;
                core.overwrite(&path, Some(ino), stat, flags.0, pid)
            });
            match opened {
                Ok((handle, ..)) => {
                    core.note_opened(handle, ino, &opening, &[]);
                    reply.opened(handle, FopenFlags::FOPEN_DIRECT_IO);
                }
                Err(error) => reply.error(error),
            }
        });
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
        let opening = self.0.opening(request, flags);
        self.change(self.0.below(parent, name), move |core, path| {
            match path.and_then(|path| Ok((core.create(&path, flags, pid)?, path))) {
                Ok(((handle, identity, stat), path)) => {
                    let ino = INodeNo(core.inodes.remember(&path, identity));
                    core.note_opened(handle, ino, &opening, &[]);
                    let attributes = attributes(ino, &stat);
                    let flags = FopenFlags::FOPEN_DIRECT_IO;
                    reply.created(&Duration::ZERO, &attributes, GENERATION, handle, flags);
                }
                Err(error) => reply.error(error),
            }
        });
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
            Some(OpenFile::Lost(lost)) => {
                let (path, data) = (Ok(lost.path().to_path_buf()), data.to_vec());
                self.change(path, move |core, path| match path.and_then(|_| core.revived(handle)) {
                    Ok(()) => core.write(handle, offset, &data, owner, reply),
                    Err(error) => reply.error(error),
                });
            }
            _ => reply.error(Errno::EBADF),
        });
    }

    fn flush(&self, request: &Request, _: INodeNo, handle: FileHandle, owner: LockOwner, reply: ReplyEmpty) {
        calmly(|| match self.0.files.get(handle).as_deref() {
            Some(OpenFile::Write { path, open, .. }) => {
                open.flush(request.pid(), owner, self.0.answer_end(path, handle, &open.file, reply));
            }
            Some(OpenFile::Lost(lost)) => done(reply)(lost.end()),
            _ => reply.ok(),
        });
    }

    fn fsync(&self, _: &Request, _: INodeNo, handle: FileHandle, _: bool, reply: ReplyEmpty) {
        calmly(|| match self.0.files.get(handle).as_deref() {
            Some(OpenFile::Write { path, open: Opened { file, .. }, .. }) => {
                file.finish(self.0.answer_end(path, handle, file, reply));
            }
            Some(OpenFile::Lost(lost)) => done(reply)(lost.end()),
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
        self.change(self.0.path(ino).map(|path| path.to_path_buf()), move |core, path| {
            // Through a handle it is open, and stays so.
            if size.is_some() && handle.is_none() {
                core.awaited(ino);
            }
            let revived = match (size, handle) {
                (Some(_), Some(handle)) => core.unsaved(handle),
                _ => Ok(()),
            };
            // Owner and permissions are the mount's matter.
            let changed = path.and(revived).and_then(|()| match (size, modified) {
                (Some(size), _) => core.truncate(ino, size, handle.is_some()),
                (None, Some(TimeOrNow::SpecificTime(time))) => core.set_time(ino, time),
                (None, Some(TimeOrNow::Now)) => core.set_time(ino, SystemTime::now()),
                (None, None) => core.stat(ino).map_err(errno),
            });
            match changed {
                Ok(stat) => reply.attr(&Duration::ZERO, &attributes(ino, &stat)),
                Err(error) => reply.error(error),
            }
        });
    }

    fn mkdir(&self, request: &Request, parent: INodeNo, name: &OsStr, _: u32, _: u32, reply: ReplyEntry) {
        let is_again = self.0.is_again(request);
        self.change(self.0.below(parent, name), move |core, path| {
            let made = path.and_then(|path| Ok((core.make_directory(&path, is_again).map_err(errno)?, path)));
            match made {
                Ok((stat, path)) => {
                    core.changed();
                    let ino = INodeNo(core.inodes.remember(&path, stat.identity));
                    reply.entry(&core.ttl, &attributes(ino, &stat), GENERATION);
                }
                Err(error) => reply.error(error),
            }
        });
    }

    fn unlink(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let is_again = self.0.is_again(request);
        self.change(self.0.below(parent, name), move |core, path| {
            done(reply)(path.and_then(|path| already_gone(core.remove(&path), is_again)))
        });
    }

    fn rmdir(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let is_again = self.0.is_again(request);
        self.change(self.0.below(parent, name), move |core, path| {
            done(reply)(path.and_then(|path| already_gone(core.remove_directory(&path), is_again)));
        });
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
        let is_again = self.0.is_again(request);
        self.change(self.0.below(parent, name), move |core, from| {
            done(reply)(from.and_then(|from| match to {
                Ok(to) if is_again && core.is_renamed(&from, &to) => Ok(()),
                to => core.rename(&from, &to?, flags),
            }));
        });
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
            Some(OpenFile::Read { object, .. }) => object.read(
                offset,
                size,
                Box::new(move |read| {
                    let read = read.map_err(errno);
                    answers.read(read.as_ref().map(|bytes| bytes.len()).map_err(|errno| errno.code()));
                    match read {
                        Ok(bytes) => reply.data(bytes),
                        Err(errno) => reply.error(errno),
                    }
                }),
            ),
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
            |core| core.knows(ino),
            move |core| core.stat(ino),
            move |core, stat, reply| {
                answer!(reply, stat, _ => {
                    let flags = match core.store.is_far() {
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
            |core| core.has_listing(handle, offset),
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
            |core| core.has_listing(handle, offset),
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
            |core| core.knows(ino),
            move |core| core.stat(ino),
            |_, stat, reply| answer!(reply, stat, _ => reply.ok()),
        );
    }
}
