//! Running operators: how the rows of a task flow.
//!
//! A task runs one *lane* per thread. A lane is a chain of [`Operator`]s, the last of which is the
//! sink's; a batch is pushed in at the front and each operator pushes what it makes to the next.
//! Lanes share nothing while rows flow, so there are no locks on the way.
//!
//! Where an operator cannot answer before it has seen all rows (grouping, order), it is a
//! [`Breaker`]: its lane part collects, and when all lanes have ended `merge` joins what they
//! collected and hands back morsels, which the lanes take and push into the chain behind it.
//!
//! Where these morsels are in an order, they come in *sequences*: all rows of one stand before all
//! rows of the next. A sequence is worked on by one lane. Where the sink can keep sequences apart
//! several lanes work on one each; otherwise there is only one.

pub mod aggregate;
pub mod apply;
pub mod explode;
pub mod filter;
pub mod join;
pub mod limit;
mod order;

pub mod cuts;
pub mod project;
pub mod reduce;
mod runs;
pub mod sort;
pub mod top_k;

use arrow::record_batch::RecordBatch;

use crate::error::Result;

/// Where an operator pushes the batches that it makes.
pub type Emit<'a> = &'a mut dyn FnMut(RecordBatch) -> Result<()>;

/// A running operator on one lane.
pub trait Operator: Send {
    /// Takes one batch; emits none, one or several.
    ///
    /// # Errors
    /// Whatever the rows or the resources make impossible; the attempt fails with it.
    fn push(&mut self, batch: RecordBatch, emit: Emit<'_>) -> Result<()>;

    /// No more batches come on this lane: emit what is held back, or hand it to the breaker.
    ///
    /// # Errors
    /// As for `push`.
    fn finish(&mut self, _emit: Emit<'_>) -> Result<()> {
        Ok(())
    }

    /// The rows from here on are of the morsel of the task's source that stands at `position` in
    /// the order of the input. Morsels need not come in this order.
    fn begin_morsel(&mut self, _position: u64) {}

    /// The rows from here on are of sequence `number` of an order. Only the end of a chain is told,
    /// and only that of a sink which keeps sequences apart.
    ///
    /// # Errors
    /// As for `push`.
    fn begin_sequence(&mut self, _number: u32) -> Result<()> {
        Ok(())
    }
}

/// A piece of work that one lane does without looking up: it pushes its batches into `emit`.
pub type Morsel = Box<dyn FnOnce(Emit<'_>) -> Result<()> + Send>;

/// An operator that needs all rows before it can answer.
pub trait Breaker: Send + Sync {
    /// The part that collects rows on one lane. Its `finish` leaves them with the breaker.
    ///
    /// # Errors
    /// `Exhausted` if the memory that every lane needs cannot be reserved.
    fn lane(&self) -> Result<Box<dyn Operator>>;

    /// Called once, on a rayon thread, when every lane has finished: the rows to go on with, cut
    /// into pieces that lanes can work on independently.
    ///
    /// # Errors
    /// As for `Operator::push`.
    fn merge(&self) -> Result<Vec<Morsel>>;

    /// More rows to go on with, behind those that `merge` handed out: asked for again and again,
    /// between morsels. None if there are none, or others are at work on all there are.
    fn more(&self) -> Option<Morsel> {
        None
    }

    /// Whether the merged morsels are in an order that has to be kept: then the task asks for
    /// [`sequences`](Self::sequences) of them instead.
    fn is_ordered(&self) -> bool {
        false
    }

    /// What `merge` answers, cut into sequences of about so many bytes of rows as they lie in
    /// memory; with none given, and by default, into one. Lanes work on the morsels of a sequence
    /// one after the other, and on sequences side by side.
    ///
    /// # Errors
    /// As for `merge`.
    fn sequences(&self, _bytes: Option<u64>) -> Result<Vec<Vec<Morsel>>> {
        Ok(vec![self.merge()?])
    }
}
