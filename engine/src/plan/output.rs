//! Where result rows go, and how the files are made that hold them.
//!
//! What a user asks of the files is checked with the plan ([`schema_of`](super::schema_of)), so
//! that no task has to refuse it.

use std::sync::Arc;

use arrow::datatypes::{DataType, Schema, SchemaRef};

use crate::error::{Error, Result};
use crate::expr::{Expr, SortKey, typing};
use crate::id::JobId;
use crate::limits;

/// Where result rows go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// URL of a directory. What becomes of one that exists is an [`OutputMode`].
    pub url: String,
    /// What the files hold.
    pub format: FileFormat,
    /// How they are made.
    pub options: OutputOptions,
}

/// What an output file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FileFormat {
    /// Apache Parquet.
    Parquet,
    /// Comma-separated values with a header line.
    Csv,
    /// A JSON object a line.
    Json,
    /// Plain lines, the values of the only column, which is a text; a null is an empty line.
    Text,
}

/// What becomes of an output that is there already. A directory that is absent or empty suits all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum OutputMode {
    /// It stays, and the job fails.
    #[default]
    ErrorIfExists,
    /// It is replaced.
    Overwrite,
    /// It stays, and the job adds files to it.
    Append,
}

/// How output files are made, and where others are.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OutputOptions {
    /// What becomes of an output that is there already.
    pub mode: OutputMode,
    /// Rows of a row group, at most; where none is given, row groups end by size
    /// ([`ROW_GROUP_BYTES`](crate::limits::ROW_GROUP_BYTES)). Only Parquet has row groups.
    pub row_group_rows: Option<u64>,
    /// How bytes are compressed; where none is given, ZSTD at level 1 for Parquet and not at all
    /// for text.
    pub compression: Option<FileCompression>,
    /// Every file has its rows in this order, and a Parquet file says so; any order where none is
    /// given. Nothing is said of rows in different files.
    pub sort_by: Vec<ColumnOrder>,
    /// Another file is begun when the one that is written has about that many bytes; where none
    /// is given, each thread that writes makes one file, or, with an order, several of
    /// [`SORTED_FILE_BYTES`](crate::limits::SORTED_FILE_BYTES).
    pub file_bytes: Option<u64>,
    /// A column of texts that name directories: every row is written to a file in that of its
    /// value, without the value. Where none is given all files are in one directory.
    pub directories: Option<String>,
}

/// How the bytes of an output file are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FileCompression {
    /// Not at all.
    None,
    /// Snappy; for Parquet.
    Snappy,
    /// LZ4 without frames; for Parquet.
    Lz4,
    /// Gzip.
    Gzip,
    /// ZSTD at this level, 1 to 22.
    Zstd(u8),
}

/// One column of an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ColumnOrder {
    /// The column's name.
    pub column: String,
    /// Largest first.
    pub descending: bool,
    /// Nulls before everything else, whatever the direction.
    pub nulls_first: bool,
}

impl FileFormat {
    /// The ending of such a file's name, without the dot and what compression adds to it.
    pub fn extension(self) -> &'static str {
        match self {
            FileFormat::Parquet => "parquet",
            FileFormat::Csv => "csv",
            FileFormat::Json => "json",
            FileFormat::Text => "txt",
        }
    }

    fn name(self) -> &'static str {
        match self {
            FileFormat::Parquet => "Parquet",
            FileFormat::Csv => "CSV",
            FileFormat::Json => "JSON",
            FileFormat::Text => "text",
        }
    }
}

impl Output {
    /// The ending of the files' names, without the dot: `parquet`, `csv.gz`.
    pub fn extension(&self) -> &'static str {
        match (self.format, self.options.compression) {
            (FileFormat::Csv, Some(FileCompression::Gzip)) => "csv.gz",
            (FileFormat::Csv, Some(FileCompression::Zstd(_))) => "csv.zst",
            (FileFormat::Json, Some(FileCompression::Gzip)) => "json.gz",
            (FileFormat::Json, Some(FileCompression::Zstd(_))) => "json.zst",
            (FileFormat::Text, Some(FileCompression::Gzip)) => "txt.gz",
            (FileFormat::Text, Some(FileCompression::Zstd(_))) => "txt.zst",
            (format, _) => format.extension(),
        }
    }
}

impl Output {
    /// The columns that files have, of those of rows.
    pub fn file_schema(&self, schema: &SchemaRef) -> SchemaRef {
        let Some(directories) = &self.options.directories else {
            return Arc::clone(schema);
        };
        let fields = schema.fields().iter();
        let kept = fields.filter(|field| field.name() != directories);
        Arc::new(Schema::new(kept.cloned().collect::<Vec<_>>()))
    }
}

/// How the names of a job's files begin where files of others are or may be: nobody else's begin
/// so, in no store and at no time.
pub fn part_prefix(job: JobId) -> String {
    format!("part-{job}-")
}

/// Whether a file called `name` is one of a job's that uses [`part_prefix`].
pub fn is_part_name(name: &str) -> bool {
    let job = name
        .strip_prefix("part-")
        .and_then(|rest| rest.split_once('-'));
    job.is_some_and(|(job, _)| job.parse::<JobId>().is_ok())
}

/// The name, in the staging directory, of the object that holds the store's name for the pending
/// upload of the file called `name`. It is there before the first part is, so that uploads of
/// which nobody has heard otherwise can be aborted.
pub fn upload_record(name: &str) -> String {
    format!("{name}{UPLOAD_RECORD}")
}

/// The file whose pending upload the object called `record` tells of.
pub fn recorded_upload(record: &str) -> Option<&str> {
    record.strip_suffix(UPLOAD_RECORD)
}

const UPLOAD_RECORD: &str = ".upload";

/// Whether a directory of an output may be called `name`: letters, digits, `-`, `=`, `.` and `_`,
/// of which the last two not first, because readers pass over such names.
pub fn is_directory_name(name: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-=._".contains(c);
    (1..=limits::OUTPUT_DIRECTORY_BYTES_MAX).contains(&name.len())
        && !name.starts_with(['.', '_'])
        && name.chars().all(is_plain)
}

impl From<&ColumnOrder> for SortKey {
    fn from(order: &ColumnOrder) -> SortKey {
        SortKey {
            expr: Expr::Column(order.column.clone()),
            descending: order.descending,
            nulls_first: order.nulls_first,
        }
    }
}

/// Whether rows of `schema` can be written so.
///
/// # Errors
/// `Invalid` for a size of zero, something that the format has not got, a level that there is not,
/// columns that are not lines of text where these are asked for, and a sort column that does not
/// exist (with the nearest name) or has no order.
pub(super) fn check(output: &Output, schema: &Schema) -> Result<()> {
    let OutputOptions {
        mode: _,
        row_group_rows,
        compression,
        sort_by,
        file_bytes,
        directories,
    } = &output.options;
    let format = output.format.name();
    if output.format != FileFormat::Parquet && row_group_rows.is_some() {
        return Err(Error::invalid(format!("{format} has no row groups")));
    }
    if *row_group_rows == Some(0) {
        return Err(Error::invalid("a row group needs at least one row"));
    }
    if *file_bytes == Some(0) {
        return Err(Error::invalid("an output file needs at least one byte"));
    }
    match compression {
        Some(FileCompression::Snappy | FileCompression::Lz4)
            if output.format != FileFormat::Parquet =>
        {
            return Err(Error::invalid(format!(
                "{format} is compressed with gzip or ZSTD only"
            )));
        }
        Some(FileCompression::Zstd(level)) if !(1..=22).contains(level) => {
            return Err(Error::invalid(format!(
                "ZSTD has levels from 1 to 22 level={level}"
            )));
        }
        _ => {}
    }
    if let Some(column) = directories {
        check_directories(column, schema)?;
        if sort_by.iter().any(|order| order.column == *column) {
            return Err(Error::invalid(format!(
                "the column that names directories is in no file to be sorted by column={column:?}"
            )));
        }
    }
    if output.format == FileFormat::Text {
        check_lines(directories.as_deref(), schema)?;
    }
    sort_by
        .iter()
        .try_for_each(|order| check_order(order, schema))
}

/// Whether what is left of `schema` without the column `directories` is one text.
fn check_lines(directories: Option<&str>, schema: &Schema) -> Result<()> {
    let fields = schema.fields().iter();
    let written: Vec<_> = fields
        .filter(|field| Some(field.name().as_str()) != directories)
        .collect();
    if written.len() == 1 && *written[0].data_type() == DataType::Utf8View {
        return Ok(());
    }
    let columns: Vec<_> = written
        .iter()
        .map(|field| format!("{} {}", field.name(), field.data_type()))
        .collect();
    Err(Error::invalid(format!(
        "lines of text are made of one column of texts: select it, or write Parquet, CSV or JSON \
         columns={}",
        columns.join(", ")
    )))
}

fn check_directories(column: &str, schema: &Schema) -> Result<()> {
    let Ok(field) = schema.field_with_name(column) else {
        return Err(typing::unknown_column(column, schema));
    };
    if *field.data_type() != DataType::Utf8View {
        return Err(Error::invalid(format!(
            "directories are named by texts column={column:?} found={}",
            field.data_type()
        )));
    }
    if schema.fields().len() == 1 {
        return Err(Error::invalid(format!(
            "beside the column that names directories there is none to be written column={column:?}"
        )));
    }
    Ok(())
}

fn check_order(order: &ColumnOrder, schema: &Schema) -> Result<()> {
    let Ok(field) = schema.field_with_name(&order.column) else {
        return Err(typing::unknown_column(&order.column, schema));
    };
    if typing::is_ordered(field.data_type()) {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "output files cannot be sorted by this column: its values have no order column={:?} \
         found={}",
        order.column,
        field.data_type()
    )))
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::{DataType, Field};

    use super::*;

    #[test]
    fn what_cannot_be_written_is_refused_with_the_plan() {
        let list = DataType::new_list(DataType::Int64, true);
        let schema = Schema::new(vec![
            Field::new("price", DataType::Decimal64(15, 2), true),
            Field::new("kind", DataType::Utf8View, true),
            Field::new("words", list, true),
        ]);
        let by = |column: &str| ColumnOrder {
            column: column.to_owned(),
            descending: false,
            nulls_first: false,
        };
        let found = |format, options| {
            let output = Output {
                url: "file:///out".to_owned(),
                format,
                options,
            };
            check(&output, &schema).map_or_else(|error| error.report(), |()| "fine".to_owned())
        };
        let row_groups = |rows| OutputOptions {
            row_group_rows: Some(rows),
            ..Default::default()
        };
        let compressed = |compression| OutputOptions {
            compression: Some(compression),
            ..Default::default()
        };
        let sorted = |column| OutputOptions {
            sort_by: vec![by(column)],
            ..Default::default()
        };
        let empty = OutputOptions {
            file_bytes: Some(0),
            ..Default::default()
        };
        let directories = |column: &str, sorted: &[&str]| OutputOptions {
            directories: Some(column.to_owned()),
            sort_by: sorted.iter().map(|column| by(column)).collect(),
            ..Default::default()
        };
        use FileFormat::{Csv, Json, Parquet, Text};
        let cases = [
            (Parquet, row_groups(1000), "fine"),
            (Parquet, row_groups(0), "a row group needs at least one row"),
            (Csv, row_groups(1000), "CSV has no row groups"),
            (Json, empty, "an output file needs at least one byte"),
            (Parquet, compressed(FileCompression::Lz4), "fine"),
            (Csv, compressed(FileCompression::Gzip), "fine"),
            (
                Json,
                compressed(FileCompression::Snappy),
                "JSON is compressed with gzip or ZSTD only",
            ),
            (
                Csv,
                compressed(FileCompression::Zstd(23)),
                "ZSTD has levels from 1 to 22 level=23",
            ),
            (Json, directories("kind", &["price"]), "fine"),
            (
                Json,
                directories("kin", &[]),
                "unknown column \"kin\": did you mean \"kind\"? columns=price, kind, words",
            ),
            (
                Csv,
                directories("price", &[]),
                "directories are named by texts column=\"price\" found=Decimal64(15, 2)",
            ),
            (
                Csv,
                directories("kind", &["kind"]),
                "the column that names directories is in no file to be sorted by column=\"kind\"",
            ),
            (Csv, sorted("price"), "fine"),
            (
                Text,
                OutputOptions::default(),
                "lines of text are made of one column of texts: select it, or write Parquet, CSV \
                 or JSON columns=price Decimal64(15, 2), kind Utf8View, words List(Int64)",
            ),
            (
                Parquet,
                sorted("prize"),
                "unknown column \"prize\": did you mean \"price\"? columns=price, kind, words",
            ),
            (
                Parquet,
                sorted("words"),
                "output files cannot be sorted by this column: its values have no order \
                 column=\"words\" found=List(Int64)",
            ),
        ];
        for (format, options, expected) in cases {
            assert_eq!(found(format, options.clone()), expected, "{options:?}");
        }
    }
}
