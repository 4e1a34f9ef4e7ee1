//! Build rows that come out by themselves, once all probe rows have been seen.
//!
//! Lanes share a mark for every build row that had a match. Marks are only ever set, and read when
//! all lanes have ended, so relaxed atomics are enough.

use std::ops::Range;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::error::Result;
use crate::limits::BATCH_ROWS;
use crate::operator::Emit;
use crate::operator::join::Join;
use crate::operator::join::index::Index;
use crate::plan::StepKind;

/// Build rows that one morsel goes through; a multiple of 64.
const MORSEL_ROWS: usize = 64 * 1024;

/// A mark for every build row.
#[derive(Debug)]
pub(super) struct Flags {
    words: Vec<AtomicU64>,
}

impl Flags {
    pub(super) fn new(rows: usize) -> Self {
        let words = rows.div_ceil(64);
        Flags {
            words: (0..words).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// Bytes for `rows` rows: the table reserves them.
    pub(super) fn bytes(rows: usize) -> u64 {
        8 * rows.div_ceil(64) as u64
    }

    /// Marks a row; false if it was marked already. Looks first: most rows that have matches have
    /// several.
    #[inline]
    pub(super) fn set(&self, row: u32) -> bool {
        let (word, bit) = (&self.words[row as usize / 64], 1 << (row % 64));
        word.load(Ordering::Relaxed) & bit == 0 && word.fetch_or(bit, Ordering::Relaxed) & bit == 0
    }

    #[inline]
    pub(super) fn is_set(&self, row: u32) -> bool {
        self.words[row as usize / 64].load(Ordering::Relaxed) >> (row % 64) & 1 == 1
    }
}

/// Chains of build rows out of which those that are marked fall. Rows are numbered from 1, as in
/// an [`Index`].
#[derive(Debug)]
pub(super) struct Chains {
    next: Vec<AtomicU32>,
}

impl Chains {
    pub(super) fn new(index: &Index, rows: usize) -> Self {
        let next = (1..=rows as u32).map(|row| AtomicU32::new(index.next(row)));
        Chains {
            next: next.collect(),
        }
    }

    /// Bytes for `rows` rows: the table reserves them.
    pub(super) fn bytes(rows: usize) -> u64 {
        4 * rows as u64
    }

    /// The next row of the chain of `row` that is not marked, or 0. Whatever another lane writes
    /// here at the same time also passes over marked rows only.
    #[inline]
    pub(super) fn next(&self, row: u32, flags: &Flags) -> u32 {
        let after = |row: u32| &self.next[row as usize - 1];
        let first = after(row).load(Ordering::Relaxed);
        let mut next = first;
        while next != 0 && flags.is_set(next - 1) {
            next = after(next).load(Ordering::Relaxed);
        }
        if next != first {
            after(row).store(next, Ordering::Relaxed);
        }
        next
    }
}

impl Join {
    /// The ranges of build rows that are gone through one by one; none if none come out.
    pub(super) fn build_ranges(&self) -> impl Iterator<Item = Range<u32>> + use<> {
        let rows = if self.flags.is_some() {
            self.table.rows
        } else {
            0
        };
        let starts = (0..rows).step_by(MORSEL_ROWS);
        starts.map(move |start| start as u32..rows.min(start + MORSEL_ROWS) as u32)
    }

    /// Emits those of the build rows `rows` that come out by themselves.
    pub(super) fn emit_build_rows(&self, rows: Range<u32>, emit: Emit<'_>) -> Result<()> {
        let Some(flags) = &self.flags else {
            return Ok(());
        };
        self.resources.cancel.check()?;
        let wanted = self.spec.kind == StepKind::BuildSemi;
        let rows: Vec<u32> = rows.filter(|row| flags.is_set(*row) == wanted).collect();
        for rows in rows.chunks(BATCH_ROWS) {
            emit(self.build_rows_only(rows)?)?;
        }
        Ok(())
    }
}
