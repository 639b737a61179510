//! Open files, and the prefetch of the files that are likely to be opened next.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::keys::split;
use super::name_cache::NameCache;
use super::table::Child;
use crate::fetch::{Fetcher, RemoteFile};
use crate::remote::Version;
use crate::store::{Answer, Object, Stat, StoreError};
use crate::sync::lock;

/// Prefetches files of a directory whose files are opened in the order of their names.
pub(super) struct FilePrefetcher {
    pub(super) fetcher: Fetcher,
    pub(super) names: Arc<NameCache>,
}

impl FilePrefetcher {
    /// Notes that a file is opened, and prefetches those that are likely to be next.
    pub(super) fn opened(&self, key: &str) {
        let (prefix, name) = split(key);
        let Some((listing, index)) = self.names.listed(prefix, name) else { return };
        let next = lock(&listing.open_order).open(index, listing.len());
        let versions: Vec<Version> = next
            .filter_map(|index| match listing.child(index)? {
                Child::File(version) => Some(Arc::unwrap_or_clone(version)),
                Child::Directory => None,
            })
            .collect();
        self.fetcher.expect(&versions);
    }
}

/// A file that is open.
pub(super) struct OpenObject {
    pub(super) stat: Stat,
    /// The file of the disk cache, if it has all bytes.
    pub(super) whole: Option<OwnedFd>,
    pub(super) file: Arc<RemoteFile>,
    pub(super) prefetcher: Arc<FilePrefetcher>,
    /// Whether its open was not noted, because its pages may all be in the kernel's cache. The first read notes it.
    pub(super) is_open_unnoted: AtomicBool,
}

impl Object for OpenObject {
    fn stat(&self) -> Result<Stat, StoreError> {
        Ok(self.stat)
    }

    fn read(&self, offset: u64, length: u32, answer: Answer) {
        self.file.read(offset, length, answer);
        if self.is_open_unnoted.swap(false, Ordering::Relaxed) {
            self.prefetcher.opened(&self.file.version().key);
        }
    }

    fn version(&self) -> Vec<u8> {
        self.file.version().to_bytes()
    }

    fn backing(&self) -> Option<BorrowedFd<'_>> {
        self.whole.as_ref().map(OwnedFd::as_fd)
    }
}

impl Drop for OpenObject {
    fn drop(&mut self) {
        self.file.close();
    }
}
