//! Rows on disk are merged in pieces: the indexes of all runs tell where to cut the order into
//! ranges of about equal size, and each lane merges a range at a time.
//!
//! Merging takes memory for a block of each run and lane. Where there is not enough, fewer ranges
//! are made, down to one, and runs are merged into fewer first.

use std::sync::{Arc, Mutex, PoisonError};

use crate::error::{Error, Result};
use crate::memory::Reservation;
use crate::operator::Morsel;
use crate::operator::sort::Setup;
use crate::operator::sort::merge::{Merge, Range};
use crate::operator::sort::run::{Mark, SortedRun, SortedRunWriter};

/// Runs that are merged at once, at most: each costs a look at the heap and a block in memory.
const RUNS_AT_ONCE: usize = 256;

/// Blocks of each run in memory while it is merged: the one that a cursor is at, half of one that
/// it has left behind, and one on its way from disk.
const BLOCKS_PER_RUN: u64 = 3;

/// Morsels of the rows of `runs` in order: a list for each sequence of about so many bytes.
///
/// # Errors
/// `Exhausted` if the disk is full, or there is no memory for blocks of two runs.
pub(super) fn sequences(
    setup: &Arc<Setup>,
    mut runs: Vec<SortedRun>,
    wanted: impl FnOnce(u64) -> usize,
) -> Result<Vec<Vec<Morsel>>> {
    let bytes = runs
        .iter()
        .flat_map(SortedRun::marks)
        .map(|(_, bytes)| bytes)
        .sum();
    let mut sequences = wanted(bytes);
    runs.sort_by_key(|run| run.number);
    let mut reservation = setup.memory.reserve(setup.owner);
    loop {
        if let Some(lanes) = lanes_for(&mut reservation, &runs, sequences) {
            if lanes < sequences.min(rayon::current_num_threads()) {
                sequences = lanes;
            }
            break;
        }
        if runs.len() <= 2 {
            sequences = 1;
            reservation.grow(block_bytes(&runs))?;
            break;
        }
        runs = fewer(setup, runs)?;
    }
    let runs: Arc<[SortedRun]> = runs.into();
    let reservation = Arc::new(reservation);
    let cuts = cuts(setup, &runs, bytes, sequences);
    let starts = std::iter::once(None).chain(cuts.iter().cloned().map(Some));
    let ends = cuts.iter().cloned().map(Some).chain([None]);
    let ranges = starts.zip(ends).map(|(start, end)| Range {
        runs: Arc::clone(&runs),
        start,
        end,
    });
    let morsels = (bytes / sequences as u64 / setup.morsel_bytes).max(1);
    Ok(ranges
        .map(|range| sequence(setup, range, morsels, &reservation))
        .collect())
}

/// How many lanes there is memory for that merge these runs, each a sequence at a time.
fn lanes_for(reservation: &mut Reservation, runs: &[SortedRun], sequences: usize) -> Option<usize> {
    if runs.len() > RUNS_AT_ONCE {
        return None;
    }
    let mut lanes = sequences.min(rayon::current_num_threads());
    while lanes > 0 && !reservation.try_resize(block_bytes(runs) * lanes as u64) {
        lanes /= 2;
    }
    (lanes > 0).then_some(lanes)
}

/// Bytes that merging takes on one lane.
fn block_bytes(runs: &[SortedRun]) -> u64 {
    let blocks = runs.iter().map(|run| run.block_bytes);
    blocks.sum::<u64>() * BLOCKS_PER_RUN
}

/// The same rows in fewer runs, as few as there is memory for. Runs next to one another are merged,
/// so that their numbers keep telling which came first.
fn fewer(setup: &Arc<Setup>, mut runs: Vec<SortedRun>) -> Result<Vec<SortedRun>> {
    let mut reservation = setup.memory.reserve(setup.owner);
    let mut count = runs.len().min(RUNS_AT_ONCE);
    while count > 2 && !reservation.try_resize(block_bytes(&runs[..count])) {
        count = (count / 2).max(2);
    }
    if count == 2 {
        let missing = block_bytes(&runs[..2]).saturating_sub(reservation.bytes());
        reservation.grow(missing)?;
    }
    let mut merged = Vec::with_capacity(runs.len().div_ceil(count));
    while !runs.is_empty() {
        let some: Vec<SortedRun> = runs.drain(..count.min(runs.len())).collect();
        merged.push(match some.len() {
            1 => some
                .into_iter()
                .next()
                .ok_or_else(|| Error::internal("no run"))?,
            _ => one(setup, some)?,
        });
    }
    Ok(merged)
}

/// The same rows in one run.
fn one(setup: &Arc<Setup>, runs: Vec<SortedRun>) -> Result<SortedRun> {
    let number = runs[0].number;
    let range = Range {
        runs: runs.into(),
        start: None,
        end: None,
    };
    let mut merge = Merge::new(setup, range)?;
    let mut writer = SortedRunWriter::new(setup, number)?;
    while merge.rows(|rows| rows.iter().try_for_each(|row| writer.add(*row)))? {}
    writer.finish()
}

/// Marks that cut `bytes` bytes of `runs` into so many ranges.
fn cuts(setup: &Setup, runs: &[SortedRun], bytes: u64, ranges: usize) -> Vec<Mark> {
    let marks = runs.iter().flat_map(SortedRun::marks);
    let mut marks: Vec<(&Mark, u64)> = marks.map(|(mark, bytes)| (mark, *bytes)).collect();
    Mark::sort(setup, &mut marks);
    let mut cuts = Vec::with_capacity(ranges.saturating_sub(1));
    let mut before = 0;
    for (mark, in_block) in marks {
        let at = |cuts: &Vec<Mark>| bytes / ranges as u64 * (cuts.len() as u64 + 1);
        if cuts.len() + 1 < ranges && before >= at(&cuts) {
            cuts.push(mark.clone());
        }
        before += in_block;
    }
    cuts
}

/// The rows of a range in about so many morsels.
fn sequence(
    setup: &Arc<Setup>,
    range: Range,
    morsels: u64,
    reservation: &Arc<Reservation>,
) -> Vec<Morsel> {
    let merge = Arc::new(Mutex::new(State::Waits(range)));
    let morsel = |number: u64| {
        let (setup, merge) = (Arc::clone(setup), Arc::clone(&merge));
        let reservation = Arc::clone(reservation);
        // What the last one leaves nobody would see.
        let bytes = (number + 1 < morsels).then_some(setup.morsel_bytes);
        Box::new(move |emit: &mut dyn FnMut(_) -> Result<()>| {
            let _reservation = reservation;
            let mut merge = merge.lock().unwrap_or_else(PoisonError::into_inner);
            merge.go_on(&setup, bytes, emit)
        }) as Morsel
    };
    (0..morsels).map(morsel).collect()
}

/// How far a range has been merged.
enum State {
    Waits(Range),
    Goes(Box<Merge>),
    Ended,
}

impl State {
    /// Emits the next rows, of about so many bytes, or all.
    fn go_on(
        &mut self,
        setup: &Arc<Setup>,
        bytes: Option<u64>,
        emit: &mut dyn FnMut(arrow::record_batch::RecordBatch) -> Result<()>,
    ) -> Result<()> {
        let mut merge = match std::mem::replace(self, State::Ended) {
            State::Waits(range) => Box::new(Merge::new(setup, range)?),
            State::Goes(merge) => merge,
            State::Ended => return Ok(()),
        };
        let mut emitted = 0;
        while bytes.is_none_or(|bytes| emitted < bytes) {
            let Some(batch) = merge.batch()? else {
                return Ok(());
            };
            emitted += batch.get_array_memory_size() as u64;
            emit(batch)?;
        }
        *self = State::Goes(merge);
        Ok(())
    }
}
