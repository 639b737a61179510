//! A [`Bucket`] as a [`Store`]: keys become paths, listings become directories.
//!
//! It decides which keys can be seen (`name`), how long a listing is trusted, when a directory is listed
//! instead of asked about name by name, and which files are likely to be opened next. A directory is what
//! keys have in common up to a `/`, or an object whose key ends with one; where both `a` and `a/…` exist the
//! directory is seen. Keys that begin or end with a blank cannot be asked for (`reachable`) and are not shown.
//! What is changed here is seen here at once: it is remembered name by name, and of a name and a listing the
//! later one is right. It knows neither inode numbers nor how bytes are fetched.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::ControlFlow;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use log::{debug, warn};

use crate::fetch::{Fetcher, RemoteFile, Shared};
use crate::inodes::lock;
use crate::limits::{self, SKIPPED};
use crate::outage::Availability;
use crate::remote::{Bucket, Item, LARGEST_COPY, Upload, Version};
use crate::store::{Answer, Entries, Entry, Kind, Object, Space, Stat, Store, StoreError, Writer};

/// The largest file that Linux has, in bytes.
const LARGEST: u64 = i64::MAX.cast_unsigned();

/// Answers for single names that are kept.
const SINGLES: usize = 10_000;

/// Files whose kept times of change are known.
const TIMES: usize = 100_000;

/// Opens in the order of the listing that make it likely that the next names follow.
const WALKING: usize = 2;

/// How far behind the furthest an open may be and still belong to the walk: several readers share one.
const ABREAST: usize = 16;

/// Objects of a directory that is renamed that are copied or deleted at a time.
const MOVING: usize = 8;

/// Directories of which it is known that they were renamed not to the end.
const HALF_MOVED: usize = 100;

/// How long that is known.
const HALF_MOVED_FOR: Duration = Duration::from_secs(10 * 60);

/// Files fetched ahead of a walk at most.
const STRIDE: usize = 32;

/// How a mount shows what object stores do not have.
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
    /// Whether nothing is written; nobody is shown that he may.
    pub read_only: bool,
    /// Whether times of change that are kept with objects are asked for.
    pub kept_times: bool,
    /// Objects below a directory that is renamed, at most.
    pub rename_limit: usize,
    /// How long names and attributes are trusted.
    pub ttl: Duration,
}

/// A bucket as directories and files.
pub struct ObjectStore {
    bucket: Arc<dyn Bucket>,
    walker: Arc<Walker>,
    shared: Arc<Shared>,
    availability: Arc<Availability>,
    names: Arc<Names>,
    /// Who lists which directory, so that nobody lists it twice at a time; why it could not be listed, for
    /// those who have waited for it.
    listing: Mutex<HashMap<String, Arc<Mutex<Option<StoreError>>>>>,
    /// Directories that were renamed not to the end, by their old keys.
    half_moved: Mutex<HashMap<String, (String, Instant)>>,
}

/// What is below a directory, by what follows its prefix.
#[derive(Default)]
struct Tree {
    files: BTreeMap<String, Version>,
    /// Whether each, the directory itself being `""`, has an object of its own.
    directories: BTreeMap<String, bool>,
}

/// Fetches files of directories that are opened in the order of their names before they are opened.
struct Walker {
    fetcher: Fetcher,
    names: Arc<Names>,
}

/// What is known of the names, and how they are shown.
struct Names {
    show: Presentation,
    mounted: SystemTime,
    directories: Mutex<HashMap<String, Arc<Directory>>>,
    /// Answers for names of directories that are too large to list for one, and what was changed here.
    singles: Mutex<HashMap<String, Single>>,
    /// Times of change that are kept with the objects, which no listing tells, by key; each with its version.
    times: Mutex<HashMap<String, KeptTime>>,
}

/// The time of change that is kept with a version, if one is.
type KeptTime = (Arc<Version>, Option<SystemTime>);

/// What a name stands for, if for anything, and since when that is known.
#[derive(Clone)]
struct Single {
    taken: Instant,
    child: Option<Child>,
}

#[derive(Clone, Debug)]
enum Child {
    Directory,
    File(Arc<Version>),
}

impl Child {
    /// What it takes in memory, beside what every child takes.
    fn bytes(&self) -> usize {
        match self {
            Child::Directory => 0,
            Child::File(version) => version.key.len() + version.etag.as_ref().map_or(0, String::len),
        }
    }
}

/// A listing, or its beginning.
struct Directory {
    taken: Instant,
    /// By name, without repetition.
    children: Vec<(Box<str>, Child)>,
    /// What it takes in memory.
    bytes: usize,
    /// The key up to which all is listed, if there are more.
    more_after: Option<String>,
    walk: Mutex<Walk>,
}

/// Files of a directory being opened in the order of its names.
#[derive(Default)]
struct Walk {
    furthest: usize,
    steps: usize,
    /// Where what was fetched ahead ends.
    ahead: usize,
}

impl ObjectStore {
    /// A view of the bucket that the URL names; nothing is asked of it yet.
    pub fn new(source: &str, bucket: Arc<dyn Bucket>, shared: Arc<Shared>, show: Presentation) -> Self {
        let fetcher = Fetcher::new(source, Arc::clone(&bucket), Arc::clone(&shared));
        let names = Arc::new(Names {
            show,
            mounted: SystemTime::now(),
            directories: Mutex::default(),
            singles: Mutex::default(),
            times: Mutex::default(),
        });
        ObjectStore {
            availability: fetcher.availability(),
            walker: Arc::new(Walker { fetcher, names: Arc::clone(&names) }),
            bucket,
            shared,
            names,
            listing: Mutex::default(),
            half_moved: Mutex::default(),
        }
    }

    /// The file at a path, not opened.
    pub fn file(&self, path: &Path) -> Result<Arc<RemoteFile>, StoreError> {
        match self.child("open", key(path)?)? {
            Child::File(version) => Ok(self.walker.fetcher.file(&version)),
            Child::Directory => Err(StoreError::Failed("a directory".into())),
        }
    }

    /// Makes a request again and again until it is answered or the time is up.
    fn insist<T>(&self, request: impl FnMut() -> Result<T, StoreError>) -> Result<T, StoreError> {
        self.shared.insist(&self.availability, request)
    }

    /// Asks about a key: the start of its directory's listing tells of all its neighbours, too; only where
    /// that does not reach, the key itself is asked about.
    fn find(&self, key: &str) -> Result<Option<Child>, StoreError> {
        let (prefix, _) = split(key);
        if self.names.fresh(prefix).is_none() {
            self.read_listing(prefix, false)?;
        }
        if let Some(single) = self.names.remembered(key) {
            return Ok(single.child);
        }
        let taken = Instant::now();
        let head = || self.insist(|| self.bucket.head_with_time(key));
        let child = match reachable(key).then(head) {
            Some(Ok((version, time))) => {
                (version.size <= LARGEST).then(|| self.names.note_file(key, taken, &version, time))
            }
            Some(Err(StoreError::NotFound)) | None => None,
            Some(Err(error)) => return Err(error),
        };
        let below = format!("{key}/");
        let inhabited = reachable(&below) && self.lists(&below, |_| true)?;
        let child = if inhabited { Some(Child::Directory) } else { child };
        self.names.note(key, taken, child.clone());
        // What was changed here meanwhile is newer.
        Ok(self.names.remembered(key).map_or(child, |single| single.child))
    }

    /// Whether there is such an item below a prefix.
    fn lists(&self, prefix: &str, which: impl Fn(&Item) -> bool) -> Result<bool, StoreError> {
        let mut found = false;
        self.insist(|| {
            self.bucket.list(prefix, &mut |items| {
                found = items.iter().any(&which);
                if found { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })
        })?;
        Ok(found)
    }

    /// Lists a directory, or the first page of it, unless somebody just did.
    fn read_listing(&self, prefix: &str, all: bool) -> Result<Arc<Directory>, StoreError> {
        let turn = Arc::clone(lock(&self.listing).entry(prefix.to_string()).or_default());
        let mut ours = turn.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(error) = &*ours {
            return Err(error.clone());
        }
        let enough = |directory: &Arc<Directory>| !all || directory.more_after.is_none();
        let result = match self.names.fresh(prefix).filter(enough) {
            Some(directory) => Ok(directory),
            None => {
                self.insist(|| self.list_now(prefix, all)).map(|directory| self.names.keep(prefix, directory))
            }
        };
        *ours = result.as_ref().err().cloned();
        drop(ours);
        lock(&self.listing).remove(prefix);
        result
    }

    fn list_now(&self, prefix: &str, all: bool) -> Result<Directory, StoreError> {
        let taken = Instant::now();
        let mut children: Vec<(Box<str>, Child)> = Vec::new();
        // Of a page, the prefixes come first: before its last object there is nothing more.
        let mut last = String::new();
        let mut hidden = 0_usize;
        let complete = self.bucket.list(prefix, &mut |items| {
            for item in items {
                let (key, child) = match item {
                    Item::Object(version) => {
                        last.clone_from(&version.key);
                        (version.key.clone(), Child::File(Arc::new(version)))
                    }
                    Item::Prefix(key) => (key, Child::Directory),
                };
                match key.strip_prefix(prefix) {
                    // The directory's own marker.
                    Some("") => {}
                    Some(rest) => {
                        let rest =
                            if matches!(child, Child::Directory) { rest.trim_end_matches('/') } else { rest };
                        let sized = !matches!(&child, Child::File(version) if version.size > LARGEST);
                        match name(rest) && reachable(&key) && sized {
                            true => children.push((rest.into(), child)),
                            false => hidden += 1,
                        }
                    }
                    None => hidden += 1,
                }
            }
            if all { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        if hidden > 0 {
            SKIPPED.fetch_add(hidden as u64, Ordering::Relaxed);
            warn!("{hidden} keys below {prefix:?} cannot be files and are not shown");
        }
        // Directories first among equals: they hide the objects of their name.
        children.sort_by(|a, b| {
            (&a.0, matches!(a.1, Child::File(_))).cmp(&(&b.0, matches!(b.1, Child::File(_))))
        });
        children.dedup_by(|later, kept| later.0 == kept.0);
        children.shrink_to_fit();
        let more_after = (!complete).then_some(last);
        debug!(
            "listed {prefix:?}: {} names{}",
            children.len(),
            if more_after.is_some() { " and more" } else { "" }
        );
        let bytes: usize =
            children.iter().map(|(name, child)| limits::ENTRY + name.len() + child.bytes()).sum();
        let bytes = bytes + limits::ENTRY + prefix.len();
        Ok(Directory { taken, children, bytes, more_after, walk: Mutex::default() })
    }

    /// What a key stands for, for an operation that waits if it is not known.
    fn child(&self, operation: &'static str, key: &str) -> Result<Child, StoreError> {
        match self.names.remembered(key) {
            Some(single) => single.child,
            None => {
                let _waiting = self.availability.wait(operation, key);
                self.find(key)?
            }
        }
        .ok_or(StoreError::NotFound)
    }

    /// What is below a prefix, as long as it can be renamed.
    fn tree(&self, prefix: &str) -> Result<Tree, StoreError> {
        let limit = self.names.show.rename_limit;
        let (mut tree, mut prefixes) = (Tree::default(), vec![prefix.to_string()]);
        // A key that is not shown cannot be asked for either.
        let below = |key: &str| {
            let rest = key.strip_prefix(prefix)?;
            (reachable(rest) && !rest.starts_with('/') && !rest.contains("//")).then(|| rest.to_string())
        };
        while let Some(at) = prefixes.pop() {
            let mut items = Vec::new();
            self.insist(|| {
                items.clear();
                self.bucket.list(&at, &mut |page| {
                    items.extend(page);
                    let is_too_much = tree.files.len() + items.len() > limit;
                    if is_too_much { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
                })
            })?;
            // Where directories are no objects, an empty one has nothing to be seen by.
            let mut has_marker = items.is_empty();
            for item in items {
                match item {
                    Item::Object(marker) if marker.key == at => has_marker = true,
                    Item::Object(version) if version.size <= LARGEST_COPY => {
                        tree.files.insert(below(&version.key).ok_or(StoreError::NotMovable)?, version);
                    }
                    Item::Prefix(deeper) if deeper.len() > at.len() && deeper.starts_with(&at) => {
                        prefixes.push(deeper);
                    }
                    _ => return Err(StoreError::NotMovable),
                }
            }
            tree.directories.insert(below(&at).ok_or(StoreError::NotMovable)?, has_marker);
            if tree.files.len().max(tree.directories.len()) > limit {
                return Err(StoreError::NotMovable);
            }
        }
        Ok(tree)
    }

    /// Copies all that is below, and then deletes it. What ends before goes on when it is asked for again: what is there
    /// already is the same.
    fn rename_directory(&self, from: &str, to: &str) -> Result<Stat, StoreError> {
        if self.names.show.rename_limit == 0 {
            return Err(StoreError::NotMovable);
        }
        let _waiting = self.availability.wait("rename", from);
        let (old, new) = (format!("{from}/"), format!("{to}/"));
        let (tree, there) = (self.tree(&old)?, self.tree(&new)?.files);
        let is_same = |(key, version): (&String, &Version)| {
            let found = there.get(key);
            found.is_some_and(|found| {
                found.size == version.size && found.etag.is_some() && found.etag == version.etag
            })
        };
        // The copies are not complete, or all are there and not all is deleted.
        let is_copied = there.keys().all(|key| tree.files.contains_key(key))
            && tree.files.iter().filter(|(key, _)| there.contains_key(*key)).all(is_same);
        let is_half_moved = lock(&self.half_moved)
            .get(from)
            .is_some_and(|(target, since)| target == to && since.elapsed() < HALF_MOVED_FOR);
        if !is_copied && !is_half_moved && !tree.files.iter().all(is_same) {
            return Err(StoreError::NotEmpty);
        }
        {
            let mut half_moved = lock(&self.half_moved);
            if half_moved.len() >= HALF_MOVED {
                half_moved.clear();
            }
            half_moved.insert(from.to_string(), (to.to_string(), Instant::now()));
        }
        for marker in tree.directories.iter().filter(|(_, has_marker)| **has_marker).map(|(key, _)| key) {
            self.insist(|| self.bucket.make_directory(&format!("{new}{marker}")))?;
        }
        let files: Vec<_> = tree.files.iter().collect();
        self.all_at_once(&files, |file| match is_same(*file) {
            true => Ok(()),
            false => {
                self.insist(|| self.bucket.copy(&format!("{old}{}", file.0), &format!("{new}{}", file.0)))
            }
        })?;
        // Nothing is deleted that is not there.
        let taken = Instant::now();
        let copies = self.tree(&new)?.files;
        let is_missing = |(key, version): &(&String, &Version)| {
            copies.get(*key).is_none_or(|copy| copy.size != version.size)
        };
        if let Some((key, _)) = tree.files.iter().find(is_missing) {
            return Err(StoreError::Failed(format!(
                "{new}{key} is no copy of {old}{key}, so nothing is deleted"
            )));
        }
        let delete = |key: &str| match self.bucket.delete(&format!("{old}{key}")) {
            Err(StoreError::NotFound) => Ok(()),
            deleted => deleted,
        };
        self.all_at_once(&files, |(key, _)| self.insist(|| delete(key)))?;
        // The innermost first, where they are more than markers.
        for directory in tree.directories.keys().rev() {
            self.insist(|| delete(directory))?;
        }
        lock(&self.half_moved).remove(from);
        lock(&self.names.directories).retain(|key, _| !key.starts_with(&old) && !key.starts_with(&new));
        lock(&self.names.singles).retain(|key, _| !key.starts_with(&old) && !key.starts_with(&new));
        self.names.note(from, Instant::now(), None);
        for directory in tree.directories.keys() {
            let key = format!("{new}{directory}");
            self.names.note(key.trim_end_matches('/'), Instant::now(), Some(Child::Directory));
        }
        for (key, version) in &tree.files {
            if let Some(copy) = copies.get(key) {
                let time = self.names.time_of(version).flatten();
                self.names.note_file(&copy.key, taken, copy, time);
            }
        }
        Ok(self.names.directory_stat())
    }

    /// Does the same with all, some at a time; the first failure ends it.
    fn all_at_once<T: Sync>(
        &self,
        all: &[T],
        what: impl Fn(&T) -> Result<(), StoreError> + Sync,
    ) -> Result<(), StoreError> {
        let (next, failed) = (AtomicUsize::new(0), Mutex::new(None));
        thread::scope(|scope| {
            for _ in 0..MOVING.min(all.len()) {
                scope.spawn(|| {
                    while let Some(one) = all.get(next.fetch_add(1, Ordering::Relaxed)) {
                        if lock(&failed).is_some() {
                            return;
                        }
                        if let Err(error) = what(one) {
                            lock(&failed).get_or_insert(error);
                        }
                    }
                });
            }
        });
        failed.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
    }

    /// The present version of a file, asked for anew.
    fn latest(&self, operation: &'static str, key: &str) -> Result<(Version, Stat), StoreError> {
        let _waiting = self.availability.wait(operation, key);
        let taken = Instant::now();
        let (version, time) = self.insist(|| self.bucket.head_with_time(key))?;
        let child = self.names.note_file(key, taken, &version, time);
        Ok((version, self.names.stat_of(&child)))
    }

    fn writer(&self, key: &str, upload: Box<dyn Upload>) -> ObjectWriter {
        ObjectWriter {
            upload,
            key: key.to_string(),
            time: None,
            names: Arc::clone(&self.names),
            shared: Arc::clone(&self.shared),
            availability: Arc::clone(&self.availability),
        }
    }

    fn may_write(&self) -> Result<(), StoreError> {
        match self.names.show.read_only {
            true => Err(StoreError::ReadOnly),
            false => Ok(()),
        }
    }
}

impl Walker {
    /// Notes that a file is opened, and fetches those that are likely to be next.
    fn step(&self, key: &str) {
        let (prefix, name) = split(key);
        let Some(directory) = self.names.fresh(prefix) else { return };
        let Ok(index) = directory.index(name) else { return };
        let next = {
            let mut walk = lock(&directory.walk);
            let onward = index > walk.furthest && index <= walk.furthest + ABREAST;
            let abreast = index <= walk.furthest && index + ABREAST >= walk.furthest;
            walk.steps = match (onward, abreast) {
                (true, _) => walk.steps + 1,
                (_, true) => walk.steps,
                _ => 0,
            };
            if !abreast {
                walk.furthest = index;
            }
            if walk.steps == 0 {
                walk.ahead = 0;
            }
            if walk.steps < WALKING {
                return;
            }
            let from = walk.ahead.max(walk.furthest + 1);
            let to = (walk.furthest + 1 + (4 * walk.steps).min(STRIDE)).min(directory.children.len());
            walk.ahead = to.max(from);
            from..walk.ahead
        };
        let files = directory.children.get(next).unwrap_or_default();
        let versions: Vec<Version> = files
            .iter()
            .filter_map(|(_, child)| match child {
                Child::File(version) => Some(Version::clone(version)),
                Child::Directory => None,
            })
            .collect();
        self.fetcher.expect(&versions);
    }
}

impl Names {
    fn mode(&self, mode: u16) -> u16 {
        if self.show.read_only { mode & !0o222 } else { mode }
    }

    fn directory_stat(&self) -> Stat {
        Stat::directory(self.mode(self.show.directory_mode), (self.show.uid, self.show.gid), self.mounted)
    }

    fn stat_of(&self, child: &Child) -> Stat {
        match child {
            Child::Directory => self.directory_stat(),
            Child::File(version) => {
                let mut identity = DefaultHasher::new();
                // Not every store tells the time with the same precision everywhere.
                let time = version.etag.is_none().then_some(version.modified);
                (version.size, &version.etag, time).hash(&mut identity);
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
    fn time_of(&self, version: &Version) -> Option<Option<SystemTime>> {
        let times = lock(&self.times);
        let (of, time) = times.get(&version.key)?;
        let is_same = match (&of.etag, &version.etag) {
            (Some(one), Some(other)) => one == other,
            _ => of.modified == version.modified,
        };
        (is_same && of.size == version.size).then_some(*time)
    }

    /// Whether its time of change needs not be asked for.
    fn tells(&self, version: &Version) -> bool {
        !self.show.kept_times || self.time_of(version).is_some()
    }

    fn is_whole(&self, single: &Single) -> bool {
        match &single.child {
            Some(Child::File(version)) => self.tells(version),
            _ => true,
        }
    }

    /// Remembers a file that was just asked about or written, and the time of change that is kept with it.
    fn note_file(&self, key: &str, taken: Instant, version: &Version, time: Option<SystemTime>) -> Child {
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

    /// The listing of a directory (`""`, or ending with `/`), if there is one that can be trusted.
    fn fresh(&self, prefix: &str) -> Option<Arc<Directory>> {
        let directories = lock(&self.directories);
        directories.get(prefix).filter(|directory| directory.taken.elapsed() < self.show.ttl).cloned()
    }

    /// What is known of a key without asking, and since when.
    fn remembered(&self, key: &str) -> Option<Single> {
        let (prefix, name) = split(key);
        let single = lock(&self.singles).get(key).filter(|single| self.is_fresh(single)).cloned();
        let later =
            |directory: &Arc<Directory>| single.as_ref().is_none_or(|single| single.taken < directory.taken);
        if let Some(directory) = self.fresh(prefix).filter(later) {
            // What is listed as an object may still turn out to be a directory, too.
            let covered = directory.covers(key);
            match directory.child(name) {
                Some(child) if covered || matches!(child, Child::Directory) => {
                    return Some(Single { taken: directory.taken, child: Some(child.clone()) });
                }
                None if covered => return Some(Single { taken: directory.taken, child: None }),
                _ => {}
            }
        }
        single
    }

    fn is_fresh(&self, single: &Single) -> bool {
        single.taken.elapsed() < self.show.ttl
    }

    /// Remembers what a key is since the moment.
    fn note(&self, key: &str, taken: Instant, child: Option<Child>) {
        let mut singles = lock(&self.singles);
        if singles.len() >= SINGLES {
            // The listings may be older than what was changed here.
            singles.clear();
            lock(&self.directories).clear();
        }
        // An answer that was on its way while the name was changed is older than the change.
        if singles.get(key).is_none_or(|known| known.taken <= taken) {
            singles.insert(key.to_string(), Single { taken, child });
        }
    }

    /// What is known of the names in a directory since it was listed.
    fn since(&self, prefix: &str, taken: Instant) -> HashMap<Box<str>, Option<Child>> {
        let mut changes = HashMap::new();
        for (key, single) in lock(&self.singles).iter() {
            let (directory, name) = split(key);
            if directory == prefix && single.taken > taken && self.is_fresh(single) {
                changes.insert(name.into(), single.child.clone());
            }
        }
        changes
    }

    fn keep(&self, prefix: &str, directory: Directory) -> Arc<Directory> {
        let directory = Arc::new(directory);
        let mut directories = lock(&self.directories);
        directories.retain(|_, directory| directory.taken.elapsed() < self.show.ttl);
        directories.insert(prefix.to_string(), Arc::clone(&directory));
        while directories.len() > 1
            && directories.values().map(|directory| directory.bytes).sum::<usize>() > limits::REMEMBERED
        {
            let oldest = directories
                .iter()
                .filter(|(key, _)| *key != prefix)
                .min_by_key(|(_, directory)| directory.taken)
                .map(|(key, _)| key.clone());
            match oldest {
                Some(key) => directories.remove(&key),
                None => break,
            };
        }
        directory
    }

    /// What was known of a key turned out to be wrong.
    fn forget(&self, key: &str) {
        lock(&self.directories).remove(split(key).0);
        lock(&self.singles).remove(key);
    }
}

impl Directory {
    fn index(&self, name: &str) -> Result<usize, usize> {
        self.children.binary_search_by(|(other, _)| other.as_ref().cmp(name))
    }

    fn child(&self, name: &str) -> Option<&Child> {
        self.index(name).ok().and_then(|index| self.children.get(index)).map(|(_, child)| child)
    }

    /// Whether a key that is not here does not exist, neither as an object nor as a directory.
    fn covers(&self, key: &str) -> bool {
        self.more_after.as_ref().is_none_or(|last| format!("{key}/") <= *last)
    }
}

/// Whether what follows a prefix can be the name of a file.
fn name(rest: &str) -> bool {
    !matches!(rest, "" | "." | "..") && rest.len() <= limits::NAME && !rest.contains(['/', '\0'])
}

/// Whether the library can ask for a key: it drops blanks at the ends.
fn reachable(key: &str) -> bool {
    key.trim() == key
}

/// The directory's prefix and the name.
fn split(key: &str) -> (&str, &str) {
    key.split_at(key.rfind('/').map_or(0, |slash| slash + 1))
}

/// The key that a path stands for; no key is anything but UTF-8.
fn key(path: &Path) -> Result<&str, StoreError> {
    path.to_str().ok_or(StoreError::NotFound)
}

impl Store for ObjectStore {
    fn stat(&self, path: &Path) -> Result<Stat, StoreError> {
        match key(path)? {
            "" => Ok(self.names.directory_stat()),
            key => match self.child("stat", key)? {
                Child::File(version) if !self.names.tells(&version) => {
                    self.latest("stat", key).map(|(_, stat)| stat)
                }
                child => Ok(self.names.stat_of(&child)),
            },
        }
    }

    fn known(&self, path: &Path) -> Option<Result<Stat, StoreError>> {
        match key(path) {
            Ok("") => Some(Ok(self.names.directory_stat())),
            Ok(key) => {
                self.names.remembered(key).filter(|single| self.names.is_whole(single)).map(|single| {
                    single.child.map(|child| self.names.stat_of(&child)).ok_or(StoreError::NotFound)
                })
            }
            Err(error) => Some(Err(error)),
        }
    }

    fn known_since(&self, path: &Path) -> Option<Instant> {
        match key(path) {
            Ok(key) if !key.is_empty() => self.names.remembered(key).map(|single| single.taken),
            _ => Some(Instant::now()),
        }
    }

    fn list(&self, directory: &Path) -> Result<Entries, StoreError> {
        let prefix = match key(directory)? {
            "" => String::new(),
            key => format!("{key}/"),
        };
        let known = self.names.fresh(&prefix).filter(|directory| directory.more_after.is_none());
        let listing = match known {
            Some(listing) => listing,
            None => {
                let _waiting = self.availability.wait("list", &prefix);
                self.read_listing(&prefix, true)?
            }
        };
        let changes = self.names.since(&prefix, listing.taken);
        let entry = |(name, child): (&str, &Child)| Entry {
            name: OsString::from(name),
            stat: self.names.stat_of(child),
        };
        let listed = listing.children.iter().map(|(name, child)| (&**name, child));
        let unchanged = listed.filter(|(name, _)| !changes.contains_key(*name));
        let changed = changes.iter().filter_map(|(name, child)| Some((&**name, child.as_ref()?)));
        let entries = unchanged.chain(changed).map(entry).collect();
        Ok(Entries { since: listing.taken, entries, is_all_known: !self.names.show.kept_times })
    }

    fn open(&self, path: &Path, again: bool) -> Result<Box<dyn Object>, StoreError> {
        let key = key(path)?;
        let Child::File(version) = self.child("open", key)? else { return Err(StoreError::Stale) };
        let file = self.walker.fetcher.file(&version);
        if file.is_stale() {
            self.names.forget(key);
            return Err(StoreError::Stale);
        }
        if again {
            file.hold();
        } else {
            file.open();
            self.walker.step(key);
        }
        Ok(Box::new(OpenObject {
            stat: self.names.stat_of(&Child::File(version)),
            whole: file.whole(),
            file,
            walker: Arc::clone(&self.walker),
            resting: AtomicBool::new(again),
        }))
    }

    fn reopen(&self, _: &Path, identity: u64, version: &[u8]) -> Result<Box<dyn Object>, StoreError> {
        let version = Version::from_bytes(version).ok_or(StoreError::Stale)?;
        let stat = self.names.stat_of(&Child::File(Arc::new(version.clone())));
        if stat.identity != identity {
            return Err(StoreError::Stale);
        }
        let file = self.walker.fetcher.file(&version);
        file.hold();
        Ok(Box::new(OpenObject {
            stat,
            whole: file.whole(),
            file,
            walker: Arc::clone(&self.walker),
            // Whether the walk went on from here is not known.
            resting: AtomicBool::new(false),
        }))
    }

    fn read_link(&self, _: &Path) -> Result<OsString, StoreError> {
        Err(StoreError::Unsupported("a symbolic link"))
    }

    fn space(&self) -> Result<Space, StoreError> {
        // Object stores have no end; programs that compute with it should not overflow.
        let bytes = 1 << 50;
        Ok(Space { bytes, free_bytes: bytes, files: 1 << 40, free_files: 1 << 40 })
    }

    fn ttl(&self) -> Duration {
        self.names.show.ttl
    }

    fn is_far(&self) -> bool {
        true
    }

    fn is_writable(&self, _: &Path) -> bool {
        self.may_write().is_ok()
    }

    fn file_mode(&self, _: &Path) -> u16 {
        self.names.mode(self.names.show.file_mode)
    }

    fn create(&self, path: &Path) -> Result<Box<dyn Writer>, StoreError> {
        self.may_write()?;
        let key = new_key(path)?;
        Ok(Box::new(self.writer(key, self.bucket.put(key)?)))
    }

    fn append(&self, path: &Path) -> Result<(Box<dyn Writer>, Stat), StoreError> {
        self.may_write()?;
        let key = key(path)?;
        let (version, stat) = self.latest("append", key)?;
        Ok((Box::new(self.writer(key, self.bucket.resume(&version)?)), stat))
    }

    fn set_time(&self, path: &Path, time: SystemTime) -> Result<Stat, StoreError> {
        self.may_write()?;
        let key = key(path)?;
        let (version, stat) = self.latest("utimens", key)?;
        if stat.modified == time {
            return Ok(stat);
        }
        let mut writer = self.writer(key, self.bucket.resume(&version)?);
        writer.set_time(time);
        writer.finish()
    }

    fn remove(&self, path: &Path) -> Result<(), StoreError> {
        self.may_write()?;
        let key = key(path)?;
        let _waiting = self.availability.wait("remove", key);
        self.insist(|| self.bucket.delete(key))?;
        self.names.note(key, Instant::now(), None);
        Ok(())
    }

    fn make_directory(&self, path: &Path) -> Result<Stat, StoreError> {
        self.may_write()?;
        let key = new_key(path)?;
        let _waiting = self.availability.wait("mkdir", key);
        self.insist(|| self.bucket.make_directory(&format!("{key}/")))?;
        self.names.note(key, Instant::now(), Some(Child::Directory));
        Ok(self.names.directory_stat())
    }

    fn remove_directory(&self, path: &Path) -> Result<(), StoreError> {
        self.may_write()?;
        let key = key(path)?;
        let _waiting = self.availability.wait("rmdir", key);
        let marker = format!("{key}/");
        if self.lists(&marker, |item| !matches!(item, Item::Object(it) if it.key == marker))? {
            return Err(StoreError::NotEmpty);
        }
        match self.insist(|| self.bucket.delete(&marker)) {
            Ok(()) | Err(StoreError::NotFound) => {}
            Err(error) => return Err(error),
        }
        lock(&self.names.directories).remove(&marker);
        self.names.note(key, Instant::now(), None);
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<Stat, StoreError> {
        self.may_write()?;
        let (from, to) = (key(from)?, new_key(to)?);
        let version = match self.child("rename", from)? {
            Child::File(version) if version.size <= LARGEST_COPY => version,
            Child::File(_) => return Err(StoreError::NotMovable),
            Child::Directory => return self.rename_directory(from, to),
        };
        let _waiting = self.availability.wait("rename", from);
        self.insist(|| self.bucket.copy(from, to))?;
        let taken = Instant::now();
        let (copied, time) = match self.insist(|| self.bucket.head_with_time(to)) {
            // It is there, whoever may not ask for it yet or at all.
            Err(StoreError::NotFound | StoreError::Denied(_)) => {
                let copied =
                    Version { key: to.to_string(), modified: SystemTime::now(), ..Version::clone(&version) };
                (copied, self.names.time_of(&version).flatten())
            }
            copied => copied?,
        };
        let child = self.names.note_file(to, taken, &copied, time);
        self.insist(|| self.bucket.delete(from))?;
        self.names.note(from, Instant::now(), None);
        Ok(self.names.stat_of(&child))
    }
}

/// The key of something new, which must be seen afterwards.
fn new_key(path: &Path) -> Result<&str, StoreError> {
    let key = path.to_str().ok_or(StoreError::Unsupported("a name that is not UTF-8"))?;
    match name(split(key).1) {
        true => Ok(key),
        false => Err(StoreError::Unsupported("a name of that length")),
    }
}

/// What is not found is what was written: removed by others, or finished although the answer was lost.
fn gone(error: StoreError) -> StoreError {
    match error {
        StoreError::NotFound => StoreError::Failed("what was written is not there any more".into()),
        error => error,
    }
}

struct ObjectWriter {
    upload: Box<dyn Upload>,
    key: String,
    /// The time of change that was set.
    time: Option<SystemTime>,
    names: Arc<Names>,
    shared: Arc<Shared>,
    availability: Arc<Availability>,
}

impl Writer for ObjectWriter {
    fn expect(&mut self, size: u64) {
        self.upload.expect(size);
    }

    fn write(&mut self, mut bytes: &[u8]) -> Result<(), StoreError> {
        if !bytes.is_empty() {
            self.time = None;
        }
        let _waiting = self.availability.wait("write", &self.key);
        let write = || self.upload.write(std::mem::take(&mut bytes));
        self.shared.insist_on_write(&self.availability, write).map_err(gone)
    }

    fn set_time(&mut self, time: SystemTime) {
        self.time = Some(time);
        self.upload.set_time(time);
    }

    fn restart(&mut self) -> Result<(), StoreError> {
        self.time = None;
        self.upload.restart()
    }

    fn finish(&mut self) -> Result<Stat, StoreError> {
        let _waiting = self.availability.wait("close", &self.key);
        let finished = self.shared.insist(&self.availability, || self.upload.finish());
        let version = finished.map_err(gone)?;
        let child = self.names.note_file(&self.key, Instant::now(), &version, self.time);
        Ok(self.names.stat_of(&child))
    }
}

struct OpenObject {
    stat: Stat,
    /// The file on the disk, if all of it is there.
    whole: Option<OwnedFd>,
    file: Arc<RemoteFile>,
    walker: Arc<Walker>,
    /// Nothing has been read yet of what was read before: it was no step of a walk either.
    resting: AtomicBool,
}

impl Object for OpenObject {
    fn stat(&self) -> Result<Stat, StoreError> {
        Ok(self.stat)
    }

    fn read(&self, offset: u64, length: u32, answer: Answer) {
        self.file.read(offset, length, answer);
        if self.resting.swap(false, Ordering::Relaxed) {
            self.walker.step(&self.file.version().key);
        }
    }

    fn version(&self) -> Vec<u8> {
        self.file.version().to_bytes()
    }

    fn backing(&self) -> Option<BorrowedFd<'_>> {
        self.whole.as_ref().map(OwnedFd::as_fd)
    }
}

impl Drop for OpenObject {
    fn drop(&mut self) {
        self.file.close();
    }
}
