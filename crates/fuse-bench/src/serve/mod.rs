//! An S3 endpoint for benchmarks: the directories below a root are its buckets, the files in them its objects.
//!
//! It decides to cost as little as it can, so that what is measured is the client: a blocking thread for each
//! connection, bodies by `sendfile`, no hash of anything. On request it is as slow as a distant store: a delay
//! before the first byte of each answer, and a rate for each connection. Entity tags come from inode, time and
//! size, so that a changed file has another. It knows nothing of writes, and takes any signature for right.

mod http;
mod listing;
mod pace;
mod time;

use std::fs::{File, Metadata};
use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use rustix::net::{SendFlags, send};

use http::{Request, Wanted};
use listing::{Directories, Query};
use pace::Pace;

pub(crate) use listing::escape;

/// What to serve, and how slowly.
#[derive(Clone, Debug, clap::Args)]
pub struct Endpoint {
    /// The directory whose directories are the buckets
    #[arg(long)]
    pub root: PathBuf,
    /// The address to listen on; port 0 is any that is free
    #[arg(long, default_value = "127.0.0.1:0")]
    pub listen: SocketAddr,
    /// How long each answer waits before its first byte
    #[arg(long, default_value = "0ms", value_parser = humantime::parse_duration)]
    pub first_byte: Duration,
    /// How many bytes a second a connection carries, such as 90MB; without it, what the machine does
    #[arg(long, value_parser = crate::size::parse)]
    pub rate: Option<u64>,
}

/// An endpoint that has its address.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    root: PathBuf,
    first_byte: Duration,
    rate: Option<u64>,
    directories: Directories,
}

impl Server {
    /// Takes the address.
    pub fn bind(endpoint: &Endpoint) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(endpoint.listen)
            .with_context(|| format!("cannot listen on {}", endpoint.listen))?;
        let root = endpoint.root.canonicalize();
        let root = root.with_context(|| format!("cannot serve {}", endpoint.root.display()))?;
        let shared = Shared {
            root,
            first_byte: endpoint.first_byte,
            rate: endpoint.rate,
            directories: Directories::default(),
        };
        Ok(Server { listener, shared: Arc::new(shared) })
    }

    /// Where it listens.
    pub fn address(&self) -> anyhow::Result<SocketAddr> {
        Ok(self.listener.local_addr()?)
    }

    /// Serves for ever.
    pub fn run(self) -> anyhow::Result<()> {
        loop {
            let (stream, _) = self.listener.accept()?;
            let shared = Arc::clone(&self.shared);
            // A client that goes away ends its connection, nothing else.
            thread::spawn(move || shared.converse(&stream).is_ok());
        }
    }
}

enum Body {
    Text(Arc<str>),
    File(File, Range<u64>),
}

struct Response {
    status: &'static str,
    headers: String,
    body: Body,
}

impl Response {
    fn xml(text: impl Into<Arc<str>>) -> Self {
        Response {
            status: "200 OK",
            headers: "Content-Type: application/xml\r\n".into(),
            body: Body::Text(text.into()),
        }
    }

    fn error(status: &'static str, code: &str, resource: &str) -> Self {
        let text = format!(
            "{DECLARATION}<Error><Code>{code}</Code><Message>{status}</Message><Resource>{}</Resource></Error>",
            escape(resource)
        );
        Response { status, ..Response::xml(text) }
    }

    fn length(&self) -> u64 {
        match &self.body {
            Body::Text(text) => text.len() as u64,
            Body::File(_, range) => range.end - range.start,
        }
    }
}

const DECLARATION: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>";
const NAMESPACE: &str = "xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"";

impl Shared {
    fn converse(&self, stream: &TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let mut reader = BufReader::with_capacity(16 << 10, stream);
        while !reader.fill_buf()?.is_empty() {
            let request = Request::read(&mut reader)?;
            let response = self.respond(&request);
            thread::sleep(self.first_byte);
            self.send(stream, &response, request.method == "HEAD")?;
            if request.close {
                break;
            }
        }
        Ok(())
    }

    fn send(&self, mut stream: &TcpStream, response: &Response, head_only: bool) -> io::Result<()> {
        let length = response.length();
        let mut head = format!(
            "HTTP/1.1 {}\r\nDate: {}\r\nServer: fuse-bench\r\nx-amz-request-id: 0\r\nContent-Length: {length}\r\n{}\r\n",
            response.status,
            time::http(SystemTime::now()),
            response.headers,
        );
        match &response.body {
            Body::File(file, range) if !head_only && length > 0 => {
                let head = head.as_bytes();
                let sent = send(stream, head, SendFlags::MORE | SendFlags::NOSIGNAL)?;
                stream.write_all(&head[sent..])?;
                Pace::new(self.rate).send(stream, file, range.clone())
            }
            Body::Text(text) if !head_only => {
                head.push_str(text);
                stream.write_all(head.as_bytes())
            }
            _ => stream.write_all(head.as_bytes()),
        }
    }

    fn respond(&self, request: &Request) -> Response {
        if request.method != "GET" && request.method != "HEAD" {
            return Response::error("405 Method Not Allowed", "MethodNotAllowed", &request.path);
        }
        let path = request.path.trim_start_matches('/');
        let (bucket, key) = path.split_once('/').unwrap_or((path, ""));
        if bucket.is_empty() {
            return Response::xml(listing::buckets(&self.directories.names(&self.root).unwrap_or_default()));
        }
        let directory = match self.root.join(bucket) {
            directory if listing::is_plain(bucket) && directory.is_dir() => directory,
            _ => return Response::error("404 Not Found", "NoSuchBucket", bucket),
        };
        if key.is_empty() {
            self.bucket(request, bucket, &directory)
        } else {
            object(request, key, &directory)
        }
    }

    fn bucket(&self, request: &Request, bucket: &str, directory: &Path) -> Response {
        // What clients ask of a bucket before they list it.
        for (question, answer) in [
            ("location", "LocationConstraint"),
            ("versioning", "VersioningConfiguration"),
            ("acl", "AccessControlPolicy"),
        ] {
            if request.query(question).is_some() {
                return Response::xml(format!("{DECLARATION}<{answer} {NAMESPACE}></{answer}>"));
            }
        }
        match Query::new(request, bucket) {
            Some(query) => Response::xml(query.answer(&self.directories, directory)),
            None => Response::error("400 Bad Request", "InvalidArgument", bucket),
        }
    }
}

fn object(request: &Request, key: &str, directory: &Path) -> Response {
    let opened = Some(directory.join(key)).filter(|_| listing::is_plain(key)).and_then(|path| open(&path));
    let Some((file, metadata)) = opened else {
        return Response::error("404 Not Found", "NoSuchKey", key);
    };
    let tag = tag(&metadata);
    let size = metadata.len();
    if !request.if_match.as_ref().is_none_or(|tags| http::matches(tags, &tag)) {
        return Response::error("412 Precondition Failed", "PreconditionFailed", key);
    }
    let (status, range, content_range) = match http::wanted(request.range.as_deref(), size) {
        Wanted::Whole => ("200 OK", 0..size, String::new()),
        Wanted::Part(range) => {
            let header = format!("Content-Range: bytes {}-{}/{size}\r\n", range.start, range.end - 1);
            ("206 Partial Content", range, header)
        }
        Wanted::Nothing => {
            let mut response = Response::error("416 Range Not Satisfiable", "InvalidRange", key);
            response.headers.push_str(&format!("Content-Range: bytes */{size}\r\n"));
            return response;
        }
    };
    let headers = format!(
        "Content-Type: binary/octet-stream\r\nAccept-Ranges: bytes\r\nETag: {tag}\r\nLast-Modified: {}\r\n{content_range}",
        time::http(metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH)),
    );
    Response { status, headers, body: Body::File(file, range) }
}

fn open(path: &Path) -> Option<(File, Metadata)> {
    let file = File::open(path).ok()?;
    let metadata = file.metadata().ok().filter(Metadata::is_file)?;
    Some((file, metadata))
}

/// Of the form that S3 gives to objects that came in one piece: for others rclone asks once more.
fn tag(metadata: &Metadata) -> String {
    let nanoseconds = metadata.mtime().wrapping_mul(1_000_000_000).wrapping_add(metadata.mtime_nsec());
    format!("\"{nanoseconds:016x}{:016x}\"", metadata.ino().rotate_left(40) ^ metadata.len())
}
