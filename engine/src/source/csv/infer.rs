//! Columns of a CSV file, guessed from its first records.

use std::io::Cursor;
use std::sync::Arc;

use arrow::csv::reader::Format;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use bytes::Bytes;
use object_store::ObjectStore;
use object_store::path::Path;

use super::cut::Cutter;
use super::diagnose::{fields, records};
use super::rows::{nulls, ragged};
use crate::error::{Error, Result};
use crate::plan::CsvOptions;
use crate::source::codec::{Codec, decoded_start};
use crate::source::input::InputFile;

/// Records that are looked at.
const SAMPLE_RECORDS: usize = 1000;

/// Bytes at the start of a file that the sample is taken from.
const SAMPLE_BYTES: u64 = 4 << 20;

/// The columns of a CSV file: names from its header, or `column_1`, …; types from its first
/// thousand records. A column of no values, or of values of different types, holds strings.
///
/// # Errors
/// `Invalid`, naming file and line, if the file is empty, damaged, not text, or its records
/// differ in their number of fields.
pub async fn infer_schema(
    store: Arc<dyn ObjectStore>,
    path: &Path,
    url: &str,
    file_bytes: u64,
    options: CsvOptions,
) -> Result<SchemaRef> {
    let file = InputFile::in_store(store, path, url, file_bytes);
    let (sample, is_whole) = sample(&file).await?;
    let mut text = sample.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(&sample);
    if !is_whole {
        // The last record of the sample may go on behind it.
        text = &text[..Cutter::new(options.delimiter).scan(text).unwrap_or(0)];
    }
    let text = check(url, text, &options)?;
    let mut format = Format::default()
        .with_header(options.header)
        .with_delimiter(options.delimiter);
    if let Some(nulls) = nulls(&options)? {
        format = format.with_null_regex(nulls);
    }
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

/// The first bytes of a file's text, and whether they are all of it.
async fn sample(file: &InputFile) -> Result<(Bytes, bool)> {
    let stored = match file.bytes() {
        0 => Bytes::new(),
        bytes => file.read(0..bytes.min(SAMPLE_BYTES)).await?,
    };
    let stored_whole = file.bytes() <= SAMPLE_BYTES;
    let Some(codec) = Codec::of(&stored) else {
        return Ok((stored, stored_whole));
    };
    let url: Arc<str> = file.url().into();
    let decoding = tokio::task::spawn_blocking(move || {
        let start = decoded_start(codec, stored, SAMPLE_BYTES);
        start.map_err(|error| codec.error("CSV", &url, error))
    });
    let text = decoding.await.map_err(|error| {
        let message = format!(
            "cannot read compressed CSV: the decoder failed file={}",
            file.url()
        );
        Error::invalid(message).with_source(error)
    })??;
    let is_whole = stored_whole && (text.len() as u64) < SAMPLE_BYTES;
    Ok((text.into(), is_whole))
}

/// The sample's records, which are text and have one number of fields.
fn check<'a>(url: &str, text: &'a [u8], options: &CsvOptions) -> Result<&'a [u8]> {
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
