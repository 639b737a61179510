//! The files of a web server, which has no listings.
//!
//! Decides which files a directory has: those of the manifest, if the options name one, or those of the page that the
//! server shows for the directory. Links count that lead right below the directory, however they are written. Sizes
//! and times that a page does not have are requested, file by file. A file is left out, counted and logged once if
//! the server does not tell its size, or if its requests fail again and again while the server answers others. This
//! module does not retry. If a listing failed during these requests, the next call for it requests the rest. A
//! manifest is read again after half of the time for which names are trusted, and the last one stays in use while it
//! cannot be read.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use log::warn;
use opendal::raw::percent_encode_path;
use url::Url;

use super::index_page::{self, FileEntry};
use super::location::StoreLocation;
use super::manifest;
use super::{Item, Version};
use crate::limits::{SKIPPED, TIME_PER_QUESTION, Until};
use crate::store::StoreError;
use crate::sync::lock;

/// Time between two attempts to read a manifest that could not be read.
const MANIFEST_RETRY_INTERVAL: Duration = Duration::from_secs(5);

/// Requests for a file that may get no response before the file is left out.
const MAX_ATTEMPTS: u32 = 3;

/// Files in a row without a response, after which the server is taken to be the reason.
const FAILED_IN_A_ROW: usize = 8;

/// The requests for one file may take 1/`SHARE` of the time that is left for the listing.
const SHARE: u32 = 4;

/// Largest number of different warnings of one index.
const MAX_WARNINGS: usize = 1000;

/// Whether a request carries the credentials of the options.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// It does.
    WithCredentials,
    /// It does not.
    Anonymous,
}

/// The requests that an index makes.
pub(super) trait FileServer {
    /// The present version of a file.
    fn head(&self, key: &str) -> Result<Version, StoreError>;

    /// The text at a URL.
    fn text(&self, uri: &http::Uri, access: Access) -> Result<String, StoreError>;

    /// How long a response may take.
    fn io_timeout(&self) -> Duration;
}

/// The source of the names.
pub(super) struct Index {
    /// The URL of the root, ending with `/`.
    base: String,
    manifest: Option<String>,
    /// How long a manifest is trusted, and how long the state of a listing that failed is kept.
    ttl: Duration,
    manifest_cache: Mutex<Option<CachedManifest>>,
    /// Listings that failed, by their prefixes.
    unfinished: Mutex<HashMap<String, Unfinished>>,
    /// Warnings that were logged, so that each is logged once.
    warned: Mutex<HashSet<String>>,
}

/// The files of a manifest, until it is read again.
#[derive(Clone)]
struct CachedManifest {
    files: Arc<BTreeMap<String, FileEntry>>,
    since: Instant,
    ttl: Duration,
}

/// A listing some of whose entries are not known yet.
struct Unfinished {
    begun: Instant,
    names: VecDeque<(String, FileEntry)>,
    items: Vec<Item>,
    /// Number of requests without a response, by file.
    failed: HashMap<String, u32>,
    /// Number of files that were left out, and the reason for the last one.
    omitted: usize,
    reason: String,
}

impl Unfinished {
    fn omit(&mut self, key: &str, error: &StoreError) {
        self.omitted += 1;
        self.reason = format!("{key:?}: {error}");
    }
}

impl Index {
    /// Makes the index of a location. `ttl` is how long names are trusted.
    pub(super) fn new(location: &StoreLocation, ttl: Duration) -> Self {
        let setting = |name: &str| location.settings.get(name).map(String::as_str).unwrap_or_default();
        let root = percent_encode_path(setting("root").trim_end_matches('/'));
        let base = format!("{}{root}/", setting("endpoint"));
        Self {
            base,
            manifest: location.manifest.clone(),
            // A directory that is listed again after `ttl` gets another manifest than before.
            ttl: ttl / 2,
            manifest_cache: Mutex::default(),
            unfinished: Mutex::default(),
            warned: Mutex::default(),
        }
    }

    /// Takes over the warnings, and the cached manifest if it is the same one.
    pub(super) fn inherit(&self, from: &Self) {
        *lock(&self.warned) = std::mem::take(&mut lock(&from.warned));
        if self.manifest == from.manifest {
            let known = lock(&from.manifest_cache).clone();
            *lock(&self.manifest_cache) = known;
        }
    }

    pub(super) fn list(
        &self,
        server: &dyn FileServer,
        prefix: &str,
        page: &mut dyn FnMut(Vec<Item>) -> ControlFlow<()>,
    ) -> Result<bool, StoreError> {
        let mut listing = match self.take_unfinished(prefix) {
            Some(unfinished) => unfinished,
            None => Unfinished {
                begun: Instant::now(),
                names: self.names(server, prefix)?.into_iter().collect(),
                items: Vec::new(),
                failed: HashMap::new(),
                omitted: 0,
                reason: String::new(),
            },
        };
        if let Err(error) = self.complete(server, prefix, &mut listing) {
            lock(&self.unfinished).insert(prefix.to_string(), listing);
            return Err(error);
        }
        if listing.omitted > 0 {
            SKIPPED.fetch_add(listing.omitted as u64, Ordering::Relaxed);
            let directory = crate::plain::shown_url(&self.url(prefix));
            self.warn_once(format!(
                "{directory}: {} files are not shown, such as {}",
                listing.omitted, listing.reason
            ));
        }
        if !listing.items.is_empty() {
            let _ = page(listing.items);
        }
        Ok(true)
    }

    /// Requests the files whose sizes are not known yet.
    fn complete(
        &self,
        server: &dyn FileServer,
        prefix: &str,
        listing: &mut Unfinished,
    ) -> Result<(), StoreError> {
        let mut failed_in_a_row = 0;
        while let Some((name, line)) = listing.names.pop_front() {
            let key = format!("{prefix}{name}");
            if name.ends_with('/') {
                listing.items.push(Item::Prefix(key));
                continue;
            }
            if let Some(size) = line.size {
                let modified = line.modified.unwrap_or(SystemTime::UNIX_EPOCH);
                listing.items.push(Item::Object(Version { key, size, etag: line.etag, modified }));
                continue;
            }
            let version = {
                let most = Until::left(server.io_timeout()) / SHARE;
                let _until = Until::set(Instant::now() + most);
                server.head(&key)
            };
            match version {
                Ok(version) => {
                    failed_in_a_row = 0;
                    Until::put_off(TIME_PER_QUESTION);
                    listing.items.push(Item::Object(version));
                }
                Err(error @ StoreError::Unavailable(_)) => {
                    let attempts = listing.failed.entry(name.clone()).or_default();
                    *attempts += 1;
                    // A server that still shows the page works.
                    if *attempts >= MAX_ATTEMPTS && self.names(server, prefix).is_ok() {
                        listing.omit(&key, &error);
                        continue;
                    }
                    listing.names.push_back((name, line));
                    failed_in_a_row += 1;
                    if failed_in_a_row >= FAILED_IN_A_ROW.min(listing.names.len()) {
                        return Err(error);
                    }
                }
                Err(error) => listing.omit(&key, &error),
            }
        }
        Ok(())
    }

    /// Logs a warning, unless it was logged before.
    fn warn_once(&self, message: String) {
        let mut warned = lock(&self.warned);
        if warned.len() < MAX_WARNINGS && !warned.contains(&message) {
            warn!("{message}");
            warned.insert(message);
        }
    }

    /// Whether the server's page still has the same size and time of a file. A manifest is not the server's statement
    /// about the file, and most pages have neither its size nor its time.
    pub(super) fn still_lists(&self, server: &dyn FileServer, version: &Version) -> Result<bool, StoreError> {
        if self.manifest.is_some() || version.etag.is_some() {
            return Ok(false);
        }
        let (directory, name) = version.key.split_at(version.key.rfind('/').map_or(0, |slash| slash + 1));
        let line = self.names(server, directory)?.remove(name).unwrap_or_default();
        Ok(line.size == Some(version.size) && line.modified == version.date())
    }

    /// The state of a listing that failed a short time ago.
    fn take_unfinished(&self, prefix: &str) -> Option<Unfinished> {
        let mut unfinished = lock(&self.unfinished);
        unfinished.retain(|_, listing| listing.begun.elapsed() < self.ttl);
        unfinished.remove(prefix)
    }

    /// The names right below a prefix.
    fn names(
        &self,
        server: &dyn FileServer,
        prefix: &str,
    ) -> Result<BTreeMap<String, FileEntry>, StoreError> {
        if let Some(manifest) = &self.manifest {
            return Ok(manifest::below(&*self.files(server, manifest)?, prefix));
        }
        let url = self.url(prefix);
        let page = match self.document(server, &url) {
            Err(StoreError::NotFound) if !prefix.is_empty() => return Ok(BTreeMap::new()),
            Err(StoreError::NotFound) => {
                return Err(StoreError::NoBucket(format!("GET {}: 404", crate::plain::shown_url(&url))));
            }
            page => page?,
        };
        let page_url = Url::parse(&url).map_err(|_| StoreError::Failed("not a URL".to_string()))?;
        let index = index_page::parse(&page, &page_url);
        if index.names.is_empty() && !index.is_index && !page.trim().is_empty() {
            self.warn_once(format!(
                "GET {}: its text of {} bytes has no link to anything in that directory, so it is shown empty: \
                 it may be no index, or made by a script (the option \"manifest\" can name the files)",
                crate::plain::shown_url(&url),
                page.len()
            ));
        }
        Ok(index.names)
    }

    fn url(&self, prefix: &str) -> String {
        format!("{}{}", self.base, percent_encode_path(prefix))
    }

    /// The files of the manifest, or those of the last one if it cannot be read now.
    fn files(
        &self,
        server: &dyn FileServer,
        manifest: &str,
    ) -> Result<Arc<BTreeMap<String, FileEntry>>, StoreError> {
        let before = {
            let mut known = lock(&self.manifest_cache);
            if let Some(known) = known.as_mut() {
                if known.since.elapsed() < known.ttl {
                    return Ok(known.files.clone());
                }
                // Other threads use the last manifest while this one reads.
                (known.since, known.ttl) = (Instant::now(), MANIFEST_RETRY_INTERVAL.min(self.ttl));
            }
            known.as_ref().map(|known| known.files.clone())
        };
        let since = Instant::now();
        let text = match manifest.contains("://") {
            true => self.document(server, manifest),
            false => manifest::read_file(Path::new(manifest))
                .map_err(|error| StoreError::Failed(format!("the manifest {manifest}: {error}"))),
        };
        match (text, before) {
            (Ok(text), _) => {
                let files = Arc::new(manifest::parse(&text));
                *lock(&self.manifest_cache) =
                    Some(CachedManifest { files: files.clone(), since, ttl: self.ttl });
                Ok(files)
            }
            (Err(error), Some(files)) => {
                warn!("the manifest cannot be read again, so it is trusted for longer: {error}");
                if let Some(known) = lock(&self.manifest_cache).as_mut() {
                    (known.since, known.ttl) = (Instant::now(), MANIFEST_RETRY_INTERVAL.min(self.ttl));
                }
                Ok(files)
            }
            (Err(error), None) => Err(error),
        }
    }

    fn document(&self, server: &dyn FileServer, url: &str) -> Result<String, StoreError> {
        let uri = url.parse().map_err(|_| StoreError::Failed("not a URL".to_string()))?;
        // Credentials of one server are not sent to another.
        let access = match url.starts_with(&self.base) {
            true => Access::WithCredentials,
            false => Access::Anonymous,
        };
        server.text(&uri, access)
    }
}
