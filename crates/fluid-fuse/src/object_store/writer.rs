//! A file that is being written, as [`crate::store::Writer`].

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use super::name_cache::NameCache;
use crate::fetch::Shared;
use crate::outage::Availability;
use crate::remote::Upload;
use crate::store::{Stat, StoreError, Writer};

/// The upload or the object that is not found: others removed it, or it was finished and the answer was lost.
fn gone(error: StoreError) -> StoreError {
    match error {
        StoreError::NotFound => StoreError::Failed("what was written is not there any more".into()),
        error => error,
    }
}

pub(super) struct ObjectWriter {
    pub(super) upload: Box<dyn Upload>,
    pub(super) key: String,
    /// The time of change that was set.
    pub(super) time: Option<SystemTime>,
    pub(super) names: Arc<NameCache>,
    pub(super) shared: Arc<Shared>,
    pub(super) availability: Arc<Availability>,
}

impl Writer for ObjectWriter {
    fn expect(&mut self, size: u64) {
        self.upload.expect(size);
    }

    fn write(&mut self, mut bytes: &[u8]) -> Result<(), StoreError> {
        if !bytes.is_empty() {
            self.time = None;
        }
        let _waiting = self.availability.register("write", &self.key);
        let write = || self.upload.write(std::mem::take(&mut bytes));
        self.shared.retry.write(&self.availability, write).map_err(gone)
    }

    fn set_time(&mut self, time: SystemTime) {
        self.time = Some(time);
        self.upload.set_time(time);
    }

    fn restart(&mut self) -> Result<(), StoreError> {
        self.time = None;
        self.upload.restart()
    }

    fn finish(&mut self) -> Result<Stat, StoreError> {
        let _waiting = self.availability.register("close", &self.key);
        let finished = self.shared.retry.request(&self.availability, || self.upload.finish());
        let version = finished.map_err(gone)?;
        let child = self.names.note_file(&self.key, Instant::now(), &version, self.time);
        Ok(self.names.stat_of(&child))
    }
}
