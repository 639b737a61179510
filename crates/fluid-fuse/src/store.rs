//! The seam between the file system and the place that its bytes come from.
//!
//! A [`Store`] answers for paths below its root, `""` being the root itself; it knows neither inode numbers
//! nor handles nor the kernel. It is called by several threads at once, and a call may take its time. Which
//! error number an error becomes is decided in [`crate::fs`] alone. A store that says nothing else is read-only.

mod local;

use std::ffi::{OsStr, OsString};
use std::fmt::Debug;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use fluid_sidecar_layout::source::{self, Source};
use log::warn;
use percent_encoding::percent_decode_str;

pub use local::LocalStore;

/// Reads that take longer are logged.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slow(pub(crate) Duration);

impl Slow {
    /// Logs a read that took so long, if that is too long.
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
                "slow read path={path:?} offset={offset} length={length} milliseconds={milliseconds} \
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

/// Where the files are.
pub trait Store: Send + Sync {
    /// The attributes of a path; of a symbolic link, its own.
    fn stat(&self, path: &Path) -> Result<Stat, StoreError>;

    /// The same, if it takes no time to tell; nothing if somebody far away must be asked.
    fn known(&self, path: &Path) -> Option<Result<Stat, StoreError>>;

    /// Since when that is known, where it is; without having been asked for it, now.
    fn known_since(&self, _: &Path) -> Option<Instant> {
        Some(Instant::now())
    }

    /// What a directory holds.
    fn list(&self, directory: &Path) -> Result<Entries, StoreError>;

    /// Opens a file. Whoever opens it `again` may have all of it still, and read nothing.
    fn open(&self, path: &Path, again: bool) -> Result<Box<dyn Object>, StoreError>;

    /// Opens the version of a file that an object had in a former life of the process ([`Object::version`]).
    fn reopen(&self, path: &Path, identity: u64, _version: &[u8]) -> Result<Box<dyn Object>, StoreError> {
        let object = self.open(path, true)?;
        match object.stat()?.identity == identity {
            true => Ok(object),
            false => Err(StoreError::Stale),
        }
    }

    /// The target of a symbolic link.
    fn read_link(&self, path: &Path) -> Result<OsString, StoreError>;

    /// How full the place is.
    fn space(&self) -> Result<Space, StoreError>;

    /// How long what is known stays true, as far as anybody relies on it.
    fn ttl(&self) -> Duration;

    /// Whether somebody far away is asked: what is not [known](Store::known) must not be waited for by a
    /// thread that others need.
    fn is_far(&self) -> bool;

    /// Whether anything at or below the path can be changed.
    fn is_writable(&self, _: &Path) -> bool {
        false
    }

    /// The permissions of a file that is made there.
    fn file_mode(&self, _: &Path) -> u16 {
        0
    }

    /// Begins to write a file. What its path names stays as it is until [`Writer::finish`].
    fn create(&self, _: &Path) -> Result<Box<dyn Writer>, StoreError> {
        Err(StoreError::ReadOnly)
    }

    /// Begins to write behind the end of a file that is there; its attributes, asked for anew.
    fn append(&self, _: &Path) -> Result<(Box<dyn Writer>, Stat), StoreError> {
        Err(StoreError::ReadOnly)
    }

    /// Sets a file's time of change; its attributes.
    fn set_time(&self, _: &Path, _: SystemTime) -> Result<Stat, StoreError> {
        Err(StoreError::ReadOnly)
    }

    /// Removes a file.
    fn remove(&self, _: &Path) -> Result<(), StoreError> {
        Err(StoreError::ReadOnly)
    }

    /// Makes a directory; its attributes.
    fn make_directory(&self, _: &Path) -> Result<Stat, StoreError> {
        Err(StoreError::ReadOnly)
    }

    /// Removes a directory that holds nothing.
    fn remove_directory(&self, _: &Path) -> Result<(), StoreError> {
        Err(StoreError::ReadOnly)
    }

    /// Gives a file another path, in place of what is there; its attributes.
    fn rename(&self, _from: &Path, _to: &Path) -> Result<Stat, StoreError> {
        Err(StoreError::ReadOnly)
    }
}

/// A file that is being written from its beginning to its end. Dropped before it is finished, it leaves nothing
/// behind.
pub trait Writer: Send {
    /// How many bytes it will have at least, as far as is known.
    fn expect(&mut self, size: u64);

    /// The next bytes, also after the file was finished: it goes on with them.
    fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError>;

    /// The time of change that it will have, unless more is written.
    fn set_time(&mut self, time: SystemTime);

    /// Begins anew, with an empty file.
    fn restart(&mut self) -> Result<(), StoreError>;

    /// Makes the path name what was written; its attributes.
    fn finish(&mut self) -> Result<Stat, StoreError>;
}

/// Called once with the bytes, fewer than asked for at the file's end, or with the reason why there are none.
pub type Answer = Box<dyn FnOnce(Result<&[u8], StoreError>) + Send>;

/// An open file. It stays the file that was opened, whatever its path names later.
pub trait Object: Send + Sync {
    /// The file's attributes.
    fn stat(&self) -> Result<Stat, StoreError>;

    /// Reads; the answer may be called at once or later, by another thread.
    fn read(&self, offset: u64, length: u32, answer: Answer);

    /// What [`Store::reopen`] needs beside path and identity, to ask nobody which version it was.
    fn version(&self) -> Vec<u8> {
        Vec::new()
    }

    /// A descriptor of a local file with the very same bytes, if there is one.
    fn backing(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

/// What a directory holds.
#[derive(Debug)]
pub struct Entries {
    /// Since when that is known.
    pub since: Instant,
    /// All but `.` and `..`.
    pub entries: Vec<Entry>,
    /// Whether nobody needs to ask for more of what they are than is told here.
    pub is_all_known: bool,
}

/// A name in a directory.
#[derive(Debug)]
pub struct Entry {
    /// The name.
    pub name: OsString,
    /// Its attributes.
    pub stat: Stat,
}

/// What a path is.
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
    /// Tells this file from another that had the same path before.
    pub identity: u64,
    /// What it is.
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

/// How full a store is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Space {
    /// Bytes in all.
    pub bytes: u64,
    /// Bytes left.
    pub free_bytes: u64,
    /// Files that there can be.
    pub files: u64,
    /// Files that can be added.
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
    /// The path names another file by now.
    #[error("the file was replaced")]
    Stale,
    /// Nothing is changed here.
    #[error("it is read-only")]
    ReadOnly,
    /// The directory holds something.
    #[error("the directory is not empty")]
    NotEmpty,
    /// It cannot be moved there, but it can be copied.
    #[error("it cannot be moved there")]
    NotMovable,
    /// The store does not have this operation.
    #[error("{0} is not supported")]
    Unsupported(&'static str),
    /// The store answers that it does not have this operation: its own words.
    #[error("the store does not have this operation: {0}")]
    NotImplemented(String),
    /// The server sends files as a whole alone.
    #[error("the server does not send parts of files: it answered {0}")]
    NoParts(u16),
    /// No answer, or one that may be another soon: too many requests, a server's error, a lost connection.
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
