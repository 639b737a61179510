//! Content by seed and size, without keeping it.

use std::ops::Range;
use std::sync::LazyLock;

use test_store::Source;

/// A prime, so that content repeats itself at no distance that anything else here has.
const PERIOD: u64 = 1_048_573;

static POOL: LazyLock<Vec<u8>> = LazyLock::new(|| super::place::bytes(PERIOD as usize));

/// What an object has in it; objects with different seeds differ (nearly) everywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Content {
    pub(crate) seed: u64,
    pub(crate) size: u64,
}

impl Content {
    pub(crate) fn new(seed: u64, size: u64) -> Self {
        Content { seed, size }
    }

    /// The bytes at an offset, in pieces.
    fn pieces(&self, offset: u64, length: usize) -> impl Iterator<Item = &'static [u8]> {
        let mut at = ((offset + self.seed.wrapping_mul(7919 * 4096 + 1)) % PERIOD) as usize;
        let mut left = length;
        std::iter::from_fn(move || {
            let piece = &POOL[at..POOL.len().min(at + left)];
            left -= piece.len();
            at = 0;
            (!piece.is_empty()).then_some(piece)
        })
    }

    pub(crate) fn bytes(&self, offset: u64, length: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(length);
        self.pieces(offset, length).for_each(|piece| bytes.extend_from_slice(piece));
        bytes
    }

    pub(crate) fn whole(&self) -> Vec<u8> {
        self.bytes(0, self.size as usize)
    }

    /// Where bytes that were read at an offset are others than these.
    pub(crate) fn difference(&self, offset: u64, bytes: &[u8]) -> Option<u64> {
        let mut at = 0;
        for piece in self.pieces(offset, bytes.len()) {
            let read = &bytes[at..at + piece.len()];
            if read != piece {
                let wrong = read.iter().zip(piece).position(|(one, other)| one != other).unwrap();
                return Some(offset + (at + wrong) as u64);
            }
            at += piece.len();
        }
        None
    }

    /// What a read of so many bytes must return at an offset.
    pub(crate) fn expected(&self, offset: u64, length: usize) -> usize {
        self.size.saturating_sub(offset).min(length as u64) as usize
    }
}

impl Source for Content {
    fn size(&self) -> u64 {
        self.size
    }

    fn read(&self, range: Range<u64>) -> Vec<u8> {
        self.bytes(range.start, (range.end - range.start) as usize)
    }

    fn etag(&self) -> String {
        format!("{:x}-{:x}", self.seed, self.size)
    }
}
