//! The memory of a part of an upload.

use std::io::{ErrorKind, Read};

use bytes::Bytes;
use memmap2::MmapMut;
use opendal::Buffer;

use crate::store::StoreError;

/// Bytes that one write may bring beyond the size of a part.
const SPARE_BYTES: usize = 2 << 20;

/// A part in an anonymous mapping: an allocator would keep blocks of this size when they are freed.
#[derive(Default)]
pub(super) struct Part {
    memory: Option<MmapMut>,
    pub(super) filled: usize,
}

impl Part {
    pub(super) fn bytes(&self) -> &[u8] {
        self.memory.as_ref().and_then(|memory| memory.get(..self.filled)).unwrap_or_default()
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        self.memory.as_mut().and_then(|memory| memory.get_mut(..self.filled)).unwrap_or_default()
    }

    /// Grows to at least that length, and has room for the bytes that are expected in all: pages that are not used
    /// cost nothing.
    pub(super) fn reserve(&mut self, length: usize, expected: usize) -> Result<(), StoreError> {
        if length <= self.filled {
            return Ok(());
        }
        if self.memory.as_ref().is_none_or(|memory| memory.len() < length) {
            let mut memory = MmapMut::map_anon(length.max(expected) + SPARE_BYTES)
                .map_err(|error| StoreError::Failed(format!("no memory for a part: {error}")))?;
            memory[..self.filled].copy_from_slice(self.bytes());
            self.memory = Some(memory);
        }
        self.filled = length;
        Ok(())
    }

    /// Adds bytes.
    pub(super) fn add(&mut self, bytes: &[u8], expected: usize) -> Result<(), StoreError> {
        let begin = self.filled;
        self.reserve(begin + bytes.len(), expected)?;
        self.bytes_mut()[begin..].copy_from_slice(bytes);
        Ok(())
    }

    pub(super) fn first(self, size: usize) -> Buffer {
        let bytes = self.memory.map(Bytes::from_owner).unwrap_or_default();
        Buffer::from(bytes.slice(..size))
    }
}

/// Reads until the buffer is full or the body ends; returns the number of bytes.
pub(super) fn read_all(body: &mut dyn Read, room: &mut [u8]) -> usize {
    let mut filled = 0;
    while let Some(rest @ [_, ..]) = room.get_mut(filled..) {
        match body.read(rest) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    filled
}
