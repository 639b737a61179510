//! The index of a cached file: which blocks are there, with their checksums.
//!
//! On the disk it is a line of JSON, which names the version, then eight bytes for each block (its CRC-32, and bit 32 if it
//! is there; little endian), then the CRC-32 of all of that.

use std::fs::File;
use std::io::Read as _;
use std::time::{Duration, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::fetch::block::{BLOCK_SIZE, count};
use crate::remote::Version;

/// The version of this format and of the names of files. An index of any other format is dropped with its data. Count
/// it up with each change of either.
const FORMAT: u32 = 2;

/// Set in a block's eight bytes if the block is there.
const PRESENT: u64 = 1 << 32;

/// The first line.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Header {
    format: u32,
    source: String,
    key: String,
    pub(super) size: u64,
    etag: Option<String>,
    modified: Duration,
    block: u64,
    /// When the data was modified last, once the file was whole.
    pub(super) sealed: Option<Modified>,
}

/// A file's time of modification: seconds, nanoseconds.
pub(super) type Modified = (i64, i64);

impl Header {
    pub(super) fn new(source: &str, version: &Version) -> Self {
        Header {
            format: FORMAT,
            source: source.to_string(),
            key: version.key.clone(),
            size: version.size,
            etag: version.etag.clone(),
            modified: since_epoch(version),
            block: BLOCK_SIZE,
            sealed: None,
        }
    }

    /// The key, for messages.
    pub(super) fn key(&self) -> &str {
        &self.key
    }

    /// Whether it names this version.
    pub(super) fn is_of(&self, source: &str, version: &Version) -> bool {
        (&*self.source, &*self.key, self.size) == (source, &*version.key, version.size)
            && self.etag == version.etag
            && self.modified == since_epoch(version)
    }
}

fn since_epoch(version: &Version) -> Duration {
    version.modified.duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// The blocks of a cached file.
#[derive(Debug)]
pub(super) struct BlockIndex {
    pub(super) header: Header,
    /// The checksum of each block that is there.
    sums: Vec<Option<u32>>,
    present: usize,
    /// Some blocks are from another process, or were found damaged: they are read before the file is sealed.
    pub(super) is_unverified: bool,
    /// It changed since it was written.
    is_dirty: bool,
}

impl BlockIndex {
    /// The index of a file without blocks.
    pub(super) fn new(header: Header) -> Self {
        let sums = vec![None; count(&(0..header.size))];
        BlockIndex { header, sums, present: 0, is_unverified: false, is_dirty: false }
    }

    /// Bytes that the blocks take on the disk.
    pub(super) fn bytes(&self) -> u64 {
        self.present as u64 * BLOCK_SIZE
    }

    /// Whether all blocks are there.
    pub(super) fn is_complete(&self) -> bool {
        self.present == self.sums.len()
    }

    /// The checksum of a block, if it is there.
    pub(super) fn sum(&self, block: u64) -> Option<u32> {
        *self.sums.get(usize::try_from(block).ok()?)?
    }

    /// Adds a block. Returns false if it is there already.
    pub(super) fn add(&mut self, block: u64, sum: u32) -> bool {
        let slot = usize::try_from(block).ok().and_then(|block| self.sums.get_mut(block));
        let is_new = slot.is_some_and(|slot| slot.replace(sum).is_none());
        self.present += usize::from(is_new);
        self.is_dirty = true;
        is_new
    }

    /// Removes a block that is damaged, unless it was replaced since its checksum was read.
    pub(super) fn remove(&mut self, block: u64, sum: u32) -> bool {
        let slot = usize::try_from(block).ok().and_then(|block| self.sums.get_mut(block));
        let Some(slot) = slot.filter(|slot| **slot == Some(sum)) else { return false };
        *slot = None;
        self.present -= 1;
        self.header.sealed = None;
        self.is_unverified = true;
        self.is_dirty = true;
        true
    }

    /// Marks the file as whole and on the disk.
    pub(super) fn seal(&mut self, modified: Option<Modified>) {
        self.header.sealed = modified;
        self.is_dirty = true;
    }

    /// The bytes of the index file, if it changed since the last call.
    pub(super) fn encode_changed(&mut self) -> Option<Vec<u8>> {
        std::mem::take(&mut self.is_dirty).then(|| self.encode())
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes = serde_json::to_vec(&self.header).unwrap_or_default();
        bytes.push(b'\n');
        for sum in &self.sums {
            bytes.extend(sum.map_or(0, |sum| u64::from(sum) | PRESENT).to_le_bytes());
        }
        bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
        bytes
    }

    /// Reads an index file. Returns nothing if it is damaged, or of another format.
    pub(super) fn read(mut file: File) -> Option<BlockIndex> {
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).ok()?;
        let (body, sum) = bytes.split_last_chunk::<4>()?;
        if crc32fast::hash(body) != u32::from_le_bytes(*sum) {
            return None;
        }
        let line = body.iter().position(|byte| *byte == b'\n')?;
        let header: Header = serde_json::from_slice(&body[..line]).ok()?;
        let (entries, rest) = body[line + 1..].as_chunks::<8>();
        let is_sound = header.format == FORMAT
            && header.block == BLOCK_SIZE
            && rest.is_empty()
            && entries.len() == count(&(0..header.size));
        let sums: Vec<_> = entries
            .iter()
            .map(|entry| u64::from_le_bytes(*entry))
            .map(|entry| (entry & PRESENT != 0).then_some(entry as u32))
            .collect();
        let present = sums.iter().flatten().count();
        is_sound.then_some(BlockIndex { header, sums, present, is_unverified: true, is_dirty: false })
    }

    #[cfg(test)]
    pub(super) fn touch(&mut self) {
        self.is_dirty = true;
    }
}
