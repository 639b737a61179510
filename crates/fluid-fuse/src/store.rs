//! The seam between the file system and the place that its bytes come from.
//!
//! A [`Store`] answers for paths below its root, `""` being the root itself; it knows neither inode numbers
//! nor handles nor the kernel. It is called by several threads at once, and a call may take its time. Which
//! error number an error becomes is decided in [`crate::fs`] alone.

mod local;

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::SystemTime;

use anyhow::{bail, ensure};
use percent_encoding::percent_decode_str;

pub use local::LocalStore;

/// What a URL names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A directory that the process sees.
    Local(PathBuf),
}

impl FromStr for Source {
    type Err = anyhow::Error;

    fn from_str(url: &str) -> anyhow::Result<Self> {
        let Some((scheme, rest)) = url.split_once("://") else {
            bail!("{url:?} is not a URL such as file:///path");
        };
        match scheme {
            "file" | "local" => {
                ensure!(rest.starts_with('/'), "{url:?} must name an absolute path: {scheme}:///path");
                let path: Vec<u8> = percent_decode_str(rest).collect();
                Ok(Source::Local(PathBuf::from(OsStr::from_bytes(&path))))
            }
            _ => bail!("the scheme {scheme:?} of {url:?} is not supported; supported are: file, local"),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Local(path) => write!(formatter, "file://{}", path.display()),
        }
    }
}

/// Where the files are.
pub trait Store: Send + Sync {
    /// The attributes of a path; of a symbolic link, its own.
    fn stat(&self, path: &Path) -> Result<Stat, StoreError>;

    /// What a directory holds, without `.` and `..`.
    fn list(&self, directory: &Path) -> Result<Vec<Entry>, StoreError>;

    /// Opens a file.
    fn open(&self, path: &Path) -> Result<Box<dyn Object>, StoreError>;

    /// The target of a symbolic link.
    fn read_link(&self, path: &Path) -> Result<OsString, StoreError>;

    /// How full the place is.
    fn space(&self) -> Result<Space, StoreError>;
}

/// An open file. It stays the file that was opened, whatever its path names later.
pub trait Object: Send + Sync {
    /// The file's attributes.
    fn stat(&self) -> Result<Stat, StoreError>;

    /// Fills the buffer from the offset on; fewer bytes only at the end of the file.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize, StoreError>;
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

/// How full a store is.
#[derive(Clone, Copy, Debug)]
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
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Nothing there, or nothing that is shown.
    #[error("not found")]
    NotFound,
    /// The store does not let us.
    #[error("permission denied")]
    Denied,
    /// The path names another file by now.
    #[error("the file was replaced")]
    Stale,
    /// Everything else.
    #[error("{0}")]
    Failed(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        let local =
            |url: &str| url.parse::<Source>().map(|Source::Local(path)| path).map_err(|e| e.to_string());
        assert_eq!(local("file:///a%20b/c"), Ok(PathBuf::from("/a b/c")));
        assert_eq!(local("local:///a"), Ok(PathBuf::from("/a")));
        assert_eq!(local("file:///%ff").map(|path| path.as_os_str().len()), Ok(2));
        assert!(local("s3://bucket").is_err_and(|e| e.contains("\"s3\"") && e.contains("file, local")));
        assert!(local("file://host/a").is_err() && local("/a").is_err() && local("").is_err());
    }
}
