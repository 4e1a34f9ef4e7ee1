//! What the footer of a file says of its rows, for planning.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef};
use arrow::compute::{SortOptions, sort_limit};
use arrow::datatypes::{Field, SchemaRef};
use parquet::file::metadata::ColumnChunkMetaData;

use super::bounds::leaf_bounds;
use super::footer::Footer;
use crate::error::Result;
use crate::metrics::TaskMetrics;
use crate::source::input::InputFile;
use crate::storage::Stores;

/// What the footer of a file says.
#[derive(Debug, Clone)]
pub struct FileStatistics {
    /// The columns, as [`super::infer_schema`] gives them.
    pub schema: SchemaRef,
    /// Rows of the file.
    pub rows: u64,
    /// How many pieces they come in.
    pub row_groups: usize,
    /// What is known of each column, in order.
    pub columns: Vec<ColumnStatistics>,
}

/// What the footer of a file says of a column.
#[derive(Debug, Clone)]
pub struct ColumnStatistics {
    /// No value is less: an array of length one of the column's type. A long string may be cut
    /// short, and NaN is less than no bound and greater than none.
    pub least: Option<ArrayRef>,
    /// No value is greater; as for `least`.
    pub greatest: Option<ArrayRef>,
    /// How many are null.
    pub nulls: Option<u64>,
    /// How its values are written, by the names of the format; dictionaries and levels included.
    pub encodings: BTreeSet<String>,
    /// How they are compressed.
    pub codecs: BTreeSet<String>,
    /// Its bytes as stored.
    pub bytes: u64,
    /// Its bytes before compression, after encoding.
    pub uncompressed_bytes: u64,
}

/// What the footer of the file of `bytes` bytes at `url` says. Footers are kept in `stores`: asking
/// again costs no more than looking whether the file is still the same.
///
/// # Errors
/// `Invalid`, naming the file, if it is not a Parquet file that can be read.
pub async fn footer_statistics(
    stores: &Stores,
    url: &str,
    bytes: u64,
) -> Result<Arc<FileStatistics>> {
    let file = InputFile::new(url, bytes, stores, &Arc::new(TaskMetrics::default()))?;
    let footer = Footer::cached(file, stores.footers()).await?;
    footer.statistics()
}

/// Adds up what `footer` says of each row group.
pub(super) fn of_file(footer: &Footer) -> Result<FileStatistics> {
    let groups = footer.metadata().metadata().row_groups();
    let roots = footer.schema().fields().iter().enumerate();
    let columns = roots.map(|(root, field)| of_column(footer, root, field));
    let rows = groups.iter().map(|group| u64::try_from(group.num_rows()));
    Ok(FileStatistics {
        schema: super::nullable(footer.schema()),
        rows: rows.map(|rows| rows.unwrap_or(0)).sum(),
        row_groups: groups.len(),
        columns: columns.collect::<Result<_>>()?,
    })
}

fn of_column(footer: &Footer, root: usize, field: &Field) -> Result<ColumnStatistics> {
    let groups = footer.metadata().metadata().row_groups();
    let leaves = footer.leaves(root);
    let chunks = || {
        groups
            .iter()
            .flat_map(|group| &group.columns()[leaves.clone()])
    };
    let sum = |bytes: fn(&ColumnChunkMetaData) -> i64| {
        chunks()
            .map(|chunk| u64::try_from(bytes(chunk)).unwrap_or(0))
            .sum()
    };
    let mut found = ColumnStatistics {
        least: None,
        greatest: None,
        nulls: None,
        encodings: chunks()
            .flat_map(ColumnChunkMetaData::encodings)
            .map(|encoding| encoding.to_string())
            .collect(),
        codecs: chunks().map(codec).collect(),
        bytes: sum(|chunk| chunk.compressed_size()),
        uncompressed_bytes: sum(|chunk| chunk.uncompressed_size()),
    };
    let all: Vec<usize> = (0..groups.len()).collect();
    let Some(bounds) = leaf_bounds(footer, field, leaves.start, &all)? else {
        return Ok(found);
    };
    found.nulls = bounds.nulls.iter().copied().sum();
    // A row group of nulls has no bounds, and needs none.
    let empty = bounds.nulls.iter().zip(&bounds.rows);
    let empty: Vec<bool> = empty.map(|(nulls, rows)| *nulls == Some(*rows)).collect();
    found.least = extreme(&bounds.least, &empty, false)?;
    found.greatest = extreme(&bounds.greatest, &empty, true)?;
    Ok(found)
}

/// The name of a codec. A file does not say at which level it was used.
fn codec(chunk: &ColumnChunkMetaData) -> String {
    let text = format!("{:?}", chunk.compression());
    let name = text.split('(').next().unwrap_or_default();
    name.to_ascii_lowercase()
}

/// The least or greatest of `values`; none if one that is not `empty` is unknown.
fn extreme(values: &ArrayRef, empty: &[bool], descending: bool) -> Result<Option<ArrayRef>> {
    let mut units = empty.iter().enumerate();
    if values.data_type().is_nested()
        || units.any(|(unit, empty)| values.is_null(unit) && !empty)
        || values.null_count() == values.len()
    {
        return Ok(None);
    }
    let options = SortOptions {
        descending,
        nulls_first: false,
    };
    Ok(Some(sort_limit(values, Some(options), Some(1))?))
}
