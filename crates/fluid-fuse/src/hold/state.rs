//! The state of a session, which outlives the worker: the inodes and the open files that the kernel has.
//!
//! It is a log of changes in a memory file that the holder keeps. A worker writes each change before the kernel learns of
//! it. So the log of a worker that is killed at any moment has at least everything that the kernel knows:
//!
//! | in the log | not in it |
//! |---|---|
//! | inodes: number, path, identity, count of look-ups | open directories: their positions mean the same in every life ([`crate::handles`]) |
//! | open files: path, version, whether bytes were written that the store does not have | what can be requested from the store |
//! | renames that have begun and not succeeded | |
//!
//! The file has a header and two regions, one of which is current. When much of it is outdated, the records that still
//! count are copied to the other region, and one small write to the header makes that one current. Every record has a
//! checksum; the first one that does not match ends the log. If an application uses more names than fit, the log leaves out
//! names and never open files: the next worker answers an unknown number with `ESTALE`, upon which the kernel looks its path
//! up again.

use std::borrow::Cow;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Component, Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use log::{debug, warn};
use rustix::fs::{FallocateFlags, fallocate};

use crate::fields::Fields;
use crate::limits;
use crate::sync::lock;

const MAGIC: [u8; 8] = *b"FFSTATE\n";

/// The version of this format and the journal's. A worker ignores the state of any other.
const VERSION: u32 = 2;

/// Bytes of the header, before the journal and the regions: a page.
const HEADER: u64 = 4096;

/// Offset of the journal of requests ([`super::journal`]).
pub(super) const JOURNAL: u64 = HEADER;

/// Offset of the journal's slots for long requests.
pub(super) const LONG_SLOTS: u64 = JOURNAL + limits::JOURNAL_SLOTS * limits::JOURNAL_SLOT;

/// Offset of the regions.
const REGIONS: u64 = LONG_SLOTS + limits::JOURNAL_LONG_SLOTS * limits::JOURNAL_LONG_SLOT;

/// Bytes of the file. Pages that were never written take no memory.
pub(crate) const SIZE: u64 = REGIONS + 2 * limits::STATE;

/// Bytes of length and checksum, before each record.
const FRAME: usize = 8;

/// Bytes of the longest record: two paths (`PATH_MAX`) and an ETag are less.
const RECORD_MAX: usize = 16 * 1024;

/// Bytes that are read or copied at once.
const CHUNK: usize = 256 * 1024;

/// Bytes of outdated records before the log is copied, beside as many as count: a copy of 1 MiB takes a millisecond.
const SLACK: u64 = 1 << 20;

/// A change.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Record<'a> {
    /// A number has a path.
    Node(&'a Node<'a>),
    /// The count of look-ups of a number; with 0 the kernel has evicted it.
    Lookups { number: u64, lookups: u64 },
    /// A file is open.
    Opened(&'a OpenRecord<'a>),
    /// Whether the store has the bytes that were written through a handle.
    Written { handle: u64, written: Written },
    /// A handle was released.
    Closed { handle: u64 },
    /// A rename begins to change the store.
    Renaming(&'a Rename<'a>),
    /// The rename of a path has succeeded.
    Renamed { from: &'a Path },
}

/// An inode that the kernel has cached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Node<'a> {
    pub(crate) number: u64,
    pub(crate) identity: u64,
    pub(crate) lookups: u64,
    /// The file keeps this number although its path and identity would get another: it was continued.
    pub(crate) is_kept: bool,
    pub(crate) path: Cow<'a, Path>,
}

/// An open file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OpenRecord<'a> {
    pub(crate) handle: u64,
    pub(crate) number: u64,
    /// The request that opened it, which is repeated if its answer was lost.
    pub(crate) request: u64,
    pub(crate) identity: u64,
    /// The flags of open(2).
    pub(crate) flags: i32,
    /// The process that opened it, or 0.
    pub(crate) process: u32,
    pub(crate) written: Written,
    pub(crate) path: Cow<'a, Path>,
    /// The version, in the words of its store.
    pub(crate) version: Cow<'a, [u8]>,
}

/// A rename that has begun.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rename<'a> {
    pub(crate) request: u64,
    pub(crate) from: Cow<'a, Path>,
    pub(crate) to: Cow<'a, Path>,
}

/// The state of the bytes that were written through a handle.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Written {
    /// There are none: the handle is open for reading, or nobody has written yet.
    #[default]
    Nothing,
    /// The store does not have all of them.
    Unfinished,
    /// The store has all of them.
    Finished,
}

/// The state that a worker has left.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) nodes: Vec<Node<'static>>,
    pub(crate) files: Vec<OpenRecord<'static>>,
    pub(crate) renames: Vec<Rename<'static>>,
    /// The number of workers until now, this one included.
    pub(crate) life: u64,
}

/// The log of changes.
#[derive(Debug)]
pub(crate) struct Log {
    file: File,
    end: Mutex<End>,
    is_full: AtomicBool,
}

#[derive(Debug)]
struct End {
    header: Header,
    /// Bytes of the region in use.
    end: u64,
    /// Bytes in use when it was copied last.
    copied: u64,
    /// Memory for the next record.
    record: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Header {
    region: u32,
    /// Increases with each copy. Records of other epochs are remains.
    epoch: u64,
    life: u64,
}

impl Header {
    const BYTES: usize = 36;

    fn read(file: &File) -> Result<Option<Header>, &'static str> {
        let mut bytes = [0; Self::BYTES];
        if file.read_exact_at(&mut bytes, 0).is_err() {
            return Err("as it cannot be read");
        }
        if bytes == [0; Self::BYTES] {
            return Ok(None);
        }
        let mut fields = Fields(&bytes);
        let mut parse =
            || Some((fields.take(8)?, fields.u32()?, fields.u32()?, fields.u64()?, fields.u64()?));
        let Some((magic, version, region, epoch, life)) = parse() else { return Err("as it is cut off") };
        let sum = fields.u32();
        if magic != MAGIC || sum != Some(crc32fast::hash(&bytes[..Self::BYTES - 4])) || region > 1 {
            return Err("as it is damaged");
        }
        match version {
            VERSION => Ok(Some(Header { region, epoch, life })),
            _ => Err("as it has another version"),
        }
    }

    /// Writes the header at once: a kill does not interrupt a write of a few bytes within a page.
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
    /// Begins a life with the state in the file, which is empty for the first worker. A state that cannot be read is dropped.
    pub(crate) fn take_over(file: File) -> io::Result<(Self, State)> {
        let (header, end) = match Header::read(&file) {
            Ok(Some(before)) => {
                let header = Header { life: before.life + 1, ..before.next() };
                (header, copy(&file, before, header)?)
            }
            unknown => {
                if let Err(problem) = unknown {
                    warn!(
                        "the state of the mount is dropped, {problem}: files that are open have to be opened again"
                    );
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
        debug!("took over inodes={} files={} bytes={end}", state.nodes.len(), state.files.len());
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
                warn!("the state of the mount is full: the next process will look some names up again");
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

    /// Bytes in use.
    #[cfg(test)]
    fn bytes(&self) -> u64 {
        lock(&self.end).end
    }
}

/// Frees the memory of a region.
fn free(file: &File, region: Header) {
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    if let Err(error) = fallocate(file, flags, region.start(), limits::STATE) {
        debug!("the memory of the state is not freed: {error}");
    }
}

/// Copies the records that still count. Returns their bytes.
fn copy(file: &File, from: Header, to: Header) -> io::Result<u64> {
    let mut nodes: HashMap<u64, (u64, u64)> = HashMap::new();
    let mut files: HashMap<u64, (u64, Written)> = HashMap::new();
    let mut renames: HashMap<PathBuf, u64> = HashMap::new();
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
            Some(Parsed::Renaming(rename)) => {
                renames.insert(rename.from.into_owned(), at);
            }
            Some(Parsed::Renamed { from }) => {
                renames.remove(from);
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
            Some(Parsed::Renaming(rename)) if renames.get(&*rename.from) == Some(&at) => {
                frame(&mut record, to.epoch, Record::Renaming(&rename));
            }
            _ => continue,
        }
        buffer.extend_from_slice(&record);
    }
}

/// Reads a region that was just copied: it has each inode and each file once.
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
            Some(Parsed::Renaming(Rename { request, from, to })) => {
                let (from, to) = (from.into_owned().into(), to.into_owned().into());
                state.renames.push(Rename { request, from, to });
            }
            _ => {}
        }
    }
    state
}

/// The records of a region, until the first one that is not intact.
struct Records<'f> {
    file: &'f File,
    header: Header,
    /// The offset of the buffer in the region.
    base: u64,
    buffer: Vec<u8>,
    at: usize,
}

impl<'f> Records<'f> {
    fn new(file: &'f File, header: Header) -> Self {
        Records { file, header, base: 0, buffer: Vec::new(), at: 0 }
    }

    /// The offset of the next record, and its bytes.
    fn next(&mut self) -> Option<(u64, &[u8])> {
        let length = self.peek(FRAME, |frame| {
            let length = u32::from_le_bytes(frame.get(..4)?.try_into().ok()?);
            usize::try_from(length).ok().filter(|length| (1..=RECORD_MAX).contains(length))
        })?;
        let epoch = self.header.epoch;
        self.peek(FRAME + length, |record| {
            let (frame, bytes) = record.split_at(FRAME);
            let sum = u32::from_le_bytes(frame.get(4..)?.try_into().ok()?);
            (sum == checksum(epoch, bytes)).then_some(())
        })?;
        let (at, start) = (self.base + self.at as u64, self.at + FRAME);
        self.at = start + length;
        Some((at, &self.buffer[start..start + length]))
    }

    /// Parses the next bytes, and leaves them there.
    fn peek<T>(&mut self, length: usize, parse: impl FnOnce(&[u8]) -> Option<T>) -> Option<T> {
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
        parse(self.buffer.get(self.at..self.at + length)?)
    }
}

fn checksum(epoch: u64, bytes: &[u8]) -> u32 {
    let mut sum = crc32fast::Hasher::new();
    sum.update(&epoch.to_le_bytes());
    sum.update(bytes);
    sum.finalize()
}

/// A record that was read.
enum Parsed<'a> {
    Node(Node<'a>),
    Lookups { number: u64, lookups: u64 },
    Opened(OpenRecord<'a>),
    Written { handle: u64, written: Written },
    Closed { handle: u64 },
    Renaming(Rename<'a>),
    Renamed { from: &'a Path },
}

/// First bytes of records.
mod kind {
    pub(super) const NODE: u8 = 1;
    pub(super) const LOOKUPS: u8 = 2;
    pub(super) const OPENED: u8 = 3;
    pub(super) const WRITTEN: u8 = 4;
    pub(super) const CLOSED: u8 = 5;
    pub(super) const RENAMING: u8 = 6;
    pub(super) const RENAMED: u8 = 7;
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
        Record::Renaming(rename) => {
            numbers(kind::RENAMING, &[rename.request]);
            let from = rename.from.as_os_str().as_bytes();
            into.extend((from.len() as u32).to_le_bytes());
            into.extend(from);
            into.extend(rename.to.as_os_str().as_bytes());
        }
        Record::Renamed { from } => {
            numbers(kind::RENAMED, &[]);
            into.extend(from.as_os_str().as_bytes());
        }
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
            Parsed::Node(Node { number, identity, lookups, is_kept, path: path(fields.0)?.into() })
        }
        kind::LOOKUPS => Parsed::Lookups { number: fields.u64()?, lookups: fields.u64()? },
        kind::OPENED => {
            let (handle, number, request) = (fields.u64()?, fields.u64()?, fields.u64()?);
            let identity = fields.u64()?;
            let (flags, process) = (fields.u32()?.cast_signed(), fields.u32()?);
            let written = written(&mut fields)?;
            let length = usize::try_from(fields.u32()?).ok()?;
            let path = path(fields.take(length)?)?.into();
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
        kind::WRITTEN => Parsed::Written { handle: fields.u64()?, written: written(&mut fields)? },
        kind::CLOSED => Parsed::Closed { handle: fields.u64()? },
        kind::RENAMING => {
            let (request, length) = (fields.u64()?, usize::try_from(fields.u32()?).ok()?);
            let from = path(fields.take(length)?)?.into();
            Parsed::Renaming(Rename { request, from, to: path(fields.0)?.into() })
        }
        kind::RENAMED => Parsed::Renamed { from: path(fields.0)? },
        _ => return None,
    })
}

fn written(fields: &mut Fields<'_>) -> Option<Written> {
    let all = [Written::Nothing, Written::Unfinished, Written::Finished];
    all.get(usize::from(fields.u8()?)).copied()
}

/// A path below the root.
fn path(bytes: &[u8]) -> Option<&Path> {
    let path = Path::new(OsStr::from_bytes(bytes));
    let is_below = |part| matches!(part, Component::Normal(_));
    path.components().all(is_below).then_some(path)
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
        let rename =
            |from| Rename { request: 8, from: Path::new(from).into(), to: Path::new("new/name").into() };
        log.add(Record::Renaming(&rename("ended")));
        log.add(Record::Renaming(&rename("half")));
        log.add(Record::Renamed { from: Path::new("ended") });
        for life in 2..4 {
            let (_, mut state) = next(&file);
            state.nodes.sort_by_key(|node| node.number);
            let expected = [Node { lookups: 4, ..node(2, "a/b") }, node(4, "other"), node(5, "a/b")];
            assert_eq!((state.life, &state.nodes[..]), (life, &expected[..]));
            assert_eq!(state.files, [OpenRecord { written: Written::Unfinished, ..open(2, "b") }]);
            assert_eq!(state.renames, [rename("half")]);
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
            // Bytes as an interrupted write may leave them.
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
        // Records of closed files are removed.
        let (log, _) = next(&self::file());
        for handle in 0..200_000 {
            log.add(Record::Opened(&open(handle, "a")));
            log.add(Record::Closed { handle });
        }
        assert!(log.bytes() < 3 * SLACK, "{}", log.bytes());
    }
}
