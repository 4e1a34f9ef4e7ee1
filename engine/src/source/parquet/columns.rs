//! How the columns of one file become those of the table.
//!
//! Columns are matched by name. A file may lack a column, which is null then, have others, which
//! nobody reads, or have one of another type whose values fit into the table's.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{ArrayRef, new_null_array};
use arrow::compute::{CastOptions, can_cast_types, cast_with_options};
use arrow::datatypes::{DataType, Field};
use arrow::util::display::FormatOptions;
use parquet::arrow::{FieldLevels, ProjectionMask, parquet_to_arrow_field_levels};

use super::footer::{Footer, contain};
use super::wanted::Wanted;
use crate::error::{Error, Result};

/// Conversions refuse what does not fit instead of making it null.
const STRICT: CastOptions<'static> = CastOptions {
    safe: false,
    format_options: FormatOptions::new(),
};

/// A file with a source for each slot of a scan.
pub(super) struct Columns {
    footer: Arc<Footer>,
    sources: Vec<Source>,
}

/// Where the values of a slot come from.
pub(super) struct Source {
    /// The column of the table.
    field: Field,
    /// The column of the file; none if it has none of that name.
    place: Option<Place>,
}

/// A column of a file.
pub(super) struct Place {
    /// The leaves of the schema below it.
    pub(super) leaves: Range<usize>,
    /// How the crate's reader assembles it.
    pub(super) levels: FieldLevels,
    /// The type in which it is decoded.
    pub(super) data_type: DataType,
}

impl Columns {
    /// Finds what `wanted` reads in a file.
    ///
    /// # Errors
    /// `Invalid`, naming file, column and both types, if a column does not fit.
    pub(super) fn new(footer: Arc<Footer>, wanted: &Wanted) -> Result<Self> {
        let slots = wanted.slots.iter();
        let sources = slots.map(|&column| source(&footer, wanted.file_schema.field(column)));
        Ok(Columns {
            sources: sources.collect::<Result<_>>()?,
            footer,
        })
    }

    pub(super) fn footer(&self) -> &Arc<Footer> {
        &self.footer
    }

    /// The source of each slot.
    pub(super) fn sources(&self) -> &[Source] {
        &self.sources
    }

    /// The leaves that have to be read, ascending.
    pub(super) fn leaves(&self) -> Vec<usize> {
        let places = self.sources.iter().filter_map(Source::place);
        let mut leaves: Vec<usize> = places.flat_map(|place| place.leaves.clone()).collect();
        leaves.sort_unstable();
        leaves
    }
}

impl Source {
    pub(super) fn place(&self) -> Option<&Place> {
        self.place.as_ref()
    }

    /// The column of the table.
    pub(super) fn field(&self) -> &Field {
        &self.field
    }

    /// What the table has where a file has no such column.
    pub(super) fn nulls(&self, rows: usize) -> ArrayRef {
        new_null_array(self.field.data_type(), rows)
    }

    /// Decoded values as values of the table's column.
    pub(super) fn convert(&self, values: ArrayRef, url: &str) -> Result<ArrayRef> {
        if values.data_type() == self.field.data_type() {
            return Ok(values);
        }
        cast_with_options(&values, self.field.data_type(), &STRICT).map_err(|error| {
            Error::invalid(format!(
                "a value does not fit the table's column file={url} column={:?} expected={} \
                 found={}",
                self.field.name(),
                self.field.data_type(),
                values.data_type()
            ))
            .with_source(error)
        })
    }
}

fn source(footer: &Footer, field: &Field) -> Result<Source> {
    let mismatch = |found: &str| {
        Error::invalid(format!(
            "the files of one input have different columns file={} column={:?} expected={} \
             found={found}",
            footer.file().url(),
            field.name(),
            field.data_type()
        ))
    };
    let field = field.clone();
    let Ok(root) = footer.schema().index_of(field.name()) else {
        if !field.is_nullable() {
            return Err(mismatch("no such column"));
        }
        return Ok(Source { field, place: None });
    };
    let data_type = footer.schema().field(root).data_type().clone();
    if !converts(&data_type, field.data_type()) {
        return Err(mismatch(&data_type.to_string()));
    }
    let descriptor = footer.metadata().parquet_schema();
    let leaves = footer.leaves(root);
    let levels = contain(footer.file(), "the schema", || {
        let mask = ProjectionMask::roots(descriptor, [root]);
        parquet_to_arrow_field_levels(descriptor, mask, Some(footer.schema().fields()))
    })?;
    let place = Some(Place {
        leaves,
        levels,
        data_type,
    });
    Ok(Source { field, place })
}

/// Whether the values of one type are values of the other too, as far as they are in its range.
fn converts(from: &DataType, to: &DataType) -> bool {
    use DataType::{Date32, Date64, Null, Timestamp};
    if from == to {
        return true;
    }
    let alike = match (from, to) {
        (Null, _) => true,
        (Timestamp(_, from), Timestamp(_, to)) => from.is_some() == to.is_some(),
        (Date32 | Date64, Date32 | Date64 | Timestamp(_, None)) => true,
        _ if is_text(from) => is_text(to),
        _ if from.is_floating() => {
            to.is_floating() && from.primitive_width() <= to.primitive_width()
        }
        _ if from.is_integer() => to.is_numeric(),
        _ => match (scale(from), scale(to)) {
            (Some(from), Some(to)) => from <= to,
            (Some(_), None) => to.is_floating(),
            _ => false,
        },
    };
    alike && can_cast_types(from, to)
}

fn is_text(data_type: &DataType) -> bool {
    use DataType::{Binary, BinaryView, LargeBinary, LargeUtf8, Utf8, Utf8View};
    matches!(
        data_type,
        Utf8 | LargeUtf8 | Utf8View | Binary | LargeBinary | BinaryView
    )
}

fn scale(data_type: &DataType) -> Option<i8> {
    use DataType::{Decimal32, Decimal64, Decimal128, Decimal256};
    match data_type {
        Decimal32(_, scale) | Decimal64(_, scale) | Decimal128(_, scale) | Decimal256(_, scale) => {
            Some(*scale)
        }
        _ => None,
    }
}
