//! Groups of rows for functions of users' programs: all rows of a key, in an order if wanted.
//!
//! Lanes deal their rows out to *parts* by a hash of the keys. When all rows are there, each part
//! is sorted by keys and order, and handed to the function group by group; parts are independent,
//! so lanes work on them side by side. Where memory is refused rows go to disk
//! ([`crate::operator::runs`]), so neither all rows nor those of one key have to fit into memory.

mod groups;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use arrow::array::{ArrayRef, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;

use crate::context::TaskContext;
use crate::error::{Error, Result};
use crate::expr::typing::unknown_column;
use crate::expr::{SortKey, col};
use crate::kernel::hash::hash_columns;
use crate::operator::order::{Order, compact};
use crate::operator::runs::{Lanes, PartRows, Sorter, SorterLane};
use crate::operator::{Breaker, Emit, Morsel, Operator};
use crate::udf::{GroupUdf, UdfContext};
use groups::SortedGroups;

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
    schema: SchemaRef,
    /// By the keys, then by the order within a group.
    sorter: Arc<Sorter>,
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
        let sorter = Sorter {
            owner: OWNER,
            parts: PARTS,
            order: Order::new(&all, schema)?,
            schema: Arc::clone(schema),
            memory: Arc::clone(&ctx.memory),
            cancel: ctx.cancel.clone(),
            metrics: Arc::clone(&ctx.metrics),
            lanes: Lanes::default(),
        };
        Ok(Arc::new(Reduce(Arc::new(Shared {
            function: function.clone(),
            user: user.clone(),
            keys: keys.iter().map(place).collect::<Result<_>>()?,
            schema: Arc::clone(schema),
            sorter: Arc::new(sorter),
        }))))
    }
}

impl Breaker for Reduce {
    fn lane(&self) -> Result<Box<dyn Operator>> {
        Ok(Box::new(Lane {
            shared: Arc::clone(&self.0),
            rows: self.0.sorter.lane(),
            hashes: Vec::new(),
        }))
    }

    fn merge(&self) -> Result<Vec<Morsel>> {
        let parts = self.0.sorter.take_parts()?.into_iter();
        let morsel = |part: PartRows| -> Morsel {
            let shared = Arc::clone(&self.0);
            Box::new(move |emit| shared.reduce(part, emit))
        };
        Ok(parts.filter(|part| !part.is_empty()).map(morsel).collect())
    }
}

impl Shared {
    /// Sorts a part and calls the function for its groups.
    fn reduce(&self, part: PartRows, emit: Emit<'_>) -> Result<()> {
        let sorted = part.into_sorted(&self.sorter)?;
        let cancel = self.sorter.cancel.clone();
        let mut groups = SortedGroups::new(sorted, &self.keys, &self.schema, cancel)?;
        match self.function.body() {
            Some(body) => body.call(&mut groups, &self.user, emit),
            None => Ok(()),
        }
    }
}

/// One lane: deals rows out.
struct Lane {
    shared: Arc<Shared>,
    rows: SorterLane,
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
        let rows = self.deal(&batch)?;
        for (number, rows) in rows.into_iter().enumerate() {
            if !rows.is_empty() {
                let piece = take_record_batch(&batch, &UInt32Array::from(rows))?;
                self.rows.push(number, compact(piece)?)?;
            }
        }
        Ok(())
    }
}
