//! How it goes: what is counted while the mount is read, and the metrics made of it for Prometheus.
//!
//! Counting is a relaxed addition; what needs a lock or a clock is asked for when somebody fetches the metrics
//! ([`render`]). They are served by a thread that answers one question at a time and nothing but `/metrics`. A
//! source is shown without what may be secret in its URL ([`shown`]). Nothing here knows what a number is good
//! for.

use std::fmt::Write as _;
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
use log::debug;
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};

use crate::fetch::Shared;
use crate::histogram::MILLISECONDS;
use crate::limits::SKIPPED;

/// Error numbers that are counted by themselves; Linux has no others.
const ERRNOS: usize = 134;

/// How long somebody who asks for the metrics may take for it.
const PATIENCE: Duration = Duration::from_secs(2);

const LONGEST_REQUEST: usize = 8 * 1024;

fn add(counter: &AtomicU64, number: u64) {
    counter.fetch_add(number, Ordering::Relaxed);
}

fn get(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

/// What the kernel asked for and was told.
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

/// What is mounted.
#[derive(Debug, Default)]
pub struct Mounted {
    /// `X` in the type `fuse.X`.
    pub subtype: String,
    /// Where below the mount point, and what, as it may be [shown].
    pub sources: Vec<(PathBuf, String)>,
    /// Namespace and name of the Dataset.
    pub dataset: String,
}

/// A URL without what may be secret: user, password and query.
pub fn shown(url: &str) -> String {
    let plain = url.split(['?', '#']).next().unwrap_or_default();
    match plain.split_once("://") {
        Some((scheme, rest)) => {
            let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            format!("{scheme}://{}{path}", authority.rsplit('@').next().unwrap_or_default())
        }
        None => plain.to_string(),
    }
}

/// The metrics in Prometheus' text format.
pub fn render(mounted: &Mounted, answers: &Answers, shared: &Shared) -> String {
    let mut text = Text(String::new());
    text.family("mount_info", "gauge", "What is mounted.");
    for (path, source) in &mounted.sources {
        let path = format!("/{}", path.display());
        let labels = [
            ("version", env!("CARGO_PKG_VERSION")),
            ("subtype", &mounted.subtype),
            ("source", source),
            ("path", &path),
            ("dataset", &mounted.dataset),
        ];
        text.sample("mount_info", &labels, 1_u64);
    }
    let metrics = shared.metrics();
    for (name, help, value) in [
        ("fetched_bytes_total", "Bytes that came from the sources.", get(&metrics.bytes)),
        ("disk_read_bytes_total", "Bytes that came from the disk cache.", get(&metrics.disk_bytes)),
        ("requests_total", "Requests to the sources for bytes.", get(&metrics.requests)),
        ("retries_total", "Requests that were made again.", get(&metrics.retries)),
        ("failures_total", "Requests that were given up.", get(&metrics.failures)),
        (
            "hidden_entries_total",
            "Entries of listings that cannot be files, or what they say.",
            get(&SKIPPED),
        ),
        ("opens_total", "Files opened.", get(&answers.opens)),
        ("reads_total", "Reads answered; not those that the kernel answers itself.", get(&answers.reads)),
        ("read_bytes_total", "Bytes that reads were answered with.", get(&answers.bytes)),
    ] {
        text.family(name, "counter", help);
        text.sample(name, &[], value);
    }
    text.family("read_errors_total", "counter", "Reads answered with an error.");
    for (errno, counter) in (0..).zip(&answers.errors).filter(|(_, counter)| get(counter) > 0) {
        text.sample("read_errors_total", &[("errno", &errno_name(errno))], get(counter));
    }
    let (used, cap) = shared.memory();
    let disk = shared.disk_bytes().unwrap_or_default();
    for (name, help, value) in [
        ("memory_bytes", "Memory in use for what is read.", used),
        ("memory_limit_bytes", "Memory that may be.", cap),
        ("disk_bytes", "Bytes in the disk cache.", disk.0),
        ("disk_limit_bytes", "Bytes that may be there.", disk.1),
    ] {
        text.family(name, "gauge", help);
        text.sample(name, &[], value);
    }
    let name = "read_wait_seconds";
    text.family(name, "histogram", "How long reads of far sources waited; le=\"0\": the bytes were here.");
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
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP fluid_fuse_{name} {help}\n# TYPE fluid_fuse_{name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl std::fmt::Display) {
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

/// Where metrics are served.
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

/// Serves the metrics as long as the process lives.
pub fn serve(
    address: &Address,
    mounted: Mounted,
    answers: Arc<Answers>,
    shared: Arc<Shared>,
) -> anyhow::Result<()> {
    let accept: Box<dyn Fn() -> io::Result<OwnedFd> + Send> = match address {
        Address::Tcp(socket) => {
            let listener = TcpListener::bind(socket)
                .with_context(|| format!("--metrics {socket}: cannot listen there"))?;
            Box::new(move || listener.accept().map(|(socket, _)| socket.into()))
        }
        Address::Unix(path) => {
            // What a former process left.
            if fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket()) {
                let _ = fs::remove_file(path);
            }
            let listener = UnixListener::bind(path)
                .with_context(|| format!("--metrics unix:{}: cannot listen there", path.display()))?;
            Box::new(move || listener.accept().map(|(socket, _)| socket.into()))
        }
    };
    let answer = move |socket: OwnedFd| {
        set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE))?;
        set_socket_timeout(&socket, Timeout::Send, Some(PATIENCE))?;
        respond(File::from(socket), || render(&mounted, &answers, &shared))
    };
    let run = move || {
        loop {
            match accept() {
                Ok(socket) => answer(socket).unwrap_or_else(|error| debug!("metrics: {error}")),
                Err(error) => {
                    debug!("metrics: {error}");
                    // No descriptors are left, most likely.
                    thread::sleep(PATIENCE);
                }
            }
        }
    };
    thread::Builder::new()
        .name("metrics".into())
        .stack_size(128 * 1024)
        .spawn(run)
        .context("cannot start a thread")?;
    Ok(())
}

/// Answers one request.
fn respond(mut stream: impl Read + Write, metrics: impl Fn() -> String) -> io::Result<()> {
    let end = Instant::now() + PATIENCE;
    let mut request = Vec::new();
    let mut piece = [0; 1024];
    while Instant::now() < end
        && !request.windows(4).any(|four| four == b"\r\n\r\n")
        && request.len() < LONGEST_REQUEST
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
    fn what_may_be_seen_of_a_url() {
        assert_eq!(shown("https://user:s3cr3t@host:1/a@b?token=s3cr3t#x"), "https://host:1/a@b");
        assert_eq!(shown("s3://bucket"), "s3://bucket");
        assert_eq!(shown("file:///a b"), "file:///a b");
    }

    #[test]
    fn addresses() {
        assert_eq!("unix:/run/m".parse(), Ok(Address::Unix("/run/m".into())));
        assert_eq!("[::1]:9400".parse(), Ok(Address::Tcp("[::1]:9400".parse().unwrap())));
        for wrong in ["unix:m", "9400", "localhost:9400"] {
            assert!(wrong.parse::<Address>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn counted_and_told() {
        let budget = Budget { memory: 8 << 20, requests: 4, deadline: Duration::ZERO, slow: Duration::MAX };
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
