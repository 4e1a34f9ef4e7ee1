//! What files say of their own rows: for Parquet the footers, for everything else the size.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::compute::kernels::cmp;
use futures::{StreamExt, TryStreamExt, stream};
use kiln_engine::Result;
use kiln_engine::expr::eval::literal_value;
use kiln_engine::limits;
use kiln_engine::plan::{FileMeta, Scan, ScanFormat};
use kiln_engine::source::parquet::{FileStatistics, footer_statistics};
use kiln_engine::storage::Stores;

use super::statistics::{ColumnStatistics, TableStatistics};

/// Footers that are read for one table; what the files behind them hold is taken to be alike.
const FOOTERS_MAX: usize = 256;

/// What is known of the rows of `files`, which `scan` reads.
///
/// # Errors
/// What reading a footer answered.
pub(super) async fn of_files(
    files: &[FileMeta],
    scan: &Scan,
    stores: &Stores,
) -> Result<TableStatistics> {
    let bytes = files.iter().map(|file| file.bytes).sum();
    let unknown = TableStatistics {
        bytes,
        ..TableStatistics::default()
    };
    if scan.format != ScanFormat::Parquet || files.is_empty() {
        return Ok(unknown);
    }
    let read = &files[..files.len().min(FOOTERS_MAX)];
    // Futures that own what they look at: a task that is spawned must not borrow through closures.
    let footers: Vec<_> = read
        .iter()
        .map(|file| footer_of(stores, file.clone()))
        .collect();
    let footers: Vec<_> = stream::iter(footers)
        .buffered(limits::PREFETCH_REQUESTS)
        .try_collect()
        .await?;
    let rows: u64 = footers.iter().map(|footer| footer.rows).sum();
    let covered: u64 = read.iter().map(|file| file.bytes).sum();
    let share = bytes as f64 / covered.max(1) as f64;
    let whole = read.len() == files.len();
    Ok(TableStatistics {
        rows: Some((rows as f64 * share) as u64),
        columns: if whole {
            columns(&footers, scan)
        } else {
            BTreeMap::new()
        },
        ..unknown
    })
}

async fn footer_of(stores: &Stores, file: FileMeta) -> Result<Arc<FileStatistics>> {
    footer_statistics(stores, &file.url, file.bytes).await
}

/// What is known of each column of the scan over all files.
fn columns(files: &[Arc<FileStatistics>], scan: &Scan) -> BTreeMap<String, ColumnStatistics> {
    let fields = scan.schema.fields().iter();
    let columns = fields.filter_map(|field| {
        let of_file = |file: &Arc<FileStatistics>| {
            let column = file.schema.index_of(field.name()).ok()?;
            let same = file.schema.field(column).data_type() == field.data_type();
            same.then(|| file.columns[column].clone())
        };
        let all: Vec<_> = files.iter().map(of_file).collect::<Option<_>>()?;
        let ends =
            |end: fn(&kiln_engine::source::parquet::ColumnStatistics) -> &Option<ArrayRef>| {
                all.iter()
                    .map(|one| end(one).clone())
                    .collect::<Option<Vec<_>>>()
            };
        let least = ends(|one| &one.least).and_then(|all| extreme(all, false));
        let greatest = ends(|one| &one.greatest).and_then(|all| extreme(all, true));
        let nulls = all.iter().map(|one| one.nulls).sum();
        let known = ColumnStatistics {
            min: least.and_then(|value| literal_value(&value)),
            max: greatest.and_then(|value| literal_value(&value)),
            nulls,
            distinct: None,
        };
        Some((field.name().clone(), known))
    });
    columns.collect()
}

/// The least or the greatest of arrays of length one.
fn extreme(values: Vec<ArrayRef>, greatest: bool) -> Option<ArrayRef> {
    values.into_iter().reduce(|best, value| {
        let better = if greatest {
            cmp::gt(&value, &best)
        } else {
            cmp::lt(&value, &best)
        };
        match better {
            Ok(better) if better.value(0) => value,
            _ => best,
        }
    })
}
