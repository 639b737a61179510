//! The journal of requests that were read and not answered, for kernels that do not resend them (before Linux 6.9).
//!
//! There, requests and answers go through a socket between the kernel and the session. The thread that takes a request
//! ([`super::intake`]) writes it into a slot of the memory file before it passes the request on; the thread that writes the
//! answer empties the slot. The next worker begins with the requests in the slots, as if the kernel had sent them, if the
//! kernel still waits for their answers. To find that out it answers an interruption of the request, which changes nothing.
//!
//! Long requests, which are writes, have slots of their own. If these are taken, the journal has only the header of a write,
//! and the next worker lets it fail with `EIO`.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;

use fuser::Config;
use log::{debug, error, info};
use rustix::io::{Errno, read, write};
use rustix::net::{Shutdown, shutdown};

use super::hand_over::Run;
use super::init::{Negotiated, SMALL_WRITE};
use super::intake::{Intake, Pipes};
use super::session::{self, Begun};
use super::state::{JOURNAL, LONG_SLOTS, Log, State};
use crate::fs::View;
use crate::limits;
use crate::sync::lock;

/// Numbers of operations, from `include/uapi/linux/fuse.h`.
mod opcode {
    pub(super) const FORGET: u32 = 2;
    pub(super) const INTERRUPT: u32 = 36;
    pub(super) const BATCH_FORGET: u32 = 42;
}

/// Bytes of `fuse_in_header`.
const IN_HEADER: usize = 40;

/// Bytes of `fuse_out_header`.
const OUT_HEADER: usize = 16;

/// Bytes of length and checksum, before the request in its slot.
const FRAME: usize = 8;

/// The bit in the number of a request that stands for its interruption (`FUSE_INT_REQ_BIT`).
const INTERRUPTION: u64 = 1;

/// Bytes of a request or an answer: the largest write or read that was negotiated, with headers.
pub(super) const MESSAGE_MAX: usize = SMALL_WRITE as usize + 8192;

/// The numbers of requests that the journal repeats. Unlike resent ones they are not marked by the kernel.
#[derive(Clone, Debug, Default)]
pub(crate) struct Repeated(Arc<HashSet<u64>>);

impl Repeated {
    /// Whether the request is one of them.
    pub(crate) fn has(&self, request: u64) -> bool {
        self.0.contains(&request)
    }
}

/// The slots of the memory file.
struct Journal {
    file: File,
    slots: Mutex<Slots>,
    freed: Condvar,
}

struct Slots {
    /// The slot of each request.
    taken: HashMap<u64, Slot>,
    free: Vec<Slot>,
    free_long: Vec<Slot>,
}

/// A part of the memory file for one request.
#[derive(Clone, Copy, Debug)]
struct Slot {
    place: u64,
    /// Bytes of the request that it can have.
    capacity: usize,
}

impl Slot {
    fn all() -> impl DoubleEndedIterator<Item = Slot> {
        let slots = |start, count, size: u64| {
            (0..count).map(move |index| Slot { place: start + index * size, capacity: size as usize - FRAME })
        };
        let short = slots(JOURNAL, limits::JOURNAL_SLOTS, limits::JOURNAL_SLOT);
        short.chain(slots(LONG_SLOTS, limits::JOURNAL_LONG_SLOTS, limits::JOURNAL_LONG_SLOT))
    }

    fn is_long(self) -> bool {
        self.place >= LONG_SLOTS
    }

    /// The request in the slot.
    fn read(self, file: &File) -> Option<Vec<u8>> {
        let mut frame = [0; FRAME];
        file.read_exact_at(&mut frame, self.place).ok()?;
        let length = usize::try_from(word(&frame, 0)?).ok()?;
        if !(IN_HEADER..=self.capacity).contains(&length) {
            return None;
        }
        let mut request = vec![0; length];
        file.read_exact_at(&mut request, self.place + FRAME as u64).ok()?;
        (word(&frame, 4)? == crc32fast::hash(&request)).then_some(request)
    }

    /// The bytes of a request that the slot gets. The beginning of a request that is longer says that it has failed.
    fn noted(self, request: &[u8]) -> &[u8] {
        let is_short = request.len() <= self.capacity;
        if is_short { request } else { &request[..IN_HEADER] }
    }
}

impl Journal {
    /// The journal, and the requests that the last worker left in it, in the order of their numbers.
    fn open(file: File) -> (Self, Vec<(u64, Vec<u8>)>) {
        let mut slots = Slots { taken: HashMap::new(), free: Vec::new(), free_long: Vec::new() };
        let mut written = Vec::new();
        for slot in Slot::all().rev() {
            match slot.read(&file).and_then(|bytes| Some((number(&bytes)?, bytes))) {
                Some((request, bytes)) => {
                    slots.taken.insert(request, slot);
                    written.push((request, bytes));
                }
                None => slots.give_back(slot),
            }
        }
        written.sort_by_key(|(number, _)| *number);
        (Journal { file, slots: Mutex::new(slots), freed: Condvar::new() }, written)
    }

    /// Notes a request. If all slots are taken, waits until a request is answered.
    fn note(&self, request: &[u8]) -> io::Result<()> {
        let Some(number) = number(request).filter(|_| is_answered(request)) else { return Ok(()) };
        let mut slots = lock(&self.slots);
        let slot = loop {
            match slots.for_request(number, request.len()) {
                Some(slot) => break slot,
                None => slots = self.freed.wait(slots).unwrap_or_else(PoisonError::into_inner),
            }
        };
        slots.taken.insert(number, slot);
        drop(slots);
        let bytes = slot.noted(request);
        let mut framed = (bytes.len() as u32).to_ne_bytes().to_vec();
        framed.extend(crc32fast::hash(bytes).to_ne_bytes());
        framed.extend(bytes);
        self.file.write_all_at(&framed, slot.place)
    }

    /// Empties the slot of a request that was answered.
    fn answered(&self, number: u64) {
        let mut slots = lock(&self.slots);
        if let Some(slot) = slots.taken.remove(&number) {
            if let Err(error) = self.file.write_all_at(&[0; FRAME], slot.place) {
                debug!("the slot of a request is not emptied: {error}");
            }
            slots.give_back(slot);
            self.freed.notify_one();
        }
    }
}

impl Slots {
    /// The slot for a request of this length. One that was noted before keeps its slot.
    fn for_request(&mut self, number: u64, length: usize) -> Option<Slot> {
        let is_long = length > limits::JOURNAL_SLOT as usize - FRAME;
        let before = self.taken.get(&number).copied();
        before.or_else(|| self.free_long.pop_if(|_| is_long)).or_else(|| self.free.pop())
    }

    fn give_back(&mut self, slot: Slot) {
        if slot.is_long() { self.free_long.push(slot) } else { self.free.push(slot) }
    }
}

/// Whether the kernel waits for an answer to the request, and cannot do without it.
fn is_answered(request: &[u8]) -> bool {
    !matches!(opcode(request), opcode::FORGET | opcode::BATCH_FORGET | opcode::INTERRUPT)
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// The number of a request, or of the request that a message answers.
fn number(message: &[u8]) -> Option<u64> {
    Some(u64::from_ne_bytes(message.get(8..16)?.try_into().ok()?))
}

/// The length of a request, by its header.
pub(super) fn length(request: &[u8]) -> Option<u32> {
    word(request, 0)
}

fn opcode(request: &[u8]) -> u32 {
    word(request, 4).unwrap_or_default()
}

/// Whether the kernel waits for the answer to a request.
fn waits(device: impl AsFd, request: u64) -> bool {
    answer(device, request | INTERRUPTION, 0).is_ok()
}

/// Answers with an error number, or with 0 for success.
fn answer(device: impl AsFd, request: u64, error: i32) -> io::Result<()> {
    let mut message = (OUT_HEADER as u32).to_ne_bytes().to_vec();
    message.extend((-error).to_ne_bytes());
    message.extend(request.to_ne_bytes());
    write(device, &message)?;
    Ok(())
}

/// Begins a session with the requests that the last worker has taken and not answered.
pub(crate) fn begin(
    view: View,
    (log, state): (Log, State),
    device: OwnedFd,
    (file, pipes): (File, Pipes),
    negotiated: Negotiated,
    config: Config,
) -> anyhow::Result<Run> {
    let device = Arc::new(device);
    let (journal, mut written) = Journal::open(file);
    let intake = Intake::new(Arc::clone(&device), pipes)?;
    let left = intake.left(|request| {
        let number = number(request).filter(|number| waits(&device, *number))?;
        let slot = written.iter().find(|(known, _)| *known == number);
        slot.is_none_or(|(_, bytes)| request.starts_with(bytes)).then_some(number)
    })?;
    // Nobody has run the request in the pipe, whether or not it was noted.
    written.retain(|(number, _)| Some(*number) != left);
    let (waiting, answered): (Vec<_>, Vec<_>) =
        written.into_iter().partition(|(number, _)| waits(&device, *number));
    answered.iter().for_each(|(number, _)| journal.answered(*number));
    // The others were longer than their slots.
    let (repeated, failed): (Vec<_>, Vec<_>) =
        waiting.into_iter().partition(|(_, bytes)| length(bytes) == u32::try_from(bytes.len()).ok());
    if !repeated.is_empty() || !failed.is_empty() || left.is_some() {
        info!(
            "requests that another process has not answered repeated={} failed={} begun={}",
            repeated.len(),
            failed.len(),
            u8::from(left.is_some())
        );
    }
    for (number, _) in failed {
        // The caller may have been killed.
        let _ = answer(&device, number, Errno::IO.raw_os_error());
        journal.answered(number);
    }
    view.resume(
        Arc::new(log),
        state,
        Repeated(Arc::new(repeated.iter().map(|(number, _)| *number).collect())),
    );
    let Begun { session, peer, .. } = session::begin(view, negotiated, config)?;
    let (peer, journal) = (Arc::new(peer), Arc::new(journal));
    let ended = Arc::new(AtomicBool::new(false));
    let back = (Arc::clone(&peer), Arc::clone(&device), Arc::clone(&journal));
    let unmounted = Arc::clone(&ended);
    Ok(Box::new(move || {
        thread::Builder::new().name("answers".into()).spawn(move || bring_back(&back.0, &back.1, &back.2))?;
        thread::Builder::new().name("requests".into()).spawn(move || {
            let passed = repeated.iter().try_for_each(|(_, request)| Ok(write(&peer, request).map(drop)?));
            match passed.and_then(|()| pass_on(&peer, &intake, &journal)) {
                Ok(()) => unmounted.store(true, Ordering::SeqCst),
                Err(error) => error!("requests cannot be passed on any more: {error}"),
            }
            // That ends the session.
            let _ = shutdown(&peer, Shutdown::Both);
        })?;
        let served = session.run();
        if ended.load(Ordering::SeqCst) { Ok(()) } else { served }
    }))
}

/// Passes requests of the kernel on to the session, until the file system is unmounted.
fn pass_on(peer: &OwnedFd, intake: &Intake, journal: &Journal) -> io::Result<()> {
    let (mut bytes, mut removed) = (vec![0; MESSAGE_MAX], vec![0; MESSAGE_MAX]);
    loop {
        // The first one may be the last worker's.
        if let Some(request) = intake.request(&mut bytes)? {
            journal.note(request)?;
            intake.remove(&mut removed)?;
            write(peer, request)?;
        }
        if !intake.wait()? {
            return Ok(());
        }
    }
}

/// Passes answers of the session on to the kernel, until the session ends.
fn bring_back(peer: &OwnedFd, device: &OwnedFd, journal: &Journal) {
    let mut bytes = vec![0; MESSAGE_MAX];
    while let Ok(length @ 1..) = read(peer, &mut bytes) {
        let answer = &bytes[..length];
        if let Err(error) = write(device, answer) {
            debug!("the kernel does not accept an answer: {error}");
        }
        if let Some(number) = number(answer) {
            journal.answered(number);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::hold::state::SIZE;

    /// A look-up with this number.
    fn request(number: u64) -> Vec<u8> {
        let mut request = ((IN_HEADER + 2) as u32).to_ne_bytes().to_vec();
        request.extend(1_u32.to_ne_bytes());
        request.extend(number.to_ne_bytes());
        request.resize(IN_HEADER, 0);
        request.extend(b"a\0");
        request
    }

    fn journal() -> Journal {
        let file = tempfile::tempfile().unwrap();
        file.set_len(SIZE).unwrap();
        Journal::open(file).0
    }

    fn written(journal: &Journal) -> Vec<(u64, Vec<u8>)> {
        Journal::open(journal.file.try_clone().unwrap()).1
    }

    /// Nobody would repeat a request without a slot, and its caller would wait forever.
    #[test]
    fn a_full_journal_takes_no_request_until_one_is_answered() {
        let journal = Arc::new(journal());
        let most = limits::JOURNAL_SLOTS;
        for number in 0..most {
            journal.note(&request(2 * number)).unwrap();
        }
        let its = Arc::clone(&journal);
        let last = thread::spawn(move || its.note(&request(2 * most)).unwrap());
        thread::sleep(Duration::from_millis(50));
        assert!(!last.is_finished());
        journal.answered(20);
        last.join().unwrap();
        let written = written(&journal);
        assert!(written.len() as u64 == most && !written.contains(&(20, request(20))));
        assert!(written.contains(&(2 * most, request(2 * most))));
    }

    /// A worker may be killed after it has noted a request and before it has taken it out of the pipe.
    #[test]
    fn a_request_that_is_noted_again_keeps_its_slot() {
        let journal = journal();
        for _ in 0..2 {
            journal.note(&request(4)).unwrap();
        }
        assert_eq!(written(&journal), [(4, request(4))]);
        journal.answered(4);
        assert_eq!(written(&journal), []);
    }

    #[test]
    fn a_long_request_is_noted_as_long_as_there_are_slots() {
        let journal = journal();
        let long = |number| {
            let mut long = request(number);
            long.resize(SMALL_WRITE as usize + 80, 7);
            let length = (long.len() as u32).to_ne_bytes();
            long[..4].copy_from_slice(&length);
            long
        };
        let most = limits::JOURNAL_LONG_SLOTS;
        for number in 0..=most {
            journal.note(&long(2 * number)).unwrap();
        }
        let written = written(&journal);
        assert!((0..most).all(|number| written[number as usize] == (2 * number, long(2 * number))));
        assert_eq!(written[most as usize], (2 * most, long(2 * most)[..IN_HEADER].to_vec()));
    }
}
