//! What was asked: the options as they were written ([`Cli`]) and as they are meant ([`Settings`]).
//!
//! A setting has up to four places: the flag, its `FLUID_FUSE_*` variable, the variables that Fluid sets
//! (`MOUNT_POINT`, `MOUNT_OPTIONS`) and Fluid's `config.json`. The first that has it wins; the file is not read
//! when nothing is left to find. Only `ro` in `MOUNT_OPTIONS` wins over all others. The definitions here are the one
//! table of options: `--help`, the variables' names and docs/fluid-fuse.md come from them. Secrets are not taken from
//! arguments, which other processes see. Whether a source exists or the directory can be mounted on is not known here.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use clap::builder::NonEmptyStringValueParser;
use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{ArgAction, ArgMatches, Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use fluid_sidecar_layout::FLUID_FUSE;
use rustix::process::{getgid, getuid};

use crate::config::{FluidConfig, MountSpec, Options, below};
use crate::descriptor::FuseFd;
use crate::remote::options::is_secret;
use crate::users::Expected;
use crate::watch::Address;

/// The variable in which Fluid tells a ThinRuntime image where to mount.
pub const MOUNT_POINT: &str = "MOUNT_POINT";

/// The variable in which Fluid tells it the options of that mount, as mount(8) takes them.
pub const MOUNT_OPTIONS: &str = "MOUNT_OPTIONS";

/// What Fluid says of the Dataset: its namespace and its name.
const RUNTIME: [&str; 2] = ["FLUID_RUNTIME_NS", "FLUID_RUNTIME_NAME"];

/// Where Fluid puts the configuration of a ThinRuntime image.
pub const FLUID_CONFIG: &str = "/etc/fluid/config/config.json";

const EXAMPLES: &str = "\
Examples:
  fluid-fuse mount --source file:///data --mountpoint /runtime-mnt/thin/ns/name/thin-fuse
  fluid-fuse mount --source oss://bucket/train --option endpoint=oss-cn-hangzhou.aliyuncs.com --mountpoint DIR
  fluid-fuse mount --source images=s3://one/a --source labels=s3://two --memory 64MiB --mountpoint DIR
  fluid-fuse wait --mountpoint /runtime-mnt/thin/ns/name/thin-fuse --timeout 30s   (postStart)
  fluid-fuse check --mountpoint /runtime-mnt/thin/ns/name/thin-fuse                (livenessProbe)
  fluid-fuse unmount --mountpoint /runtime-mnt/thin/ns/name/thin-fuse              (preStop)
  fluid-fuse warm --source s3://one/a --cache-dir /cache --cache-size 100GiB
  fluid-fuse bench --source s3://one/a --mountpoint DIR

As the image of a Fluid ThinRuntime, `fluid-fuse mount` needs no options: the mount point comes from
MOUNT_POINT and the source from /etc/fluid/config/config.json. Of MOUNT_OPTIONS, uid= and gid= count,
and ro, which wins over all that makes a mount writable.

Environment: each option names its variable; a flag wins over its variable, and both over Fluid's own.
FLUID_FUSE_LOG (or RUST_LOG) sets the level of the log on stderr: error, warn, info, debug.";

/// Mounts a Dataset with FUSE, for the containers of one Pod.
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
    /// Mount the source and serve it until SIGTERM, SIGINT, an unmount or the end of its users: exit code 0
    #[command(after_help = EXAMPLES)]
    Mount(MountOptions),
    /// Wait until the mount is there and answers; exit code 1 when the time is up
    Wait(WaitOptions),
    /// Check that the mount is there and answers within a second
    Check(Target),
    /// Detach whatever FUSE mount is there, also a dead one; having nothing to do is a success
    Unmount(Target),
    /// Fetch a Dataset, or some of its files, before it is read; exit code 1 when a file could not be had
    ///
    /// With the options of the mount that comes later, into its cache directory, while nothing is mounted with it.
    /// With --mountpoint alone, by reading through a mount: into its cache directory and the kernel's page cache.
    Warm(WarmOptions),
    /// Measure a mount against its own source: the same bytes, with as many requests, without the mount
    Bench(BenchOptions),
    /// Ask the file system at a path for an answer; the exit code is the error number
    #[command(hide = true)]
    Probe(ProbeOptions),
}

/// Where the files come from, as written.
#[derive(Debug, Args)]
pub struct SourceOptions {
    /// What to mount, percent-encoded: s3://, oss://, gs://, az://, http(s)://, webhdfs://, file://; as
    /// PATH=URL at a path of its own [otherwise: Fluid's config.json]
    #[arg(long = "source", value_name = "[PATH=]URL", env = "FLUID_FUSE_SOURCE", value_delimiter = ' ')]
    #[arg(hide_env_values = true)]
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub sources: Vec<String>,

    /// An option of the sources, such as endpoint or region. Secrets belong into the environment or files
    #[arg(long = "option", short = 'o', value_name = "NAME=VALUE", env = "FLUID_FUSE_OPTION")]
    #[arg(value_delimiter = ' ', hide_env_values = true)]
    pub options: Vec<String>,

    /// Fluid's configuration of a ThinRuntime, read for what is not given otherwise
    #[arg(long, value_name = "FILE", env = "FLUID_FUSE_CONFIG", default_value = FLUID_CONFIG)]
    pub config: PathBuf,

    /// The same configuration itself, instead of a file. Secrets belong into its variable
    #[arg(long, value_name = "JSON", env = "FLUID_FUSE_CONFIG_JSON", hide_env_values = true)]
    pub config_json: Option<String>,
}

/// Where what is fetched is kept, as written.
#[derive(Debug, Args)]
pub struct CacheOptions {
    /// Keep what is fetched in this directory, which no other process uses
    #[arg(long, value_name = "DIR", env = "FLUID_FUSE_CACHE_DIR")]
    pub cache_dir: Option<PathBuf>,

    /// How much is kept there
    #[arg(long, value_name = "SIZE", env = "FLUID_FUSE_CACHE_SIZE", default_value = "10GiB", value_parser = size)]
    pub cache_size: u64,

    /// How long a read is tried for before it fails with an input/output error
    #[arg(long, value_name = "TIME", env = "FLUID_FUSE_IO_TIMEOUT", default_value = "60s")]
    #[arg(value_parser = humantime::parse_duration)]
    pub io_timeout: Duration,
}

/// What ends a mount beside signals and unmounts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ExitWithPod {
    /// Nothing: for native sidecars and platforms that end sidecars
    Signal,
    /// The end of the containers that use it: for Pods with shareProcessNamespace
    ProcessNamespace,
}

/// `mount`, as written.
#[derive(Debug, Args)]
pub struct MountOptions {
    #[command(flatten)]
    #[allow(missing_docs, reason = "a documentation here would replace that of the command")]
    pub source: SourceOptions,

    #[command(flatten)]
    #[allow(missing_docs, reason = "as above")]
    pub target: Target,

    /// X in the type `fuse.X` that the mount shows in /proc/self/mountinfo
    #[arg(long, value_name = "X", env = "FLUID_FUSE_SUBTYPE", default_value = FLUID_FUSE)]
    pub subtype: String,

    /// Whether nothing can be written; always true with `ro` in MOUNT_OPTIONS [default: as the accessModes of
    /// Fluid's config.json have it, otherwise true]
    #[arg(long, value_name = "BOOL", env = "FLUID_FUSE_READ_ONLY", action = ArgAction::Set)]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub read_only: Option<bool>,

    /// Memory for what is read, at least 8MiB [default: 128MiB, or 40% of the container's limit if that is less]
    #[arg(long, value_name = "SIZE", env = "FLUID_FUSE_MEMORY", value_parser = size)]
    pub memory: Option<u64>,

    #[command(flatten)]
    #[allow(missing_docs, reason = "as above")]
    pub cache: CacheOptions,

    /// Requests to the sources at a time
    #[arg(long, value_name = "N", env = "FLUID_FUSE_REQUESTS", default_value = "64")]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=256))]
    pub requests: u16,

    /// How long names and attributes of far sources are trusted
    #[arg(long, value_name = "TIME", env = "FLUID_FUSE_METADATA_TTL", default_value = "60s")]
    #[arg(value_parser = humantime::parse_duration)]
    pub metadata_ttl: Duration,

    /// Owner of what has none in its source [default: the user of this process]
    #[arg(long, value_name = "UID", env = "FLUID_FUSE_UID")]
    pub uid: Option<u32>,

    /// Group of what has none in its source [default: the group of this process]
    #[arg(long, value_name = "GID", env = "FLUID_FUSE_GID")]
    pub gid: Option<u32>,

    /// How long files that are still open are served after SIGTERM took the mount away
    #[arg(long, value_name = "TIME", env = "FLUID_FUSE_LINGER", default_value = "10s")]
    #[arg(value_parser = humantime::parse_duration)]
    pub linger: Duration,

    /// What ends it beside signals and unmounts
    #[arg(long, value_name = "MODE", env = "FLUID_FUSE_EXIT_WITH_POD", default_value = "signal")]
    pub exit_with_pod: ExitWithPod,

    /// With process-namespace: how many containers use the mount, which must all have been there; 0 when none does
    #[arg(long, value_name = "N", env = "FLUID_FUSE_EXIT_CONTAINERS", default_value = "1")]
    pub exit_containers: u16,

    /// With process-namespace: how long none of them runs before they have ended for good
    #[arg(long, value_name = "TIME", env = "FLUID_FUSE_EXIT_SETTLE", default_value = "1s")]
    #[arg(value_parser = humantime::parse_duration)]
    pub exit_settle: Duration,

    /// The descriptor of /dev/fuse of who has mounted already: its number in this process, or unix:/PATH of a socket
    /// on which it is sent
    #[arg(long, value_name = "FD", env = "FLUID_FUSE_FD")]
    pub fuse_fd: Option<FuseFd>,

    /// Where Prometheus finds the metrics, at /metrics: an address such as 127.0.0.1:9400, or unix:/PATH
    #[arg(long, value_name = "ADDR", env = "FLUID_FUSE_METRICS")]
    pub metrics: Option<Address>,

    /// Log reads that take longer
    #[arg(long, value_name = "TIME", env = "FLUID_FUSE_SLOW_READ", default_value = "5s")]
    #[arg(value_parser = humantime::parse_duration)]
    pub slow_read: Duration,
}

/// `warm`, as written.
#[derive(Debug, Args)]
pub struct WarmOptions {
    #[command(flatten)]
    #[allow(missing_docs, reason = "as above")]
    pub source: SourceOptions,

    /// Read through the mount at this directory, instead of fetching from its sources
    #[arg(long, value_name = "DIR")]
    pub mountpoint: Option<PathBuf>,

    /// The files and directories to fetch, as they are named below the mount point [otherwise: all]
    #[arg(value_name = "PATH", value_parser = sub_path)]
    pub paths: Vec<PathBuf>,

    /// A file with further such paths, one a line; `-` is the standard input
    #[arg(long, value_name = "FILE")]
    pub files: Option<PathBuf>,

    /// Requests, or files being read, at a time
    #[arg(long, value_name = "N", env = "FLUID_FUSE_WORKERS", default_value = "16")]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=256))]
    pub workers: u16,

    #[command(flatten)]
    #[allow(missing_docs, reason = "as above")]
    pub cache: CacheOptions,
}

/// `bench`, as written.
#[derive(Debug, Args)]
pub struct BenchOptions {
    #[command(flatten)]
    #[allow(missing_docs, reason = "as above")]
    pub source: SourceOptions,

    #[command(flatten)]
    #[allow(missing_docs, reason = "as above")]
    pub target: Target,

    /// The large file to read, as it is named below the mount point [otherwise: the largest]
    #[arg(long, value_name = "PATH", value_parser = sub_path)]
    pub file: Option<PathBuf>,

    /// Requests to the source at a time, as many as the mount makes
    #[arg(long, value_name = "N", env = "FLUID_FUSE_REQUESTS", default_value = "64")]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=256))]
    pub requests: u16,
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
    #[arg(long, value_name = "PATH", env = "FLUID_FUSE_SUB_PATH", value_parser = sub_path)]
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

    /// `major:minor` of the file system that must be the one that answers
    #[arg(long)]
    pub device: String,
}

/// `mount`, as meant.
#[derive(Debug, PartialEq, Eq)]
pub struct Settings {
    /// What to mount, where below the directory.
    pub mounts: Vec<MountSpec>,
    /// The directory to mount on.
    pub mountpoint: PathBuf,
    /// `X` in the file system type `fuse.X`.
    pub subtype: String,
    /// How long open files are served after the mount was taken away.
    pub linger: Duration,
    /// The containers whose end ends it.
    pub users: Option<Expected>,
    /// The descriptor of who has mounted already.
    pub fuse_fd: Option<FuseFd>,
    /// Bytes of memory for what is read.
    pub memory: u64,
    /// Where what is fetched is kept.
    pub cache_dir: Option<PathBuf>,
    /// Bytes that are kept there.
    pub cache_size: u64,
    /// Requests at a time.
    pub requests: usize,
    /// How long a read is tried for.
    pub io_timeout: Duration,
    /// How long names and attributes of far sources are trusted.
    pub metadata_ttl: Duration,
    /// User and group that own what has no owner.
    pub owner: (u32, u32),
    /// Where the metrics are.
    pub metrics: Option<Address>,
    /// Reads that take longer are logged.
    pub slow_read: Duration,
    /// Namespace and name of the Dataset, if Fluid says so.
    pub dataset: Option<String>,
}

impl Cli {
    /// Reads the arguments; the error is for [`clap::Error::exit`].
    pub fn read<T: Into<OsString> + Clone>(
        arguments: impl IntoIterator<Item = T>,
    ) -> Result<Self, clap::Error> {
        let mut command = Self::command();
        let matches = command.try_get_matches_from_mut(arguments)?;
        match matches.subcommand().and_then(|(_, given)| shown_secret(given)) {
            Some(refused) => Err(command.error(ErrorKind::ValueValidation, refused)),
            None => Self::from_arg_matches(&matches),
        }
    }
}

/// Why an argument that is a secret is refused, if one is: by its name.
fn shown_secret(given: &ArgMatches) -> Option<String> {
    let written = |id: &str| {
        let known = given.try_contains_id(id).ok()?;
        let values = (known && given.value_source(id)? == ValueSource::CommandLine)
            .then(|| given.get_many::<String>(id))??;
        Some(values.map(String::as_str).collect::<Vec<_>>())
    };
    let option = written("options").unwrap_or_default().into_iter().find_map(|option| {
        let (name, value) = option.split_once('=')?;
        is_secret(name, value).then(|| {
            format!(
                "--option {name}=… is a secret, and every process sees the arguments of others: give \
                 {name}_file=PATH, credentials_dir=DIR, or {name}=… in the variable FLUID_FUSE_OPTION"
            )
        })
    });
    option.or_else(|| {
        // What cannot be read is refused later.
        let config = FluidConfig::parse("", written("config_json")?.first()?.as_bytes()).ok()?;
        let name = config.secret()?;
        Some(format!(
            "the option {name:?} in --config-json is a secret, and every process sees the arguments of others: \
             give {name}_file, the variable of it in secretOptions, or all of it in the variable \
             FLUID_FUSE_CONFIG_JSON or in a file"
        ))
    })
}

impl Target {
    /// The directory: the flag, its variable or [`MOUNT_POINT`].
    pub fn resolve(self) -> anyhow::Result<PathBuf> {
        self.or_fluid(std::env::var_os(MOUNT_POINT))
            .context("no mount point: give --mountpoint, FLUID_FUSE_MOUNTPOINT or MOUNT_POINT")
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
                let missing = if none { "--source" } else { "--mountpoint" };
                (self.config.display().to_string(), FluidConfig::read(&self.config, missing)?)
            }
        };
        let mountpoint = target
            .or_else(|| config.target_path.clone())
            .with_context(|| format!("no mount point: {place} has no targetPath; give --mountpoint"))?;
        let read_only = read_only.unwrap_or(!config.is_writable());
        let mut mounts = if none { config.mounts(&place, |name| std::env::var_os(name))? } else { given };
        mounts.iter_mut().for_each(|mount| mount.read_only |= read_only);
        Ok((mounts, mountpoint))
    }

    /// The same for commands that need no mount point.
    pub fn mounts(&self) -> anyhow::Result<Vec<MountSpec>> {
        Ok(self.resolve(Some(PathBuf::new()), None)?.0)
    }
}

impl BenchOptions {
    /// The sources, and where they are mounted.
    pub fn resolve(&self) -> anyhow::Result<(Vec<MountSpec>, PathBuf)> {
        self.source.resolve(self.target.or_fluid(std::env::var_os(MOUNT_POINT)), None)
    }
}

impl MountOptions {
    /// The settings, with what the environment and Fluid's configuration add.
    pub fn resolve(self) -> anyhow::Result<Settings> {
        self.with(|name| std::env::var_os(name))
    }

    fn with(self, environment: impl Fn(&str) -> Option<OsString>) -> anyhow::Result<Settings> {
        let plain = |letter: char| letter.is_ascii_alphanumeric() || "-_.".contains(letter);
        if self.subtype.is_empty() || !self.subtype.chars().all(plain) {
            bail!("{:?} is no subtype: letters, digits, '-', '_' and '.' only", self.subtype);
        }
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
        let memory = self.memory.unwrap_or_else(|| default_memory(cgroup_limit()));
        ensure!(memory >= LEAST_MEMORY, "--memory must be at least 8MiB");
        let [namespace, name] = RUNTIME.map(text);
        Ok(Settings {
            mounts,
            mountpoint,
            subtype: self.subtype,
            linger: self.linger,
            users: (self.exit_with_pod == ExitWithPod::ProcessNamespace)
                .then_some(Expected { containers: self.exit_containers.into(), settle: self.exit_settle }),
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
            metrics: self.metrics,
            slow_read: self.slow_read,
            dataset: namespace.zip(name).map(|(namespace, name)| format!("{namespace}/{name}")),
        })
    }
}

/// [`MOUNT_OPTIONS`], as far as it is meant for us.
#[derive(Debug, Default, PartialEq, Eq)]
struct MountWords {
    read_only: bool,
    uid: Option<u32>,
    gid: Option<u32>,
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
            match name {
                // Their order says nothing. What may be written to is said by the access modes, never by `rw`.
                "ro" => words.read_only = true,
                "uid" => words.uid = Some(number()?),
                "gid" => words.gid = Some(number()?),
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
                "--option (FLUID_FUSE_OPTION): the {}. of them, separated by blanks, is not NAME=VALUE; a value \
                 with a blank in it goes into a file (NAME_file=PATH) or into Fluid's configuration",
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
            Ok(MountSpec { path, url: url.to_string(), options, read_only })
        })
        .collect()
}

/// Bytes: a number with a unit such as `MiB`, `Mi` or `MB`, or without one.
fn size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let factor = match &text[digits.len()..] {
        "" | "B" => Some(1),
        "Ki" | "KiB" => Some(1 << 10),
        "Mi" | "MiB" => Some(1 << 20),
        "Gi" | "GiB" => Some(1 << 30),
        "Ti" | "TiB" => Some(1 << 40),
        "k" | "kB" | "KB" => Some(1_000),
        "M" | "MB" => Some(1_000_000),
        "G" | "GB" => Some(1_000_000_000),
        "T" | "TB" => Some(1_000_000_000_000),
        _ => None,
    };
    factor
        .and_then(|factor: u64| digits.trim().parse::<u64>().ok()?.checked_mul(factor))
        .ok_or_else(|| "must be a size such as 128MiB, 2Gi or 500M".to_string())
}

/// A path that stays below the directory it is joined to.
fn sub_path(text: &str) -> Result<PathBuf, String> {
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
        let environment = |name: &str| mount_point.filter(|_| name == MOUNT_POINT).map(OsString::from);
        match Cli::read([&["fluid-fuse", "mount"], arguments].concat())?.command {
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
                r#"{"mounts":[{"mountPoint":"s3://a","secretOptions":{"secret_key":"FLUID_NONE"}}]}"#,
                "FLUID_NONE",
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
        assert!(sub_path("a/./b").is_ok() && sub_path("../a").is_err() && sub_path("/a").is_err());
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
            {"mountPoint":"oss://b","name":"x","path":"/p/q","readOnly":true,"secretOptions":{"id":"HOME"}}]}"#;
        let found = settings(&["--config-json", json], Some("/m")).unwrap().mounts;
        let seen: Vec<_> =
            found.iter().map(|mount| (mount.path.to_str().unwrap(), mount.read_only)).collect();
        assert_eq!(seen, [("n", false), ("p/q", true)]);
        assert_eq!(found[0].options.0["k_file"], "/etc/fluid/secrets/s/k");
        assert_eq!(found[1].options.0["id"], std::env::var("HOME").unwrap());
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
    fn secrets_are_no_arguments() {
        for option in ["fs.oss.accessKeySecret=s3cr3t", "session-token=s3cr3t", "password=s3cr3t"] {
            let refused =
                Cli::read(["fluid-fuse", "warm", "-o", "region=r", "-o", option]).unwrap_err().to_string();
            assert!(refused.contains("_file=PATH") && !refused.contains("s3cr3t"), "{refused}");
        }
        let json = |options: &str| {
            let json =
                format!(r#"{{"mounts":[{{"mountPoint":"s3://a"}},{{"mountPoint":"s3://b",{options}}}]}}"#);
            Cli::read(["fluid-fuse", "bench", "--config-json", &json]).map_err(|error| error.to_string())
        };
        let refused = json(r#""options":{"region":"r","secret-access-key":"s3cr3t"}"#).unwrap_err();
        assert!(refused.contains("\"secret-access-key\" in --config-json"), "{refused}");
        assert!(refused.contains("FLUID_FUSE_CONFIG_JSON") && !refused.contains("s3cr3t"), "{refused}");
        for options in [
            r#""options":{"region":"r","secret_key_file":"/x","access_key_id":"id"}"#,
            r#""options":{"secret_key":"/etc/fluid/secrets/s/key"},"secretOptions":{"token":"VARIABLE"}"#,
            r#""options":["secret_key"]"#,
        ] {
            assert!(json(options).is_ok(), "{options}");
        }
        // The rest of a secret after its blank.
        let options = ["region=r", "endpoint=e", "s3cr3t"].map(String::from);
        let error = format!("{:#}", sources(&["s3://b".into()], &options, true).unwrap_err());
        assert!(
            error.contains("--option (FLUID_FUSE_OPTION): the 3.") && !error.contains("s3cr3t"),
            "{error}"
        );
        for option in ["secret_key_file=/x", "access_key_id=id", "unknown=x", "endpoint=e"] {
            assert!(Cli::read(["fluid-fuse", "mount", "-o", option]).is_ok(), "{option}");
        }
        assert!(Cli::read(["fluid-fuse", "check"]).is_ok());
    }

    #[test]
    fn fluids_variables() {
        let found = |arguments: &[&str], options: &str| {
            let environment = |name: &str| match name {
                MOUNT_OPTIONS => Some(OsString::from(options)),
                "FLUID_RUNTIME_NS" => Some("ns".into()),
                "FLUID_RUNTIME_NAME" => Some("data".into()),
                _ => Some("/m".into()),
            };
            let source = match arguments {
                ["--config-json", ..] => [].as_slice(),
                _ => &["--source", "s3://b"],
            };
            match Cli::read([&["fluid-fuse", "mount"], source, arguments].concat()).unwrap().command {
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
    fn sizes() {
        assert_eq!(size("128MiB"), Ok(128 << 20));
        assert_eq!(size("2Gi"), Ok(2 << 30));
        assert_eq!(size("7"), Ok(7));
        assert!(size("1.5G").is_err() && size("MiB").is_err() && size("1e").is_err() && size("-1").is_err());
        assert_eq!(default_memory(None), 128 << 20);
        assert_eq!(default_memory(Some(100 << 20)), 40 << 20);
        assert_eq!(default_memory(Some(1)), LEAST_MEMORY);
    }
}
