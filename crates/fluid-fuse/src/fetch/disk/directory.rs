//! The cache directory and the names of its files.
//!
//! The directory belongs to one process and one user. Nothing in it is opened through a link ([`crate::nofollow`]), and
//! files with other names are left alone.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use fluid_sidecar_layout::contract::FLUID_FUSE;
use rustix::fs::{
    AtFlags, Dir, FileType, FlockOperation, Mode, OFlags, fchmod, flock, fstat, openat, renameat, statat,
    unlinkat,
};
use rustix::io::Errno;
use rustix::process::geteuid;

use crate::nofollow;
use crate::remote::Version;
use crate::stable_hash::StableHash;

/// Locked by the process that uses the directory.
const LOCK: &str = "lock";

/// Hexadecimal digits of a stem: 64 bits. An index names its version in full, so that a collision costs one entry only.
const STEM_DIGITS: usize = 16;

/// The kinds of files in the cache directory. The end of a name tells the kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum FileKind {
    /// An index.
    Index,
    /// An index that is being written.
    NewIndex,
    /// The bytes of an object.
    Data,
}

impl FileKind {
    fn extension(self) -> &'static str {
        match self {
            FileKind::Index => "map",
            FileKind::NewIndex => "new",
            FileKind::Data => "data",
        }
    }
}

/// The stem of the names of a version's files.
pub(super) fn stem(source: &str, version: &Version) -> String {
    let hash = StableHash::default()
        .bytes(source.as_bytes())
        .bytes(version.key.as_bytes())
        .number(version.size)
        .optional(version.etag.as_deref())
        .time(version.modified);
    format!("{:016x}", hash.finish())
}

pub(super) fn file_name(stem: &str, kind: FileKind) -> String {
    format!("{stem}.{}", kind.extension())
}

/// The stem and the kind of a file, if the cache made it.
fn parse(file: &str) -> Option<(FileKind, &str)> {
    let (stem, extension) = file.split_once('.')?;
    let is_stem =
        stem.len() == STEM_DIGITS && stem.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let kind = [FileKind::Index, FileKind::NewIndex, FileKind::Data]
        .into_iter()
        .find(|kind| kind.extension() == extension)?;
    is_stem.then_some((kind, stem))
}

/// A directory that this process uses alone.
#[derive(Debug)]
pub(super) struct CacheDirectory {
    /// As messages name it.
    pub(super) path: PathBuf,
    /// Its files are opened relative to this descriptor.
    opened: OwnedFd,
    /// Locked as long as this process uses the directory.
    _lock: File,
}

impl CacheDirectory {
    /// Opens a directory, or makes it.
    pub(super) fn open(path: &Path) -> anyhow::Result<Self> {
        let (path, opened) =
            own(path).with_context(|| format!("cannot use the cache directory {}", path.display()))?;
        let lock = nofollow::file_or_new(&opened, LOCK, OFlags::RDWR).with_context(|| {
            format!("cannot use the file {LOCK:?} of the cache directory {}", path.display())
        })?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            bail!("the cache directory {} is used by another process", path.display());
        }
        Ok(CacheDirectory { path, opened, _lock: lock })
    }

    /// The files of the cache, sorted by kind.
    pub(super) fn files(&self) -> anyhow::Result<Vec<(FileKind, String)>> {
        let mut files = Vec::new();
        for entry in Dir::read_from(&self.opened)? {
            let entry = entry?;
            let Some((name, (kind, stem))) =
                entry.file_name().to_str().ok().and_then(|name| Some((name, parse(name)?)))
            else {
                continue;
            };
            let stat = statat(&self.opened, name, AtFlags::SYMLINK_NOFOLLOW);
            if stat.ok().map(|stat| FileType::from_raw_mode(stat.st_mode)) != Some(FileType::Directory) {
                files.push((kind, stem.to_string()));
            }
        }
        files.sort_unstable();
        Ok(files)
    }

    /// Opens a file.
    pub(super) fn file(&self, stem: &str, kind: FileKind, flags: OFlags) -> io::Result<File> {
        nofollow::file(&self.opened, &file_name(stem, kind), flags)
    }

    /// Makes a file in place of the one that may be there.
    pub(super) fn replace(&self, stem: &str, kind: FileKind, flags: OFlags) -> io::Result<File> {
        nofollow::replace(&self.opened, &file_name(stem, kind), flags)
    }

    /// Puts the new index in place of the index.
    pub(super) fn commit_index(&self, stem: &str) -> Result<(), Errno> {
        let [new, index] = [FileKind::NewIndex, FileKind::Index].map(|kind| file_name(stem, kind));
        renameat(&self.opened, new, &self.opened, index)
    }

    pub(super) fn remove(&self, stem: &str, kind: FileKind) -> Result<(), Errno> {
        unlinkat(&self.opened, file_name(stem, kind), AtFlags::empty())
    }
}

/// Opens the directory to use, which belongs to this user alone: the one that was named, or one in it if that belongs to
/// another user or, by its sticky bit, to everybody. kubelet makes volumes as root, open to everybody.
fn own(directory: &Path) -> anyhow::Result<(PathBuf, OwnedFd)> {
    let own_user = geteuid();
    let mut named = nofollow::absolute(directory);
    let mut place = nofollow::make_directory(&named)?;
    let stat = fstat(&place)?;
    if stat.st_uid != own_user.as_raw() || Mode::from_raw_mode(stat.st_mode).contains(Mode::SVTX) {
        named.push(format!("{FLUID_FUSE}-{}", own_user.as_raw()));
        place = nofollow::make_directory(&named)?;
    }
    // The mode cannot be changed through a descriptor that was opened for paths only.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let opened = openat(&place, ".", flags, Mode::empty())?;
    let stat = fstat(&opened)?;
    ensure!(stat.st_uid == own_user.as_raw(), "{} belongs to the user {}", named.display(), stat.st_uid);
    fchmod(&opened, Mode::RWXU).with_context(|| format!("cannot close {} to others", named.display()))?;
    Ok((named, opened))
}
