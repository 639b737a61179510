//! Host paths: made of checked components, below a root.

use alloc::format;
use alloc::string::{String, ToString};
use core::fmt;

use crate::{Named as _, Runtime};

/// The absolute path on the node that one Dataset is mounted on.
///
/// Holds, however it was made: absolute, normalised (no empty, `.` or `..` component), and at least one
/// component below the mount root it was made for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MountPoint(String);

impl MountPoint {
    /// The place of a Dataset by convention.
    pub fn new(root: &str, runtime: Runtime, namespace: &str, dataset: &str) -> Result<Self, PathError> {
        for name in [namespace, dataset] {
            if !is_component(name) || name.contains('/') {
                return Err(PathError::Component(name.to_string()));
            }
        }
        Self::within(
            root,
            &format!("{root}/{runtime}/{namespace}/{dataset}/{}", runtime.facts().fuse_directory),
        )
    }

    /// The Runtime, the namespace and the name of the Dataset whose place by convention it is.
    pub fn owner(&self, root: &str) -> Option<(Runtime, &str, &str)> {
        let mut components = self.0.strip_prefix(root)?.strip_prefix('/')?.split('/');
        let mut next = || components.next();
        let (runtime, namespace, dataset, directory) = (next()?, next()?, next()?, next()?);
        let runtime = Runtime::from_name(runtime)?;
        let conforms = directory == runtime.facts().fuse_directory && next().is_none();
        conforms.then_some((runtime, namespace, dataset))
    }

    /// A place that somebody else names, such as `fluid_path` of a PersistentVolume.
    pub fn within(root: &str, path: &str) -> Result<Self, PathError> {
        check_absolute(root)?;
        check_absolute(path)?;
        match path.strip_prefix(root).and_then(|rest| rest.strip_prefix('/')) {
            Some(rest) if !rest.is_empty() => Ok(MountPoint(path.to_string())),
            _ => Err(PathError::Outside { path: path.to_string(), root: root.to_string() }),
        }
    }

    /// The same place below a directory of its own for one Pod: `above/…` becomes `above/pod/…`.
    pub fn for_pod(&self, above: &str, pod: &str) -> Result<Self, PathError> {
        if !is_component(pod) || pod.contains('/') {
            return Err(PathError::Component(pod.to_string()));
        }
        match self.0.strip_prefix(above).filter(|below| below.starts_with('/')) {
            Some(below) => Ok(MountPoint(format!("{above}/{pod}{below}"))),
            None => Err(PathError::Outside { path: self.0.clone(), root: above.to_string() }),
        }
    }

    /// The path as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The directory above.
    pub fn parent(&self) -> &str {
        self.0.rsplit_once('/').map_or("/", |(parent, _)| parent)
    }
}

impl fmt::Display for MountPoint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// Why a path cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathError {
    /// Not a name of a file: empty, `.`, `..`, or with a control character.
    Component(String),
    /// Not absolute, or with a component as above.
    NotNormal(String),
    /// Not below the mount root.
    Outside {
        /// The path.
        path: String,
        /// The mount root that it ought to be under.
        root: String,
    },
}

impl fmt::Display for PathError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PathError::Component(name) => write!(formatter, "{name:?} cannot be part of a host path"),
            PathError::NotNormal(path) => {
                write!(formatter, "{path:?} must be absolute, without empty, \".\" or \"..\" components")
            }
            PathError::Outside { path, root } => write!(formatter, "{path:?} is not below {root:?}"),
        }
    }
}

impl core::error::Error for PathError {}

/// A path below a directory, without empty components and `.`; `..` is refused.
pub fn below(path: &str) -> Result<String, PathError> {
    let mut normal = String::new();
    for component in path.split('/').filter(|component| !matches!(*component, "" | ".")) {
        if !is_component(component) {
            return Err(PathError::Component(component.to_string()));
        }
        if !normal.is_empty() {
            normal.push('/');
        }
        normal.push_str(component);
    }
    Ok(normal)
}

/// Checks that a path is absolute, normalised and not the root directory itself.
pub fn check_absolute(path: &str) -> Result<(), PathError> {
    match path.strip_prefix('/') {
        Some(rest) if rest.split('/').all(is_component) => Ok(()),
        _ => Err(PathError::NotNormal(path.to_string())),
    }
}

fn is_component(name: &str) -> bool {
    !matches!(name, "" | "." | "..") && !name.chars().any(char::is_control)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::MOUNT_ROOT;

    #[test]
    fn paths_of_every_runtime_are_below_the_root() {
        for runtime in Runtime::ALL {
            let path = MountPoint::new(MOUNT_ROOT, *runtime, "ns", "data").unwrap();
            assert_eq!(path.owner(MOUNT_ROOT), Some((*runtime, "ns", "data")));
            let deeper = MountPoint::within(MOUNT_ROOT, &format!("{path}/deeper")).unwrap();
            assert_eq!(deeper.owner(MOUNT_ROOT), None);
            assert_eq!(MountPoint::within(MOUNT_ROOT, path.as_str()), Ok(path));
            assert_eq!(Runtime::from_name(runtime.name()), Some(*runtime));
        }
        assert_eq!(Runtime::from_name("Thin"), None);
    }

    #[test]
    fn nothing_climbs_out() {
        for (namespace, dataset) in [("..", "d"), ("a/b", "d"), ("", "d"), ("ns", "."), ("ns", "d\n")] {
            let path = MountPoint::new(MOUNT_ROOT, Runtime::Thin, namespace, dataset);
            assert!(path.is_err(), "{path:?}");
        }
        for path in
            ["/runtime-mnt", "/runtime-mnt/", "/runtime-mntx/a", "/runtime-mnt/../etc", "runtime-mnt/a"]
        {
            assert!(MountPoint::within(MOUNT_ROOT, path).is_err(), "{path}");
        }
        assert_eq!(below("./b//c/").as_deref(), Ok("b/c"));
        assert!(below("b/../../c").is_err());
        let mount_point = MountPoint::within(MOUNT_ROOT, "/runtime-mnt/a/b").unwrap();
        let own = |above, pod| mount_point.for_pod(above, pod);
        assert_eq!(own("/runtime-mnt/a", "uid").unwrap().as_str(), "/runtime-mnt/a/uid/b");
        for (above, pod) in
            [("/runtime-mnt/a", ".."), ("/runtime-mnt/a", "x/y"), ("/runtime-mnt/a/b", "x"), ("/mnt", "x")]
        {
            assert!(own(above, pod).is_err(), "{above} {pod}");
        }
    }
}
