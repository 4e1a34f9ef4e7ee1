//! From a block of records to batches.

use std::sync::Arc;

use arrow::csv::ReaderBuilder;
use arrow::csv::reader::Decoder;
use arrow::datatypes::{Schema, SchemaRef};
use arrow::error::ArrowError;
use bytes::Bytes;
use regex::Regex;

use super::diagnose::{Record, fields, records};
use crate::error::{Error, Result};
use crate::limits;
use crate::metrics::TaskMetrics;
use crate::operator::Emit;
use crate::plan::CsvOptions;

/// What every block of one scan shares.
pub(super) struct Scan {
    pub(super) options: CsvOptions,
    /// What stands for null, if that is not the empty field.
    pub(super) nulls: Option<Regex>,
    /// The columns of the files.
    pub(super) schema: SchemaRef,
    /// Which of them to produce.
    pub(super) projection: Vec<usize>,
    pub(super) metrics: Arc<TaskMetrics>,
}

/// Whole records of one file.
pub(super) struct Block {
    pub(super) url: Arc<str>,
    /// Line on which the first byte is.
    pub(super) line: u64,
    /// The file starts here.
    pub(super) first: bool,
    pub(super) bytes: Bytes,
}

/// What stands for null, as the decoder wants it, if that is not the empty field.
pub(super) fn nulls(options: &CsvOptions) -> Result<Option<Regex>> {
    let Some(null_value) = &options.null_value else {
        return Ok(None);
    };
    let exactly = format!(r"\A{}\z", regex::escape(null_value));
    let nulls = Regex::new(&exactly).map_err(|error| {
        Error::invalid("the text that stands for null is too long").with_source(error)
    })?;
    Ok(Some(nulls))
}

impl Scan {
    /// Decodes a block.
    pub(super) fn decode(&self, block: &Block, emit: Emit<'_>) -> Result<()> {
        let mut rest = &block.bytes[..];
        if block.first && self.options.header {
            rest = &rest[self.check_header(block)?..];
        }
        let mut decoder = self.decoder(&self.projection, limits::BATCH_ROWS);
        loop {
            // An empty input tells the decoder that the last record has ended.
            let read = decoder.decode(rest);
            let read = read.map_err(|error| self.diagnose(block, error))?;
            rest = &rest[read..];
            if read > 0 && decoder.capacity() > 0 {
                continue;
            }
            let batch = decoder.flush();
            match batch.map_err(|error| self.diagnose(block, error))? {
                Some(batch) => {
                    TaskMetrics::count(&self.metrics.rows_in, batch.num_rows() as u64);
                    emit(batch)?;
                }
                None => return Ok(()),
            }
        }
    }

    fn decoder(&self, projection: &[usize], batch_rows: usize) -> Decoder {
        let mut builder = ReaderBuilder::new(Arc::clone(&self.schema))
            .with_delimiter(self.options.delimiter)
            .with_batch_size(batch_rows)
            .with_projection(projection.to_vec());
        if let Some(nulls) = &self.nulls {
            builder = builder.with_null_regex(nulls.clone());
        }
        builder.build_decoder()
    }

    /// Compares the first record with the columns' names; tells where the second one starts.
    fn check_header(&self, block: &Block) -> Result<usize> {
        let delimiter = self.options.delimiter;
        let Some(header) = records(&block.bytes, delimiter, block.line).next() else {
            return Ok(block.bytes.len());
        };
        let found = fields(header.bytes, delimiter);
        let names = self
            .schema
            .fields()
            .iter()
            .map(|field| field.name().as_str());
        if found.iter().map(|name| name.as_ref()).eq(names) {
            return Ok(header.end);
        }
        let expected = names_of(&self.schema);
        Err(Error::invalid(format!(
            "the files of one input have different columns file={} expected={expected} found={}",
            block.url,
            found.join(",")
        )))
    }

    /// Finds the record and the column at which decoding failed.
    fn diagnose(&self, block: &Block, error: ArrowError) -> Error {
        let header = usize::from(block.first && self.options.header);
        let records = records(&block.bytes, self.options.delimiter, block.line);
        let found = records
            .skip(header)
            .find_map(|record| self.problem(block, &record));
        found.unwrap_or_else(|| {
            Error::invalid(format!("cannot read CSV: {error} file={}", block.url))
        })
    }

    /// What is wrong with one record, if anything is.
    fn problem(&self, block: &Block, record: &Record<'_>) -> Option<Error> {
        let place = format!("file={} line={}", block.url, record.line);
        if std::str::from_utf8(record.bytes).is_err() {
            return Some(Error::invalid(format!(
                "the text is not valid UTF-8 {place}"
            )));
        }
        let values = fields(record.bytes, self.options.delimiter);
        let expected = self.schema.fields().len();
        if values.len() != expected {
            return Some(ragged(&place, expected, values.len()));
        }
        let column = self.projection.iter().find(|&&column| {
            let mut decoder = self.decoder(&[column], 1);
            let decoded = decoder
                .decode(record.bytes)
                .and_then(|_| decoder.decode(&[]));
            decoded.and_then(|_| decoder.flush()).is_err()
        })?;
        let field = self.schema.field(*column);
        Some(Error::invalid(format!(
            "a value does not fit its column {place} column={:?} expected={} found={:?}",
            field.name(),
            field.data_type(),
            values[*column]
        )))
    }
}

/// The error for a record with too many or too few fields.
pub(super) fn ragged(place: &str, expected: usize, found: usize) -> Error {
    Error::invalid(format!(
        "a CSV record has another number of fields than the first {place} expected={expected} \
         found={found}"
    ))
}

fn names_of(schema: &Schema) -> String {
    let names: Vec<&str> = schema
        .fields()
        .iter()
        .map(|field| field.name().as_str())
        .collect();
    names.join(",")
}
