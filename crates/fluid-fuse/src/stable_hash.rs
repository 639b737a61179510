//! Hashes for names that outlive the process: files of the disk cache and inode numbers.
//!
//! The standard library's `DefaultHasher` may change with each Rust version, and so may the order in which `#[derive(Hash)]`
//! feeds it. SHA-256 does not change, and callers here say what goes in, in which order.

use std::time::{SystemTime, UNIX_EPOCH};

use sha2::{Digest, Sha256};

/// A hash that is the same in every process, on every machine and for every Rust version.
#[derive(Default)]
pub(crate) struct StableHash(Sha256);

impl StableHash {
    /// Adds a number.
    pub(crate) fn number(mut self, number: u64) -> Self {
        self.0.update(number.to_le_bytes());
        self
    }

    /// Adds bytes, preceded by their length: `("a", "bc")` and `("ab", "c")` differ.
    pub(crate) fn bytes(mut self, bytes: &[u8]) -> Self {
        self = self.number(bytes.len() as u64);
        self.0.update(bytes);
        self
    }

    /// Adds a text that may be missing; an empty text is not a missing one.
    pub(crate) fn optional(self, text: Option<&str>) -> Self {
        match text {
            Some(text) => self.number(1).bytes(text.as_bytes()),
            None => self.number(0),
        }
    }

    /// Adds a time, to the nanosecond.
    pub(crate) fn time(self, time: SystemTime) -> Self {
        let (is_later, distance) = match time.duration_since(UNIX_EPOCH) {
            Ok(distance) => (1, distance),
            Err(earlier) => (0, earlier.duration()),
        };
        self.number(is_later).number(distance.as_secs()).number(u64::from(distance.subsec_nanos()))
    }

    /// The first 64 bits of the hash.
    pub(crate) fn finish(self) -> u64 {
        self.0.finalize().first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// The number is written down here: if it changes, every disk cache is lost and every inode number changes.
    #[test]
    fn a_hash_never_changes() {
        let hash = StableHash::default().number(7).bytes(b"key").optional(Some("\"etag\"")).time(UNIX_EPOCH);
        assert_eq!(hash.finish(), 9_791_634_254_210_273_249);
    }

    #[test]
    fn neighbours_are_kept_apart() {
        let hash = |one: &str, other: &str| {
            StableHash::default().bytes(one.as_bytes()).bytes(other.as_bytes()).finish()
        };
        assert_ne!(hash("a", "bc"), hash("ab", "c"));
        let optional = |text| StableHash::default().optional(text).finish();
        assert_ne!(optional(None), optional(Some("")));
        let time = |time| StableHash::default().time(time).finish();
        assert_ne!(time(UNIX_EPOCH + Duration::from_secs(1)), time(UNIX_EPOCH - Duration::from_secs(1)));
    }
}
