//! Opens paths without following links that others could have planted.
//!
//! Other processes can write to directories of the node and to volumes of a Pod. A link there would make a privileged
//! process create files, mount or read elsewhere. So no component of such a path may be a link, and a file that is opened
//! must be the sidecar's own: regular, of its user, with one name.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, fstat, mkdirat, openat, openat2, unlinkat,
};
use rustix::io::Errno;
use rustix::process::geteuid;

/// How often an open is tried again that a rename or mount disturbed.
const DISTURBED: usize = 16;

const DIRECTORY: OFlags =
    OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// The path from the root on, without `.` and `..`. As no component may be a link, `..` is what precedes it.
pub(crate) fn absolute(path: &Path) -> PathBuf {
    let mut clean = PathBuf::from("/");
    for component in std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf()).components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => drop(clean.pop()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    clean
}

/// Opens something at a path below a directory, with these flags.
fn resolve(
    directory: BorrowedFd<'_>,
    path: &Path,
    flags: OFlags,
    mode: Mode,
    resolve: ResolveFlags,
) -> Result<OwnedFd, Errno> {
    let mut tries = 0..DISTURBED;
    loop {
        match openat2(directory, path, flags | OFlags::CLOEXEC, mode, resolve) {
            Err(Errno::AGAIN | Errno::INTR) if tries.next().is_some() => {}
            result => return result,
        }
    }
}

/// A directory, to open its entries.
pub(crate) fn directory(path: &Path) -> io::Result<OwnedFd> {
    descend(path, |parent, name| openat(parent, name, DIRECTORY, Mode::empty()))
}

/// A directory below one that is open.
pub(crate) fn directory_below(directory: OwnedFd, path: &Path) -> io::Result<OwnedFd> {
    descend_from(directory, PathBuf::new(), path, |parent, name| {
        openat(parent, name, DIRECTORY, Mode::empty())
    })
}

/// The same; what is missing of it is made.
pub(crate) fn make_directory(path: &Path) -> io::Result<OwnedFd> {
    descend(path, |parent, name| match openat(parent, name, DIRECTORY, Mode::empty()) {
        Err(Errno::NOENT) => {
            match mkdirat(parent, name, Mode::from_raw_mode(0o755)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(errno),
            }
            openat(parent, name, DIRECTORY, Mode::empty())
        }
        result => result,
    })
}

/// One component after the other, so that a kernel or a seccomp profile without openat2 will do, and the link can be
/// named.
fn descend(
    path: &Path,
    open: impl Fn(BorrowedFd<'_>, &OsStr) -> Result<OwnedFd, Errno>,
) -> io::Result<OwnedFd> {
    let root = openat(CWD, "/", DIRECTORY, Mode::empty())?;
    descend_from(root, PathBuf::from("/"), &absolute(path), open)
}

fn descend_from(
    mut at: OwnedFd,
    mut walked: PathBuf,
    path: &Path,
    open: impl Fn(BorrowedFd<'_>, &OsStr) -> Result<OwnedFd, Errno>,
) -> io::Result<OwnedFd> {
    for component in path.components() {
        let Component::Normal(name) = component else { continue };
        walked.push(name);
        at = open(at.as_fd(), name).map_err(|errno| explain(at.as_fd(), name, &walked, errno))?;
    }
    Ok(at)
}

fn explain(parent: BorrowedFd<'_>, name: &OsStr, walked: &Path, errno: Errno) -> io::Error {
    let kind = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)
        .map(|stat| FileType::from_raw_mode(stat.st_mode));
    match kind {
        Ok(FileType::Symlink) => io::Error::new(
            io::ErrorKind::InvalidInput,
            format!(
                "{walked:?} is a link, which somebody else may have made: give the path that it leads to"
            ),
        ),
        Ok(FileType::Directory) => errno.into(),
        Ok(_) if errno == Errno::NOTDIR => {
            io::Error::new(io::ErrorKind::NotADirectory, format!("{walked:?} is not a directory"))
        }
        _ => errno.into(),
    }
}

/// The path of a descriptor, for system calls that take no descriptors. It is not a link that others can make.
pub(crate) fn by_descriptor(descriptor: &impl AsFd) -> PathBuf {
    Path::new("/proc/self/fd").join(descriptor.as_fd().as_raw_fd().to_string())
}

/// A name right in the directory above it, for system calls that know no descriptors. The descriptor must live as long
/// as the path is used.
pub(crate) fn in_parent(path: &Path) -> io::Result<(OwnedFd, PathBuf)> {
    let path = absolute(path);
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the root directory is no such place"));
    };
    let parent = directory(parent)?;
    let named = by_descriptor(&parent).join(name);
    Ok((parent, named))
}

/// Something below an open directory; links may lead to other places below it, and nowhere else.
pub(crate) fn beneath(directory: impl AsFd, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    let within = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    // What only is looked up waits for nobody.
    let waits = !flags.contains(OFlags::PATH);
    let flags = if waits { flags | OFlags::NONBLOCK | OFlags::NOCTTY } else { flags };
    resolve(directory.as_fd(), path, flags, Mode::empty(), within)
}

/// A file of ours that is in the directory already.
pub(crate) fn file(directory: impl AsFd, name: &str, flags: OFlags) -> io::Result<File> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    ours(openat(directory, name, flags, Mode::empty())?.into())
}

/// A file of ours, which is made if it is not there.
pub(crate) fn file_or_new(directory: impl AsFd, name: &str, flags: OFlags) -> io::Result<File> {
    match file(&directory, name, flags) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => match create(&directory, name, flags) {
            // Somebody was faster.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => file(&directory, name, flags),
            created => created,
        },
        opened => opened,
    }
}

/// A new file, in place of whatever has its name.
pub(crate) fn replace(directory: impl AsFd, name: &str, flags: OFlags) -> io::Result<File> {
    match unlinkat(&directory, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(errno) => return Err(errno.into()),
    }
    create(directory, name, flags)
}

fn create(directory: impl AsFd, name: &str, flags: OFlags) -> io::Result<File> {
    let flags = flags | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat(directory, name, flags, Mode::RUSR | Mode::WUSR)?.into())
}

fn ours(file: File) -> io::Result<File> {
    let stat = fstat(&file)?;
    let is_ours = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
        && stat.st_uid == geteuid().as_raw()
        && stat.st_nlink == 1;
    match is_ours {
        true => Ok(file),
        false => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "it is not a regular file of this user with one name: somebody else may have made it",
        )),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn f6_no_component_is_a_link() {
        let place = tempfile::tempdir().unwrap();
        let at = |path: &str| place.path().join(path);
        make_directory(&at("a/b/c")).unwrap();
        assert!(at("a/b/c").is_dir());
        symlink("b", at("a/link")).unwrap();
        symlink("/etc", at("a/b/etc")).unwrap();
        symlink("nowhere", at("a/dangling")).unwrap();
        for (path, link) in
            [("a/link", "link"), ("a/link/c", "link"), ("a/b/etc/x", "etc"), ("a/dangling/x", "dangling")]
        {
            for error in [directory(&at(path)).unwrap_err(), make_directory(&at(path)).unwrap_err()] {
                assert!(
                    error.to_string().contains(&format!(
                        "{:?} is a link",
                        at(path).ancestors().find(|above| above.ends_with(link)).unwrap()
                    )),
                    "{error}"
                );
            }
        }
        assert!(directory(&at("a/b/../b/./c")).is_ok());
        fs::write(at("a/file"), "").unwrap();
        assert!(make_directory(&at("a/file/x")).unwrap_err().to_string().contains("is not a directory"));
        assert_eq!(directory(&at("none")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn f6_a_file_is_ours_or_is_not_opened() {
        let place = tempfile::tempdir().unwrap();
        let directory = directory(place.path()).unwrap();
        let at = |path: &str| place.path().join(path);
        fs::write(at("victim"), "precious").unwrap();
        symlink(at("victim"), at("link")).unwrap();
        fs::hard_link(at("victim"), at("other")).unwrap();
        rustix::fs::mknodat(CWD, at("fifo"), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        for name in ["link", "other", "victim", "fifo"] {
            assert!(file(&directory, name, OFlags::RDWR).is_err(), "{name}");
            assert!(file_or_new(&directory, name, OFlags::RDWR).is_err(), "{name}");
        }
        for name in ["link", "other", "fifo"] {
            assert!(replace(&directory, name, OFlags::RDWR).is_ok(), "{name}");
            assert!(file(&directory, name, OFlags::RDWR).is_ok(), "{name}");
        }
        assert_eq!(fs::read_to_string(at("victim")).unwrap(), "precious");
    }

    #[test]
    fn f9_links_of_a_secret_stay_below_it() {
        // As kubelet writes a volume.
        let place = tempfile::tempdir().unwrap();
        let at = |path: &str| place.path().join(path);
        fs::create_dir(at("..2024")).unwrap();
        fs::write(at("..2024/key"), "secret").unwrap();
        symlink("..2024", at("..data")).unwrap();
        symlink("..data/key", at("key")).unwrap();
        symlink("/etc/passwd", at("passwd")).unwrap();
        symlink("../..", at("up")).unwrap();
        let directory = directory(place.path()).unwrap();
        let opens = |path: &str| beneath(&directory, Path::new(path), OFlags::RDONLY).is_ok();
        assert!(opens("key") && opens("..data/key"));
        assert!(
            !opens("passwd") && !opens("up") && !opens("up/etc") && !opens("../x") && !opens("/etc/passwd")
        );
    }
}
