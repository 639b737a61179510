//! The cache on a disk that is full, damaged, or left behind by a process that was killed.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread;

use rustix::mount::{MountFlags, UnmountFlags};
use rustix::process::Signal;

use crate::support::content::Content;
use crate::support::place::{eventually, place};
use crate::support::s3::{Fault, S3};
use crate::support::{Mounted, check};
use crate::{KIB, MIB};

/// A small disk, gone at the end.
struct Disk(PathBuf);

impl Disk {
    fn new(path: &Path, options: &std::ffi::CStr) -> Self {
        fs::create_dir(path).unwrap();
        rustix::mount::mount("tmpfs", path, "tmpfs", MountFlags::empty(), Some(options)).unwrap();
        Disk(path.to_path_buf())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.0, UnmountFlags::DETACH);
    }
}

#[test]
fn a_full_disk_is_no_reason_not_to_read() {
    let Some(place) = place() else { return };
    let s3 = S3::start();
    let contents: Vec<_> = (0..4).map(|seed| Content::new(seed, 3 * MIB + 7 * seed)).collect();
    for content in &contents {
        s3.put(&format!("file {}", content.seed), *content);
    }
    let disk = Disk::new(&place.root.path().join("disk"), c"size=4m");
    let directory = disk.0.join("cache");
    let arguments = ["--source", "s3://data", "--cache-dir", directory.to_str().unwrap()];
    let mut mounted = Mounted { place, s3 };
    let endpoint = mounted.s3.endpoint();
    crate::support::start(&mut mounted.place, &endpoint, &arguments);
    for _ in 0..2 {
        for content in &contents {
            check(&mounted.path(&format!("file {}", content.seed)), content);
        }
    }
    let log = mounted.log();
    assert_eq!(log.matches("nothing more is kept in").count(), 1, "{log}");
    drop(mounted);
}

/// The files of a kind in a cache directory.
fn files(directory: &Path, kind: &str) -> Vec<PathBuf> {
    let all = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    all.filter(|path| path.extension().is_some_and(|of| of == kind)).collect()
}

#[test]
fn damage_in_the_cache_is_not_read() {
    let s3 = S3::start();
    let contents: Vec<_> = (0..6).map(|seed| Content::new(seed, MIB * seed + 100_000)).collect();
    for content in &contents {
        s3.put(&format!("file {}", content.seed), *content);
    }
    let Some(place) = place() else { return };
    let directory = place.root.path().join("cache");
    let arguments = ["--cache-dir", directory.to_str().unwrap()];
    let mut mounted = Mounted { place, s3 };
    let read_all = |mounted: &Mounted| {
        for content in &contents {
            check(&mounted.path(&format!("file {}", content.seed)), content);
        }
    };
    mounted.start(&arguments);
    read_all(&mounted);
    // All that was read is found in the next life, and nothing asked for.
    let again = |mounted: &mut Mounted| {
        mounted.place.signal(Signal::TERM);
        mounted.place.ended();
    };
    again(&mut mounted);
    assert_eq!(files(&directory, "map").len(), contents.len());
    mounted.start(&arguments);
    mounted.s3.behave(|_| Fault::Fine);
    read_all(&mounted);
    assert!(mounted.s3.requests() <= 2, "{} requests for what is here", mounted.s3.requests());
    again(&mut mounted);

    type Damage = fn(&[PathBuf], &[PathBuf]);
    let damages: [(&str, Damage); 6] = [
        ("a byte in the data of each", |data, _| {
            for path in data {
                let file = File::options().read(true).write(true).open(path).unwrap();
                let mut byte = [0];
                let at = file.metadata().unwrap().len() / 2;
                file.read_exact_at(&mut byte, at).unwrap();
                file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
            }
        }),
        ("the data is shorter", |data, _| {
            for path in data {
                let file = File::options().write(true).open(path).unwrap();
                file.set_len(file.metadata().unwrap().len() / 3).unwrap();
            }
        }),
        ("the maps are shorter", |_, maps| {
            for path in maps {
                let file = File::options().write(true).open(path).unwrap();
                file.set_len(file.metadata().unwrap().len() - 5).unwrap();
            }
        }),
        ("the maps are empty", |_, maps| maps.iter().for_each(|path| fs::write(path, "").unwrap())),
        ("the data is gone", |data, _| data.iter().for_each(|path| fs::remove_file(path).unwrap())),
        ("maps of other files", |_, maps| {
            fs::copy(&maps[0], &maps[1]).unwrap();
            fs::copy(&maps[2], &maps[3]).unwrap();
        }),
    ];
    for (what, damage) in damages {
        damage(&files(&directory, "data"), &files(&directory, "map"));
        mounted.start(&arguments);
        mounted.s3.behave(|_| Fault::Fine);
        read_all(&mounted);
        assert!(mounted.s3.requests() > 1, "{what}: nothing was found to be damaged");
        // While it lives, too: the kernel's copy of it is another matter.
        again(&mut mounted);
    }
}

/// The blocks that an index file names: one line, eight bytes for each block, and a checksum.
fn kept(map: &Path) -> usize {
    let Ok(bytes) = fs::read(map) else { return 0 };
    let Some(line) = bytes.iter().position(|byte| *byte == b'\n') else { return 0 };
    bytes[line + 1..].as_chunks::<8>().0.iter().filter(|block| **block != [0; 8]).count()
}

#[test]
fn a_life_after_being_killed() {
    let s3 = S3::start();
    let content = Content::new(1, 24 * MIB + 5);
    s3.put("file", content);
    let Some(place) = place() else { return };
    let directory = place.root.path().join("cache");
    let arguments = ["--cache-dir", directory.to_str().unwrap()];
    let mut mounted = Mounted { place, s3 };
    // In each life the store has the bytes up to a place somewhere in the middle, and keeps silent after that.
    let mut before = 0;
    for end in [5 * MIB, 11 * MIB, 16 * MIB, content.size] {
        mounted.start(&arguments);
        let asked = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&asked);
        mounted.s3.behave(move |request| match &request.range {
            Some(range) if request.is_read() => {
                seen.lock().unwrap().push(range.clone());
                match end {
                    _ if range.end <= end => Fault::Fine,
                    _ if range.start < end => Fault::StallIn((end - range.start) as usize),
                    _ => Fault::Hang,
                }
            }
            _ => Fault::Fine,
        });
        // What was kept before is here, without the store.
        let mut buffer = vec![0; before as usize];
        let file = mounted.open("file").unwrap();
        file.read_exact_at(&mut buffer, 0).unwrap();
        assert_eq!(content.difference(0, &buffer), None);
        let rest = thread::spawn(move || {
            let mut buffer = vec![0; (content.size - before) as usize];
            file.read_exact_at(&mut buffer, before).map(|()| buffer)
        });
        let blocks = end.div_ceil(128 * KIB) as usize;
        let map = eventually(|| files(&directory, "map").into_iter().find(|map| kept(map) == blocks));
        if end == content.size {
            assert_eq!(content.difference(before, &rest.join().unwrap().unwrap()), None);
            mounted.place.signal(Signal::KILL);
            mounted.place.ended();
        } else {
            mounted.place.signal(Signal::KILL);
            mounted.place.ended();
            assert!(rest.join().unwrap().is_err());
        }
        let asked = asked.lock().unwrap();
        assert!(asked.iter().all(|range| range.start >= before), "{asked:?} with {before} bytes kept");
        // It was about to write the next map.
        let bytes = fs::read(&map).unwrap();
        fs::write(map.with_extension("new"), &bytes[..bytes.len() / 2]).unwrap();
        before = end;
    }
    mounted.start(&arguments);
    mounted.s3.behave(|request| match request.is_read() {
        true => Fault::Status(403, "AccessDenied"),
        false => Fault::Fine,
    });
    check(&mounted.path("file"), &content);
    assert_eq!(files(&directory, "new"), Vec::<PathBuf>::new());
}

#[test]
fn other_files_in_the_cache_directory_stay() {
    let s3 = S3::start();
    let content = Content::new(1, 3 * MIB);
    s3.put("file", content);
    let Some(place) = place() else { return };
    let directory = place.root.path().join("cache");
    fs::create_dir_all(directory.join("pictures.old")).unwrap();
    for name in ["notes.txt", "model.data", "road.map"] {
        fs::write(directory.join(name), name).unwrap();
    }
    let arguments = ["--cache-dir", directory.to_str().unwrap()];
    let mut mounted = Mounted { place, s3 };
    for _ in 0..2 {
        mounted.start(&arguments);
        check(&mounted.path("file"), &content);
        mounted.place.signal(Signal::TERM);
        mounted.place.ended();
    }
    assert!(directory.join("pictures.old").is_dir());
    for name in ["notes.txt", "model.data", "road.map"] {
        assert_eq!(fs::read_to_string(directory.join(name)).unwrap(), name);
    }
}
