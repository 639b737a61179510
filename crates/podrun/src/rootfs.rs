//! What images are made of: layers of directories that a container's overlay is mounted from.
//!
//! Decides which rule of `--image` an image's reference falls under. An executable becomes a layer upon
//! busybox; a directory is taken as it is. It pulls nothing and knows no image configuration.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};

use crate::node::{Node, bind};
use crate::pause;

/// An image.
#[derive(Clone, Debug)]
pub struct Image {
    /// Its layers, the topmost first.
    pub layers: Vec<PathBuf>,
    /// What runs when the container names no command.
    pub entrypoint: Vec<String>,
}

/// The images of one Pod.
#[derive(Debug)]
pub struct Images<'a> {
    node: &'a Node,
    rules: &'a [(String, PathBuf)],
    busybox: Option<PathBuf>,
    made: usize,
    /// What the user ought to know about them.
    pub notes: Vec<String>,
}

impl<'a> Images<'a> {
    /// Images by the rules of `--image`.
    pub fn new(node: &'a Node, rules: &'a [(String, PathBuf)]) -> Self {
        Images { node, rules, busybox: None, made: 0, notes: Vec::new() }
    }

    /// Makes the image of a reference.
    pub fn image(&mut self, reference: &str) -> Result<Image> {
        let Some((name, path)) = self.rules.iter().find(|(name, _)| is_named(reference, name)) else {
            if repository(reference) != "busybox" {
                self.notes.push(format!("image {reference:?} has no --image rule; busybox stands for it"));
            }
            return Ok(Image { layers: vec![self.busybox()?], entrypoint: vec!["sh".to_owned()] });
        };
        let path = path.canonicalize().with_context(|| format!("--image {name}={}", path.display()))?;
        self.made += 1;
        let layer = self.node.directory(&format!("images/{}", self.made))?;
        if path.is_dir() {
            bind(&path, &layer)?;
            return Ok(Image { layers: vec![layer], entrypoint: Vec::new() });
        }
        let executable = path.metadata().is_ok_and(|metadata| metadata.permissions().mode() & 0o111 != 0);
        ensure!(executable, "--image {name}={}: neither a directory nor executable", path.display());
        let file_name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let inside = format!("/usr/bin/{file_name}");
        install(&path, &layer, &inside)?;
        Ok(Image { layers: vec![layer, self.busybox()?], entrypoint: vec![inside] })
    }

    /// The image of the Pod's pause process: this program, under that process's name.
    pub fn pause(&self) -> Result<Image> {
        let layer = self.node.directory("images/pause")?;
        let program = std::env::current_exe().context("cannot find podrun's own program")?;
        install(&program, &layer, pause::PROGRAM)?;
        Ok(Image { layers: vec![layer], entrypoint: vec![pause::PROGRAM.to_owned()] })
    }

    fn busybox(&mut self) -> Result<PathBuf> {
        if let Some(layer) = &self.busybox {
            return Ok(layer.clone());
        }
        let program = Path::new("/bin/busybox");
        ensure!(
            program.exists(),
            "needs /bin/busybox for its images: install busybox-static, or give --image"
        );
        let layer = self.node.directory("images/busybox")?;
        for directory in ["dev", "etc", "proc", "root", "run", "sys", "tmp", "usr/bin", "var"] {
            fs::create_dir_all(layer.join(directory))?;
        }
        fs::set_permissions(layer.join("tmp"), fs::Permissions::from_mode(0o1777))?;
        fs::write(
            layer.join("etc/passwd"),
            "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n",
        )?;
        fs::write(layer.join("etc/group"), "root:x:0:\nnogroup:x:65534:\n")?;
        install(program, &layer, "/bin/busybox")?;
        let list = Command::new(program).arg("--list-full").output().context("cannot run /bin/busybox")?;
        for applet in String::from_utf8_lossy(&list.stdout).lines().map(|path| layer.join(path)) {
            if let Some(parent) = applet.parent() {
                fs::create_dir_all(parent)?;
            }
            if !applet.exists() {
                symlink("/bin/busybox", &applet)
                    .with_context(|| format!("cannot link {}", applet.display()))?;
            }
        }
        self.busybox = Some(layer.clone());
        Ok(layer)
    }
}

/// Copies an executable, and the shared libraries it needs, into a layer.
fn install(program: &Path, layer: &Path, inside: &str) -> Result<()> {
    // Of a static executable ldd says so and fails.
    let ldd = Command::new("ldd").arg(program).output().context("cannot run ldd")?;
    let said = String::from_utf8_lossy(&ldd.stdout);
    let missing = said.lines().find(|line| line.contains("not found"));
    if let Some(line) = missing {
        bail!("{}: a shared library is missing: {}", program.display(), line.trim());
    }
    let libraries = libraries(&said);
    let copies = libraries.iter().map(|library| (Path::new(library), *library));
    for (source, inside) in copies.chain([(program, inside)]) {
        let target = layer.join(inside.trim_start_matches('/'));
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::copy(source, &target).with_context(|| format!("cannot copy {}", source.display()))?;
    }
    Ok(())
}

/// The paths in what ldd says: `libc.so.6 => /lib/libc.so.6 (0x7f)` or `/lib64/ld-linux-x86-64.so.2 (0x7f)`.
fn libraries(ldd: &str) -> Vec<&str> {
    let path = |line| -> Option<&str> {
        let line: &str = line;
        let (path, _) = line.rsplit_once(" (0x")?;
        Some(path.rsplit_once("=> ").map_or(path, |(_, path)| path).trim())
            .filter(|path| path.starts_with('/'))
    };
    ldd.lines().filter_map(path).collect()
}

fn is_named(reference: &str, name: &str) -> bool {
    reference == name || repository(reference) == name
}

/// The last component of an image's repository: `registry:5000/a/name:tag@sha256:…` is `name`.
fn repository(reference: &str) -> &str {
    let path = reference.split('@').next().unwrap_or_default();
    let last = path.rsplit('/').next().unwrap_or_default();
    last.split(':').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references() {
        for reference in [
            "fluid-fuse",
            "fluid-fuse:0.1",
            "registry.example/a/fluid-fuse:0.1",
            "localhost:5000/fluid-fuse@sha256:0123",
            "r/fluid-fuse:0.1@sha256:0123",
        ] {
            assert!(is_named(reference, "fluid-fuse"), "{reference}");
            assert!(is_named(reference, reference));
        }
        for reference in ["fluid-fuse/other", "my-fluid-fuse", "fluid-fuse2:1", ""] {
            assert!(!is_named(reference, "fluid-fuse"), "{reference}");
        }
    }

    #[test]
    fn shared_libraries() {
        let ldd = "\tlinux-vdso.so.1 (0x00007ffd)\n\tlibc.so.6 => /lib/x86_64/libc.so.6 (0x00007f1)\n\
                   \t/lib64/ld-linux-x86-64.so.2 (0x00007f2)\n";
        assert_eq!(libraries(ldd), ["/lib/x86_64/libc.so.6", "/lib64/ld-linux-x86-64.so.2"]);
        assert!(libraries("\tstatically linked\n").is_empty());
    }
}
