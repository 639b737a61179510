//! Object stores, as far as a file system needs them: versions of objects, pages of listings, ranges of bytes.
//!
//! A [`Bucket`] is the bucket or directory that a URL names. Keys are relative to the URL's path and never begin with
//! `/`; [`crate::object_store`] decides whether a key can be a file name. A call blocks until the store has responded.
//! It is made again only where another way to ask may help (other credentials, another region, without the fast path);
//! [`StoreError::Unavailable`] tells the caller that a retry may help.

mod body;
mod bucket;
mod connect;
mod dns;
mod executor;
mod http1;
mod index;
mod index_page;
mod listing;
mod location;
mod manifest;
mod mtime;
mod option_values;
pub mod options;
mod oss;
mod part;
mod proxy;
mod quirks;
mod redirect;
mod request;
mod response;
mod session;
mod timeouts;
mod tls;
mod transport;
mod upload;
mod web;

use std::collections::BTreeMap;
use std::io::Read;
use std::ops::{ControlFlow, Range};
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::fields::Fields;
use crate::limits;
use crate::store::StoreError;
use crate::trust::Trust;

/// The default time for which names are trusted.
const DEFAULT_TTL: Duration = Duration::from_secs(60);

/// The default of `--io-timeout`.
const DEFAULT_IO_TIMEOUT: Duration = Duration::from_secs(60);

/// The largest object that can be copied, in bytes: S3 copies no larger one in one request.
pub const LARGEST_COPY: u64 = 5 << 30;

/// The largest object that can be appended to where the store copies no parts, in bytes: all of it is downloaded and
/// uploaded again.
pub const LARGEST_REWRITE: u64 = 1 << 30;

/// The configuration of a bucket beside its options.
#[derive(Clone, Debug)]
pub struct BucketConfig {
    /// How long names are trusted. A manifest is read again in time for that.
    pub ttl: Duration,
    /// How long a response may take that is not the bytes of a file.
    pub io_timeout: Duration,
    /// The hosts to which redirects may lead beside their own server.
    pub redirects: Arc<[Host]>,
    /// The author of the bucket's URL and options.
    pub trust: Trust,
}

impl Default for BucketConfig {
    fn default() -> Self {
        BucketConfig {
            ttl: DEFAULT_TTL,
            io_timeout: DEFAULT_IO_TIMEOUT,
            redirects: Arc::default(),
            trust: Trust::default(),
        }
    }
}

/// A host name, a suffix of host names after `*.`, or `*` for all hosts.
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

/// Opens the bucket that a URL names, with the options of [`options::Meaning`]. It makes no request.
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
    open_with(url, options, &BucketConfig::default())
}

/// Opens a bucket with this configuration.
pub fn open_with(
    url: &str,
    options: &BTreeMap<String, String>,
    config: &BucketConfig,
) -> anyhow::Result<Arc<dyn Bucket>> {
    Ok(Arc::new(bucket::RemoteBucket::open(url, options, config)?))
}

/// One version of an object, as a listing or a HEAD request describes it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Version {
    /// The key, relative to the bucket's URL.
    pub key: String,
    /// Bytes.
    pub size: u64,
    /// The ETag as the store writes it, with its quotes. Versions without one are compared by size and time only.
    pub etag: Option<String>,
    /// Time of the last change; the beginning of 1970 if the store has none.
    pub modified: SystemTime,
}

impl Version {
    /// The version as bytes, for [`Version::from_bytes`].
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let since = self.modified.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let mut bytes = Vec::new();
        for number in [self.size, since.as_secs(), since.subsec_nanos().into(), self.key.len() as u64] {
            bytes.extend(number.to_le_bytes());
        }
        bytes.extend(self.key.as_bytes());
        // An ETag has quotes, so an empty one is none.
        bytes.extend(self.etag.as_deref().unwrap_or_default().as_bytes());
        bytes
    }

    /// Reads the bytes of [`Version::to_bytes`], which another process may have written.
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

    /// Time of the last change, if the store has one.
    fn date(&self) -> Option<SystemTime> {
        Some(self.modified).filter(|time| *time != SystemTime::UNIX_EPOCH)
    }

    /// Whether the ETag is weak: no condition of a request is met by it (RFC 9110, 8.8.3.2).
    fn is_weak(&self) -> bool {
        self.etag.as_deref().is_some_and(|etag| etag.starts_with("W/"))
    }
}

/// An entry of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// An object right below the prefix. Its key may be the prefix itself (a directory marker).
    Object(Version),
    /// The common prefix of further keys, which ends with `/`.
    Prefix(String),
}

impl Item {
    /// Its key, or the prefix of its keys.
    pub fn key(&self) -> &str {
        match self {
            Item::Object(version) => &version.key,
            Item::Prefix(key) => key,
        }
    }
}

/// How deep a listing goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// The objects and prefixes right below the prefix.
    One,
    /// All keys below it, in order. Only directory markers are an [`Item::Prefix`].
    All,
}

/// A page of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// The entries, in no order if the [`Depth`] is one.
    pub items: Vec<Item>,
    /// The last key of the page, if there are more.
    pub more_after: Option<String>,
}

/// A bucket, or a directory of one.
pub trait Bucket: Send + Sync {
    /// The URL of the server, if the options name one.
    fn endpoint(&self) -> Option<String> {
        None
    }

    /// The object's present version.
    fn head(&self, key: &str) -> Result<Version, StoreError>;

    /// Lists the objects and prefixes right below a prefix (`""`, or ending with `/`), page by page in the store's
    /// order, until the visitor breaks. Returns whether the visitor got all of them. A prefix without keys is an
    /// empty listing.
    fn list(
        &self,
        prefix: &str,
        page: &mut dyn FnMut(Vec<Item>) -> ControlFlow<()>,
    ) -> Result<bool, StoreError>;

    /// Lists one page that begins behind a key. [`StoreError::Unsupported`]: the store cannot begin at any key, or
    /// cannot list that deep.
    fn list_page(&self, _prefix: &str, _after: Option<&str>, _: Depth) -> Result<Page, StoreError> {
        Err(StoreError::Unsupported("a listing from a key on"))
    }

    /// Reads a range of this version while it arrives. [`StoreError::Stale`]: the object has another version now. The
    /// range is not empty and within the size. The reader ends early, or fails, if the connection does: the caller
    /// has to count the bytes.
    fn get(&self, version: &Version, range: Range<u64>) -> Result<Box<dyn Read + Send>, StoreError>;

    /// The same, with the time of change that the writer has kept in the metadata.
    fn head_with_time(&self, key: &str) -> Result<(Version, Option<SystemTime>), StoreError> {
        self.head(key).map(|version| (version, None))
    }

    /// Begins to replace an object. The new bytes are not visible before [`Upload::finish`].
    fn put(&self, key: &str) -> Result<Box<dyn Upload>, StoreError>;

    /// Begins to append to an object. Later calls return [`StoreError::Stale`] if the object has another version by
    /// then.
    fn resume(&self, _: &Version) -> Result<Box<dyn Upload>, StoreError> {
        Err(StoreError::Unsupported("continuing an object"))
    }

    /// Makes a directory: an empty object where the store has no other directories. The key ends with `/`.
    fn make_directory(&self, key: &str) -> Result<(), StoreError>;

    /// Removes an object. [`StoreError::NotFound`]: there is none, if the store says so.
    fn delete(&self, key: &str) -> Result<(), StoreError>;

    /// Copies an object within the store: its bytes are not downloaded.
    fn copy(&self, from: &str, to: &str) -> Result<(), StoreError>;
}

/// An object that is being written from its beginning to its end. If it is dropped before it is finished, nothing
/// remains.
pub trait Upload: Send {
    /// Announces the smallest size of the object, from which the size of its parts follows.
    fn expect(&mut self, size: u64);

    /// Takes the next bytes, even if it fails: after [`StoreError::Unavailable`], a call without bytes tries again.
    /// After [`Upload::finish`], the bytes are appended to the object.
    fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError>;

    /// Sets the time of change to keep with the object, where the store can keep one. A later write drops it.
    fn set_time(&mut self, time: SystemTime);

    /// Begins again with an empty object.
    fn restart(&mut self) -> Result<(), StoreError>;

    /// Replaces the object by the bytes that were written, checked by the store, and returns its new version. It may
    /// be called again after a failure.
    fn finish(&mut self) -> Result<Version, StoreError>;
}
