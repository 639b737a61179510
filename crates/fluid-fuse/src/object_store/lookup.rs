//! Requests for names: listings where they answer for neighbours, too, and otherwise requests for single names.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Instant;

use log::debug;

use super::ObjectStore;
use super::keys::{LARGEST_FILE, count_hidden, is_name, is_reachable, split};
use super::listing::DirectoryListing;
use super::name_cache::Plan;
use super::table::{Child, Table};
use super::walk::ListExtent;
use crate::remote::{Depth, Item};
use crate::store::StoreError;

/// Bytes at the end of a key in which neighbours differ: the last two digits of numbered files.
const NEIGHBOUR_SUFFIX: usize = 2;

/// Names right below a prefix, while they are being received.
struct Collected<'a> {
    prefix: &'a str,
    table: Table,
    hidden: usize,
}

impl<'a> Collected<'a> {
    fn new(prefix: &'a str) -> Self {
        Collected { prefix, table: Table::default(), hidden: 0 }
    }

    fn add(&mut self, item: Item) -> Result<(), StoreError> {
        let (key, child) = match item {
            Item::Object(version) => (version.key.clone(), Child::File(Arc::new(version))),
            Item::Prefix(key) => (key, Child::Directory),
        };
        let is_directory = matches!(child, Child::Directory);
        match key.strip_prefix(self.prefix) {
            // The directory's own object.
            Some("") => {}
            Some(rest) => {
                let rest = if is_directory { rest.trim_end_matches('/') } else { rest };
                let sized = !matches!(&child, Child::File(version) if version.size > LARGEST_FILE);
                match is_name(rest) && is_reachable(&key) && sized {
                    true => self.table.push(rest, &child)?,
                    false => self.hidden += 1,
                }
            }
            None => self.hidden += 1,
        }
        Ok(())
    }

    fn finish(self, taken: Instant, after: Option<&str>, more_after: Option<&str>) -> DirectoryListing {
        count_hidden(self.hidden, self.prefix);
        let relative = |key: &str| key.strip_prefix(self.prefix).unwrap_or_default().to_string();
        let (after, more_after) = (after.map(relative), more_after.map(relative));
        let listing =
            DirectoryListing::new(taken, self.prefix, (after.as_deref(), more_after.as_deref()), self.table);
        let more = if more_after.is_some() { " and more" } else { "" };
        debug!("listed {:?}: {} names{more}", self.prefix, listing.len());
        listing
    }
}

impl ObjectStore {
    /// Finds the file or directory of a key: by a listing, which answers for its neighbours, too, or by a request for the
    /// key itself if no listing reaches it, or if the key was a file's.
    pub(super) fn find(&self, key: &str) -> Result<Option<Child>, StoreError> {
        let (prefix, _) = split(key);
        let mut plan = self.names.plan(key);
        if plan == Plan::First {
            self.read_listing(prefix, ListExtent::Pages(1))?;
            if let Some(single) = self.names.cached(key) {
                return Ok(single.child);
            }
            plan = self.names.plan(key);
        }
        let is_file = match plan {
            Plan::Ask { is_file } => is_file,
            Plan::Pages(pages) => {
                self.read_listing(prefix, ListExtent::Pages(pages))?;
                false
            }
            Plan::Page => {
                self.read_page(key)?;
                false
            }
            // With `--metadata-ttl 0` the page is too old already.
            Plan::First => false,
        };
        if let Some(single) = self.names.cached(key) {
            return Ok(single.child);
        }
        self.ask(key, is_file || self.names.is_probably_file(key))
    }

    /// Requests one key, or waits for the same request of another operation.
    fn ask(&self, key: &str, is_file: bool) -> Result<Option<Child>, StoreError> {
        // With `--metadata-ttl 0` each operation needs an answer of its own.
        if self.names.show.ttl.is_zero() {
            return self.ask_now(key, is_file);
        }
        let known = || self.names.cached(key).map(|single| single.child);
        self.flights.ask(key, known, || self.ask_now(key, is_file))
    }

    /// Requests one key: as a file and, unless `is_file` and it is one, as a directory.
    fn ask_now(&self, key: &str, is_file: bool) -> Result<Option<Child>, StoreError> {
        let taken = Instant::now();
        let head = || self.retry(|| self.bucket.head_with_time(key));
        let child = match is_reachable(key).then(head) {
            Some(Ok((version, time))) => {
                (version.size <= LARGEST_FILE).then(|| self.names.note_file(key, taken, &version, time))
            }
            Some(Err(StoreError::NotFound)) | None => None,
            Some(Err(error)) => return Err(error),
        };
        let below = format!("{key}/");
        let is_certain = is_file && child.is_some();
        let inhabited = !is_certain && is_reachable(&below) && self.lists(&below, |_| true)?;
        let child = if inhabited { Some(Child::Directory) } else { child };
        self.names.note(key, taken, child.clone());
        // A change of this mount meanwhile is newer.
        Ok(self.names.cached(key).map_or(child, |single| single.child))
    }

    /// Whether an item below a prefix meets a condition, as far as the pages up to the first such item tell.
    pub(super) fn lists(&self, prefix: &str, which: impl Fn(&Item) -> bool) -> Result<bool, StoreError> {
        let mut found = false;
        self.retry(|| {
            self.bucket.list(prefix, &mut |items| {
                found = items.iter().any(&which);
                if found { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })
        })?;
        Ok(found)
    }

    /// Lists a directory, or some pages of it, or waits for the same request of another operation.
    pub(super) fn read_listing(
        &self,
        prefix: &str,
        extent: ListExtent,
    ) -> Result<Arc<DirectoryListing>, StoreError> {
        let known = || match extent {
            ListExtent::All => self.names.complete(prefix),
            ListExtent::Pages(1) => self.names.beginning(prefix),
            ListExtent::Pages(_) => None,
        };
        let by_walk = || match extent {
            ListExtent::All | ListExtent::Pages(1) => self.walk(prefix, extent),
            ListExtent::Pages(_) => None,
        };
        let list = || match by_walk() {
            Some(listing) => Ok(listing),
            None => {
                let changes = self.names.changes();
                self.retry(|| self.list_now(prefix, extent)).map(|listing| self.names.keep(listing, changes))
            }
        };
        self.flights.ask(prefix, known, list)
    }

    fn list_now(&self, prefix: &str, extent: ListExtent) -> Result<DirectoryListing, StoreError> {
        let taken = Instant::now();
        let mut collected = Collected::new(prefix);
        // A page begins with its prefixes, so it is complete only up to its last object.
        let mut last = String::new();
        let mut pages = 0;
        let mut added = Ok(());
        let complete = self.bucket.list(prefix, &mut |items| {
            self.availability.answered();
            for item in items {
                if let Item::Object(version) = &item {
                    last.clone_from(&version.key);
                }
                added = added.clone().and_then(|()| collected.add(item));
            }
            pages += 1;
            let is_enough = match extent {
                ListExtent::All => false,
                ListExtent::Pages(most) => pages >= most || collected.table.bytes() > self.names.largest(),
            };
            if is_enough || added.is_err() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        added?;
        let more_after = (!complete).then_some(last);
        Ok(collected.finish(taken, None, more_after.as_deref()))
    }

    /// Lists the page of a directory that begins with a key, if the store can, or waits for the same request of another
    /// operation.
    fn read_page(&self, key: &str) -> Result<(), StoreError> {
        // Operations that ask for neighbours at the same time wait for the same page.
        let neighbours =
            format!("{}\0", key.get(..key.len().saturating_sub(NEIGHBOUR_SUFFIX)).unwrap_or(key));
        let known = || self.names.cached(key).map(drop);
        self.flights.ask(&neighbours, known, || self.read_page_now(key))
    }

    fn read_page_now(&self, key: &str) -> Result<(), StoreError> {
        let (prefix, _) = split(key);
        let after = before(key);
        let (taken, changes) = (Instant::now(), self.names.changes());
        let page = self.retry(|| self.bucket.list_page(prefix, Some(&after), Depth::One));
        let page = match page {
            // The key can still be requested by itself.
            Err(StoreError::Unsupported(_) | StoreError::NotImplemented(_) | StoreError::Failed(_)) => {
                return Ok(());
            }
            page => page?,
        };
        let mut collected = Collected::new(prefix);
        for item in page.items {
            collected.add(item)?;
        }
        let listing = collected.finish(taken, Some(&after), page.more_after.as_deref());
        self.names.keep_page(listing, changes);
        Ok(())
    }
}

/// A key of the same directory that comes before a key, with few or no keys between them.
fn before(key: &str) -> String {
    let (prefix, name) = split(key);
    let mut start = name.to_string();
    match start.pop() {
        // A made-up key has no other characters than letters, digits and the like.
        Some(last @ '1'..='~') => {
            start.push(char::from_u32(u32::from(last) - 1).unwrap_or('0'));
            start.push('~');
        }
        Some('0') => start.push_str(".~"),
        Some('.') => start.push_str("-~"),
        Some('-') => start.push_str(",~"),
        _ => {}
    }
    format!("{prefix}{start}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_begins_just_before_its_key() {
        for (key, start) in [
            ("d/name5", "d/name4~"),
            ("d/0", "d/.~"),
            ("a", "`~"),
            ("d/x.", "d/x-~"),
            ("d/é", "d/"),
            ("d/1", "d/0~"),
        ] {
            assert_eq!(before(key), start);
            assert!(*before(key) < *key);
        }
    }
}
