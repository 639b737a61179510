//! Reads and changes the mount table.
//!
//! There are three ways to a descriptor on which the file system is served ([`crate::fuse_fd`]): another process mounts and
//! passes it on, mount(2), or `fusermount3`. mount(2) needs no helper program, has the type `fuse.<subtype>`, and its
//! error numbers can be explained; `fusermount3` is tried where mount(2) is forbidden. This module detaches only its own
//! mounts, dead FUSE mounts, and those that `unmount` names. It does not know which files are served.

use std::ffi::{CString, OsString};
use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use fluid_sidecar_layout::contract::VFUSE_RESOURCE;
use fluid_sidecar_layout::contract::message::NO_DEVICE;
use log::{debug, error, info, warn};
use rustix::fs::{AtFlags, StatxFlags, statx};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};
use rustix::process::{getgid, getuid};

use crate::fuse_fd::{self, FuseFd, HELPER};
use crate::hold::Held;
use crate::{guard, nofollow, probe};

const DEVICE: &str = "/dev/fuse";
const MOUNTINFO: &str = "/proc/self/mountinfo";

/// A line of `/proc/self/mountinfo`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountEntry {
    /// The number of this mount. A mount of the same file system in another mount namespace has another one.
    pub id: u64,
    /// `major:minor` of the mounted file system.
    pub device: String,
    /// The directory it is mounted on.
    pub path: PathBuf,
    /// The file system type, such as `ext4` or `fuse.fluid-fuse`.
    pub kind: String,
}

impl MountEntry {
    fn parse(line: &[u8]) -> Option<Self> {
        let mut fields = line.split(|byte| *byte == b' ');
        let text = |field: &[u8]| String::from_utf8_lossy(field).into_owned();
        let id = text(fields.next()?).parse().ok()?;
        let device = text(fields.nth(1)?);
        let path = PathBuf::from(unescape(fields.nth(1)?));
        fields.find(|field| field == b"-")?;
        Some(MountEntry { id, device, path, kind: text(fields.next()?) })
    }

    /// The lines of a mount table that can be understood.
    pub fn all(mountinfo: &[u8]) -> impl DoubleEndedIterator<Item = MountEntry> {
        mountinfo.split(|byte| *byte == b'\n').filter_map(MountEntry::parse)
    }

    /// Whether a FUSE file system is mounted.
    pub fn is_fuse(&self) -> bool {
        self.kind == "fuse" || self.kind.starts_with("fuse.")
    }
}

/// Space, tab, line feed, backslash and `#` are written as `\` and three octal digits.
fn unescape(field: &[u8]) -> OsString {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        let code = tail.get(..3).filter(|_| first == b'\\');
        let code = code.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        bytes.push(code.unwrap_or(first));
        rest = if code.is_some() { &tail[3..] } else { tail };
    }
    OsString::from_vec(bytes)
}

/// The mount on the path, the topmost if there are several.
fn topmost(mountinfo: &[u8], path: &Path) -> Option<MountEntry> {
    MountEntry::all(mountinfo).rfind(|entry| entry.path == path)
}

/// The mount on the directory at this moment.
pub fn mounted_at(directory: &Path) -> io::Result<Option<MountEntry>> {
    Ok(topmost(&fs::read(MOUNTINFO)?, &absolute(directory)))
}

/// The path as the mount table writes it, if none of its components is a link, which [`prepare`] makes sure of. Asks
/// nothing of the file system that is mounted there, which may be dead, and works for a directory that does not exist yet.
pub fn absolute(path: &Path) -> PathBuf {
    nofollow::absolute(path)
}

/// Mounts on one directory, one upon the other, after which the lower ones are taken away: each is a sidecar that
/// ended unexpectedly.
const STACK_MAX: usize = 64;

/// Makes the directory ready to be mounted on: it exists, and no mount there has a server. A dead mount is taken away,
/// or with a guard mounted upon: containers that have the dead one see what is mounted there later.
pub fn prepare(path: &Path, guarded: bool) -> anyhow::Result<()> {
    while let Some(entry) = mounted_at(path)? {
        match probe::stat(path, &entry.device) {
            Err(error) if probe::is_dead(&error) => {
                if guarded && at(path)?.len() < STACK_MAX {
                    return Ok(());
                }
                warn!("detaching the {} that a dead process left at {}", entry.kind, path.display());
                detach(path)?;
            }
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                bail!("{} has a {} mounted already, which does not answer", path.display(), entry.kind)
            }
            _ => bail!("{} has a {} mounted already", path.display(), entry.kind),
        }
    }
    nofollow::make_directory(path)
        .with_context(|| format!("cannot use the directory {} to mount on", path.display()))?;
    if guarded && let Err(error) = guard::mount(path) {
        warn!("no guard is mounted below {}: {error:#}", path.display());
    }
    Ok(())
}

/// The mounts on the directory, from the bottom.
fn at(path: &Path) -> io::Result<Vec<MountEntry>> {
    listed(|entry| entry.path == path)
}

/// The mounts below a directory, in the order in which they were made.
pub(crate) fn below(directory: &Path) -> io::Result<Vec<MountEntry>> {
    listed(|entry| entry.path != directory && entry.path.starts_with(directory))
}

fn listed(which: impl Fn(&MountEntry) -> bool) -> io::Result<Vec<MountEntry>> {
    Ok(MountEntry::all(&fs::read(MOUNTINFO)?).filter(which).collect())
}

/// Makes a directory that nothing is mounted on useless to whoever is not root, so that an application that
/// comes before the mount, or stays after it, gets an error and does not take it for a Dataset without files.
pub fn close(path: &Path) {
    let Ok(directory) = nofollow::directory(path) else { return };
    let path_by_descriptor = nofollow::by_descriptor(&directory);
    if !fs::read_dir(&path_by_descriptor).is_ok_and(|mut entries| entries.next().is_none()) {
        return;
    }
    if let Err(error) = fs::set_permissions(path_by_descriptor, Permissions::from_mode(0o000)) {
        debug!("{} stays open to everybody while nothing is mounted: {error}", path.display());
    }
}

/// A mount of ours; it is taken away when this is dropped.
#[derive(Debug)]
pub struct Mount {
    path: PathBuf,
    /// Nothing if it cannot be seen from here.
    device: Option<String>,
    /// Somebody else unmounts.
    is_theirs: bool,
}

impl Mount {
    /// Mounts on a directory that was [prepared](prepare), given as [`absolute`] has it. Until somebody
    /// answers the requests of the descriptor, whoever touches the directory waits.
    pub fn new(
        path: PathBuf,
        source: &str,
        subtype: &str,
        read_only: bool,
    ) -> anyhow::Result<(Self, OwnedFd)> {
        let descriptor = match attach(&path, source, subtype, read_only) {
            Ok(descriptor) => descriptor,
            Err(refusal) if matches!(refusal.errno, Errno::PERM | Errno::ACCESS) => {
                fuse_fd::from_helper(&path, source, subtype, read_only).map_err(|helper| {
                    anyhow::anyhow!(
                        "{refusal}; {HELPER}: {helper:#}; and no descriptor was given (--fuse-fd)"
                    )
                })?
            }
            Err(refusal) => bail!(refusal),
        };
        let device = match mounted_at(&path) {
            // The mount of the table must be the one that is found without links: the helper may have followed one.
            Ok(Some(entry)) if is_device(&path, &entry.device) => entry.device,
            // Without it the mount cannot be told from another that is there later.
            other => {
                detach(&path)?;
                bail!("{} does not show the mount on {}: {other:?}", MOUNTINFO, path.display());
            }
        };
        Ok((Mount { path, device: Some(device), is_theirs: false }, descriptor))
    }

    /// The mount that somebody else made, with the descriptor that it is served on. It need not be visible
    /// from here.
    pub fn handed_over(path: PathBuf, from: &FuseFd) -> anyhow::Result<(Self, OwnedFd, Option<Held>)> {
        let (descriptor, held) = fuse_fd::handed_over(from).with_context(|| format!("--fuse-fd {from}"))?;
        let device = mounted_at(&path)?.filter(MountEntry::is_fuse).map(|entry| entry.device);
        Ok((Mount { path, device, is_theirs: true }, descriptor, held))
    }

    /// `major:minor` of what is mounted, if it can be seen from here.
    pub fn device(&self) -> Option<&str> {
        self.device.as_deref()
    }

    /// Takes the mount away, if it is ours and still there. Whether it has gone.
    pub fn detach(&self) -> anyhow::Result<bool> {
        if self.is_theirs {
            return Ok(false);
        }
        match mounted_at(&self.path)? {
            Some(entry) if Some(&entry.device) == self.device.as_ref() => detach(&self.path)?,
            _ => {}
        }
        Ok(true)
    }

    /// Takes away the mount with the guard, and the dead ones between them. Whether it has gone.
    pub fn detach_all(&self) -> anyhow::Result<bool> {
        let gone = self.detach()?;
        while gone && mounted_at(&self.path)?.is_some_and(|entry| entry.is_fuse()) {
            detach(&self.path)?;
        }
        Ok(gone)
    }

    /// Leaves the mount behind, for the next process to mount upon; or one that others have taken away: what is mounted there
    /// now may have the number of its device.
    pub fn leave(mut self) {
        self.is_theirs = true;
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if let Err(error) = self.detach() {
            error!("{error:#}");
        }
    }
}

/// Whether the directory is on a device, as far as the kernel knows without asking who serves it.
fn is_device(path: &Path, device: &str) -> bool {
    let stat = nofollow::directory(path).and_then(|directory| {
        let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
        Ok(statx(directory, "", flags, StatxFlags::empty())?)
    });
    stat.is_ok_and(|stat| format!("{}:{}", stat.stx_dev_major, stat.stx_dev_minor) == device)
}

/// Mounts with mount(2), on the very directory that the path names without links.
pub(crate) fn attach(path: &Path, source: &str, subtype: &str, read_only: bool) -> Result<OwnedFd, Refusal> {
    let what = || format!("cannot mount on {}", path.display());
    let directory =
        nofollow::directory(path).map_err(|error| Refusal::new(&error, what(), |_| String::new()))?;
    let fuse = File::options().read(true).write(true).open(DEVICE);
    let fuse = fuse.map_err(|error| Refusal::new(&error, NO_DEVICE.into(), device_needs))?;
    let options = format!(
        "fd={},rootmode=40000,user_id={},group_id={},allow_other,default_permissions",
        fuse.as_raw_fd(),
        getuid().as_raw(),
        getgid().as_raw(),
    );
    let options = CString::new(options).unwrap_or_default();
    let mut flags = MountFlags::NOSUID | MountFlags::NODEV;
    flags.set(MountFlags::RDONLY, read_only);
    let target = nofollow::by_descriptor(&directory);
    match rustix::mount::mount(source, target, format!("fuse.{subtype}"), flags, options.as_c_str()) {
        Ok(()) => Ok(fuse.into()),
        Err(errno) => Err(Refusal::new(&errno.into(), what(), mount_needs)),
    }
}

/// Takes away every FUSE mount on the directory.
pub fn unmount(directory: &Path) -> anyhow::Result<()> {
    let path = absolute(directory);
    let mut found = false;
    while let Some(entry) = mounted_at(&path)? {
        if !entry.is_fuse() {
            bail!("{} has a {} mounted, which is not FUSE", path.display(), entry.kind);
        }
        detach(&path)?;
        info!("unmounted the {} at {}", entry.kind, path.display());
        found = true;
    }
    if !found {
        info!("nothing is mounted at {}", path.display());
    }
    Ok(())
}

/// Plainly if nobody uses it; otherwise the name goes now and the rest with the last user.
pub(crate) fn detach(path: &Path) -> anyhow::Result<()> {
    let (_parent, named) =
        nofollow::in_parent(path).with_context(|| format!("cannot unmount {}", path.display()))?;
    detach_by(path, &named)
}

/// The same for a directory that is reached by a descriptor.
pub(crate) fn detach_by(path: &Path, named: &Path) -> anyhow::Result<()> {
    match rustix::mount::unmount(named, UnmountFlags::NOFOLLOW) {
        Ok(()) => return Ok(()),
        Err(Errno::BUSY) => info!("{} is in use: detaching it", path.display()),
        Err(_) => {}
    }
    match rustix::mount::unmount(named, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        Ok(()) => Ok(()),
        Err(errno) => {
            let what = format!("cannot unmount {}", path.display());
            let refusal = Refusal::new(&errno.into(), what, mount_needs);
            match errno == Errno::PERM && fuse_fd::unmount(path).is_ok() {
                true => Ok(()),
                false => bail!(refusal),
            }
        }
    }
}

/// Why the kernel did not let us, and what it would take.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {error}{needs}")]
pub(crate) struct Refusal {
    what: String,
    error: String,
    errno: Errno,
    needs: String,
}

impl Refusal {
    fn new(error: &io::Error, what: String, needs: fn(Errno) -> String) -> Self {
        let errno = Errno::from_raw_os_error(error.raw_os_error().unwrap_or_default());
        Refusal { what, error: error.to_string(), errno, needs: needs(errno) }
    }
}

fn device_needs(errno: Errno) -> String {
    match errno {
        Errno::NOENT => format!(": the container needs a FUSE device, e.g. by the limit {VFUSE_RESOURCE}"),
        Errno::ACCESS => ": the device's own mode must let this user read and write it (0666)".to_string(),
        Errno::PERM => ": the container's device rules must allow the character device 10:229".to_string(),
        Errno::NODEV | Errno::NXIO => ": the node's kernel needs the module fuse".to_string(),
        _ => String::new(),
    }
}

fn mount_needs(errno: Errno) -> String {
    match errno {
        Errno::PERM => ": it needs CAP_SYS_ADMIN in the user namespace that owns the mount namespace \
            (securityContext.capabilities.add: [SYS_ADMIN])"
            .to_string(),
        Errno::ACCESS => {
            ": the container's security profile (AppArmor, SELinux) must allow mounts".to_string()
        }
        Errno::NODEV => ": the node's kernel needs the module fuse".to_string(),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[u8] = br"22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,relatime shared:1 master:2 - ext4 /dev/vda rw
40 27 0:50 / /mnt/a\040b\134c ro,nosuid - tmpfs tmpfs rw
41 40 0:51 / /mnt/a\040b\134c ro,nosuid shared:7 - fuse.fluid-fuse file:///x\040- ro,user_id=0
42 27 0:52 / /plain rw - fuse x rw
43 27 0:53 / /block rw - fuseblk x rw
broken
";

    #[test]
    fn the_topmost_mount_counts() {
        let top = topmost(TABLE, Path::new(r"/mnt/a b\c")).unwrap();
        assert_eq!(
            (top.device.as_str(), top.kind.as_str(), top.is_fuse()),
            ("0:51", "fuse.fluid-fuse", true)
        );
        let fuse = |path: &str| topmost(TABLE, Path::new(path)).map(|entry| entry.is_fuse());
        assert_eq!([fuse("/"), fuse("/plain"), fuse("/block")], [Some(false), Some(true), Some(false)]);
        assert_eq!(fuse("/mnt"), None);
    }

    #[test]
    fn escapes() {
        for (written, meant) in [(r"\011\012\043", "\t\n#"), (r"a\04", r"a\04"), (r"\999\134", r"\999\")] {
            assert_eq!(unescape(written.as_bytes()), meant);
        }
        assert_eq!(unescape(b"\xff").into_vec(), b"\xff");
    }
}
