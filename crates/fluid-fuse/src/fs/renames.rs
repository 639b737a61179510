//! Renames that have begun and not succeeded. Object stores copy and delete, so a rename that fails or is killed in between
//! leaves both paths, and the next attempt continues it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::hold::state::Rename;
use crate::sync::lock;

/// Number of renames that are remembered.
const MAX: usize = 100;

/// How long a rename is remembered.
const REMEMBERED_FOR: Duration = Duration::from_secs(10 * 60);

/// The renames, by their old paths.
#[derive(Default)]
pub(super) struct Renames(Mutex<HashMap<PathBuf, Begun>>);

struct Begun {
    to: PathBuf,
    /// The kernel's request.
    request: u64,
    since: Instant,
}

impl Renames {
    /// The request that has begun a rename.
    pub(super) fn request(&self, from: &Path, to: &Path) -> Option<u64> {
        let begun = lock(&self.0);
        let begun = begun.get(from).filter(|begun| begun.to == to && begun.since.elapsed() < REMEMBERED_FOR);
        begun.map(|begun| begun.request)
    }

    /// Remembers a rename. Returns the one that is forgotten for it.
    pub(super) fn begin(&self, rename: &Rename<'_>) -> Option<PathBuf> {
        let mut begun = lock(&self.0);
        let oldest = begun.iter().min_by_key(|(_, begun)| begun.since).map(|(from, _)| from.clone());
        let forgotten = oldest.filter(|_| begun.len() >= MAX);
        forgotten.as_ref().and_then(|from| begun.remove(from));
        let (to, request) = (rename.to.to_path_buf(), rename.request);
        begun.insert(rename.from.to_path_buf(), Begun { to, request, since: Instant::now() });
        forgotten
    }

    /// Forgets a rename.
    pub(super) fn end(&self, from: &Path) {
        lock(&self.0).remove(from);
    }
}
