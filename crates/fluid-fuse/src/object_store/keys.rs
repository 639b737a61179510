//! Which keys of a store are shown as files and directories, and the parts of a key.

use std::path::Path;
use std::sync::atomic::Ordering;

use log::warn;

use crate::limits::{self, SKIPPED};
use crate::store::StoreError;

/// The largest file that Linux has, in bytes.
pub(super) const LARGEST_FILE: u64 = i64::MAX.cast_unsigned();

/// Whether the part of a key behind a prefix can be the name of a file.
pub(super) fn is_name(rest: &str) -> bool {
    !matches!(rest, "" | "." | "..") && rest.len() <= limits::MAX_NAME && !rest.contains(['/', '\0'])
}

/// Whether the store's client can request a key: it drops blanks at the ends.
pub(super) fn is_reachable(key: &str) -> bool {
    key.trim() == key
}

/// Splits a key into the prefix of its directory and the name.
pub(super) fn split(key: &str) -> (&str, &str) {
    key.split_at(key.rfind('/').map_or(0, |slash| slash + 1))
}

/// The key of a path. Keys are UTF-8, so other paths do not exist.
pub(super) fn key(path: &Path) -> Result<&str, StoreError> {
    path.to_str().ok_or(StoreError::NotFound)
}

/// The key of a new file or directory, which must be one that is shown.
pub(super) fn new_key(path: &Path) -> Result<&str, StoreError> {
    let key = path.to_str().ok_or(StoreError::Unsupported("a name that is not UTF-8"))?;
    match is_name(split(key).1) {
        true => Ok(key),
        false => Err(StoreError::Unsupported("a name of that length")),
    }
}

/// Counts and logs keys that are not shown.
pub(super) fn count_hidden(keys: usize, prefix: &str) {
    if keys > 0 {
        SKIPPED.fetch_add(keys as u64, Ordering::Relaxed);
        warn!("{keys} keys below {prefix:?} cannot be files and are not shown");
    }
}
