//! Open files, and which files are likely to be opened next.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::names::{Child, Names};
use super::split;
use crate::fetch::{Fetcher, RemoteFile};
use crate::inodes::lock;
use crate::remote::Version;
use crate::store::{Answer, Object, Stat, StoreError};

/// Opens in the order of the listing that make it likely that the next names follow.
const WALKING: usize = 2;

/// How far behind the furthest an open may be and still belong to the walk: several readers share one.
const ABREAST: usize = 16;

/// Files fetched ahead of a walk at most.
const STRIDE: usize = 32;

/// Fetches files of directories that are opened in the order of their names before they are opened.
pub(super) struct Walker {
    pub(super) fetcher: Fetcher,
    pub(super) names: Arc<Names>,
}

/// Files of a directory being opened in the order of its names.
#[derive(Default)]
pub(super) struct Opens {
    furthest: usize,
    steps: usize,
    /// Where what was fetched ahead ends.
    ahead: usize,
}

impl Walker {
    /// Notes that a file is opened, and fetches those that are likely to be next.
    pub(super) fn step(&self, key: &str) {
        let (prefix, name) = split(key);
        let Some((listing, index)) = self.names.listed(prefix, name) else { return };
        let next = {
            let mut walk = lock(&listing.opens);
            let onward = index > walk.furthest && index <= walk.furthest + ABREAST;
            let abreast = index <= walk.furthest && index + ABREAST >= walk.furthest;
            walk.steps = match (onward, abreast) {
                (true, _) => walk.steps + 1,
                (_, true) => walk.steps,
                _ => 0,
            };
            if !abreast {
                walk.furthest = index;
            }
            if walk.steps == 0 {
                walk.ahead = 0;
            }
            if walk.steps < WALKING {
                return;
            }
            let from = walk.ahead.max(walk.furthest + 1);
            let to = (walk.furthest + 1 + (4 * walk.steps).min(STRIDE)).min(listing.len());
            walk.ahead = to.max(from);
            from..walk.ahead
        };
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
    /// The file on the disk, if all of it is there.
    pub(super) whole: Option<OwnedFd>,
    pub(super) file: Arc<RemoteFile>,
    pub(super) walker: Arc<Walker>,
    /// Nothing has been read yet of what was read before: it was no step of a walk either.
    pub(super) resting: AtomicBool,
}

impl Object for OpenObject {
    fn stat(&self) -> Result<Stat, StoreError> {
        Ok(self.stat)
    }

    fn read(&self, offset: u64, length: u32, answer: Answer) {
        self.file.read(offset, length, answer);
        if self.resting.swap(false, Ordering::Relaxed) {
            self.walker.step(&self.file.version().key);
        }
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
