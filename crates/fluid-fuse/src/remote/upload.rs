//! Uploads: how an object is replaced or appended to.
//!
//! Decides the size of the parts. All parts of an upload are equal and only the last one is smaller, as R2 demands. A
//! finished upload can be appended to: the next upload copies the complete parts of the object within the store
//! (`UploadPartCopy`, on the condition that the object is still the same), and sends the rest of it again with the
//! new bytes. Where a store does not copy parts, the bytes are downloaded and uploaded again, up to
//! [`LARGEST_REWRITE`]. The object does not change until all of the new one is there.
//!
//! The upload calls opendal below opendal's own writer, which holds back small parts and loses them when the part
//! before fails.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use log::{info, warn};
use opendal::options::{ReadOptions, WriteOptions};
use opendal::raw::oio::{self, Write};
use opendal::raw::{OpReader, OpWrite, Timestamp};
use opendal::{Buffer, BytesRange};

use super::executor::block_on;
use super::mtime;
use super::part::{Part, read_all};
use super::session::{MAX_CLOCK_DIFFERENCE, Session, Sessions, same, to_path};
use super::{LARGEST_REWRITE, Upload, Version};
use crate::store::StoreError;

/// The smallest part, in bytes.
const MIN_PART: u64 = 8 << 20;

/// The largest part of an object that is appended to, in bytes: two of them may be in memory.
const LARGEST_CONTINUED: u64 = 32 << 20;

/// Number of parts of an object that is appended to, about: more would be too many requests to copy it.
const CONTINUED_PARTS: u64 = 64;

/// Number of equal parts: 47 GiB of an object of unknown size, all of one of known size. Later parts double every
/// [`PARTS_PER_SIZE`] parts, so that 2 TiB fit into the 10,000 parts that stores accept.
const EQUAL_PARTS: usize = 6000;

/// Number of parts of one size after the equal ones.
const PARTS_PER_SIZE: usize = 500;

/// Largest end of a finished object that is kept to append to it, in bytes. A longer one is read again.
const MAX_KEPT_END: usize = 1 << 20;

/// An object that is being replaced.
pub(super) struct ObjectUpload {
    sessions: Arc<Sessions>,
    /// The session in which the upload was begun: the writer belongs to it.
    session: Arc<Session>,
    key: String,
    writer: Option<oio::Writer>,
    /// The version that is appended to.
    base: Option<Version>,
    /// Bytes that were copied or given to the writer.
    sent: u64,
    parts: usize,
    part_size: u64,
    /// The part that is being filled, from `sent` on.
    part: Part,
    /// The range of this part that has to be read from the base.
    missing: Range<usize>,
    /// The part before, until it was sent.
    full: Option<Buffer>,
    /// The time of change to keep with the object, and the one with which the upload was begun.
    time: Option<SystemTime>,
    begun_with: Option<SystemTime>,
    /// When the upload was begun.
    begun: SystemTime,
    /// Whether there is something to upload.
    changed: bool,
    /// Whether the object was still the base when the upload was begun.
    is_checked: bool,
    /// Whether another writer has replaced the object since.
    foreign: bool,
}

/// Which bytes are sent.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Flush {
    FullParts,
    All,
}

impl ObjectUpload {
    /// Begins to replace the object of a key, or to append to its version `base`.
    pub(super) fn new(
        sessions: &Arc<Sessions>,
        key: &str,
        base: Option<Version>,
    ) -> Result<Self, StoreError> {
        to_path(key)?;
        Ok(Self {
            sessions: Arc::clone(sessions),
            session: sessions.session(),
            key: key.to_string(),
            writer: None,
            changed: base.is_none(),
            base,
            sent: 0,
            parts: 0,
            part_size: MIN_PART,
            part: Part::default(),
            missing: 0..0,
            full: None,
            time: None,
            begun_with: None,
            begun: SystemTime::now(),
            is_checked: false,
            foreign: false,
        })
    }

    /// Begins the next upload, if the one before is finished.
    fn change(&mut self) {
        if std::mem::replace(&mut self.changed, true) {
            return;
        }
        let size = self.base.as_ref().map_or(0, |base| base.size);
        self.part_size = continued_part_size(size);
        let rest = usize::try_from(size % self.part_size).unwrap_or_default();
        if self.part.filled != rest {
            self.part = Part::default();
            self.missing = 0..rest;
        }
    }

    /// The size of the part that is being filled.
    fn part_size(&self) -> usize {
        let doubled = self.parts.saturating_sub(EQUAL_PARTS).div_ceil(PARTS_PER_SIZE).min(8);
        usize::try_from(self.part_size << doubled).unwrap_or(usize::MAX)
    }

    fn object_url(&self) -> String {
        self.session.object_url(&self.key)
    }

    /// Sends full parts, or all bytes.
    fn send(&mut self, flush: Flush) -> Result<(), StoreError> {
        if self.full.is_none() && self.part.filled < self.part_size() && flush == Flush::FullParts {
            return Ok(());
        }
        self.begin()?;
        loop {
            if let Some(full) = &self.full {
                // A part that fails is kept: the same can be written again.
                let url = self.session.object_url(&self.key);
                block_on(|| url, writer(&mut self.writer)?.write(full.clone()))?;
                self.sent += full.len() as u64;
                self.parts += 1;
                self.full = None;
            }
            let size = self.part_size();
            if self.part.filled < size && !(flush == Flush::All && self.part.filled > 0) {
                return Ok(());
            }
            let size = size.min(self.part.filled);
            let mut rest = Part::default();
            if let Some(bytes @ [_, ..]) = self.part.bytes().get(size..) {
                rest.add(bytes, size)?;
            }
            self.full = Some(std::mem::replace(&mut self.part, rest).first(size));
        }
    }

    /// Makes the writer, and gives it the parts of the base.
    fn begin(&mut self) -> Result<(), StoreError> {
        if self.writer.is_none() {
            self.session = self.sessions.session();
            let mut options = WriteOptions::default();
            let operator = if self.copies() { &self.session.copier } else { &self.session.operator };
            let capability = operator.info().capability();
            if capability.write_with_user_metadata {
                let time = self.time.and_then(mtime::to_text);
                options.user_metadata = time.map(|time| HashMap::from([(mtime::NAME.to_string(), time)]));
            }
            (self.begun_with, self.begun) = (self.time, SystemTime::now());
            let (service, context) = (operator.service(), operator.context());
            self.writer = Some(block_on(|| self.object_url(), async {
                let (args, _): (_, _) = OpWrite::from_options(&capability, options)?;
                service.write_dyn(context, &self.key, args)
            })?);
        }
        let Some(base) = self.base.clone() else { return Ok(()) };
        let rest = base.size % self.part_size;
        let begins = base.size - rest;
        // A copy or a read of the base has its version as a condition. Bytes that were kept have none.
        if !self.is_checked && base.size == rest && self.missing.is_empty() {
            self.check(&base)?;
        }
        self.is_checked = true;
        let is_copied = self.sent < begins && self.copies();
        while self.sent < begins {
            let range = self.sent..self.sent + self.part_size;
            match self.copies() {
                false => self.fetch(&base, &range)?,
                true => match self.copy(&base, &range) {
                    // These errors may not occur the next time, or concern reads, too.
                    Err(error)
                        if range.start == 0
                            && !matches!(
                                error,
                                StoreError::Unavailable(_)
                                    | StoreError::Stale
                                    | StoreError::NotFound
                                    | StoreError::Denied(_)
                                    | StoreError::NoBucket(_)
                            ) =>
                    {
                        info!(
                            "{}: parts cannot be copied ({error}), so all parts are sent again",
                            self.object_url()
                        );
                        self.session.quirks.denies_part_copies.store(true, Ordering::Relaxed);
                        self.abort();
                        return self.begin();
                    }
                    copied => copied?,
                },
            }
            self.sent = range.end;
            self.parts += 1;
        }
        // The object that is there after the copy was there before it.
        if is_copied
            && !self.session.reads_conditionally(&base)
            && let Err(error) = self.check(&base)
        {
            self.abort();
            (self.sent, self.parts) = (0, 0);
            return Err(error);
        }
        if !self.missing.is_empty() {
            let from = begins + self.missing.start as u64..begins + self.missing.end as u64;
            let mut body = self.sessions.with_retry(|session| session.get(&base, &from))?;
            self.part.reserve(self.missing.end, self.part_size())?;
            let room = self.part.bytes_mut().get_mut(self.missing.clone()).unwrap_or_default();
            // Bytes that were read are kept if the read has to be repeated.
            self.missing.start += read_all(&mut body, room);
            if !self.missing.is_empty() {
                return Err(self.ends_early());
            }
        }
        self.missing = 0..0;
        Ok(())
    }

    /// Checks that the object is still the base. If the store denies the check, the upload goes on.
    fn check(&self, base: &Version) -> Result<(), StoreError> {
        match self.sessions.with_retry(|session| session.head(&self.key)) {
            Ok(now) if same(&now, base) => Ok(()),
            // When this upload wrote it, its time was not known.
            Ok(now) if now.size == base.size && now.etag.is_some() && now.etag == base.etag => Ok(()),
            Ok(_) => self.session.revalidate(base, base).map(|_| ()),
            Err(StoreError::NotFound) => Err(StoreError::Stale),
            Err(StoreError::Denied(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Whether parts are copied within the store. opendal copies no parts of uploads whose parts have checksums, so
    /// these uploads have none.
    fn copies(&self) -> bool {
        let is_large = self.base.as_ref().is_some_and(|base| base.size >= self.part_size);
        let can = self.session.copier.info().capability().write_can_copy_from;
        is_large && can && !self.session.quirks.denies_part_copies.load(Ordering::Relaxed)
    }

    /// Copies a part within the store, which may use another name for the version, as for reads.
    fn copy(&mut self, base: &Version, range: &Range<u64>) -> Result<(), StoreError> {
        let requested = self.session.quirks.alias(base).unwrap_or_else(|| base.clone());
        match self.copy_once(&requested, range) {
            Err(StoreError::Stale) => {
                let agreed = self.session.revalidate(base, &requested)?;
                self.copy_once(&agreed, range)?;
                if agreed != *base {
                    self.session.quirks.record_alias(base, agreed);
                }
                Ok(())
            }
            copied => copied,
        }
    }

    fn copy_once(&mut self, requested: &Version, range: &Range<u64>) -> Result<(), StoreError> {
        let mut options = ReadOptions::default();
        match &requested.etag {
            _ if !self.session.reads_conditionally(requested) => {}
            Some(etag) => options.if_match = Some(etag.clone()),
            None => {
                options.if_unmodified_since =
                    requested.date().and_then(|date| Timestamp::try_from(date).ok());
            }
        }
        let (_, args, _): (BytesRange, _, OpReader) = options.into();
        let url = self.object_url();
        let key = self.key.clone();
        let part = BytesRange::new(range.start, Some(range.end - range.start));
        block_on(|| url, writer(&mut self.writer)?.copy_from(&key, args, part))
    }

    /// Reads a part, and writes it again.
    fn fetch(&mut self, base: &Version, range: &Range<u64>) -> Result<(), StoreError> {
        if base.size > LARGEST_REWRITE {
            return Err(StoreError::Unsupported(
                "continuing an object of more than 1 GiB at a store that copies no parts",
            ));
        }
        let mut part = Part::default();
        let length = usize::try_from(range.end - range.start).unwrap_or_default();
        part.reserve(length, length)?;
        let mut body = self.sessions.with_retry(|session| session.get(base, range))?;
        if read_all(&mut body, part.bytes_mut()) < length {
            return Err(self.ends_early());
        }
        let url = self.object_url();
        block_on(|| url, writer(&mut self.writer)?.write(part.first(length)))
    }

    fn ends_early(&self) -> StoreError {
        StoreError::Unavailable(format!("GET {}: it ends early", self.object_url()))
    }

    /// Aborts the present upload.
    fn abort(&mut self) {
        if let Some(mut writer) = self.writer.take()
            && let Err(error) = block_on(|| self.session.object_url(&self.key), writer.abort())
        {
            warn!("{}: an unfinished upload stays behind: {error}", self.object_url());
        }
    }

    /// Sends all bytes and completes the upload; returns the version as the response names it.
    fn complete(&mut self) -> Result<Version, StoreError> {
        // The next append needs the end of the object, if it is not a complete part.
        let is_kept = self.full.is_none() && self.part.filled <= MAX_KEPT_END;
        if is_kept {
            self.begin()?;
        }
        let end = if is_kept { self.part.bytes().to_vec() } else { Vec::new() };
        self.send(Flush::All)?;
        let url = self.object_url();
        let made = block_on(|| url, writer(&mut self.writer)?.close())?;
        let uploaded = self.session.version(self.key.clone(), &made);
        let uploaded = Version { size: self.sent, modified: SystemTime::now(), ..uploaded };
        (self.writer, self.full, self.changed, self.is_checked) = (None, None, false, false);
        (self.sent, self.parts, self.missing) = (0, 0, 0..0);
        if self.part.add(&end, end.len()).is_err() {
            // Without memory for the end, it is read again.
            self.part = Part::default();
        }
        Ok(uploaded)
    }

    /// The version that was written, as the store describes it now: that has the store's time. If the store denies
    /// the request, or answers with an older version, the upload has succeeded nevertheless.
    fn confirm(&mut self, uploaded: Version) -> Version {
        // The upload may have taken longer than its credentials are valid.
        let Ok(now) = self.sessions.with_retry(|session| session.head(&self.key)) else { return uploaded };
        let name =
            |version: &Version| version.etag.as_ref().map(|etag| etag.trim_start_matches("W/").to_string());
        let names = name(&uploaded).zip(name(&now));
        let is_named_so = names.as_ref().is_some_and(|(uploaded, now)| uploaded == now);
        let is_old = now.date().is_some_and(|date| date + MAX_CLOCK_DIFFERENCE < self.begun)
            || self.base.as_ref().is_some_and(|base| base.etag.is_some() && base.etag == now.etag);
        if is_old && !is_named_so {
            return uploaded;
        }
        let has_other_name = || !self.sessions.session().has_other_etag(&uploaded, &now).unwrap_or_default();
        self.foreign = !is_named_so && (now.size != uploaded.size || names.is_some() && has_other_name());
        if now.size == uploaded.size { now } else { uploaded }
    }
}

impl Upload for ObjectUpload {
    fn expect(&mut self, size: u64) {
        if self.writer.is_none() && self.base.is_none() {
            self.part_size = MIN_PART * size.div_ceil(MIN_PART * EQUAL_PARTS as u64).max(1);
        }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        if self.foreign {
            return Err(StoreError::Stale);
        }
        self.change();
        if !bytes.is_empty() {
            self.time = None;
            // The bytes of the base that are still to be read come before.
            self.part.reserve(self.missing.end, self.part_size())?;
            self.part.add(bytes, self.part_size())?;
        }
        self.send(Flush::FullParts)
    }

    fn set_time(&mut self, time: SystemTime) {
        self.change();
        self.time = Some(time);
    }

    fn restart(&mut self) -> Result<(), StoreError> {
        *self = Self::new(&self.sessions, &self.key, None)?;
        Ok(())
    }

    fn finish(&mut self) -> Result<Version, StoreError> {
        if let Some(base) = self.base.as_ref().filter(|_| !self.changed) {
            return Ok(base.clone());
        }
        loop {
            let uploaded = self.complete()?;
            let version = self.confirm(uploaded);
            self.base = Some(version.clone());
            if self.foreign || self.time.is_none() || self.time == self.begun_with {
                return Ok(version);
            }
            // The time was set after the upload was begun.
            self.change();
        }
    }
}

impl Drop for ObjectUpload {
    fn drop(&mut self) {
        self.abort();
    }
}

/// The writer of an upload that has begun.
fn writer(writer: &mut Option<oio::Writer>) -> Result<&mut oio::Writer, StoreError> {
    writer.as_mut().ok_or_else(|| StoreError::Failed("an upload that has not begun".to_string()))
}

/// The size of the parts of an object that is appended to.
fn continued_part_size(size: u64) -> u64 {
    let few = size.div_ceil(MIN_PART * CONTINUED_PARTS).next_power_of_two() * MIN_PART;
    few.min(LARGEST_CONTINUED).max(MIN_PART * size.div_ceil(MIN_PART * EQUAL_PARTS as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_object_has_too_many_parts() {
        const TIB: u64 = 1 << 40;
        for size in [0, 1, MIN_PART, 512 << 20, 3 << 30, 70 << 30, TIB, 48 * TIB] {
            let part = continued_part_size(size);
            assert!(
                part.is_multiple_of(MIN_PART) && size.div_ceil(part) <= EQUAL_PARTS as u64,
                "{size}: {part}"
            );
            assert!(part <= LARGEST_CONTINUED || size > LARGEST_CONTINUED * EQUAL_PARTS as u64);
        }
        assert_eq!([continued_part_size(512 << 20), continued_part_size(1 << 30)], [MIN_PART, 2 * MIN_PART]);
    }
}
