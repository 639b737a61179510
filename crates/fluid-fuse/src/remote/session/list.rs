//! Listings of a session, page by page.

use std::future::poll_fn;
use std::ops::ControlFlow;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::time::Instant;

use fluid_sidecar_layout::source::Scheme;
use futures_core::Stream;
use log::{info, warn};
use opendal::options::ListOptions;
use opendal::{Entry, EntryMode, Operator};

use super::open::{PausedListing, Session, operator, to_path};
use crate::limits::Until;
use crate::remote::executor::{block_on, block_on_listing};
use crate::remote::listing::ListingGuard;
use crate::remote::{Depth, Item, Page, Version};
use crate::store::StoreError;
use crate::sync::lock;

/// Entries that are passed on together, as many as a page of most stores has.
const PAGE_SIZE: usize = 1000;

/// Largest number of paused flat listings, for stores that cannot begin a listing at a key: one for each concurrent
/// walk.
const MAX_PAUSED: usize = 4;

/// Pages of such a listing that are skipped to get to a key.
const MAX_SKIPPED_PAGES: usize = 5;

impl Session {
    pub(in crate::remote) fn list(
        &self,
        prefix: &str,
        page: &mut dyn FnMut(Vec<Item>) -> ControlFlow<()>,
    ) -> Result<bool, StoreError> {
        // `io_timeout` is for one page. A listing makes progress, which extends its deadline.
        let _until = Until::moment().is_none().then(|| Until::set(Instant::now() + self.io_timeout));
        if let Some(index) = &self.index {
            return index.list(self, prefix, page);
        }
        let mut guard = ListingGuard::new(self.location.scheme, format!("{}{prefix}", self.root()));
        let mut listed = self.list_pages(prefix, &mut guard, page);
        if guard.needs_markers && !self.quirks.lists_by_markers.swap(true, Ordering::Relaxed) {
            info!("{}: listings have no tokens, so they are requested by markers", self.location.url);
            guard = ListingGuard::new(self.location.scheme, format!("{}{prefix}", self.root()));
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
        let path = if prefix.is_empty() { "/" } else { to_path(prefix)? };
        let url = || self.object_url(prefix);
        let options = ListOptions::default();
        let mut entries = block_on(url, self.lister()?.lister_options(path, options))?;
        let mut items = Vec::new();
        loop {
            let next = poll_fn(|context| Pin::new(&mut entries).poll_next(context));
            let entry = match block_on_listing(guard, url, async { next.await.transpose() }) {
                // Some stores answer 404 for a prefix without keys.
                Err(StoreError::NotFound) if !self.listed_is_empty() => None,
                // At other stores, a prefix without keys is an empty listing.
                Err(StoreError::NotFound) => return Err(StoreError::NoBucket(format!("{}: 404", url()))),
                entry => entry?,
            };
            if guard.is_none() && entry.is_none() {
                return Err(StoreError::Failed(format!(
                    "LIST {}: the response is no listing: check the option endpoint",
                    url()
                )));
            }
            let full = items.len() >= PAGE_SIZE;
            let done = entry.is_none();
            if (full || done) && !items.is_empty() && page(std::mem::take(&mut items)).is_break() {
                return Ok(done);
            }
            let Some(entry) = entry else { return Ok(true) };
            items.extend(self.item(prefix, &entry));
        }
    }

    /// The item of an entry, unless it is the bucket itself.
    fn item(&self, prefix: &str, entry: &Entry) -> Option<Item> {
        let (key, found) = (entry.path(), entry.metadata());
        match found.mode() {
            EntryMode::DIR if key != prefix => Some(Item::Prefix(key.to_string())),
            _ if key == "/" => None,
            _ => Some(Item::Object(self.version(key.to_string(), found))),
        }
    }

    pub(in crate::remote) fn list_page(
        &self,
        prefix: &str,
        after: Option<&str>,
        depth: Depth,
    ) -> Result<Page, StoreError> {
        let capability = self.operator.info().capability();
        let is_possible = capability.list_with_recursive
            && !matches!(self.location.scheme, Scheme::Http | Scheme::Webhdfs)
            // `listing` does not read these responses, so the ends of their pages are not known.
            && self.location.scheme != Scheme::Tos;
        let begins_anywhere =
            capability.list_with_start_after && !self.quirks.ignores_start.load(Ordering::Relaxed);
        let _until = Until::moment().is_none().then(|| Until::set(Instant::now() + self.io_timeout));
        match depth {
            _ if is_possible && begins_anywhere => {
                let mut pages = self.pages(prefix, after, depth)?;
                let page = self.next_page(&mut pages)?;
                if page.items.iter().any(|item| !is_behind(item, after, depth)) {
                    if !self.quirks.ignores_start.swap(true, Ordering::Relaxed) {
                        info!("{}: listings do not begin at the requested key", self.location.url);
                    }
                    return Err(StoreError::Failed("the listing does not begin behind the key".into()));
                }
                Ok(page)
            }
            Depth::All if is_possible => self.go_on(prefix, after),
            _ => Err(StoreError::Unsupported("a listing from a key on")),
        }
    }

    /// The next page of a flat listing, at a store that can only go on from page to page.
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
        for _ in 0..MAX_SKIPPED_PAGES {
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
                paused.truncate(MAX_PAUSED - 1);
                paused.insert(0, pages);
            }
            return Ok(page);
        }
        Err(StoreError::Failed("the listing is too far from there".into()))
    }

    fn pages(&self, prefix: &str, after: Option<&str>, depth: Depth) -> Result<PausedListing, StoreError> {
        let guard = ListingGuard::new(self.location.scheme, format!("{}{prefix}", self.root()));
        let path = if prefix.is_empty() { "/" } else { to_path(prefix)? };
        let (recursive, start_after) = (depth == Depth::All, after.map(str::to_string));
        let options = ListOptions { recursive, start_after, ..ListOptions::default() };
        let entries = block_on(|| self.object_url(prefix), self.lister()?.lister_options(path, options))?;
        Ok(PausedListing { prefix: prefix.to_string(), at: None, entries, guard })
    }

    fn next_page(&self, pages: &mut PausedListing) -> Result<Page, StoreError> {
        let PausedListing { prefix, entries, guard, .. } = pages;
        let url = || self.object_url(prefix);
        guard.forget_names();
        let (mut items, mut taken, mut more) = (Vec::new(), 0, false);
        while taken == 0 || taken < guard.entries {
            let page = guard.pages;
            let next = poll_fn(|context| Pin::new(&mut *entries).poll_next(context));
            let entry = match block_on_listing(guard, url, async { next.await.transpose() }) {
                Err(StoreError::NotFound) => return Err(StoreError::NoBucket(format!("{}: 404", url()))),
                entry => entry?,
            };
            let Some(entry) = entry.filter(|_| taken == 0 || guard.pages == page) else { break };
            taken += 1;
            more = guard.is_truncated;
            items.extend(self.item(prefix, &entry));
        }
        if guard.is_none() {
            return Err(StoreError::Failed(format!("LIST {}: the response is no listing", url())));
        }
        warn_of_skipped(prefix, guard);
        let more_after = items.iter().map(Item::key).max().filter(|_| more).map(str::to_string);
        Ok(Page { items, more_after })
    }

    /// The operator for listings.
    fn lister(&self) -> Result<&Operator, StoreError> {
        if !self.quirks.lists_by_markers.load(Ordering::Relaxed) {
            return Ok(&self.operator);
        }
        if let Some(lister) = self.lister_by_markers.get() {
            return Ok(lister);
        }
        let mut settings = self.location.settings.clone();
        settings.insert("disable_list_objects_v2".to_string(), "true".to_string());
        let lister = operator(self.location.scheme, settings, self.signer.as_ref())
            .map_err(|error| StoreError::Failed(error.to_string()))?;
        Ok(self.lister_by_markers.get_or_init(|| lister.with_context(self.context().clone())))
    }

    /// The version of one object in a listing.
    pub(super) fn listed(&self, key: &str) -> Result<Option<Version>, StoreError> {
        let mut guard = ListingGuard::new(self.location.scheme, format!("{}{key}", self.root()));
        let options = ListOptions { limit: Some(1), ..ListOptions::default() };
        let url = || self.object_url(key);
        let mut entries = block_on(url, self.lister()?.lister_options(to_path(key)?, options))?;
        let next = poll_fn(|context| Pin::new(&mut entries).poll_next(context));
        // In the store's order, the key comes first among those that begin with it.
        let entry = block_on_listing(&mut guard, url, async { next.await.transpose() })?;
        Ok(entry
            .filter(|entry| entry.path() == key)
            .map(|entry| self.version(key.to_string(), entry.metadata())))
    }

    /// Whether this store lists a prefix without keys as empty, so that "not found" means the bucket.
    fn listed_is_empty(&self) -> bool {
        self.location.scheme != Scheme::Webhdfs
    }
}

/// Whether an item is behind the key at which the listing begins.
fn is_behind(item: &Item, after: Option<&str>, depth: Depth) -> bool {
    let is_rolled_up = depth == Depth::One && matches!(item, Item::Prefix(_));
    // A prefix with keys before and behind `after` is listed again.
    after.is_none_or(|after| item.key() > after || is_rolled_up && after.starts_with(item.key()))
}

fn warn_of_skipped(prefix: &str, guard: &ListingGuard) {
    if guard.skipped > 0 {
        warn!("{} entries below {prefix:?} cannot be what they say and are not shown", guard.skipped);
    }
}
