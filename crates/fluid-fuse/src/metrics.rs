//! Counters of the mount, and the metrics made of them for Prometheus ([`FAMILIES`]).
//!
//! Counting is a relaxed addition. Values that need a lock or a clock are computed when somebody fetches the metrics
//! ([`render`]). One thread serves `/metrics`, one request at a time. URLs of sources are shown without their secrets
//! ([`shown_url`](crate::plain::shown_url)).

use std::fmt::{self, Write as _};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use log::{debug, info, warn};
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};

use crate::fetch::Shared;
use crate::histogram::MILLISECONDS;
use crate::limits::SKIPPED;

/// Number of error numbers that are counted, each by itself: Linux has none beyond.
const ERRNOS: usize = 134;

/// Time for one client to send its request and to take the answer: 2 s, since the clients wait for each other.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(2);

/// Time between two attempts to listen where another process does: 2 s, a small part of a scrape interval.
const LISTEN_INTERVAL: Duration = Duration::from_secs(2);

/// Bytes of a request at most: 8 KiB, the usual limit of HTTP servers for a head.
const MAX_HTTP_HEAD: usize = 8 * 1024;

/// Bytes of the thread's stack: it formats a few lines.
const STACK_SIZE: usize = 128 * 1024;

fn add(counter: &AtomicU64, number: u64) {
    counter.fetch_add(number, Ordering::Relaxed);
}

fn get(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

/// Counters of the kernel's requests and their answers.
#[derive(Debug)]
pub struct Answers {
    reads: AtomicU64,
    bytes: AtomicU64,
    opens: AtomicU64,
    errors: [AtomicU64; ERRNOS],
}

impl Default for Answers {
    fn default() -> Self {
        let errors = std::array::from_fn(|_| AtomicU64::default());
        Answers {
            reads: AtomicU64::default(),
            bytes: AtomicU64::default(),
            opens: AtomicU64::default(),
            errors,
        }
    }
}

impl Answers {
    /// A file was opened.
    pub fn opened(&self) {
        add(&self.opens, 1);
    }

    /// A read was answered with so many bytes, or with an error number.
    pub fn read(&self, outcome: Result<usize, i32>) {
        add(&self.reads, 1);
        match outcome {
            Ok(bytes) => add(&self.bytes, bytes as u64),
            Err(errno) => {
                if let Some(counter) = usize::try_from(errno).ok().and_then(|errno| self.errors.get(errno)) {
                    add(counter, 1);
                }
            }
        }
    }
}

/// The mount, as `mount_info` shows it.
#[derive(Debug, Default)]
pub struct Mounted {
    /// `X` in the type `fuse.X`.
    pub subtype: String,
    /// The sources: the path below the mount point, and the URL without secrets ([`shown_url`](crate::plain::shown_url)).
    pub sources: Vec<(PathBuf, String)>,
    /// Namespace and name of the Dataset.
    pub dataset: String,
}

/// The type of a family of metrics, in the words of Prometheus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricType {
    /// A count that only grows.
    Counter,
    /// A value that grows and shrinks.
    Gauge,
    /// Values counted by size.
    Histogram,
}

impl fmt::Display for MetricType {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            MetricType::Counter => "counter",
            MetricType::Gauge => "gauge",
            MetricType::Histogram => "histogram",
        })
    }
}

/// Whether dashboards and alarms may rely on a family of metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stability {
    /// Name, type, unit and labels change with a major version alone.
    Stable,
    /// It may change with any version.
    Experimental,
}

impl fmt::Display for Stability {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Stability::Stable => "stable",
            Stability::Experimental => "experimental",
        })
    }
}

/// Metrics of one name.
#[derive(Clone, Copy, Debug)]
pub struct Family {
    /// The name, without the prefix `fluid_fuse_`.
    pub name: &'static str,
    /// The type.
    pub metric_type: MetricType,
    /// The unit of a value.
    pub unit: &'static str,
    /// Whether it may change.
    pub stability: Stability,
    /// The meaning of a value, in a sentence.
    pub help: &'static str,
}

macro_rules! families {
    ($($constant:ident = $name:literal, $metric_type:ident, $unit:literal, $stability:ident, $help:literal;)*) => {
        $(const $constant: Family = Family {
            name: $name,
            metric_type: MetricType::$metric_type,
            unit: $unit,
            stability: Stability::$stability,
            help: $help,
        };)*

        /// All metrics, in the order in which they are served. A table of docs/fluid-fuse.md is made of them.
        pub const FAMILIES: &[Family] = &[$($constant),*];
    };
}

families! {
    MOUNT_INFO = "mount_info", Gauge, "1", Stable, "The mounted sources, one sample for each, as labels.";
    FETCHED_BYTES = "fetched_bytes_total", Counter, "bytes", Stable, "Bytes of files that came from the sources.";
    DISK_READ_BYTES = "disk_read_bytes_total", Counter, "bytes", Stable, "Bytes that came from the disk cache.";
    REQUESTS = "requests_total", Counter, "requests", Stable, "Range requests to the sources.";
    RETRIES = "retries_total", Counter, "requests", Stable, "Requests that were retried.";
    FAILURES = "failures_total", Counter, "requests", Stable, "Requests that failed for good, after all retries.";
    HIDDEN_ENTRIES = "hidden_entries_total", Counter, "entries", Stable,
        "Entries of listings that are not shown because they cannot be files or directories.";
    OPENS = "opens_total", Counter, "files", Stable, "Opens of files.";
    READS = "reads_total", Counter, "reads", Stable,
        "Reads answered; neither page cache hits nor passthrough reads, which the kernel answers itself.";
    READ_BYTES = "read_bytes_total", Counter, "bytes", Stable, "Bytes in the answers to reads.";
    READ_ERRORS = "read_errors_total", Counter, "reads", Stable, "Reads answered with an error, by its name.";
    MEMORY = "memory_bytes", Gauge, "bytes", Stable, "Memory in use for blocks of files.";
    MEMORY_LIMIT = "memory_limit_bytes", Gauge, "bytes", Stable, "The limit of that memory.";
    DISK = "disk_bytes", Gauge, "bytes", Stable, "Size of the disk cache.";
    DISK_LIMIT = "disk_limit_bytes", Gauge, "bytes", Stable, "The limit of that size.";
    READ_WAIT = "read_wait_seconds", Histogram, "seconds", Experimental,
        "Time that reads of remote sources waited; le=\"0\": the bytes were cached.";
}

/// The metrics in Prometheus' text format.
pub fn render(mounted: &Mounted, answers: &Answers, shared: &Shared) -> String {
    let mut text = Text(String::new());
    text.family(&MOUNT_INFO);
    for (path, source) in &mounted.sources {
        let path = format!("/{}", path.display());
        let labels = [
            ("version", env!("CARGO_PKG_VERSION")),
            ("subtype", &mounted.subtype),
            ("source", source),
            ("path", &path),
            ("dataset", &mounted.dataset),
        ];
        text.sample(MOUNT_INFO.name, &labels, 1_u64);
    }
    let metrics = shared.metrics();
    for (family, value) in [
        (FETCHED_BYTES, get(&metrics.bytes)),
        (DISK_READ_BYTES, get(&metrics.disk_bytes)),
        (REQUESTS, get(&metrics.requests)),
        (RETRIES, get(&metrics.retries)),
        (FAILURES, get(&metrics.failures)),
        (HIDDEN_ENTRIES, get(&SKIPPED)),
        (OPENS, get(&answers.opens)),
        (READS, get(&answers.reads)),
        (READ_BYTES, get(&answers.bytes)),
    ] {
        text.value(&family, value);
    }
    text.family(&READ_ERRORS);
    for (errno, counter) in (0..).zip(&answers.errors).filter(|(_, counter)| get(counter) > 0) {
        text.sample(READ_ERRORS.name, &[("errno", &errno_name(errno))], get(counter));
    }
    let (used, limit) = shared.memory();
    let (disk_used, disk_limit) = shared.disk_bytes().unwrap_or_default();
    for (family, value) in
        [(MEMORY, used), (MEMORY_LIMIT, limit), (DISK, disk_used), (DISK_LIMIT, disk_limit)]
    {
        text.value(&family, value);
    }
    text.family(&READ_WAIT);
    let limits = MILLISECONDS.map(|limit| (limit as f64 / 1000.0).to_string());
    let mut count = 0;
    let (buckets, sum) = metrics.waits.read();
    for (bucket, limit) in buckets.into_iter().zip(limits.iter().map(String::as_str).chain(["+Inf"])) {
        count += bucket;
        text.sample("read_wait_seconds_bucket", &[("le", limit)], count);
    }
    text.sample("read_wait_seconds_sum", &[], sum.as_secs_f64());
    text.sample("read_wait_seconds_count", &[], count);
    text.0
}

struct Text(String);

impl Text {
    fn family(&mut self, family: &Family) {
        let Family { name, metric_type, help, .. } = family;
        let _ = writeln!(self.0, "# HELP fluid_fuse_{name} {help}\n# TYPE fluid_fuse_{name} {metric_type}");
    }

    /// A family with a single sample.
    fn value(&mut self, family: &Family, value: u64) {
        self.family(family);
        self.sample(family.name, &[], value);
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl fmt::Display) {
        let escaped = |value: &str| value.replace('\\', r"\\").replace('"', "\\\"").replace('\n', r"\n");
        let labels: Vec<_> =
            labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        let _ = writeln!(self.0, "fluid_fuse_{name}{labels} {value}");
    }
}

fn errno_name(errno: i32) -> String {
    match Errno::from_raw_os_error(errno) {
        Errno::NOENT => "ENOENT".into(),
        Errno::NXIO => "ENXIO".into(),
        Errno::ACCESS => "EACCES".into(),
        Errno::STALE => "ESTALE".into(),
        Errno::NOTSUP => "ENOTSUP".into(),
        Errno::BADF => "EBADF".into(),
        Errno::IO => "EIO".into(),
        _ => errno.to_string(),
    }
}

/// The address at which metrics are served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// An address and a port.
    Tcp(SocketAddr),
    /// A socket in the file system.
    Unix(PathBuf),
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_prefix("unix:") {
            Some(path) if path.starts_with('/') => Ok(Address::Unix(path.into())),
            _ => text
                .parse()
                .map(Address::Tcp)
                .map_err(|_| "must be like 127.0.0.1:9400 or unix:/path".to_string()),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(socket) => socket.fmt(f),
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Waits for the next client.
type Accept = Box<dyn Fn() -> io::Result<OwnedFd> + Send>;

fn listen(address: &Address) -> io::Result<Accept> {
    Ok(match address {
        Address::Tcp(socket) => {
            let listener = TcpListener::bind(socket)?;
            Box::new(move || listener.accept().map(|(socket, _)| socket.into()))
        }
        Address::Unix(path) => {
            // The socket of a former process.
            if fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket()) {
                let _ = fs::remove_file(path);
            }
            let listener = UnixListener::bind(path)?;
            Box::new(move || listener.accept().map(|(socket, _)| socket.into()))
        }
    })
}

/// Listens as soon as no other process does.
fn listen_later(address: &Address) -> Accept {
    loop {
        thread::sleep(LISTEN_INTERVAL);
        match listen(address) {
            Ok(accept) => {
                info!("--metrics {address}: served from now on");
                return accept;
            }
            Err(error) => debug!("--metrics {address}: {error}"),
        }
    }
}

/// Serves the metrics until the process ends. Where another process listens, the data is served without metrics until
/// that process ends: the containers of a Pod share their ports.
pub fn serve(
    address: &Address,
    mounted: Mounted,
    answers: Arc<Answers>,
    shared: Arc<Shared>,
) -> anyhow::Result<()> {
    let accept = match listen(address) {
        Ok(accept) => Some(accept),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            warn!(
                "--metrics {address}: another process listens there, such as the sidecar of another Dataset of the Pod; \
                 the metrics of this one are served once it ends"
            );
            None
        }
        Err(error) => {
            return Err(error).with_context(|| format!("--metrics {address}: cannot listen there"));
        }
    };
    let address = address.clone();
    let answer = move |socket: OwnedFd| {
        set_socket_timeout(&socket, Timeout::Recv, Some(CLIENT_TIMEOUT))?;
        set_socket_timeout(&socket, Timeout::Send, Some(CLIENT_TIMEOUT))?;
        respond(File::from(socket), || render(&mounted, &answers, &shared))
    };
    let run = move || {
        let accept = accept.unwrap_or_else(|| listen_later(&address));
        loop {
            match accept() {
                Ok(socket) => answer(socket).unwrap_or_else(|error| debug!("metrics: {error}")),
                Err(error) => {
                    debug!("metrics: {error}");
                    // Most likely the process has no descriptors left: accepting again at once would fail, too.
                    thread::sleep(CLIENT_TIMEOUT);
                }
            }
        }
    };
    thread::Builder::new()
        .name("metrics".into())
        .stack_size(STACK_SIZE)
        .spawn(run)
        .context("cannot start a thread")?;
    Ok(())
}

/// Answers one request.
fn respond(mut stream: impl Read + Write, metrics: impl Fn() -> String) -> io::Result<()> {
    let end = Instant::now() + CLIENT_TIMEOUT;
    let mut request = Vec::new();
    let mut piece = [0; 1024];
    while Instant::now() < end
        && !request.windows(4).any(|four| four == b"\r\n\r\n")
        && request.len() < MAX_HTTP_HEAD
    {
        match stream.read(&mut piece)? {
            0 => break,
            read => request.extend_from_slice(&piece[..read]),
        }
    }
    let mut words = request.split(|byte| byte.is_ascii_whitespace());
    let path = words.next().zip(words.next());
    let (status, body) = match path {
        Some((b"GET", b"/metrics")) => ("200 OK", metrics()),
        Some((b"GET", _)) => ("404 Not Found", "GET /metrics\n".to_string()),
        _ => ("405 Method Not Allowed", "GET /metrics\n".to_string()),
    };
    let answer = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(answer.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fetch::Budget;

    #[test]
    fn addresses() {
        assert_eq!("unix:/run/m".parse(), Ok(Address::Unix("/run/m".into())));
        assert_eq!("[::1]:9400".parse(), Ok(Address::Tcp("[::1]:9400".parse().unwrap())));
        for wrong in ["unix:m", "9400", "localhost:9400"] {
            assert!(wrong.parse::<Address>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn counters_are_rendered() {
        let budget = Budget { memory: 8 << 20, requests: 4, io_timeout: Duration::ZERO, slow: Duration::MAX };
        let shared = Shared::new(budget, None).unwrap();
        for milliseconds in [0, 0, 5, 6, 60_000] {
            shared.metrics().waits.add(Duration::from_millis(milliseconds));
        }
        let answers = Answers::default();
        answers.opened();
        for outcome in [Ok(7), Ok(3), Err(5), Err(116), Err(4096), Err(-1)] {
            answers.read(outcome);
        }
        let mounted = Mounted {
            subtype: "thin".into(),
            sources: vec![("a\"b".into(), "s3://bucket".into())],
            dataset: "ns/data".into(),
        };
        let text = render(&mounted, &answers, &shared);
        for line in [
            "fluid_fuse_opens_total 1",
            "fluid_fuse_reads_total 6",
            "fluid_fuse_read_bytes_total 10",
            "fluid_fuse_read_errors_total{errno=\"EIO\"} 1",
            "fluid_fuse_read_errors_total{errno=\"ESTALE\"} 1",
            "fluid_fuse_memory_limit_bytes 8388608",
            "fluid_fuse_read_wait_seconds_bucket{le=\"0\"} 2",
            "fluid_fuse_read_wait_seconds_bucket{le=\"0.005\"} 3",
            "fluid_fuse_read_wait_seconds_bucket{le=\"0.02\"} 4",
            "fluid_fuse_read_wait_seconds_bucket{le=\"20\"} 4",
            "fluid_fuse_read_wait_seconds_bucket{le=\"+Inf\"} 5",
            "fluid_fuse_read_wait_seconds_sum 60.011",
            "# TYPE fluid_fuse_read_wait_seconds histogram",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
        let told = |family: &&Family| text.contains(&format!("# TYPE fluid_fuse_{} ", family.name));
        assert_eq!(FAMILIES.iter().filter(told).count(), FAMILIES.len(), "{text}");
        assert_eq!(text.matches("# TYPE ").count(), FAMILIES.len(), "{text}");
        assert!(text.contains(r#"source="s3://bucket",path="/a\"b",dataset="ns/data""#), "{text}");
    }

    #[test]
    fn only_metrics_are_served() {
        for (request, status) in [
            ("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", "200"),
            ("GET / HTTP/1.1\r\n\r\n", "404"),
            ("POST /metrics HTTP/1.1\r\n\r\n", "405"),
            ("", "405"),
        ] {
            let (mut client, server) = std::os::unix::net::UnixStream::pair().unwrap();
            client.write_all(request.as_bytes()).unwrap();
            client.shutdown(std::net::Shutdown::Write).unwrap();
            respond(server, || "x 1\n".to_string()).unwrap();
            let mut answer = String::new();
            client.read_to_string(&mut answer).unwrap();
            assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{answer}");
        }
    }
}
