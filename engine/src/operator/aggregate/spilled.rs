//! Groups on disk, because memory ran short.
//!
//! A lane whose memory is refused writes all of its groups to disk, part by part, and starts over.
//! When the lanes have ended, what they wrote of a part is grouped again by an aggregation of
//! *states*: one that takes the groups of the part as its rows, with other hashes, so that they
//! spread over all of its own parts. If these do not fit into memory either, it does the same.
//!
//! A row on disk is a key and the states of its group. Values that are counted once are rows of
//! their own: a key and a value.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray};
use arrow::buffer::Buffer;
use arrow::datatypes::Schema;
use arrow::record_batch::{RecordBatch, RecordBatchOptions};

use crate::error::{Error, Result};
use crate::limits;
use crate::metrics::TaskMetrics;
use crate::operator::aggregate::Shared;
use crate::operator::aggregate::lane::{Groups, Lane};
use crate::operator::aggregate::merge::{self, state_columns};
use crate::operator::aggregate::state::States;
use crate::operator::aggregate::table::{PARTS, Part, Row};
use crate::operator::{Emit, Morsel, Operator};
use crate::spill::{Run, RunWriter};

/// How often groups are spread anew, at most. Each time there are [`PARTS`] times as many parts, so
/// this is only reached where the state of a single group does not fit into memory.
const LEVELS_MAX: u32 = 5;

/// Writes groups to disk: one run for each part, or one in all.
pub(super) struct GroupWriter {
    groups: RunWriter,
    /// The numbers of states that are values by themselves, and where these go.
    values: Vec<(usize, RunWriter)>,
}

/// What is on disk of the groups of some part.
#[derive(Default)]
pub(super) struct SpilledGroups {
    groups: Vec<Run>,
    /// The values, and the number of the state that they belong to.
    values: Vec<(usize, Run)>,
}

impl GroupWriter {
    /// A writer of `runs` runs.
    ///
    /// # Errors
    /// As for [`RunWriter::new`].
    pub(super) fn new(shared: &Shared, runs: usize) -> Result<Self> {
        let writer = |fields| {
            let schema = Arc::new(Schema::new(fields));
            RunWriter::new(shared.memory.disk(), &schema, runs)
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
                writer.write(run, &batch(writer, columns, keys.len())?)?;
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
                let writer = &mut self.groups;
                writer.write(run, &batch(writer, columns, rows.len())?)?;
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
            values: Vec::new(),
        };
        let mut spilled: Vec<SpilledGroups> = groups.into_iter().map(spilled).collect();
        for (state, writer) in self.values {
            let values = writer.finish()?;
            count(&values);
            for (part, run) in spilled.iter_mut().zip(values) {
                part.values.push((state, run));
            }
        }
        Ok(spilled)
    }
}

/// Rows as a writer takes them.
fn batch(writer: &RunWriter, columns: Vec<ArrayRef>, rows: usize) -> Result<RecordBatch> {
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    let schema = Arc::clone(writer.schema());
    Ok(RecordBatch::try_new_with_options(
        schema, columns, &options,
    )?)
}

/// Writes all of `groups` to disk, a run for each part.
///
/// # Errors
/// As for [`GroupWriter::write`].
pub(super) fn spill(shared: &Shared, groups: Groups) -> Result<Vec<SpilledGroups>> {
    let Groups { table, mut states } = groups;
    let mut writer = GroupWriter::new(shared, PARTS)?;
    for (number, part) in table.into_parts().into_iter().enumerate() {
        if part.len() > 0 {
            writer.write(shared, number, (number, part), &mut states)?;
        }
    }
    writer.finish(shared)
}

impl SpilledGroups {
    /// Adds what is on disk of the same part.
    pub(super) fn append(&mut self, other: SpilledGroups) {
        let groups = other.groups.into_iter();
        self.groups.extend(groups.filter(|run| !run.is_empty()));
        let values = other.values.into_iter();
        self.values
            .extend(values.filter(|(_, run)| !run.is_empty()));
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
        let next = Arc::new(shared.next_level()?);
        let mut lane = Lane::new(Arc::clone(&next));
        for run in self.groups {
            for batch in run.read() {
                lane.push(batch?, &mut |_| Err(Error::internal("groups were let go")))?;
            }
        }
        for (state, run) in self.values {
            for batch in run.read() {
                let batch = batch?;
                let (value, keys) = batch
                    .columns()
                    .split_last()
                    .ok_or_else(|| Error::internal("values without a column"))?;
                lane.push_values(state, keys, value.as_binary_view())?;
            }
        }
        lane.finish(&mut |_| Ok(()))?;
        let morsels = merge::morsels(&next, next.take_finished())?;
        morsels.into_iter().try_for_each(|morsel| morsel(emit))
    }

    /// The same as a morsel.
    pub(super) fn into_morsel(self, shared: &Arc<Shared>) -> Morsel {
        let shared = Arc::clone(shared);
        Box::new(move |emit| self.regroup(&shared, emit))
    }
}

impl Shared {
    /// What groups again what is on disk of this.
    fn next_level(&self) -> Result<Shared> {
        Shared::new(
            self.spec.regrouping()?,
            self.level + 1,
            (&self.memory, &self.metrics, &self.cancel),
        )
    }

    /// Whether groups that do not fit into memory can be spread anew.
    pub(super) fn may_spill(&self) -> bool {
        self.level < LEVELS_MAX
    }
}
