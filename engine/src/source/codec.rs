//! Compression of whole files: gzip, zstd and bzip2, recognised by how a file begins, whatever its
//! name.
//!
//! Decoders block, so they run on threads that may. Between them and what waits for I/O are short
//! channels: a file is never decoded far ahead of its use, however well it is compressed.

use std::io::{self, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use tokio::sync::mpsc;

use crate::context::panic_message;
use crate::error::{Error, Result};

/// Chunks that wait between two threads.
const WAITING_MAX: usize = 2;

/// How a file is compressed.
#[derive(Debug, Clone, Copy)]
pub(super) enum Codec {
    Gzip,
    Zstd,
    Bzip2,
}

impl Codec {
    /// What a file that begins so is compressed with; four bytes are enough.
    pub(super) fn of(first_bytes: &[u8]) -> Option<Codec> {
        match first_bytes {
            [0x1f, 0x8b, 0x08, ..] => Some(Codec::Gzip),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Some(Codec::Zstd),
            [b'B', b'Z', b'h', b'1'..=b'9', ..] => Some(Codec::Bzip2),
            _ => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Codec::Gzip => "gzip",
            Codec::Zstd => "zstd",
            Codec::Bzip2 => "bzip2",
        }
    }

    /// Undoes it. Members, frames and streams that follow one another are one.
    pub(super) fn decoder(self, encoded: Box<dyn Read + Send>) -> io::Result<Box<dyn Read>> {
        Ok(match self {
            Codec::Gzip => Box::new(flate2::read::MultiGzDecoder::new(encoded)),
            Codec::Zstd => Box::new(zstd::stream::read::Decoder::new(encoded)?),
            Codec::Bzip2 => Box::new(bzip2::read::MultiBzDecoder::new(encoded)),
        })
    }

    /// What went wrong in reading `file`, which holds compressed `what`.
    pub(super) fn error(self, what: &str, file: &str, error: io::Error) -> Error {
        let inner = match error.downcast::<Error>() {
            Ok(own) => return own,
            Err(inner) => inner,
        };
        let problem = match inner.kind() {
            io::ErrorKind::UnexpectedEof => "ends early",
            _ => "is damaged",
        };
        Error::invalid(format!(
            "cannot read compressed {what}: {} stream {problem} file={file}",
            self.name()
        ))
        .with_source(inner)
    }
}

/// The bytes of a file whose `encoded` form, of `bytes` bytes, is compressed: in chunks of
/// `chunk_bytes`, all but the last. `what` it holds and its name are for errors.
pub(super) fn decoded(
    codec: Codec,
    encoded: BoxStream<'static, Result<Bytes>>,
    bytes: u64,
    chunk_bytes: usize,
    (what, file): (&'static str, Arc<str>),
) -> BoxStream<'static, Result<Bytes>> {
    let start = move || {
        let (to_decoder, chunks) = mpsc::channel(WAITING_MAX);
        let (to_reader, decoded) = mpsc::channel(WAITING_MAX);
        tokio::spawn(async move {
            let mut encoded = encoded;
            while let Some(chunk) = encoded.next().await {
                if to_decoder.send(chunk).await.is_err() {
                    return;
                }
            }
        });
        tokio::task::spawn_blocking(move || {
            let chunks = Box::new(Chunks::new(chunks, bytes));
            let decode = || decode(codec, chunks, chunk_bytes, &to_reader);
            // That the channel closes does not say that the file has ended: a decoder that
            // panics closes it too, and what it has not sent would be missing unnoticed.
            let outcome = catch_unwind(AssertUnwindSafe(decode));
            let outcome = outcome.unwrap_or_else(|panic| {
                let panic = format!("the decoder failed: {}", panic_message(&*panic));
                Err(io::Error::other(panic))
            });
            if let Err(error) = outcome {
                // If nobody listens any more, nobody wants to know.
                let _ = to_reader.blocking_send(Err(codec.error(what, &file, error)));
            }
        });
        stream::unfold(decoded, |mut decoded| async {
            decoded.recv().await.map(|chunk| (chunk, decoded))
        })
    };
    stream::once(async move { start() }).flatten().boxed()
}

/// Decodes a file from beginning to end, or until nobody wants more of it.
fn decode(
    codec: Codec,
    encoded: Box<dyn Read + Send>,
    chunk_bytes: usize,
    to: &mpsc::Sender<Result<Bytes>>,
) -> io::Result<()> {
    let mut decoder = codec.decoder(encoded)?;
    loop {
        let mut chunk = vec![0; chunk_bytes];
        let read = read_full(&mut decoder, &mut chunk)?;
        chunk.truncate(read);
        if to.blocking_send(Ok(chunk.into())).is_err() || read < chunk_bytes {
            return Ok(());
        }
    }
}

/// The first bytes of a file whose encoded form begins with `encoded`: no more than `most`, and
/// fewer if there are no more or the rest of the encoded form would be needed for them.
pub(super) fn decoded_start(codec: Codec, encoded: Bytes, most: u64) -> io::Result<Vec<u8>> {
    let mut start = Vec::new();
    let decoder = codec.decoder(Box::new(io::Cursor::new(encoded)))?;
    match decoder.take(most).read_to_end(&mut start) {
        Err(error) if error.kind() != io::ErrorKind::UnexpectedEof || start.is_empty() => {
            Err(error)
        }
        _ => Ok(start),
    }
}

/// Reads until `into` is full or the stream ends.
pub(super) fn read_full(from: &mut dyn Read, into: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < into.len() {
        match from.read(&mut into[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// Chunks from an async stream, read on a thread that may block.
pub(super) struct Chunks {
    chunks: mpsc::Receiver<Result<Bytes>>,
    current: Bytes,
    /// Bytes that have yet to arrive.
    left: u64,
}

impl Chunks {
    /// The chunks of a file of `bytes` bytes.
    pub(super) fn new(chunks: mpsc::Receiver<Result<Bytes>>, bytes: u64) -> Self {
        Chunks {
            chunks,
            current: Bytes::new(),
            left: bytes,
        }
    }
}

impl Read for Chunks {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.chunks.blocking_recv() {
                None if self.left == 0 => return Ok(0),
                // Where one stream ends and another could begin, a decoder would not notice.
                None => return Err(io::ErrorKind::UnexpectedEof.into()),
                Some(chunk) => {
                    self.current = chunk.map_err(io::Error::other)?;
                    self.left = self.left.saturating_sub(self.current.len() as u64);
                }
            }
        }
        let len = into.len().min(self.current.len());
        into[..len].copy_from_slice(&self.current.split_to(len));
        Ok(len)
    }
}
