//! The state of a session, which outlives the process that serves it: what the kernel knows by number.
//!
//! It is a log of changes in a memory file that the holder keeps. Each change is written before the kernel hears of
//! it, so a worker that is killed at any moment leaves a log that says at least all that the kernel knows:
//!
//! | in the log | not in it |
//! |---|---|
//! | numbers of inodes: path, identity, count of look-ups | directories being read: their positions mean the same in every life ([`crate::handles`]) |
//! | open files: path, version, whether bytes were written that the store does not have | what the store can be asked for again |
//!
//! The file has a header and two regions, one of which counts. When much of it is out of date, what still counts is
//! copied to the other region, and one small write to the header makes that one count. Every record has a checksum; the
//! first that is not whole ends the log. A worker that is told too much by an application drops names and not open files:
//! a number that is not known is answered with `ESTALE`, upon which the kernel looks its path up again.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use log::{debug, warn};
use rustix::fs::{FallocateFlags, fallocate};

use crate::inodes::lock;
use crate::limits;

const MAGIC: [u8; 8] = *b"FFSTATE\n";

/// The version of all that is written here. A worker reads what has its own.
const VERSION: u32 = 1;

/// Bytes before the journal, which is before the regions: a page.
const HEADER: u64 = 4096;

/// Where the journal of requests begins, which [`super::journal`] writes.
pub(super) const JOURNAL: u64 = HEADER;

const REGIONS: u64 = JOURNAL + limits::JOURNAL;

/// Bytes of the file; what was never written takes no memory.
pub(super) const SIZE: u64 = REGIONS + 2 * limits::STATE;

/// Length and checksum before each record.
const FRAME: usize = 8;

/// Bytes of the longest record: two paths and an ETag are less.
const RECORD_MAX: usize = 16 * 1024;

/// Bytes that are read or copied at a time.
const CHUNK: usize = 256 * 1024;

/// What may be out of date before the log is copied, beside as much as counts: a copy of it takes a millisecond.
const SLACK: u64 = 1 << 20;

/// A change.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Record<'a> {
    /// A number stands for a path.
    Node(&'a Node<'a>),
    /// The kernel knows a number from so many look-ups; with none, not any more.
    Lookups { number: u64, lookups: u64 },
    /// A file is open.
    Opened(&'a OpenRecord<'a>),
    /// What the store has of what was written through a handle.
    Written { handle: u64, written: Written },
    /// It is not open any more.
    Closed { handle: u64 },
}

/// A number that the kernel knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Node<'a> {
    pub(crate) number: u64,
    pub(crate) identity: u64,
    pub(crate) lookups: u64,
    /// The file is found by this number although its path and identity would get another.
    pub(crate) is_kept: bool,
    pub(crate) path: std::borrow::Cow<'a, Path>,
}

/// An open file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OpenRecord<'a> {
    pub(crate) handle: u64,
    pub(crate) number: u64,
    /// The request that opened it, which is made again if its answer was lost.
    pub(crate) request: u64,
    pub(crate) identity: u64,
    /// As open(2) has them.
    pub(crate) flags: i32,
    /// The process that opened it, or 0.
    pub(crate) process: u32,
    pub(crate) written: Written,
    pub(crate) path: std::borrow::Cow<'a, Path>,
    /// What the store needs to read the same version again.
    pub(crate) version: std::borrow::Cow<'a, [u8]>,
}

/// What was written through a handle.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Written {
    /// Nothing: it is open for reading, or nobody has written yet.
    #[default]
    Nothing,
    /// Bytes that the store does not have.
    Unfinished,
    /// The store has all of it.
    Finished,
}

/// What a worker left.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) nodes: Vec<Node<'static>>,
    pub(crate) files: Vec<OpenRecord<'static>>,
    /// How many workers there have been, this one included.
    pub(crate) life: u64,
}

/// Writes the state.
#[derive(Debug)]
pub(crate) struct Log {
    file: File,
    end: Mutex<End>,
    is_full: AtomicBool,
}

#[derive(Debug)]
struct End {
    header: Header,
    /// Bytes of the region that are written.
    end: u64,
    /// Bytes of it when it was last copied.
    copied: u64,
    /// A record being made.
    record: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Header {
    region: u32,
    /// Rises with each copy; records of another are none.
    epoch: u64,
    life: u64,
}

impl Header {
    const BYTES: usize = 36;

    fn read(file: &File) -> Result<Option<Header>, &'static str> {
        let mut bytes = [0; Self::BYTES];
        if file.read_exact_at(&mut bytes, 0).is_err() {
            return Err("it cannot be read");
        }
        if bytes == [0; Self::BYTES] {
            return Ok(None);
        }
        let mut fields = Fields(&bytes);
        let mut parse =
            || Some((fields.take(8)?, fields.u32()?, fields.u32()?, fields.u64()?, fields.u64()?));
        let Some((magic, version, region, epoch, life)) = parse() else { return Err("it is cut off") };
        let sum = fields.u32();
        if magic != MAGIC || sum != Some(crc32fast::hash(&bytes[..Self::BYTES - 4])) || region > 1 {
            return Err("it is damaged");
        }
        match version {
            VERSION => Ok(Some(Header { region, epoch, life })),
            _ => Err("it has another version"),
        }
    }

    /// One write of a few bytes in one page, which a kill does not divide.
    fn write(self, file: &File) -> io::Result<()> {
        let mut bytes = MAGIC.to_vec();
        for word in [VERSION, self.region] {
            bytes.extend(word.to_le_bytes());
        }
        for word in [self.epoch, self.life] {
            bytes.extend(word.to_le_bytes());
        }
        bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
        file.write_all_at(&bytes, 0)
    }

    fn start(self) -> u64 {
        REGIONS + u64::from(self.region) * limits::STATE
    }

    fn next(self) -> Self {
        Header { region: 1 - self.region, epoch: self.epoch + 1, ..self }
    }
}

impl Log {
    /// Takes the state over that is in the file: for the first worker, none. What cannot be read is left behind.
    pub(crate) fn take_over(file: File) -> io::Result<(Self, State)> {
        let (header, end) = match Header::read(&file) {
            Ok(Some(before)) => {
                let header = Header { life: before.life + 1, ..before.next() };
                (header, copy(&file, before, header)?)
            }
            unknown => {
                if let Err(problem) = unknown {
                    warn!("nothing is known of the files that the kernel has open: of the state, {problem}");
                }
                free(&file, Header { region: 1, epoch: 0, life: 0 });
                let header = Header { region: 0, epoch: fastrand::u64(1 << 32..1 << 48), life: 1 };
                free(&file, header);
                (header, 0)
            }
        };
        header.write(&file)?;
        free(&file, header.next());
        let state = read(&file, header);
        debug!("took over {} numbers and {} open files ({end} bytes)", state.nodes.len(), state.files.len());
        let end = Mutex::new(End { header, end, copied: end, record: Vec::new() });
        Ok((Log { file, end, is_full: AtomicBool::new(false) }, state))
    }

    /// Adds a change.
    pub(crate) fn add(&self, record: Record<'_>) {
        let mut end = lock(&self.end);
        let mut bytes = std::mem::take(&mut end.record);
        frame(&mut bytes, end.header.epoch, record);
        let most = match record {
            Record::Node(_) => limits::STATE_OF_NAMES,
            _ => limits::STATE,
        };
        let needed = end.end + bytes.len() as u64;
        let is_worth_it = end.end > 2 * end.copied + SLACK;
        if is_worth_it || needed > most && end.end > end.copied + SLACK {
            if let Err(error) = self.copy(&mut end) {
                warn!("the state of the mount could not be copied: {error}");
            }
            frame(&mut bytes, end.header.epoch, record);
        }
        let at = end.header.start() + end.end;
        if end.end + bytes.len() as u64 > most || bytes.len() > RECORD_MAX {
            if !self.is_full.swap(true, Ordering::Relaxed) {
                warn!(
                    "more names are in use than the next process can be told of: it looks the others up again"
                );
            }
        } else if let Err(error) = self.file.write_all_at(&bytes, at) {
            warn!("the state of the mount could not be written: {error}");
        } else {
            end.end += bytes.len() as u64;
        }
        end.record = bytes;
    }

    fn copy(&self, end: &mut End) -> io::Result<()> {
        let header = end.header.next();
        let copied = copy(&self.file, end.header, header)?;
        header.write(&self.file)?;
        free(&self.file, end.header);
        (end.header, end.end, end.copied) = (header, copied, copied);
        Ok(())
    }

    /// Bytes that the state takes.
    #[cfg(test)]
    fn bytes(&self) -> u64 {
        lock(&self.end).end
    }
}

/// Gives the memory of a region back.
fn free(file: &File, region: Header) {
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    if let Err(error) = fallocate(file, flags, region.start(), limits::STATE) {
        debug!("memory of the state is not given back: {error}");
    }
}

/// Copies what still counts; the bytes of it.
fn copy(file: &File, from: Header, to: Header) -> io::Result<u64> {
    let mut nodes: HashMap<u64, (u64, u64)> = HashMap::new();
    let mut files: HashMap<u64, (u64, Written)> = HashMap::new();
    let mut records = Records::new(file, from);
    while let Some((at, bytes)) = records.next() {
        match parse(bytes) {
            Some(Parsed::Node(node)) => {
                nodes.insert(node.number, (at, node.lookups));
            }
            Some(Parsed::Lookups { number, lookups: 0 }) => {
                nodes.remove(&number);
            }
            Some(Parsed::Lookups { number, lookups }) => {
                if let Some(node) = nodes.get_mut(&number) {
                    node.1 = lookups;
                }
            }
            Some(Parsed::Opened(open)) => {
                files.insert(open.handle, (at, open.written));
            }
            Some(Parsed::Written { handle, written }) => {
                if let Some(file) = files.get_mut(&handle) {
                    file.1 = written;
                }
            }
            Some(Parsed::Closed { handle }) => {
                files.remove(&handle);
            }
            None => {}
        }
    }
    let mut records = Records::new(file, from);
    let (mut buffer, mut record, mut end) = (Vec::new(), Vec::new(), 0);
    loop {
        let next = records.next();
        if buffer.len() >= CHUNK || next.is_none() {
            file.write_all_at(&buffer, to.start() + end)?;
            end += buffer.len() as u64;
            buffer.clear();
        }
        let Some((at, bytes)) = next else { return Ok(end) };
        match parse(bytes) {
            Some(Parsed::Node(node)) => {
                let Some((_, lookups)) = nodes.get(&node.number).filter(|(last, _)| *last == at) else {
                    continue;
                };
                frame(&mut record, to.epoch, Record::Node(&Node { lookups: *lookups, ..node }));
            }
            Some(Parsed::Opened(open)) => {
                let Some((_, written)) = files.get(&open.handle).filter(|(last, _)| *last == at) else {
                    continue;
                };
                frame(&mut record, to.epoch, Record::Opened(&OpenRecord { written: *written, ..open }));
            }
            _ => continue,
        }
        buffer.extend_from_slice(&record);
    }
}

/// Reads a region that was just copied: it has each number and each file once.
fn read(file: &File, header: Header) -> State {
    let mut state = State { life: header.life, ..State::default() };
    let mut records = Records::new(file, header);
    while let Some((_, bytes)) = records.next() {
        match parse(bytes) {
            Some(Parsed::Node(Node { number, identity, lookups, is_kept, path })) => {
                let path = path.into_owned().into();
                state.nodes.push(Node { number, identity, lookups, is_kept, path });
            }
            Some(Parsed::Opened(open)) => {
                let path = PathBuf::from(&*open.path).into();
                let version = open.version.to_vec().into();
                state.files.push(OpenRecord { path, version, ..open });
            }
            _ => {}
        }
    }
    state
}

/// The records of a region, from its beginning to the first that is not whole.
struct Records<'f> {
    file: &'f File,
    header: Header,
    /// Where in the region the buffer begins.
    base: u64,
    buffer: Vec<u8>,
    at: usize,
}

impl<'f> Records<'f> {
    fn new(file: &'f File, header: Header) -> Self {
        Records { file, header, base: 0, buffer: Vec::new(), at: 0 }
    }

    /// Where the next one is, and its bytes.
    fn next(&mut self) -> Option<(u64, &[u8])> {
        let length = self.look(FRAME, |frame| {
            let length = u32::from_le_bytes(frame.get(..4)?.try_into().ok()?);
            usize::try_from(length).ok().filter(|length| (1..=RECORD_MAX).contains(length))
        })?;
        let epoch = self.header.epoch;
        self.look(FRAME + length, |record| {
            let (frame, bytes) = record.split_at(FRAME);
            let sum = u32::from_le_bytes(frame.get(4..)?.try_into().ok()?);
            (sum == checksum(epoch, bytes)).then_some(())
        })?;
        let (at, start) = (self.base + self.at as u64, self.at + FRAME);
        self.at = start + length;
        Some((at, &self.buffer[start..start + length]))
    }

    /// What the next bytes say.
    fn look<T>(&mut self, length: usize, say: impl FnOnce(&[u8]) -> Option<T>) -> Option<T> {
        if self.buffer.len() < self.at + length {
            self.base += self.at as u64;
            self.at = 0;
            let left = usize::try_from(limits::STATE.saturating_sub(self.base)).unwrap_or(CHUNK);
            self.buffer.resize(left.min(CHUNK), 0);
            let read = self.file.read_exact_at(&mut self.buffer, self.header.start() + self.base);
            if read.is_err() {
                self.buffer.clear();
            }
        }
        say(self.buffer.get(self.at..self.at + length)?)
    }
}

fn checksum(epoch: u64, bytes: &[u8]) -> u32 {
    let mut sum = crc32fast::Hasher::new();
    sum.update(&epoch.to_le_bytes());
    sum.update(bytes);
    sum.finalize()
}

/// A record as it was read.
enum Parsed<'a> {
    Node(Node<'a>),
    Lookups { number: u64, lookups: u64 },
    Opened(OpenRecord<'a>),
    Written { handle: u64, written: Written },
    Closed { handle: u64 },
}

/// First bytes of records.
mod kind {
    pub(super) const NODE: u8 = 1;
    pub(super) const LOOKUPS: u8 = 2;
    pub(super) const OPENED: u8 = 3;
    pub(super) const WRITTEN: u8 = 4;
    pub(super) const CLOSED: u8 = 5;
}

fn frame(into: &mut Vec<u8>, epoch: u64, record: Record<'_>) {
    into.clear();
    into.resize(FRAME, 0);
    let mut numbers = |kind: u8, numbers: &[u64]| {
        into.push(kind);
        numbers.iter().for_each(|number| into.extend(number.to_le_bytes()));
    };
    match record {
        Record::Node(node) => {
            numbers(kind::NODE, &[node.number, node.identity, node.lookups]);
            into.push(u8::from(node.is_kept));
            into.extend(node.path.as_os_str().as_bytes());
        }
        Record::Lookups { number, lookups } => numbers(kind::LOOKUPS, &[number, lookups]),
        Record::Opened(open) => {
            numbers(kind::OPENED, &[open.handle, open.number, open.request, open.identity]);
            into.extend(open.flags.to_le_bytes());
            into.extend(open.process.to_le_bytes());
            into.push(open.written as u8);
            let path = open.path.as_os_str().as_bytes();
            into.extend((path.len() as u32).to_le_bytes());
            into.extend(path);
            into.extend(&*open.version);
        }
        Record::Written { handle, written } => {
            numbers(kind::WRITTEN, &[handle]);
            into.push(written as u8);
        }
        Record::Closed { handle } => numbers(kind::CLOSED, &[handle]),
    }
    let (length, sum) = ((into.len() - FRAME) as u32, checksum(epoch, &into[FRAME..]));
    into[..4].copy_from_slice(&length.to_le_bytes());
    into[4..FRAME].copy_from_slice(&sum.to_le_bytes());
}

fn parse(bytes: &[u8]) -> Option<Parsed<'_>> {
    let mut fields = Fields(bytes);
    Some(match fields.u8()? {
        kind::NODE => {
            let (number, identity, lookups) = (fields.u64()?, fields.u64()?, fields.u64()?);
            let is_kept = fields.u8()? != 0;
            Parsed::Node(Node { number, identity, lookups, is_kept, path: fields.path()?.into() })
        }
        kind::LOOKUPS => Parsed::Lookups { number: fields.u64()?, lookups: fields.u64()? },
        kind::OPENED => {
            let (handle, number, request) = (fields.u64()?, fields.u64()?, fields.u64()?);
            let identity = fields.u64()?;
            let (flags, process) = (fields.u32()?.cast_signed(), fields.u32()?);
            let written = fields.written()?;
            let length = usize::try_from(fields.u32()?).ok()?;
            let path = Fields(fields.take(length)?).path()?.into();
            let version = fields.0.into();
            Parsed::Opened(OpenRecord {
                handle,
                number,
                request,
                identity,
                flags,
                process,
                written,
                path,
                version,
            })
        }
        kind::WRITTEN => Parsed::Written { handle: fields.u64()?, written: fields.written()? },
        kind::CLOSED => Parsed::Closed { handle: fields.u64()? },
        _ => return None,
    })
}

/// What is left to read of a record.
pub(crate) struct Fields<'a>(pub(crate) &'a [u8]);

impl<'a> Fields<'a> {
    pub(crate) fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }

    fn written(&mut self) -> Option<Written> {
        let all = [Written::Nothing, Written::Unfinished, Written::Finished];
        all.get(usize::from(self.u8()?)).copied()
    }

    /// All that is left: a path below the root.
    fn path(&mut self) -> Option<&'a Path> {
        let path = Path::new(std::ffi::OsStr::from_bytes(std::mem::take(&mut self.0)));
        let is_below = |part| matches!(part, std::path::Component::Normal(_));
        path.components().all(is_below).then_some(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> File {
        let file = tempfile::tempfile().unwrap();
        file.set_len(SIZE).unwrap();
        file
    }

    fn node(number: u64, path: &str) -> Node<'_> {
        Node { number, identity: number * 3, lookups: 1, is_kept: false, path: Path::new(path).into() }
    }

    fn open(handle: u64, path: &str) -> OpenRecord<'_> {
        OpenRecord {
            handle,
            number: 7,
            request: 2 * handle,
            identity: 5,
            flags: -1,
            process: 9,
            written: Written::Nothing,
            path: Path::new(path).into(),
            version: b"etag".into(),
        }
    }

    fn next(file: &File) -> (Log, State) {
        Log::take_over(file.try_clone().unwrap()).unwrap()
    }

    #[test]
    fn what_counts_is_there_in_the_next_life_and_the_one_after() {
        let file = file();
        let (log, state) = next(&file);
        assert_eq!((state.life, state.nodes.len(), state.files.len()), (1, 0, 0));
        for number in 2..6 {
            log.add(Record::Node(&node(number, "a/b")));
        }
        log.add(Record::Lookups { number: 2, lookups: 4 });
        log.add(Record::Lookups { number: 3, lookups: 0 });
        log.add(Record::Node(&node(4, "other")));
        log.add(Record::Opened(&open(1, "a")));
        log.add(Record::Opened(&open(2, "b")));
        log.add(Record::Closed { handle: 1 });
        log.add(Record::Written { handle: 2, written: Written::Unfinished });
        log.add(Record::Lookups { number: 99, lookups: 1 });
        for life in 2..4 {
            let (_, mut state) = next(&file);
            state.nodes.sort_by_key(|node| node.number);
            let expected = [Node { lookups: 4, ..node(2, "a/b") }, node(4, "other"), node(5, "a/b")];
            assert_eq!((state.life, &state.nodes[..]), (life, &expected[..]));
            assert_eq!(state.files, [OpenRecord { written: Written::Unfinished, ..open(2, "b") }]);
        }
    }

    #[test]
    fn a_log_that_ends_anywhere_is_read_up_to_there() {
        let file = file();
        let (log, _) = next(&file);
        (2..102).for_each(|number| log.add(Record::Node(&node(number, "some/path"))));
        let start = lock(&log.end).header.start();
        let end = log.bytes();
        let mut whole = vec![0; end as usize];
        file.read_exact_at(&mut whole, start).unwrap();
        for cut in (0..whole.len()).step_by(7) {
            let other = self::file();
            let mut header = vec![0; HEADER as usize];
            file.read_exact_at(&mut header, 0).unwrap();
            other.write_all_at(&header, 0).unwrap();
            other.write_all_at(&whole[..cut], start).unwrap();
            // What a write that was cut off, or other memory, leaves there.
            other.write_all_at(&[0xa5; 40], start + cut as u64).unwrap();
            let (log, state) = next(&other);
            assert_eq!(state.nodes.len(), cut / (end as usize / 100), "{cut}");
            log.add(Record::Node(&node(200, "later")));
            assert_eq!(next(&other).1.nodes.len(), state.nodes.len() + 1);
        }
    }

    #[test]
    fn a_state_that_cannot_be_read_is_left_behind() {
        let file = file();
        let (log, _) = next(&file);
        log.add(Record::Node(&node(2, "a")));
        for (at, byte) in [(0, b'X'), (8, 99), (12, 7), (30, 1)] {
            let other = self::file();
            let mut bytes = vec![0; HEADER as usize];
            file.read_exact_at(&mut bytes, 0).unwrap();
            bytes[at] = byte;
            other.write_all_at(&bytes, 0).unwrap();
            assert_eq!(next(&other).1.nodes.len(), 0, "{at}");
        }
        assert!(parse(&[kind::NODE; 12]).is_none() && parse(&[]).is_none() && parse(&[77, 1]).is_none());
        let mut outside = Vec::new();
        frame(&mut outside, 0, Record::Node(&node(2, "../outside")));
        assert!(parse(&outside[FRAME..]).is_none());
    }

    #[test]
    fn it_takes_no_more_than_its_limit_and_keeps_open_files() {
        let file = file();
        let (log, _) = next(&file);
        log.add(Record::Opened(&open(1, "first")));
        let long = format!("{}/x", "d".repeat(200)).repeat(10);
        let most = limits::STATE_OF_NAMES / long.len() as u64 + 1000;
        for number in 2..most {
            log.add(Record::Node(&node(number, &long)));
        }
        assert!(log.is_full.load(Ordering::Relaxed) && log.bytes() <= limits::STATE_OF_NAMES);
        log.add(Record::Opened(&open(2, "later")));
        let handles: Vec<_> = next(&file).1.files.iter().map(|file| file.handle).collect();
        assert_eq!(handles, [1, 2]);
        // What came and went does not stay.
        let (log, _) = next(&self::file());
        for handle in 0..200_000 {
            log.add(Record::Opened(&open(handle, "a")));
            log.add(Record::Closed { handle });
        }
        assert!(log.bytes() < 3 * SLACK, "{}", log.bytes());
    }
}
