//! The join of a partition that splitting does not make smaller: its build rows in chunks.
//!
//! A chunk is as many build rows as there is memory for, and all probe rows of the partition come
//! past each of them. Pairs come out as they are found, build rows by themselves at the end of their
//! chunk. What depends on a probe row having no match in any chunk comes out in the end.

use std::iter::Peekable;
use std::sync::Arc;

use arrow::record_batch::RecordBatch;

use crate::error::Result;
use crate::limits::BATCH_ROWS;
use crate::operator::join::build::ROWS_MAX;
use crate::operator::join::matches::Matches;
use crate::operator::join::output::Output;
use crate::operator::join::probe::Probe;
use crate::operator::join::room::Room;
use crate::operator::join::spilled::{Partition, rows};
use crate::operator::join::table::{JoinTable, Plan};
use crate::operator::join::{Join, OWNER, piece};
use crate::operator::{Emit, Operator};
use crate::spill::Run;

/// Joins the rows of `partition`.
///
/// # Errors
/// What reading them answered; `Invalid` if a condition cannot be computed.
pub(super) fn join(partition: &Partition, emit: Emit<'_>) -> Result<()> {
    let Partition {
        spec, resources, ..
    } = partition;
    let mut matches = spec.decides_by_match().then(|| {
        let reserved = resources.memory.reserve(OWNER);
        Matches::new(rows(&partition.probe) as usize, reserved)
    });
    let mut pieces = blocks(&partition.build).peekable();
    let mut last = None;
    while let Some(table) = next_table(partition, &mut pieces)? {
        let join = Join::new(Arc::clone(spec), Arc::new(table), resources);
        let probe = Probe::new(Arc::clone(&join))?.with_matches(matches);
        let mut output = Output::new(probe);
        for batch in blocks(&partition.probe) {
            resources.cancel.check()?;
            output.push(batch?, emit)?;
        }
        output.finish(emit)?;
        matches = output.into_matches();
        matches.iter_mut().for_each(Matches::rewind);
        for rows in join.build_ranges() {
            join.emit_build_rows(rows, emit)?;
        }
        last = Some(join);
    }
    match (matches, last) {
        (Some(matches), Some(join)) => emit_decided(partition, &join, matches, emit),
        _ => Ok(()),
    }
}

/// The rows of runs, block by block.
fn blocks(runs: &[Run]) -> impl Iterator<Item = Result<RecordBatch>> + use<> {
    runs.to_vec().into_iter().flat_map(Run::read)
}

/// A table of the next build rows: as many as there is memory for, and at least one block.
fn next_table(
    partition: &Partition,
    blocks: &mut Peekable<impl Iterator<Item = Result<RecordBatch>>>,
) -> Result<Option<JoinTable>> {
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
        return match blocks.next() {
            Some(Err(error)) => Err(error),
            _ => Ok(None),
        };
    }
    let plan = Plan::new(spec, &pieces, rows)?.small();
    let bytes = plan.bytes(spec, &[], &pieces);
    room.shrink(room.bytes().saturating_sub(held + bytes.sum()));
    Ok(Some(plan.table(spec, &[], pieces, (room, bytes))?))
}

/// Emits the probe rows that come out because they had a match, or because they had none.
fn emit_decided(
    partition: &Partition,
    join: &Join,
    mut matches: Matches,
    emit: Emit<'_>,
) -> Result<()> {
    for batch in blocks(&partition.probe) {
        partition.resources.cancel.check()?;
        let batch = batch?;
        for start in (0..batch.num_rows()).step_by(BATCH_ROWS) {
            let some = batch.slice(start, BATCH_ROWS.min(batch.num_rows() - start));
            join.emit_decided(&some, |row| matches.has(row), emit)?;
            matches.pass(some.num_rows());
        }
    }
    Ok(())
}
