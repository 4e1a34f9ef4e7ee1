//! Rows become the bytes of a file, piece by piece.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

use arrow::csv;
use arrow::datatypes::{DataType, SchemaRef};
use arrow::error::ArrowError;
use arrow::json;
use arrow::record_batch::RecordBatch;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;

use crate::error::{Error, Result};
use crate::limits;
use crate::plan::FileFormat;

/// Refuses columns that files of `format` cannot hold.
pub(super) fn check(format: FileFormat, schema: &SchemaRef) -> Result<()> {
    if format == FileFormat::Csv {
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
    Encoder::new(format, schema).map(drop)
}

/// The encoder of one file.
pub(super) struct Encoder {
    writer: Writer,
    bytes: Bytes,
}

enum Writer {
    Parquet(Box<ArrowWriter<Bytes>>),
    Csv(Box<csv::Writer<Bytes>>, SchemaRef),
    Json(json::LineDelimitedWriter<Bytes>),
}

impl Encoder {
    pub(super) fn new(format: FileFormat, schema: &SchemaRef) -> Result<Self> {
        let bytes = Bytes::default();
        let writer = match format {
            FileFormat::Parquet => {
                let properties = parquet_properties()?;
                let schema = Arc::clone(schema);
                let writer = ArrowWriter::try_new(bytes.clone(), schema, Some(properties));
                Writer::Parquet(Box::new(writer.map_err(parquet_error)?))
            }
            FileFormat::Csv => {
                let writer = csv::WriterBuilder::new()
                    .with_header(true)
                    .build(bytes.clone());
                Writer::Csv(Box::new(writer), Arc::clone(schema))
            }
            FileFormat::Json => {
                // A line has every column, so that the first one already tells what there is.
                let builder = json::WriterBuilder::new().with_explicit_nulls(true);
                Writer::Json(builder.build(bytes.clone()))
            }
        };
        Ok(Encoder { writer, bytes })
    }

    /// Takes rows; gives the bytes that are finished with them, possibly none.
    pub(super) fn write(&mut self, batch: &RecordBatch) -> Result<Vec<u8>> {
        match &mut self.writer {
            Writer::Parquet(writer) => writer.write(batch).map_err(parquet_error)?,
            Writer::Csv(writer, _) => writer.write(batch).map_err(arrow_error)?,
            Writer::Json(writer) => writer.write(batch).map_err(arrow_error)?,
        }
        Ok(self.bytes.take())
    }

    /// Finishes what can be finished early to have less in memory.
    pub(super) fn cut(&mut self) -> Result<Vec<u8>> {
        if let Writer::Parquet(writer) = &mut self.writer {
            writer.flush().map_err(parquet_error)?;
        }
        Ok(self.bytes.take())
    }

    /// Bytes held in memory.
    pub(super) fn held(&self) -> usize {
        match &self.writer {
            Writer::Parquet(writer) => writer.memory_size(),
            Writer::Csv(..) | Writer::Json(_) => 0,
        }
    }

    /// The file's last bytes.
    pub(super) fn finish(self) -> Result<Vec<u8>> {
        match self.writer {
            Writer::Parquet(writer) => {
                writer.close().map_err(parquet_error)?;
            }
            Writer::Csv(mut writer, schema) => {
                // Writes the header where no row has.
                writer
                    .write(&RecordBatch::new_empty(schema))
                    .map_err(arrow_error)?;
            }
            Writer::Json(mut writer) => writer.finish().map_err(arrow_error)?,
        }
        Ok(self.bytes.take())
    }
}

fn parquet_properties() -> Result<WriterProperties> {
    let level = ZstdLevel::try_new(1).map_err(parquet_error)?;
    Ok(WriterProperties::builder()
        .set_compression(Compression::ZSTD(level))
        .set_max_row_group_bytes(Some(limits::ROW_GROUP_BYTES))
        .set_created_by(concat!("kiln ", env!("CARGO_PKG_VERSION")).into())
        .build())
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

/// Bytes that a writer writes to and that are taken away now and then.
#[derive(Clone, Default)]
struct Bytes(Arc<Mutex<Vec<u8>>>);

impl Bytes {
    fn take(&self) -> Vec<u8> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Write for Bytes {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
