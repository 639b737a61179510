//! The files of a plain HTTP server, which knows no listings.
//!
//! Decides what a directory has: from the manifest, if the options name one, or else from what the server shows
//! for the directory, as Apache, nginx (HTML or JSON) and others do. Links count that lead right below the
//! directory, however they are written; sizes and times that a page does not tell are asked for, one by one. A file of
//! which the server does not tell them is left out, counted and said once, and so is one that fails again and again while
//! the server answers otherwise. It does not retry, but who asks again for a listing that failed among these gets the
//! rest of it asked for. A manifest is read again as names are, and is as good as it was while it cannot be read.

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
use crate::inodes::lock;
use crate::limits::{SKIPPED, TIME_PER_QUESTION, Until};
use crate::store::StoreError;

/// Between two times that a manifest is tried that could not be read.
const AGAIN: Duration = Duration::from_secs(5);

/// How often a file is asked about that gets no answer, before it is left out.
const ATTEMPTS: u32 = 3;

/// Files in a row without an answer, after which the server is taken to be the reason.
const FAILED_IN_A_ROW: usize = 8;

/// The part of the time for a listing that one file may take of what is left.
const SHARE: u32 = 4;

/// Pages about which something was said, after which nothing more is.
const SAID: usize = 1000;

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

/// Where the names come from.
pub(super) struct Index {
    /// The URL of the root, ending with `/`.
    base: String,
    manifest: Option<String>,
    /// How long a manifest is trusted, and what is known of a listing that failed.
    trust: Duration,
    known: Mutex<Option<CachedManifest>>,
    /// Listings that failed, by their prefixes.
    unfinished: Mutex<HashMap<String, Unfinished>>,
    /// What was said, so that it is not said again.
    said: Mutex<HashSet<String>>,
}

/// What a manifest said, until it is read again.
#[derive(Clone)]
struct CachedManifest {
    files: Arc<BTreeMap<String, FileEntry>>,
    since: Instant,
    trust: Duration,
}

/// A listing whose entries are not all known yet.
struct Unfinished {
    begun: Instant,
    names: VecDeque<(String, FileEntry)>,
    items: Vec<Item>,
    /// How often files got no answer.
    failed: HashMap<String, u32>,
    /// How many were left out, and why the last.
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
    /// Names are trusted for that time.
    pub(super) fn new(location: &StoreLocation, ttl: Duration) -> Self {
        let setting = |name: &str| location.settings.get(name).map(String::as_str).unwrap_or_default();
        let root = percent_encode_path(setting("root").trim_end_matches('/'));
        let base = format!("{}{root}/", setting("endpoint"));
        Self {
            base,
            manifest: location.manifest.clone(),
            // Who lists a directory again after all of the time finds another manifest than before.
            trust: ttl / 2,
            known: Mutex::default(),
            unfinished: Mutex::default(),
            said: Mutex::default(),
        }
    }

    /// Takes over what was said, and what is known of the same manifest.
    pub(super) fn inherit(&self, from: &Self) {
        *lock(&self.said) = std::mem::take(&mut lock(&from.said));
        if self.manifest == from.manifest {
            let known = lock(&from.known).clone();
            *lock(&self.known) = known;
        }
    }

    pub(super) fn list(
        &self,
        server: &dyn FileServer,
        prefix: &str,
        page: &mut dyn FnMut(Vec<Item>) -> ControlFlow<()>,
    ) -> Result<bool, StoreError> {
        let mut listing = match self.begun(prefix) {
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
            let directory = crate::watch::shown(&self.url(prefix));
            self.say(format!(
                "{directory}: {} files are not shown, such as {}",
                listing.omitted, listing.reason
            ));
        }
        if !listing.items.is_empty() {
            let _ = page(listing.items);
        }
        Ok(true)
    }

    /// Asks about the files of which nothing is known yet.
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
            let asked = {
                let most = Until::left(server.io_timeout()) / SHARE;
                let _until = Until::set(Instant::now() + most);
                server.head(&key)
            };
            match asked {
                Ok(version) => {
                    failed_in_a_row = 0;
                    Until::put_off(TIME_PER_QUESTION);
                    listing.items.push(Item::Object(version));
                }
                Err(error @ StoreError::Unavailable(_)) => {
                    let attempts = listing.failed.entry(name.clone()).or_default();
                    *attempts += 1;
                    // Who still shows the page is well.
                    if *attempts >= ATTEMPTS && self.names(server, prefix).is_ok() {
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

    /// Says something once.
    fn say(&self, what: String) {
        let mut said = lock(&self.said);
        if said.len() < SAID && !said.contains(&what) {
            warn!("{what}");
            said.insert(what);
        }
    }

    /// Whether the server's page still says of a file what it said before. A manifest is nobody's answer for the file,
    /// and most pages tell neither its size nor its time.
    pub(super) fn still_says(&self, server: &dyn FileServer, version: &Version) -> Result<bool, StoreError> {
        if self.manifest.is_some() || version.etag.is_some() {
            return Ok(false);
        }
        let (directory, name) = version.key.split_at(version.key.rfind('/').map_or(0, |slash| slash + 1));
        let line = self.names(server, directory)?.remove(name).unwrap_or_default();
        Ok(line.size == Some(version.size) && line.modified == version.date())
    }

    /// What a listing that failed just now has found.
    fn begun(&self, prefix: &str) -> Option<Unfinished> {
        let mut unfinished = lock(&self.unfinished);
        unfinished.retain(|_, listing| listing.begun.elapsed() < self.trust);
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
                return Err(StoreError::NoBucket(format!("GET {}: 404", crate::watch::shown(&url))));
            }
            page => page?,
        };
        let page_url = Url::parse(&url).map_err(|_| StoreError::Failed("not a URL".to_string()))?;
        let index = index_page::parse(&page, &page_url);
        if index.names.is_empty() && !index.is_index && !page.trim().is_empty() {
            self.say(format!(
                "GET {}: its text of {} bytes has no link to anything in that directory, so it is shown empty: \
                 it may be no index, or made by a script (the option \"manifest\" can name the files)",
                crate::watch::shown(&url),
                page.len()
            ));
        }
        Ok(index.names)
    }

    fn url(&self, prefix: &str) -> String {
        format!("{}{}", self.base, percent_encode_path(prefix))
    }

    /// What the manifest says; what it said, if it cannot be read now.
    fn files(
        &self,
        server: &dyn FileServer,
        manifest: &str,
    ) -> Result<Arc<BTreeMap<String, FileEntry>>, StoreError> {
        let before = {
            let mut known = lock(&self.known);
            if let Some(known) = known.as_mut() {
                if known.since.elapsed() < known.trust {
                    return Ok(known.files.clone());
                }
                // Until it is read, or cannot be, others need not wait.
                (known.since, known.trust) = (Instant::now(), AGAIN.min(self.trust));
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
                *lock(&self.known) = Some(CachedManifest { files: files.clone(), since, trust: self.trust });
                Ok(files)
            }
            (Err(error), Some(files)) => {
                warn!("the manifest cannot be read again, so it is trusted for longer: {error}");
                if let Some(known) = lock(&self.known).as_mut() {
                    (known.since, known.trust) = (Instant::now(), AGAIN.min(self.trust));
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
