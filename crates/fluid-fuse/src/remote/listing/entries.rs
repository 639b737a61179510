//! The entries of one response that lists.

use crate::limits::{ENTRIES, KEY};
use crate::store::StoreError;

/// The entries of a response.
#[derive(Default)]
pub(super) struct Found {
    /// The keys, each with the bytes that its entry takes.
    pub(super) keys: Vec<(String, usize)>,
    pub(super) skipped: usize,
    /// Whether there are more entries, and whether S3 names the token with which they begin.
    pub(super) is_truncated: bool,
    pub(super) has_token: bool,
    /// Whether some keys are listed by their common directory.
    pub(super) has_directories: bool,
}

impl Found {
    pub(super) fn add(&mut self, entry: Option<(String, usize)>) -> Result<bool, StoreError> {
        match entry {
            Some(entry) => self.keys.push(entry),
            None => {
                self.skipped += 1;
                return Ok(false);
            }
        }
        match self.keys.len() > ENTRIES {
            true => Err(StoreError::Failed("a page of a listing has too many entries".into())),
            false => Ok(true),
        }
    }
}

/// Whether a key can be requested, as far as its length and prefix go. opendal takes a key that begins with a slash
/// for a path from the root.
pub(super) fn is_key(key: &str, prefix: &str) -> bool {
    key.len() <= KEY && key.starts_with(prefix) && !key.starts_with('/')
}

pub(super) fn is_size(text: &str) -> bool {
    text.parse::<u64>().is_ok()
}
