//! What requests have shown of the store that its options do not say.
//!
//! A store may refuse a fast path, not know a condition, or give one object several ETags. One request finds that
//! out, and the next ones need not. It stays with the mount when credentials are loaded again. What one object needs
//! counts for that object, and only for a time: it says nothing about the others. This module keeps what is found;
//! [`super::bucket`] finds it.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::Version;
use crate::inodes::lock;

/// How long a fallback is taken before the fast path is tried again.
const FALLBACK_TIME: Duration = Duration::from_secs(10 * 60);

/// Objects whose fallbacks, or whose versions, are kept.
const OBJECTS: usize = 4096;

/// Objects in a row that need a fallback, after which all objects take it.
const ODD_IN_A_ROW: usize = 4;

/// What is known of a store beside its options.
#[derive(Default)]
pub(super) struct Quirks {
    /// Reads whose signature is in the query are denied, and others are not.
    pub(super) denies_query_signatures: AtomicBool,
    /// Conditions of requests are not understood, so only answers are compared.
    pub(super) ignores_conditions: AtomicBool,
    /// One version of an object has several ETags, so they tell nothing.
    pub(super) etags_vary: AtomicBool,
    /// An object was read whose time of change is the same in the listing.
    pub(super) dates_agree: AtomicBool,
    /// Listings are those of S3's first kind, which go on from a marker.
    pub(super) lists_by_markers: AtomicBool,
    /// Listings do not begin behind the key that they are asked to.
    pub(super) ignores_start: AtomicBool,
    /// Parts of an object are not copied within the store.
    pub(super) denies_part_copies: AtomicBool,
    /// The region in which the store says that the bucket is.
    pub(super) region: Mutex<Option<String>>,
    fallbacks: Mutex<Fallbacks>,
    odd_in_a_row: AtomicUsize,
    aliases: Mutex<HashMap<Version, Version>>,
}

/// How an object is read that the fast path does not lead to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fallback {
    /// By the library's client.
    Library,
    /// As a whole, because its server sends no parts.
    Whole,
}

#[derive(Default)]
struct Fallbacks {
    objects: HashMap<String, (Fallback, Instant)>,
    /// Until when all objects take it.
    all: Option<(Fallback, Instant)>,
}

impl Quirks {
    /// The fallback that reads of an object take for the time being.
    pub(super) fn fallback(&self, key: &str) -> Option<Fallback> {
        let now = Instant::now();
        let fallbacks = lock(&self.fallbacks);
        let own = fallbacks.objects.get(key).copied();
        own.into_iter().chain(fallbacks.all).find(|(_, until)| now < *until).map(|(fallback, _)| fallback)
    }

    /// The fast path does not lead to an object: whether none is tried on it for a time, since several in a row were
    /// such.
    pub(super) fn use_fallback(&self, key: &str, fallback: Fallback) -> bool {
        let taken = (fallback, Instant::now() + FALLBACK_TIME);
        let mut fallbacks = lock(&self.fallbacks);
        if fallbacks.objects.len() >= OBJECTS {
            fallbacks.objects.clear();
        }
        if fallbacks.objects.insert(key.to_string(), taken).is_some() {
            return false;
        }
        let is_usual = self.odd_in_a_row.fetch_add(1, Ordering::Relaxed) + 1 >= ODD_IN_A_ROW;
        if is_usual {
            self.odd_in_a_row.store(0, Ordering::Relaxed);
            fallbacks.all = Some(taken);
        }
        is_usual
    }

    /// The fast path led to an object.
    pub(super) fn fast_path_worked(&self) {
        if self.odd_in_a_row.load(Ordering::Relaxed) > 0 {
            self.odd_in_a_row.store(0, Ordering::Relaxed);
        }
    }

    /// What the store calls a version when it is asked for the object, if that is known to be something else than what
    /// its listing says.
    pub(super) fn alias(&self, version: &Version) -> Option<Version> {
        lock(&self.aliases).get(version).cloned()
    }

    pub(super) fn record_alias(&self, version: &Version, now: Version) {
        let mut aliases = lock(&self.aliases);
        if aliases.len() >= OBJECTS {
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
