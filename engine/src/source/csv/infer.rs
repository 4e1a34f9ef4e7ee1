//! Columns of a CSV file, guessed from its first records.

use std::io::Cursor;
use std::sync::Arc;

use arrow::csv::reader::Format;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use object_store::ObjectStore;
use object_store::path::Path;

use super::cut::Cutter;
use super::diagnose::{fields, records};
use super::rows::ragged;
use crate::error::{Error, Result};
use crate::plan::CsvOptions;
use crate::source::input::InputFile;

/// Records that are looked at.
const SAMPLE_RECORDS: usize = 1000;

/// Bytes at the start of a file that the sample is taken from.
const SAMPLE_BYTES: u64 = 4 << 20;

/// How compressed files begin: gzip, ZSTD, bzip2.
const COMPRESSED: [&[u8]; 3] = [b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"BZh"];

/// The columns of a CSV file: names from its header, or `column_1`, …; types from its first
/// thousand records. A column of no values, or of values of different types, holds strings.
///
/// # Errors
/// `Invalid`, naming file and line, if the file is empty, compressed, not text, or its records
/// differ in their number of fields.
pub async fn infer_schema(
    store: Arc<dyn ObjectStore>,
    path: &Path,
    url: &str,
    file_bytes: u64,
    options: CsvOptions,
) -> Result<SchemaRef> {
    let file = InputFile::in_store(store, path, url, file_bytes);
    let sample = match file_bytes {
        0 => Default::default(),
        bytes => file.read(0..bytes.min(SAMPLE_BYTES)).await?,
    };
    if COMPRESSED.iter().any(|magic| sample.starts_with(magic)) {
        return Err(Error::invalid(format!(
            "compressed CSV is not supported file={url}"
        )));
    }
    let mut text = sample.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(&sample);
    if file_bytes > SAMPLE_BYTES {
        // The last record of the sample may go on behind it.
        text = &text[..Cutter::new(options.delimiter).scan(text).unwrap_or(0)];
    }
    let text = check(url, text, options)?;
    let format = Format::default()
        .with_header(options.header)
        .with_delimiter(options.delimiter);
    let (schema, _) = format
        .infer_schema(Cursor::new(text), Some(SAMPLE_RECORDS))
        .map_err(|error| Error::invalid(format!("cannot read CSV: {error} file={url}")))?;
    let fields = schema.fields().iter().map(|field| {
        let data_type = match field.data_type() {
            DataType::Utf8 | DataType::Null => DataType::Utf8View,
            // The sample may not show how fine the rest is.
            DataType::Timestamp(_, zone) => {
                DataType::Timestamp(TimeUnit::Microsecond, zone.clone())
            }
            other => other.clone(),
        };
        Field::new(field.name(), data_type, true)
    });
    Ok(Arc::new(Schema::new(fields.collect::<Vec<_>>())))
}

/// The sample's records, which are text and have one number of fields.
fn check<'a>(url: &str, text: &'a [u8], options: CsvOptions) -> Result<&'a [u8]> {
    let mut expected = None;
    let mut end = 0;
    for record in records(text, options.delimiter, 1).take(SAMPLE_RECORDS + 1) {
        let place = format!("file={url} line={}", record.line);
        if std::str::from_utf8(record.bytes).is_err() {
            return Err(Error::invalid(format!(
                "the text is not valid UTF-8 {place}"
            )));
        }
        let found = fields(record.bytes, options.delimiter).len();
        let expected = *expected.get_or_insert(found);
        if found != expected {
            return Err(ragged(&place, expected, found));
        }
        end = record.end;
    }
    match expected {
        Some(_) => Ok(&text[..end]),
        None => Err(Error::invalid(format!(
            "there are no records in the CSV file file={url}"
        ))),
    }
}
