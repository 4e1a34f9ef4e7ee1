//! Where functions put the rows that they make.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use arrow::record_batch::{RecordBatch, RecordBatchOptions};
use kiln_engine::udf::{EmitRows, UdfContext};
use kiln_engine::{Error, Result, limits};

use super::row::Row;

/// Rows of one record that are held back at most so that they can be taken back.
const HELD_ROWS_MAX: usize = 64 * limits::BATCH_ROWS;

/// Takes the rows that a function makes, and counts what it wants counted.
pub struct Emitter<'e, T: Row> {
    made: T::Builders,
    rows: usize,
    /// Rows before those of the record under way, if these may be taken back.
    mark: Option<usize>,
    schema: &'e SchemaRef,
    emit: EmitRows<'e>,
    context: &'e UdfContext,
    counted: BTreeMap<String, u64>,
    failed: Option<Error>,
}

impl<'e, T: Row> Emitter<'e, T> {
    pub(crate) fn new(schema: &'e SchemaRef, context: &'e UdfContext, emit: EmitRows<'e>) -> Self {
        Emitter {
            made: T::builders(),
            rows: 0,
            mark: None,
            schema,
            emit,
            context,
            counted: BTreeMap::new(),
            failed: None,
        }
    }

    /// Makes a row. After rows have been refused further ones are left out, and the attempt fails
    /// when the function returns.
    #[inline]
    pub fn emit(&mut self, row: T::Ref<'_>) {
        if self.failed.is_some() {
            return;
        }
        if let Err(error) = T::append(&mut self.made, row) {
            self.failed = Some(error);
            return;
        }
        self.rows += 1;
        if self.rows >= limits::BATCH_ROWS {
            self.full();
        }
    }

    #[cold]
    fn full(&mut self) {
        if self.mark.is_some() && self.rows < HELD_ROWS_MAX {
            return;
        }
        self.mark = None;
        self.flush();
    }

    /// From here on rows belong to a record, and can be taken back.
    pub(crate) fn begin_record(&mut self) {
        self.mark = None;
        if self.rows >= limits::BATCH_ROWS {
            self.flush();
        }
        self.mark = Some(self.rows);
    }

    /// Takes back the rows of the record; false if some are gone because they were too many.
    pub(crate) fn take_back(&mut self) -> bool {
        let Some(kept) = self.mark.take() else {
            return false;
        };
        if kept < self.rows {
            self.flush_first(kept);
        }
        true
    }

    /// Adds `n` to the job's counter called `name`. Every attempt counts by itself, and only those
    /// whose output is used are added up.
    pub fn count(&mut self, name: &str, n: u64) {
        if let Some(sum) = self.counted.get_mut(name) {
            *sum = sum.saturating_add(n);
        } else if self.counted.len() < limits::USER_COUNTERS_MAX {
            self.counted.insert(name.to_owned(), n);
        } else if let Err(error) = self.context.count(name, n) {
            self.failed.get_or_insert(error);
        }
    }

    /// What the attempt reads, for messages.
    pub fn input(&self) -> &str {
        self.context.input()
    }

    /// Whether rows are not taken any more; a long call may look and return.
    pub fn is_stopped(&self) -> bool {
        self.failed.is_some()
    }

    fn flush(&mut self) {
        self.flush_first(self.rows);
    }

    /// Emits the first rows; the others are gone.
    fn flush_first(&mut self, kept: usize) {
        let columns = T::finish(&mut self.made);
        let rows = RecordBatchOptions::new().with_row_count(Some(self.rows));
        self.rows = 0;
        let made = RecordBatch::try_new_with_options(Arc::clone(self.schema), columns, &rows);
        let emitted = made.map_err(Error::from).and_then(|made| {
            let mut starts = (0..kept).step_by(limits::BATCH_ROWS);
            starts.try_for_each(|start| {
                (self.emit)(made.slice(start, limits::BATCH_ROWS.min(kept - start)))
            })
        });
        if let Err(error) = emitted {
            self.failed = Some(error);
        }
    }

    /// Ends it: what is left is emitted, and what was counted is told.
    pub(crate) fn finish(mut self) -> Result<()> {
        if self.rows > 0 && self.failed.is_none() {
            self.flush();
        }
        for (name, n) in &self.counted {
            self.context.count(name, *n)?;
        }
        self.failed.map_or(Ok(()), Err)
    }
}
