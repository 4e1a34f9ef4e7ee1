//! Rows become the bytes of a file, piece by piece.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arrow::array::AsArray;
use arrow::csv;
use arrow::datatypes::{DataType, SchemaRef};
use arrow::error::ArrowError;
use arrow::json;
use arrow::record_batch::RecordBatch;
use flate2::write::GzEncoder;
use parquet::arrow::{ArrowSchemaConverter, ArrowWriter};
use parquet::basic::{Compression, GzipLevel, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::metadata::SortingColumn;
use parquet::file::properties::WriterProperties;

use crate::error::{Error, Result};
use crate::limits::{self, UPLOAD_PART_BYTES};
use crate::plan::{ColumnOrder, FileCompression, FileFormat, Output, OutputOptions};

/// Characters of a value that an error shows.
const SHOWN_CHARS: usize = 80;

/// Refuses columns that files of this output cannot hold.
pub(super) fn check(output: &Output, schema: &SchemaRef) -> Result<()> {
    if output.format == FileFormat::Csv {
        let flat = |data_type: &DataType| !data_type.is_nested() && !data_type.is_binary();
        if let Some(field) = schema
            .fields()
            .iter()
            .find(|field| !flat(field.data_type()))
        {
            return Err(Error::invalid(format!(
                "CSV cannot hold this type: write Parquet or JSON column={:?} type={}",
                field.name(),
                field.data_type()
            )));
        }
    }
    Encoder::new(output, schema).map(drop)
}

/// The encoder of one file.
pub(super) struct Encoder {
    writer: Writer,
    bytes: Bytes,
}

enum Writer {
    Parquet(Box<ArrowWriter<Bytes>>),
    Csv(Box<csv::Writer<Text>>, SchemaRef),
    Json(Box<json::LineDelimitedWriter<Text>>),
    Lines(Box<Text>),
}

impl Encoder {
    pub(super) fn new(output: &Output, schema: &SchemaRef) -> Result<Self> {
        let bytes = Bytes::default();
        let options = &output.options;
        let writer = match output.format {
            FileFormat::Parquet => {
                let properties = parquet_properties(options, schema)?;
                let schema = Arc::clone(schema);
                let writer = ArrowWriter::try_new(bytes.clone(), schema, Some(properties));
                Writer::Parquet(Box::new(writer.map_err(parquet_error)?))
            }
            FileFormat::Csv => {
                let builder = csv::WriterBuilder::new().with_header(true);
                let writer = builder.build(Text::new(options.compression, bytes.clone())?);
                Writer::Csv(Box::new(writer), Arc::clone(schema))
            }
            FileFormat::Json => {
                // A line has every column, so that the first one already tells what there is.
                let builder = json::WriterBuilder::new().with_explicit_nulls(true);
                let writer = builder.build(Text::new(options.compression, bytes.clone())?);
                Writer::Json(Box::new(writer))
            }
            FileFormat::Text => {
                let text = Text::new(options.compression, bytes.clone())?;
                Writer::Lines(Box::new(text))
            }
        };
        Ok(Encoder { writer, bytes })
    }

    /// Takes rows; gives the parts that are full with them, possibly none.
    pub(super) fn write(&mut self, batch: &RecordBatch) -> Result<Vec<Vec<u8>>> {
        match &mut self.writer {
            Writer::Parquet(writer) => writer.write(batch).map_err(parquet_error)?,
            Writer::Csv(writer, _) => writer.write(batch).map_err(arrow_error)?,
            Writer::Json(writer) => writer.write(batch).map_err(arrow_error)?,
            Writer::Lines(text) => text.write_all(&lines(batch)?).map_err(text_error)?,
        }
        Ok(self.bytes.take_full())
    }

    /// Finishes what can be finished early to have less in memory.
    pub(super) fn cut(&mut self) -> Result<Vec<Vec<u8>>> {
        if let Writer::Parquet(writer) = &mut self.writer {
            writer.flush().map_err(parquet_error)?;
        }
        Ok(self.bytes.take_full())
    }

    /// Bytes held in memory.
    pub(super) fn held(&self) -> usize {
        let held = match &self.writer {
            Writer::Parquet(writer) => writer.memory_size(),
            Writer::Csv(..) | Writer::Json(_) | Writer::Lines(_) => 0,
        };
        held + self.bytes.len()
    }

    /// About how many bytes the rows that are held will be in the file.
    pub(super) fn pending(&self) -> usize {
        let pending = match &self.writer {
            Writer::Parquet(writer) => writer.in_progress_size(),
            Writer::Csv(..) | Writer::Json(_) | Writer::Lines(_) => 0,
        };
        pending + self.bytes.len()
    }

    /// The file's last parts, of which the last one need not be full.
    pub(super) fn finish(self) -> Result<Vec<Vec<u8>>> {
        match self.writer {
            Writer::Parquet(writer) => {
                writer.close().map_err(parquet_error)?;
            }
            Writer::Csv(mut writer, schema) => {
                // Writes the header where no row has.
                writer
                    .write(&RecordBatch::new_empty(schema))
                    .map_err(arrow_error)?;
                writer.into_inner().finish()?;
            }
            Writer::Json(mut writer) => {
                writer.finish().map_err(arrow_error)?;
                writer.into_inner().finish()?;
            }
            Writer::Lines(text) => text.finish()?,
        }
        Ok(self.bytes.take())
    }
}

/// The values of the only column, a line each.
///
/// # Errors
/// `Invalid` for a value that would be read back as another one, or as two.
fn lines(batch: &RecordBatch) -> Result<Vec<u8>> {
    let texts = batch.column(0).as_string_view();
    let bytes: usize = texts.lengths().map(|length| length as usize + 1).sum();
    let mut lines = Vec::with_capacity(bytes);
    for text in texts {
        let line = text.unwrap_or_default();
        if line.contains('\n') || line.ends_with('\r') {
            let shown: String = line.chars().take(SHOWN_CHARS).collect();
            return Err(Error::invalid(format!(
                "a line of text cannot hold the end of a line: write Parquet, CSV or JSON \
                 column={:?} value={shown:?}",
                batch.schema_ref().field(0).name(),
            )));
        }
        lines.extend_from_slice(line.as_bytes());
        lines.push(b'\n');
    }
    Ok(lines)
}

fn parquet_properties(options: &OutputOptions, schema: &SchemaRef) -> Result<WriterProperties> {
    let compression = match options.compression {
        Some(FileCompression::None) => Compression::UNCOMPRESSED,
        Some(FileCompression::Snappy) => Compression::SNAPPY,
        Some(FileCompression::Lz4) => Compression::LZ4_RAW,
        Some(FileCompression::Gzip) => Compression::GZIP(GzipLevel::default()),
        Some(FileCompression::Zstd(level)) => {
            let level = ZstdLevel::try_new(i32::from(level));
            Compression::ZSTD(level.map_err(parquet_error)?)
        }
        None => Compression::ZSTD(ZstdLevel::try_new(1).map_err(parquet_error)?),
    };
    let mut builder = WriterProperties::builder()
        .set_compression(compression)
        .set_created_by(concat!("kiln ", env!("CARGO_PKG_VERSION")).into());
    builder = match options.row_group_rows {
        Some(rows) => {
            let rows = usize::try_from(rows).unwrap_or(usize::MAX);
            builder.set_max_row_group_row_count(Some(rows))
        }
        None => builder.set_max_row_group_bytes(Some(limits::ROW_GROUP_BYTES)),
    };
    if !options.sort_by.is_empty() {
        let columns = sorting_columns(&options.sort_by, schema)?;
        builder = builder.set_sorting_columns(Some(columns));
    }
    Ok(builder.build())
}

/// The order as a footer names it: by index among the leaves of all columns.
fn sorting_columns(order: &[ColumnOrder], schema: &SchemaRef) -> Result<Vec<SortingColumn>> {
    let leaves = ArrowSchemaConverter::new()
        .convert(schema)
        .map_err(parquet_error)?;
    let column = |order: &ColumnOrder| {
        let is_it = |leaf: &parquet::schema::types::ColumnDescPtr| {
            leaf.path().parts() == std::slice::from_ref(&order.column)
        };
        let index = leaves.columns().iter().position(is_it);
        let index = index.and_then(|index| i32::try_from(index).ok());
        index
            .map(|column_idx| SortingColumn {
                column_idx,
                descending: order.descending,
                nulls_first: order.nulls_first,
            })
            .ok_or_else(|| {
                Error::internal(format!("no sort column of that name: {:?}", order.column))
            })
    };
    order.iter().map(column).collect()
}

fn parquet_error(error: ParquetError) -> Error {
    match error {
        ParquetError::NYI(what) => Error::invalid(format!("Parquet cannot hold this: {what}")),
        ParquetError::ArrowError(what) => Error::invalid(format!("cannot write Parquet: {what}")),
        other => Error::internal("cannot write Parquet").with_source(other),
    }
}

fn arrow_error(error: ArrowError) -> Error {
    Error::from(error).context("cannot write rows")
}

/// Text on its way to becoming bytes, compressed or not.
enum Text {
    Plain(Bytes),
    Gzip(GzEncoder<Bytes>),
    Zstd(zstd::Encoder<'static, Bytes>),
}

impl Text {
    fn new(compression: Option<FileCompression>, bytes: Bytes) -> Result<Self> {
        Ok(match compression {
            None | Some(FileCompression::None) => Text::Plain(bytes),
            Some(FileCompression::Gzip) => {
                Text::Gzip(GzEncoder::new(bytes, flate2::Compression::default()))
            }
            Some(FileCompression::Zstd(level)) => {
                let encoder = zstd::Encoder::new(bytes, i32::from(level));
                Text::Zstd(encoder.map_err(text_error)?)
            }
            Some(other @ (FileCompression::Snappy | FileCompression::Lz4)) => {
                return Err(Error::internal(format!(
                    "text is not compressed so: {other:?}"
                )));
            }
        })
    }

    fn finish(self) -> Result<()> {
        match self {
            Text::Plain(_) => Ok(()),
            Text::Gzip(encoder) => encoder.finish().map(drop).map_err(text_error),
            Text::Zstd(encoder) => encoder.finish().map(drop).map_err(text_error),
        }
    }
}

impl Write for Text {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Text::Plain(writer) => writer.write(bytes),
            Text::Gzip(writer) => writer.write(bytes),
            Text::Zstd(writer) => writer.write(bytes),
        }
    }

    /// Leaves a compressor what it has: flushing it after every batch would cost ratio.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn text_error(error: io::Error) -> Error {
    Error::internal("cannot compress text").with_source(error)
}

/// Bytes that a writer writes to, and that are taken away in parts as they are uploaded: they are
/// copied only once, and never moved because there are more.
#[derive(Clone, Default)]
struct Bytes(Arc<Mutex<Parts>>);

#[derive(Default)]
struct Parts {
    full: Vec<Vec<u8>>,
    /// The part that is being filled.
    last: Vec<u8>,
}

/// Bytes for which a part has room at first: many files are small.
const SMALL_PART_BYTES: usize = 64 << 10;

impl Bytes {
    fn parts(&self) -> MutexGuard<'_, Parts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn len(&self) -> usize {
        self.parts().last.len()
    }

    fn take_full(&self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.parts().full)
    }

    fn take(&self) -> Vec<Vec<u8>> {
        let Parts { mut full, last } = std::mem::take(&mut *self.parts());
        if !last.is_empty() {
            full.push(last);
        }
        full
    }
}

impl Write for Bytes {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut parts = self.parts();
        let mut rest = bytes;
        while !rest.is_empty() {
            let Parts { full, last } = &mut *parts;
            let (some, later) = rest.split_at(rest.len().min(UPLOAD_PART_BYTES - last.len()));
            if last.len() + some.len() > last.capacity() {
                let is_small = last.len() + some.len() <= SMALL_PART_BYTES;
                let room = if is_small {
                    SMALL_PART_BYTES
                } else {
                    UPLOAD_PART_BYTES
                };
                last.reserve_exact(room - last.len());
            }
            last.extend_from_slice(some);
            rest = later;
            if last.len() == UPLOAD_PART_BYTES {
                full.push(std::mem::take(last));
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
