//! Sessions: a bucket with the credentials of one moment, and its replacements.
//!
//! Decides when credentials are loaded again: when a file that holds some has changed, and once when the store
//! refuses. Regions and ways to sign are tried, too. It does not retry when the
//! store is unavailable. `open` makes a session, `list` lists, `read` reads, `versions` compares
//! versions, and `sign` signs the requests of the fast path.

mod list;
mod open;
mod read;
mod sign;
mod versions;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use log::{info, warn};

pub(super) use self::open::{Session, to_path};
pub(super) use self::versions::{MAX_CLOCK_DIFFERENCE, same};
use super::BucketConfig;
use super::quirks::Quirks;
use super::response::{self, BucketRegion};
use super::tls::Verification;
use crate::store::StoreError;
use crate::sync::lock;

/// Time between two checks of the files of credentials.
const CREDENTIALS_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Time between two reloads of credentials because the store refuses.
const RELOAD_INTERVAL: Duration = Duration::from_secs(10);

/// The URL and options of a bucket, and its present session.
pub(super) struct Sessions {
    url: String,
    options: BTreeMap<String, String>,
    config: BucketConfig,
    quirks: Arc<Quirks>,
    session: Mutex<(Arc<Session>, Instant)>,
}

/// An error, and whether the request may run again.
pub(super) enum RequestError {
    Retriable(StoreError),
    Final(StoreError),
}

impl Sessions {
    /// Opens the first session.
    pub(super) fn open(
        url: &str,
        options: &BTreeMap<String, String>,
        config: &BucketConfig,
    ) -> anyhow::Result<Arc<Self>> {
        let quirks = Arc::new(Quirks::default());
        let session = Arc::new(Session::open(url, options, config, &quirks)?);
        if session.location.verification == Verification::None {
            warn!(
                "{}: the certificates of servers are not checked (insecure_skip_tls_verify): anybody on the way can \
                 read and change what is sent",
                session.location.url
            );
        }
        let session = Mutex::new((session, Instant::now()));
        let (url, options, config) = (url.to_string(), options.clone(), config.clone());
        Ok(Arc::new(Self { url, options, config, quirks, session }))
    }

    /// The URL of the server, if the options name one.
    pub(super) fn endpoint(&self) -> Option<String> {
        self.held().0.location.settings.get("endpoint").cloned()
    }

    /// Runs a request with the present credentials, again if the bucket is in another region, and again with new
    /// credentials if the store refuses.
    pub(super) fn with_retry<T>(
        &self,
        request: impl Fn(&Arc<Session>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.with_retry_if(|session| request(session).map_err(RequestError::Retriable))
    }

    /// The same for a request that says of its error whether it may run again.
    pub(super) fn with_retry_if<T>(
        &self,
        mut request: impl FnMut(&Arc<Session>) -> Result<T, RequestError>,
    ) -> Result<T, StoreError> {
        let mut session = self.session();
        response::take_bucket_region();
        let mut result = request(&session);
        if let Err(RequestError::Retriable(
            StoreError::Denied(_) | StoreError::NoBucket(_) | StoreError::Failed(_),
        )) = result
            && let Some(elsewhere) = self.find_region(&session)
        {
            session = elsewhere;
            result = request(&session);
        }
        if let Err(RequestError::Retriable(StoreError::Denied(_))) = result
            && let Some(renewed) = self.reload(&session)
        {
            result = request(&renewed);
        }
        result.map_err(|error| match error {
            RequestError::Retriable(error) | RequestError::Final(error) => error,
        })
    }

    /// A session for the bucket's region, if the last error was because of the region.
    fn find_region(&self, refused: &Arc<Session>) -> Option<Arc<Session>> {
        let region = match response::take_bucket_region()? {
            BucketRegion::Known(region) => region,
            BucketRegion::Other => refused.ask_region()?,
        };
        if refused.location.settings.get("region") == Some(&region) {
            return None;
        }
        let mut held = self.held();
        if Arc::ptr_eq(&held.0, refused) {
            info!(
                "{}: the bucket is in the region {region} (the option region saves the request)",
                refused.location.url
            );
            *lock(&self.quirks.region) = Some(region);
            if !self.renew(&mut held.0) {
                return None;
            }
        }
        Some(held.0.clone())
    }

    /// The present session, with new credentials if their files have changed.
    pub(super) fn session(&self) -> Arc<Session> {
        let mut held = self.held();
        if held.1.elapsed() >= CREDENTIALS_CHECK_INTERVAL {
            held.1 = Instant::now();
            if held.0.location.files.changed() {
                self.renew(&mut held.0);
            }
        }
        held.0.clone()
    }

    /// The session after the one that the store refused, if there can be another.
    fn reload(&self, refused: &Arc<Session>) -> Option<Arc<Session>> {
        let mut held = self.held();
        let same = Arc::ptr_eq(&held.0, refused);
        if same && !refused.location.files.changed() && refused.opened.elapsed() < RELOAD_INTERVAL {
            return None;
        }
        (!same || self.renew(&mut held.0)).then(|| held.0.clone())
    }

    fn renew(&self, session: &mut Arc<Session>) -> bool {
        match Session::open(&self.url, &self.options, &self.config, &self.quirks) {
            Ok(new) => {
                if let (Some(new), Some(old)) = (&new.index, &session.index) {
                    new.inherit(old);
                }
                info!("{}: loading credentials again", new.location.url);
                *session = Arc::new(new);
                true
            }
            Err(error) => {
                warn!("{}: credentials cannot be loaded again: {error:#}", session.location.url);
                false
            }
        }
    }

    fn held(&self) -> MutexGuard<'_, (Arc<Session>, Instant)> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
