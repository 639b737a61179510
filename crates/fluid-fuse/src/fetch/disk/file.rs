//! A cached file: the bytes of one version on the disk.

use std::fs::File;
use std::io::{self, Write};
use std::ops::{Deref, Range};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::{Arc, Mutex};

use log::{debug, warn};
use rustix::fs::OFlags;

use super::directory::{CacheDirectory, FileKind};
use super::index::{BlockIndex, Header, Modified};
use super::space::CacheSpace;
use crate::fetch::block::{BLOCK_SIZE, blocks, gaps, within};
use crate::remote::Version;
use crate::sync::lock;

/// A cached file, for one user. The index file is written when it is dropped.
#[derive(Debug)]
pub(crate) struct CachedFile(Arc<SharedFile>);

/// A cached file, for all its users. Until the last of them has written the index file, it is not evicted, and not opened
/// a second time.
#[derive(Debug)]
pub(crate) struct SharedFile {
    pub(super) stem: String,
    data: File,
    space: Arc<CacheSpace<SharedFile>>,
    pub(super) index: Mutex<BlockIndex>,
    /// Held while the index file is written.
    flushing: Mutex<()>,
}

impl CachedFile {
    pub(super) fn new(file: Arc<SharedFile>) -> Arc<Self> {
        Arc::new(CachedFile(file))
    }
}

impl Deref for CachedFile {
    type Target = SharedFile;

    fn deref(&self) -> &SharedFile {
        &self.0
    }
}

impl Drop for CachedFile {
    fn drop(&mut self) {
        self.flush();
    }
}

/// The index and the data that another process left, if both are there.
pub(super) fn find(directory: &CacheDirectory, stem: &str) -> Option<(BlockIndex, File)> {
    let index = BlockIndex::read(directory.file(stem, FileKind::Index, OFlags::RDONLY).ok()?)?;
    let data = directory.file(stem, FileKind::Data, OFlags::RDWR).ok()?;
    // A data file that was made anew, or cut, has holes that the index does not know of.
    (data.metadata().ok()?.len() == index.header.size).then_some((index, data))
}

/// When a file was modified last.
fn modified(file: &File) -> Option<Modified> {
    file.metadata().ok().map(|metadata| (metadata.mtime(), metadata.mtime_nsec()))
}

impl SharedFile {
    /// Opens the file of a version, or makes one without blocks. Returns it with its bytes on the disk.
    pub(super) fn open(
        space: &Arc<CacheSpace<SharedFile>>,
        stem: &str,
        source: &str,
        version: &Version,
    ) -> io::Result<(Arc<Self>, u64)> {
        let directory = &space.directory;
        let found = find(directory, stem).filter(|(index, _)| index.header.is_of(source, version));
        let (index, data) = match found {
            Some(found) => found,
            None => {
                // The old index would be believed again once the new data has its size.
                let _ = directory.remove(stem, FileKind::Index);
                let data = directory.replace(stem, FileKind::Data, OFlags::RDWR)?;
                data.set_len(version.size)?;
                (BlockIndex::new(Header::new(source, version)), data)
            }
        };
        let bytes = index.bytes();
        let file = SharedFile {
            stem: stem.to_string(),
            data,
            space: Arc::clone(space),
            index: Mutex::new(index),
            flushing: Mutex::default(),
        };
        Ok((Arc::new(file), bytes))
    }

    /// Whether it is the file of that version.
    pub(super) fn is_of(&self, source: &str, version: &Version) -> bool {
        lock(&self.index).header.is_of(source, version)
    }

    /// Whether a block is there.
    pub(crate) fn has(&self, block: u64) -> bool {
        lock(&self.index).sum(block).is_some()
    }

    /// The first gap of a range, as far as it goes in one piece.
    pub(crate) fn gap(&self, range: &Range<u64>) -> Option<Range<u64>> {
        let index = lock(&self.index);
        gaps(range.clone(), |block| index.sum(block).is_none()).next()
    }

    /// The file itself, if it is sealed and was not modified since.
    pub(crate) fn whole(&self) -> Option<&File> {
        let sealed = lock(&self.index).header.sealed?;
        (sealed == modified(&self.data)?).then_some(&self.data)
    }

    /// Reads a block from its start, as many bytes as the room has. Returns false if the block is not there, or damaged.
    pub(crate) fn load(&self, block: u64, room: &mut [u8]) -> bool {
        let Some(sum) = lock(&self.index).sum(block) else { return false };
        let read = self.data.read_exact_at(room, block * BLOCK_SIZE);
        if read.is_ok() && crc32fast::hash(room) == sum {
            return true;
        }
        let is_removed = {
            let mut index = lock(&self.index);
            warn!(
                "block {block} of {} in the disk cache was damaged; it is fetched again",
                index.header.key()
            );
            index.remove(block, sum)
        };
        if is_removed {
            self.space.return_room(&self.stem, BLOCK_SIZE);
        }
        false
    }

    /// Keeps a block, given from its start to its end, if there is room.
    pub(crate) fn store(&self, block: u64, bytes: &[u8]) {
        if self.has(block) || !self.space.take_room(&self.stem, BLOCK_SIZE) {
            return;
        }
        if let Err(error) = self.data.write_all_at(bytes, block * BLOCK_SIZE) {
            self.space.turn_off(&error);
            return self.space.return_room(&self.stem, BLOCK_SIZE);
        }
        let (is_new, is_complete) = {
            let mut index = lock(&self.index);
            let is_new = index.add(block, crc32fast::hash(bytes));
            if !is_new {
                // Another thread stored the same bytes meanwhile. This write changed the time of modification.
                index.header.sealed = None;
            }
            (is_new, index.is_complete())
        };
        if !is_new {
            self.space.return_room(&self.stem, BLOCK_SIZE);
        }
        if is_complete {
            self.seal();
        }
    }

    /// Whether all blocks are there, but the file is not sealed, or was modified since.
    pub(crate) fn is_unsealed(&self) -> bool {
        let index = lock(&self.index);
        let is_sealed = || index.header.sealed.is_some_and(|sealed| Some(sealed) == modified(&self.data));
        index.is_complete() && !is_sealed()
    }

    /// Seals the file, if all blocks are there: they are brought to the disk, and from then on the file can be read
    /// without checksums. Blocks that another process wrote are read and compared first.
    pub(crate) fn seal(&self) {
        if !self.is_unsealed() {
            return;
        }
        let (is_unverified, size) = {
            let index = lock(&self.index);
            (index.is_unverified || index.header.sealed.is_some(), index.header.size)
        };
        if is_unverified && !self.verify(size) {
            return;
        }
        if let Err(error) = self.data.sync_data() {
            return warn!("cannot sync {}.data in the disk cache: {error}", self.stem);
        }
        {
            let mut index = lock(&self.index);
            // Damage may have been found meanwhile.
            if !index.is_complete() {
                return;
            }
            index.seal(modified(&self.data));
        }
        self.flush();
    }

    /// Whether all blocks have their checksums.
    fn verify(&self, size: u64) -> bool {
        let mut bytes = vec![0; BLOCK_SIZE as usize];
        blocks(&(0..size)).all(|block| {
            let length = within(block, &(0..size)).end;
            self.load(block, &mut bytes[..length as usize])
        })
    }

    /// Writes the index file, if the index changed. The file is replaced as a whole and names only blocks that were
    /// written before: after a crash there are fewer blocks than there could be, and none too many.
    pub(super) fn flush(&self) {
        // The second of two threads finds the work done, or writes what is newer.
        let _turn = lock(&self.flushing);
        let Some(bytes) = lock(&self.index).encode_changed() else { return };
        let directory = &self.space.directory;
        let written = directory
            .replace(&self.stem, FileKind::NewIndex, OFlags::WRONLY)
            .and_then(|mut file| file.write_all(&bytes))
            .and_then(|()| Ok(directory.commit_index(&self.stem)?));
        if let Err(error) = written {
            debug!("cannot write the index of {}: {error}", self.stem);
            let _ = directory.remove(&self.stem, FileKind::NewIndex);
        }
    }
}
