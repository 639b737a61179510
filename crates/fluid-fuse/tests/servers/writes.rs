//! What writers do.

use std::fs;

use crate::support::place::{bytes, names};
use crate::{Mounted, Store};

/// Everything, through a mount of the store.
pub(crate) fn all(store: impl Store) {
    let Some(mounted) = Mounted::new(store, &["--read-only=false"]) else { return };
    small_files(&mounted);
    empty_files(&mounted);
    a_large_file(&mounted);
    names_change(&mounted);
}

fn write(mounted: &Mounted<impl Store>, name: &str, size: usize) {
    let content = bytes(size);
    fs::write(mounted.path(name), &content).unwrap();
    if content.is_empty() {
        // Finished after the close, but before it is opened.
        fs::File::open(mounted.path(name)).unwrap();
    }
    assert!(mounted.store.get(name).unwrap() == content, "{name}");
    assert!(fs::read(mounted.path(name)).unwrap() == content, "{name}");
    assert_eq!(fs::metadata(mounted.path(name)).unwrap().len(), size as u64, "{name}");
}

/// Made and replaced, by one request.
fn small_files(mounted: &Mounted<impl Store>) {
    for (name, size) in [("small", 10), ("a b+ü&=%20#", 300_000), ("small", 11)] {
        write(mounted, name, size);
    }
    assert_eq!(names(&mounted.path("")), ["a b+ü&=%20#", "small"]);
}

/// Files without bytes, and directories, which are objects without bytes, too.
fn empty_files(mounted: &Mounted<impl Store>) {
    fs::create_dir(mounted.path("below")).unwrap();
    for name in ["below/small", "below/empty"] {
        write(mounted, name, usize::from(name.ends_with("small")));
    }
    assert_eq!(names(&mounted.path("below")), ["empty", "small"]);
    assert_eq!(mounted.store.get("below/"), Some(Vec::new()));
}

/// In parts.
fn a_large_file(mounted: &Mounted<impl Store>) {
    write(mounted, "large", (20 << 20) + 3);
}

/// Copied, moved, removed.
fn names_change(mounted: &Mounted<impl Store>) {
    let (old, new) = (mounted.path("moved from"), mounted.path("moved to/file"));
    fs::create_dir(mounted.path("moved to")).unwrap();
    write(mounted, "moved from", 5000);
    fs::rename(&old, &new).unwrap();
    assert!(fs::read(&new).unwrap() == bytes(5000) && !old.exists());
    assert_eq!(mounted.store.get("moved from"), None);
    assert!(mounted.store.get("moved to/file").unwrap() == bytes(5000));
    fs::remove_file(&new).unwrap();
    assert_eq!((names(&mounted.path("moved to")).len(), mounted.store.get("moved to/file")), (0, None));
    fs::remove_dir(mounted.path("moved to")).unwrap();
    assert!(!mounted.path("moved to").exists());
}
