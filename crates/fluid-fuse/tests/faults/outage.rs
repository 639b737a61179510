//! While a store does not answer at all.

use std::fs::File;
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
    // Not by the kernel's copy, and not past us: not all of the file is here.
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
