//! Inode numbers, by which the kernel names paths.
//!
//! A number is the hash of a path and of the identity of its file. So it is the same after the kernel has evicted the
//! inode, in a listing before any look-up, and in the next process. A file that replaces another gets another number, so the
//! kernel never mixes the pages of two. The table has the inodes that the kernel has cached, with their counts of look-ups;
//! it does not know whether the paths still exist. With a holder it notes each change for the next worker ([`crate::hold`]).

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock};

use crate::hold::state::{Log, Node as SavedNode, Record};
use crate::stable_hash::StableHash;
use crate::sync::lock;

/// The root's number, by definition of the protocol.
pub const ROOT: u64 = 1;

/// The inodes that the kernel has cached.
#[derive(Debug, Default)]
pub struct Inodes {
    nodes: Mutex<Nodes>,
    /// The log of changes for the next worker, if the mount is held.
    log: OnceLock<Arc<Log>>,
}

#[derive(Debug, Default)]
struct Nodes {
    by_number: HashMap<u64, Node>,
    /// The numbers of files that were continued, by the numbers that they would get now.
    kept: HashMap<u64, u64>,
}

impl Nodes {
    /// The number to begin with for a path and an identity.
    fn number(&self, path: &Path, identity: u64) -> u64 {
        let number = Inodes::number(path, identity);
        self.kept.get(&number).copied().unwrap_or(number)
    }
}

/// A path that has a number.
#[derive(Clone, Debug)]
pub struct Node {
    /// The path, relative to the root.
    pub path: Arc<Path>,
    /// Which file of that path; the root's is never asked for.
    pub identity: u64,
    lookups: u64,
    opened: bool,
}

impl Inodes {
    /// The number of a path, without a look-up of the kernel.
    pub fn number(path: &Path, identity: u64) -> u64 {
        if path.as_os_str().is_empty() {
            return ROOT;
        }
        let hash = StableHash::default().bytes(path.as_os_str().as_bytes()).number(identity);
        (hash.finish() >> 1).max(ROOT + 1)
    }

    /// Takes over the inodes that the kernel has from an earlier life. Changes are noted from now on.
    pub(crate) fn resume(&self, known: Vec<SavedNode<'static>>, log: Arc<Log>) {
        let mut nodes = lock(&self.nodes);
        for SavedNode { number, identity, lookups, is_kept, path } in known {
            if is_kept {
                nodes.kept.insert(Self::number(&path, identity), number);
            }
            let node = Node { path: path.into(), identity, lookups, opened: false };
            nodes.by_number.insert(number, node);
        }
        // It is set once: a process has one life.
        let _ = self.log.set(log);
    }

    fn note(&self, number: u64, node: &Node, is_kept: bool) {
        if let Some(log) = self.log.get() {
            let Node { path, identity, lookups, .. } = node;
            let path = (&**path).into();
            let node = SavedNode { number, identity: *identity, lookups: *lookups, is_kept, path };
            log.add(Record::Node(&node));
        }
    }

    fn note_lookups(&self, number: u64, lookups: u64) {
        if let Some(log) = self.log.get() {
            log.add(Record::Lookups { number, lookups });
        }
    }

    /// The number of a path, with a look-up of the kernel.
    pub fn remember(&self, path: &Path, identity: u64) -> u64 {
        let mut nodes = lock(&self.nodes);
        let mut number = nodes.number(path, identity);
        loop {
            match nodes.by_number.entry(number) {
                Entry::Vacant(vacant) => {
                    let node = Node { path: path.into(), identity, lookups: 1, opened: false };
                    self.note(number, vacant.insert(node), false);
                    return number;
                }
                Entry::Occupied(mut node) if *node.get().path == *path && node.get().identity == identity => {
                    node.get_mut().lookups += 1;
                    self.note_lookups(number, node.get().lookups);
                    return number;
                }
                Entry::Occupied(_) => number += 1,
            }
        }
    }

    /// Takes back a count of look-ups.
    pub fn forget(&self, number: u64, lookups: u64) {
        let mut nodes = lock(&self.nodes);
        if let Entry::Occupied(mut node) = nodes.by_number.entry(number) {
            node.get_mut().lookups = node.get().lookups.saturating_sub(lookups);
            self.note_lookups(number, node.get().lookups);
            if node.get().lookups == 0 {
                node.remove();
                nodes.kept.retain(|_, kept| *kept != number);
            }
        }
    }

    /// The number that a path has, or would get.
    pub fn number_of(&self, path: &Path, identity: u64) -> u64 {
        lock(&self.nodes).number(path, identity)
    }

    /// Notes that a file is opened; whether it was before. So long as the number lives the kernel may have its pages.
    pub fn opened(&self, number: u64) -> bool {
        let mut nodes = lock(&self.nodes);
        nodes.by_number.get_mut(&number).is_some_and(|node| std::mem::replace(&mut node.opened, true))
    }

    /// The file of a path is another one from now on, or has another path: its numbers stay. One that was `continued`
    /// is also found by its number: it has all the bytes that it had.
    pub fn became(
        &self,
        (path, identity): (&Path, u64),
        (new_path, new_identity): (&Path, u64),
        continued: bool,
    ) {
        if (path, identity) == (new_path, new_identity) {
            return;
        }
        let mut nodes = lock(&self.nodes);
        let Nodes { by_number, kept } = &mut *nodes;
        for (number, node) in by_number.iter_mut() {
            if node.identity == identity && *node.path == *path {
                node.path = new_path.into();
                node.identity = new_identity;
                node.opened &= identity == new_identity;
                let new = Self::number(new_path, new_identity);
                kept.retain(|_, kept| kept != number);
                let is_kept = continued && new != *number;
                if is_kept {
                    kept.insert(new, *number);
                }
                self.note(*number, node, is_kept);
            }
        }
    }

    /// Moves all paths below a directory to another one.
    pub fn moved(&self, from: &Path, to: &Path) {
        for (number, node) in &mut lock(&self.nodes).by_number {
            if let Ok(below) = node.path.strip_prefix(from)
                && !below.as_os_str().is_empty()
            {
                node.path = to.join(below).into();
                self.note(*number, node, false);
            }
        }
    }

    /// The path and the identity of a number.
    pub fn get(&self, number: u64) -> Option<Node> {
        if number == ROOT {
            return Some(Node { path: Path::new("").into(), identity: 0, lookups: 1, opened: false });
        }
        lock(&self.nodes).by_number.get(&number).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_lives_as_long_as_its_lookups() {
        let inodes = Inodes::default();
        let number = inodes.remember(Path::new("a/b"), 7);
        assert_eq!((inodes.opened(number), inodes.opened(number)), (false, true));
        assert_eq!(inodes.remember(Path::new("a/b"), 7), number);
        assert_ne!(inodes.remember(Path::new("a/b"), 8), number);
        assert_eq!(Inodes::number(Path::new("a/b"), 7), number);
        inodes.forget(number, 1);
        assert_eq!(*inodes.get(number).unwrap().path, *Path::new("a/b"));
        inodes.forget(number, 1);
        assert!(inodes.get(number).is_none());
        inodes.forget(number, 9);
        inodes.forget(ROOT, 9);
        assert_eq!(*inodes.get(ROOT).unwrap().path, *Path::new(""));
        let number = inodes.remember(Path::new("a"), 1);
        inodes.became((Path::new("a"), 1), (Path::new("b"), 2), false);
        let node = inodes.get(number).unwrap();
        assert_eq!((&*node.path, node.identity), (Path::new("b"), 2));
        assert_ne!(inodes.remember(Path::new("a"), 1), number);
        inodes.became((Path::new("b"), 2), (Path::new("b"), 3), true);
        assert_eq!(inodes.remember(Path::new("b"), 3), number);
        let below = inodes.remember(Path::new("b/c"), 1);
        inodes.moved(Path::new("b"), Path::new("d/e"));
        assert_eq!(*inodes.get(below).unwrap().path, *Path::new("d/e/c"));
        inodes.forget(number, 2);
        assert_ne!(inodes.remember(Path::new("b"), 3), number);
    }

    #[test]
    fn a_clash_moves_on() {
        let inodes = Inodes::default();
        let taken = Inodes::number(Path::new("a"), 1);
        let other = Node { path: Path::new("b").into(), identity: 1, lookups: 1, opened: false };
        lock(&inodes.nodes).by_number.insert(taken, other);
        assert_eq!(inodes.remember(Path::new("a"), 1), taken + 1);
        assert_eq!(inodes.remember(Path::new("a"), 1), taken + 1);
    }
}
