//! What a mount of some keys must show.

use std::collections::{BTreeMap, BTreeSet};

use crate::support::content::Content;

/// What a path is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shown {
    Directory,
    File(Content),
}

/// Objects by their keys.
#[derive(Clone, Debug, Default)]
pub(crate) struct Model(pub(crate) BTreeMap<String, Content>);

impl Model {
    /// What is seen at a path without odd parts; `""` is the root.
    pub(crate) fn stat(&self, path: &str) -> Option<Shown> {
        let below = format!("{path}/");
        // Blanks at the ends of a key are lost on the way.
        if path.is_empty() || path.trim_start() == path && self.0.keys().any(|key| key.starts_with(&below)) {
            return Some(Shown::Directory);
        }
        self.0.get(path).filter(|_| path.trim() == path).map(|content| Shown::File(*content))
    }

    /// The names in a directory.
    pub(crate) fn list(&self, path: &str) -> BTreeMap<String, Shown> {
        let prefix = if path.is_empty() { String::new() } else { format!("{path}/") };
        let rests = self.0.keys().filter_map(|key| key.strip_prefix(&prefix));
        let names: BTreeSet<&str> = rests.filter_map(|rest| rest.split('/').next()).collect();
        names
            .into_iter()
            .filter(|name| !matches!(*name, "" | "." | "..") && name.len() <= 255)
            .filter_map(|name| Some((name.to_string(), self.stat(&format!("{prefix}{name}"))?)))
            .collect()
    }

    /// All directories and files, by their paths.
    pub(crate) fn walk(&self) -> BTreeMap<String, Shown> {
        let mut all = BTreeMap::new();
        let mut left = vec![String::new()];
        while let Some(directory) = left.pop() {
            for (name, shown) in self.list(&directory) {
                let path = if directory.is_empty() { name } else { format!("{directory}/{name}") };
                if shown == Shown::Directory {
                    left.push(path.clone());
                }
                all.insert(path, shown);
            }
        }
        all
    }
}

#[test]
fn the_rules() {
    let keys = ["a", "a/", "b//c", "d/./e", "../f", "g/h", "/i", "j"];
    let model = Model(keys.map(|key| (key.to_string(), Content::new(1, 2))).into());
    let seen: Vec<_> = model.walk().into_keys().collect();
    assert_eq!(seen, ["a", "b", "d", "g", "g/h", "j"]);
    assert_eq!(model.stat("a"), Some(Shown::Directory));
    assert_eq!(model.stat("j"), Some(Shown::File(Content::new(1, 2))));
}
