//! One lane of the file sink where a column names directories: each has files of its own.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, AsArray, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::record_batch::{RecordBatch, RecordBatchOptions};

use super::Files;
use crate::error::{Error, Result};
use crate::expr::typing::unknown_column;
use crate::limits;
use crate::operator::{Emit, Operator};
use crate::plan::is_directory_name;

/// Deals rows out to the files of directories.
pub(super) struct DirectoryLane {
    files: Arc<Files>,
    lane: usize,
    /// Place of the column among those of rows.
    column: usize,
    directories: BTreeMap<String, Box<dyn Operator>>,
}

impl DirectoryLane {
    /// Deals out by the column called `name`.
    ///
    /// # Errors
    /// `Invalid` if there is none.
    pub(super) fn new(files: &Arc<Files>, lane: usize, name: &str) -> Result<Self> {
        let column = files.rows.index_of(name);
        Ok(DirectoryLane {
            files: Arc::clone(files),
            lane,
            column: column.map_err(|_| unknown_column(name, &files.rows))?,
            directories: BTreeMap::new(),
        })
    }

    /// What writes to a directory.
    fn directory(&mut self, name: &str) -> Result<&mut Box<dyn Operator>> {
        if !self.directories.contains_key(name) {
            if !is_directory_name(name) {
                return Err(Error::invalid(format!(
                    "not a name for a directory of an output: it may have letters, digits, -, =, \
                     and behind its first character . and _ name={name:?}"
                )));
            }
            if self.directories.len() >= limits::OUTPUT_DIRECTORIES_MAX {
                return Err(Error::invalid(format!(
                    "an output has too many directories name={name:?} max={}",
                    limits::OUTPUT_DIRECTORIES_MAX
                )));
            }
        }
        let make = || self.files.lane(self.lane, Some(name.to_owned()));
        Ok(self.directories.entry(name.to_owned()).or_insert_with(make))
    }
}

impl Operator for DirectoryLane {
    fn push(&mut self, batch: RecordBatch, emit: Emit<'_>) -> Result<()> {
        let names = batch.column(self.column).as_string_view_opt();
        let names = names.ok_or_else(|| Error::internal("directories are named by texts"))?;
        let mut rows: BTreeMap<&str, Vec<u32>> = BTreeMap::new();
        for row in 0..names.len() {
            if names.is_null(row) {
                return Err(Error::invalid(
                    "a row names no directory: the column is null",
                ));
            }
            rows.entry(names.value(row)).or_default().push(row as u32);
        }
        let mut columns = batch.columns().to_vec();
        columns.remove(self.column);
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        let schema = Arc::clone(&self.files.schema);
        let written = RecordBatch::try_new_with_options(schema, columns, &options)?;
        for (name, rows) in rows {
            let part = match rows.len() == written.num_rows() {
                true => written.clone(),
                false => take_record_batch(&written, &UInt32Array::from(rows))?,
            };
            self.directory(name)?.push(part, emit)?;
        }
        Ok(())
    }

    fn finish(&mut self, emit: Emit<'_>) -> Result<()> {
        let mut directories = self.directories.values_mut();
        directories.try_for_each(|directory| directory.finish(emit))
    }
}
