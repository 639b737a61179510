//! The quirks of a store: what responses have shown of it that no option says.
//!
//! A store may refuse the fast path, not know a condition, or give one object several ETags. One request finds that
//! out, and the next ones use it. Quirks stay with the mount when credentials are loaded again. A fallback for one
//! object counts for that object only, and for a time. This module keeps the quirks; `session` finds them.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::Version;
use crate::sync::lock;

/// How long a fallback is used before the fast path is tried again.
const FALLBACK_TIME: Duration = Duration::from_secs(10 * 60);

/// Largest number of objects with a fallback, and of versions with an alias.
const MAX_OBJECTS: usize = 4096;

/// Number of objects in a row that need a fallback, after which all objects use it.
const FALLBACKS_IN_A_ROW: usize = 4;

/// The quirks of one store.
#[derive(Default)]
pub(super) struct Quirks {
    /// The store denies reads with a signature in the query, and allows others.
    pub(super) denies_query_signatures: AtomicBool,
    /// The store does not understand conditions of requests, so responses are compared.
    pub(super) ignores_conditions: AtomicBool,
    /// One version of an object has several ETags, so ETags are not compared.
    pub(super) etags_vary: AtomicBool,
    /// A read has had the same time of change as the listing.
    pub(super) dates_agree: AtomicBool,
    /// Listings go on from a marker, as in the first version of ListObjects.
    pub(super) lists_by_markers: AtomicBool,
    /// Listings do not begin behind the requested key.
    pub(super) ignores_start: AtomicBool,
    /// The store does not copy parts of an object.
    pub(super) denies_part_copies: AtomicBool,
    /// The region of the bucket, as the store says.
    pub(super) region: Mutex<Option<String>>,
    fallbacks: Mutex<Fallbacks>,
    fallbacks_in_a_row: AtomicUsize,
    aliases: Mutex<HashMap<Version, Version>>,
}

/// How an object is read for which the fast path does not work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fallback {
    /// By opendal.
    Library,
    /// As a whole, because its server sends no parts.
    Whole,
}

#[derive(Default)]
struct Fallbacks {
    objects: HashMap<String, (Fallback, Instant)>,
    /// The fallback of all objects, and until when.
    all: Option<(Fallback, Instant)>,
}

impl Quirks {
    /// The fallback that reads of an object use at present.
    pub(super) fn fallback(&self, key: &str) -> Option<Fallback> {
        let now = Instant::now();
        let fallbacks = lock(&self.fallbacks);
        let own = fallbacks.objects.get(key).copied();
        own.into_iter().chain(fallbacks.all).find(|(_, until)| now < *until).map(|(fallback, _)| fallback)
    }

    /// Records that the fast path does not work for an object. Returns whether all objects use the fallback from now
    /// on, because several in a row needed one.
    pub(super) fn use_fallback(&self, key: &str, fallback: Fallback) -> bool {
        let taken = (fallback, Instant::now() + FALLBACK_TIME);
        let mut fallbacks = lock(&self.fallbacks);
        if fallbacks.objects.len() >= MAX_OBJECTS {
            fallbacks.objects.clear();
        }
        if fallbacks.objects.insert(key.to_string(), taken).is_some() {
            return false;
        }
        let is_usual = self.fallbacks_in_a_row.fetch_add(1, Ordering::Relaxed) + 1 >= FALLBACKS_IN_A_ROW;
        if is_usual {
            self.fallbacks_in_a_row.store(0, Ordering::Relaxed);
            fallbacks.all = Some(taken);
        }
        is_usual
    }

    /// Records that the fast path worked for an object.
    pub(super) fn fast_path_worked(&self) {
        if self.fallbacks_in_a_row.load(Ordering::Relaxed) > 0 {
            self.fallbacks_in_a_row.store(0, Ordering::Relaxed);
        }
    }

    /// The version that the store names when the object is requested, if it differs from that of the listing.
    pub(super) fn alias(&self, version: &Version) -> Option<Version> {
        lock(&self.aliases).get(version).cloned()
    }

    pub(super) fn record_alias(&self, version: &Version, now: Version) {
        let mut aliases = lock(&self.aliases);
        if aliases.len() >= MAX_OBJECTS {
            aliases.clear();
        }
        aliases.insert(version.clone(), now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_odd_object_is_no_rule() {
        let quirks = Quirks::default();
        for key in ["a", "b", "c", "c", "c"] {
            assert!(!quirks.use_fallback(key, Fallback::Library), "{key}");
        }
        assert_eq!((quirks.fallback("a"), quirks.fallback("d")), (Some(Fallback::Library), None));
        quirks.fast_path_worked();
        let odd: Vec<_> = ["d", "e", "f", "g"].map(|key| quirks.use_fallback(key, Fallback::Library)).into();
        assert_eq!(odd, [false, false, false, true]);
        assert_eq!(quirks.fallback("x"), Some(Fallback::Library));
    }
}
