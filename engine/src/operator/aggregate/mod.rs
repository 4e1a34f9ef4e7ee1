//! Grouping: one row for each distinct key, with aggregates of the rows that have it.
//!
//! Each lane groups what it sees in a table of its own (`lane`, `table`, `state`). When all
//! lanes have ended, the tables are joined part by part (`merge`); a part of the key space is
//! one morsel, so lanes join in parallel and each part's memory is freed when it has been emitted.
//!
//! A partial aggregation may emit a key several times, which makes it free to give memory back:
//! when the budget refuses, it emits what it has and starts over, and when keys hardly repeat, it
//! stops grouping and passes states on, but for those of keys that many rows have (`hot`). The
//! other modes need all groups: where memory is refused they go to disk part by part (`spilled`),
//! and each part is grouped again by itself.

mod column;
mod distinct;
mod hot;
mod keys;
mod lane;
mod merge;
mod mixed;
mod moments;
mod rows;
mod spec;
mod spilled;
mod state;
mod strings;
mod table;
#[cfg(test)]
mod tests;
mod user;

use std::sync::{Arc, Mutex, PoisonError};

use arrow::datatypes::SchemaRef;

use crate::context::{CancelToken, TaskContext};
use crate::error::Result;
use crate::expr::{AggregateExpr, Expr};
use crate::memory::{MemoryBudget, Reservation};
use crate::metrics::TaskMetrics;
use crate::operator::{Breaker, Morsel, Operator};
use crate::plan::AggregateMode;
use keys::KeyCodec;
use lane::{Groups, Lane};
use spec::Spec;
use spilled::SpilledGroups;

/// What errors call the operator.
const OWNER: &str = "group by";

/// An aggregation of rows of `input_schema`. In [`AggregateMode::Final`] these
/// are the columns that [`AggregateMode::Partial`] makes.
///
/// # Errors
/// `Invalid` if an expression does not fit the schema or an aggregate its argument.
pub fn aggregate(
    mode: AggregateMode,
    input_schema: &SchemaRef,
    group_by: &[Expr],
    aggregates: &[AggregateExpr],
    ctx: &TaskContext,
) -> Result<Arc<dyn Breaker>> {
    let spec = Spec::new(mode, input_schema, group_by, aggregates)?;
    let shared = Shared::new(spec, 0, (&ctx.memory, &ctx.metrics, &ctx.cancel))?;
    Ok(Arc::new(Aggregate(Arc::new(shared))))
}

/// The columns of an aggregation: the keys, then a column for each aggregate, or in
/// [`AggregateMode::Partial`] for each of its states.
///
/// # Errors
/// As for [`aggregate`].
pub fn output_schema(
    mode: AggregateMode,
    input_schema: &SchemaRef,
    group_by: &[Expr],
    aggregates: &[AggregateExpr],
) -> Result<SchemaRef> {
    Ok(Spec::new(mode, input_schema, group_by, aggregates)?.schema)
}

/// What the lanes of one aggregation share.
struct Shared {
    spec: Spec,
    codec: KeyCodec,
    /// How often the groups that come in were spread anew.
    level: u32,
    memory: Arc<MemoryBudget>,
    metrics: Arc<TaskMetrics>,
    cancel: CancelToken,
    /// What lanes that have ended collected.
    finished: Mutex<Vec<Finished>>,
}

/// What a lane has collected: groups, the memory that they take, and those that are on disk, run
/// by run; nothing there if none are.
struct Finished {
    groups: Groups,
    reservation: Reservation,
    spilled: Vec<SpilledGroups>,
}

impl Shared {
    fn new(
        spec: Spec,
        level: u32,
        (memory, metrics, cancel): (&Arc<MemoryBudget>, &Arc<TaskMetrics>, &CancelToken),
    ) -> Result<Self> {
        Ok(Shared {
            codec: KeyCodec::new(&spec.key_fields())?,
            spec,
            level,
            memory: Arc::clone(memory),
            metrics: Arc::clone(metrics),
            cancel: cancel.clone(),
            finished: Mutex::default(),
        })
    }

    /// What the lanes have collected.
    fn take_finished(&self) -> Vec<Finished> {
        let mut finished = self.finished.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut finished)
    }

    /// No groups yet.
    fn groups(&self) -> Groups {
        Groups::new(&self.spec, self.codec.is_packed())
    }
}

struct Aggregate(Arc<Shared>);

impl Breaker for Aggregate {
    fn lane(&self) -> Result<Box<dyn Operator>> {
        Ok(Box::new(Lane::new(Arc::clone(&self.0))))
    }

    fn merge(&self) -> Result<Vec<Morsel>> {
        merge::morsels(&self.0, self.0.take_finished())
    }
}
