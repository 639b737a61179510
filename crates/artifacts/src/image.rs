//! What is in the sidecar's image?
//!
//! The static program, who it runs as, how names are looked up, and `/tmp`: one layer on nothing. No shell, since the
//! gate is `fluid-fuse wait`; no fusermount, since the program mounts itself; no certificate authorities, since it has
//! those of Mozilla and prefers a bundle that is mounted at `/etc/ssl/certs/ca-certificates.crt`.
//!
//! The files of `rootfs/` are also what the `Containerfile` copies.

use std::io::Write as _;
use std::time::{Duration, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use flate2::{Compression, write::GzEncoder};
use object::elf::PT_INTERP;
use object::read::elf::{ElfFile64, ProgramHeader as _};
use object::{Architecture, Object as _};
use serde_json::{Map, Value, json};
use tar::{Builder, EntryType, Header};

use crate::layout::{INDEX, Layout, digest};
use crate::policy::{IMAGE_SOURCE, MANIFEST};

const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// The commands of the policy name the program without a path.
const PATH: &str = "/usr/bin";
const PROGRAM: &str = "fluid-fuse";

/// The static program of one architecture.
#[derive(Debug)]
pub struct Program {
    bytes: Vec<u8>,
    architecture: &'static str,
}

impl Program {
    /// Takes an executable, if it is one that runs where there is nothing else.
    pub fn new(bytes: Vec<u8>) -> Result<Self> {
        let elf = ElfFile64::<object::Endianness>::parse(bytes.as_slice());
        let elf = elf.ok().context("is no 64-bit ELF executable")?;
        // As Go and registries call them.
        let architecture = match elf.architecture() {
            Architecture::X86_64 => "amd64",
            Architecture::Aarch64 => "arm64",
            other => anyhow::bail!("is for {other:?}, of which no image is made"),
        };
        let dynamic = elf.elf_program_headers().iter().any(|header| header.p_type(elf.endian()) == PT_INTERP);
        ensure!(!dynamic, "needs a dynamic loader, which the image has not: make sidecar");
        Ok(Self { bytes, architecture })
    }

    /// Its architecture, `amd64` or `arm64`.
    pub fn architecture(&self) -> &'static str {
        self.architecture
    }
}

/// What is said of the image.
#[derive(Clone, Debug)]
pub struct About {
    /// Its version, without a `v`.
    pub version: String,
    /// The commit that it was built from, if that is known.
    pub revision: Option<String>,
    /// When it was made, in seconds since 1970: `SOURCE_DATE_EPOCH`.
    pub created: u32,
}

impl About {
    fn created(&self) -> String {
        humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(self.created.into())).to_string()
    }

    fn labels(&self) -> Map<String, Value> {
        let source = env!("CARGO_PKG_REPOSITORY");
        let labels = [
            ("created", Some(self.created())),
            ("description", Some("Unprivileged FUSE sidecar: a Dataset's files as a directory".into())),
            ("documentation", Some(format!("{source}/blob/v{}/docs/fluid-fuse.md", self.version))),
            ("licenses", Some(env!("CARGO_PKG_LICENSE").into())),
            ("revision", self.revision.clone()),
            ("title", Some(PROGRAM.into())),
            ("url", Some(source.into())),
            ("version", Some(self.version.clone())),
        ];
        let labels = labels.into_iter().filter_map(|(name, text)| {
            Some((format!("org.opencontainers.image.{name}"), Value::from(text?)))
        });
        labels.chain([(IMAGE_SOURCE.to_owned(), source.into())]).collect()
    }
}

/// Writes the image of all architectures; gives the tag, `v` and the version.
pub fn write(programs: &[Program], about: &About, layout: Layout) -> Result<String> {
    let mut manifests = Vec::new();
    for program in programs {
        manifests.push(write_one(program, about, &layout)?);
    }
    let index = json!({
        "schemaVersion": 2,
        "mediaType": INDEX,
        "manifests": manifests,
        "annotations": about.labels(),
    });
    let index = layout.add_json(INDEX, &index)?;
    let tag = format!("v{}", about.version);
    layout.finish(index, &tag)?;
    Ok(tag)
}

fn write_one(program: &Program, about: &About, layout: &Layout) -> Result<Value> {
    let tar = layer(&program.bytes, about.created)?;
    // Without a name and a time of its own.
    let mut gzip = GzEncoder::new(Vec::new(), Compression::best());
    gzip.write_all(&tar)?;
    let layer = layout.add(LAYER, &gzip.finish()?)?;
    let platform = json!({"architecture": program.architecture, "os": "linux"});
    let config = json!({
        "architecture": platform["architecture"],
        "os": platform["os"],
        "created": about.created(),
        "config": {
            "Entrypoint": [PROGRAM],
            // As the image of a ThinRuntime, whose DaemonSet names no command.
            "Cmd": ["mount"],
            "Env": [format!("PATH={PATH}")],
            "Labels": about.labels(),
            "WorkingDir": "/",
        },
        "rootfs": {"type": "layers", "diff_ids": [digest(&tar)]},
        "history": [{"created": about.created(), "created_by": "make image"}],
    });
    let config = layout.add_json(CONFIG, &config)?;
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": config,
        "layers": [layer],
        "annotations": about.labels(),
    });
    let mut manifest = layout.add_json(MANIFEST, &manifest)?;
    manifest["platform"] = platform;
    Ok(manifest)
}

fn layer(program: &[u8], modified: u32) -> Result<Vec<u8>> {
    let mut tar = Builder::new(Vec::new());
    let mut add = |path: &str, mode: u32, content: Option<&[u8]>| {
        let mut header = Header::new_ustar();
        header.set_entry_type(if content.is_some() { EntryType::Regular } else { EntryType::Directory });
        header.set_mode(mode);
        header.set_mtime(modified.into());
        let content = content.unwrap_or_default();
        header.set_size(content.len().try_into()?);
        tar.append_data(&mut header, path, content).with_context(|| format!("cannot archive {path}"))
    };
    add("etc/", 0o755, None)?;
    for (path, content) in [
        ("etc/group", include_str!("../rootfs/etc/group")),
        ("etc/nsswitch.conf", include_str!("../rootfs/etc/nsswitch.conf")),
        ("etc/passwd", include_str!("../rootfs/etc/passwd")),
    ] {
        add(path, 0o644, Some(content.as_bytes()))?;
    }
    add("tmp/", 0o1777, None)?;
    add("usr/", 0o755, None)?;
    add("usr/bin/", 0o755, None)?;
    add("usr/bin/fluid-fuse", 0o755, Some(program))?;
    Ok(tar.into_inner()?)
}
