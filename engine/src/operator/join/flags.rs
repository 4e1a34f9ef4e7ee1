//! Build rows that come out by themselves, once all probe rows have been seen.
//!
//! Lanes share a mark for every build row that had a match. Marks are only ever set, and read when
//! all lanes have ended, so relaxed atomics are enough.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::Result;
use crate::limits::BATCH_ROWS;
use crate::memory::Reservation;
use crate::operator::join::Join;
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

    /// Marks a row. Looks first: most rows that have matches have several.
    #[inline]
    pub(super) fn set(&self, row: u32) {
        let (word, bit) = (&self.words[row as usize / 64], 1 << (row % 64));
        if word.load(Ordering::Relaxed) & bit == 0 {
            word.fetch_or(bit, Ordering::Relaxed);
        }
    }

    #[inline]
    pub(super) fn is_set(&self, row: u32) -> bool {
        self.words[row as usize / 64].load(Ordering::Relaxed) >> (row % 64) & 1 == 1
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
