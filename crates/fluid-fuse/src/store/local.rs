//! A directory of this machine as a [`Store`].
//!
//! It decides what of the directory is shown: regular files, directories and symbolic links, the latter as
//! links and never followed here. Every path is opened from the root's descriptor with `RESOLVE_BENEATH` and
//! `RESOLVE_NO_SYMLINKS`, so neither a link nor `..` nor a race with a rename leads out of it. Mounts below
//! the root are shown. Whether a caller may read a file is the kernel's matter (`default_permissions`).

use std::cell::RefCell;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::ErrorKind;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context;
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::{Answer, Entries, Entry, Kind, Object, Slow, Space, Stat, Store, StoreError};
use crate::stable_hash::StableHash;

/// How often an open is tried again that a concurrent rename or mount disturbed.
const DISTURBED: usize = 16;

/// A directory.
#[derive(Debug)]
pub struct LocalStore {
    root: OwnedFd,
    slow: Slow,
}

impl LocalStore {
    /// Opens the directory. Reads that take longer than `slow` are logged.
    pub fn new(directory: &Path, slow: Duration) -> anyhow::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::openat(CWD, directory, flags, Mode::empty())
            .with_context(|| format!("cannot open the source directory {}", directory.display()))?;
        Self::of(root, slow)
    }

    /// The same of a directory that is open already.
    pub(crate) fn of(root: OwnedFd, slow: Duration) -> anyhow::Result<Self> {
        let store = LocalStore { root, slow: Slow(slow) };
        match store.resolve(Path::new(""), OFlags::PATH) {
            Ok(_) => Ok(store),
            Err(errno) => Err(errno).context(
                "openat2 does not work here: it needs Linux 5.6 and a seccomp profile that knows it",
            ),
        }
    }

    fn resolve(&self, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let within = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let mut tries = 0..DISTURBED;
        loop {
            match rustix::fs::openat2(&self.root, path, flags, Mode::empty(), within) {
                Err(Errno::AGAIN | Errno::INTR) if tries.next().is_some() => {}
                result => return result,
            }
        }
    }
}

impl Store for LocalStore {
    fn stat(&self, path: &Path) -> Result<Stat, StoreError> {
        shown(&rustix::fs::fstat(self.resolve(path, OFlags::PATH)?)?).ok_or(StoreError::NotFound)
    }

    fn cached_stat(&self, path: &Path) -> Option<Result<Stat, StoreError>> {
        Some(self.stat(path))
    }

    fn list(&self, directory: &Path) -> Result<Entries, StoreError> {
        let since = Instant::now();
        let descriptor = self.resolve(directory, OFlags::RDONLY | OFlags::DIRECTORY)?;
        let mut entries = Vec::new();
        for entry in Dir::read_from(&descriptor)? {
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            match rustix::fs::statat(&descriptor, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => entries.extend(
                    shown(&stat)
                        .map(|stat| Entry { name: OsStr::from_bytes(name.to_bytes()).to_os_string(), stat }),
                ),
                Err(Errno::NOENT) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(Entries { since, entries, are_complete: true })
    }

    fn open(&self, path: &Path, _: bool) -> Result<Box<dyn Object>, StoreError> {
        // NONBLOCK: should the path have become a FIFO, the open must not wait for its writer.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file =
            LocalFile { file: self.resolve(path, flags)?.into(), path: path.to_path_buf(), slow: self.slow };
        match file.stat()?.kind {
            Kind::File => Ok(Box::new(file)),
            _ => Err(StoreError::Stale),
        }
    }

    fn read_link(&self, path: &Path) -> Result<OsString, StoreError> {
        let link = self.resolve(path, OFlags::PATH)?;
        Ok(OsString::from_vec(rustix::fs::readlinkat(link, "", Vec::new())?.into_bytes()))
    }

    fn ttl(&self) -> Duration {
        // A local directory may change at any time.
        Duration::from_secs(1)
    }

    fn is_remote(&self) -> bool {
        false
    }

    fn space(&self) -> Result<Space, StoreError> {
        let space = rustix::fs::fstatvfs(&self.root)?;
        Ok(Space {
            bytes: space.f_blocks.saturating_mul(space.f_frsize),
            free_bytes: space.f_bfree.saturating_mul(space.f_frsize),
            files: space.f_files,
            free_files: space.f_ffree,
        })
    }
}

struct LocalFile {
    file: File,
    path: PathBuf,
    slow: Slow,
}

thread_local! {
    /// Where a thread reads to: at most the size of the kernel's largest request.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl Object for LocalFile {
    fn stat(&self) -> Result<Stat, StoreError> {
        shown(&rustix::fs::fstat(self.file.as_fd())?).ok_or(StoreError::Stale)
    }

    fn read(&self, offset: u64, length: u32, answer: Answer) {
        BUFFER.with_borrow_mut(|buffer| {
            let length = length as usize;
            if buffer.len() < length {
                buffer.resize(length, 0);
            }
            let since = Instant::now();
            let read = self.read_at(offset, &mut buffer[..length]);
            let bytes = read.map(|read| &buffer[..read]);
            self.slow.tell(since.elapsed(), &self.path, offset, length as u64, &bytes);
            answer(bytes);
        });
    }

    fn backing(&self) -> Option<BorrowedFd<'_>> {
        Some(self.file.as_fd())
    }
}

impl LocalFile {
    /// Fills the buffer from the offset on; fewer bytes only at the end of the file.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize, StoreError> {
        // The kernel has no offsets beyond, and so no file has bytes there.
        let room = usize::try_from((i64::MAX as u64).saturating_sub(offset)).unwrap_or(usize::MAX);
        let length = buffer.len().min(room);
        let mut filled = 0;
        while filled < length {
            match self.file.read_at(&mut buffer[filled..length], offset + filled as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(StoreError::Failed(error.to_string())),
            }
        }
        Ok(filled)
    }
}

/// The attributes of what is shown; nothing for a device, a socket or a FIFO.
fn shown(stat: &rustix::fs::Stat) -> Option<Stat> {
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Kind::File,
        FileType::Directory => Kind::Directory,
        FileType::Symlink => Kind::Symlink,
        _ => return None,
    };
    Some(Stat {
        identity: StableHash::default().number(stat.st_dev).number(stat.st_ino).finish(),
        kind,
        size: u64::try_from(stat.st_size).unwrap_or(0),
        modified: time(stat.st_mtime, stat.st_mtime_nsec),
        // Nothing is written here.
        mode: (stat.st_mode & 0o7777 & !0o222) as u16,
        links: u32::try_from(stat.st_nlink).unwrap_or(u32::MAX),
        uid: stat.st_uid,
        gid: stat.st_gid,
    })
}

fn time(seconds: i64, nanoseconds: u64) -> SystemTime {
    let whole = Duration::from_secs(seconds.unsigned_abs());
    let second = if seconds < 0 { SystemTime::UNIX_EPOCH - whole } else { SystemTime::UNIX_EPOCH + whole };
    second + Duration::from_nanos(nanoseconds)
}

impl From<Errno> for StoreError {
    fn from(errno: Errno) -> Self {
        match errno {
            // A part of the path became a file or a link, or leads out: there is no such path any more.
            Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV => StoreError::NotFound,
            Errno::ACCESS | Errno::PERM => StoreError::Denied(errno.to_string()),
            Errno::STALE => StoreError::Stale,
            _ => StoreError::Failed(errno.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn nothing_leads_out() {
        let place = tempfile::tempdir().unwrap();
        let root = place.path().join("root");
        fs::create_dir(&root).unwrap();
        fs::write(place.path().join("secret"), "x").unwrap();
        fs::write(root.join("file"), "x").unwrap();
        symlink("..", root.join("up")).unwrap();
        symlink("file", root.join("link")).unwrap();
        rustix::fs::mknodat(CWD, root.join("fifo"), FileType::Fifo, Mode::RUSR, 0).unwrap();
        let store = LocalStore::new(&root, Duration::MAX).unwrap();
        for path in ["../secret", "up/secret", "/etc/passwd", "fifo", "none", "file/x", "../root/file"] {
            assert!(store.stat(Path::new(path)).is_err(), "{path}");
            assert!(store.open(Path::new(path), false).is_err(), "{path}");
        }
        assert!(store.open(Path::new("link"), false).is_err());
        assert!(store.list(Path::new("up")).is_err());
        assert_eq!(store.read_link(Path::new("up")).unwrap(), "..");
        let mut names: Vec<_> =
            store.list(Path::new("")).unwrap().entries.into_iter().map(|entry| entry.name).collect();
        names.sort();
        assert_eq!(names, ["file", "link", "up"]);
    }

    #[test]
    fn reads_end_where_the_file_ends() {
        let place = tempfile::tempdir().unwrap();
        fs::write(place.path().join("file"), b"0123456789").unwrap();
        let file =
            LocalStore::new(place.path(), Duration::MAX).unwrap().open(Path::new("file"), false).unwrap();
        for (offset, expected) in
            [(0, "01234567"), (6, "6789"), (10, ""), (1 << 40, ""), (i64::MAX as u64, ""), (u64::MAX, "")]
        {
            let (sender, answer) = std::sync::mpsc::channel();
            file.read(offset, 8, Box::new(move |read| sender.send(read.map(<[u8]>::to_vec)).unwrap()));
            assert_eq!(answer.recv().unwrap().unwrap(), expected.as_bytes(), "{offset}");
        }
    }

    #[test]
    fn times_before_1970() {
        let time = time(-1, 500_000_000);
        assert_eq!(SystemTime::UNIX_EPOCH.duration_since(time).unwrap(), Duration::from_millis(500));
    }
}
