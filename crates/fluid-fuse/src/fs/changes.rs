//! The changes of a mount: files that are written, and names that are made, removed and moved.
//!
//! It decides which operations exclude each other: a file with changes that its store does not have keeps its name, nobody
//! truncates a file that others read or write, several may append to one, and the kernel caches no listing that is older
//! than a change. [`super::writing`] brings a file to its store.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use fuser::{Errno, FileHandle, INodeNo, RenameFlags, ReplyEmpty};
use rustix::fs::OFlags;

use super::writing::{CLOSING, Done, Opened, Writing};
use super::{Core, Mode, OpenFile, done, errno, is_set};
use crate::limits::Until;
use crate::store::{Answer, Attempt, Entry, Kind, Object, Stat, StoreError, Writer};
use crate::sync::lock;

/// Time between two checks whether an operation that is in the way has ended.
const POLL_INTERVAL: Duration = Duration::from_millis(2);

/// Locks paths during a change: nobody begins to write, remove or move their files, so that the store does not finish one
/// change after the next was made.
struct NameLock<'a> {
    core: &'a Core,
    paths: Vec<PathBuf>,
}

/// The file of a path if it is open for writing, once more from now on, and can be opened so: one that is empty so far,
/// or one that is not to be emptied.
fn joinable(
    writing: &HashMap<PathBuf, (u64, Arc<Writing>)>,
    path: &Path,
    empties: bool,
) -> Option<(u64, Arc<Writing>)> {
    let (identity, file) = writing.get(path)?;
    ((file.is_untouched() || !empties) && file.join()).then(|| (*identity, Arc::clone(file)))
}

/// Waits until the next check, unless the deadline of the operation is over.
fn pause() -> Result<(), Errno> {
    if Until::is_over() {
        return Err(Errno::EIO);
    }
    thread::sleep(POLL_INTERVAL);
    Ok(())
}

/// Whether the path or a directory above it is locked.
fn is_held(held: &HashSet<PathBuf>, path: &Path) -> bool {
    !held.is_empty() && path.ancestors().any(|above| held.contains(above))
}

/// A new file that nobody has written yet.
struct Empty(Stat);

impl Object for Empty {
    fn stat(&self) -> Result<Stat, StoreError> {
        Ok(self.0)
    }

    fn read(&self, _: u64, _: u32, answer: Answer) {
        answer(Ok(&[]));
    }
}

impl Drop for NameLock<'_> {
    fn drop(&mut self) {
        let mut held = lock(&self.core.held);
        for path in &self.paths {
            held.remove(path);
        }
    }
}

impl Core {
    /// The file of the path, if it has changes that its store does not have.
    pub(super) fn being_written(&self, path: &Path) -> Option<(u64, Arc<Writing>)> {
        lock(&self.writing).get(path).filter(|(_, file)| file.is_changed()).cloned()
    }

    /// The paths in a directory of the files with changes that their store does not have.
    pub(super) fn written_in(&self, directory: &Path) -> Vec<PathBuf> {
        let writing = lock(&self.writing);
        let is_in = |path: &Path, file: &Writing| path.parent() == Some(directory) && file.is_changed();
        writing.iter().filter(|(path, (_, file))| is_in(path, file)).map(|(path, _)| path.clone()).collect()
    }

    /// The entries of files that were being written a moment ago, as far as they are there.
    pub(super) fn entries_of(&self, paths: &[PathBuf]) -> Vec<Entry> {
        let entry = |path: &PathBuf| {
            Some(Entry { name: path.file_name()?.to_os_string(), stat: self.present(path).ok()? })
        };
        paths.iter().filter_map(entry).collect()
    }

    /// The attributes of a file that is being written, as it is so far, or else of what the store has.
    fn present(&self, path: &Path) -> Result<Stat, StoreError> {
        match self.being_written(path) {
            Some((identity, file)) => Ok(Stat { identity, ..file.stat() }),
            None => self.store.stat(path),
        }
    }

    pub(super) fn writing_of(&self, ino: INodeNo) -> Option<Arc<Writing>> {
        self.open_for_writing(ino).filter(|file| file.is_changed())
    }

    /// The file, if it is open for writing, changed or not.
    pub(super) fn open_for_writing(&self, ino: INodeNo) -> Option<Arc<Writing>> {
        let writing = lock(&self.writing);
        if writing.is_empty() {
            return None;
        }
        let node = self.inodes.get(ino.0)?;
        let (identity, file) = writing.get(&*node.path)?;
        (*identity == node.identity).then(|| Arc::clone(file))
    }

    /// Locks the paths until the end of a change, if nobody writes or changes them. Waits for files that are closed, or may
    /// be.
    fn hold(&self, paths: &[&Path]) -> Result<NameLock<'_>, Errno> {
        let since = Instant::now();
        loop {
            let writing = lock(&self.writing);
            let mut held = lock(&self.held);
            let concerns = |file: &Path| paths.iter().any(|path| file.starts_with(path));
            let written: Vec<_> = writing
                .iter()
                .filter(|(path, (_, file))| file.is_changed() && concerns(path))
                .map(|(_, (_, file))| file)
                .collect();
            let is_open = written.iter().any(|file| !file.is_closing(since));
            if is_open
                || held.iter().any(|path| concerns(path))
                || paths.iter().any(|path| is_held(&held, path))
            {
                return Err(Errno::EBUSY);
            }
            if written.is_empty() {
                let paths: Vec<_> = paths.iter().map(|path| path.to_path_buf()).collect();
                held.extend(paths.iter().cloned());
                return Ok(NameLock { core: self, paths });
            }
            drop((held, writing));
            pause()?;
        }
    }

    /// Lets a finished file be changed again, unless its name was taken meanwhile.
    pub(super) fn resume(&self, path: &Path, file: &Arc<Writing>) -> Result<(), Errno> {
        let writing = lock(&self.writing);
        // A file that was replaced or removed reports that itself.
        let is_there = writing.get(path).is_some_and(|(_, known)| Arc::ptr_eq(known, file));
        if !is_there || file.is_changed() {
            return Ok(());
        }
        if is_held(&lock(&self.held), path) {
            return Err(Errno::EBUSY);
        }
        // Whether it is still the same is found out when it is uploaded: not every listing tells all of its identity.
        if let Some(Err(StoreError::NotFound)) = self.store.cached_stat(path) {
            return Err(Errno::ESTALE);
        }
        file.resume();
        Ok(())
    }

    /// The path, and what is below, names another file than the one that is open for writing, or none.
    fn detach(&self, path: &Path) {
        lock(&self.writing).retain(|at, (_, file)| {
            let stays = !at.starts_with(path);
            if !stays {
                file.detach();
            }
            stays
        });
    }

    /// Opens a file for writing: anew, or behind the end of `old`, which is there. Nothing is changed by that but that
    /// a file comes to be, or becomes empty; several may have the same file open.
    fn begin_writing(
        self: &Arc<Self>,
        path: &Path,
        ino: Option<INodeNo>,
        old: Option<Stat>,
        flags: i32,
        pid: u32,
    ) -> Result<(FileHandle, u64, Stat), Errno> {
        let empties = old.is_none_or(|old| old.size > 0 && is_set(flags, OFlags::TRUNC));
        let replaces = empties && old.is_some_and(|old| old.size > 0);
        let since = Instant::now();
        let mut prepared = None;
        loop {
            let is_ready = {
                let mut writing = lock(&self.writing);
                if is_held(&lock(&self.held), path) {
                    return Err(Errno::EBUSY);
                }
                if let Some((identity, file)) = joinable(&writing, path, empties) {
                    drop(writing);
                    let stat = file.stat();
                    return Ok((self.opened_to_write(path, file, flags, pid), identity, stat));
                }
                let changed = writing.get(path).filter(|(_, file)| file.is_changed());
                let is_closing = changed.map(|(_, file)| file.is_closing(since));
                let is_in_the_way = |mode: &Mode| replaces || mode.backing.is_some();
                let is_read = ino.is_some_and(|ino| lock(&self.modes).get(&ino.0).is_some_and(is_in_the_way));
                match (is_closing, prepared.take()) {
                    // If it is closed its end comes, however long the store takes.
                    (Some(true), _) => false,
                    // The kernel tells of a close a little later.
                    (None, _) if is_read && since.elapsed() < CLOSING => false,
                    (None, None) if !is_read => true,
                    (None, Some((writer, stat))) if !is_read => {
                        self.is_still(path, ino, old.map(|_| stat))?;
                        if let Some(old) = old {
                            self.inodes.became((path, old.identity), (path, stat.identity), false);
                        }
                        let lane = self.store.lane(path);
                        let finished = self.finished(path);
                        let file = Writing::begin(&self.writes, lane, writer, stat, !empties, finished)?;
                        let entry = (stat.identity, Arc::clone(&file));
                        if let Some((_, other)) = writing.insert(path.to_path_buf(), entry) {
                            other.detach();
                        }
                        drop(writing);
                        return Ok((self.opened_to_write(path, file, flags, pid), stat.identity, stat));
                    }
                    _ => return Err(Errno::EBUSY),
                }
            };
            match is_ready {
                true => prepared = Some(self.prepare(path, old, empties)?),
                false => pause()?,
            }
        }
    }

    /// The writer of the file, which continues `old` or begins anew, and the file's attributes.
    fn prepare(
        &self,
        path: &Path,
        old: Option<Stat>,
        empties: bool,
    ) -> Result<(Box<dyn Writer>, Stat), Errno> {
        match old {
            Some(Stat { size: 1.., .. }) if !empties => self.store.append(path).map_err(errno),
            old => {
                let stat = match old {
                    Some(old) => Stat { size: 0, ..old },
                    None => Stat { identity: fastrand::u64(..), ..self.new_file(path)? },
                };
                Ok((self.store.create(path).map_err(errno)?, stat))
            }
        }
    }

    /// Makes sure that what was asked about is still there, and there.
    fn is_still(&self, path: &Path, ino: Option<INodeNo>, old: Option<Stat>) -> Result<(), Errno> {
        // It got another name since it was asked for: the kernel looks the old one up again.
        let node = ino.and_then(|ino| self.inodes.get(ino.0));
        if node.is_some_and(|node| *node.path != *path) {
            return Err(Errno::ESTALE);
        }
        // Nor is it what was to be written, if it was replaced or removed meanwhile.
        let known = old.and_then(|old| Some((old, self.store.cached_stat(path)?)));
        match known.is_some_and(|(old, now)| now.map_or(true, |now| now.identity != old.identity)) {
            true => Err(Errno::ESTALE),
            false => Ok(()),
        }
    }

    fn opened_to_write(&self, path: &Path, file: Arc<Writing>, flags: i32, pid: u32) -> FileHandle {
        let open = Opened::new(file, pid, is_set(flags, OFlags::APPEND));
        self.files.add(OpenFile::Write { path: path.to_path_buf(), open, unsaved: Mutex::new(false) })
    }

    /// The function that is called each time that a file was finished.
    fn finished(self: &Arc<Self>, path: &Path) -> impl Fn(Stat) + Send + 'static {
        let (core, path) = (Arc::downgrade(self), path.to_path_buf());
        move |new: Stat| {
            let Some(core) = core.upgrade() else { return };
            if let Some((identity, _)) = lock(&core.writing).get_mut(&path) {
                core.inodes.became((&path, *identity), (&path, new.identity), true);
                *identity = new.identity;
            }
            core.changed();
        }
    }

    /// Finishes what was written of a file until now.
    fn finish(&self, file: &Writing) -> Result<(), Errno> {
        let (sender, finished) = mpsc::channel();
        file.finish(Box::new(move |result| {
            let _ = sender.send(result);
        }));
        finished.recv().unwrap_or(Err(Errno::EIO))
    }

    /// A file that is not there yet belongs to whom its directory belongs to.
    fn new_file(&self, path: &Path) -> Result<Stat, Errno> {
        let directory = self.store.stat(path.parent().unwrap_or(path)).map_err(errno)?;
        Ok(Stat {
            kind: Kind::File,
            size: 0,
            modified: SystemTime::now(),
            mode: self.store.file_mode(path),
            links: 1,
            ..directory
        })
    }

    /// Opens a file that is there for writing. What can be read, too, would be read from a store that does not have it
    /// yet, so whoever wants both gets it only where there is nothing to read.
    pub(super) fn overwrite(
        self: &Arc<Self>,
        path: &Path,
        ino: Option<INodeNo>,
        stat: Stat,
        flags: i32,
        pid: u32,
    ) -> Result<(FileHandle, u64, Stat), Errno> {
        let reads = is_set(flags, OFlags::RDWR) && !is_set(flags, OFlags::APPEND);
        match stat.kind {
            Kind::File if reads && stat.size > 0 && !is_set(flags, OFlags::TRUNC) => Err(Errno::EOPNOTSUPP),
            Kind::File => self.begin_writing(path, ino, Some(stat), flags, pid),
            _ => Err(Errno::EISDIR),
        }
    }

    pub(super) fn create(
        self: &Arc<Self>,
        path: &Path,
        flags: i32,
        pid: u32,
    ) -> Result<(FileHandle, u64, Stat), Errno> {
        let since = Instant::now();
        while self.being_written(path).is_some_and(|(_, file)| file.is_closing(since)) {
            pause()?;
        }
        match self.present(path) {
            Ok(_) if is_set(flags, OFlags::EXCL) => Err(Errno::EEXIST),
            Ok(stat) => {
                // A number that went along with another name is not this file's.
                let number = self.inodes.number_of(path, stat.identity);
                let is_ours = self.inodes.get(number).is_none_or(|node| *node.path == *path);
                let ino = is_ours.then_some(INodeNo(number));
                self.overwrite(path, ino, stat, flags, pid)
            }
            Err(StoreError::NotFound) => self.begin_writing(path, None, None, flags, pid),
            Err(error) => Err(errno(error)),
        }
    }

    /// Sets the size of a file: of one that nobody has open for writing, all of it or nothing.
    pub(super) fn truncate(self: &Arc<Self>, ino: INodeNo, size: u64, is_open: bool) -> Result<Stat, Errno> {
        if let Some(file) = self.open_for_writing(ino) {
            self.resume(&self.path(ino).map_err(errno)?, &file)?;
            let is_there = file.continues();
            file.truncate(size)?;
            if !is_open && is_there {
                self.finish(&file)?;
            }
            return Ok(file.stat());
        }
        let (path, stat) = (self.path(ino).map_err(errno)?, self.stat(ino).map_err(errno)?);
        if size == stat.size {
            return Ok(stat);
        }
        if size > 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        let _held = self.hold(&[&path])?;
        if lock(&self.modes).contains_key(&ino.0) {
            return Err(Errno::EBUSY);
        }
        let mut writer = self.store.create(&path).map_err(errno)?;
        let new = writer.finish().map_err(errno)?;
        self.inodes.became((&path, stat.identity), (&path, new.identity), false);
        self.changed();
        Ok(new)
    }

    /// Sets the time of change, where the store can keep it.
    pub(super) fn set_time(self: &Arc<Self>, ino: INodeNo, time: SystemTime) -> Result<Stat, Errno> {
        self.awaited(ino);
        if let Some(file) = self.open_for_writing(ino) {
            let is_there = !file.is_changed();
            self.resume(&self.path(ino).map_err(errno)?, &file)?;
            if file.set_time(time) {
                // A descriptor that writes nothing else closes the file without finishing it.
                if is_there {
                    self.finish(&file)?;
                }
                return Ok(file.stat());
            }
        }
        let (path, stat) = (self.path(ino).map_err(errno)?, self.stat(ino).map_err(errno)?);
        if stat.kind != Kind::File || stat.modified == time {
            return Ok(stat);
        }
        let _held = self.hold(&[&path])?;
        let new = match self.store.set_time(&path, time) {
            Err(StoreError::Unsupported(_)) => return Ok(stat),
            new => new.map_err(errno)?,
        };
        self.inodes.became((&path, stat.identity), (&path, new.identity), true);
        self.changed();
        Ok(new)
    }

    pub(super) fn remove(&self, path: &Path) -> Result<(), Errno> {
        // A file that is empty and was not written yet is discarded instead of being finished first.
        let is_new = self.being_written(path).is_some_and(|(_, file)| file.discard());
        let _held = self.hold(&[path])?;
        match self.store.remove(path) {
            Err(StoreError::NotFound) if is_new => {}
            removed => removed.map_err(errno)?,
        }
        self.detach(path);
        self.changed();
        Ok(())
    }

    pub(super) fn remove_directory(&self, path: &Path) -> Result<(), Errno> {
        let writing = lock(&self.writing);
        let changed = writing.iter().filter(|(_, (_, file))| file.is_changed()).map(|(path, _)| path);
        if changed.chain(&*lock(&self.held)).any(|file| file.starts_with(path)) {
            return Err(Errno::ENOTEMPTY);
        }
        drop(writing);
        self.store.remove_directory(path).map_err(errno)?;
        self.changed();
        Ok(())
    }

    pub(super) fn rename(
        &self,
        from: &Path,
        to: &Path,
        flags: RenameFlags,
        request: u64,
    ) -> Result<(), Errno> {
        if flags.intersects(!RenameFlags::RENAME_NOREPLACE) {
            return Err(Errno::EINVAL);
        }
        // A file that is empty and was not written yet is finished first.
        if let Some((_, file)) = self.being_written(from).filter(|(_, file)| file.is_untouched()) {
            self.finish(&file)?;
        }
        let _held = self.hold(&[from, to])?;
        let is_kept = flags.contains(RenameFlags::RENAME_NOREPLACE) && !self.has_begun(from, to, request);
        if is_kept && self.store.stat(to).is_ok() {
            return Err(Errno::EEXIST);
        }
        let old = self.store.stat(from).map_err(errno)?;
        let attempt = Attempt {
            is_continued: self.renames.request(from, to).is_some(),
            begins: &|| self.rename_begins(from, to, request),
        };
        let new = self.store.rename(from, to, &attempt).map_err(errno)?;
        self.rename_ended(from);
        for path in [from, to] {
            self.detach(path);
        }
        self.inodes.became((from, old.identity), (to, new.identity), false);
        if old.kind == Kind::Directory {
            self.inodes.moved(from, to);
        }
        self.changed();
        Ok(())
    }

    /// Opens a file to read it: what was added to it is finished first, what is only beginning is refused.
    pub(super) fn open_to_read(&self, ino: INodeNo) -> Result<Box<dyn Object>, Errno> {
        self.awaited(ino);
        if let Some(file) = self.writing_of(ino) {
            if file.is_untouched() {
                return Ok(Box::new(Empty(file.stat())));
            }
            if !file.continues() {
                return Err(Errno::EBUSY);
            }
            self.finish(&file)?;
        }
        self.open(ino).map_err(errno)
    }

    /// Waits for the end of a file that was written and closed, or may have been.
    pub(super) fn awaited(&self, ino: INodeNo) {
        let since = Instant::now();
        while self.writing_of(ino).is_some_and(|file| file.is_closing(since)) && pause().is_ok() {}
    }

    /// The file is not going to be what its path names, or is already.
    pub(super) fn left(&self, path: &Path, ours: &Arc<Writing>) {
        let mut writing = lock(&self.writing);
        if writing.get(path).is_some_and(|(_, file)| Arc::ptr_eq(file, ours)) {
            writing.remove(path);
        }
    }

    /// Answers whoever waits for the end of a file. One that failed is not in the way of the next.
    pub(super) fn answer_end(
        self: &Arc<Self>,
        path: &Path,
        handle: FileHandle,
        file: &Arc<Writing>,
        reply: ReplyEmpty,
    ) -> Done {
        let (core, path, file) = (Arc::clone(self), path.to_path_buf(), Arc::clone(file));
        Box::new(move |result| {
            match result {
                Ok(()) => core.saved(handle),
                Err(_) => core.left(&path, &file),
            }
            done(reply)(result);
        })
    }
}
