//! CSV files (RFC 4180, with any one-byte delimiter): one morsel per block of whole records.
//!
//! A file is read from its beginning, because whether a line end is inside quotes depends on
//! everything before it; [`cut`] decides that as the bytes arrive and blocks end where a record
//! does. Several files are read at once. Lanes decode blocks ([`rows`]), each independently of the
//! others, and name file, line and column of what does not fit ([`diagnose`]).
//!
//! The columns are those of the scan's schema, given or guessed ([`infer_schema`]): integers,
//! floats, booleans (`true`, `false`), decimals (rounded to their scale), dates (`2024-02-29`),
//! timestamps (`2024-02-29T12:00:00.5`, with a zone behind it or not) and strings. A value that
//! does not fit is an error. An empty field, or the one that the options name, is null, quoted or
//! not, in columns of every type. Blank lines are no records. A byte-order mark is passed over.
//!
//! A compressed file is decoded on its way; from there on it is like any other.

mod cut;
mod diagnose;
mod infer;
mod rows;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};

use crate::context::TaskContext;
use crate::error::{Error, Result};
use crate::limits;
use crate::operator::Morsel;
use crate::plan::{ScanFormat, ScanSpec, Split};
use crate::source::codec::{self, Codec};
use crate::source::input::InputFile;
use crate::source::{PlacedMorsels, place};
use cut::Cutter;
pub use infer::infer_schema;
use rows::{Block, Scan, nulls};

/// Bytes fetched with one request, and about the size of a block.
const CHUNK_BYTES: u64 = 2 << 20;

/// Chunks of one file that are fetched ahead.
const CHUNKS_AHEAD: usize = 4;

/// Files that are read at once: with their chunks they stay within what may be fetched ahead.
const FILES_AT_ONCE: usize = (limits::PREFETCH_BYTES / CHUNK_BYTES) as usize / (CHUNKS_AHEAD + 1);

/// The morsels of `splits`. A file is not divided: all of its records belong to the split that
/// starts at its first byte.
///
/// # Errors
/// `Internal` if `spec` is not about CSV. The stream's own errors name the file.
pub fn open(spec: &ScanSpec, splits: Vec<Split>, ctx: &TaskContext) -> Result<PlacedMorsels> {
    let ScanFormat::Csv(options) = &spec.format else {
        return Err(Error::internal(
            "a CSV source was asked to read another format",
        ));
    };
    let scan = Arc::new(Scan {
        options: options.clone(),
        nulls: nulls(options)?,
        schema: Arc::clone(&spec.file_schema),
        projection: spec.projection.clone(),
        metrics: Arc::clone(&ctx.metrics),
    });
    let mut files = Vec::new();
    for split in splits
        .iter()
        .filter(|split| split.start == 0 && split.file_bytes > 0)
    {
        files.push(InputFile::new(
            &split.url,
            split.file_bytes,
            &ctx.stores,
            &ctx.metrics,
        )?);
    }
    let files = (0..).zip(files).map(move |(number, file)| {
        let places = stream::iter((0..).map(move |block| place(number, block)));
        let morsels = places.zip(morsels(file, Arc::clone(&scan)));
        morsels.map(|(place, morsel)| Ok((place, morsel?))).boxed()
    });
    Ok(stream::iter(files).flatten_unordered(FILES_AT_ONCE).boxed())
}

/// One file's morsels.
fn morsels(file: InputFile, scan: Arc<Scan>) -> BoxStream<'static, Result<Morsel>> {
    let blocks = blocks(file, scan.options.delimiter);
    let morsel = move |block: Block| {
        let scan = Arc::clone(&scan);
        Box::new(move |emit: crate::operator::Emit<'_>| scan.decode(&block, emit)) as Morsel
    };
    blocks.map_ok(morsel).boxed()
}

/// One file, cut into blocks of whole records.
fn blocks(file: InputFile, delimiter: u8) -> BoxStream<'static, Result<Block>> {
    let chunks = chunks(file.clone());
    let state = Some(Blocks {
        url: file.url().into(),
        cutter: Cutter::new(delimiter),
        rest: BytesMut::new(),
        line: 1,
        first: true,
    });
    // A last element tells the end, so that what is left becomes a block too.
    let chunks = chunks.map_ok(Some).chain(stream::iter([Ok(None)]));
    let blocks = chunks.scan(state, |state, chunk| {
        let step = match (chunk, state.as_mut()) {
            (_, None) => None,
            (Err(error), Some(_)) => Some(Err(error)),
            (Ok(Some(chunk)), Some(blocks)) => Some(blocks.push(&chunk)),
            (Ok(None), Some(blocks)) => Some(Ok(blocks.finish())),
        };
        if matches!(step, Some(Err(_))) {
            *state = None;
        }
        std::future::ready(step)
    });
    blocks
        .try_filter_map(|block| std::future::ready(Ok(block)))
        .boxed()
}

/// One file's text, in chunks.
fn chunks(file: InputFile) -> BoxStream<'static, Result<Bytes>> {
    let reader = file.clone();
    let starts = (0..file.bytes()).step_by(CHUNK_BYTES as usize);
    let mut stored = stream::iter(starts)
        .map(move |start| {
            let (reader, end) = (reader.clone(), reader.bytes().min(start + CHUNK_BYTES));
            async move { reader.read(start..end).await }
        })
        .buffered(CHUNKS_AHEAD)
        .boxed();
    let text = async move {
        let first = stored.next().await;
        let codec = match &first {
            Some(Ok(first)) => Codec::of(first),
            _ => None,
        };
        let stored = stream::iter(first).chain(stored).boxed();
        match codec {
            None => stored,
            Some(codec) => {
                let called = ("CSV", file.url().into());
                codec::decoded(codec, stored, file.bytes(), CHUNK_BYTES as usize, called)
            }
        }
    };
    stream::once(text).flatten().boxed()
}

/// Puts blocks together from the chunks of one file.
struct Blocks {
    url: Arc<str>,
    cutter: Cutter,
    /// What follows the last record end.
    rest: BytesMut,
    /// Line on which `rest` starts.
    line: u64,
    first: bool,
}

impl Blocks {
    /// Takes the next chunk; gives the records that are complete with it.
    fn push(&mut self, chunk: &[u8]) -> Result<Option<Block>> {
        let chunk = match chunk.strip_prefix(b"\xEF\xBB\xBF") {
            Some(text) if self.first && self.rest.is_empty() => text,
            _ => chunk,
        };
        let cut = self.cutter.scan(chunk);
        let (records, rest) = chunk.split_at(cut.unwrap_or(0));
        self.rest.extend_from_slice(records);
        let block = cut.map(|_| self.take());
        self.rest.extend_from_slice(rest);
        if self.rest.len() > limits::CSV_RECORD_BYTES_MAX {
            return Err(Error::invalid(format!(
                "a CSV record is too long, perhaps a quote is never closed file={} line={} \
                 limit={}",
                self.url,
                self.line,
                limits::CSV_RECORD_BYTES_MAX
            )));
        }
        Ok(block)
    }

    /// The file has ended: what is left is the last block, its line end missing.
    fn finish(&mut self) -> Option<Block> {
        (!self.rest.is_empty()).then(|| self.take())
    }

    fn take(&mut self) -> Block {
        let bytes: Bytes = self.rest.split().freeze();
        let block = Block {
            url: Arc::clone(&self.url),
            line: self.line,
            first: self.first,
            bytes,
        };
        self.first = false;
        self.line += memchr::memchr_iter(b'\n', &block.bytes).count() as u64;
        block
    }
}
