//! What the statistics of a file say of a column, brought to the table's type.
//!
//! Statistics are claims about order, and not every order is the one that we compare by. Those of
//! old writers were ordered by signed bytes, so for strings and unsigned numbers they are worth
//! nothing. A string may be cut short; then it is a bound still, only a wider one. Among floats
//! writers take the two zeros for one, and NaN is in no order: the format says that a zero may
//! stand for the other one, and that a bound that is NaN is none.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, UInt64Array, new_null_array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Float32Type, Float64Type};
use parquet::arrow::arrow_reader::statistics::StatisticsConverter;
use parquet::basic::{ConvertedType, Type};
use parquet::errors::ParquetError;
use parquet::file::metadata::RowGroupMetaData;

use super::columns::Source;
use super::footer::{Footer, contain};
use super::prune::Bounds;
use crate::error::Result;

/// The bounds of a table's column in each of the row groups at `indices`; none if nothing is known.
pub(super) fn row_groups(
    footer: &Footer,
    source: &Source,
    indices: &[usize],
) -> Result<Option<Bounds>> {
    if let Some(place) = source.place() {
        return leaf_bounds(footer, source.field(), place.leaves.start, indices);
    }
    let rows = row_counts(footer, indices);
    let nulls = new_null_array(source.field().data_type(), rows.len());
    Ok(Some(Bounds {
        least: Arc::clone(&nulls),
        greatest: nulls,
        nulls: rows.iter().copied().map(Some).collect(),
        rows,
    }))
}

/// The bounds of the file's column that is one leaf, as values of `field`.
pub(super) fn leaf_bounds(
    footer: &Footer,
    field: &Field,
    leaf: usize,
    indices: &[usize],
) -> Result<Option<Bounds>> {
    let groups = || indices.iter().map(|&index| footer.row_group(index));
    let found = contain(footer.file(), "the statistics", || {
        let Some(converter) = converter(footer, leaf)? else {
            return Ok(None);
        };
        let least = converter.row_group_mins(groups())?;
        let greatest = converter.row_group_maxes(groups())?;
        let nulls = converter.row_group_null_counts(groups())?;
        Ok::<_, ParquetError>(Some((least, greatest, nulls)))
    });
    // Statistics that cannot be read are as good as none: the rows are what counts.
    let Ok(Some((least, greatest, nulls))) = found else {
        return Ok(None);
    };
    let trusted = groups().all(|group| is_ordered(group, leaf));
    let required = footer.leaf(leaf).max_def_level() == 0;
    Ok(Some(Bounds {
        least: converted(least, field.data_type(), trusted, End::Least),
        greatest: converted(greatest, field.data_type(), trusted, End::Greatest),
        nulls: counts(&nulls, required),
        rows: row_counts(footer, indices),
    }))
}

fn row_counts(footer: &Footer, indices: &[usize]) -> Vec<u64> {
    let rows = indices
        .iter()
        .map(|&index| footer.row_group(index).num_rows());
    rows.map(|rows| u64::try_from(rows).unwrap_or(0)).collect()
}

/// What reads the statistics of a leaf, in the file's own type; none if the leaf is not a column
/// by itself.
pub(super) fn converter(
    footer: &Footer,
    leaf: usize,
) -> Result<Option<StatisticsConverter<'_>>, ParquetError> {
    let descriptor = footer.metadata().parquet_schema();
    let field = footer.schema().field(descriptor.get_column_root_idx(leaf));
    if field.data_type().is_nested() {
        return Ok(None);
    }
    let converter = StatisticsConverter::from_column_index(leaf, field, descriptor)?;
    Ok(Some(converter.with_missing_null_counts_as_zero(false)))
}

/// Null counts as numbers; a column that is always there has none.
pub(super) fn counts(nulls: &UInt64Array, required: bool) -> Vec<Option<u64>> {
    let known = nulls.iter();
    known
        .map(|count| if required { Some(0) } else { count })
        .collect()
}

/// Which of the two bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Least,
    Greatest,
}

/// Bounds as values of the table's column; null where they are not to be trusted or do not fit.
pub(super) fn converted(values: ArrayRef, to: &DataType, trusted: bool, end: End) -> ArrayRef {
    let known = match trusted {
        true if values.data_type() == to => Some(Arc::clone(&values)),
        // A value that does not fit becomes null, which is what an unknown bound is.
        true => cast(&values, to).ok(),
        false => None,
    };
    let known = known.and_then(|known| of_floats(known, end));
    known.unwrap_or_else(|| new_null_array(to, values.len()))
}

/// Bounds that hold in the order that tells zeros apart, if these are bounds of floats; none if
/// there is no telling.
fn of_floats(values: ArrayRef, end: End) -> Option<ArrayRef> {
    let sign = if end == End::Least { -1.0 } else { 1.0 };
    Some(match values.data_type() {
        DataType::Float16 => return None,
        DataType::Float32 => {
            let bound = |value: f32| match value {
                0.0 => Some(0f32.copysign(sign)),
                value => (!value.is_nan()).then_some(value),
            };
            let values = values.as_primitive::<Float32Type>();
            Arc::new(values.unary_opt::<_, Float32Type>(bound))
        }
        DataType::Float64 => {
            let bound = |value: f64| match value {
                0.0 => Some(0f64.copysign(sign.into())),
                value => (!value.is_nan()).then_some(value),
            };
            let values = values.as_primitive::<Float64Type>();
            Arc::new(values.unary_opt::<_, Float64Type>(bound))
        }
        _ => values,
    })
}

/// Whether the statistics of a leaf are in the order of its type.
fn is_ordered(group: &RowGroupMetaData, leaf: usize) -> bool {
    let column = group.column(leaf);
    let Some(statistics) = column.statistics() else {
        return true;
    };
    if !statistics.is_min_max_deprecated() {
        return true;
    }
    // Every logical type of unsigned numbers has its like among the old converted types.
    let unsigned = matches!(
        column.column_descr().converted_type(),
        ConvertedType::UINT_8
            | ConvertedType::UINT_16
            | ConvertedType::UINT_32
            | ConvertedType::UINT_64
    );
    let signed = matches!(column.column_type(), Type::INT32 | Type::INT64);
    signed && !unsigned
}
