//! The file system that the kernel sees: a [`Store`] behind inode numbers and handles.
//!
//! It decides how long the kernel may trust an answer, which error number an error becomes, who waits where,
//! and that nothing is ever written: the mount is read-only, and each operation that changes something says
//! so again here. The threads that take the kernel's requests never wait for a store that is far away: what
//! it must be asked for is done by threads of their own. It knows neither where the bytes come from nor where
//! it is mounted.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use fuser::{
    AccessFlags, BackingId, BsdFileFlags, CopyFileRangeFlags, Errno, FileAttr, FileHandle, FileType,
    Filesystem, FopenFlags, Generation, INodeNo, InitFlags, KernelConfig, LockOwner, OpenAccMode, OpenFlags,
    RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty,
    ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, Request, TimeOrNow, WriteFlags,
};
use log::{debug, info, warn};

use crate::fetch::queue::Queue;
use crate::handles::{Handles, Line, Listing};
use crate::inodes::{Inodes, lock};
use crate::store::{Kind, Object, Stat, Store, StoreError};
use crate::watch::Answers;

/// A path is never reused for another file under the same number ([`crate::inodes`]).
const GENERATION: Generation = Generation(0);

const BLOCK: u32 = 4096;

/// Threads that ask a store that is far away for names and attributes.
const ASKING: usize = 32;

/// Requests that the kernel may have under way without anybody waiting for them (its read-ahead).
const BACKGROUND: u16 = 64;

/// How many file systems a file that the kernel reads past us may lie on top of.
const STACKED: u32 = 2;

/// Directories whose listing the kernel is known to have.
const LISTED: usize = 4096;

/// What makes a read-only file system cheap, each where the kernel offers it. `AUTO_INVAL_DATA`: the pages of
/// a file that changed are dropped, although they are kept from one open to the next (`FOPEN_KEEP_CACHE`).
const WANTED: InitFlags = InitFlags::FUSE_AUTO_INVAL_DATA
    .union(InitFlags::FUSE_DO_READDIRPLUS)
    .union(InitFlags::FUSE_READDIRPLUS_AUTO)
    .union(InitFlags::FUSE_PARALLEL_DIROPS)
    .union(InitFlags::FUSE_CACHE_SYMLINKS)
    .union(InitFlags::FUSE_MAX_PAGES);

/// A store as a read-only file system.
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
    asking: Arc<Queue>,
    answers: Arc<Answers>,
}

struct OpenFile {
    object: Box<dyn Object>,
    ino: u64,
}

/// An inode is read through us or past us, never both at a time: the kernel insists.
struct Mode {
    handles: usize,
    past_us: Option<Arc<BackingId>>,
}

/// `.` and `..`, which the kernel never counts as looked up.
const DOTS: u64 = 2;

impl View {
    /// A view of the store.
    pub fn new(store: Box<dyn Store>) -> Self {
        View(Arc::new(Core {
            ttl: store.ttl(),
            store,
            inodes: Inodes::default(),
            files: Handles::default(),
            modes: Mutex::default(),
            passthrough: AtomicBool::new(false),
            directories: Handles::default(),
            listed: Mutex::default(),
            asking: Queue::new(ASKING),
            answers: Arc::default(),
        }))
    }

    /// What is counted.
    pub fn answers(&self) -> Arc<Answers> {
        Arc::clone(&self.0.answers)
    }

    /// Does what may have to wait for a store that is far away, unless `known` says that it need not.
    fn ask(&self, known: impl FnOnce(&Core) -> bool, work: impl FnOnce(&Core) + Send + 'static) {
        if !self.0.store.is_far() || known(&self.0) {
            return work(&self.0);
        }
        let core = Arc::clone(&self.0);
        self.0.asking.urgent(Box::new(move || work(&core)));
    }
}

impl Core {
    fn path(&self, ino: INodeNo) -> Result<Arc<Path>, StoreError> {
        self.inodes.get(ino.0).map(|node| node.path).ok_or(StoreError::Stale)
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
        self.checked(ino, self.store.stat(&self.path(ino)?)?)
    }

    fn open(&self, ino: INodeNo) -> Result<Box<dyn Object>, StoreError> {
        let object = self.store.open(&self.path(ino)?)?;
        self.checked(ino, object.stat()?)?;
        Ok(object)
    }

    /// Makes the kernel read the file past us if it can.
    fn opened(&self, ino: INodeNo, object: Box<dyn Object>, reply: ReplyOpen) {
        let mut modes = lock(&self.modes);
        let mode = modes.entry(ino.0).or_insert_with(|| Mode { handles: 0, past_us: None });
        if mode.handles == 0 && self.passthrough.load(Ordering::Relaxed) {
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
        self.answers.opened();
        let handle = self.files.add(OpenFile { object, ino: ino.0 });
        match past_us {
            Some(backing) => reply.opened_passthrough(handle, FopenFlags::empty(), &backing),
            None => reply.opened(handle, FopenFlags::FOPEN_KEEP_CACHE),
        }
    }

    fn closed(&self, handle: FileHandle) {
        let Some(file) = self.files.get(handle) else { return };
        self.files.remove(handle);
        let mut modes = lock(&self.modes);
        if let Some(mode) = modes.get_mut(&file.ino) {
            mode.handles -= 1;
            if mode.handles == 0 {
                modes.remove(&file.ino);
            }
        }
    }

    /// Whether the kernel has a listing that is still true.
    fn is_listed(&self, ino: INodeNo) -> bool {
        lock(&self.listed).get(&ino.0).is_some_and(|taken| taken.elapsed() < self.ttl)
    }

    /// Hands the lines from the offset on to `add`, with the offset of the next, until it has had enough.
    /// The directory is listed anew only at the start.
    fn read_directory(
        &self,
        ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut add: impl FnMut(&Listing, &Line, u64) -> bool,
    ) -> Result<(), Errno> {
        let directory = self.directories.get(handle).ok_or(Errno::EBADF)?;
        let known = lock(&directory).clone().filter(|_| offset > 0);
        let listing = match known {
            Some(listing) => listing,
            None => {
                let path = self.path(ino).map_err(errno)?;
                let fresh = Arc::new(Listing::take(self.store.as_ref(), &path).map_err(errno)?);
                *lock(&directory) = Some(Arc::clone(&fresh));
                let mut listed = lock(&self.listed);
                if listed.len() >= LISTED {
                    listed.clear();
                }
                listed.insert(ino.0, fresh.taken);
                fresh
            }
        };
        let mut next = offset;
        for line in listing.lines.iter().skip(usize::try_from(offset).unwrap_or(usize::MAX)) {
            next += 1;
            if add(&listing, line, next) {
                break;
            }
        }
        Ok(())
    }
}

/// The one place where errors become error numbers.
fn errno(error: StoreError) -> Errno {
    match error {
        StoreError::NotFound => Errno::ENOENT,
        StoreError::Denied => Errno::EACCES,
        StoreError::Stale => Errno::ESTALE,
        StoreError::Unsupported(_) => Errno::ENOTSUP,
        StoreError::Unavailable(reason) | StoreError::Failed(reason) => {
            warn!("the source failed errno=EIO error={reason:?}");
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
        perm: stat.mode & !0o222,
        nlink: stat.links,
        uid: stat.uid,
        gid: stat.gid,
        rdev: 0,
        blksize: BLOCK,
        flags: 0,
    }
}

/// The operations that would change something.
macro_rules! refuse {
    ($($operation:ident($($argument:ty),*) -> $reply:ty;)*) => {
        $(fn $operation(&self, _: &Request, $(_: $argument,)* reply: $reply) {
            reply.error(Errno::EROFS);
        })*
    };
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

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let path = self.0.path(parent).map(|parent| parent.join(name));
        let known = path.clone().ok();
        self.ask(
            |core| known.is_none_or(|path| core.store.known(&path).is_some()),
            move |core| match path.and_then(|path| core.store.stat(&path).map(|stat| (path, stat))) {
                Ok((path, stat)) => {
                    let ino = INodeNo(core.inodes.remember(&path, stat.identity));
                    reply.entry(&core.ttl, &attributes(ino, &stat), GENERATION);
                }
                Err(error) => reply.error(errno(error)),
            },
        );
    }

    fn forget(&self, _: &Request, ino: INodeNo, lookups: u64) {
        self.0.inodes.forget(ino.0, lookups);
    }

    fn getattr(&self, _: &Request, ino: INodeNo, handle: Option<FileHandle>, reply: ReplyAttr) {
        let file = handle.and_then(|handle| self.0.files.get(handle));
        self.ask(|core| file.is_some() || core.knows(ino), {
            let file = file.clone();
            move |core| {
                let stat = match file {
                    Some(file) => file.object.stat(),
                    None => core.stat(ino),
                };
                answer!(reply, stat, stat => reply.attr(&core.ttl, &attributes(ino, &stat)));
            }
        });
    }

    fn readlink(&self, _: &Request, ino: INodeNo, reply: ReplyData) {
        let target = self.0.path(ino).and_then(|path| self.0.store.read_link(&path));
        answer!(reply, target, target => reply.data(target.as_bytes()));
    }

    fn open(&self, _: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        if flags.acc_mode() != OpenAccMode::O_RDONLY {
            return reply.error(Errno::EROFS);
        }
        self.ask(
            |core| core.knows(ino),
            move |core| answer!(reply, core.open(ino), object => core.opened(ino, object, reply)),
        );
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
        match self.0.files.get(handle) {
            Some(file) => file.object.read(
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
            None => reply.error(Errno::EBADF),
        }
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
        self.0.closed(handle);
        reply.ok();
    }

    fn opendir(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        self.ask(
            |core| core.knows(ino),
            move |core| {
                answer!(reply, core.stat(ino), _ => {
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

    fn readdir(&self, _: &Request, ino: INodeNo, handle: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        self.ask(
            |_| offset > 0,
            move |core| {
                let read = core.read_directory(ino, handle, offset, |_, line, next| {
                    let number = INodeNo(Inodes::number(&line.path, line.stat.identity));
                    reply.add(number, next, kind(line.stat.kind), &line.name)
                });
                match read {
                    Ok(()) => reply.ok(),
                    Err(error) => reply.error(error),
                }
            },
        );
    }

    fn readdirplus(
        &self,
        _: &Request,
        ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        self.ask(
            |_| offset > 0,
            move |core| {
                let read = core.read_directory(ino, handle, offset, |listing, line, next| {
                    let counted = next > DOTS;
                    let number = match counted {
                        true => core.inodes.remember(&line.path, line.stat.identity),
                        false => Inodes::number(&line.path, line.stat.identity),
                    };
                    let attributes = attributes(INodeNo(number), &line.stat);
                    // What the listing says was true when it was taken.
                    let ttl = core.ttl.saturating_sub(listing.taken.elapsed());
                    let full = reply.add(attributes.ino, next, &line.name, &ttl, &attributes, GENERATION);
                    if full && counted {
                        core.inodes.forget(number, 1);
                    }
                    full
                });
                match read {
                    Ok(()) => reply.ok(),
                    Err(error) => reply.error(error),
                }
            },
        );
    }

    fn releasedir(&self, _: &Request, _: INodeNo, handle: FileHandle, _: OpenFlags, reply: ReplyEmpty) {
        self.0.directories.remove(handle);
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let block = u64::from(BLOCK);
        answer!(reply, self.0.store.space(), space => {
            let (all, free) = (space.bytes / block, space.free_bytes / block);
            reply.statfs(all, free, free, space.files, space.free_files, BLOCK, 255, BLOCK);
        });
    }

    fn access(&self, _: &Request, ino: INodeNo, mask: AccessFlags, reply: ReplyEmpty) {
        if mask.contains(AccessFlags::W_OK) {
            return reply.error(Errno::EROFS);
        }
        self.ask(|core| core.knows(ino), move |core| answer!(reply, core.stat(ino), _ => reply.ok()));
    }

    refuse! {
        setattr(
            INodeNo, Option<u32>, Option<u32>, Option<u32>, Option<u64>, Option<TimeOrNow>, Option<TimeOrNow>,
            Option<std::time::SystemTime>, Option<FileHandle>, Option<std::time::SystemTime>,
            Option<std::time::SystemTime>, Option<std::time::SystemTime>, Option<BsdFileFlags>
        ) -> ReplyAttr;
        mknod(INodeNo, &OsStr, u32, u32, u32) -> ReplyEntry;
        mkdir(INodeNo, &OsStr, u32, u32) -> ReplyEntry;
        unlink(INodeNo, &OsStr) -> ReplyEmpty;
        rmdir(INodeNo, &OsStr) -> ReplyEmpty;
        symlink(INodeNo, &OsStr, &Path) -> ReplyEntry;
        rename(INodeNo, &OsStr, INodeNo, &OsStr, RenameFlags) -> ReplyEmpty;
        link(INodeNo, INodeNo, &OsStr) -> ReplyEntry;
        create(INodeNo, &OsStr, u32, u32, i32) -> ReplyCreate;
        write(INodeNo, FileHandle, u64, &[u8], WriteFlags, OpenFlags, Option<LockOwner>) -> ReplyWrite;
        fallocate(INodeNo, FileHandle, u64, u64, i32) -> ReplyEmpty;
        copy_file_range(INodeNo, FileHandle, u64, INodeNo, FileHandle, u64, u64, CopyFileRangeFlags) -> ReplyWrite;
        setxattr(INodeNo, &OsStr, &[u8], i32, u32) -> ReplyEmpty;
        removexattr(INodeNo, &OsStr) -> ReplyEmpty;
    }
}
