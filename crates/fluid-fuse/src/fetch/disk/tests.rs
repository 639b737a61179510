use super::*;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, SystemTime};

use super::directory::file_name;
use super::index::BlockIndex;
use crate::sync::lock;

fn version(key: &str, size: u64) -> Version {
    Version { key: key.into(), size, etag: Some("\"e\"".into()), modified: SystemTime::UNIX_EPOCH }
}

fn path(cache: &DiskCache, file: &CachedFile, kind: FileKind) -> PathBuf {
    cache.space.directory.path.join(file_name(&file.stem, kind))
}

fn bytes(file: &CachedFile, block: u64, length: usize) -> Option<Vec<u8>> {
    let mut bytes = vec![0; length];
    file.load(block, &mut bytes).then_some(bytes)
}

#[test]
fn kept_blocks_are_there_in_the_next_process() {
    let place = tempfile::tempdir().unwrap();
    let version = version("a", 2 * BLOCK_SIZE + 5);
    let full = vec![7; BLOCK_SIZE as usize];
    {
        let cache = DiskCache::open(place.path(), 1 << 30).unwrap();
        assert!(DiskCache::open(place.path(), 1 << 30).is_err());
        let file = cache.file("s", &version).unwrap();
        file.store(0, &full);
        file.store(2, b"12345");
        assert_eq!(file.gap(&(0..version.size)), Some(BLOCK_SIZE..2 * BLOCK_SIZE));
        assert!(file.whole().is_none());
    }
    let cache = DiskCache::open(place.path(), 1 << 30).unwrap();
    assert_eq!(cache.bytes().0, 2 * BLOCK_SIZE);
    let file = cache.file("s", &version).unwrap();
    assert_eq!(bytes(&file, 0, BLOCK_SIZE as usize), Some(full.clone()));
    assert_eq!(bytes(&file, 2, 5), Some(b"12345".to_vec()));
    file.store(1, &full);
    assert!(file.whole().is_some());
    // Another version is another file.
    let changed = Version { etag: Some("\"f\"".into()), ..version.clone() };
    assert!(!cache.file("s", &changed).unwrap().has(0));
    assert!(!cache.file("t", &version).unwrap().has(0));
}

#[test]
fn damage_is_found() {
    let place = tempfile::tempdir().unwrap();
    let version = version("a", BLOCK_SIZE);
    let cache = DiskCache::open(place.path(), 1 << 30).unwrap();
    let file = cache.file("s", &version).unwrap();
    file.store(0, &vec![7; BLOCK_SIZE as usize]);
    assert!(file.whole().is_some());
    File::options()
        .write(true)
        .open(path(&cache, &file, FileKind::Data))
        .unwrap()
        .write_all_at(b"x", 99)
        .unwrap();
    assert_eq!(cache.bytes().0, BLOCK_SIZE);
    assert_eq!(bytes(&file, 0, BLOCK_SIZE as usize), None);
    assert!(!file.has(0) && file.whole().is_none());
    // Its room is free, and is not counted twice when the block is fetched again.
    assert_eq!(cache.bytes().0, 0);
    file.store(0, &vec![7; BLOCK_SIZE as usize]);
    assert!(file.whole().is_some());
    assert_eq!(cache.bytes().0, BLOCK_SIZE);
    let map = path(&cache, &file, FileKind::Index);
    drop(file);
    drop(cache);
    let torn = fs::read(&map).unwrap();
    fs::write(&map, &torn[..torn.len() - 1]).unwrap();
    assert_eq!(DiskCache::open(place.path(), 1 << 30).unwrap().bytes().0, 0);
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 1, "only the lock is left");
}

#[test]
fn a_scan_evicts_files_that_were_used_once() {
    let place = tempfile::tempdir().unwrap();
    let cache = DiskCache::open(place.path(), 4 * BLOCK_SIZE).unwrap();
    let keep = |key: &str| {
        let file = cache.file("s", &version(key, BLOCK_SIZE)).unwrap();
        file.store(0, &vec![7; BLOCK_SIZE as usize]);
        file.has(0)
    };
    assert!(keep("hot") && keep("hot"));
    for key in ["1", "2", "3", "4", "5"] {
        assert!(keep(key));
    }
    assert_eq!(cache.bytes().0, 4 * BLOCK_SIZE);
    assert!(cache.file("s", &version("hot", BLOCK_SIZE)).unwrap().has(0));
    assert!(!cache.file("s", &version("1", BLOCK_SIZE)).unwrap().has(0));
    // Open files stay, and files that do not fit are not kept.
    assert!(cache.file("s", &version("large", 5 * BLOCK_SIZE)).is_none());
    let open: Vec<_> =
        ["6", "7", "8", "9"].map(|key| cache.file("s", &version(key, BLOCK_SIZE)).unwrap()).into();
    for file in &open {
        file.store(0, &vec![7; BLOCK_SIZE as usize]);
    }
    assert!(open.iter().all(|file| file.has(0)) && !keep("10"));
}

/// The names in a directory, sorted.
fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn other_files_are_left_alone() {
    let place = tempfile::tempdir().unwrap();
    let theirs = [
        "0123456789ABCDEF.data",
        "0123456789abcde.map",
        "0123456789abcdef.data.gz",
        "0123456789abcdef.txt",
        "notes.txt",
        "photo.data",
        "photo.map",
        "photo.new",
    ];
    let ours = ["0123456789abcdef.data", "1123456789abcdef.map", "2123456789abcdef.new"];
    for name in theirs.iter().chain(&ours) {
        fs::write(place.path().join(name), "precious").unwrap();
    }
    let directories = ["3123456789abcdef.map", "directory.data"];
    for name in directories {
        fs::create_dir(place.path().join(name)).unwrap();
    }
    DiskCache::open(place.path(), 1 << 30).unwrap();
    let mut left: Vec<_> = theirs.iter().chain(&directories).chain(&["lock"]).collect();
    left.sort();
    assert_eq!(names(place.path()).iter().collect::<Vec<_>>(), left);
}

#[test]
fn a_crash_costs_the_index_that_was_being_written() {
    let place = tempfile::tempdir().unwrap();
    let version = version("a", 3 * BLOCK_SIZE);
    let cache = DiskCache::open(place.path(), 1 << 30).unwrap();
    let file = cache.file("s", &version).unwrap();
    file.store(1, &vec![7; BLOCK_SIZE as usize]);
    let new = path(&cache, &file, FileKind::NewIndex);
    drop((file, cache));
    fs::write(&new, "{").unwrap();
    let cache = DiskCache::open(place.path(), 1 << 30).unwrap();
    assert!(!new.exists());
    assert_eq!(cache.bytes().0, BLOCK_SIZE);
    let file = cache.file("s", &version).unwrap();
    assert_eq!(bytes(&file, 1, BLOCK_SIZE as usize), Some(vec![7; BLOCK_SIZE as usize]));
}

#[test]
fn an_index_without_its_data_is_dropped() {
    let version = version("a", 3 * BLOCK_SIZE);
    type Damage = fn(&Path);
    let damages: [Damage; 3] = [
        |data| fs::remove_file(data).unwrap(),
        |data| File::options().write(true).open(data).unwrap().set_len(2 * BLOCK_SIZE).unwrap(),
        |data| File::options().write(true).open(data).unwrap().set_len(4 * BLOCK_SIZE).unwrap(),
    ];
    for damage in damages {
        // In the next process, and in this one.
        for again in [true, false] {
            let place = tempfile::tempdir().unwrap();
            let mut cache = DiskCache::open(place.path(), 1 << 30).unwrap();
            let file = cache.file("s", &version).unwrap();
            file.store(1, &vec![7; BLOCK_SIZE as usize]);
            let (data, map) = (path(&cache, &file, FileKind::Data), path(&cache, &file, FileKind::Index));
            drop(file);
            damage(&data);
            if again {
                drop(cache);
                cache = DiskCache::open(place.path(), 1 << 30).unwrap();
                assert_eq!((cache.bytes().0, names(place.path())), (0, vec!["lock".to_string()]));
            }
            let file = cache.file("s", &version).unwrap();
            assert!(!file.has(1));
            assert_eq!(cache.bytes().0, 0);
            // The index is gone: after a crash, it would be believed again, as the data has its size by now.
            assert!(data.metadata().unwrap().len() == version.size && !map.exists());
        }
    }
}

#[test]
fn a_file_that_was_modified_after_it_was_sealed_is_verified() {
    let place = tempfile::tempdir().unwrap();
    let version = version("a", 2 * BLOCK_SIZE);
    let full = vec![7; BLOCK_SIZE as usize];
    for again in [false, true] {
        let mut cache = DiskCache::open(place.path(), 1 << 30).unwrap();
        let mut file = cache.file("s", &version).unwrap();
        file.store(0, &full);
        file.store(1, &full);
        assert!(file.whole().is_some() && !file.is_unsealed());
        let data = path(&cache, &file, FileKind::Data);
        let data = File::options().write(true).open(data).unwrap();
        data.set_modified(SystemTime::UNIX_EPOCH).unwrap();
        if again {
            drop(file);
            drop(cache);
            cache = DiskCache::open(place.path(), 1 << 30).unwrap();
            file = cache.file("s", &version).unwrap();
        }
        assert!(file.whole().is_none() && file.is_unsealed());
        file.seal();
        assert!(file.whole().is_some() && !file.is_unsealed());
        // A damaged file is not sealed.
        data.write_all_at(b"x", 99).unwrap();
        data.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1)).unwrap();
        file.seal();
        assert!(file.whole().is_none() && !file.is_unsealed());
        assert_eq!(file.gap(&(0..version.size)), Some(0..BLOCK_SIZE));
    }
}

#[test]
fn a_block_that_two_threads_store_is_counted_once() {
    let place = tempfile::tempdir().unwrap();
    let cache = DiskCache::open(place.path(), 1 << 30).unwrap();
    let version = version("a", 200 * BLOCK_SIZE);
    let file = cache.file("s", &version).unwrap();
    let barrier = Barrier::new(2);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let full = vec![7; BLOCK_SIZE as usize];
                for block in 0..200 {
                    barrier.wait();
                    file.store(block, &full);
                }
            });
        }
    });
    assert_eq!(cache.bytes().0, version.size);
    assert!(file.whole().is_some());
}

#[test]
fn an_index_file_is_whole_however_many_threads_write_it() {
    let place = tempfile::tempdir().unwrap();
    let cache = DiskCache::open(place.path(), 1 << 30).unwrap();
    let file = cache.file("s", &version("a", 2000 * BLOCK_SIZE)).unwrap();
    let map = path(&cache, &file, FileKind::Index);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                for _ in 0..1000 {
                    lock(&file.index).touch();
                    file.flush();
                    assert!(BlockIndex::read(File::open(&map).unwrap()).is_some());
                }
            });
        }
    });
    assert!(!path(&cache, &file, FileKind::NewIndex).exists());
}

#[test]
fn a_file_that_is_closed_and_opened_at_once_loses_no_block() {
    let place = tempfile::tempdir().unwrap();
    let cache = DiskCache::open(place.path(), 1 << 30).unwrap();
    let version = version("a", 300 * BLOCK_SIZE);
    let mut file = cache.file("s", &version).unwrap();
    let barrier = Barrier::new(2);
    for block in 0..300 {
        file.store(block, &vec![7; BLOCK_SIZE as usize]);
        file = thread::scope(|scope| {
            let barrier = &barrier;
            scope.spawn(move || {
                barrier.wait();
                drop(file);
            });
            barrier.wait();
            // Before or after the other thread begins to write the index.
            (0..block * 100).for_each(|_| std::hint::spin_loop());
            cache.file("s", &version).unwrap()
        });
        assert_eq!(file.gap(&(0..(block + 1) * BLOCK_SIZE)), None);
    }
    assert_eq!(cache.bytes().0, version.size);
}

#[test]
fn nothing_is_left_of_evicted_files() {
    let place = tempfile::tempdir().unwrap();
    let cache = DiskCache::open(place.path(), 3 * BLOCK_SIZE).unwrap();
    thread::scope(|scope| {
        for user in 0..4 {
            let cache = &cache;
            scope.spawn(move || {
                for round in 0..300 {
                    let file = cache.file("s", &version(&format!("{user} {round}"), BLOCK_SIZE + 1)).unwrap();
                    file.store(1, b"1");
                }
            });
        }
    });
    let mut expected = vec!["lock".to_string()];
    for stem in cache.space.stems() {
        expected.extend([FileKind::Data, FileKind::Index].map(|kind| file_name(&stem, kind)));
    }
    expected.retain(|name| !name.ends_with(".map") || place.path().join(name).exists());
    expected.sort();
    assert_eq!(names(place.path()), expected);
}

#[test]
fn absurd_sizes_are_not_kept() {
    let place = tempfile::tempdir().unwrap();
    for limit in [1 << 30, u64::MAX] {
        let cache = DiskCache::open(place.path(), limit).unwrap();
        for size in [u64::MAX, u64::MAX - BLOCK_SIZE + 2] {
            assert!(cache.file("s", &version("a", size)).is_none());
        }
        assert!(cache.file("s", &version("a", 1)).is_some());
    }
}

/// An update must not misread what the version before it left.
#[test]
fn an_index_of_another_format_is_dropped() {
    let place = tempfile::tempdir().unwrap();
    let version = version("a", BLOCK_SIZE);
    for other in ["\"format\":1,", "\"format\":3,", ""] {
        let cache = DiskCache::open(place.path(), 1 << 30).unwrap();
        let file = cache.file("s", &version).unwrap();
        file.store(0, &vec![7; BLOCK_SIZE as usize]);
        let index = path(&cache, &file, FileKind::Index);
        drop((file, cache));
        // Only the format's number differs.
        let bytes = fs::read(&index).unwrap();
        let body = bytes[..bytes.len() - 4].to_vec();
        let start = body.windows(11).position(|bytes| bytes == b"\"format\":2,").unwrap();
        let body = [&body[..start], other.as_bytes(), &body[start + 11..]].concat();
        fs::write(&index, [&body[..], &crc32fast::hash(&body).to_le_bytes()].concat()).unwrap();
        let cache = DiskCache::open(place.path(), 1 << 30).unwrap();
        assert_eq!((cache.bytes().0, names(place.path())), (0, vec!["lock".to_string()]), "{other}");
    }
}

/// The number is written down here: if it changes, every cache directory is useless after an update. Count up the format
/// then.
#[test]
fn names_of_files_never_change() {
    assert_eq!(DiskCache::stem("s3://data", &version("a", 1)), "e67b5b126b35db3f");
}
