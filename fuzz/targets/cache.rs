//! Bytes as the map of a cache that a former process left, with a checksum that is right: the cache opens, and what it
//! counts is what its limit allows.
#![no_main]
#![allow(clippy::unwrap_used, reason = "a test")]

use std::fs::{self, File};
use std::path::Path;
use std::sync::LazyLock;

use fluid_fuse::fetch::DiskCache;
use libfuzzer_sys::fuzz_target;

const LIMIT: u64 = 1 << 20;
const NAME: &str = "0123456789abcdef";

static DIRECTORY: LazyLock<tempfile::TempDir> = LazyLock::new(|| {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory).unwrap() } else { tempfile::tempdir().unwrap() }
});

fuzz_target!(|map: &[u8]| {
    let file = |kind: &str| DIRECTORY.path().join(format!("{NAME}.{kind}"));
    let line = map.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let header: serde_json::Value = serde_json::from_slice(line).unwrap_or_default();
    // Without blocks on the disk, as large as the map tells.
    let size = header["size"].as_u64().unwrap_or(1).min(1 << 40);
    File::create(file("data")).and_then(|data| data.set_len(size)).unwrap();
    fs::write(file("map"), [map, &crc32fast::hash(map).to_le_bytes()].concat()).unwrap();
    let cache = DiskCache::open(DIRECTORY.path(), LIMIT).unwrap();
    assert!(cache.bytes().0 <= LIMIT, "{:?}", cache.bytes());
});
