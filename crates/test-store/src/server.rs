//! The listener: a thread for each connection, all of which can be cut, and the number of requests. It knows nothing
//! of what is asked for.

use std::io::{self, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::http::Request;

/// Longer than any client of a test waits for an answer.
const EVER: Duration = Duration::from_secs(60);

/// What was sent before a reset arrives within this time on the loopback interface.
const ARRIVAL: Duration = Duration::from_millis(20);

/// Large enough for the head of any request of a client in one read.
const BUFFER: usize = 16 << 10;

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Answers a request; whether the connection stays.
type Answer = dyn Fn(&Request, &Connection) -> bool + Send + Sync;

/// A server of HTTP that ends with its value.
pub struct Server {
    address: SocketAddr,
    shared: Arc<Shared>,
    listening: Arc<AtomicBool>,
    listener: Option<JoinHandle<()>>,
}

struct Shared {
    answer: Box<Answer>,
    connected: AtomicUsize,
    requests: AtomicUsize,
    connections: Mutex<Vec<Weak<TcpStream>>>,
}

/// The connection that a request came over.
pub struct Connection(Arc<TcpStream>);

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Server {
    /// A server at a free port of this machine.
    ///
    /// # Panics
    ///
    /// If there is none.
    #[allow(clippy::unwrap_used, reason = "tests are its only callers")]
    pub fn start(answer: impl Fn(&Request, &Connection) -> bool + Send + Sync + 'static) -> Self {
        Self::bind(SocketAddr::from(([127, 0, 0, 1], 0)), answer).unwrap()
    }

    /// A server at the address.
    pub fn bind(
        address: SocketAddr,
        answer: impl Fn(&Request, &Connection) -> bool + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let shared = Shared {
            answer: Box::new(answer),
            connected: AtomicUsize::new(0),
            requests: AtomicUsize::new(0),
            connections: Mutex::default(),
        };
        let mut server =
            Server { address, shared: Arc::new(shared), listening: Arc::default(), listener: None };
        server.listen()?;
        Ok(server)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its URL.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Takes connections, (again) at the same address.
    pub fn listen(&mut self) -> io::Result<()> {
        let listener = TcpListener::bind(self.address)?;
        self.address = listener.local_addr()?;
        self.listening = Arc::new(AtomicBool::new(true));
        let (shared, listening) = (self.shared.clone(), self.listening.clone());
        self.listener = Some(thread::spawn(move || {
            for socket in listener.incoming().map_while(Result::ok) {
                if !listening.load(Ordering::SeqCst) {
                    return;
                }
                let socket = Arc::new(socket);
                shared.connected.fetch_add(1, Ordering::SeqCst);
                let mut connections = lock(&shared.connections);
                connections.retain(|connection| connection.strong_count() > 0);
                connections.push(Arc::downgrade(&socket));
                drop(connections);
                let shared = shared.clone();
                // A client that goes away ends its connection, nothing else.
                thread::spawn(move || shared.serve(&Connection(socket)).is_ok());
            }
        }));
        Ok(())
    }

    /// Waits until it does not listen any more.
    pub fn wait(mut self) {
        if let Some(listener) = self.listener.take() {
            let _ = listener.join();
        }
    }

    /// Refuses connections, and closes those that there are.
    pub fn stop(&mut self) {
        if self.listening.swap(false, Ordering::SeqCst) {
            // Wakes the thread that listens.
            drop(TcpStream::connect(self.address));
            if let Some(listener) = self.listener.take() {
                let _ = listener.join();
            }
        }
        self.hang_up();
    }

    /// Closes all connections.
    pub fn hang_up(&self) {
        for connection in lock(&self.shared.connections).drain(..).filter_map(|of| of.upgrade()) {
            let _ = connection.shutdown(Shutdown::Both);
        }
    }

    /// Connections so far.
    pub fn connections(&self) -> usize {
        self.shared.connected.load(Ordering::SeqCst)
    }

    /// Requests so far, or since they were counted anew.
    pub fn requests(&self) -> usize {
        self.shared.requests.load(Ordering::SeqCst)
    }

    pub(crate) fn count_anew(&self) {
        self.shared.requests.store(0, Ordering::SeqCst);
    }
}

impl Shared {
    fn serve(&self, connection: &Connection) -> io::Result<()> {
        let socket = &*connection.0;
        socket.set_nodelay(true)?;
        let mut reader = BufReader::with_capacity(BUFFER, socket);
        while let Some(mut request) = Request::read(&mut reader, socket)? {
            request.number = self.requests.fetch_add(1, Ordering::SeqCst);
            if !(self.answer)(&request, connection) {
                break;
            }
        }
        Ok(())
    }
}

impl Connection {
    /// The connection itself, for what is not HTTP.
    pub fn socket(&self) -> &TcpStream {
        &self.0
    }

    /// Sends bytes as they are; whether they were taken.
    pub fn send(&self, bytes: impl AsRef<[u8]>) -> bool {
        self.socket().write_all(bytes.as_ref()).is_ok()
    }

    /// Sends an answer with a status and headers, each with its line feed, and a body; whether it was taken.
    pub fn answer(&self, request: &Request, status: &str, headers: &str, body: &str) -> bool {
        let shown = if request.method == "HEAD" { "" } else { body };
        self.send(format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n{headers}\r\n{shown}", body.len()))
    }

    /// Keeps silent until the other side has had enough.
    pub fn stall(&self) -> bool {
        let _ = self.0.set_read_timeout(Some(EVER));
        let _ = self.socket().read(&mut [0]);
        false
    }

    /// Ends the connection with a reset.
    pub fn reset(&self) -> bool {
        thread::sleep(ARRIVAL);
        let _ = rustix::net::sockopt::set_socket_linger(&*self.0, Some(Duration::ZERO));
        false
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpStream;

    use super::Server;

    #[test]
    fn connections_are_counted_cut_and_refused() {
        let mut server =
            Server::start(|request, connection| connection.answer(request, "200 OK", "", "body"));
        let ask = |stream: &mut TcpStream, method: &str| {
            let _ = write!(stream, "{method} / HTTP/1.1\r\n\r\n");
            let mut answer = [0; 256];
            let length = stream.read(&mut answer).unwrap_or(0);
            String::from_utf8_lossy(&answer[..length]).into_owned()
        };
        let mut stream = TcpStream::connect(server.address()).unwrap();
        assert!(ask(&mut stream, "GET").ends_with("Content-Length: 4\r\n\r\nbody"));
        assert!(ask(&mut stream, "HEAD").ends_with("Content-Length: 4\r\n\r\n"));
        assert_eq!((server.connections(), server.requests()), (1, 2));
        server.hang_up();
        assert_eq!(ask(&mut stream, "GET"), "");
        server.stop();
        assert!(TcpStream::connect(server.address()).is_err());
        server.listen().unwrap();
        assert!(ask(&mut TcpStream::connect(server.address()).unwrap(), "GET").ends_with("body"));
    }
}
