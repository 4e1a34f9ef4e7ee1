//! One lane of the file sink: rows in, files one after the other.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::DataType;
use arrow::record_batch::RecordBatch;

use super::encode::Encoder;
use super::upload::Slot;
use super::{Files, Part};
use crate::error::Result;
use crate::expr::SortKey;
use crate::limits;
use crate::memory::Reservation;
use crate::metrics::TaskMetrics;
use crate::operator::sort::Sort;
use crate::operator::{Breaker, Emit, Operator};

/// How much more than asked for is sorted at once at most, where rows take less in a file than in
/// memory.
const SORTED_SHARE_MAX: u64 = 8;

/// Bytes of rows that a lane encodes without asking, where it is refused more: enough for a row
/// group.
const UNASKED_BYTES: usize = limits::UPLOAD_PART_BYTES;

/// Bytes that may wait unasked to be written out: they are as soon as the lane has done what it
/// works on.
const WAITING_UNASKED_BYTES: usize = 4 * limits::UPLOAD_PART_BYTES;

/// Bytes that a row takes while it is sorted, beside itself and its key.
const SORTED_ROW_BYTES: u64 = 32;

/// The files that one lane writes.
pub(super) struct Lane {
    files: Arc<Files>,
    /// What it writes now.
    part: Part,
    /// Where its files are, if not beside those of all.
    directory: Option<String>,
    /// Files begun so far of it.
    begun: u32,
    open: Option<Open>,
    /// Files that are complete and may wait to be written out.
    ended: Vec<Arc<Slot>>,
    /// A file that has about as many bytes is ended; never where none is given.
    file_bytes: Option<u64>,
    reservation: Reservation,
}

/// The file that is being written.
struct Open {
    encoder: Encoder,
    slot: Arc<Slot>,
    /// Bytes that have left the encoder.
    bytes: u64,
}

impl Lane {
    pub(super) fn new(
        files: &Arc<Files>,
        (lane, directory): (usize, Option<String>),
        file_bytes: Option<u64>,
    ) -> Self {
        Lane {
            files: Arc::clone(files),
            part: Part::Lane(lane),
            directory,
            begun: 0,
            open: None,
            ended: Vec::new(),
            file_bytes,
            reservation: files.ctx.memory.reserve("file sink"),
        }
    }

    fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        let open = match &mut self.open {
            Some(open) => open,
            none => {
                let slot = self
                    .files
                    .begin(self.directory.as_deref(), self.part, self.begun)?;
                self.begun += 1;
                none.insert(Open {
                    encoder: Encoder::new(&self.files.output, &self.files.schema)?,
                    slot,
                    bytes: 0,
                })
            }
        };
        let rows = batch.num_rows() as u64;
        let bytes = open.encoder.write(batch)?;
        open.put(bytes, rows);
        TaskMetrics::count(&self.files.ctx.metrics.rows_out, rows);
        let so_far = open.bytes + open.encoder.pending() as u64;
        if self.file_bytes.is_some_and(|bytes| so_far >= bytes) {
            self.end()?;
        }
        self.reserve()
    }

    /// Completes the file that is being written, if there is one; answers with its bytes.
    fn end(&mut self) -> Result<u64> {
        let Some(open) = self.open.take() else {
            return Ok(0);
        };
        let Open {
            encoder,
            slot,
            bytes,
        } = open;
        let last = encoder.finish()?;
        let bytes = bytes + bytes_of(&last);
        slot.put(last, 0);
        slot.end();
        self.ended.push(slot);
        Ok(bytes)
    }

    /// Reserves what is held. Where that is refused and it is more than a little, the encoder gives
    /// up what it can; that waits to be written out, so some of it may wait unasked.
    fn reserve(&mut self) -> Result<()> {
        self.ended.retain(|slot| slot.waiting() > 0);
        let ended: usize = self.ended.iter().map(|slot| slot.waiting()).sum();
        let held = |open: &Open| open.encoder.held() + open.slot.waiting();
        let bytes = ended + self.open.as_ref().map_or(0, held);
        if self.reservation.try_resize(bytes as u64) || bytes <= UNASKED_BYTES {
            return Ok(());
        }
        let mut bytes = ended;
        if let Some(open) = &mut self.open {
            let cut = open.encoder.cut()?;
            open.put(cut, 0);
            bytes += held(open);
        }
        if self.reservation.try_resize(bytes as u64) || bytes <= WAITING_UNASKED_BYTES {
            return Ok(());
        }
        let missing = (bytes as u64).saturating_sub(self.reservation.bytes());
        self.reservation.grow(missing)
    }
}

impl Open {
    fn put(&mut self, parts: Vec<Vec<u8>>, rows: u64) {
        self.bytes += bytes_of(&parts);
        self.slot.put(parts, rows);
    }
}

fn bytes_of(parts: &[Vec<u8>]) -> u64 {
    parts.iter().map(|part| part.len() as u64).sum()
}

impl Operator for Lane {
    fn push(&mut self, batch: RecordBatch, _emit: Emit<'_>) -> Result<()> {
        self.write(&batch)
    }

    fn finish(&mut self, _emit: Emit<'_>) -> Result<()> {
        self.end()?;
        self.reserve()
    }

    fn begin_sequence(&mut self, number: u32) -> Result<()> {
        self.end()?;
        self.part = Part::Sequence(number);
        self.begun = 0;
        self.reserve()
    }
}

/// A lane that sorts the rows of each file before it writes them.
pub(super) struct SortedLane {
    lane: Lane,
    keys: Vec<SortKey>,
    /// What collects the rows of the next file.
    sort: Option<(Arc<Sort>, Box<dyn Operator>)>,
    /// Bytes of the rows collected ([`row_bytes`]).
    held: u64,
    /// Bytes of rows that make a file.
    held_max: u64,
    /// Bytes that a file should have.
    file_bytes: u64,
    /// Room for the keys by which the collected rows will be sorted: they are hardly larger than
    /// the rows.
    headroom: Reservation,
}

impl SortedLane {
    pub(super) fn new(files: &Arc<Files>, lane: (usize, Option<String>)) -> Self {
        let options = &files.output.options;
        let file_bytes = options.file_bytes.unwrap_or(limits::SORTED_FILE_BYTES);
        SortedLane {
            lane: Lane::new(files, lane, None),
            keys: options.sort_by.iter().map(SortKey::from).collect(),
            sort: None,
            held: 0,
            held_max: file_bytes,
            file_bytes,
            headroom: files.ctx.memory.reserve("file sink"),
        }
    }

    /// Whether `batch`, whose rows take `bytes`, can be collected and sorted with the others. Where
    /// memory is short, files are smaller.
    fn has_room(&mut self, batch: &RecordBatch, bytes: u64) -> bool {
        let collected = batch.get_array_memory_size() as u64;
        let has_room = self.headroom.try_resize(self.held + bytes + collected);
        if has_room {
            self.headroom.shrink(collected);
        }
        has_room
    }

    /// Writes the rows that have been collected, in order, to a file of their own.
    fn cut(&mut self) -> Result<()> {
        let Some((sort, mut collector)) = self.sort.take() else {
            return Ok(());
        };
        self.headroom.shrink(self.headroom.bytes());
        let lane = &mut self.lane;
        collector.finish(&mut |_| Ok(()))?;
        drop(collector);
        for morsel in sort.merge()? {
            morsel(&mut |batch| lane.write(&batch))?;
        }
        let bytes = lane.end()?;
        lane.reserve()?;
        if self.lane.files.output.options.file_bytes.is_some() {
            self.learn(bytes);
        }
        self.held = 0;
        Ok(())
    }

    /// Once it is known how many bytes of a file the collected rows came to, the next file gets
    /// as many rows as it takes.
    fn learn(&mut self, bytes: u64) {
        let wanted = u128::from(self.held) * u128::from(self.file_bytes);
        let most = self.file_bytes.saturating_mul(SORTED_SHARE_MAX);
        let wanted = u64::try_from(wanted / u128::from(bytes.max(1))).unwrap_or(most);
        self.held_max = wanted.clamp(self.file_bytes, most);
    }
}

impl Operator for SortedLane {
    fn push(&mut self, batch: RecordBatch, emit: Emit<'_>) -> Result<()> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        let bytes = row_bytes(&batch);
        if !self.has_room(&batch, bytes) {
            self.cut()?;
        }
        let (_, collector) = match &mut self.sort {
            Some(sort) => sort,
            none => {
                let files = &self.lane.files;
                let sort = Sort::new(&self.keys, &files.schema, &files.ctx)?;
                let collector = sort.lane()?;
                none.insert((sort, collector))
            }
        };
        collector.push(batch, emit)?;
        self.held += bytes;
        match self.held >= self.held_max {
            true => self.cut(),
            false => Ok(()),
        }
    }

    fn finish(&mut self, _emit: Emit<'_>) -> Result<()> {
        self.cut()
    }
}

/// Bytes that the rows of `batch` take by themselves, without what else is in their buffers, and
/// their places while they are sorted.
fn row_bytes(batch: &RecordBatch) -> u64 {
    let column = |column: &ArrayRef| match column.data_type() {
        DataType::Utf8View => 16 * column.len() + column.as_string_view().total_buffer_bytes_used(),
        DataType::BinaryView => {
            16 * column.len() + column.as_binary_view().total_buffer_bytes_used()
        }
        _ => {
            let data = column.to_data();
            data.get_slice_memory_size()
                .unwrap_or_else(|_| column.get_array_memory_size())
        }
    };
    let columns: usize = batch.columns().iter().map(column).sum();
    columns as u64 + SORTED_ROW_BYTES * batch.num_rows() as u64
}
