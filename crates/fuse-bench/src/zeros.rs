//! A file of zeros behind FUSE: what the kernel and the protocol allow when the bytes cost nothing.
//!
//! Threads, descriptors and flags are those of fluid-fuse, so that the difference is fluid-fuse's own. It
//! knows one file and no directory listing.

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use fuser::{
    Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, KernelConfig,
    LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyData, ReplyEntry, ReplyOpen, Request,
};

use crate::run::{BIG, BIG_SIZE};

const TTL: Duration = Duration::from_secs(60);
const FILE: INodeNo = INodeNo(2);

/// The largest request of the kernel.
static ZEROS: [u8; 1 << 20] = [0; 1 << 20];

struct Zeros;

fn attributes(ino: INodeNo) -> FileAttr {
    let (kind, perm, size) =
        if ino == FILE { (FileType::RegularFile, 0o444, BIG_SIZE) } else { (FileType::Directory, 0o555, 0) };
    let time = UNIX_EPOCH;
    FileAttr {
        ino,
        size,
        blocks: size / 512,
        atime: time,
        mtime: time,
        ctime: time,
        crtime: time,
        kind,
        perm,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

impl Filesystem for Zeros {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        config.set_max_background(64).map(drop).map_err(|most| io::Error::other(format!("at most {most}")))
    }

    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if name == BIG {
            reply.entry(&TTL, &attributes(FILE), Generation(0));
        } else {
            reply.error(Errno::ENOENT);
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&TTL, &attributes(ino));
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE);
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let left = BIG_SIZE.saturating_sub(offset).min(u64::from(size));
        reply.data(&ZEROS[..usize::try_from(left).unwrap_or(ZEROS.len()).min(ZEROS.len())]);
    }
}

/// Mounts, and serves until it is unmounted.
pub fn mount(mountpoint: &Path) -> anyhow::Result<()> {
    let mut config = Config::default();
    config.mount_options = vec![MountOption::RO, MountOption::FSName("zeros".into())];
    config.n_threads = Some(2);
    config.clone_fd = true;
    Ok(fuser::mount(Zeros, mountpoint, &config)?)
}
