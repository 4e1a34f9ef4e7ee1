//! Looking into input files for their columns, as far as a plan has to know them.
//!
//! Text always has the same columns. Of Parquet every file is asked, which costs its footer, and
//! what they say is merged. For CSV the first file decides; the others have to fit, which shows
//! when they are read.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use kiln_engine::plan::{CsvOptions, FileMeta, ScanFormat, TextOptions};
use kiln_engine::storage::{Stores, list_files};
use kiln_engine::{Error, Result, source};
use object_store::ObjectStoreExt as _;

use crate::merge::merge_schemas;

/// Footers that are asked for at once: enough that a distant store answers thousands in seconds.
const FOOTERS_AT_ONCE: usize = 32;

/// What a Parquet file begins with.
const PARQUET_MAGIC: &[u8] = b"PAR1";

/// The columns of text, a line a row.
pub(crate) fn text_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("path", DataType::Utf8View, false),
        Field::new("offset", DataType::Int64, false),
        Field::new("line", DataType::Utf8View, false),
    ]))
}

/// The columns of `schema` as jobs know them: strings are views.
pub(crate) fn with_views(schema: &Schema) -> SchemaRef {
    let fields = schema.fields().iter().map(|field| match field.data_type() {
        DataType::Utf8 | DataType::LargeUtf8 => {
            Arc::new(field.as_ref().clone().with_data_type(DataType::Utf8View))
        }
        _ => Arc::clone(field),
    });
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// The columns of the files at `locations`, which are of `format`.
///
/// # Errors
/// `Invalid` if there is no file, it is not of that format, or the files are not one table.
pub(crate) async fn infer_schema(
    stores: &Stores,
    locations: &[String],
    format: ScanFormat,
) -> Result<SchemaRef> {
    match format {
        ScanFormat::Text(_) => Ok(text_schema()),
        ScanFormat::Csv(options) => {
            let FileMeta { url, bytes } = first_file(stores, locations).await?;
            let (store, path) = stores.get(&url)?;
            source::csv::infer_schema(store, &path, &url, bytes, options).await
        }
        ScanFormat::Parquet => parquet_schema(stores, locations).await,
    }
}

/// The columns of all files together.
async fn parquet_schema(stores: &Stores, locations: &[String]) -> Result<SchemaRef> {
    let files = list_files(stores, locations).await?;
    if files.is_empty() {
        return Err(Error::invalid("there are no input files"));
    }
    let footers = stream::iter(files).map(|FileMeta { url, bytes }| async move {
        let (store, path) = stores.get(&url)?;
        let schema = source::parquet::infer_schema(store, &path, &url, bytes).await?;
        Ok::<_, Error>((url, schema))
    });
    let schemas: Vec<_> = footers.buffered(FOOTERS_AT_ONCE).try_collect().await?;
    Ok(Arc::new(merge_schemas(&schemas)?))
}

/// Whether the files at `locations` are Parquet or CSV.
///
/// # Errors
/// `Invalid` if they are neither, or some the one and some the other.
pub(crate) async fn table_format(stores: &Stores, locations: &[String]) -> Result<ScanFormat> {
    match any_format(stores, locations).await? {
        (ScanFormat::Text(_), file) => Err(Error::invalid(format!(
            "neither Parquet nor CSV by its name or content: file={file}"
        ))),
        (format, _) => Ok(format),
    }
}

/// What the files at `locations` are, by the ending of their names, or else by how the first one
/// begins; text if they are nothing else. And a file that is of this format.
///
/// # Errors
/// `Invalid` if they are of different formats.
pub(crate) async fn any_format(
    stores: &Stores,
    locations: &[String],
) -> Result<(ScanFormat, String)> {
    let mut found: Option<((ScanFormat, String), &str)> = None;
    for location in locations {
        let (format, file) = match by_name(location) {
            Some(format) => (format, location.clone()),
            None => by_content(stores, location).await?,
        };
        match found {
            Some(((other, _), first)) if other != format => {
                return Err(Error::invalid(format!(
                    "inputs are of different formats: {first} and {location}"
                )));
            }
            _ => found = Some(((format, file), location)),
        }
    }
    found
        .map(|(format, _)| format)
        .ok_or_else(|| Error::invalid("no input is given"))
}

fn by_name(location: &str) -> Option<ScanFormat> {
    let name = location.to_ascii_lowercase();
    let compressed = ["gz", "zst", "bz2"];
    let (stem, mut ending) = name.rsplit_once('.')?;
    if compressed.contains(&ending) {
        ending = stem.rsplit_once('.')?.1;
    }
    match ending {
        "csv" => Some(ScanFormat::Csv(CsvOptions::default())),
        "parquet" | "pq" => Some(ScanFormat::Parquet),
        _ => None,
    }
}

async fn by_content(stores: &Stores, location: &str) -> Result<(ScanFormat, String)> {
    let FileMeta { url, bytes } = first_file(stores, &[location.to_owned()]).await?;
    if let Some(format) = by_name(&url) {
        return Ok((format, url));
    }
    let magic_bytes = PARQUET_MAGIC.len() as u64;
    if bytes >= magic_bytes {
        let (store, path) = stores.get(&url)?;
        let magic = store.get_range(&path, 0..magic_bytes).await;
        let magic = magic.map_err(|error| {
            Error::unavailable(format!("cannot read file={url}")).with_source(error)
        })?;
        if magic == PARQUET_MAGIC {
            return Ok((ScanFormat::Parquet, url));
        }
    }
    Ok((ScanFormat::Text(TextOptions::default()), url))
}

async fn first_file(stores: &Stores, locations: &[String]) -> Result<FileMeta> {
    let files = list_files(stores, locations).await?;
    files
        .into_iter()
        .next()
        .ok_or_else(|| Error::invalid("there are no input files"))
}
