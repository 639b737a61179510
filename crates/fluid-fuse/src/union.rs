//! Several stores in one tree, as a Dataset has several mounts. The directories above the mounts are virtual.
//!
//! A path belongs to the store with the longest mount path that it begins with. A store that is mounted inside another
//! one hides the files of the other at that path.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{bail, ensure};

use crate::store::{Attempt, Entries, Entry, Object, Space, Stat, Store, StoreError, Writer};

/// Stores by their paths, `""` being the root.
pub struct Union {
    mounts: BTreeMap<PathBuf, Box<dyn Store>>,
    mounted: SystemTime,
    owner: (u32, u32),
}

impl Union {
    /// The stores at their relative paths. Virtual directories have the given owner.
    pub fn new(
        stores: impl IntoIterator<Item = (PathBuf, Box<dyn Store>)>,
        owner: (u32, u32),
    ) -> anyhow::Result<Self> {
        let mut mounts = BTreeMap::new();
        for (path, store) in stores {
            if mounts.contains_key(&path) {
                bail!("two mounts have the same path /{}", path.display());
            }
            mounts.insert(path, store);
        }
        ensure!(!mounts.is_empty(), "there is nothing to mount");
        Ok(Union { mounts, mounted: SystemTime::now(), owner })
    }

    /// The store of a path, and the path in it; nothing for a virtual directory.
    fn find<'u, 'p>(&'u self, path: &'p Path) -> Option<(&'u dyn Store, &'p Path)> {
        path.ancestors()
            .find_map(|above| Some((self.mounts.get(above)?.as_ref(), path.strip_prefix(above).ok()?)))
    }

    /// The names in a directory that lead to mounts.
    fn made_up<'u>(&'u self, directory: &'u Path) -> impl Iterator<Item = OsString> + 'u {
        let below = self.mounts.keys().filter_map(move |path| path.strip_prefix(directory).ok());
        let mut names: Vec<OsString> =
            below.filter_map(|rest| Some(rest.iter().next()?.to_os_string())).collect();
        names.dedup();
        names.into_iter()
    }

    fn is_virtual(&self, path: &Path) -> bool {
        !self.mounts.contains_key(path) && self.mounts.keys().any(|mount| mount.starts_with(path))
    }

    /// The store of a path that may be changed: neither a virtual directory nor the root of a mount.
    fn inside<'u, 'p>(&'u self, path: &'p Path) -> Result<(&'u dyn Store, &'p Path), StoreError> {
        match self.find(path) {
            Some((store, rest)) if !rest.as_os_str().is_empty() && !self.is_virtual(path) => {
                Ok((store, rest))
            }
            _ => Err(StoreError::ReadOnly),
        }
    }

    fn directory(&self) -> Stat {
        Stat::directory(0o555, self.owner, self.mounted)
    }
}

/// The mount with the longest path that the given path begins with, and the rest of the path.
pub(crate) fn innermost<'m, 'p, T>(
    mounts: &'m [(PathBuf, T)],
    path: &'p Path,
) -> Option<(&'m Path, &'m T, &'p Path)> {
    let around = mounts.iter().filter(|(at, _)| path.starts_with(at));
    let (at, mounted) = around.max_by_key(|(at, _)| at.components().count())?;
    Some((at, mounted, path.strip_prefix(at).ok()?))
}

impl Store for Union {
    fn stat(&self, path: &Path) -> Result<Stat, StoreError> {
        match self.find(path) {
            _ if self.is_virtual(path) => Ok(self.directory()),
            Some((store, rest)) => store.stat(rest),
            None => Err(StoreError::NotFound),
        }
    }

    fn cached_stat(&self, path: &Path) -> Option<Result<Stat, StoreError>> {
        match self.find(path) {
            _ if self.is_virtual(path) => Some(Ok(self.directory())),
            Some((store, rest)) => store.cached_stat(rest),
            None => Some(Err(StoreError::NotFound)),
        }
    }

    fn cached_since(&self, path: &Path) -> Option<Instant> {
        match self.find(path) {
            Some((store, rest)) if !self.is_virtual(path) => store.cached_since(rest),
            _ => Some(Instant::now()),
        }
    }

    fn list(&self, directory: &Path) -> Result<Entries, StoreError> {
        let nothing = Entries { since: Instant::now(), entries: Vec::new(), are_complete: true };
        let mut listed = match self.find(directory) {
            Some((store, rest)) => match store.list(rest) {
                Err(StoreError::NotFound) if self.is_virtual(directory) => nothing,
                listed => listed?,
            },
            None => nothing,
        };
        for name in self.made_up(directory) {
            let stat = self.stat(&directory.join(&name))?;
            listed.entries.retain(|entry| entry.name != name);
            listed.entries.push(Entry { name, stat });
        }
        Ok(listed)
    }

    fn open(&self, path: &Path, again: bool) -> Result<Box<dyn Object>, StoreError> {
        let (store, rest) = self.find(path).ok_or(StoreError::NotFound)?;
        store.open(rest, again)
    }

    fn reopen(&self, path: &Path, identity: u64, version: &[u8]) -> Result<Box<dyn Object>, StoreError> {
        let (store, rest) = self.find(path).ok_or(StoreError::NotFound)?;
        store.reopen(rest, identity, version)
    }

    fn read_link(&self, path: &Path) -> Result<OsString, StoreError> {
        let (store, rest) = self.find(path).ok_or(StoreError::NotFound)?;
        store.read_link(rest)
    }

    fn space(&self) -> Result<Space, StoreError> {
        self.mounts.values().map(|store| store.space()).collect::<Result<Vec<_>, _>>().map(|spaces| {
            spaces.into_iter().fold(Space::default(), |all, one| Space {
                bytes: all.bytes.saturating_add(one.bytes),
                free_bytes: all.free_bytes.saturating_add(one.free_bytes),
                files: all.files.saturating_add(one.files),
                free_files: all.free_files.saturating_add(one.free_files),
            })
        })
    }

    fn ttl(&self) -> Duration {
        self.mounts.values().map(|store| store.ttl()).min().unwrap_or_default()
    }

    fn is_remote(&self) -> bool {
        self.mounts.values().any(|store| store.is_remote())
    }

    fn lanes(&self) -> usize {
        // One lane is for the virtual directories.
        self.mounts.len() + 1
    }

    fn lane(&self, path: &Path) -> usize {
        let at = path.ancestors().find(|above| self.mounts.contains_key(*above));
        at.and_then(|at| self.mounts.keys().position(|mount| mount == at)).unwrap_or(self.mounts.len())
    }

    fn is_writable(&self, path: &Path) -> bool {
        self.find(path).is_some_and(|(store, rest)| store.is_writable(rest))
    }

    fn file_mode(&self, path: &Path) -> u16 {
        self.find(path).map_or(0, |(store, rest)| store.file_mode(rest))
    }

    fn create(&self, path: &Path) -> Result<Box<dyn Writer>, StoreError> {
        let (store, rest) = self.inside(path)?;
        store.create(rest)
    }

    fn append(&self, path: &Path) -> Result<(Box<dyn Writer>, Stat), StoreError> {
        let (store, rest) = self.inside(path)?;
        store.append(rest)
    }

    fn set_time(&self, path: &Path, time: SystemTime) -> Result<Stat, StoreError> {
        let (store, rest) = self.inside(path)?;
        store.set_time(rest, time)
    }

    fn remove(&self, path: &Path) -> Result<(), StoreError> {
        let (store, rest) = self.inside(path)?;
        store.remove(rest)
    }

    fn make_directory(&self, path: &Path) -> Result<Stat, StoreError> {
        let (store, rest) = self.inside(path)?;
        store.make_directory(rest)
    }

    fn remove_directory(&self, path: &Path) -> Result<(), StoreError> {
        let (store, rest) = self.inside(path)?;
        store.remove_directory(rest)
    }

    fn rename(&self, from: &Path, to: &Path, attempt: &Attempt<'_>) -> Result<Stat, StoreError> {
        let ((store, from), (other, to)) = (self.inside(from)?, self.inside(to)?);
        match std::ptr::addr_eq(store, other) {
            true => store.rename(from, to, attempt),
            false if store.is_writable(from) && other.is_writable(to) => Err(StoreError::NotMovable),
            false => Err(StoreError::ReadOnly),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::LocalStore;
    use std::fs;

    #[test]
    fn each_at_its_path() {
        let place = tempfile::tempdir().unwrap();
        for (directory, file) in [("a", "one"), ("b", "two"), ("a/x", "hidden")] {
            fs::create_dir_all(place.path().join(directory)).unwrap();
            fs::write(place.path().join(directory).join(file), file).unwrap();
        }
        let store = |name: &str| {
            Box::new(LocalStore::new(&place.path().join(name), Duration::MAX).unwrap()) as Box<dyn Store>
        };
        let union = |paths: &[(&str, &str)]| {
            Union::new(paths.iter().map(|(path, name)| (PathBuf::from(path), store(name))), (1, 2))
        };
        let names = |union: &Union, path: &str| {
            let mut names: Vec<_> = union
                .list(Path::new(path))
                .unwrap()
                .entries
                .into_iter()
                .map(|entry| entry.name.into_string().unwrap())
                .collect();
            names.sort();
            names.join(" ")
        };
        let apart = union(&[("p/a", "a"), ("p/b", "b"), ("q", "b")]).unwrap();
        assert_eq!([names(&apart, ""), names(&apart, "p"), names(&apart, "q")], ["p q", "a b", "two"]);
        assert_eq!(names(&apart, "p/a/x"), "hidden");
        assert_eq!(apart.stat(Path::new("p")).unwrap().uid, 1);
        let lanes = ["p/a", "p/a/x", "p/b", "q/two", "p"].map(|path| apart.lane(Path::new(path)));
        assert_eq!((lanes, apart.lanes()), ([0, 0, 1, 2, 3], 4));
        assert!(matches!(apart.stat(Path::new("r")), Err(StoreError::NotFound)));
        assert!(matches!(apart.open(Path::new("p"), false).err(), Some(StoreError::NotFound)));
        let nested = union(&[("", "a"), ("x", "b")]).unwrap();
        assert_eq!([names(&nested, ""), names(&nested, "x")], ["one x", "two"]);
        assert!(union(&[("p", "a"), ("p", "b")]).is_err() && union(&[]).is_err());
    }
}
