//! Restricts the files and directories that a Dataset may name.
//!
//! The administrator sets flags and variables, which may name any file. Fluid's configuration (`config.json`, or its text in
//! a variable) comes from a Dataset. Its author need not be the owner of the Pod, and may be malicious. So a Dataset may name
//! only the files of its Secrets (`secret`), and only directories in allowed places (`directory`).

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, bail, ensure};
use fluid_sidecar_layout::contract::{MOUNT_ROOT, PLACES, SECRETS_DIRECTORY};
use rustix::fs::{AtFlags, OFlags, statat};

use crate::mount::MountEntry;
use crate::nofollow;

/// The author of a source and its options.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Trust {
    /// The author of the container: the source is used as it is.
    #[default]
    Administrator,
    /// The author of a Dataset.
    Dataset,
}

/// The word for no directory at all.
pub const NONE: &str = "none";

/// Directories that no Dataset names unless the administrator lists them, nor what is above or below them: of the system,
/// of this container, and of other Datasets.
pub const CLOSED: &[&str] = &[
    "/",
    "/boot",
    "/dev",
    "/etc",
    "/proc",
    "/root",
    "/run",
    "/sys",
    "/var/lib/kubelet",
    "/var/run",
    MOUNT_ROOT,
];

/// File systems that show the kernel, and not files.
const KERNELS: &[&str] = &[
    "bpf",
    "cgroup",
    "cgroup2",
    "configfs",
    "debugfs",
    "devpts",
    "devtmpfs",
    "efivarfs",
    "fusectl",
    "mqueue",
    "proc",
    "pstore",
    "securityfs",
    "sysfs",
    "tracefs",
];

/// A link that a volume of a Secret, of a ConfigMap or of tokens has, by which kubelet writes them anew.
const SECRET_MARK: &str = "..data";

/// Opens a file of a Secret that is mounted for a Dataset. Kubelet's own links are followed, but not out of there.
pub(crate) fn secret(path: &Path) -> anyhow::Result<OwnedFd> {
    secret_below(Path::new(SECRETS_DIRECTORY), path)
}

fn secret_below(secrets: &Path, path: &Path) -> anyhow::Result<OwnedFd> {
    let is_plain = path.components().all(|part| matches!(part, Component::Normal(_) | Component::RootDir));
    let inside = path.strip_prefix(secrets).ok().filter(|inside| is_plain && !inside.as_os_str().is_empty());
    let inside = inside.with_context(|| {
        format!(
            "a Dataset names no file but those of its Secrets, below {}, and not {path:?}",
            secrets.display()
        )
    })?;
    let failed = || format!("cannot read {}", path.display());
    let directory = nofollow::directory(secrets).with_context(failed)?;
    nofollow::beneath(directory, inside, OFlags::RDONLY).with_context(failed)
}

/// Opens a directory that a Dataset names, if it may: below one of those that are allowed or, if nobody has said so,
/// anywhere but where it could see more than files of a volume or of the image. `used` is what this process has there
/// itself.
pub(crate) fn directory(path: &Path, allowed: &[PathBuf], used: &[&Path]) -> anyhow::Result<OwnedFd> {
    ensure!(
        path.components().all(|part| matches!(part, Component::Normal(_) | Component::RootDir)),
        "a Dataset names {path:?}, which is not the plain path of a directory"
    );
    for used in used.iter().copied().chain([Path::new(PLACES)]) {
        ensure!(!overlap(path, used), "a Dataset must not name {path:?}: it has {} in it", used.display());
    }
    if !allowed.is_empty() {
        return below_allowed(path, allowed);
    }
    let advice = "list it (--allow-directory) if Datasets may have it";
    for closed in CLOSED.iter().map(Path::new) {
        let is_within = closed.parent().is_some() && path.starts_with(closed);
        let is_around =
            closed.starts_with(path) && (fs::symlink_metadata(closed).is_ok() || path.parent().is_none());
        ensure!(!is_within && !is_around, "a Dataset must not name {path:?}: {advice}");
    }
    let opened = nofollow::directory(path).with_context(|| format!("cannot open the directory {path:?}"))?;
    let table = fs::read("/proc/self/mountinfo").context("cannot read the mount table")?;
    let around = MountEntry::all(&table).filter(|entry| path.starts_with(&entry.path));
    let around = around.max_by_key(|entry| entry.path.components().count());
    let below = MountEntry::all(&table).filter(|entry| entry.path.starts_with(path));
    for entry in around.into_iter().chain(below) {
        let is_kernels = KERNELS.contains(&entry.kind.as_str());
        ensure!(!is_kernels, "a Dataset must not name {path:?}: a {} is mounted there; {advice}", entry.kind);
        let is_secret = entry.path.parent().is_some() && has_mark(&entry.path).unwrap_or(false);
        ensure!(!is_secret, "a Dataset must not name {path:?}: there is a volume with Secrets; {advice}");
    }
    // Such a volume need not be a mount of its own.
    ensure!(
        !marked(opened.as_fd()),
        "a Dataset must not name {path:?}: there is a volume with Secrets; {advice}"
    );
    Ok(opened)
}

fn below_allowed(path: &Path, allowed: &[PathBuf]) -> anyhow::Result<OwnedFd> {
    for directory in allowed.iter().filter(|directory| directory.as_os_str() != NONE) {
        let Ok(rest) = path.strip_prefix(directory) else { continue };
        // The administrator's own links are meant.
        let opened = rustix::fs::openat(
            rustix::fs::CWD,
            directory,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            rustix::fs::Mode::empty(),
        );
        let failed = || format!("cannot open the directory {path:?}");
        let opened = opened.with_context(failed)?;
        return nofollow::directory_below(opened, rest).with_context(failed);
    }
    bail!(
        "a Dataset must not name {path:?}: it is in none of the directories that are allowed (--allow-directory)"
    )
}

fn overlap(one: &Path, other: &Path) -> bool {
    one.starts_with(other) || other.starts_with(one)
}

fn has_mark(directory: &Path) -> io::Result<bool> {
    Ok(marked(nofollow::directory(directory)?.as_fd()))
}

fn marked(directory: std::os::fd::BorrowedFd<'_>) -> bool {
    statat(directory, SECRET_MARK, AtFlags::SYMLINK_NOFOLLOW).is_ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn refused(path: &Path, allowed: &[PathBuf], used: &[&Path]) -> String {
        directory(path, allowed, used).map_err(|error| format!("{error:#}")).err().unwrap_or_default()
    }

    #[test]
    fn f9_a_dataset_names_only_directories_of_files() {
        for closed in [
            "/",
            "/proc",
            "/proc/self/root",
            "/sys",
            "/dev/shm",
            "/etc",
            "/root",
            "/run",
            "/run/x",
            "/var/run/secrets",
        ] {
            assert!(refused(Path::new(closed), &[], &[]).contains("must not name"), "{closed}");
        }
        // What is above of those that are there, and what is a mount of the kernel's.
        assert!(refused(Path::new("/runtime-mnt/thin"), &[], &[]).contains("must not name"));
        assert!(refused(Path::new("/run/fluid-fuse"), &[], &[]).contains("/run/fluid-fuse/places"));
        let place = tempfile::tempdir().unwrap();
        let at = |path: &str| place.path().join(path);
        fs::create_dir_all(at("nas/hello")).unwrap();
        symlink("/etc", at("nas/etc")).unwrap();
        symlink(at("nas"), at("link")).unwrap();
        assert_eq!(refused(&at("nas/hello"), &[], &[]), "");
        assert!(refused(&at("nas/etc"), &[], &[]).contains("is a link"));
        assert!(refused(&at("link/hello"), &[], &[]).contains("is a link"));
        assert!(refused(&at("nas/../nas"), &[], &[]).contains("plain path"));
        assert!(refused(&at("nas"), &[], &[&at("nas/hello/cache")]).contains("cache"));
        assert!(refused(&at("nas/hello/mount/x"), &[], &[&at("nas/hello/mount")]).contains("mount"));
        fs::create_dir(at("token")).unwrap();
        symlink("..2024", at("token/..data")).unwrap();
        assert!(refused(&at("token"), &[], &[]).contains("Secrets"));
    }

    #[test]
    fn f9_what_the_administrator_lists_is_all_there_is() {
        let place = tempfile::tempdir().unwrap();
        let at = |path: &str| place.path().join(path);
        for directory in ["nas/hello", "other"] {
            fs::create_dir_all(at(directory)).unwrap();
        }
        symlink(at("nas"), at("link")).unwrap();
        symlink("/etc", at("nas/etc")).unwrap();
        let allowed = [at("nas"), at("link")];
        for open in [at("nas"), at("nas/hello"), at("link/hello")] {
            assert_eq!(refused(&open, &allowed, &[]), "");
        }
        assert!(refused(&at("other"), &allowed, &[]).contains("--allow-directory"));
        assert!(refused(&at("nas-2"), &allowed, &[]).contains("--allow-directory"));
        assert!(!refused(&at("nas/etc"), &allowed, &[]).is_empty());
        assert!(refused(&at("nas"), &[NONE.into()], &[]).contains("--allow-directory"));
        assert_eq!(refused(Path::new("/etc"), &["/etc".into()], &[]), "");
    }

    #[test]
    fn f9_a_dataset_names_only_files_of_its_secrets() {
        let place = tempfile::tempdir().unwrap();
        let at = |path: &str| place.path().join(path);
        fs::create_dir(at("s")).unwrap();
        fs::write(at("s/key"), "k").unwrap();
        symlink("/etc/passwd", at("s/passwd")).unwrap();
        let opens = |path: &Path| secret_below(place.path(), path).is_ok();
        assert!(opens(&at("s/key")));
        for path in ["/etc/passwd", "/proc/self/environ", "s/key", ""] {
            assert!(!opens(Path::new(path)), "{path}");
        }
        for path in ["s/../s/key", "s/passwd", "../x", "none"] {
            assert!(!opens(&at(path)), "{path}");
        }
        assert!(!opens(place.path()));
    }
}
