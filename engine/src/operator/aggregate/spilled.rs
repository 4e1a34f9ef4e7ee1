//! Groups on disk, because memory ran short.
//!
//! A lane whose memory is refused writes all of its groups to disk, part by part, and starts over.
//! When the lanes have ended, what they wrote of a part is grouped again by an aggregation of
//! *states*: one that takes the groups of the part as its rows, with other hashes, so that they
//! spread over all of its own parts. If these do not fit into memory either, it does the same.
//!
//! A row on disk is a key and the states of its group. Values that are counted once are rows of
//! their own: a key and a value.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::buffer::Buffer;
use arrow::compute::concat_batches;
use arrow::datatypes::Schema;
use arrow::record_batch::{RecordBatch, RecordBatchOptions};

use crate::error::{Error, Result};
use crate::limits;
use crate::metrics::TaskMetrics;
use crate::operator::aggregate::Shared;
use crate::operator::aggregate::lane::{Groups, Lane};
use crate::operator::aggregate::merge::{self, state_columns};
use crate::operator::aggregate::spec::Spec;
use crate::operator::aggregate::state::States;
use crate::operator::aggregate::table::{PARTS, Part, Row};
use crate::operator::{Emit, Morsel, Operator};
use crate::spill::{Run, RunWriter};

/// How often groups are spread anew, at most. Each time there are many times as many runs, so this
/// is only reached where the state of a single group does not fit into memory.
const LEVELS_MAX: u32 = 8;

/// Runs that groups are spread over where memory is so small that more would have blocks of a few
/// groups each.
const RUNS_MIN: usize = 8;

/// Bytes of the memory budget from which on each part has a run of its own.
const LIMIT_OF_MANY_RUNS: u64 = 64 << 20;

/// How often a group is put aside that is alone in its table: others may have had the memory for
/// a moment, but spreading does not make it smaller.
const LEVELS_OF_ONE: u32 = 2;

/// Writes groups to disk, in as many runs as there are to be.
pub(super) struct GroupWriter {
    groups: BlockWriter,
    /// The numbers of states that are values by themselves, and where these go.
    values: Vec<(usize, BlockWriter)>,
}

/// Writes runs one after the other, in blocks that are not too small.
struct BlockWriter {
    runs: RunWriter,
    /// Rows of `run` that are still to be written.
    batches: Vec<RecordBatch>,
    rows: usize,
    run: usize,
}

/// What is on disk of the groups of some part.
#[derive(Default)]
pub(super) struct SpilledGroups {
    groups: Vec<Run>,
    /// The values of each state that is made of such.
    values: BTreeMap<usize, Vec<Run>>,
}

impl GroupWriter {
    /// A writer of `runs` runs.
    ///
    /// # Errors
    /// As for [`RunWriter::new`].
    pub(super) fn new(shared: &Shared, runs: usize) -> Result<Self> {
        let writer = |fields| {
            let schema = Arc::new(Schema::new(fields));
            RunWriter::new(shared.memory.disk(), &schema, runs).map(BlockWriter::new)
        };
        let distinct = shared.spec.distinct_states();
        let values = distinct.map(|state| Ok((state, writer(shared.spec.value_fields())?)));
        Ok(GroupWriter {
            groups: writer(shared.spec.group_fields())?,
            values: values.collect::<Result<_>>()?,
        })
    }

    /// Writes the groups of part `number`, with their states, to run `run`.
    ///
    /// # Errors
    /// `Exhausted` if the disk is full; `Invalid` if a sum does not fit its type.
    pub(super) fn write(
        &mut self,
        shared: &Shared,
        run: usize,
        (number, mut part): (usize, Part),
        states: &mut [States],
    ) -> Result<()> {
        part.drop_slots();
        let arena = part.take_arena().into_iter().map(Buffer::from_vec);
        let arena: Vec<Buffer> = arena.collect();
        let states: Vec<States> = states.iter_mut().map(|s| s.take_part(number)).collect();
        for (state, writer) in &mut self.values {
            for (rows, values) in states[*state].values(number).into_iter().flatten() {
                shared.cancel.check()?;
                let keys: Vec<Row> = rows.into_iter().map(|row| part.row(row)).collect();
                let mut columns = shared.codec.decode(&keys, &arena)?;
                columns.push(Arc::new(values));
                writer.write(run, columns, keys.len())?;
            }
        }
        let mut first = 0;
        for chunk in 0..part.chunks() {
            shared.cancel.check()?;
            for rows in part.chunk(chunk).chunks(limits::BATCH_ROWS) {
                let range = first..first + rows.len();
                first = range.end;
                let mut columns = shared.codec.decode(rows, &arena)?;
                let states = state_columns(&shared.spec, rows, &states, |states| {
                    states.group_columns(number, range.clone())
                })?;
                columns.extend(states.into_iter().flatten());
                self.groups.write(run, columns, rows.len())?;
            }
        }
        Ok(())
    }

    /// What was written, run by run.
    ///
    /// # Errors
    /// As for [`write`](Self::write).
    pub(super) fn finish(self, shared: &Shared) -> Result<Vec<SpilledGroups>> {
        let count = |runs: &[Run]| {
            let bytes = runs.iter().map(Run::bytes).sum();
            TaskMetrics::count(&shared.metrics.spilled_bytes, bytes);
        };
        let groups = self.groups.finish()?;
        count(&groups);
        let spilled = |run: Run| SpilledGroups {
            groups: vec![run],
            values: BTreeMap::new(),
        };
        let mut spilled: Vec<SpilledGroups> = groups.into_iter().map(spilled).collect();
        for (state, writer) in self.values {
            let values = writer.finish()?;
            count(&values);
            for (part, run) in spilled.iter_mut().zip(values) {
                part.values.insert(state, vec![run]);
            }
        }
        Ok(spilled)
    }
}

impl BlockWriter {
    fn new(runs: RunWriter) -> Self {
        BlockWriter {
            runs,
            batches: Vec::new(),
            rows: 0,
            run: 0,
        }
    }

    fn write(&mut self, run: usize, columns: Vec<ArrayRef>, rows: usize) -> Result<()> {
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        let schema = Arc::clone(self.runs.schema());
        let batch = RecordBatch::try_new_with_options(schema, columns, &options)?;
        if run != self.run || self.rows + rows > limits::BATCH_ROWS {
            self.flush()?;
            self.run = run;
        }
        self.batches.push(batch);
        self.rows += rows;
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        if self.rows > 0 {
            let block = concat_batches(self.runs.schema(), &self.batches)?;
            self.runs.write(self.run, &block)?;
        }
        self.batches.clear();
        self.rows = 0;
        Ok(())
    }

    fn finish(mut self) -> Result<Vec<Run>> {
        self.flush()?;
        self.runs.finish()
    }
}

/// Writes all of `groups` to disk, a run for each part or for some parts together.
///
/// # Errors
/// As for [`GroupWriter::write`].
pub(super) fn spill(shared: &Shared, groups: Groups) -> Result<Vec<SpilledGroups>> {
    let Groups { table, mut states } = groups;
    let parts_in_run = match shared.memory.limit() < LIMIT_OF_MANY_RUNS {
        true => PARTS / RUNS_MIN,
        false => 1,
    };
    let mut writer = GroupWriter::new(shared, PARTS / parts_in_run)?;
    for (number, part) in table.into_parts().into_iter().enumerate() {
        if part.len() > 0 {
            let run = number / parts_in_run;
            writer.write(shared, run, (number, part), &mut states)?;
        }
    }
    writer.finish(shared)
}

impl SpilledGroups {
    /// Adds what is on disk of the same part.
    pub(super) fn append(&mut self, other: SpilledGroups) {
        let written = |runs: Vec<Run>| runs.into_iter().filter(|run| !run.is_empty());
        self.groups.extend(written(other.groups));
        for (state, runs) in other.values {
            self.values.entry(state).or_default().extend(written(runs));
        }
    }

    /// Whether there are no groups.
    pub(super) fn is_empty(&self) -> bool {
        self.groups.iter().all(Run::is_empty)
    }

    /// Groups what is on disk, and emits the result.
    ///
    /// # Errors
    /// `Exhausted` if the state of a single group does not fit into memory; `Corrupt` if what is
    /// read is not what was written; what `emit` answered.
    pub(super) fn regroup(self, shared: &Shared, emit: Emit<'_>) -> Result<()> {
        let next = shared.next_level(shared.spec.regrouping()?)?;
        let mut lane = Lane::new(Arc::clone(&next));
        push_runs(&mut lane, self.groups)?;
        for (state, runs) in self.values {
            let values = shared.next_level(shared.spec.of_values()?)?;
            let mut each = Lane::new(Arc::clone(&values));
            push_runs(&mut each, runs)?;
            for morsel in merge_lane(&values, each)? {
                morsel(&mut |batch| lane.push_values(state, &batch))?;
            }
        }
        let mut morsels = merge_lane(&next, lane)?.into_iter();
        morsels.try_for_each(|morsel| morsel(emit))
    }

    /// The same as a morsel.
    pub(super) fn into_morsel(self, shared: &Arc<Shared>) -> Morsel {
        let shared = Arc::clone(shared);
        Box::new(move |emit| self.regroup(&shared, emit))
    }
}

/// Lets a lane have all rows of `runs`.
fn push_runs(lane: &mut Lane, runs: Vec<Run>) -> Result<()> {
    let mut batches = runs.into_iter().flat_map(Run::read);
    batches.try_for_each(|batch| {
        lane.push(batch?, &mut |_| Err(Error::internal("groups were let go")))
    })
}

/// What comes of the only lane of an aggregation.
fn merge_lane(shared: &Arc<Shared>, mut lane: Lane) -> Result<Vec<Morsel>> {
    lane.finish(&mut |_| Ok(()))?;
    merge::morsels(shared, shared.take_finished())
}

impl Shared {
    /// What groups again what is on disk of this.
    fn next_level(&self, spec: Spec) -> Result<Arc<Shared>> {
        let of_process = (&self.memory, &self.metrics, &self.cancel);
        Ok(Arc::new(Shared::new(spec, self.level + 1, of_process)?))
    }

    /// Whether `groups` that do not fit into memory can be spread anew, so that there is hope for
    /// them.
    pub(super) fn may_spill(&self, groups: usize) -> bool {
        self.level < LEVELS_MAX && (groups > 1 || self.level < LEVELS_OF_ONE)
    }
}
