//! The journal of requests that were read and not answered, for kernels that do not resend them (before Linux 6.9).
//!
//! There, requests and answers go through a socket between the kernel and the session. The thread that reads a request writes
//! it into a slot of the memory file before it passes the request on; the thread that writes the answer empties the slot. The
//! next worker begins with the requests in the slots, as if the kernel had sent them, if the kernel still waits for their
//! answers. To find that out it answers an interruption of the request, which changes nothing.
//!
//! A thread that waits in read(2) of the device may get a request after its process was killed. So the device is only
//! read when it has a request, which leaves some microseconds for a kill. A request that is lost in them is found by its
//! number, which is near to those in the slots, and answered with `ESTALE`: the kernel then looks a path up again, and
//! reads a page again. The journal has no bytes of writes: a write that was not answered fails with `EIO`.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use anyhow::Context as _;
use fuser::Config;
use log::{debug, error, info, warn};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::{Errno, read, write};
use rustix::net::{Shutdown, shutdown};

use super::hand_over::Run;
use super::init::{Negotiated, SMALL_WRITE};
use super::session::{self, Begun};
use super::state::{JOURNAL, Log, State};
use crate::fs::View;
use crate::limits;
use crate::sync::lock;

/// Numbers of operations, from `include/uapi/linux/fuse.h`.
mod opcode {
    pub(super) const FORGET: u32 = 2;
    pub(super) const WRITE: u32 = 16;
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

/// From one request's number to the next (`FUSE_REQ_ID_STEP`).
const STEP: u64 = 2;

/// Numbers below and above those in the journal that are checked: more than requests wait in the kernel at a time. A check
/// takes less than a microsecond.
const AROUND: u64 = 16 * 1024;

/// Bytes of a request or an answer: the largest write or read that was negotiated, with headers.
const MESSAGE_MAX: usize = SMALL_WRITE as usize + 8192;

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
}

struct Slots {
    /// The slot of each request.
    taken: HashMap<u64, usize>,
    free: Vec<usize>,
}

impl Journal {
    /// The journal, and the requests that the last worker left in it, in the order of their numbers.
    fn open(file: File) -> (Self, Vec<(u64, Vec<u8>)>) {
        let mut slots = Slots { taken: HashMap::new(), free: Vec::new() };
        let mut written = Vec::new();
        for slot in (0..limits::JOURNAL_SLOTS as usize).rev() {
            match in_slot(&file, slot).and_then(|bytes| Some((number(&bytes)?, bytes))) {
                Some((request, bytes)) => {
                    slots.taken.insert(request, slot);
                    written.push((request, bytes));
                }
                None => slots.free.push(slot),
            }
        }
        written.sort_by_key(|(number, _)| *number);
        (Journal { file, slots: Mutex::new(slots) }, written)
    }

    /// Notes a request that was read.
    fn note(&self, request: &[u8]) {
        let Some(number) = number(request) else { return };
        let bytes = match opcode(request) {
            opcode::FORGET | opcode::BATCH_FORGET | opcode::INTERRUPT => return,
            opcode::WRITE => &request[..IN_HEADER],
            _ => &request[..request.len().min(limits::JOURNAL_SLOT as usize - FRAME)],
        };
        let mut slots = lock(&self.slots);
        let Some(slot) = slots.free.pop() else {
            return warn!("the journal is full: the next process will not repeat a request");
        };
        let mut framed = (bytes.len() as u32).to_ne_bytes().to_vec();
        framed.extend(crc32fast::hash(bytes).to_ne_bytes());
        framed.extend(bytes);
        if let Err(error) = self.file.write_all_at(&framed, place(slot)) {
            warn!("the next process will not repeat a request: {error}");
        }
        slots.taken.insert(number, slot);
    }

    /// Empties the slot of a request that was answered.
    fn answered(&self, number: u64) {
        let mut slots = lock(&self.slots);
        if let Some(slot) = slots.taken.remove(&number) {
            if let Err(error) = self.file.write_all_at(&[0; FRAME], place(slot)) {
                debug!("the slot of a request is not emptied: {error}");
            }
            slots.free.push(slot);
        }
    }
}

fn place(slot: usize) -> u64 {
    JOURNAL + slot as u64 * limits::JOURNAL_SLOT
}

fn in_slot(file: &File, slot: usize) -> Option<Vec<u8>> {
    let mut bytes = vec![0; limits::JOURNAL_SLOT as usize];
    file.read_exact_at(&mut bytes, place(slot)).ok()?;
    let length = usize::try_from(word(&bytes, 0)?).ok()?;
    let request =
        bytes.get(FRAME..FRAME.checked_add(length)?).filter(|request| request.len() >= IN_HEADER)?;
    (word(&bytes, 4)? == crc32fast::hash(request)).then(|| request.to_vec())
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// The number of a request, or of the request that a message answers.
fn number(message: &[u8]) -> Option<u64> {
    Some(u64::from_ne_bytes(message.get(8..16)?.try_into().ok()?))
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

/// The numbers of requests that the kernel waits for and no slot has.
fn lost(device: &OwnedFd, written: &[(u64, Vec<u8>)]) -> Vec<u64> {
    let known: HashSet<u64> = written.iter().map(|(number, _)| *number).collect();
    let (Some((first, _)), Some((last, _))) = (written.first(), written.last()) else { return Vec::new() };
    let around = first.saturating_sub(AROUND * STEP)..last.saturating_add(AROUND * STEP);
    around.step_by(STEP as usize).filter(|number| !known.contains(number) && waits(device, *number)).collect()
}

/// Begins a session with the requests that the last worker has read and not answered.
pub(crate) fn begin(
    view: View,
    (log, state): (Log, State),
    device: OwnedFd,
    file: File,
    negotiated: Negotiated,
    config: Config,
) -> anyhow::Result<Run> {
    let (journal, written) = Journal::open(file);
    let lost = lost(&device, &written);
    let (waiting, answered): (Vec<_>, Vec<_>) =
        written.into_iter().partition(|(number, _)| waits(&device, *number));
    answered.iter().for_each(|(number, _)| journal.answered(*number));
    // The bytes of writes are missing, and the ends of requests that are longer than a slot.
    let (repeated, failed): (Vec<_>, Vec<_>) =
        waiting.into_iter().partition(|(_, bytes)| word(bytes, 0) == u32::try_from(bytes.len()).ok());
    if !repeated.is_empty() || !failed.is_empty() || !lost.is_empty() {
        info!(
            "requests that another process has not answered repeated={} failed={} unknown={}",
            repeated.len(),
            failed.len(),
            lost.len()
        );
    }
    for (number, _) in failed {
        // The caller may have been killed.
        let _ = answer(&device, number, Errno::IO.raw_os_error());
        journal.answered(number);
    }
    for number in lost {
        let _ = answer(&device, number, Errno::STALE.raw_os_error());
    }
    view.resume(
        Arc::new(log),
        state,
        Repeated(Arc::new(repeated.iter().map(|(number, _)| *number).collect())),
    );
    let Begun { session, peer, .. } = session::begin(view, negotiated, config)?;
    fcntl_setfl(&device, fcntl_getfl(&device)? | OFlags::NONBLOCK).context("the device cannot be polled")?;
    let (peer, device, journal) = (Arc::new(peer), Arc::new(device), Arc::new(journal));
    let ended = Arc::new(AtomicBool::new(false));
    let back = (Arc::clone(&peer), Arc::clone(&device), Arc::clone(&journal));
    let unmounted = Arc::clone(&ended);
    Ok(Box::new(move || {
        thread::Builder::new().name("answers".into()).spawn(move || bring_back(&back.0, &back.1, &back.2))?;
        thread::Builder::new().name("requests".into()).spawn(move || {
            let passed = repeated.iter().try_for_each(|(_, request)| Ok(write(&peer, request).map(drop)?));
            match passed.and_then(|()| pass_on(&peer, &device, &journal)) {
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
fn pass_on(peer: &OwnedFd, device: &OwnedFd, journal: &Journal) -> io::Result<()> {
    let mut bytes = vec![0; MESSAGE_MAX];
    loop {
        match poll(&mut [PollFd::new(device, PollFlags::IN)], None) {
            Err(Errno::INTR) => continue,
            polled => polled?,
        };
        match read(device, &mut bytes) {
            // The caller was killed meanwhile.
            Err(Errno::AGAIN | Errno::INTR | Errno::NOENT) => {}
            Err(Errno::NODEV) => return Ok(()),
            length => {
                let request = &bytes[..length?];
                journal.note(request);
                write(peer, request)?;
            }
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
