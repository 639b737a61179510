//! What was fetched, kept on a disk: for reads that come again, also in the process's next life.
//!
//! Each version of an object has two files: `<name>.data`, as large as the object and with holes, and
//! `<name>.map`, which tells which granules are there, with their checksums. The map is replaced as a whole
//! and only tells of what was written before; so after a crash there is less than there could be, and what
//! is damaged is found when it is read. A map without data of the object's size tells nothing: what fills
//! the holes of a new file was not written. A file with all its granules is synced and marked; from then on it
//! can be read as it is, by whoever has its descriptor. When the disk's share is used up, files go that are
//! not open: first those that were used once, so that a scan does not drive out what is used again and
//! again. Other files in the directory are not touched. Nothing is opened through a link, and nobody else may look into
//! the directory ([`crate::nofollow`]). What is fetched, and when, is not decided here.

use std::collections::HashMap;
use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{Read as _, Write};
use std::ops::{Deref, Range};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, UNIX_EPOCH};

use anyhow::{Context, bail, ensure};
use fluid_sidecar_layout::contract::FLUID_FUSE;
use log::{debug, warn};
use rustix::fs::{
    AtFlags, Dir, FileType, FlockOperation, Mode, OFlags, fchmod, flock, fstat, openat, renameat, statat,
    unlinkat,
};
use rustix::io::Errno;
use rustix::process::geteuid;
use serde::{Deserialize, Serialize};

use super::memory::{GRANULE, granules, within};
use crate::inodes::lock;
use crate::nofollow;
use crate::remote::Version;

const LOCK: &str = "lock";
const DATA: &str = "data";
const MAP: &str = "map";
/// A map that is being written.
const NEW: &str = "new";

/// A directory with what was fetched.
#[derive(Debug)]
pub struct DiskCache {
    /// As it is named in messages.
    directory: PathBuf,
    /// The same directory, open: its files are opened relative to it.
    opened: OwnedFd,
    limit: u64,
    state: Mutex<State>,
    /// Locked as long as this process uses the directory.
    _lock: File,
}

#[derive(Debug, Default)]
struct State {
    entries: HashMap<String, Entry>,
    bytes: u64,
    clock: u64,
    /// A write failed: the disk is full or broken.
    off: bool,
}

#[derive(Debug)]
struct Entry {
    bytes: u64,
    uses: u32,
    used: u64,
    open: Weak<Kept>,
}

/// The first line of a map.
#[derive(Debug, Deserialize, PartialEq, Serialize)]
struct Header {
    source: String,
    key: String,
    size: u64,
    etag: Option<String>,
    modified: Duration,
    granule: u64,
    /// The data's time of change when it was whole.
    whole: Option<(i64, i64)>,
}

/// One version of an object on the disk, for one who uses it. Its map is written when it is dropped.
#[derive(Debug)]
pub(crate) struct CachedFile(Arc<Kept>);

/// What all users of a version have in common. As long as its last user writes the map, it can be had again, is
/// not driven out and is not opened a second time.
#[derive(Debug)]
pub(crate) struct Kept {
    name: String,
    data: File,
    cache: Arc<DiskCache>,
    map: Mutex<Map>,
    /// Held while the map is written.
    flushing: Mutex<()>,
}

#[derive(Debug)]
struct Map {
    header: Header,
    /// The checksum of each granule that is there.
    sums: Vec<Option<u32>>,
    present: usize,
    /// Some of it is from a former life, or was found damaged.
    unsure: bool,
    dirty: bool,
}

impl DiskCache {
    /// Opens a directory, which belongs to this process from now on, for at most as many bytes.
    pub fn open(directory: &Path, limit: u64) -> anyhow::Result<Arc<Self>> {
        let place = directory.display();
        let (directory, opened) =
            own(directory).with_context(|| format!("cannot use the cache directory {place}"))?;
        let place = directory.display();
        let lock_file = nofollow::file_or_new(&opened, LOCK, OFlags::RDWR)
            .with_context(|| format!("cannot use the file {LOCK:?} of the cache directory {place}"))?;
        if flock(&lock_file, FlockOperation::NonBlockingLockExclusive).is_err() {
            bail!("the cache directory {place} is used by another process");
        }
        let mut state = State::default();
        let mut names = Vec::new();
        for entry in Dir::read_from(&opened)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().to_str() else { continue };
            if ours(name).is_some() && kind_of(&opened, name) != Some(FileType::Directory) {
                names.push(name.to_string());
            }
        }
        // A map before its data: when it goes, they go.
        names.sort_unstable_by(|one, other| other.cmp(one));
        for file in names {
            let Some((name, kind)) = ours(&file) else { continue };
            let counts = match kind {
                MAP => match known(&opened, name) {
                    Some((map, _)) => {
                        let bytes = map.present as u64 * GRANULE;
                        state.bytes += bytes;
                        let entry = Entry { bytes, uses: 1, used: 0, open: Weak::new() };
                        state.entries.insert(name.to_string(), entry);
                        true
                    }
                    None => false,
                },
                DATA => state.entries.contains_key(name),
                _ => false,
            };
            if !counts {
                debug!("removing {file} from {place}");
                unlinkat(&opened, &file, AtFlags::empty())
                    .with_context(|| format!("cannot remove {file} from {place}"))?;
            }
        }
        Ok(Arc::new(DiskCache {
            directory: directory.clone(),
            opened,
            limit,
            state: Mutex::new(state),
            _lock: lock_file,
        }))
    }

    /// Bytes kept, and at most.
    pub fn bytes(&self) -> (u64, u64) {
        (lock(&self.state).bytes, self.limit)
    }

    /// The file of a version, unless it would not fit or the disk does not work.
    pub(crate) fn file(self: &Arc<Self>, source: &str, version: &Version) -> Option<Arc<CachedFile>> {
        // Sizes are what a listing says, and may be absurd.
        let fits = |bytes: u64| bytes <= self.limit;
        if version.size == 0 || !version.size.checked_next_multiple_of(GRANULE).is_some_and(fits) {
            return None;
        }
        let mut hasher = DefaultHasher::new();
        (source, version).hash(&mut hasher);
        let name = format!("{:016x}", hasher.finish());
        let mut state = lock(&self.state);
        if state.off {
            return None;
        }
        state.clock += 1;
        let clock = state.clock;
        let header = Header {
            source: source.to_string(),
            key: version.key.clone(),
            size: version.size,
            etag: version.etag.clone(),
            modified: version.modified.duration_since(UNIX_EPOCH).unwrap_or_default(),
            granule: GRANULE,
            whole: None,
        };
        if let Some(entry) = state.entries.get_mut(&name) {
            entry.used = clock;
            entry.uses = entry.uses.saturating_add(1);
            if let Some(open) = entry.open.upgrade() {
                let same = lock(&open.map).header.is_of(&header);
                return same.then(|| Arc::new(CachedFile(open)));
            }
        }
        let known = known(&self.opened, &name).filter(|(map, _)| map.header.is_of(&header));
        // A map that does not count would do so again when its data have their size.
        if known.is_none() {
            let _ = self.remove(&name, MAP);
        }
        let (known, data) = match known {
            Some((map, data)) => (Some(map), Ok(data)),
            None => (None, nofollow::replace(&self.opened, &file_name(&name, DATA), OFlags::RDWR)),
        };
        // Setting the size changes the time, by which a whole file is known.
        let sized = |data: File| match data.metadata()?.len() == version.size {
            true => Ok(data),
            false => data.set_len(version.size).map(|()| data),
        };
        let data = match data.and_then(sized) {
            Ok(data) => data,
            Err(error) => {
                warn!("the cache directory {} does not work: {error}", self.directory.display());
                state.off = true;
                return None;
            }
        };
        let map = known.unwrap_or_else(|| Map {
            header,
            sums: vec![None; granules(&(0..version.size)).count()],
            present: 0,
            unsure: false,
            dirty: false,
        });
        let bytes = map.present as u64 * GRANULE;
        let kept = Arc::new(Kept {
            name: name.clone(),
            data,
            cache: Arc::clone(self),
            map: Mutex::new(map),
            flushing: Mutex::default(),
        });
        let open = Arc::downgrade(&kept);
        let before = state.entries.get(&name).map_or((0, 0), |entry| (entry.bytes, entry.uses));
        state.bytes = state.bytes - before.0 + bytes;
        state.entries.insert(name, Entry { bytes, uses: before.1.max(1), used: clock, open });
        Some(Arc::new(CachedFile(kept)))
    }

    /// Whether so many bytes fit, after files that are not open went.
    fn make_room(&self, name: &str, bytes: u64) -> bool {
        let mut state = lock(&self.state);
        while !state.off && state.bytes + bytes > self.limit {
            let victim = state
                .entries
                .iter()
                .filter(|(other, entry)| *other != name && entry.open.strong_count() == 0)
                .min_by_key(|(_, entry)| (entry.uses > 1, entry.used))
                .map(|(name, _)| name.clone());
            let Some(victim) = victim else { return false };
            let removed = state.entries.remove(&victim).map_or(0, |entry| entry.bytes);
            state.bytes -= removed;
            for kind in [MAP, DATA] {
                if let Err(error) = self.remove(&victim, kind) {
                    debug!("{victim}.{kind}: {error}");
                }
            }
        }
        if state.off {
            return false;
        }
        state.bytes += bytes;
        if let Some(entry) = state.entries.get_mut(name) {
            entry.bytes += bytes;
        }
        true
    }

    /// Room that was made is not used (any more).
    fn give_back(&self, name: &str, bytes: u64) {
        let mut state = lock(&self.state);
        state.bytes -= bytes;
        if let Some(entry) = state.entries.get_mut(name) {
            entry.bytes -= bytes;
        }
    }

    /// The disk is not tried again.
    fn failed(&self, error: &std::io::Error) {
        let mut state = lock(&self.state);
        if !state.off {
            warn!("nothing more is kept in {}: {error}", self.directory.display());
        }
        state.off = true;
    }

    /// Writes the maps that have changed.
    pub(crate) fn flush(&self) {
        let open: Vec<_> =
            lock(&self.state).entries.values().filter_map(|entry| entry.open.upgrade()).collect();
        for file in open {
            file.flush();
        }
    }

    fn remove(&self, name: &str, kind: &str) -> Result<(), Errno> {
        unlinkat(&self.opened, file_name(name, kind), AtFlags::empty())
    }

    #[cfg(test)]
    fn path(&self, name: &str, kind: &str) -> PathBuf {
        self.directory.join(file_name(name, kind))
    }
}

impl Kept {
    /// Whether a granule is there.
    pub(crate) fn has(&self, granule: u64) -> bool {
        let map = lock(&self.map);
        usize::try_from(granule).ok().and_then(|granule| map.sums.get(granule)).is_some_and(Option::is_some)
    }

    /// The file itself, if it has all bytes and they are known to have reached the disk.
    pub(crate) fn whole(&self) -> Option<&File> {
        let map = lock(&self.map);
        (map.header.whole? == changed(&self.data)?).then_some(&self.data)
    }

    /// Reads a granule from its beginning on, as many bytes as it has; false if it is not there, or not what
    /// was written.
    pub(crate) fn load(&self, granule: u64, bytes: &mut [u8]) -> bool {
        let sum = |map: &Map| map.sums.get(granule as usize).copied().flatten();
        let Some(expected) = sum(&lock(&self.map)) else { return false };
        let read = self.data.read_exact_at(bytes, granule * GRANULE);
        if read.is_ok() && crc32fast::hash(bytes) == expected {
            return true;
        }
        warn!("a piece of {} in the cache was damaged; it is fetched anew", lock(&self.map).header.key);
        {
            let mut map = lock(&self.map);
            let sum = map.sums.get_mut(granule as usize).filter(|sum| **sum == Some(expected));
            let Some(sum) = sum else { return false };
            *sum = None;
            map.present -= 1;
            map.header.whole = None;
            map.unsure = true;
            map.dirty = true;
        }
        self.cache.give_back(&self.name, GRANULE);
        false
    }

    /// Keeps a granule, given from its beginning to its end, if there is room.
    pub(crate) fn store(&self, granule: u64, bytes: &[u8]) {
        if self.has(granule) || !self.cache.make_room(&self.name, GRANULE) {
            return;
        }
        if let Err(error) = self.data.write_all_at(bytes, granule * GRANULE) {
            self.cache.failed(&error);
            return self.cache.give_back(&self.name, GRANULE);
        }
        let sum = crc32fast::hash(bytes);
        let (added, whole) = {
            let mut map = lock(&self.map);
            let place = map.sums.get_mut(granule as usize);
            let added = place.is_some_and(|place| place.replace(sum).is_none());
            map.present += usize::from(added);
            if !added {
                // Somebody else brought it meanwhile. It is the same, but the data's time is not.
                map.header.whole = None;
            }
            map.dirty = true;
            (added, map.present == map.sums.len())
        };
        if !added {
            self.cache.give_back(&self.name, GRANULE);
        }
        if whole {
            self.seal();
        }
    }

    /// Whether all granules are there, but the file is not marked yet, or was written after that.
    pub(crate) fn is_unsealed(&self) -> bool {
        let map = lock(&self.map);
        let is_marked = || map.header.whole.is_some_and(|whole| Some(whole) == changed(&self.data));
        map.present == map.sums.len() && !is_marked()
    }

    /// All granules are there: they are brought to the disk, and the file is marked. What a former life left, or
    /// somebody else may have written, is read first.
    pub(crate) fn seal(&self) {
        if !self.is_unsealed() {
            return;
        }
        let (unsure, size) = {
            let map = lock(&self.map);
            (map.unsure || map.header.whole.is_some(), map.header.size)
        };
        if unsure {
            let mut bytes = vec![0; GRANULE as usize];
            for granule in granules(&(0..size)) {
                let length = within(granule, &(0..size)).end;
                if !self.load(granule, &mut bytes[..length as usize]) {
                    return;
                }
            }
        }
        if let Err(error) = self.data.sync_data() {
            return warn!("a whole file in the cache cannot be synced: {error}");
        }
        {
            let mut map = lock(&self.map);
            // Damage may have been found meanwhile.
            if map.present < map.sums.len() {
                return;
            }
            map.header.whole = changed(&self.data);
            map.dirty = true;
        }
        self.flush();
    }

    fn flush(&self) {
        // Who comes second finds the first one's work done, and writes what is newer.
        let _turn = lock(&self.flushing);
        let bytes = {
            let mut map = lock(&self.map);
            if !std::mem::take(&mut map.dirty) {
                return;
            }
            map.encode()
        };
        let (new, map) = (file_name(&self.name, NEW), file_name(&self.name, MAP));
        let opened = &self.cache.opened;
        let written = nofollow::replace(opened, &new, OFlags::WRONLY)
            .and_then(|mut file| file.write_all(&bytes))
            .and_then(|()| Ok(renameat(opened, &new, opened, &map)?));
        if let Err(error) = written {
            debug!("the map of {}: {error}", self.name);
            let _ = self.cache.remove(&self.name, NEW);
        }
    }

    /// What is missing of a range from its first missing granule on, as far as it goes in one piece.
    pub(crate) fn gap(&self, range: &Range<u64>) -> Option<Range<u64>> {
        let map = lock(&self.map);
        let missing = |granule: &u64| map.sums.get(*granule as usize).is_none_or(Option::is_none);
        let mut left = granules(range);
        let first = left.find(missing)?;
        let end = left.find(|granule| !missing(granule)).unwrap_or(left.end);
        Some(range.start.max(first * GRANULE)..range.end.min(end * GRANULE))
    }
}

impl Deref for CachedFile {
    type Target = Kept;

    fn deref(&self) -> &Kept {
        &self.0
    }
}

impl Drop for CachedFile {
    fn drop(&mut self) {
        self.flush();
    }
}

impl Header {
    /// Whether both are of the same version.
    fn is_of(&self, other: &Header) -> bool {
        Header { whole: None, ..self.clone() } == *other
    }
}

impl Clone for Header {
    fn clone(&self) -> Self {
        Header { source: self.source.clone(), key: self.key.clone(), etag: self.etag.clone(), ..*self }
    }
}

impl Map {
    /// A line of JSON, eight bytes for each granule, and the checksum of it all.
    fn encode(&self) -> Vec<u8> {
        let mut bytes = serde_json::to_vec(&self.header).unwrap_or_default();
        bytes.push(b'\n');
        for sum in &self.sums {
            bytes.extend(sum.map_or(0, |sum| u64::from(sum) | 1 << 32).to_le_bytes());
        }
        bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
        bytes
    }

    fn read(mut file: File) -> Option<Map> {
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).ok()?;
        let (body, sum) = bytes.split_last_chunk::<4>()?;
        if crc32fast::hash(body) != u32::from_le_bytes(*sum) {
            return None;
        }
        let line = body.iter().position(|byte| *byte == b'\n')?;
        let header: Header = serde_json::from_slice(&body[..line]).ok()?;
        let sums: Vec<_> = body[line + 1..]
            .as_chunks::<8>()
            .0
            .iter()
            .map(|entry| u64::from_le_bytes(*entry))
            .map(|entry| (entry >> 32 != 0).then_some(entry as u32))
            .collect();
        let sound = header.granule == GRANULE && sums.len() == granules(&(0..header.size)).count();
        let present = sums.iter().flatten().count();
        sound.then_some(Map { header, sums, present, unsure: true, dirty: false })
    }
}

fn file_name(name: &str, kind: &str) -> String {
    format!("{name}.{kind}")
}

/// The name and the kind of a file that is one of ours.
fn ours(file: &str) -> Option<(&str, &str)> {
    let (name, kind) = file.split_once('.')?;
    let is_name = name.len() == 16 && name.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    (is_name && [DATA, MAP, NEW].contains(&kind)).then_some((name, kind))
}

fn kind_of(directory: &OwnedFd, name: &str) -> Option<FileType> {
    let stat = statat(directory, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
    Some(FileType::from_raw_mode(stat.st_mode))
}

/// The directory that is to be used, which is ours alone: the one that was named, or one in it if that is somebody
/// else's or, by its sticky bit, everybody's. Volumes are made by kubelet as root, open to everybody.
fn own(directory: &Path) -> anyhow::Result<(PathBuf, OwnedFd)> {
    let own_user = geteuid();
    let mut named = nofollow::absolute(directory);
    let mut place = nofollow::make_directory(&named)?;
    let stat = fstat(&place)?;
    if stat.st_uid != own_user.as_raw() || Mode::from_raw_mode(stat.st_mode).contains(Mode::SVTX) {
        named.push(format!("{FLUID_FUSE}-{}", own_user.as_raw()));
        place = nofollow::make_directory(&named)?;
    }
    // A descriptor that only looks things up cannot be changed by.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let opened = openat(&place, ".", flags, Mode::empty())?;
    let stat = fstat(&opened)?;
    ensure!(stat.st_uid == own_user.as_raw(), "{} belongs to the user {}", named.display(), stat.st_uid);
    fchmod(&opened, Mode::RWXU).with_context(|| format!("cannot close {} to others", named.display()))?;
    Ok((named, opened))
}

/// The map that a former life left and the data that it tells of, if they are there.
fn known(directory: &OwnedFd, name: &str) -> Option<(Map, File)> {
    let map = Map::read(nofollow::file(directory, &file_name(name, MAP), OFlags::RDONLY).ok()?)?;
    let data = nofollow::file(directory, &file_name(name, DATA), OFlags::RDWR).ok()?;
    (data.metadata().ok()?.len() == map.header.size).then_some((map, data))
}

/// The time of a file's last change.
fn changed(file: &File) -> Option<(i64, i64)> {
    file.metadata().ok().map(|metadata| (metadata.mtime(), metadata.mtime_nsec()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::sync::Barrier;
    use std::thread;
    use std::time::SystemTime;

    fn version(key: &str, size: u64) -> Version {
        Version { key: key.into(), size, etag: Some("\"e\"".into()), modified: SystemTime::UNIX_EPOCH }
    }

    fn bytes(file: &CachedFile, granule: u64, length: usize) -> Option<Vec<u8>> {
        let mut bytes = vec![0; length];
        file.load(granule, &mut bytes).then_some(bytes)
    }

    #[test]
    fn what_was_kept_is_there_in_the_next_life() {
        let place = tempfile::tempdir().unwrap();
        let version = version("a", 2 * GRANULE + 5);
        let full = vec![7; GRANULE as usize];
        {
            let cache = DiskCache::open(place.path(), 1 << 30).unwrap();
            assert!(DiskCache::open(place.path(), 1 << 30).is_err());
            let file = cache.file("s", &version).unwrap();
            file.store(0, &full);
            file.store(2, b"12345");
            assert_eq!(file.gap(&(0..version.size)), Some(GRANULE..2 * GRANULE));
            assert!(file.whole().is_none());
        }
        let cache = DiskCache::open(place.path(), 1 << 30).unwrap();
        assert_eq!(cache.bytes().0, 2 * GRANULE);
        let file = cache.file("s", &version).unwrap();
        assert_eq!(bytes(&file, 0, GRANULE as usize), Some(full.clone()));
        assert_eq!(bytes(&file, 2, 5), Some(b"12345".to_vec()));
        file.store(1, &full);
        assert!(file.whole().is_some());
        // Another version is another file.
        let changed = Version { etag: Some("\"f\"".into()), ..version.clone() };
        assert!(!cache.file("s", &changed).unwrap().has(0));
        assert!(!cache.file("t", &version).unwrap().has(0));
    }

    #[test]
    fn damage_is_found() {
        let place = tempfile::tempdir().unwrap();
        let version = version("a", GRANULE);
        let cache = DiskCache::open(place.path(), 1 << 30).unwrap();
        let file = cache.file("s", &version).unwrap();
        file.store(0, &vec![7; GRANULE as usize]);
        assert!(file.whole().is_some());
        let path = cache.path(&file.name, DATA);
        File::options().write(true).open(path).unwrap().write_all_at(b"x", 99).unwrap();
        assert_eq!(cache.bytes().0, GRANULE);
        assert_eq!(bytes(&file, 0, GRANULE as usize), None);
        assert!(!file.has(0) && file.whole().is_none());
        // What it took is free, and is not counted twice when it is fetched anew.
        assert_eq!(cache.bytes().0, 0);
        file.store(0, &vec![7; GRANULE as usize]);
        assert!(file.whole().is_some());
        assert_eq!(cache.bytes().0, GRANULE);
        let map = cache.path(&file.name, MAP);
        drop(file);
        drop(cache);
        let torn = fs::read(&map).unwrap();
        fs::write(&map, &torn[..torn.len() - 1]).unwrap();
        assert_eq!(DiskCache::open(place.path(), 1 << 30).unwrap().bytes().0, 0);
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 1, "only the lock is left");
    }

    #[test]
    fn a_scan_drives_out_what_was_used_once() {
        let place = tempfile::tempdir().unwrap();
        let cache = DiskCache::open(place.path(), 4 * GRANULE).unwrap();
        let keep = |key: &str| {
            let file = cache.file("s", &version(key, GRANULE)).unwrap();
            file.store(0, &vec![7; GRANULE as usize]);
            file.has(0)
        };
        assert!(keep("hot") && keep("hot"));
        for key in ["1", "2", "3", "4", "5"] {
            assert!(keep(key));
        }
        assert_eq!(cache.bytes().0, 4 * GRANULE);
        assert!(cache.file("s", &version("hot", GRANULE)).unwrap().has(0));
        assert!(!cache.file("s", &version("1", GRANULE)).unwrap().has(0));
        // What is open stays, and what does not fit is not kept.
        assert!(cache.file("s", &version("large", 5 * GRANULE)).is_none());
        let open: Vec<_> =
            ["6", "7", "8", "9"].map(|key| cache.file("s", &version(key, GRANULE)).unwrap()).into();
        for file in &open {
            file.store(0, &vec![7; GRANULE as usize]);
        }
        assert!(open.iter().all(|file| file.has(0)) && !keep("10"));
    }

    /// What is in a directory, sorted.
    fn names(directory: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn what_is_not_ours_is_left_alone() {
        let place = tempfile::tempdir().unwrap();
        let theirs = [
            "0123456789ABCDEF.data",
            "0123456789abcde.map",
            "0123456789abcdef.data.gz",
            "0123456789abcdef.txt",
            "notes.txt",
            "photo.data",
            "photo.map",
            "photo.new",
        ];
        let ours = ["0123456789abcdef.data", "1123456789abcdef.map", "2123456789abcdef.new"];
        for name in theirs.iter().chain(&ours) {
            fs::write(place.path().join(name), "precious").unwrap();
        }
        let directories = ["3123456789abcdef.map", "directory.data"];
        for name in directories {
            fs::create_dir(place.path().join(name)).unwrap();
        }
        DiskCache::open(place.path(), 1 << 30).unwrap();
        let mut left: Vec<_> = theirs.iter().chain(&directories).chain(&["lock"]).collect();
        left.sort();
        assert_eq!(names(place.path()).iter().collect::<Vec<_>>(), left);
    }

    #[test]
    fn a_map_that_was_being_written_is_all_that_a_crash_costs() {
        let place = tempfile::tempdir().unwrap();
        let version = version("a", 3 * GRANULE);
        let cache = DiskCache::open(place.path(), 1 << 30).unwrap();
        let file = cache.file("s", &version).unwrap();
        file.store(1, &vec![7; GRANULE as usize]);
        let new = cache.path(&file.name, NEW);
        drop((file, cache));
        fs::write(&new, "{").unwrap();
        let cache = DiskCache::open(place.path(), 1 << 30).unwrap();
        assert!(!new.exists());
        assert_eq!(cache.bytes().0, GRANULE);
        let file = cache.file("s", &version).unwrap();
        assert_eq!(bytes(&file, 1, GRANULE as usize), Some(vec![7; GRANULE as usize]));
    }

    #[test]
    fn a_map_whose_data_are_gone_tells_nothing() {
        let version = version("a", 3 * GRANULE);
        type Damage = fn(&Path);
        let damages: [Damage; 3] = [
            |data| fs::remove_file(data).unwrap(),
            |data| File::options().write(true).open(data).unwrap().set_len(2 * GRANULE).unwrap(),
            |data| File::options().write(true).open(data).unwrap().set_len(4 * GRANULE).unwrap(),
        ];
        for damage in damages {
            // In the next life, and in this one.
            for again in [true, false] {
                let place = tempfile::tempdir().unwrap();
                let mut cache = DiskCache::open(place.path(), 1 << 30).unwrap();
                let file = cache.file("s", &version).unwrap();
                file.store(1, &vec![7; GRANULE as usize]);
                let (data, map) = (cache.path(&file.name, DATA), cache.path(&file.name, MAP));
                drop(file);
                damage(&data);
                if again {
                    drop(cache);
                    cache = DiskCache::open(place.path(), 1 << 30).unwrap();
                    assert_eq!((cache.bytes().0, names(place.path())), (0, vec!["lock".to_string()]));
                }
                let file = cache.file("s", &version).unwrap();
                assert!(!file.has(1));
                assert_eq!(cache.bytes().0, 0);
                // Nor does it after a crash, with data that have their size by now.
                assert!(data.metadata().unwrap().len() == version.size && !map.exists());
            }
        }
    }

    #[test]
    fn what_was_written_after_it_was_marked_is_read_and_marked_again() {
        let place = tempfile::tempdir().unwrap();
        let version = version("a", 2 * GRANULE);
        let full = vec![7; GRANULE as usize];
        for again in [false, true] {
            let mut cache = DiskCache::open(place.path(), 1 << 30).unwrap();
            let mut file = cache.file("s", &version).unwrap();
            file.store(0, &full);
            file.store(1, &full);
            assert!(file.whole().is_some() && !file.is_unsealed());
            let path = cache.path(&file.name, DATA);
            let data = File::options().write(true).open(path).unwrap();
            data.set_modified(SystemTime::UNIX_EPOCH).unwrap();
            if again {
                drop(file);
                drop(cache);
                cache = DiskCache::open(place.path(), 1 << 30).unwrap();
                file = cache.file("s", &version).unwrap();
            }
            assert!(file.whole().is_none() && file.is_unsealed());
            file.seal();
            assert!(file.whole().is_some() && !file.is_unsealed());
            // But not if it is damaged.
            data.write_all_at(b"x", 99).unwrap();
            data.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1)).unwrap();
            file.seal();
            assert!(file.whole().is_none() && !file.is_unsealed());
            assert_eq!(file.gap(&(0..version.size)), Some(0..GRANULE));
        }
    }

    #[test]
    fn what_two_bring_at_once_is_counted_once() {
        let place = tempfile::tempdir().unwrap();
        let cache = DiskCache::open(place.path(), 1 << 30).unwrap();
        let version = version("a", 200 * GRANULE);
        let file = cache.file("s", &version).unwrap();
        let barrier = Barrier::new(2);
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    let full = vec![7; GRANULE as usize];
                    for granule in 0..200 {
                        barrier.wait();
                        file.store(granule, &full);
                    }
                });
            }
        });
        assert_eq!(cache.bytes().0, version.size);
        assert!(file.whole().is_some());
    }

    #[test]
    fn a_map_is_sound_whoever_writes_it() {
        let place = tempfile::tempdir().unwrap();
        let cache = DiskCache::open(place.path(), 1 << 30).unwrap();
        let file = cache.file("s", &version("a", 2000 * GRANULE)).unwrap();
        let map = cache.path(&file.name, MAP);
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    for _ in 0..1000 {
                        lock(&file.map).dirty = true;
                        file.flush();
                        assert!(Map::read(File::open(&map).unwrap()).is_some());
                    }
                });
            }
        });
        assert!(!cache.path(&file.name, NEW).exists());
    }

    #[test]
    fn closed_and_opened_at_once_it_loses_nothing() {
        let place = tempfile::tempdir().unwrap();
        let cache = DiskCache::open(place.path(), 1 << 30).unwrap();
        let version = version("a", 300 * GRANULE);
        let mut file = cache.file("s", &version).unwrap();
        let barrier = Barrier::new(2);
        for granule in 0..300 {
            file.store(granule, &vec![7; GRANULE as usize]);
            file = thread::scope(|scope| {
                let barrier = &barrier;
                scope.spawn(move || {
                    barrier.wait();
                    drop(file);
                });
                barrier.wait();
                // Sooner or later than the other begins to write the map.
                (0..granule * 100).for_each(|_| std::hint::spin_loop());
                cache.file("s", &version).unwrap()
            });
            assert_eq!(file.gap(&(0..(granule + 1) * GRANULE)), None);
        }
        assert_eq!(cache.bytes().0, version.size);
    }

    #[test]
    fn nothing_is_left_of_what_was_driven_out() {
        let place = tempfile::tempdir().unwrap();
        let cache = DiskCache::open(place.path(), 3 * GRANULE).unwrap();
        thread::scope(|scope| {
            for user in 0..4 {
                let cache = &cache;
                scope.spawn(move || {
                    for round in 0..300 {
                        let file =
                            cache.file("s", &version(&format!("{user} {round}"), GRANULE + 1)).unwrap();
                        file.store(1, b"1");
                    }
                });
            }
        });
        let mut expected = vec!["lock".to_string()];
        for name in lock(&cache.state).entries.keys() {
            expected.extend([DATA, MAP].map(|kind| format!("{name}.{kind}")));
        }
        expected.retain(|name| !name.ends_with(MAP) || place.path().join(name).exists());
        expected.sort();
        assert_eq!(names(place.path()), expected);
    }

    #[test]
    fn absurd_sizes_are_not_kept() {
        let place = tempfile::tempdir().unwrap();
        for limit in [1 << 30, u64::MAX] {
            let cache = DiskCache::open(place.path(), limit).unwrap();
            for size in [u64::MAX, u64::MAX - GRANULE + 2] {
                assert!(cache.file("s", &version("a", size)).is_none());
            }
            assert!(cache.file("s", &version("a", 1)).is_some());
        }
    }
}
