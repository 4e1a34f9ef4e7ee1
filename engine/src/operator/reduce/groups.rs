//! From sorted rows to groups.

use std::ops::Range;

use arrow::array::ArrayRef;
use arrow::compute::partition;
use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use arrow::row::{RowConverter, SortField};

use crate::context::CancelToken;
use crate::error::Result;
use crate::operator::runs::SortedRows;
use crate::udf::Groups;

/// The groups of rows that are sorted by the keys of groups.
pub(super) struct SortedGroups {
    source: SortedRows,
    keys: Vec<usize>,
    converter: RowConverter,
    batch: RecordBatch,
    /// Where groups begin and end in the batch.
    ranges: Vec<Range<usize>>,
    /// The first of them that has not been given.
    next: usize,
    state: State,
    cancel: CancelToken,
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    /// Between groups.
    Between,
    /// In the group that begins with the next range.
    Begun,
    /// In a group of which a range was given.
    Within,
}

impl SortedGroups {
    /// The groups of rows of `schema`, whose keys are the columns at `keys`.
    ///
    /// # Errors
    /// `Invalid` for a key of a type without order.
    pub(super) fn new(
        source: SortedRows,
        keys: &[usize],
        schema: &SchemaRef,
        cancel: CancelToken,
    ) -> Result<Self> {
        let types = keys.iter().map(|key| schema.field(*key).data_type());
        let fields = types.map(|data_type| SortField::new(data_type.clone()));
        Ok(SortedGroups {
            source,
            keys: keys.to_vec(),
            converter: RowConverter::new(fields.collect())?,
            batch: RecordBatch::new_empty(schema.clone()),
            ranges: Vec::new(),
            next: 0,
            state: State::Between,
            cancel,
        })
    }

    fn key_columns(&self, batch: &RecordBatch) -> Vec<ArrayRef> {
        let keys = self.keys.iter();
        keys.map(|key| batch.column(*key).clone()).collect()
    }

    /// Takes the next batch, if there is one: says whether its first group is the last one of the
    /// batch before.
    fn load(&mut self) -> Result<Option<bool>> {
        self.cancel.check()?;
        let batch = loop {
            match self.source.next() {
                None => return Ok(None),
                Some(batch) => {
                    let batch = batch?;
                    if batch.num_rows() > 0 {
                        break batch;
                    }
                }
            }
        };
        let columns = self.key_columns(&batch);
        self.ranges = match columns.is_empty() {
            true => std::iter::once(0..batch.num_rows()).collect(),
            false => partition(&columns)?.ranges(),
        };
        self.next = 0;
        let continues = match self.batch.num_rows().checked_sub(1) {
            None => false,
            Some(last) => {
                let ends = [(&self.batch, last), (&batch, 0)];
                let ends = ends.map(|(batch, row)| {
                    let columns = self.key_columns(batch).into_iter();
                    let row: Vec<ArrayRef> = columns.map(|c| c.slice(row, 1)).collect();
                    self.converter.convert_columns(&row)
                });
                let [before, after] = ends;
                before?.row(0) == after?.row(0)
            }
        };
        self.batch = batch;
        Ok(Some(continues))
    }
}

impl Groups for SortedGroups {
    fn next_group(&mut self) -> Result<bool> {
        while self.state != State::Between {
            self.next_rows()?;
        }
        if self.next == self.ranges.len() && self.load()?.is_none() {
            return Ok(false);
        }
        self.state = State::Begun;
        Ok(true)
    }

    fn next_rows(&mut self) -> Result<Option<(&RecordBatch, Range<usize>)>> {
        let goes_on = match self.state {
            State::Between => false,
            State::Begun => true,
            State::Within if self.next < self.ranges.len() => false,
            // Otherwise what comes is a batch that begins with another group, or nothing.
            State::Within => self.load()? == Some(true),
        };
        if !goes_on {
            self.state = State::Between;
            return Ok(None);
        }
        self.state = State::Within;
        let range = self.ranges[self.next].clone();
        self.next += 1;
        Ok(Some((&self.batch, range)))
    }
}
