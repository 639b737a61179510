//! The command line: the options as they were written ([`Cli`]).
//!
//! The definitions here are the one table of options: `--help`, the variables' names and docs/fluid-fuse.md come from
//! them. Secrets are not taken from arguments, which other processes see. [`crate::settings`] combines the options
//! with Fluid's own variables and files.

use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use clap::builder::NonEmptyStringValueParser;
use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{ArgAction, ArgMatches, Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use fluid_sidecar_layout::contract::{
    CONFIG_FILE, ExitWithPod, FLUID_FUSE, MOUNT_ROOT, command, env, exit_code, option,
};
use fluid_sidecar_layout::{Runtime, clap_parser};

use crate::config::FluidConfig;
use crate::fuse_fd::FuseFd;
use crate::metrics::Address;
use crate::remote::Host;
use crate::remote::options::is_secret;
use crate::trust::{self, NONE};

/// The hidden command with which this program asks a file system for an answer, in a process of its own.
pub(crate) mod hidden {
    /// The command.
    pub(crate) const PROBE: &str = "probe";
    /// Its option that lists.
    pub(crate) const LIST: &str = "list";
    /// Its option that names the file system.
    pub(crate) const DEVICE: &str = "device";
}

fn examples() -> String {
    let (mount, wait, check, unmount) = (command::MOUNT, command::WAIT, command::CHECK, command::UNMOUNT);
    let (release, gate) = (command::RELEASE, option::GATE);
    let (mountpoint, timeout) = (option::MOUNTPOINT, option::TIMEOUT);
    let (mount_point, mount_options, log) = (env::MOUNT_POINT, env::MOUNT_OPTIONS, env::LOG);
    let place = format!("{MOUNT_ROOT}/{}/ns/name/{}", Runtime::Thin, Runtime::Thin.facts().fuse_directory);
    format!(
        "\
Examples:
  {FLUID_FUSE} {mount} --source file:///data --{mountpoint} {place}
  {FLUID_FUSE} {mount} --source oss://bucket/train --option endpoint=oss-cn-hangzhou.aliyuncs.com --{mountpoint} DIR
  {FLUID_FUSE} {mount} --source images=s3://one/a --source labels=s3://two --memory 64MiB --{mountpoint} DIR
  {FLUID_FUSE} {wait} --{gate} --{mountpoint} {place} --{timeout} 5m   (postStart)
  {FLUID_FUSE} {check} --{mountpoint} {place}                (readinessProbe)
  {FLUID_FUSE} {release}                                     (preStop)
  {FLUID_FUSE} {unmount} --{mountpoint} {place}
  {FLUID_FUSE} warm --{mountpoint} DIR train labels.csv
  {FLUID_FUSE} bench --source s3://one/a --{mountpoint} DIR

As the image of a Fluid ThinRuntime, `{FLUID_FUSE} {mount}` needs no options: the mount point comes from
{mount_point} and the source from {CONFIG_FILE}. Of {mount_options}, uid=, gid=, file_mode= and
dir_mode= count, and ro, which wins over all that makes a mount writable.

Environment: each option names its variable; a flag wins over its variable, and both over Fluid's own.
{log} (or RUST_LOG) sets the level of the log on stderr: error, warn, info, debug."
    )
}

/// Mounts a Dataset with FUSE, for the containers of one Pod.
#[derive(Debug, Parser)]
#[command(version, after_help = examples())]
pub struct Cli {
    /// The command.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Mount the source and serve it until SIGTERM, SIGINT, an unmount or the end of its users: exit code 0
    #[command(name = command::MOUNT, after_help = examples())]
    Mount(Box<MountOptions>),
    /// Mount, and let another process serve (`mount --fuse-fd unix:SOCKET`), so that an application outlives it
    #[command(name = command::HOLD)]
    Hold(HoldOptions),
    /// Wait until the mount is there and answers; exit code 1 when the time is up, or at once when the store refuses
    #[command(name = command::WAIT)]
    Wait(WaitOptions),
    /// Check that the mount is there and answers within a second
    #[command(name = command::CHECK)]
    Check(CheckOptions),
    /// Detach whatever FUSE mount is there, also a dead one; having nothing to do is a success
    #[command(name = command::UNMOUNT)]
    Unmount(MountTarget),
    /// Tell the process that mounts in this container that the Pod ends, so that the mount may go (preStop)
    #[command(name = command::RELEASE)]
    Release,
    /// Fill the caches of a mount: read its files, or some of them, through it; exit code 1 when one cannot be read
    #[command(long_about = format!(
        "Fill the caches of a mount: read its files, or some of them, through it; exit code {} when one cannot be \
         read\n\n\
         The bytes go into the cache directory of the mount, if it has one, and into the kernel's page cache.",
        exit_code::FAILURE,
    ))]
    Warm(WarmOptions),
    /// Measure a mount against its own source: the same bytes, with as many requests, without the mount
    Bench(BenchOptions),
    /// Ask the file system at a path for an answer; the exit code is the error number
    #[command(name = hidden::PROBE, hide = true)]
    Probe(ProbeOptions),
}

/// Where the files come from, as written.
#[derive(Debug, Args)]
pub struct SourceOptions {
    /// What to mount, percent-encoded: s3://, oss://, gs://, az://, http(s)://, webhdfs://, file://; as
    /// PATH=URL at a path of its own [otherwise: Fluid's config.json]
    #[arg(long = "source", value_name = "[PATH=]URL", env = env::SOURCE, value_delimiter = ' ')]
    #[arg(hide_env_values = true)]
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub sources: Vec<String>,

    /// An option of the sources, such as endpoint or region. Secrets belong into the environment or files
    #[arg(long = "option", short = 'o', value_name = "NAME=VALUE", env = env::OPTION)]
    #[arg(value_delimiter = ' ', hide_env_values = true)]
    pub options: Vec<String>,

    /// Fluid's configuration of a ThinRuntime, read for what is not given otherwise
    #[arg(long, value_name = "FILE", env = env::CONFIG, default_value = CONFIG_FILE)]
    pub config: PathBuf,

    /// The same configuration itself, instead of a file. Secrets belong into its variable
    #[arg(long, value_name = "JSON", env = env::CONFIG_JSON, hide_env_values = true)]
    pub config_json: Option<String>,

    /// Where the directories may be that a Dataset (Fluid's configuration) names as file:// sources
    #[arg(help = format!(
        "Where the directories may be that Fluid's configuration names as file:// sources: absolute paths, or \
         `{NONE}` [default: anywhere but {}, and volumes of Secrets and tokens]",
        trust::CLOSED.join(", "),
    ))]
    #[arg(long = "allow-directory", value_name = "DIR", env = env::ALLOW_DIRECTORIES, value_delimiter = ' ')]
    #[arg(value_parser = allowed_directory)]
    pub allow_directories: Vec<PathBuf>,

    /// Hosts to which a http(s):// or webhdfs:// source may redirect beside its own server: names, *.domain, or *.
    /// Never from https to http
    #[arg(long, value_name = "HOST", env = env::ALLOW_REDIRECTS, value_delimiter = ' ')]
    pub allow_redirects: Vec<Host>,
}

/// The disk cache and the deadline of operations, as written.
#[derive(Debug, Args)]
pub struct CacheOptions {
    /// Cache fetched bytes in this directory, which no other process uses
    #[arg(long, value_name = "DIR", env = env::CACHE_DIR)]
    pub cache_dir: Option<PathBuf>,

    /// Largest size of that cache
    #[arg(long, value_name = "SIZE", env = env::CACHE_SIZE, default_value = "10GiB", value_parser = size)]
    pub cache_size: u64,

    /// How long an operation waits for its source, all attempts included, before it fails with an input/output error
    #[arg(long, value_name = "TIME", env = env::IO_TIMEOUT, default_value = "60s")]
    #[arg(value_parser = humantime::parse_duration)]
    pub io_timeout: Duration,
}

/// How a mount lives and ends with its Pod, as written.
#[derive(Debug, Args)]
pub struct LifeOptions {
    /// Whether the directory below the mount stays out of sight until the Pod ends
    #[arg(help = format!(
        "Whether the directory below the mount stays out of sight until the Pod ends, which `{FLUID_FUSE} {}` tells: \
         until then whoever has no file system there has a guard, which answers with errors",
        command::RELEASE,
    ))]
    #[arg(long, value_name = "BOOL", env = env::GUARD, action = ArgAction::Set)]
    #[arg(num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true")]
    pub guard: bool,

    /// The directory of this Pod among those of other Pods: removed at the end, and theirs too if they died
    #[arg(long, value_name = "DIR", env = env::PLACE)]
    pub place: Option<PathBuf>,

    /// How long files that are still open are served after SIGTERM took the mount away
    #[arg(long, value_name = "TIME", env = env::LINGER, default_value = "10s")]
    #[arg(value_parser = humantime::parse_duration)]
    pub linger: Duration,

    /// How it knows that the Pod ends, beside signals and unmounts
    #[arg(long, value_name = "MODE", env = env::EXIT_WITH_POD, default_value_t = ExitWithPod::Signal)]
    #[arg(value_parser = clap_parser::<ExitWithPod>())]
    pub exit_with_pod: ExitWithPod,

    /// How many containers use the mount
    #[arg(help = format!(
        "With {}: how many containers use the mount, which must all have been there; 0 when none does",
        ExitWithPod::ProcessNamespace,
    ))]
    #[arg(long, value_name = "N", env = env::EXIT_CONTAINERS, default_value = "1")]
    pub exit_containers: u16,

    /// How long none of them runs before they have ended for good
    #[arg(help = format!(
        "With {}: how long none of them runs before they have ended for good",
        ExitWithPod::ProcessNamespace,
    ))]
    #[arg(long, value_name = "TIME", env = env::EXIT_SETTLE, default_value = "1s")]
    #[arg(value_parser = humantime::parse_duration)]
    pub exit_settle: Duration,
}

/// `mount`, as written.
#[derive(Debug, Args)]
pub struct MountOptions {
    #[command(flatten)]
    #[allow(missing_docs, reason = "a documentation here would replace that of the command")]
    pub source: SourceOptions,

    #[command(flatten)]
    #[allow(missing_docs, reason = "as above")]
    pub target: MountTarget,

    /// X in the type `fuse.X` that the mount shows in /proc/self/mountinfo
    #[arg(long, value_name = "X", env = env::SUBTYPE, default_value = FLUID_FUSE)]
    pub subtype: String,

    /// Whether nothing can be written
    #[arg(help = format!(
        "Whether nothing can be written; always true with `ro` in {} [default: as the accessModes of Fluid's \
         config.json have it, otherwise true]",
        env::MOUNT_OPTIONS,
    ))]
    #[arg(long, value_name = "BOOL", env = env::READ_ONLY, action = ArgAction::Set)]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub read_only: Option<bool>,

    /// Memory for blocks of files, at least 8MiB [default: 128MiB, or 40% of the container's limit if that is less]
    #[arg(long, value_name = "SIZE", env = env::MEMORY, value_parser = size)]
    pub memory: Option<u64>,

    #[command(flatten)]
    #[allow(missing_docs, reason = "as above")]
    pub cache: CacheOptions,

    /// Requests to the sources at a time
    #[arg(long, value_name = "N", env = env::REQUESTS, default_value = "64")]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=256))]
    pub requests: u16,

    /// How long names and attributes of remote sources are trusted
    #[arg(long, value_name = "TIME", env = env::METADATA_TTL, default_value = "60s")]
    #[arg(value_parser = humantime::parse_duration)]
    pub metadata_ttl: Duration,

    /// Owner of what has none in its source [default: the user of this process]
    #[arg(long, value_name = "UID", env = env::UID)]
    pub uid: Option<u32>,

    /// Group of what has none in its source [default: the group of this process]
    #[arg(long, value_name = "GID", env = env::GID)]
    pub gid: Option<u32>,

    /// Permissions of files of object stores, in octal; without write bits where nothing can be written [default: 644]
    #[arg(long, value_name = "MODE", env = env::FILE_MODE, value_parser = mode)]
    pub file_mode: Option<u16>,

    /// Permissions of directories of object stores, in octal; without write bits where nothing can be written
    /// [default: 755]
    #[arg(long, value_name = "MODE", env = env::DIR_MODE, value_parser = mode)]
    pub dir_mode: Option<u16>,

    /// Whether the time of change that programs have set, which is kept with an object (`mtime`, as rclone and s3fs have
    /// it), is also shown of files that others wrote: one request for each whose attributes are looked at
    #[arg(long, value_name = "BOOL", env = env::KEPT_TIMES, action = ArgAction::Set)]
    #[arg(num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true")]
    pub kept_times: bool,

    /// Objects below a directory that is renamed at most, as each is copied; of more, or of any with 0, rename(2) is
    /// EXDEV, and `mv` copies
    #[arg(long, value_name = "N", env = env::RENAME_DIR_LIMIT, default_value = "1000")]
    #[arg(value_parser = clap::value_parser!(u32).range(0..=100_000))]
    pub rename_dir_limit: u32,

    #[command(flatten)]
    #[allow(missing_docs, reason = "as above")]
    pub life: LifeOptions,

    /// The descriptor of /dev/fuse of who has mounted already: its number in this process, or unix:/PATH of a socket
    /// on which it is sent
    #[arg(long, value_name = "FD", env = env::FD)]
    pub fuse_fd: Option<FuseFd>,

    /// Where Prometheus finds the metrics, at /metrics: an address such as 127.0.0.1:9400, or unix:/PATH
    #[arg(long, value_name = "ADDR", env = env::METRICS)]
    pub metrics: Option<Address>,

    /// Log reads that take longer, and every operation that still waits then
    #[arg(long, value_name = "TIME", env = env::SLOW_READ, default_value = "5s")]
    #[arg(value_parser = humantime::parse_duration)]
    pub slow_read: Duration,
}

/// `hold`, as written.
#[derive(Debug, Args)]
pub struct HoldOptions {
    #[command(flatten)]
    #[allow(missing_docs, reason = "as above")]
    pub target: MountTarget,

    /// Where the mount is handed over to the process that serves, one at a time
    #[arg(long, value_name = "PATH", env = env::SOCKET)]
    pub socket: PathBuf,

    /// How long there may be no such process before the mount ends; until then operations wait
    #[arg(long, value_name = "TIME", env = env::PATIENCE, default_value = "10m")]
    #[arg(value_parser = humantime::parse_duration)]
    pub patience: Duration,

    /// X in the type `fuse.X` that the mount shows in /proc/self/mountinfo
    #[arg(long, value_name = "X", env = env::SUBTYPE, default_value = FLUID_FUSE)]
    pub subtype: String,

    #[command(flatten)]
    #[allow(missing_docs, reason = "as above")]
    pub life: LifeOptions,

    /// Do not let the kernel resend requests, as kernels before Linux 6.9 cannot
    #[arg(long, hide = true)]
    pub no_resend: bool,
}

/// `warm`, as written.
#[derive(Debug, Args)]
pub struct WarmOptions {
    #[command(flatten)]
    #[allow(missing_docs, reason = "as above")]
    pub target: MountTarget,

    /// The files and directories to read, relative to the mount point [otherwise: all]
    #[arg(value_name = "PATH", value_parser = sub_path)]
    pub paths: Vec<PathBuf>,

    /// A file with further such paths, one a line; `-` is the standard input
    #[arg(long, value_name = "FILE")]
    pub files: Option<PathBuf>,

    /// Files that are read at a time
    #[arg(long, value_name = "N", env = env::WORKERS, default_value = "16")]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=256))]
    pub workers: u16,
}

/// `bench`, as written.
#[derive(Debug, Args)]
pub struct BenchOptions {
    #[command(flatten)]
    #[allow(missing_docs, reason = "as above")]
    pub source: SourceOptions,

    #[command(flatten)]
    #[allow(missing_docs, reason = "as above")]
    pub target: MountTarget,

    /// The large file to read, as it is named below the mount point [otherwise: the largest]
    #[arg(long, value_name = "PATH", value_parser = sub_path)]
    pub file: Option<PathBuf>,

    /// Requests to the source at a time, as many as the mount makes
    #[arg(long, value_name = "N", env = env::REQUESTS, default_value = "64")]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=256))]
    pub requests: u16,
}

/// The directory that a command is about, as written.
#[derive(Debug, Args)]
pub struct MountTarget {
    /// The directory of the mount
    #[arg(help = format!("The directory of the mount [otherwise: the variable {}]", env::MOUNT_POINT))]
    #[arg(long = option::MOUNTPOINT, value_name = "DIR", env = env::MOUNTPOINT)]
    pub mountpoint: Option<PathBuf>,
}

/// `wait`, as written.
#[derive(Debug, Args)]
pub struct WaitOptions {
    #[command(flatten)]
    #[allow(missing_docs, reason = "as above")]
    pub target: MountTarget,

    /// A file or directory of the mount that must answer too
    #[arg(long, value_name = "PATH", env = env::SUB_PATH, value_parser = sub_path)]
    pub sub_path: Option<PathBuf>,

    /// This is the gate of a Pod: tell the process that mounts how it went. It ends if the gate failed
    #[arg(long = option::GATE)]
    pub gate: bool,

    /// How long to wait
    #[arg(long = option::TIMEOUT, value_name = "TIME", env = env::TIMEOUT, default_value = "30s")]
    #[arg(value_parser = humantime::parse_duration)]
    pub timeout: Duration,
}

/// `check`, as written.
#[derive(Debug, Args)]
pub struct CheckOptions {
    #[command(flatten)]
    #[allow(missing_docs, reason = "as above")]
    pub target: MountTarget,

    /// This is the gate of a Pod, asked again and again: tell the process that mounts once it has passed
    #[arg(long = option::GATE)]
    pub gate: bool,
}

/// `probe`, as [`crate::probe`] writes it.
#[derive(Debug, Args)]
pub struct ProbeOptions {
    /// The directory that is mounted on
    pub path: PathBuf,

    /// A path below that directory to ask for too
    pub below: Option<PathBuf>,

    /// Read a directory's first entry too
    #[arg(long = hidden::LIST)]
    pub list: bool,

    /// `major:minor` of the file system that must be the one that answers
    #[arg(long = hidden::DEVICE)]
    pub device: String,
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
                 {name}_file=PATH, credentials_dir=DIR, or {name}=… in the variable {}",
                env::OPTION
            )
        })
    });
    option.or_else(|| {
        // JSON that cannot be read is refused later.
        let config = FluidConfig::parse("", written("config_json")?.first()?.as_bytes()).ok()?;
        let name = config.secret()?;
        Some(format!(
            "the option {name:?} in --config-json is a secret, and every process sees the arguments of others: \
             give {name}_file, the variable of it in secretOptions, or all of it in the variable {} or in a \
             file",
            env::CONFIG_JSON
        ))
    })
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

/// Permissions of a file, in octal.
pub(crate) fn mode(text: &str) -> Result<u16, String> {
    match u16::from_str_radix(text.trim_start_matches("0o"), 8) {
        Ok(mode @ 0..=0o777) => Ok(mode),
        _ => Err("must be permissions in octal, such as 644 or 755".to_string()),
    }
}

/// A directory in which those of a Dataset may be, or the word for none.
fn allowed_directory(text: &str) -> Result<PathBuf, String> {
    match text == NONE || text.starts_with('/') {
        true => Ok(PathBuf::from(text)),
        false => Err(format!("must be an absolute path, or {NONE:?}")),
    }
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

    #[test]
    fn secrets_are_no_arguments() {
        for option in ["fs.oss.accessKeySecret=s3cr3t", "session-token=s3cr3t", "password=s3cr3t"] {
            let refused =
                Cli::read(["fluid-fuse", "mount", "-o", "region=r", "-o", option]).unwrap_err().to_string();
            assert!(refused.contains("_file=PATH") && !refused.contains("s3cr3t"), "{refused}");
        }
        let json = |options: &str| {
            let json =
                format!(r#"{{"mounts":[{{"mountPoint":"s3://a"}},{{"mountPoint":"s3://b",{options}}}]}}"#);
            Cli::read(["fluid-fuse", "bench", "--config-json", &json]).map_err(|error| error.to_string())
        };
        let refused = json(r#""options":{"region":"r","secret-access-key":"s3cr3t"}"#).unwrap_err();
        assert!(refused.contains("\"secret-access-key\" in --config-json"), "{refused}");
        assert!(refused.contains(env::CONFIG_JSON) && !refused.contains("s3cr3t"), "{refused}");
        for options in [
            r#""options":{"region":"r","secret_key_file":"/x","access_key_id":"id"}"#,
            r#""options":{"secret_key":"/etc/fluid/secrets/s/key"},"secretOptions":{"token":"VARIABLE"}"#,
            r#""options":["secret_key"]"#,
        ] {
            assert!(json(options).is_ok(), "{options}");
        }
        for option in ["secret_key_file=/x", "access_key_id=id", "unknown=x", "endpoint=e"] {
            assert!(Cli::read(["fluid-fuse", "mount", "-o", option]).is_ok(), "{option}");
        }
        assert!(Cli::read(["fluid-fuse", "check"]).is_ok());
    }

    #[test]
    fn sizes_and_paths() {
        assert_eq!(size("128MiB"), Ok(128 << 20));
        assert_eq!(size("2Gi"), Ok(2 << 30));
        assert_eq!(size("7"), Ok(7));
        assert!(size("1.5G").is_err() && size("MiB").is_err() && size("1e").is_err() && size("-1").is_err());
        assert!(sub_path("a/./b").is_ok() && sub_path("../a").is_err() && sub_path("/a").is_err());
    }
}
