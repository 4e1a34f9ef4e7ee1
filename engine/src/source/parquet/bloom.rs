//! Row groups without a value that is asked for, by the bloom filters of a file.
//!
//! A filter is read only where a conjunct asks for single values and the bounds of the row group
//! do not tell. It may say that a value is there which is not, never the other way round.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, RecordBatchOptions};
use arrow::compute::cast;
use arrow::datatypes::{
    DataType, Date32Type, Decimal32Type, Decimal64Type, Int32Type, Int64Type, Schema,
};
use parquet::bloom_filter::Sbbf;

use super::columns::{Columns, Source};
use super::decode::RowGroup;
use super::footer::{Footer, contain, unreadable};
use super::wanted::Wanted;
use crate::error::Result;
use crate::expr::eval::evaluate;
use crate::expr::{BinaryOp, Expr};

/// Bytes of one bloom filter; a larger one costs more to read than most of what it could save.
const FILTER_BYTES_MAX: u64 = 4 << 20;

/// Those of `groups`, all of the file of `columns`, that may have the values asked for.
pub(super) async fn keep(
    wanted: &Wanted,
    columns: &Columns,
    groups: Vec<RowGroup>,
) -> Result<Vec<RowGroup>> {
    let asked: Vec<(&Source, Vec<ArrayRef>)> = wanted
        .conjuncts
        .iter()
        .filter_map(|conjunct| asked(conjunct, columns))
        .collect();
    let mut kept = Vec::with_capacity(groups.len());
    'groups: for group in groups {
        for (source, values) in &asked {
            let filter = read(columns.footer(), source, group.index).await?;
            if let Some(filter) = filter
                && !values.iter().any(|value| may_have(&filter, value))
            {
                continue 'groups;
            }
        }
        kept.push(group);
    }
    Ok(kept)
}

/// The values of which a row has to have one to pass `conjunct`, as the file stores them; none if
/// it is not that kind of question.
fn asked<'a>(conjunct: &Expr, columns: &'a Columns) -> Option<(&'a Source, Vec<ArrayRef>)> {
    let (name, values): (&str, Vec<&Expr>) = match conjunct {
        Expr::Binary {
            left,
            op: BinaryOp::Equal,
            right,
        } => match (&**left, &**right) {
            (Expr::Column(name), value @ Expr::Literal(_))
            | (value @ Expr::Literal(_), Expr::Column(name)) => (name, vec![value]),
            _ => return None,
        },
        Expr::InList { expr, list } => match &**expr {
            Expr::Column(name) => (name, list.iter().collect()),
            _ => return None,
        },
        _ => return None,
    };
    let source = columns.find(name)?;
    let data_type = &source.place()?.data_type;
    if !is_stored_plainly(data_type) {
        return None;
    }
    let values = values.into_iter().map(|value| stored(value, data_type));
    Some((source, values.collect::<Option<_>>()?))
}

/// Types whose values are hashed as they are in memory. Floats are not among them: they have
/// several zeros.
fn is_stored_plainly(data_type: &DataType) -> bool {
    use DataType::{BinaryView, Date32, Decimal32, Decimal64, Int32, Int64, Utf8View};
    matches!(
        data_type,
        Int32 | Int64 | Date32 | Decimal32(..) | Decimal64(..) | Utf8View | BinaryView
    )
}

/// A constant as a value of the file's column. If it is equal to one, then it is that one.
fn stored(value: &Expr, data_type: &DataType) -> Option<ArrayRef> {
    let Expr::Literal(_) = value else {
        return None;
    };
    let options = RecordBatchOptions::new().with_row_count(Some(1));
    let empty = RecordBatch::try_new_with_options(Arc::new(Schema::empty()), vec![], &options);
    let value = cast(&evaluate(value, &empty.ok()?).ok()?, data_type).ok()?;
    value.is_valid(0).then_some(value)
}

fn may_have(filter: &Sbbf, value: &ArrayRef) -> bool {
    match value.data_type() {
        DataType::Int32 => filter.check(&value.as_primitive::<Int32Type>().value(0)),
        DataType::Int64 => filter.check(&value.as_primitive::<Int64Type>().value(0)),
        DataType::Date32 => filter.check(&value.as_primitive::<Date32Type>().value(0)),
        DataType::Decimal32(..) => filter.check(&value.as_primitive::<Decimal32Type>().value(0)),
        DataType::Decimal64(..) => filter.check(&value.as_primitive::<Decimal64Type>().value(0)),
        DataType::Utf8View => filter.check(value.as_string_view().value(0)),
        DataType::BinaryView => filter.check(value.as_binary_view().value(0)),
        _ => true,
    }
}

/// The bloom filter of a column in a row group; none if there is none of known and modest size.
async fn read(footer: &Footer, source: &Source, row_group: usize) -> Result<Option<Sbbf>> {
    let Some(place) = source.place() else {
        return Ok(None);
    };
    let chunk = footer.row_group(row_group).column(place.leaves.start);
    let (Some(start), Some(length)) = (chunk.bloom_filter_offset(), chunk.bloom_filter_length())
    else {
        return Ok(None);
    };
    let file = footer.file();
    let range = u64::try_from(start).ok().zip(u64::try_from(length).ok());
    let range = range.and_then(|(start, length)| Some(start..start.checked_add(length)?));
    let Some(range) = range.filter(|range| range.end <= file.bytes()) else {
        let reason = format!("a bloom filter of row group {row_group} lies outside of the file");
        return Err(unreadable(file, &reason));
    };
    if range.end - range.start > FILTER_BYTES_MAX {
        return Ok(None);
    }
    let bytes = file.read(range).await?;
    // A filter without blocks has no place for any value.
    let filter = contain(file, "a bloom filter", || Sbbf::from_bytes(&bytes));
    Ok(filter.ok().filter(|filter| filter.num_blocks() > 0))
}
