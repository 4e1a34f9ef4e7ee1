//! One lane of an aggregation: groups the batches it is given.

use std::sync::{Arc, PoisonError};

use arrow::array::{ArrayRef, AsArray, BooleanArray, Int64Array};
use arrow::compute::{cast, is_not_null};
use arrow::datatypes::{DataType, Int64Type};
use arrow::record_batch::{RecordBatch, RecordBatchOptions};

use crate::error::{Error, Result};
use crate::memory::Reservation;
use crate::operator::aggregate::keys::EncodedKeys;
use crate::operator::aggregate::merge::emit_part;
use crate::operator::aggregate::spec::{Spec, StateKind};
use crate::operator::aggregate::state::States;
use crate::operator::aggregate::table::{GroupRef, Keys, Table};
use crate::operator::aggregate::{OWNER, Shared};
use crate::operator::{Emit, Operator};
use crate::plan::AggregateMode;

/// Rows after which a partial aggregation judges whether it is worth its while.
const JUDGED_ROWS: u64 = 100_000;

/// It is not, when there is more than this of a group for each row.
const GROUPS_PER_ROW_MAX: f64 = 0.8;

/// Bytes that are reserved beyond what is needed, so that not every batch has to ask.
const RESERVE_AHEAD_BYTES: u64 = 4 << 20;

/// Groups and their states.
pub(super) struct Groups {
    pub(super) table: Table,
    pub(super) states: Vec<States>,
}

impl Groups {
    pub(super) fn new(spec: &Spec) -> Self {
        Groups {
            table: Table::new(),
            states: spec.states.iter().map(States::new).collect(),
        }
    }

    /// Bytes that are allocated.
    pub(super) fn bytes(&self) -> u64 {
        let values: u64 = self.states.iter().map(States::value_bytes).sum();
        self.table.bytes() + (self.table.len() * self.group_bytes()) as u64 + values
    }

    /// Bytes that may have to be allocated for `rows` more keys with `key_bytes` in long ones.
    pub(super) fn growth(&self, rows: usize, key_bytes: usize) -> u64 {
        self.table.growth(rows, key_bytes) + (rows * self.group_bytes()) as u64
    }

    /// Vectors grow by doubling, so a state may have room for twice the groups.
    fn group_bytes(&self) -> usize {
        2 * self.states.iter().map(States::group_bytes).sum::<usize>()
    }
}

/// One lane.
pub(super) struct Lane {
    shared: Arc<Shared>,
    groups: Groups,
    reservation: Reservation,
    rows: u64,
    /// States are passed on without grouping.
    passing: bool,
    /// The groups of a batch's rows; here to be used again.
    refs: Vec<GroupRef>,
}

impl Lane {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        let groups = Groups::new(&shared.spec);
        let reservation = shared.memory.reserve(OWNER);
        Lane {
            shared,
            groups,
            reservation,
            rows: 0,
            passing: false,
            refs: Vec::new(),
        }
    }

    fn group(&mut self, batch: &RecordBatch, keys: &EncodedKeys<'_>) -> Result<()> {
        let shared = Arc::clone(&self.shared);
        let weights = match shared.spec.weights() {
            Some(weights) => Some(counts(&weights.evaluate(batch)?)?),
            None => None,
        };
        let buffers = keys.buffers();
        let refs_needed = self.groups.states.iter().any(States::needs_groups);
        if shared.spec.keys.is_empty() {
            let total = weights.map_or(batch.num_rows() as u64, |weights| weights.iter().sum());
            let keys = Keys {
                views: &keys.views,
                hashes: &keys.hashes,
                buffers: &buffers,
                weights: Some(&[total]),
            };
            self.groups.table.update(keys, Some(&mut self.refs));
            let only = self.refs[0];
            self.refs.resize(batch.num_rows(), only);
        } else {
            let keys = Keys {
                views: &keys.views,
                hashes: &keys.hashes,
                buffers: &buffers,
                weights: weights.as_deref(),
            };
            self.groups
                .table
                .update(keys, refs_needed.then_some(&mut self.refs));
        }
        for (states, spec) in self.groups.states.iter_mut().zip(&shared.spec.states) {
            if !states.needs_groups() {
                continue;
            }
            states.resize(&self.groups.table);
            if let Some(values) = spec.evaluate(batch)? {
                states.update(&self.refs, &values)?;
            }
        }
        Ok(())
    }

    /// Reserves what a batch may need. A partial aggregation whose request is refused empties
    /// itself first, and if that does not help either it stops grouping.
    fn make_room(&mut self, rows: usize, key_bytes: usize, emit: Emit<'_>) -> Result<()> {
        if self.reserve(rows, key_bytes) {
            return Ok(());
        }
        if self.shared.spec.mode != AggregateMode::Partial {
            let wanted = self.groups.bytes() + self.groups.growth(rows, key_bytes);
            return self
                .reservation
                .grow(wanted.saturating_sub(self.reservation.bytes()));
        }
        self.flush(emit)?;
        self.passing = !self.reserve(rows, key_bytes);
        Ok(())
    }

    fn reserve(&mut self, rows: usize, key_bytes: usize) -> bool {
        let wanted = self.groups.bytes() + self.groups.growth(rows, key_bytes);
        let held = self.reservation.bytes();
        wanted <= held
            || self
                .reservation
                .try_grow(wanted - held + RESERVE_AHEAD_BYTES)
            || self.reservation.try_grow(wanted - held)
    }

    /// Emits all groups and starts over.
    fn flush(&mut self, emit: Emit<'_>) -> Result<()> {
        let mut groups = std::mem::replace(&mut self.groups, Groups::new(&self.shared.spec));
        for (number, part) in groups.table.into_parts().into_iter().enumerate() {
            emit_part(&self.shared, number, part, &mut groups.states, emit)?;
        }
        self.reservation.shrink(self.reservation.bytes());
        Ok(())
    }

    /// Whether keys repeat too rarely for grouping to pay.
    fn is_useless(&self) -> bool {
        self.shared.spec.mode == AggregateMode::Partial
            && self.rows >= JUDGED_ROWS
            && self.groups.table.len() as f64 > GROUPS_PER_ROW_MAX * self.rows as f64
    }
}

impl Operator for Lane {
    fn push(&mut self, batch: RecordBatch, emit: Emit<'_>) -> Result<()> {
        self.shared.cancel.check()?;
        if batch.num_rows() == 0 {
            return Ok(());
        }
        let shared = Arc::clone(&self.shared);
        let keys = shared.spec.keys.iter();
        let columns: Vec<ArrayRef> = keys
            .map(|key| key.evaluate(&batch))
            .collect::<Result<_>>()?;
        if !self.passing {
            let keys = shared.codec.encode(&columns, batch.num_rows())?;
            self.make_room(batch.num_rows(), keys.long_bytes(), emit)?;
            if !self.passing {
                self.group(&batch, &keys)?;
                self.rows += batch.num_rows() as u64;
                if self.is_useless() {
                    self.flush(emit)?;
                    self.passing = true;
                }
                return Ok(());
            }
        }
        emit(states_of_rows(&shared.spec, columns, &batch)?)
    }

    fn finish(&mut self, _emit: Emit<'_>) -> Result<()> {
        let groups = std::mem::replace(&mut self.groups, Groups::new(&self.shared.spec));
        let reservation =
            std::mem::replace(&mut self.reservation, self.shared.memory.reserve(OWNER));
        let mut finished = self
            .shared
            .finished
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        finished.push((groups, reservation));
        Ok(())
    }
}

/// Counts of groups as they come from a partial aggregation.
fn counts(column: &ArrayRef) -> Result<Vec<u64>> {
    let column = column
        .as_primitive_opt::<Int64Type>()
        .ok_or_else(|| Error::internal("partial counts have another type"))?;
    Ok(column.values().iter().map(|count| *count as u64).collect())
}

/// The partial states of groups of one row each.
fn states_of_rows(spec: &Spec, keys: Vec<ArrayRef>, batch: &RecordBatch) -> Result<RecordBatch> {
    let rows = batch.num_rows();
    let mut columns = keys;
    for state in &spec.states {
        columns.push(match (state.kind, state.evaluate(batch)?) {
            (StateKind::Rows, _) | (_, None) => Arc::new(Int64Array::from_value(1, rows)),
            (StateKind::Count, Some(values)) => {
                let valid: BooleanArray = is_not_null(&values)?;
                cast(&valid, &DataType::Int64)?
            }
            (_, Some(values)) => cast(&values, &state.data_type)?,
        });
    }
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    Ok(RecordBatch::try_new_with_options(
        Arc::clone(&spec.schema),
        columns,
        &options,
    )?)
}
