//! The cache on a disk that is full, damaged, or left behind by a process that was killed.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use rustix::mount::{MountFlags, UnmountFlags};
use rustix::process::Signal;

use crate::MIB;
use crate::support::content::Content;
use crate::support::place::{eventually, place};
use crate::support::s3::{Fault, S3};
use crate::support::{Mounted, check};

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

#[test]
fn a_life_after_being_killed() {
    let s3 = S3::start();
    let content = Content::new(1, 24 * MIB + 5);
    s3.put("file", content);
    let Some(place) = place() else { return };
    let directory = place.root.path().join("cache");
    let arguments = ["--cache-dir", directory.to_str().unwrap()];
    let mut mounted = Mounted { place, s3 };
    for life in 0..3 {
        mounted.start(&arguments);
        mounted.s3.behave(|request| match request.is_read() {
            true => Fault::Late(Duration::from_millis(3)),
            false => Fault::Fine,
        });
        let mut file = mounted.open("file").unwrap();
        let reader = thread::spawn(move || std::io::copy(&mut file, &mut std::io::sink()));
        // Somewhere in the middle, with some of the maps written and some not.
        eventually(|| {
            let kept = files(&directory, "data").iter().any(|path| {
                use std::os::unix::fs::MetadataExt;
                path.metadata().is_ok_and(|data| data.blocks() * 512 > (life + 1) * 2 * MIB)
            });
            kept.then_some(())
        });
        mounted.place.signal(Signal::KILL);
        mounted.place.ended();
        let _ = reader.join().unwrap();
    }
    mounted.start(&arguments);
    check(&mounted.path("file"), &content);
    let middle = mounted.open("file").unwrap();
    let mut buffer = vec![0; 70_000];
    middle.read_exact_at(&mut buffer, 11 * MIB).unwrap();
    assert_eq!(content.difference(11 * MIB, &buffer), None);
}
