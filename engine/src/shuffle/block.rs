//! Rows to bytes: one block at a time.
//!
//! A block is a header, an Arrow IPC stream of a schema and one batch, and zeros up to the next
//! multiple of [`SHUFFLE_ALIGN_BYTES`](crate::limits::SHUFFLE_ALIGN_BYTES). Whoever holds the
//! bytes of a block can read it.

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::ipc::writer::{
    DictionaryTracker, IpcDataGenerator, IpcWriteContext, IpcWriteOptions, write_message,
};
use arrow::ipc::{CompressionType, MetadataVersion};
use xxhash_rust::xxh3::xxh3_64;

use super::decode::{END_OF_STREAM, Stream};
use super::layout::{BLOCK_HEADER_BYTES, BlockHeader, padding};
use crate::error::{Error, Result};
use crate::limits;
use crate::storage::Compression;

/// Makes blocks of one schema.
pub(super) struct BlockEncoder {
    schema: SchemaRef,
    options: IpcWriteOptions,
    context: IpcWriteContext,
    /// Whether large blocks are given memory of their own.
    apart: bool,
}

/// How much room to ask for where a block needs so many bytes.
///
/// Blocks wait in memory until there is no more room, and leave it in another order than they came.
/// Allocators have several of one size beside one another, in memory that goes back when the last
/// is freed, and give large ones memory of their own. What nobody writes to takes none, where pages
/// are small and what was freed before has gone back.
fn capacity(needed: usize, apart: bool) -> usize {
    if !apart || needed < limits::SMALL_BLOCK_BYTES {
        return needed;
    }
    needed.max(limits::LARGE_BLOCK_BYTES)
}

impl BlockEncoder {
    /// An encoder of batches with the columns of `schema`; `apart` gives large blocks memory of
    /// their own.
    pub(super) fn new(schema: SchemaRef, compression: Compression, apart: bool) -> Result<Self> {
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
            apart,
        })
    }

    /// Encodes `batch`, which has the columns of the schema.
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
        let needed = BLOCK_HEADER_BYTES
            + schema.ipc_message.len()
            + rows.ipc_message.len()
            + rows.arrow_data.len()
            + 4 * limits::SHUFFLE_ALIGN_BYTES;
        let mut block = Vec::with_capacity(capacity(needed, self.apart));
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
            decoded_bytes: Stream::parse(&block[BLOCK_HEADER_BYTES..])
                .map_err(Error::internal)?
                .decoded_bytes,
            checksum: xxh3_64(&block[BLOCK_HEADER_BYTES..]),
        };
        block.resize(block.len() + padding(block.len()), 0);
        header.write(&mut block[..BLOCK_HEADER_BYTES]);
        Ok(block)
    }
}
