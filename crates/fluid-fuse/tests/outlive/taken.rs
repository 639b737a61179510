//! Workers that are killed between two steps of taking a request, where the kernel does not resend it. The test is the
//! worker: it takes the steps before the kill itself.

use std::fs::{self, File};
use std::io::{IoSliceMut, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;
use std::os::unix::net::UnixStream;
use std::thread;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::{Errno, read};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::pipe::{SpliceFlags, splice};

use crate::ends::{close, created, stored, writable};
use crate::pair::Pair;
use crate::readers;
use crate::support::s3::S3;

const NO_RESEND: [&str; 1] = ["--no-resend"];

/// Offset of the journal's first slot in the memory file.
const JOURNAL: u64 = 4096;

/// Bytes of the pipe.
const PIPE: usize = 256 << 10;

/// Offset of the first slot for a long request.
const LONG_SLOTS: u64 = JOURNAL + 4096 * 1024;

/// Bytes of `fuse_in_header`, which alone are noted of a long request when there is no slot for it.
const IN_HEADER: usize = 40;

/// Operations, from `include/uapi/linux/fuse.h`.
const FUSE_RMDIR: u32 = 11;
const FUSE_READ: u32 = 15;
const FUSE_WRITE: u32 = 16;

/// A worker, until it is dropped.
struct Worker {
    device: OwnedFd,
    memory: File,
    reader: OwnedFd,
    writer: File,
    _connection: UnixStream,
}

impl Worker {
    fn new(pair: &Pair) -> Self {
        let connection = UnixStream::connect(pair.socket()).unwrap();
        let mut text = [0; 1024];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(6))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut slices = [IoSliceMut::new(&mut text)];
        recvmsg(&connection, &mut slices, &mut ancillary, RecvFlags::CMSG_CLOEXEC).unwrap();
        let descriptors: Vec<OwnedFd> = ancillary
            .drain()
            .flat_map(|message| match message {
                RecvAncillaryMessage::ScmRights(descriptors) => descriptors.collect(),
                _ => Vec::new(),
            })
            .collect();
        let [device, memory, reader, writer, _, _] = descriptors.try_into().unwrap();
        Worker { device, memory: memory.into(), reader, writer: writer.into(), _connection: connection }
    }

    /// Takes the next request of this operation from the kernel.
    fn take(&self, operation: u32) -> Vec<u8> {
        let mut bytes = vec![0; PIPE];
        loop {
            poll(&mut [PollFd::new(&self.device, PollFlags::IN)], None).unwrap();
            match splice(&self.device, None, &self.writer, None, PIPE, SpliceFlags::NONBLOCK) {
                Err(Errno::AGAIN) => continue,
                taken => taken.unwrap(),
            };
            let length = read(&self.reader, &mut bytes).unwrap();
            if bytes[4..8] == operation.to_ne_bytes() {
                bytes.truncate(length);
                return bytes;
            }
        }
    }

    /// Is killed with these bytes in the pipe.
    fn leave(mut self, bytes: &[u8]) {
        self.writer.write_all(bytes).unwrap();
    }

    /// Notes a request in a slot.
    fn note(&self, slot: u64, request: &[u8]) {
        let mut framed = (request.len() as u32).to_ne_bytes().to_vec();
        framed.extend(crc32fast::hash(request).to_ne_bytes());
        framed.extend(request);
        self.memory.write_all_at(&framed, slot).unwrap();
    }
}

/// A plain read has no second attempt: it showed the ESTALE with which the next worker answered the lost request.
#[test]
fn a_read_that_was_taken_and_not_noted_is_answered() {
    let s3 = S3::start();
    readers::data(&s3);
    let Some(mut pair) = Pair::start(&s3.endpoint(), &NO_RESEND, &[]) else { return };
    let file = File::open(pair.path("file-1")).unwrap();
    pair.kill_worker();
    let worker = Worker::new(&pair);
    let reader = thread::spawn(move || {
        let mut bytes = vec![0; 1000];
        file.read_exact_at(&mut bytes, 70_000).map(|()| bytes)
    });
    let request = worker.take(FUSE_READ);
    worker.leave(&request);
    pair.next_worker();
    let bytes = reader.join().unwrap().unwrap();
    assert_eq!(readers::content(1).difference(70_000, &bytes), None);
    assert!(pair.log().contains("repeated=0 failed=0 begun=1"), "{}", pair.log());
}

/// Leaves a write of these bytes to the next worker in some way, and says what that finds.
fn write_is_done(length: usize, leave: impl FnOnce(Worker, &[u8]), found: &str) {
    let Some((mut pair, root)) = writable(&NO_RESEND) else { return };
    let mut file = created(&pair.path("file")).unwrap();
    pair.kill_worker();
    let worker = Worker::new(&pair);
    let content = vec![7; length];
    let bytes = content.clone();
    let writer = thread::spawn(move || file.write_all(&bytes).and_then(|()| close(file)));
    let request = worker.take(FUSE_WRITE);
    leave(worker, &request);
    pair.next_worker();
    writer.join().unwrap().unwrap();
    assert_eq!(stored(&root, "file"), Some(content));
    assert!(pair.log().contains(found), "{}", pair.log());
}

/// Its bytes are in the pipe alone.
#[test]
fn a_write_that_was_not_noted_is_done() {
    write_is_done(100_000, |worker, request| worker.leave(request), "repeated=0 failed=0 begun=1");
}

#[test]
fn a_write_that_was_noted_and_not_removed_is_done_once() {
    let leave = |worker: Worker, request: &[u8]| {
        worker.note(LONG_SLOTS, request);
        worker.leave(request);
    };
    write_is_done(100_000, leave, "repeated=0 failed=0 begun=1");
}

/// A worker that was killed before it has begun with a write must not let it fail.
#[test]
fn a_write_that_was_noted_alone_is_done() {
    let at = |slot| move |worker: Worker, request: &[u8]| worker.note(slot, request);
    write_is_done(100_000, at(LONG_SLOTS), "repeated=1 failed=0 begun=0");
    write_is_done(100, at(JOURNAL), "repeated=1 failed=0 begun=0");
}

/// An application chooses the bytes that it writes. A part of them must not become a request of somebody else.
#[test]
fn the_rest_of_a_write_is_no_request() {
    let Some((mut pair, _root)) = writable(&NO_RESEND) else { return };
    fs::create_dir(pair.path("directory")).unwrap();
    let mut file = created(&pair.path("file")).unwrap();
    pair.kill_worker();
    let worker = Worker::new(&pair);
    let writer = thread::spawn(move || file.write_all(&[7; 100_000]));
    let request = worker.take(FUSE_WRITE);
    worker.note(JOURNAL, &request[..IN_HEADER]);
    let name = b"directory\0";
    let mut forged = ((IN_HEADER + name.len()) as u32).to_ne_bytes().to_vec();
    forged.extend(FUSE_RMDIR.to_ne_bytes());
    // The number that the kernel waits for, and the root directory.
    forged.extend(&request[8..16]);
    forged.extend(1_u64.to_ne_bytes());
    forged.resize(IN_HEADER, 0);
    forged.extend(name);
    worker.leave(&forged);
    pair.next_worker();
    assert_eq!(writer.join().unwrap().unwrap_err().raw_os_error(), Some(5), "{}", pair.log());
    assert!(fs::metadata(pair.path("directory")).unwrap().is_dir());
    assert!(pair.log().contains("repeated=0 failed=1 begun=0"), "{}", pair.log());
}
