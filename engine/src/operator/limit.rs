//! Passes over some rows and keeps at most so many of the next.
//!
//! The lanes of a task share one counter: a batch takes its place in the count as a whole, and
//! what of it lies between `offset` and `offset + limit` passes. Which rows those are is decided
//! by who comes first, unless a single lane carries ordered rows.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::record_batch::RecordBatch;

use crate::error::Result;
use crate::operator::{Emit, Operator};

/// The count that the lanes of a task share.
#[derive(Debug)]
pub struct LimitState {
    /// The rows that pass, by their place in the count: `start <= place < end`.
    start: u64,
    end: u64,
    seen: AtomicU64,
}

impl LimitState {
    /// A limit that passes over `offset` rows and keeps at most `limit`.
    pub fn new(offset: u64, limit: u64) -> Arc<Self> {
        Arc::new(LimitState {
            start: offset,
            end: offset.saturating_add(limit),
            seen: AtomicU64::new(0),
        })
    }

    /// The operator of one lane.
    pub fn lane(self: &Arc<Self>) -> Box<dyn Operator> {
        Box::new(Limit(Arc::clone(self)))
    }

    /// Whether no further row can pass, so that nobody needs to read on.
    pub fn is_full(&self) -> bool {
        self.start == self.end || self.seen.load(Ordering::Relaxed) >= self.end
    }
}

/// One lane of a limit.
struct Limit(Arc<LimitState>);

impl Operator for Limit {
    fn push(&mut self, batch: RecordBatch, emit: Emit<'_>) -> Result<()> {
        let state = &self.0;
        if state.is_full() {
            return Ok(());
        }
        let rows = batch.num_rows() as u64;
        let first = state.seen.fetch_add(rows, Ordering::Relaxed);
        let start = state.start.clamp(first, first + rows) - first;
        let end = state.end.clamp(first, first + rows) - first;
        match end - start {
            0 => Ok(()),
            kept if kept == rows => emit(batch),
            kept => emit(batch.slice(start as usize, kept as usize)),
        }
    }
}
