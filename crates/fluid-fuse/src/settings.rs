//! The settings of a mount: the options with what the environment and Fluid's configuration add ([`Settings`]).
//!
//! A setting has up to four places: the flag, its `FLUID_FUSE_*` variable, the variables that Fluid sets
//! ([`MOUNT_POINT`], [`MOUNT_OPTIONS`]) and Fluid's `config.json`. The first that has it wins; the file is not read
//! when nothing is left to find. Only `ro` in [`MOUNT_OPTIONS`] wins over all others. Whether a source exists or the
//! directory can be mounted on is not known here.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use fluid_sidecar_layout::contract::ExitWithPod;
use fluid_sidecar_layout::contract::env::{self, MOUNT_OPTIONS, MOUNT_POINT};
use fluid_sidecar_layout::contract::option::MOUNTPOINT;
use rustix::process::{getgid, getuid};

use crate::cli::{BenchOptions, HoldOptions, LifeOptions, MountOptions, MountTarget, SourceOptions, mode};
use crate::config::{FluidConfig, MountSpec, Options, below};
use crate::fuse_fd::FuseFd;
use crate::hold;
use crate::metrics::Address;
use crate::remote::Host;
use crate::trust::Trust;
use crate::users::Expected;

/// `mount`, as meant.
#[derive(Debug, PartialEq, Eq)]
pub struct Settings {
    /// The sources, and where below the directory they are mounted.
    pub mounts: Vec<MountSpec>,
    /// The directory to mount on.
    pub mountpoint: PathBuf,
    /// `X` in the file system type `fuse.X`.
    pub subtype: String,
    /// Whether the directory below the mount stays out of sight until the Pod ends.
    pub guard: bool,
    /// The directory of this Pod, among those of other Pods.
    pub place: Option<PathBuf>,
    /// How long open files are served after the mount was taken away.
    pub linger: Duration,
    /// The containers whose end ends it.
    pub users: Option<Expected>,
    /// The descriptor of who has mounted already.
    pub fuse_fd: Option<FuseFd>,
    /// Bytes of memory for blocks.
    pub memory: u64,
    /// The directory of the disk cache.
    pub cache_dir: Option<PathBuf>,
    /// Bytes of the disk cache at most.
    pub cache_size: u64,
    /// Requests that may be in flight.
    pub requests: usize,
    /// The deadline of an operation, counted from the kernel's request.
    pub io_timeout: Duration,
    /// How long names and attributes of remote sources are trusted.
    pub metadata_ttl: Duration,
    /// User and group that own what has no owner.
    pub owner: (u32, u32),
    /// Permissions of files and directories that have none.
    pub modes: (u16, u16),
    /// Whether the `mtime` metadata of objects is requested.
    pub kept_times: bool,
    /// Objects below a directory that is renamed, at most.
    pub rename_limit: usize,
    /// Where the metrics are.
    pub metrics: Option<Address>,
    /// Reads that take longer are logged.
    pub slow_read: Duration,
    /// Namespace and name of the Dataset, if Fluid says so.
    pub dataset: Option<String>,
    /// Where the directories may be that a Dataset names; empty if nobody has said so.
    pub allow_directories: Vec<PathBuf>,
    /// Where sources may redirect.
    pub allow_redirects: Vec<Host>,
}

impl MountTarget {
    /// The directory: the flag, its variable or [`MOUNT_POINT`].
    pub fn resolve(&self) -> anyhow::Result<PathBuf> {
        self.known().with_context(|| {
            format!("no mount point: give --{MOUNTPOINT}, {} or {MOUNT_POINT}", env::MOUNTPOINT)
        })
    }

    /// The directory, without what only Fluid's configuration knows.
    pub fn known(&self) -> Option<PathBuf> {
        self.or_fluid(std::env::var_os(MOUNT_POINT))
    }

    fn or_fluid(&self, mount_point: Option<OsString>) -> Option<PathBuf> {
        let fluid = mount_point.filter(|path| !path.is_empty()).map(PathBuf::from);
        self.mountpoint.clone().or(fluid)
    }
}

impl SourceOptions {
    /// What to mount where: from here, and what is missing from Fluid's configuration, which also tells
    /// whether it may be written to if that is not known.
    fn resolve(
        &self,
        target: Option<PathBuf>,
        read_only: Option<bool>,
    ) -> anyhow::Result<(Vec<MountSpec>, PathBuf)> {
        let given = sources(&self.sources, &self.options, read_only.unwrap_or(true))?;
        let (none, target) = match (given.is_empty(), target) {
            (false, Some(mountpoint)) => return Ok((given, mountpoint)),
            other => other,
        };
        let (place, config) = match &self.config_json {
            Some(json) => {
                ("--config-json".to_string(), FluidConfig::parse("--config-json", json.as_bytes())?)
            }
            None => {
                let missing = if none { "source" } else { MOUNTPOINT };
                (self.config.display().to_string(), FluidConfig::read(&self.config, missing)?)
            }
        };
        let mountpoint = target
            .or_else(|| config.target_path().map(PathBuf::from))
            .with_context(|| format!("no mount point: {place} has no targetPath; give --{MOUNTPOINT}"))?;
        let read_only = read_only.unwrap_or(!config.is_writable());
        let mut mounts = if none { config.mounts(&place, |name| std::env::var_os(name))? } else { given };
        mounts.iter_mut().for_each(|mount| mount.read_only |= read_only);
        Ok((mounts, mountpoint))
    }
}

impl BenchOptions {
    /// The sources, and where they are mounted.
    pub fn resolve(&self) -> anyhow::Result<(Vec<MountSpec>, PathBuf)> {
        self.source.resolve(self.target.known(), None)
    }
}

impl MountOptions {
    /// The settings, with what the environment and Fluid's configuration add.
    pub fn resolve(self) -> anyhow::Result<Settings> {
        self.with(|name| std::env::var_os(name))
    }

    fn with(self, environment: impl Fn(&str) -> Option<OsString>) -> anyhow::Result<Settings> {
        check_subtype(&self.subtype)?;
        let text =
            |name| environment(name).and_then(|value| value.into_string().ok()).filter(|it| !it.is_empty());
        let fluid = MountWords::read(&text(MOUNT_OPTIONS).unwrap_or_default())?;
        if !fluid.unused.is_empty() {
            log::warn!("not used of {MOUNT_OPTIONS}: {}", fluid.unused.join(","));
        }
        let target = self.target.or_fluid(environment(MOUNT_POINT));
        // Fluid writes it for a Dataset that is only read, and nothing else makes such a mount writable.
        let read_only = if fluid.read_only { Some(true) } else { self.read_only };
        let (mounts, mountpoint) = self.source.resolve(target, read_only)?;
        let SourceOptions { allow_directories, allow_redirects, .. } = self.source;
        let memory = self.memory.unwrap_or_else(|| default_memory(cgroup_limit()));
        ensure!(memory >= LEAST_MEMORY, "--memory must be at least 8MiB");
        let [namespace, name] = [env::RUNTIME_NAMESPACE, env::RUNTIME_NAME].map(text);
        Ok(Settings {
            mounts,
            mountpoint,
            subtype: self.subtype,
            guard: self.life.guard,
            users: self.life.users(),
            place: self.life.place,
            linger: self.life.linger,
            fuse_fd: self.fuse_fd,
            memory,
            cache_dir: self.cache.cache_dir,
            cache_size: self.cache.cache_size,
            requests: self.requests.into(),
            io_timeout: self.cache.io_timeout,
            metadata_ttl: self.metadata_ttl,
            owner: (
                self.uid.or(fluid.uid).unwrap_or_else(|| getuid().as_raw()),
                self.gid.or(fluid.gid).unwrap_or_else(|| getgid().as_raw()),
            ),
            modes: (
                self.file_mode.or(fluid.file_mode).unwrap_or(0o644),
                self.dir_mode.or(fluid.dir_mode).unwrap_or(0o755),
            ),
            kept_times: self.kept_times,
            rename_limit: self.rename_dir_limit as usize,
            metrics: self.metrics,
            slow_read: self.slow_read,
            dataset: namespace.zip(name).map(|(namespace, name)| format!("{namespace}/{name}")),
            allow_directories,
            allow_redirects,
        })
    }
}

impl HoldOptions {
    /// The settings.
    pub fn resolve(self) -> anyhow::Result<hold::Settings> {
        check_subtype(&self.subtype)?;
        Ok(hold::Settings {
            mountpoint: self.target.resolve()?,
            subtype: self.subtype,
            socket: self.socket,
            guard: self.life.guard,
            users: self.life.users(),
            place: self.life.place,
            linger: self.life.linger,
            patience: self.patience,
            resend: !self.no_resend,
        })
    }
}

impl LifeOptions {
    fn users(&self) -> Option<Expected> {
        (self.exit_with_pod == ExitWithPod::ProcessNamespace)
            .then_some(Expected { containers: self.exit_containers.into(), settle: self.exit_settle })
    }
}

fn check_subtype(subtype: &str) -> anyhow::Result<()> {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "-_.".contains(letter);
    if subtype.is_empty() || !subtype.chars().all(plain) {
        bail!("{subtype:?} is no subtype: letters, digits, '-', '_' and '.' only");
    }
    Ok(())
}

/// The words of [`MOUNT_OPTIONS`] that this program uses.
#[derive(Debug, Default, PartialEq, Eq)]
struct MountWords {
    read_only: bool,
    uid: Option<u32>,
    gid: Option<u32>,
    file_mode: Option<u16>,
    dir_mode: Option<u16>,
    /// Names only: a value may be a secret.
    unused: Vec<String>,
}

impl MountWords {
    fn read(text: &str) -> anyhow::Result<Self> {
        let mut words = Self::default();
        for word in text.split(',').map(str::trim).filter(|word| !word.is_empty()) {
            let (name, value) = word.split_once('=').unwrap_or((word, ""));
            let number =
                || value.parse().with_context(|| format!("{MOUNT_OPTIONS}: {name} must be a number"));
            let bits = || mode(value).map_err(|error| anyhow::anyhow!("{MOUNT_OPTIONS}: {name} {error}"));
            match name {
                // Their order says nothing. `rw` makes nothing writable: the access modes decide.
                "ro" => words.read_only = true,
                "uid" => words.uid = Some(number()?),
                "gid" => words.gid = Some(number()?),
                "file_mode" => words.file_mode = Some(bits()?),
                "dir_mode" => words.dir_mode = Some(bits()?),
                // So it is in any case.
                "allow_other" | "default_permissions" | "nosuid" | "nodev" | "kernel_cache" => {}
                _ => words.unused.push(name.to_string()),
            }
        }
        Ok(words)
    }
}

const LEAST_MEMORY: u64 = 8 << 20;

/// The container may use other memory, too, and the page cache of what it reads counts against its limit.
fn default_memory(limit: Option<u64>) -> u64 {
    limit.map_or(u64::MAX, |limit| limit / 5 * 2).clamp(LEAST_MEMORY, 128 << 20)
}

/// The memory limit of the container: of cgroup v2, or of v1.
fn cgroup_limit() -> Option<u64> {
    ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"]
        .iter()
        .find_map(|path| fs::read_to_string(path).ok()?.trim().parse().ok())
}

fn sources(sources: &[String], options: &[String], read_only: bool) -> anyhow::Result<Vec<MountSpec>> {
    let mut shared = BTreeMap::new();
    for (index, option) in options.iter().enumerate() {
        // It may be the rest of a secret that has a blank in it.
        let (name, value) = option.split_once('=').with_context(|| {
            format!(
                "--option ({}): the {}. of them, separated by blanks, is not NAME=VALUE; a value with a blank in it \
                 goes into a file (NAME_file=PATH) or into Fluid's configuration",
                env::OPTION,
                index + 1
            )
        })?;
        shared.insert(name.to_string(), value.to_string());
    }
    sources
        .iter()
        .map(|source| {
            // A URL may have a `=`, but hardly before its `://`.
            let (path, url) = match source.split_once('=') {
                Some((path, url)) if !path.contains("://") => (below(path)?, url),
                _ => (PathBuf::new(), source.as_str()),
            };
            let options = Options(shared.clone());
            let trust = Trust::Administrator;
            Ok(MountSpec { path, url: url.to_string(), options, read_only, trust })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use fluid_sidecar_layout::contract::{FLUID_FUSE, command};

    use super::*;
    use crate::cli::{Cli, Command};

    fn settings(arguments: &[&str], mount_point: Option<&str>) -> anyhow::Result<Settings> {
        let environment = |name: &str| mount_point.filter(|_| name == MOUNT_POINT).map(OsString::from);
        match Cli::read([&[FLUID_FUSE, command::MOUNT], arguments].concat())?.command {
            Command::Mount(options) => options.with(environment),
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
            (found.mounts[0].url.clone(), found.mountpoint.display().to_string())
        };
        let pair = |source: &str, mountpoint: &str| (source.to_string(), mountpoint.to_string());
        assert_eq!(places(&[], None), pair("local:///from/file", "/target"));
        assert_eq!(places(&[], Some("")), pair("local:///from/file", "/target"));
        assert_eq!(places(&[], Some("/env")), pair("local:///from/file", "/env"));
        let flags = ["--source", "file:///a%20b", "--mountpoint", "/flag"];
        assert_eq!(places(&flags, Some("/env")), pair("file:///a%20b", "/flag"));
        assert_eq!(places(&flags[..2], None), pair("file:///a%20b", "/target"));
        let itself = ["--config-json", r#"{"mounts":[{"mountPoint":"file:///b"}]}"#];
        assert_eq!(places(&itself, Some("/env")), pair("file:///b", "/env"));
    }

    #[test]
    fn what_cannot_be_is_refused_in_words() {
        let refused = |arguments: &[&str]| format!("{:#}", settings(arguments, Some("/m")).unwrap_err());
        assert!(refused(&["--config", "/none.json"]).contains("--source is not given"));
        assert!(refused(&["--source", "file:///x", "--subtype", "a,b"]).contains("subtype"));
        for (json, words) in [
            (
                r#"{"mounts":[{"mountPoint":"file:///a"},{"mountPoint":"file:///b"}]}"#,
                "neither a path nor a name",
            ),
            (r#"{"mounts":[{"mountPoint":"file:///a","path":"../b"}]}"#, "\"..\""),
            (
                r#"{"mounts":[{"mountPoint":"s3://a","secretOptions":{"secret_key":"FLUID_FUSE_SECRET_9"}}]}"#,
                "FLUID_FUSE_SECRET_9",
            ),
            (r#"{"mounts":[{"mountPoint":"s3://a","options":{"secret_key":["s3cr3t"]}}]}"#, "another type"),
            ("{}", "no mounts"),
            ("[", "not Fluid's"),
        ] {
            let file = tempfile::NamedTempFile::new().unwrap();
            fs::write(&file, json).unwrap();
            let error = refused(&["--config", file.path().to_str().unwrap()]);
            assert!(error.contains(words), "{error}");
        }
        // The rest of a secret after its blank.
        let options = ["region=r", "endpoint=e", "s3cr3t"].map(String::from);
        let error = format!("{:#}", sources(&["s3://b".into()], &options, true).unwrap_err());
        assert!(
            error.contains(&format!("--option ({}): the 3.", env::OPTION)) && !error.contains("s3cr3t"),
            "{error}"
        );
    }

    #[test]
    fn several_mounts() {
        let flags = ["--source", "x/y=s3://b?c=d", "--source", "file:///a=b", "-o", "endpoint=e=f"];
        let found = settings(&flags, Some("/m")).unwrap().mounts;
        let seen: Vec<_> =
            found.iter().map(|mount| (mount.path.to_str().unwrap(), mount.url.as_str())).collect();
        assert_eq!(seen, [("x/y", "s3://b?c=d"), ("", "file:///a=b")]);
        assert_eq!(found[1].options.0.get("endpoint").map(String::as_str), Some("e=f"));
        let json = r#"{"accessModes":["ReadWriteMany"],"mounts":[
            {"mountPoint":"oss://a","name":"n","options":{"k":"/etc/fluid/secrets/s/k","o":"v"}},
            {"mountPoint":"oss://b","name":"x","path":"/p/q","readOnly":true}]}"#;
        let found = settings(&["--config-json", json], Some("/m")).unwrap().mounts;
        let seen: Vec<_> =
            found.iter().map(|mount| (mount.path.to_str().unwrap(), mount.read_only)).collect();
        assert_eq!(seen, [("n", false), ("p/q", true)]);
        assert_eq!(found[0].options.0["k_file"], "/etc/fluid/secrets/s/k");
        assert!(found.iter().all(|mount| mount.trust == Trust::Dataset));
        assert_eq!(format!("{:?}", found[0].options), r#"{"k_file", "o"}"#);
        let read_only = |arguments: &[&str]| {
            let found = settings(arguments, Some("/m")).unwrap().mounts;
            found.iter().map(|mount| mount.read_only).collect::<Vec<_>>()
        };
        assert_eq!(read_only(&["--config-json", json, "--read-only"]), [true, true]);
        let reading = json.replace("ReadWriteMany", "ReadOnlyMany");
        assert_eq!(read_only(&["--config-json", &reading]), [true, true]);
        assert_eq!(read_only(&["--config-json", &reading, "--read-only=false"]), [false, true]);
        assert_eq!(read_only(&flags), [true, true]);
        assert_eq!(read_only(&[&flags[..], &["--read-only=false"]].concat()), [false, false]);
    }

    #[test]
    fn fluids_variables() {
        let found = |arguments: &[&str], options: &str| {
            let environment = |name: &str| match name {
                MOUNT_OPTIONS => Some(OsString::from(options)),
                env::RUNTIME_NAMESPACE => Some("ns".into()),
                env::RUNTIME_NAME => Some("data".into()),
                _ => Some("/m".into()),
            };
            let source = match arguments {
                ["--config-json", ..] => [].as_slice(),
                _ => &["--source", "s3://b"],
            };
            match Cli::read([&[FLUID_FUSE, command::MOUNT], source, arguments].concat()).unwrap().command {
                Command::Mount(options) => options.with(environment),
                other => panic!("{other:?}"),
            }
        };
        let settings = found(&["--gid", "8"], "ro,allow_other,uid=5,gid=6,attr_timeout=7200").unwrap();
        assert_eq!((settings.owner, settings.dataset.as_deref()), ((5, 8), Some("ns/data")));
        assert!(found(&[], "uid=x").is_err());
        let words = MountWords::read("rw, kernel_cache ,token=s3cr3t,x").unwrap();
        assert!(!words.read_only && words.unused == ["rw", "token", "x"]);
        let read_only = |arguments: &[&str], options: &str| {
            found(arguments, options).unwrap().mounts.iter().all(|mount| mount.read_only)
        };
        assert!(read_only(&[], "") && read_only(&[], "rw") && read_only(&["--read-only"], "rw"));
        assert!(!read_only(&["--read-only=false"], "rw"));
        let modes =
            |mode: &str| format!(r#"{{"accessModes":["{mode}"],"mounts":[{{"mountPoint":"s3://b"}}]}}"#);
        let (writing, reading) = (modes("ReadWriteMany"), modes("ReadOnlyMany"));
        let (writing, reading) = (["--config-json", &writing], ["--config-json", &reading]);
        assert!(!read_only(&writing, "") && !read_only(&writing, "rw"));
        assert!(read_only(&reading, "") && read_only(&reading, "rw"));
        for options in ["ro", "ro,rw", "rw,ro", "uid=5,ro"] {
            assert!(read_only(&["--read-only=false"], options), "{options}");
            assert!(read_only(&writing, options), "{options}");
        }
    }

    #[test]
    fn memory_by_default() {
        assert_eq!(default_memory(None), 128 << 20);
        assert_eq!(default_memory(Some(100 << 20)), 40 << 20);
        assert_eq!(default_memory(Some(1)), LEAST_MEMORY);
    }
}
