//! While a store does not answer at all.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use rustix::fs::OFlags;

use crate::support::content::Content;
use crate::support::place::{eventually, place, words};
use crate::support::s3::{Fault, S3};
use crate::support::{Mounted, check, start};

/// More than there are requests at a time.
const HUNG: u64 = 12;

const FRONT: u64 = 20 << 20;

/// Names that are asked for at a time.
const MANY: usize = 4;

#[test]
fn what_is_here_is_read_while_the_store_hangs() {
    let Some(place) = place() else { return };
    let (small, large) = (Content::new(1, 700_000), Content::new(2, 40 << 20));
    let s3 = S3::start();
    s3.put("small", small);
    s3.put("large", large);
    let mut mounted = Mounted { place, s3 };
    let directory = mounted.place.root.path().join("cache");
    let endpoint = format!("endpoint={}", mounted.s3.endpoint());
    // Patient, so that what hangs does so until the end of the test.
    start(
        &mut mounted.place,
        "",
        &[
            "--source",
            "s3://data",
            "--cache-dir",
            directory.to_str().unwrap(),
            "--requests",
            "4",
            "-o",
            &endpoint,
            "-o",
            "region=nowhere",
            "-o",
            "first_byte_timeout=60s",
        ],
    );
    check(&mounted.path("small"), &small);
    // Neither from the page cache nor by passthrough: the disk cache does not have the whole file.
    let mut direct = File::options();
    direct.read(true).custom_flags(OFlags::DIRECT.bits() as i32);
    let direct = direct.open(mounted.path("large")).unwrap();
    let front = || {
        let mut bytes = vec![0; 1 << 17];
        direct.read_exact_at(&mut bytes, FRONT).unwrap();
        assert_eq!(large.difference(FRONT, &bytes), None);
    };
    front();
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    mounted.s3.behave(move |request| {
        count.fetch_add(usize::from(request.key.as_deref() == Some("small")), Ordering::SeqCst);
        Fault::Hang
    });
    let file = mounted.open("large").unwrap();
    let (ended, seen) = (AtomicUsize::new(0), AtomicUsize::new(0));
    thread::scope(|scope| {
        for number in 0..HUNG {
            let (file, ended) = (&file, &ended);
            scope.spawn(move || {
                let at = FRONT + ((2 + number) << 20);
                let mut bytes = [0; 4096];
                let read = file.read_exact_at(&mut bytes, at);
                ended.fetch_add(1, Ordering::SeqCst);
                read.unwrap();
                assert_eq!(large.difference(at, &bytes), None);
            });
        }
        eventually(|| (mounted.s3.requests() >= 4).then_some(()));
        let checked = mounted.place.program("check").output().unwrap();
        assert!(checked.status.success(), "{}", words(&checked));
        scope.spawn(|| {
            front();
            check(&mounted.path("small"), &small);
            seen.fetch_add(1, Ordering::SeqCst);
        });
        let seen = (0..5000).any(|_| {
            thread::sleep(Duration::from_millis(2));
            seen.load(Ordering::SeqCst) > 0
        });
        let ended = ended.load(Ordering::SeqCst);
        // All that hung is asked for again, and nobody notices anything.
        mounted.s3.behave(|_| Fault::Fine);
        mounted.s3.hang_up();
        assert_eq!(asked.load(Ordering::SeqCst), 0, "all of it is here");
        assert!(seen && ended == 0, "what is on the disk waits for the store; {ended} reads ended");
    });
}

/// The lines of the log that contain the words.
fn lines(mounted: &Mounted, words: &str) -> Vec<String> {
    mounted.log().lines().filter(|line| line.contains(words)).map(str::to_string).collect()
}

#[test]
fn an_outage_is_logged_when_it_begins_and_when_it_ends() {
    let content = Content::new(1, 700_000);
    let s3 = S3::start();
    s3.put("file", content);
    s3.put("directory/file", content);
    s3.put("directory 2/file", content);
    let Some(mut mounted) = Mounted::with(s3, &["--io-timeout", "60s", "--slow-read", "100ms"]) else {
        return;
    };
    let file = mounted.open("file").unwrap();
    assert_eq!(lines(&mounted, "WARN"), Vec::<String>::new());
    mounted.s3.stop();
    let (directory, name) = (mounted.path("directory"), mounted.path("directory 2/other"));
    let (waiting, log) = thread::scope(|scope| {
        scope.spawn(|| {
            let mut bytes = vec![0; 1000];
            file.read_exact_at(&mut bytes, 650_000).unwrap();
            assert_eq!(content.difference(650_000, &bytes), None);
        });
        scope.spawn(|| assert_eq!(fs::read_dir(directory).unwrap().count(), 1));
        scope.spawn(|| assert_eq!(name.metadata().unwrap_err().kind(), ErrorKind::NotFound));
        // While they wait. The file's bytes may be here since it was opened.
        let waiting = ["list", "stat"].map(|operation| {
            eventually(|| lines(&mounted, &format!("no answer yet operation={operation} ")).pop())
        });
        // Long enough for further polls, which find nothing new.
        thread::sleep(Duration::from_millis(2500));
        let log = mounted.log();
        // Before anything is asserted, as those who wait would wait for the store.
        mounted.s3.listen();
        (waiting, log)
    });
    for line in waiting {
        assert!(line.contains(" WARN ") && line.contains("path=\"directory"), "{line}");
        assert!(line.contains("source=\"s3://data at http://127.0.0.1:"), "{line}");
        assert!(line.contains("waiting_for=\"another attempt after "), "{line}");
    }
    let count = |words: &str| log.lines().filter(|line| line.contains(words)).count();
    assert_eq!(["list", "stat"].map(|of| count(&format!("no answer yet operation={of} "))), [1, 1], "{log}");
    assert_eq!((count("outage began"), count("outage ended")), (1, 0), "{log}");
    assert_eq!(count("requests are retried until --io-timeout (1m)"), 1, "{log}");
    eventually(|| lines(&mounted, "outage ended").pop());
    let ended = lines(&mounted, "outage ended");
    assert!(ended.len() == 1 && ended[0].contains(" WARN ") && ended[0].contains("seconds="), "{ended:?}");
    assert_eq!(lines(&mounted, "outage began").len(), 1);
}

#[test]
fn operations_that_a_silent_store_keeps_waiting_are_logged_while_they_wait() {
    let content = Content::new(1, 40 << 20);
    let s3 = S3::start();
    s3.put("file", content);
    s3.put("directory/file", content);
    let options = ["--slow-read", "100ms", "-o", "first_byte_timeout=60s"];
    let Some(mut mounted) = place().map(|place| Mounted { place, s3 }) else { return };
    let endpoint = format!("endpoint={}", mounted.s3.endpoint());
    let source = ["--source", "s3://data", "-o", "region=nowhere", "-o", &endpoint];
    start(&mut mounted.place, "", &[&source[..], &options[..]].concat());
    let file = mounted.open("file").unwrap();
    let names: Vec<_> = (0..MANY).map(|number| mounted.path(&format!("directory/{number}"))).collect();
    mounted.s3.behave(|_| Fault::Hang);
    let stats = || lines(&mounted, "no answer yet operation=stat path=\"directory/");
    let (read, asked) = thread::scope(|scope| {
        scope.spawn(|| {
            let mut bytes = [0; 4096];
            file.read_exact_at(&mut bytes, FRONT).unwrap();
            assert_eq!(content.difference(FRONT, &bytes), None);
        });
        for name in &names {
            scope.spawn(|| assert_eq!(name.metadata().unwrap_err().kind(), ErrorKind::NotFound));
        }
        let read = eventually(|| lines(&mounted, "no answer yet operation=read path=\"file\" ").pop());
        // All of them wait for one listing, for which one asks.
        eventually(|| stats().pop());
        let source = eventually(|| lines(&mounted, "source does not answer").pop());
        assert!(source.contains(&format!(" operations={} ", MANY + 1)), "{source}");
        let asked = stats();
        mounted.s3.behave(|_| Fault::Fine);
        mounted.s3.hang_up();
        (read, asked)
    });
    assert!(read.contains(&format!(" offset={FRONT} ")), "{read}");
    assert_eq!(asked.len(), 1);
    for line in asked.iter().chain([&read]) {
        assert!(line.ends_with("waiting_for=\"the store's answer\""), "{line}");
    }
}
