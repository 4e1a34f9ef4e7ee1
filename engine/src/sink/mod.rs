//! Sinks: where the rows of a task end up.

pub mod files;

use async_trait::async_trait;

use crate::error::Result;
use crate::operator::Operator;
use crate::plan::TaskOutput;

/// Where the rows of a task end up. One per attempt, shared by its lanes.
#[async_trait]
pub trait Sink: Send + Sync {
    /// The end of one lane's chain: an operator that never emits.
    ///
    /// # Errors
    /// `Exhausted` if the memory that every lane needs cannot be reserved.
    fn lane(&self, lane: usize) -> Result<Box<dyn Operator>>;

    /// The bytes of rows, as they lie in memory, that are worth a sequence of their own, if lanes
    /// can keep apart the sequences of an order ([`Operator::begin_sequence`]): what is written
    /// tells afterwards which came first, whoever wrote them.
    fn sequence_bytes(&self) -> Option<u64> {
        None
    }

    /// Writes out what lanes have left to be written. The task awaits this between morsels, so a
    /// slow store slows the lanes down instead of filling memory.
    ///
    /// # Errors
    /// What storage answered.
    async fn flush(&self) -> Result<()>;

    /// Every lane has finished: makes what was written durable and tells what it is.
    ///
    /// # Errors
    /// What storage answered.
    async fn close(&self) -> Result<TaskOutput>;

    /// The attempt has failed: removes what was written, as far as that is possible.
    async fn abort(&self);
}
