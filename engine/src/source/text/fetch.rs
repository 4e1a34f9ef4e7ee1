//! Reading pieces of files, local ones directly and others through their store.
//!
//! Local files are read with plain system calls on a thread that may block: a stream of an object
//! store would split the bytes into chunks that have to be put together again.

use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use object_store::{ObjectStore, ObjectStoreExt};

use crate::context::TaskContext;
use crate::error::{Error, Result};
use crate::metrics::TaskMetrics;
use crate::plan::Split;
use crate::source::text::block::Block;
use crate::source::text::compressed::{MAGIC_BYTES, is_compressed};
use crate::source::text::piece::Piece;
use crate::source::text::{Scan, display_name, is_whole};
use crate::storage::{self, file_error, storage_error};

/// The first bytes of a file, enough to know a compression by.
pub(super) async fn first_bytes(ctx: &TaskContext, split: &Split) -> Result<Vec<u8>> {
    let range = 0..split.file_bytes.min(MAGIC_BYTES);
    TaskMetrics::count(&ctx.metrics.gets, 1);
    if let Some(path) = storage::local_path(&split.url) {
        return blocking(move || {
            let mut bytes = vec![0; range.end as usize];
            let mut file = open_local(&path)?;
            read_local(&mut file, &path, range, &mut bytes)?;
            Ok(bytes)
        })
        .await;
    }
    let (store, path) = ctx.stores.get(&split.url)?;
    Ok(get(store.as_ref(), &path, range, &split.url)
        .await?
        .to_vec())
}

/// Fetches the records of `pieces`: the blocks of those that are plain text, and the others.
pub(super) async fn pieces(
    scan: &Arc<Scan>,
    pieces: Vec<Split>,
) -> Result<(Vec<Block>, Vec<Split>)> {
    scan.ctx.cancel.check()?;
    let (local, remote): (Vec<Split>, Vec<Split>) = pieces
        .into_iter()
        .partition(|split| storage::local_path(&split.url).is_some());
    let (mut blocks, mut compressed) = (Vec::new(), Vec::new());
    for split in remote {
        match remote_piece(scan, &split).await? {
            Some(block) => blocks.push(block),
            None => compressed.push(split),
        }
    }
    if !local.is_empty() {
        let scan = Arc::clone(scan);
        let (more, others) = blocking(move || local_pieces(&scan, local)).await?;
        blocks.extend(more);
        compressed.extend(others);
    }
    Ok((blocks, compressed))
}

fn local_pieces(scan: &Scan, pieces: Vec<Split>) -> Result<(Vec<Block>, Vec<Split>)> {
    let (mut blocks, mut compressed) = (Vec::new(), Vec::new());
    for split in pieces {
        scan.ctx.cancel.check()?;
        let Some(path) = storage::local_path(&split.url) else {
            continue;
        };
        let mut file = open_local(&path)?;
        let mut piece = new_piece(scan, &split);
        while let Some(range) = piece.wanted()? {
            TaskMetrics::count(&scan.ctx.metrics.gets, 1);
            let len = (range.end - range.start) as usize;
            read_local(&mut file, &path, range, piece.room(len)?)?;
            piece.advance(len);
            if is_whole(&split) && is_compressed(piece.first_bytes()) {
                break;
            }
        }
        match finish(scan, &split, piece) {
            Some(block) => blocks.push(block),
            None => compressed.push(split),
        }
    }
    Ok((blocks, compressed))
}

async fn remote_piece(scan: &Scan, split: &Split) -> Result<Option<Block>> {
    let (store, path) = scan.ctx.stores.get(&split.url)?;
    let mut piece = new_piece(scan, split);
    while let Some(range) = piece.wanted()? {
        TaskMetrics::count(&scan.ctx.metrics.gets, 1);
        let bytes = get(store.as_ref(), &path, range, &split.url).await?;
        piece.room(bytes.len())?.copy_from_slice(&bytes);
        piece.advance(bytes.len());
        if is_whole(split) && is_compressed(piece.first_bytes()) {
            break;
        }
    }
    Ok(finish(scan, split, piece))
}

fn new_piece(scan: &Scan, split: &Split) -> Piece {
    let file = display_name(&split.url).into();
    Piece::new(
        file,
        split.clone(),
        scan.options.record,
        scan.buffers.take(),
    )
}

/// The block of a complete piece; none if it turned out to be compressed.
fn finish(scan: &Scan, split: &Split, piece: Piece) -> Option<Block> {
    if is_whole(split) && is_compressed(piece.first_bytes()) {
        return None;
    }
    TaskMetrics::count(&scan.ctx.metrics.bytes_in, split.end - split.start);
    Some(piece.finish())
}

pub(super) fn open_local(path: &Path) -> Result<File> {
    File::open(path).map_err(|error| file_error("read", &path.display().to_string(), error))
}

fn read_local(file: &mut File, path: &Path, range: Range<u64>, into: &mut [u8]) -> Result<()> {
    let read = file
        .seek(SeekFrom::Start(range.start))
        .and_then(|_| file.read_exact(into));
    read.map_err(|error| match error.kind() {
        ErrorKind::UnexpectedEof => shorter(&path.display().to_string()),
        _ => file_error("read", &path.display().to_string(), error),
    })
}

fn shorter(file: &str) -> Error {
    Error::invalid(format!("cannot read {file}: it became shorter meanwhile"))
}

async fn get(
    store: &dyn ObjectStore,
    path: &object_store::path::Path,
    range: Range<u64>,
    url: &str,
) -> Result<Bytes> {
    if range.is_empty() {
        return Ok(Bytes::new());
    }
    let wanted = (range.end - range.start) as usize;
    let bytes = store
        .get_range(path, range)
        .await
        .map_err(|error| storage_error("read", url, error))?;
    // A store cuts a range that reaches past the end without saying so.
    if bytes.len() == wanted {
        Ok(bytes)
    } else {
        Err(shorter(url))
    }
}

/// Runs `work`, which reads local files, where it may wait for them.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match storage::on_file_thread(work).await {
        Ok(result) => result,
        Err(error) => Err(Error::internal("a reading thread failed").with_source(error)),
    }
}
