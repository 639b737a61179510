//! A [`Bucket`] as a [`Store`]: keys become paths, listings become directories.
//!
//! A directory is a prefix of keys that ends with `/`, or an object whose key ends with `/`. Where both `a` and `a/…`
//! exist, the directory is shown. The modules, each of which uses only those before it:
//!
//! - `keys`: which keys are shown, and their parts;
//! - `table`: the names of a directory in few bytes;
//! - `order`: whether names are used in the order of their listing;
//! - `listing`: listings of directories and their cache by prefix;
//! - `name_cache`: which of the cached answers is right, how long it is trusted, and how to find out about a name;
//! - `open_file`: open files, and the prefetch of the files after them;
//! - `walk`, `lookup`, `rename`, `writer`: requests to the store that take several steps; this module makes the others.
//!
//! Changes that this mount makes are seen in it at once: they are cached name by name, and of the answers for a name the
//! latest is used. This module knows neither inode numbers nor how the bytes of files are fetched.

mod keys;
mod listing;
mod lookup;
mod name_cache;
mod open_file;
mod order;
mod rename;
mod table;
mod walk;
mod writer;

use std::ffi::OsString;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant, SystemTime};

use self::keys::{key, new_key};
use self::name_cache::NameCache;
pub use self::name_cache::Presentation;
use self::open_file::{FilePrefetcher, OpenObject};
use self::table::Child;
use self::walk::{ListExtent, Walks};
use self::writer::ObjectWriter;
use crate::fetch::{Fetcher, Shared};
use crate::flight::Flights;
use crate::outage::Availability;
use crate::remote::{Bucket, Item, LARGEST_COPY, Upload, Version};
use crate::store::{Attempt, Entries, Entry, Object, Space, Stat, Store, StoreError, Writer};

/// A bucket as directories and files.
pub struct ObjectStore {
    bucket: Arc<dyn Bucket>,
    file_prefetcher: Arc<FilePrefetcher>,
    shared: Arc<Shared>,
    availability: Arc<Availability>,
    names: Arc<NameCache>,
    /// The requests that are under way. Keys of listings are prefixes (empty, or ending with `/`), those of pages end
    /// with NUL, and those of requests for single names are the names' keys.
    flights: Flights,
    walks: Walks,
}

impl ObjectStore {
    /// A view of the bucket that the URL names. Makes no request.
    pub fn new(source: &str, bucket: Arc<dyn Bucket>, shared: Arc<Shared>, show: Presentation) -> Self {
        let fetcher = Fetcher::new(source, Arc::clone(&bucket), Arc::clone(&shared));
        let names = Arc::new(NameCache::new(show));
        ObjectStore {
            availability: fetcher.availability(),
            flights: Flights::new(fetcher.availability()),
            file_prefetcher: Arc::new(FilePrefetcher { fetcher, names: Arc::clone(&names) }),
            bucket,
            shared,
            names,
            walks: Walks::default(),
        }
    }

    /// Makes a request, with retries until the deadline of the operation.
    fn retry<T>(&self, request: impl FnMut() -> Result<T, StoreError>) -> Result<T, StoreError> {
        self.shared.retry.request(&self.availability, request)
    }

    /// The same for one step of an operation that makes a request for each object.
    fn retry_step<T>(&self, request: impl FnMut() -> Result<T, StoreError>) -> Result<T, StoreError> {
        self.shared.retry.step(&self.availability, request)
    }

    /// The file or directory of a key. The operation waits for the store if the key is not cached.
    fn child(&self, operation: &'static str, key: &str) -> Result<Child, StoreError> {
        match self.names.cached(key) {
            Some(single) => single.child,
            None => {
                let _waiting = self.availability.register(operation, key);
                self.find(key)?
            }
        }
        .ok_or(StoreError::NotFound)
    }

    /// The present version of a file, by a new request.
    fn latest(&self, operation: &'static str, key: &str) -> Result<(Version, Stat), StoreError> {
        let _waiting = self.availability.register(operation, key);
        let taken = Instant::now();
        let (version, time) = self.retry(|| self.bucket.head_with_time(key))?;
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

impl Store for ObjectStore {
    fn stat(&self, path: &Path) -> Result<Stat, StoreError> {
        match key(path)? {
            "" => Ok(self.names.directory_stat()),
            key => match self.child("stat", key)? {
                Child::File(version) if !self.names.has_time(&version) => {
                    self.latest("stat", key).map(|(_, stat)| stat)
                }
                child => Ok(self.names.stat_of(&child)),
            },
        }
    }

    fn cached_stat(&self, path: &Path) -> Option<Result<Stat, StoreError>> {
        match key(path) {
            Ok("") => Some(Ok(self.names.directory_stat())),
            Ok(key) => {
                self.names.cached(key).filter(|single| self.names.has_all_attributes(single)).map(|single| {
                    single.child.map(|child| self.names.stat_of(&child)).ok_or(StoreError::NotFound)
                })
            }
            Err(error) => Some(Err(error)),
        }
    }

    fn cached_since(&self, path: &Path) -> Option<Instant> {
        match key(path) {
            Ok(key) if !key.is_empty() => self.names.cached(key).map(|single| single.taken),
            _ => Some(Instant::now()),
        }
    }

    fn list(&self, directory: &Path) -> Result<Entries, StoreError> {
        let prefix = match key(directory)? {
            "" => String::new(),
            key => format!("{key}/"),
        };
        let listing = match self.names.complete(&prefix) {
            Some(listing) => listing,
            None => {
                let _waiting = self.availability.register("list", &prefix);
                self.read_listing(&prefix, ListExtent::All)?
            }
        };
        let changes = self.names.changes_since(&prefix, listing.taken);
        let entry = |(name, child): (&str, Child)| Entry {
            name: OsString::from(name),
            stat: self.names.stat_of(&child),
        };
        let unchanged = listing.children().filter(|(name, _)| !changes.contains_key(*name));
        let changed = changes.iter().filter_map(|(name, child)| Some((&**name, child.clone()?)));
        let entries = unchanged.chain(changed).map(entry).collect();
        Ok(Entries { since: listing.taken, entries, are_complete: !self.names.show.kept_times })
    }

    fn open(&self, path: &Path, again: bool) -> Result<Box<dyn Object>, StoreError> {
        let key = key(path)?;
        let Child::File(version) = self.child("open", key)? else { return Err(StoreError::Stale) };
        let file = self.file_prefetcher.fetcher.file(&version);
        if file.is_stale() {
            self.names.invalidate(key);
            return Err(StoreError::Stale);
        }
        if again {
            file.hold();
        } else {
            file.open();
            self.file_prefetcher.opened(key);
        }
        Ok(Box::new(OpenObject {
            stat: self.names.stat_of(&Child::File(version)),
            whole: file.whole(),
            file,
            prefetcher: Arc::clone(&self.file_prefetcher),
            is_open_unnoted: AtomicBool::new(again),
        }))
    }

    fn reopen(&self, _: &Path, identity: u64, version: &[u8]) -> Result<Box<dyn Object>, StoreError> {
        let version = Arc::new(Version::from_bytes(version).ok_or(StoreError::Stale)?);
        let stat = self.names.stat_of(&Child::File(Arc::clone(&version)));
        if stat.identity != identity {
            return Err(StoreError::Stale);
        }
        let file = self.file_prefetcher.fetcher.file(&version);
        file.hold();
        Ok(Box::new(OpenObject {
            stat,
            whole: file.whole(),
            file,
            prefetcher: Arc::clone(&self.file_prefetcher),
            // The files after it may have been opened before.
            is_open_unnoted: AtomicBool::new(false),
        }))
    }

    fn read_link(&self, _: &Path) -> Result<OsString, StoreError> {
        Err(StoreError::Unsupported("a symbolic link"))
    }

    fn space(&self) -> Result<Space, StoreError> {
        // Object stores are not limited. 1 PiB does not overflow in programs that compute with it.
        let bytes = 1 << 50;
        Ok(Space { bytes, free_bytes: bytes, files: 1 << 40, free_files: 1 << 40 })
    }

    fn ttl(&self) -> Duration {
        self.names.show.ttl
    }

    fn is_remote(&self) -> bool {
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
        let _waiting = self.availability.register("remove", key);
        self.retry(|| self.bucket.delete(key))?;
        self.names.note(key, Instant::now(), None);
        Ok(())
    }

    fn make_directory(&self, path: &Path) -> Result<Stat, StoreError> {
        self.may_write()?;
        let key = new_key(path)?;
        let _waiting = self.availability.register("mkdir", key);
        self.retry(|| self.bucket.make_directory(&format!("{key}/")))?;
        self.names.note(key, Instant::now(), Some(Child::Directory));
        Ok(self.names.directory_stat())
    }

    fn remove_directory(&self, path: &Path) -> Result<(), StoreError> {
        self.may_write()?;
        let key = key(path)?;
        let _waiting = self.availability.register("rmdir", key);
        let marker = format!("{key}/");
        if self.lists(&marker, |item| !matches!(item, Item::Object(it) if it.key == marker))? {
            return Err(StoreError::NotEmpty);
        }
        match self.retry(|| self.bucket.delete(&marker)) {
            Ok(()) | Err(StoreError::NotFound) => {}
            Err(error) => return Err(error),
        }
        self.names.invalidate_directory(&marker);
        self.names.note(key, Instant::now(), None);
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path, attempt: &Attempt<'_>) -> Result<Stat, StoreError> {
        self.may_write()?;
        let (from, to) = (key(from)?, new_key(to)?);
        let version = match self.child("rename", from)? {
            Child::File(version) if version.size <= LARGEST_COPY => version,
            Child::File(_) => return Err(StoreError::NotMovable),
            Child::Directory => return self.rename_directory(from, to, attempt),
        };
        let _waiting = self.availability.register("rename", from);
        (attempt.begins)();
        self.retry(|| self.bucket.copy(from, to))?;
        let taken = Instant::now();
        let (copied, time) = match self.retry(|| self.bucket.head_with_time(to)) {
            // The copy exists, although the store does not show it yet, or does not allow HEAD.
            Err(StoreError::NotFound | StoreError::Denied(_)) => {
                let copied =
                    Version { key: to.to_string(), modified: SystemTime::now(), ..Version::clone(&version) };
                (copied, self.names.time_of(&version).flatten())
            }
            copied => copied?,
        };
        let child = self.names.note_file(to, taken, &copied, time);
        self.retry(|| self.bucket.delete(from))?;
        self.names.note(from, Instant::now(), None);
        Ok(self.names.stat_of(&child))
    }
}
