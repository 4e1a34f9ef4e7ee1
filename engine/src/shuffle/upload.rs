//! Blocks become an object: one request where it is small, parts of equal size where it is not.

use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use object_store::path::Path;
use object_store::{MultipartUpload, ObjectStore, ObjectStoreExt, PutPayload};

use super::object::Block;
use crate::error::Result;
use crate::limits::UPLOAD_PART_BYTES;
use crate::storage::{file_error, on_file_thread, storage_error};

/// Parts on their way at once.
const PARTS_AT_ONCE: usize = 4;

/// Writes `blocks`, `bytes` in all, to `path`; returns how many requests that took. `given` is
/// told of bytes that have waited in memory, as soon as they become part of a request.
pub(super) async fn upload(
    store: &Arc<dyn ObjectStore>,
    path: &Path,
    blocks: Vec<Block>,
    bytes: u64,
    given: impl Fn(usize) + Send + Sync,
) -> Result<u64> {
    let failed = |error| storage_error("write", path.as_ref(), error);
    if bytes < 2 * UPLOAD_PART_BYTES as u64 {
        let mut payload = Vec::with_capacity(blocks.len());
        for block in blocks {
            payload.push(block.bytes(&given).await?);
        }
        store
            .put(path, PutPayload::from_iter(payload))
            .await
            .map_err(failed)?;
        return Ok(1);
    }
    let mut upload = store.put_multipart(path).await.map_err(failed)?;
    let parts = match put_parts(&mut *upload, path, blocks, &given).await {
        Ok(parts) => parts,
        Err(error) => {
            // The first error tells more than one about tidying up.
            drop(upload.abort().await);
            return Err(error);
        }
    };
    if let Err(error) = upload.complete().await {
        // A lost answer looks like a failure though the object is there; its name is this
        // attempt's alone, so one of the right size is ours.
        match store.head(path).await {
            Ok(meta) if meta.size == bytes => {}
            _ => return Err(failed(error)),
        }
    }
    // Beginning and completing are requests too.
    Ok(parts + 2)
}

async fn put_parts(
    upload: &mut dyn MultipartUpload,
    path: &Path,
    blocks: Vec<Block>,
    given: &(impl Fn(usize) + Send + Sync),
) -> Result<u64> {
    let failed = |error| storage_error("write", path.as_ref(), error);
    let mut parts = 0;
    let mut on_their_way = FuturesUnordered::new();
    let mut part = Part::default();
    let last = blocks.len() - 1;
    for (number, block) in blocks.into_iter().enumerate() {
        let mut rest = block.bytes(given).await?;
        loop {
            part.fill(&mut rest);
            // Every part but the last has the same size: some stores insist.
            if !(part.is_full() || (number == last && rest.is_empty() && part.bytes > 0)) {
                break;
            }
            if on_their_way.len() >= PARTS_AT_ONCE {
                on_their_way.next().await.transpose().map_err(failed)?;
            }
            on_their_way
                .push(upload.put_part(std::mem::take(&mut part).pieces.into_iter().collect()));
            parts += 1;
        }
    }
    while let Some(answer) = on_their_way.next().await {
        answer.map_err(failed)?;
    }
    Ok(parts)
}

#[derive(Default)]
struct Part {
    pieces: Vec<Bytes>,
    bytes: usize,
}

impl Part {
    /// Takes as much of `rest` as there is room for.
    fn fill(&mut self, rest: &mut Bytes) {
        let piece = rest.split_to(rest.len().min(UPLOAD_PART_BYTES - self.bytes));
        self.bytes += piece.len();
        if !piece.is_empty() {
            self.pieces.push(piece);
        }
    }

    fn is_full(&self) -> bool {
        self.bytes == UPLOAD_PART_BYTES
    }
}

impl Block {
    async fn bytes(self, given: &impl Fn(usize)) -> Result<Bytes> {
        let failed = |error| file_error("read", "temporary shuffle file", error);
        match self {
            Block::Memory(bytes) => {
                given(bytes.len());
                Ok(bytes)
            }
            Block::Disk {
                file,
                offset,
                bytes,
            } => {
                let read = on_file_thread(move || file.read(offset, bytes)).await;
                read.unwrap_or_else(|error| Err(error.into()))
                    .map_err(failed)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::id::TaskId;
    use crate::shuffle::object::ObjectWriter;
    use crate::shuffle::tests::{STAGE, context, in_memory, job};

    #[tokio::test]
    async fn only_blocks_that_wait_in_memory_give_memory_back() {
        for (size, requests) in [(1000, 1), (UPLOAD_PART_BYTES, 4)] {
            // There is memory for one of the two blocks.
            let ctx = context(in_memory(), size as u64);
            let (job, stage) = (job(), STAGE);
            let task = TaskId {
                job,
                stage,
                task: 0,
            };
            let writer = ObjectWriter::new(task, 0, &ctx);
            let blocks = [1, 2].map(|byte| writer.keep(Bytes::from(vec![byte; size])));
            let blocks: Vec<Block> = blocks
                .into_iter()
                .map(|block| block.expect("room"))
                .collect();
            assert!(matches!(blocks[..], [Block::Memory(_), Block::Disk { .. }]));
            let given = AtomicUsize::new(0);
            let give = |bytes| {
                given.fetch_add(bytes, Ordering::Relaxed);
            };
            let (store, path) = (&ctx.shuffle.store, Path::from("object"));
            let puts = upload(store, &path, blocks, 2 * size as u64, give).await;
            assert_eq!(puts.expect("the store answers"), requests);
            assert_eq!(given.into_inner(), size);
        }
    }
}
