//! Reads partitions of shuffle objects.
//!
//! The task brings name, byte range, length and checksum of everything; each producer's run of
//! partitions is one request, cut only where it is large. What was fetched is compared before it
//! is handed on, and a difference is asked for once more: a damaged answer is more common than a
//! damaged object. What stays wrong names the object whose producer has to run again.

use std::ops::Range;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::path::Path;
use object_store::{GetOptions, GetRange, GetResultPayload, ObjectStoreExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::chunks::Chunks;
use super::decode::decode_chunks;
use crate::context::{CancelToken, TaskContext};
use crate::error::{Error, LostOutput, Result};
use crate::id::{JobId, StageId};
use crate::limits::{PREFETCH_BYTES, PREFETCH_REQUESTS};
use crate::memory::Reservation;
use crate::metrics::TaskMetrics;
use crate::operator::{Emit, Morsel};
use crate::plan::{PartitionMeta, ShuffleSource};
use crate::source::MorselStream;
use crate::storage::{ShuffleStore, storage_error};

/// A request beyond this is cut in two at the end of a partition.
const PIECE_BYTES: u64 = 8 << 20;

/// Bytes from which comparing checksums is worth a thread of its own.
const OFFLOAD_BYTES: u64 = 256 << 10;

/// What one permit of the prefetch budget stands for.
const PERMIT_BYTES: u64 = 1 << 10;

const PERMITS: u32 = (PREFETCH_BYTES / PERMIT_BYTES) as u32;

/// A piece beyond this share of the memory budget (1 / this) is not fetched without a reservation.
const UNRESERVED_SHARE: u64 = 8;

/// Consecutive partitions of one object: one request.
#[derive(Debug, Clone)]
struct Piece {
    path: Path,
    lost: LostOutput,
    range: Range<u64>,
    partitions: Vec<PartitionMeta>,
}

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
    let fetcher = Fetcher {
        ctx: ctx.clone(),
        schema,
        permits: Arc::new(Semaphore::new(PERMITS as usize)),
    };
    let fetches = stream::iter(pieces).map(move |piece| {
        let fetcher = fetcher.clone();
        async move { fetcher.morsel(piece).await }
    });
    Ok(fetches.buffer_unordered(PREFETCH_REQUESTS).boxed())
}

/// The bytes of a source's partitions as they are stored, compared with their checksums: what
/// [`super::decode_blocks`] decodes wherever they are sent. Partitions without rows are empty.
///
/// # Errors
/// As for the stream of [`open`].
pub async fn fetch_partitions(
    store: &ShuffleStore,
    job: JobId,
    stage: StageId,
    source: &ShuffleSource,
) -> Result<Vec<Bytes>> {
    let mut pieces = Vec::new();
    cut(store, job, stage, source, &mut pieces)?;
    let mut fetched = Vec::with_capacity(source.partitions.len());
    for piece in pieces {
        for partition in fetch(store, &piece, |_| ()).await? {
            fetched.push(partition.join());
        }
    }
    fetched.resize(source.partitions.len(), Bytes::new());
    Ok(fetched)
}

/// Cuts a source into pieces; none where it has no bytes.
fn cut(
    store: &ShuffleStore,
    job: JobId,
    stage: StageId,
    source: &ShuffleSource,
    pieces: &mut Vec<Piece>,
) -> Result<()> {
    let (task, attempt) = (source.task, source.attempt);
    let path = store.object_path(job, stage, task, attempt);
    let lost = LostOutput {
        stage,
        task,
        attempt,
    };
    let at = |offset| Piece {
        path: path.clone(),
        lost,
        range: offset..offset,
        partitions: Vec::new(),
    };
    let mut piece = at(source.offset);
    for &partition in &source.partitions {
        let end = piece
            .range
            .end
            .checked_add(partition.bytes)
            .ok_or_else(|| {
                Error::internal(format!("impossible sizes in a shuffle source task={task}"))
            })?;
        if end - piece.range.start > PIECE_BYTES && !piece.range.is_empty() {
            let next = at(piece.range.end);
            pieces.push(std::mem::replace(&mut piece, next));
        }
        piece.range.end = end;
        piece.partitions.push(partition);
    }
    if !piece.range.is_empty() {
        pieces.push(piece);
    }
    Ok(())
}

#[derive(Clone)]
struct Fetcher {
    ctx: TaskContext,
    schema: SchemaRef,
    permits: Arc<Semaphore>,
}

impl Fetcher {
    async fn morsel(self, piece: Piece) -> Result<Morsel> {
        let room = self.room(&piece).await?;
        self.ctx.cancel.check()?;
        let metrics = Arc::clone(&self.ctx.metrics);
        let count = |bytes: u64| {
            TaskMetrics::count(&metrics.gets, 1);
            TaskMetrics::count(&metrics.bytes_in, bytes);
        };
        let fetched = fetch(&self.ctx.shuffle, &piece, count).await?;
        let (schema, cancel) = (self.schema, self.ctx.cancel);
        Ok(Box::new(move |emit: Emit<'_>| {
            let rows = decode(&piece, fetched, &schema, &cancel, emit);
            drop(room);
            TaskMetrics::count(&metrics.rows_in, rows?);
            Ok(())
        }))
    }

    /// Waits until there is room for `piece`: within the task's prefetch, and within the memory
    /// budget. Where the budget has none left, requests go one at a time without it, unless the
    /// piece is a large share of it: such a piece is one partition, which cannot be cut since it
    /// is compared with its checksum as a whole.
    async fn room(&self, piece: &Piece) -> Result<(OwnedSemaphorePermit, Reservation)> {
        let bytes = piece.range.end - piece.range.start;
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
    // What comes back from `emit` is not about the object, whatever its kind.
    let mut refused = None;
    for (partition, meta) in fetched.into_iter().zip(&piece.partitions) {
        cancel.check()?;
        let mut pass = |batch| {
            emit(batch).map_err(|error| {
                refused = Some(error);
                Error::cancelled("the reader was refused")
            })
        };
        let decoded = decode_chunks(partition, Some(schema), &mut pass);
        if let Some(error) = refused {
            return Err(error);
        }
        let rows = decoded.map_err(|error| piece.blame(error))?;
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

impl Piece {
    fn corrupt(&self, reason: impl Into<String>) -> Error {
        self.blame(Error::corrupt(reason))
    }

    fn blame(&self, error: Error) -> Error {
        error.context(self.place()).with_lost(self.lost)
    }

    fn place(&self) -> String {
        format!("shuffle object {} bytes {:?}", self.path, self.range)
    }
}

/// Fetches and compares a piece; its partitions' bytes.
async fn fetch(store: &ShuffleStore, piece: &Piece, count: impl Fn(u64)) -> Result<Vec<Chunks>> {
    let mut again = false;
    loop {
        let chunks = get(store, piece).await?;
        count(chunks.len() as u64);
        match compare(chunks, piece).await? {
            Ok(partitions) => return Ok(partitions),
            Err(reason) if again => return Err(piece.corrupt(reason)),
            Err(reason) => {
                tracing::warn!(object = %piece.path, reason, "asking again for shuffle bytes");
                again = true;
            }
        }
    }
}

async fn get(store: &ShuffleStore, piece: &Piece) -> Result<Chunks> {
    let range = Some(GetRange::Bounded(piece.range.clone()));
    let options = GetOptions {
        range,
        ..GetOptions::default()
    };
    let answer = async {
        let result = store.store.get_opts(&piece.path, options).await?;
        match result.payload {
            // The stream of a file comes in small bites.
            GetResultPayload::File(..) => Ok(Chunks::from_iter([result.bytes().await?])),
            GetResultPayload::Stream(stream) => {
                stream.try_collect::<Vec<_>>().await.map(Chunks::from_iter)
            }
        }
    };
    let error = match answer.await {
        Ok(chunks) => return Ok(chunks),
        Err(error) => error,
    };
    if matches!(error, object_store::Error::NotFound { .. }) {
        return Err(piece.corrupt("it is missing"));
    }
    // A range behind the end is refused in as many words as there are stores.
    match store.store.head(&piece.path).await {
        Ok(meta) if meta.size < piece.range.end => {
            Err(piece.corrupt(format!("it is cut off size={}", meta.size)))
        }
        _ => Err(storage_error("read", piece.path.as_ref(), error)),
    }
}

/// The partitions, or what is wrong with them.
async fn compare(chunks: Chunks, piece: &Piece) -> Result<Result<Vec<Chunks>, &'static str>> {
    let bytes = piece.range.end - piece.range.start;
    if chunks.len() as u64 != bytes {
        return Ok(Err("the answer has another length than was asked for"));
    }
    if bytes < OFFLOAD_BYTES {
        return Ok(split(chunks, &piece.partitions));
    }
    let partitions = piece.partitions.clone();
    let compared = tokio::task::spawn_blocking(move || split(chunks, &partitions)).await;
    compared.map_err(|error| Error::internal("comparing checksums failed").with_source(error))
}

fn split(mut chunks: Chunks, partitions: &[PartitionMeta]) -> Result<Vec<Chunks>, &'static str> {
    let mut split = Vec::with_capacity(partitions.len());
    for meta in partitions {
        let length = usize::try_from(meta.bytes).map_err(|_| "a partition is too long")?;
        let partition = chunks.split(length).ok_or("a partition is cut off")?;
        if length > 0 && partition.checksum() != meta.checksum {
            return Err("the checksum of a partition is wrong");
        }
        split.push(partition);
    }
    Ok(split)
}
