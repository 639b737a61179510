//! Requests to a web server for one file, and complete files of servers that send no ranges.
//!
//! Decides how size, ETag and time of a file are requested if the server does not answer HEAD, and up to which size a
//! file is downloaded completely to read a range of it. One such file is kept, since its ranges are read one after
//! another. The module does not know which files there are.

use std::io::{Cursor, Read};
use std::ops::Range;
use std::sync::Mutex;

use http::header::{
    AUTHORIZATION, CONTENT_LENGTH, CONTENT_RANGE, ETAG, HeaderMap, HeaderValue, LAST_MODIFIED, RANGE,
};
use http::{Method, Request};
use opendal::raw::Timestamp;
use opendal::{Buffer, OperationContext};

use super::Version;
use super::request::header;
use super::response;
use super::transport::{self, ResponseExtent, ResponseHead};
use crate::limits;
use crate::store::StoreError;
use crate::sync::lock;

/// A file of a server.
pub(super) struct File<'a> {
    pub(super) context: &'a OperationContext,
    pub(super) url: http::Uri,
    pub(super) authorization: Option<HeaderValue>,
}

impl File<'_> {
    fn request(&self, method: Method, extent: ResponseExtent) -> Request<Buffer> {
        let mut request = Request::new(Buffer::new());
        *request.method_mut() = method;
        *request.uri_mut() = self.url.clone();
        request.headers_mut().extend(self.authorization.clone().map(|value| (AUTHORIZATION, value)));
        request.extensions_mut().insert(extent);
        request
    }

    /// Requests the present version: by HEAD, and by the head of a GET if that has no size.
    pub(super) fn head(&self, key: &str) -> Result<Version, StoreError> {
        let head = transport::head(self.context, self.request(Method::HEAD, ResponseExtent::Head))?;
        let refused = match head {
            ResponseHead { status: 200, headers, .. } => {
                match version(key, header(&headers, CONTENT_LENGTH), &headers) {
                    Some(version) => return Ok(version),
                    None => StoreError::Failed(format!("HEAD {}: the response has no size", self.shown())),
                }
            }
            // An overloaded server gets no second request.
            ResponseHead { status: 404 | 410 | 429 | 503, refused: Some(error), .. } => return Err(error),
            ResponseHead { status, refused, .. } => {
                refused.unwrap_or_else(|| StoreError::Failed(format!("HEAD {}: {status}", self.shown())))
            }
        };
        let mut request = self.request(Method::GET, ResponseExtent::Head);
        request.headers_mut().insert(RANGE, HeaderValue::from_static("bytes=0-0"));
        let ResponseHead { status, headers, .. } = transport::head(self.context, request)?;
        let total = header(&headers, CONTENT_RANGE).and_then(|range| Some(range.rsplit_once('/')?.1));
        let size = match status {
            200 => header(&headers, CONTENT_LENGTH),
            206 => total,
            // The file is empty.
            416 => total.filter(|total| *total == "0"),
            _ => None,
        };
        version(key, size, &headers).ok_or(refused)
    }

    /// Downloads all bytes of a version.
    fn fetch(&self, wanted: &Version) -> Result<Buffer, StoreError> {
        let request = self.request(Method::GET, ResponseExtent::Whole(limits::WHOLE));
        let (headers, bytes) = transport::document(self.context, request)?;
        let now = version(&wanted.key, Some(&bytes.len().to_string()), &headers).ok_or(StoreError::Stale)?;
        let etags = wanted.etag.as_ref().zip(now.etag.as_ref());
        let dates = wanted.date().zip(now.date()).filter(|_| etags.is_none());
        let is_wanted = now.size == wanted.size
            && etags.is_none_or(|(one, other)| one == other)
            && dates.is_none_or(|(one, other)| one == other);
        if is_wanted { Ok(bytes) } else { Err(StoreError::Stale) }
    }

    fn shown(&self) -> String {
        crate::plain::shown_url(&self.url.to_string())
    }
}

fn version(key: &str, size: Option<&str>, headers: &HeaderMap) -> Option<Version> {
    let time = header(headers, LAST_MODIFIED).and_then(|time| Timestamp::parse_rfc2822(time).ok());
    Some(Version {
        key: key.to_string(),
        size: size?.trim().parse().ok()?,
        etag: header(headers, ETAG).and_then(response::etag),
        modified: time.map_or(std::time::SystemTime::UNIX_EPOCH, Into::into),
    })
}

/// The last file that was downloaded completely to read a range of it, until its end was read.
#[derive(Default)]
pub(super) struct WholeFileCache(Mutex<Option<(Version, Buffer)>>);

impl WholeFileCache {
    /// Reads a range of a file whose server sends no ranges.
    pub(super) fn part(
        &self,
        file: &File<'_>,
        version: &Version,
        range: &Range<u64>,
    ) -> Result<Box<dyn Read + Send>, StoreError> {
        if version.size > limits::WHOLE as u64 {
            return Err(StoreError::Failed(format!(
                "{}: the server sends no parts of files, and fetches of whole files end at {} MiB",
                file.shown(),
                limits::WHOLE >> 20
            )));
        }
        if *range == (0..version.size) {
            return Ok(Box::new(Cursor::new(file.fetch(version)?.to_bytes())));
        }
        // Other reads wait for the download, which limits the memory.
        let mut kept = lock(&self.0);
        let bytes = match kept.as_ref().filter(|(of, _)| of == version) {
            Some((_, bytes)) => bytes.clone(),
            None => {
                *kept = None;
                let bytes = file.fetch(version)?;
                *kept = Some((version.clone(), bytes.clone()));
                bytes
            }
        };
        if range.end == version.size {
            *kept = None;
        }
        let at = |place: u64| usize::try_from(place).unwrap_or(usize::MAX).min(bytes.len());
        Ok(Box::new(Cursor::new(bytes.slice(at(range.start)..at(range.end)).to_bytes())))
    }
}
