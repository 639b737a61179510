//! The machine that a Pod runs on: a mount namespace of podrun's own, and in it a node's root for hostPath.
//!
//! Everything podrun makes lies on one tmpfs that only this namespace has, so that nothing of it can be left
//! behind but an empty directory. The node's root alone is a shared mount: what a container mounts there
//! reaches the other containers, as on a real node whose root is shared. All else is private.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use tempfile::TempDir;

/// The node. Its mounts and its directory go when it is dropped.
#[derive(Debug)]
pub struct Node {
    work: TempDir,
}

const NOTHING: Option<&str> = None;

impl Node {
    /// Moves this process, which must have one thread, into a mount namespace of its own, and adopts the
    /// containers' processes. `root` is the node's root, or none for an empty one.
    pub fn new(root: Option<&Path>) -> Result<Self> {
        ensure!(nix::unistd::geteuid().is_root(), "needs root, to make mounts and containers");
        let root =
            root.map(|root| root.canonicalize().with_context(|| format!("--node-root {}", root.display())));
        let root = root.transpose()?;
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
        bind(root.as_deref().unwrap_or(&path), &path)?;
        mount(NOTHING, &path, NOTHING, MsFlags::MS_REC | MsFlags::MS_SHARED, NOTHING)
            .context("cannot make the node's root a shared mount")?;
        Ok(node)
    }

    /// A path of the node as a path of this machine.
    pub fn host_path(&self, path: &str) -> PathBuf {
        self.work.path().join("node").join(path.trim_start_matches('/'))
    }

    /// A new directory of podrun's own, below its working directory.
    pub fn directory(&self, path: &str) -> Result<PathBuf> {
        let path = self.work.path().join(path);
        std::fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(path)
    }

    /// A name that no other podrun on this machine has.
    pub fn name(&self) -> String {
        self.work.path().file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = umount2(self.work.path(), MntFlags::MNT_DETACH);
    }
}

/// Binds a directory, with what is mounted below it, on another.
pub fn bind(source: &Path, target: &Path) -> Result<()> {
    mount(Some(source), target, NOTHING, MsFlags::MS_BIND | MsFlags::MS_REC, NOTHING)
        .with_context(|| format!("cannot bind {} on {}", source.display(), target.display()))
}

/// Moves a mount to another place in podrun's mount namespace.
pub fn move_mount(source: &Path, target: &Path) -> Result<()> {
    mount(Some(source), target, NOTHING, MsFlags::MS_MOVE, NOTHING)
        .with_context(|| format!("cannot move the mount {}", source.display()))
}

/// An overlay of directories, the topmost first, that can be written to and forgets what was written.
#[derive(Debug)]
pub struct Overlay {
    base: PathBuf,
    /// Where it is mounted.
    pub root: PathBuf,
}

impl Overlay {
    /// Mounts the overlay at `base/root`.
    pub fn new(layers: &[PathBuf], base: PathBuf) -> Result<Self> {
        let [upper, work, root] = ["upper", "work", "root"].map(|name| base.join(name));
        for directory in [&upper, &work, &root] {
            std::fs::create_dir_all(directory)
                .with_context(|| format!("cannot make {}", directory.display()))?;
        }
        let lower: Vec<_> = layers.iter().map(|layer| layer.to_string_lossy()).collect();
        let options =
            format!("lowerdir={},upperdir={},workdir={}", lower.join(":"), upper.display(), work.display());
        mount(Some("overlay"), &root, Some("overlay"), MsFlags::empty(), Some(options.as_str()))
            .context("cannot mount an overlay")?;
        Ok(Overlay { base, root })
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        let _ = umount2(&self.root, MntFlags::MNT_DETACH);
        let _ = std::fs::remove_dir_all(&self.base);
    }
}
