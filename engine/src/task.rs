//! Running one attempt of a task: source, lanes, breakers, sink.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Error, Result};
use crate::memory::MemoryBudget;
use crate::metrics::TaskMetrics;
use crate::shuffle::ShuffleStore;
use crate::storage::Stores;

/// What an attempt needs of the process that runs it.
#[derive(Clone)]
pub struct TaskContext {
    /// The threads that compute; one lane runs on each.
    pub pool: Arc<rayon::ThreadPool>,
    /// The bytes that may be reserved, shared with other tasks.
    pub memory: Arc<MemoryBudget>,
    /// Where input and output files are.
    pub stores: Arc<Stores>,
    /// Where shuffle objects are.
    pub shuffle: ShuffleStore,
    /// Counters of this attempt.
    pub metrics: Arc<TaskMetrics>,
    /// Set when the attempt should stop.
    pub cancel: CancelToken,
}

/// A flag that asks an attempt to stop; looked at between morsels and by long operators.
#[derive(Debug, Clone, Default)]
pub struct CancelToken(Arc<AtomicBool>);

impl CancelToken {
    /// Asks everybody who holds this token to stop.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether somebody asked.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// For use with `?` in loops.
    ///
    /// # Errors
    /// `Cancelled` once somebody asked.
    pub fn check(&self) -> Result<()> {
        if self.is_cancelled() { Err(Error::cancelled("the attempt was cancelled")) } else { Ok(()) }
    }
}
