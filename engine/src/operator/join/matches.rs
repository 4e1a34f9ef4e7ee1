//! Which probe rows had a match so far, where build rows come in several tables.

use crate::memory::Reservation;

/// A bit for every probe row of a partition. All rows come past each table in the same order.
#[derive(Debug)]
pub(super) struct Matches {
    words: Vec<u64>,
    /// The next row.
    at: usize,
    _reserved: Reservation,
}

impl Matches {
    /// For `rows` rows. If there is no memory, it is taken all the same: the rows themselves take a
    /// hundred times as much on disk.
    pub(super) fn new(rows: usize, mut reserved: Reservation) -> Self {
        let words = rows.div_ceil(64);
        let _ = reserved.try_grow(8 * words as u64);
        Matches {
            words: vec![0; words],
            at: 0,
            _reserved: reserved,
        }
    }

    /// All rows come once more.
    pub(super) fn rewind(&mut self) {
        self.at = 0;
    }

    /// Whether the row that is `offset` rows behind the next one had a match.
    pub(super) fn has(&self, offset: usize) -> bool {
        let row = self.at + offset;
        self.words[row / 64] >> (row % 64) & 1 == 1
    }

    /// Goes on behind `rows` rows.
    pub(super) fn pass(&mut self, rows: usize) {
        self.at += rows;
    }

    /// Finds nothing more for those of the next rows that had a match.
    pub(super) fn forget_matched(&self, found: &mut [u32]) {
        for (offset, found) in found.iter_mut().enumerate() {
            *found = if self.has(offset) { 0 } else { *found };
        }
    }

    /// Notes which of the next rows had a match, and goes on behind them.
    pub(super) fn note(&mut self, matched: &[bool]) {
        for (row, matched) in (self.at..).zip(matched) {
            self.words[row / 64] |= u64::from(*matched) << (row % 64);
        }
        self.at += matched.len();
    }
}
