//! The file system that the kernel sees: a [`Store`] behind inode numbers and handles.
//!
//! It decides how long the kernel may trust an answer, which error number an error becomes, and that nothing
//! is ever written: the mount is read-only, and each operation that changes something says so again here.
//! It knows neither where the bytes come from nor where it is mounted.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, Errno, FileAttr, FileHandle, FileType, Filesystem,
    FopenFlags, Generation, INodeNo, InitFlags, KernelConfig, LockOwner, OpenAccMode, OpenFlags, RenameFlags,
    ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyOpen,
    ReplyStatfs, ReplyWrite, Request, TimeOrNow, WriteFlags,
};
use log::warn;

use crate::handles::{Handles, Line, Listing};
use crate::inodes::{Inodes, lock};
use crate::store::{Kind, Object, Stat, Store, StoreError};

/// How long the kernel answers for names and attributes by itself: a local directory may change.
pub const TTL: Duration = Duration::from_secs(1);

/// A path is never reused for another file under the same number ([`crate::inodes`]).
const GENERATION: Generation = Generation(0);

const BLOCK: u32 = 4096;

/// What makes a read-only file system cheap, each where the kernel offers it. `AUTO_INVAL_DATA`: the pages of
/// a file that changed are dropped, although they are kept from one open to the next (`FOPEN_KEEP_CACHE`).
const WANTED: InitFlags = InitFlags::FUSE_AUTO_INVAL_DATA
    .union(InitFlags::FUSE_DO_READDIRPLUS)
    .union(InitFlags::FUSE_READDIRPLUS_AUTO)
    .union(InitFlags::FUSE_PARALLEL_DIROPS)
    .union(InitFlags::FUSE_CACHE_SYMLINKS);

thread_local! {
    /// Where a thread reads to: at most the size of the kernel's largest request.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A store as a read-only file system.
pub struct View {
    store: Box<dyn Store>,
    inodes: Inodes,
    files: Handles<Box<dyn Object>>,
    directories: Handles<Mutex<Option<Arc<Listing>>>>,
}

/// `.` and `..`, which the kernel never counts as looked up.
const DOTS: u64 = 2;

impl View {
    /// A view of the store.
    pub fn new(store: Box<dyn Store>) -> Self {
        View { store, inodes: Inodes::default(), files: Handles::default(), directories: Handles::default() }
    }

    fn path(&self, ino: INodeNo) -> Result<Arc<Path>, StoreError> {
        self.inodes.get(ino.0).map(|node| node.path).ok_or(StoreError::Stale)
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

    fn open_file(&self, ino: INodeNo) -> Result<FileHandle, StoreError> {
        let object = self.store.open(&self.path(ino)?)?;
        self.checked(ino, object.stat()?)?;
        Ok(self.files.add(object))
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
        StoreError::Failed(reason) => {
            warn!("the source failed: {reason}");
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
            .map_err(|missing| io::Error::other(format!("not offered: {missing:?}")))
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let found = self.path(parent).and_then(|parent| {
            let path = parent.join(name);
            self.store.stat(&path).map(|stat| (path, stat))
        });
        answer!(reply, found, (path, stat) => {
            let ino = INodeNo(self.inodes.remember(&path, stat.identity));
            reply.entry(&TTL, &attributes(ino, &stat), GENERATION);
        });
    }

    fn forget(&self, _: &Request, ino: INodeNo, lookups: u64) {
        self.inodes.forget(ino.0, lookups);
    }

    fn getattr(&self, _: &Request, ino: INodeNo, handle: Option<FileHandle>, reply: ReplyAttr) {
        let stat = match handle.and_then(|handle| self.files.get(handle)) {
            Some(object) => object.stat(),
            None => self.stat(ino),
        };
        answer!(reply, stat, stat => reply.attr(&TTL, &attributes(ino, &stat)));
    }

    fn readlink(&self, _: &Request, ino: INodeNo, reply: ReplyData) {
        let target = self.path(ino).and_then(|path| self.store.read_link(&path));
        answer!(reply, target, target => reply.data(target.as_bytes()));
    }

    fn open(&self, _: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        if flags.acc_mode() != OpenAccMode::O_RDONLY {
            return reply.error(Errno::EROFS);
        }
        answer!(reply, self.open_file(ino), handle => reply.opened(handle, FopenFlags::FOPEN_KEEP_CACHE));
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
        let Some(object) = self.files.get(handle) else {
            return reply.error(Errno::EBADF);
        };
        BUFFER.with_borrow_mut(|buffer| {
            let size = size as usize;
            if buffer.len() < size {
                buffer.resize(size, 0);
            }
            answer!(reply, object.read_at(offset, &mut buffer[..size]), read => reply.data(&buffer[..read]));
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
        self.files.remove(handle);
        reply.ok();
    }

    fn opendir(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        answer!(reply, self.stat(ino), _ => {
            reply.opened(self.directories.add(Mutex::default()), FopenFlags::empty());
        });
    }

    fn readdir(&self, _: &Request, ino: INodeNo, handle: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let read = self.read_directory(ino, handle, offset, |_, line, next| {
            let number = INodeNo(Inodes::number(&line.path, line.stat.identity));
            reply.add(number, next, kind(line.stat.kind), &line.name)
        });
        match read {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(error),
        }
    }

    fn readdirplus(
        &self,
        _: &Request,
        ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let read = self.read_directory(ino, handle, offset, |listing, line, next| {
            let counted = next > DOTS;
            let number = match counted {
                true => self.inodes.remember(&line.path, line.stat.identity),
                false => Inodes::number(&line.path, line.stat.identity),
            };
            let attributes = attributes(INodeNo(number), &line.stat);
            // What the listing says was true when it was taken.
            let ttl = TTL.saturating_sub(listing.taken.elapsed());
            let full = reply.add(attributes.ino, next, &line.name, &ttl, &attributes, GENERATION);
            if full && counted {
                self.inodes.forget(number, 1);
            }
            full
        });
        match read {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(error),
        }
    }

    fn releasedir(&self, _: &Request, _: INodeNo, handle: FileHandle, _: OpenFlags, reply: ReplyEmpty) {
        self.directories.remove(handle);
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let block = u64::from(BLOCK);
        answer!(reply, self.store.space(), space => {
            let (all, free) = (space.bytes / block, space.free_bytes / block);
            reply.statfs(all, free, free, space.files, space.free_files, BLOCK, 255, BLOCK);
        });
    }

    fn access(&self, _: &Request, ino: INodeNo, mask: AccessFlags, reply: ReplyEmpty) {
        if mask.contains(AccessFlags::W_OK) {
            return reply.error(Errno::EROFS);
        }
        answer!(reply, self.stat(ino), _ => reply.ok());
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
