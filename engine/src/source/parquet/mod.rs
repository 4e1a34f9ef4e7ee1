//! Parquet files: a row group, or a piece of one, is a morsel.
//!
//! The footer of each file is read first ([`footer`]). Its statistics say which row groups may have
//! rows that pass the predicate and the key filters of later joins ([`plan`], [`prune`],
//! [`bounds`]), bloom filters say which do not have a value ([`bloom`]), and the page index says
//! which rows of the others are worth a look ([`pages`]). The columns that somebody needs are
//! fetched ahead, as far as the limits allow, and decoded by the lane that takes the morsel: first
//! what the predicate asks about, then the rest for the rows that are left ([`decode`],
//! [`reader`]). The bytes are reserved from the fetch until they have been decoded ([`held`]).
//!
//! Nothing in a file is trusted: what its footer claims is compared with the file's size before
//! anything is read or allocated, and a panic of the decoder is an error of the file.

mod bloom;
mod bounds;
mod chunk;
mod column;
mod columns;
mod decode;
mod footer;
mod held;
mod pages;
mod plan;
mod prune;
mod reader;
mod slow;
mod statistics;
mod test;
#[cfg(test)]
mod tests;
mod wanted;

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use object_store::ObjectStore;
use object_store::path::Path;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;

use crate::context::TaskContext;
use crate::error::{Error, Result};
use crate::limits;
use crate::metrics::TaskMetrics;
use crate::operator::Morsel;
use crate::plan::{ScanSpec, Split};
use crate::source::input::InputFile;
use crate::source::{ColumnFilter, PlacedMorsels, place};
use chunk::Chunks;
use columns::Columns;
use decode::RowGroup;
use footer::Footer;
use held::{Held, Holders};
use pages::Usefulness;
use wanted::Wanted;

pub use statistics::{ColumnStatistics, FileStatistics, footer_statistics};

/// Bytes that one permit of the prefetch budget stands for.
const PERMIT_BYTES: u64 = 4 << 10;

/// Morsels per lane below which row groups are cut into pieces.
const MORSELS_PER_LANE: usize = 4;

/// The rows of `splits`, of the row groups that start in one of them, that pass the predicate of
/// `spec` and, as far as that is easy to tell, the `filters`.
///
/// # Errors
/// `Internal` if the spec does not fit its own schema, `Invalid` if its predicate does not. The
/// stream's own errors name the file.
pub fn open(
    spec: &ScanSpec,
    splits: Vec<Split>,
    filters: Vec<ColumnFilter>,
    ctx: &TaskContext,
) -> Result<PlacedMorsels> {
    let scan = Arc::new(Scan {
        wanted: Wanted::new(spec, filters)?,
        ctx: ctx.clone(),
        ahead: Arc::new(Semaphore::new(permits(limits::PREFETCH_BYTES) as usize)),
        holders: Arc::default(),
        page_indexes: Usefulness::default(),
    });
    if scan.wanted.is_empty() {
        return Ok(stream::empty().boxed());
    }
    let mut files: BTreeMap<String, Vec<Split>> = BTreeMap::new();
    for split in splits {
        files.entry(split.url.clone()).or_default().push(split);
    }
    let few = files.len() < scan.morsels_min();
    let groups = row_groups(&scan, files);
    if !few {
        return Ok(fetched(scan, groups, 1));
    }
    // So few files may have so few row groups that lanes would go without work: then a row group
    // is cut, which needs all of them to be known.
    let all = async move {
        let groups: Vec<RowGroup> = groups.try_collect().await?;
        let pieces = scan.morsels_min().div_ceil(groups.len().max(1));
        let groups = stream::iter(groups.into_iter().map(Ok)).boxed();
        Ok::<_, Error>(fetched(scan, groups, pieces))
    };
    Ok(stream::once(all).try_flatten().boxed())
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
    Ok(nullable(footer.schema()))
}

/// The columns of a table that one file has: any other file may have nulls in them.
fn nullable(schema: &Schema) -> SchemaRef {
    let fields = schema.fields().iter();
    let fields = fields.map(|field| field.as_ref().clone().with_nullable(true));
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

struct Scan {
    wanted: Wanted,
    ctx: TaskContext,
    /// What may still be fetched ahead.
    ahead: Arc<Semaphore>,
    /// The row groups whose bytes are in memory.
    holders: Arc<Holders>,
    page_indexes: Usefulness,
}

impl Scan {
    /// Morsels with which no lane is left waiting for long while another works on the last one.
    fn morsels_min(&self) -> usize {
        self.ctx.pool.current_num_threads() * MORSELS_PER_LANE
    }
}

/// The row groups of `files` that may have wanted rows.
fn row_groups(
    scan: &Arc<Scan>,
    files: BTreeMap<String, Vec<Split>>,
) -> BoxStream<'static, Result<RowGroup>> {
    let scan = Arc::clone(scan);
    stream::iter(files.into_values())
        .map(move |splits| file_row_groups(Arc::clone(&scan), splits))
        .buffered(limits::PREFETCH_REQUESTS)
        .map_ok(|row_groups| stream::iter(row_groups.into_iter().map(Ok)))
        .try_flatten()
        .boxed()
}

/// The row groups of one file that start in one of `splits` and may have wanted rows.
async fn file_row_groups(scan: Arc<Scan>, splits: Vec<Split>) -> Result<Vec<RowGroup>> {
    let Some(first) = splits.first() else {
        return Ok(Vec::new());
    };
    let (stores, metrics) = (&scan.ctx.stores, &scan.ctx.metrics);
    let file = InputFile::new(&first.url, first.file_bytes, stores, metrics)?;
    let footer = Arc::new(Footer::cached(file, stores.footers()).await?);
    let columns = Arc::new(Columns::new(footer, &scan.wanted)?);
    let starts = columns.footer().row_group_starts().enumerate();
    let within = |start: u64| {
        let mut splits = splits.iter();
        splits.any(|split| (split.start..split.end).contains(&start))
    };
    let own = starts.filter(|(_, start)| within(*start));
    let own: Vec<usize> = own.map(|(index, _)| index).collect();
    let kept = plan::row_groups(&scan.wanted, &columns, &own)?;
    let kept = bloom::keep(&scan.wanted, &columns, kept).await?;
    let (kept, pages) = pages::narrow(&scan.wanted, &columns, kept, &scan.page_indexes).await?;
    TaskMetrics::count(&metrics.pages_pruned, pages);
    TaskMetrics::count(&metrics.row_groups, own.len() as u64);
    TaskMetrics::count(&metrics.row_groups_pruned, (own.len() - kept.len()) as u64);
    Ok(kept)
}

/// Fetches `groups` ahead and cuts each into as many as `pieces` morsels.
fn fetched(
    scan: Arc<Scan>,
    groups: BoxStream<'static, Result<RowGroup>>,
    pieces: usize,
) -> PlacedMorsels {
    groups
        .map(move |group| fetch(Arc::clone(&scan), group, pieces))
        .zip(stream::iter(0..))
        .map(async |(fetched, number)| {
            let morsels = fetched.await?.into_iter();
            let places = (0..).map(move |piece| place(number, piece));
            Ok::<_, Error>(places.zip(morsels))
        })
        .buffer_unordered(limits::PREFETCH_REQUESTS)
        .map_ok(|morsels| stream::iter(morsels.map(Ok)))
        .try_flatten()
        .boxed()
}

/// Fetches a row group's bytes and makes morsels of them. The fetch goes on by itself while
/// nobody polls, and ends when it is dropped.
async fn fetch(scan: Arc<Scan>, group: Result<RowGroup>, pieces: usize) -> Result<Vec<Morsel>> {
    let group = Arc::new(group?);
    let mut fetch = JoinSet::new();
    fetch.spawn(async move {
        let footer = Arc::clone(group.columns.footer());
        let leaves = group.columns.leaves();
        let chunks = leaves.iter().map(|&leaf| footer.chunk(group.index, leaf));
        let ranges: Vec<_> = chunks.collect();
        let bytes = ranges.iter().map(|range| range.end - range.start).sum();
        let permit = ahead(&scan, bytes).await?;
        let held = Holders::reserve(&scan.holders, &scan.ctx.memory, bytes).await;
        let held = held.map_err(|error| {
            let (index, file) = (group.index, footer.file().url());
            error.context(format!("cannot read row group {index} file={file}"))
        })?;
        let data = footer.file().read_all(ranges).await?;
        let metadata = Arc::clone(footer.metadata().metadata());
        let chunks = Arc::new(Chunks::new(metadata, group.index, &leaves, data));
        Ok(morsels(
            &scan,
            &group,
            pieces,
            Fetched {
                chunks,
                _held: held,
            },
            permit,
        ))
    });
    match fetch.join_next().await {
        Some(Ok(morsels)) => morsels,
        Some(Err(error)) => Err(Error::internal("a fetch ended early").with_source(error)),
        None => Err(Error::internal("a fetch without an answer")),
    }
}

/// The bytes of a row group and their reservation.
struct Fetched {
    chunks: Arc<Chunks>,
    _held: Held,
}

/// Cuts the rows of a row group into as many as `pieces` morsels.
fn morsels(
    scan: &Arc<Scan>,
    group: &Arc<RowGroup>,
    pieces: usize,
    fetched: Fetched,
    permit: OwnedSemaphorePermit,
) -> Vec<Morsel> {
    let fetched = Arc::new(fetched);
    let mut permit = Some(permit);
    let cut = plan::cut(&group.ranges, pieces).into_iter();
    cut.map(|ranges| -> Morsel {
        let (scan, group) = (Arc::clone(scan), Arc::clone(group));
        let (fetched, permit) = (Arc::clone(&fetched), permit.take());
        Box::new(move |emit| {
            // Once the first piece is computed on, others may be fetched.
            drop(permit);
            decode::decode(&scan.wanted, &group, &ranges, &fetched.chunks, emit)
        })
    })
    .collect()
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
