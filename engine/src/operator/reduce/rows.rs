//! The rows of a lane and of a part: in memory, and in sorted runs on disk.

use std::sync::Arc;

use arrow::record_batch::RecordBatch;

use crate::error::Result;
use crate::limits;
use crate::memory::{MemoryBudget, Reservation};
use crate::metrics::TaskMetrics;
use crate::operator::order::{Keyed, Place, compact};
use crate::operator::reduce::merge::{Merge, SortedRows};
use crate::operator::reduce::{OWNER, PARTS, Shared};
use crate::spill::{Run, RunReader, RunWriter};

/// Memory for keys and places of rows, in rows' own bytes, reserved as rows come so that it is
/// there when they are sorted.
const SORTING_SHARE: u64 = 2;

/// Bytes that a lane holds without asking for them, where it is refused more: enough for a run to
/// be worth a file. A lane that holds less than this does not spill for others either.
const UNASKED_BYTES: u64 = 1 << 20;

/// Rows of a block of a run, at most: there is one of each run in memory while they are merged.
const RUN_BLOCK_ROWS: usize = limits::BATCH_ROWS / 8;

/// Bytes of such a block, about.
const RUN_BLOCK_BYTES: usize = 128 << 10;

/// Runs that are merged at once, at most. More are merged in several steps.
const RUNS_AT_ONCE: usize = 64;

/// The rows of a lane.
pub(super) struct LaneRows {
    parts: Vec<PartRows>,
    /// Bytes of rows that were not reserved.
    unasked: u64,
}

impl LaneRows {
    pub(super) fn new(memory: &Arc<MemoryBudget>) -> Self {
        LaneRows {
            parts: (0..PARTS).map(|_| PartRows::new(memory)).collect(),
            unasked: 0,
        }
    }

    /// Adds rows to a part, if there is memory for them.
    pub(super) fn try_push(&mut self, part: usize, batch: &RecordBatch) -> bool {
        let part = &mut self.parts[part];
        let fits = part.reservation.try_grow(room_for(batch));
        if fits {
            part.batches.push(batch.clone());
        }
        fits
    }

    /// Adds rows to a part for which there is no memory: what is in memory goes to disk as soon
    /// as it is worth it.
    ///
    /// # Errors
    /// `Exhausted` if the disk is full.
    pub(super) fn push_unasked(
        &mut self,
        part: usize,
        batch: RecordBatch,
        shared: &Shared,
    ) -> Result<()> {
        self.unasked += room_for(&batch);
        self.parts[part].batches.push(batch);
        match self.unasked > UNASKED_BYTES {
            true => self.spill(shared),
            false => Ok(()),
        }
    }

    /// Writes what is in memory to disk if there is much of it.
    ///
    /// # Errors
    /// As for [`push_unasked`](Self::push_unasked).
    pub(super) fn spill_if_large(&mut self, shared: &Shared) -> Result<()> {
        let parts = self.parts.iter();
        let held: u64 = parts.map(|part| part.reservation.bytes()).sum();
        match held > UNASKED_BYTES {
            true => self.spill(shared),
            false => Ok(()),
        }
    }

    /// Whether some of the rows are on disk.
    pub(super) fn has_spilled(&self) -> bool {
        self.parts.iter().any(|part| !part.runs.is_empty())
    }

    /// Writes what is in memory to disk, a run for each part in one file.
    ///
    /// # Errors
    /// As for [`push_unasked`](Self::push_unasked).
    pub(super) fn spill(&mut self, shared: &Shared) -> Result<()> {
        let mut writer = RunWriter::new()?;
        for part in &mut self.parts {
            part.write(&mut writer, shared)?;
        }
        let runs = shared.finish(writer)?;
        for (part, run) in self.parts.iter_mut().zip(runs) {
            if run.bytes() > 0 {
                part.runs.push(run);
            }
        }
        self.unasked = 0;
        Ok(())
    }

    pub(super) fn into_parts(self) -> Vec<PartRows> {
        self.parts
    }
}

/// The rows of a part.
pub(super) struct PartRows {
    batches: Vec<RecordBatch>,
    reservation: Reservation,
    runs: Vec<Run>,
    /// Bytes of the largest block of the runs, in memory and with keys.
    block_bytes: u64,
}

impl PartRows {
    fn new(memory: &Arc<MemoryBudget>) -> Self {
        PartRows {
            batches: Vec::new(),
            reservation: memory.reserve(OWNER),
            runs: Vec::new(),
            block_bytes: 0,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.batches.is_empty() && self.runs.is_empty()
    }

    /// Adds all rows of another part.
    pub(super) fn append(&mut self, other: PartRows) {
        self.batches.extend(other.batches);
        self.reservation.absorb(other.reservation);
        self.runs.extend(other.runs);
        self.block_bytes = self.block_bytes.max(other.block_bytes);
    }

    /// Writes what is in memory as a run, in order; an empty one if there is nothing.
    fn write(&mut self, writer: &mut RunWriter, shared: &Shared) -> Result<()> {
        let bytes: usize = self.batches.iter().map(|b| b.get_array_memory_size()).sum();
        let held = Held::sorted(std::mem::take(&mut self.batches), shared)?;
        let rows_in_block = (RUN_BLOCK_BYTES * held.places.len()) / bytes.max(1);
        let blocks = held.blocks(rows_in_block.clamp(1, RUN_BLOCK_ROWS));
        self.write_run(writer, blocks, shared)?;
        self.reservation.shrink(self.reservation.bytes());
        Ok(())
    }

    fn write_run(
        &mut self,
        writer: &mut RunWriter,
        blocks: impl Iterator<Item = Result<RecordBatch>>,
        shared: &Shared,
    ) -> Result<()> {
        for block in blocks {
            shared.cancel.check()?;
            // Texts are views into what the rows came from, of which a file wants only theirs.
            let block = compact(block?)?;
            self.block_bytes = self.block_bytes.max(room_for(&block));
            writer.write(&block)?;
        }
        writer.end_run();
        Ok(())
    }

    /// All rows in order. They are in memory, or all of them are on disk: then this needs no more
    /// memory than a block of each run.
    ///
    /// # Errors
    /// `Exhausted` if the disk is full, or there is no memory for a block of each of two runs.
    pub(super) fn into_sorted(mut self, shared: &Arc<Shared>) -> Result<SortedRows> {
        if self.runs.is_empty() {
            let held = Held::sorted(self.batches, shared)?;
            let blocks = held.into_blocks(limits::BATCH_ROWS);
            return Ok(Box::new(blocks.chain(hold(self.reservation))));
        }
        let at_once = self.reserve_blocks()?;
        while self.runs.len() > at_once {
            // No more than it takes for the rest to be merged at once.
            let some = at_once.min(self.runs.len() - at_once + 1);
            let merged = Merge::new(readers(self.runs.drain(..some)), shared)?;
            let mut writer = RunWriter::new()?;
            let blocks = merged.flat_map(|rows| in_blocks(rows, RUN_BLOCK_ROWS));
            self.write_run(&mut writer, blocks, shared)?;
            self.runs.extend(shared.finish(writer)?);
        }
        let merged = Merge::new(readers(self.runs), shared)?;
        Ok(Box::new(merged.chain(hold(self.reservation))))
    }

    /// Reserves memory for as many blocks as there are runs, or as many as there is memory for;
    /// says for how many.
    fn reserve_blocks(&mut self) -> Result<usize> {
        let mut at_once = self.runs.len().clamp(2, RUNS_AT_ONCE);
        while at_once > 2 {
            if self.reservation.try_grow(at_once as u64 * self.block_bytes) {
                return Ok(at_once);
            }
            at_once = (at_once / 2).max(2);
        }
        self.reservation.grow(2 * self.block_bytes)?;
        Ok(2)
    }
}

impl Shared {
    /// The runs of a file.
    fn finish(&self, writer: RunWriter) -> Result<Vec<Run>> {
        let runs = writer.finish()?;
        let bytes = runs.iter().map(Run::bytes).sum();
        TaskMetrics::count(&self.metrics.spilled_bytes, bytes);
        Ok(runs)
    }
}

fn readers(runs: impl IntoIterator<Item = Run>) -> Vec<RunReader> {
    runs.into_iter().map(Run::read).collect()
}

/// Rows in pieces of at most `size`.
fn in_blocks(rows: Result<RecordBatch>, size: usize) -> impl Iterator<Item = Result<RecordBatch>> {
    let (rows, error) = match rows {
        Ok(rows) => (Some(rows), None),
        Err(error) => (None, Some(Err(error))),
    };
    let pieces = rows.into_iter().flat_map(move |rows| {
        let starts = (0..rows.num_rows()).step_by(size);
        starts.map(move |start| Ok(rows.slice(start, size.min(rows.num_rows() - start))))
    });
    pieces.chain(error)
}

/// Nothing, but it keeps the memory reserved until it is dropped.
fn hold(reservation: Reservation) -> impl Iterator<Item = Result<RecordBatch>> + Send {
    let mut reservation = Some(reservation);
    std::iter::from_fn(move || {
        reservation.take();
        None
    })
}

fn room_for(batch: &RecordBatch) -> u64 {
    batch.get_array_memory_size() as u64 * SORTING_SHARE
}

/// Rows in memory, and their order.
struct Held {
    rows: Keyed,
    places: Vec<Place>,
}

impl Held {
    fn sorted(batches: Vec<RecordBatch>, shared: &Shared) -> Result<Self> {
        let mut rows = Keyed::default();
        let converter = shared.order.converter()?;
        for batch in batches {
            shared.cancel.check()?;
            let keys = converter.convert_columns(&shared.order.columns(&batch)?)?;
            rows.add(batch, keys);
        }
        let mut places = rows.places();
        places.sort_unstable_by(|a, b| rows.compare(a, b));
        Ok(Held { rows, places })
    }

    fn blocks(&self, size: usize) -> impl Iterator<Item = Result<RecordBatch>> + '_ {
        self.places
            .chunks(size)
            .map(|places| self.rows.gather(places))
    }

    fn into_blocks(self, size: usize) -> impl Iterator<Item = Result<RecordBatch>> + Send {
        let mut next = 0;
        std::iter::from_fn(move || {
            let places = self.places.get(next..)?;
            let places = &places[..places.len().min(size)];
            next += places.len();
            (!places.is_empty()).then(|| self.rows.gather(places))
        })
    }
}
