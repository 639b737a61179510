//! Moves the bytes of a range request into blocks: from the disk cache where it has them, from the object store elsewhere.

use std::io::{ErrorKind, Read};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::block::{BLOCK_SIZE, Block, BlockPool, within};
use super::disk::CachedFile;
use super::file_state::FileState;
use super::metrics::Metrics;
use super::open_files::{OpenFiles, Urgency};
use super::request::{Purpose, RangeRequest};
use crate::queue::Queue;
use crate::store::StoreError;

/// How far a transfer has come, and when.
#[derive(Clone, Copy, Debug)]
pub(super) struct Position {
    pub(super) offset: u64,
    pub(super) reached_at: Instant,
}

impl Position {
    /// That offset, reached now.
    pub(super) fn at(offset: u64) -> Self {
        Position { offset, reached_at: Instant::now() }
    }
}

/// A request and the file that it is made for.
#[derive(Clone)]
pub(super) struct FetchJob {
    pub(super) file: Arc<FileState>,
    pub(super) request: Arc<RangeRequest>,
}

/// Called with each block that comes: its number, which bytes of it came, and the block.
pub(super) type Deliver<'a> = &'a dyn Fn(u64, Range<u64>, Arc<Block>);

/// Everything that a transfer needs beside the request.
pub(super) struct Transfer {
    pub(super) pool: Arc<BlockPool>,
    pub(super) files: Arc<OpenFiles>,
    pub(super) metrics: Arc<Metrics>,
    /// Its concurrency limit follows the requests that succeed.
    pub(super) queue: Arc<Queue>,
    /// How long a store may take for a block.
    pub(super) io_timeout: Duration,
}

impl Transfer {
    /// Moves the rest of a request, from the position on.
    pub(super) fn run(
        &self,
        job: &FetchJob,
        position: &mut Position,
        deliver: Deliver<'_>,
    ) -> Result<(), StoreError> {
        let disk = job.file.disk();
        let end = job.request.range.end;
        while position.offset < end {
            let rest = position.offset..end;
            let Some(disk) = &disk else {
                self.download(job, None, rest, position, deliver)?;
                continue;
            };
            match disk.gap(&rest) {
                Some(gap) if gap.start == rest.start => {
                    self.download(job, Some(disk), gap, position, deliver)?;
                }
                gap if job.request.purpose == Purpose::FillDisk => {
                    *position = Position::at(gap.map_or(rest.end, |gap| gap.start));
                }
                _ => self.load(job, disk, position, deliver)?,
            }
        }
        Ok(())
    }

    /// Moves the next block from the disk cache. Moves nothing if the block turns out to be damaged.
    fn load(
        &self,
        job: &FetchJob,
        disk: &CachedFile,
        position: &mut Position,
        deliver: Deliver<'_>,
    ) -> Result<(), StoreError> {
        let block = position.offset / BLOCK_SIZE;
        let whole = within(block, &(0..job.file.version.size));
        let mut bytes = self.empty_block(&job.request)?;
        if disk.load(block, &mut bytes[..whole.end as usize]) {
            self.metrics.disk_bytes.fetch_add(whole.end, Ordering::Relaxed);
            *position = Position::at((block * BLOCK_SIZE + whole.end).min(job.request.range.end));
            deliver(block, whole, Arc::new(bytes));
        }
        Ok(())
    }

    /// Moves a range from the object store, by one request, and puts whole blocks into the disk cache.
    fn download(
        &self,
        job: &FetchJob,
        disk: Option<&Arc<CachedFile>>,
        range: Range<u64>,
        position: &mut Position,
        deliver: Deliver<'_>,
    ) -> Result<(), StoreError> {
        let file = &job.file;
        self.metrics.requests.fetch_add(1, Ordering::Relaxed);
        let mut body = file.origin.get(&file.version, range.clone())?;
        while position.offset < range.end {
            let block = position.offset / BLOCK_SIZE;
            let piece = within(block, &(position.offset..range.end));
            let mut bytes = self.empty_block(&job.request)?;
            let room = &mut bytes[piece.start as usize..piece.end as usize];
            fill(&mut body, room, position.reached_at + self.io_timeout)
                .inspect_err(|error| file.origin.interrupted(&file.version, error))?;
            self.metrics.bytes.fetch_add(piece.end - piece.start, Ordering::Relaxed);
            *position = Position::at(block * BLOCK_SIZE + piece.end);
            let bytes = Arc::new(bytes);
            let whole = within(block, &(0..file.version.size));
            let kept = disk.filter(|_| piece == whole).map(|disk| (disk, Arc::clone(&bytes)));
            // Reads that wait go first.
            deliver(block, piece, bytes);
            if let Some((disk, bytes)) = kept {
                disk.store(block, &bytes[..whole.end as usize]);
            }
        }
        self.queue.note_success(file.origin.lane);
        file.origin.note_success();
        Ok(())
    }

    fn empty_block(&self, request: &RangeRequest) -> Result<Block, StoreError> {
        self.pool.take(|| {
            let is_awaited = request.purpose == Purpose::Read || request.awaited_since().is_some();
            self.files.evict(if is_awaited { Urgency::ReadWaits } else { Urgency::Background });
        })
    }
}

/// Fills the room with bytes until the deadline: some servers send a few bytes at a time, for ever.
fn fill(body: &mut dyn Read, mut room: &mut [u8], deadline: Instant) -> Result<(), StoreError> {
    while !room.is_empty() {
        if Instant::now() > deadline {
            return Err(StoreError::Unavailable("the bytes come too slowly".into()));
        }
        match body.read(room) {
            Ok(0) => return Err(StoreError::Unavailable("the answer ended too early".into())),
            Ok(read) => room = &mut room[read..],
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(StoreError::Unavailable(error.to_string())),
        }
    }
    Ok(())
}
