//! The mount table: what is mounted where, and how our file system gets there and away again.
//!
//! It mounts with mount(2) on a descriptor of `/dev/fuse` of its own, so that no helper program is needed,
//! the type is `fuse.<subtype>`, and what fails has an error number that can be explained. It detaches only
//! what it mounted itself, dead FUSE mounts, and what `unmount` was told to. It does not know what is served.

use std::ffi::{CString, OsString};
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use fluid_sidecar_layout::VFUSE_RESOURCE;
use log::{error, info, warn};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};
use rustix::process::{getgid, getuid};

use crate::probe;

const DEVICE: &str = "/dev/fuse";
const MOUNTINFO: &str = "/proc/self/mountinfo";

/// A line of `/proc/self/mountinfo`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountEntry {
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
        let device = text(fields.nth(2)?);
        let path = PathBuf::from(unescape(fields.nth(1)?));
        fields.find(|field| field == b"-")?;
        Some(MountEntry { device, path, kind: text(fields.next()?) })
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

/// What is mounted on the path, on top if there are several.
fn topmost(mountinfo: &[u8], path: &Path) -> Option<MountEntry> {
    mountinfo.split(|byte| *byte == b'\n').filter_map(MountEntry::parse).rfind(|entry| entry.path == path)
}

/// What is mounted on the directory at this moment.
pub fn mounted_at(directory: &Path) -> io::Result<Option<MountEntry>> {
    Ok(topmost(&fs::read(MOUNTINFO)?, &canonical(directory)))
}

/// The path as the mount table writes it. Asks nothing of the file system that is mounted there, which may
/// be dead, and works for a directory that does not exist yet.
pub fn canonical(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
    match (fs::canonicalize(&absolute), absolute.parent(), absolute.file_name()) {
        (Ok(canonical), _, _) => canonical,
        (Err(_), Some(parent), Some(name)) => canonical(parent).join(name),
        (Err(_), _, _) => absolute,
    }
}

/// Makes the directory ready to be mounted on: it exists, and nothing is mounted there. A mount that a dead
/// process left is taken away.
pub fn prepare(path: &Path) -> anyhow::Result<()> {
    while let Some(entry) = mounted_at(path)? {
        match probe::stat(path, &entry.device) {
            Err(error) if error.raw_os_error() == Some(Errno::NOTCONN.raw_os_error()) => {
                warn!("detaching the {} that a dead process left at {}", entry.kind, path.display());
                detach(path)?;
            }
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                bail!("{} has a {} mounted already, which does not answer", path.display(), entry.kind)
            }
            _ => bail!("{} has a {} mounted already", path.display(), entry.kind),
        }
    }
    fs::create_dir_all(path).with_context(|| format!("cannot create the directory {}", path.display()))
}

/// A mount of ours; it is taken away when this is dropped.
#[derive(Debug)]
pub struct Mount {
    path: PathBuf,
    device: String,
}

impl Mount {
    /// Mounts on a directory that was [prepared](prepare), given as [`canonical`] has it. Until somebody
    /// answers the requests of the descriptor, whoever touches the directory waits.
    pub fn new(
        path: PathBuf,
        source: &str,
        subtype: &str,
        read_only: bool,
    ) -> anyhow::Result<(Self, OwnedFd)> {
        let fuse = File::options().read(true).write(true).open(DEVICE);
        let fuse = fuse.map_err(|error| explain(error, format!("cannot open {DEVICE}"), device_needs))?;
        let options = format!(
            "fd={},rootmode=40000,user_id={},group_id={},allow_other,default_permissions",
            fuse.as_raw_fd(),
            getuid().as_raw(),
            getgid().as_raw(),
        );
        let options = CString::new(options)?;
        let mut flags = MountFlags::NOSUID | MountFlags::NODEV;
        flags.set(MountFlags::RDONLY, read_only);
        rustix::mount::mount(source, &path, format!("fuse.{subtype}"), flags, options.as_c_str()).map_err(
            |errno| explain(errno.into(), format!("cannot mount on {}", path.display()), mount_needs),
        )?;
        let device = match mounted_at(&path) {
            Ok(Some(entry)) => entry.device,
            // Without it the mount cannot be told from another that is there later.
            other => {
                detach(&path)?;
                bail!("{} does not show the mount on {}: {other:?}", MOUNTINFO, path.display());
            }
        };
        Ok((Mount { path, device }, fuse.into()))
    }

    /// Takes the mount away, if it is still there.
    pub fn detach(&self) -> anyhow::Result<()> {
        match mounted_at(&self.path)? {
            Some(entry) if entry.device == self.device => detach(&self.path),
            _ => Ok(()),
        }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if let Err(error) = self.detach() {
            error!("{error:#}");
        }
    }
}

/// Takes away every FUSE mount on the directory.
pub fn unmount(directory: &Path) -> anyhow::Result<()> {
    let path = canonical(directory);
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
fn detach(path: &Path) -> anyhow::Result<()> {
    match rustix::mount::unmount(path, UnmountFlags::NOFOLLOW) {
        Ok(()) => return Ok(()),
        Err(Errno::BUSY) => info!("{} is in use: detaching it", path.display()),
        Err(_) => {}
    }
    match rustix::mount::unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        Ok(()) => Ok(()),
        Err(errno) => Err(explain(errno.into(), format!("cannot unmount {}", path.display()), mount_needs)),
    }
}

fn explain(error: io::Error, what: String, needs: fn(Errno) -> String) -> anyhow::Error {
    let needs = error.raw_os_error().map(|code| needs(Errno::from_raw_os_error(code))).unwrap_or_default();
    anyhow::anyhow!("{what}: {error}{needs}")
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
