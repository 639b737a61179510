//! A bucket of any store that opendal knows.
//!
//! Decides which way a read takes: where a store takes signatures in the query, one signature every few
//! minutes is put on each object, and its ranges are read by [`super::wire`]; elsewhere, and where that way was
//! found not to lead, opendal reads. Each read has a condition, so that it is of the version that was asked for
//! or fails; where a condition cannot be had, the answer is compared, or the store is asked for the version once the
//! read is open. It also decides when credentials are loaded again: when a file that had some changed, and once when
//! the store refuses. It does not retry, and knows no cache but that of signatures.
//!
//! A checksum that a store keeps of a whole object (`x-amz-checksum-*`, OSS's CRC64) says nothing about a part
//! of it: what is read is checked by its length and version, what is written by the store.

use std::collections::{BTreeMap, HashMap};
use std::future::poll_fn;
use std::io::{self, Read};
use std::ops::{ControlFlow, Range};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context;
use fluid_sidecar_layout::source::Scheme;
use futures_core::Stream;
use http::Method;
use http::header::{HeaderValue, IF_MATCH, IF_UNMODIFIED_SINCE, InvalidHeaderValue};
use log::{info, warn};
use opendal::options::{ListOptions, ReaderOptions, StatOptions};
use opendal::raw::{Timestamp, percent_encode_path};
use opendal::{
    Buffer, BufferStream, BytesRange, Configurator, EntryMode, ErrorKind, Metadata, OperationContext,
    Operator, services,
};

use super::answer::{is_etag, quoted};
use super::index::Index;
use super::listing::Progress;
use super::options::Place;
use super::oss::OssSigner;
use super::transport::{self, block_on, block_on_listing};
use super::upload::{ObjectUpload, mtime};
use super::wire::{Miss, Signed, Wire};
use super::{Bucket, Item, Terms, Upload, Version};
use crate::limits::Until;
use crate::store::StoreError;

/// How long a signature is good for; a store takes a clock that is wrong by as much.
const SIGNED_FOR: Duration = Duration::from_secs(15 * 60);

/// The same with credentials that end sooner.
const SIGNED_FOR_LESS: Duration = Duration::from_secs(60);

/// Signatures that are kept.
const SIGNATURES: usize = 8192;

/// Entries of a listing that are handed on together: what a page of most stores has.
const PAGE: usize = 1000;

/// Between two looks at the files that credentials came from.
const LOOK: Duration = Duration::from_secs(1);

/// Between two times that credentials are loaded again because the store refuses.
const RELOAD: Duration = Duration::from_secs(10);

/// A bucket whose credentials change.
pub(super) struct Remote(Arc<Sessions>);

/// What was asked to find a bucket, and the session that is used.
pub(super) struct Sessions {
    url: String,
    options: BTreeMap<String, String>,
    terms: Terms,
    session: Mutex<(Arc<Session>, Instant)>,
}

/// A bucket with the credentials of one moment.
pub(super) struct Session {
    place: Place,
    pub(super) operator: Operator,
    /// The same for uploads that copy parts, which have no checksums.
    pub(super) copier: Operator,
    /// Whether parts are copied within the store, as far as is known.
    pub(super) copies_parts: AtomicBool,
    /// What signs in opendal's stead.
    signer: Option<OssSigner>,
    opened: Instant,
    signatures: Mutex<HashMap<String, (Arc<Signed>, Instant)>>,
    wire: Arc<Wire>,
    /// Whether reads take the short way.
    short: AtomicBool,
    index: Option<Index>,
    io_timeout: Duration,
}

impl Remote {
    pub(super) fn open(url: &str, options: &BTreeMap<String, String>, terms: &Terms) -> anyhow::Result<Self> {
        let session = Arc::new(Session::open(url, options, terms)?);
        let session = Mutex::new((session, Instant::now()));
        let (url, options, terms) = (url.to_string(), options.clone(), terms.clone());
        Ok(Self(Arc::new(Sessions { url, options, terms, session })))
    }
}

impl Sessions {
    /// Asks with the present credentials, and once more with new ones where the store refuses.
    pub(super) fn ask<T>(
        &self,
        question: impl Fn(&Arc<Session>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let session = self.session();
        match question(&session) {
            Err(StoreError::Denied(reason)) => match self.reload(&session) {
                Some(session) => question(&session),
                None => Err(StoreError::Denied(reason)),
            },
            answer => answer,
        }
    }

    pub(super) fn session(&self) -> Arc<Session> {
        let mut held = self.held();
        if held.1.elapsed() >= LOOK {
            held.1 = Instant::now();
            if held.0.place.files.changed() {
                self.renew(&mut held.0);
            }
        }
        held.0.clone()
    }

    /// The session after the refused one, if there can be another.
    fn reload(&self, refused: &Arc<Session>) -> Option<Arc<Session>> {
        let mut held = self.held();
        let same = Arc::ptr_eq(&held.0, refused);
        if same && !refused.place.files.changed() && refused.opened.elapsed() < RELOAD {
            return None;
        }
        (!same || self.renew(&mut held.0)).then(|| held.0.clone())
    }

    fn renew(&self, session: &mut Arc<Session>) -> bool {
        match Session::open(&self.url, &self.options, &self.terms) {
            Ok(new) => {
                if let (Some(new), Some(old)) = (&new.index, &session.index) {
                    new.inherit(old);
                }
                info!("{}: loading credentials again", new.place.url);
                *session = Arc::new(new);
                true
            }
            Err(error) => {
                warn!("{}: credentials cannot be loaded again: {error:#}", session.place.url);
                false
            }
        }
    }

    fn held(&self) -> MutexGuard<'_, (Arc<Session>, Instant)> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Bucket for Remote {
    fn endpoint(&self) -> Option<String> {
        let session = self.0.held().0.clone();
        session.place.settings.get("endpoint").cloned()
    }

    fn head(&self, key: &str) -> Result<Version, StoreError> {
        self.0.ask(|session| session.head(key))
    }

    fn head_with_time(&self, key: &str) -> Result<(Version, Option<SystemTime>), StoreError> {
        self.0.ask(|session| session.head_with_time(key))
    }

    fn list(
        &self,
        prefix: &str,
        page: &mut dyn FnMut(Vec<Item>) -> ControlFlow<()>,
    ) -> Result<bool, StoreError> {
        let session = self.0.session();
        let mut begun = false;
        let mut visit = |items| {
            begun = true;
            page(items)
        };
        match session.list(prefix, &mut visit) {
            Err(StoreError::Denied(reason)) if !begun => match self.0.reload(&session) {
                Some(session) => session.list(prefix, page),
                None => Err(StoreError::Denied(reason)),
            },
            answer => answer,
        }
    }

    fn get(&self, version: &Version, range: Range<u64>) -> Result<Box<dyn Read + Send>, StoreError> {
        self.0.ask(|session| session.get(version, &range))
    }

    fn put(&self, key: &str) -> Result<Box<dyn Upload>, StoreError> {
        Ok(Box::new(ObjectUpload::new(&self.0, key, None)?))
    }

    fn resume(&self, version: &Version) -> Result<Box<dyn Upload>, StoreError> {
        let base = Some(version.clone());
        Ok(Box::new(ObjectUpload::new(&self.0, &version.key, base)?))
    }

    fn make_directory(&self, key: &str) -> Result<(), StoreError> {
        self.0.ask(|session| session.run(key, |path| session.operator.create_dir(path)))
    }

    fn delete(&self, key: &str) -> Result<(), StoreError> {
        self.0.ask(|session| session.run(key, |path| session.operator.delete(path)))
    }

    fn copy(&self, from: &str, to: &str) -> Result<(), StoreError> {
        let to = path(to)?;
        self.0.ask(|session| session.run(from, |path| session.operator.copy(path, to)).map(|_| ()))
    }
}

impl Session {
    fn open(url: &str, options: &BTreeMap<String, String>, terms: &Terms) -> anyhow::Result<Self> {
        let mut place = Place::resolve(url, options, terms.trust, |name| std::env::var(name).ok())?;
        // Nothing is waited for longer than all of it.
        place.timeouts = place.timeouts.within(terms.io_timeout);
        let (ttl, io_timeout) = (terms.ttl, terms.io_timeout);
        let terms = transport::Terms {
            scheme: Some(place.scheme),
            timeouts: place.timeouts,
            io_timeout,
            redirects: terms.redirects.clone(),
        };
        transport::install(terms.clone());
        let signer = OssSigner::new(&place, &terms);
        let context = transport::context(terms, signer.clone());
        let operator = |settings| {
            operator(place.scheme, settings, signer.is_some())
                .with_context(|| format!("{}: the options cannot be used", place.url))
                .map(|operator: Operator| operator.with_context(context.clone()))
        };
        let copier = operator(
            place
                .settings
                .iter()
                .filter(|(name, _)| *name != "checksum_algorithm")
                .map(|(name, value)| (name.clone(), value.clone()))
                .collect(),
        )?;
        let operator = operator(place.settings.clone())?;
        let capability = operator.info().capability();
        let short = match place.scheme {
            Scheme::Http => true,
            // Its signed reads are another API, with other ETags.
            Scheme::Gcs => false,
            _ => capability.presign_read,
        };
        let short = short && place.short && ureq::Proxy::try_from_env().is_none();
        let index = (place.scheme == Scheme::Http).then(|| Index::new(&place, ttl));
        Ok(Self {
            wire: Wire::new(place.timeouts),
            operator,
            copier,
            signer,
            opened: Instant::now(),
            signatures: Mutex::default(),
            short: AtomicBool::new(short),
            copies_parts: AtomicBool::new(true),
            index,
            io_timeout,
            place,
        })
    }

    /// What requests go by.
    pub(super) fn context(&self) -> &OperationContext {
        self.operator.context()
    }

    /// What is asked of an object, for errors.
    pub(super) fn asked(&self, key: &str) -> String {
        format!("{}/{key}", self.place.url.trim_end_matches('/'))
    }

    fn run<'a, T, F: Future<Output = opendal::Result<T>>>(
        &self,
        key: &'a str,
        question: impl FnOnce(&'a str) -> F,
    ) -> Result<T, StoreError> {
        block_on(|| self.asked(key), question(path(key)?))
    }

    pub(super) fn head(&self, key: &str) -> Result<Version, StoreError> {
        self.head_with_time(key).map(|(version, _)| version)
    }

    /// The object's version, and the time of change that who wrote it has kept with it.
    fn head_with_time(&self, key: &str) -> Result<(Version, Option<SystemTime>), StoreError> {
        let found = self.run(key, |path| self.operator.stat_options(path, StatOptions::default()))?;
        let time = found.user_metadata().and_then(|kept| mtime::from_text(kept.get(mtime::NAME)?));
        Ok((self.version(key.to_string(), &found), time))
    }

    fn version(&self, key: String, found: &Metadata) -> Version {
        let etag = match self.place.scheme {
            // The generation: ETags differ between its APIs.
            Scheme::Gcs => found.version().filter(|it| it.parse::<u64>().is_ok()).map(str::to_string),
            // What is none would not come back as it is: such a version is told apart by size and time.
            _ => found.etag().map(quoted).filter(|etag| is_etag(etag)),
        };
        // Listings of some stores have fractions of seconds, answers for an object do not.
        let seconds = found.last_modified().map_or(0, |time| time.into_inner().as_second());
        let since = Duration::from_secs(u64::try_from(seconds).unwrap_or_default());
        Version { key, size: found.content_length(), etag, modified: SystemTime::UNIX_EPOCH + since }
    }

    fn list(
        &self,
        prefix: &str,
        page: &mut dyn FnMut(Vec<Item>) -> ControlFlow<()>,
    ) -> Result<bool, StoreError> {
        // What is said of one operation is of one page; a listing proves that it gets on.
        let _until = Until::moment().is_none().then(|| Until::set(Instant::now() + self.io_timeout));
        if let Some(index) = &self.index {
            return index.list(self, prefix, page);
        }
        let root = self.place.settings.get("root").map_or("", |root| root.trim_matches('/'));
        let root = if root.is_empty() { String::new() } else { format!("{root}/") };
        let mut progress = Progress::new(self.place.scheme, format!("{root}{prefix}"));
        let listed = self.list_pages(prefix, &mut progress, page);
        if progress.skipped > 0 {
            warn!("{} entries below {prefix:?} cannot be what they say and are not shown", progress.skipped);
        }
        listed
    }

    fn list_pages(
        &self,
        prefix: &str,
        progress: &mut Progress,
        page: &mut dyn FnMut(Vec<Item>) -> ControlFlow<()>,
    ) -> Result<bool, StoreError> {
        let path = if prefix.is_empty() { "/" } else { path(prefix)? };
        let asked = || self.asked(prefix);
        let options = ListOptions::default();
        let mut entries = block_on(asked, self.operator.lister_options(path, options))?;
        let mut items = Vec::new();
        loop {
            let next = poll_fn(|context| Pin::new(&mut entries).poll_next(context));
            let entry = match block_on_listing(progress, asked, async { next.await.transpose() }) {
                // Some say so of a prefix that nothing has.
                Err(StoreError::NotFound) if !self.listed_is_empty() => None,
                // A prefix that nothing has is an empty listing.
                Err(StoreError::NotFound) => return Err(StoreError::NoBucket(format!("{}: 404", asked()))),
                entry => entry?,
            };
            let full = items.len() >= PAGE;
            let done = entry.is_none();
            if (full || done) && !items.is_empty() && page(std::mem::take(&mut items)).is_break() {
                return Ok(done);
            }
            let Some(entry) = entry else { return Ok(true) };
            let (key, found) = (entry.path(), entry.metadata());
            items.push(match found.mode() {
                EntryMode::DIR if key != prefix => Item::Prefix(key.to_string()),
                _ if key == "/" => continue,
                _ => Item::Object(self.version(key.to_string(), found)),
            });
        }
    }

    /// Whether a listing of nothing is an empty one at this store, so that "not found" is the bucket.
    fn listed_is_empty(&self) -> bool {
        self.place.scheme != Scheme::Webhdfs
    }

    pub(super) fn get(
        &self,
        version: &Version,
        range: &Range<u64>,
    ) -> Result<Box<dyn Read + Send>, StoreError> {
        if self.short.load(Ordering::Relaxed) {
            match self.get_short(version, range) {
                Ok(body) => return Ok(body),
                Err(Miss::Store(error)) => return Err(error),
                Err(Miss::Odd(reason)) => {
                    if self.short.swap(false, Ordering::Relaxed) {
                        info!("{}: {reason}, so reads take the library's way", self.place.url);
                    }
                }
            }
        }
        self.get_long(version, range)
    }

    fn get_short(&self, version: &Version, range: &Range<u64>) -> Result<Box<dyn Read + Send>, Miss> {
        let signed = self.signed(&version.key)?;
        let condition = match &version.etag {
            // Compared strongly, a weak one is never equal; the answer's is compared with it all the same.
            Some(_) if version.is_weak() => None,
            Some(etag) => Some((IF_MATCH, etag.clone())),
            None => version.date().map(|date| (IF_UNMODIFIED_SINCE, http_date(date))),
        };
        let condition = condition.map(|(name, value)| Ok((name, HeaderValue::from_str(&value)?)));
        let condition = condition.transpose().map_err(|_: InvalidHeaderValue| {
            StoreError::Failed("the version is none that can be asked for".to_string())
        })?;
        Ok(Box::new(self.wire.get(&signed, range, version, condition)?))
    }

    /// The object's signed request, signed again well before it ends.
    fn signed(&self, key: &str) -> Result<Arc<Signed>, Miss> {
        let now = Instant::now();
        if let Some((signed, until)) = self.signatures().get(key)
            && now < *until
        {
            return Ok(signed.clone());
        }
        let (signed, time) = match self.place.scheme {
            Scheme::Http => (self.unsigned(key)?, SIGNED_FOR),
            _ => match self.sign(key, SIGNED_FOR) {
                Err(Miss::Store(StoreError::Denied(_))) => {
                    (self.sign(key, SIGNED_FOR_LESS)?, SIGNED_FOR_LESS)
                }
                signed => (signed?, SIGNED_FOR),
            },
        };
        let signed = Arc::new(signed);
        let mut signatures = self.signatures();
        if signatures.len() >= SIGNATURES {
            signatures.clear();
        }
        signatures.insert(key.to_string(), (signed.clone(), now + time / 2));
        Ok(signed)
    }

    fn sign(&self, key: &str, time: Duration) -> Result<Signed, Miss> {
        let request = self.run(key, |path| async move {
            let request = self.operator.presign_read(path, time).await?;
            let mut signed = http::Request::<()>::from(request).into_parts().0;
            if let Some(signer) = &self.signer {
                signer.sign(&mut signed, Some(time)).await?;
            }
            Ok(signed)
        })?;
        let asked = transport::shown(&request.method, &request.uri);
        Signed::new(&request.uri, &request.headers, asked)
    }

    /// A plain server's request.
    fn unsigned(&self, key: &str) -> Result<Signed, Miss> {
        let setting = |name: &str| self.place.settings.get(name).map(String::as_str);
        let root = setting("root").unwrap_or_default().trim_end_matches('/');
        let path = percent_encode_path(&format!("{root}/{}", path(key)?));
        let url: http::Uri = format!("{}{path}", setting("endpoint").unwrap_or_default())
            .parse()
            .map_err(|_| Miss::Odd("a URL that cannot be parsed"))?;
        let mut headers = http::HeaderMap::new();
        if let Some(value) = self.authorization() {
            headers.insert(http::header::AUTHORIZATION, value);
        }
        let asked = transport::shown(&Method::GET, &url);
        Signed::new(&url, &headers, asked)
    }

    /// What a plain server wants to know us by.
    pub(super) fn authorization(&self) -> Option<http::HeaderValue> {
        use opendal::raw::{format_authorization_by_basic, format_authorization_by_bearer};
        let setting = |name: &str| self.place.settings.get(name).map(String::as_str);
        let value = match (setting("username"), setting("token")) {
            (Some(user), _) => format_authorization_by_basic(user, setting("password").unwrap_or_default()),
            (None, Some(token)) => format_authorization_by_bearer(token),
            (None, None) => return None,
        };
        let mut value: http::HeaderValue = value.ok()?.parse().ok()?;
        value.set_sensitive(true);
        Some(value)
    }

    fn signatures(&self) -> MutexGuard<'_, HashMap<String, (Arc<Signed>, Instant)>> {
        self.signatures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn get_long(&self, version: &Version, range: &Range<u64>) -> Result<Box<dyn Read + Send>, StoreError> {
        let capability = self.operator.info().capability();
        let mut options =
            ReaderOptions { content_length_hint: Some(version.size), ..ReaderOptions::default() };
        match &version.etag {
            Some(generation) if self.place.scheme == Scheme::Gcs => {
                options.if_version_match = Some(generation.clone());
            }
            Some(_) if version.is_weak() => {}
            Some(etag) if capability.read_with_if_match => options.if_match = Some(etag.clone()),
            None if capability.read_with_if_unmodified_since => {
                options.if_unmodified_since = version.date().and_then(|date| Timestamp::try_from(date).ok());
            }
            _ => {}
        }
        // A time is not enough: it has seconds, and some servers do not know the condition.
        let by_generation = options.if_version_match.is_some();
        let certain = by_generation || options.if_match.is_some();
        let opened = self.run(&version.key, |path| async move {
            let reader = self.operator.reader_options(path, options).await?;
            let mut stream = reader.into_stream(BytesRange::from(range.clone())).await?;
            match stream.metadata().await {
                Ok(told) => Ok((stream, Some(told))),
                // Not every store tells; the read is open in any case.
                Err(error) if error.kind() == ErrorKind::Unsupported => Ok((stream, None)),
                Err(error) => Err(error),
            }
        });
        let (stream, told) = match opened {
            Ok(opened) => opened,
            // Of a file that is shorter by now, some stores refuse the range in words of their own.
            Err(error @ (StoreError::Denied(_) | StoreError::Failed(_))) if !certain => {
                self.check_now(version)?;
                return Err(error);
            }
            Err(error) => return Err(error),
        };
        match told.and_then(|told| self.tells_of(&told, version, range.end - range.start)) {
            Some(true) => {}
            Some(false) => return Err(StoreError::Stale),
            // A generation is no header, but part of what is asked for: who does not know it refuses.
            None if by_generation => {}
            // Whoever does not tell the version may not know the condition either. What is open by now is what was there
            // before.
            None => self.check_now(version)?,
        }
        Ok(Box::new(Pieces { stream: Box::new(stream), piece: Buffer::new(), left: range.end - range.start }))
    }

    /// Whether an answer of so many bytes is of the version, if it tells.
    fn tells_of(&self, told: &Metadata, version: &Version, bytes: u64) -> Option<bool> {
        if self.place.scheme == Scheme::Gcs {
            // A generation is a condition, and reads do not tell it.
            return None;
        }
        let told = self.version(String::new(), told);
        // Without the size of all, the library takes that of the part for it.
        let sized = told.size == version.size;
        if !sized && told.size != bytes {
            return Some(false);
        }
        let dates = version.date().zip(told.date());
        match (&version.etag, &told.etag) {
            (Some(known), Some(now)) if known != now => Some(false),
            (Some(_), Some(_)) => sized.then_some(true),
            (None, _) if dates.is_some_and(|(known, now)| known != now) => Some(false),
            (None, _) if version.date().is_none() || dates.is_some() => sized.then_some(true),
            _ => None,
        }
    }

    /// Asks whether the version is the present one.
    fn check_now(&self, version: &Version) -> Result<(), StoreError> {
        match same(&self.head(&version.key)?, version) {
            true => Ok(()),
            false => Err(StoreError::Stale),
        }
    }
}

/// A read that opendal does.
struct Pieces {
    stream: Box<BufferStream>,
    piece: Buffer,
    left: u64,
}

impl Pieces {
    fn next(&mut self) -> io::Result<Buffer> {
        let next = poll_fn(|context| Pin::new(&mut self.stream).poll_next(context));
        let piece = block_on(|| "the read".to_string(), async { next.await.transpose() });
        Ok(piece.map_err(|error| io::Error::other(error.to_string()))?.unwrap_or_default())
    }
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.piece.is_empty() && !buffer.is_empty() && self.left > 0 {
            self.piece = self.next()?;
            self.left = self.left.saturating_sub(self.piece.len() as u64);
            if self.left == 0 {
                // The end, without which the connection is not used again.
                self.next()?;
            }
        }
        self.piece.read(buffer)
    }
}

/// opendal's name for a key, which must be the key: others are other objects to it.
pub(super) fn path(key: &str) -> Result<&str, StoreError> {
    let odd = key.trim() != key || key.starts_with('/') || key.contains("//") || key.is_empty();
    match odd {
        true => Err(StoreError::Unsupported("a name with an empty part, or with blanks at its ends,")),
        false => Ok(key),
    }
}

/// Whether what is known of two versions is the same.
pub(super) fn same(one: &Version, other: &Version) -> bool {
    let etags = one.etag.as_ref().zip(other.etag.as_ref());
    let dates = one.date().zip(other.date());
    one.size == other.size
        && etags.is_none_or(|(one, other)| one == other)
        && dates.is_none_or(|(one, other)| one == other)
}

fn http_date(time: SystemTime) -> String {
    Timestamp::try_from(time).map(Timestamp::format_http_date).unwrap_or_default()
}

/// opendal's operator; `unsigned`: somebody else signs.
fn operator(
    scheme: Scheme,
    mut settings: BTreeMap<String, String>,
    unsigned: bool,
) -> opendal::Result<Operator> {
    fn of<C: Configurator>(settings: &BTreeMap<String, String>) -> opendal::Result<Operator> {
        Operator::from_config(C::from_iter(settings.clone())?)
    }
    if unsigned {
        settings.insert("skip_signature".to_string(), "true".to_string());
    }
    match scheme {
        Scheme::S3 => of::<services::S3Config>(&settings),
        Scheme::Oss => of::<services::OssConfig>(&settings),
        Scheme::Gcs => of::<services::GcsConfig>(&settings),
        Scheme::Azblob => of::<services::AzblobConfig>(&settings),
        Scheme::Cos => of::<services::CosConfig>(&settings),
        Scheme::Obs => of::<services::ObsConfig>(&settings),
        Scheme::Tos => of::<services::TosConfig>(&settings),
        Scheme::Webhdfs => of::<services::WebhdfsConfig>(&settings),
        Scheme::Http => of::<services::HttpConfig>(&settings),
    }
}
