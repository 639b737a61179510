//! What the mount shows: the files of the source, and nothing else.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirEntryExt, FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use crate::place::{bytes, eventually, names, place};

const EROFS: i32 = rustix::io::Errno::ROFS.raw_os_error();

#[test]
fn reads_what_is_there() {
    let Some(mut place) = place() else { return };
    let sizes = [0, 1, 4095, 4096, 4097, 131_072, 1 << 20, (5 << 20) + 3];
    for size in sizes {
        fs::write(place.source().join(size.to_string()), bytes(size)).unwrap();
    }
    place.start(&[]);
    for size in sizes {
        let path = place.mountpoint().join(size.to_string());
        assert!(fs::read(&path).unwrap() == bytes(size), "{size}");
        let (shown, real) =
            (path.metadata().unwrap(), place.source().join(size.to_string()).metadata().unwrap());
        assert_eq!(shown.len(), real.len());
        assert_eq!(shown.modified().unwrap(), real.modified().unwrap());
        assert_eq!((shown.uid(), shown.gid(), shown.nlink()), (real.uid(), real.gid(), real.nlink()));
        assert_eq!(shown.mode(), real.mode() & !0o222);
    }
    let (size, file) = (sizes[7], File::open(place.mountpoint().join(sizes[7].to_string())).unwrap());
    let expected = bytes(size);
    for (at, length) in (0..200).map(|turn| (turn * 7_919_731 % size, turn * 1237 % 300_000)) {
        let mut buffer = vec![0; length];
        let read = file.read_at(&mut buffer, at as u64).unwrap();
        assert!(read == length.min(size - at) && buffer[..read] == expected[at..at + read], "{at} {length}");
    }
    for at in [size as u64, 1 << 40, i64::MAX as u64 - 8192] {
        assert_eq!(file.read_at(&mut [0; 4096], at).unwrap(), 0, "{at}");
    }
}

#[test]
fn lists_what_is_there() {
    let Some(mut place) = place() else { return };
    let deep = place.source().join("a/b c/d");
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join("leaf"), "leaf").unwrap();
    let many = place.source().join("many");
    fs::create_dir(&many).unwrap();
    for number in 0..3000 {
        fs::write(many.join(format!("a rather long name, number {number:05}")), [0; 3]).unwrap();
    }
    let odd = OsStr::from_bytes(b"not \xff\xfe UTF-8");
    fs::write(place.source().join(odd), "odd").unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        place.source().join("fifo"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .unwrap();
    place.start(&[]);

    assert_eq!(names(&place.mountpoint().join("many")), names(&many));
    for entry in fs::read_dir(place.mountpoint().join("many")).unwrap() {
        let entry = entry.unwrap();
        let metadata = entry.path().metadata().unwrap();
        assert_eq!((metadata.len(), metadata.ino()), (3, entry.ino()));
    }
    assert_eq!(names(&place.mountpoint()), [OsStr::new("a"), OsStr::new("many"), odd]);
    assert_eq!(fs::read(place.mountpoint().join(odd)).unwrap(), b"odd");
    assert_eq!(fs::read(place.mountpoint().join("a/b c/d/leaf")).unwrap(), b"leaf");
    let missing = fs::metadata(place.mountpoint().join("fifo")).unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound);
    assert!(rustix::fs::statvfs(place.mountpoint()).unwrap().f_blocks > 0);
}

#[test]
fn shows_links_and_follows_none() {
    let Some(mut place) = place() else { return };
    fs::write(place.source().join("file"), "inside").unwrap();
    symlink("file", place.source().join("near")).unwrap();
    symlink("/etc/passwd", place.source().join("far")).unwrap();
    symlink("/etc", place.source().join("directory")).unwrap();
    place.start(&[]);
    let link = |name: &str| fs::read_link(place.mountpoint().join(name)).unwrap();
    assert_eq!([link("near"), link("far")], [Path::new("file"), Path::new("/etc/passwd")]);
    assert!(fs::symlink_metadata(place.mountpoint().join("far")).unwrap().is_symlink());
    assert_eq!(fs::read(place.mountpoint().join("near")).unwrap(), b"inside");
    // A directory that the kernel knows becomes a link that leads out: the daemon does not go there.
    let (inside, aside) = (place.source().join("real"), place.source().join("aside"));
    fs::create_dir(&inside).unwrap();
    fs::write(inside.join("hostname"), "inside").unwrap();
    assert_eq!(fs::read(place.mountpoint().join("real/hostname")).unwrap(), b"inside");
    let directory = File::open(place.mountpoint().join("real")).unwrap();
    fs::rename(&inside, aside).unwrap();
    symlink("/etc", &inside).unwrap();
    let flags = rustix::fs::OFlags::RDONLY;
    let escaped = rustix::fs::openat(&directory, "passwd", flags, rustix::fs::Mode::empty());
    assert!(escaped.is_err(), "{escaped:?}");
}

#[test]
fn writes_nothing() {
    let Some(mut place) = place() else { return };
    fs::write(place.source().join("file"), "x").unwrap();
    place.start(&["--read-only"]);
    // Neither as it is mounted, nor should somebody make it writable.
    for _ in 0..2 {
        let (file, new) = (place.mountpoint().join("file"), place.mountpoint().join("new"));
        let refused =
            |result: std::io::Result<()>| assert_eq!(result.unwrap_err().raw_os_error(), Some(EROFS));
        refused(File::options().append(true).open(&file).map(drop));
        refused(fs::write(&new, "x"));
        refused(fs::create_dir(&new));
        refused(fs::remove_file(&file));
        refused(fs::rename(&file, &new));
        refused(fs::hard_link(&file, &new));
        refused(symlink("file", &new));
        refused(fs::set_permissions(&file, PermissionsExt::from_mode(0o777)));
        rustix::mount::mount_remount(place.mountpoint(), rustix::mount::MountFlags::empty(), "").unwrap();
    }
    assert_eq!(fs::read(place.source().join("file")).unwrap(), b"x");
}

#[test]
fn sees_what_changes() {
    let Some(mut place) = place() else { return };
    let (real, shown) = (place.source().join("file"), place.mountpoint().join("file"));
    fs::write(&real, "first").unwrap();
    place.start(&[]);
    let first = File::open(&shown).unwrap();
    assert_eq!(fs::read(&shown).unwrap(), b"first");
    fs::write(place.source().join("next"), "other").unwrap();
    fs::rename(place.source().join("next"), &real).unwrap();
    eventually(|| (fs::read(&shown).ok()? == b"other").then_some(()));
    // Whoever has the old file open keeps it.
    let mut buffer = [0; 8];
    let read = first.read_at(&mut buffer, 0).unwrap();
    assert_eq!((&buffer[..read], first.metadata().unwrap().len()), (&b"first"[..], 5));
    fs::write(&real, "grown longer").unwrap();
    eventually(|| (fs::read(&shown).ok()? == b"grown longer").then_some(()));
    fs::remove_file(&real).unwrap();
    eventually(|| fs::metadata(&shown).is_err().then_some(()));
}
