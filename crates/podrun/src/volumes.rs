//! Where a Pod's volumes are on this machine, and which of them a container binds where.
//!
//! Decides what is created: emptyDirs at once, host paths when a container is made, as the container runtime
//! does. A Secret's volume is the directory that the user gave, so that a key that changes there changes in the
//! container, as on a real node. What the platform grants for a FUSE device is here too, since it is a mount: the node's mount root.
//! It does not know how mounts propagate; it only passes on what the Pod says.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use fluid_sidecar_layout::contract::MOUNT_ROOT;

use crate::node::Node;
use crate::oci::Bind;
use crate::pod::{Container, Propagation, Source, Volume};
use crate::secrets::Secrets;

/// The volumes of one Pod.
#[derive(Debug)]
pub struct Volumes {
    paths: BTreeMap<String, PathBuf>,
    /// Those that no container can write to.
    read_only: BTreeSet<String>,
    mount_root: PathBuf,
}

impl Volumes {
    /// Finds or makes every volume; `provided` are the directories of `--volume`.
    pub fn new(
        volumes: &[Volume],
        provided: &[(String, PathBuf)],
        secrets: Secrets<'_>,
        node: &Node,
    ) -> Result<Self> {
        if let Some((name, _)) =
            provided.iter().find(|(name, _)| volumes.iter().all(|volume| volume.name != *name))
        {
            bail!("--volume {name}: the Pod has no such volume");
        }
        let mut paths = BTreeMap::new();
        for Volume { name, source } in volumes {
            let given = provided.iter().find(|(provided, _)| provided == name);
            let path = match (given, source) {
                (Some((_, directory)), _) => directory
                    .canonicalize()
                    .with_context(|| format!("--volume {name}={}", directory.display()))?,
                (None, Source::EmptyDir) => {
                    let directory = node.directory(&format!("volumes/{name}"))?;
                    fs::set_permissions(&directory, fs::Permissions::from_mode(0o777))?;
                    directory
                }
                (None, Source::HostPath { path, kind }) => {
                    let path = node.host_path(path);
                    check(&path, kind).with_context(|| format!("volume {name}"))?;
                    path
                }
                (None, Source::Secret { name: secret, items, optional }) => {
                    let directory = || node.directory(&format!("volumes/{name}"));
                    secret_files(secrets, secret, items.as_deref(), *optional, directory)
                        .with_context(|| format!("volume {name}: secret"))?
                }
                (None, Source::Other(kind)) => {
                    bail!(
                        "volume {name} is of kind {kind}, which podrun cannot provide: give --volume {name}=DIR"
                    )
                }
            };
            paths.insert(name.clone(), path);
        }
        let secret = |volume: &&Volume| matches!(volume.source, Source::Secret { .. });
        let read_only = volumes.iter().filter(secret).map(|volume| volume.name.clone()).collect();
        Ok(Volumes { paths, read_only, mount_root: node.host_path(MOUNT_ROOT) })
    }

    /// What the container binds, parents before what lies below them.
    pub fn binds(&self, container: &Container) -> Result<Vec<Bind>> {
        let mut binds: Vec<Bind> = ["/etc/hosts", "/etc/resolv.conf"]
            .into_iter()
            .filter(|path| Path::new(path).exists())
            .map(|path| Bind {
                source: path.into(),
                destination: path.to_owned(),
                read_only: true,
                propagation: Propagation::None,
            })
            .collect();
        for mount in &container.mounts {
            let mut source = self.paths.get(&mount.volume).context("unknown volume")?.clone();
            source.extend(mount.sub_path.as_deref());
            if !source.is_file() {
                // Of a file system whose server died this says "File exists", as kubelet's runtime does.
                fs::create_dir_all(&source)
                    .with_context(|| format!("volume {}: cannot make {}", mount.volume, source.display()))?;
            }
            let read_only = mount.read_only || self.read_only.contains(&mount.volume);
            let propagation = mount.propagation;
            binds.push(Bind { source, destination: mount.path.clone(), read_only, propagation });
        }
        if container.vfuse {
            fs::create_dir_all(&self.mount_root).context("cannot make the node's mount root")?;
            binds.retain(|bind| bind.destination.trim_end_matches('/') != MOUNT_ROOT);
            binds.push(Bind {
                source: self.mount_root.clone(),
                destination: MOUNT_ROOT.to_owned(),
                read_only: false,
                propagation: Propagation::Bidirectional,
            });
        }
        binds.sort_by_key(|bind| Path::new(&bind.destination).components().count());
        Ok(binds)
    }
}

/// The Secret's own directory, or a new one with copies of those keys that the volume lists.
fn secret_files(
    secrets: Secrets<'_>,
    secret: &str,
    items: Option<&[(String, String)]>,
    optional: bool,
    new: impl Fn() -> Result<PathBuf>,
) -> Result<PathBuf> {
    let (Some(given), None) = (secrets.directory(secret, optional)?, items) else {
        let directory = new()?;
        for (key, path) in items.into_iter().flatten() {
            let Some(value) = secrets.value(secret, key, optional)? else { continue };
            let file = directory.join(path);
            if let Some(parent) = file.parent() {
                fs::create_dir_all(parent)?;
            }
            fs::write(&file, value).with_context(|| format!("cannot write {}", file.display()))?;
        }
        return Ok(directory);
    };
    given.canonicalize().with_context(|| format!("--secret {secret}={}", given.display()))
}

/// kubelet's check of `hostPath.type`, before any container is made.
fn check(path: &Path, kind: &str) -> Result<()> {
    match kind {
        "" => {}
        "DirectoryOrCreate" => fs::create_dir_all(path).context("hostPath type DirectoryOrCreate")?,
        "Directory" if path.is_dir() => {}
        "File" if path.is_file() => {}
        "Directory" | "File" => {
            bail!("hostPath type {kind}: {} is none; make it below a --node-root", path.display())
        }
        other => bail!("hostPath type {other}: podrun does not support it"),
    }
    Ok(())
}
