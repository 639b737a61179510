//! Where the golden cases are, for every program that runs them.
//!
//! A case is a directory without directories in it. What it has not itself of `pod.yaml`, `objects.yaml` and
//! `settings.yaml` it has from the directory above: so one Pod and one cluster are tried with several settings.

use std::fs;
use std::path::{Path, PathBuf};

/// The cases below a directory, in order.
pub fn below(directory: &Path) -> Vec<PathBuf> {
    let mut cases = Vec::new();
    let mut open = vec![directory.to_path_buf()];
    while let Some(directory) = open.pop() {
        let entries = fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path());
        let inner: Vec<PathBuf> = entries.filter(|path| path.is_dir()).collect();
        match inner.is_empty() {
            true => cases.push(directory),
            false => open.extend(inner),
        }
    }
    cases.sort();
    cases
}

/// What a case is given: its own file, or that of the directory above.
pub fn given(case: &Path, file: &str) -> PathBuf {
    let own = case.join(file);
    let shared = case.parent().map(|above| above.join(file)).filter(|shared| shared.exists());
    shared.filter(|_| !own.exists()).unwrap_or(own)
}
