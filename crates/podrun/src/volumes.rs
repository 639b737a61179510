//! Where a Pod's volumes are on this machine, and which of them a container binds where.
//!
//! Decides what is created: emptyDirs at once, host paths when a container is made, as the container runtime
//! does. What the platform grants for a FUSE device is here too, since it is a mount: the node's mount root.
//! It does not know how mounts propagate; it only passes on what the Pod says.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use fluid_sidecar_layout::MOUNT_ROOT;

use crate::node::Node;
use crate::oci::Bind;
use crate::pod::{Container, Propagation, Source, Volume};

/// The volumes of one Pod.
#[derive(Debug)]
pub struct Volumes {
    paths: BTreeMap<String, PathBuf>,
    mount_root: PathBuf,
}

impl Volumes {
    /// Finds or makes every volume; `provided` are the directories of `--volume`.
    pub fn new(volumes: &[Volume], provided: &[(String, PathBuf)], node: &Node) -> Result<Self> {
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
                (None, Source::Other(kind)) => {
                    bail!(
                        "volume {name} is of kind {kind}, which podrun cannot provide: give --volume {name}=DIR"
                    )
                }
            };
            paths.insert(name.clone(), path);
        }
        Ok(Volumes { paths, mount_root: node.host_path(MOUNT_ROOT) })
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
            let (read_only, propagation) = (mount.read_only, mount.propagation);
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
