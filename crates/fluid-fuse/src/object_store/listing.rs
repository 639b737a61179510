//! Listings of directories, or parts of them, and the cached ones by prefix.
//!
//! Whether a listing is fresh enough to be trusted is decided in [`super::name_cache`].

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Instant;

use super::order::{ListOrder, OpenOrder};
use super::table::{Child, Table};

/// Parts of one directory's listing that are cached: each request for a name looks through them.
pub(super) const MAX_PARTS: usize = 64;

/// Bytes of a listing beside its table and its keys: the structures around them, and 64 for the entry of a map.
const LISTING_OVERHEAD: usize = size_of::<DirectoryListing>() + size_of::<CachedDirectory>() + 64;

/// A listing of a directory, or a part of it.
pub(super) struct DirectoryListing {
    /// When it was requested.
    pub(super) taken: Instant,
    pub(super) prefix: Box<str>,
    /// The listing begins behind this name; nothing if it begins with the first one.
    pub(super) after: Option<Box<str>>,
    /// The listing ends with this name; nothing if there are no more.
    more_after: Option<Box<str>>,
    pub(super) table: Table,
    /// When it was used last, by the clock of [`Directories`].
    used: AtomicU64,
    /// The hash of the name that was asked for last, and how often it changed.
    last: AtomicU64,
    hits: AtomicU64,
    /// The opens of its files.
    pub(super) open_order: Mutex<OpenOrder>,
    /// The listings of its directories.
    pub(super) list_order: Mutex<ListOrder>,
}

impl DirectoryListing {
    /// A listing of the names right below a prefix, between two names unless it begins with the first or ends with the last.
    pub(super) fn new(
        taken: Instant,
        prefix: &str,
        (after, more_after): (Option<&str>, Option<&str>),
        mut table: Table,
    ) -> Self {
        table.finish();
        DirectoryListing {
            taken,
            prefix: prefix.into(),
            after: after.map(Box::from),
            more_after: more_after.map(Box::from),
            table,
            used: AtomicU64::new(0),
            last: AtomicU64::new(u64::MAX),
            hits: AtomicU64::new(0),
            open_order: Mutex::default(),
            list_order: Mutex::default(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.table.len()
    }

    /// Whether the listing has all names of its directory.
    pub(super) fn is_complete(&self) -> bool {
        self.after.is_none() && self.more_after.is_none()
    }

    pub(super) fn index(&self, name: &str) -> Option<usize> {
        self.table.index(name)
    }

    pub(super) fn is_directory(&self, index: usize) -> bool {
        self.table.is_directory(index)
    }

    pub(super) fn child(&self, index: usize) -> Option<Child> {
        self.table.child(index, &self.prefix)
    }

    /// All names with their files and directories.
    pub(super) fn children(&self) -> impl Iterator<Item = (&str, Child)> {
        (0..self.len()).filter_map(|index| Some((self.table.name(index)?, self.child(index)?)))
    }

    /// The answer for a name, unless the listing does not have one; the answer may be that nothing has this name.
    pub(super) fn tells(&self, name: &str) -> Option<Option<Child>> {
        // The directory of an object's name may come later in the order of keys.
        let covered = self.covers(name);
        match self.index(name) {
            Some(index) if covered || self.is_directory(index) => self.child(index).map(Some),
            None if covered => Some(None),
            _ => None,
        }
    }

    /// Whether a name that is not listed exists neither as an object nor as a directory.
    fn covers(&self, name: &str) -> bool {
        self.after.as_deref().is_none_or(|after| name > after)
            && self.more_after.as_deref().is_none_or(|last| format!("{name}/").as_str() <= last)
    }

    /// Whether this part has all that another one has.
    fn replaces(&self, other: &DirectoryListing) -> bool {
        let begins = self.after.is_none() || other.after.is_some() && self.after <= other.after;
        let ends = match (&self.more_after, &other.more_after) {
            (None, _) => true,
            (Some(ours), Some(theirs)) => ours >= theirs,
            (Some(_), None) => false,
        };
        begins && ends
    }

    pub(super) fn bytes(&self) -> usize {
        let ends = [&self.after, &self.more_after];
        let ends: usize = ends.into_iter().flatten().map(|name| name.len()).sum();
        // The prefix is also the key in the map.
        LISTING_OVERHEAD + 2 * self.prefix.len() + ends + self.table.bytes()
    }

    /// Counts a request that was answered. Requests for the same name in a row count once.
    pub(super) fn hit(&self, name: &str) {
        let mut hasher = DefaultHasher::new();
        name.hash(&mut hasher);
        let name = hasher.finish();
        if self.last.swap(name, Ordering::Relaxed) != name {
            self.hits.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Whether it answered for more names than the one for which it was requested.
    pub(super) fn has_paid(&self) -> bool {
        self.hits.load(Ordering::Relaxed) > 1
    }
}

/// The cached listings, by prefix.
#[derive(Default)]
pub(super) struct Directories {
    pub(super) cached: HashMap<Box<str>, CachedDirectory>,
    pub(super) bytes: usize,
    /// Counts the uses of listings.
    pub(super) clock: u64,
    /// Counts the changes that earlier listings do not have.
    pub(super) changes: u64,
}

/// The parts of one directory's listing, the last used first, and counts of requests for its names.
#[derive(Default)]
pub(super) struct CachedDirectory {
    pub(super) parts: Vec<Arc<DirectoryListing>>,
    /// Requests for names that no part has, since one of the parts answered for several names.
    pub(super) requests: usize,
    /// The number of these after which the directory is listed.
    pub(super) patience: usize,
    /// Requests for single files since the last page, and the number after which the next page is requested.
    pub(super) single_requests: u32,
    pub(super) singles_before_page: u32,
    /// The last page that was requested for one name.
    pub(super) page: Option<Weak<DirectoryListing>>,
}

impl Directories {
    /// Notes that a part of a directory is used, and moves it to the front.
    pub(super) fn touch(
        clock: &mut u64,
        cached: &mut CachedDirectory,
        index: usize,
    ) -> Option<Arc<DirectoryListing>> {
        *clock += 1;
        cached.parts.get_mut(..=index)?.rotate_right(1);
        let part = cached.parts.first()?;
        part.used.store(*clock, Ordering::Relaxed);
        Some(Arc::clone(part))
    }

    /// The first part of a directory that meets a condition.
    pub(super) fn find(
        &mut self,
        prefix: &str,
        is_wanted: impl Fn(&DirectoryListing) -> bool,
    ) -> Option<Arc<DirectoryListing>> {
        let cached = self.cached.get_mut(prefix)?;
        let index = cached.parts.iter().position(|part| is_wanted(part))?;
        Self::touch(&mut self.clock, cached, index)
    }

    pub(super) fn retain(&mut self, is_kept: impl Fn(&DirectoryListing) -> bool) {
        let bytes = &mut self.bytes;
        self.cached.retain(|_, cached| {
            cached.parts.retain(|part| {
                let is_kept = is_kept(part);
                *bytes -= if is_kept { 0 } else { part.bytes() };
                is_kept
            });
            !cached.parts.is_empty()
        });
    }

    pub(super) fn remove(&mut self, prefix: &str) {
        if let Some(cached) = self.cached.remove(prefix) {
            self.bytes -= cached.parts.iter().map(|part| part.bytes()).sum::<usize>();
        }
    }

    pub(super) fn insert(&mut self, part: &Arc<DirectoryListing>) {
        self.clock += 1;
        part.used.store(self.clock, Ordering::Relaxed);
        let bytes = &mut self.bytes;
        *bytes += part.bytes();
        let cached = self.cached.entry(part.prefix.clone()).or_default();
        cached.parts.retain(|other| {
            let is_kept = !part.replaces(other);
            *bytes -= if is_kept { 0 } else { other.bytes() };
            is_kept
        });
        for evicted in cached.parts.drain(cached.parts.len().min(MAX_PARTS - 1)..) {
            *bytes -= evicted.bytes();
        }
        cached.parts.insert(0, Arc::clone(part));
        if part.is_complete() {
            *cached =
                CachedDirectory { parts: std::mem::take(&mut cached.parts), ..CachedDirectory::default() };
        }
    }

    /// Evicts the least recently used listings. It makes an eighth of the room free, since each time it sorts all listings.
    pub(super) fn shrink(&mut self, cap: usize) {
        if self.bytes <= cap {
            return;
        }
        let parts = self.cached.values().flat_map(|cached| &cached.parts);
        let mut uses: Vec<_> = parts.map(|part| (part.used.load(Ordering::Relaxed), part.bytes())).collect();
        uses.sort_unstable();
        let mut left = self.bytes;
        let mut last = 0;
        for (used, bytes) in uses {
            if left <= cap / 8 * 7 {
                break;
            }
            left -= bytes;
            last = used;
        }
        self.retain(|part| part.used.load(Ordering::Relaxed) > last);
    }
}
