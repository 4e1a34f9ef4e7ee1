//! Parquet files: one morsel per row group.
//!
//! The footer of each file is read first ([`footer`]); it says which row groups start in the
//! task's splits and where the wanted columns lie in the file. Their bytes are fetched ahead, as
//! far as the limits allow, and decoded by the lane that takes the morsel ([`decode`]). They are
//! reserved from the fetch until they have been decoded ([`held`]).
//!
//! Nothing in a file is trusted: what its footer claims is compared with the file's size before
//! anything is read or allocated, and a panic of the decoder is an error of the file.

#[cfg_attr(
    not(test),
    expect(dead_code, reason = "the scan is going to read its columns with it")
)]
mod column;
mod decode;
mod footer;
mod held;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use futures::stream::{self, StreamExt, TryStreamExt};
use object_store::ObjectStore;
use object_store::path::Path;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;

use crate::context::TaskContext;
use crate::error::{Error, Result};
use crate::limits;
use crate::operator::Morsel;
use crate::plan::{ScanSpec, Split};
use crate::source::{ColumnFilter, MorselStream};
use crate::source::input::InputFile;
use footer::Footer;
use held::Holders;

/// Bytes that one permit of the prefetch budget stands for.
const PERMIT_BYTES: u64 = 4 << 10;

/// The morsels of `splits`: the row groups that start in one of them.
///
/// # Errors
/// `Internal` if the projection does not fit the schema. The stream's own errors name the file.
pub fn open(
    spec: &ScanSpec,
    splits: Vec<Split>,
    filters: Vec<ColumnFilter>,
    ctx: &TaskContext,
) -> Result<MorselStream> {
    let _ = filters;
    let project = spec.file_schema.project(&spec.projection);
    let scan = Arc::new(Scan {
        schema: Arc::new(project.map_err(|error| {
            Error::internal("a scan's projection does not fit its columns").with_source(error)
        })?),
        ctx: ctx.clone(),
        ahead: Arc::new(Semaphore::new(permits(limits::PREFETCH_BYTES) as usize)),
        holders: Arc::default(),
    });
    let mut files: BTreeMap<String, Vec<Split>> = BTreeMap::new();
    for split in splits {
        files.entry(split.url.clone()).or_default().push(split);
    }
    let footers = Arc::clone(&scan);
    let stream = stream::iter(files.into_values())
        .map(move |splits| row_groups(Arc::clone(&footers), splits))
        .buffered(limits::PREFETCH_REQUESTS)
        .map_ok(|row_groups| stream::iter(row_groups.into_iter().map(Ok)))
        .try_flatten()
        .map(move |row_group| fetched(Arc::clone(&scan), row_group))
        .buffer_unordered(limits::PREFETCH_REQUESTS);
    Ok(stream.boxed())
}

/// The columns of a Parquet file, strings as views. Every column may be null: that this file has
/// none says nothing of the next.
///
/// # Errors
/// `Invalid`, naming the file, if it is not a Parquet file that can be read.
pub async fn infer_schema(
    store: Arc<dyn ObjectStore>,
    path: &Path,
    url: &str,
    file_bytes: u64,
) -> Result<SchemaRef> {
    let file = InputFile::in_store(store, path, url, file_bytes);
    let footer = Footer::read(file).await?;
    let fields = footer.schema().fields().iter();
    let fields = fields.map(|field| field.as_ref().clone().with_nullable(true));
    Ok(Arc::new(Schema::new(fields.collect::<Vec<_>>())))
}

struct Scan {
    /// The columns to produce.
    schema: SchemaRef,
    ctx: TaskContext,
    /// What may still be fetched ahead.
    ahead: Arc<Semaphore>,
    /// The row groups whose bytes are in memory.
    holders: Arc<Holders>,
}

struct RowGroup {
    columns: Arc<decode::Columns>,
    index: usize,
}

/// The row groups of one file that start in one of `splits`.
async fn row_groups(scan: Arc<Scan>, splits: Vec<Split>) -> Result<Vec<RowGroup>> {
    let Some(first) = splits.first() else {
        return Ok(Vec::new());
    };
    let (stores, metrics) = (&scan.ctx.stores, &scan.ctx.metrics);
    let file = InputFile::new(&first.url, first.file_bytes, stores, metrics)?;
    let footer = Footer::read(file).await?;
    let columns = Arc::new(decode::Columns::new(footer, &scan.schema)?);
    let starts = columns.footer().row_group_starts();
    let within = |start: u64| {
        splits
            .iter()
            .any(|split| (split.start..split.end).contains(&start))
    };
    let wanted = starts.enumerate().filter(|(_, start)| within(*start));
    Ok(wanted
        .map(|(index, _)| RowGroup {
            columns: Arc::clone(&columns),
            index,
        })
        .collect())
}

/// Fetches a row group's bytes and makes a morsel of them. The fetch goes on by itself while
/// nobody polls, and ends when it is dropped.
async fn fetched(scan: Arc<Scan>, row_group: Result<RowGroup>) -> Result<Morsel> {
    let RowGroup { columns, index } = row_group?;
    let mut fetch = JoinSet::new();
    fetch.spawn(async move {
        let ranges = columns.ranges(index);
        let bytes = ranges.iter().map(|range| range.end - range.start).sum();
        let permit = ahead(&scan, bytes).await?;
        let held = Holders::reserve(&scan.holders, &scan.ctx.memory, bytes).await;
        let held = held.map_err(|error| {
            let file = columns.footer().file().url();
            error.context(format!("cannot read row group {index} file={file}"))
        })?;
        let data = columns.footer().file().read_all(ranges.clone()).await?;
        let morsel: Morsel = Box::new(move |emit| {
            // From here on the bytes are computed on, and others may be fetched.
            drop(permit);
            let decoded = columns.decode(index, ranges, data, emit);
            drop(held);
            decoded
        });
        Ok(morsel)
    });
    match fetch.join_next().await {
        Some(Ok(morsel)) => morsel,
        Some(Err(error)) => Err(Error::internal("a fetch ended early").with_source(error)),
        None => Err(Error::internal("a fetch without an answer")),
    }
}

/// Waits until `bytes` more may be fetched ahead. A row group larger than the whole budget takes
/// all of it.
async fn ahead(scan: &Scan, bytes: u64) -> Result<OwnedSemaphorePermit> {
    let wanted = permits(bytes.min(limits::PREFETCH_BYTES));
    let permit = Arc::clone(&scan.ahead).acquire_many_owned(wanted).await;
    permit.map_err(|error| Error::internal("the prefetch budget is closed").with_source(error))
}

fn permits(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(PERMIT_BYTES)).unwrap_or(u32::MAX)
}
