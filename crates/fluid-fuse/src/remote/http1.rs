//! The fast path: one signed GET of a range on a connection that is kept, read from the socket into the caller's
//! buffer.
//!
//! Decides how such a request is written, which connections are kept, and when a connection that died while it was
//! idle is replaced silently. It speaks the part of HTTP/1.1 that object stores use for ranges: a `Content-Length`
//! and nothing else. Chunks, redirects and encodings are [`FastPathError::Unsuitable`]; a complete HTTP client has to
//! make that request. It does not know how requests are signed. A GET on a connection that was idle is
//! sent once more on a new one if it gets no response.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use fluid_sidecar_layout::source::Scheme;
use http::header::{HeaderName, HeaderValue};
use opendal::raw::Timestamp;
use rustls::pki_types::ServerName;
use rustls::{ClientConnection, StreamOwned};

use super::response::{self, ErrorResponse, Headers};
use super::timeouts::{IDLE_TIME, Timeouts};
use super::tls::{self, Verification};
use super::{Version, dns, proxy};
use crate::outage::{ConnectPhase, InPhase};
use crate::store::StoreError;

/// Largest number of idle connections.
const MAX_IDLE: usize = 64;

/// The shortest time to connect to an address: a socket does not accept a timeout of zero.
const SHORTEST: Duration = Duration::from_millis(10);

/// Largest head of a response, in bytes. Bytes of the body that arrive with the head are copied once more.
const MAX_HEAD: usize = 8 * 1024;

/// Largest number of headers of a response: object stores send some 20.
const MAX_HEADERS: usize = 96;

/// Room for the headers that need no signature, in bytes: the range and a condition with an ETag of usual length.
const UNSIGNED_HEADERS: usize = 128;

/// Bytes that are read of the body of an error.
const ERROR_BODY: u64 = 16 * 1024;

/// A server.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Server {
    https: bool,
    host: String,
    port: u16,
}

/// A signed request without the headers that need no signature: the range and the conditions. It is as good as a
/// credential until it expires, so it has no `Debug`.
pub(super) struct SignedRequest {
    server: Server,
    /// The head without the empty line at its end.
    head: Vec<u8>,
    /// The method and the URL without its secrets, for messages.
    description: String,
}

/// Why the fast path returned no body.
pub(super) enum FastPathError {
    /// This client cannot make the request, or not read the response.
    Unsuitable(&'static str),
    /// The store, or the way to it, failed.
    Store(StoreError),
}

impl From<StoreError> for FastPathError {
    fn from(error: StoreError) -> Self {
        FastPathError::Store(error)
    }
}

impl SignedRequest {
    /// Makes a request of its parts, or says why this client cannot send it.
    pub(super) fn new(
        request: &http::Uri,
        headers: &http::HeaderMap,
        description: String,
    ) -> Result<Self, FastPathError> {
        let (Some(scheme), Some(host)) = (request.scheme_str(), request.host()) else {
            return Err(FastPathError::Unsuitable("a URL without a host"));
        };
        if proxy::of(request).is_some() {
            return Err(FastPathError::Unsuitable("a proxy leads to the server"));
        }
        let https = scheme == "https";
        let port = request.port_u16().unwrap_or(if https { 443 } else { 80 });
        let path = request.path_and_query().map_or("/", |path| path.as_str());
        let mut head = format!("GET {path} HTTP/1.1\r\n").into_bytes();
        if !headers.contains_key(http::header::HOST) {
            // The signature covers the port only where the URL names one.
            let authority = request.authority().map_or(host, |authority| authority.as_str());
            head.extend_from_slice(format!("host: {authority}\r\n").as_bytes());
        }
        for (name, value) in headers {
            line(&mut head, name, value);
        }
        let host = host.trim_matches(['[', ']']).to_string();
        Ok(Self { server: Server { https, host, port }, head, description })
    }
}

/// Adds a header. A [`HeaderValue`] has no line break.
fn line(head: &mut Vec<u8>, name: &HeaderName, value: &HeaderValue) {
    for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
        head.extend_from_slice(part);
    }
}

/// The connections to the servers of one bucket.
pub(super) struct Http1Client {
    scheme: Scheme,
    verification: Verification,
    timeouts: Timeouts,
    idle: Mutex<Vec<(Server, Connection, Instant)>>,
}

impl Http1Client {
    pub(super) fn new(scheme: Scheme, verification: Verification, timeouts: Timeouts) -> Arc<Self> {
        Arc::new(Self { scheme, verification, timeouts, idle: Mutex::default() })
    }

    /// Requests a range of a version. The condition is a header that the server checks.
    pub(super) fn get(
        self: &Arc<Self>,
        signed: &SignedRequest,
        range: &Range<u64>,
        version: &Version,
        condition: Option<(HeaderName, HeaderValue)>,
    ) -> Result<Body, FastPathError> {
        let mut request = Vec::with_capacity(signed.head.len() + UNSIGNED_HEADERS);
        request.extend_from_slice(&signed.head);
        write!(request, "range: bytes={}-{}\r\n", range.start, range.end - 1)
            .map_err(|error| StoreError::Failed(error.to_string()))?;
        if let Some((name, value)) = &condition {
            line(&mut request, name, value);
        }
        request.extend_from_slice(b"\r\n");

        let lost = |error: io::Error| {
            let error = match error.kind() {
                ErrorKind::WouldBlock | ErrorKind::TimedOut => "no answer in time".to_string(),
                _ => tls::explain(&error),
            };
            FastPathError::Store(StoreError::Unavailable(format!("{}: {error}", signed.description)))
        };
        let mut buffer = vec![0; MAX_HEAD];
        let kept = self.take(&signed.server);
        let mut exchange = |mut connection: Connection| -> io::Result<(Connection, usize)> {
            let got = connection.exchange(&request, &mut buffer, self.timeouts.first_byte)?;
            Ok((connection, got))
        };
        let (mut connection, mut filled) = match kept.map(&mut exchange) {
            Some(Ok(done)) => done,
            // The server closed the connection while it was idle. Nothing was answered, so nothing is done twice.
            Some(Err(error)) if !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                self.connect(&signed.server).and_then(exchange).map_err(lost)?
            }
            Some(Err(error)) => return Err(lost(error)),
            None => self.connect(&signed.server).and_then(exchange).map_err(lost)?,
        };

        let start = Instant::now();
        loop {
            match parse(buffer.get(..filled).unwrap_or_default())? {
                Some((used, head)) => {
                    return self.answer(signed, range, version, connection, (&buffer, used, filled), head);
                }
                None if filled == buffer.len() => return Err(FastPathError::Unsuitable("a long head")),
                None if start.elapsed() > self.timeouts.first_byte => {
                    return Err(lost(ErrorKind::TimedOut.into()));
                }
                None => match connection.read(buffer.get_mut(filled..).unwrap_or_default()) {
                    Ok(0) => return Err(lost(ErrorKind::UnexpectedEof.into())),
                    Ok(read) => filled += read,
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Err(error) => return Err(lost(error)),
                },
            }
        }
    }

    fn answer(
        self: &Arc<Self>,
        signed: &SignedRequest,
        range: &Range<u64>,
        version: &Version,
        mut connection: Connection,
        (buffer, used, filled): (&[u8], usize, usize),
        head: Head,
    ) -> Result<Body, FastPathError> {
        let front = buffer.get(used..filled).unwrap_or_default().to_vec();
        if head.is_unsuitable && head.status < 400 {
            return Err(FastPathError::Unsuitable("a response without a plain body"));
        }
        if head.status >= 300 {
            // S3 redirects for a bucket in another region.
            if head.status < 400 && self.scheme != Scheme::S3 {
                return Err(FastPathError::Unsuitable("a redirect"));
            }
            let mut text = front;
            let more = head.length.unwrap_or(ERROR_BODY).min(ERROR_BODY).saturating_sub(text.len() as u64);
            // The status is known. The reason is read as far as it arrives in time.
            connection.end_at(Instant::now() + self.timeouts.stall);
            let _ = connection.take(more).read_to_end(&mut text);
            let error = ErrorResponse {
                request: signed.description.clone(),
                status: head.status,
                reason: response::reason(&text, &String::from_utf8_lossy(&signed.head)),
                retry_after: head.retry_after,
                region: head.region,
                scheme: Some(self.scheme),
            };
            return Err(FastPathError::Store(error.into_error()));
        }
        let headers =
            Headers { length: head.length, range: head.range.as_deref(), etag: head.etag.as_deref() };
        response::check_range(head.status, &headers, range, Some(version.size), version.etag.as_deref())?;
        let date = version.date().filter(|_| version.etag.is_none());
        // Without an ETag or a time, the response could be of another version.
        if version.etag.is_some() && head.etag.is_none() || date.is_some() && head.modified.is_none() {
            return Err(FastPathError::Unsuitable("a response that does not name the version"));
        }
        if let Some(date) = date
            && let Some(modified) = head.modified.and_then(|time| Timestamp::parse_rfc2822(&time).ok())
            && SystemTime::from(modified) != date
        {
            return Err(StoreError::Stale.into());
        }
        let left = range.end - range.start;
        if front.len() as u64 > left {
            return Err(StoreError::Unavailable(format!(
                "{}: more bytes than announced",
                signed.description
            ))
            .into());
        }
        connection
            .set_timeout(self.timeouts.stall)
            .map_err(|error| StoreError::Unavailable(error.to_string()))?;
        let returns_to = head.keeps_connection.then(|| (self.clone(), signed.server.clone()));
        let mut body = Body { connection: Some(connection), returns_to, front, at: 0, left };
        body.return_connection();
        Ok(body)
    }

    fn take(&self, server: &Server) -> Option<Connection> {
        let mut idle = self.idle();
        idle.retain(|(_, _, since)| since.elapsed() < IDLE_TIME);
        let newest = idle.iter().rposition(|(of, ..)| of == server)?;
        Some(idle.remove(newest).1)
    }

    fn idle(&self) -> MutexGuard<'_, Vec<(Server, Connection, Instant)>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn connect(&self, server: &Server) -> io::Result<Connection> {
        let end = Instant::now() + self.timeouts.connect;
        let addresses = dns::addresses(&server.host, server.port, self.timeouts.connect)?;
        let _phase = InPhase::begin(ConnectPhase::Connection);
        let mut failure = io::Error::new(ErrorKind::NotFound, "the host name has no address");
        for (address, others) in addresses.iter().zip((0..addresses.len()).rev()) {
            // Each address has the same share of the time that is left.
            let share = end.saturating_duration_since(Instant::now()) / (others as u32 + 1);
            match TcpStream::connect_timeout(address, share.max(SHORTEST)) {
                Ok(socket) => {
                    socket.set_nodelay(true)?;
                    socket.set_write_timeout(Some(self.timeouts.stall))?;
                    let socket = Socket { stream: socket, until: None };
                    let stream = match server.https {
                        true => {
                            let config = tls::client(self.verification).map_err(io::Error::other)?;
                            let name = ServerName::try_from(server.host.clone()).map_err(io::Error::other)?;
                            let session = ClientConnection::new(config, name).map_err(io::Error::other)?;
                            Stream::Tls(Box::new(StreamOwned::new(session, socket)))
                        }
                        false => Stream::Plain(socket),
                    };
                    return Ok(Connection { stream, timeout: Duration::ZERO });
                }
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }
}

/// A socket whose reads may have a deadline beside the timeout of one read: with TLS, one read of the caller may read
/// the socket several times for one record.
struct Socket {
    stream: TcpStream,
    until: Option<Instant>,
}

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Some(until) = self.until {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(ErrorKind::TimedOut.into());
            }
            self.stream.set_read_timeout(Some(left))?;
        }
        self.stream.read(buffer)
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

enum Stream {
    Plain(Socket),
    Tls(Box<StreamOwned<ClientConnection, Socket>>),
}

struct Connection {
    stream: Stream,
    /// The socket's present read timeout.
    timeout: Duration,
}

impl Connection {
    /// Sends a request and waits for the first bytes of the answer.
    fn exchange(&mut self, request: &[u8], buffer: &mut [u8], first_byte: Duration) -> io::Result<usize> {
        self.set_timeout(first_byte)?;
        match &mut self.stream {
            Stream::Plain(socket) => socket.write_all(request)?,
            Stream::Tls(stream) => {
                stream.write_all(request)?;
                stream.flush()?;
            }
        }
        loop {
            match self.read(buffer) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                other => return other,
            }
        }
    }

    fn set_timeout(&mut self, timeout: Duration) -> io::Result<()> {
        if self.timeout != timeout {
            self.socket().stream.set_read_timeout(Some(timeout))?;
            self.timeout = timeout;
        }
        Ok(())
    }

    /// Sets the deadline of reads.
    fn end_at(&mut self, moment: Instant) {
        self.socket().until = Some(moment);
    }

    fn socket(&mut self) -> &mut Socket {
        match &mut self.stream {
            Stream::Plain(socket) => socket,
            Stream::Tls(stream) => &mut stream.sock,
        }
    }
}

impl Read for Connection {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.stream {
            Stream::Plain(socket) => socket.read(buffer),
            Stream::Tls(stream) => stream.read(buffer),
        }
    }
}

/// The headers of a response that this client uses.
struct Head {
    status: u16,
    length: Option<u64>,
    range: Option<String>,
    etag: Option<String>,
    modified: Option<String>,
    retry_after: Option<String>,
    region: Option<String>,
    keeps_connection: bool,
    is_unsuitable: bool,
}

/// Parses the head; returns it with its length if it is complete.
fn parse(bytes: &[u8]) -> Result<Option<(usize, Head)>, FastPathError> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    let used = match response.parse(bytes) {
        Ok(httparse::Status::Complete(used)) => used,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(_) => return Err(FastPathError::Unsuitable("a response that is not HTTP/1")),
    };
    let keeps_connection = response.version == Some(1);
    let mut head = Head {
        status: response.code.unwrap_or_default(),
        length: None,
        range: None,
        etag: None,
        modified: None,
        retry_after: None,
        region: None,
        keeps_connection,
        is_unsuitable: false,
    };
    for header in response.headers.iter() {
        let Ok(value) = std::str::from_utf8(header.value).map(str::trim) else { continue };
        match header.name.to_ascii_lowercase().as_str() {
            "content-length" => {
                let length = value.parse().ok();
                head.is_unsuitable |= length.is_none() || head.length.is_some() && head.length != length;
                head.length = length;
            }
            "content-range" => head.range = Some(value.to_string()),
            "etag" => head.etag = response::etag(value),
            "last-modified" => head.modified = Some(value.to_string()),
            "retry-after" => head.retry_after = value.parse::<u32>().ok().map(|_| value.to_string()),
            "x-amz-bucket-region" => head.region = Some(value.to_string()),
            "connection" => head.keeps_connection &= !value.eq_ignore_ascii_case("close"),
            "transfer-encoding" => head.is_unsuitable = true,
            "content-encoding" => head.is_unsuitable |= !value.eq_ignore_ascii_case("identity"),
            _ => {}
        }
    }
    head.is_unsuitable |= head.length.is_none() || head.status < 200;
    Ok(Some((used, head)))
}

/// The bytes of a range. The connection returns to the idle ones when they were read to the end.
pub(super) struct Body {
    connection: Option<Connection>,
    returns_to: Option<(Arc<Http1Client>, Server)>,
    /// Bytes of the body that arrived with the head.
    front: Vec<u8>,
    at: usize,
    left: u64,
}

impl Body {
    /// Returns the connection to the idle ones if nothing more is to be read from it.
    fn return_connection(&mut self) {
        let waiting = (self.front.len() - self.at) as u64;
        if self.left == waiting
            && let Some(connection) = self.connection.take()
            && let Some((wire, server)) = self.returns_to.take()
        {
            let mut idle = wire.idle();
            if idle.len() < MAX_IDLE {
                idle.push((server, connection, Instant::now()));
            }
        }
    }
}

impl Read for Body {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let Some(buffer) = buffer.get_mut(..most).filter(|buffer| !buffer.is_empty()) else { return Ok(0) };
        let front = self.front.get(self.at..).unwrap_or_default();
        let read = match (&mut self.connection, front.is_empty()) {
            (_, false) => {
                let read = front.len().min(buffer.len());
                if let (Some(to), Some(from)) = (buffer.get_mut(..read), front.get(..read)) {
                    to.copy_from_slice(from);
                }
                self.at += read;
                read
            }
            (Some(connection), true) => match connection.read(buffer) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(read) => read,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Err(ErrorKind::TimedOut.into()),
                Err(error) => return Err(error),
            },
            (None, true) => return Err(ErrorKind::UnexpectedEof.into()),
        };
        self.left -= read as u64;
        self.return_connection();
        Ok(read)
    }
}
