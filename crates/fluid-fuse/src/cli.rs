//! What was asked: the options as they were written ([`Cli`]) and as they are meant ([`Settings`]).
//!
//! A setting has up to four places: the flag, its `FLUID_FUSE_*` variable, the variable that Fluid sets
//! (`MOUNT_POINT`) and Fluid's `config.json`. The first that has it wins; the file is not read when nothing
//! is left to find. Whether the source exists or the directory can be mounted on is not known here.

use std::ffi::OsString;
use std::fs;
use std::io::ErrorKind;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, anyhow, bail, ensure};
use clap::builder::NonEmptyStringValueParser;
use clap::{ArgAction, Args, Parser, Subcommand};
use fluid_sidecar_layout::FLUID_FUSE;
use serde::Deserialize;

use crate::store::Source;

/// The variable in which Fluid tells a ThinRuntime image where to mount.
pub const MOUNT_POINT: &str = "MOUNT_POINT";

/// Where Fluid puts the configuration of a ThinRuntime image.
pub const FLUID_CONFIG: &str = "/etc/fluid/config/config.json";

const EXAMPLES: &str = "\
Examples:
  fluid-fuse mount --source file:///data --mountpoint /runtime-mnt/thin/ns/name/thin-fuse
  fluid-fuse wait --mountpoint /runtime-mnt/thin/ns/name/thin-fuse --timeout 30s   (postStart)
  fluid-fuse check --mountpoint /runtime-mnt/thin/ns/name/thin-fuse                (livenessProbe)
  fluid-fuse unmount --mountpoint /runtime-mnt/thin/ns/name/thin-fuse              (preStop)

As the image of a Fluid ThinRuntime, `fluid-fuse mount` needs no options: the mount point comes from
MOUNT_POINT and the source from /etc/fluid/config/config.json.

Environment: each option names its variable; a flag wins over its variable, and both over Fluid's own.
FLUID_FUSE_LOG (or RUST_LOG) sets the level of the log on stderr: error, warn, info, debug.";

/// Mounts a Dataset read-only with FUSE, for the containers of one Pod.
#[derive(Debug, Parser)]
#[command(version, after_help = EXAMPLES)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Mount the source and serve it until SIGTERM, SIGINT or an unmount; each ends with exit code 0
    #[command(after_help = EXAMPLES)]
    Mount(MountOptions),
    /// Wait until the mount is there and answers; exit code 1 when the time is up
    Wait(WaitOptions),
    /// Check that the mount is there and answers within a second
    Check(Target),
    /// Detach whatever FUSE mount is there, also a dead one; having nothing to do is a success
    Unmount(Target),
    /// Ask the file system at a path for an answer; the exit code is the error number
    #[command(hide = true)]
    Probe(ProbeOptions),
}

/// `mount`, as written.
#[derive(Debug, Args)]
pub struct MountOptions {
    /// What to mount: file:///path or local:///path, percent-encoded [otherwise: Fluid's config.json]
    #[arg(long, value_name = "URL", env = "FLUID_FUSE_SOURCE", value_parser = NonEmptyStringValueParser::new())]
    pub source: Option<String>,

    #[command(flatten)]
    #[allow(missing_docs, reason = "a documentation here would replace that of the command")]
    pub target: Target,

    /// Fluid's configuration of a ThinRuntime, read for what is not given otherwise
    #[arg(long, value_name = "FILE", env = "FLUID_FUSE_CONFIG", default_value = FLUID_CONFIG)]
    pub config: PathBuf,

    /// The same configuration itself, instead of a file
    #[arg(long, value_name = "JSON", env = "FLUID_FUSE_CONFIG_JSON")]
    pub config_json: Option<String>,

    /// X in the type `fuse.X` that the mount shows in /proc/self/mountinfo
    #[arg(long, value_name = "X", env = "FLUID_FUSE_SUBTYPE", default_value = FLUID_FUSE)]
    pub subtype: String,

    /// Mount read-only, the only way there is: `--read-only=false` is refused
    #[arg(long, value_name = "BOOL", env = "FLUID_FUSE_READ_ONLY", action = ArgAction::Set)]
    #[arg(default_value_t = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub read_only: bool,

    /// How long files that are still open are served after SIGTERM took the mount away
    #[arg(long, value_name = "TIME", env = "FLUID_FUSE_LINGER", default_value = "10s")]
    #[arg(value_parser = humantime::parse_duration)]
    pub linger: Duration,
}

/// The directory that a command is about, as written.
#[derive(Debug, Args)]
pub struct Target {
    /// The directory of the mount [otherwise: the variable MOUNT_POINT]
    #[arg(long, value_name = "DIR", env = "FLUID_FUSE_MOUNTPOINT")]
    pub mountpoint: Option<PathBuf>,
}

/// `wait`, as written.
#[derive(Debug, Args)]
pub struct WaitOptions {
    #[command(flatten)]
    #[allow(missing_docs, reason = "as above")]
    pub target: Target,

    /// A file or directory of the mount that must answer too
    #[arg(long, value_name = "PATH", env = "FLUID_FUSE_SUB_PATH", value_parser = below)]
    pub sub_path: Option<PathBuf>,

    /// How long to wait
    #[arg(long, value_name = "TIME", env = "FLUID_FUSE_TIMEOUT", default_value = "30s")]
    #[arg(value_parser = humantime::parse_duration)]
    pub timeout: Duration,
}

/// `probe`, as [`crate::probe`] writes it.
#[derive(Debug, Args)]
pub struct ProbeOptions {
    /// What to ask for
    pub path: PathBuf,

    /// Read a directory's first entry too
    #[arg(long)]
    pub list: bool,
}

/// `mount`, as meant.
#[derive(Debug, PartialEq, Eq)]
pub struct Settings {
    /// What to mount.
    pub source: Source,
    /// The directory to mount on.
    pub mountpoint: PathBuf,
    /// `X` in the file system type `fuse.X`.
    pub subtype: String,
    /// How long open files are served after the mount was taken away.
    pub linger: Duration,
}

impl Target {
    /// The directory: the flag, its variable or [`MOUNT_POINT`].
    pub fn resolve(self) -> anyhow::Result<PathBuf> {
        self.or_fluid(std::env::var_os(MOUNT_POINT))
            .context("no mount point: give --mountpoint, FLUID_FUSE_MOUNTPOINT or MOUNT_POINT")
    }

    fn or_fluid(self, mount_point: Option<OsString>) -> Option<PathBuf> {
        let fluid = mount_point.filter(|path| !path.is_empty()).map(PathBuf::from);
        self.mountpoint.or(fluid)
    }
}

impl MountOptions {
    /// The settings, with what the environment and Fluid's configuration add.
    pub fn resolve(self) -> anyhow::Result<Settings> {
        self.with(std::env::var_os(MOUNT_POINT))
    }

    fn with(self, mount_point: Option<OsString>) -> anyhow::Result<Settings> {
        ensure!(
            self.read_only,
            "a writable mount was asked for, but files can only be read: drop --read-only=false"
        );
        let plain = |letter: char| letter.is_ascii_alphanumeric() || "-_.".contains(letter);
        if self.subtype.is_empty() || !self.subtype.chars().all(plain) {
            bail!("{:?} is no subtype: letters, digits, '-', '_' and '.' only", self.subtype);
        }
        let mountpoint = self.target.or_fluid(mount_point);
        let (url, mountpoint) = match (self.source, mountpoint) {
            (Some(url), Some(mountpoint)) => (url, mountpoint),
            (url, mountpoint) => {
                let missing = if url.is_none() { "--source" } else { "--mountpoint" };
                let (place, config) = match &self.config_json {
                    Some(json) => {
                        ("--config-json".to_string(), FluidConfig::parse("--config-json", json.as_bytes())?)
                    }
                    None => (self.config.display().to_string(), FluidConfig::read(&self.config, missing)?),
                };
                (
                    url.map_or_else(|| config.url(&place), Ok)?,
                    match mountpoint {
                        Some(mountpoint) => mountpoint,
                        None => config.target_path.with_context(|| {
                            format!("no mount point: {place} has no targetPath; give --mountpoint")
                        })?,
                    },
                )
            }
        };
        Ok(Settings { source: url.parse()?, mountpoint, subtype: self.subtype, linger: self.linger })
    }
}

/// The part of Fluid's `config.json` that is used.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct FluidConfig {
    #[serde(default)]
    mounts: Vec<FluidMount>,
    target_path: Option<PathBuf>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct FluidMount {
    mount_point: String,
}

impl FluidConfig {
    fn read(path: &Path, missing: &str) -> anyhow::Result<Self> {
        let bytes = fs::read(path).map_err(|error| match error.kind() {
            ErrorKind::NotFound => anyhow!("{missing} is not given, and there is no {}", path.display()),
            _ => anyhow!("{missing} is not given, and {} cannot be read: {error}", path.display()),
        })?;
        Self::parse(&path.display().to_string(), &bytes)
    }

    fn parse(place: &str, json: &[u8]) -> anyhow::Result<Self> {
        serde_json::from_slice(json)
            .with_context(|| format!("{place} is not Fluid's configuration of a ThinRuntime"))
    }

    fn url(&self, place: &str) -> anyhow::Result<String> {
        match self.mounts.as_slice() {
            [mount] => Ok(mount.mount_point.clone()),
            mounts => bail!("{place} names {} mounts; exactly one is supported", mounts.len()),
        }
    }
}

/// A path that stays below the directory it is joined to.
fn below(text: &str) -> Result<PathBuf, String> {
    let path = Path::new(text);
    match path.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir)) {
        true => Ok(path.to_path_buf()),
        false => Err("must be relative and without \"..\"".to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(arguments: &[&str], mount_point: Option<&str>) -> anyhow::Result<Settings> {
        match Cli::try_parse_from([&["fluid-fuse", "mount"], arguments].concat())?.command {
            Command::Mount(options) => options.with(mount_point.map(OsString::from)),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_first_place_wins() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let json = r#"{"mounts":[{"mountPoint":"local:///from/file","name":"x","options":{"a":"b"}}],
            "targetPath":"/target","accessModes":["ReadOnlyMany"],"runtimeOptions":{},"other":1}"#;
        fs::write(&file, json).unwrap();
        let config = ["--config", file.path().to_str().unwrap()];
        let places = |arguments: &[&str], mount_point| {
            let found = settings(&[&config, arguments].concat(), mount_point).unwrap();
            (found.source.to_string(), found.mountpoint.display().to_string())
        };
        let pair = |source: &str, mountpoint: &str| (source.to_string(), mountpoint.to_string());
        assert_eq!(places(&[], None), pair("file:///from/file", "/target"));
        assert_eq!(places(&[], Some("")), pair("file:///from/file", "/target"));
        assert_eq!(places(&[], Some("/env")), pair("file:///from/file", "/env"));
        let flags = ["--source", "file:///a%20b", "--mountpoint", "/flag"];
        assert_eq!(places(&flags, Some("/env")), pair("file:///a b", "/flag"));
        assert_eq!(places(&flags[..2], None), pair("file:///a b", "/target"));
        let itself = ["--config-json", r#"{"mounts":[{"mountPoint":"file:///b"}]}"#];
        assert_eq!(places(&itself, Some("/env")), pair("file:///b", "/env"));
    }

    #[test]
    fn what_cannot_be_is_refused_in_words() {
        let refused = |arguments: &[&str]| format!("{:#}", settings(arguments, Some("/m")).unwrap_err());
        assert!(refused(&["--config", "/none.json"]).contains("--source is not given"));
        assert!(refused(&["--source", "s3://b"]).contains("\"s3\""));
        assert!(refused(&["--source", "file:///x", "--read-only=false"]).contains("only be read"));
        assert!(refused(&["--source", "file:///x", "--subtype", "a,b"]).contains("subtype"));
        for (json, words) in [
            (r#"{"mounts":[{"mountPoint":"file:///a"},{"mountPoint":"file:///b"}]}"#, "2 mounts"),
            ("{}", "0 mounts"),
            ("[", "not Fluid's"),
        ] {
            let file = tempfile::NamedTempFile::new().unwrap();
            fs::write(&file, json).unwrap();
            let error = refused(&["--config", file.path().to_str().unwrap()]);
            assert!(error.contains(words), "{error}");
        }
        assert!(below("a/./b").is_ok() && below("../a").is_err() && below("/a").is_err());
    }
}
