//! Memory, and what is large: streams, directories, objects.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::thread;
use std::time::Duration;

use crate::support::content::Content;
use crate::support::place::eventually;
use crate::support::s3::{Fault, S3};
use crate::support::{Mounted, check};
use crate::{KIB, MIB};

/// What the program takes beside its `--memory` and its code: 24 MiB with the 4 MiB of code in a release build.
const BESIDE: u64 = 20 * MIB;

#[test]
fn memory_has_a_cap_under_64_streams() {
    let s3 = S3::start();
    let own = |number: u64| (format!("own {number}"), Content::new(number, 3 * MIB + number));
    for number in 0..32 {
        let (key, content) = own(number);
        s3.put(&key, content);
    }
    let shared = Content::new(99, 64 * MIB);
    s3.put("shared", shared);
    let Some(mounted) = Mounted::with(s3, &["--memory", "32MiB"]) else { return };
    // All have begun, and what is read ahead for them is there, before any goes on.
    let together = &Barrier::new(64);
    thread::scope(|scope| {
        for number in 0..32 {
            let mounted = &mounted;
            scope.spawn(move || {
                let (key, content) = own(number);
                let file = mounted.open(&key).unwrap();
                stream(&file, &content, 0, MIB);
                together.wait();
                thread::sleep(Duration::from_millis(300));
                stream(&file, &content, 0, content.size);
            });
            scope.spawn(move || {
                let file = mounted.open("shared").unwrap();
                stream(&file, &shared, number * 2 * MIB, MIB / 2);
                together.wait();
                thread::sleep(Duration::from_millis(300));
                stream(&file, &shared, number * 2 * MIB, 2 * MIB);
            });
        }
    });
    let peak = peak(&mounted);
    assert!(peak <= 32 * MIB + BESIDE, "{} MiB at the peak", peak / MIB);
}

/// Bytes at the peak, but for the code, which is a multiple in a build for debugging.
fn peak(mounted: &Mounted) -> u64 {
    (mounted.status("VmHWM") - mounted.status("RssFile")) * KIB
}

fn stream(file: &fs::File, content: &Content, from: u64, length: u64) {
    let mut buffer = vec![0; 96 * 1024];
    let mut at = from;
    while at < (from + length).min(content.size) {
        let read = file.read_at(&mut buffer, at).unwrap();
        assert!(read > 0 && content.difference(at, &buffer[..read]).is_none(), "at {at}");
        at += read as u64;
    }
}

#[test]
fn a_directory_of_100_000() {
    const MANY: usize = 100_000;
    let s3 = S3::start();
    for number in 0..MANY {
        s3.put(&format!("many/name {number:06}"), Content::new(number as u64, 10));
    }
    let Some(mounted) = Mounted::with(s3, &[]) else { return };
    // Names first: one page of the listing is enough to know some of them, and others are asked for.
    for number in [0, 999, 1000, 55_555, MANY - 1] {
        let path = mounted.path(&format!("many/name {number:06}"));
        assert_eq!(path.metadata().unwrap().len(), 10, "{number}");
        assert!(mounted.path(&format!("many/name {number:06}x")).metadata().is_err(), "{number}");
    }
    let asked = mounted.s3.requests();
    assert!(asked < 40, "{asked} requests for ten names");
    let mut count = 0;
    for entry in fs::read_dir(mounted.path("many")).unwrap() {
        let name = entry.unwrap().file_name();
        assert_eq!(name, *format!("name {count:06}"));
        count += 1;
    }
    assert_eq!(count, MANY);
    assert!(mounted.s3.requests() <= asked + 101);
    let asked = mounted.s3.requests();
    for number in (0..MANY).step_by(997) {
        let metadata = mounted.path(&format!("many/name {number:06}")).metadata().unwrap();
        assert_eq!((metadata.len(), metadata.nlink()), (10, 1));
        assert!(mounted.path(&format!("many/none {number}")).metadata().is_err());
    }
    assert_eq!(mounted.s3.requests(), asked, "the listing has told all of it");
    check(&mounted.path("many/name 099999"), &Content::new(99_999, 10));
    // 200,000 names are remembered, wherever they are: some hundred bytes each, and the kernel's inodes.
    let peak = peak(&mounted);
    assert!(peak <= 128 * MIB, "{} MiB at the peak", peak / MIB);
}

#[test]
fn an_object_of_5_gib() {
    const SIZE: u64 = (5 << 30) + 12_345;
    let s3 = S3::start();
    let content = Content::new(5, SIZE);
    s3.put("large", content);
    let Some(mounted) = Mounted::with(s3, &["--memory", "32MiB"]) else { return };
    let file = mounted.open("large").unwrap();
    assert_eq!(file.metadata().unwrap().len(), SIZE);
    for at in [0, (1 << 31) - 5, (1 << 32) - 5, (1 << 32) + 5, SIZE - 100_000, SIZE - 1] {
        let mut buffer = vec![0; 300_000];
        let expected = content.expected(at, buffer.len());
        let mut got = 0;
        while got < expected {
            let read = file.read_at(&mut buffer[got..], at + got as u64).unwrap();
            assert!(read > 0, "{at}");
            got += read;
        }
        assert_eq!((got, content.difference(at, &buffer[..got])), (expected, None), "{at}");
    }
    for at in [SIZE, SIZE + 1, 1 << 40] {
        assert_eq!(file.read_at(&mut [0; 100], at).unwrap(), 0, "{at}");
    }
    stream(&file, &content, (4 << 30) - 8 * MIB, 16 * MIB);
    let peak = peak(&mounted);
    assert!(peak <= 32 * MIB + BESIDE, "{} MiB at the peak", peak / MIB);
}

#[test]
fn small_files_in_order() {
    const FILES: u64 = 300;
    let content = |number: u64| Content::new(number, number * 977 % (96 * KIB));
    let key = |number: u64| format!("walk/{number:03}");
    for (readers, memory) in [(1, "128MiB"), (8, "128MiB"), (8, "8MiB")] {
        let s3 = S3::start();
        for number in 0..FILES {
            s3.put(&key(number), content(number));
        }
        let Some(mounted) = Mounted::with(s3, &["--memory", memory]) else { return };
        assert_eq!(fs::read_dir(mounted.path("walk")).unwrap().count() as u64, FILES);
        let next = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..readers {
                scope.spawn(|| {
                    loop {
                        let number = next.fetch_add(1, Ordering::SeqCst) as u64;
                        if number >= FILES {
                            return;
                        }
                        check(&mounted.path(&key(number)), &content(number));
                    }
                });
            }
        });
        // Each was fetched once, with what was read ahead for nobody at the end at most.
        let asked = mounted.s3.requests() as u64;
        assert!(asked <= FILES + 40, "{asked} requests by {readers} readers with {memory}");
    }
}

#[test]
fn what_the_kernel_has_is_not_fetched_again() {
    const FILES: u64 = 100;
    let content = |number: u64| Content::new(number, 100 * KIB + number);
    let key = |number: u64| format!("walk/{number:03}");
    let s3 = S3::start();
    for number in 0..FILES {
        s3.put(&key(number), content(number));
    }
    let Some(mounted) = Mounted::with(s3, &["--metadata-ttl", "1h"]) else { return };
    let read_all = || {
        (0..FILES).for_each(|number| check(&mounted.path(&key(number)), &content(number)));
        mounted.s3.requests() as u64
    };
    let once = read_all();
    assert_eq!(read_all(), once);
    // What it has no more comes as it did the first time.
    for number in 0..FILES {
        let file = mounted.open(&key(number)).unwrap();
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    }
    assert_eq!(mounted.s3.requests() as u64, once);
    let again = read_all() - once;
    assert!((FILES..FILES + 40).contains(&again), "{again} requests");
}

#[test]
fn the_next_files_of_a_walk_are_asked_for_before_they_are_opened() {
    let s3 = S3::start();
    let content = |number: u64| Content::new(number, 50 * KIB);
    let key = |number: u64| format!("walk/{number:03}");
    (0..100).for_each(|number| s3.put(&key(number), content(number)));
    let asked: Arc<Mutex<BTreeSet<String>>> = Arc::default();
    let heard = Arc::clone(&asked);
    s3.behave(move |request| {
        if request.is_read() {
            heard.lock().unwrap().extend(request.key.clone());
        }
        Fault::Fine
    });
    let Some(mounted) = Mounted::with(s3, &[]) else { return };
    assert_eq!(fs::read_dir(mounted.path("walk")).unwrap().count(), 100);
    (0..10).for_each(|number| check(&mounted.path(&key(number)), &content(number)));
    eventually(|| (10..20).all(|number| asked.lock().unwrap().contains(&key(number))).then_some(()));
    assert!(!asked.lock().unwrap().contains(&key(99)));
}
