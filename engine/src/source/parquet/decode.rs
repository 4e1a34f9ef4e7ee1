//! From the bytes of a row group to the rows that pass.
//!
//! A lane goes through a row group in windows of a few thousand rows. In each it reads the columns
//! of the first test, asks it, and reads the columns of the next one only for the rows that are
//! left, and so on; the columns that nobody asks about come last. A column that no row of a window
//! is left for is passed over without being decoded, as far as its pages allow.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use arrow::array::{ArrayRef, BooleanArray};
use arrow::buffer::{BooleanBuffer, MutableBuffer};
use arrow::compute::{BatchCoalescer, FilterBuilder};
use arrow::record_batch::{RecordBatch, RecordBatchOptions};
use arrow::util::bit_util;

use super::chunk::Chunks;
use super::columns::{Columns, Place, Source};
use super::footer::contain;
use super::reader::Reader;
use super::test::order;
use super::wanted::Wanted;
use crate::error::{Error, Result};
use crate::limits;
use crate::metrics::TaskMetrics;
use crate::operator::Emit;

/// Rows that a lane decodes together.
const WINDOW_ROWS: usize = limits::BATCH_ROWS;

/// Once fewer than one of so many rows are left, only those are decoded and asked about.
const FEW_SHARE: usize = 8;

/// Batches of fewer rows are put together before they are handed on.
const SMALL_ROWS: usize = limits::BATCH_ROWS / 2;

/// Windows after which the order of the tests is looked at again.
const REORDER_WINDOWS: usize = 8;

/// A row group of a file, as far as it may have rows that are wanted.
pub(super) struct RowGroup {
    pub(super) columns: Arc<Columns>,
    pub(super) index: usize,
    /// The rows that may pass, ascending and apart.
    pub(super) ranges: Vec<Range<usize>>,
    /// The tests that some of them may fail.
    pub(super) tests: Vec<usize>,
}

/// Hands the rows of `ranges` that pass every test to `emit`.
pub(super) fn decode(
    wanted: &Wanted,
    group: &RowGroup,
    ranges: &[Range<usize>],
    chunks: &Chunks,
    emit: Emit<'_>,
) -> Result<()> {
    let mut lane = Lane::new(wanted, group, ranges, chunks);
    let mut small = BatchCoalescer::new(Arc::clone(&wanted.schema), limits::BATCH_ROWS)
        .with_biggest_coalesce_batch_size(Some(SMALL_ROWS));
    let metrics = group.columns.footer().file().metrics();
    let starts = ranges.iter().flat_map(|range| {
        let starts = range.clone().step_by(WINDOW_ROWS);
        starts.map(|start| start..range.end.min(start + WINDOW_ROWS))
    });
    for (count, window) in starts.enumerate() {
        if count % REORDER_WINDOWS == 0 {
            lane.order = order(&wanted.tests, &group.tests);
        }
        let scanned = window.len() as u64;
        let batch = lane.window(&window)?;
        let passed = batch.as_ref().map_or(0, RecordBatch::num_rows) as u64;
        TaskMetrics::count(&metrics.rows_scanned, scanned);
        TaskMetrics::count(&metrics.rows_pruned, scanned - passed);
        TaskMetrics::count(&metrics.rows_in, passed);
        let Some(batch) = batch else { continue };
        if wanted.schema.fields().is_empty() {
            emit(batch)?;
            continue;
        }
        small.push_batch(batch)?;
        while let Some(batch) = small.next_completed_batch() {
            emit(batch)?;
        }
    }
    lane.finish(ranges)?;
    small.finish_buffered_batch()?;
    while let Some(batch) = small.next_completed_batch() {
        emit(batch)?;
    }
    Ok(())
}

/// The way of one lane through a row group.
struct Lane<'a> {
    wanted: &'a Wanted,
    group: &'a RowGroup,
    chunks: &'a Chunks,
    ranges: &'a [Range<usize>],
    /// The reader of each slot; made when it is first needed.
    readers: Vec<Option<Reader>>,
    /// The test that each reader is asked for its values.
    tested: Vec<Option<usize>>,
    /// The tests in the order in which they are asked.
    order: Vec<usize>,
}

impl<'a> Lane<'a> {
    fn new(
        wanted: &'a Wanted,
        group: &'a RowGroup,
        ranges: &'a [Range<usize>],
        chunks: &'a Chunks,
    ) -> Self {
        Lane {
            readers: wanted.slots.iter().map(|_| None).collect(),
            tested: vec![None; wanted.slots.len()],
            order: Vec::new(),
            wanted,
            group,
            chunks,
            ranges,
        }
    }

    /// The rows of a window that pass; none if there are none.
    fn window(&mut self, window: &Range<usize>) -> Result<Option<RecordBatch>> {
        let mut left = Left::all(window.len());
        let mut loaded: Vec<Option<ArrayRef>> = vec![None; self.readers.len()];
        for place in 0..self.order.len() {
            let started = Instant::now();
            let test = &self.wanted.tests[self.order[place]];
            let asked = left.count;
            // While most rows are left and no column is read, asking for values is cheapest.
            let many = left.count >= window.len() / FEW_SHARE && loaded.iter().all(Option::is_none);
            let of_values = match many {
                true => self.test_values(self.order[place], window)?,
                false => None,
            };
            if let Some(passed) = of_values {
                left.keep(&passed);
                let rows = window.len();
                test.note(rows, passed.count_set_bits(), started.elapsed());
            } else {
                let mut columns = Vec::with_capacity(test.slots().len());
                for &slot in test.slots() {
                    columns.push(self.load(&mut loaded, slot, window, &left)?);
                }
                let passed = test.run(columns, left.count)?;
                let count = passed.count_set_bits();
                test.note(asked, count, started.elapsed());
                if count > 0 && count < asked {
                    self.compact(&mut loaded, &passed, place)?;
                }
                left.narrow(passed, count);
            }
            if left.count == 0 {
                return Ok(None);
            }
        }
        let mut columns = Vec::with_capacity(self.wanted.output.len());
        for &slot in &self.wanted.output {
            columns.push(self.load(&mut loaded, slot, window, &left)?);
        }
        let options = RecordBatchOptions::new().with_row_count(Some(left.count));
        let schema = Arc::clone(&self.wanted.schema);
        let batch = RecordBatch::try_new_with_options(schema, columns, &options)?;
        Ok(Some(batch))
    }

    /// Which rows of a window pass the test at `index`, by asking it for the column's values; none
    /// where that cannot be done.
    fn test_values(
        &mut self,
        index: usize,
        window: &Range<usize>,
    ) -> Result<Option<BooleanBuffer>> {
        let test = &self.wanted.tests[index];
        if !test.is_of_values() {
            return Ok(None);
        }
        let slot = test.slots()[0];
        // A reader takes one test and keeps to it.
        let first = *self.tested[slot].get_or_insert(index);
        let source = &self.group.columns.sources()[slot];
        let Some(place) = source.place() else {
            return Ok(Some(BooleanBuffer::new_unset(window.len())));
        };
        if first != index || place.data_type != *source.field().data_type() {
            return Ok(None);
        }
        self.with_reader(slot, place, |reader| {
            reader.test(window, &mut |values| {
                test.run(vec![Arc::clone(values)], values.len())
            })
        })
    }

    /// The values of a slot for the rows that are left.
    fn load(
        &mut self,
        loaded: &mut [Option<ArrayRef>],
        slot: usize,
        window: &Range<usize>,
        left: &Left,
    ) -> Result<ArrayRef> {
        if let Some(values) = &loaded[slot] {
            return Ok(Arc::clone(values));
        }
        let source = &self.group.columns.sources()[slot];
        let values = match source.place() {
            None => source.nulls(left.count),
            Some(place) => {
                let values = self.with_reader(slot, place, |reader| {
                    let values = reader.read(window, left.mask.as_ref())?;
                    if values.len() != left.count {
                        return Err(Error::internal("a read of another length"));
                    }
                    Ok(values)
                })?;
                source.convert(values, self.group.columns.footer().file().url())?
            }
        };
        loaded[slot] = Some(Arc::clone(&values));
        Ok(values)
    }

    /// Runs `work` on the reader of a slot. Whatever goes wrong there is the file's fault.
    fn with_reader<T>(
        &mut self,
        slot: usize,
        place: &Place,
        work: impl FnOnce(&mut Reader) -> Result<T>,
    ) -> Result<T> {
        let source = &self.group.columns.sources()[slot];
        let file = self.group.columns.footer().file();
        let (chunks, ranges, reader) = (self.chunks, self.ranges, &mut self.readers[slot]);
        contain(file, Name(self.group.index, source), || {
            work(match reader {
                Some(reader) => reader,
                None => reader.insert(Reader::new(place, chunks, ranges)?),
            })
        })
    }

    /// Keeps the `passed` of the rows that are loaded, of columns that somebody still needs after
    /// the test at `place` of the order.
    fn compact(
        &self,
        loaded: &mut [Option<ArrayRef>],
        passed: &BooleanBuffer,
        place: usize,
    ) -> Result<()> {
        let later = &self.order[place + 1..];
        let filter = FilterBuilder::new(&BooleanArray::new(passed.clone(), None));
        let filter = filter.optimize().build();
        for (slot, values) in loaded.iter_mut().enumerate() {
            let asked = |&test: &usize| self.wanted.tests[test].slots().contains(&slot);
            let needed = self.wanted.output.contains(&slot) || later.iter().any(asked);
            *values = match values.take() {
                Some(values) if needed => Some(filter.filter(&values)?),
                _ => None,
            };
        }
        Ok(())
    }

    /// Makes sure that columns end where the row group does, if that is what `ranges` end with.
    fn finish(&mut self, ranges: &[Range<usize>]) -> Result<()> {
        let rows = usize::try_from(self.chunks.row_group().num_rows()).unwrap_or(0);
        if ranges.last().is_none_or(|range| range.end != rows) {
            return Ok(());
        }
        let sources = self.group.columns.sources().iter();
        for (source, reader) in sources.zip(self.readers.iter_mut()) {
            if let Some(reader) = reader {
                let name = Name(self.group.index, source);
                let file = self.group.columns.footer().file();
                contain(file, name, || reader.finish(rows))?;
            }
        }
        Ok(())
    }
}

/// A column of a row group, for errors.
struct Name<'a>(usize, &'a Source);

impl fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "row group {} column {:?}", self.0, self.1.field().name())
    }
}

/// The rows of a window that passed every test so far.
struct Left {
    /// Which; all of them where there is no mask.
    mask: Option<BooleanBuffer>,
    count: usize,
}

impl Left {
    fn all(rows: usize) -> Self {
        Left {
            mask: None,
            count: rows,
        }
    }

    /// Keeps those of the rows left that are among the `passed` of the window.
    fn keep(&mut self, passed: &BooleanBuffer) {
        let mask = match &self.mask {
            None => passed.clone(),
            Some(mask) => mask & passed,
        };
        self.count = mask.count_set_bits();
        self.mask = (self.count < mask.len()).then_some(mask);
    }

    /// Keeps those of the rows left that `passed` has, `count` of them.
    fn narrow(&mut self, passed: BooleanBuffer, count: usize) {
        if count == self.count {
            return;
        }
        let mask = match self.mask.take() {
            None => passed,
            Some(mask) => spread(&mask, &passed),
        };
        *self = Left {
            mask: Some(mask),
            count,
        };
    }
}

/// The set bits of `mask` for which the bit of the same rank in `passed` is set.
fn spread(mask: &BooleanBuffer, passed: &BooleanBuffer) -> BooleanBuffer {
    let mut bits = MutableBuffer::from_len_zeroed(mask.len().div_ceil(8));
    for (rank, place) in mask.set_indices().enumerate() {
        if passed.value(rank) {
            bit_util::set_bit(&mut bits, place);
        }
    }
    BooleanBuffer::new(bits.into(), 0, mask.len())
}
