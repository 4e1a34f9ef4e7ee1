//! Joining the groups of all lanes, part by part, and turning groups into rows.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::{
    Array, ArrayRef, ArrowPrimitiveType, AsArray, Float64Array, Int64Array, PrimitiveArray,
};
use arrow::buffer::Buffer;
use arrow::datatypes::{DataType, Decimal128Type, Float64Type, Int64Type, UInt64Type};
use arrow::record_batch::{RecordBatch, RecordBatchOptions};

use crate::error::{Error, Result};
use crate::limits;
use crate::memory::Reservation;
use crate::operator::aggregate::Shared;
use crate::operator::aggregate::lane::Groups;
use crate::operator::aggregate::moments::variance;
use crate::operator::aggregate::spec::{ResultSpec, StateKind};
use crate::operator::aggregate::state::{States, sum_overflow};
use crate::operator::aggregate::table::{Keys, PARTS, Part, Row, Table};
use crate::operator::{Emit, Morsel};
use crate::plan::AggregateMode;

/// Groups that are looked up together when lanes are joined.
const MERGED_ROWS: usize = 1024;

/// The groups of one part, from one lane.
struct LanePart {
    part: Part,
    states: Vec<States>,
}

/// The memory of all lanes together, given back part by part.
struct Held(Mutex<Reservation>);

impl Held {
    fn with<T>(&self, work: impl FnOnce(&mut Reservation) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The morsels that join `lanes` and emit the result.
pub(super) fn morsels(
    shared: &Arc<Shared>,
    mut lanes: Vec<(Groups, Reservation)>,
) -> Result<Vec<Morsel>> {
    let is_empty = lanes.iter().all(|(groups, _)| groups.table.len() == 0);
    if is_empty && shared.spec.keys.is_empty() && shared.spec.mode != AggregateMode::Partial {
        // Without keys there is one group, even of no rows.
        lanes.push((
            group_of_nothing(shared)?,
            shared.memory.reserve(super::OWNER),
        ));
    }
    let mut held = shared.memory.reserve(super::OWNER);
    let mut by_part: Vec<Vec<LanePart>> = (0..PARTS).map(|_| Vec::new()).collect();
    for (mut groups, reservation) in lanes {
        held.absorb(reservation);
        for (number, part) in groups.table.into_parts().into_iter().enumerate() {
            if part.len() > 0 {
                let states = groups
                    .states
                    .iter_mut()
                    .map(|s| s.take_part(number))
                    .collect();
                by_part[number].push(LanePart { part, states });
            }
        }
    }
    let held = Arc::new(Held(Mutex::new(held)));
    let mut morsels: Vec<Morsel> = Vec::new();
    let mut pack = Vec::new();
    let mut rows = 0;
    for (number, lanes) in by_part.into_iter().enumerate() {
        rows += lanes.iter().map(|lane| lane.part.len()).sum::<usize>();
        pack.push((number, lanes));
        if rows >= limits::BATCH_ROWS || (number + 1 == PARTS && rows > 0) {
            rows = 0;
            let pack = std::mem::take(&mut pack);
            let (shared, held) = (Arc::clone(shared), Arc::clone(&held));
            morsels.push(Box::new(move |emit| {
                pack.into_iter()
                    .try_for_each(|(number, lanes)| merge_part(&shared, &held, number, lanes, emit))
            }));
        }
    }
    Ok(morsels)
}

fn group_of_nothing(shared: &Shared) -> Result<Groups> {
    let mut groups = shared.groups();
    let keys = shared.codec.encode(&[], 1)?;
    let keys = Keys {
        views: &keys.views,
        hashes: &keys.hashes(&keys.views),
        buffers: &[],
        weights: Some(&[0]),
    };
    groups.table.update(keys, None);
    for states in &mut groups.states {
        states.resize(&groups.table, true)?;
    }
    Ok(groups)
}

/// Joins one part of all lanes into the largest of them, and emits it.
fn merge_part(
    shared: &Shared,
    held: &Held,
    number: usize,
    mut lanes: Vec<LanePart>,
    emit: Emit<'_>,
) -> Result<()> {
    let freed: u64 = lanes.iter().map(|lane| lane.part.bytes()).sum();
    lanes.sort_by_key(|lane| std::cmp::Reverse(lane.part.len()));
    let mut lanes = lanes.into_iter();
    let Some(LanePart { part, states }) = lanes.next() else {
        return Ok(());
    };
    let mut base = Groups {
        table: Table::of_part(number, part),
        states,
    };
    let mut grown = 0;
    for mut other in lanes {
        let arena_bytes = other.part.arena().iter().map(|chunk| chunk.len()).sum();
        base.check_numbers(other.part.len())?;
        let growth = base.growth(other.part.len(), arena_bytes);
        if !held.with(|held| held.try_grow(growth)) {
            if shared.spec.mode == AggregateMode::Partial {
                emit_part(shared, number, other.part, &mut other.states, emit)?;
                continue;
            }
            held.with(|held| held.grow(growth))?;
        }
        grown += growth;
        absorb(shared, &mut base, number, other)?;
    }
    let part = base.table.into_parts().swap_remove(number);
    emit_part(shared, number, part, &mut base.states, emit)?;
    held.with(|held| held.shrink(freed + grown));
    Ok(())
}

fn absorb(shared: &Shared, base: &mut Groups, number: usize, mut other: LanePart) -> Result<()> {
    other.part.drop_slots();
    let arena = other.part.arena();
    let mut refs = Vec::new();
    let refs_needed = base.states.iter().any(States::needs_groups);
    refs.reserve(if refs_needed { other.part.len() } else { 0 });
    let (mut views, mut hashes, mut weights) = (Vec::new(), Vec::new(), Vec::new());
    for chunk in 0..other.part.chunks() {
        shared.cancel.check()?;
        for rows in other.part.chunk(chunk).chunks(MERGED_ROWS) {
            views.clear();
            hashes.clear();
            weights.clear();
            views.extend(rows.iter().map(|row| row.key));
            hashes.extend(rows.iter().map(|row| row.hash));
            weights.extend(rows.iter().map(|row| row.count));
            let keys = Keys {
                views: &views,
                hashes: &hashes,
                buffers: &arena,
                weights: Some(&weights),
            };
            base.table.update(keys, refs_needed.then_some(&mut refs));
        }
    }
    for (states, others) in base.states.iter_mut().zip(&other.states) {
        if states.needs_groups() {
            states.resize(&base.table, others.is_masked())?;
            states.merge(others, number, &refs)?;
        }
    }
    Ok(())
}

/// Emits the groups of one part as rows.
///
/// # Errors
/// `Invalid` if a sum does not fit its type; what `emit` answered.
pub(super) fn emit_part(
    shared: &Shared,
    number: usize,
    mut part: Part,
    states: &mut [States],
    emit: Emit<'_>,
) -> Result<()> {
    part.drop_slots();
    let arena: Vec<Buffer> = part
        .take_arena()
        .into_iter()
        .map(Buffer::from_vec)
        .collect();
    let mut states: Vec<States> = states.iter_mut().map(|s| s.take_part(number)).collect();
    states.iter_mut().for_each(|s| s.settle(number, part.len()));
    let mut first = 0;
    for chunk in 0..part.chunks() {
        shared.cancel.check()?;
        for rows in part.chunk(chunk).chunks(limits::BATCH_ROWS) {
            let range = first..first + rows.len();
            first = range.end;
            let mut columns = shared.codec.decode(rows, &arena)?;
            columns.extend(result_columns(shared, number, rows, range, &states)?);
            let options = RecordBatchOptions::new().with_row_count(Some(rows.len()));
            let schema = Arc::clone(&shared.spec.schema);
            emit(RecordBatch::try_new_with_options(
                schema, columns, &options,
            )?)?;
        }
    }
    Ok(())
}

fn result_columns(
    shared: &Shared,
    number: usize,
    rows: &[Row],
    range: Range<usize>,
    states: &[States],
) -> Result<Vec<ArrayRef>> {
    let spec = &shared.spec;
    let mut columns: Vec<Vec<ArrayRef>> = Vec::with_capacity(states.len());
    for (states, state) in states.iter().zip(&spec.states) {
        columns.push(if state.kind == StateKind::Rows {
            let counts = rows.iter().map(|row| row.count as i64);
            vec![Arc::new(Int64Array::from_iter_values(counts))]
        } else {
            states.columns(number, range.clone())?
        });
    }
    if spec.mode == AggregateMode::Partial {
        return Ok(columns.into_iter().flatten().collect());
    }
    let result = |result: &ResultSpec| match result {
        ResultSpec::State(state) | ResultSpec::User(state, _) => {
            Ok(Arc::clone(&columns[*state][0]))
        }
        ResultSpec::Whole(sum, data_type) => {
            whole(&columns[*sum][0], data_type, &spec.states[*sum].aggregate)
        }
        ResultSpec::Mean { sum, count } => mean(&columns[*sum][0], &columns[*count][0]),
        ResultSpec::Variance {
            moments,
            sample,
            root,
        } => Ok(variance(&columns[*moments], *sample, *root)),
    };
    spec.results.iter().map(result).collect()
}

/// A sum of whole numbers in the type of the result.
fn whole(sum: &ArrayRef, data_type: &DataType, aggregate: &str) -> Result<ArrayRef> {
    fn narrow<T: ArrowPrimitiveType>(sum: &ArrayRef) -> Option<ArrayRef>
    where
        T::Native: TryFrom<i128>,
    {
        let sums = sum.as_primitive::<Decimal128Type>();
        let narrow = |sum: i128| T::Native::try_from(sum).map_err(|_| ());
        let sums: PrimitiveArray<T> = sums.try_unary(narrow).ok()?;
        Some(Arc::new(sums))
    }
    let narrowed = match data_type {
        DataType::UInt64 => narrow::<UInt64Type>(sum),
        _ => narrow::<Int64Type>(sum),
    };
    narrowed.ok_or_else(|| sum_overflow(data_type, aggregate))
}

fn mean(sum: &ArrayRef, count: &ArrayRef) -> Result<ArrayRef> {
    let counts = count.as_primitive::<Int64Type>();
    let rows = 0..sum.len();
    let means: Float64Array = match sum.data_type() {
        DataType::Decimal128(_, scale) => {
            let unit = 10f64.powi(i32::from(*scale));
            let sums = sum.as_primitive::<Decimal128Type>();
            let mean = |row| sums.value(row) as f64 / unit / counts.value(row) as f64;
            rows.map(|row| sums.is_valid(row).then(|| mean(row)))
                .collect()
        }
        DataType::Float64 => {
            let sums = sum.as_primitive::<Float64Type>();
            let mean = |row| sums.value(row) / counts.value(row) as f64;
            rows.map(|row| sums.is_valid(row).then(|| mean(row)))
                .collect()
        }
        other => {
            return Err(Error::internal(format!(
                "a mean has no sum of type={other}"
            )));
        }
    };
    Ok(Arc::new(means))
}
