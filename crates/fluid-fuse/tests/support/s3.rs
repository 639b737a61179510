//! A small S3: one bucket `data` in memory that any key fits in, and that misbehaves when it is told to.
//!
//! It speaks ListObjectsV2, GET with ranges and conditions, HEAD, DELETE, copies, and PUT of empty objects; signatures are
//! not checked, but for the access key in them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, RwLock, Weak};
use std::thread;
use std::time::Duration;

use percent_encoding::percent_decode_str;

use super::content::Content;
use super::head::read_head;
pub(crate) use super::s3s::{KEY, SECRET};

const ISO: &str = "2024-02-03T04:05:06.000Z";
const DATE: &str = "Sat, 03 Feb 2024 04:05:06 GMT";

/// Longer than any test waits.
const EVER: Duration = Duration::from_secs(60);

/// What is asked for.
#[derive(Debug)]
pub(crate) struct Request {
    /// The key; none for a listing.
    pub(crate) key: Option<String>,
    pub(crate) range: Option<Range<u64>>,
    /// How many requests to the store there were before it, since it has its present manners.
    pub(crate) number: usize,
    /// The access key that it is signed with.
    pub(crate) signer: String,
    head: bool,
    method: String,
    copied: Option<String>,
    query: BTreeMap<String, String>,
    if_match: Option<String>,
}

/// How an answer goes wrong.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    /// It does not.
    Fine,
    /// It comes late.
    Late(Duration),
    /// It comes late, and tells what was there before.
    Old(Duration),
    /// A status and the store's word for it.
    Status(u16, &'static str),
    /// Nothing comes.
    Hang,
    /// The connection is reset instead.
    Reset,
    /// The connection is reset after the head.
    ResetAfterHead,
    /// The connection is reset in the body.
    ResetIn(usize),
    /// The connection is closed in the body.
    CutIn(usize),
    /// Nothing comes any more from there on in the body.
    StallIn(usize),
    /// A byte every 50 ms, from the head on.
    SlowHead,
    /// A byte every 50 ms, after the head.
    SlowBody,
    /// The range before the one that was asked for.
    WrongRange,
    /// All of the object, with 200.
    Whole,
    /// What the object is now, whatever the condition.
    Unconditional,
    /// One bit is another.
    Flipped,
}

type Manners = dyn Fn(&Request) -> Fault + Send + Sync;

/// A server that ends with its value.
pub(crate) struct S3 {
    address: SocketAddr,
    state: Arc<State>,
    listening: Arc<AtomicBool>,
}

struct State {
    objects: RwLock<BTreeMap<String, Content>>,
    manners: RwLock<Arc<Manners>>,
    /// Keys and prefixes in a page of a listing, at most.
    page: AtomicUsize,
    requests: AtomicUsize,
    connections: Mutex<Vec<Weak<TcpStream>>>,
}

impl Drop for S3 {
    fn drop(&mut self) {
        self.stop();
    }
}

impl S3 {
    pub(crate) fn start() -> Self {
        let state = State {
            objects: RwLock::default(),
            manners: RwLock::new(Arc::new(|_: &Request| Fault::Fine)),
            page: AtomicUsize::new(1000),
            requests: AtomicUsize::new(0),
            connections: Mutex::default(),
        };
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut s3 = S3 { address, state: Arc::new(state), listening: Arc::default() };
        s3.listen();
        s3
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Begins to take connections, (again) at the same address.
    pub(crate) fn listen(&mut self) {
        let listener = TcpListener::bind(self.address).unwrap();
        self.address = listener.local_addr().unwrap();
        self.listening = Arc::new(AtomicBool::new(true));
        let (state, listening) = (self.state.clone(), self.listening.clone());
        thread::spawn(move || {
            for socket in listener.incoming().map_while(Result::ok) {
                if !listening.load(Ordering::SeqCst) {
                    return;
                }
                let socket = Arc::new(socket);
                state.connections.lock().unwrap().push(Arc::downgrade(&socket));
                let state = state.clone();
                thread::spawn(move || state.serve(&socket));
            }
        });
    }

    /// Refuses connections, and closes those that there are.
    pub(crate) fn stop(&mut self) {
        if self.listening.swap(false, Ordering::SeqCst) {
            // Wakes the thread that listens.
            drop(TcpStream::connect(self.address));
            while TcpStream::connect(self.address).is_ok() {
                thread::yield_now();
            }
        }
        self.hang_up();
    }

    /// Closes all connections.
    pub(crate) fn hang_up(&self) {
        for connection in self.state.connections.lock().unwrap().drain(..).filter_map(|of| of.upgrade()) {
            let _ = connection.shutdown(std::net::Shutdown::Both);
        }
    }

    pub(crate) fn put(&self, key: &str, content: Content) {
        self.state.objects.write().unwrap().insert(key.to_string(), content);
    }

    pub(crate) fn delete(&self, key: &str) {
        self.state.objects.write().unwrap().remove(key);
    }

    /// Pages of listings have at most as many entries.
    pub(crate) fn pages_of(&self, entries: usize) {
        self.state.page.store(entries, Ordering::SeqCst);
    }

    /// From now on each answer is as told.
    pub(crate) fn behave(&self, manners: impl Fn(&Request) -> Fault + Send + Sync + 'static) {
        *self.state.manners.write().unwrap() = Arc::new(manners);
        self.state.requests.store(0, Ordering::SeqCst);
    }

    /// Requests since then.
    pub(crate) fn requests(&self) -> usize {
        self.state.requests.load(Ordering::SeqCst)
    }
}

impl State {
    fn serve(&self, socket: &TcpStream) {
        let _ = socket.set_nodelay(true);
        let mut reader = BufReader::new(socket);
        while let Some(head) = read_head(&mut reader) {
            let request = Request::parse(&head, self.requests.fetch_add(1, Ordering::SeqCst));
            let manners = self.manners.read().unwrap().clone();
            if self.answer(&request, manners(&request), socket).is_none() {
                return;
            }
        }
    }

    /// Nothing if the connection ends with it.
    fn answer(&self, request: &Request, fault: Fault, socket: &TcpStream) -> Option<()> {
        match fault {
            Fault::Late(delay) => thread::sleep(delay),
            Fault::Hang => return stall(socket),
            Fault::Reset => return reset(socket),
            _ => {}
        }
        let (head, content, range) = match fault {
            Fault::Status(status, code) => refusal(status, code),
            _ => match &request.key {
                None => {
                    let page = self.list(&request.query);
                    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{page}", page.len());
                    (head, None, 0..0)
                }
                Some(key) => match request.method.as_str() {
                    "PUT" | "DELETE" => self.change(request, key),
                    _ => self.object(request, key, fault),
                },
            },
        };
        if let Fault::Old(delay) = fault {
            thread::sleep(delay);
        }
        let slowly = |bytes: &[u8]| {
            bytes.iter().try_for_each(|byte| {
                thread::sleep(Duration::from_millis(50));
                send(socket, &[*byte])
            })
        };
        match fault {
            Fault::SlowHead => slowly(head.as_bytes())?,
            _ => send(socket, head.as_bytes())?,
        }
        let Some(content) = content.filter(|_| !request.head) else { return Some(()) };
        let mut at = range.start;
        while at < range.end {
            let sent = (at - range.start) as usize;
            let until = match fault {
                Fault::ResetAfterHead => 0,
                Fault::ResetIn(most) | Fault::CutIn(most) | Fault::StallIn(most) => most,
                _ => usize::MAX,
            };
            let length = (range.end - at).min(1 << 18).min((until - sent.min(until)) as u64) as usize;
            let mut bytes = content.bytes(at, length);
            if matches!(fault, Fault::Flipped) && at == range.start {
                bytes[0] ^= 1;
            }
            match fault {
                Fault::SlowBody => slowly(&bytes)?,
                _ => send(socket, &bytes)?,
            }
            at += length as u64;
            if at < range.end && (at - range.start) as usize >= until {
                return match fault {
                    Fault::StallIn(_) => stall(socket),
                    Fault::CutIn(_) => None,
                    _ => reset(socket),
                };
            }
        }
        Some(())
    }

    fn change(&self, request: &Request, key: &str) -> (String, Option<Content>, Range<u64>) {
        let mut objects = self.objects.write().unwrap();
        let source = match &request.copied {
            Some(source) => objects.get(source).copied(),
            None => Some(Content::new(0, 0)),
        };
        let Some(content) = source else { return refusal(404, "NoSuchKey") };
        if request.method == "DELETE" {
            objects.remove(key);
            return ("HTTP/1.1 204 No Content\r\n\r\n".to_string(), None, 0..0);
        }
        objects.insert(key.to_string(), content);
        let etag = format!("\"{:x}-{:x}\"", content.seed, content.size);
        let body = match request.copied {
            Some(_) => format!(
                "<CopyObjectResult><ETag>{etag}</ETag><LastModified>{ISO}</LastModified></CopyObjectResult>"
            ),
            None => String::new(),
        };
        let head = format!("HTTP/1.1 200 OK\r\nETag: {etag}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        (head, None, 0..0)
    }

    fn object(&self, request: &Request, key: &str, fault: Fault) -> (String, Option<Content>, Range<u64>) {
        let Some(content) = self.objects.read().unwrap().get(key).copied() else {
            return refusal(404, "NoSuchKey");
        };
        let etag = format!("\"{:x}-{:x}\"", content.seed, content.size);
        if request.if_match.as_ref().is_some_and(|wanted| *wanted != etag)
            && !matches!(fault, Fault::Unconditional)
        {
            return refusal(412, "PreconditionFailed");
        }
        let common = format!("ETag: {etag}\r\nLast-Modified: {DATE}\r\nAccept-Ranges: bytes\r\n");
        match request.range.clone().filter(|_| !matches!(fault, Fault::Whole)) {
            Some(range) if range.start >= content.size => refusal(416, "InvalidRange"),
            Some(range) => {
                let end = range.end.min(content.size);
                // As from a server that mixes up its requests.
                let shift = u64::from(matches!(fault, Fault::WrongRange));
                let (start, end) = (range.start + shift, end + shift);
                let head = format!(
                    "HTTP/1.1 206 Partial Content\r\nContent-Length: {}\r\nContent-Range: bytes {start}-{}/{}\r\n{common}\r\n",
                    end - start,
                    end - 1,
                    content.size
                );
                (head, Some(content), start..end)
            }
            None => {
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n{common}\r\n", content.size);
                (head, Some(content), 0..content.size)
            }
        }
    }

    fn list(&self, query: &BTreeMap<String, String>) -> String {
        let get = |name: &str| query.get(name).map(String::as_str).unwrap_or_default();
        let (prefix, delimiter) = (get("prefix"), get("delimiter"));
        let most = get("max-keys").parse().unwrap_or(1000).min(self.page.load(Ordering::SeqCst));
        let mut from = prefix.to_string();
        // The token is the key to go on with, in hexadecimal.
        let token = get("continuation-token").as_bytes().chunks(2);
        let token: Vec<u8> = token
            .map(|digits| u8::from_str_radix(std::str::from_utf8(digits).unwrap(), 16).unwrap())
            .collect();
        if !token.is_empty() {
            from = String::from_utf8(token).unwrap();
        } else if query.contains_key("start-after") {
            from = from.max(format!("{}\0", get("start-after")));
        }
        let objects = self.objects.read().unwrap();
        let (mut contents, mut prefixes) = (String::new(), String::new());
        let mut count = 0;
        let next = loop {
            let found = objects.range(from.clone()..).next().filter(|(key, _)| key.starts_with(prefix));
            let Some((key, content)) = found else { break None };
            if count == most {
                break Some(key);
            }
            count += 1;
            match key[prefix.len()..].find(delimiter).filter(|_| !delimiter.is_empty()) {
                Some(at) => {
                    let common = &key[..prefix.len() + at + delimiter.len()];
                    let name = escaped(common);
                    write!(prefixes, "<CommonPrefixes><Prefix>{name}</Prefix></CommonPrefixes>").unwrap();
                    // All that begins with it comes before.
                    from = format!("{}{}", &common[..common.len() - 1], '0');
                }
                None => {
                    write!(
                        contents,
                        "<Contents><Key>{}</Key><LastModified>{ISO}</LastModified><ETag>&quot;{:x}-{:x}&quot;</ETag><Size>{}</Size><StorageClass>STANDARD</StorageClass></Contents>",
                        escaped(key), content.seed, content.size, content.size
                    )
                    .unwrap();
                    from = format!("{key}\0");
                }
            }
        };
        let more = match next {
            Some(key) => {
                let token: String = key.bytes().map(|byte| format!("{byte:02x}")).collect();
                format!(
                    "<IsTruncated>true</IsTruncated><NextContinuationToken>{token}</NextContinuationToken>"
                )
            }
            None => "<IsTruncated>false</IsTruncated>".to_string(),
        };
        format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?><ListBucketResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Name>data</Name><Prefix>{}</Prefix><KeyCount>{count}</KeyCount><MaxKeys>{most}</MaxKeys>{more}{contents}{prefixes}</ListBucketResult>",
            escaped(prefix)
        )
    }
}

impl Request {
    fn parse(head: &str, number: usize) -> Self {
        let decoded = |text: &str| percent_decode_str(text).decode_utf8().unwrap().into_owned();
        let mut lines = head.split("\r\n");
        let mut words = lines.next().unwrap().split(' ');
        let (method, target) = (words.next().unwrap(), words.next().unwrap());
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let query: BTreeMap<_, _> = query
            .split('&')
            .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
            .map(|(name, value)| (name.to_lowercase(), decoded(value)))
            .collect();
        let headers: BTreeMap<_, _> = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_lowercase(), value.trim().to_string()))
            .collect();
        let key = path.strip_prefix("/data/").filter(|key| !key.is_empty()).map(decoded);
        let range = headers.get("range").and_then(|range| {
            let (start, last) = range.strip_prefix("bytes=")?.split_once('-')?;
            let last = last.parse().unwrap_or(u64::MAX - 1);
            Some(start.parse().ok()?..last + 1)
        });
        let authorization = headers.get("authorization").and_then(|value| value.split("Credential=").nth(1));
        let signer = query.get("x-amz-credential").map(String::as_str).or(authorization).unwrap_or_default();
        let signer = signer.split('/').next().unwrap_or_default().to_string();
        let if_match = headers.get("if-match").cloned();
        let copied = headers.get("x-amz-copy-source");
        let copied =
            copied.map(|source| decoded(source.trim_start_matches('/').strip_prefix("data/").unwrap()));
        let (head, method) = (method == "HEAD", method.to_string());
        Request { key, range, number, signer, head, method, copied, query, if_match }
    }

    /// Whether it lists everything below a prefix.
    pub(crate) fn is_flat(&self) -> bool {
        self.key.is_none() && !self.query.contains_key("delimiter")
    }

    /// A parameter of the query.
    pub(crate) fn query(&self, name: &str) -> Option<&str> {
        self.query.get(name).map(String::as_str)
    }

    /// Whether it is for an object's bytes.
    pub(crate) fn is_read(&self) -> bool {
        self.key.is_some() && !self.head
    }
}

fn refusal(status: u16, code: &str) -> (String, Option<Content>, Range<u64>) {
    let body = format!("<Error><Code>{code}</Code></Error>");
    (format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\n\r\n{body}", body.len()), None, 0..0)
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

fn send(mut socket: &TcpStream, bytes: &[u8]) -> Option<()> {
    socket.write_all(bytes).ok()
}

/// Keeps silent until the other side has had enough.
fn stall(mut socket: &TcpStream) -> Option<()> {
    let _ = socket.set_read_timeout(Some(EVER));
    let _ = socket.read(&mut [0]);
    None
}

/// Ends the connection the hard way.
fn reset(socket: &TcpStream) -> Option<()> {
    // What was sent arrives before.
    thread::sleep(Duration::from_millis(20));
    let _ = rustix::net::sockopt::set_socket_linger(socket, Some(Duration::ZERO));
    None
}
