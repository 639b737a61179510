//! Checks responses that list before opendal reads them.
//!
//! opendal reads a listing as a whole: one entry with an invalid date or a negative size makes it refuse the
//! directory, and one with a key outside of the prefix, or with a long ETag, makes it panic. So this module reads
//! each response first, removes invalid entries, and counts them. It also checks that a listing makes progress: no
//! page is requested twice, each page has a new name, and the listing as a whole has limits ([`crate::limits`]). It
//! knows the formats of listings, and not the meaning of keys.

mod entries;
mod json;
#[cfg(test)]
mod tests;
mod xml;

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::Ordering;

use fluid_sidecar_layout::source::Scheme;

use super::request::describe;
use crate::limits::{EMPTY_PAGES, ENTRY, Held, LISTING, PAGES};
use crate::limits::{SKIPPED, TIME_PER_ENTRY, Until};
use crate::store::StoreError;

/// Guards one listing while its pages arrive.
#[derive(Default)]
pub(super) struct ListingGuard {
    scheme: Option<Scheme>,
    /// The prefix of all keys.
    prefix: String,
    hasher: RandomState,
    requested_pages: HashSet<u64>,
    seen: HashSet<u64>,
    pub(super) pages: usize,
    /// Entries of all pages without those that were removed.
    pub(super) entries: usize,
    /// Whether the last page says that there are more.
    pub(super) is_truncated: bool,
    empty_pages: usize,
    bytes: usize,
    held: Held,
    /// Entries that were removed.
    pub(super) skipped: usize,
    /// The store says that there are more entries, and knows no tokens.
    pub(super) needs_markers: bool,
}

impl ListingGuard {
    /// Guards a listing of keys that begin with the prefix, as the store knows them.
    pub(super) fn new(scheme: Scheme, prefix: String) -> Self {
        ListingGuard { scheme: Some(scheme), prefix, ..Self::default() }
    }

    /// Checks a response, and removes its invalid entries.
    pub(super) fn take(&mut self, uri: &http::Uri, body: &mut Vec<u8>) -> Result<(), StoreError> {
        let found = match self.scheme {
            None | Some(Scheme::Http) => return Ok(()),
            Some(Scheme::Gcs) => json::google(body, &self.prefix)?,
            Some(Scheme::Webhdfs) => json::hdfs(body)?,
            _ => xml::xml(body, &self.prefix)?,
        };
        // Another response, such as that of a server of credentials.
        let Some(found) = found else { return Ok(()) };
        let failed =
            |reason: &str| StoreError::Failed(format!("{}: {reason}", describe(&http::Method::GET, uri)));
        if !self.requested_pages.insert(self.hasher.hash_one(uri.path_and_query())) {
            return Err(failed("the listing repeats itself: the store named the same page twice"));
        }
        let query = uri.query().unwrap_or_default();
        let asks_for_directories = ["delimiter=%2F", "delimiter=/"].iter().any(|ask| query.contains(ask));
        // opendal would take the content of these directories for nothing.
        if found.has_directories && !asks_for_directories {
            return Err(failed("the listing has directories although all keys were requested"));
        }
        self.pages += 1;
        self.entries += found.keys.len();
        self.is_truncated = found.is_truncated;
        // A store that knows only ListObjects takes the request for one. opendal would repeat it without end.
        let has_tokens = query.contains("list-type=2");
        if found.is_truncated && !found.has_token && has_tokens {
            self.needs_markers = self.pages == 1;
            return Err(failed("the listing is truncated, and has no token for the rest"));
        }
        let before = self.seen.len();
        for (key, bytes) in &found.keys {
            if self.seen.insert(self.hasher.hash_one(key)) {
                self.bytes += ENTRY + bytes;
            }
        }
        let new = self.seen.len() - before;
        self.empty_pages = if found.keys.is_empty() && found.skipped == 0 { self.empty_pages + 1 } else { 0 };
        SKIPPED.fetch_add(found.skipped as u64, Ordering::Relaxed);
        self.skipped += found.skipped;
        if new == 0 && !found.keys.is_empty() && self.pages > 1 {
            return Err(failed("the listing makes no progress: a page has only names of earlier ones"));
        }
        if self.pages > PAGES || self.empty_pages > EMPTY_PAGES {
            return Err(failed("the listing has too many pages"));
        }
        if self.bytes > LISTING {
            return Err(failed("the directory has too many names"));
        }
        if !self.held.take((new * ENTRY).min(LISTING)) {
            return Err(StoreError::Unavailable("too many large listings at a time".into()));
        }
        Until::put_off(TIME_PER_ENTRY * u32::try_from(new).unwrap_or(u32::MAX));
        Ok(())
    }
}

impl ListingGuard {
    /// Forgets the names of earlier pages: a caller that goes on with the listing does not keep them, and checks
    /// their order.
    pub(super) fn forget_names(&mut self) {
        self.seen = HashSet::new();
        (self.entries, self.bytes, self.skipped, self.held) = (0, 0, 0, Held::default());
    }

    /// Whether no response was a listing, so that there may be objects although there are no entries.
    pub(super) fn is_none(&self) -> bool {
        let is_xml =
            !matches!(self.scheme, None | Some(Scheme::Http | Scheme::Webhdfs | Scheme::Gcs | Scheme::Tos));
        is_xml && self.pages == 0
    }
}
