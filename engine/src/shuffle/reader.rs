//! Reads partitions of shuffle objects.
//!
//! The task brings name, byte range, length and checksum of everything; each producer's run of
//! partitions is one request, cut only where it is large. What was fetched is compared before it
//! is handed on ([`super::fetch`]). What stays wrong names the object whose producer has to run
//! again.

use std::ops::Range;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::chunks::Chunks;
use super::decode::decode_chunks;
use super::fetch::{LargePartition, Piece, cut, fetch};
use crate::context::{CancelToken, TaskContext};
use crate::error::{Error, Result};
use crate::expr::SortKey;
use crate::id::{JobId, StageId};
use crate::limits::{PREFETCH_BYTES, PREFETCH_REQUESTS};
use crate::memory::Reservation;
use crate::metrics::TaskMetrics;
use crate::operator::cuts::CutKeys;
use crate::operator::{Emit, Morsel};
use crate::plan::{RangeInput, ShuffleSource};
use crate::source::{MorselStream, PlacedMorsels, piece_of, place};
use crate::storage::ShuffleStore;

/// What one permit of the prefetch budget stands for.
const PERMIT_BYTES: u64 = 1 << 10;

const PERMITS: u32 = (PREFETCH_BYTES / PERMIT_BYTES) as u32;

/// A request beyond this share of the memory budget (1 / this) is not made without a reservation.
const UNRESERVED_SHARE: u64 = 8;

/// The rows of `partitions` of `stage`, from every source that has any, in the order in which
/// they arrive: a morsel is what came with one request.
///
/// # Errors
/// `Internal` if the sources are not about these partitions. The stream gives `Corrupt`, naming
/// the lost object, if an object is missing or damaged; `Unavailable` if storage does not answer.
pub fn open(
    stage: StageId,
    job: JobId,
    partitions: Range<u32>,
    sources: Vec<ShuffleSource>,
    schema: SchemaRef,
    ctx: &TaskContext,
) -> Result<MorselStream> {
    let mut pieces = Vec::new();
    for source in sources {
        if source.partitions.len() != partitions.len() {
            return Err(Error::internal(format!(
                "a shuffle source covers other partitions than its reader task={} found={} \
                 expected={}",
                source.task,
                source.partitions.len(),
                partitions.len()
            )));
        }
        cut(&ctx.shuffle, job, stage, &source, &mut pieces)?;
    }
    let placed = morsels(pieces, schema, ctx);
    Ok(placed.map_ok(|(_, morsel)| morsel).boxed())
}

/// The rows of a range of an order, each with its place in it among rows with the same keys: the
/// order of the producing tasks, and in each that of its rows. Rows have the columns of `schema`,
/// and the order is that of `keys`.
///
/// # Errors
/// `Invalid` if a key does not fit the schema. The stream gives the errors of that of [`open`].
pub fn open_range(
    input: RangeInput,
    job: JobId,
    keys: &[SortKey],
    schema: SchemaRef,
    ctx: &TaskContext,
) -> Result<PlacedMorsels> {
    let RangeInput {
        stage,
        start,
        end,
        sources,
    } = input;
    let keys = CutKeys::new(keys, &schema)?;
    let (mut pieces, mut tasks) = (Vec::new(), Vec::new());
    for source in sources {
        cut(&ctx.shuffle, job, stage, &source, &mut pieces)?;
        tasks.resize(pieces.len(), source.task);
    }
    let range = Arc::new((keys, start, end));
    let placed = morsels(pieces, schema, ctx).map_ok(move |(place, morsel)| {
        let task = tasks[piece_of(place)];
        let range = Arc::clone(&range);
        let within = move |emit: Emit<'_>| {
            let (keys, start, end) = &*range;
            morsel(&mut |batch| {
                let rows = keys.between(&batch, task, start.as_ref(), end.as_ref())?;
                match rows.is_empty() {
                    true => Ok(()),
                    false => emit(batch.slice(rows.start, rows.len())),
                }
            })
        };
        (place, Box::new(within) as Morsel)
    });
    Ok(placed.boxed())
}

/// The rows of `pieces`, in the order in which they arrive; each morsel with its place among them.
fn morsels(pieces: Vec<Piece>, schema: SchemaRef, ctx: &TaskContext) -> PlacedMorsels {
    let fetcher = Fetcher {
        ctx: ctx.clone(),
        schema,
        permits: Arc::new(Semaphore::new(PERMITS as usize)),
    };
    let pieces = (0..).zip(pieces);
    let (large, small): (Vec<_>, Vec<_>) = pieces.partition(|(_, piece)| piece.is_large());
    let of_large = fetcher.clone();
    let small = stream::iter(small).map(move |(number, piece)| {
        let fetcher = fetcher.clone();
        async move { Ok((place(number, 0), fetcher.morsel(piece).await?)) }
    });
    let small = small.buffer_unordered(PREFETCH_REQUESTS);
    let large = stream::iter(large).map(move |(number, piece)| {
        let morsels = of_large.clone().morsels(piece).enumerate();
        morsels.map(move |(part, morsel)| Ok((place(number, part as u64), morsel?)))
    });
    let large = large.flatten_unordered(PREFETCH_REQUESTS);
    small.chain(large).boxed()
}

/// The bytes of a source's partitions as they are stored, in order and compared with their
/// checksums: whole blocks, which [`super::decode_blocks`] decodes wherever they are sent.
///
/// # Errors
/// As for the stream of [`open`].
pub fn fetch_blocks(
    store: &ShuffleStore,
    job: JobId,
    stage: StageId,
    source: &ShuffleSource,
) -> BoxStream<'static, Result<Bytes>> {
    let mut pieces = Vec::new();
    if let Err(error) = cut(store, job, stage, source, &mut pieces) {
        return stream::once(std::future::ready(Err(error))).boxed();
    }
    let store = store.clone();
    let blocks = stream::iter(pieces).flat_map(move |piece| piece_blocks(store.clone(), piece));
    let blocks = blocks.map_ok(Chunks::join);
    blocks
        .try_filter(|blocks| std::future::ready(!blocks.is_empty()))
        .boxed()
}

fn piece_blocks(store: ShuffleStore, piece: Piece) -> BoxStream<'static, Result<Chunks>> {
    if !piece.is_large() {
        let fetched = async move {
            let partitions = fetch(&store, &piece, |_| ()).await?;
            Ok::<_, Error>(stream::iter(partitions.into_iter().map(Ok)))
        };
        return stream::once(fetched).try_flatten().boxed();
    }
    let large = LargePartition::new(&store, piece);
    let blocks = stream::try_unfold(large, |mut large| async move {
        while large.wanted() > 0 {
            if let Some(blocks) = large.fetch(|_| ()).await? {
                return Ok(Some((blocks, large)));
            }
        }
        Ok(None)
    });
    blocks.boxed()
}

#[derive(Clone)]
struct Fetcher {
    ctx: TaskContext,
    schema: SchemaRef,
    permits: Arc<Semaphore>,
}

impl Fetcher {
    async fn morsel(self, piece: Piece) -> Result<Morsel> {
        let room = self
            .room(&piece, piece.range.end - piece.range.start)
            .await?;
        self.ctx.cancel.check()?;
        let count = |bytes: u64| self.count(bytes);
        let fetched = fetch(&self.ctx.shuffle, &piece, count).await?;
        let metrics = Arc::clone(&self.ctx.metrics);
        let (schema, cancel) = (self.schema, self.ctx.cancel);
        Ok(Box::new(move |emit: Emit<'_>| {
            let rows = decode(&piece, fetched, &schema, &cancel, emit);
            drop(room);
            TaskMetrics::count(&metrics.rows_in, rows?);
            Ok(())
        }))
    }

    /// The blocks of a large piece, some to a morsel.
    fn morsels(self, piece: Piece) -> BoxStream<'static, Result<Morsel>> {
        let large = LargePartition::new(&self.ctx.shuffle, piece);
        let morsels = stream::try_unfold((self, large), |(fetcher, mut large)| async move {
            let morsel = fetcher.next_morsel(&mut large).await?;
            Ok(morsel.map(|morsel| (morsel, (fetcher, large))))
        });
        morsels.boxed()
    }

    async fn next_morsel(&self, large: &mut LargePartition) -> Result<Option<Morsel>> {
        while large.wanted() > 0 {
            let room = self.room(large.piece(), large.wanted()).await?;
            self.ctx.cancel.check()?;
            let Some(blocks) = large.fetch(|bytes| self.count(bytes)).await? else {
                continue;
            };
            let (piece, metrics) = (large.piece().clone(), Arc::clone(&self.ctx.metrics));
            let (schema, cancel) = (Arc::clone(&self.schema), self.ctx.cancel.clone());
            return Ok(Some(Box::new(move |emit: Emit<'_>| {
                let rows = decode_part(&piece, blocks, &schema, &cancel, emit);
                drop(room);
                TaskMetrics::count(&metrics.rows_in, rows?);
                Ok(())
            })));
        }
        Ok(None)
    }

    fn count(&self, bytes: u64) {
        TaskMetrics::count(&self.ctx.metrics.gets, 1);
        TaskMetrics::count(&self.ctx.metrics.bytes_in, bytes);
    }

    /// Waits until there is room for `bytes` of `piece`: within the task's prefetch, and within the
    /// memory budget. Where the budget has none left, requests go one at a time without it, unless
    /// they are for a large share of it: such a request is for one block, which cannot be cut since
    /// it is compared with its checksum as a whole.
    async fn room(&self, piece: &Piece, bytes: u64) -> Result<(OwnedSemaphorePermit, Reservation)> {
        let mut reservation = self.ctx.memory.reserve("shuffle read");
        let wanted = bytes.div_ceil(PERMIT_BYTES).clamp(1, u64::from(PERMITS)) as u32;
        let permits = if reservation.try_grow(bytes) {
            wanted
        } else {
            PERMITS
        };
        let permit = Arc::clone(&self.permits).acquire_many_owned(permits).await;
        let permit = permit.map_err(|_| Error::internal("the prefetch budget was closed"))?;
        let unreserved_max = PREFETCH_BYTES.max(self.ctx.memory.limit() / UNRESERVED_SHARE);
        if bytes > unreserved_max && reservation.bytes() == 0 {
            // Nothing else of this task is in flight now.
            let grown = reservation.grow(bytes);
            grown.map_err(|error| error.context(piece.place()))?;
        }
        Ok((permit, reservation))
    }
}

fn decode(
    piece: &Piece,
    fetched: Vec<Chunks>,
    schema: &SchemaRef,
    cancel: &CancelToken,
    emit: Emit<'_>,
) -> Result<u64> {
    let mut all = 0;
    for (partition, meta) in fetched.into_iter().zip(&piece.partitions) {
        let rows = decode_part(piece, partition, schema, cancel, emit)?;
        if rows != meta.rows {
            return Err(piece.corrupt(format!(
                "a partition has other rows than its index says rows={rows} index={}",
                meta.rows
            )));
        }
        all += rows;
    }
    Ok(all)
}

/// Decodes whole blocks of a piece; how many rows they have.
fn decode_part(
    piece: &Piece,
    blocks: Chunks,
    schema: &SchemaRef,
    cancel: &CancelToken,
    emit: Emit<'_>,
) -> Result<u64> {
    cancel.check()?;
    // What comes back from `emit` is not about the object, whatever its kind.
    let mut refused = None;
    let mut pass = |batch| {
        emit(batch).map_err(|error| {
            refused = Some(error);
            Error::cancelled("the reader was refused")
        })
    };
    let decoded = decode_chunks(blocks, Some(schema), &mut pass);
    match refused {
        Some(error) => Err(error),
        None => decoded.map_err(|error| piece.blame(error)),
    }
}
