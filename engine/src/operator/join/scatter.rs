//! Rows on their way to disk, each to the run of its partition.
//!
//! Rows are held back until there are enough for a block of every partition to be worth it. Each
//! thread has its own end, with its own file, so that none waits for another to compress.

use std::sync::Arc;

use arrow::array::Array;
use arrow::compute::interleave;
use arrow::datatypes::SchemaRef;
use arrow::record_batch::{RecordBatch, RecordBatchOptions};

use crate::error::Result;
use crate::memory::Reservation;
use crate::metrics::TaskMetrics;
use crate::operator::join::partition::{PARTITIONS, Places};
use crate::operator::join::piece;
use crate::operator::join::{OWNER, Resources};
use crate::operator::order::compact;
use crate::spill::{Run, RunWriter};

/// Bytes that are held back: about 64 KiB for each partition.
const HELD_BYTES: u64 = (64 << 10) * PARTITIONS as u64;

/// A row held back: its batch and its place there.
type Place = (usize, usize);

/// One thread's end of some partitions.
pub(super) struct Scatter {
    resources: Resources,
    schema: SchemaRef,
    writer: RunWriter,
    held: Vec<RecordBatch>,
    /// The rows held back, of each partition.
    places: Vec<Vec<Place>>,
    bytes: u64,
    reserved: Reservation,
}

impl Scatter {
    /// For rows of `schema`.
    ///
    /// # Errors
    /// `Unavailable` if there is no place for temporary files.
    pub(super) fn new(resources: &Resources, schema: &SchemaRef) -> Result<Self> {
        Ok(Scatter {
            resources: resources.clone(),
            schema: Arc::clone(schema),
            writer: RunWriter::new(resources.memory.disk(), schema, PARTITIONS)?,
            held: Vec::new(),
            places: vec![Vec::new(); PARTITIONS],
            bytes: 0,
            reserved: resources.memory.reserve(OWNER),
        })
    }

    /// Takes the rows of `batch`, which belong to the partitions `places`.
    ///
    /// # Errors
    /// `Exhausted` if the disk is full.
    pub(super) fn push(&mut self, batch: RecordBatch, places: &Places) -> Result<()> {
        self.resources.cancel.check()?;
        let (number, rows) = (self.held.len(), batch.num_rows());
        match places {
            // However many rows without columns there are, they are a block of a few bytes.
            Places::Together if batch.num_columns() == 0 => return self.put(0, &batch),
            Places::Together => self.places[0].extend((0..rows).map(|row| (number, row))),
            Places::Each(places) => {
                for (row, place) in places.iter().enumerate() {
                    self.places[*place as usize].push((number, row));
                }
            }
        }
        let bytes = piece::bytes(&batch) + (rows * size_of::<Place>()) as u64;
        self.held.push(batch);
        self.bytes += bytes;
        let is_refused = !self.reserved.try_grow(bytes);
        let is_much = |most: u64| self.bytes > most;
        match is_much(HELD_BYTES) || is_refused && is_much(self.resources.unasked_bytes) {
            true => self.write(),
            false => Ok(()),
        }
    }

    /// Writes what is held back.
    fn write(&mut self) -> Result<()> {
        for run in 0..PARTITIONS {
            let places = std::mem::take(&mut self.places[run]);
            if places.is_empty() {
                continue;
            }
            self.resources.cancel.check()?;
            let block = self.gather(&places)?;
            self.put(run, &block)?;
            self.places[run] = places;
            self.places[run].clear();
        }
        self.held.clear();
        self.bytes = 0;
        self.reserved.shrink(self.reserved.bytes());
        Ok(())
    }

    fn put(&mut self, run: usize, block: &RecordBatch) -> Result<()> {
        let written = self.writer.write(run, block);
        written.map_err(|error| error.context(OWNER))
    }

    fn gather(&self, places: &[Place]) -> Result<RecordBatch> {
        let column = |column: usize| {
            let parts = self.held.iter().map(|batch| batch.column(column).as_ref());
            let parts: Vec<&dyn Array> = parts.collect();
            interleave(&parts, places)
        };
        let columns = (0..self.schema.fields().len()).map(column);
        let columns = columns.collect::<Result<Vec<_>, _>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(places.len()));
        let schema = Arc::clone(&self.schema);
        // Texts are views into what the rows came from, of which a file wants only theirs.
        compact(RecordBatch::try_new_with_options(
            schema, columns, &options,
        )?)
    }

    /// A run of each partition; some may be empty.
    ///
    /// # Errors
    /// As for [`push`](Self::push).
    pub(super) fn finish(mut self) -> Result<Vec<Run>> {
        self.write()?;
        let metrics = &self.resources.metrics;
        TaskMetrics::count(&metrics.spilled_bytes, self.writer.bytes());
        self.writer.finish()
    }
}
