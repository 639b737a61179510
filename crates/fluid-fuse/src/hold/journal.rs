//! Requests that were taken and not answered, where the kernel does not send them again (before Linux 6.9).
//!
//! There, requests and answers go through a socket between the kernel and the session: who takes a request writes it into
//! a slot of the memory file before he passes it on, and who brings an answer empties the slot. The next worker begins
//! with what it finds in the slots, as if the kernel had sent it, provided that the kernel still waits for the answer. That
//! is asked by an answer to an interruption of the request, which changes nothing.
//!
//! A thread that waits in read(2) of the device may take a request after its process was killed. So the device is only
//! read when there is something to read, which leaves some microseconds for a kill. What is lost in them is found by its
//! number, which is near to those in the slots, and answered with `ESTALE`: the kernel then looks a path up again, and
//! reads a page again. The bytes of a write are not kept: it fails with `EIO`.

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
use super::init::{Agreed, SMALL_WRITE};
use super::session::{self, Begun};
use super::state::{JOURNAL, Log, State};
use crate::fs::View;
use crate::inodes::lock;
use crate::limits;

/// Requests as `include/uapi/linux/fuse.h` numbers them.
mod opcode {
    pub(super) const FORGET: u32 = 2;
    pub(super) const WRITE: u32 = 16;
    pub(super) const INTERRUPT: u32 = 36;
    pub(super) const BATCH_FORGET: u32 = 42;
}

/// `fuse_in_header`, and `fuse_out_header`.
const IN_HEADER: usize = 40;
const OUT_HEADER: usize = 16;

/// Length and checksum before the request in its slot.
const FRAME: usize = 8;

/// The bit in the number of a request that stands for its interruption (`FUSE_INT_REQ_BIT`).
const INTERRUPTION: u64 = 1;

/// From one request's number to the next (`FUSE_REQ_ID_STEP`).
const STEP: u64 = 2;

/// Numbers around those in the journal that are asked for: more requests than wait in the kernel at a time. Each takes
/// less than a microsecond.
const AROUND: u64 = 16 * 1024;

/// Bytes of a request or an answer: the largest write or read that was agreed upon, with heads.
const MESSAGE_MAX: usize = SMALL_WRITE as usize + 8192;

/// Requests that are made again by their numbers, without the kernel saying so.
#[derive(Clone, Debug, Default)]
pub(crate) struct Again(Arc<HashSet<u64>>);

impl Again {
    /// Whether the request is one of them.
    pub(crate) fn has(&self, request: u64) -> bool {
        self.0.contains(&request)
    }
}

/// The slots.
struct Journal {
    file: File,
    slots: Mutex<Slots>,
}

struct Slots {
    /// Where each request is.
    taken: HashMap<u64, usize>,
    free: Vec<usize>,
}

impl Journal {
    /// What the last worker wrote, by the numbers of the requests, in their order.
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

    /// Writes down a request that was taken.
    fn note(&self, request: &[u8]) {
        let Some(number) = number(request) else { return };
        let bytes = match opcode(request) {
            opcode::FORGET | opcode::BATCH_FORGET | opcode::INTERRUPT => return,
            opcode::WRITE => &request[..IN_HEADER],
            _ => &request[..request.len().min(limits::JOURNAL_SLOT as usize - FRAME)],
        };
        let mut slots = lock(&self.slots);
        let Some(slot) = slots.free.pop() else {
            return warn!("no more requests that wait for answers are kept for the next process");
        };
        let mut framed = (bytes.len() as u32).to_ne_bytes().to_vec();
        framed.extend(crc32fast::hash(bytes).to_ne_bytes());
        framed.extend(bytes);
        if let Err(error) = self.file.write_all_at(&framed, place(slot)) {
            warn!("a request is not kept for the next process: {error}");
        }
        slots.taken.insert(number, slot);
    }

    /// It was answered.
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

/// The number of a request, or of the request that is answered.
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

/// Answers with an error number, or with success and nothing.
fn answer(device: impl AsFd, request: u64, error: i32) -> io::Result<()> {
    let mut message = (OUT_HEADER as u32).to_ne_bytes().to_vec();
    message.extend((-error).to_ne_bytes());
    message.extend(request.to_ne_bytes());
    write(device, &message)?;
    Ok(())
}

/// Numbers of requests that wait, and that no slot has.
fn lost(device: &OwnedFd, written: &[(u64, Vec<u8>)]) -> Vec<u64> {
    let known: HashSet<u64> = written.iter().map(|(number, _)| *number).collect();
    let (Some((first, _)), Some((last, _))) = (written.first(), written.last()) else { return Vec::new() };
    let around = first.saturating_sub(AROUND * STEP)..last.saturating_add(AROUND * STEP);
    around.step_by(STEP as usize).filter(|number| !known.contains(number) && waits(device, *number)).collect()
}

/// Begins a session, with what the last worker has taken and not answered.
pub(crate) fn begin(
    view: View,
    (log, state): (Log, State),
    device: OwnedFd,
    file: File,
    agreed: Agreed,
    config: Config,
) -> anyhow::Result<Run> {
    let (journal, written) = Journal::open(file);
    let lost = lost(&device, &written);
    let (waiting, answered): (Vec<_>, Vec<_>) =
        written.into_iter().partition(|(number, _)| waits(&device, *number));
    answered.iter().for_each(|(number, _)| journal.answered(*number));
    // Of a write the bytes are missing, and of what is longer than a slot its end.
    let (again, failed): (Vec<_>, Vec<_>) =
        waiting.into_iter().partition(|(_, bytes)| word(bytes, 0) == u32::try_from(bytes.len()).ok());
    if !again.is_empty() || !failed.is_empty() || !lost.is_empty() {
        info!(
            "requests that another process has taken again={} failed={} unknown={}",
            again.len(),
            failed.len(),
            lost.len()
        );
    }
    for (number, _) in failed {
        // Whoever waits may be gone.
        let _ = answer(&device, number, Errno::IO.raw_os_error());
        journal.answered(number);
    }
    for number in lost {
        let _ = answer(&device, number, Errno::STALE.raw_os_error());
    }
    view.resume(Arc::new(log), state, Again(Arc::new(again.iter().map(|(number, _)| *number).collect())));
    let Begun { session, ours, .. } = session::begin(view, agreed, config)?;
    fcntl_setfl(&device, fcntl_getfl(&device)? | OFlags::NONBLOCK).context("the device cannot be asked")?;
    let (ours, device, journal) = (Arc::new(ours), Arc::new(device), Arc::new(journal));
    let ended = Arc::new(AtomicBool::new(false));
    let back = (Arc::clone(&ours), Arc::clone(&device), Arc::clone(&journal));
    let unmounted = Arc::clone(&ended);
    Ok(Box::new(move || {
        thread::Builder::new().name("answers".into()).spawn(move || bring_back(&back.0, &back.1, &back.2))?;
        thread::Builder::new().name("requests".into()).spawn(move || {
            let passed = again.iter().try_for_each(|(_, request)| Ok(write(&ours, request).map(drop)?));
            match passed.and_then(|()| pass_on(&ours, &device, &journal)) {
                Ok(()) => unmounted.store(true, Ordering::SeqCst),
                Err(error) => error!("requests cannot be passed on any more: {error}"),
            }
            // The session ends by that.
            let _ = shutdown(&ours, Shutdown::Both);
        })?;
        let served = session.run();
        if ended.load(Ordering::SeqCst) { Ok(()) } else { served }
    }))
}

/// Takes requests from the kernel, until it is unmounted.
fn pass_on(ours: &OwnedFd, device: &OwnedFd, journal: &Journal) -> io::Result<()> {
    let mut bytes = vec![0; MESSAGE_MAX];
    loop {
        match poll(&mut [PollFd::new(device, PollFlags::IN)], None) {
            Err(Errno::INTR) => continue,
            asked => asked?,
        };
        match read(device, &mut bytes) {
            // Who waited for it is gone, or another thread was faster.
            Err(Errno::AGAIN | Errno::INTR | Errno::NOENT) => {}
            Err(Errno::NODEV) => return Ok(()),
            length => {
                let request = &bytes[..length?];
                journal.note(request);
                write(ours, request)?;
            }
        }
    }
}

/// Brings answers to the kernel, until there are no more.
fn bring_back(ours: &OwnedFd, device: &OwnedFd, journal: &Journal) {
    let mut bytes = vec![0; MESSAGE_MAX];
    while let Ok(length @ 1..) = read(ours, &mut bytes) {
        let answer = &bytes[..length];
        if let Err(error) = write(device, answer) {
            debug!("an answer is not wanted: {error}");
        }
        if let Some(number) = number(answer) {
            journal.answered(number);
        }
    }
}
