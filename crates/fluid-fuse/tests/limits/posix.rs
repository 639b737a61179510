//! What programs that read files rely on. No suite is packaged that tests reading alone (fsx and pjdfstest
//! write first), so these are our own.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::{DirEntryExt, FileExt, MetadataExt};
use std::path::Path;
use std::process::Command;

use rustix::fs::{Advice, SeekFrom as Place, seek};

use crate::MIB;
use crate::support::content::Content;
use crate::support::place::names;
use crate::support::s3::S3;
use crate::support::{Mounted, check};

const LARGE: Content = Content { seed: 7, size: 3 * MIB + 1234 };

/// Some directories and files.
fn tree() -> Option<(Mounted, Vec<(String, Content)>)> {
    let s3 = S3::start();
    let mut files = vec![("large".to_string(), LARGE), ("empty".to_string(), Content::new(8, 0))];
    files.extend((0..40).map(|n| (format!("a/b {}/file {n}", n % 7), Content::new(n, n * 3001))));
    for (key, content) in &files {
        s3.put(key, *content);
    }
    Some((Mounted::with(s3, &[])?, files))
}

#[test]
fn holes_and_ends() {
    let Some((mounted, _)) = tree() else { return };
    let mut file = mounted.open("large").unwrap();
    // Without holes: all of it is data, and the one hole is at the end.
    for at in [0, 1, LARGE.size - 1] {
        assert_eq!(seek(&file, Place::Data(at)).unwrap(), at);
        assert_eq!(seek(&file, Place::Hole(at)).unwrap(), LARGE.size);
    }
    assert_eq!(seek(&file, Place::Data(LARGE.size)), Err(rustix::io::Errno::NXIO));
    assert_eq!(seek(&file, Place::Hole(LARGE.size)), Err(rustix::io::Errno::NXIO));
    assert_eq!(file.seek(SeekFrom::End(-5)).unwrap(), LARGE.size - 5);
    let mut end = Vec::new();
    file.read_to_end(&mut end).unwrap();
    assert_eq!((end.len(), LARGE.difference(LARGE.size - 5, &end)), (5, None));
}

/// Ways to get at the bytes of the file that is the argument; each says what it got.
const WAYS: &str = r#"
import errno, hashlib, mmap, os, socket, sys, tempfile, threading

def say(way, data):
    print(way, len(data), hashlib.sha256(data).hexdigest())

path = sys.argv[1]
size = os.stat(path).st_size
for name, flags in ("shared", mmap.MAP_SHARED), ("private", mmap.MAP_PRIVATE):
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, flags=flags, prot=mmap.PROT_READ) as map:
        say("mmap backwards, " + name, b"".join(map[at:at + 4096] for at in reversed(range(0, size, 4096))))
        say("mmap, " + name, map)

direct = os.open(path, os.O_RDONLY | os.O_DIRECT)
room, got = mmap.mmap(-1, 1 << 18), b""
while True:
    read = os.preadv(direct, [room], len(got))
    if read == 0:
        break
    got += room[:read]
say("O_DIRECT", got)

file = os.open(path, os.O_RDONLY)
def through_pipe(way, move):
    back, front = os.pipe()
    def feed():
        at = 0
        while at < size:
            at += move(front, at)
        os.close(front)
    feeder = threading.Thread(target=feed)
    feeder.start()
    with open(back, "rb") as end:
        say(way, end.read())
    feeder.join()
through_pipe("splice", lambda to, at: os.splice(file, to, 1 << 17, offset_src=at))
through_pipe("sendfile to a pipe", lambda to, at: os.sendfile(to, file, at, 1 << 17))

one, other = socket.socketpair()
def feed():
    at = 0
    while at < size:
        at += os.sendfile(one.fileno(), file, at, 1 << 20)
    one.close()
threading.Thread(target=feed).start()
with other.makefile("rb") as end:
    say("sendfile to a socket", end.read())

with tempfile.TemporaryFile() as copy:
    at = 0
    while at < size:
        try:
            at += os.copy_file_range(file, copy.fileno(), 1 << 20, at, at)
        except OSError as error:
            # From FUSE to another file system the kernel does not do it, and programs know.
            if error.errno != errno.EXDEV:
                raise
            at += copy.write(os.pread(file, 1 << 20, at))
    copy.seek(0)
    say("copy_file_range", copy.read())

say("readv", b"".join(bytes(part) for part in (lambda parts: (os.preadv(file, parts, 4097), parts)[1])(
    [bytearray(n) for n in (1, 4095, 70_000)])))
"#;

fn output(directory: &Path, command: &[&str]) -> String {
    let output = Command::new(command[0]).args(&command[1..]).current_dir(directory).output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The same commands in the mount and in a directory that has the same files say the same.
#[test]
fn programs_see_what_they_see_elsewhere() {
    let Some((mounted, files)) = tree() else { return };
    let root = mounted.place.root.path();
    let local = root.join("local");
    for (key, content) in &files {
        let path = local.join(key);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content.whole()).unwrap();
    }
    let tar = "tar -c --sort=name --mtime=@0 --mode=0644 . | sha256sum";
    let commands: [&[&str]; 7] = [
        &["python3", "-c", WAYS, "large"],
        &["sh", "-c", "find . -printf '%P %y\n' | sort"],
        &["sh", "-c", "find . -type f -size +20k -printf '%P %s %n\n' | sort"],
        &["sh", "-c", tar],
        &["sh", "-c", "find . -type f -print0 | sort -z | xargs -0 -P 4 -n 3 sha256sum | sort"],
        &["sh", "-c", "tail -c 1000 large | sha256sum; head -c 1000 large | sha256sum; wc -c < large"],
        &["sh", "-c", "dd if=large bs=64k skip=3 count=7 iflag=direct status=none | sha256sum"],
    ];
    for command in commands {
        assert_eq!(output(&mounted.place.mountpoint(), command), output(&local, command), "{command:?}");
    }
    output(&mounted.place.mountpoint(), &["cp", "-a", ".", root.join("copy").to_str().unwrap()]);
    output(root, &["diff", "-r", "local", "copy"]);
    for (key, _) in &files {
        let (copy, original) = (root.join("copy").join(key), mounted.path(key));
        let of = |path: &Path| {
            path.metadata().map(|metadata| (metadata.modified().unwrap(), metadata.mode())).unwrap()
        };
        assert_eq!(of(&copy), of(&original));
    }
}

#[test]
fn attributes_are_plausible() {
    let Some((mounted, files)) = tree() else { return };
    for (key, content) in &files {
        let metadata = mounted.path(key).metadata().unwrap();
        assert_eq!((metadata.len(), metadata.nlink()), (content.size, 1), "{key}");
        // `du` must not find less than what is there, or programs take files for sparse.
        assert_eq!(metadata.blocks(), content.size.div_ceil(512), "{key}");
        assert_eq!(metadata.mode(), 0o100444, "{key}");
        let before = mounted.path(key).metadata().unwrap();
        assert_eq!((before.ino(), before.dev()), (metadata.ino(), metadata.dev()), "{key}");
    }
    for directory in ["", "a", "a/b 3"] {
        let metadata = mounted.path(directory).metadata().unwrap();
        assert!(
            metadata.is_dir() && metadata.nlink() >= 2 && metadata.mode() & 0o7777 == 0o555,
            "{directory}"
        );
        for entry in fs::read_dir(mounted.path(directory)).unwrap() {
            let entry = entry.unwrap();
            let found = entry.path().symlink_metadata().unwrap();
            assert_eq!((entry.ino(), entry.file_type().unwrap()), (found.ino(), found.file_type()));
        }
    }
    // Numbers tell files apart.
    let mut numbers: Vec<_> =
        files.iter().map(|(key, _)| mounted.path(key).metadata().unwrap().ino()).collect();
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers.len(), files.len());
}

#[test]
fn directories_are_read_from_anywhere() {
    let s3 = S3::start();
    for number in 0..700 {
        s3.put(&format!("many/a name that takes its space {number:03}"), Content::new(number, 1));
    }
    let Some(mounted) = Mounted::with(s3, &[]) else { return };
    let directory = mounted.open("many").unwrap();
    let rest = |position: u64| {
        seek(&directory, Place::Start(position)).unwrap();
        let mut room = Vec::with_capacity(4096);
        let mut entries = Vec::new();
        let mut raw = rustix::fs::RawDir::new(&directory, room.spare_capacity_mut());
        while let Some(entry) = raw.next() {
            let entry = entry.unwrap();
            entries.push((entry.file_name().to_owned(), entry.next_entry_cookie()));
        }
        entries
    };
    let all = rest(0);
    assert_eq!(all.len(), 702);
    // `telldir` and `seekdir`: the rest after each entry is the same as at first, in any order.
    for index in [700, 3, 0, 350, 1, 699, 701] {
        assert!(rest(all[index].1) == all[index + 1..], "after {index}");
    }
    assert!(rest(0) == all);
    assert_eq!(names(&mounted.path("many")).len(), 700);
}

#[test]
fn nothing_is_written() {
    let Some((mounted, _)) = tree() else { return };
    let refused = |result: std::io::Result<()>| result.unwrap_err().raw_os_error().unwrap();
    let path = mounted.path("large");
    let rofs = rustix::io::Errno::ROFS.raw_os_error();
    assert_eq!(refused(File::options().write(true).open(&path).map(drop)), rofs);
    assert_eq!(refused(File::options().append(true).open(&path).map(drop)), rofs);
    assert_eq!(refused(File::create_new(mounted.path("new")).map(drop)), rofs);
    assert_eq!(refused(fs::remove_file(&path)), rofs);
    assert_eq!(refused(fs::rename(&path, mounted.path("other"))), rofs);
    assert_eq!(refused(fs::create_dir(mounted.path("directory"))), rofs);
    assert_eq!(refused(mounted.open("large").unwrap().set_modified(std::time::SystemTime::now())), rofs);
    check(&path, &LARGE);
}

#[test]
fn what_the_kernel_dropped_is_read_again() {
    let Some((mounted, _)) = tree() else { return };
    let file = mounted.open("large").unwrap();
    for _ in 0..3 {
        let mut bytes = vec![0; LARGE.size as usize];
        file.read_exact_at(&mut bytes, 0).unwrap();
        assert_eq!(LARGE.difference(0, &bytes), None);
        rustix::fs::fadvise(&file, 0, None, Advice::DontNeed).unwrap();
    }
}
