//! The cache of names: listings of directories, or parts of them, and answers for single names.
//!
//! Of several answers for a name the latest is used, so changes of this mount are seen at once. Listings take a share of
//! `--memory` at most; the least recently used are evicted first. A listing that is too old to be trusted stays until
//! then: it still tells the size of its directory, and which names are files that need no listing of their own.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use super::keys::split;
use super::listing::{CachedDirectory, Directories, DirectoryListing};
use super::table::Child;
use crate::remote::Version;
use crate::stable_hash::StableHash;
use crate::store::{Kind, Stat};
use crate::sync::lock;

/// Number of answers for single names, at most. Beyond it all are evicted, and all listings with them.
const MAX_SINGLES: usize = 10_000;

/// Number of files whose `mtime` metadata is cached, at most. Beyond it all are evicted.
const MAX_KEPT_TIMES: usize = 100_000;

/// Names in a page of a listing, as most stores send them: a directory of this size costs one request.
const PAGE: usize = 1000;

/// A listing tells for this many times `--metadata-ttl`, and for this long at most, that a file's name is no directory.
const STALE_TIMES: u32 = 10;
const STALE_FOR: Duration = Duration::from_secs(10 * 60);

/// Requests for single names of a large directory before a page of its listing is requested; they are doubled, up to the
/// second number, each time that such a page answers for no other name.
const MIN_REQUESTS_BEFORE_PAGE: u32 = 2;
const MAX_REQUESTS_BEFORE_PAGE: u32 = 64;

/// Requests for single names after which a large directory is listed, with as many pages.
const REQUESTS_BEFORE_LISTING: usize = 16;

/// Number of walks at a time: several programs, each in a tree of its own.
pub(super) const WALKS: usize = 4;

/// The incomplete listings of each walk take at most 1/16 of the memory for names; complete ones have the rest.
pub(super) const WALK_SHARE: usize = 16;

/// The attributes that a mount shows although object stores do not have them, and its limits for names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Presentation {
    /// Owner of everything.
    pub uid: u32,
    /// Group of everything.
    pub gid: u32,
    /// Permission bits of directories.
    pub directory_mode: u16,
    /// Permission bits of files.
    pub file_mode: u16,
    /// Whether the mount is read-only: modes are shown without write bits.
    pub read_only: bool,
    /// Whether the `mtime` metadata of objects is requested.
    pub kept_times: bool,
    /// Objects below a directory that is renamed, at most.
    pub rename_limit: usize,
    /// How long names and attributes are trusted.
    pub ttl: Duration,
    /// Bytes of memory for names, at most.
    pub name_bytes: usize,
}

/// The cached names, and how they are shown.
pub(super) struct NameCache {
    pub(super) show: Presentation,
    mounted: SystemTime,
    directories: Mutex<Directories>,
    /// Answers for single names, by key: of directories that are too large to be listed for one, and of changes.
    singles: Mutex<HashMap<String, Single>>,
    /// The `mtime` metadata of objects, which no listing has, by key; each with its version.
    times: Mutex<HashMap<String, KeptTime>>,
}

/// The request that answers for a name that is not cached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Plan {
    /// The first page of the listing of its directory.
    First,
    /// The page of that listing that has the name.
    Page,
    /// That many pages of that listing.
    Pages(usize),
    /// A request for the name as a file and, unless `is_file`, one for it as a directory.
    Ask { is_file: bool },
}

/// The `mtime` metadata of a version, if it has one.
type KeptTime = (Arc<Version>, Option<SystemTime>);

/// The answer for a single name, and when it was requested.
#[derive(Clone)]
pub(super) struct Single {
    pub(super) taken: Instant,
    pub(super) child: Option<Child>,
}

impl NameCache {
    pub(super) fn new(show: Presentation) -> Self {
        NameCache {
            show,
            mounted: SystemTime::now(),
            directories: Mutex::default(),
            singles: Mutex::default(),
            times: Mutex::default(),
        }
    }

    pub(super) fn mode(&self, mode: u16) -> u16 {
        if self.show.read_only { mode & !0o222 } else { mode }
    }

    pub(super) fn directory_stat(&self) -> Stat {
        Stat::directory(self.mode(self.show.directory_mode), (self.show.uid, self.show.gid), self.mounted)
    }

    pub(super) fn stat_of(&self, child: &Child) -> Stat {
        match child {
            Child::Directory => self.directory_stat(),
            Child::File(version) => {
                let identity = StableHash::default().number(version.size).optional(version.etag.as_deref());
                // Stores tell the time with different precision in listings and answers to HEAD.
                let identity = match version.etag {
                    Some(_) => identity,
                    None => identity.time(version.modified),
                };
                Stat {
                    identity: identity.finish(),
                    kind: Kind::File,
                    size: version.size,
                    modified: self.time_of(version).flatten().unwrap_or(version.modified),
                    mode: self.mode(self.show.file_mode),
                    links: 1,
                    ..self.directory_stat()
                }
            }
        }
    }

    /// The `mtime` metadata of the version, if it is cached; it may be cached that it has none.
    pub(super) fn time_of(&self, version: &Version) -> Option<Option<SystemTime>> {
        let times = lock(&self.times);
        let (of, time) = times.get(&version.key)?;
        let is_same = match (&of.etag, &version.etag) {
            (Some(one), Some(other)) => one == other,
            _ => of.modified == version.modified,
        };
        (is_same && of.size == version.size).then_some(*time)
    }

    /// Whether the version's time of change needs no request.
    pub(super) fn has_time(&self, version: &Version) -> bool {
        !self.show.kept_times || self.time_of(version).is_some()
    }

    /// Whether the answer has all attributes.
    pub(super) fn has_all_attributes(&self, single: &Single) -> bool {
        match &single.child {
            Some(Child::File(version)) => self.has_time(version),
            _ => true,
        }
    }

    /// Caches a file that was requested or written just now, and its `mtime` metadata.
    pub(super) fn note_file(
        &self,
        key: &str,
        taken: Instant,
        version: &Version,
        time: Option<SystemTime>,
    ) -> Child {
        let version = Arc::new(version.clone());
        let mut times = lock(&self.times);
        if times.len() >= MAX_KEPT_TIMES {
            times.clear();
        }
        // That a version has none matters only where all are requested.
        match time.is_some() || self.show.kept_times {
            true => drop(times.insert(key.to_string(), (Arc::clone(&version), time))),
            false => drop(times.remove(key)),
        }
        drop(times);
        let child = Child::File(version);
        self.note(key, taken, Some(child.clone()));
        child
    }

    fn is_fresh(&self, taken: Instant) -> bool {
        taken.elapsed() < self.show.ttl
    }

    /// The fresh and complete listing of a directory (`""`, or ending with `/`).
    pub(super) fn complete(&self, prefix: &str) -> Option<Arc<DirectoryListing>> {
        lock(&self.directories).find(prefix, |part| part.is_complete() && self.is_fresh(part.taken))
    }

    /// The same, or the first part of it.
    pub(super) fn beginning(&self, prefix: &str) -> Option<Arc<DirectoryListing>> {
        lock(&self.directories).find(prefix, |part| part.after.is_none() && self.is_fresh(part.taken))
    }

    /// A listing that has a name, and the index of the name.
    pub(super) fn listed(&self, prefix: &str, name: &str) -> Option<(Arc<DirectoryListing>, usize)> {
        let part = lock(&self.directories).find(prefix, |part| part.index(name).is_some())?;
        let index = part.index(name)?;
        Some((part, index))
    }

    /// The cached answer for a key.
    pub(super) fn cached(&self, key: &str) -> Option<Single> {
        let (prefix, name) = split(key);
        let single = lock(&self.singles).get(key).filter(|single| self.is_fresh(single.taken)).cloned();
        let mut directories = lock(&self.directories);
        let Directories { cached, clock, .. } = &mut *directories;
        let Some(directory) = cached.get_mut(prefix) else { return single };
        let later = |part: &DirectoryListing| {
            self.is_fresh(part.taken) && single.as_ref().is_none_or(|single| single.taken < part.taken)
        };
        let told = directory.parts.iter().enumerate().filter(|(_, part)| later(part));
        let told = told.filter_map(|(index, part)| Some((part.taken, index, part.tells(name)?)));
        let Some((taken, index, child)) = told.max_by_key(|(taken, ..)| *taken) else { return single };
        if let Some(part) = Directories::touch(clock, directory, index) {
            part.hit(name);
        }
        Some(Single { taken, child })
    }

    /// The next request for a key that is not cached.
    pub(super) fn plan(&self, key: &str) -> Plan {
        let (prefix, name) = split(key);
        let mut directories = lock(&self.directories);
        let Some(directory) = directories.cached.get_mut(prefix) else { return Plan::First };
        let fits_page = |part: &Arc<DirectoryListing>| part.is_complete() && part.len() <= PAGE;
        let beginning = directory.parts.iter().any(|part| part.after.is_none() && self.is_fresh(part.taken));
        if !beginning && directory.parts.iter().any(fits_page) {
            return Plan::First;
        }
        if let Some(page) = directory.page.take() {
            match page.upgrade().is_some_and(|page| page.has_paid()) {
                true => (directory.singles_before_page, directory.requests) = (0, 0),
                false => {
                    let more = 2 * directory.singles_before_page;
                    directory.singles_before_page =
                        more.clamp(MIN_REQUESTS_BEFORE_PAGE, MAX_REQUESTS_BEFORE_PAGE);
                }
            }
        } else if directory.single_requests == 0 && directory.singles_before_page == 0 {
            directory.singles_before_page = MIN_REQUESTS_BEFORE_PAGE;
        }
        directory.requests += 1;
        directory.patience = directory.patience.max(REQUESTS_BEFORE_LISTING);
        if directory.requests >= directory.patience {
            // The listing costs at most as many requests as the single names have cost.
            directory.patience *= 2;
            let pages = std::mem::take(&mut directory.requests);
            let bytes = directory.parts.iter().map(|part| part.table.bytes()).max().unwrap_or_default();
            if bytes <= self.largest() {
                return Plan::Pages(pages);
            }
        }
        let is_file = self.was_file(directory, name);
        if is_file && directory.single_requests < directory.singles_before_page {
            directory.single_requests += 1;
            return Plan::Ask { is_file };
        }
        directory.single_requests = 0;
        Plan::Page
    }

    /// Whether a listing told, not long ago ([`STALE_FOR`]), that a name is a file and no directory.
    pub(super) fn is_probably_file(&self, key: &str) -> bool {
        let (prefix, name) = split(key);
        lock(&self.directories).cached.get(prefix).is_some_and(|directory| self.was_file(directory, name))
    }

    fn was_file(&self, directory: &CachedDirectory, name: &str) -> bool {
        let trusted = STALE_FOR.min(self.show.ttl.saturating_mul(STALE_TIMES));
        let recent = |part: &&Arc<DirectoryListing>| part.taken.elapsed() < trusted;
        let told =
            directory.parts.iter().filter(recent).filter_map(|part| Some((part.taken, part.tells(name)?)));
        told.max_by_key(|(taken, _)| *taken).is_some_and(|(_, child)| matches!(child, Some(Child::File(_))))
    }

    /// Caches the answer for a key to a request of that moment.
    pub(super) fn note(&self, key: &str, taken: Instant, child: Option<Child>) {
        let mut singles = lock(&self.singles);
        if singles.len() >= MAX_SINGLES {
            // Listings may be older than the changes that are evicted with it.
            singles.clear();
            let mut directories = lock(&self.directories);
            *directories = Directories { changes: directories.changes + 1, ..Directories::default() };
        }
        // An answer that was under way while the name was changed is older than the change.
        if singles.get(key).is_none_or(|known| known.taken <= taken) {
            singles.insert(key.to_string(), Single { taken, child });
        }
    }

    /// The answers for single names of a directory that are later than its listing.
    pub(super) fn changes_since(&self, prefix: &str, taken: Instant) -> HashMap<Box<str>, Option<Child>> {
        let mut changes = HashMap::new();
        for (key, single) in lock(&self.singles).iter() {
            let (directory, name) = split(key);
            if directory == prefix && single.taken > taken && self.is_fresh(single.taken) {
                changes.insert(name.into(), single.child.clone());
            }
        }
        changes
    }

    /// Counts the changes that earlier listings do not have.
    pub(super) fn changes(&self) -> u64 {
        lock(&self.directories).changes
    }

    /// Bytes of all cached listings at most: walks have the rest.
    fn cap(&self) -> usize {
        self.show.name_bytes / WALK_SHARE * (WALK_SHARE - WALKS)
    }

    /// Bytes of the largest listing that is cached.
    pub(super) fn largest(&self) -> usize {
        self.cap() / 2
    }

    /// Caches a listing, unless something was changed since `changes` was read: the listing may not have it.
    pub(super) fn keep(&self, listing: DirectoryListing, changes: u64) -> Arc<DirectoryListing> {
        let listing = Arc::new(listing);
        let mut directories = lock(&self.directories);
        if directories.changes == changes && listing.bytes() <= self.largest() {
            directories.insert(&listing);
            directories.shrink(self.cap());
        }
        listing
    }

    /// The same for a page that was requested for one name.
    pub(super) fn keep_page(&self, listing: DirectoryListing, changes: u64) {
        let page = self.keep(listing, changes);
        if let Some(directory) = lock(&self.directories).cached.get_mut(&*page.prefix) {
            directory.page = Some(Arc::downgrade(&page));
        }
    }

    /// Evicts the answers for a key, which turned out to be wrong.
    pub(super) fn invalidate(&self, key: &str) {
        lock(&self.directories).remove(split(key).0);
        lock(&self.singles).remove(key);
    }

    /// Evicts the listing of a directory that was removed.
    pub(super) fn invalidate_directory(&self, prefix: &str) {
        lock(&self.directories).remove(prefix);
    }

    /// Evicts all answers below the prefixes.
    pub(super) fn invalidate_below(&self, prefixes: &[&str]) {
        let is_below = |key: &str| prefixes.iter().any(|prefix| key.starts_with(prefix));
        let mut directories = lock(&self.directories);
        directories.changes += 1;
        directories.retain(|part| !is_below(&part.prefix));
        drop(directories);
        lock(&self.singles).retain(|key, _| !is_below(key));
    }
}

#[cfg(test)]
mod tests {
    use super::super::listing::MAX_PARTS;
    use super::super::table::Table;
    use super::*;

    fn names(ttl: Duration) -> NameCache {
        NameCache::new(Presentation {
            uid: 0,
            gid: 0,
            directory_mode: 0o755,
            file_mode: 0o644,
            read_only: false,
            kept_times: false,
            rename_limit: 0,
            ttl,
            name_bytes: 1 << 20,
        })
    }

    fn file(key: &str, size: u64) -> Child {
        let (key, modified) = (key.to_string(), SystemTime::UNIX_EPOCH);
        Child::File(Arc::new(Version { key, size, etag: None, modified }))
    }

    /// A part of a listing with so many files, the last of which it ends with.
    fn part(
        prefix: &str,
        ends: (Option<&str>, Option<&str>),
        files: std::ops::Range<usize>,
    ) -> DirectoryListing {
        let mut table = Table::default();
        for number in files {
            let name = format!("{number:05}");
            table.push(&name, &file(&format!("{prefix}{name}"), 1)).unwrap();
        }
        DirectoryListing::new(Instant::now(), prefix, ends, table)
    }

    #[test]
    fn listings_fit_their_memory_and_those_that_were_used_stay() {
        let names = names(Duration::from_secs(60));
        for number in 0..10_000 {
            names.keep(part(&format!("{number}/"), (None, None), 0..10), names.changes());
            assert!(names.complete("0/").is_some(), "{number}");
            assert!(lock(&names.directories).bytes <= names.cap());
        }
        assert!(names.complete("9999/").is_some() && names.complete("5000/").is_none());
        let directories = lock(&names.directories);
        let bytes: usize = directories.cached.values().flat_map(|it| &it.parts).map(|it| it.bytes()).sum();
        assert_eq!((directories.bytes, bytes > names.cap() / 2), (bytes, true));
        drop(directories);
        // One that does not fit is not kept, and drives no other out.
        names.keep(part("large/", (None, None), 0..50_000), names.changes());
        assert!(names.complete("large/").is_none() && names.complete("9999/").is_some());
    }

    #[test]
    fn the_latest_of_a_name_is_right() {
        let names = names(Duration::from_secs(60));
        let size = |key: &str| match names.cached(key)?.child? {
            Child::File(version) => Some(version.size),
            Child::Directory => None,
        };
        names.keep(part("d/", (None, None), 0..5), names.changes());
        names.note("d/00001", Instant::now(), Some(file("d/00001", 7)));
        names.note("d/00002", Instant::now(), None);
        assert_eq!((size("d/00000"), size("d/00001"), size("d/00002")), (Some(1), Some(7), None));
        names.keep(part("d/", (None, None), 0..5), names.changes());
        assert_eq!((size("d/00001"), size("d/00002")), (Some(1), Some(1)));
        // A listing that was under way while a directory was renamed is not cached.
        let before = names.changes();
        names.invalidate_below(&["d/"]);
        names.keep(part("d/", (None, None), 0..5), before);
        assert!(names.cached("d/00001").is_none());
    }

    #[test]
    fn parts_tell_what_lies_between_their_ends() {
        let names = names(Duration::from_secs(60));
        let is = |key: &str| names.cached(key).map(|single| single.child.is_some());
        names.keep(part("d/", (Some("00009~"), Some("00019")), 10..20), names.changes());
        names.keep(part("d/", (Some("00029~"), Some("00039")), 30..40), names.changes());
        assert_eq!(
            ["d/00009", "d/00010", "d/00018", "d/00018x"].map(is),
            [None, Some(true), Some(true), Some(false)]
        );
        // A directory of its name would come behind the last key.
        assert_eq!(["d/00019", "d/00025", "d/00038"].map(is), [None, None, Some(true)]);
        assert!(names.beginning("d/").is_none() && names.complete("d/").is_none());
        for number in 0..2 * MAX_PARTS {
            let (after, last) = (format!("{number:05}"), format!("{number:05}a"));
            names.keep(part("d/", (Some(&after), Some(&last)), 0..0), names.changes());
        }
        assert_eq!(lock(&names.directories).cached["d/"].parts.len(), MAX_PARTS);
        names.keep(part("d/", (None, None), 0..50), names.changes());
        assert_eq!(lock(&names.directories).cached["d/"].parts.len(), 1);
        assert_eq!(is("d/00049"), Some(true));
    }

    #[test]
    fn a_large_directory_is_listed_once_single_names_have_cost_as_much() {
        let names = names(Duration::from_millis(50));
        let wait = || std::thread::sleep(names.show.ttl);
        assert_eq!(names.plan("d/00001"), Plan::First);
        names.keep(part("d/", (None, None), 0..PAGE), names.changes());
        wait();
        assert_eq!(names.plan("d/00001"), Plan::First);
        names.keep(part("d/", (None, None), 0..2 * PAGE), names.changes());
        wait();
        // A name that was a file is requested as one; a page answers for other names.
        assert_eq!(names.plan("d/00001"), Plan::Ask { is_file: true });
        assert_eq!(names.plan("d/none"), Plan::Page);
        let plans: Vec<_> = (0..REQUESTS_BEFORE_LISTING).map(|_| names.plan("d/00001")).collect();
        assert!(
            plans.contains(&Plan::Page) && plans.contains(&Plan::Pages(REQUESTS_BEFORE_LISTING)),
            "{plans:?}"
        );
    }
}
