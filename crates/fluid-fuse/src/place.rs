//! The directory of one Pod on its node, among those of other Pods with the same Dataset.
//!
//! On nodes that Pods share, each Pod has a directory of its own below the Dataset's, named by the policy. The sidecar
//! mounts in it, removes it at the end, and removes those of dead Pods: a sidecar that was killed leaves its directory
//! with a dead mount. Whether a Pod is dead is told by two signs, since a sidecar that was killed may be started again
//! while its application waits:
//!
//! - every sidecar holds a lock on the file `LOCK` in its directory, and touches the file every minute (`TOUCH`);
//! - a directory whose file nobody locks, and nobody has touched for 15 minutes (`ABANDONED`), is abandoned.
//!
//! Nothing is removed but directories that are empty, lock files, and FUSE mounts without a server.

use std::ffi::OsStr;
use std::fs::{self, File, FileTimes};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, ensure};
use log::{debug, info, warn};
use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, flock, openat, unlinkat};
use rustix::io::Errno;

use crate::mount::{self, MountEntry};
use crate::{nofollow, probe};

/// The file that a living sidecar locks.
const LOCK: &str = ".fluid-fuse";

/// Time between two touches of it.
const TOUCH: Duration = Duration::from_secs(60);

/// Three times the longest pause that kubelet makes before it starts a container again (five minutes).
const ABANDONED: Duration = Duration::from_secs(15 * 60);

/// Directories that are checked in one sweep.
const SWEEP_MAX: usize = 1000;

/// Whether a directory has a name as the policy gives it: a UUID. All others are somebody else's: Fluid's own fuse Pod
/// may mount beside.
fn is_pods(name: &OsStr) -> bool {
    let name = name.as_bytes();
    name.len() == 36 && name.iter().all(|byte| byte.is_ascii_hexdigit() || *byte == b'-')
}

/// This Pod's directory. The lock lasts as long as this does.
#[derive(Debug)]
pub struct Place {
    directory: PathBuf,
    _lock: File,
}

impl Place {
    /// Locks the directory, and begins to sweep its neighbours.
    pub fn take(directory: &Path) -> anyhow::Result<Self> {
        let failed = || format!("cannot use {} as this Pod's directory", directory.display());
        let opened = nofollow::make_directory(directory).with_context(failed)?;
        let lock = lock_file(opened, true).with_context(failed)?;
        // Another sidecar of the Pod may have the same directory.
        flock(&lock, FlockOperation::NonBlockingLockShared).with_context(failed)?;
        touch(&lock)?;
        let (touched, own) = (lock.try_clone()?, directory.to_path_buf());
        thread::spawn(move || {
            sweep_beside(&own);
            loop {
                thread::sleep(TOUCH);
                if let Err(error) = touch(&touched) {
                    debug!("cannot touch {}: {error}", own.join(LOCK).display());
                }
            }
        });
        Ok(Place { directory: directory.to_path_buf(), _lock: lock })
    }

    /// Removes the directory with the mount point in it, on which nothing is mounted any more.
    pub fn remove(self, mountpoint: &Path) {
        // Up to the directory of the volume, which is a mount in this container.
        let remove = |path: &Path, flags| -> io::Result<()> {
            let (_parent, named) = nofollow::in_parent(path)?;
            Ok(unlinkat(rustix::fs::CWD, named, flags)?)
        };
        let is_removed = |directory: &&Path| remove(directory, AtFlags::REMOVEDIR).is_ok();
        let removed = mountpoint.ancestors().take_while(is_removed).count();
        debug!("removed {removed} directories from {} on", mountpoint.display());
        let _ = remove(&self.directory.join(LOCK), AtFlags::empty());
        match remove(&self.directory, AtFlags::REMOVEDIR) {
            Ok(()) => {}
            // The Pod's other sidecar removes it.
            Err(error) => debug!("{} stays: {error}", self.directory.display()),
        }
    }
}

fn touch(lock: &File) -> io::Result<()> {
    lock.set_times(FileTimes::new().set_modified(SystemTime::now()))
}

fn open_directory(parent: impl AsFd, name: &OsStr) -> Result<OwnedFd, Errno> {
    openat(parent, name, OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}

/// The lock file of a directory; a link to another file is refused.
fn lock_file(directory: impl AsFd, create: bool) -> Result<File, Errno> {
    let mut flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    flags.set(OFlags::CREATE, create);
    openat(directory, LOCK, flags, Mode::RUSR | Mode::WUSR).map(File::from)
}

/// Removes the abandoned directories beside this one.
fn sweep_beside(own: &Path) {
    let (Some(parent), own_name) = (own.parent(), own.file_name()) else { return };
    let entries = fs::read_dir(parent).into_iter().flatten().flatten().take(SWEEP_MAX);
    let others = entries.map(|entry| entry.file_name()).filter(|name| Some(name.as_os_str()) != own_name);
    for name in others.filter(|name| is_pods(name)) {
        match sweep(parent, &name, ABANDONED) {
            Ok(true) => info!("removed {}, which a dead Pod left", parent.join(&name).display()),
            Ok(false) => {}
            Err(error) => warn!("cannot remove {}: {error:#}", parent.join(&name).display()),
        }
    }
}

/// Removes a Pod's directory that was abandoned for this long. Whether there was such a one.
fn sweep(parent: &Path, name: &OsStr, abandoned: Duration) -> anyhow::Result<bool> {
    let is_old = |file: &File| -> io::Result<bool> {
        Ok(file.metadata()?.modified()?.elapsed().is_ok_and(|age| age >= abandoned))
    };
    let parent_fd = nofollow::directory(parent)?;
    let Ok(directory) = open_directory(&parent_fd, name) else { return Ok(false) };
    let directory = File::from(directory);
    let lock = match lock_file(&directory, false) {
        Ok(lock) => lock,
        Err(Errno::NOENT) => {
            // No sidecar of ours was there yet. It is removed only if it is empty.
            return Ok(is_old(&directory)? && unlinkat(&parent_fd, name, AtFlags::REMOVEDIR).is_ok());
        }
        Err(_) => return Ok(false),
    };
    if !lock.metadata()?.is_file()
        || !is_old(&lock)?
        || flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err()
    {
        return Ok(false);
    }
    let path = parent.join(name);
    let mounts = mount::below(&path)?;
    for entry in mounts.iter().rev() {
        ensure!(entry.is_fuse(), "{} has a {} mounted", entry.path.display(), entry.kind);
        ensure!(is_dead(entry), "the {} at {} has a server", entry.kind, entry.path.display());
        // By the descriptor: nobody can have put a link in place of the directory.
        let below = entry.path.strip_prefix(&path).unwrap_or(Path::new(""));
        mount::detach_by(&entry.path, &nofollow::by_descriptor(&directory).join(below))?;
        // Directories from the mount point up to the Pod's; the next mount may be on the same one.
        for directory_below in below.ancestors().filter(|below| !below.as_os_str().is_empty()) {
            if unlinkat(&directory, directory_below, AtFlags::REMOVEDIR).is_err() {
                break;
            }
        }
    }
    for entry in fs::read_dir(format!("/proc/self/fd/{}", directory.as_raw_fd()))?.flatten() {
        // A mount point without its mount.
        let _ = unlinkat(&directory, entry.file_name(), AtFlags::REMOVEDIR);
    }
    unlinkat(&directory, LOCK, AtFlags::empty())?;
    unlinkat(&parent_fd, name, AtFlags::REMOVEDIR)?;
    Ok(true)
}

fn is_dead(entry: &MountEntry) -> bool {
    probe::stat(&entry.path, &entry.device).is_err_and(|error| probe::is_dead(&error))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    const NAME: &str = "b3b0dcd5-6a4b-4f0e-8d5c-3f0f6a2b1c9d";

    fn sweeps(parent: &Path, name: &str) -> bool {
        sweep(parent, OsStr::new(name), Duration::ZERO).unwrap()
    }

    #[test]
    fn a_place_that_somebody_holds_stays() {
        let parent = tempfile::tempdir().unwrap();
        let directory = parent.path().join(NAME);
        let place = Place::take(&directory).unwrap();
        fs::create_dir(directory.join("thin-fuse")).unwrap();
        assert!(!sweeps(parent.path(), NAME));
        drop(place);
        // The thread that touches it holds the same lock until its process ends.
        assert!(!sweeps(parent.path(), NAME));
    }

    #[test]
    fn what_a_dead_sidecar_left_goes_when_it_is_old() {
        let parent = tempfile::tempdir().unwrap();
        let directory = parent.path().join(NAME);
        fs::create_dir_all(directory.join("thin-fuse")).unwrap();
        File::create(directory.join(LOCK)).unwrap();
        assert!(!sweep(parent.path(), OsStr::new(NAME), ABANDONED).unwrap());
        assert!(directory.exists());
        assert!(sweeps(parent.path(), NAME) && !directory.exists());
    }

    #[test]
    fn only_empty_directories_of_pods_go_without_a_lock_file() {
        let parent = tempfile::tempdir().unwrap();
        fs::create_dir(parent.path().join(NAME)).unwrap();
        let full = NAME.replace('b', "c");
        fs::create_dir_all(parent.path().join(&full).join("juicefs-fuse")).unwrap();
        assert!(!sweeps(parent.path(), &full) && sweeps(parent.path(), NAME));
        assert!(is_pods(OsStr::new(NAME)) && !is_pods(OsStr::new("thin-fuse")));
    }

    #[test]
    fn files_and_links_stay_whatever_their_names() {
        let parent = tempfile::tempdir().unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        File::create(elsewhere.path().join(LOCK)).unwrap();
        symlink(elsewhere.path(), parent.path().join(NAME)).unwrap();
        assert!(!sweeps(parent.path(), NAME));
        let linked = NAME.replace('b', "c");
        fs::create_dir(parent.path().join(&linked)).unwrap();
        symlink(elsewhere.path().join(LOCK), parent.path().join(&linked).join(LOCK)).unwrap();
        assert!(!sweeps(parent.path(), &linked));
        assert!(elsewhere.path().join(LOCK).exists() && parent.path().join(&linked).exists());
        let kept = NAME.replace('b', "d");
        fs::create_dir(parent.path().join(&kept)).unwrap();
        for file in [LOCK, "data"] {
            File::create(parent.path().join(&kept).join(file)).unwrap();
        }
        assert!(sweep(parent.path(), OsStr::new(&kept), Duration::ZERO).is_err());
        assert!(parent.path().join(&kept).join("data").exists());
    }
}
