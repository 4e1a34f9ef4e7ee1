//! Small batches of joined rows put together.
//!
//! A join of which few rows come out would otherwise hand on as many batches as it takes in, of a
//! few rows each, and every operator behind it would pay its price per batch for them. Nothing is
//! held back for long: a limit behind the join may be waiting for just these rows.

use arrow::compute::BatchCoalescer;
use arrow::record_batch::RecordBatch;

use crate::error::Result;
use crate::limits::BATCH_ROWS;
use crate::operator::join::matches::Matches;
use crate::operator::join::probe::Probe;
use crate::operator::{Emit, Operator};

/// Batches of more rows go through as they are.
const SMALL_ROWS: usize = BATCH_ROWS / 8;

/// Batches of probe rows that are looked up before what has come of them is handed on.
const HELD_BATCHES: usize = 32;

/// A join on one lane whose small batches are put together.
pub(super) struct Output {
    probe: Probe,
    held: BatchCoalescer,
    /// Batches of probe rows since something was last handed on.
    batches: usize,
}

impl Output {
    pub(super) fn new(probe: Probe) -> Self {
        let held = BatchCoalescer::new(probe.schema(), BATCH_ROWS);
        Output {
            probe,
            held: held.with_biggest_coalesce_batch_size(Some(SMALL_ROWS)),
            batches: 0,
        }
    }

    /// What was noted of the rows looked up.
    pub(super) fn into_matches(self) -> Option<Matches> {
        self.probe.into_matches()
    }

    fn emit_held(&mut self, emit: Emit<'_>) -> Result<()> {
        self.batches = 0;
        self.held.finish_buffered_batch()?;
        while let Some(batch) = self.held.next_completed_batch() {
            emit(batch)?;
        }
        Ok(())
    }
}

impl Operator for Output {
    fn push(&mut self, batch: RecordBatch, emit: Emit<'_>) -> Result<()> {
        let (held, batches) = (&mut self.held, &mut self.batches);
        self.probe.push(batch, &mut |made| {
            if made.num_columns() == 0 {
                return emit(made);
            }
            held.push_batch(made)?;
            while let Some(batch) = held.next_completed_batch() {
                *batches = 0;
                emit(batch)?;
            }
            Ok(())
        })?;
        self.batches += 1;
        match self.batches >= HELD_BATCHES && !self.held.is_empty() {
            true => self.emit_held(emit),
            false => Ok(()),
        }
    }

    fn finish(&mut self, emit: Emit<'_>) -> Result<()> {
        self.emit_held(emit)
    }
}
