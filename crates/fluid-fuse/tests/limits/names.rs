//! How long the kernel trusts what it was told of names.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::support::Mounted;
use crate::support::content::Content;
use crate::support::place::eventually;
use crate::support::s3::{Fault, S3};

/// Whether there is such a file, told by a process that does not wait for ever.
fn exists(path: &Path) -> bool {
    let mut stat = Command::new("timeout");
    stat.args(["--signal=KILL", "20", "stat"]).arg(path).stdout(Stdio::null()).stderr(Stdio::null());
    match stat.status().unwrap().code() {
        Some(0) => true,
        Some(1) => false,
        other => panic!("{}: {other:?}", path.display()),
    }
}

#[test]
fn the_kernel_knows_what_is_there_and_what_is_not() {
    let s3 = S3::start();
    s3.put("there", Content::new(1, 10));
    let Some(mounted) = Mounted::with(s3, &[]) else { return };
    let look = || ["there", "not-there"].map(|name| exists(&mounted.path(name)));
    assert_eq!(look(), [true, false]);
    // Nobody could tell it now.
    let sidecar = Pid::from_raw(mounted.place.pid().cast_signed()).unwrap();
    kill_process(sidecar, Signal::STOP).unwrap();
    let again = thread::scope(|scope| scope.spawn(look).join());
    kill_process(sidecar, Signal::CONT).unwrap();
    assert_eq!(again.unwrap(), [true, false]);
}

#[test]
fn the_kernel_trusts_a_name_no_longer_than_its_listing() {
    const TTL: Duration = Duration::from_secs(3);
    const SLACK: Duration = Duration::from_millis(250);
    for _ in 0..10 {
        let s3 = S3::start();
        s3.put("first", Content::new(1, 10));
        s3.put("changed", Content::new(2, 10));
        let Some(mounted) = Mounted::with(s3, &["--metadata-ttl=3s"]) else { return };
        let size = |name: &str| fs::metadata(mounted.path(name)).map(|file| file.len()).ok();
        let begun = Instant::now();
        // This lists them all.
        assert_eq!(size("first"), Some(10));
        let listed = Instant::now();
        thread::sleep(TTL / 2);
        let looked = Instant::now();
        assert_eq!((size("changed"), size("new")), (Some(10), None));
        // The kernel counts the rest of the time from when it learned of it.
        let in_time = begun.elapsed() < TTL && looked.elapsed() < SLACK;
        mounted.s3.put("changed", Content::new(3, 20));
        mounted.s3.put("new", Content::new(4, 30));
        thread::sleep((TTL + 2 * SLACK).saturating_sub(listed.elapsed()));
        if in_time {
            assert_eq!((size("changed"), size("new")), (Some(20), Some(30)));
            return;
        }
    }
    panic!("this machine is too slow to tell");
}

#[test]
fn goofys_153_who_waits_for_a_name_can_be_killed() {
    let s3 = S3::start();
    let programs = [("ls", "one"), ("stat", "another/name")];
    s3.put("one/file", Content::new(1, 10));
    s3.put("another/file", Content::new(2, 10));
    let Some(mounted) = Mounted::with(s3, &["--io-timeout=1h"]) else {
        return;
    };
    mounted.s3.behave(|_| Fault::Hang);
    for (program, path) in programs {
        let before = mounted.s3.requests();
        let mut waits = Command::new(program).arg(mounted.path(path)).spawn().unwrap();
        eventually(|| (mounted.s3.requests() > before).then_some(()));
        waits.kill().unwrap();
        eventually(|| waits.try_wait().unwrap());
    }
}
