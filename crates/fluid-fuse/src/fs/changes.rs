//! What a mount changes: files that are written anew, and names that come, go and move.
//!
//! It decides what may be done beside what: a file that is written is in nobody else's hands, and the kernel keeps
//! no listing that is older than a change. How a file gets to its store is [`super::writing`]'s matter.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use fuser::{Errno, FileHandle, INodeNo, RenameFlags, ReplyEmpty};
use rustix::fs::OFlags;

use super::writing::{CLOSING, Done, Writing};
use super::{Core, OpenFile, done, errno, is_set};
use crate::inodes::{Inodes, lock};
use crate::store::{Kind, Stat, StoreError};

/// Between two looks.
const LOOK: Duration = Duration::from_millis(2);

/// Names that are being changed. Nobody begins to write, remove or move what they name, so that the store does not
/// end one change after the next was made.
struct Held<'a> {
    core: &'a Core,
    paths: Vec<PathBuf>,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let mut held = lock(&self.core.held);
        for path in &self.paths {
            held.remove(path);
        }
    }
}

impl Core {
    /// The file that the path names while it is being written.
    pub(super) fn being_written(&self, path: &Path) -> Option<(u64, Arc<Writing>)> {
        lock(&self.writing).get(path).cloned()
    }

    pub(super) fn writing_of(&self, ino: INodeNo) -> Option<Arc<Writing>> {
        if lock(&self.writing).is_empty() {
            return None;
        }
        let node = self.inodes.get(ino.0)?;
        let (identity, file) = self.being_written(&node.path)?;
        (identity == node.identity).then_some(file)
    }

    /// Holds the paths until the end of a change, if nobody writes or changes them. The end of what is closed, or
    /// may be, is waited for.
    fn hold(&self, paths: &[&Path]) -> Result<Held<'_>, Errno> {
        let since = Instant::now();
        loop {
            let writing = lock(&self.writing);
            let mut held = lock(&self.held);
            let written: Vec<_> = paths.iter().filter_map(|path| writing.get(*path)).collect();
            let is_open = written.iter().any(|(_, file)| !file.is_closing(since));
            if is_open || paths.iter().any(|path| held.contains(*path)) {
                return Err(Errno::EBUSY);
            }
            if written.is_empty() {
                let paths: Vec<_> = paths.iter().map(|path| path.to_path_buf()).collect();
                held.extend(paths.iter().cloned());
                return Ok(Held { core: self, paths });
            }
            drop((held, writing));
            thread::sleep(LOOK);
        }
    }

    /// Begins to write a file anew, `old` being the one that is there.
    fn begin_writing(
        self: &Arc<Self>,
        path: &Path,
        ino: Option<INodeNo>,
        old: Option<Stat>,
        pid: u32,
    ) -> Result<(FileHandle, u64, Stat), Errno> {
        let writer = self.store.create(path).map_err(errno)?;
        let stat = match old {
            Some(stat) => Stat { size: 0, ..stat },
            None => Stat { identity: fastrand::u64(..), ..self.new_file(path)? },
        };
        let (core, place) = (Arc::downgrade(self), path.to_path_buf());
        let finished = move |new: Stat| {
            let Some(core) = core.upgrade() else { return };
            core.inodes.became((&place, stat.identity), (&place, new.identity));
            lock(&core.writing).remove(&place);
            core.changed();
        };
        let since = Instant::now();
        loop {
            let mut writing = lock(&self.writing);
            if lock(&self.held).contains(path) {
                return Err(Errno::EBUSY);
            }
            // It got another name since it was asked for: the kernel looks the old one up again.
            let node = ino.and_then(|ino| self.inodes.get(ino.0));
            if node.is_some_and(|node| *node.path != *path) {
                return Err(Errno::ESTALE);
            }
            // Nor is it what was to be written anew, if it was replaced or removed meanwhile.
            let known = old.and_then(|old| Some((old, self.store.known(path)?)));
            if known.is_some_and(|(old, now)| now.map_or(true, |now| now.identity != old.identity)) {
                return Err(Errno::ESTALE);
            }
            let written = writing.get(path).map(|(_, file)| file.is_closing(since));
            let is_read = ino.is_some_and(|ino| lock(&self.modes).contains_key(&ino.0));
            match written {
                // If it is closed its end comes, however long the store takes.
                Some(true) => {}
                // The kernel tells of a close a little later.
                None if is_read && since.elapsed() < CLOSING => {}
                None if !is_read => {
                    let file = Writing::begin(&self.writes, writer, stat, pid, finished)?;
                    writing.insert(path.to_path_buf(), (stat.identity, Arc::clone(&file)));
                    drop(writing);
                    let open = OpenFile::Write { path: path.to_path_buf(), file };
                    return Ok((self.files.add(open), stat.identity, stat));
                }
                _ => return Err(Errno::EBUSY),
            }
            drop(writing);
            thread::sleep(LOOK);
        }
    }

    /// A file that is not there yet belongs to whom its directory belongs to.
    fn new_file(&self, path: &Path) -> Result<Stat, Errno> {
        let directory = self.store.stat(path.parent().unwrap_or(path)).map_err(errno)?;
        Ok(Stat {
            kind: Kind::File,
            size: 0,
            modified: SystemTime::now(),
            mode: directory.mode & 0o666,
            links: 1,
            ..directory
        })
    }

    /// Opens a file that is there to be written anew.
    pub(super) fn overwrite(
        self: &Arc<Self>,
        path: &Path,
        ino: Option<INodeNo>,
        stat: Stat,
        flags: i32,
        pid: u32,
    ) -> Result<(FileHandle, u64, Stat), Errno> {
        match stat.kind {
            Kind::File if is_set(flags, OFlags::TRUNC) || stat.size == 0 => {
                self.begin_writing(path, ino, Some(stat), pid)
            }
            Kind::File => Err(Errno::EOPNOTSUPP),
            _ => Err(Errno::EISDIR),
        }
    }

    pub(super) fn create(
        self: &Arc<Self>,
        path: &Path,
        flags: i32,
        pid: u32,
    ) -> Result<(FileHandle, u64, Stat), Errno> {
        match self.store.stat(path) {
            Ok(_) if is_set(flags, OFlags::EXCL) => Err(Errno::EEXIST),
            Ok(stat) => {
                // A number that went along with another name is not this file's.
                let number = Inodes::number(path, stat.identity);
                let is_ours = self.inodes.get(number).is_none_or(|node| *node.path == *path);
                let ino = is_ours.then_some(INodeNo(number));
                self.overwrite(path, ino, stat, flags, pid)
            }
            Err(StoreError::NotFound) => self.begin_writing(path, None, None, pid),
            Err(error) => Err(errno(error)),
        }
    }

    /// Sets the size of a file that nobody is writing: all of it or nothing.
    pub(super) fn truncate(self: &Arc<Self>, ino: INodeNo, size: u64) -> Result<Stat, Errno> {
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
        self.inodes.became((&path, stat.identity), (&path, new.identity));
        self.changed();
        Ok(new)
    }

    pub(super) fn remove(&self, path: &Path) -> Result<(), Errno> {
        let _held = self.hold(&[path])?;
        self.store.remove(path).map_err(errno)?;
        self.changed();
        Ok(())
    }

    pub(super) fn remove_directory(&self, path: &Path) -> Result<(), Errno> {
        let writing = lock(&self.writing);
        if writing.keys().chain(&*lock(&self.held)).any(|file| file.starts_with(path)) {
            return Err(Errno::ENOTEMPTY);
        }
        drop(writing);
        self.store.remove_directory(path).map_err(errno)?;
        self.changed();
        Ok(())
    }

    pub(super) fn rename(&self, from: &Path, to: &Path, flags: RenameFlags) -> Result<(), Errno> {
        if flags.intersects(!RenameFlags::RENAME_NOREPLACE) {
            return Err(Errno::EINVAL);
        }
        let _held = self.hold(&[from, to])?;
        if flags.contains(RenameFlags::RENAME_NOREPLACE) && self.store.stat(to).is_ok() {
            return Err(Errno::EEXIST);
        }
        let old = self.store.stat(from).map_err(errno)?;
        let new = self.store.rename(from, to).map_err(errno)?;
        self.inodes.became((from, old.identity), (to, new.identity));
        self.changed();
        Ok(())
    }

    /// Waits for the end of a file that was written and closed, or may have been.
    pub(super) fn awaited(&self, ino: INodeNo) {
        let since = Instant::now();
        while self.writing_of(ino).is_some_and(|file| file.is_closing(since)) {
            thread::sleep(LOOK);
        }
    }

    /// The file is not going to be what its path names, or is already.
    pub(super) fn left(&self, path: &Path, ours: &Arc<Writing>) {
        let mut writing = lock(&self.writing);
        if writing.get(path).is_some_and(|(_, file)| Arc::ptr_eq(file, ours)) {
            writing.remove(path);
        }
    }

    /// Answers whoever waits for the end of a file. One that failed is not in the way of the next.
    pub(super) fn answer_end(self: &Arc<Self>, path: &Path, file: &Arc<Writing>, reply: ReplyEmpty) -> Done {
        let (core, path, file) = (Arc::clone(self), path.to_path_buf(), Arc::clone(file));
        Box::new(move |result| {
            if result.is_err() {
                core.left(&path, &file);
            }
            done(reply)(result);
        })
    }
}
