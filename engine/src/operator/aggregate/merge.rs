//! Joining the groups of all lanes, part by part, and turning groups into rows.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::{
    Array, ArrayRef, ArrowPrimitiveType, AsArray, Float64Array, Int64Array, PrimitiveArray,
};
use arrow::buffer::Buffer;
use arrow::datatypes::{DataType, Decimal128Type, Float64Type, Int64Type, UInt64Type};
use arrow::record_batch::{RecordBatch, RecordBatchOptions};
use rayon::iter::{IntoParallelIterator, ParallelIterator};

use crate::error::{Error, Result};
use crate::limits;
use crate::memory::Reservation;
use crate::operator::aggregate::lane::Groups;
use crate::operator::aggregate::moments::variance;
use crate::operator::aggregate::spec::{ResultSpec, Spec, StateKind, StateSpec};
use crate::operator::aggregate::spilled::{self, GroupWriter, SpilledGroups};
use crate::operator::aggregate::state::{States, sum_overflow};
use crate::operator::aggregate::table::{Keys, PARTS, Part, Row, Table};
use crate::operator::aggregate::{Finished, Shared};
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

/// The morsels that join `lanes` and emit the result. Runs on the calling pool's threads.
///
/// # Errors
/// As for writing groups to disk, which those of all lanes are if some of them are.
pub(super) fn morsels(shared: &Arc<Shared>, lanes: Vec<Finished>) -> Result<Vec<Morsel>> {
    if lanes.iter().all(|lane| lane.spilled.is_empty()) {
        return in_memory(shared, lanes);
    }
    // The rest goes to disk too, or it would take the memory that regrouping needs.
    let spill = |lane: Finished| -> Result<Vec<Vec<SpilledGroups>>> {
        let rest = spilled::spill(shared, lane.groups)?;
        drop(lane.reservation);
        Ok(vec![lane.spilled, rest])
    };
    let spilled = lanes
        .into_par_iter()
        .map(spill)
        .collect::<Result<Vec<_>>>()?;
    let mut parts: Vec<SpilledGroups> = Vec::new();
    parts.resize_with(PARTS, SpilledGroups::default);
    for written in spilled.into_iter().flatten() {
        for (part, written) in parts.iter_mut().zip(written) {
            part.append(written);
        }
    }
    let parts = parts.into_iter().filter(|part| !part.is_empty());
    Ok(parts.map(|part| part.into_morsel(shared)).collect())
}

/// The morsels that join `lanes`, none of which has written to disk.
fn in_memory(shared: &Arc<Shared>, mut lanes: Vec<Finished>) -> Result<Vec<Morsel>> {
    let is_empty = lanes.iter().all(|lane| lane.groups.table.len() == 0);
    if is_empty && shared.spec.keys.is_empty() && shared.spec.mode != AggregateMode::Partial {
        // Without keys there is one group, even of no rows.
        lanes.push(Finished {
            groups: group_of_nothing(shared)?,
            reservation: shared.memory.reserve(super::OWNER),
            spilled: Vec::new(),
        });
    }
    let mut held = shared.memory.reserve(super::OWNER);
    let mut by_part: Vec<Vec<LanePart>> = (0..PARTS).map(|_| Vec::new()).collect();
    for lane in lanes {
        let mut groups = lane.groups;
        held.absorb(lane.reservation);
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
    let keys = shared.codec.encode(&[], 1, shared.level)?;
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
    while let Some(mut other) = lanes.next() {
        let arena_bytes = other.part.arena().iter().map(|chunk| chunk.len()).sum();
        base.check_numbers(other.part.len())?;
        let growth = base.growth(other.part.len(), arena_bytes);
        if !held.with(|held| held.try_grow(growth)) {
            if shared.spec.mode == AggregateMode::Partial {
                emit_part(shared, number, other.part, &mut other.states, emit)?;
                continue;
            }
            if shared.may_spill() {
                let others = std::iter::once(other).chain(lanes);
                let spilled = spill_part(shared, number, base, others)?;
                held.with(|held| held.shrink(freed + grown));
                return spilled.regroup(shared, emit);
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

/// Writes one part of all lanes to disk.
fn spill_part(
    shared: &Shared,
    number: usize,
    base: Groups,
    others: impl Iterator<Item = LanePart>,
) -> Result<SpilledGroups> {
    let mut writer = GroupWriter::new(shared, 1)?;
    let part = base.table.into_parts().swap_remove(number);
    let base = LanePart {
        part,
        states: base.states,
    };
    for mut lane in std::iter::once(base).chain(others) {
        writer.write(shared, 0, (number, lane.part), &mut lane.states)?;
    }
    let runs = writer.finish(shared)?.pop();
    runs.ok_or_else(|| Error::internal("a part was not written"))
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

/// The columns of each state of `rows`: what `columns` makes of it, unless the table keeps it.
pub(super) fn state_columns(
    spec: &Spec,
    rows: &[Row],
    states: &[States],
    columns: impl Fn(&States) -> Result<Vec<ArrayRef>>,
) -> Result<Vec<Vec<ArrayRef>>> {
    let pairs = states.iter().zip(&spec.states);
    let of_state = |(states, state): (&States, &StateSpec)| match state.kind {
        StateKind::Rows => {
            let counts = rows.iter().map(|row| row.count as i64);
            Ok(vec![Arc::new(Int64Array::from_iter_values(counts)) as _])
        }
        _ => columns(states),
    };
    pairs.map(of_state).collect()
}

fn result_columns(
    shared: &Shared,
    number: usize,
    rows: &[Row],
    range: Range<usize>,
    states: &[States],
) -> Result<Vec<ArrayRef>> {
    let spec = &shared.spec;
    let columns = state_columns(spec, rows, states, |states| {
        states.columns(number, range.clone())
    })?;
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
