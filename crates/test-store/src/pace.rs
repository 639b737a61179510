//! How fast answers leave. It decides when each slice is due, as a wire of the rate would have carried it by then, and
//! how much lateness may be made up for. It does not know what is sent.

use std::fs::File;
use std::io;
use std::net::TcpStream;
use std::ops::Range;
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::sendfile;

/// Small enough to stream smoothly: less than a millisecond at 90 MB/s.
const SLICE: u64 = 64 << 10;

/// Lateness from a busy machine is made up for, lateness from a client that does not read is not.
const CATCH_UP: Duration = Duration::from_millis(10);

/// The speed of a store.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pace {
    /// How long each answer waits before its first byte.
    pub first_byte: Duration,
    /// How many bytes a second a connection carries of files; without it, as many as the machine does.
    pub rate: Option<u64>,
}

impl Pace {
    pub(crate) fn wait(&self) {
        if !self.first_byte.is_zero() {
            thread::sleep(self.first_byte);
        }
    }

    /// Sends that part of the file.
    pub(crate) fn send(&self, stream: &TcpStream, file: &File, mut range: Range<u64>) -> io::Result<()> {
        let mut due = Instant::now();
        while !range.is_empty() {
            let mut slice = range.end - range.start;
            if let Some(rate) = self.rate {
                slice = slice.min(SLICE);
                due += Duration::from_nanos(slice * 1_000_000_000 / rate.max(1));
                let now = Instant::now();
                thread::sleep(due.saturating_duration_since(now));
                if let Some(earliest) = now.checked_sub(CATCH_UP) {
                    due = due.max(earliest);
                }
            }
            let end = range.start + slice;
            while range.start < end {
                let wanted = usize::try_from(end - range.start).unwrap_or(usize::MAX);
                // It moves the start along.
                if sendfile(stream, file, Some(&mut range.start), wanted)? == 0 {
                    return Err(io::Error::other("the file became shorter"));
                }
            }
        }
        Ok(())
    }
}
