//! All rows in an order.
//!
//! Lanes collect batches as they come. The merge turns keys into comparable bytes, sorts places
//! (a key prefix, a batch, a row) on all threads, and hands out morsels that gather their rows
//! only when a lane takes them, so the sorted copy never exists as a whole. Memory is reserved
//! for what is held; where it is refused, the attempt fails and says so.

use std::cmp::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use rayon::iter::{IntoParallelIterator, ParallelIterator};
use rayon::slice::ParallelSliceMut;

use crate::context::{CancelToken, TaskContext};
use crate::error::Result;
use crate::expr::SortKey;
use crate::limits;
use crate::memory::{MemoryBudget, Reservation};
use crate::operator::order::{Keyed, Order, Place, compact};
use crate::operator::{Breaker, Emit, Morsel, Operator};

/// Rows that one morsel of sorted rows gathers.
const MORSEL_ROWS: usize = 8 * limits::BATCH_ROWS;

/// All rows in an order.
pub struct Sort(Arc<Shared>);

struct Shared {
    order: Order,
    memory: Arc<MemoryBudget>,
    cancel: CancelToken,
    collected: Mutex<Vec<Collected>>,
}

/// The rows of one lane and the memory they take.
struct Collected {
    batches: Vec<RecordBatch>,
    reservation: Reservation,
}

impl Sort {
    /// Rows of `schema` in the order of `keys`.
    ///
    /// # Errors
    /// `Invalid` if a key does not fit the schema.
    pub fn new(keys: &[SortKey], schema: &SchemaRef, ctx: &TaskContext) -> Result<Arc<Self>> {
        let cancel = ctx.cancel.clone();
        Ok(Arc::new(Sort::with(keys, schema, &ctx.memory, cancel)?))
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
        Sort::with(keys, schema, memory, CancelToken::default())
    }

    fn with(
        keys: &[SortKey],
        schema: &SchemaRef,
        memory: &Arc<MemoryBudget>,
        cancel: CancelToken,
    ) -> Result<Self> {
        Ok(Sort(Arc::new(Shared {
            order: Order::new(keys, schema)?,
            memory: Arc::clone(memory),
            cancel,
            collected: Mutex::new(Vec::new()),
        })))
    }
}

impl Breaker for Sort {
    fn lane(&self) -> Result<Box<dyn Operator>> {
        Ok(Box::new(Lane {
            shared: Arc::clone(&self.0),
            batches: Vec::new(),
            reservation: self.0.memory.reserve("sort"),
        }))
    }

    fn merge(&self) -> Result<Vec<Morsel>> {
        let shared = &self.0;
        let collected = &shared.collected;
        let lanes = std::mem::take(&mut *collected.lock().unwrap_or_else(PoisonError::into_inner));
        let mut batches = Vec::new();
        let mut reservations = Vec::new();
        for lane in lanes {
            batches.extend(lane.batches);
            reservations.push(lane.reservation);
        }
        let with_keys = |batch: RecordBatch| {
            shared.cancel.check()?;
            let columns = shared.order.columns(&batch)?;
            let keys = shared.order.converter()?.convert_columns(&columns)?;
            let mut reservation = shared.memory.reserve("sort");
            reservation.grow((keys.size() + batch.num_rows() * size_of::<Place>()) as u64)?;
            Ok((batch, keys, reservation))
        };
        let with_keys: Vec<_> = batches
            .into_par_iter()
            .map(with_keys)
            .collect::<Result<_>>()?;
        let mut rows = Keyed::default();
        for (batch, keys, reservation) in with_keys {
            rows.add(batch, keys);
            reservations.push(reservation);
        }
        let mut places = rows.places();
        // Once the attempt is cancelled all rows are equal, which soon ends the longest sort.
        let compare = |a: &Place, b: &Place| match shared.cancel.is_cancelled() {
            true => Ordering::Equal,
            false => rows.compare(a, b),
        };
        places.par_sort_unstable_by(compare);
        shared.cancel.check()?;
        let sorted = Arc::new(Sorted {
            rows,
            places,
            _reservations: reservations,
        });
        let starts = (0..sorted.places.len()).step_by(MORSEL_ROWS);
        Ok(starts.map(|start| sorted.morsel(start)).collect())
    }

    fn is_ordered(&self) -> bool {
        true
    }
}

/// Rows and the order to gather them in; the last morsel drops it.
struct Sorted {
    rows: Keyed,
    places: Vec<Place>,
    _reservations: Vec<Reservation>,
}

impl Sorted {
    fn morsel(self: &Arc<Self>, start: usize) -> Morsel {
        let sorted = Arc::clone(self);
        Box::new(move |emit| {
            let end = sorted.places.len().min(start + MORSEL_ROWS);
            for chunk in sorted.places[start..end].chunks(limits::BATCH_ROWS) {
                emit(sorted.rows.gather(chunk)?)?;
            }
            Ok(())
        })
    }
}

struct Lane {
    shared: Arc<Shared>,
    batches: Vec<RecordBatch>,
    reservation: Reservation,
}

impl Operator for Lane {
    fn push(&mut self, batch: RecordBatch, _emit: Emit<'_>) -> Result<()> {
        let batch = compact(batch)?;
        self.reservation
            .grow(batch.get_array_memory_size() as u64)?;
        self.batches.push(batch);
        Ok(())
    }

    fn finish(&mut self, _emit: Emit<'_>) -> Result<()> {
        let collected = Collected {
            batches: std::mem::take(&mut self.batches),
            reservation: std::mem::replace(
                &mut self.reservation,
                self.shared.memory.reserve("sort"),
            ),
        };
        let all = &self.shared.collected;
        all.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(collected);
        Ok(())
    }
}
