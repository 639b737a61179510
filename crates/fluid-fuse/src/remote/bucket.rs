//! A bucket of any store that opendal knows.
//!
//! Decides which way a read takes: where a store takes signatures in the query, one signature every few
//! minutes is put on each object, and its ranges are read by [`super::http1`]; elsewhere, and where that way was
//! found not to lead ([`super::quirks`]), opendal reads. Each read has a condition, so that it is of the version that
//! was asked for or fails; where a condition cannot be had, the answer is compared, or the store is asked for the version
//! once the read is open. A refused condition alone does not make a file stale: that is decided by what the store says
//! of the object when it is asked ([`Session::agree`]). It also decides when credentials are loaded again: when a file
//! that had some changed, and once when the store refuses. It does not retry, and knows no cache but that of signatures.
//!
//! A checksum that a store keeps of a whole object (`x-amz-checksum-*`, OSS's CRC64) says nothing about a part
//! of it: what is read is checked by its length and version, what is written by the store.

use std::collections::{BTreeMap, HashMap};
use std::future::poll_fn;
use std::io::{self, Read};
use std::ops::{ControlFlow, Range};
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context;
use fluid_sidecar_layout::source::Scheme;
use futures_core::Stream;
use http::Method;
use http::header::{HeaderValue, IF_MATCH, IF_UNMODIFIED_SINCE, InvalidHeaderValue};
use log::{debug, info, warn};
use opendal::options::{ListOptions, ReaderOptions, StatOptions};
use opendal::raw::{Timestamp, percent_encode_path};
use opendal::{
    Buffer, BufferStream, BytesRange, Configurator, Entry, EntryMode, ErrorKind, Lister, Metadata,
    OperationContext, Operator, services,
};

use super::http1::{FastPathError, Http1Client, SignedRequest};
use super::index::Index;
use super::listing::ListingGuard;
use super::options::StoreLocation;
use super::oss::OssSigner;
use super::proxy;
use super::quirks::{Fallback, Quirks};
use super::response::{self, BucketRegion};
use super::tls::Verification;
use super::transport::{self, block_on, block_on_listing};
use super::upload::{ObjectUpload, mtime};
use super::web;
use super::{Bucket, BucketConfig, Depth, Item, Page, Upload, Version};
use crate::inodes::lock;
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

/// Flat listings that are kept to go on with, where a store cannot begin one at a key: as many as there are walks at a time.
const PAUSED: usize = 4;

/// PausedListing of such a listing that are read to get to a key.
const SKIPPED_PAGES: usize = 5;

/// How often an object is asked about to find out whether its ETag varies: with two ETags at random, the chance that one
/// is seen each time is 1 in 128.
const ETAG_CHECKS: usize = 8;

/// By how much a store's times for one version may differ: some round up, others down.
const TIME_ROUNDING: Duration = Duration::from_secs(1);

/// By how much a store's clock may differ from ours.
pub(super) const CLOCK: Duration = Duration::from_secs(60);

/// Between two looks at the files that credentials came from.
const LOOK: Duration = Duration::from_secs(1);

/// Between two times that credentials are loaded again because the store refuses.
const RELOAD: Duration = Duration::from_secs(10);

/// A bucket whose credentials change.
pub(super) struct RemoteBucket(Arc<Sessions>);

/// What was asked to find a bucket, and the session that is used.
pub(super) struct Sessions {
    url: String,
    options: BTreeMap<String, String>,
    config: BucketConfig,
    quirks: Arc<Quirks>,
    session: Mutex<(Arc<Session>, Instant)>,
}

/// A bucket with the credentials of one moment.
pub(super) struct Session {
    place: StoreLocation,
    pub(super) operator: Operator,
    /// The same for uploads that copy parts, which have no checksums.
    pub(super) copier: Operator,
    /// The same for listings, where the store knows no tokens.
    lister_by_markers: OnceLock<Operator>,
    /// What signs in opendal's stead.
    signer: Option<OssSigner>,
    opened: Instant,
    signatures: Mutex<HashMap<String, Signature>>,
    http1: Arc<Http1Client>,
    /// Whether reads may take the fast path.
    is_fast: bool,
    pub(super) quirks: Arc<Quirks>,
    index: Option<Index>,
    /// Flat listings that may go on, the last used first.
    paused: Mutex<Vec<PausedListing>>,
    whole: web::WholeFileCache,
    io_timeout: Duration,
}

/// A listing that goes on from page to page.
struct PausedListing {
    prefix: String,
    /// The last key of the last page.
    at: Option<String>,
    entries: Lister,
    guard: ListingGuard,
}

/// A signed request that is kept.
struct Signature {
    signed: Arc<SignedRequest>,
    until: Instant,
    /// Whether it was used again after the read that it was made for.
    used: bool,
}

impl RemoteBucket {
    pub(super) fn open(
        url: &str,
        options: &BTreeMap<String, String>,
        config: &BucketConfig,
    ) -> anyhow::Result<Self> {
        let quirks = Arc::new(Quirks::default());
        let session = Arc::new(Session::open(url, options, config, &quirks)?);
        if session.place.verification == Verification::None {
            warn!(
                "{}: the certificates of servers are not checked (insecure_skip_tls_verify): anybody on the way can \
                 read and change what is sent",
                session.place.url
            );
        }
        let session = Mutex::new((session, Instant::now()));
        let (url, options, config) = (url.to_string(), options.clone(), config.clone());
        Ok(Self(Arc::new(Sessions { url, options, config, quirks, session })))
    }
}

impl Sessions {
    /// Asks with the present credentials, once more where the bucket turns out to be in another region, and once more with
    /// new credentials where the store refuses.
    pub(super) fn with_retry<T>(
        &self,
        question: impl Fn(&Arc<Session>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.with_retry_if(|session| question(session).map_err(|error| (error, true)))
    }

    /// The same for a question that says of its error whether it can be asked again.
    fn with_retry_if<T>(
        &self,
        mut question: impl FnMut(&Arc<Session>) -> Result<T, (StoreError, bool)>,
    ) -> Result<T, StoreError> {
        let mut session = self.session();
        response::take_bucket_region();
        let mut answer = question(&session);
        if let Err((StoreError::Denied(_) | StoreError::NoBucket(_) | StoreError::Failed(_), true)) = answer
            && let Some(elsewhere) = self.find_region(&session)
        {
            session = elsewhere;
            answer = question(&session);
        }
        if let Err((StoreError::Denied(_), true)) = answer
            && let Some(renewed) = self.reload(&session)
        {
            answer = question(&renewed);
        }
        answer.map_err(|(error, _)| error)
    }

    /// A session for the bucket's region, if the last error was because of the region.
    fn find_region(&self, refused: &Arc<Session>) -> Option<Arc<Session>> {
        let region = match response::take_bucket_region()? {
            BucketRegion::Known(region) => region,
            BucketRegion::Other => refused.ask_region()?,
        };
        if refused.place.settings.get("region") == Some(&region) {
            return None;
        }
        let mut held = self.held();
        if Arc::ptr_eq(&held.0, refused) {
            info!(
                "{}: the bucket is in the region {region} (the option region saves the question)",
                refused.place.url
            );
            *lock(&self.quirks.region) = Some(region);
            if !self.renew(&mut held.0) {
                return None;
            }
        }
        Some(held.0.clone())
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
        match Session::open(&self.url, &self.options, &self.config, &self.quirks) {
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

impl Bucket for RemoteBucket {
    fn endpoint(&self) -> Option<String> {
        let session = self.0.held().0.clone();
        session.place.settings.get("endpoint").cloned()
    }

    fn head(&self, key: &str) -> Result<Version, StoreError> {
        self.0.with_retry(|session| session.head(key))
    }

    fn head_with_time(&self, key: &str) -> Result<(Version, Option<SystemTime>), StoreError> {
        self.0.with_retry(|session| session.head_with_time(key))
    }

    fn list(
        &self,
        prefix: &str,
        page: &mut dyn FnMut(Vec<Item>) -> ControlFlow<()>,
    ) -> Result<bool, StoreError> {
        let mut begun = false;
        self.0.with_retry_if(|session| {
            let mut visit = |items| {
                begun = true;
                page(items)
            };
            session.list(prefix, &mut visit).map_err(|error| (error, !begun))
        })
    }

    fn list_page(&self, prefix: &str, after: Option<&str>, depth: Depth) -> Result<Page, StoreError> {
        self.0.with_retry(|session| session.list_page(prefix, after, depth))
    }

    fn get(&self, version: &Version, range: Range<u64>) -> Result<Box<dyn Read + Send>, StoreError> {
        self.0.with_retry(|session| session.get(version, &range))
    }

    fn put(&self, key: &str) -> Result<Box<dyn Upload>, StoreError> {
        Ok(Box::new(ObjectUpload::new(&self.0, key, None)?))
    }

    fn resume(&self, version: &Version) -> Result<Box<dyn Upload>, StoreError> {
        let base = Some(version.clone());
        Ok(Box::new(ObjectUpload::new(&self.0, &version.key, base)?))
    }

    fn make_directory(&self, key: &str) -> Result<(), StoreError> {
        self.0.with_retry(|session| session.run(key, |path| session.operator.create_dir(path)))
    }

    fn delete(&self, key: &str) -> Result<(), StoreError> {
        self.0.with_retry(|session| session.run(key, |path| session.operator.delete(path)))
    }

    fn copy(&self, from: &str, to: &str) -> Result<(), StoreError> {
        let to = path(to)?;
        self.0.with_retry(|session| session.run(from, |path| session.operator.copy(path, to)).map(|_| ()))
    }
}

impl Session {
    fn open(
        url: &str,
        options: &BTreeMap<String, String>,
        config: &BucketConfig,
        quirks: &Arc<Quirks>,
    ) -> anyhow::Result<Self> {
        let mut place = StoreLocation::resolve(url, options, config.trust, |name| std::env::var(name).ok())?;
        if let Some(region) = &*lock(&quirks.region) {
            place.move_to(region);
        }
        // Nothing is waited for longer than all of it.
        place.timeouts = place.timeouts.within(config.io_timeout);
        let (ttl, io_timeout) = (config.ttl, config.io_timeout);
        let config = transport::TransportConfig {
            scheme: Some(place.scheme),
            timeouts: place.timeouts,
            verification: place.verification,
            io_timeout,
            redirects: config.redirects.clone(),
        };
        transport::install(config.clone());
        let signer = OssSigner::new(&place, &config);
        let context = transport::context(config, signer.clone());
        let operator = |settings| {
            operator(place.scheme, settings, signer.is_some())
                .with_context(|| format!("{}: the options cannot be used", place.url))
                .map(|operator| operator.with_context(context.clone()))
        };
        let mut without_checksums = place.settings.clone();
        without_checksums.remove("checksum_algorithm");
        let copier = operator(without_checksums)?;
        let operator = operator(place.settings.clone())?;
        let capability = operator.info().capability();
        let is_fast = match place.scheme {
            Scheme::Http => true,
            // Its signed reads are another API, with other ETags.
            Scheme::Gcs => false,
            _ => capability.presign_read,
        };
        let is_proxied = place.bucket_url().is_some_and(|url| proxy::of(&url).is_some());
        let is_fast = is_fast && place.is_fast && !is_proxied;
        let index = (place.scheme == Scheme::Http).then(|| Index::new(&place, ttl));
        Ok(Self {
            http1: Http1Client::new(place.scheme, place.verification, place.timeouts),
            operator,
            copier,
            lister_by_markers: OnceLock::new(),
            signer,
            opened: Instant::now(),
            signatures: Mutex::default(),
            is_fast,
            quirks: quirks.clone(),
            index,
            paused: Mutex::default(),
            whole: web::WholeFileCache::default(),
            io_timeout,
            place,
        })
    }

    /// What requests go by.
    pub(super) fn context(&self) -> &OperationContext {
        self.operator.context()
    }

    /// How long an answer may take.
    pub(super) fn io_timeout(&self) -> Duration {
        self.io_timeout
    }

    /// The region of the bucket, which the store tells without credentials.
    fn ask_region(&self) -> Option<String> {
        let mut request = http::Request::new(Buffer::new());
        *request.method_mut() = Method::HEAD;
        *request.uri_mut() = self.place.bucket_url()?;
        let told = transport::head(self.context(), request).ok()?;
        match response::take_bucket_region() {
            Some(BucketRegion::Known(region)) => Some(region),
            _ => transport::header(&told.headers, transport::BUCKET_REGION).map(str::to_string),
        }
    }

    /// What is asked of an object, for errors.
    pub(super) fn object_url(&self, key: &str) -> String {
        format!("{}/{key}", self.place.url.trim_end_matches('/'))
    }

    fn run<'a, T, F: Future<Output = opendal::Result<T>>>(
        &self,
        key: &'a str,
        question: impl FnOnce(&'a str) -> F,
    ) -> Result<T, StoreError> {
        block_on(|| self.object_url(key), question(path(key)?))
    }

    pub(super) fn head(&self, key: &str) -> Result<Version, StoreError> {
        self.head_with_time(key).map(|(version, _)| version)
    }

    /// The object's version, and the time of change that who wrote it has kept with it.
    fn head_with_time(&self, key: &str) -> Result<(Version, Option<SystemTime>), StoreError> {
        if self.place.scheme == Scheme::Http {
            let found = self.file(key)?.ask(key)?;
            let varies = self.quirks.etags_vary.load(Ordering::Relaxed);
            return Ok((Version { etag: found.etag.filter(|_| !varies), ..found }, None));
        }
        let found = self.run(key, |path| self.operator.stat_options(path, StatOptions::default()))?;
        let time = found.user_metadata().and_then(|kept| mtime::from_text(kept.get(mtime::NAME)?));
        Ok((self.version(key.to_string(), &found), time))
    }

    pub(super) fn version(&self, key: String, found: &Metadata) -> Version {
        let etag = match self.place.scheme {
            // The generation: ETags differ between its APIs.
            Scheme::Gcs => found.version().filter(|it| it.parse::<u64>().is_ok()).map(str::to_string),
            // What is none would not come back as it is: such a version is told apart by size and time.
            _ if self.quirks.etags_vary.load(Ordering::Relaxed) => None,
            _ => found.etag().and_then(response::etag),
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
        let mut guard = ListingGuard::new(self.place.scheme, format!("{}{prefix}", self.root()));
        let mut listed = self.list_pages(prefix, &mut guard, page);
        if guard.needs_markers && !self.quirks.lists_by_markers.swap(true, Ordering::Relaxed) {
            info!("{}: listings have no tokens, so they are asked for by markers", self.place.url);
            guard = ListingGuard::new(self.place.scheme, format!("{}{prefix}", self.root()));
            listed = self.list_pages(prefix, &mut guard, page);
        }
        warn_of_skipped(prefix, &guard);
        listed
    }

    fn list_pages(
        &self,
        prefix: &str,
        guard: &mut ListingGuard,
        page: &mut dyn FnMut(Vec<Item>) -> ControlFlow<()>,
    ) -> Result<bool, StoreError> {
        let path = if prefix.is_empty() { "/" } else { path(prefix)? };
        let asked = || self.object_url(prefix);
        let options = ListOptions::default();
        let mut entries = block_on(asked, self.lister()?.lister_options(path, options))?;
        let mut items = Vec::new();
        loop {
            let next = poll_fn(|context| Pin::new(&mut entries).poll_next(context));
            let entry = match block_on_listing(guard, asked, async { next.await.transpose() }) {
                // Some say so of a prefix that nothing has.
                Err(StoreError::NotFound) if !self.listed_is_empty() => None,
                // A prefix that nothing has is an empty listing.
                Err(StoreError::NotFound) => return Err(StoreError::NoBucket(format!("{}: 404", asked()))),
                entry => entry?,
            };
            if guard.is_none() && entry.is_none() {
                return Err(StoreError::Failed(format!(
                    "LIST {}: the answer is no listing: check the option endpoint",
                    asked()
                )));
            }
            let full = items.len() >= PAGE;
            let done = entry.is_none();
            if (full || done) && !items.is_empty() && page(std::mem::take(&mut items)).is_break() {
                return Ok(done);
            }
            let Some(entry) = entry else { return Ok(true) };
            items.extend(self.item(prefix, &entry));
        }
    }

    /// What an entry of a listing is, unless it is the bucket itself.
    fn item(&self, prefix: &str, entry: &Entry) -> Option<Item> {
        let (key, found) = (entry.path(), entry.metadata());
        match found.mode() {
            EntryMode::DIR if key != prefix => Some(Item::Prefix(key.to_string())),
            _ if key == "/" => None,
            _ => Some(Item::Object(self.version(key.to_string(), found))),
        }
    }

    fn list_page(&self, prefix: &str, after: Option<&str>, depth: Depth) -> Result<Page, StoreError> {
        let capability = self.operator.info().capability();
        let is_possible = capability.list_with_recursive
            && !matches!(self.place.scheme, Scheme::Http | Scheme::Webhdfs)
            // These listings are not read here first, so nobody knows where their pages end.
            && self.place.scheme != Scheme::Tos;
        let begins_anywhere =
            capability.list_with_start_after && !self.quirks.ignores_start.load(Ordering::Relaxed);
        let _until = Until::moment().is_none().then(|| Until::set(Instant::now() + self.io_timeout));
        match depth {
            _ if is_possible && begins_anywhere => {
                let mut pages = self.pages(prefix, after, depth)?;
                let page = self.next_page(&mut pages)?;
                if page.items.iter().any(|item| !is_behind(item, after, depth)) {
                    if !self.quirks.ignores_start.swap(true, Ordering::Relaxed) {
                        info!("{}: listings do not begin where they are asked to", self.place.url);
                    }
                    return Err(StoreError::Failed("the listing does not begin behind the key".into()));
                }
                Ok(page)
            }
            Depth::All if is_possible => self.go_on(prefix, after),
            _ => Err(StoreError::Unsupported("a listing from a key on")),
        }
    }

    /// The next page of a flat listing of a store that only goes on from page to page.
    fn go_on(&self, prefix: &str, after: Option<&str>) -> Result<Page, StoreError> {
        let paused = {
            let mut paused = lock(&self.paused);
            let index =
                paused.iter().position(|pages| pages.prefix == prefix && pages.at.as_deref() == after);
            index.map(|index| paused.remove(index))
        };
        let mut pages = match paused {
            Some(pages) => pages,
            None => self.pages(prefix, None, Depth::All)?,
        };
        for _ in 0..SKIPPED_PAGES {
            let mut page = self.next_page(&mut pages)?;
            let is_before =
                page.more_after.as_deref().is_some_and(|last| after.is_some_and(|after| last <= after));
            if is_before {
                continue;
            }
            page.items.retain(|item| is_behind(item, after, Depth::All));
            if page.more_after.is_some() {
                pages.at.clone_from(&page.more_after);
                let mut paused = lock(&self.paused);
                paused.truncate(PAUSED - 1);
                paused.insert(0, pages);
            }
            return Ok(page);
        }
        Err(StoreError::Failed("the listing is too far from there".into()))
    }

    fn pages(&self, prefix: &str, after: Option<&str>, depth: Depth) -> Result<PausedListing, StoreError> {
        let guard = ListingGuard::new(self.place.scheme, format!("{}{prefix}", self.root()));
        let path = if prefix.is_empty() { "/" } else { path(prefix)? };
        let (recursive, start_after) = (depth == Depth::All, after.map(str::to_string));
        let options = ListOptions { recursive, start_after, ..ListOptions::default() };
        let entries = block_on(|| self.object_url(prefix), self.lister()?.lister_options(path, options))?;
        Ok(PausedListing { prefix: prefix.to_string(), at: None, entries, guard })
    }

    fn next_page(&self, pages: &mut PausedListing) -> Result<Page, StoreError> {
        let PausedListing { prefix, entries, guard, .. } = pages;
        let asked = || self.object_url(prefix);
        guard.forget_names();
        let (mut items, mut taken, mut more) = (Vec::new(), 0, false);
        while taken == 0 || taken < guard.entries {
            let page = guard.pages;
            let next = poll_fn(|context| Pin::new(&mut *entries).poll_next(context));
            let entry = match block_on_listing(guard, asked, async { next.await.transpose() }) {
                Err(StoreError::NotFound) => return Err(StoreError::NoBucket(format!("{}: 404", asked()))),
                entry => entry?,
            };
            let Some(entry) = entry.filter(|_| taken == 0 || guard.pages == page) else { break };
            taken += 1;
            more = guard.is_truncated;
            items.extend(self.item(prefix, &entry));
        }
        if guard.is_none() {
            return Err(StoreError::Failed(format!("LIST {}: the answer is no listing", asked())));
        }
        warn_of_skipped(prefix, guard);
        let more_after = items.iter().map(Item::key).max().filter(|_| more).map(str::to_string);
        Ok(Page { items, more_after })
    }

    /// What lists.
    fn lister(&self) -> Result<&Operator, StoreError> {
        if !self.quirks.lists_by_markers.load(Ordering::Relaxed) {
            return Ok(&self.operator);
        }
        if let Some(lister) = self.lister_by_markers.get() {
            return Ok(lister);
        }
        let mut settings = self.place.settings.clone();
        settings.insert("disable_list_objects_v2".to_string(), "true".to_string());
        let lister = operator(self.place.scheme, settings, self.signer.is_some())
            .map_err(|error| StoreError::Failed(error.to_string()))?;
        Ok(self.lister_by_markers.get_or_init(|| lister.with_context(self.context().clone())))
    }

    /// What the listing says of one object.
    fn listed(&self, key: &str) -> Result<Option<Version>, StoreError> {
        let mut guard = ListingGuard::new(self.place.scheme, format!("{}{key}", self.root()));
        let options = ListOptions { limit: Some(1), ..ListOptions::default() };
        let asked = || self.object_url(key);
        let mut entries = block_on(asked, self.lister()?.lister_options(path(key)?, options))?;
        let next = poll_fn(|context| Pin::new(&mut entries).poll_next(context));
        // In the store's order, the key itself is the first that begins with it.
        let entry = block_on_listing(&mut guard, asked, async { next.await.transpose() })?;
        Ok(entry
            .filter(|entry| entry.path() == key)
            .map(|entry| self.version(key.to_string(), entry.metadata())))
    }

    /// What every key of the place begins with, as the store knows them.
    fn root(&self) -> String {
        match self.place.settings.get("root").map_or("", |root| root.trim_matches('/')) {
            "" => String::new(),
            root => format!("{root}/"),
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
        let agreed = self.quirks.agreed(version);
        let asked = agreed.as_ref().unwrap_or(version);
        // Another read may find out at the same time.
        let is_conditional = self.reads_conditionally(asked);
        match self.get_once(asked, range) {
            Ok(body) => {
                let is_by_time = agreed.is_none() && version.etag.is_none() && version.date().is_some();
                if is_by_time && !self.quirks.dates_agree.load(Ordering::Relaxed) {
                    self.quirks.dates_agree.store(true, Ordering::Relaxed);
                }
                Ok(body)
            }
            Err(StoreError::Stale) => self.get_agreed(version, asked, range),
            Err(StoreError::NotImplemented(reason)) if is_conditional => {
                if !self.quirks.ignores_conditions.swap(true, Ordering::Relaxed) {
                    info!("{}: {reason}, so reads are tried without a condition", self.place.url);
                }
                self.get_once(asked, range).inspect_err(|_| {
                    self.quirks.ignores_conditions.store(false, Ordering::Relaxed);
                })
            }
            answer => answer,
        }
    }

    /// Reads a version that the store refused by the name of `asked`, by what the store calls it now.
    fn get_agreed(
        &self,
        version: &Version,
        asked: &Version,
        range: &Range<u64>,
    ) -> Result<Box<dyn Read + Send>, StoreError> {
        let mut agreed = self.agree(version, asked)?;
        let body = match self.get_once(&agreed, range) {
            Err(StoreError::Stale) => {
                agreed = self.agree(version, &agreed)?;
                self.get_once(&agreed, range)?
            }
            answer => answer?,
        };
        if agreed != *version {
            self.quirks.agree(version, agreed);
        }
        Ok(body)
    }

    /// What the store calls a version now, after it refused a read of it by the name of `asked`: [`StoreError::Stale`]
    /// only if the object did change, as far as anybody can tell.
    ///
    /// An object of another size or time is another one. Beyond that, ETags are compared with their like: that of a
    /// listing with that of the listing now, since a store may have others for its reads, and that of one answer with
    /// that of the next, since a farm of servers may have one each.
    pub(super) fn agree(&self, version: &Version, asked: &Version) -> Result<Version, StoreError> {
        if matches!(self.place.scheme, Scheme::Gcs | Scheme::Webhdfs) {
            return Err(StoreError::Stale);
        }
        let now = match self.head(&version.key) {
            Ok(now) => now,
            Err(error @ StoreError::Unavailable(_)) => return Err(error),
            Err(_) => return Err(StoreError::Stale),
        };
        if now.size != version.size {
            return Err(StoreError::Stale);
        }
        let without_etag = Version { etag: None, ..now.clone() };
        if same(&now, asked) {
            // It refused what is there.
            if asked.etag.is_some() && self.has_other_etag(version, &now)? {
                return Ok(without_etag);
            }
            if self.reads_conditionally(asked)
                && !self.quirks.ignores_conditions.swap(true, Ordering::Relaxed)
            {
                info!("{}: conditions of reads are not understood, so answers are compared", self.place.url);
            }
            return Ok(asked.clone());
        }
        let dates = version.date().zip(now.date());
        let is_dated_alike = dates.is_none_or(|(one, other)| is_about(one, other));
        match (&version.etag, &now.etag) {
            (Some(known), Some(etag)) if known == etag => Ok(now),
            (Some(_), Some(_)) if !is_dated_alike => Err(StoreError::Stale),
            (Some(_), Some(_)) if asked == version && self.is_listed(version)? => Ok(now),
            (Some(_), Some(_)) if self.has_other_etag(version, &now)? => Ok(without_etag),
            (Some(_), Some(_)) if asked != version && self.is_listed(version)? => Ok(now),
            (Some(_), Some(_)) => Err(StoreError::Stale),
            // ResponseHead apart by time alone.
            _ if is_dated_alike && dates.is_some() => Ok(now),
            (None, _) if !self.quirks.dates_agree.load(Ordering::Relaxed) && self.is_listed(version)? => {
                Ok(now)
            }
            _ => Err(StoreError::Stale),
        }
    }

    /// Whether the store's listing still says of an object what it said before.
    fn is_listed(&self, version: &Version) -> Result<bool, StoreError> {
        let listed = match &self.index {
            Some(index) => return index.still_says(self, version),
            None => self.listed(&version.key),
        };
        match listed {
            Ok(listed) => Ok(listed.as_ref() == Some(version)),
            Err(error @ StoreError::Unavailable(_)) => Err(error),
            Err(_) => Ok(false),
        }
    }

    /// Whether the same object has another ETag when it is asked about again, although it did not change: the ETag of
    /// before comes back, or the time of change is long ago, or no two ETags are the same.
    pub(super) fn has_other_etag(&self, version: &Version, now: &Version) -> Result<bool, StoreError> {
        if self.quirks.etags_vary.load(Ordering::Relaxed) {
            return Ok(true);
        }
        let is_old = now.date().is_some_and(|date| date + CLOCK < SystemTime::now());
        let mut others = vec![version.etag.clone()];
        let mut last = now.etag.clone();
        let mut varies = false;
        for _ in 0..ETAG_CHECKS {
            let again = self.head(&now.key)?;
            if again.size != now.size || again.modified != now.modified {
                return Err(StoreError::Stale);
            }
            if again.etag != last {
                varies = is_old || others.contains(&again.etag);
                others.push(std::mem::replace(&mut last, again.etag));
            }
            if varies {
                break;
            }
        }
        varies |= others.len() > ETAG_CHECKS;
        if varies && !self.quirks.etags_vary.swap(true, Ordering::Relaxed) {
            info!("{}: ETags vary, so versions are told apart by size and time", self.place.url);
        }
        Ok(varies)
    }

    /// Whether a read of a version has a condition in its request.
    pub(super) fn reads_conditionally(&self, version: &Version) -> bool {
        !version.is_weak()
            && (version.etag.is_some() || version.date().is_some())
            && !self.quirks.ignores_conditions.load(Ordering::Relaxed)
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
            Err(StoreError::NoParts(_)) if self.place.scheme == Scheme::Http => {
                let body = self.whole.part(&self.file(&version.key)?, version, range)?;
                if fallback != Some(Fallback::Whole) {
                    self.quirks.use_fallback(&version.key, Fallback::Whole);
                }
                Ok(body)
            }
            answer => answer,
        }
    }

    /// By the fast path, or where that does not lead to the object, by the library.
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
                    info!("{}: {reason}, so reads take the library's way for a time", self.place.url);
                } else {
                    debug!("{}: {reason}", self.object_url(&version.key));
                }
                self.get_by_library(version, range)
            }
            Err(FastPathError::Store(
                refused @ (StoreError::Denied(_) | StoreError::NotImplemented(_) | StoreError::Failed(_)),
            )) if self.place.scheme != Scheme::Http => {
                // A store or a policy may refuse requests that are signed in the query, and no others. A signature that
                // was made before may be too old, which says nothing about the next.
                let was_kept = self.signatures().remove(&version.key).is_some_and(|signature| signature.used);
                let body = self.get_by_library(version, range)?;
                if !was_kept && !self.quirks.denies_query_signatures.swap(true, Ordering::Relaxed) {
                    info!("{}: {refused}, so reads are signed in a header", self.place.url);
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
            StoreError::Failed("the version is none that can be asked for".to_string())
        })?;
        Ok(Box::new(self.http1.get(&signed, range, version, condition)?))
    }

    /// The object's signed request, signed again well before it ends.
    fn signed(&self, key: &str) -> Result<Arc<SignedRequest>, FastPathError> {
        let now = Instant::now();
        if let Some(signature) = self.signatures().get_mut(key)
            && now < signature.until
        {
            signature.used = true;
            return Ok(signature.signed.clone());
        }
        let (signed, time) = match self.place.scheme {
            Scheme::Http => (self.unsigned(key)?, SIGNED_FOR),
            _ => match self.sign(key, SIGNED_FOR) {
                Err(FastPathError::Store(StoreError::Denied(_))) => {
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
        let signature = Signature { signed: signed.clone(), until: now + time / 2, used: false };
        signatures.insert(key.to_string(), signature);
        Ok(signed)
    }

    fn sign(&self, key: &str, time: Duration) -> Result<SignedRequest, FastPathError> {
        let request = self.run(key, |path| async move {
            let request = self.operator.presign_read(path, time).await?;
            let mut signed = http::Request::<()>::from(request).into_parts().0;
            if let Some(signer) = &self.signer {
                signer.sign(&mut signed, Some(time)).await?;
            }
            Ok(signed)
        })?;
        let asked = transport::shown(&request.method, &request.uri);
        SignedRequest::new(&request.uri, &request.headers, asked)
    }

    /// A plain server's request.
    fn unsigned(&self, key: &str) -> Result<SignedRequest, FastPathError> {
        let url = self.file(key)?.url;
        let mut headers = http::HeaderMap::new();
        if let Some(value) = self.authorization() {
            headers.insert(http::header::AUTHORIZATION, value);
        }
        let asked = transport::shown(&Method::GET, &url);
        SignedRequest::new(&url, &headers, asked)
    }

    /// A plain server's file.
    fn file(&self, key: &str) -> Result<web::File<'_>, StoreError> {
        let setting = |name: &str| self.place.settings.get(name).map(String::as_str);
        let root = setting("root").unwrap_or_default().trim_end_matches('/');
        let path = percent_encode_path(&format!("{root}/{}", path(key)?));
        let url = format!("{}{path}", setting("endpoint").unwrap_or_default()).parse();
        let url = url.map_err(|_| StoreError::Failed("a URL that cannot be parsed".to_string()))?;
        Ok(web::File { context: self.context(), url, authorization: self.authorization() })
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

    fn signatures(&self) -> MutexGuard<'_, HashMap<String, Signature>> {
        self.signatures.lock().unwrap_or_else(PoisonError::into_inner)
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
            Some(generation) if self.place.scheme == Scheme::Gcs => {
                options.if_version_match = Some(generation.clone());
            }
            _ if !self.reads_conditionally(version) => {}
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
        Ok(Box::new(LibraryReader {
            stream: Box::new(stream),
            piece: Buffer::new(),
            left: range.end - range.start,
        }))
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

/// Whether an item of a listing that begins behind a key does.
fn is_behind(item: &Item, after: Option<&str>, depth: Depth) -> bool {
    let is_rolled_up = depth == Depth::One && matches!(item, Item::Prefix(_));
    // What has keys before and behind is told again.
    after.is_none_or(|after| item.key() > after || is_rolled_up && after.starts_with(item.key()))
}

fn warn_of_skipped(prefix: &str, guard: &ListingGuard) {
    if guard.skipped > 0 {
        warn!("{} entries below {prefix:?} cannot be what they say and are not shown", guard.skipped);
    }
}

/// A read that opendal does.
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

/// Whether two times can be those of one version.
fn is_about(one: SystemTime, other: SystemTime) -> bool {
    one.duration_since(other).or_else(|_| other.duration_since(one)).is_ok_and(|apart| apart <= TIME_ROUNDING)
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
    fn of<C: Configurator>(settings: BTreeMap<String, String>) -> opendal::Result<Operator> {
        Operator::from_config(C::from_iter(settings)?)
    }
    if unsigned {
        settings.insert("skip_signature".to_string(), "true".to_string());
    }
    match scheme {
        Scheme::S3 => of::<services::S3Config>(settings),
        Scheme::Oss => of::<services::OssConfig>(settings),
        Scheme::Gcs => of::<services::GcsConfig>(settings),
        Scheme::Azblob => of::<services::AzblobConfig>(settings),
        Scheme::Cos => of::<services::CosConfig>(settings),
        Scheme::Obs => of::<services::ObsConfig>(settings),
        Scheme::Tos => of::<services::TosConfig>(settings),
        Scheme::Webhdfs => of::<services::WebhdfsConfig>(settings),
        Scheme::Http => of::<services::HttpConfig>(settings),
    }
}
