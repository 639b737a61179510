//! What is known of names: listings of directories, or parts of them, and answers for single names.
//!
//! Of a name and a listing the later one is right, so what is changed here is seen at once. Listings take a share of
//! `--memory` at most; those that were not used for the longest time are evicted first. A listing that is too old to be
//! trusted stays until then: it still says how large its directory is, and what the store need not be asked again.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant, SystemTime};

use super::open::Opens;
use super::table::Table;
use super::walk::{Order, UNDER_WAY, WALKS};
use super::{Presentation, split};
use crate::inodes::lock;
use crate::remote::Version;
use crate::stable_hash::StableHash;
use crate::store::{Kind, Stat};

/// Answers for single names that are kept.
const SINGLES: usize = 10_000;

/// Files whose kept times of change are known.
const TIMES: usize = 100_000;

/// Parts of one directory's listing that are kept: as many pages.
const PARTS: usize = 64;

/// Bytes that a listing takes beside its table and its keys: the structures around them, and their place in a map.
const LISTING: usize = size_of::<Listing>() + size_of::<Known>() + 64;

/// Names of a directory that one page has, so that listing it costs no more than asking for one name.
const PAGE: usize = 1000;

/// For how many times as long as a listing is trusted it tells that nothing is below a file's name, and at most.
const STALE_TIMES: u32 = 10;
const STALE_FOR: Duration = Duration::from_secs(10 * 60);

/// Questions for single names of a large directory before a page of its listing is tried, and at most, if such pages
/// turn out to tell of no other name that is asked for.
const FEW_QUESTIONS: u32 = 2;
const MANY_QUESTIONS: u32 = 64;

/// Requests for single names after which a large directory is listed, for as many pages.
const MANY_REQUESTS: usize = 16;

/// What is known of the names, and how they are shown.
pub(super) struct Names {
    pub(super) show: Presentation,
    mounted: SystemTime,
    directories: Mutex<Directories>,
    /// Answers for names of directories that are too large to list for one, and what was changed here.
    singles: Mutex<HashMap<String, Single>>,
    /// Times of change that are kept with the objects, which no listing tells, by key; each with its version.
    times: Mutex<HashMap<String, KeptTime>>,
}

/// The listings that are kept, by prefix.
#[derive(Default)]
struct Directories {
    known: HashMap<Box<str>, Known>,
    bytes: usize,
    /// Counts the uses of listings.
    clock: u64,
    /// How often something was changed here that no listing from before tells of.
    changes: u64,
}

/// The parts of one directory's listing, the last used first, and how it is asked for.
#[derive(Default)]
struct Known {
    parts: Vec<Arc<Listing>>,
    /// Requests for what the parts do not tell, since one of them told of several names.
    requests: usize,
    /// How many of these there must be before the directory is listed.
    patience: usize,
    /// Questions for single files since the last page, and how many there are before the next.
    questions: u32,
    questions_before_page: u32,
    /// The last page that was listed for one name.
    page: Option<Weak<Listing>>,
}

/// How to find out about a name that no listing tells of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Plan {
    /// By the first page of its directory.
    First,
    /// By the page that has it.
    Page,
    /// By so many pages of its directory.
    Pages(usize),
    /// By itself: as a file, and unless it `is_file` as a directory, too.
    Ask { is_file: bool },
}

/// The time of change that is kept with a version, if one is.
type KeptTime = (Arc<Version>, Option<SystemTime>);

/// What a name stands for, if for anything, and since when that is known.
#[derive(Clone)]
pub(super) struct Single {
    pub(super) taken: Instant,
    pub(super) child: Option<Child>,
}

#[derive(Clone, Debug)]
pub(super) enum Child {
    Directory,
    File(Arc<Version>),
}

/// A listing of a directory, or a part of it.
pub(super) struct Listing {
    /// When it was asked for.
    pub(super) taken: Instant,
    prefix: Box<str>,
    /// The part begins behind this name, if not with the first.
    after: Option<Box<str>>,
    /// The name up to which all is listed, if there are more.
    more_after: Option<Box<str>>,
    table: Table,
    /// When it was used last, by the clock of the directories.
    used: AtomicU64,
    /// The name that was asked for last, and how often it was another one than before.
    last: AtomicU64,
    hits: AtomicU64,
    /// Files being opened in its order.
    pub(super) opens: Mutex<Opens>,
    /// Directories being listed in its order.
    pub(super) steps: Mutex<Order>,
}

impl Listing {
    /// Of names right below a prefix, between a name and another, as far as these are not the first and the last.
    pub(super) fn new(
        taken: Instant,
        prefix: &str,
        (after, more_after): (Option<&str>, Option<&str>),
        mut table: Table,
    ) -> Self {
        table.finish();
        Listing {
            taken,
            prefix: prefix.into(),
            after: after.map(Box::from),
            more_after: more_after.map(Box::from),
            table,
            used: AtomicU64::new(0),
            last: AtomicU64::new(u64::MAX),
            hits: AtomicU64::new(0),
            opens: Mutex::default(),
            steps: Mutex::default(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.table.len()
    }

    /// Whether it has all names of its directory.
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

    /// All names, and what they stand for.
    pub(super) fn children(&self) -> impl Iterator<Item = (&str, Child)> {
        (0..self.len()).filter_map(|index| Some((self.table.name(index)?, self.child(index)?)))
    }

    /// What a name stands for, if for anything, as far as it is told.
    fn tells(&self, name: &str) -> Option<Option<Child>> {
        // What is listed as an object may still turn out to be a directory, too.
        let covered = self.covers(name);
        match self.index(name) {
            Some(index) if covered || self.is_directory(index) => self.child(index).map(Some),
            None if covered => Some(None),
            _ => None,
        }
    }

    /// Whether a name that is not here does not exist, neither as an object nor as a directory.
    fn covers(&self, name: &str) -> bool {
        self.after.as_deref().is_none_or(|after| name > after)
            && self.more_after.as_deref().is_none_or(|last| format!("{name}/").as_str() <= last)
    }

    /// Whether another part tells nothing that this one does not tell.
    fn replaces(&self, other: &Listing) -> bool {
        let begins = self.after.is_none() || other.after.is_some() && self.after <= other.after;
        let ends = match (&self.more_after, &other.more_after) {
            (None, _) => true,
            (Some(ours), Some(theirs)) => ours >= theirs,
            (Some(_), None) => false,
        };
        begins && ends
    }

    fn bytes(&self) -> usize {
        let ends = [&self.after, &self.more_after];
        let ends: usize = ends.into_iter().flatten().map(|name| name.len()).sum();
        // The prefix is the key in the map, too.
        LISTING + 2 * self.prefix.len() + ends + self.table.bytes()
    }

    /// Counts that a name was asked for; the same one may be asked for several times in a row.
    fn hit(&self, name: &str) {
        let mut hasher = DefaultHasher::new();
        name.hash(&mut hasher);
        let name = hasher.finish();
        if self.last.swap(name, Ordering::Relaxed) != name {
            self.hits.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Whether another name was asked for than the one for which it was listed.
    fn has_paid(&self) -> bool {
        self.hits.load(Ordering::Relaxed) > 1
    }
}

impl Directories {
    /// Notes that the part of a directory at an index is used.
    fn touch(clock: &mut u64, known: &mut Known, index: usize) -> Option<Arc<Listing>> {
        *clock += 1;
        known.parts.get_mut(..=index)?.rotate_right(1);
        let part = known.parts.first()?;
        part.used.store(*clock, Ordering::Relaxed);
        Some(Arc::clone(part))
    }

    /// The first part of a directory that is as wanted.
    fn find(&mut self, prefix: &str, is_wanted: impl Fn(&Listing) -> bool) -> Option<Arc<Listing>> {
        let known = self.known.get_mut(prefix)?;
        let index = known.parts.iter().position(|part| is_wanted(part))?;
        Self::touch(&mut self.clock, known, index)
    }

    fn retain(&mut self, is_kept: impl Fn(&Listing) -> bool) {
        let bytes = &mut self.bytes;
        self.known.retain(|_, known| {
            known.parts.retain(|part| {
                let is_kept = is_kept(part);
                *bytes -= if is_kept { 0 } else { part.bytes() };
                is_kept
            });
            !known.parts.is_empty()
        });
    }

    fn remove(&mut self, prefix: &str) {
        if let Some(known) = self.known.remove(prefix) {
            self.bytes -= known.parts.iter().map(|part| part.bytes()).sum::<usize>();
        }
    }

    fn insert(&mut self, part: &Arc<Listing>) {
        self.clock += 1;
        part.used.store(self.clock, Ordering::Relaxed);
        let bytes = &mut self.bytes;
        *bytes += part.bytes();
        let known = self.known.entry(part.prefix.clone()).or_default();
        known.parts.retain(|other| {
            let is_kept = !part.replaces(other);
            *bytes -= if is_kept { 0 } else { other.bytes() };
            is_kept
        });
        for evicted in known.parts.drain(known.parts.len().min(PARTS - 1)..) {
            *bytes -= evicted.bytes();
        }
        known.parts.insert(0, Arc::clone(part));
        if part.is_complete() {
            *known = Known { parts: std::mem::take(&mut known.parts), ..Known::default() };
        }
    }

    /// Evicts listings that were not used for the longest time, an eighth more than is needed: each time all are looked
    /// through.
    fn shrink(&mut self, cap: usize) {
        if self.bytes <= cap {
            return;
        }
        let parts = self.known.values().flat_map(|known| &known.parts);
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

impl Names {
    pub(super) fn new(show: Presentation) -> Self {
        Names {
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
                // Not every store tells the time with the same precision everywhere.
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

    /// The time of change that is kept with the version, if one is, and if that is known.
    pub(super) fn time_of(&self, version: &Version) -> Option<Option<SystemTime>> {
        let times = lock(&self.times);
        let (of, time) = times.get(&version.key)?;
        let is_same = match (&of.etag, &version.etag) {
            (Some(one), Some(other)) => one == other,
            _ => of.modified == version.modified,
        };
        (is_same && of.size == version.size).then_some(*time)
    }

    /// Whether its time of change needs not be asked for.
    pub(super) fn tells(&self, version: &Version) -> bool {
        !self.show.kept_times || self.time_of(version).is_some()
    }

    pub(super) fn is_whole(&self, single: &Single) -> bool {
        match &single.child {
            Some(Child::File(version)) => self.tells(version),
            _ => true,
        }
    }

    /// Remembers a file that was just asked about or written, and the time of change that is kept with it.
    pub(super) fn note_file(
        &self,
        key: &str,
        taken: Instant,
        version: &Version,
        time: Option<SystemTime>,
    ) -> Child {
        let version = Arc::new(version.clone());
        let mut times = lock(&self.times);
        if times.len() >= TIMES {
            times.clear();
        }
        // Only who asks for all of them wants to know of none.
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

    /// The whole listing of a directory (`""`, or ending with `/`), if there is one that can be trusted.
    pub(super) fn complete(&self, prefix: &str) -> Option<Arc<Listing>> {
        lock(&self.directories).find(prefix, |part| part.is_complete() && self.is_fresh(part.taken))
    }

    /// The same, or the beginning of it.
    pub(super) fn beginning(&self, prefix: &str) -> Option<Arc<Listing>> {
        lock(&self.directories).find(prefix, |part| part.after.is_none() && self.is_fresh(part.taken))
    }

    /// A listing that has a name, and where.
    pub(super) fn listed(&self, prefix: &str, name: &str) -> Option<(Arc<Listing>, usize)> {
        let part = lock(&self.directories).find(prefix, |part| part.index(name).is_some())?;
        let index = part.index(name)?;
        Some((part, index))
    }

    /// What is known of a key without asking, and since when.
    pub(super) fn remembered(&self, key: &str) -> Option<Single> {
        let (prefix, name) = split(key);
        let single = lock(&self.singles).get(key).filter(|single| self.is_fresh(single.taken)).cloned();
        let mut directories = lock(&self.directories);
        let Directories { known, clock, .. } = &mut *directories;
        let Some(known) = known.get_mut(prefix) else { return single };
        let later = |part: &Listing| {
            self.is_fresh(part.taken) && single.as_ref().is_none_or(|single| single.taken < part.taken)
        };
        let told = known.parts.iter().enumerate().filter(|(_, part)| later(part));
        let told = told.filter_map(|(index, part)| Some((part.taken, index, part.tells(name)?)));
        let Some((taken, index, child)) = told.max_by_key(|(taken, ..)| *taken) else { return single };
        if let Some(part) = Directories::touch(clock, known, index) {
            part.hit(name);
        }
        Some(Single { taken, child })
    }

    /// How to find out about a key that nothing is known of.
    pub(super) fn plan(&self, key: &str) -> Plan {
        let (prefix, name) = split(key);
        let mut directories = lock(&self.directories);
        let Some(known) = directories.known.get_mut(prefix) else { return Plan::First };
        let fits_page = |part: &Arc<Listing>| part.is_complete() && part.len() <= PAGE;
        let beginning = known.parts.iter().any(|part| part.after.is_none() && self.is_fresh(part.taken));
        if !beginning && known.parts.iter().any(fits_page) {
            return Plan::First;
        }
        if let Some(page) = known.page.take() {
            match page.upgrade().is_some_and(|page| page.has_paid()) {
                true => (known.questions_before_page, known.requests) = (0, 0),
                false => {
                    let more = 2 * known.questions_before_page;
                    known.questions_before_page = more.clamp(FEW_QUESTIONS, MANY_QUESTIONS);
                }
            }
        } else if known.questions == 0 && known.questions_before_page == 0 {
            known.questions_before_page = FEW_QUESTIONS;
        }
        known.requests += 1;
        known.patience = known.patience.max(MANY_REQUESTS);
        if known.requests >= known.patience {
            // What was spent on single names has been spent on the listing once more at most.
            known.patience *= 2;
            let pages = std::mem::take(&mut known.requests);
            let bytes = known.parts.iter().map(|part| part.table.bytes()).max().unwrap_or_default();
            if bytes <= self.largest() {
                return Plan::Pages(pages);
            }
        }
        let is_file = self.was_file(known, name);
        if is_file && known.questions < known.questions_before_page {
            known.questions += 1;
            return Plan::Ask { is_file };
        }
        known.questions = 0;
        Plan::Page
    }

    /// Whether a listing told, not long ago, that a name is a file with nothing below.
    pub(super) fn is_known_file(&self, key: &str) -> bool {
        let (prefix, name) = split(key);
        lock(&self.directories).known.get(prefix).is_some_and(|known| self.was_file(known, name))
    }

    fn was_file(&self, known: &Known, name: &str) -> bool {
        let trusted = STALE_FOR.min(self.show.ttl.saturating_mul(STALE_TIMES));
        let recent = |part: &&Arc<Listing>| part.taken.elapsed() < trusted;
        let told = known.parts.iter().filter(recent).filter_map(|part| Some((part.taken, part.tells(name)?)));
        told.max_by_key(|(taken, _)| *taken).is_some_and(|(_, child)| matches!(child, Some(Child::File(_))))
    }

    /// Remembers what a key is since the moment.
    pub(super) fn note(&self, key: &str, taken: Instant, child: Option<Child>) {
        let mut singles = lock(&self.singles);
        if singles.len() >= SINGLES {
            // The listings may be older than what was changed here.
            singles.clear();
            let mut directories = lock(&self.directories);
            *directories = Directories { changes: directories.changes + 1, ..Directories::default() };
        }
        // An answer that was on its way while the name was changed is older than the change.
        if singles.get(key).is_none_or(|known| known.taken <= taken) {
            singles.insert(key.to_string(), Single { taken, child });
        }
    }

    /// What is known of the names in a directory since it was listed.
    pub(super) fn since(&self, prefix: &str, taken: Instant) -> HashMap<Box<str>, Option<Child>> {
        let mut changes = HashMap::new();
        for (key, single) in lock(&self.singles).iter() {
            let (directory, name) = split(key);
            if directory == prefix && single.taken > taken && self.is_fresh(single.taken) {
                changes.insert(name.into(), single.child.clone());
            }
        }
        changes
    }

    /// How often something was changed here that no listing from before tells of.
    pub(super) fn changes(&self) -> u64 {
        lock(&self.directories).changes
    }

    /// Bytes of all listings that are kept: walks have the rest.
    fn cap(&self) -> usize {
        self.show.name_bytes / UNDER_WAY * (UNDER_WAY - WALKS)
    }

    /// Bytes of the largest listing that is kept.
    pub(super) fn largest(&self) -> usize {
        self.cap() / 2
    }

    /// Keeps a listing, provided that there was no change since `changes` was asked for that it does not tell of.
    pub(super) fn keep(&self, listing: Listing, changes: u64) -> Arc<Listing> {
        let listing = Arc::new(listing);
        let mut directories = lock(&self.directories);
        if directories.changes == changes && listing.bytes() <= self.largest() {
            directories.insert(&listing);
            directories.shrink(self.cap());
        }
        listing
    }

    /// The same of a page that was listed for one name.
    pub(super) fn keep_page(&self, listing: Listing, changes: u64) {
        let page = self.keep(listing, changes);
        if let Some(known) = lock(&self.directories).known.get_mut(&*page.prefix) {
            known.page = Some(Arc::downgrade(&page));
        }
    }

    /// What was known of a key turned out to be wrong.
    pub(super) fn forget(&self, key: &str) {
        lock(&self.directories).remove(split(key).0);
        lock(&self.singles).remove(key);
    }

    /// A directory was removed: its listing tells of what it had.
    pub(super) fn forget_directory(&self, prefix: &str) {
        lock(&self.directories).remove(prefix);
    }

    /// Nothing that was known below the prefixes is true any more.
    pub(super) fn forget_below(&self, prefixes: &[&str]) {
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
    use super::*;

    fn names(ttl: Duration) -> Names {
        Names::new(Presentation {
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
    fn part(prefix: &str, ends: (Option<&str>, Option<&str>), files: std::ops::Range<usize>) -> Listing {
        let mut table = Table::default();
        for number in files {
            let name = format!("{number:05}");
            table.push(&name, &file(&format!("{prefix}{name}"), 1)).unwrap();
        }
        Listing::new(Instant::now(), prefix, ends, table)
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
        let bytes: usize = directories.known.values().flat_map(|it| &it.parts).map(|it| it.bytes()).sum();
        assert_eq!((directories.bytes, bytes > names.cap() / 2), (bytes, true));
        drop(directories);
        // One that does not fit is not kept, and drives no other out.
        names.keep(part("large/", (None, None), 0..50_000), names.changes());
        assert!(names.complete("large/").is_none() && names.complete("9999/").is_some());
    }

    #[test]
    fn the_latest_of_a_name_is_right() {
        let names = names(Duration::from_secs(60));
        let size = |key: &str| match names.remembered(key)?.child? {
            Child::File(version) => Some(version.size),
            Child::Directory => None,
        };
        names.keep(part("d/", (None, None), 0..5), names.changes());
        names.note("d/00001", Instant::now(), Some(file("d/00001", 7)));
        names.note("d/00002", Instant::now(), None);
        assert_eq!((size("d/00000"), size("d/00001"), size("d/00002")), (Some(1), Some(7), None));
        names.keep(part("d/", (None, None), 0..5), names.changes());
        assert_eq!((size("d/00001"), size("d/00002")), (Some(1), Some(1)));
        // What was on its way while a directory was renamed is not kept.
        let before = names.changes();
        names.forget_below(&["d/"]);
        names.keep(part("d/", (None, None), 0..5), before);
        assert!(names.remembered("d/00001").is_none());
    }

    #[test]
    fn parts_tell_what_lies_between_their_ends() {
        let names = names(Duration::from_secs(60));
        let is = |key: &str| names.remembered(key).map(|single| single.child.is_some());
        names.keep(part("d/", (Some("00009~"), Some("00019")), 10..20), names.changes());
        names.keep(part("d/", (Some("00029~"), Some("00039")), 30..40), names.changes());
        assert_eq!(
            ["d/00009", "d/00010", "d/00018", "d/00018x"].map(is),
            [None, Some(true), Some(true), Some(false)]
        );
        // A directory of its name would come behind the last key.
        assert_eq!(["d/00019", "d/00025", "d/00038"].map(is), [None, None, Some(true)]);
        assert!(names.beginning("d/").is_none() && names.complete("d/").is_none());
        for number in 0..2 * PARTS {
            let (after, last) = (format!("{number:05}"), format!("{number:05}a"));
            names.keep(part("d/", (Some(&after), Some(&last)), 0..0), names.changes());
        }
        assert_eq!(lock(&names.directories).known["d/"].parts.len(), PARTS);
        names.keep(part("d/", (None, None), 0..50), names.changes());
        assert_eq!(lock(&names.directories).known["d/"].parts.len(), 1);
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
        // What was a file is asked about as one; what was not is told by a page.
        assert_eq!(names.plan("d/00001"), Plan::Ask { is_file: true });
        assert_eq!(names.plan("d/none"), Plan::Page);
        let plans: Vec<_> = (0..MANY_REQUESTS).map(|_| names.plan("d/00001")).collect();
        assert!(plans.contains(&Plan::Page) && plans.contains(&Plan::Pages(MANY_REQUESTS)), "{plans:?}");
    }
}
