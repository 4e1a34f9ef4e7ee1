//! The join of a partition that splitting does not make smaller: its build rows in chunks.
//!
//! A chunk is as many build rows as there is memory for, and all probe rows of the partition come
//! past each of them. Pairs come out as they are found, build rows by themselves at the end of
//! their chunk. What depends on a probe row having no match in any chunk comes out in the end.

use std::iter::Peekable;
use std::ops::Range;
use std::sync::Arc;

use arrow::record_batch::RecordBatch;

use crate::error::Result;
use crate::limits::BATCH_ROWS;
use crate::operator::join::build::ROWS_MAX;
use crate::operator::join::matches::Matches;
use crate::operator::join::output::Output;
use crate::operator::join::probe::Probe;
use crate::operator::join::room::Room;
use crate::operator::join::spilled::{Blocks, Partition, rows};
use crate::operator::join::table::{JoinTable, Plan};
use crate::operator::join::{Join, OWNER, piece};
use crate::operator::{Emit, Operator};

/// A partition on its way.
pub(super) struct Chunks {
    partition: Partition,
    build: Peekable<Blocks>,
    /// Which probe rows had a match, where that has to be known; a chunk that is open has it.
    matches: Option<Matches>,
    state: State,
}

enum State {
    /// A chunk is to be made, if there are more build rows. The last one is still there.
    Between(Option<Arc<Join>>),
    /// Probe rows come past a chunk.
    Probing(Arc<Join>, Box<Output>, Blocks),
    /// Build rows of a chunk come out.
    BuildRows(Arc<Join>, Vec<Range<u32>>),
    /// Probe rows come out by themselves.
    Deciding(Arc<Join>, Blocks),
}

impl Chunks {
    pub(super) fn new(partition: Partition) -> Self {
        let matches = partition.spec.decides_by_match().then(|| {
            let reserved = partition.resources.memory.reserve(OWNER);
            Matches::new(rows(&partition.probe) as usize, reserved)
        });
        Chunks {
            build: Blocks::new(&partition.build).peekable(),
            partition,
            matches,
            state: State::Between(None),
        }
    }

    /// Goes on by a block of probe rows, or to what comes behind them; false at the end.
    ///
    /// # Errors
    /// What reading rows answered; `Invalid` if a condition cannot be computed.
    pub(super) fn step(&mut self, emit: Emit<'_>) -> Result<bool> {
        self.partition.resources.cancel.check()?;
        let state = std::mem::replace(&mut self.state, State::Between(None));
        let next = match state {
            State::Between(last) => self.begin(last)?,
            State::Probing(join, mut output, mut probe) => match probe.next() {
                Some(batch) => {
                    output.push(batch?, emit)?;
                    Some(State::Probing(join, output, probe))
                }
                None => {
                    output.finish(emit)?;
                    self.matches = output.into_matches();
                    self.matches.iter_mut().for_each(Matches::rewind);
                    let ranges = join.build_ranges().collect();
                    Some(State::BuildRows(join, ranges))
                }
            },
            State::BuildRows(join, mut ranges) => match ranges.pop() {
                Some(rows) => {
                    join.emit_build_rows(rows, emit)?;
                    Some(State::BuildRows(join, ranges))
                }
                None => Some(State::Between(Some(join))),
            },
            State::Deciding(join, mut probe) => match probe.next() {
                Some(batch) => {
                    self.emit_decided(&join, &batch?, emit)?;
                    Some(State::Deciding(join, probe))
                }
                None => None,
            },
        };
        let goes_on = next.is_some();
        self.state = next.unwrap_or(State::Between(None));
        Ok(goes_on)
    }

    /// The next chunk, or what comes behind the last one.
    fn begin(&mut self, last: Option<Arc<Join>>) -> Result<Option<State>> {
        let Partition {
            spec,
            resources,
            probe,
            ..
        } = &self.partition;
        if self.build.peek().is_none() {
            let last = last.filter(|_| self.matches.is_some());
            return Ok(last.map(|join| State::Deciding(join, Blocks::new(probe))));
        }
        // Its memory is for the next one.
        drop(last);
        let table = next_table(&self.partition, &mut self.build)?;
        let join = Join::new(Arc::clone(spec), Arc::new(table), resources);
        let lane = Probe::new(Arc::clone(&join))?.with_matches(self.matches.take());
        let output = Box::new(Output::new(lane));
        Ok(Some(State::Probing(join, output, Blocks::new(probe))))
    }

    /// Emits probe rows of the next block that come out because they had a match, or had none.
    fn emit_decided(&mut self, join: &Join, batch: &RecordBatch, emit: Emit<'_>) -> Result<()> {
        let Some(matches) = &mut self.matches else {
            return Ok(());
        };
        for start in (0..batch.num_rows()).step_by(BATCH_ROWS) {
            let some = batch.slice(start, BATCH_ROWS.min(batch.num_rows() - start));
            join.emit_decided(&some, |row| matches.has(row), emit)?;
            matches.pass(some.num_rows());
        }
        Ok(())
    }
}

/// A table of the next build rows: as many as there is memory for, and at least one block.
fn next_table(partition: &Partition, blocks: &mut Peekable<Blocks>) -> Result<JoinTable> {
    let Partition {
        spec, resources, ..
    } = partition;
    let mut room = Room::new(resources, partition.cap());
    let (mut pieces, mut rows, mut held) = (Vec::new(), 0, 0);
    loop {
        resources.cancel.check()?;
        let Some(Ok(piece)) = blocks.peek() else {
            break;
        };
        let sum = rows + piece.num_rows();
        let of_piece = piece::bytes(piece);
        let bytes = of_piece + Plan::bytes_max(spec, piece.num_rows(), of_piece);
        let fits = sum <= ROWS_MAX && room.try_grow(bytes);
        if !fits && !pieces.is_empty() {
            break;
        }
        if !fits {
            room.grow(bytes);
        }
        rows = sum;
        held += of_piece;
        pieces.extend(blocks.next().transpose()?);
    }
    if pieces.is_empty() {
        // What comes next is an error.
        blocks.next().transpose()?;
    }
    let plan = Plan::new(spec, &pieces, rows)?.small();
    let bytes = plan.bytes(spec, &[], &pieces);
    room.shrink(room.bytes().saturating_sub(held + bytes.sum()));
    plan.table(spec, &[], pieces, (room, bytes))
}
