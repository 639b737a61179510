//! Names of many directories, and of large ones: how often the store is asked for them, and what they cost.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use crate::support::Mounted;
use crate::support::content::Content;
use crate::support::place::eventually;
use crate::support::s3::{Fault, S3};
use crate::{KIB, MIB};

/// Longer than any test takes.
const LONG: &str = "--metadata-ttl=1h";

/// Bytes that the process takes beside names: 8 MiB of `--memory`, the pages of a listing while they are read, and its
/// own structures in a build for debugging.
const BESIDE: u64 = 40 * MIB;

/// Bytes of a file that the kernel knows, and so the table of inodes: its path, and two maps' places.
const INODE: u64 = 250;

/// A store with so many directories of so many files each.
fn tree(directories: usize, files: usize) -> S3 {
    let s3 = S3::start();
    for directory in 0..directories {
        for file in 0..files {
            s3.put(&format!("data/d{directory:04}/f{file:05}"), Content::new(1, 10));
        }
    }
    s3
}

/// The lines that a program prints, which must succeed.
fn lines(program: &str, arguments: &[&str], path: &Path) -> usize {
    let output = Command::new(program).arg(path).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout.split(|byte| *byte == b'\n').count() - 1
}

/// Everything below a path: each path with its kind, and the size of files.
fn everything(path: &Path) -> String {
    let output = Command::new("find").arg(path).args(["-printf", "%y %s %P\n"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut lines: Vec<_> = std::str::from_utf8(&output.stdout).unwrap().lines().collect();
    lines.sort_unstable();
    lines.join("\n")
}

/// Requests until the work is done.
fn requests(mounted: &Mounted, work: impl FnOnce()) -> usize {
    let before = mounted.s3.requests();
    work();
    mounted.s3.requests() - before
}

fn names(path: &Path) -> usize {
    fs::read_dir(path).unwrap().collect::<Result<Vec<_>, _>>().unwrap().len()
}

/// `find` and `du` over a tree.
fn walk_all(directories: usize, files: usize, memory: &str) {
    let (all, flat) = (directories * files, directories * files / 1000);
    for (program, arguments, expected) in
        [("find", ["-type", "f"], all), ("du", ["-a", "--apparent-size"], all + directories + 2)]
    {
        let Some(mounted) = Mounted::with(tree(directories, files), &["--memory", memory]) else { return };
        let asked = requests(&mounted, || {
            assert_eq!(lines(program, &arguments, &mounted.path("")), expected);
        });
        assert!(asked <= flat + flat / 5, "{program}: {asked} requests for {flat} pages");
        let anonymous = (mounted.status("VmHWM") - mounted.status("RssFile")) * KIB;
        let most = BESIDE + all as u64 * INODE;
        assert!(anonymous <= most, "{program}: {} MiB of {} MiB", anonymous / MIB, most / MIB);
    }
}

#[test]
fn gcsfuse_234_a_walk_asks_as_often_as_a_flat_listing() {
    walk_all(200, 500, "8MiB");
}

#[test]
#[ignore = "takes minutes in a build for debugging"]
fn gcsfuse_234_a_walk_over_a_million_names() {
    walk_all(1000, 1000, "8MiB");
}

#[test]
fn goofys_669_many_small_directories_are_walked() {
    // 5,000 keys: 5 pages. Before it is a walk, three listings.
    let most = 5 + 8;
    let Some(mounted) = Mounted::with(tree(1000, 5), &[LONG]) else { return };
    let asked = requests(&mounted, || assert_eq!(lines("find", &["-type", "f"], &mounted.path("")), 5000));
    assert!(asked <= most, "{asked} requests of find");
    let again = requests(&mounted, || assert_eq!(lines("find", &["-type", "f"], &mounted.path("")), 5000));
    assert_eq!(again, 0);
    // By several programs or threads at a time.
    let Some(mounted) = Mounted::with(tree(1000, 5), &[LONG]) else { return };
    let asked = requests(&mounted, || {
        assert_eq!(names(&mounted.path("data")), 1000);
        let next = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    while let directory @ 0..1000 = next.fetch_add(1, Ordering::SeqCst) {
                        assert_eq!(names(&mounted.path(&format!("data/d{directory:04}"))), 5);
                    }
                });
            }
        });
    });
    // Each of the eight may have asked before it was a walk.
    assert!(asked <= most + 8, "{asked} requests of eight threads");
    // A name of each directory, as by a pattern (`*/f00003`).
    let Some(mounted) = Mounted::with(tree(1000, 5), &[LONG]) else { return };
    let asked = requests(&mounted, || {
        for directory in 0..1000 {
            assert!(mounted.path(&format!("data/d{directory:04}/f00003")).metadata().is_ok());
        }
    });
    assert!(asked <= most, "{asked} requests for names");
}

#[test]
fn a_walk_that_ends_has_cost_few_pages() {
    // Two directories are no walk yet, the third brings its neighbours.
    for (listed, most) in [(2, 4), (3, 5), (4, 5)] {
        let Some(mounted) = Mounted::with(tree(100, 900), &[LONG]) else { return };
        let asked = requests(&mounted, || {
            assert_eq!(names(&mounted.path("data")), 100);
            for directory in 0..listed {
                assert_eq!(names(&mounted.path(&format!("data/d{directory:04}"))), 900);
            }
        });
        assert!(asked <= most + listed, "{asked} requests for {listed} directories");
    }
    // Without order there is no walk: each is asked for as always.
    let Some(mounted) = Mounted::with(tree(100, 5), &[LONG]) else { return };
    let flat = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&flat);
    mounted.s3.behave(move |request| {
        seen.fetch_add(usize::from(request.is_flat()), Ordering::SeqCst);
        Fault::Fine
    });
    assert_eq!(names(&mounted.path("data")), 100);
    for directory in [10, 90, 40, 70, 0, 50] {
        assert_eq!(names(&mounted.path(&format!("data/d{directory:04}"))), 5);
    }
    assert_eq!(flat.load(Ordering::SeqCst), 0);
}

#[test]
fn a_walk_that_does_not_go_deep_is_left() {
    let s3 = S3::start();
    for directory in 0..50 {
        s3.put(&format!("data/d{directory:02}/file"), Content::new(1, 10));
        for file in 0..5000 {
            s3.put(&format!("data/d{directory:02}/huge/{file:04}"), Content::new(1, 10));
        }
    }
    let Some(mounted) = Mounted::with(s3, &[LONG]) else { return };
    let asked = requests(&mounted, || {
        assert_eq!(names(&mounted.path("data")), 50);
        for directory in 0..50 {
            assert_eq!(names(&mounted.path(&format!("data/d{directory:02}"))), 2);
        }
    });
    assert!(asked <= 52 + 8, "{asked} requests for 50 directories");
    // Whoever goes deep asks for little more than for all pages.
    let Some(mounted) = Mounted::with(mounted_again(mounted), &[LONG]) else { return };
    let asked = requests(&mounted, || {
        assert_eq!(lines("find", &["-type", "f"], &mounted.path("")), 50 * 5001);
    });
    assert!(asked <= 250 + 250 / 2, "{asked} requests for 250 pages");
}

/// The store of a mount that ends.
fn mounted_again(mut mounted: Mounted) -> S3 {
    std::mem::replace(&mut mounted.s3, S3::start())
}

#[test]
fn a_walk_sees_what_listings_one_by_one_see() {
    let keys = [
        "t/a/",
        "t/a",
        "t/a/b/",
        "t/a-b",
        "t/a/b/c",
        "t/a/x",
        "t/a/x/y",
        "t/b//c",
        "t/b/d",
        "t/c/./d",
        "t/c/e",
        "t/c/../f",
        "t/d /e",
        "t/d",
        "t/e/f/g/h/i",
        "t/e/f-g",
        "t/é/ü",
        "t/f/ü",
        "t/g/\u{10400}/x",
        "t/g/\u{fffd}/x",
        "t/h/",
        "t/i/ ",
        "t/i/j ",
        "t/j/k/",
        "t/j/k/l/m/n",
        "t/j/k.l/m",
        "t/z",
    ];
    let store = || {
        let s3 = S3::start();
        s3.pages_of(3);
        for (number, key) in keys.iter().enumerate() {
            s3.put(key, Content::new(1, number as u64));
        }
        let long = "x".repeat(256);
        s3.put(&format!("t/k/{long}"), Content::new(1, 1));
        s3.put(&format!("t/l/{long}/y"), Content::new(1, 1));
        for number in 0..20 {
            s3.put(&format!("t/m/{number}/{number}/{number}"), Content::new(1, 1));
        }
        s3
    };
    let see = |is_flat: bool| {
        let mounted = Mounted::with(store(), &[LONG])?;
        let flat = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&flat);
        mounted.s3.behave(move |request| {
            count.fetch_add(usize::from(request.is_flat()), Ordering::SeqCst);
            if request.is_flat() && !is_flat { Fault::Status(403, "AccessDenied") } else { Fault::Fine }
        });
        let seen = everything(&mounted.path(""));
        assert!(flat.load(Ordering::SeqCst) > 0);
        Some(seen)
    };
    let (Some(one_by_one), Some(flat)) = (see(false), see(true)) else { return };
    assert!(one_by_one.lines().count() > 80, "{one_by_one}");
    assert_eq!(one_by_one, flat);
}

#[test]
fn a_store_that_cannot_list_flat_is_asked_one_by_one() {
    for fault in
        [Fault::Status(501, "NotImplemented"), Fault::Status(503, "SlowDown"), Fault::Reset, Fault::Hang]
    {
        let Some(mounted) = Mounted::with(tree(50, 5), &[LONG, "--io-timeout=20s"]) else { return };
        mounted.s3.behave(move |request| if request.is_flat() { fault } else { Fault::Fine });
        let asked = requests(&mounted, || assert_eq!(lines("find", &["-type", "f"], &mounted.path("")), 250));
        assert!(asked <= 52 + 8, "{fault:?}: {asked} requests");
    }
    // In the middle of it.
    let Some(mounted) = Mounted::with(tree(1000, 5), &[LONG]) else { return };
    let flat = AtomicUsize::new(0);
    mounted.s3.behave(move |request| {
        match request.is_flat() && flat.fetch_add(1, Ordering::SeqCst) % 3 == 1 {
            true => Fault::Status(503, "SlowDown"),
            false => Fault::Fine,
        }
    });
    let asked = requests(&mounted, || assert_eq!(lines("find", &["-type", "f"], &mounted.path("")), 5000));
    assert!(asked <= 30, "{asked} requests");
}

#[test]
fn goofys_785_a_directory_that_was_evicted_is_listed_and_not_asked_for_name_by_name() {
    // 1.5 MiB of names fit, as three directories have.
    let Some(mounted) = Mounted::with(tree(4, 20_000), &["--memory=8MiB", LONG]) else { return };
    let directory = |number: usize| mounted.path(&format!("data/d{number:04}"));
    let asked = requests(&mounted, || {
        assert_eq!([0, 1, 2, 3].map(|number| names(&directory(number))), [20_000; 4]);
    });
    // The third and the fourth are too large for a walk, which is seen after a few pages.
    assert!(asked <= 81 + 32, "{asked} requests");
    let asked = requests(&mounted, || {
        for file in 0..20_000 {
            assert!(directory(0).join(format!("f{file:05}")).metadata().is_ok());
        }
    });
    assert!((1..=24).contains(&asked), "{asked} requests for 20,000 names in order");
    // In no order, and without room for all: no more than one request for each.
    let Some(mounted) = Mounted::with(tree(1, 60_000), &["--memory=8MiB", LONG]) else { return };
    let asked = requests(&mounted, || {
        for number in 0..300 {
            let file = number * 7919 % 60_000;
            assert!(mounted.path(&format!("data/d0000/f{file:05}")).metadata().is_ok());
            assert!(mounted.path(&format!("data/d0000/f{file:05}x")).metadata().is_err());
        }
    });
    assert!(asked <= 300 + 40, "{asked} requests for 600 names in no order");
}

#[test]
fn a_file_of_a_large_directory_costs_two_requests_after_the_ttl() {
    const TTL: Duration = Duration::from_secs(2);
    let Some(mounted) = Mounted::with(tree(1, 10_000), &["--metadata-ttl=2s"]) else { return };
    let path = |file: usize| mounted.path(&format!("data/d0000/f{file:05}"));
    assert_eq!(names(&mounted.path("data/d0000")), 10_000);
    thread::sleep(TTL + TTL / 4);
    // The name, and the bytes; the names of the directories above it.
    for file in [5000, 3000] {
        let asked = requests(&mounted, || assert_eq!(fs::read(path(file)).unwrap().len(), 10));
        assert!(asked <= 2 + 2, "{asked} requests");
    }
    // Many in order: one page for a thousand, and their bytes.
    thread::sleep(TTL + TTL / 4);
    let asked = requests(&mounted, || {
        for file in 5000..5200 {
            assert!(path(file).metadata().is_ok());
        }
    });
    assert!(asked <= 16, "{asked} requests for 200 names in order");
    // What was replaced, removed and made is seen.
    thread::sleep(TTL + TTL / 4);
    mounted.s3.put("data/d0000/f07000", Content::new(2, 20));
    mounted.s3.delete("data/d0000/f07001");
    mounted.s3.put("data/d0000/f07002x", Content::new(2, 30));
    let size =
        |name: &str| mounted.path(&format!("data/d0000/{name}")).metadata().map(|file| file.len()).ok();
    assert_eq!([size("f07000"), size("f07001"), size("f07002x")], [Some(20), None, Some(30)]);
}

#[test]
fn changes_made_during_a_walk_are_seen() {
    let s3 = tree(20, 3);
    let walks = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&walks);
    // What the flat listing tells is old when it comes.
    s3.behave(move |request| match request.is_flat() {
        true => {
            seen.fetch_add(1, Ordering::SeqCst);
            Fault::Old(Duration::from_secs(2))
        }
        false => Fault::Fine,
    });
    let Some(mounted) = Mounted::with(s3, &[LONG, "--read-only=false"]) else { return };
    let path = |name: &str| mounted.path(&format!("data/{name}"));
    let listed = |directory: usize| {
        let entries = fs::read_dir(path(&format!("d{directory:04}"))).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    let old = ["f00000", "f00001", "f00002"];
    let walk = |to: usize| {
        assert_eq!(names(&path("")), 20);
        (0..to).for_each(|directory| assert_eq!(listed(directory), old));
    };
    thread::scope(|scope| {
        scope.spawn(|| walk(3));
        eventually(|| (walks.load(Ordering::SeqCst) > 0).then_some(()));
        drop(fs::File::create(path("d0005/new")).unwrap());
        fs::remove_file(path("d0006/f00001")).unwrap();
        fs::rename(path("d0007/f00002"), path("d0007/other")).unwrap();
        fs::rename(path("d0007/f00000"), path("d0008/f00003")).unwrap();
        fs::create_dir(path("d0009/sub")).unwrap();
        drop(fs::File::create(path("d0009/sub/x")).unwrap());
    });
    assert_eq!(listed(4), old);
    assert_eq!(listed(5), ["f00000", "f00001", "f00002", "new"]);
    assert_eq!(listed(6), ["f00000", "f00002"]);
    assert_eq!(listed(7), ["f00001", "other"]);
    assert_eq!(listed(8), ["f00000", "f00001", "f00002", "f00003"]);
    assert_eq!(listed(9), ["f00000", "f00001", "f00002", "sub"]);
    // All of it was told by one page, but for the directory that is new.
    assert!(walks.load(Ordering::SeqCst) <= 2);
    assert!(path("d0006/f00001").metadata().is_err());
    assert_eq!(names(&path("d0009/sub")), 1);
}

#[test]
fn a_directory_renamed_during_a_walk_is_seen() {
    let s3 = tree(20, 3);
    let walks = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&walks);
    s3.behave(move |request| match request.is_flat() && seen.fetch_add(1, Ordering::SeqCst) == 0 {
        true => Fault::Old(Duration::from_secs(3)),
        false => Fault::Fine,
    });
    let arguments = [LONG, "--read-only=false", "--rename-dir-limit=100"];
    let Some(mounted) = Mounted::with(s3, &arguments) else { return };
    let path = |name: &str| mounted.path(&format!("data/{name}"));
    thread::scope(|scope| {
        scope.spawn(|| {
            assert_eq!(names(&path("")), 20);
            for directory in 0..3 {
                assert_eq!(names(&path(&format!("d{directory:04}"))), 3);
            }
        });
        eventually(|| (walks.load(Ordering::SeqCst) > 0).then_some(()));
        fs::rename(path("d0010"), path("d0010-new")).unwrap();
        fs::create_dir(path("d0010")).unwrap();
    });
    assert_eq!((names(&path("d0010")), names(&path("d0010-new"))), (0, 3));
    assert_eq!(names(&path("d0011")), 3);
}
