//! An S3 server that keeps its objects in a directory, behind a wire that can be cut.

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use tempfile::TempDir;

/// What the wire does.
#[derive(Clone, Copy)]
pub(crate) enum Wire {
    Carries,
    /// Answers each request with the status.
    Answers(u16),
    Resets,
}

pub(crate) struct Server {
    pub(crate) root: TempDir,
    address: SocketAddr,
    wire: Arc<Mutex<(Wire, Vec<TcpStream>)>>,
    refused: Arc<AtomicUsize>,
}

impl Server {
    pub(crate) fn start() -> Self {
        let root = TempDir::new().unwrap();
        fs::create_dir(root.path().join("data")).unwrap();
        let behind = crate::s3s_server::serve(root.path());
        let behind = behind.trim_start_matches("http://").parse().unwrap();
        let front = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = front.local_addr().unwrap();
        let wire = Arc::new(Mutex::new((Wire::Carries, Vec::new())));
        let refused = Arc::new(AtomicUsize::new(0));
        let (state, count) = (Arc::clone(&wire), Arc::clone(&refused));
        thread::spawn(move || {
            for socket in front.incoming().map_while(Result::ok) {
                let (state, count) = (Arc::clone(&state), Arc::clone(&count));
                thread::spawn(move || serve(socket, behind, &state, &count));
            }
        });
        Server { root, address, wire, refused }
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// How many requests were answered with a status of the wire.
    pub(crate) fn refused(&self) -> usize {
        self.refused.load(Ordering::Relaxed)
    }

    /// What happens from now on, also to what is on its way.
    pub(crate) fn wire(&self, wire: Wire) {
        let mut state = self.wire.lock().unwrap();
        state.0 = wire;
        for socket in state.1.drain(..) {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

fn serve(
    mut socket: TcpStream,
    behind: SocketAddr,
    state: &Mutex<(Wire, Vec<TcpStream>)>,
    refused: &AtomicUsize,
) {
    let server = {
        let mut state = state.lock().unwrap();
        match state.0 {
            Wire::Carries => {
                let server = TcpStream::connect(behind).unwrap();
                state.1.extend([socket.try_clone().unwrap(), server.try_clone().unwrap()]);
                server
            }
            Wire::Answers(status) => {
                drop(state);
                if refuse(&mut socket, status).is_ok() {
                    refused.fetch_add(1, Ordering::Relaxed);
                }
                return;
            }
            Wire::Resets => return,
        }
    };
    for side in [&socket, &server] {
        side.set_nodelay(true).unwrap();
    }
    let (mut from, mut to) = (socket.try_clone().unwrap(), server.try_clone().unwrap());
    thread::spawn(move || {
        let _ = io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Write);
    });
    let _ = io::copy(&mut &server, &mut socket);
    let _ = socket.shutdown(Shutdown::Write);
}

fn refuse(socket: &mut TcpStream, status: u16) -> io::Result<()> {
    let mut reader = BufReader::new(socket.try_clone()?);
    let (mut line, mut length) = (String::new(), 0);
    while reader.read_line(&mut line)? > 2 {
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        line.clear();
    }
    io::copy(&mut reader.take(length), &mut io::sink())?;
    write!(socket, "HTTP/1.1 {status} No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
}
