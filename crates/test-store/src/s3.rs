//! A store behind a server, and how its answers go wrong.

use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::thread;
use std::time::{Duration, SystemTime};

use rustix::net::{SendFlags, send};

use crate::object::{Data, Source};
use crate::store::{Answer, Body};
use crate::{BUCKET, Connection, Pace, Request, Server, Store};

/// Between two bytes of an answer that trickles: several come within the patience of any client.
const TRICKLE: Duration = Duration::from_millis(50);

/// Bytes of content that are made at a time.
const PIECE: u64 = 256 << 10;

/// How an answer goes wrong.
#[derive(Clone, Copy, Debug)]
pub enum Fault {
    /// It does not.
    Fine,
    /// It comes late.
    Late(Duration),
    /// It comes late, and tells what was there before.
    Old(Duration),
    /// A status and the store's word for it; nothing is done.
    Status(u16, &'static str),
    /// Nothing comes, and nothing is done.
    Hang,
    /// The connection is reset instead, and nothing is done.
    Reset,
    /// What was asked for is done, and nothing comes.
    HangAfter,
    /// What was asked for is done, and the connection is reset.
    ResetAfter,
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
    /// The bytes after those that were asked for, by one.
    WrongRange,
    /// All of the object, with 200.
    Whole,
    /// The object as it is now, whatever the condition.
    Unconditional,
    /// One bit is another.
    Flipped,
    /// The object as it was before its last change.
    Stale,
    /// An upload is refused unless its parts are equal and the last is not larger, as by R2.
    EqualParts,
}

type Manners = dyn Fn(&Request) -> Fault + Send + Sync;

/// A store that ends with its value, or only its listener where others use the store, too.
pub struct S3 {
    server: Server,
    store: Arc<Store>,
    manners: Arc<RwLock<Arc<Manners>>>,
}

impl S3 {
    /// An empty store in memory.
    pub fn start() -> Self {
        Self::over(Arc::new(Store::memory()))
    }

    /// One more way to a store, which behaves as it is told for itself.
    ///
    /// # Panics
    ///
    /// If this machine has no free port.
    #[allow(clippy::unwrap_used, reason = "tests are its only callers")]
    pub fn over(store: Arc<Store>) -> Self {
        Self::bind(SocketAddr::from(([127, 0, 0, 1], 0)), store, Pace::default()).unwrap()
    }

    /// A store at an address, as slow as it is told.
    pub fn bind(address: SocketAddr, store: Arc<Store>, pace: Pace) -> io::Result<Self> {
        let manners: Arc<RwLock<Arc<Manners>>> = Arc::new(RwLock::new(Arc::new(|_: &Request| Fault::Fine)));
        let (told, asked) = (manners.clone(), store.clone());
        let server = Server::bind(address, move |request, connection| {
            let manners = told.read().unwrap_or_else(PoisonError::into_inner).clone();
            answer(&asked, pace, request, manners(request), connection)
        })?;
        Ok(S3 { server, store, manners })
    }

    /// From now on each answer is as told, and requests are counted anew.
    pub fn behave(&self, manners: impl Fn(&Request) -> Fault + Send + Sync + 'static) {
        *self.manners.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(manners);
        self.server.count_anew();
    }

    /// Requests since then.
    pub fn requests(&self) -> usize {
        self.server.requests()
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// Its URL.
    pub fn endpoint(&self) -> String {
        self.server.endpoint()
    }

    /// Takes connections, (again) at the same address.
    ///
    /// # Panics
    ///
    /// If somebody else has it.
    #[allow(clippy::unwrap_used, reason = "tests are its only callers")]
    pub fn listen(&mut self) {
        self.server.listen().unwrap();
    }

    /// Refuses connections, and closes those that there are.
    pub fn stop(&mut self) {
        self.server.stop();
    }

    /// Closes all connections.
    pub fn hang_up(&self) {
        self.server.hang_up();
    }

    /// Waits until it does not listen any more.
    pub fn wait(self) {
        self.server.wait();
    }

    /// Puts an object into a store in memory.
    pub fn put(&self, key: &str, source: impl Source + 'static) {
        self.store.put(key, source);
    }

    /// Removes an object.
    pub fn delete(&self, key: &str) {
        self.store.delete(BUCKET, key);
    }

    /// The bytes of an object.
    pub fn content(&self, key: &str) -> Option<Vec<u8>> {
        let data = self.store.get(BUCKET, key)?.data;
        data.read(0..data.size()).ok()
    }

    /// The ETag of an object, in quotes.
    pub fn etag(&self, key: &str) -> Option<String> {
        Some(self.store.get(BUCKET, key)?.etag)
    }

    /// What a user said of an object by this name, without `x-amz-meta-`.
    pub fn metadata(&self, key: &str, name: &str) -> Option<String> {
        let metadata = self.store.get(BUCKET, key)?.metadata;
        metadata.into_iter().find(|(known, _)| known == name).map(|(_, value)| value)
    }

    /// Pages of listings have at most as many entries.
    pub fn pages_of(&self, entries: usize) {
        self.store.pages_of(entries);
    }
}

/// Answers; whether the connection stays.
fn answer(store: &Store, pace: Pace, request: &Request, fault: Fault, connection: &Connection) -> bool {
    if let Fault::Late(delay) = fault {
        thread::sleep(delay);
    }
    let answer = match fault {
        Fault::Hang => return connection.stall(),
        Fault::Reset => return connection.reset(),
        Fault::Status(status, code) => Answer::error(format!("{status} X"), code),
        _ => store.answer(request, fault),
    };
    match fault {
        Fault::HangAfter => return connection.stall(),
        Fault::ResetAfter => return connection.reset(),
        Fault::Old(delay) => thread::sleep(delay),
        _ => pace.wait(),
    }
    let is_sent = deliver(connection, &answer, request.method == "HEAD", pace, fault).unwrap_or(false);
    is_sent && !request.closes()
}

/// Sends an answer; whether all of it was sent.
fn deliver(
    connection: &Connection,
    answer: &Answer,
    head_only: bool,
    pace: Pace,
    fault: Fault,
) -> io::Result<bool> {
    let (mut socket, length) = (connection.socket(), answer.length());
    let mut head = format!(
        "HTTP/1.1 {}\r\nDate: {}\r\nServer: test-store\r\nx-amz-request-id: 0\r\nContent-Length: {length}\r\n{}\r\n",
        answer.status,
        httpdate::fmt_http_date(SystemTime::now()),
        answer.headers,
    );
    let slowly = |mut socket: &std::net::TcpStream, bytes: &[u8]| {
        bytes.iter().try_for_each(|byte| {
            thread::sleep(TRICKLE);
            socket.write_all(&[*byte])
        })
    };
    let (data, range) = match &answer.body {
        Body::Data(data, range) if !head_only && length > 0 => (data, range.clone()),
        Body::Text(text) if !head_only => {
            head.push_str(text);
            return if matches!(fault, Fault::SlowHead) {
                slowly(socket, head.as_bytes())
            } else {
                socket.write_all(head.as_bytes())
            }
            .map(|()| true);
        }
        _ => return socket.write_all(head.as_bytes()).map(|()| true),
    };
    if let (Data::File(file, _), Fault::Fine | Fault::Late(_) | Fault::Old(_)) = (data, fault) {
        let head = head.as_bytes();
        let sent = send(socket, head, SendFlags::MORE | SendFlags::NOSIGNAL)?;
        socket.write_all(&head[sent..])?;
        return pace.send(socket, file, range).map(|()| true);
    }
    match fault {
        Fault::SlowHead => slowly(socket, head.as_bytes())?,
        _ => socket.write_all(head.as_bytes())?,
    }
    let until = match fault {
        Fault::ResetAfterHead => 0,
        Fault::ResetIn(most) | Fault::CutIn(most) | Fault::StallIn(most) => most as u64,
        _ => u64::MAX,
    };
    let end = range.end.min(range.start.saturating_add(until));
    let mut at = range.start;
    while at < end {
        let next = end.min(at + PIECE);
        let mut bytes = data.read(at..next)?;
        if matches!(fault, Fault::Flipped) && at == range.start {
            bytes[0] ^= 1;
        }
        match fault {
            Fault::SlowBody => slowly(socket, &bytes)?,
            _ => socket.write_all(&bytes)?,
        }
        at = next;
    }
    Ok(at == range.end
        || match fault {
            Fault::StallIn(_) => connection.stall(),
            Fault::CutIn(_) => false,
            _ => connection.reset(),
        })
}
