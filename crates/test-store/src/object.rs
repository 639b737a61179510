//! Objects: where their bytes come from, and where they are kept: in memory, or as files.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::{self, File, Metadata as FileMetadata};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::ops::Range;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use md5::{Digest as _, Md5};
use tempfile::NamedTempFile;

use crate::server::lock;

/// When objects that a test puts into a store were changed: always then, so that times do not tell versions apart.
const MODIFIED: Duration = Duration::from_secs(1_706_933_106);

/// Content of an object in memory, which may be made when it is read.
pub trait Source: Send + Sync {
    /// The number of its bytes.
    fn size(&self) -> u64;
    /// Some of its bytes.
    fn read(&self, range: Range<u64>) -> Vec<u8>;
    /// Its ETag, without quotes: another one for other bytes.
    fn etag(&self) -> String;
}

impl Source for Vec<u8> {
    fn size(&self) -> u64 {
        self.len() as u64
    }

    fn read(&self, range: Range<u64>) -> Vec<u8> {
        self[range.start as usize..range.end as usize].to_vec()
    }

    fn etag(&self) -> String {
        hex(&Md5::digest(self))
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The ETag of an object that came in parts, as S3 makes it of theirs.
pub(crate) fn etag_of_parts<'a>(etags: impl Iterator<Item = &'a str>) -> String {
    let (mut all, mut count) = (Md5::new(), 0);
    for etag in etags {
        let digits = etag.as_bytes().chunks(2).filter_map(|pair| std::str::from_utf8(pair).ok());
        all.update(digits.filter_map(|pair| u8::from_str_radix(pair, 16).ok()).collect::<Vec<_>>());
        count += 1;
    }
    format!("{}-{count}", hex(&all.finalize()))
}

/// The bytes of an object, or of a part of one.
#[derive(Clone)]
pub(crate) enum Data {
    Source(Arc<dyn Source>),
    File(Arc<File>, u64),
}

impl Data {
    pub(crate) fn size(&self) -> u64 {
        match self {
            Data::Source(source) => source.size(),
            Data::File(_, size) => *size,
        }
    }

    pub(crate) fn read(&self, range: Range<u64>) -> io::Result<Vec<u8>> {
        match self {
            Data::Source(source) => Ok(source.read(range)),
            Data::File(file, _) => {
                let mut bytes = vec![0; (range.end - range.start) as usize];
                file.read_exact_at(&mut bytes, range.start)?;
                Ok(bytes)
            }
        }
    }

    /// Adds bytes to a file, those of files without copying them here.
    fn copy(&self, range: Range<u64>, to: &mut File) -> io::Result<()> {
        match self {
            Data::Source(source) => to.write_all(&source.read(range)),
            Data::File(file, _) => {
                (&**file).seek(SeekFrom::Start(range.start))?;
                io::copy(&mut (&**file).take(range.end - range.start), to).map(|_| ())
            }
        }
    }
}

/// Bytes that become an object or a part, one after another.
pub(crate) type Pieces = [(Data, Range<u64>)];

/// What a user said of an object: names without `x-amz-meta-`, and values.
pub(crate) type Metadata = Vec<(String, String)>;

#[derive(Clone)]
pub(crate) struct Object {
    pub(crate) data: Data,
    /// In quotes.
    pub(crate) etag: String,
    pub(crate) modified: SystemTime,
    pub(crate) metadata: Metadata,
}

impl Object {
    /// What a test puts into a store.
    pub(crate) fn new(source: impl Source + 'static) -> Self {
        let etag = format!("\"{}\"", source.etag());
        let data = Data::Source(Arc::new(source));
        Object { data, etag, modified: UNIX_EPOCH + MODIFIED, metadata: Vec::new() }
    }
}

/// The objects of one bucket in memory, by key.
#[derive(Default)]
pub(crate) struct Memory {
    pub(crate) objects: BTreeMap<String, Object>,
    /// What was there before the last change.
    pub(crate) before: BTreeMap<String, Object>,
}

impl Memory {
    pub(crate) fn put(&mut self, key: &str, object: Object) {
        if let Some(before) = self.objects.insert(key.to_owned(), object) {
            self.before.insert(key.to_owned(), before);
        }
    }

    pub(crate) fn object(pieces: &Pieces, etag: &str, metadata: Metadata) -> io::Result<Object> {
        let bytes: io::Result<Vec<_>> = pieces.iter().map(|(data, range)| data.read(range.clone())).collect();
        let data = Data::Source(Arc::new(bytes?.concat()));
        Ok(Object { data, etag: format!("\"{etag}\""), modified: SystemTime::now(), metadata })
    }
}

/// Sorted names of a directory; those of directories end in a slash.
pub(crate) type Names = Arc<Vec<String>>;

/// Directories below a root as buckets. An empty directory is the object with a slash at the end of its key that stands
/// for one in S3.
pub(crate) struct Directories {
    root: PathBuf,
    /// Whether objects may be changed, by requests or behind the store's back. Otherwise names of directories are kept, as
    /// stores have an index, too; then files must not be changed in place.
    pub(crate) is_writable: bool,
    known: Mutex<HashMap<PathBuf, (SystemTime, Names)>>,
    /// Held while an object is changed.
    changes: Mutex<Changes>,
}

#[derive(Default)]
pub(crate) struct Changes {
    /// What users said of objects, by their ETag, which no other version has.
    metadata: HashMap<String, Metadata>,
    /// Directories that were made as objects: they stay when their last file goes.
    markers: HashSet<PathBuf>,
}

impl Directories {
    pub(crate) fn new(root: &Path, is_writable: bool) -> io::Result<Self> {
        let root = root.canonicalize()?;
        Ok(Directories { root, is_writable, known: Mutex::default(), changes: Mutex::default() })
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// A bucket's directory.
    pub(crate) fn bucket(&self, bucket: &str) -> Option<PathBuf> {
        Some(self.root.join(bucket)).filter(|path| is_plain(bucket) && path.is_dir())
    }

    fn path(&self, bucket: &str, key: &str) -> Option<PathBuf> {
        let is_plain = is_plain(bucket) && is_plain(key.strip_suffix('/').unwrap_or(key));
        // Whether there is such a bucket was asked before: a question more costs what the benchmark measures.
        Some(self.root.join(bucket).join(key)).filter(|_| is_plain)
    }

    /// The object of a key. What is opened here can be read to its end, whatever takes its place.
    pub(crate) fn get(&self, bucket: &str, key: &str) -> Option<Object> {
        let path = self.path(bucket, key)?;
        let file = File::open(&path).ok()?;
        let metadata = file.metadata().ok()?;
        let is_directory = key.ends_with('/');
        if is_directory && !self.is_object(&path) || metadata.is_dir() != is_directory {
            return None;
        }
        let (etag, size) = (tag(&metadata), size(&metadata));
        let of_user = match self.is_writable {
            true => lock(&self.changes).metadata.get(&etag).cloned().unwrap_or_default(),
            false => Metadata::new(),
        };
        let modified = metadata.modified().unwrap_or(UNIX_EPOCH);
        Some(Object { data: Data::File(Arc::new(file), size), etag, modified, metadata: of_user })
    }

    /// The ETag of an object's file.
    pub(crate) fn etag(&self, bucket: &str, key: &str) -> Option<String> {
        let metadata = fs::metadata(self.path(bucket, key)?).ok()?;
        Some(tag(&metadata)).filter(|_| metadata.is_file())
    }

    fn is_object(&self, directory: &Path) -> bool {
        lock(&self.changes).markers.contains(directory)
            || fs::read_dir(directory).is_ok_and(|mut entries| entries.next().is_none())
    }

    pub(crate) fn changes(&self) -> MutexGuard<'_, Changes> {
        lock(&self.changes)
    }

    /// A part of an object to be: a file without a name.
    pub(crate) fn keep(&self, pieces: &Pieces) -> io::Result<Data> {
        let mut file = tempfile::tempfile_in(&self.root)?;
        pieces.iter().try_for_each(|(data, range)| data.copy(range.clone(), &mut file))?;
        let size = file.metadata()?.len();
        Ok(Data::File(Arc::new(file), size))
    }

    /// A file that [`Directories::put`] gives its name.
    pub(crate) fn write(&self, pieces: &Pieces) -> io::Result<NamedTempFile> {
        let mut file = NamedTempFile::new_in(&self.root)?;
        pieces.iter().try_for_each(|(data, range)| data.copy(range.clone(), file.as_file_mut()))?;
        // The clock of a file system stands still for some milliseconds, and the ETag is made of the time.
        file.as_file().set_modified(SystemTime::now())?;
        Ok(file)
    }

    /// Replaces an object by a file, or makes a directory; its ETag.
    pub(crate) fn put(
        &self,
        changes: &mut Changes,
        (bucket, key): (&str, &str),
        file: NamedTempFile,
        of_user: Metadata,
    ) -> io::Result<String> {
        let path = self.path(bucket, key).ok_or(io::ErrorKind::InvalidInput)?;
        if key.ends_with('/') {
            fs::create_dir_all(&path)?;
            changes.markers.insert(path.clone());
            return Ok(tag(&fs::metadata(path)?));
        }
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory)?;
        }
        if let Ok(before) = fs::metadata(&path) {
            changes.metadata.remove(&tag(&before));
        }
        let etag = tag(&file.as_file().metadata()?);
        if !of_user.is_empty() {
            changes.metadata.insert(etag.clone(), of_user);
        }
        file.persist(path)?;
        Ok(etag)
    }

    /// Removes an object, and the directories that it leaves empty but for those that are objects themselves.
    pub(crate) fn delete(&self, changes: &mut Changes, bucket: &str, key: &str) {
        let Some(path) = self.path(bucket, key) else { return };
        if key.ends_with('/') {
            changes.markers.remove(&path);
            let _ = fs::remove_dir(&path);
        } else if let Ok(metadata) = fs::metadata(&path) {
            changes.metadata.remove(&tag(&metadata));
            let _ = fs::remove_file(&path);
        }
        let bucket = self.root.join(bucket);
        for directory in path.ancestors().skip(1).take_while(|directory| *directory != bucket) {
            if changes.markers.contains(directory) || fs::remove_dir(directory).is_err() {
                break;
            }
        }
    }

    /// The names in a directory.
    pub(crate) fn names(&self, directory: &Path) -> io::Result<Names> {
        let modified = fs::metadata(directory)?.modified()?;
        if let Some((_, names)) = lock(&self.known).get(directory).filter(|(then, _)| *then == modified) {
            return Ok(Arc::clone(names));
        }
        let mut names = Vec::new();
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            let mut kind = entry.file_type()?;
            if kind.is_symlink() {
                let Ok(metadata) = fs::metadata(entry.path()) else { continue };
                kind = metadata.file_type();
            }
            let Ok(mut name) = entry.file_name().into_string() else { continue };
            if kind.is_dir() {
                name.push('/');
            }
            names.push(name);
        }
        names.sort_unstable();
        let names = Arc::new(names);
        if !self.is_writable {
            lock(&self.known).insert(directory.to_owned(), (modified, Arc::clone(&names)));
        }
        Ok(names)
    }

    /// The names of all files below a directory, and of empty directories.
    pub(crate) fn below(&self, directory: &Path, prefix: &str, found: &mut Vec<String>) {
        let names = self.names(directory).unwrap_or_default();
        if names.is_empty() && !prefix.is_empty() {
            found.push(prefix.to_owned());
        }
        for name in names.iter() {
            let path = format!("{prefix}{name}");
            if name.ends_with('/') {
                self.below(&directory.join(name), &path, found);
            } else {
                found.push(path);
            }
        }
    }
}

/// Whether a key is a file's path and cannot lead elsewhere.
pub(crate) fn is_plain(key: &str) -> bool {
    !key.contains('\0') && key.split('/').all(|name| !matches!(name, "" | "." | ".."))
}

/// Of the form that S3 gives to objects that came in one piece: for others rclone asks once more. Nothing is hashed.
pub(crate) fn tag(metadata: &FileMetadata) -> String {
    let nanoseconds = metadata.mtime().wrapping_mul(1_000_000_000).wrapping_add(metadata.mtime_nsec());
    format!("\"{nanoseconds:016x}{:016x}\"", metadata.ino().rotate_left(40) ^ metadata.len())
}

/// The size of a file, or of the empty object that is a directory.
pub(crate) fn size(metadata: &FileMetadata) -> u64 {
    if metadata.is_dir() { 0 } else { metadata.len() }
}
