//! The machine that a Pod runs on: a mount namespace of podrun's own, and in it a node's root for hostPath.
//!
//! All that podrun makes lies on one tmpfs that only this namespace has, so nothing of it can be left behind but an
//! empty directory. The node's root alone is a shared mount: what a container mounts there reaches the other
//! containers, as on a real node whose root is shared. All else is private.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use tempfile::TempDir;

/// The node. Its mounts and its directory go when it is dropped.
#[derive(Debug)]
pub(crate) struct Node {
    work: TempDir,
}

const NOTHING: Option<&str> = None;

impl Node {
    /// Moves this process, which must have one thread, into a mount namespace of its own, and adopts the
    /// containers' processes. `root` is the node's root, or none for an empty one.
    pub(crate) fn new(root: Option<&Path>) -> Result<Self> {
        ensure!(nix::unistd::geteuid().is_root(), "needs root, to make mounts and containers");
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS)
            .context("needs CAP_SYS_ADMIN, to make a mount namespace")?;
        mount(NOTHING, "/", NOTHING, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NOTHING)
            .context("cannot make the mounts private")?;
        nix::sys::prctl::set_child_subreaper(true).context("cannot become a subreaper")?;
        let work = tempfile::Builder::new().prefix("podrun-").tempdir().context("cannot make a directory")?;
        mount(Some("podrun"), work.path(), Some("tmpfs"), MsFlags::empty(), Some("mode=0755"))
            .context("cannot mount a tmpfs")?;
        let node = Node { work };
        let path = node.directory("node")?;
        let root = root.unwrap_or(&path);
        mount(Some(root), &path, NOTHING, MsFlags::MS_BIND | MsFlags::MS_REC, NOTHING)
            .with_context(|| format!("cannot make {} the node's root", root.display()))?;
        mount(NOTHING, &path, NOTHING, MsFlags::MS_REC | MsFlags::MS_SHARED, NOTHING)
            .context("cannot make the node's root a shared mount")?;
        Ok(node)
    }

    /// A path of the node as a path of this machine.
    pub(crate) fn host_path(&self, path: &str) -> PathBuf {
        self.work.path().join("node").join(path.trim_start_matches('/'))
    }

    /// A directory of podrun's own, below its working directory.
    pub(crate) fn directory(&self, path: &str) -> Result<PathBuf> {
        let path = self.work.path().join(path);
        fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(path)
    }

    /// A name that no other podrun on this machine has.
    pub(crate) fn name(&self) -> String {
        self.work.path().file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned())
    }

    /// Makes the root file system of the image `busybox`.
    pub(crate) fn busybox(&self) -> Result<PathBuf> {
        const PROGRAM: &str = "/bin/busybox";
        ensure!(Path::new(PROGRAM).exists(), "needs {PROGRAM} for its image: install busybox-static");
        let (bin, tmp) = (self.directory("busybox/bin")?, self.directory("busybox/tmp")?);
        fs::set_permissions(tmp, fs::Permissions::from_mode(0o1777))?;
        let program = bin.join("busybox");
        fs::copy(PROGRAM, &program).with_context(|| format!("cannot copy {PROGRAM}"))?;
        let installed = Command::new(&program).arg("--install").arg(&bin).status();
        ensure!(installed.is_ok_and(|status| status.success()), "cannot run {PROGRAM} --install");
        self.directory("busybox")
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = umount2(self.work.path(), MntFlags::MNT_DETACH);
    }
}

/// An overlay over a directory, that can be written to and forgets what was written.
#[derive(Debug)]
pub(crate) struct Overlay {
    base: PathBuf,
    /// Where it is mounted.
    pub(crate) root: PathBuf,
}

impl Overlay {
    /// Mounts the overlay at `base/root`.
    pub(crate) fn new(lower: &Path, base: PathBuf) -> Result<Self> {
        let [upper, work, root] = ["upper", "work", "root"].map(|name| base.join(name));
        for directory in [&upper, &work, &root] {
            fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
        }
        let options =
            format!("lowerdir={},upperdir={},workdir={}", lower.display(), upper.display(), work.display());
        mount(Some("overlay"), &root, Some("overlay"), MsFlags::empty(), Some(options.as_str()))
            .context("cannot mount an overlay")?;
        Ok(Overlay { base, root })
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        let _ = umount2(&self.root, MntFlags::MNT_DETACH);
        let _ = fs::remove_dir_all(&self.base);
    }
}
