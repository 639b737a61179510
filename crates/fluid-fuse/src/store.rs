//! The interface between the file system and its sources.
//!
//! A [`Store`] answers for paths below its root, `""` being the root itself. It knows neither inode numbers nor handles nor
//! the kernel. Several threads call it at once, and a call may block. Only [`crate::fs`] turns errors into error numbers. A
//! store that implements no method of writing is read-only.

mod local;

use std::ffi::{OsStr, OsString};
use std::fmt::Debug;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use fluid_sidecar_layout::contract::message::SLOW_READ;
use fluid_sidecar_layout::source::{self, Source};
use log::warn;
use percent_encoding::percent_decode_str;

pub use local::LocalStore;

/// Reads that take longer are logged.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slow(pub(crate) Duration);

impl Slow {
    /// Logs a read, if it took too long.
    pub(crate) fn tell(
        self,
        took: Duration,
        path: &dyn Debug,
        offset: u64,
        length: u64,
        read: &Result<&[u8], StoreError>,
    ) {
        if took > self.0 {
            let outcome = read.as_ref().map_or_else(StoreError::to_string, |_| "ok".to_string());
            let milliseconds = took.as_millis();
            warn!(
                "{SLOW_READ} path={path:?} offset={offset} length={length} milliseconds={milliseconds} \
                 outcome={outcome:?}"
            );
        }
    }
}

/// The directory of this machine that a URL names, if it names one.
pub fn local_directory(url: &str) -> anyhow::Result<Option<PathBuf>> {
    let Source::Directory(path) = source::parse(url)? else { return Ok(None) };
    let path: Vec<u8> = percent_decode_str(path).collect();
    Ok(Some(PathBuf::from(OsStr::from_bytes(&path))))
}

/// A source of files, or several in one tree.
pub trait Store: Send + Sync {
    /// The attributes of a path; of a symbolic link, its own.
    fn stat(&self, path: &Path) -> Result<Stat, StoreError>;

    /// The same without a request: nothing if it is not cached.
    fn cached_stat(&self, path: &Path) -> Option<Result<Stat, StoreError>>;

    /// When the cached attributes were requested; now, where no request is needed.
    fn cached_since(&self, _: &Path) -> Option<Instant> {
        Some(Instant::now())
    }

    /// The entries of a directory.
    fn list(&self, directory: &Path) -> Result<Entries, StoreError>;

    /// Opens a file. If it was opened before (`again`), its pages may all be in the kernel's cache, and nothing is read.
    fn open(&self, path: &Path, again: bool) -> Result<Box<dyn Object>, StoreError>;

    /// Opens the version of a file that an earlier worker had open ([`Object::version`]).
    fn reopen(&self, path: &Path, identity: u64, _version: &[u8]) -> Result<Box<dyn Object>, StoreError> {
        let object = self.open(path, true)?;
        match object.stat()?.identity == identity {
            true => Ok(object),
            false => Err(StoreError::Stale),
        }
    }

    /// The target of a symbolic link.
    fn read_link(&self, path: &Path) -> Result<OsString, StoreError>;

    /// The size and the free space.
    fn space(&self) -> Result<Space, StoreError>;

    /// How long names and attributes are trusted.
    fn ttl(&self) -> Duration;

    /// Whether an answer that is not [cached](Store::cached_stat) needs a request over a network. A thread that others
    /// need must not wait for it.
    fn is_remote(&self) -> bool;

    /// The number of lanes, one for each source, which can fail alone.
    fn lanes(&self) -> usize {
        1
    }

    /// The lane of the source that has a path.
    fn lane(&self, _: &Path) -> usize {
        0
    }

    /// Whether anything at or below the path can be changed.
    fn is_writable(&self, _: &Path) -> bool {
        false
    }

    /// The permissions of a new file at the path.
    fn file_mode(&self, _: &Path) -> u16 {
        0
    }

    /// Begins to write a file. The path names the old file until [`Writer::finish`].
    fn create(&self, _: &Path) -> Result<Box<dyn Writer>, StoreError> {
        Err(StoreError::ReadOnly)
    }

    /// Begins to write at the end of a file. Returns its attributes, too, by a new request.
    fn append(&self, _: &Path) -> Result<(Box<dyn Writer>, Stat), StoreError> {
        Err(StoreError::ReadOnly)
    }

    /// Sets a file's time of change. Returns its attributes.
    fn set_time(&self, _: &Path, _: SystemTime) -> Result<Stat, StoreError> {
        Err(StoreError::ReadOnly)
    }

    /// Removes a file.
    fn remove(&self, _: &Path) -> Result<(), StoreError> {
        Err(StoreError::ReadOnly)
    }

    /// Makes a directory. Returns its attributes.
    fn make_directory(&self, _: &Path) -> Result<Stat, StoreError> {
        Err(StoreError::ReadOnly)
    }

    /// Removes an empty directory.
    fn remove_directory(&self, _: &Path) -> Result<(), StoreError> {
        Err(StoreError::ReadOnly)
    }

    /// Gives a file another path, and replaces the file there. Returns its attributes.
    fn rename(&self, _from: &Path, _to: &Path, _attempt: &Attempt<'_>) -> Result<Stat, StoreError> {
        Err(StoreError::ReadOnly)
    }
}

/// An attempt to rename. One that is interrupted leaves both paths, and the next attempt continues it.
pub struct Attempt<'a> {
    /// Whether an earlier attempt with these paths has called `begins` and not succeeded.
    pub is_continued: bool,
    /// To be called when everything was checked, before the first change.
    pub begins: &'a dyn Fn(),
}

/// A file that is being written from its beginning to its end. If it is dropped before it is finished, the store is not
/// changed.
pub trait Writer: Send {
    /// Announces that the file will have at least this many bytes.
    fn expect(&mut self, size: u64);

    /// Writes the next bytes. A file that was finished is continued.
    fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError>;

    /// Sets the time of change that the file will have, unless more is written.
    fn set_time(&mut self, time: SystemTime);

    /// Starts again with an empty file.
    fn restart(&mut self) -> Result<(), StoreError>;

    /// Makes the path name the written file. Returns its attributes.
    fn finish(&mut self) -> Result<Stat, StoreError>;
}

/// Called once, with the bytes (fewer than requested at the file's end), or with an error.
pub type Answer = Box<dyn FnOnce(Result<&[u8], StoreError>) + Send>;

/// An open file: always the version that was opened, whatever its path names later.
pub trait Object: Send + Sync {
    /// The file's attributes.
    fn stat(&self) -> Result<Stat, StoreError>;

    /// Reads. The answer is called at once, or later by another thread.
    fn read(&self, offset: u64, length: u32, answer: Answer);

    /// The version as bytes, from which [`Store::reopen`] opens it without a request; empty if path and identity are enough.
    fn version(&self) -> Vec<u8> {
        Vec::new()
    }

    /// A descriptor of a local file with the same bytes, if there is one, for passthrough.
    fn backing(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

/// The entries of a directory.
#[derive(Debug)]
pub struct Entries {
    /// When they were requested.
    pub since: Instant,
    /// All but `.` and `..`.
    pub entries: Vec<Entry>,
    /// Whether the attributes of the entries are complete.
    pub are_complete: bool,
}

/// A name in a directory.
#[derive(Debug)]
pub struct Entry {
    /// The name.
    pub name: OsString,
    /// Its attributes.
    pub stat: Stat,
}

/// The type of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
}

/// The attributes of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// Differs from that of another file that had the same path before.
    pub identity: u64,
    /// The type.
    pub kind: Kind,
    /// Bytes.
    pub size: u64,
    /// Time of the last change.
    pub modified: SystemTime,
    /// Permission bits.
    pub mode: u16,
    /// Hard links.
    pub links: u32,
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

impl Stat {
    /// A directory that no store tells the attributes of.
    pub fn directory(mode: u16, (uid, gid): (u32, u32), modified: SystemTime) -> Self {
        Stat { identity: 0, kind: Kind::Directory, size: 0, modified, mode, links: 2, uid, gid }
    }
}

/// The size and the free space of a store.
#[derive(Clone, Copy, Debug, Default)]
pub struct Space {
    /// Bytes in all.
    pub bytes: u64,
    /// Free bytes.
    pub free_bytes: u64,
    /// The largest possible number of files.
    pub files: u64,
    /// The number of files that can be added.
    pub free_files: u64,
}

/// Why a store has no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// Nothing there, or nothing that is shown.
    #[error("not found")]
    NotFound,
    /// The store refuses access: its own words.
    #[error("permission denied: {0}")]
    Denied(String),
    /// There is no such bucket, or it is not at this endpoint: the store's own words.
    #[error("no such bucket: {0}")]
    NoBucket(String),
    /// The path names another version now.
    #[error("the file was replaced")]
    Stale,
    /// The store, or this part of it, is read-only.
    #[error("it is read-only")]
    ReadOnly,
    /// The directory is not empty.
    #[error("the directory is not empty")]
    NotEmpty,
    /// The store cannot rename it, but a program can copy it.
    #[error("it cannot be moved there")]
    NotMovable,
    /// The store does not have this operation.
    #[error("{0} is not supported")]
    Unsupported(&'static str),
    /// The store answers that it does not have this operation: its own words.
    #[error("the store does not have this operation: {0}")]
    NotImplemented(String),
    /// The server does not support range requests.
    #[error("the server does not send parts of files: it answered {0}")]
    NoParts(u16),
    /// No answer, or one that a retry may change: too many requests, a server's error, a lost connection.
    #[error("{0}")]
    Unavailable(String),
    /// Everything else.
    #[error("{0}")]
    Failed(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        let local = |url: &str| local_directory(url).map_err(|error| error.to_string());
        assert_eq!(local("file:///a%20b/c"), Ok(Some(PathBuf::from("/a b/c"))));
        assert_eq!(local("local:///a"), Ok(Some(PathBuf::from("/a"))));
        assert_eq!(local("file:///%ff").map(|path| path.map(|path| path.as_os_str().len())), Ok(Some(2)));
        assert_eq!(local("s3://bucket"), Ok(None));
        assert!(local("file://host/a").is_err() && local("/a").is_err() && local("").is_err());
    }
}
