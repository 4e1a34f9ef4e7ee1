//! Rows to bytes and back: one block at a time.
//!
//! A block is a header, an Arrow IPC stream of a schema and one batch, and zeros up to the next
//! multiple of [`SHUFFLE_ALIGN_BYTES`](crate::limits::SHUFFLE_ALIGN_BYTES). Whoever holds the
//! bytes of a block can read it.
//!
//! Strings are written as they lie: text and binary views have the same layout, so a batch is
//! handed to the encoder with binary columns under a schema that says text, and UTF-8 is checked
//! once, by the reader, who must not trust what it reads.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::buffer::Buffer;
use arrow::datatypes::{Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::ipc::reader::StreamDecoder;
use arrow::ipc::writer::{
    DictionaryTracker, IpcDataGenerator, IpcWriteContext, IpcWriteOptions, write_message,
};
use arrow::ipc::{self, CompressionType, Endianness, MetadataVersion, root_as_message};
use bytes::Bytes;

use super::Compression;
use super::chunks::Chunks;
use super::layout::{BLOCK_HEADER_BYTES, BlockHeader, padding};
use crate::error::{Error, Result};
use crate::limits;
use crate::operator::Emit;

/// End of an IPC stream.
const END_OF_STREAM: [u8; 8] = [0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0];

/// Makes blocks of one schema.
pub(super) struct BlockEncoder {
    schema: SchemaRef,
    options: IpcWriteOptions,
    context: IpcWriteContext,
}

impl BlockEncoder {
    pub(super) fn new(schema: SchemaRef, compression: Compression) -> Result<Self> {
        let options =
            IpcWriteOptions::try_new(limits::SHUFFLE_ALIGN_BYTES, false, MetadataVersion::V5)?;
        let options = match compression {
            Compression::None => options,
            Compression::Lz4 => options.try_with_compression(Some(CompressionType::LZ4_FRAME))?,
            Compression::Zstd => options
                .try_with_compression(Some(CompressionType::ZSTD))?
                .try_with_compression_level(Some(1))?,
        };
        Ok(BlockEncoder {
            schema,
            options,
            context: IpcWriteContext::default(),
        })
    }

    /// Encodes `batch`, whose columns are laid out as the schema says.
    pub(super) fn encode(&mut self, batch: &RecordBatch) -> Result<Vec<u8>> {
        let generator = IpcDataGenerator::default();
        let mut dictionaries = DictionaryTracker::new(false);
        let schema = generator.schema_to_bytes_with_dictionary_tracker(
            &self.schema,
            &mut dictionaries,
            &self.options,
        );
        let (before, rows) =
            generator.encode(batch, &mut dictionaries, &self.options, &mut self.context)?;
        let mut block = Vec::with_capacity(
            BLOCK_HEADER_BYTES
                + schema.ipc_message.len()
                + rows.ipc_message.len()
                + rows.arrow_data.len()
                + 4 * limits::SHUFFLE_ALIGN_BYTES,
        );
        block.resize(BLOCK_HEADER_BYTES, 0);
        write_message(&mut block, schema, &self.options)?;
        for dictionary in before {
            write_message(&mut block, dictionary, &self.options)?;
        }
        write_message(&mut block, rows, &self.options)?;
        block.extend_from_slice(&END_OF_STREAM);
        let header = BlockHeader {
            rows: u32::try_from(batch.num_rows())
                .map_err(|_| Error::internal("a block has more rows than 32 bits count"))?,
            bytes: (block.len() - BLOCK_HEADER_BYTES) as u64,
            decoded_bytes: decoded_bytes(&block[BLOCK_HEADER_BYTES..]).map_err(Error::internal)?,
        };
        block.resize(block.len() + padding(block.len()), 0);
        header.write(&mut block[..BLOCK_HEADER_BYTES]);
        Ok(block)
    }
}

/// Decodes blocks that follow one another and emits their rows, at most
/// [`limits::BATCH_ROWS`] at a time.
///
/// The bytes have to be those of whole partitions, compared with their checksums: this finds
/// most damage, but not a digit that became another.
///
/// # Errors
/// `Corrupt` if the bytes are not blocks, or their columns not those of `schema` where one is
/// given; and whatever `emit` answers.
pub fn decode_blocks(bytes: Bytes, schema: Option<&SchemaRef>, emit: Emit<'_>) -> Result<()> {
    decode_chunks(Chunks::from_iter([bytes]), schema, emit).map(drop)
}

/// As [`decode_blocks`]; tells how many rows there were.
pub(super) fn decode_chunks(
    mut chunks: Chunks,
    schema: Option<&SchemaRef>,
    emit: Emit<'_>,
) -> Result<u64> {
    let mut rows = 0;
    while !chunks.is_empty() {
        let batch = next_block(&mut chunks, schema)?;
        rows += batch.num_rows() as u64;
        for start in (0..batch.num_rows()).step_by(limits::BATCH_ROWS) {
            let length = limits::BATCH_ROWS.min(batch.num_rows() - start);
            emit(batch.slice(start, length))?;
        }
    }
    Ok(rows)
}

fn next_block(chunks: &mut Chunks, schema: Option<&SchemaRef>) -> Result<RecordBatch> {
    const CUT_OFF: &str = "a block is cut off";
    let header = chunks
        .split(BLOCK_HEADER_BYTES)
        .ok_or_else(|| Error::corrupt(CUT_OFF))?;
    let header = BlockHeader::parse(&header.join()).map_err(Error::corrupt)?;
    let length = usize::try_from(header.bytes)
        .ok()
        .filter(|&length| length <= chunks.len())
        .ok_or_else(|| Error::corrupt(CUT_OFF))?;
    let stream = chunks
        .split(length)
        .ok_or_else(|| Error::corrupt(CUT_OFF))?;
    let padding = chunks
        .split(padding(length))
        .ok_or_else(|| Error::corrupt(CUT_OFF))?;
    if padding.join().iter().any(|&byte| byte != 0) {
        return Err(Error::corrupt("the padding of a block is not zero"));
    }
    let stream = stream.join();
    if decoded_bytes(&stream).map_err(undecodable)? != header.decoded_bytes {
        return Err(undecodable(
            "its buffers have other lengths than its header says",
        ));
    }
    // The decoder asserts on some input that it should refuse.
    let stream = Buffer::from(stream);
    let batch = catch_unwind(AssertUnwindSafe(|| decode_stream(stream)))
        .unwrap_or_else(|panic| Err(undecodable(panic_text(&*panic))))?;
    if batch.num_rows() != header.rows as usize {
        return Err(Error::corrupt(format!(
            "a block has other rows than its header says rows={} header={}",
            batch.num_rows(),
            header.rows
        )));
    }
    match schema {
        Some(schema) => conform(batch, schema),
        None => Ok(batch),
    }
}

fn decode_stream(mut stream: Buffer) -> Result<RecordBatch> {
    let failed = |error: ArrowError| undecodable(error.to_string());
    let mut decoder = StreamDecoder::new();
    let batch = decoder.decode(&mut stream).map_err(failed)?;
    let batch = batch.ok_or_else(|| undecodable("there is no batch in it"))?;
    if stream.as_slice() != END_OF_STREAM {
        return Err(undecodable("it does not end behind its batch"));
    }
    Ok(batch)
}

/// Bytes of all buffers of a stream once decoded.
///
/// Looks at every message before the decoder does, who takes big-endian numbers for little-endian
/// ones without a word, and allocates whatever a compressed buffer claims to hold.
fn decoded_bytes(stream: &[u8]) -> Result<u64, &'static str> {
    const CUT_OFF: &str = "a message is cut off";
    let mut rest = stream;
    let mut decoded: u64 = 0;
    for number in 0.. {
        let (prefix, after) = rest.split_at_checked(8).ok_or(CUT_OFF)?;
        if prefix == END_OF_STREAM {
            return if after.is_empty() {
                Ok(decoded)
            } else {
                Err("it does not end at its end")
            };
        }
        let size = u32::from_le_bytes([prefix[4], prefix[5], prefix[6], prefix[7]]);
        if prefix[..4] != END_OF_STREAM[..4] {
            return Err("a message does not begin as one");
        }
        let (message, after) = after.split_at_checked(size as usize).ok_or(CUT_OFF)?;
        let message = root_as_message(message).map_err(|_| "a message is not well formed")?;
        let length = usize::try_from(message.bodyLength()).map_err(|_| CUT_OFF)?;
        let (body, after) = after.split_at_checked(length).ok_or(CUT_OFF)?;
        rest = after;
        if number == 0 {
            match message.header_as_schema().map(|schema| schema.endianness()) {
                Some(Endianness::Little) => continue,
                Some(_) => return Err("its numbers are big-endian"),
                None => return Err("it does not begin with a schema"),
            }
        }
        let dictionary = || message.header_as_dictionary_batch()?.data();
        let batch = message.header_as_record_batch().or_else(dictionary);
        let bytes = buffer_bytes(batch.ok_or("a message is not a batch")?, body)?;
        decoded = decoded.checked_add(bytes).ok_or(CUT_OFF)?;
    }
    Err(CUT_OFF)
}

fn buffer_bytes(batch: ipc::RecordBatch<'_>, body: &[u8]) -> Result<u64, &'static str> {
    const OUTSIDE: &str = "a buffer lies outside its message";
    let compressed = batch.compression().is_some();
    let mut sum: u64 = 0;
    for buffer in batch.buffers().into_iter().flatten() {
        let start = usize::try_from(buffer.offset()).map_err(|_| OUTSIDE)?;
        let length = usize::try_from(buffer.length()).map_err(|_| OUTSIDE)?;
        let bytes = body
            .get(start..)
            .and_then(|body| body.get(..length))
            .ok_or(OUTSIDE)?;
        let decoded = match bytes.first_chunk::<8>() {
            // -1 says that compressing was not worth it.
            Some(prefix) if compressed => match i64::from_le_bytes(*prefix) {
                -1 => length as u64 - 8,
                claimed => u64::try_from(claimed).map_err(|_| "a buffer has a negative length")?,
            },
            _ => length as u64,
        };
        sum = sum.checked_add(decoded).ok_or(OUTSIDE)?;
    }
    Ok(sum)
}

fn undecodable(reason: impl Into<String>) -> Error {
    Error::corrupt(format!("a block cannot be decoded: {}", reason.into()))
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("the decoder panicked")
}

/// The batch under `schema` itself, so that every batch of a stage shares one schema.
fn conform(batch: RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    let found = batch.schema();
    if !same_columns(&found, schema) {
        return Err(Error::corrupt(format!(
            "a block has other columns than its stage found={found} expected={schema}"
        )));
    }
    let columns = batch.columns().to_vec();
    RecordBatch::try_new(Arc::clone(schema), columns)
        .map_err(|error| undecodable(error.to_string()))
}

fn same_columns(a: &Schema, b: &Schema) -> bool {
    a.fields().len() == b.fields().len()
        && a.fields().iter().zip(b.fields()).all(|(a, b)| {
            a.name() == b.name()
                && a.data_type() == b.data_type()
                && a.is_nullable() == b.is_nullable()
        })
}
