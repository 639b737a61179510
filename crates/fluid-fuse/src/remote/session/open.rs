//! A session: how it is opened, and what it requests of single objects.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context;
use fluid_sidecar_layout::source::Scheme;
use http::Method;
use opendal::options::StatOptions;
use opendal::raw::percent_encode_path;
use opendal::{Buffer, Configurator, Lister, Metadata, OperationContext, Operator, services};

use crate::remote::executor::block_on;
use crate::remote::http1::{Http1Client, SignedRequest};
use crate::remote::index::{Access, FileServer, Index};
use crate::remote::listing::ListingGuard;
use crate::remote::location::StoreLocation;
use crate::remote::oss::OssSigner;
use crate::remote::quirks::Quirks;
use crate::remote::request::{BUCKET_REGION, header};
use crate::remote::response::{self, BucketRegion};
use crate::remote::transport::{self, SignRequest};
use crate::remote::{BucketConfig, Version, mtime, proxy, web};
use crate::store::StoreError;
use crate::sync::lock;

/// A bucket with the credentials of one moment.
pub(in crate::remote) struct Session {
    pub(super) location: StoreLocation,
    pub(in crate::remote) operator: Operator,
    /// The operator for uploads that copy parts, which have no checksums.
    pub(in crate::remote) copier: Operator,
    /// The operator for listings of stores that know no tokens.
    pub(super) lister_by_markers: OnceLock<Operator>,
    /// Signs instead of opendal.
    pub(super) signer: Option<OssSigner>,
    pub(super) opened: Instant,
    pub(super) signatures: Mutex<HashMap<String, Signature>>,
    pub(super) http1: Arc<Http1Client>,
    /// Whether reads may take the fast path.
    pub(super) is_fast: bool,
    pub(in crate::remote) quirks: Arc<Quirks>,
    pub(super) index: Option<Index>,
    /// Paused flat listings, the last used first.
    pub(super) paused: Mutex<Vec<PausedListing>>,
    pub(super) whole: web::WholeFileCache,
    pub(super) io_timeout: Duration,
}

/// A flat listing that goes on from page to page.
pub(super) struct PausedListing {
    pub(super) prefix: String,
    /// The last key of the last page.
    pub(super) at: Option<String>,
    pub(super) entries: Lister,
    pub(super) guard: ListingGuard,
}

/// A signed request that is used several times.
pub(super) struct Signature {
    pub(super) signed: Arc<SignedRequest>,
    pub(super) until: Instant,
    /// Whether a second read has used it.
    pub(super) used: bool,
}

impl Session {
    pub(super) fn open(
        url: &str,
        options: &BTreeMap<String, String>,
        config: &BucketConfig,
        quirks: &Arc<Quirks>,
    ) -> anyhow::Result<Self> {
        let mut location =
            StoreLocation::resolve(url, options, config.trust, |name| std::env::var(name).ok())?;
        if let Some(region) = &*lock(&quirks.region) {
            location.move_to(region);
        }
        // No step of a request waits longer than the whole request.
        location.timeouts = location.timeouts.within(config.io_timeout);
        let (ttl, io_timeout) = (config.ttl, config.io_timeout);
        let config = transport::TransportConfig {
            scheme: Some(location.scheme),
            timeouts: location.timeouts,
            verification: location.verification,
            io_timeout,
            redirects: config.redirects.clone(),
        };
        transport::install(config.clone());
        let signer = OssSigner::new(&location, &config);
        let shared = signer.clone().map(|signer| Arc::new(signer) as Arc<dyn SignRequest>);
        let context = transport::context(config, shared);
        let operator = |settings| {
            operator(location.scheme, settings, signer.as_ref())
                .with_context(|| format!("{}: the options cannot be used", location.url))
                .map(|operator| operator.with_context(context.clone()))
        };
        let mut without_checksums = location.settings.clone();
        without_checksums.remove("checksum_algorithm");
        let copier = operator(without_checksums)?;
        let operator = operator(location.settings.clone())?;
        let capability = operator.info().capability();
        let is_fast = match location.scheme {
            Scheme::Http => true,
            // Google's signed reads use its XML API, which has other ETags.
            Scheme::Gcs => false,
            _ => capability.presign_read,
        };
        let is_proxied = location.bucket_url().is_some_and(|url| proxy::of(&url).is_some());
        let is_fast = is_fast && location.is_fast && !is_proxied;
        let index = (location.scheme == Scheme::Http).then(|| Index::new(&location, ttl));
        Ok(Self {
            http1: Http1Client::new(location.scheme, location.verification, location.timeouts),
            operator,
            copier,
            lister_by_markers: OnceLock::new(),
            signer,
            opened: Instant::now(),
            signatures: Mutex::default(),
            is_fast,
            quirks: quirks.clone(),
            index,
            paused: Mutex::default(),
            whole: web::WholeFileCache::default(),
            io_timeout,
            location,
        })
    }

    /// The context of requests.
    pub(in crate::remote) fn context(&self) -> &OperationContext {
        self.operator.context()
    }

    /// The region of the bucket, which S3 names without credentials.
    pub(super) fn ask_region(&self) -> Option<String> {
        let mut request = http::Request::new(Buffer::new());
        *request.method_mut() = Method::HEAD;
        *request.uri_mut() = self.location.bucket_url()?;
        let head = transport::head(self.context(), request).ok()?;
        match response::take_bucket_region() {
            Some(BucketRegion::Known(region)) => Some(region),
            _ => header(&head.headers, BUCKET_REGION).map(str::to_string),
        }
    }

    /// The URL of an object, for messages.
    pub(in crate::remote) fn object_url(&self, key: &str) -> String {
        format!("{}/{key}", self.location.url.trim_end_matches('/'))
    }

    pub(in crate::remote) fn run<'a, T, F: Future<Output = opendal::Result<T>>>(
        &self,
        key: &'a str,
        question: impl FnOnce(&'a str) -> F,
    ) -> Result<T, StoreError> {
        block_on(|| self.object_url(key), question(to_path(key)?))
    }

    pub(in crate::remote) fn head(&self, key: &str) -> Result<Version, StoreError> {
        self.head_with_time(key).map(|(version, _)| version)
    }

    /// The object's version, and the time of change that its writer has kept in the metadata.
    pub(in crate::remote) fn head_with_time(
        &self,
        key: &str,
    ) -> Result<(Version, Option<SystemTime>), StoreError> {
        if self.location.scheme == Scheme::Http {
            let found = self.file(key)?.head(key)?;
            let varies = self.quirks.etags_vary.load(Ordering::Relaxed);
            return Ok((Version { etag: found.etag.filter(|_| !varies), ..found }, None));
        }
        let found = self.run(key, |path| self.operator.stat_options(path, StatOptions::default()))?;
        let time = found.user_metadata().and_then(|kept| mtime::from_text(kept.get(mtime::NAME)?));
        Ok((self.version(key.to_string(), &found), time))
    }

    pub(in crate::remote) fn version(&self, key: String, found: &Metadata) -> Version {
        let etag = match self.location.scheme {
            // The generation: ETags differ between Google's APIs.
            Scheme::Gcs => found.version().filter(|it| it.parse::<u64>().is_ok()).map(str::to_string),
            // An invalid ETag would not match in a condition: such a version is compared by size and time.
            _ if self.quirks.etags_vary.load(Ordering::Relaxed) => None,
            _ => found.etag().and_then(response::etag),
        };
        // Listings of some stores have fractions of seconds, responses for an object do not.
        let seconds = found.last_modified().map_or(0, |time| time.into_inner().as_second());
        let since = Duration::from_secs(u64::try_from(seconds).unwrap_or_default());
        Version { key, size: found.content_length(), etag, modified: SystemTime::UNIX_EPOCH + since }
    }

    /// The prefix of all keys of the location, as the store knows them.
    pub(super) fn root(&self) -> String {
        match self.location.settings.get("root").map_or("", |root| root.trim_matches('/')) {
            "" => String::new(),
            root => format!("{root}/"),
        }
    }

    /// A file of a web server.
    pub(super) fn file(&self, key: &str) -> Result<web::File<'_>, StoreError> {
        let setting = |name: &str| self.location.settings.get(name).map(String::as_str);
        let root = setting("root").unwrap_or_default().trim_end_matches('/');
        let path = percent_encode_path(&format!("{root}/{}", to_path(key)?));
        let url = format!("{}{path}", setting("endpoint").unwrap_or_default()).parse();
        let url = url.map_err(|_| StoreError::Failed("a URL that cannot be parsed".to_string()))?;
        Ok(web::File { context: self.context(), url, authorization: self.authorization() })
    }

    /// The value of `authorization` for a web server.
    pub(in crate::remote) fn authorization(&self) -> Option<http::HeaderValue> {
        use opendal::raw::{format_authorization_by_basic, format_authorization_by_bearer};
        let setting = |name: &str| self.location.settings.get(name).map(String::as_str);
        let value = match (setting("username"), setting("token")) {
            (Some(user), _) => format_authorization_by_basic(user, setting("password").unwrap_or_default()),
            (None, Some(token)) => format_authorization_by_bearer(token),
            (None, None) => return None,
        };
        let mut value: http::HeaderValue = value.ok()?.parse().ok()?;
        value.set_sensitive(true);
        Some(value)
    }
}

impl FileServer for Session {
    fn head(&self, key: &str) -> Result<Version, StoreError> {
        Session::head(self, key)
    }

    fn text(&self, uri: &http::Uri, access: Access) -> Result<String, StoreError> {
        let authorization = match access {
            Access::WithCredentials => self.authorization(),
            Access::Anonymous => None,
        };
        transport::text(self.context(), uri, authorization)
    }

    fn io_timeout(&self) -> Duration {
        self.io_timeout
    }
}

/// opendal's path for a key, which must be equal to the key: opendal takes other paths for other objects.
pub(in crate::remote) fn to_path(key: &str) -> Result<&str, StoreError> {
    let odd = key.trim() != key || key.starts_with('/') || key.contains("//") || key.is_empty();
    match odd {
        true => Err(StoreError::Unsupported("a name with an empty part, or with blanks at its ends,")),
        false => Ok(key),
    }
}

/// opendal's operator. It does not sign if there is a signer.
pub(super) fn operator(
    scheme: Scheme,
    mut settings: BTreeMap<String, String>,
    signer: Option<&OssSigner>,
) -> opendal::Result<Operator> {
    fn of<C: Configurator>(settings: BTreeMap<String, String>) -> opendal::Result<Operator> {
        Operator::from_config(C::from_iter(settings)?)
    }
    if signer.is_some() {
        settings.insert("skip_signature".to_string(), "true".to_string());
    }
    match scheme {
        Scheme::S3 => of::<services::S3Config>(settings),
        Scheme::Oss => of::<services::OssConfig>(settings),
        Scheme::Gcs => of::<services::GcsConfig>(settings),
        Scheme::Azblob => of::<services::AzblobConfig>(settings),
        Scheme::Cos => of::<services::CosConfig>(settings),
        Scheme::Obs => of::<services::ObsConfig>(settings),
        Scheme::Tos => of::<services::TosConfig>(settings),
        Scheme::Webhdfs => of::<services::WebhdfsConfig>(settings),
        Scheme::Http => of::<services::HttpConfig>(settings),
    }
}
