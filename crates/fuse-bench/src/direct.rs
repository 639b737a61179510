//! The same bytes without FUSE: blocking ranged GETs over connections that are kept. It decides nothing but
//! how many connections share the work; it does not sign, retry or check.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use anyhow::{Context, bail};

use crate::size::MIB;

/// What one GET asks for: long enough for the round trip not to matter much.
const PART: u64 = 8 * MIB;

/// A connection to an endpoint.
#[derive(Debug)]
pub struct Connection {
    reader: BufReader<TcpStream>,
    address: SocketAddr,
}

impl Connection {
    /// Connects.
    pub fn new(address: SocketAddr) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address).with_context(|| format!("cannot connect to {address}"))?;
        stream.set_nodelay(true)?;
        Ok(Connection { reader: BufReader::with_capacity(16 << 10, stream), address })
    }

    /// Gets an object, or a part of it, into the sink, which is filled over and over when it is too short.
    /// Returns the length.
    pub fn get(&mut self, path: &str, range: Option<Range<u64>>, sink: &mut [u8]) -> anyhow::Result<u64> {
        let range = range.map(|range| format!("Range: bytes={}-{}\r\n", range.start, range.end - 1));
        let head =
            format!("GET {path} HTTP/1.1\r\nHost: {}\r\n{}\r\n", self.address, range.unwrap_or_default());
        self.reader.get_mut().write_all(head.as_bytes())?;
        let mut status = String::new();
        self.reader.read_line(&mut status)?;
        if !status.starts_with("HTTP/1.1 20") {
            bail!("GET {path}: {}", status.trim_end());
        }
        let mut length = None;
        loop {
            let mut line = String::new();
            self.reader.read_line(&mut line)?;
            let Some((name, value)) = line.split_once(':') else { break };
            if name.eq_ignore_ascii_case("content-length") {
                length = Some(value.trim().parse()?);
            }
        }
        let length: u64 = length.context("an answer without a length")?;
        let mut left = length;
        while left > 0 {
            let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(sink.len());
            self.reader.read_exact(&mut sink[..wanted])?;
            left -= wanted as u64;
        }
        Ok(length)
    }
}

/// Does the work of each number below `count` over so many connections.
pub fn share(
    address: SocketAddr,
    connections: usize,
    count: u64,
    work: impl Fn(&mut Connection, u64, &mut [u8]) -> anyhow::Result<()> + Sync,
) -> anyhow::Result<()> {
    let next = AtomicU64::new(0);
    let worker = || {
        let mut connection = Connection::new(address)?;
        let mut sink = vec![0; 256 << 10];
        loop {
            match next.fetch_add(1, Ordering::Relaxed) {
                number if number < count => work(&mut connection, number, &mut sink)?,
                _ => return Ok(()),
            }
        }
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..connections).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().try_for_each(|worker| match worker.join() {
            Ok(done) => done,
            Err(_) => bail!("a thread of the benchmark panicked"),
        })
    })
}

/// Gets a whole object in parts.
pub fn whole(address: SocketAddr, path: &str, size: u64, connections: usize) -> anyhow::Result<()> {
    share(address, connections, size.div_ceil(PART), |connection, part, sink| {
        let range = part * PART..size.min((part + 1) * PART);
        connection.get(path, Some(range), sink).map(drop)
    })
}
