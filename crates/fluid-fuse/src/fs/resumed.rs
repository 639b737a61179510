//! One life of a session after another ([`crate::hold`]): what a view takes over, and what it notes for the next.
//!
//! A file that is read goes on with the version that it had. Of a file that is written, the bytes that the store does not
//! have are gone with the process that had them: every call through such a handle fails from then on, so that its close
//! fails. A handle through which nothing was written, or all of it finished, goes on when it is needed.
//!
//! A request whose answer was lost is made again. What it did already is not undone: an open that nobody heard of is
//! closed, and a name that is gone, made or moved already is a success.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use fuser::{Errno, FileHandle, INodeNo, LockOwner, ReplyWrite, Request};
use log::{error, info, warn};
use rustix::fs::OFlags;

use super::{Core, Mode, OpenFile, View, errno};
use crate::handles::Listing;
use crate::hold::state::{Log, OpenRecord, Record, State, Written};
use crate::inodes::lock;
use crate::store::{Answer, Kind, Object, Stat, StoreError};

/// The bit by which the kernel tells a request that it sends again (`FUSE_UNIQUE_RESEND`).
const AGAIN: u64 = 1 << 63;

/// What a view has of former lives.
pub(super) struct Resumed {
    log: Arc<Log>,
    life: u64,
    /// Handles of former lives, by the requests that opened them.
    opened: Mutex<HashMap<u64, FileHandle>>,
    /// Requests that are made again without the kernel saying so.
    again: crate::hold::Again,
}

/// A request to open a file.
pub(super) struct Opening {
    request: u64,
    flags: i32,
}

/// A file that was open for writing.
pub(super) struct Lost {
    path: PathBuf,
    number: u64,
    flags: i32,
    process: u32,
    written: Written,
    /// Held by who opens it again.
    reviving: Mutex<()>,
}

impl Lost {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// How a close of it ends, or an fsync.
    pub(super) fn end(&self) -> Result<(), Errno> {
        if self.written == Written::Unfinished { Err(Errno::EIO) } else { Ok(()) }
    }
}

/// A file whose version is not to be had any more.
struct Gone;

impl Object for Gone {
    fn stat(&self) -> Result<Stat, StoreError> {
        Err(StoreError::Stale)
    }

    fn read(&self, _: u64, _: u32, answer: Answer) {
        answer(Err(StoreError::Stale));
    }
}

impl View {
    /// Goes on where another process ended, and notes everything for the next. To be called before anything is served.
    pub(crate) fn resume(&self, log: Arc<Log>, state: State, again: crate::hold::Again) {
        let core = &self.0;
        let State { nodes, files, life } = state;
        core.inodes.resume(nodes, Arc::clone(&log));
        core.files.resume(life);
        core.directories.resume(life);
        let mut opened = HashMap::new();
        let (mut lost, mut gone) = (0, 0);
        for file in files {
            let handle = FileHandle(file.handle);
            opened.insert(file.request & !AGAIN, handle);
            let open = match is_read(file.flags) {
                true => core.reopened(&file, &mut gone),
                false => {
                    lost += usize::from(file.written == Written::Unfinished);
                    if file.written == Written::Unfinished {
                        error!(
                            "{}: what was written and not finished is lost: its close fails",
                            file.path.display()
                        );
                    }
                    OpenFile::Lost(Lost {
                        path: file.path.into_owned(),
                        number: file.number,
                        flags: file.flags,
                        process: file.process,
                        written: file.written,
                        reviving: Mutex::default(),
                    })
                }
            };
            core.files.insert(handle.0, Arc::new(open));
        }
        if life > 1 {
            info!(
                "went on where another process ended life={life} files={} replaced={gone} unfinished={lost}",
                opened.len()
            );
        }
        // There is one life at a time.
        let _ = core.resumed.set(Resumed { log, life, opened: Mutex::new(opened), again });
    }

    /// Files that are open at the moment.
    pub(crate) fn open_files(&self) -> impl Fn() -> usize + Send + 'static {
        let core = Arc::downgrade(&self.0);
        move || core.upgrade().map_or(0, |core| core.files.count())
    }
}

fn is_read(flags: i32) -> bool {
    !OFlags::from_bits_retain(flags.cast_unsigned()).intersects(OFlags::WRONLY | OFlags::RDWR)
}

impl Core {
    fn reopened(&self, file: &OpenRecord<'_>, gone: &mut usize) -> OpenFile {
        let object = self.store.reopen(&file.path, file.identity, &file.version).unwrap_or_else(|error| {
            warn!("{}: is not read any more: {error}", file.path.display());
            *gone += 1;
            Box::new(Gone)
        });
        let mut modes = lock(&self.modes);
        let mode = modes.entry(file.number).or_insert_with(|| Mode { handles: 0, stat: None, past_us: None });
        mode.stat = object.stat().ok().or(mode.stat);
        mode.handles += 1;
        OpenFile::Read { object, ino: file.number }
    }

    /// A request to open a file begins. One that is made again leaves nothing of the first time.
    pub(super) fn opening(self: &Arc<Self>, request: &Request, flags: i32) -> Opening {
        let request = request.unique().0;
        if let Some(resumed) = self.resumed.get() {
            let handle = lock(&resumed.opened).remove(&(request & !AGAIN));
            if let Some(handle) = handle.filter(|_| resumed.is_again(request)) {
                self.files.remove(handle);
                self.note_closed(handle);
            }
        }
        Opening { request, flags }
    }

    /// Notes what is open from now on, before the kernel hears of it.
    pub(super) fn note_opened(&self, handle: FileHandle, ino: INodeNo, opening: &Opening, version: &[u8]) {
        let (Some(resumed), Some(node)) = (self.resumed.get(), self.inodes.get(ino.0)) else { return };
        let process = match self.files.get(handle).as_deref() {
            Some(OpenFile::Write { open, .. }) => open.process(),
            _ => 0,
        };
        resumed.log.add(Record::Opened(&OpenRecord {
            handle: handle.0,
            number: ino.0,
            request: opening.request & !AGAIN,
            identity: node.identity,
            flags: opening.flags,
            process,
            written: Written::Nothing,
            path: (&*node.path).into(),
            version: version.into(),
        }));
    }

    pub(super) fn note_closed(&self, handle: FileHandle) {
        self.note(|| Record::Closed { handle: handle.0 });
    }

    fn note(&self, record: impl FnOnce() -> Record<'static>) {
        if let Some(resumed) = self.resumed.get() {
            resumed.log.add(record());
        }
    }

    /// Whether the kernel makes the request again.
    pub(super) fn is_again(&self, request: &Request) -> bool {
        self.resumed.get().is_some_and(|resumed| resumed.is_again(request.unique().0))
    }

    /// The directory of a handle. One that was opened in a former life begins without a listing.
    pub(super) fn directory(&self, handle: FileHandle) -> Option<Arc<Mutex<Option<Arc<Listing>>>>> {
        self.directories.get(handle).or_else(|| {
            let resumed = self.resumed.get()?;
            self.directories.is_of_former_life(handle, resumed.life).then(|| {
                let directory = Arc::default();
                self.directories.insert(handle.0, Arc::clone(&directory));
                directory
            })
        })
    }

    /// Whether a directory can be read on from there without a question.
    pub(super) fn has_listing(&self, handle: FileHandle, offset: u64) -> bool {
        offset > 0 && self.directories.get(handle).is_some_and(|directory| lock(&directory).is_some())
    }

    /// Takes bytes for a file that is open for writing.
    pub(super) fn write(
        &self,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let file = self.files.get(handle);
        let Some(OpenFile::Write { path, open, unsaved }) = file.as_deref() else {
            return reply.error(Errno::EBADF);
        };
        if let Err(error) = self.resume(path, &open.file) {
            return reply.error(error);
        }
        let length = data.len() as u32;
        // Held so that nobody finds all saved between the note and the bytes.
        let mut unsaved = lock(unsaved);
        self.note_unsaved(handle, &mut unsaved);
        open.write(
            offset,
            data,
            owner,
            Box::new(move |result| match result {
                Ok(()) => reply.written(length),
                Err(error) => reply.error(error),
            }),
        );
    }

    fn note_unsaved(&self, handle: FileHandle, unsaved: &mut bool) {
        if !*unsaved {
            *unsaved = true;
            self.note(|| Record::Written { handle: handle.0, written: Written::Unfinished });
        }
    }

    /// The file of the handle is going to be changed otherwise than by writing.
    pub(super) fn unsaved(self: &Arc<Self>, handle: FileHandle) -> Result<(), Errno> {
        self.revived(handle)?;
        if let Some(OpenFile::Write { unsaved, .. }) = self.files.get(handle).as_deref() {
            self.note_unsaved(handle, &mut lock(unsaved));
        }
        Ok(())
    }

    /// The store has all that was written before an fsync or a close, and maybe what was written since.
    pub(super) fn saved(&self, handle: FileHandle) {
        let file = self.files.get(handle);
        let Some(OpenFile::Write { open, unsaved, .. }) = file.as_deref() else { return };
        let mut unsaved = lock(unsaved);
        if *unsaved && !open.file.is_changed() {
            *unsaved = false;
            self.note(|| Record::Written { handle: handle.0, written: Written::Finished });
        }
    }

    /// Opens again what was open for writing in a former life, if nothing of it is lost.
    pub(super) fn revived(self: &Arc<Self>, handle: FileHandle) -> Result<(), Errno> {
        let file = self.files.get(handle);
        let Some(OpenFile::Lost(lost)) = file.as_deref() else { return Ok(()) };
        lost.end()?;
        let _reviving = lock(&lost.reviving);
        if !matches!(self.files.get(handle).as_deref(), Some(OpenFile::Lost(_))) {
            return Ok(());
        }
        let new = self.open_again(lost)?;
        let open = self.files.get(new).ok_or(Errno::EIO)?;
        self.files.insert(handle.0, open);
        self.files.remove(new);
        Ok(())
    }

    fn open_again(self: &Arc<Self>, lost: &Lost) -> Result<FileHandle, Errno> {
        // It is there; who finished it wants to keep what it has.
        let without = match lost.written {
            Written::Finished => OFlags::EXCL | OFlags::TRUNC,
            _ => OFlags::EXCL,
        };
        let flags = (OFlags::from_bits_retain(lost.flags.cast_unsigned()) - without).bits().cast_signed();
        let path = self.path(INodeNo(lost.number)).map_err(errno)?;
        let (handle, identity, stat) = self.create(&path, flags, lost.process)?;
        // One that is new gets the number that the kernel has for it.
        if let Some(node) = self.inodes.get(lost.number)
            && stat.kind == Kind::File
        {
            self.inodes.became((&path, node.identity), (&path, identity), true);
        }
        Ok(handle)
    }

    /// A handle of a former life is closed. A file that nobody has written in comes to be by that.
    pub(super) fn left_behind(self: &Arc<Self>, lost: &Lost) {
        let makes = OFlags::CREATE | OFlags::TRUNC;
        let flags = OFlags::from_bits_retain(lost.flags.cast_unsigned());
        if lost.written != Written::Nothing || !flags.intersects(makes) {
            return;
        }
        let (core, path) = (Arc::clone(self), lost.path.clone());
        let again = Lost { path: lost.path.clone(), reviving: Mutex::default(), ..*lost };
        self.asking.urgent(Box::new(move || match core.open_again(&again) {
            Ok(handle) => core.closed(handle),
            Err(error) => error!("{}: is not made: {error:?}", path.display()),
        }));
    }

    pub(super) fn make_directory(&self, path: &Path, is_again: bool) -> Result<Stat, StoreError> {
        self.store.make_directory(path).or_else(|error| match self.store.stat(path) {
            Ok(stat) if is_again && stat.kind == Kind::Directory => Ok(stat),
            _ => Err(error),
        })
    }

    /// Whether a name was moved already.
    pub(super) fn is_renamed(&self, from: &Path, to: &Path) -> bool {
        matches!(self.store.stat(from), Err(StoreError::NotFound)) && self.store.stat(to).is_ok()
    }
}

impl Resumed {
    fn is_again(&self, request: u64) -> bool {
        request & AGAIN != 0 || self.again.has(request)
    }
}
