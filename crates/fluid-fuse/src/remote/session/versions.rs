//! Versions of an object: whether a refused condition means that the object changed.

use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use fluid_sidecar_layout::source::Scheme;
use log::info;

use super::open::Session;
use crate::remote::Version;
use crate::store::StoreError;

/// Largest difference between the clocks of a store and of this machine.
pub(in crate::remote) const MAX_CLOCK_DIFFERENCE: Duration = Duration::from_secs(60);

/// Number of HEAD requests to find out whether an ETag varies: if one of two ETags comes at random, the chance that
/// one comes each time is 1 in 128.
const ETAG_CHECKS: usize = 8;

/// Largest difference of a store's times for one version: some responses round up, others down.
const TIME_ROUNDING: Duration = Duration::from_secs(1);

impl Session {
    /// Returns the store's present name of a version, after it refused a read of it under the name `requested`.
    /// [`StoreError::Stale`]: the object has changed, as far as that can be found out.
    ///
    /// An object of another size or time has changed. Beyond that, ETags are compared with those of the same source:
    /// that of a listing with that of the present listing, since a store may send others for reads, and that of one
    /// response with that of the next, since each server of a store may send its own.
    pub(in crate::remote) fn revalidate(
        &self,
        version: &Version,
        requested: &Version,
    ) -> Result<Version, StoreError> {
        if matches!(self.location.scheme, Scheme::Gcs | Scheme::Webhdfs) {
            return Err(StoreError::Stale);
        }
        let now = match self.head(&version.key) {
            Ok(now) => now,
            Err(error @ StoreError::Unavailable(_)) => return Err(error),
            Err(_) => return Err(StoreError::Stale),
        };
        if now.size != version.size {
            return Err(StoreError::Stale);
        }
        let without_etag = Version { etag: None, ..now.clone() };
        if same(&now, requested) {
            // The store refused the version that is there.
            if requested.etag.is_some() && self.has_other_etag(version, &now)? {
                return Ok(without_etag);
            }
            if self.reads_conditionally(requested)
                && !self.quirks.ignores_conditions.swap(true, Ordering::Relaxed)
            {
                info!(
                    "{}: conditions of reads are not understood, so answers are compared",
                    self.location.url
                );
            }
            return Ok(requested.clone());
        }
        let dates = version.date().zip(now.date());
        let is_dated_alike = dates.is_none_or(|(one, other)| is_about(one, other));
        match (&version.etag, &now.etag) {
            (Some(known), Some(etag)) if known == etag => Ok(now),
            (Some(_), Some(_)) if !is_dated_alike => Err(StoreError::Stale),
            (Some(_), Some(_)) if requested == version && self.is_listed(version)? => Ok(now),
            (Some(_), Some(_)) if self.has_other_etag(version, &now)? => Ok(without_etag),
            (Some(_), Some(_)) if requested != version && self.is_listed(version)? => Ok(now),
            (Some(_), Some(_)) => Err(StoreError::Stale),
            // Only the time tells whether the object changed.
            _ if is_dated_alike && dates.is_some() => Ok(now),
            (None, _) if !self.quirks.dates_agree.load(Ordering::Relaxed) && self.is_listed(version)? => {
                Ok(now)
            }
            _ => Err(StoreError::Stale),
        }
    }

    /// Whether the store's listing still has this version.
    fn is_listed(&self, version: &Version) -> Result<bool, StoreError> {
        let listed = match &self.index {
            Some(index) => return index.still_lists(self, version),
            None => self.listed(&version.key),
        };
        match listed {
            Ok(listed) => Ok(listed.as_ref() == Some(version)),
            Err(error @ StoreError::Unavailable(_)) => Err(error),
            Err(_) => Ok(false),
        }
    }

    /// Whether repeated requests get other ETags although the object did not change: an earlier ETag comes back, or
    /// the time of change is long ago, or no two ETags are the same.
    pub(in crate::remote) fn has_other_etag(
        &self,
        version: &Version,
        now: &Version,
    ) -> Result<bool, StoreError> {
        if self.quirks.etags_vary.load(Ordering::Relaxed) {
            return Ok(true);
        }
        let is_old = now.date().is_some_and(|date| date + MAX_CLOCK_DIFFERENCE < SystemTime::now());
        let mut others = vec![version.etag.clone()];
        let mut last = now.etag.clone();
        let mut varies = false;
        for _ in 0..ETAG_CHECKS {
            let again = self.head(&now.key)?;
            if again.size != now.size || again.modified != now.modified {
                return Err(StoreError::Stale);
            }
            if again.etag != last {
                varies = is_old || others.contains(&again.etag);
                others.push(std::mem::replace(&mut last, again.etag));
            }
            if varies {
                break;
            }
        }
        varies |= others.len() > ETAG_CHECKS;
        if varies && !self.quirks.etags_vary.swap(true, Ordering::Relaxed) {
            info!("{}: ETags vary, so versions are compared by size and time", self.location.url);
        }
        Ok(varies)
    }
}

/// Whether two versions are the same, as far as both have an ETag and a time.
pub(in crate::remote) fn same(one: &Version, other: &Version) -> bool {
    let etags = one.etag.as_ref().zip(other.etag.as_ref());
    let dates = one.date().zip(other.date());
    one.size == other.size
        && etags.is_none_or(|(one, other)| one == other)
        && dates.is_none_or(|(one, other)| one == other)
}

/// Whether two times can be those of one version.
fn is_about(one: SystemTime, other: SystemTime) -> bool {
    one.duration_since(other).or_else(|_| other.duration_since(one)).is_ok_and(|apart| apart <= TIME_ROUNDING)
}
