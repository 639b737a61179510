//! What is left, and who is told, when a file does not get to its end.

use std::fs::{self, File};
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::Signal;
use tempfile::NamedTempFile;

use crate::Mounted;
use crate::place::{bytes, eventually, words};
use crate::server::Wire;

/// `dd` onto the old file, which is held up until something happened.
fn write(mounted: &Mounted, size: usize, happens: impl FnOnce(&Mounted)) -> (Option<i32>, String) {
    let path = mounted.path("old");
    let mut dd = Command::new("dd");
    dd.args(["bs=64K", "iflag=fullblock", "status=none"]).arg(format!("of={}", path.display()));
    let mut dd = dd.env("LC_ALL", "C").stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut input = dd.stdin.take().unwrap();
    let written = 256 * 1024;
    input.write_all(&bytes(written)).unwrap();
    eventually(|| (fs::metadata(&path).ok()?.len() == written as u64).then_some(()));
    happens(mounted);
    // It may give up before the end.
    let _ = input.write_all(&bytes(size - written));
    drop(input);
    let output = dd.wait_with_output().unwrap();
    (output.status.code(), words(&output))
}

fn is_as_it_was(mounted: &Mounted) {
    mounted.server.wire(Wire::Carries);
    assert_eq!(fs::read(mounted.stored("old")).unwrap(), b"old content");
    eventually(|| (fs::read(mounted.path("old")).ok()? == b"old content").then_some(()));
}

#[test]
fn close_tells_of_a_failure() {
    let Some(mounted) = Mounted::writable() else { return };
    for (wire, reason) in [
        (Wire::Answers(403), "Permission denied"),
        (Wire::Answers(503), "Input/output error"),
        (Wire::Resets, "Input/output error"),
    ] {
        let (code, words) = write(&mounted, 1 << 20, |mounted| mounted.server.wire(wire));
        assert_eq!(code, Some(1));
        assert!(words.contains("closing output file") && words.contains(reason), "{words}");
        is_as_it_was(&mounted);
        // The same between the parts of a large file.
        let (code, words) = write(&mounted, 24 << 20, |mounted| mounted.server.wire(wire));
        assert_eq!(code, Some(1));
        assert!(words.contains(reason), "{words}");
        is_as_it_was(&mounted);
    }
    assert_eq!(write(&mounted, 24 << 20, |_| {}), (Some(0), String::new()));
    assert!(fs::read(mounted.stored("old")).unwrap().len() == 24 << 20);
}

#[test]
fn a_cut_that_is_mended_is_not_noticed() {
    let Some(mounted) = Mounted::new(&["--read-only=false", "--io-timeout=20s"]) else { return };
    let mounted = &mounted;
    // Also with a last part that is short: opendal loses it when the one before fails.
    for size in [24 << 20, 9 << 20] {
        std::thread::scope(|scope| {
            let (cut, mended) = std::sync::mpsc::channel();
            scope.spawn(move || {
                let _ = mended.recv();
                std::thread::sleep(std::time::Duration::from_millis(1500));
                mounted.server.wire(Wire::Carries);
            });
            let cut = |mounted: &Mounted| {
                mounted.server.wire(Wire::Answers(503));
                cut.send(()).unwrap();
            };
            assert_eq!(write(mounted, size, cut), (Some(0), String::new()));
        });
        let content = [bytes(256 << 10), bytes(size - (256 << 10))].concat();
        let stored = fs::read(mounted.stored("old")).unwrap();
        assert_eq!(stored.len(), content.len());
        assert!(stored == content);
    }
}

#[test]
fn an_upload_that_waits_is_logged() {
    let log = NamedTempFile::new().unwrap();
    let mut program = Command::new(env!("CARGO_BIN_EXE_fluid-fuse"));
    program.stderr(log.reopen().unwrap());
    let options = ["--read-only=false", "--io-timeout=20s", "--slow-read=100ms"];
    let Some(mounted) = Mounted::by(program, &options) else { return };
    let mounted = &mounted;
    let has = |words: &str| fs::read_to_string(&log).unwrap().contains(words).then_some(());
    // Between the parts of a large file, and at the end of a small one.
    for (size, operation) in [(24 << 20, "write"), (1 << 20, "close")] {
        std::thread::scope(|scope| {
            let (cut, is_cut) = std::sync::mpsc::channel();
            scope.spawn(move || {
                let _ = is_cut.recv();
                eventually(|| has(&format!("no answer yet operation={operation} path=\"old\" ")));
                mounted.server.wire(Wire::Carries);
            });
            let cut = |mounted: &Mounted| {
                mounted.server.wire(Wire::Answers(503));
                cut.send(()).unwrap();
            };
            assert_eq!(write(mounted, size, cut), (Some(0), String::new()));
        });
    }
    eventually(|| has("outage ended"));
}

#[test]
fn nobody_writes_what_is_being_renamed() {
    let Some(mounted) = Mounted::new(&["--read-only=false", "--io-timeout=1h"]) else { return };
    let (from, to) = (mounted.path("from"), mounted.path("to"));
    // Empty files are opened for writing without being truncated, for which the kernel would wait.
    for path in [&from, &to] {
        fs::write(path, "").unwrap();
        eventually(|| File::open(path).ok());
    }
    let write = |path| File::options().write(true).open(path);
    std::thread::scope(|scope| {
        mounted.server.wire(Wire::Answers(503));
        let renamed = scope.spawn(|| fs::rename(&from, &to));
        eventually(|| (mounted.server.requests() > 0).then_some(()));
        let opened = [&from, &to].map(|path| write(path).map(drop).map_err(|error| error.raw_os_error()));
        mounted.server.wire(Wire::Carries);
        renamed.join().unwrap().unwrap();
        assert_eq!(opened, [Err(Some(Errno::BUSY.raw_os_error())); 2]);
    });
    write(&to).unwrap().write_all(b"new").unwrap();
    assert_eq!(fs::read(&to).unwrap(), b"new");
    assert!(!mounted.stored("from").exists());
    fs::write(&from, "next").unwrap();
    assert_eq!(fs::read(mounted.stored("from")).unwrap(), b"next");
}

#[test]
fn a_daemon_that_dies_leaves_the_old_file() {
    let Some(mut mounted) = Mounted::writable() else { return };
    let (code, _) = write(&mounted, 24 << 20, |mounted| mounted.place.signal(Signal::KILL));
    assert_eq!(code, Some(1));
    assert_eq!(mounted.place.ended().code(), None);
    assert_eq!(fs::read(mounted.stored("old")).unwrap(), b"old content");
}

#[test]
fn a_signal_waits_for_what_is_open() {
    let Some(mut mounted) = Mounted::new(&["--read-only=false", "--linger=1h"]) else { return };
    let (code, words) = write(&mounted, 24 << 20, |mounted| {
        mounted.place.signal(Signal::TERM);
        eventually(|| mounted.place.kind().is_none().then_some(()));
    });
    assert_eq!((code, words.as_str()), (Some(0), ""));
    assert_eq!(mounted.place.ended().code(), Some(0));
    assert_eq!(fs::metadata(mounted.stored("old")).unwrap().len(), 24 << 20);
}

/// The program with a writable mount, what it logs, and a file that is never closed.
fn lingering(linger: &str) -> Option<(Mounted, NamedTempFile, File)> {
    let log = NamedTempFile::new().unwrap();
    let mut program = Command::new(env!("CARGO_BIN_EXE_fluid-fuse"));
    program.stderr(log.reopen().unwrap());
    let mounted = Mounted::by(program, &["--read-only=false", &format!("--linger={linger}")])?;
    let mut file = File::create(mounted.path("old")).unwrap();
    file.write_all(b"half").unwrap();
    mounted.place.signal(Signal::TERM);
    eventually(|| mounted.place.kind().is_none().then_some(()));
    Some((mounted, log, file))
}

#[test]
fn a_second_signal_does_not_wait_for_what_is_written() {
    let Some((mut mounted, log, file)) = lingering("1h") else { return };
    mounted.place.signal(Signal::TERM);
    assert_eq!(mounted.place.ended().code(), Some(0));
    let log = fs::read_to_string(log).unwrap();
    assert!(log.contains("second signal") && log.contains("1 files are still being written"), "{log}");
    assert_eq!(fs::read(mounted.stored("old")).unwrap(), b"old content");
    drop(file);
}

#[test]
fn what_is_written_is_waited_for_once() {
    const LINGER: Duration = Duration::from_secs(3);
    let Some((mut mounted, log, file)) = lingering("3s") else { return };
    eventually(|| fs::read_to_string(&log).unwrap().contains("are still open").then_some(()));
    let waited = Instant::now();
    assert_eq!(mounted.place.ended().code(), Some(0));
    assert!(waited.elapsed() < LINGER / 2, "it waited again");
    assert_eq!(fs::read(mounted.stored("old")).unwrap(), b"old content");
    drop(file);
}
