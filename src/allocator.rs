//! Memory that is handed out and never taken back.
//!
//! Kubewarden makes an instance for each request and throws it away with all of its memory, so keeping account of
//! what is free is work for nothing: it was a quarter of a review's instructions (bench/review.md).

use std::alloc::{GlobalAlloc, Layout};
use std::cell::Cell;

use core::arch::wasm32::{memory_grow, memory_size};

#[global_allocator]
static ALLOCATOR: Bump = Bump { next: Cell::new(0), end: Cell::new(0) };

/// The most bytes of linear memory: 200 times what the API server takes for a request (3 MiB), so that no request
/// comes near it, and no fault here takes the policy server's memory.
const MEMORY_MAX: usize = 640 << 20;

const PAGE: usize = 64 << 10;

/// Hands out memory from `next` to `end`.
struct Bump {
    next: Cell<usize>,
    end: Cell<usize>,
}

#[allow(unsafe_code, reason = "an allocator is written so; the module has one thread")]
unsafe impl Sync for Bump {}

impl Bump {
    /// Gets memory for a piece behind `next`; `false`: there is none.
    #[cold]
    fn grow(&self, layout: Layout) -> bool {
        // A quarter of what there is at least, so that growing is rare.
        let pages = (layout.size() + layout.align()).div_ceil(PAGE).max(memory_size(0) / 4);
        if (memory_size(0) + pages) * PAGE > MEMORY_MAX {
            return false;
        }
        let before = memory_grow(0, pages);
        if before == usize::MAX {
            return false;
        }
        // The C library has an allocator of its own, which may have grown the memory in between.
        if before * PAGE != self.end.get() {
            self.next.set(before * PAGE);
        }
        self.end.set((before + pages) * PAGE);
        true
    }
}

#[allow(unsafe_code, reason = "an allocator is written so")]
// SAFETY: what is handed out lies between `next`, which only grows but for the last piece, and the end of linear
// memory, and is aligned.
unsafe impl GlobalAlloc for Bump {
    #[inline(always)]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        loop {
            let start = (self.next.get() + layout.align() - 1) & !(layout.align() - 1);
            // No piece is larger than half of the address space (`Layout`).
            if start + layout.size() <= self.end.get() {
                self.next.set(start + layout.size());
                return start as *mut u8;
            }
            if !self.grow(layout) {
                return std::ptr::null_mut();
            }
        }
    }

    #[inline(always)]
    unsafe fn dealloc(&self, piece: *mut u8, layout: Layout) {
        // Only the last piece can be handed out again.
        if piece as usize + layout.size() == self.next.get() {
            self.next.set(piece as usize);
        }
    }

    #[inline(always)]
    unsafe fn realloc(&self, piece: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let last = piece as usize + layout.size() == self.next.get();
        // The last piece grows and shrinks where it is.
        if last && piece as usize + size <= self.end.get() {
            self.next.set(piece as usize + size);
            return piece;
        }
        if size <= layout.size() {
            return piece;
        }
        // SAFETY: the caller gives a piece of this layout, and a size that fits its alignment.
        unsafe {
            let moved = self.alloc(Layout::from_size_align_unchecked(size, layout.align()));
            if !moved.is_null() {
                std::ptr::copy(piece, moved, layout.size());
            }
            moved
        }
    }
}
