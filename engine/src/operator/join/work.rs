//! What is left to be done of a join when all probe rows have come, in steps.
//!
//! A partition on disk may make any number of rows, but a sink can write only between two morsels.
//! So a partition is joined a block of probe rows at a time, and goes back to the [`Pool`] whenever
//! it has made enough for one morsel. Any lane may go on with it.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arrow::record_batch::RecordBatch;

use crate::error::Result;
use crate::operator::join::chunks::Chunks;
use crate::operator::join::spilled::{Blocks, Partition};
use crate::operator::join::{Builder, Join};
use crate::operator::{Emit, Morsel, Operator};

/// Bytes of rows after which a morsel ends.
const MORSEL_BYTES: usize = 8 << 20;

/// Work that no lane does at the moment. What has begun is gone on with before anything else
/// begins: it holds memory.
#[derive(Default)]
pub(super) struct Pool(Mutex<Vec<Work>>);

/// A piece of work at some point.
pub(super) enum Work {
    /// A partition that has not begun.
    Partition(Partition),
    /// The probe rows of one that has a table.
    LookUps(LookUps),
    /// Build rows that come out by themselves, and then what the table left on disk in turn.
    BuildRows(Arc<Join>, Vec<Range<u32>>),
    /// A partition that is not split.
    Chunks(Box<Chunks>),
}

/// A table and the probe rows that are still to be looked up.
pub(super) struct LookUps {
    join: Arc<Join>,
    lane: Box<dyn Operator>,
    probe: Blocks,
}

impl Pool {
    /// Adds `work`, the last of which is done first.
    pub(super) fn add(&self, work: impl IntoIterator<Item = Work>) {
        self.locked().extend(work);
    }

    /// A morsel of work, if there is any that nobody does.
    pub(super) fn morsel(self: &Arc<Self>) -> Option<Morsel> {
        let work = self.locked().pop()?;
        let pool = Arc::clone(self);
        Some(Box::new(move |emit: Emit<'_>| pool.run(work, emit)))
    }

    /// Does `work` until it has made enough rows, and takes back what is left of it.
    fn run(&self, work: Work, emit: Emit<'_>) -> Result<()> {
        let (mut open, mut bytes) = (Some(work), 0);
        while let Some(work) = open {
            if bytes >= MORSEL_BYTES {
                self.add([work]);
                return Ok(());
            }
            open = work.step(self, &mut |batch: RecordBatch| {
                bytes += batch.get_array_memory_size();
                emit(batch)
            })?;
        }
        Ok(())
    }

    fn locked(&self) -> MutexGuard<'_, Vec<Work>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Work {
    /// Does a part of the work; what is left of it. Partitions that come up are for all lanes.
    fn step(self, pool: &Pool, emit: Emit<'_>) -> Result<Option<Work>> {
        Ok(match self {
            Work::Partition(partition) if partition.is_split() => {
                Some(Work::LookUps(LookUps::new(partition)?))
            }
            Work::Partition(partition) => Some(Work::Chunks(Box::new(Chunks::new(partition)))),
            Work::LookUps(look_ups) => Some(look_ups.step(emit)?),
            Work::BuildRows(join, mut ranges) => match ranges.pop() {
                Some(rows) => {
                    join.emit_build_rows(rows, emit)?;
                    Some(Work::BuildRows(join, ranges))
                }
                None => {
                    pool.add(join.partitions());
                    None
                }
            },
            Work::Chunks(mut chunks) => chunks.step(emit)?.then_some(Work::Chunks(chunks)),
        })
    }
}

impl LookUps {
    /// Makes the table of `partition`, as far as there is memory for it.
    fn new(partition: Partition) -> Result<Self> {
        let Partition {
            spec,
            resources,
            build,
            probe,
            level,
            ..
        } = &partition;
        let builder = Builder::new(Arc::clone(spec), Vec::new(), resources);
        let builder = builder.with_cap(partition.cap()).at_level(*level);
        for piece in Blocks::new(build) {
            resources.cancel.check()?;
            builder.add_piece(piece?)?;
        }
        let table = Arc::new(builder.finish()?);
        let join = Join::new(Arc::clone(spec), table, resources);
        Ok(LookUps {
            lane: join.lane()?,
            join,
            probe: Blocks::new(probe),
        })
    }

    /// Looks up the next block.
    fn step(mut self, emit: Emit<'_>) -> Result<Work> {
        self.join.resources.cancel.check()?;
        if let Some(batch) = self.probe.next() {
            self.lane.push(batch?, emit)?;
            return Ok(Work::LookUps(self));
        }
        self.lane.finish(emit)?;
        let ranges = self.join.build_ranges().collect();
        Ok(Work::BuildRows(self.join, ranges))
    }
}
