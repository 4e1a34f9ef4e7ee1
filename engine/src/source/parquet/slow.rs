//! The parquet crate's reader of one column, for whatever [`super::column`] does not read: nested
//! columns, rare types and encodings.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::concat;
use arrow::datatypes::{
    DataType, Decimal32Type, Decimal64Type, Decimal128Type, Decimal256Type, DecimalType,
};
use arrow::error::ArrowError;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, RowSelection, RowSelector};
use parquet::errors::{ParquetError, Result};

use super::chunk::Chunks;
use super::columns::Place;
use crate::limits;

/// Rows that the crate's reader may be asked for behind the end: a column that has more than its
/// row group is a lie that should come out.
const BEYOND_ROWS: usize = 1;

/// Reads a column in order.
pub(super) struct Slow {
    /// The next row, within the row group.
    at: usize,
    /// What has still to be decoded of each range that is read at all.
    pages: ParquetRecordBatchReader,
    /// Rows that are decoded and not yet asked for.
    rest: Option<ArrayRef>,
    /// The ranges that are read at all, those in front gone.
    ranges: VecDeque<Range<usize>>,
}

impl Slow {
    /// A reader of the rows in `ranges`, ascending and apart, of a row group.
    pub(super) fn new(place: &Place, chunks: &Chunks, ranges: &[Range<usize>]) -> Result<Self> {
        let row_group_rows = usize::try_from(chunks.row_group().num_rows()).unwrap_or(0);
        let selection = selection(ranges, row_group_rows);
        let pages = ParquetRecordBatchReader::try_new_with_row_groups(
            &place.levels,
            chunks,
            limits::BATCH_ROWS,
            selection,
        )?;
        Ok(Slow {
            at: ranges.first().map_or(0, |range| range.start),
            pages,
            rest: None,
            ranges: ranges.iter().cloned().collect(),
        })
    }

    /// The values of `rows`, which lie within one of the ranges and behind what was read before.
    pub(super) fn read(&mut self, rows: &Range<usize>) -> Result<ArrayRef> {
        self.pass_to(rows.start)?;
        let values = self.take(rows.len())?;
        self.at = rows.end;
        Ok(values)
    }

    /// Makes sure that the column ends where its row group does.
    pub(super) fn finish(&mut self, rows: usize) -> Result<()> {
        self.pass_to(rows)?;
        match (self.rest.take(), self.pages.next().transpose()?) {
            (None, None) => Ok(()),
            _ => Err(ParquetError::General(format!(
                "it has more rows than the footer says footer={rows}"
            ))),
        }
    }

    /// Passes over the rows before `row`.
    fn pass_to(&mut self, row: usize) -> Result<()> {
        let mut rows = 0;
        while let Some(range) = self.ranges.front() {
            rows += row.min(range.end).saturating_sub(self.at.max(range.start));
            if range.end > row {
                break;
            }
            self.ranges.pop_front();
        }
        while rows > 0 {
            let piece = rows.min(limits::BATCH_ROWS);
            self.take(piece)?;
            rows -= piece;
        }
        self.at = self.at.max(row);
        Ok(())
    }

    /// The next `rows` values.
    fn take(&mut self, rows: usize) -> Result<ArrayRef> {
        let mut parts: Vec<ArrayRef> = Vec::new();
        let mut missing = rows;
        while missing > 0 {
            let piece = match self.rest.take() {
                Some(rest) => rest,
                None => match self.pages.next().transpose()? {
                    Some(batch) => {
                        check_digits(batch.column(0))?;
                        Arc::clone(batch.column(0))
                    }
                    None => {
                        return Err(ParquetError::General(format!(
                            "it has fewer rows than the footer says missing={missing}"
                        )));
                    }
                },
            };
            if piece.len() > missing {
                self.rest = Some(piece.slice(missing, piece.len() - missing));
                parts.push(piece.slice(0, missing));
                break;
            }
            missing -= piece.len();
            parts.push(piece);
        }
        match parts.as_slice() {
            [part] => Ok(Arc::clone(part)),
            parts => {
                let parts: Vec<_> = parts.iter().map(AsRef::as_ref).collect();
                Ok(concat(&parts)?)
            }
        }
    }
}

/// Makes sure that no decimal has more digits than its column declares, as [`super::column`] does;
/// the crate takes them as they come.
fn check_digits(values: &ArrayRef) -> Result<(), ArrowError> {
    fn check<T: DecimalType>(values: &ArrayRef, digits: u8) -> Result<(), ArrowError> {
        values
            .as_primitive::<T>()
            .validate_decimal_precision(digits)
    }
    match values.data_type() {
        DataType::Decimal32(digits, _) => check::<Decimal32Type>(values, *digits),
        DataType::Decimal64(digits, _) => check::<Decimal64Type>(values, *digits),
        DataType::Decimal128(digits, _) => check::<Decimal128Type>(values, *digits),
        DataType::Decimal256(digits, _) => check::<Decimal256Type>(values, *digits),
        DataType::List(_) => check_digits(values.as_list::<i32>().values()),
        DataType::Map(..) => {
            let mut entries = values.as_map().entries().columns().iter();
            entries.try_for_each(check_digits)
        }
        DataType::Struct(_) => {
            let mut fields = values.as_struct().columns().iter();
            fields.try_for_each(check_digits)
        }
        _ => Ok(()),
    }
}

/// `ranges` as the crate spells them; none if they are the whole row group of `rows` rows.
fn selection(ranges: &[Range<usize>], rows: usize) -> Option<RowSelection> {
    if let [range] = ranges
        && *range == (0..rows)
    {
        return None;
    }
    let mut selectors = Vec::new();
    let mut end = 0;
    for range in ranges {
        selectors.push(RowSelector::skip(range.start - end));
        let beyond = if range.end == rows { BEYOND_ROWS } else { 0 };
        selectors.push(RowSelector::select(range.len() + beyond));
        end = range.end;
    }
    Some(RowSelection::from(selectors))
}
