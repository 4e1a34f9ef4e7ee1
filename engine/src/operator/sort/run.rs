//! Rows in order on disk, and an index of them in memory.
//!
//! A run is written in blocks. A block has three columns: the prefixes of keys, which morsels of
//! the input the rows are from, and the rows as they are laid out. Of each block the index has its
//! first row's key, of which a long one is cut off: enough to tell which blocks can have rows of a
//! range of keys.

use std::cmp::Ordering;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BinaryArray, FixedSizeBinaryArray, UInt64Array};
use arrow::buffer::{Buffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, UInt64Type};
use arrow::record_batch::RecordBatch;

use crate::error::{Error, Result};
use crate::limits;
use crate::metrics::TaskMetrics;
use crate::operator::sort::Setup;
use crate::operator::sort::held::{Held, in_one};
use crate::operator::sort::keys::{PREFIX_BYTES, Prefix};
use crate::spill::{Run, RunWriter};

/// Bytes of a key that an index holds, beside the prefix.
const KEY_BYTES_MAX: usize = 256;

/// A row as it is compared with those of other runs.
#[derive(Clone, Copy)]
pub(super) struct RowOf<'a> {
    pub(super) prefix: Prefix,
    pub(super) position: u64,
    pub(super) row: &'a [u8],
}

/// A place between rows in order: before the first row that is not less than this one.
#[derive(Debug, Clone)]
pub(super) struct Mark {
    prefix: Prefix,
    /// What of the key is not in the prefix, possibly cut off.
    rest: Box<[u8]>,
    /// Rows with the same key are told apart by where they came from: the morsel and the run.
    tie: (u64, u32),
    /// The key has been cut off. Then all rows that begin with it are behind the mark.
    is_cut_off: bool,
}

impl Mark {
    fn new(setup: &Setup, row: RowOf<'_>, run: u32) -> Self {
        let rest = setup.keys.rest(&setup.layout, row.prefix, row.row);
        Mark {
            prefix: row.prefix,
            rest: rest[..rest.len().min(KEY_BYTES_MAX)].into(),
            tie: (row.position, run),
            is_cut_off: rest.len() > KEY_BYTES_MAX,
        }
    }

    /// Whether a row of run number `run` is before the mark.
    pub(super) fn is_behind(&self, setup: &Setup, row: RowOf<'_>, run: u32) -> bool {
        let before = match row.prefix.cmp(&self.prefix) {
            Ordering::Equal => {
                let rest = setup.keys.rest(&setup.layout, row.prefix, row.row);
                let looked_at = match self.is_cut_off {
                    true => rest.len().min(KEY_BYTES_MAX),
                    false => rest.len(),
                };
                setup.keys.compare_rest(&rest[..looked_at], &self.rest)
            }
            decided => decided,
        };
        match before {
            Ordering::Equal => !self.is_cut_off && (row.position, run) < self.tie,
            decided => decided.is_lt(),
        }
    }

    /// Compares the first row of a block with a mark, as far as both tell: one that is equal is not
    /// before the mark.
    fn compare(&self, setup: &Setup, mark: &Mark) -> Ordering {
        let keys = &setup.keys;
        let same = self.prefix.cmp(&mark.prefix);
        let same = same.then_with(|| keys.compare_rest(&self.rest, &mark.rest));
        same.then_with(|| match (self.is_cut_off, mark.is_cut_off) {
            (_, true) => Ordering::Equal,
            // Of two keys one is the other and more.
            (true, false) => keys.compare_rest(&[1], &[0]),
            (false, false) => self.tie.cmp(&mark.tie),
        })
    }

    /// Puts marks in order.
    pub(super) fn sort(setup: &Setup, marks: &mut [(&Mark, u64)]) {
        marks.sort_by(|(one, _), (other, _)| {
            let rests = || setup.keys.compare_rest(&one.rest, &other.rest);
            let keys = one.prefix.cmp(&other.prefix).then_with(rests);
            let tie = || (!one.is_cut_off, one.tie).cmp(&(!other.is_cut_off, other.tie));
            keys.then_with(tie)
        });
    }
}

/// Rows in order on disk.
pub(super) struct SortedRun {
    /// Runs with rows of the same morsel have numbers in the order of these rows.
    pub(super) number: u32,
    run: Run,
    /// The first row of each block, and the bytes of its rows.
    index: Vec<(Mark, u64)>,
    /// Bytes of the largest block in memory.
    pub(super) block_bytes: u64,
}

impl SortedRun {
    /// Writes the rows of `held`, in order.
    ///
    /// # Errors
    /// `Exhausted` if the disk is full.
    pub(super) fn write(setup: &Setup, held: Held, number: u32) -> Result<SortedRun> {
        let (rows, places) = held.into_rows();
        let mut places = in_one(places);
        rows.sort(setup, &mut places);
        setup.cancel.check()?;
        let mut writer = SortedRunWriter::new(setup, number)?;
        rows.pick(setup, &places, |place, row| {
            writer.add(RowOf {
                prefix: place.prefix,
                position: rows.position(place),
                row,
            })
        })?;
        writer.finish()
    }

    /// The index: the first row of each block, and the bytes of its rows.
    pub(super) fn marks(&self) -> &[(Mark, u64)] {
        &self.index
    }

    /// The blocks that may have rows from `start` up to `end`.
    pub(super) fn blocks(
        &self,
        setup: &Setup,
        start: Option<&Mark>,
        end: Option<&Mark>,
    ) -> std::ops::Range<usize> {
        let before = |mark: &Mark| {
            let is_before = |(first, _): &(Mark, u64)| first.compare(setup, mark).is_lt();
            self.index.partition_point(is_before)
        };
        // The last block that begins before the start may reach behind it.
        let first = start.map_or(0, |mark| before(mark).saturating_sub(1));
        first..end.map_or(self.index.len(), before)
    }

    /// The rows of a block.
    ///
    /// # Errors
    /// `Corrupt` if they are not what was written.
    pub(super) fn block(&self, number: usize) -> Result<RunBlock> {
        RunBlock::new(&self.run.block(number)?)
    }
}

/// A block of a run in memory.
pub(super) struct RunBlock {
    prefixes: FixedSizeBinaryArray,
    positions: UInt64Array,
    rows: BinaryArray,
}

impl RunBlock {
    fn new(block: &RecordBatch) -> Result<Self> {
        let [prefixes, positions, rows] = block.columns() else {
            return Err(Error::internal("a block of a sorted run has three columns"));
        };
        Ok(RunBlock {
            prefixes: prefixes.as_fixed_size_binary().clone(),
            positions: positions.as_primitive::<UInt64Type>().clone(),
            rows: rows.as_binary::<i32>().clone(),
        })
    }

    pub(super) fn rows(&self) -> usize {
        self.rows.len()
    }

    #[inline]
    pub(super) fn prefix(&self, row: usize) -> Prefix {
        let bytes = self.prefixes.value(row).try_into().expect("sixteen bytes");
        let both = u128::from_be_bytes(bytes);
        [(both >> 64) as u64, both as u64]
    }

    #[inline]
    pub(super) fn row(&self, row: usize) -> RowOf<'_> {
        RowOf {
            prefix: self.prefix(row),
            position: self.positions.value(row),
            row: self.rows.value(row),
        }
    }
}

fn block_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new(
            "prefix",
            DataType::FixedSizeBinary(PREFIX_BYTES as i32),
            false,
        ),
        Field::new("position", DataType::UInt64, false),
        Field::new("row", DataType::Binary, false),
    ]))
}

/// Writes a run, row by row.
pub(super) struct SortedRunWriter<'a> {
    setup: &'a Setup,
    schema: SchemaRef,
    writer: RunWriter,
    number: u32,
    index: Vec<(Mark, u64)>,
    block_bytes: u64,
    /// The block that is being filled.
    prefixes: Vec<u8>,
    positions: Vec<u64>,
    ends: Vec<i32>,
    rows: Vec<u8>,
}

impl<'a> SortedRunWriter<'a> {
    /// A run of this number.
    ///
    /// # Errors
    /// `Unavailable` if there is no place for temporary files.
    pub(super) fn new(setup: &'a Setup, number: u32) -> Result<Self> {
        let schema = block_schema();
        Ok(SortedRunWriter {
            setup,
            writer: RunWriter::new(setup.memory.disk(), &schema, 1)?,
            schema,
            number,
            index: Vec::new(),
            block_bytes: 0,
            prefixes: Vec::new(),
            positions: Vec::new(),
            ends: Vec::new(),
            rows: Vec::new(),
        })
    }

    /// Adds a row behind those before it.
    ///
    /// # Errors
    /// `Exhausted` if the disk is full.
    pub(super) fn add(&mut self, row: RowOf<'_>) -> Result<()> {
        if self.rows.len() + row.row.len() > self.setup.block_bytes
            || self.positions.len() >= limits::BATCH_ROWS
        {
            self.end_block()?;
        }
        if self.positions.is_empty() {
            self.index
                .push((Mark::new(self.setup, row, self.number), 0));
        }
        let [high, low] = row.prefix;
        self.prefixes.extend_from_slice(&high.to_be_bytes());
        self.prefixes.extend_from_slice(&low.to_be_bytes());
        self.positions.push(row.position);
        self.rows.extend_from_slice(row.row);
        let end = i32::try_from(self.rows.len());
        self.ends
            .push(end.map_err(|_| Error::exhausted("a row is too large to be sorted bytes>2GiB"))?);
        Ok(())
    }

    fn end_block(&mut self) -> Result<()> {
        if self.positions.is_empty() {
            return Ok(());
        }
        self.setup.cancel.check()?;
        let bytes = (self.rows.len() + self.positions.len() * (PREFIX_BYTES + 12)) as u64;
        self.block_bytes = self.block_bytes.max(bytes);
        if let Some((_, in_block)) = self.index.last_mut() {
            *in_block = self.rows.len() as u64;
        }
        let mut ends = Vec::with_capacity(self.ends.len() + 1);
        ends.push(0);
        ends.append(&mut self.ends);
        let positions = UInt64Array::from(std::mem::take(&mut self.positions));
        let prefixes = Buffer::from_vec(std::mem::take(&mut self.prefixes));
        let rows = Buffer::from_vec(std::mem::take(&mut self.rows));
        let ends = OffsetBuffer::new(ScalarBuffer::from(ends));
        let columns: Vec<ArrayRef> = vec![
            Arc::new(FixedSizeBinaryArray::try_new(
                PREFIX_BYTES as i32,
                prefixes,
                None,
            )?),
            Arc::new(positions),
            Arc::new(BinaryArray::try_new(ends, rows, None)?),
        ];
        let block = RecordBatch::try_new(Arc::clone(&self.schema), columns)?;
        self.writer.write(0, &block)
    }

    /// The run.
    ///
    /// # Errors
    /// As for [`add`](Self::add).
    pub(super) fn finish(mut self) -> Result<SortedRun> {
        self.end_block()?;
        let mut runs = self.writer.finish()?;
        let run = runs
            .pop()
            .ok_or_else(|| Error::internal("a file without its run"))?;
        TaskMetrics::count(&self.setup.metrics.spilled_bytes, run.bytes());
        Ok(SortedRun {
            number: self.number,
            run,
            index: self.index,
            block_bytes: self.block_bytes,
        })
    }
}
