//! The bytes of a row group's columns, and how the crate's reader asks for them.

use std::io;
use std::sync::Arc;

use bytes::{Buf, Bytes};
use parquet::arrow::arrow_reader::RowGroups;
use parquet::column::page::{PageIterator, PageReader};
use parquet::errors::{ParquetError, Result};
use parquet::file::metadata::{ParquetMetaData, RowGroupMetaData};
use parquet::file::reader::{ChunkReader, Length};
use parquet::file::serialized_reader::SerializedPageReader;

/// The fetched column chunks of one row group.
pub(super) struct Chunks {
    metadata: Arc<ParquetMetaData>,
    row_group: usize,
    /// Leaf, and its bytes; ascending.
    leaves: Vec<(usize, Bytes)>,
}

impl Chunks {
    /// The chunks of `leaves`, ascending, whose bytes are `data`.
    pub(super) fn new(
        metadata: Arc<ParquetMetaData>,
        row_group: usize,
        leaves: &[usize],
        data: Vec<Bytes>,
    ) -> Self {
        Chunks {
            metadata,
            row_group,
            leaves: leaves.iter().copied().zip(data).collect(),
        }
    }

    /// The bytes of a leaf's chunk.
    pub(super) fn bytes(&self, leaf: usize) -> Result<&Bytes> {
        let place = self.leaves.binary_search_by_key(&leaf, |(leaf, _)| *leaf);
        match place {
            Ok(place) => Ok(&self.leaves[place].1),
            Err(_) => Err(ParquetError::General(format!(
                "nobody fetched this column leaf={leaf}"
            ))),
        }
    }

    /// What the footer says of the row group.
    pub(super) fn row_group(&self) -> &RowGroupMetaData {
        self.metadata.row_group(self.row_group)
    }
}

impl RowGroups for Chunks {
    fn num_rows(&self) -> usize {
        usize::try_from(self.row_group().num_rows()).unwrap_or(0)
    }

    fn column_chunks(&self, leaf: usize) -> Result<Box<dyn PageIterator>> {
        let column = self.row_group().column(leaf);
        let chunk = Arc::new(Chunk {
            start: column.byte_range().0,
            bytes: self.bytes(leaf)?.clone(),
        });
        let pages = SerializedPageReader::new(chunk, column, self.num_rows(), None)?;
        Ok(Box::new(OneChunk(Some(Box::new(pages)))))
    }

    fn row_groups(&self) -> Box<dyn Iterator<Item = &RowGroupMetaData> + '_> {
        Box::new(std::iter::once(self.row_group()))
    }

    fn metadata(&self) -> &ParquetMetaData {
        &self.metadata
    }
}

/// The pages of the one chunk that a column has in a row group.
struct OneChunk(Option<Box<dyn PageReader>>);

impl Iterator for OneChunk {
    type Item = Result<Box<dyn PageReader>>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.take().map(Ok)
    }
}

impl PageIterator for OneChunk {}

/// Bytes of a file that begin at `start`.
struct Chunk {
    start: u64,
    bytes: Bytes,
}

impl Chunk {
    fn from(&self, start: u64) -> Result<Bytes> {
        let offset = start
            .checked_sub(self.start)
            .and_then(|offset| usize::try_from(offset).ok())
            .filter(|&offset| offset <= self.bytes.len());
        offset
            .map(|offset| self.bytes.slice(offset..))
            .ok_or_else(|| ParquetError::EOF("pages lie outside of their column".into()))
    }
}

impl Length for Chunk {
    fn len(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }
}

impl ChunkReader for Chunk {
    type T = bytes::buf::Reader<Bytes>;

    fn get_read(&self, start: u64) -> Result<Self::T> {
        Ok(self.from(start)?.reader())
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes> {
        let bytes = self.from(start)?;
        if bytes.len() < length {
            let error = io::Error::from(io::ErrorKind::UnexpectedEof);
            return Err(ParquetError::External(Box::new(error)));
        }
        Ok(bytes.slice(..length))
    }
}
