//! The entries of one response that lists.

use crate::limits::{ENTRIES, KEY};
use crate::store::StoreError;

/// What an answer lists.
#[derive(Default)]
pub(super) struct Found {
    /// The keys, each with the bytes that its entry takes.
    pub(super) keys: Vec<(String, usize)>,
    pub(super) skipped: usize,
    /// Whether there are more, and whether it is told where they begin (of S3).
    pub(super) is_truncated: bool,
    pub(super) has_token: bool,
    /// Whether keys are named by the directory that they have in common.
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

/// A key that can be asked for, as far as its length and place go. The library takes one that begins with a slash for a
/// path from the root.
pub(super) fn is_key(key: &str, prefix: &str) -> bool {
    key.len() <= KEY && key.starts_with(prefix) && !key.starts_with('/')
}

pub(super) fn is_size(text: &str) -> bool {
    text.parse::<u64>().is_ok()
}
