//! Walks: programs that list the directories below one directory in turn (`find`, `du`, `rsync`, `os.walk`).
//!
//! The directory above them is then listed flat, page by page, and each page fills all directories whose keys it has. An
//! operation that waits for a directory requests the next page, so nothing is requested after the program has ended. Keys
//! come in order, so a directory is complete once a key behind it was seen. A walk is abandoned, and directories are listed
//! one by one, if its pages do not have the directories that are asked for, or if the store fails such listings or does
//! not keep the order.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use log::{debug, info};

use super::ObjectStore;
use super::keys::{LARGEST_FILE, count_hidden, is_name, is_reachable, split};
use super::listing::DirectoryListing;
use super::name_cache::{WALK_SHARE, WALKS};
use super::table::{Child, Table};
use crate::limits::{TIME_PER_ENTRY, Until};
use crate::remote::{Depth, Item, Page};
use crate::store::StoreError;
use crate::sync::lock;

/// Directories that are listed in order before it is a walk: the third one begins it.
const DIRECTORIES_IN_ORDER: usize = 2;

/// Pages in a row that may have nothing for the operation that waits.
const MAX_USELESS_PAGES: usize = 2;

/// Directories in a row that pages did not complete until the walk is abandoned.
const MAX_IN_VAIN: usize = 2;

/// Time until a directory whose walk was abandoned may be listed flat again.
const ABANDONED_FOR: Duration = Duration::from_secs(60);

/// How much of a directory is listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ListExtent {
    All,
    /// At most that many pages, and no more than the cache keeps.
    Pages(usize),
}

/// The walks that are under way.
#[derive(Default)]
pub(super) struct Walks {
    /// The walks, by the prefix of the directory that is listed flat.
    by_root: Mutex<HashMap<String, Arc<Mutex<Walk>>>>,
    /// Whether the store cannot list flat, or not in order.
    are_impossible: AtomicBool,
}

/// A flat listing.
struct Walk {
    /// The last key that was listed.
    at: String,
    /// The directories that have this key, the outermost first.
    inside: Vec<Inside>,
    /// [`NameCache::changes`](super::name_cache::NameCache::changes) when the directories of `inside` were begun.
    changes: u64,
    /// Directories in a row that its pages did not complete.
    vain: usize,
    used: Instant,
    /// When it was abandoned.
    abandoned: Option<Instant>,
}

/// A directory that is listed in part.
struct Inside {
    prefix: String,
    taken: Instant,
    /// Its names, unless the flat listing began in the middle of it.
    table: Option<Table>,
}

impl Walk {
    fn new() -> Self {
        let (at, inside) = (String::new(), Vec::new());
        Walk { at, inside, changes: 0, vain: 0, used: Instant::now(), abandoned: None }
    }

    fn is_abandoned(&self) -> bool {
        self.abandoned.is_some_and(|since| since.elapsed() < ABANDONED_FOR)
    }

    fn abandon(&mut self) {
        self.abandoned = Some(Instant::now());
        self.inside = Vec::new();
    }

    /// Whether the next pages will complete a directory.
    fn leads_to(&self, prefix: &str) -> bool {
        match self.inside.iter().find(|inside| inside.prefix == prefix) {
            Some(inside) => inside.table.is_some(),
            None => prefix > self.at.as_str() && self.vain == 0 && !self.at.is_empty(),
        }
    }

    /// Begins the flat listing anew, with the keys of a directory.
    fn begin(&mut self, root: &str, prefix: &str) {
        let taken = Instant::now();
        self.at = prefix.to_string();
        let below = prefix.get(root.len()..).unwrap_or_default();
        let ends = below.match_indices('/').map(|(slash, _)| root.len() + slash + 1);
        self.inside = ends
            .map(|end| Inside {
                prefix: prefix.get(..end).unwrap_or_default().to_string(),
                taken,
                table: (end == prefix.len()).then(Table::default),
            })
            .collect();
    }

    /// Adds a name to the innermost directory.
    fn add(&mut self, name: &str, child: &Child) -> Result<(), StoreError> {
        match self.inside.last_mut().and_then(|inside| inside.table.as_mut()) {
            Some(table) => table.push(name, child),
            None => Ok(()),
        }
    }

    fn bytes(&self) -> usize {
        self.inside.iter().filter_map(|inside| inside.table.as_ref()).map(Table::bytes).sum()
    }
}

impl ObjectStore {
    /// The listing of a directory, if a walk leads to it.
    pub(super) fn walk(&self, prefix: &str, extent: ListExtent) -> Option<Arc<DirectoryListing>> {
        if self.walks.are_impossible.load(Ordering::Relaxed) || prefix.is_empty() {
            return None;
        }
        let (root, walk) = self.walk_to(prefix)?;
        let mut walk = lock(&walk);
        if let Some(listing) = self.names.complete(prefix) {
            return Some(listing);
        }
        if walk.is_abandoned() {
            return None;
        }
        let listing = self.go_on(&mut walk, &root, prefix, extent);
        walk.used = Instant::now();
        if let Err(error) = &listing {
            debug!("{root:?} is not listed flat: {error}");
        }
        let listing = listing.ok().flatten();
        walk.vain = if listing.is_some() { 0 } else { walk.vain + 1 };
        if walk.vain >= MAX_IN_VAIN {
            debug!("listing {root:?} flat does not pay");
            walk.abandon();
        }
        listing
    }

    /// The outermost walk that a directory belongs to. It may begin with this directory.
    fn walk_to(&self, prefix: &str) -> Option<(String, Arc<Mutex<Walk>>)> {
        let parent = split(prefix.strip_suffix('/')?).0;
        let mut by_root = lock(&self.walks.by_root);
        let is_abandoned = |walk: &Arc<Mutex<Walk>>| walk.try_lock().is_ok_and(|walk| walk.is_abandoned());
        let ends = prefix.match_indices('/').map(|(slash, _)| slash + 1);
        for root in std::iter::once(0).chain(ends).filter_map(|end| prefix.get(..end)) {
            let walk = by_root.get(root).filter(|walk| root != prefix && !is_abandoned(walk));
            if let Some(walk) = walk {
                return Some((root.to_string(), Arc::clone(walk)));
            }
        }
        let (listing, index) = self.names.listed(parent, prefix.get(parent.len()..prefix.len() - 1)?)?;
        let steps = lock(&listing.list_order).list(index, |index| listing.is_directory(index));
        if steps < DIRECTORIES_IN_ORDER || by_root.contains_key(parent) {
            return None;
        }
        // Directories below belong to this walk from now on.
        by_root.retain(|root, _| !root.starts_with(parent));
        if by_root.len() >= WALKS {
            let used = |walk: &Mutex<Walk>| walk.try_lock().map_or_else(|_| Instant::now(), |walk| walk.used);
            let oldest = by_root.iter().min_by_key(|(_, walk)| used(walk)).map(|(root, _)| root.clone());
            by_root.remove(&oldest?);
        }
        debug!("listing {parent:?} flat");
        let walk = Arc::new(Mutex::new(Walk::new()));
        by_root.insert(parent.to_string(), Arc::clone(&walk));
        Some((parent.to_string(), walk))
    }

    /// Lists pages until they complete a directory; nothing if they do not.
    fn go_on(
        &self,
        walk: &mut Walk,
        root: &str,
        prefix: &str,
        extent: ListExtent,
    ) -> Result<Option<Arc<DirectoryListing>>, StoreError> {
        let mut useless_pages = 0;
        loop {
            let changes = self.names.changes();
            if walk.changes != changes || !walk.leads_to(prefix) {
                walk.begin(root, prefix);
                walk.changes = changes;
            }
            let taken = Instant::now();
            let page = {
                // The directory can still be listed by itself before the deadline.
                let _until = Until::moment()
                    .map(|until| Until::set(taken + until.saturating_duration_since(taken) / 2));
                self.bucket.list_page(root, Some(&walk.at), Depth::All)
            };
            let page = match page {
                Err(error @ StoreError::Unsupported(_)) => {
                    self.walks.are_impossible.store(true, Ordering::Relaxed);
                    return Err(error);
                }
                page => page?,
            };
            Until::put_off(TIME_PER_ENTRY * u32::try_from(page.items.len()).unwrap_or(u32::MAX));
            let (listing, is_useful) = self.fill(walk, root, page, taken, prefix)?;
            // Otherwise the listing may be older than a change.
            if listing.is_some() && self.names.changes() == walk.changes {
                return Ok(listing);
            }
            useless_pages = if is_useful { 0 } else { useless_pages + 1 };
            let is_inside = walk.inside.iter().any(|inside| inside.prefix == prefix);
            if useless_pages >= MAX_USELESS_PAGES && !is_inside && walk.at.as_str() < prefix {
                useless_pages = 0;
                walk.begin(root, prefix);
            }
            let is_too_large = is_inside && !walk.leads_to(prefix);
            // Where one page is wanted, a listing of the directory itself costs one, too.
            let is_enough = is_inside && matches!(extent, ListExtent::Pages(_));
            if is_enough || is_too_large || useless_pages >= MAX_USELESS_PAGES {
                return Ok(None);
            }
        }
    }

    /// Fills directories from a page. Returns the listing of the wanted one, if it is complete now, and whether the page
    /// had a name of it.
    fn fill(
        &self,
        walk: &mut Walk,
        root: &str,
        page: Page,
        taken: Instant,
        wanted: &str,
    ) -> Result<(Option<Arc<DirectoryListing>>, bool), StoreError> {
        let (mut found, mut is_useful, mut hidden) = (None, false, Vec::new());
        for item in page.items {
            let (key, version) = match item {
                Item::Object(version) => (version.key.clone(), Some(version)),
                // The directory's own object.
                Item::Prefix(key) => (key, None),
            };
            if !key.starts_with(root) || key <= walk.at {
                info!("listings are not in order, so no directory is listed with what is below it");
                self.walks.are_impossible.store(true, Ordering::Relaxed);
                return Err(StoreError::Failed("the listing is not in order".into()));
            }
            walk.at.clone_from(&key);
            self.complete_directories(walk, &key, wanted, &mut found);
            let mut at = walk.inside.last().map_or(root, |inside| &inside.prefix).len();
            let mut is_shown = true;
            while let Some(slash) = key.get(at..).and_then(|rest| rest.find('/')) {
                let (part, end) = (key.get(at..at + slash).unwrap_or_default(), at + slash + 1);
                let prefix = key.get(..end).unwrap_or_default();
                is_shown = is_name(part) && is_reachable(prefix);
                if !is_shown {
                    // Counted once, as if the directory were listed by itself.
                    if hidden.last().is_none_or(|last| last != prefix) {
                        hidden.push(prefix.to_string());
                    }
                    break;
                }
                walk.add(part, &Child::Directory)?;
                let table = Some(Table::default());
                walk.inside.push(Inside { prefix: prefix.to_string(), taken, table });
                at = end;
            }
            let Some(version) = version.filter(|_| is_shown) else { continue };
            let rest = key.get(at..).unwrap_or_default();
            if !is_name(rest) || !is_reachable(&key) || version.size > LARGEST_FILE {
                hidden.push(key);
                continue;
            }
            is_useful |= walk.inside.last().is_some_and(|inside| inside.prefix == wanted);
            walk.add(rest, &Child::File(Arc::new(version)))?;
        }
        count_hidden(hidden.len(), root);
        match page.more_after {
            Some(last) => walk.at = last,
            None => {
                // Behind all keys below the root.
                walk.at = format!("{root}{}", char::MAX);
                self.complete_directories(walk, "\0", wanted, &mut found);
            }
        }
        if walk.bytes() > self.names.show.name_bytes / WALK_SHARE {
            walk.inside.iter_mut().for_each(|inside| inside.table = None);
        }
        Ok((found, is_useful))
    }

    /// Caches the directories that do not have a key: they are complete.
    fn complete_directories(
        &self,
        walk: &mut Walk,
        key: &str,
        wanted: &str,
        found: &mut Option<Arc<DirectoryListing>>,
    ) {
        while let Some(inside) = walk.inside.pop_if(|inside| !key.starts_with(&inside.prefix)) {
            let Some(table) = inside.table else { continue };
            let listing = DirectoryListing::new(inside.taken, &inside.prefix, (None, None), table);
            let listing = self.names.keep(listing, walk.changes);
            if inside.prefix == wanted {
                *found = Some(listing);
            }
        }
    }
}
