//! Rows that are to be sorted: in memory, and in sorted runs on disk.
//!
//! Lanes collect rows, in several parts if these are to be sorted on their own. Where memory is
//! refused all lanes sort what they hold and write it to disk, a run for each part; in the end the
//! runs of a part are merged, a block of each at a time. So the rows of a part do not have to fit
//! into memory, and a lane to which others leave nothing still goes on.

mod merge;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arrow::array::{Array as _, ArrayRef};
use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use rayon::iter::{IntoParallelRefIterator, ParallelIterator};

use crate::context::CancelToken;
use crate::error::Result;
use crate::limits;
use crate::memory::{MemoryBudget, Reservation};
use crate::metrics::TaskMetrics;
use crate::operator::order::{Keyed, Order, Place, compact};
use crate::spill::{Run, RunReader, RunWriter};
use merge::Merge;

pub(super) use merge::SortedRows;

/// Bytes that sorting takes for each row beside its key: its place, and where its key begins.
const SORTED_ROW_BYTES: usize = size_of::<Place>() + size_of::<usize>();

/// Bytes that a key takes for each column beside the value.
const KEY_COLUMN_BYTES: usize = 2;

/// Bytes that a lane holds without asking for them, where it is refused more: enough for a run to
/// be worth a file. A lane that holds less than this does not spill for others either.
const UNASKED_BYTES: u64 = 1 << 20;

/// Rows of a block of a run, at most: there is one of each run in memory while they are merged.
const RUN_BLOCK_ROWS: usize = limits::BATCH_ROWS / 8;

/// Bytes of such a block, about.
const RUN_BLOCK_BYTES: usize = 128 << 10;

/// Runs that are merged at once, at most. More are merged in several steps.
const RUNS_AT_ONCE: usize = 64;

/// What sorts the rows of all lanes.
pub(super) struct Sorter {
    /// What errors call the operator.
    pub(super) owner: &'static str,
    /// Parts that rows are dealt out to.
    pub(super) parts: usize,
    pub(super) order: Order,
    pub(super) schema: SchemaRef,
    pub(super) memory: Arc<MemoryBudget>,
    pub(super) cancel: CancelToken,
    pub(super) metrics: Arc<TaskMetrics>,
    /// What lanes have collected. Each is locked by its lane and by one that needs memory, and
    /// none together with another.
    pub(super) lanes: Lanes,
}

/// What lanes have collected.
pub(super) type Lanes = Mutex<Vec<Arc<Mutex<LaneRows>>>>;

impl Sorter {
    /// One more lane.
    pub(super) fn lane(self: &Arc<Self>) -> SorterLane {
        let rows = Arc::new(Mutex::new(LaneRows::new(self)));
        locked(&self.lanes).push(Arc::clone(&rows));
        SorterLane {
            sorter: Arc::clone(self),
            rows,
        }
    }

    /// Memory for rows, their keys and their places, about. It is reserved as rows come, so that it
    /// is there when they are sorted.
    fn room_for(&self, batch: &RecordBatch) -> Result<u64> {
        let keys = self.order.columns(batch)?;
        let held = |column: &ArrayRef| column.get_array_memory_size();
        let of_row = SORTED_ROW_BYTES + KEY_COLUMN_BYTES * keys.len();
        let keys: usize = keys.iter().map(held).sum();
        let bytes = batch.get_array_memory_size() + keys + of_row * batch.num_rows();
        Ok(bytes as u64)
    }

    /// Writes to disk what lanes hold, where it is much.
    fn spill(&self) -> Result<()> {
        let lanes = locked(&self.lanes).clone();
        lanes
            .iter()
            .try_for_each(|lane| locked(lane).spill_if_large(self))
    }

    /// The rows of all lanes, part by part; nothing is left with these.
    ///
    /// # Errors
    /// `Exhausted` if the disk is full.
    pub(super) fn take_parts(&self) -> Result<Vec<PartRows>> {
        let lanes = std::mem::take(&mut *locked(&self.lanes));
        if lanes.iter().any(|lane| locked(lane).has_spilled()) {
            // The rest goes to disk too, or it would take the memory that merging needs.
            let spill = |lane: &Arc<Mutex<LaneRows>>| locked(lane).spill(self);
            lanes.par_iter().try_for_each(spill)?;
        }
        let mut parts: Vec<PartRows> = Vec::new();
        for lane in lanes {
            let none = LaneRows::new(self);
            let lane = std::mem::replace(&mut *locked(&lane), none);
            for (number, rows) in lane.parts.into_iter().enumerate() {
                match parts.get_mut(number) {
                    Some(part) => part.append(rows),
                    None => parts.push(rows),
                }
            }
        }
        Ok(parts)
    }

    /// A file for so many runs.
    fn writer(&self, runs: usize) -> Result<RunWriter> {
        RunWriter::new(self.memory.disk(), &self.schema, runs)
    }

    /// The runs of a file.
    fn finish(&self, writer: RunWriter) -> Result<Vec<Run>> {
        let runs = writer.finish()?;
        let bytes = runs.iter().map(Run::bytes).sum();
        TaskMetrics::count(&self.metrics.spilled_bytes, bytes);
        Ok(runs)
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The end of a sorter that takes the rows of one lane.
pub(super) struct SorterLane {
    sorter: Arc<Sorter>,
    rows: Arc<Mutex<LaneRows>>,
}

impl SorterLane {
    /// Adds rows to a part. They hold on to no others' buffers.
    ///
    /// # Errors
    /// `Exhausted` if the disk is full.
    pub(super) fn push(&mut self, part: usize, batch: RecordBatch) -> Result<()> {
        self.sorter.cancel.check()?;
        let room = self.sorter.room_for(&batch)?;
        if locked(&self.rows).try_push(part, &batch, room) {
            return Ok(());
        }
        self.sorter.spill()?;
        let mut rows = locked(&self.rows);
        match rows.try_push(part, &batch, room) {
            true => Ok(()),
            false => rows.push_unasked(part, batch, room, &self.sorter),
        }
    }
}

/// The rows of a lane.
pub(super) struct LaneRows {
    parts: Vec<PartRows>,
    /// Bytes of rows that were not reserved.
    unasked: u64,
}

impl LaneRows {
    fn new(sorter: &Sorter) -> Self {
        LaneRows {
            parts: (0..sorter.parts).map(|_| PartRows::new(sorter)).collect(),
            unasked: 0,
        }
    }

    /// Adds rows to a part, if there is memory for them.
    fn try_push(&mut self, part: usize, batch: &RecordBatch, room: u64) -> bool {
        let part = &mut self.parts[part];
        let fits = part.reservation.try_grow(room);
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
    fn push_unasked(
        &mut self,
        part: usize,
        batch: RecordBatch,
        room: u64,
        sorter: &Sorter,
    ) -> Result<()> {
        self.unasked += room;
        self.parts[part].batches.push(batch);
        match self.unasked > UNASKED_BYTES {
            true => self.spill(sorter),
            false => Ok(()),
        }
    }

    /// Writes what is in memory to disk if there is much of it.
    ///
    /// # Errors
    /// As for [`push_unasked`](Self::push_unasked).
    fn spill_if_large(&mut self, sorter: &Sorter) -> Result<()> {
        let parts = self.parts.iter();
        let held: u64 = parts.map(|part| part.reservation.bytes()).sum();
        match held > UNASKED_BYTES {
            true => self.spill(sorter),
            false => Ok(()),
        }
    }

    /// Whether some of the rows are on disk.
    fn has_spilled(&self) -> bool {
        self.parts.iter().any(|part| !part.runs.is_empty())
    }

    /// Writes what is in memory to disk, a run for each part in one file.
    ///
    /// # Errors
    /// As for [`push_unasked`](Self::push_unasked).
    fn spill(&mut self, sorter: &Sorter) -> Result<()> {
        let mut writer = sorter.writer(self.parts.len())?;
        for (number, part) in self.parts.iter_mut().enumerate() {
            part.write((&mut writer, number), sorter)?;
        }
        let runs = sorter.finish(writer)?;
        for (part, run) in self.parts.iter_mut().zip(runs) {
            if !run.is_empty() {
                part.runs.push(run);
            }
        }
        self.unasked = 0;
        Ok(())
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
    fn new(sorter: &Sorter) -> Self {
        PartRows {
            batches: Vec::new(),
            reservation: sorter.memory.reserve(sorter.owner),
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
    fn write(&mut self, run: (&mut RunWriter, usize), sorter: &Sorter) -> Result<()> {
        let bytes: usize = self.batches.iter().map(|b| b.get_array_memory_size()).sum();
        let held = Held::sorted(std::mem::take(&mut self.batches), sorter)?;
        let rows_in_block = (RUN_BLOCK_BYTES * held.places.len()) / bytes.max(1);
        let blocks = held.blocks(rows_in_block.clamp(1, RUN_BLOCK_ROWS));
        self.write_run(run, blocks, sorter)?;
        self.reservation.shrink(self.reservation.bytes());
        Ok(())
    }

    fn write_run(
        &mut self,
        (writer, run): (&mut RunWriter, usize),
        blocks: impl Iterator<Item = Result<RecordBatch>>,
        sorter: &Sorter,
    ) -> Result<()> {
        for block in blocks {
            sorter.cancel.check()?;
            // Texts are views into what the rows came from, of which a file wants only theirs.
            let block = compact(block?)?;
            self.block_bytes = self.block_bytes.max(sorter.room_for(&block)?);
            writer.write(run, &block)?;
        }
        Ok(())
    }

    /// All rows in order. They are in memory, or all of them are on disk: then this needs no more
    /// memory than a block of each run.
    ///
    /// # Errors
    /// `Exhausted` if the disk is full, or there is no memory for a block of each of two runs.
    pub(super) fn into_sorted(mut self, sorter: &Arc<Sorter>) -> Result<SortedRows> {
        if self.runs.is_empty() {
            let held = Held::sorted(self.batches, sorter)?;
            let blocks = held.into_blocks(limits::BATCH_ROWS);
            return Ok(Box::new(blocks.chain(hold(self.reservation))));
        }
        let at_once = self.reserve_blocks()?;
        while self.runs.len() > at_once {
            // No more than it takes for the rest to be merged at once.
            let some = at_once.min(self.runs.len() - at_once + 1);
            let merged = Merge::new(readers(self.runs.drain(..some)), sorter)?;
            let mut writer = sorter.writer(1)?;
            let blocks = merged.flat_map(|rows| in_blocks(rows, RUN_BLOCK_ROWS));
            self.write_run((&mut writer, 0), blocks, sorter)?;
            self.runs.extend(sorter.finish(writer)?);
        }
        let merged = Merge::new(readers(self.runs), sorter)?;
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

/// Rows in memory, and their order.
struct Held {
    rows: Keyed,
    places: Vec<Place>,
}

impl Held {
    fn sorted(batches: Vec<RecordBatch>, sorter: &Sorter) -> Result<Self> {
        let mut rows = Keyed::default();
        let converter = sorter.order.converter()?;
        for batch in batches {
            sorter.cancel.check()?;
            let keys = converter.convert_columns(&sorter.order.columns(&batch)?)?;
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
