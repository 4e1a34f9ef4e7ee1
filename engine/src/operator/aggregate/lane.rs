//! One lane of an aggregation: groups the batches it is given.

use std::sync::{Arc, PoisonError};

use arrow::array::{ArrayRef, AsArray, BooleanArray, Float64Array, Int64Array, Scalar};
use arrow::buffer::{BooleanBuffer, NullBuffer};
use arrow::compute::kernels::numeric::sub;
use arrow::compute::kernels::zip::zip;
use arrow::compute::{cast, filter, filter_record_batch, not, nullif};
use arrow::datatypes::Int64Type;
use arrow::record_batch::{RecordBatch, RecordBatchOptions};

use crate::error::{Error, Result};
use crate::memory::Reservation;
use crate::operator::aggregate::hot::HotKeys;
use crate::operator::aggregate::keys::EncodedKeys;
use crate::operator::aggregate::merge::emit_part;
use crate::operator::aggregate::rows;
use crate::operator::aggregate::spec::{Spec, StateKind};
use crate::operator::aggregate::spilled::{self, SpilledGroups};
use crate::operator::aggregate::state::States;
use crate::operator::aggregate::table::Table;
use crate::operator::aggregate::{Finished, OWNER, Shared, user};
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
    pub(super) fn new(spec: &Spec, packed: bool) -> Self {
        Groups {
            table: Table::new(packed),
            states: spec.states.iter().map(States::new).collect(),
        }
    }

    /// Bytes that are allocated.
    pub(super) fn bytes(&self) -> u64 {
        let values: u64 = self.states.iter().map(States::value_bytes).sum();
        self.table.bytes() + (self.table.len() * self.group_bytes()) as u64 + values
    }

    /// Fails if `rows` more groups cannot be told apart by their numbers.
    ///
    /// # Errors
    /// `Exhausted`.
    pub(super) fn check_numbers(&self, rows: usize) -> Result<()> {
        if self.table.has_numbers(rows) {
            return Ok(());
        }
        let groups = self.table.len();
        Err(Error::exhausted(format!(
            "{OWNER} has more groups than it can number groups={groups}"
        )))
    }

    /// Bytes that may have to be allocated for `rows` more keys with `key_bytes` in long ones.
    pub(super) fn growth(&self, rows: usize, key_bytes: usize) -> u64 {
        let values: u64 = self.states.iter().map(|s| s.value_growth(rows)).sum();
        self.table.growth(rows, key_bytes) + (rows * self.group_bytes()) as u64 + values
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
    /// What is on disk, part by part.
    spilled: Vec<SpilledGroups>,
    rows: u64,
    /// States are passed on without grouping, but for those of keys that many rows have.
    passing: bool,
    /// These keys, once states are passed on.
    hot: Option<HotKeys>,
}

impl Lane {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        let groups = shared.groups();
        let reservation = shared.memory.reserve(OWNER);
        Lane {
            shared,
            groups,
            reservation,
            spilled: Vec::new(),
            rows: 0,
            passing: false,
            hot: None,
        }
    }

    fn group(&mut self, batch: &RecordBatch, keys: &EncodedKeys<'_>) -> Result<()> {
        let spec = &self.shared.spec;
        let inputs = spec.evaluate_inputs(batch)?;
        let filters = spec.evaluate_filters(batch)?;
        let weights = match spec.weights() {
            Some(weights) => Some(counts(&inputs[weights])?),
            None => None,
        };
        let Groups { table, states } = &mut self.groups;
        let rows = batch.num_rows();
        if !states.iter().any(States::needs_groups) {
            rows::count(table, keys, rows, weights.as_deref());
            return Ok(());
        }
        let rows = rows::place(table, keys, rows, weights.as_deref());
        for (states, state) in states.iter_mut().zip(&spec.states) {
            if states.needs_groups() {
                let mask = state.mask(&inputs, &filters);
                states.resize(table, mask.is_some())?;
                let inputs: Vec<&ArrayRef> = state.inputs.iter().map(|n| &inputs[*n]).collect();
                states.update(&rows, mask.as_ref(), &inputs)?;
            }
        }
        Ok(())
    }

    /// Counts values of groups that were put aside, for the state number `state`: rows of keys and
    /// a value, no two of which are the same.
    ///
    /// # Errors
    /// `Exhausted` if there is neither memory nor disk for their groups.
    pub(super) fn push_values(&mut self, state: usize, values: &RecordBatch) -> Result<()> {
        self.shared.cancel.check()?;
        let shared = Arc::clone(&self.shared);
        let rows = values.num_rows();
        let keys = &values.columns()[..shared.spec.keys.len()];
        let keys = shared.codec.encode(keys, rows, shared.level)?;
        self.make_room(rows, keys.long_bytes(), &mut |_| Ok(()))?;
        let Groups { table, states } = &mut self.groups;
        let placed = rows::place(table, &keys, rows, Some(&vec![0; rows]));
        // A group may be new here, if what came of it before is on disk again.
        for states in states.iter_mut().filter(|states| states.needs_groups()) {
            states.resize(table, true)?;
        }
        states[state].count_values(&placed);
        Ok(())
    }

    /// Reserves what a batch may need. A partial aggregation whose request is refused empties
    /// itself first, and if that does not help either it stops grouping. Others write what they
    /// have to disk, and hold a little unasked.
    fn make_room(&mut self, rows: usize, key_bytes: usize, emit: Emit<'_>) -> Result<()> {
        self.groups.check_numbers(rows)?;
        if self.reserve(rows, key_bytes) {
            return Ok(());
        }
        if self.shared.spec.mode != AggregateMode::Partial {
            if self.groups.bytes() < self.shared.memory.unasked() {
                return Ok(());
            }
            if self.shared.may_spill(self.groups.table.len()) {
                return self.spill();
            }
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

    /// Writes all groups to disk and starts over.
    fn spill(&mut self) -> Result<()> {
        let groups = std::mem::replace(&mut self.groups, self.shared.groups());
        let spilled = spilled::spill(&self.shared, groups)?;
        self.spilled
            .resize_with(spilled.len(), SpilledGroups::default);
        for (part, spilled) in self.spilled.iter_mut().zip(spilled) {
            part.append(spilled);
        }
        self.reservation.shrink(self.reservation.bytes());
        Ok(())
    }

    /// Emits all groups and starts over.
    fn flush(&mut self, emit: Emit<'_>) -> Result<()> {
        let mut groups = std::mem::replace(&mut self.groups, self.shared.groups());
        for (number, part) in groups.table.into_parts().into_iter().enumerate() {
            emit_part(&self.shared, number, part, &mut groups.states, emit)?;
        }
        self.reservation.shrink(self.reservation.bytes());
        Ok(())
    }

    /// Passes states of rows on, but for those of keys that many rows have: these are grouped, as
    /// long as there is memory for their groups.
    fn pass(&mut self, batch: RecordBatch, keys: Vec<ArrayRef>, emit: Emit<'_>) -> Result<()> {
        let shared = Arc::clone(&self.shared);
        let Some(hot) = self.hot_rows(&keys, batch.num_rows())? else {
            return emit(states_of_rows(&shared.spec, keys, &batch)?);
        };
        let filter_keys = |rows: &BooleanArray| -> Result<Vec<ArrayRef>> {
            let columns = keys.iter().map(|key| filter(key, rows));
            Ok(columns.collect::<std::result::Result<_, _>>()?)
        };
        let (rows, columns) = (filter_record_batch(&batch, &hot)?, filter_keys(&hot)?);
        let encoded = shared
            .codec
            .encode(&columns, rows.num_rows(), shared.level)?;
        self.groups.check_numbers(rows.num_rows())?;
        if !self.reserve(rows.num_rows(), encoded.long_bytes()) {
            self.flush(emit)?;
            return emit(states_of_rows(&shared.spec, keys, &batch)?);
        }
        self.group(&rows, &encoded)?;
        let others = not(&hot)?;
        if others.true_count() == 0 {
            return Ok(());
        }
        let (rows, columns) = (filter_record_batch(&batch, &others)?, filter_keys(&others)?);
        emit(states_of_rows(&shared.spec, columns, &rows)?)
    }

    /// The rows whose key many rows have, by what of this lane's rows has been looked at; none if
    /// there are none, or this is not the time to look.
    fn hot_rows(&mut self, keys: &[ArrayRef], rows: usize) -> Result<Option<BooleanArray>> {
        let hot = self.hot.get_or_insert_with(HotKeys::new);
        if keys.is_empty() || !hot.is_due() {
            return Ok(None);
        }
        let keys = self.shared.codec.encode(keys, rows, self.shared.level)?;
        Ok(hot.rows(&keys.hashes(&keys.views)))
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
            let keys = shared
                .codec
                .encode(&columns, batch.num_rows(), shared.level)?;
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
        self.pass(batch, columns, emit)
    }

    fn finish(&mut self, _emit: Emit<'_>) -> Result<()> {
        let groups = std::mem::replace(&mut self.groups, self.shared.groups());
        let reservation =
            std::mem::replace(&mut self.reservation, self.shared.memory.reserve(OWNER));
        let mut finished = self
            .shared
            .finished
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        finished.push(Finished {
            groups,
            reservation,
            spilled: std::mem::take(&mut self.spilled),
        });
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
    let inputs = spec.evaluate_inputs(batch)?;
    let filters = spec.evaluate_filters(batch)?;
    let mut columns = keys;
    for state in &spec.states {
        let mask = state.mask(&inputs, &filters);
        let counts = || -> ArrayRef {
            let valid = |row| mask.as_ref().is_none_or(|mask| mask.is_valid(row));
            let counts = (0..rows).map(|row| i64::from(valid(row)));
            Arc::new(Int64Array::from_iter_values(counts))
        };
        if let Some(function) = &state.user {
            let args: Vec<ArrayRef> = state
                .inputs
                .iter()
                .map(|n| Arc::clone(&inputs[*n]))
                .collect();
            columns.push(user::states_of_rows(function, rows, mask.as_ref(), &args)?);
            continue;
        }
        match (state.kind, state.inputs.first()) {
            (StateKind::Rows | StateKind::Count, _) | (_, None) => columns.push(counts()),
            (StateKind::Moments, Some(input)) => {
                let zero = Scalar::new(Float64Array::from_value(0.0, 1));
                let absent = not(&is_valid(mask.as_ref(), rows))?;
                let means = zip(&absent, &zero, &inputs[*input])?;
                // Zero, but for what is not finite.
                let squares = sub(&means, &means)?;
                columns.extend([counts(), means, squares]);
            }
            (_, Some(input)) => {
                let absent = not(&is_valid(mask.as_ref(), rows))?;
                let values = nullif(&inputs[*input], &absent)?;
                columns.push(cast(&values, state.columns[0].data_type())?);
            }
        }
    }
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    Ok(RecordBatch::try_new_with_options(
        Arc::clone(&spec.schema),
        columns,
        &options,
    )?)
}

fn is_valid(mask: Option<&NullBuffer>, rows: usize) -> BooleanArray {
    let valid = match mask {
        Some(mask) => mask.inner().clone(),
        None => BooleanBuffer::new_set(rows),
    };
    BooleanArray::new(valid, None)
}
