//! Directories that are renamed.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::Command;

use rustix::io::Errno;

use crate::Mounted;
use crate::files::{fails, run};
use crate::place::{bytes, eventually, names};
use crate::server::Wire;

/// A checkpoint as programs write one.
fn checkpoint(at: &Path) {
    fs::create_dir_all(at.join("a/b")).unwrap();
    for number in 0..30 {
        fs::write(at.join(format!("a/{number}")), bytes(number * 1000)).unwrap();
    }
    fs::write(at.join("a/b/deep"), "deep").unwrap();
    fs::write(at.join("top"), "top").unwrap();
}

fn is_checkpoint(at: &Path) {
    assert_eq!(names(at), ["a", "top"]);
    assert_eq!(fs::read(at.join("a/b/deep")).unwrap(), b"deep");
    for number in 0..30 {
        assert!(fs::read(at.join(format!("a/{number}"))).unwrap() == bytes(number * 1000));
    }
}

#[test]
fn rclone_954_a_directory_is_renamed() {
    let Some(mounted) = Mounted::writable() else { return };
    let (from, to) = (mounted.path("tmp-500"), mounted.path("checkpoint-500"));
    checkpoint(&from);
    // Somebody works in it.
    let mut log = File::create(from.join("log")).unwrap();
    log.write_all(b"half").unwrap();
    fails(fs::rename(&from, &to), Errno::BUSY);
    drop(log);
    fs::remove_file(from.join("log")).unwrap();
    fs::rename(&from, &to).unwrap();
    is_checkpoint(&to);
    is_checkpoint(&mounted.stored("checkpoint-500"));
    assert!(fs::metadata(&from).is_err());
    assert_eq!(names(&mounted.place.mountpoint()), ["checkpoint-500", "old"]);
    // Upon an empty one it may be renamed, upon another not.
    checkpoint(&from);
    fails(fs::rename(&from, &to), Errno::NOTEMPTY);
    is_checkpoint(&from);
    fs::create_dir(mounted.path("new")).unwrap();
    fs::rename(&from, mounted.path("new")).unwrap();
    is_checkpoint(&mounted.path("new"));
}

#[test]
fn a_rename_that_was_cut_off_goes_on() {
    let Some(mounted) = Mounted::writable() else { return };
    let (from, to) = (mounted.path("from"), mounted.path("to"));
    checkpoint(&from);
    let count = |name: &str| fs::read_dir(mounted.stored(name)).map_or(0, Iterator::count);
    let cut_when = |happens: &(dyn Fn() -> bool + Sync)| {
        std::thread::scope(|scope| {
            let renamed = scope.spawn(|| fs::rename(&from, &to));
            eventually(|| (happens() || renamed.is_finished()).then_some(()));
            mounted.server.wire(Wire::Answers(503));
            let _ = renamed.join().unwrap();
            mounted.server.wire(Wire::Carries);
        });
    };
    // While it copies, and while it deletes.
    cut_when(&|| count("to/a") > 5);
    cut_when(&|| count("from/a") < 25);
    if mounted.stored("from").exists() {
        fs::rename(&from, &to).unwrap();
    }
    is_checkpoint(&to);
    is_checkpoint(&mounted.stored("to"));
    assert!(fs::metadata(&from).is_err());
}

#[test]
fn larger_directories_are_copied_by_the_program() {
    for limit in ["0", "20"] {
        let Some(mounted) = Mounted::new(&["--read-only=false", "--rename-dir-limit", limit]) else { return };
        checkpoint(&mounted.path("from"));
        fails(fs::rename(mounted.path("from"), mounted.path("to")), Errno::XDEV);
        is_checkpoint(&mounted.path("from"));
        assert!(!mounted.stored("to").exists());
        run(Command::new("mv").arg(mounted.path("from")).arg(mounted.path("to")));
        is_checkpoint(&mounted.path("to"));
    }
}
