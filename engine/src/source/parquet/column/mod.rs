//! Columns of Parquet files, decoded straight into arrays.
//!
//! What most columns are is read here: flat, of common types, plain or with a dictionary.
//! Everything else is left to the parquet crate, whose reader for all of Parquet costs about twice
//! as much. What makes it fast: pages that nobody asks for are not decompressed, codes are
//! unpacked with vectors and checked many at a time, strings are views into the pages, and a
//! predicate is asked for a dictionary instead of for rows.
//!
//! Nothing in a chunk is trusted: every size, count, width, code and length is checked before it is
//! used, and what is wrong is an `Invalid` error that says so; the caller knows the file.

mod check;
mod dictionary;
mod digits;
mod header;
mod hybrid;
mod open;
mod pages;
mod parts;
mod plain;
mod select;
#[cfg(test)]
mod tests;
mod typed;

use arrow::array::ArrayRef;
use arrow::buffer::BooleanBuffer;
use arrow::datatypes::{DataType, TimeUnit};
use bytes::Bytes;
use parquet::basic::{ConvertedType, LogicalType, TimeUnit as ParquetUnit, Type};
use parquet::file::metadata::ColumnChunkMetaData;
use parquet::schema::types::ColumnDescriptor;

use crate::error::{Error, Result};
use pages::Pages;
use plain::Source;
use typed::Typed;

pub(super) use check::check_chunk;

/// Says for each of some values, none of which is null, whether it is wanted.
pub(super) type Predicate<'a> = &'a mut dyn FnMut(&ArrayRef) -> Result<BooleanBuffer>;

/// Decodes one column chunk of a row group, in order.
pub(super) struct ColumnChunkReader {
    column: Box<dyn Column + Send>,
    /// Rows that have not been read or passed over.
    left: usize,
}

/// A column of values of one size in memory.
trait Column {
    /// The next `rows` rows, or those of them that are set in the mask.
    fn read(&mut self, rows: usize, mask: Option<&BooleanBuffer>) -> Result<ArrayRef>;
    /// Passes over rows.
    fn skip(&mut self, rows: usize) -> Result<()>;
    /// What a predicate says of the next `rows` rows, which remain to be read or passed over.
    fn test(&mut self, rows: usize, predicate: Predicate<'_>) -> Result<BooleanBuffer>;
}

impl ColumnChunkReader {
    /// Rows that have not been read or passed over.
    pub(super) fn rows_left(&self) -> usize {
        self.left
    }

    /// Opens a chunk from its bytes, the dictionary first. None if its type, its nesting, the codec
    /// or the encoding of one of its pages is not read here.
    ///
    /// # Errors
    /// `Invalid` if the headers of its pages are not what they should be.
    pub(super) fn try_new(
        chunk: Bytes,
        metadata: &ColumnChunkMetaData,
        target: &DataType,
    ) -> Result<Option<Self>> {
        let column = metadata.column_descr();
        let Some(source) = source_of(column, target) else {
            return Ok(None);
        };
        let nullable = match (column.max_rep_level(), column.max_def_level()) {
            (0, levels @ 0..=1) => levels == 1,
            _ => return Ok(None),
        };
        let rows = usize::try_from(metadata.num_values())
            .map_err(|_| Error::invalid("a column claims less than no rows"))?;
        let Some(pages) = Pages::list(chunk, metadata.compression(), nullable, rows)? else {
            return Ok(None);
        };
        let target = target.clone();
        let column: Box<dyn Column + Send> = match (source, target.primitive_width()) {
            (Source::Bits, _) | (_, Some(1)) => Box::new(Typed::<u8>::new(source, target, pages)),
            (Source::Bytes { .. }, _) | (_, Some(16)) => {
                Box::new(Typed::<u128>::new(source, target, pages))
            }
            (_, Some(2)) => Box::new(Typed::<u16>::new(source, target, pages)),
            (_, Some(4)) => Box::new(Typed::<u32>::new(source, target, pages)),
            (_, Some(8)) => Box::new(Typed::<u64>::new(source, target, pages)),
            _ => return Ok(None),
        };
        Ok(Some(ColumnChunkReader { column, left: rows }))
    }

    /// The next `rows` rows.
    ///
    /// # Errors
    /// `Invalid` if the pages are not what they should be.
    pub(super) fn read(&mut self, rows: usize) -> Result<ArrayRef> {
        self.advance(rows)?;
        self.column.read(rows, None)
    }

    /// Of the next `mask.len()` rows those that are set. Pages without any of these are not
    /// decompressed, and nothing is decoded again that [`test`](Self::test) has decoded.
    ///
    /// # Errors
    /// `Invalid` if the pages are not what they should be.
    pub(super) fn read_selected(&mut self, mask: &BooleanBuffer) -> Result<ArrayRef> {
        self.advance(mask.len())?;
        let is_all = mask.count_set_bits() == mask.len();
        self.column.read(mask.len(), (!is_all).then_some(mask))
    }

    /// Passes over rows. Pages that lie within are not decompressed.
    ///
    /// # Errors
    /// `Internal` if there are not as many rows.
    pub(super) fn skip(&mut self, rows: usize) -> Result<()> {
        self.advance(rows)?;
        self.column.skip(rows)
    }

    /// For each of the next `rows` rows whether `predicate` wants it; null is not wanted. The rows
    /// remain where they are: `read`, `read_selected` or `skip` of just as many has to follow, and
    /// finds them decoded.
    ///
    /// The predicate is asked for values, not for rows: once for each value of the dictionary where
    /// there is one, never for null. It has to be the same function at every call.
    ///
    /// # Errors
    /// `Invalid` if the pages are not what they should be; the predicate's own.
    pub(super) fn test(&mut self, rows: usize, predicate: Predicate<'_>) -> Result<BooleanBuffer> {
        self.check(rows)?;
        self.column.test(rows, predicate)
    }

    fn advance(&mut self, rows: usize) -> Result<()> {
        self.check(rows)?;
        self.left -= rows;
        Ok(())
    }

    fn check(&self, rows: usize) -> Result<()> {
        if rows > self.left {
            return Err(Error::internal(format!(
                "a column was read beyond its end rows={rows} left={}",
                self.left
            )));
        }
        Ok(())
    }
}

/// How the values of a column become those of `target`; none if that is not done here.
fn source_of(column: &ColumnDescriptor, target: &DataType) -> Option<Source> {
    use DataType as T;
    let stored = column.physical_type();
    match (stored, target) {
        (Type::BOOLEAN, T::Boolean) => Some(Source::Bits),
        (Type::INT32, T::Int8 | T::Int16 | T::Int32 | T::UInt8 | T::UInt16 | T::UInt32)
        | (Type::INT32, T::Date32)
            if !is_decimal(column) =>
        {
            Some(Source::Int32)
        }
        (Type::FLOAT, T::Float32) => Some(Source::Int32),
        (Type::INT64, T::Int64 | T::UInt64) if !is_decimal(column) => Some(Source::Int64),
        (Type::DOUBLE, T::Float64) => Some(Source::Int64),
        (Type::INT64, T::Timestamp(unit, _)) if has_unit(column, *unit) => Some(Source::Int64),
        (_, T::Decimal32(_, scale) | T::Decimal64(_, scale) | T::Decimal128(_, scale))
            if is_decimal(column) && i32::from(*scale) == column.type_scale() =>
        {
            let width = target.primitive_width()?;
            match stored {
                Type::INT32 => Some(Source::Int32),
                Type::INT64 if width >= 8 => Some(Source::Int64),
                Type::FIXED_LEN_BYTE_ARRAY => {
                    let bytes = usize::try_from(column.type_length()).ok()?;
                    (1..=width).contains(&bytes).then_some(Source::Fixed(bytes))
                }
                _ => None,
            }
        }
        (Type::BYTE_ARRAY, T::Utf8View) => Some(Source::Bytes { is_text: true }),
        (Type::BYTE_ARRAY, T::BinaryView) => Some(Source::Bytes { is_text: false }),
        _ => None,
    }
}

fn is_decimal(column: &ColumnDescriptor) -> bool {
    matches!(column.logical_type_ref(), Some(LogicalType::Decimal(_)))
        || column.converted_type() == ConvertedType::DECIMAL
}

/// Whether a column counts time in `unit`; a column that does not say is taken for what it is
/// wanted to be.
fn has_unit(column: &ColumnDescriptor, wanted: TimeUnit) -> bool {
    let stored = match (column.logical_type_ref(), column.converted_type()) {
        (Some(LogicalType::Timestamp(time)), _) => match time.unit {
            ParquetUnit::MILLIS => TimeUnit::Millisecond,
            ParquetUnit::MICROS => TimeUnit::Microsecond,
            ParquetUnit::NANOS => TimeUnit::Nanosecond,
        },
        (_, ConvertedType::TIMESTAMP_MILLIS) => TimeUnit::Millisecond,
        (_, ConvertedType::TIMESTAMP_MICROS) => TimeUnit::Microsecond,
        (None, ConvertedType::NONE) => wanted,
        _ => return false,
    };
    stored == wanted
}
