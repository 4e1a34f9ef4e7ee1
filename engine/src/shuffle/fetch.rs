//! Bytes of shuffle objects, compared with their checksums.
//!
//! What lies side by side in an object is a *piece*: one request, or several where it is a
//! partition that is too large to be held. Such a partition comes some blocks at a time, each of
//! which has a checksum of its own; the partition's is compared when it has been read to its end. A
//! difference is asked for once more: a damaged answer is more common than a damaged object.

use std::ops::Range;

use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{GetOptions, GetRange, GetResultPayload, ObjectStoreExt};
use xxhash_rust::xxh3::Xxh3;

use super::chunks::Chunks;
use super::layout::{BLOCK_HEADER_BYTES, BlockHeader};
use crate::error::{Error, LostOutput, Result};
use crate::id::{JobId, StageId};
use crate::plan::{PartitionMeta, ShuffleSource};
use crate::storage::{ShuffleStore, storage_error};

/// A request beyond this is cut in two: at the end of a partition, or else of a block.
pub(super) const PIECE_BYTES: u64 = 8 << 20;

/// Bytes from which comparing checksums is worth a thread of its own.
const OFFLOAD_BYTES: u64 = 256 << 10;

/// Consecutive partitions of one object.
#[derive(Debug, Clone)]
pub(super) struct Piece {
    pub(super) path: Path,
    lost: LostOutput,
    pub(super) range: Range<u64>,
    pub(super) partitions: Vec<PartitionMeta>,
}

/// Cuts a source into pieces; none where it has no bytes.
pub(super) fn cut(
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

impl Piece {
    /// Whether it is a partition that comes some blocks at a time.
    pub(super) fn is_large(&self) -> bool {
        self.range.end - self.range.start > PIECE_BYTES
    }

    pub(super) fn corrupt(&self, reason: impl Into<String>) -> Error {
        self.blame(Error::corrupt(reason))
    }

    pub(super) fn blame(&self, error: Error) -> Error {
        error.context(self.place()).with_lost(self.lost)
    }

    pub(super) fn place(&self) -> String {
        format!("shuffle object {} bytes {:?}", self.path, self.range)
    }
}

/// Fetches and compares a piece that is not large; its partitions' bytes.
pub(super) async fn fetch(
    store: &ShuffleStore,
    piece: &Piece,
    count: impl Fn(u64),
) -> Result<Vec<Chunks>> {
    let mut again = false;
    loop {
        let chunks = get(store, piece, piece.range.clone()).await?;
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

async fn get(store: &ShuffleStore, piece: &Piece, range: Range<u64>) -> Result<Chunks> {
    let end = range.end;
    let range = Some(GetRange::Bounded(range));
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
        Ok(meta) if meta.size < end => {
            Err(piece.corrupt(format!("it is cut off size={}", meta.size)))
        }
        _ => Err(storage_error("read", piece.path.as_ref(), error)),
    }
}

/// The partitions, or what is wrong with them.
async fn compare(chunks: Chunks, piece: &Piece) -> Result<Result<Vec<Chunks>, &'static str>> {
    if chunks.len() as u64 != piece.range.end - piece.range.start {
        return Ok(Err(OTHER_LENGTH));
    }
    let partitions = piece.partitions.clone();
    offload(chunks, move |chunks| split(chunks, &partitions)).await
}

const OTHER_LENGTH: &str = "the answer has another length than was asked for";

/// Does `work`, on a thread of its own if it is much.
async fn offload<T: Send + 'static>(
    chunks: Chunks,
    work: impl FnOnce(Chunks) -> T + Send + 'static,
) -> Result<T> {
    if (chunks.len() as u64) < OFFLOAD_BYTES {
        return Ok(work(chunks));
    }
    let done = tokio::task::spawn_blocking(move || work(chunks)).await;
    done.map_err(|error| Error::internal("comparing checksums failed").with_source(error))
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

/// A large partition on its way, from its first block to its last.
pub(super) struct LargePartition {
    store: ShuffleStore,
    piece: Piece,
    /// Where what has not been handed on begins.
    next: u64,
    /// Bytes of the next request.
    wanted: u64,
    read: Box<Read>,
    /// The last answer was not what was written.
    again: bool,
}

/// What has been read of a partition.
#[derive(Clone, Default)]
struct Read {
    rows: u64,
    hash: Xxh3,
}

/// What came of a request for blocks.
enum Answer {
    /// Whole blocks, and what has been read with them.
    Blocks(Chunks, Box<Read>),
    /// The first block is longer: so many bytes.
    Longer(u64),
}

impl LargePartition {
    /// The one partition of a large `piece`.
    pub(super) fn new(store: &ShuffleStore, piece: Piece) -> Self {
        LargePartition {
            store: store.clone(),
            next: piece.range.start,
            wanted: PIECE_BYTES,
            piece,
            read: Box::default(),
            again: false,
        }
    }

    /// What it is part of.
    pub(super) fn piece(&self) -> &Piece {
        &self.piece
    }

    /// Bytes of the next request; none when all blocks have been handed on.
    pub(super) fn wanted(&self) -> u64 {
        self.wanted.min(self.rest())
    }

    fn rest(&self) -> u64 {
        self.piece.range.end - self.next
    }

    /// Asks for the next blocks and compares them with their checksums. None if one has to ask once
    /// more: for more bytes, or because of damage. `count` is told how many bytes came.
    ///
    /// # Errors
    /// `Corrupt`, naming the object, if it is missing or damaged; `Unavailable` if storage does not
    /// answer.
    pub(super) async fn fetch(&mut self, count: impl Fn(u64)) -> Result<Option<Chunks>> {
        let bytes = self.wanted();
        let range = self.next..self.next + bytes;
        let chunks = get(&self.store, &self.piece, range).await?;
        count(chunks.len() as u64);
        let read = self.read.clone();
        let answer = match chunks.len() as u64 == bytes {
            true => offload(chunks, move |chunks| whole_blocks(chunks, read)).await?,
            false => Err(OTHER_LENGTH),
        };
        match answer {
            Ok(Answer::Blocks(blocks, read)) => {
                self.next += blocks.len() as u64;
                (self.wanted, self.again, self.read) = (PIECE_BYTES, false, read);
                if self.rest() == 0 {
                    self.compare()?;
                }
                Ok(Some(blocks))
            }
            Ok(Answer::Longer(longer)) if longer <= self.rest() => {
                self.wanted = longer;
                Ok(None)
            }
            Ok(Answer::Longer(_)) => self.ask_again("a block ends behind its partition"),
            Err(reason) => self.ask_again(reason),
        }
    }

    fn ask_again(&mut self, reason: &'static str) -> Result<Option<Chunks>> {
        if self.again {
            return Err(self.piece.corrupt(reason));
        }
        tracing::warn!(object = %self.piece.path, reason, "asking again for shuffle bytes");
        (self.wanted, self.again) = (PIECE_BYTES, true);
        Ok(None)
    }

    /// Compares what has been read with what the index says of the partition.
    fn compare(&self) -> Result<()> {
        let meta = self.piece.partitions.first().copied().unwrap_or_default();
        if self.read.hash.digest() != meta.checksum {
            return Err(self.piece.corrupt("the checksum of a partition is wrong"));
        }
        if self.read.rows != meta.rows {
            return Err(self.piece.corrupt(format!(
                "a partition has other rows than its index says rows={} index={}",
                self.read.rows, meta.rows
            )));
        }
        Ok(())
    }
}

/// The blocks that `chunks` begins with, as far as they are whole.
fn whole_blocks(mut chunks: Chunks, mut read: Box<Read>) -> Result<Answer, &'static str> {
    let mut blocks = Chunks::default();
    while let Some(header) = chunks.clone().split(BLOCK_HEADER_BYTES) {
        let header = BlockHeader::parse(&header.join())?;
        let length = header.block_bytes().ok_or("a block is too long")?;
        let Some(block) = chunks.clone().split(length) else {
            if blocks.is_empty() {
                return Ok(Answer::Longer(length as u64));
            }
            break;
        };
        header.compare(&block)?;
        block.update(&mut read.hash);
        read.rows += u64::from(header.rows);
        chunks.split(length);
        blocks.append(block);
    }
    match blocks.is_empty() {
        true => Err("a block is cut off"),
        false => Ok(Answer::Blocks(blocks, read)),
    }
}
