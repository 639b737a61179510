//! What programs do with files.

use std::fs::{self, File};
use std::io::{ErrorKind, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt, symlink};
use std::process::Command;
use std::time::SystemTime;

use fluid_sidecar_layout::contract::env;
use rustix::fs::{CWD, RenameFlags};
use rustix::io::Errno;

use crate::Mounted;
use crate::place::{bytes, eventually, names, words};
use crate::server::Wire;

pub(crate) fn fails<T: std::fmt::Debug>(result: std::io::Result<T>, errno: Errno) {
    assert_eq!(result.unwrap_err().raw_os_error(), Some(errno.raw_os_error()));
}

pub(crate) fn run(program: &mut Command) {
    let output = program.output().unwrap();
    assert!(output.status.success(), "{}", words(&output));
}

#[test]
fn what_is_written_is_read() {
    let Some(mounted) = Mounted::writable() else { return };
    for size in [0, 1, 4097, (2 << 20) + 1, (64 << 20) + 5] {
        let (name, content) = (format!("of {size}"), bytes(size));
        fs::write(mounted.path(&name), &content).unwrap();
        assert!(fs::read(mounted.path(&name)).unwrap() == content, "{size}");
        assert!(fs::read(mounted.stored(&name)).unwrap() == content, "{size}");
        assert_eq!(fs::metadata(mounted.path(&name)).unwrap().len(), size as u64);
    }
    // As Python writes: small pieces, opened to read and write, truncated, synchronized.
    let mut file =
        File::options().read(true).write(true).create(true).truncate(true).open(mounted.path("py"));
    let file = file.as_mut().unwrap();
    let content = bytes(300_000);
    for piece in content.chunks(8192) {
        file.write_all(piece).unwrap();
    }
    assert_eq!((file.stream_position().unwrap(), file.metadata().unwrap().len()), (300_000, 300_000));
    fails(file.read_at(&mut [0; 8], 0), Errno::BADF);
    file.sync_all().unwrap();
    assert!(fs::read(mounted.stored("py")).unwrap() == content);
    // What is skipped is zeros; the size may be told before, and after.
    let mut sparse = File::create(mounted.path("sparse")).unwrap();
    sparse.set_len(10).unwrap();
    sparse.write_all(b"ab").unwrap();
    sparse.seek(SeekFrom::Start(5)).unwrap();
    sparse.write_all(b"c").unwrap();
    drop(sparse);
    assert_eq!(fs::read(mounted.path("sparse")).unwrap(), b"ab\0\0\0c\0\0\0\0");
}

#[test]
fn programs_do_what_they_do() {
    let Some(mounted) = Mounted::writable() else { return };
    let tree = mounted.place.source();
    fs::create_dir_all(tree.join("a/b/empty")).unwrap();
    for number in 0..40 {
        fs::write(tree.join(format!("a/b/{number}")), bytes(number * 1000)).unwrap();
    }
    fs::write(tree.join("a/top"), "top").unwrap();
    fs::set_permissions(tree.join("a/top"), PermissionsExt::from_mode(0o700)).unwrap();
    let root = mounted.place.mountpoint();
    run(Command::new("cp").arg("-rp").arg(&tree).arg(root.join("copy")));
    run(Command::new("diff").arg("-r").arg(&tree).arg(root.join("copy")));
    run(Command::new("diff").arg("-r").arg(&tree).arg(mounted.stored("copy")));
    run(Command::new("tar").arg("-C").arg(&tree).arg("-cf").arg(root.join("all.tar")).arg("."));
    fs::create_dir(root.join("out")).unwrap();
    run(Command::new("tar").arg("-C").arg(root.join("out")).arg("-xpf").arg(root.join("all.tar")));
    run(Command::new("diff").arg("-r").arg(&tree).arg(root.join("out")));
    // Several processes with one descriptor; a name that is there, and one that is not.
    let shell = "(echo a; cat /dev/null; /bin/echo b; /bin/echo c) >x && mv x y && mv copy/a z && touch t y \
        && : >>t && echo d >>t && rm -r out && test ! -e x -a ! -e out -a ! -e copy/a";
    run(Command::new("sh").arg("-ec").arg(shell).current_dir(&root));
    assert_eq!(fs::read(root.join("y")).unwrap(), b"a\nb\nc\n");
    // An empty file and what replaces it are finished after their close.
    assert_eq!(fs::read(root.join("t")).unwrap(), b"d\n");
    // Another process still has it open for a moment, as the kernel has what it tells of late.
    let passed_on = "exec 3>late; sleep 0.3 & exec 3>&-; echo e >>late; \
        exec 3>late; sleep 0.3 & exec 3>&-; cat late; \
        exec 3>late; sleep 0.3 & exec 3>&-; mv late out && rm out";
    run(Command::new("sh").arg("-ec").arg(passed_on).current_dir(&root));
    let at_once = "for n in $(seq 30); do : >e && mv e f && rm f && : >g && rm g \
        && mkdir h && : >h/i && test \"$(ls h)\" = i && rm -r h; done";
    run(Command::new("sh").arg("-ec").arg(at_once).current_dir(&root));
    assert_eq!(names(&root), ["all.tar", "copy", "old", "t", "y", "z"]);
    assert!(mounted.stored("z/b/39").exists() && !mounted.stored("out/a").exists());
}

#[test]
fn processes_that_cannot_be_told_apart() {
    let mut elsewhere = Command::new("unshare");
    elsewhere.args(["--pid", "--fork", "--kill-child", env!("CARGO_BIN_EXE_fluid-fuse")]);
    let Some(mounted) = Mounted::by(elsewhere, &["--read-only=false"]) else { return };
    let shell = "/bin/echo a >x; (echo a; /bin/true; echo b) >y; : >z";
    run(Command::new("sh").arg("-ec").arg(shell).current_dir(mounted.place.mountpoint()));
    let read = |name: &str| fs::read_to_string(mounted.path(name)).unwrap();
    assert_eq!([read("x"), read("y"), read("z")], ["a\n", "a\nb\n", ""]);
    // Of two that write, the second adds to what the first has finished.
    let two = "(/bin/echo a; /bin/echo b) >v";
    run(Command::new("sh").arg("-ec").arg(two).current_dir(mounted.place.mountpoint()));
    assert_eq!(read("v"), "a\nb\n");
}

#[test]
fn names_change_at_once() {
    let Some(mounted) = Mounted::writable() else { return };
    let (old, new) = (mounted.path("old"), mounted.path("new"));
    assert_eq!(names(&mounted.place.mountpoint()), ["old"]);
    fs::create_dir(mounted.path("d")).unwrap();
    assert!(mounted.stored("d").is_dir());
    fails(fs::create_dir(mounted.path("d")), Errno::EXIST);
    assert_eq!(names(&mounted.path("d")), [""; 0]);
    fs::write(mounted.path("d/f"), "f").unwrap();
    assert_eq!(
        (names(&mounted.path("d")), names(&mounted.place.mountpoint())),
        (vec!["f".into()], vec!["d".into(), "old".into()])
    );
    fails(fs::remove_dir(mounted.path("d")), Errno::NOTEMPTY);
    let open = File::create(mounted.path("d/open")).unwrap();
    assert_eq!(names(&mounted.path("d")), ["f", "open"]);
    drop(open);
    assert_eq!(names(&mounted.path("d")), ["f", "open"]);
    fs::remove_file(mounted.path("d/open")).unwrap();
    assert_eq!(names(&mounted.path("d")), ["f"]);

    fs::rename(&old, &new).unwrap();
    assert_eq!(fs::read(&new).unwrap(), b"old content");
    assert_eq!(fs::metadata(&old).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(names(&mounted.place.mountpoint()), ["d", "new"]);
    assert!(!mounted.stored("old").exists());
    let unless = rustix::fs::renameat_with(CWD, &new, CWD, mounted.path("d/f"), RenameFlags::NOREPLACE);
    assert_eq!(unless, Err(Errno::EXIST));
    let exchange = rustix::fs::renameat_with(CWD, &new, CWD, mounted.path("d/f"), RenameFlags::EXCHANGE);
    assert_eq!(exchange, Err(Errno::INVAL));
    fs::rename(&new, mounted.path("d/f")).unwrap();
    fs::rename(mounted.path("d/f"), mounted.path("d/g")).unwrap();
    assert_eq!(fs::read(mounted.path("d/g")).unwrap(), b"old content");
    fs::remove_file(mounted.path("d/g")).unwrap();
    assert!(!mounted.stored("d/g").exists());
    fs::remove_dir(mounted.path("d")).unwrap();
    assert_eq!(names(&mounted.place.mountpoint()), [""; 0]);
    assert!(!mounted.stored("d").exists());
}

#[test]
fn one_at_a_time_and_all_of_it() {
    let Some(mounted) = Mounted::writable() else { return };
    let old = mounted.path("old");
    let reader = File::open(&old).unwrap();
    fails(File::create(&old), Errno::BUSY);
    drop(reader);
    // The kernel tells of the close a little later: this is waited for.
    let mut writer = File::create(&old).unwrap();
    writer.write_all(b"new").unwrap();
    fails(File::open(&old), Errno::BUSY);
    fails(File::create(&old), Errno::BUSY);
    fails(fs::remove_file(&old), Errno::BUSY);
    fails(fs::rename(&old, mounted.path("new")), Errno::BUSY);
    assert_eq!(fs::read(mounted.stored("old")).unwrap(), b"old content");
    assert_eq!(fs::metadata(&old).unwrap().len(), 3);
    drop(writer);
    assert_eq!(fs::read(&old).unwrap(), b"new");
    assert_eq!(fs::read(mounted.stored("old")).unwrap(), b"new");
    // What cannot be done is the file's end, and not half of it.
    let mut writer = File::create(&old).unwrap();
    writer.write_all(b"newer").unwrap();
    fails(writer.write_at(b"x", 1), Errno::INVAL);
    fails(writer.write_all(b"more"), Errno::INVAL);
    fails(writer.sync_all(), Errno::INVAL);
    drop(writer);
    let mut writer = File::create(&old).unwrap();
    writer.write_all(b"newer").unwrap();
    fails(writer.set_len(1), Errno::OPNOTSUPP);
    drop(writer);
    eventually(|| (fs::read(&old).ok()? == b"new").then_some(()));
    assert_eq!(fs::read(mounted.stored("old")).unwrap(), b"new");

    fails(File::options().read(true).write(true).open(&old), Errno::OPNOTSUPP);
    fails(File::create_new(&old), Errno::EXIST);
    for odd in ["link", "n"] {
        fails(fs::hard_link(&old, mounted.path(odd)), Errno::PERM);
        fails(symlink("old", mounted.path(odd)), Errno::PERM);
    }
    let times = fs::FileTimes::new().set_modified(SystemTime::UNIX_EPOCH);
    File::open(&old).unwrap().set_times(times).unwrap();
    fs::set_permissions(&old, PermissionsExt::from_mode(0o600)).unwrap();
    assert_eq!(fs::metadata(&old).unwrap().permissions().mode() & 0o7777, 0o644);
    let mut exclusive =
        File::options().write(true).create_new(true).mode(0o600).open(mounted.path("x")).unwrap();
    exclusive.write_all(b"x").unwrap();
    drop(exclusive);
    mounted.server.wire(Wire::Resets);
    fails(fs::remove_file(&old), Errno::IO);
    mounted.server.wire(Wire::Carries);
    assert!(mounted.stored("old").exists());
}

#[test]
fn more_are_written_at_a_time_than_there_is_memory_for() {
    let Some(mounted) = Mounted::new(&["--read-only=false"]) else { return };
    let content = bytes(3 << 20);
    std::thread::scope(|scope| {
        for number in 0..12 {
            let (content, path) = (&content, mounted.path(&format!("at once {number}")));
            scope.spawn(move || fs::write(path, content).unwrap());
        }
    });
    assert!((0..12).all(|number| fs::read(mounted.path(&format!("at once {number}"))).unwrap() == content));
}

#[test]
fn a_read_only_mount_refuses() {
    let Some(mounted) = Mounted::new(&[]) else { return };
    // Neither as it is mounted, nor should somebody make it writable.
    for _ in 0..2 {
        let (old, new) = (mounted.path("old"), mounted.path("new"));
        fails(File::options().append(true).open(&old), Errno::ROFS);
        fails(File::create(&old), Errno::ROFS);
        fails(fs::write(&new, "x"), Errno::ROFS);
        fails(fs::create_dir(&new), Errno::ROFS);
        fails(fs::remove_file(&old), Errno::ROFS);
        fails(fs::rename(&old, &new), Errno::ROFS);
        fails(fs::hard_link(&old, &new), Errno::ROFS);
        fails(symlink("old", &new), Errno::ROFS);
        fails(fs::set_permissions(&old, PermissionsExt::from_mode(0o777)), Errno::ROFS);
        let root = mounted.place.mountpoint();
        rustix::mount::mount_remount(root, rustix::mount::MountFlags::empty(), "").unwrap();
    }
    assert_eq!(fs::metadata(mounted.path("old")).unwrap().permissions().mode() & 0o7777, 0o444);
    assert_eq!(fs::read(mounted.stored("old")).unwrap(), b"old content");
}

#[test]
fn ro_of_fluid_wins_and_rw_is_nothing() {
    for (options, flags) in [("rw", [].as_slice()), ("rw,ro", &["--read-only=false"])] {
        let mut program = Command::new(env!("CARGO_BIN_EXE_fluid-fuse"));
        program.env(env::MOUNT_OPTIONS, options);
        let Some(mounted) = Mounted::by(program, flags) else { return };
        fails(fs::write(mounted.path("new"), "x"), Errno::ROFS);
    }
}

#[test]
fn mounts_side_by_side() {
    let Some(mounted) = Mounted::new(&[
        "--config-json",
        r#"{"accessModes":["ReadWriteMany"],"mounts":[]}"#,
        "--read-only=false",
        "--source=sub=s3://data/sub",
        "--source=here=file:///etc",
    ]) else {
        return;
    };
    fs::create_dir(mounted.path("sub/d")).unwrap();
    fs::write(mounted.path("sub/d/f"), "f").unwrap();
    assert_eq!(fs::read(mounted.stored("sub/d/f")).unwrap(), b"f");
    fails(fs::rename(mounted.path("old"), mounted.path("sub/old")), Errno::XDEV);
    fails(fs::rename(mounted.path("old"), mounted.path("here/old")), Errno::ROFS);
    fails(fs::write(mounted.path("here/new"), "x"), Errno::ROFS);
    fails(fs::remove_dir(mounted.path("sub")), Errno::ROFS);
    run(Command::new("mv").arg(mounted.path("old")).arg(mounted.path("sub/old")));
    assert_eq!(fs::read(mounted.stored("sub/old")).unwrap(), b"old content");
}
