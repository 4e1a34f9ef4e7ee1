//! Text: lines or words of plain and compressed files.
//!
//! A task's splits are cut into morsels of about [`limits::TEXT_MORSEL_BYTES`], each fetched on its
//! own; small files are packed together. Cutting looks at byte positions only: a record belongs to
//! the piece in which it starts, so a piece passes over its first partial record and reads on past
//! its end (`piece`). A compressed file cannot be cut; it is decoded from its beginning and the
//! decoded text cut instead (`compressed`). Either way the result is a `Block` of whole
//! records, which a lane validates and turns into batches (`rows`).

mod block;
mod compressed;
mod fetch;
mod piece;
mod rows;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};

use crate::context::TaskContext;
use crate::error::{Error, Result};
use crate::limits;
use crate::operator::Morsel;
use crate::plan::{ScanFormat, ScanSpec, Split, TextOptions};
use crate::source::{PlacedMorsels, place};
use crate::storage;
use block::{Block, BufferPool};
pub use compressed::is_compressed;

/// What every piece of one scan shares.
struct Scan {
    options: TextOptions,
    /// Columns to produce, as indices into the file's columns.
    projection: Vec<usize>,
    /// The columns that are produced.
    schema: SchemaRef,
    ctx: TaskContext,
    buffers: Arc<BufferPool>,
}

/// The morsels of `splits`.
///
/// # Errors
/// `Internal` if `spec` is not about text; the stream's items name file and place.
pub fn open(spec: &ScanSpec, splits: Vec<Split>, ctx: &TaskContext) -> Result<PlacedMorsels> {
    let ScanFormat::Text(options) = spec.format else {
        return Err(Error::internal(
            "a text source was asked to read another format",
        ));
    };
    let requests = requests_at_once(&splits, ctx);
    let scan = Arc::new(Scan {
        options,
        projection: spec.projection.clone(),
        schema: Arc::new(projected(&spec.file_schema, &spec.projection)?),
        ctx: ctx.clone(),
        buffers: BufferPool::new(2 * requests, &ctx.memory),
    });
    let resolving = Arc::clone(&scan);
    let fetching = Arc::clone(&scan);
    let decoders = ctx.pool.current_num_threads().max(1);
    let stream = stream::iter(units(splits))
        .map(move |unit| resolve(Arc::clone(&resolving), unit))
        .buffered(requests)
        .map_ok(|work| stream::iter(work.into_iter().map(Ok)))
        .try_flatten()
        .zip(stream::iter(0..))
        .map(move |(work, number)| placed(Arc::clone(&fetching), work, number))
        .buffer_unordered(requests)
        .flatten_unordered(decoders);
    Ok(stream.boxed())
}

fn projected(schema: &Schema, projection: &[usize]) -> Result<Schema> {
    schema.project(projection).map_err(|error| {
        Error::internal("a scan's projection does not fit its columns").with_source(error)
    })
}

/// Local reads cost processor time, not waiting: a few more than there are lanes keep these busy,
/// and the blocks stay in the cache. Remote ones wait, and overlap as far as the limits allow.
fn requests_at_once(splits: &[Split], ctx: &TaskContext) -> usize {
    let most = (limits::PREFETCH_BYTES / limits::TEXT_MORSEL_BYTES) as usize;
    let most = most.clamp(1, limits::PREFETCH_REQUESTS);
    if splits
        .iter()
        .all(|split| storage::local_path(&split.url).is_some())
    {
        return most.min(ctx.pool.current_num_threads() + 2);
    }
    most
}

/// A part of the input that is looked at on its own.
enum Unit {
    /// Pieces that make one morsel.
    Pieces(Vec<Split>),
    /// A whole file, larger than a morsel: it can be cut if it is not compressed.
    File(Split),
}

/// What is known to be possible with a unit.
enum Work {
    Pieces(Vec<Split>),
    Compressed(Split),
}

/// Packs small splits and cuts large ones, unless they may be compressed.
fn units(splits: Vec<Split>) -> impl Iterator<Item = Unit> + Send {
    let mut splits = splits.into_iter().peekable();
    let mut cut: Option<Split> = None;
    std::iter::from_fn(move || {
        if let Some(piece) = cut.as_mut().and_then(cut_piece) {
            return Some(Unit::Pieces(vec![piece]));
        }
        let mut pack: Vec<Split> = Vec::new();
        let mut cost = 0;
        while let Some(split) = splits
            .next_if(|next| pack.is_empty() || cost + pack_cost(next) <= limits::TEXT_MORSEL_BYTES)
        {
            cost += pack_cost(&split);
            pack.push(split);
        }
        let first = pack.first()?;
        if first.end - first.start <= limits::TEXT_MORSEL_BYTES {
            return Some(Unit::Pieces(pack));
        }
        let split = pack.pop()?;
        if is_whole(&split) {
            return Some(Unit::File(split));
        }
        let mut rest = split;
        let piece = cut_piece(&mut rest)?;
        cut = Some(rest);
        Some(Unit::Pieces(vec![piece]))
    })
}

/// What a split counts for in a morsel: its bytes, and what it takes to ask for them.
fn pack_cost(split: &Split) -> u64 {
    split.end - split.start + limits::FILE_OPEN_COST_BYTES
}

/// Takes the next morsel's piece from the front of `rest`.
fn cut_piece(rest: &mut Split) -> Option<Split> {
    if rest.start >= rest.end {
        return None;
    }
    let end = rest.end.min(rest.start + limits::TEXT_MORSEL_BYTES);
    let piece = Split {
        end,
        ..rest.clone()
    };
    rest.start = end;
    Some(piece)
}

fn is_whole(split: &Split) -> bool {
    split.start == 0 && split.end == split.file_bytes
}

async fn resolve(scan: Arc<Scan>, unit: Unit) -> Result<Vec<Work>> {
    match unit {
        Unit::Pieces(pieces) => Ok(vec![Work::Pieces(pieces)]),
        Unit::File(split) => {
            if is_compressed(&fetch::first_bytes(&scan.ctx, &split).await?) {
                return Ok(vec![Work::Compressed(split)]);
            }
            let mut rest = split;
            let pieces = std::iter::from_fn(|| cut_piece(&mut rest));
            Ok(pieces.map(|piece| Work::Pieces(vec![piece])).collect())
        }
    }
}

/// The morsels of work `number`, with their places.
async fn placed(scan: Arc<Scan>, work: Result<Work>, number: u64) -> PlacedMorsels {
    let places = stream::iter((0..).map(move |block| place(number, block)));
    let morsels = places.zip(perform(scan, work).await);
    morsels.map(|(place, morsel)| Ok((place, morsel?))).boxed()
}

/// Fetches what makes one morsel. Small compressed files turn up here, and are decoded.
async fn perform(scan: Arc<Scan>, work: Result<Work>) -> BoxStream<'static, Result<Morsel>> {
    let pieces = match work {
        Err(error) => return stream::iter([Err(error)]).boxed(),
        Ok(Work::Compressed(split)) => return decoded(scan, vec![split]),
        Ok(Work::Pieces(pieces)) => pieces,
    };
    match fetch::pieces(&scan, pieces).await {
        Err(error) => stream::iter([Err(error)]).boxed(),
        Ok((blocks, compressed)) => {
            let plain = (!blocks.is_empty()).then(|| Ok(morsel(Arc::clone(&scan), blocks)));
            stream::iter(plain).chain(decoded(scan, compressed)).boxed()
        }
    }
}

fn decoded(scan: Arc<Scan>, splits: Vec<Split>) -> BoxStream<'static, Result<Morsel>> {
    let decoding = Arc::clone(&scan);
    stream::iter(splits)
        .flat_map(move |split| compressed::blocks(&decoding, split))
        .map_ok(move |block| morsel(Arc::clone(&scan), vec![block]))
        .boxed()
}

fn morsel(scan: Arc<Scan>, blocks: Vec<Block>) -> Morsel {
    Box::new(move |emit| rows::emit_rows(&scan, blocks, emit))
}

/// What errors and the `path` column call a file.
fn display_name(url: &str) -> String {
    match storage::local_path(url) {
        Some(path) => path.display().to_string(),
        None => url.to_owned(),
    }
}
