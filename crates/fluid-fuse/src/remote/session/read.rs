//! Reads of a session: which client reads, on which condition, and the meaning of a refusal.
//!
//! Where a store accepts signatures in the query, [`Http1Client`](crate::remote::http1::Http1Client) reads ranges of
//! an object that was signed once every few minutes: the fast path. Elsewhere, and where the fast path was found not
//! to work ([`crate::remote::quirks`]), opendal reads. Each read has a condition, so that it is of the requested
//! version or fails. Where the store knows no condition, the response is compared, or a HEAD request checks the
//! version once the read is open. A refused condition alone does not make a file stale: [`Session::revalidate`]
//! requests the object's present version first.
//!
//! A checksum that a store keeps of a whole object (`x-amz-checksum-*`, OSS's CRC64) does not help to check a range
//! of it. So a range is checked by its length and version.

use std::future::poll_fn;
use std::io::{self, Read};
use std::ops::Range;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use fluid_sidecar_layout::source::Scheme;
use futures_core::Stream;
use http::header::{HeaderValue, IF_MATCH, IF_UNMODIFIED_SINCE, InvalidHeaderValue};
use log::{debug, info};
use opendal::options::ReaderOptions;
use opendal::raw::Timestamp;
use opendal::{Buffer, BufferStream, BytesRange, ErrorKind, Metadata};

use super::open::Session;
use super::versions::same;
use crate::remote::Version;
use crate::remote::executor::block_on;
use crate::remote::http1::FastPathError;
use crate::remote::quirks::Fallback;
use crate::store::StoreError;

impl Session {
    pub(in crate::remote) fn get(
        &self,
        version: &Version,
        range: &Range<u64>,
    ) -> Result<Box<dyn Read + Send>, StoreError> {
        let agreed = self.quirks.alias(version);
        let requested = agreed.as_ref().unwrap_or(version);
        // Another read may change this quirk at the same time.
        let is_conditional = self.reads_conditionally(requested);
        match self.get_once(requested, range) {
            Ok(body) => {
                let is_by_time = agreed.is_none() && version.etag.is_none() && version.date().is_some();
                if is_by_time && !self.quirks.dates_agree.load(Ordering::Relaxed) {
                    self.quirks.dates_agree.store(true, Ordering::Relaxed);
                }
                Ok(body)
            }
            Err(StoreError::Stale) => self.get_revalidated(version, requested, range),
            Err(StoreError::NotImplemented(reason)) if is_conditional => {
                if !self.quirks.ignores_conditions.swap(true, Ordering::Relaxed) {
                    info!("{}: {reason}, so reads are tried without a condition", self.location.url);
                }
                self.get_once(requested, range).inspect_err(|_| {
                    self.quirks.ignores_conditions.store(false, Ordering::Relaxed);
                })
            }
            answer => answer,
        }
    }

    /// Reads a version that the store refused under the name `requested`, under its present name.
    fn get_revalidated(
        &self,
        version: &Version,
        requested: &Version,
        range: &Range<u64>,
    ) -> Result<Box<dyn Read + Send>, StoreError> {
        let mut agreed = self.revalidate(version, requested)?;
        let body = match self.get_once(&agreed, range) {
            Err(StoreError::Stale) => {
                agreed = self.revalidate(version, &agreed)?;
                self.get_once(&agreed, range)?
            }
            answer => answer?,
        };
        if agreed != *version {
            self.quirks.record_alias(version, agreed);
        }
        Ok(body)
    }

    fn get_once(&self, version: &Version, range: &Range<u64>) -> Result<Box<dyn Read + Send>, StoreError> {
        let fallback = match self.quirks.fallback(&version.key) {
            None if self.is_fast && !self.quirks.denies_query_signatures.load(Ordering::Relaxed) => None,
            None => Some(Fallback::Library),
            fallback => fallback,
        };
        let answer = match fallback {
            None => self.get_fast_or_by_library(version, range),
            Some(Fallback::Library) => self.get_by_library(version, range),
            Some(Fallback::Whole) => Err(StoreError::NoParts(200)),
        };
        match answer {
            Err(StoreError::NoParts(_)) if self.location.scheme == Scheme::Http => {
                let body = self.whole.part(&self.file(&version.key)?, version, range)?;
                if fallback != Some(Fallback::Whole) {
                    self.quirks.use_fallback(&version.key, Fallback::Whole);
                }
                Ok(body)
            }
            answer => answer,
        }
    }

    /// Reads by the fast path, or by opendal where the fast path does not work.
    fn get_fast_or_by_library(
        &self,
        version: &Version,
        range: &Range<u64>,
    ) -> Result<Box<dyn Read + Send>, StoreError> {
        match self.get_fast(version, range) {
            Ok(body) => {
                self.quirks.fast_path_worked();
                Ok(body)
            }
            Err(FastPathError::Unsuitable(reason)) => {
                if self.quirks.use_fallback(&version.key, Fallback::Library) {
                    info!("{}: {reason}, so reads take the library's way for a time", self.location.url);
                } else {
                    debug!("{}: {reason}", self.object_url(&version.key));
                }
                self.get_by_library(version, range)
            }
            Err(FastPathError::Store(
                refused @ (StoreError::Denied(_) | StoreError::NotImplemented(_) | StoreError::Failed(_)),
            )) if self.location.scheme != Scheme::Http => {
                // A store or a policy may refuse only requests with a signature in the query. A refused signature
                // that was used before may have expired, which does not concern the next one.
                let was_kept = self.signatures().remove(&version.key).is_some_and(|signature| signature.used);
                let body = self.get_by_library(version, range)?;
                if !was_kept && !self.quirks.denies_query_signatures.swap(true, Ordering::Relaxed) {
                    info!("{}: {refused}, so reads are signed in a header", self.location.url);
                }
                Ok(body)
            }
            Err(FastPathError::Store(error)) => Err(error),
        }
    }

    fn get_fast(&self, version: &Version, range: &Range<u64>) -> Result<Box<dyn Read + Send>, FastPathError> {
        let signed = self.signed(&version.key)?;
        let condition = match &version.etag {
            _ if !self.reads_conditionally(version) => None,
            Some(etag) => Some((IF_MATCH, etag.clone())),
            None => version.date().map(|date| (IF_UNMODIFIED_SINCE, http_date(date))),
        };
        let condition = condition.map(|(name, value)| Ok((name, HeaderValue::from_str(&value)?)));
        let condition = condition.transpose().map_err(|_: InvalidHeaderValue| {
            StoreError::Failed("the version is none that can be requested for".to_string())
        })?;
        Ok(Box::new(self.http1.get(&signed, range, version, condition)?))
    }

    fn get_by_library(
        &self,
        version: &Version,
        range: &Range<u64>,
    ) -> Result<Box<dyn Read + Send>, StoreError> {
        let capability = self.operator.info().capability();
        let mut options =
            ReaderOptions { content_length_hint: Some(version.size), ..ReaderOptions::default() };
        match &version.etag {
            Some(generation) if self.location.scheme == Scheme::Gcs => {
                options.if_version_match = Some(generation.clone());
            }
            _ if !self.reads_conditionally(version) => {}
            Some(etag) if capability.read_with_if_match => options.if_match = Some(etag.clone()),
            None if capability.read_with_if_unmodified_since => {
                options.if_unmodified_since = version.date().and_then(|date| Timestamp::try_from(date).ok());
            }
            _ => {}
        }
        // A time is not enough: it has whole seconds, and some servers do not know the condition.
        let by_generation = options.if_version_match.is_some();
        let certain = by_generation || options.if_match.is_some();
        let opened = self.run(&version.key, |path| async move {
            let reader = self.operator.reader_options(path, options).await?;
            let mut stream = reader.into_stream(BytesRange::from(range.clone())).await?;
            match stream.metadata().await {
                Ok(metadata) => Ok((stream, Some(metadata))),
                // Not every store sends metadata with a read. The read is open in any case.
                Err(error) if error.kind() == ErrorKind::Unsupported => Ok((stream, None)),
                Err(error) => Err(error),
            }
        });
        let (stream, metadata) = match opened {
            Ok(opened) => opened,
            // Some stores refuse the range of a file that has become shorter with an error of their own.
            Err(error @ (StoreError::Denied(_) | StoreError::Failed(_))) if !certain => {
                self.check_now(version)?;
                return Err(error);
            }
            Err(error) => return Err(error),
        };
        match metadata.and_then(|metadata| self.is_of(&metadata, version, range.end - range.start)) {
            Some(true) => {}
            Some(false) => return Err(StoreError::Stale),
            // A generation is part of the query: a store that does not know it refuses the request.
            None if by_generation => {}
            // A store that does not name the version may not know the condition either. The version that is there
            // once the read is open was there before.
            None => self.check_now(version)?,
        }
        Ok(Box::new(LibraryReader {
            stream: Box::new(stream),
            piece: Buffer::new(),
            left: range.end - range.start,
        }))
    }

    /// Whether a response of that many bytes is of the version, if it says so.
    fn is_of(&self, metadata: &Metadata, version: &Version, bytes: u64) -> Option<bool> {
        if self.location.scheme == Scheme::Gcs {
            // A generation is a condition, and responses to reads do not name it.
            return None;
        }
        let metadata = self.version(String::new(), metadata);
        // If the response has no size of the object, opendal takes that of the range for it.
        let sized = metadata.size == version.size;
        if !sized && metadata.size != bytes {
            return Some(false);
        }
        let dates = version.date().zip(metadata.date());
        match (&version.etag, &metadata.etag) {
            (Some(known), Some(now)) if known != now => Some(false),
            (Some(_), Some(_)) => sized.then_some(true),
            (None, _) if dates.is_some_and(|(known, now)| known != now) => Some(false),
            (None, _) if version.date().is_none() || dates.is_some() => sized.then_some(true),
            _ => None,
        }
    }

    /// Checks that the version is the present one.
    fn check_now(&self, version: &Version) -> Result<(), StoreError> {
        match same(&self.head(&version.key)?, version) {
            true => Ok(()),
            false => Err(StoreError::Stale),
        }
    }

    /// Whether a read of a version has a condition in its request.
    pub(in crate::remote) fn reads_conditionally(&self, version: &Version) -> bool {
        !version.is_weak()
            && (version.etag.is_some() || version.date().is_some())
            && !self.quirks.ignores_conditions.load(Ordering::Relaxed)
    }
}

/// A read by opendal.
struct LibraryReader {
    stream: Box<BufferStream>,
    piece: Buffer,
    left: u64,
}

impl LibraryReader {
    fn next(&mut self) -> io::Result<Buffer> {
        let next = poll_fn(|context| Pin::new(&mut self.stream).poll_next(context));
        let piece = block_on(|| "the read".to_string(), async { next.await.transpose() });
        Ok(piece.map_err(|error| io::Error::other(error.to_string()))?.unwrap_or_default())
    }
}

impl Read for LibraryReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.piece.is_empty() && !buffer.is_empty() && self.left > 0 {
            self.piece = self.next()?;
            self.left = self.left.saturating_sub(self.piece.len() as u64);
            if self.left == 0 {
                // A connection is used again only if the end was read.
                self.next()?;
            }
        }
        self.piece.read(buffer)
    }
}

fn http_date(time: SystemTime) -> String {
    Timestamp::try_from(time).map(Timestamp::format_http_date).unwrap_or_default()
}
