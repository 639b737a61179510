//! The lives of a session, one worker after the other ([`crate::hold`]): how a view continues the open files of earlier
//! workers, and what it notes for the next one.
//!
//! A file that is open for reading keeps its version. Of a file that is open for writing, the bytes that the store does not
//! have were lost with the worker: every operation on such a handle fails from then on, so its close fails. A handle
//! without such bytes is opened again when it is used.
//!
//! A request whose answer was lost is repeated. Its first effect stays: a handle that the kernel never learned of is closed,
//! and a name that is removed, made or renamed already is a success. A rename that was interrupted continues.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use fuser::{Errno, FileHandle, INodeNo, LockOwner, ReplyWrite, Request};
use log::{error, info, warn};
use rustix::fs::OFlags;

use super::{Core, Mode, OpenFile, View, errno};
use crate::flight;
use crate::handles::Listing;
use crate::hold::Repeated;
use crate::hold::state::{Log, OpenRecord, Record, Rename, State, Written};
use crate::limits::Until;
use crate::store::{Answer, Kind, Object, Stat, StoreError};
use crate::sync::lock;

/// The bit with which the kernel marks a resent request (`FUSE_UNIQUE_RESEND`).
const RESENT: u64 = 1 << 63;

/// The state of a view that is held.
pub(super) struct Resumed {
    log: Arc<Log>,
    life: u64,
    /// Handles of earlier lives, by the requests that opened them.
    opened: Mutex<HashMap<u64, FileHandle>>,
    /// Requests that the journal repeats, which the kernel does not mark.
    repeated: Repeated,
}

/// A request to open a file.
pub(super) struct Opening {
    request: u64,
    flags: i32,
}

/// A file that an earlier worker had open for writing.
pub(super) struct Suspended {
    path: PathBuf,
    number: u64,
    flags: i32,
    process: u32,
    written: Written,
    /// Locked while it is opened again.
    reopening: Mutex<()>,
}

impl Suspended {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The result of a close or an fsync.
    pub(super) fn finish(&self) -> Result<(), Errno> {
        if self.written == Written::Unfinished { Err(Errno::EIO) } else { Ok(()) }
    }
}

/// A file whose version does not exist any more.
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
    /// Continues the session of an earlier worker, and notes changes for the next one from now on. To be called before the
    /// first request.
    pub(crate) fn resume(&self, log: Arc<Log>, state: State, repeated: Repeated) {
        let core = &self.0;
        let State { nodes, files, renames, life } = state;
        core.inodes.resume(nodes, Arc::clone(&log));
        core.files.resume(life);
        core.directories.resume(life);
        for rename in &renames {
            core.renames.begin(rename);
        }
        let mut opened = HashMap::new();
        let (mut lost, mut gone) = (0, 0);
        for file in files {
            let handle = FileHandle(file.handle);
            opened.insert(file.request & !RESENT, handle);
            let open = match is_read(file.flags) {
                true => core.reopened(&file, &mut gone),
                false => {
                    lost += usize::from(file.written == Written::Unfinished);
                    if file.written == Written::Unfinished {
                        error!(
                            "{}: what was written is lost, since its process ended: its close fails",
                            file.path.display()
                        );
                    }
                    OpenFile::Suspended(Suspended {
                        path: file.path.into_owned(),
                        number: file.number,
                        flags: file.flags,
                        process: file.process,
                        written: file.written,
                        reopening: Mutex::default(),
                    })
                }
            };
            core.files.insert(handle.0, Arc::new(open));
        }
        if life > 1 {
            info!(
                "continues where another process ended life={life} files={} replaced={gone} lost={lost}",
                opened.len()
            );
        }
        // It is set once: a process has one life.
        let _ = core.resumed.set(Resumed { log, life, opened: Mutex::new(opened), repeated });
    }

    /// Counts the open files. Does not keep the view alive.
    pub(crate) fn open_files(&self) -> impl Fn() -> usize + Send + 'static {
        let core = Arc::downgrade(&self.0);
        move || core.upgrade().map_or(0, |core| core.files.count())
    }
}

/// Whether the flags of open(2) are those of a reader.
fn is_read(flags: i32) -> bool {
    !OFlags::from_bits_retain(flags.cast_unsigned()).intersects(OFlags::WRONLY | OFlags::RDWR)
}

impl Core {
    /// Opens the version of a file that an earlier worker had open for reading.
    fn reopened(&self, file: &OpenRecord<'_>, gone: &mut usize) -> OpenFile {
        let object = self.store.reopen(&file.path, file.identity, &file.version).unwrap_or_else(|error| {
            warn!("{}: cannot be read any more: {error}", file.path.display());
            *gone += 1;
            Box::new(Gone)
        });
        let mut modes = lock(&self.modes);
        let mode = modes.entry(file.number).or_insert_with(|| Mode { handles: 0, stat: None, backing: None });
        mode.stat = object.stat().ok().or(mode.stat);
        mode.handles += 1;
        OpenFile::Read { object, ino: file.number, failed: Arc::default() }
    }

    /// Begins a request to open a file. If it is repeated, the handle of the first time is removed.
    pub(super) fn opening(&self, request: u64, flags: i32) -> Opening {
        if let Some(resumed) = self.resumed.get() {
            let handle = lock(&resumed.opened).remove(&(request & !RESENT));
            if let Some(handle) = handle.filter(|_| resumed.is_repeated(request)) {
                if let Some(OpenFile::Read { ino, .. }) = self.files.get(handle).as_deref() {
                    self.read_ended(*ino);
                }
                self.files.remove(handle);
                self.note_closed(handle);
            }
        }
        Opening { request, flags }
    }

    /// Notes an open handle, before the kernel learns of it.
    pub(super) fn note_opened(&self, handle: FileHandle, ino: INodeNo, opening: &Opening, version: &[u8]) {
        let (Some(resumed), Some(node)) = (self.resumed.get(), self.inodes.get(ino.0)) else { return };
        let process = match self.files.get(handle).as_deref() {
            Some(OpenFile::Write { open, .. }) => open.process(),
            _ => 0,
        };
        resumed.log.add(Record::Opened(&OpenRecord {
            handle: handle.0,
            number: ino.0,
            request: opening.request & !RESENT,
            identity: node.identity,
            flags: opening.flags,
            process,
            written: Written::Nothing,
            path: (&*node.path).into(),
            version: version.into(),
        }));
    }

    /// Notes that a handle was released.
    pub(super) fn note_closed(&self, handle: FileHandle) {
        self.note(|| Record::Closed { handle: handle.0 });
    }

    fn note(&self, record: impl FnOnce() -> Record<'static>) {
        if let Some(resumed) = self.resumed.get() {
            resumed.log.add(record());
        }
    }

    /// Whether an earlier worker may have run the request.
    pub(super) fn is_repeated(&self, request: &Request) -> bool {
        self.resumed.get().is_some_and(|resumed| resumed.is_repeated(request.unique().0))
    }

    /// The directory of a handle. A handle of an earlier life has no listing yet.
    pub(super) fn directory(&self, handle: FileHandle) -> Option<Arc<Mutex<Option<Arc<Listing>>>>> {
        self.directories.get(handle).or_else(|| {
            let resumed = self.resumed.get()?;
            self.directories.is_of_earlier_life(handle, resumed.life).then(|| {
                let directory = Arc::default();
                self.directories.insert(handle.0, Arc::clone(&directory));
                directory
            })
        })
    }

    /// Writes bytes through a handle.
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
        // Locked until the file has the bytes: until then `saved` would find all of them in the store.
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

    /// Notes that the file of a handle is about to be changed, other than by a write.
    pub(super) fn about_to_change(self: &Arc<Self>, handle: FileHandle) -> Result<(), Errno> {
        self.reopen(handle)?;
        if let Some(OpenFile::Write { unsaved, .. }) = self.files.get(handle).as_deref() {
            self.note_unsaved(handle, &mut lock(unsaved));
        }
        Ok(())
    }

    /// Notes after an fsync or a close that the store has all bytes, unless more were written meanwhile.
    pub(super) fn saved(&self, handle: FileHandle) {
        let file = self.files.get(handle);
        let Some(OpenFile::Write { open, unsaved, .. }) = file.as_deref() else { return };
        let mut unsaved = lock(unsaved);
        if *unsaved && !open.file.is_changed() {
            *unsaved = false;
            self.note(|| Record::Written { handle: handle.0, written: Written::Finished });
        }
    }

    /// Opens a suspended file again, if no bytes of it were lost.
    pub(super) fn reopen(self: &Arc<Self>, handle: FileHandle) -> Result<(), Errno> {
        let file = self.files.get(handle);
        let Some(OpenFile::Suspended(file)) = file.as_deref() else { return Ok(()) };
        file.finish()?;
        let _reopening = lock(&file.reopening);
        if !matches!(self.files.get(handle).as_deref(), Some(OpenFile::Suspended(_))) {
            return Ok(());
        }
        let new = self.open_again(file)?;
        let open = self.files.get(new).ok_or(Errno::EIO)?;
        self.files.insert(handle.0, open);
        self.files.remove(new);
        Ok(())
    }

    /// Opens a file with the flags and for the process of a suspended handle.
    fn open_again(self: &Arc<Self>, file: &Suspended) -> Result<FileHandle, Errno> {
        // The store may have the file already, and the bytes that were finished stay.
        let without = match file.written {
            Written::Finished => OFlags::EXCL | OFlags::TRUNC,
            _ => OFlags::EXCL,
        };
        let flags = (OFlags::from_bits_retain(file.flags.cast_unsigned()) - without).bits().cast_signed();
        let path = self.path(INodeNo(file.number)).map_err(errno)?;
        let (handle, identity, stat) = self.create(&path, flags, file.process)?;
        // A new file gets the inode number that the kernel has for it.
        if let Some(node) = self.inodes.get(file.number)
            && stat.kind == Kind::File
        {
            self.inodes.became((&path, node.identity), (&path, identity), true);
        }
        Ok(handle)
    }

    /// Ends a suspended handle. The close of a new file that nobody has written makes an empty file.
    pub(super) fn suspended_closed(self: &Arc<Self>, file: &Suspended) {
        let makes = OFlags::CREATE | OFlags::TRUNC;
        let flags = OFlags::from_bits_retain(file.flags.cast_unsigned());
        if file.written != Written::Nothing || !flags.intersects(makes) {
            return;
        }
        let (core, deadline) = (Arc::clone(self), self.deadline());
        let file = Suspended { path: file.path.clone(), reopening: Mutex::default(), ..*file };
        self.asking.urgent(
            self.store.lane(&file.path),
            Box::new(move || {
                let _until = Until::share(&deadline);
                flight::alone();
                match core.open_again(&file) {
                    Ok(handle) => core.closed(handle),
                    Err(error) => error!("{}: cannot be made: {error:?}", file.path.display()),
                }
            }),
        );
    }

    /// Makes a directory. A repeated request may find that an earlier worker made it.
    pub(super) fn make_directory(&self, path: &Path, is_repeated: bool) -> Result<Stat, StoreError> {
        self.store.make_directory(path).or_else(|error| match self.store.stat(path) {
            Ok(stat) if is_repeated && stat.kind == Kind::Directory => Ok(stat),
            _ => Err(error),
        })
    }

    /// Remembers a rename that can be interrupted from now on.
    pub(super) fn rename_begins(&self, from: &Path, to: &Path, request: u64) {
        let rename = Rename { request: request & !RESENT, from: from.into(), to: to.into() };
        let forgotten = self.renames.begin(&rename);
        let Some(resumed) = self.resumed.get() else { return };
        if let Some(from) = forgotten {
            resumed.log.add(Record::Renamed { from: &from });
        }
        resumed.log.add(Record::Renaming(&rename));
    }

    /// Forgets a rename that has succeeded.
    pub(super) fn rename_ended(&self, from: &Path) {
        self.renames.end(from);
        if let Some(resumed) = self.resumed.get() {
            resumed.log.add(Record::Renamed { from });
        }
    }

    /// Whether an earlier worker has begun with this request to rename.
    pub(super) fn has_begun(&self, from: &Path, to: &Path, request: u64) -> bool {
        let is_repeated = self.resumed.get().is_some_and(|resumed| resumed.is_repeated(request));
        is_repeated && self.renames.request(from, to) == Some(request & !RESENT)
    }

    /// Whether an earlier worker has renamed a path.
    pub(super) fn is_renamed(&self, from: &Path, to: &Path) -> bool {
        matches!(self.store.stat(from), Err(StoreError::NotFound)) && self.store.stat(to).is_ok()
    }
}

impl Resumed {
    fn is_repeated(&self, request: u64) -> bool {
        request & RESENT != 0 || self.repeated.has(request)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::fs::Writes;
    use crate::hold::state::SIZE;
    use crate::store::{LocalStore, Store as _};

    /// Its answer was lost with a worker. If the handle counted as a reader, nobody could truncate the file any more.
    #[test]
    fn a_repeated_open_has_one_handle() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("a"), "x").unwrap();
        let store = LocalStore::new(directory.path(), Duration::MAX).unwrap();
        let identity = store.stat(Path::new("a")).unwrap().identity;
        let view = View::new(Box::new(store), Writes::new(0, Duration::ZERO));
        let memory = tempfile::tempfile().unwrap();
        memory.set_len(SIZE).unwrap();
        let (log, mut state) = Log::take_over(memory).unwrap();
        let (handle, number, request) = (9, 7, 4);
        state.files.push(OpenRecord {
            handle,
            number,
            request,
            identity,
            flags: 0,
            process: 0,
            written: Written::Nothing,
            path: PathBuf::from("a").into(),
            version: Vec::new().into(),
        });
        view.resume(Arc::new(log), state, Repeated::default());
        let core = &view.0;
        assert!(lock(&core.modes).contains_key(&number) && core.files.count() == 1);
        core.opening(request | RESENT, 0);
        assert!(lock(&core.modes).is_empty() && core.files.count() == 0);
    }
}
