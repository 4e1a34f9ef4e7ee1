//! Groups of rows for functions of users' programs: all rows of a key, in an order if wanted.
//!
//! Lanes deal their rows out to *parts* by a hash of the keys. When all rows are there, each part
//! is sorted by keys and order, and handed to the function group by group; parts are independent,
//! so lanes work on them side by side. Where memory is refused lanes sort what they hold, part by
//! part, and write it to disk as runs, which are merged in the end, a block of each at a time. So
//! neither all rows nor those of one key have to fit into memory, and a lane to which others leave
//! nothing still goes on.

mod groups;
mod merge;
mod rows;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arrow::array::{ArrayRef, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use rayon::iter::{IntoParallelRefIterator, ParallelIterator};

use crate::context::{CancelToken, TaskContext};
use crate::error::{Error, Result};
use crate::expr::typing::unknown_column;
use crate::expr::{SortKey, col};
use crate::kernel::hash::hash_columns;
use crate::memory::MemoryBudget;
use crate::metrics::TaskMetrics;
use crate::operator::order::{Order, compact};
use crate::operator::{Breaker, Emit, Morsel, Operator};
use crate::udf::{GroupUdf, UdfContext};
use groups::SortedGroups;
use rows::{LaneRows, PartRows};

/// Parts that rows are dealt out to: enough for every lane to have some, few enough for a batch to
/// leave pieces of a size that is worth it.
const PARTS: usize = 16;

/// What errors call the operator.
const OWNER: &str = "reduce";

/// Calls a function for groups of rows.
pub struct Reduce(Arc<Shared>);

/// What the lanes share.
struct Shared {
    function: GroupUdf,
    user: UdfContext,
    /// Places of the keys among the columns.
    keys: Vec<usize>,
    /// The keys, then the order within a group.
    order: Order,
    schema: SchemaRef,
    memory: Arc<MemoryBudget>,
    cancel: CancelToken,
    metrics: Arc<TaskMetrics>,
    /// What lanes have collected. Each is locked by its lane and by one that needs memory, and
    /// none together with another.
    lanes: Mutex<Vec<Arc<Mutex<LaneRows>>>>,
}

impl Reduce {
    /// Calls `function` for the groups of rows of `schema` with the same values in `keys`, the rows
    /// of each in `order`.
    ///
    /// # Errors
    /// `Invalid` if a key or the order does not fit the schema, or this process does not have the
    /// function's code.
    pub fn new(
        keys: &[String],
        order: &[SortKey],
        function: &GroupUdf,
        schema: &SchemaRef,
        (ctx, user): (&TaskContext, &UdfContext),
    ) -> Result<Arc<Self>> {
        if function.body().is_none() {
            return Err(Error::invalid(format!(
                "this process does not have the code of a function name={:?}",
                function.name()
            )));
        }
        let place = |name: &String| {
            let place = schema.index_of(name);
            place.map_err(|_| unknown_column(name, schema))
        };
        let all = keys.iter().map(|key| col(key).asc());
        let all: Vec<SortKey> = all.chain(order.iter().cloned()).collect();
        Ok(Arc::new(Reduce(Arc::new(Shared {
            function: function.clone(),
            user: user.clone(),
            keys: keys.iter().map(place).collect::<Result<_>>()?,
            order: Order::new(&all, schema)?,
            schema: Arc::clone(schema),
            memory: Arc::clone(&ctx.memory),
            cancel: ctx.cancel.clone(),
            metrics: Arc::clone(&ctx.metrics),
            lanes: Mutex::default(),
        }))))
    }
}

impl Breaker for Reduce {
    fn lane(&self) -> Result<Box<dyn Operator>> {
        let rows = Arc::new(Mutex::new(LaneRows::new(&self.0.memory)));
        locked(&self.0.lanes).push(Arc::clone(&rows));
        Ok(Box::new(Lane {
            shared: Arc::clone(&self.0),
            rows,
            hashes: Vec::new(),
        }))
    }

    fn merge(&self) -> Result<Vec<Morsel>> {
        let lanes = std::mem::take(&mut *locked(&self.0.lanes));
        if lanes.iter().any(|lane| locked(lane).has_spilled()) {
            // The rest goes to disk too, or it would take the memory that merging needs.
            let spill = |lane: &Arc<Mutex<LaneRows>>| locked(lane).spill(&self.0);
            lanes.par_iter().try_for_each(spill)?;
        }
        let mut parts: Vec<PartRows> = Vec::new();
        for lane in lanes {
            let none = LaneRows::new(&self.0.memory);
            let lane = std::mem::replace(&mut *locked(&lane), none);
            for (number, rows) in lane.into_parts().into_iter().enumerate() {
                match parts.get_mut(number) {
                    Some(part) => part.append(rows),
                    None => parts.push(rows),
                }
            }
        }
        let parts = parts.into_iter().filter(|part| !part.is_empty());
        let morsel = |part: PartRows| -> Morsel {
            let shared = Arc::clone(&self.0);
            Box::new(move |emit| shared.reduce(part, emit))
        };
        Ok(parts.map(morsel).collect())
    }
}

impl Shared {
    /// Writes to disk what lanes hold, where it is much.
    fn spill(&self) -> Result<()> {
        let lanes = locked(&self.lanes).clone();
        lanes
            .iter()
            .try_for_each(|lane| locked(lane).spill_if_large(self))
    }

    /// Sorts a part and calls the function for its groups.
    fn reduce(self: &Arc<Self>, part: PartRows, emit: Emit<'_>) -> Result<()> {
        let sorted = part.into_sorted(self)?;
        let mut groups = SortedGroups::new(sorted, &self.keys, &self.schema, self.cancel.clone())?;
        match self.function.body() {
            Some(body) => body.call(&mut groups, &self.user, emit),
            None => Ok(()),
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One lane: deals rows out.
struct Lane {
    shared: Arc<Shared>,
    rows: Arc<Mutex<LaneRows>>,
    hashes: Vec<u64>,
}

impl Lane {
    /// The rows of each part.
    fn deal(&mut self, batch: &RecordBatch) -> Result<Vec<Vec<u32>>> {
        let keys = self.shared.keys.iter();
        let keys: Vec<ArrayRef> = keys.map(|key| Arc::clone(batch.column(*key))).collect();
        hash_columns(&keys, &mut self.hashes)?;
        let mut rows = vec![Vec::new(); PARTS];
        for (row, hash) in self.hashes.iter().enumerate() {
            // Shuffles go by the hash as it is.
            let mixed = hash.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            rows[(mixed >> 32) as usize % PARTS].push(row as u32);
        }
        Ok(rows)
    }
}

impl Operator for Lane {
    fn push(&mut self, batch: RecordBatch, _emit: Emit<'_>) -> Result<()> {
        self.shared.cancel.check()?;
        let rows = self.deal(&batch)?;
        for (number, rows) in rows.into_iter().enumerate() {
            if rows.is_empty() {
                continue;
            }
            let piece = compact(take_record_batch(&batch, &UInt32Array::from(rows))?)?;
            if locked(&self.rows).try_push(number, &piece) {
                continue;
            }
            self.shared.spill()?;
            let mut rows = locked(&self.rows);
            if !rows.try_push(number, &piece) {
                rows.push_unasked(number, piece, &self.shared)?;
            }
        }
        Ok(())
    }
}
