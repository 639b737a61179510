//! Walks: programs that list the directories below one directory in turn (`find`, `du`, `rsync`, `os.walk`).
//!
//! Such a directory is then listed flat, that is with everything below it, page by page, and each page fills as many
//! directories as it has. Somebody who waits for a directory asks for the next page, so a walk that ends costs nothing
//! more. Keys come in order, so all that a page has between its first and its last key is known, and a directory is known
//! once a key behind it was seen. A walk is left where it does not pay: where pages bring nothing for whoever waits, and
//! where the store fails it or does not keep the order. Directories are then listed one by one.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use log::{debug, info};

use super::ObjectStore;
use super::keys::{LARGEST_FILE, count_hidden, is_name, is_reachable, split};
use super::listing::DirectoryListing;
use super::name_cache::{UNDER_WAY, WALKS};
use super::table::{Child, Table};
use crate::inodes::lock;
use crate::limits::{TIME_PER_ENTRY, Until};
use crate::remote::{Depth, Item, Page};
use crate::store::StoreError;

/// Directories that are listed in order before it is a walk: the third one begins it.
const DIRECTORIES_IN_ORDER: usize = 2;

/// Pages in a row that may bring nothing for whoever waits.
const PAGES_FOR_NOTHING: usize = 2;

/// Directories in a row for which pages were listed in vain until the walk is left.
const VAIN: usize = 2;

/// How long a directory is not listed flat after that did not pay, or failed.
const LEFT_FOR: Duration = Duration::from_secs(60);

/// How much of a directory is listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Extent {
    All,
    /// At most that many pages, and no more than the cache keeps.
    Pages(usize),
}

/// The walks that are under way.
#[derive(Default)]
pub(super) struct Walks {
    /// By the prefix of the directory that is listed flat.
    by_root: Mutex<HashMap<String, Arc<Mutex<Walk>>>>,
    /// The store cannot list flat, or not in order.
    are_impossible: AtomicBool,
}

/// A flat listing.
struct Walk {
    /// The key up to which all is listed.
    at: String,
    /// The directories that it is in, the outermost first.
    inside: Vec<Inside>,
    /// The count of changes from which on what is inside is true.
    changes: u64,
    /// Directories in a row for which it was asked in vain.
    vain: usize,
    used: Instant,
    /// Since when it is not gone on with.
    left: Option<Instant>,
}

/// A directory of which a part is listed.
struct Inside {
    prefix: String,
    taken: Instant,
    /// Nothing if its beginning was not listed.
    table: Option<Table>,
}

impl Walk {
    fn new() -> Self {
        let (at, inside) = (String::new(), Vec::new());
        Walk { at, inside, changes: 0, vain: 0, used: Instant::now(), left: None }
    }

    fn is_left(&self) -> bool {
        self.left.is_some_and(|since| since.elapsed() < LEFT_FOR)
    }

    fn leave(&mut self) {
        self.left = Some(Instant::now());
        self.inside = Vec::new();
    }

    /// Whether the next pages have a directory.
    fn leads_to(&self, prefix: &str) -> bool {
        match self.inside.iter().find(|inside| inside.prefix == prefix) {
            Some(inside) => inside.table.is_some(),
            None => prefix > self.at.as_str() && self.vain == 0 && !self.at.is_empty(),
        }
    }

    /// Begins anew with a directory.
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

    /// Adds a child to the directory that is being listed.
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
    /// The listing of a directory by a walk that leads to it, if one does.
    pub(super) fn walk(&self, prefix: &str, extent: Extent) -> Option<Arc<DirectoryListing>> {
        if self.walks.are_impossible.load(Ordering::Relaxed) || prefix.is_empty() {
            return None;
        }
        let (root, walk) = self.walk_to(prefix)?;
        let mut walk = lock(&walk);
        if let Some(listing) = self.names.complete(prefix) {
            return Some(listing);
        }
        if walk.is_left() {
            return None;
        }
        let listing = self.go_on(&mut walk, &root, prefix, extent);
        walk.used = Instant::now();
        if let Err(error) = &listing {
            debug!("{root:?} is not listed flat: {error}");
        }
        let listing = listing.ok().flatten();
        walk.vain = if listing.is_some() { 0 } else { walk.vain + 1 };
        if walk.vain >= VAIN {
            debug!("listing {root:?} flat does not pay");
            walk.leave();
        }
        listing
    }

    /// The outermost walk that a directory belongs to, also one that begins with it.
    fn walk_to(&self, prefix: &str) -> Option<(String, Arc<Mutex<Walk>>)> {
        let parent = split(prefix.strip_suffix('/')?).0;
        let mut by_root = lock(&self.walks.by_root);
        let is_left = |walk: &Arc<Mutex<Walk>>| walk.try_lock().is_ok_and(|walk| walk.is_left());
        let ends = prefix.match_indices('/').map(|(slash, _)| slash + 1);
        for root in std::iter::once(0).chain(ends).filter_map(|end| prefix.get(..end)) {
            let walk = by_root.get(root).filter(|walk| root != prefix && !is_left(walk));
            if let Some(walk) = walk {
                return Some((root.to_string(), Arc::clone(walk)));
            }
        }
        let (listing, index) = self.names.listed(parent, prefix.get(parent.len()..prefix.len() - 1)?)?;
        let steps = lock(&listing.list_order).list(index, |index| listing.is_directory(index));
        if steps < DIRECTORIES_IN_ORDER || by_root.contains_key(parent) {
            return None;
        }
        // What is below it belongs to it from now on.
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

    /// Lists pages until they have had all of a directory; nothing if they do not get there.
    fn go_on(
        &self,
        walk: &mut Walk,
        root: &str,
        prefix: &str,
        extent: Extent,
    ) -> Result<Option<Arc<DirectoryListing>>, StoreError> {
        let mut for_nothing = 0;
        loop {
            let changes = self.names.changes();
            if walk.changes != changes || !walk.leads_to(prefix) {
                walk.begin(root, prefix);
                walk.changes = changes;
            }
            let taken = Instant::now();
            let page = {
                // There is time left for another way.
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
            let (listing, is_of_use) = self.fill(walk, root, page, taken, prefix)?;
            // Else it may be older than a change.
            if listing.is_some() && self.names.changes() == walk.changes {
                return Ok(listing);
            }
            for_nothing = if is_of_use { 0 } else { for_nothing + 1 };
            let is_inside = walk.inside.iter().any(|inside| inside.prefix == prefix);
            if for_nothing >= PAGES_FOR_NOTHING && !is_inside && walk.at.as_str() < prefix {
                for_nothing = 0;
                walk.begin(root, prefix);
            }
            let is_too_large = is_inside && !walk.leads_to(prefix);
            // Of which one page is wanted, another way costs one, too.
            let is_enough = is_inside && matches!(extent, Extent::Pages(_));
            if is_enough || is_too_large || for_nothing >= PAGES_FOR_NOTHING {
                return Ok(None);
            }
        }
    }

    /// Fills directories from a page: the listing of the one that is wanted, if it is complete by now, and whether the
    /// page had something for it.
    fn fill(
        &self,
        walk: &mut Walk,
        root: &str,
        page: Page,
        taken: Instant,
        wanted: &str,
    ) -> Result<(Option<Arc<DirectoryListing>>, bool), StoreError> {
        let (mut found, mut is_of_use, mut hidden) = (None, false, Vec::new());
        for item in page.items {
            let (key, version) = match item {
                Item::Object(version) => (version.key.clone(), Some(version)),
                // A marker.
                Item::Prefix(key) => (key, None),
            };
            if !key.starts_with(root) || key <= walk.at {
                info!("listings are not in order, so no directory is listed with what is below it");
                self.walks.are_impossible.store(true, Ordering::Relaxed);
                return Err(StoreError::Failed("the listing is not in order".into()));
            }
            walk.at.clone_from(&key);
            self.leave_directories(walk, &key, wanted, &mut found);
            let mut at = walk.inside.last().map_or(root, |inside| &inside.prefix).len();
            let mut is_shown = true;
            while let Some(slash) = key.get(at..).and_then(|rest| rest.find('/')) {
                let (part, end) = (key.get(at..at + slash).unwrap_or_default(), at + slash + 1);
                let prefix = key.get(..end).unwrap_or_default();
                is_shown = is_name(part) && is_reachable(prefix);
                if !is_shown {
                    // Told once, as where it is listed by itself.
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
            is_of_use |= walk.inside.last().is_some_and(|inside| inside.prefix == wanted);
            walk.add(rest, &Child::File(Arc::new(version)))?;
        }
        count_hidden(hidden.len(), root);
        match page.more_after {
            Some(last) => walk.at = last,
            None => {
                // Nothing that it has comes behind it.
                walk.at = format!("{root}{}", char::MAX);
                self.leave_directories(walk, "\0", wanted, &mut found);
            }
        }
        if walk.bytes() > self.names.show.name_bytes / UNDER_WAY {
            walk.inside.iter_mut().for_each(|inside| inside.table = None);
        }
        Ok((found, is_of_use))
    }

    /// Keeps the directories that a key is not in: all of them is listed.
    fn leave_directories(
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
