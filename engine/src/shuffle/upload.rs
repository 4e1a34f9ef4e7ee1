//! Blocks become an object: one request where it is small, parts of equal size where it is not.
//!
//! What is on its way to the store is reserved until it is there, whoever keeps it then. Blocks that
//! waited on disk are read when there is memory for them, or when nothing else is on its way.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use object_store::path::Path;
use object_store::{MultipartUpload, ObjectStore, ObjectStoreExt, PutPayload};

use super::object::{Block, lock};
use crate::error::Result;
use crate::limits::UPLOAD_PART_BYTES;
use crate::memory::Reservation;
use crate::storage::{file_error, on_file_thread, storage_error};

/// Parts on their way at once.
const PARTS_AT_ONCE: usize = 4;

/// Writes `blocks`, `bytes` in all, to `path`; returns how many requests that took. `held` has
/// those reserved that are in memory.
pub(super) async fn upload(
    store: &Arc<dyn ObjectStore>,
    path: &Path,
    blocks: Vec<Block>,
    bytes: u64,
    held: &Mutex<Reservation>,
) -> Result<u64> {
    let failed = |error| storage_error("write", path.as_ref(), error);
    if bytes < 2 * UPLOAD_PART_BYTES as u64 {
        let mut part = Part::default();
        for block in blocks {
            let reserved = block.is_reserved(held);
            part.push(block.bytes().await?, reserved);
        }
        let reserved = part.reserved;
        store.put(path, part.into()).await.map_err(failed)?;
        lock(held).shrink(reserved);
        return Ok(1);
    }
    let mut upload = store.put_multipart(path).await.map_err(failed)?;
    let parts = match put_parts(&mut *upload, path, blocks, held).await {
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
    held: &Mutex<Reservation>,
) -> Result<u64> {
    let arrived = |answer: object_store::Result<u64>| -> Result<()> {
        let reserved = answer.map_err(|error| storage_error("write", path.as_ref(), error))?;
        lock(held).shrink(reserved);
        Ok(())
    };
    let mut parts = 0;
    let mut on_their_way = FuturesUnordered::new();
    let mut part = Part::default();
    let last = blocks.len() - 1;
    for (number, block) in blocks.into_iter().enumerate() {
        let mut reserved = block.is_reserved(held);
        while !reserved && let Some(answer) = on_their_way.next().await {
            arrived(answer)?;
            reserved = block.is_reserved(held);
        }
        let mut rest = block.bytes().await?;
        loop {
            let room = UPLOAD_PART_BYTES - part.bytes;
            part.push(rest.split_to(rest.len().min(room)), reserved);
            // Every part but the last has the same size: some stores insist.
            let is_full = part.bytes == UPLOAD_PART_BYTES;
            if !(is_full || (number == last && rest.is_empty() && part.bytes > 0)) {
                break;
            }
            if on_their_way.len() >= PARTS_AT_ONCE {
                on_their_way.next().await.map_or(Ok(()), arrived)?;
            }
            let part = std::mem::take(&mut part);
            let reserved = part.reserved;
            let arrives = upload.put_part(part.into());
            on_their_way.push(async move { arrives.await.map(|()| reserved) });
            parts += 1;
        }
    }
    while let Some(answer) = on_their_way.next().await {
        arrived(answer)?;
    }
    Ok(parts)
}

#[derive(Default)]
struct Part {
    pieces: Vec<Bytes>,
    bytes: usize,
    /// How many of these bytes are reserved.
    reserved: u64,
}

impl Part {
    fn push(&mut self, piece: Bytes, is_reserved: bool) {
        self.bytes += piece.len();
        if is_reserved {
            self.reserved += piece.len() as u64;
        }
        if !piece.is_empty() {
            self.pieces.push(piece);
        }
    }
}

impl From<Part> for PutPayload {
    fn from(part: Part) -> PutPayload {
        part.pieces.into_iter().collect()
    }
}

impl Block {
    /// Whether its bytes are of what `held` has, now if not before.
    fn is_reserved(&self, held: &Mutex<Reservation>) -> bool {
        match self {
            Block::Memory(_) => true,
            Block::Disk { bytes, .. } => lock(held).try_grow(*bytes as u64),
        }
    }

    async fn bytes(self) -> Result<Bytes> {
        let failed = |error| file_error("read", "temporary shuffle file", error);
        match self {
            Block::Memory(bytes) => Ok(bytes),
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
