//! Bytes to rows: blocks that follow one another.
//!
//! Nothing here trusts what it reads, though it has been compared with a checksum: a block whose
//! parts do not fit together is refused before arrow's decoder sees it, and a panic of the decoder
//! is contained. Text is checked to be UTF-8 a column at a time, which for ASCII costs next to
//! nothing.

use std::any::Any;
use std::collections::HashMap;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, RecordBatch, RecordBatchOptions};
use arrow::buffer::Buffer;
use arrow::datatypes::{DataType, Schema, SchemaRef};
use arrow::ipc::convert::try_fb_to_schema;
use arrow::ipc::reader::{read_dictionary, read_record_batch};
use arrow::ipc::{self, Endianness, Message, root_as_message};
use bytes::Bytes;

use super::chunks::Chunks;
use super::layout::{BLOCK_HEADER_BYTES, BlockHeader, padding};
use crate::error::{Error, Result};
use crate::kernel::view::checked_string_array;
use crate::limits;
use crate::operator::Emit;

/// End of an IPC stream.
pub(super) const END_OF_STREAM: [u8; 8] = [0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0];

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
    let bytes = stream.join();
    let stream = Stream::parse(&bytes).map_err(undecodable)?;
    if stream.decoded_bytes != header.decoded_bytes {
        return Err(undecodable(
            "its buffers have other lengths than its header says",
        ));
    }
    // The decoder asserts on some input that it should refuse.
    let decode = AssertUnwindSafe(|| stream.decode(&Buffer::from(bytes.clone())));
    let batch = catch_unwind(decode).unwrap_or_else(|panic| Err(panic_text(&*panic).to_owned()));
    let batch = batch.map_err(undecodable)?;
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

/// The messages of an IPC stream, none of which claims more than is there.
pub(super) struct Stream<'a> {
    schema: ipc::Schema<'a>,
    /// Dictionaries, then the batch; each with the place of its body.
    messages: Vec<(Message<'a>, Range<usize>)>,
    /// Bytes of all buffers once decoded. The decoder allocates what a compressed buffer claims
    /// to hold, so this has to be what the writer saw.
    pub(super) decoded_bytes: u64,
}

impl<'a> Stream<'a> {
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self, &'static str> {
        const CUT_OFF: &str = "a message is cut off";
        let mut schema = None;
        let mut messages = Vec::new();
        let mut decoded_bytes: u64 = 0;
        let mut rest = bytes;
        loop {
            let (prefix, after) = rest.split_first_chunk::<8>().ok_or(CUT_OFF)?;
            if *prefix == END_OF_STREAM {
                let schema = schema.filter(|_| after.is_empty());
                let schema = schema.ok_or("it does not end where it should")?;
                return Ok(Stream {
                    schema,
                    messages,
                    decoded_bytes,
                });
            }
            if prefix[..4] != END_OF_STREAM[..4] {
                return Err("a message does not begin as one");
            }
            let size = u32::from_le_bytes([prefix[4], prefix[5], prefix[6], prefix[7]]) as usize;
            let (message, after) = after.split_at_checked(size).ok_or(CUT_OFF)?;
            let message = root_as_message(message).map_err(|_| "a message is not well formed")?;
            let start = bytes.len() - after.len();
            let length = usize::try_from(message.bodyLength()).map_err(|_| CUT_OFF)?;
            let (body, after) = after.split_at_checked(length).ok_or(CUT_OFF)?;
            rest = after;
            if schema.is_none() {
                schema = Some(little_endian_schema(&message)?);
                continue;
            }
            let dictionary = || message.header_as_dictionary_batch()?.data();
            let batch = message.header_as_record_batch().or_else(dictionary);
            let sum = buffer_bytes(batch.ok_or("a message is not a batch")?, body)?;
            decoded_bytes = decoded_bytes.checked_add(sum).ok_or(CUT_OFF)?;
            messages.push((message, start..start + length));
        }
    }

    /// The one batch of the stream, whose bytes are `stream`.
    fn decode(&self, stream: &Buffer) -> Result<RecordBatch, String> {
        let schema = try_fb_to_schema(self.schema).map_err(|error| error.to_string())?;
        let (last, dictionaries) = self
            .messages
            .split_last()
            .ok_or("there is no batch in it")?;
        let body = |range: &Range<usize>| stream.slice_with_length(range.start, range.len());
        let mut known = HashMap::new();
        for (message, range) in dictionaries {
            let batch = message
                .header_as_dictionary_batch()
                .ok_or("it has several batches")?;
            read_dictionary(&body(range), batch, &schema, &mut known, &message.version())
                .map_err(|error| error.to_string())?;
        }
        let (message, range) = last;
        let batch = message
            .header_as_record_batch()
            .ok_or("it does not end with a batch")?;
        let binary = Arc::new(text_as_binary(&schema));
        let batch = read_record_batch(
            &body(range),
            batch,
            binary,
            &known,
            None,
            &message.version(),
        )
        .map_err(|error| error.to_string())?;
        check_text(batch, Arc::new(schema))
    }
}

/// Arrow's decoder takes big-endian numbers for little-endian ones without a word.
fn little_endian_schema<'a>(message: &Message<'a>) -> Result<ipc::Schema<'a>, &'static str> {
    let schema = message
        .header_as_schema()
        .ok_or("it does not begin with a schema")?;
    if schema.endianness() != Endianness::Little {
        return Err("its numbers are big-endian");
    }
    Ok(schema)
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

/// The schema with binary columns for text: text and binary views lie alike.
fn text_as_binary(schema: &Schema) -> Schema {
    let fields = schema.fields().iter().map(|field| match field.data_type() {
        DataType::Utf8View => Arc::new(field.as_ref().clone().with_data_type(DataType::BinaryView)),
        _ => Arc::clone(field),
    });
    Schema::new(fields.collect::<Vec<_>>())
}

/// The batch under `schema`, its text checked.
fn check_text(batch: RecordBatch, schema: SchemaRef) -> Result<RecordBatch, String> {
    let columns = batch.columns().iter().zip(schema.fields());
    let columns = columns.map(|(column, field)| match field.data_type() {
        DataType::Utf8View => checked_string_array(column.as_binary_view().clone())
            .map(|strings| Arc::new(strings) as ArrayRef)
            .map_err(|error| error.to_string()),
        _ => Ok(Arc::clone(column)),
    });
    let columns = columns.collect::<Result<Vec<_>, String>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(schema, columns, &options).map_err(|error| error.to_string())
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
    // Rows of which only the number matters have no columns.
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    let columns = batch.columns().to_vec();
    RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)
        .map_err(|error| undecodable(error.to_string()))
}

/// Whether rows of `found` are rows of `schema`, in which a column may hold nulls that has none
/// here: a union reads stages that differ in this.
fn same_columns(found: &Schema, schema: &Schema) -> bool {
    let mut pairs = found.fields().iter().zip(schema.fields());
    found.fields().len() == schema.fields().len()
        && pairs.all(|(found, field)| {
            found.name() == field.name()
                && found.data_type() == field.data_type()
                && (field.is_nullable() || !found.is_nullable())
        })
}
