//! What is in files, as far as it can be told without reading them.
//!
//! The footer of a Parquet file says how many rows there are and what each column is like. Other
//! files say nothing of the kind: of them the columns are known, and the size.

use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::datatypes::SchemaRef;
use arrow::util::display::array_value_to_string;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use kiln_engine::plan::{FileMeta, ScanFormat};
use kiln_engine::source::parquet::{ColumnStatistics, footer_statistics};
use kiln_engine::storage::{Stores, list_files};
use kiln_engine::{Error, Result};

use crate::scan;

/// Files that are looked into at once.
const FILES_AT_ONCE: usize = 32;

/// What is in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileStats {
    /// Where it is.
    pub url: String,
    /// Its size.
    pub bytes: u64,
    /// What it is: `Parquet`, `CSV` or `text`.
    pub format: &'static str,
    /// Its rows, if it says so.
    pub rows: Option<u64>,
    /// The pieces in which they come, if it says so.
    pub row_groups: Option<usize>,
    /// Its columns, in order.
    pub columns: Vec<ColumnStats>,
}

/// What a file says of one of its columns. Only the name and the type are known of every file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ColumnStats {
    /// Its name.
    pub name: String,
    /// Its type.
    pub data_type: String,
    /// How its values are written, e.g. `RLE_DICTIONARY`.
    pub encodings: Vec<String>,
    /// How they are compressed.
    pub codecs: Vec<String>,
    /// Its bytes in the file.
    pub bytes: Option<u64>,
    /// Its bytes before compression.
    pub uncompressed_bytes: Option<u64>,
    /// No value is less.
    pub least: Option<String>,
    /// No value is greater.
    pub greatest: Option<String>,
    /// Values that are null.
    pub nulls: Option<u64>,
}

/// What is in each of the files at `locations`.
///
/// # Errors
/// `Invalid` if there is no such file, or it is not what it is taken for.
pub(crate) async fn file_stats(stores: &Stores, locations: &[String]) -> Result<Vec<FileStats>> {
    let files = list_files(stores, locations).await?;
    let stats = stream::iter(files).map(|file| async move { stats_of(stores, file).await });
    stats.buffered(FILES_AT_ONCE).try_collect().await
}

async fn stats_of(stores: &Stores, file: FileMeta) -> Result<FileStats> {
    let FileMeta { url, bytes } = file;
    let location = [url.clone()];
    let (format, _) = scan::any_format(stores, &location).await?;
    let mut stats = FileStats {
        url,
        bytes,
        format: match format {
            ScanFormat::Parquet => "Parquet",
            ScanFormat::Csv(_) => "CSV",
            ScanFormat::Text(_) => "text",
        },
        rows: None,
        row_groups: None,
        columns: Vec::new(),
    };
    if format != ScanFormat::Parquet {
        let schema = scan::infer_schema(stores, &location, format).await?;
        stats.columns = columns_of(&schema);
        return Ok(stats);
    }
    let footer = footer_statistics(stores, &stats.url, bytes).await?;
    stats.rows = Some(footer.rows);
    stats.row_groups = Some(footer.row_groups);
    stats.columns = columns_of(&footer.schema);
    for (column, found) in stats.columns.iter_mut().zip(&footer.columns) {
        column.add(found)?;
    }
    Ok(stats)
}

fn columns_of(schema: &SchemaRef) -> Vec<ColumnStats> {
    let column = |field: &Arc<arrow::datatypes::Field>| ColumnStats {
        name: field.name().clone(),
        data_type: field.data_type().to_string(),
        encodings: Vec::new(),
        codecs: Vec::new(),
        bytes: None,
        uncompressed_bytes: None,
        least: None,
        greatest: None,
        nulls: None,
    };
    schema.fields().iter().map(column).collect()
}

impl ColumnStats {
    fn add(&mut self, found: &ColumnStatistics) -> Result<()> {
        self.encodings = found.encodings.iter().cloned().collect();
        self.codecs = found.codecs.iter().cloned().collect();
        self.bytes = Some(found.bytes);
        self.uncompressed_bytes = Some(found.uncompressed_bytes);
        self.least = found.least.as_ref().map(text).transpose()?;
        self.greatest = found.greatest.as_ref().map(text).transpose()?;
        self.nulls = found.nulls;
        Ok(())
    }
}

fn text(value: &ArrayRef) -> Result<String> {
    array_value_to_string(value, 0).map_err(Error::from)
}
