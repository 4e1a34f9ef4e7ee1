//! The footer of a Parquet file: what is in it, checked.

use std::fmt;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock};

use arrow::datatypes::{DECIMAL128_MAX_PRECISION, DataType, Field, FieldRef, Schema, SchemaRef};
use bytes::Bytes;
use parquet::DecodeResult;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};
use parquet::basic::Type as PhysicalType;
use parquet::errors::ParquetError;
use parquet::file::metadata::{
    ColumnChunkMetaData, PageIndexPolicy, ParquetMetaData, ParquetMetaDataPushDecoder,
    RowGroupMetaData,
};
use parquet::schema::types::{ColumnDescPtr, Type};

use super::statistics::{self, FileStatistics};
use crate::context::panic_message;
use crate::error::{Error, Result};
use crate::source::input::InputFile;
use crate::storage::FooterCache;

/// Bytes at the end of a file that are fetched at first; most footers fit.
const TAIL_BYTES: u64 = 64 << 10;

/// The last bytes of a file: the footer's length (4) and `PAR1`.
const MAGIC_BYTES: usize = 8;

/// The smallest Parquet file: `PAR1`, an empty footer, its length, `PAR1`.
const FILE_BYTES_MIN: u64 = 12;

/// A file and what its footer says.
pub(super) struct Footer {
    file: InputFile,
    parsed: Arc<Parsed>,
}

/// What a footer says, decoded and checked.
struct Parsed {
    metadata: ArrowReaderMetadata,
    /// The leaves below each top-level column, in the schema's order.
    leaves: Vec<Range<usize>>,
    statistics: OnceLock<Arc<FileStatistics>>,
}

impl Footer {
    /// Reads and checks the footer of `file`.
    pub(super) async fn read(file: InputFile) -> Result<Footer> {
        let (parsed, _) = read(&file).await?;
        Ok(Footer { file, parsed })
    }

    /// The footer of `file`, from the cache if it is there.
    pub(super) async fn cached(file: InputFile, cache: &FooterCache) -> Result<Footer> {
        let (url, size) = (file.url(), file.bytes());
        if cache.version(url, size).is_some()
            && let Some(version) = file.version().await?
            && let Some(parsed) = cache.get(url, size, &version)
        {
            return Ok(Footer { file, parsed });
        }
        let (parsed, version) = read(&file).await?;
        if let Some(version) = version {
            let bytes = parsed.metadata.metadata().memory_size() as u64;
            cache.put(url, size, version, Arc::clone(&parsed), bytes);
        }
        Ok(Footer { file, parsed })
    }

    /// What it says of the rows.
    pub(super) fn statistics(&self) -> Result<Arc<FileStatistics>> {
        if let Some(known) = self.parsed.statistics.get() {
            return Ok(Arc::clone(known));
        }
        let found = Arc::new(statistics::of_file(self)?);
        Ok(Arc::clone(self.parsed.statistics.get_or_init(|| found)))
    }

    pub(super) fn file(&self) -> &InputFile {
        &self.file
    }

    /// The columns of the file, strings as views.
    pub(super) fn schema(&self) -> &SchemaRef {
        self.parsed.metadata.schema()
    }

    pub(super) fn metadata(&self) -> &ArrowReaderMetadata {
        &self.parsed.metadata
    }

    pub(super) fn row_group(&self, index: usize) -> &RowGroupMetaData {
        self.metadata().metadata().row_group(index)
    }

    /// Where the chunk of a leaf lies in the file.
    pub(super) fn chunk(&self, row_group: usize, leaf: usize) -> Range<u64> {
        let (start, length) = self.row_group(row_group).column(leaf).byte_range();
        start..start + length
    }

    /// A leaf of the file's schema.
    pub(super) fn leaf(&self, leaf: usize) -> ColumnDescPtr {
        self.metadata().parquet_schema().column(leaf)
    }

    /// The leaves below a top-level column.
    pub(super) fn leaves(&self, root: usize) -> Range<usize> {
        self.parsed.leaves.get(root).cloned().unwrap_or_default()
    }

    /// Where each row group starts in the file: a row group belongs to the split with its start.
    pub(super) fn row_group_starts(&self) -> impl Iterator<Item = u64> {
        self.metadata()
            .metadata()
            .row_groups()
            .iter()
            .map(|row_group| {
                let starts = row_group
                    .columns()
                    .iter()
                    .map(|column| column.byte_range().0);
                starts.min().unwrap_or(0)
            })
    }
}

/// Reads, decodes and checks a footer; says which version of the file it is of.
async fn read(file: &InputFile) -> Result<(Arc<Parsed>, Option<String>)> {
    let size = file.bytes();
    if size < FILE_BYTES_MIN {
        return Err(unreadable(file, "too small to be a Parquet file"));
    }
    let start = size - size.min(TAIL_BYTES);
    let (end, version) = file.read_versioned(start..size).await?;
    let mut tail = (start, end);
    let wanted = size - footer_bytes(file, &tail.1)?;
    if wanted < start {
        let rest = file.read(wanted..start).await?;
        tail = (wanted, [rest, tail.1].concat().into());
    }
    let metadata = contain(file, "the footer", || parse(size, tail.0..size, tail.1))?;
    check_claims(file, &metadata)?;
    let metadata = Arc::new(metadata);
    let metadata = contain(file, "the schema", || with_views(metadata))?;
    let descriptor = metadata.parquet_schema();
    let mut leaves = vec![0..0; metadata.schema().fields().len()];
    for leaf in 0..descriptor.num_columns() {
        if let Some(range) = leaves.get_mut(descriptor.get_column_root_idx(leaf)) {
            range.start = if range.end == 0 { leaf } else { range.start };
            range.end = leaf + 1;
        }
    }
    let parsed = Arc::new(Parsed {
        metadata,
        leaves,
        statistics: OnceLock::new(),
    });
    Ok((parsed, version))
}

/// Runs what a file's bytes may make fail or panic; either way the file is at fault.
pub(super) fn contain<T, E: fmt::Display>(
    file: &InputFile,
    place: impl fmt::Display,
    work: impl FnOnce() -> Result<T, E>,
) -> Result<T> {
    let reason = match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(value)) => return Ok(value),
        Ok(Err(error)) => error.to_string(),
        Err(panic) => format!("the decoder failed: {}", panic_message(&*panic)),
    };
    Err(unreadable(file, &format!("cannot read {place}: {reason}")))
}

/// The error for a file that is not as it should be.
pub(super) fn unreadable(file: &InputFile, reason: &str) -> Error {
    Error::invalid(format!(
        "bad Parquet file: {reason} file={} bytes={}",
        file.url(),
        file.bytes()
    ))
}

/// How many bytes at the end of the file are footer, by its last bytes.
fn footer_bytes(file: &InputFile, tail: &[u8]) -> Result<u64> {
    let Some((_, [a, b, c, d, magic @ ..])) = tail.split_last_chunk::<MAGIC_BYTES>() else {
        return Err(unreadable(file, "it is shorter than a footer"));
    };
    match magic {
        b"PAR1" => {}
        b"PARE" => return Err(unreadable(file, "encrypted files are not supported")),
        _ => {
            let reason = "it does not end in PAR1, so it was cut off or is something else";
            return Err(unreadable(file, reason));
        }
    }
    let bytes = u64::from(u32::from_le_bytes([*a, *b, *c, *d])) + MAGIC_BYTES as u64;
    if bytes + 4 > file.bytes() {
        return Err(unreadable(
            file,
            "its footer claims to be larger than the file",
        ));
    }
    Ok(bytes)
}

fn parse(size: u64, range: Range<u64>, tail: Bytes) -> Result<ParquetMetaData, ParquetError> {
    let mut decoder =
        ParquetMetaDataPushDecoder::try_new(size)?.with_page_index_policy(PageIndexPolicy::Skip);
    decoder.push_range(range, tail)?;
    match decoder.try_decode()? {
        DecodeResult::Data(metadata) => Ok(metadata),
        DecodeResult::NeedsData(_) | DecodeResult::Finished => {
            Err(ParquetError::General("the footer is not complete".into()))
        }
    }
}

/// Compares every claim about places and sizes with the size of the file, and those about rows
/// with one another.
fn check_claims(file: &InputFile, metadata: &ParquetMetaData) -> Result<()> {
    for (index, row_group) in metadata.row_groups().iter().enumerate() {
        let rows = u64::try_from(row_group.num_rows());
        let inside = row_group
            .columns()
            .iter()
            .all(|column| is_inside(column, file.bytes()));
        if rows.is_err() || !inside {
            let reason = format!("row group {index} does not lie within the file");
            return Err(unreadable(file, &reason));
        }
        let mut flat = row_group
            .columns()
            .iter()
            .filter(|column| column.column_descr().max_rep_level() == 0);
        if let Some(column) = flat.find(|column| column.num_values() != row_group.num_rows()) {
            let reason = format!(
                "row group {index} has a column of another length column={:?} rows={} values={}",
                column.column_path().string(),
                row_group.num_rows(),
                column.num_values()
            );
            return Err(unreadable(file, &reason));
        }
    }
    let rows = metadata.row_groups().iter().map(RowGroupMetaData::num_rows);
    let rows = rows.map(i128::from).sum::<i128>();
    let expected = metadata.file_metadata().num_rows();
    if rows != i128::from(expected) {
        let reason = format!("its row groups have other rows than it rows={rows} file={expected}");
        return Err(unreadable(file, &reason));
    }
    Ok(())
}

fn is_inside(column: &ColumnChunkMetaData, file_bytes: u64) -> bool {
    let start = column
        .dictionary_page_offset()
        .unwrap_or(column.data_page_offset());
    let counts = column.num_values() >= 0 && column.uncompressed_size() >= 0;
    let end = u64::try_from(start)
        .ok()
        .zip(u64::try_from(column.compressed_size()).ok())
        .and_then(|(start, length)| start.checked_add(length));
    counts && end.is_some_and(|end| end <= file_bytes)
}

/// The file's own types, but strings as views, dictionaries as what they stand for, and decimals as
/// wide as they are stored.
fn with_views(metadata: Arc<ParquetMetaData>) -> Result<ArrowReaderMetadata, ParquetError> {
    let own = ArrowReaderMetadata::try_new(Arc::clone(&metadata), ArrowReaderOptions::new())?;
    let roots = own.parquet_schema().root_schema().get_fields();
    let fields = own.schema().fields().iter().zip(roots);
    let fields: Vec<FieldRef> = fields
        .map(|(field, root)| narrow_field(&view_field(field), root))
        .collect();
    let schema = Arc::new(Schema::new_with_metadata(
        fields,
        own.schema().metadata().clone(),
    ));
    ArrowReaderMetadata::try_new(metadata, ArrowReaderOptions::new().with_schema(schema))
}

fn view_field(field: &FieldRef) -> FieldRef {
    let data_type = view_type(field.data_type());
    Arc::new(Field::clone(field).with_data_type(data_type))
}

fn view_type(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Utf8 | DataType::LargeUtf8 => DataType::Utf8View,
        DataType::Binary | DataType::LargeBinary => DataType::BinaryView,
        DataType::Dictionary(_, value) => view_type(value),
        DataType::List(element) => DataType::List(view_field(element)),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(view_field).collect()),
        other => other.clone(),
    }
}

/// A decimal column as wide as its numbers are stored.
fn narrow_field(field: &FieldRef, root: &Type) -> FieldRef {
    use DataType::{Decimal32, Decimal64, Decimal128, Decimal256};
    let (Decimal32(precision, scale)
    | Decimal64(precision, scale)
    | Decimal128(precision, scale)
    | Decimal256(precision, scale)) = *field.data_type()
    else {
        return Arc::clone(field);
    };
    if !root.is_primitive() {
        return Arc::clone(field);
    }
    let data_type = match root.get_physical_type() {
        PhysicalType::INT32 => Decimal32(precision, scale),
        PhysicalType::INT64 => Decimal64(precision, scale),
        _ if precision <= DECIMAL128_MAX_PRECISION => Decimal128(precision, scale),
        _ => Decimal256(precision, scale),
    };
    Arc::new(Field::clone(field).with_data_type(data_type))
}
