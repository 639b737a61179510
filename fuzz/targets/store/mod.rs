//! A server in this process that answers every request with the same bytes.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::sync::{LazyLock, Mutex};
use std::thread;

/// What is answered.
static ANSWER: Mutex<Vec<u8>> = Mutex::new(Vec::new());

static ADDRESS: LazyLock<String> = LazyLock::new(|| {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        for mut socket in listener.incoming().map_while(Result::ok) {
            let Ok(reading) = socket.try_clone() else { continue };
            let mut head = Vec::new();
            let mut lines = BufReader::new(reading);
            while lines.read_until(b'\n', &mut head).is_ok_and(|read| read > 2) {}
            // One answer a connection, so that none is taken for that to another input.
            let answer = ANSWER.lock().unwrap().clone();
            let _ = socket.write_all(&answer);
        }
    });
    address
});

/// Answers so from now on; the server's address.
pub fn answer(bytes: Vec<u8>) -> &'static str {
    *ANSWER.lock().unwrap() = bytes;
    &ADDRESS
}

/// The same with a head that fits the body.
#[allow(dead_code, reason = "for some of the targets")]
pub fn answer_body(kind: &str, body: &[u8]) -> &'static str {
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nETag: \"e\"\r\nConnection: close\r\n\r\n",
        body.len()
    );
    answer([head.as_bytes(), body].concat())
}

/// Options of a source, as `name=value` words.
pub fn options(words: &str) -> std::collections::BTreeMap<String, String> {
    let short = "connect_timeout=1s first_byte_timeout=1s stall_timeout=1s";
    let words = words.split_whitespace().chain(short.split_whitespace());
    words.filter_map(|word| word.split_once('=')).map(|(name, value)| (name.into(), value.into())).collect()
}
