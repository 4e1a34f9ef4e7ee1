//! All rows in an order.
//!
//! Lanes collect batches as they come. The merge turns keys into comparable bytes, sorts places
//! (a key prefix, a batch, a row) on all threads, and hands out morsels that gather their rows
//! only when a lane takes them, so the sorted copy never exists as a whole. Where memory is
//! refused, rows go to disk in sorted runs ([`crate::operator::runs`]), and the one morsel there
//! is merges these.

use std::cmp::Ordering;
use std::ops::Range;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use arrow::row::Rows;
use rayon::iter::{IntoParallelRefIterator, ParallelIterator};
use rayon::slice::ParallelSliceMut;

use crate::context::{CancelToken, TaskContext};
use crate::error::Result;
use crate::expr::SortKey;
use crate::limits;
use crate::memory::{MemoryBudget, Reservation};
use crate::operator::order::{Keyed, Order, Place, compact};
use crate::operator::runs::{Lanes, PartRows, Sorter, SorterLane};
use crate::operator::{Breaker, Emit, Morsel, Operator};

/// Rows that one morsel of sorted rows gathers.
const MORSEL_ROWS: usize = 8 * limits::BATCH_ROWS;

/// What errors call the operator.
const OWNER: &str = "sort";

/// All rows in an order.
pub struct Sort(Arc<Sorter>);

impl Sort {
    /// Rows of `schema` in the order of `keys`.
    ///
    /// # Errors
    /// `Invalid` if a key does not fit the schema.
    pub fn new(keys: &[SortKey], schema: &SchemaRef, ctx: &TaskContext) -> Result<Arc<Self>> {
        let sorter = Sorter {
            cancel: ctx.cancel.clone(),
            metrics: Arc::clone(&ctx.metrics),
            ..sorter(keys, schema, &ctx.memory)?
        };
        Ok(Arc::new(Sort(Arc::new(sorter))))
    }

    /// The same, with no more of a context than the memory to reserve from.
    ///
    /// # Errors
    /// As for [`new`](Self::new).
    pub fn within(
        keys: &[SortKey],
        schema: &SchemaRef,
        memory: &Arc<MemoryBudget>,
    ) -> Result<Self> {
        Ok(Sort(Arc::new(sorter(keys, schema, memory)?)))
    }
}

fn sorter(keys: &[SortKey], schema: &SchemaRef, memory: &Arc<MemoryBudget>) -> Result<Sorter> {
    Ok(Sorter {
        owner: OWNER,
        parts: 1,
        order: Order::new(keys, schema)?,
        schema: Arc::clone(schema),
        memory: Arc::clone(memory),
        cancel: CancelToken::default(),
        metrics: Arc::default(),
        lanes: Lanes::default(),
    })
}

impl Breaker for Sort {
    fn lane(&self) -> Result<Box<dyn Operator>> {
        Ok(Box::new(Lane(self.0.lane())))
    }

    fn merge(&self) -> Result<Vec<Morsel>> {
        Ok(self.sequences(None)?.into_iter().flatten().collect())
    }

    fn is_ordered(&self) -> bool {
        true
    }

    fn sequences(&self, bytes: Option<u64>) -> Result<Vec<Vec<Morsel>>> {
        let sorter = &self.0;
        let parts = sorter.take_parts()?.into_iter();
        let Some(mut part) = parts.filter(|part| !part.is_empty()).last() else {
            return Ok(Vec::new());
        };
        if let Some(sorted) = sort_in_memory(sorter, &mut part)? {
            return Ok(Arc::new(sorted).sequences(bytes));
        }
        let sorter = Arc::clone(sorter);
        let merged: Morsel =
            Box::new(move |emit| part.into_sorted(&sorter)?.try_for_each(|rows| emit(rows?)));
        Ok(vec![vec![merged]])
    }
}

/// Sorts rows that are in memory, on all threads. None if they are on disk, as they are afterwards
/// if their keys take more memory than there is.
fn sort_in_memory(sorter: &Sorter, part: &mut PartRows) -> Result<Option<Sorted>> {
    let Some((batches, reservation)) = part.in_memory() else {
        return Ok(None);
    };
    let keys_of = |batch: &RecordBatch| {
        sorter.cancel.check()?;
        let columns = sorter.order.columns(batch)?;
        Ok(sorter.order.converter()?.convert_columns(&columns)?)
    };
    let keys: Vec<Rows> = batches.par_iter().map(keys_of).collect::<Result<_>>()?;
    let held = batches.iter().zip(&keys).map(|(batch, keys)| {
        let places = batch.num_rows() * size_of::<Place>();
        batch.get_array_memory_size() + keys.size() + places
    });
    if !reservation.try_resize(held.sum::<usize>() as u64) {
        drop(keys);
        part.spill(sorter)?;
        return Ok(None);
    }
    let mut rows = Keyed::default();
    for (batch, keys) in batches.drain(..).zip(keys) {
        rows.add(batch, keys);
    }
    let mut places = rows.places();
    // Once the attempt is cancelled all rows are equal, which soon ends the longest sort.
    let compare = |a: &Place, b: &Place| match sorter.cancel.is_cancelled() {
        true => Ordering::Equal,
        false => rows.compare(a, b),
    };
    places.par_sort_unstable_by(compare);
    sorter.cancel.check()?;
    let nothing = sorter.memory.reserve(OWNER);
    Ok(Some(Sorted {
        rows,
        places,
        _reservation: std::mem::replace(reservation, nothing),
    }))
}

/// Rows and the order to gather them in; the last morsel drops it.
struct Sorted {
    rows: Keyed,
    places: Vec<Place>,
    _reservation: Reservation,
}

impl Sorted {
    /// The rows in sequences of about so many bytes, with as many rows in each.
    fn sequences(self: &Arc<Self>, bytes: Option<u64>) -> Vec<Vec<Morsel>> {
        let rows = self.places.len();
        let wanted = bytes.map_or(1, |bytes| sequence_count(self.rows.bytes(), bytes));
        let bounds = (0..=wanted).map(|n| (rows as u128 * n as u128 / wanted as u128) as usize);
        let bounds: Vec<usize> = bounds.collect();
        let sequence = |bounds: &[usize]| self.morsels(bounds[0]..bounds[1]);
        bounds.windows(2).map(sequence).collect()
    }

    fn morsels(self: &Arc<Self>, places: Range<usize>) -> Vec<Morsel> {
        let starts = places.clone().step_by(MORSEL_ROWS);
        let morsel = |start: usize| self.morsel(start..places.end.min(start + MORSEL_ROWS));
        starts.map(morsel).collect()
    }

    fn morsel(self: &Arc<Self>, places: Range<usize>) -> Morsel {
        let sorted = Arc::clone(self);
        Box::new(move |emit| {
            for chunk in sorted.places[places].chunks(limits::BATCH_ROWS) {
                emit(sorted.rows.gather(chunk)?)?;
            }
            Ok(())
        })
    }
}

/// Into how many sequences of `wanted` bytes rows of `bytes` are cut: each lane has one at least
/// where that is worth a file.
fn sequence_count(bytes: u64, wanted: u64) -> usize {
    let for_lanes = (bytes / limits::SEQUENCE_BYTES_MIN).min(rayon::current_num_threads() as u64);
    let count = bytes.div_ceil(wanted).max(for_lanes).max(1);
    usize::try_from(count).expect("there is memory for a row of each")
}

struct Lane(SorterLane);

impl Operator for Lane {
    fn push(&mut self, batch: RecordBatch, _emit: Emit<'_>) -> Result<()> {
        self.0.push(0, compact(batch)?)
    }
}
