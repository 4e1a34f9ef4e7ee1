//! Groups within groups: the keys of a partition, one after the other.
//!
//! A job with a partition function is brought together by its number, and sorted by key within
//! it, so that to the engine all keys of a number are one group. Here it is taken apart.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::compute::partition;
use arrow::record_batch::RecordBatch;
use arrow::row::{OwnedRow, RowConverter, SortField};
use kiln_engine::Result;
use kiln_engine::udf::{EmitRows, GroupBody, Groups, UdfContext};

/// A function over groups by the first `keys` columns, that is given groups by something of which
/// these are a part, in order of them.
pub(super) struct Regrouped {
    pub(super) body: Arc<dyn GroupBody>,
    pub(super) keys: usize,
}

impl GroupBody for Regrouped {
    fn call(
        &self,
        groups: &mut dyn Groups,
        context: &UdfContext,
        emit: EmitRows<'_>,
    ) -> Result<()> {
        let mut inner = Inner {
            outer: groups,
            keys: self.keys,
            converter: None,
            key: None,
            batch: None,
            ranges: Vec::new(),
            next: 0,
            state: State::Outside,
        };
        self.body.call(&mut inner, context, emit)
    }
}

struct Inner<'g> {
    outer: &'g mut dyn Groups,
    keys: usize,
    converter: Option<RowConverter>,
    /// The key of the group that was begun last, unless an outer group has been begun since.
    key: Option<OwnedRow>,
    batch: Option<RecordBatch>,
    /// Where groups begin and end in the batch.
    ranges: Vec<Range<usize>>,
    /// The first of them that has not been given.
    next: usize,
    state: State,
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    /// In no outer group.
    Outside,
    /// Between groups of an outer group.
    Between,
    /// In the group that begins with the next range.
    Begun,
    /// In a group of which a range was given.
    Within,
}

impl Inner<'_> {
    /// Takes the next rows of the outer group; false if there are none.
    fn load(&mut self) -> Result<bool> {
        let Some((batch, rows)) = self.outer.next_rows()? else {
            return Ok(false);
        };
        let batch = batch.slice(rows.start, rows.len());
        self.ranges = partition(&batch.columns()[..self.keys])?.ranges();
        self.next = 0;
        self.batch = Some(batch);
        Ok(true)
    }

    /// The key of the next range.
    fn next_key(&mut self) -> Result<Option<OwnedRow>> {
        let (Some(batch), Some(range)) = (&self.batch, self.ranges.get(self.next)) else {
            return Ok(None);
        };
        let columns = batch.columns()[..self.keys].iter();
        let columns: Vec<ArrayRef> = columns.map(|c| c.slice(range.start, 1)).collect();
        let converter = match &self.converter {
            Some(converter) => converter,
            None => {
                let types = columns.iter().map(|column| column.data_type().clone());
                let fields = types.map(SortField::new).collect();
                self.converter.insert(RowConverter::new(fields)?)
            }
        };
        Ok(Some(converter.convert_columns(&columns)?.row(0).owned()))
    }
}

impl Groups for Inner<'_> {
    fn next_group(&mut self) -> Result<bool> {
        while matches!(self.state, State::Begun | State::Within) {
            self.next_rows()?;
        }
        loop {
            if self.state == State::Between && (self.next < self.ranges.len() || self.load()?) {
                self.key = self.next_key()?;
                self.state = State::Begun;
                return Ok(true);
            }
            (self.ranges, self.next) = (Vec::new(), 0);
            if !self.outer.next_group()? {
                self.state = State::Outside;
                return Ok(false);
            }
            self.state = State::Between;
        }
    }

    fn next_rows(&mut self) -> Result<Option<(&RecordBatch, Range<usize>)>> {
        let goes_on = match self.state {
            State::Outside | State::Between => false,
            State::Begun => true,
            State::Within if self.next < self.ranges.len() => false,
            // Otherwise what comes may begin with the same key.
            State::Within => self.load()? && self.next_key()? == self.key,
        };
        let range = match (goes_on, &self.batch, self.ranges.get(self.next)) {
            (true, Some(_), Some(range)) => range.clone(),
            _ => {
                if self.state == State::Within {
                    self.state = State::Between;
                }
                return Ok(None);
            }
        };
        self.state = State::Within;
        self.next += 1;
        Ok(self.batch.as_ref().map(|batch| (batch, range)))
    }
}
