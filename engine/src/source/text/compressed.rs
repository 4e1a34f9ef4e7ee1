//! Compressed text: gzip, zstd and bzip2, recognised by their first bytes, whatever the name.
//!
//! A thread that may block decodes a file from beginning to end and sends it on in blocks cut at
//! record ends. The channel is short, so a file is never decoded far ahead of its use, however
//! well it is compressed. Members, frames and streams that follow one another are one text.

use std::io::{self, BufReader, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use object_store::{ObjectStore, ObjectStoreExt};
use tokio::sync::mpsc;

use crate::context::panic_message;
use crate::error::{Error, Result};
use crate::limits;
use crate::metrics::TaskMetrics;
use crate::plan::Split;
use crate::source::codec::{Chunks, Codec, read_full};
use crate::source::text::block::Block;
use crate::source::text::fetch::open_local;
use crate::source::text::piece::{last_end, no_memory, too_long};
use crate::source::text::{Scan, display_name};
use crate::storage::{self, storage_error};

/// Bytes that have to be known of a file to recognise its compression.
pub(super) const MAGIC_BYTES: u64 = 4;

/// Blocks, or chunks of the encoded file, that wait between two threads.
const WAITING_MAX: usize = 2;

/// Whether a file that starts with these bytes (four are enough) is compressed in a way that text
/// sources undo. Such a file must not be split.
pub fn is_compressed(first_bytes: &[u8]) -> bool {
    Codec::of(first_bytes).is_some()
}

/// The decoded file, in blocks of whole records.
pub(super) fn blocks(scan: &Arc<Scan>, split: Split) -> BoxStream<'static, Result<Block>> {
    let (sender, receiver) = mpsc::channel(WAITING_MAX);
    let scan = Arc::clone(scan);
    let started = move || -> Result<_> {
        let encoded = encoded(&scan, &split)?;
        Ok(tokio::task::spawn_blocking(move || {
            TaskMetrics::count(&scan.ctx.metrics.gets, 1);
            let mut decode = Decode::new(&scan, &split, &sender);
            // That the channel closes does not say that the file has ended: a decoder that
            // panics closes it too, and what it has not sent would be missing unnoticed.
            let outcome = catch_unwind(AssertUnwindSafe(|| decode.run(encoded)));
            let outcome = outcome.unwrap_or_else(|panic| Err(decode.panicked(&*panic)));
            if let Err(error) = outcome {
                // If nobody listens any more, nobody wants to know.
                let _ = sender.blocking_send(Err(error));
            } else {
                TaskMetrics::count(&scan.ctx.metrics.bytes_in, split.file_bytes);
            }
        }))
    };
    stream::once(async move {
        match started() {
            Err(error) => stream::iter([Err(error)]).boxed(),
            Ok(_detached) => stream::unfold(receiver, |mut receiver| async {
                receiver.recv().await.map(|block| (block, receiver))
            })
            .boxed(),
        }
    })
    .flatten()
    .boxed()
}

/// A decoder at work, on its own thread.
struct Decode<'a> {
    scan: &'a Scan,
    file: Arc<str>,
    /// Offset in the decoded text of what has not been sent yet.
    offset: u64,
    sender: &'a mpsc::Sender<Result<Block>>,
}

impl<'a> Decode<'a> {
    fn new(scan: &'a Scan, split: &Split, sender: &'a mpsc::Sender<Result<Block>>) -> Self {
        Decode {
            scan,
            file: display_name(&split.url).into(),
            offset: 0,
            sender,
        }
    }

    fn run(&mut self, encoded: Encoded) -> Result<()> {
        let mut encoded = BufReader::with_capacity(256 << 10, encoded.open()?);
        let first =
            io::BufRead::fill_buf(&mut encoded).map_err(|error| self.failed(Codec::Gzip, error))?;
        let codec = Codec::of(first).ok_or_else(|| {
            let file = &self.file;
            Error::invalid(format!(
                "cannot read compressed text: it was replaced file={file}"
            ))
        })?;
        let mut decoder = codec
            .decoder(Box::new(encoded))
            .map_err(|error| self.failed(codec, error))?;
        let mut buffer = self.scan.buffers.take();
        let mut block_bytes = limits::TEXT_MORSEL_BYTES as usize;
        loop {
            self.scan.ctx.cancel.check()?;
            let wanted = block_bytes - buffer.filled().len();
            let room = buffer.room(wanted);
            let room = room.map_err(|error| no_memory(error, &self.file, self.offset))?;
            let read = read_full(&mut decoder, room);
            let read = read.map_err(|error| self.failed(codec, error))?;
            buffer.advance(read);
            let filled = buffer.filled();
            let at_end = read < wanted;
            let cut = if at_end {
                Some(filled.len())
            } else {
                self.cut(filled)
            };
            let Some(cut) = cut else {
                if block_bytes as u64 > limits::TEXT_RECORD_BYTES_MAX {
                    return Err(too_long(&self.file, self.offset, self.scan.options.record));
                }
                block_bytes *= 2;
                continue;
            };
            let mut next = self.scan.buffers.take();
            let kept = next.append(&filled[cut..]);
            kept.map_err(|error| no_memory(error, &self.file, self.offset))?;
            let sent = std::mem::replace(&mut buffer, next);
            let (file, offset) = (Arc::clone(&self.file), self.offset);
            let block = Block {
                file,
                offset,
                start: 0,
                len: cut,
                buffer: sent,
            };
            if self.sender.blocking_send(Ok(block)).is_err() || at_end {
                return Ok(());
            }
            self.offset += cut as u64;
            block_bytes = (limits::TEXT_MORSEL_BYTES as usize).max(2 * buffer.filled().len());
        }
    }

    fn cut(&self, bytes: &[u8]) -> Option<usize> {
        last_end(bytes, self.scan.options.record).map(|position| position + 1)
    }

    fn panicked(&self, panic: &(dyn std::any::Any + Send)) -> Error {
        Error::invalid(format!(
            "cannot read compressed text: the decoder failed: {} file={}",
            panic_message(panic),
            self.file
        ))
    }

    fn failed(&self, codec: Codec, error: io::Error) -> Error {
        codec.error("text", &self.file, error)
    }
}

/// A file as it is stored.
enum Encoded {
    Local(std::path::PathBuf),
    /// Chunks of a file of so many bytes.
    Remote(mpsc::Receiver<Result<Bytes>>, u64),
}

impl Encoded {
    fn open(self) -> Result<Box<dyn Read + Send>> {
        Ok(match self {
            Encoded::Local(path) => Box::new(open_local(&path)?),
            Encoded::Remote(chunks, bytes) => Box::new(Chunks::new(chunks, bytes)),
        })
    }
}

fn encoded(scan: &Scan, split: &Split) -> Result<Encoded> {
    if let Some(path) = storage::local_path(&split.url) {
        return Ok(Encoded::Local(path));
    }
    let (store, path) = scan.ctx.stores.get(&split.url)?;
    let (sender, chunks) = mpsc::channel(WAITING_MAX);
    let url = split.url.clone();
    tokio::spawn(async move { send_chunks(store, path, url, sender).await });
    Ok(Encoded::Remote(chunks, split.file_bytes))
}

async fn send_chunks(
    store: Arc<dyn ObjectStore>,
    path: object_store::path::Path,
    url: String,
    sender: mpsc::Sender<Result<Bytes>>,
) {
    let mut stream = match store.get(&path).await {
        Ok(found) => found.into_stream(),
        Err(error) => stream::iter([Err(error)]).boxed(),
    };
    while let Some(chunk) = stream.next().await {
        let chunk = chunk.map_err(|error| storage_error("read", &url, error));
        if sender.send(chunk).await.is_err() {
            return;
        }
    }
}
