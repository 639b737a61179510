//! Files that were finished and go on, and files that are open more than once.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::process::Command;

use rustix::io::Errno;

use crate::Mounted;
use crate::files::{fails, run};
use crate::place::{bytes, eventually};
use crate::server::Wire;

fn append() -> fs::OpenOptions {
    let mut options = File::options();
    options.append(true);
    options
}

#[test]
fn goofys_273_the_close_of_a_copy_is_not_the_end() {
    let Some(mounted) = Mounted::writable() else { return };
    for (script, expected) in [
        ("exec 3>old; echo a >&3; echo b >&3; exec 3>&-; cat old", "a\nb\n"),
        ("exec >old 2>&1; echo out; echo err >&2; /bin/echo out", "out\nerr\nout\n"),
        ("for i in 1 2 3; do echo $i >&3; done 3>old", "1\n2\n3\n"),
        (
            "(echo a; /bin/echo b) >old; { echo c; echo d; } >>old; echo e | tee -a old >/dev/null",
            "a\nb\nc\nd\ne\n",
        ),
    ] {
        for shell in ["bash", "sh"] {
            run(Command::new(shell).arg("-ec").arg(script).current_dir(mounted.place.mountpoint()));
            eventually(|| (fs::read_to_string(mounted.stored("old")).ok()? == expected).then_some(()));
            assert_eq!(fs::read_to_string(mounted.path("old")).unwrap(), expected, "{shell}: {script}");
        }
    }
    let mut file = File::create(mounted.path("dup")).unwrap();
    let content = bytes(20 << 20);
    for piece in content.chunks(5 << 20) {
        file.write_all(piece).unwrap();
        drop(file.try_clone().unwrap());
    }
    drop(file);
    assert!(fs::read(mounted.stored("dup")).unwrap() == content);
}

#[test]
fn tensorboardx_729_what_is_synchronized_goes_on() {
    let Some(mounted) = Mounted::writable() else { return };
    let content = bytes((33 << 20) + 77);
    for name in ["old", "new"] {
        let mut file = File::create(mounted.path(name)).unwrap();
        let mut end = 0;
        // Smaller and larger than a part, and nothing.
        for more in [9, 1, 100_000, 3 << 20, 8 << 20, 0, 5, 17 << 20] {
            file.write_all(&content[end..end + more]).unwrap();
            end += more;
            file.sync_all().unwrap();
            assert!(fs::read(mounted.stored(name)).unwrap() == content[..end], "{name} {end}");
            // Others may read what is finished.
            assert!(fs::read(mounted.path(name)).unwrap() == content[..end], "{name} {end}");
        }
        file.write_all(&content[end..]).unwrap();
        drop(file);
        assert!(fs::read(mounted.stored(name)).unwrap() == content);
        assert!(fs::read(mounted.path(name)).unwrap() == content);
    }
}

#[test]
fn what_is_there_is_added_to() {
    let Some(mounted) = Mounted::new(&["--read-only=false", "--metadata-ttl=0s"]) else { return };
    for size in [11, 20 << 20] {
        let mut content = bytes(size);
        // By others, before this mount has asked for it.
        let path = mounted.path(&format!("of {size}"));
        let stored = mounted.stored(&format!("of {size}"));
        fs::write(&stored, &content).unwrap();
        let number = fs::metadata(&path).unwrap().ino();
        for text in ["a line\n", "another line\n"] {
            append().open(&path).unwrap().write_all(text.as_bytes()).unwrap();
            content.extend(text.as_bytes());
            assert!(fs::read(&path).unwrap() == content);
            assert!(fs::read(&stored).unwrap() == content);
        }
        // It is the file that it was.
        assert_eq!(fs::metadata(&path).unwrap().ino(), number);
        let mut file = File::options().write(true).open(&path).unwrap();
        file.seek(SeekFrom::End(0)).unwrap();
        file.write_all(b"end").unwrap();
        drop(file);
        content.extend(b"end");
        assert!(fs::read(&stored).unwrap() == content);
        // What is there cannot be written again, and is not lost by an attempt.
        let file = File::options().write(true).open(&path).unwrap();
        fails(file.write_at(b"x", 1), Errno::INVAL);
        drop(file);
        assert!(fs::read(&stored).unwrap() == content);
        fs::remove_file(&path).unwrap();
    }
}

#[test]
fn several_add_to_one_file() {
    let Some(mounted) = Mounted::new(&["--read-only=false", "--metadata-ttl=0s"]) else { return };
    let path = mounted.path("log");
    std::thread::scope(|scope| {
        for writer in 0..4 {
            let path = &path;
            scope.spawn(move || {
                let mut file = append().create(true).open(path).unwrap();
                for line in 0..25 {
                    file.write_all(format!("{writer} {line}\n").as_bytes()).unwrap();
                    if line % 5 == 0 {
                        file.sync_all().unwrap();
                    }
                }
            });
        }
    });
    eventually(|| {
        let mut lines: Vec<String> =
            fs::read_to_string(mounted.stored("log")).unwrap().lines().map(str::to_string).collect();
        lines.sort();
        let mut expected: Vec<String> =
            (0..4).flat_map(|writer| (0..25).map(move |line| format!("{writer} {line}"))).collect();
        expected.sort();
        (lines == expected).then_some(())
    });
    // A rotated log is not written into the new one; that somebody lists it changes nothing.
    let mut file = append().open(&path).unwrap();
    for _ in 0..2 {
        file.write_all(b"last\n").unwrap();
        file.sync_all().unwrap();
        assert!(fs::read_dir(mounted.place.mountpoint()).unwrap().count() > 0);
    }
    fs::rename(&path, mounted.path("log.1")).unwrap();
    fails(file.write_all(b"lost\n"), Errno::STALE);
    drop(file);
    assert!(!mounted.stored("log").exists());
}

#[test]
fn tail_of_a_log_goes_on() {
    let Some(mounted) = Mounted::writable() else { return };
    let path = mounted.path("log");
    fs::write(&path, "1\n").unwrap();
    let mut reader = File::open(&path).unwrap();
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    append().open(&path).unwrap().write_all(b"2\n").unwrap();
    // mountpoint-s3#785: what was open still has its attributes when it was replaced.
    assert!(reader.metadata().unwrap().len() >= 2);
    assert_eq!(fs::read_to_string(&path).unwrap(), "1\n2\n");
    fs::write(mounted.path("other"), "other").unwrap();
    fs::rename(mounted.path("other"), &path).unwrap();
    assert!(reader.metadata().unwrap().len() >= 2);
    assert_eq!(fs::read_to_string(&path).unwrap(), "other");
}

#[test]
fn a_lock_file_is_opened_by_several() {
    let Some(mounted) = Mounted::writable() else { return };
    let path = mounted.path("lock");
    let open = || File::options().read(true).write(true).create(true).truncate(true).open(&path).unwrap();
    // As filelock does it, new and when it is there.
    for _ in 0..2 {
        let (one, mut other) = (open(), open());
        assert_eq!(one.metadata().unwrap().ino(), other.metadata().unwrap().ino());
        one.try_lock().unwrap();
        assert!(other.try_lock().is_err());
        let mut text = String::new();
        other.read_to_string(&mut text).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
        drop((one, other));
        eventually(|| (fs::read(mounted.stored("lock")).ok()? == b"").then_some(()));
    }
    // The first who writes has it.
    let (mut one, mut other) = (open(), open());
    one.write_all(b"one").unwrap();
    fails(other.write_all(b"other"), Errno::BUSY);
    one.write_all(b", and all of it").unwrap();
    drop((one, other));
    eventually(|| (fs::read(mounted.stored("lock")).ok()? == b"one, and all of it").then_some(()));
    // Nobody has written it: it can go.
    let file = File::create_new(mounted.path("gone")).unwrap();
    fs::remove_file(mounted.path("gone")).unwrap();
    drop(file);
    assert!(fs::metadata(mounted.path("gone")).is_err() && !mounted.stored("gone").exists());
}

#[test]
fn what_cannot_go_on_stays_what_it_was() {
    let Some(mounted) = Mounted::writable() else { return };
    let content = bytes(10 << 20);
    let mut file = File::create(mounted.path("old")).unwrap();
    file.write_all(&content).unwrap();
    file.sync_all().unwrap();
    mounted.server.wire(Wire::Answers(503));
    file.write_all(b"more").unwrap();
    fails(file.sync_all(), Errno::IO);
    fails(file.write_all(b"even more"), Errno::IO);
    drop(file);
    mounted.server.wire(Wire::Carries);
    assert!(fs::read(mounted.stored("old")).unwrap() == content);
    eventually(|| (fs::read(mounted.path("old")).ok()? == content).then_some(()));
    append().open(mounted.path("old")).unwrap().write_all(b"more").unwrap();
    assert!(fs::read(mounted.stored("old")).unwrap() == [&content, b"more".as_slice()].concat());
}

#[test]
fn a_log_can_be_emptied() {
    let Some(mounted) = Mounted::writable() else { return };
    let path = mounted.path("log");
    let mut log = append().create(true).open(&path).unwrap();
    log.write_all(b"long ago\n").unwrap();
    log.sync_all().unwrap();
    // As logrotate's copytruncate does it.
    run(Command::new("truncate").args(["-s", "0"]).arg(&path));
    assert_eq!(fs::read(mounted.stored("log")).unwrap(), b"");
    log.write_all(b"now\n").unwrap();
    log.set_len(0).unwrap();
    log.write_all(b"then\n").unwrap();
    drop(log);
    assert_eq!(fs::read(mounted.stored("log")).unwrap(), b"then\n");
}
