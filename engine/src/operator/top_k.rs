//! The first rows in an order, without ordering the rest.
//!
//! Each lane holds candidates: rows that came before its k-th best when they arrived. When there
//! are enough of them for it to pay, all but the k best are dropped and the last of these becomes
//! the new threshold. A batch first meets the threshold in its leading key alone, as one
//! vectorised comparison; with many rows and a small k, almost every batch ends there.
//!
//! Rows that are equal in all keys are taken by their other columns, so the same rows come out
//! whatever the lanes and their timing.

use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::{Array, ArrayRef, BooleanArray, Scalar};
use arrow::compute::kernels::cmp;
use arrow::compute::{filter_record_batch, is_null, or, prep_null_mask_filter};
use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use arrow::row::RowConverter;

use crate::context::TaskContext;
use crate::error::Result;
use crate::expr::SortKey;
use crate::limits;
use crate::memory::{MemoryBudget, Reservation};
use crate::operator::order::{Keyed, Order, compact};
use crate::operator::{Breaker, Emit, Morsel, Operator};

/// Candidates beyond twice k that a lane gathers before it drops all but the best.
const SLACK_ROWS: usize = 1024;

/// The first rows in an order.
pub struct TopK(Arc<Shared>);

struct Shared {
    order: Order,
    rows: usize,
    memory: Arc<MemoryBudget>,
    /// The best rows of each lane that has finished.
    finished: Mutex<Vec<Best>>,
}

/// At most k rows and the memory they take.
struct Best {
    batches: Vec<RecordBatch>,
    _reservation: Reservation,
}

impl TopK {
    /// The first `limit` rows of `schema` in the order of `keys`.
    ///
    /// # Errors
    /// `Invalid` if a key does not fit the schema.
    pub fn new(
        keys: &[SortKey],
        limit: u64,
        schema: &SchemaRef,
        ctx: &TaskContext,
    ) -> Result<Arc<Self>> {
        Ok(Arc::new(TopK::within(keys, limit, schema, &ctx.memory)?))
    }

    /// The same, with no more of a context than the memory to reserve from.
    ///
    /// # Errors
    /// As for [`new`](Self::new).
    pub fn within(
        keys: &[SortKey],
        limit: u64,
        schema: &SchemaRef,
        memory: &Arc<MemoryBudget>,
    ) -> Result<Self> {
        Ok(TopK(Arc::new(Shared {
            order: Order::new(keys, schema)?.break_ties(schema)?,
            // What cannot be counted cannot be held either: memory is refused long before.
            rows: usize::try_from(limit).unwrap_or(usize::MAX),
            memory: Arc::clone(memory),
            finished: Mutex::new(Vec::new()),
        })))
    }
}

impl Breaker for TopK {
    fn lane(&self) -> Result<Box<dyn Operator>> {
        Ok(Box::new(Lane::new(&self.0)?))
    }

    fn merge(&self) -> Result<Vec<Morsel>> {
        let shared = &self.0;
        let finished = &shared.finished;
        let lanes = std::mem::take(&mut *finished.lock().unwrap_or_else(PoisonError::into_inner));
        let mut all = Lane::new(shared)?;
        for best in lanes {
            for batch in best.batches {
                all.add(batch)?;
            }
        }
        let mut places = all.candidates.places();
        places.sort_unstable_by(|a, b| all.candidates.compare(a, b));
        places.truncate(shared.rows);
        let morsel = move |emit: Emit<'_>| {
            for chunk in places.chunks(limits::BATCH_ROWS) {
                emit(all.candidates.gather(chunk)?)?;
            }
            Ok(())
        };
        Ok(vec![Box::new(morsel)])
    }

    fn is_ordered(&self) -> bool {
        true
    }
}

/// The candidates of one lane.
struct Lane {
    shared: Arc<Shared>,
    converter: RowConverter,
    candidates: Keyed,
    rows: usize,
    threshold: Option<Threshold>,
    reservation: Reservation,
}

/// The k-th best row so far.
struct Threshold {
    key: Box<[u8]>,
    /// Its leading key, of length one.
    leading: Option<ArrayRef>,
}

impl Lane {
    fn new(shared: &Arc<Shared>) -> Result<Self> {
        Ok(Lane {
            converter: shared.order.converter()?,
            candidates: Keyed::default(),
            rows: 0,
            threshold: None,
            reservation: shared.memory.reserve("top-k"),
            shared: Arc::clone(shared),
        })
    }

    /// Takes the rows of `batch` that come before the threshold.
    fn add(&mut self, batch: RecordBatch) -> Result<()> {
        let Some(batch) = self.worthwhile(batch)? else {
            return Ok(());
        };
        let batch = compact(batch)?;
        let keys = self
            .converter
            .convert_columns(&self.shared.order.columns(&batch)?)?;
        let added = batch.num_rows();
        self.reservation
            .grow((batch.get_array_memory_size() + keys.size()) as u64)?;
        self.candidates.add(batch, keys);
        self.rows += added;
        if self.rows
            >= self
                .shared
                .rows
                .saturating_mul(2)
                .saturating_add(SLACK_ROWS)
        {
            self.shrink()?;
        }
        Ok(())
    }

    /// The rows of `batch` that may be among the best; none if there are none.
    fn worthwhile(&mut self, batch: RecordBatch) -> Result<Option<RecordBatch>> {
        if self.shared.rows == 0 || batch.num_rows() == 0 {
            return Ok(None);
        }
        let Some(threshold) = &self.threshold else {
            return Ok(Some(batch));
        };
        let mut batch = batch;
        if let Some(mask) = threshold.leading_mask(&self.shared.order, &batch)? {
            match mask.true_count() {
                0 => return Ok(None),
                all if all == batch.num_rows() => {}
                _ => batch = filter_record_batch(&batch, &mask)?,
            }
        }
        let keys = self
            .converter
            .convert_columns(&self.shared.order.columns(&batch)?)?;
        let before = keys.iter().map(|key| Some(*key.data() < *threshold.key));
        let mask: BooleanArray = before.collect();
        Ok(match mask.true_count() {
            0 => None,
            all if all == batch.num_rows() => Some(batch),
            _ => Some(filter_record_batch(&batch, &mask)?),
        })
    }

    /// Drops all but the k best candidates.
    fn shrink(&mut self) -> Result<()> {
        let best = self.shared.rows;
        if self.rows <= best {
            return Ok(());
        }
        let candidates = std::mem::take(&mut self.candidates);
        let mut places = candidates.places();
        places.select_nth_unstable_by(best - 1, |a, b| candidates.compare(a, b));
        let last = places[best - 1];
        places.truncate(best);
        let order = &self.shared.order;
        let kth = candidates.gather(&[last])?;
        self.threshold = Some(Threshold {
            key: candidates.key(last).into(),
            leading: order.leading(&kth)?,
        });
        let batch = compact(candidates.gather(&places)?)?;
        let keys = self.converter.convert_columns(&order.columns(&batch)?)?;
        self.candidates.add(batch, keys);
        self.rows = best;
        let held = self.candidates.bytes();
        let excess = self.reservation.bytes().saturating_sub(held);
        self.reservation.shrink(excess);
        Ok(())
    }
}

impl Threshold {
    /// Which rows come before the threshold or level with it by the leading key alone; none if
    /// that key decides nothing.
    fn leading_mask(&self, order: &Order, batch: &RecordBatch) -> Result<Option<BooleanArray>> {
        let Some(bound) = self.leading.as_ref().filter(|bound| bound.is_valid(0)) else {
            return Ok(None);
        };
        let Some(values) = order.leading(batch)? else {
            return Ok(None);
        };
        let options = order.leading_options();
        let bound = Scalar::new(bound);
        let mask = match options.descending {
            true => cmp::gt_eq(&values, &bound)?,
            false => cmp::lt_eq(&values, &bound)?,
        };
        if values.null_count() == 0 {
            return Ok(Some(mask));
        }
        let mask = prep_null_mask_filter(&mask);
        Ok(Some(match options.nulls_first {
            true => or(&mask, &is_null(&values)?)?,
            false => mask,
        }))
    }
}

impl Operator for Lane {
    fn push(&mut self, batch: RecordBatch, _emit: Emit<'_>) -> Result<()> {
        self.add(batch)
    }

    fn finish(&mut self, _emit: Emit<'_>) -> Result<()> {
        self.shrink()?;
        let best = Best {
            batches: std::mem::take(&mut self.candidates).batches,
            _reservation: std::mem::replace(
                &mut self.reservation,
                self.shared.memory.reserve("top-k"),
            ),
        };
        let finished = &self.shared.finished;
        finished
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(best);
        Ok(())
    }
}
