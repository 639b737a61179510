//! How fast a body leaves. It decides when each slice is due, as a wire of the rate would have carried it by
//! then, and how much lateness may be made up for. It does not know what is sent.

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

pub(super) struct Pace {
    rate: Option<u64>,
    due: Instant,
}

impl Pace {
    /// A body that begins now.
    pub(super) fn new(rate: Option<u64>) -> Self {
        Pace { rate, due: Instant::now() }
    }

    /// Sends that part of the file.
    pub(super) fn send(&mut self, stream: &TcpStream, file: &File, mut range: Range<u64>) -> io::Result<()> {
        while !range.is_empty() {
            let mut slice = range.end - range.start;
            if let Some(rate) = self.rate {
                slice = slice.min(SLICE);
                self.wait(Duration::from_nanos(slice * 1_000_000_000 / rate.max(1)));
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

    fn wait(&mut self, transmission: Duration) {
        self.due += transmission;
        let now = Instant::now();
        thread::sleep(self.due.saturating_duration_since(now));
        if let Some(earliest) = now.checked_sub(CATCH_UP) {
            self.due = self.due.max(earliest);
        }
    }
}
