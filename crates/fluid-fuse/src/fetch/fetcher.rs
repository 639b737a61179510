//! The files of one bucket.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, Weak};

use super::block::BLOCK_SIZE;
use super::block_map::DemandUnit;
use super::file::RemoteFile;
use super::file_state::{FileState, SMALL_FILE};
use super::origin::Origin;
use super::shared::Shared;
use crate::outage::Availability;
use crate::remote::{Bucket, Version};
use crate::sync::lock;

/// Files whose state is kept after they were closed, or before they are opened.
const MAX_CLOSED_FILES: usize = 256;

/// Entries of dropped files are removed once there are this many times as many entries.
const DROPPED_FACTOR: usize = 4;

/// Reads the objects of one bucket.
pub struct Fetcher {
    origin: Arc<Origin>,
    shared: Arc<Shared>,
    files: Mutex<FilesByVersion>,
}

#[derive(Default)]
struct FilesByVersion {
    known: HashMap<Version, Weak<FileState>>,
    /// The files whose state was made last; they are kept alive.
    recent: VecDeque<Arc<FileState>>,
}

impl Fetcher {
    /// A reader of the bucket that the URL names.
    pub fn new(source: &str, bucket: Arc<dyn Bucket>, shared: Arc<Shared>) -> Self {
        let origin = Arc::new(Origin::new(source, bucket, shared.retry.io_timeout, shared.runner.add_lane()));
        shared.watch(&origin.availability);
        Fetcher { origin, shared, files: Mutex::default() }
    }

    /// Whether the bucket answers.
    pub(crate) fn availability(&self) -> Arc<Availability> {
        Arc::clone(&self.origin.availability)
    }

    /// The file of a version. All who ask for a version share its blocks.
    pub fn file(&self, version: &Version) -> Arc<RemoteFile> {
        Arc::new(RemoteFile::new(self.state(version), Arc::clone(&self.shared)))
    }

    fn state(&self, version: &Version) -> Arc<FileState> {
        let mut files = lock(&self.files);
        if let Some(file) = files.known.get(version).and_then(Weak::upgrade) {
            return file;
        }
        let (origin, open_files) = (Arc::clone(&self.origin), &self.shared.files);
        let demand_unit = match self.shared.disk {
            Some(_) => DemandUnit::Blocks,
            None => DemandUnit::Bytes,
        };
        let quota = Arc::clone(&open_files.quota);
        let file = Arc::new(FileState::new(version.clone(), origin, quota, demand_unit, open_files.epoch));
        files.known.insert(version.clone(), Arc::downgrade(&file));
        open_files.add(&file);
        files.recent.push_back(Arc::clone(&file));
        if files.recent.len() > MAX_CLOSED_FILES {
            files.recent.pop_front();
            if files.known.len() > DROPPED_FACTOR * MAX_CLOSED_FILES {
                files.known.retain(|_, file| file.strong_count() > 0);
            }
        }
        file
    }

    /// Prefetches small files that are likely to be opened next.
    pub fn expect(&self, versions: &[Version]) {
        for version in versions.iter().filter(|version| version.size <= SMALL_FILE) {
            let blocks = version.size.div_ceil(BLOCK_SIZE) as usize;
            if !self.shared.files.may_prefetch(blocks) {
                return;
            }
            self.file(version).expect();
        }
    }
}
