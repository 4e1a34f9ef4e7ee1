//! Build rows that come out by themselves, once all probe rows have been seen.
//!
//! Lanes share a mark for every build row that had a match. Marks are only ever set, and read when
//! all lanes have ended, so relaxed atomics are enough.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::error::Result;
use crate::limits::BATCH_ROWS;
use crate::memory::Reservation;
use crate::operator::join::Join;
use crate::operator::join::index::Index;
use crate::operator::{Breaker, Emit, Morsel, Operator};
use crate::plan::StepKind;

/// Build rows that one morsel goes through; a multiple of 64.
const MORSEL_ROWS: usize = 64 * 1024;

/// A mark for every build row.
#[derive(Debug)]
pub(super) struct Flags {
    words: Vec<AtomicU64>,
    _held: Reservation,
}

impl Flags {
    pub(super) fn new(rows: usize, mut held: Reservation) -> Result<Self> {
        let words = rows.div_ceil(64);
        held.grow(8 * words as u64)?;
        Ok(Flags {
            words: (0..words).map(|_| AtomicU64::new(0)).collect(),
            _held: held,
        })
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
    _held: Reservation,
}

impl Chains {
    pub(super) fn new(index: &Index, rows: usize, mut held: Reservation) -> Result<Self> {
        held.grow(4 * rows as u64)?;
        let next = (1..=rows as u32).map(|row| AtomicU32::new(index.next(row)));
        Ok(Chains {
            next: next.collect(),
            _held: held,
        })
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

/// A join as the breaker that emits build rows.
pub(super) struct BuildRows(pub(super) Arc<Join>);

impl Breaker for BuildRows {
    fn lane(&self) -> Result<Box<dyn Operator>> {
        self.0.lane()
    }

    fn merge(&self) -> Result<Vec<Morsel>> {
        let rows = self.0.table.rows();
        let starts = (0..rows).step_by(MORSEL_ROWS);
        Ok(starts
            .map(|start| {
                let join = Arc::clone(&self.0);
                let rows = start as u32..rows.min(start + MORSEL_ROWS) as u32;
                Box::new(move |emit: Emit<'_>| join.emit_build_rows(rows, emit)) as Morsel
            })
            .collect())
    }
}

impl Join {
    fn emit_build_rows(&self, rows: Range<u32>, emit: Emit<'_>) -> Result<()> {
        let Some(flags) = &self.flags else {
            return Ok(());
        };
        let wanted = self.spec.kind == StepKind::BuildSemi;
        let rows: Vec<u32> = rows.filter(|row| flags.is_set(*row) == wanted).collect();
        for rows in rows.chunks(BATCH_ROWS) {
            emit(self.build_rows_only(rows)?)?;
        }
        Ok(())
    }
}
