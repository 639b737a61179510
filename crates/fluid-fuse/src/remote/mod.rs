//! Object stores, as far as a file system needs them: versions of objects, pages of listings, ranges of bytes.
//!
//! A [`Bucket`] is the place that a URL names. Keys are relative to the URL's path and never begin with `/`;
//! whether a key can be a file name is not decided here. A call blocks until the store has answered once: it
//! knows neither caches nor retries, and tells by [`StoreError::Unavailable`] that one may help.

mod answer;
mod bucket;
mod connect;
mod index;
mod learned;
mod listing;
pub mod options;
mod oss;
mod proxy;
mod tls;
mod transport;
mod upload;
mod web;
mod wire;

use std::collections::BTreeMap;
use std::io::Read;
use std::ops::{ControlFlow, Range};
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::hold::state::Fields;
use crate::limits;
use crate::store::StoreError;
use crate::trust::Trust;

/// How long names are trusted by who says nothing else.
const TRUSTED: Duration = Duration::from_secs(60);

/// How long answers may take for who says nothing else: the default of `--io-timeout`.
const IO_TIMEOUT: Duration = Duration::from_secs(60);

/// The largest object that may be copied, in bytes: S3 copies no larger one in one request.
pub const LARGEST_COPY: u64 = 5 << 30;

/// The largest object that goes on where the store does not copy parts, in bytes: all of it comes here and goes back.
pub const LARGEST_REWRITE: u64 = 1 << 30;

/// What a bucket is opened with, beside its own options.
#[derive(Clone, Debug)]
pub struct Terms {
    /// How long names are trusted, which is how a manifest is read again in time.
    pub ttl: Duration,
    /// How long an answer may take that is not the bytes of a file.
    pub io_timeout: Duration,
    /// The hosts to which redirects may lead beside their own server.
    pub redirects: Arc<[Host]>,
    /// Who has said what the bucket and its options are.
    pub trust: Trust,
}

impl Default for Terms {
    fn default() -> Self {
        Terms { ttl: TRUSTED, io_timeout: IO_TIMEOUT, redirects: Arc::default(), trust: Trust::default() }
    }
}

/// The name of a host, `*.` and the end of the names of several, or `*` for all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host(String);

impl Host {
    fn is_of(&self, uri: &http::Uri) -> bool {
        let host = uri.host().unwrap_or_default().to_ascii_lowercase();
        match self.0.strip_prefix('*') {
            Some(end) => host.ends_with(end),
            None => host == self.0,
        }
    }
}

impl FromStr for Host {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let name = text.strip_prefix("*.").unwrap_or(text);
        let is_name = !name.is_empty()
            && name.chars().all(|letter| letter.is_ascii_alphanumeric() || "-._:[]".contains(letter));
        match text == "*" || is_name {
            true => Ok(Host(text.to_ascii_lowercase())),
            false => Err("must be the name of a host, *.domain or *".to_string()),
        }
    }
}

/// Opens the bucket that a URL names, with the options of [`options::Meaning`]. Nothing is asked of the store.
///
/// ```no_run
/// # fn main() -> anyhow::Result<()> {
/// let options = [("fs.oss.endpoint".to_string(), "oss-cn-hangzhou-internal.aliyuncs.com".to_string())];
/// let bucket = fluid_fuse::remote::open("oss://models/llama", &options.into())?;
/// let version = bucket.head("config.json")?;
/// let mut bytes = Vec::new();
/// bucket.get(&version, 0..version.size)?.read_to_end(&mut bytes)?;
/// # Ok(())
/// # }
/// ```
pub fn open(url: &str, options: &BTreeMap<String, String>) -> anyhow::Result<Arc<dyn Bucket>> {
    open_with(url, options, &Terms::default())
}

/// The same, on these terms.
pub fn open_with(
    url: &str,
    options: &BTreeMap<String, String>,
    terms: &Terms,
) -> anyhow::Result<Arc<dyn Bucket>> {
    Ok(Arc::new(bucket::Remote::open(url, options, terms)?))
}

/// One version of an object, as a listing or a question for it told it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Version {
    /// The key, relative to the bucket's URL.
    pub key: String,
    /// Bytes.
    pub size: u64,
    /// What tells this version from others, as the store writes it (with its quotes); a store that has none
    /// is told apart by size and time alone.
    pub etag: Option<String>,
    /// Time of the last change; the beginning of 1970 where the store tells none.
    pub modified: SystemTime,
}

impl Version {
    /// All of it, for [`Version::from_bytes`].
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let since = self.modified.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let mut bytes = Vec::new();
        for number in [self.size, since.as_secs(), since.subsec_nanos().into(), self.key.len() as u64] {
            bytes.extend(number.to_le_bytes());
        }
        bytes.extend(self.key.as_bytes());
        // An ETag has its quotes, so that none is told from one.
        bytes.extend(self.etag.as_deref().unwrap_or_default().as_bytes());
        bytes
    }

    /// What was written by [`Version::to_bytes`], maybe by another process.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut fields = Fields(bytes);
        let (size, seconds, nanoseconds) = (fields.u64()?, fields.u64()?, fields.u64()?);
        let length = usize::try_from(fields.u64()?).ok()?;
        let text = |bytes: &[u8]| std::str::from_utf8(bytes).ok().map(str::to_string);
        let key = text(fields.take(length)?)?;
        let etag = Some(text(fields.0)?).filter(|etag| !etag.is_empty());
        let since =
            Duration::new(seconds, u32::try_from(nanoseconds).ok().filter(|nano| *nano < 1_000_000_000)?);
        let modified = SystemTime::UNIX_EPOCH.checked_add(since)?;
        (key.len() <= limits::KEY).then_some(Version { key, size, etag, modified })
    }

    /// Time of the last change, if the store tells one.
    fn date(&self) -> Option<SystemTime> {
        Some(self.modified).filter(|time| *time != SystemTime::UNIX_EPOCH)
    }

    /// Whether its ETag is one that no condition of a request is ever met by (RFC 9110, 8.8.3.2).
    fn is_weak(&self) -> bool {
        self.etag.as_deref().is_some_and(|etag| etag.starts_with("W/"))
    }
}

/// A line of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// An object right below the prefix. Its key may be the prefix itself (a directory marker).
    Object(Version),
    /// What further keys have in common up to the next `/`, which it ends with.
    Prefix(String),
}

/// A place with objects.
pub trait Bucket: Send + Sync {
    /// The URL of the server, if the options name one.
    fn endpoint(&self) -> Option<String> {
        None
    }

    /// The object's present version.
    fn head(&self, key: &str) -> Result<Version, StoreError>;

    /// The objects and prefixes right below a prefix (`""`, or ending with `/`), page by page in the store's
    /// order, until the visitor breaks: whether that was all there is. A prefix that nothing has is an empty
    /// listing.
    fn list(
        &self,
        prefix: &str,
        page: &mut dyn FnMut(Vec<Item>) -> ControlFlow<()>,
    ) -> Result<bool, StoreError>;

    /// The bytes of a range of this very version, as they arrive: [`StoreError::Stale`] if the object is
    /// another by now. The range is not empty and within the size. The reader ends early, or fails, when the
    /// connection does: who reads it must count.
    fn get(&self, version: &Version, range: Range<u64>) -> Result<Box<dyn Read + Send>, StoreError>;

    /// The same, and the time of change that whoever wrote it has kept with it.
    fn head_with_time(&self, key: &str) -> Result<(Version, Option<SystemTime>), StoreError> {
        self.head(key).map(|version| (version, None))
    }

    /// Begins to replace an object. Nothing is seen of it before [`Upload::finish`].
    fn put(&self, key: &str) -> Result<Box<dyn Upload>, StoreError>;

    /// Begins to replace an object by itself and what is written: [`StoreError::Stale`] later, if it is another by
    /// then.
    fn resume(&self, _: &Version) -> Result<Box<dyn Upload>, StoreError> {
        Err(StoreError::Unsupported("continuing an object"))
    }

    /// Makes a directory of a key that ends with `/`, as an empty object where the store has no other.
    fn make_directory(&self, key: &str) -> Result<(), StoreError>;

    /// Removes an object; one that is not there is [`StoreError::NotFound`] where the store tells.
    fn delete(&self, key: &str) -> Result<(), StoreError>;

    /// Copies an object within the store, without its bytes coming here.
    fn copy(&self, from: &str, to: &str) -> Result<(), StoreError>;
}

/// An object that is being written from its beginning to its end. Dropped before it is finished, it leaves
/// nothing behind.
pub trait Upload: Send {
    /// How many bytes it will have at least, as far as is known: so large are its parts.
    fn expect(&mut self, size: u64);

    /// The next bytes. They are taken in any case: after [`StoreError::Unavailable`], writing no further ones
    /// tries again. After [`Upload::finish`], the object goes on with them.
    fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError>;

    /// The time of change to keep with the object, where the store can; further bytes make it be forgotten.
    fn set_time(&mut self, time: SystemTime);

    /// Begins anew: the object will have nothing of what it has.
    fn restart(&mut self) -> Result<(), StoreError>;

    /// Makes the object what was written, checked by the store; its new version. It may be tried again.
    fn finish(&mut self) -> Result<Version, StoreError>;
}
