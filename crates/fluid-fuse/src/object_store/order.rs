//! Whether the names of a listing are used in its order: files that are opened, and directories that are listed.
//!
//! Each is a function of the indices in the listing. Several readers, programs or threads may share one sequence, so an
//! index a little behind the furthest one belongs to it, too.

use std::ops::Range;

/// Files opened in the order of the listing until the next ones are expected.
const OPENS_IN_ORDER: usize = 2;

/// How far behind the furthest file, or from the furthest directory, an index may be and still belong to the sequence.
const ABREAST: usize = 16;

/// Number of files that are expected ahead of the furthest one, at most.
const MAX_FILES_AHEAD: usize = 32;

/// Number of files that are expected ahead for each file that was opened in order.
const FILES_AHEAD_PER_OPEN: usize = 4;

/// Number of names between two directories that are examined, at most, to count the directories among them.
const MAX_NAMES_EXAMINED: usize = 4096;

/// Files of a directory that are opened in the order of its listing.
#[derive(Default)]
pub(super) struct OpenOrder {
    furthest: usize,
    steps: usize,
    /// The end of the files that were expected before.
    expected_until: usize,
}

impl OpenOrder {
    /// Notes that the file at an index is opened. Returns the indices of the files that are newly expected, of a listing
    /// with `count` names.
    pub(super) fn open(&mut self, index: usize, count: usize) -> Range<usize> {
        let is_onward = index > self.furthest && index <= self.furthest + ABREAST;
        let is_abreast = index <= self.furthest && index + ABREAST >= self.furthest;
        self.steps = match (is_onward, is_abreast) {
            (true, _) => self.steps + 1,
            (_, true) => self.steps,
            _ => 0,
        };
        if !is_abreast {
            self.furthest = index;
        }
        if self.steps == 0 {
            self.expected_until = 0;
        }
        if self.steps < OPENS_IN_ORDER {
            return 0..0;
        }
        let ahead = (FILES_AHEAD_PER_OPEN * self.steps).min(MAX_FILES_AHEAD);
        let start = self.expected_until.max(self.furthest + 1);
        let end = (self.furthest + 1 + ahead).min(count);
        self.expected_until = end.max(start);
        start..self.expected_until
    }
}

/// Directories that are listed in the order of the listing that has them.
#[derive(Default)]
pub(super) struct ListOrder {
    furthest: Option<usize>,
    steps: usize,
}

impl ListOrder {
    /// Notes that the directory at an index is listed. Returns how many directories were listed in order before it.
    pub(super) fn list(&mut self, index: usize, is_directory: impl Fn(usize) -> bool) -> usize {
        let is_near = |from: usize, to: usize| {
            let mut between = (from..to).take(MAX_NAMES_EXAMINED).filter(|index| is_directory(*index));
            to - from <= MAX_NAMES_EXAMINED && between.nth(ABREAST).is_none()
        };
        match self.furthest {
            Some(furthest) if index > furthest && is_near(furthest, index) => {
                self.furthest = Some(index);
                self.steps += 1;
            }
            Some(furthest) if index <= furthest && is_near(index, furthest) => {}
            _ => *self = ListOrder { furthest: Some(index), steps: 0 },
        }
        self.steps
    }
}
