//! Makes one row per element of a list column.
//!
//! Elements are not copied: the output column is a slice of the list's own values. The other
//! columns are repeated by index. Output batches have at most [`limits::BATCH_ROWS`] rows, so
//! neither long lists nor many of them make a batch that does not fit the cache.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, ListArray, UInt32Array};
use arrow::compute::take;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;

use crate::error::{Error, Result};
use crate::expr::typing::unknown_column;
use crate::limits;
use crate::operator::{Emit, Operator};

/// An explode of the list column called `column` of rows of `schema`. Rows whose list is empty or
/// null give no row.
///
/// # Errors
/// `Invalid` if there is no such column or it is not a list.
pub fn new(column: &str, schema: &Schema) -> Result<Box<dyn Operator>> {
    let index = schema
        .index_of(column)
        .map_err(|_| unknown_column(column, schema))?;
    let DataType::List(element) = schema.field(index).data_type() else {
        return Err(Error::invalid(format!(
            "explode needs a list column={column:?} found={}",
            schema.field(index).data_type()
        )));
    };
    let mut fields: Vec<Field> = schema
        .fields()
        .iter()
        .map(|field| (**field).clone())
        .collect();
    fields[index] = Field::new(column, element.data_type().clone(), element.is_nullable());
    Ok(Box::new(Explode {
        index,
        schema: Arc::new(Schema::new(fields)),
    }))
}

struct Explode {
    index: usize,
    schema: SchemaRef,
}

impl Operator for Explode {
    fn push(&mut self, batch: RecordBatch, emit: Emit<'_>) -> Result<()> {
        let Some(lists) = batch.column(self.index).as_list_opt::<i32>() else {
            return Err(Error::internal(
                "explode was given a column that is not a list",
            ));
        };
        let mut rows = Rows::default();
        for row in 0..lists.len() {
            let mut elements = elements(lists, row);
            while !elements.is_empty() {
                // Elements of a null list may lie in between: these are nobody's.
                if rows.repeated.len() == limits::BATCH_ROWS || !rows.continues_at(elements.start) {
                    self.emit(&batch, lists, &mut rows, emit)?;
                }
                elements.start += rows.take(row, elements.clone());
            }
        }
        self.emit(&batch, lists, &mut rows, emit)
    }
}

/// Where the elements of a row are among the values; nowhere where the row is null, whatever its
/// offsets say.
fn elements(lists: &ListArray, row: usize) -> Range<usize> {
    let offsets = lists.value_offsets();
    let range = offsets[row] as usize..offsets[row + 1] as usize;
    if lists.is_null(row) {
        range.end..range.end
    } else {
        range
    }
}

/// Output rows: a run of elements that follow one another, and the input row of each.
#[derive(Default)]
struct Rows {
    start: usize,
    repeated: Vec<u32>,
}

impl Rows {
    fn continues_at(&self, element: usize) -> bool {
        self.repeated.is_empty() || self.start + self.repeated.len() == element
    }

    /// Takes what fits of the elements of `row` and tells how many those are.
    fn take(&mut self, row: usize, elements: Range<usize>) -> usize {
        if self.repeated.is_empty() {
            self.start = elements.start;
        }
        let taken = elements.len().min(limits::BATCH_ROWS - self.repeated.len());
        let row = u32::try_from(row).expect("batches have far fewer rows");
        self.repeated.resize(self.repeated.len() + taken, row);
        taken
    }
}

impl Explode {
    fn emit(
        &self,
        batch: &RecordBatch,
        lists: &ListArray,
        rows: &mut Rows,
        emit: Emit<'_>,
    ) -> Result<()> {
        if rows.repeated.is_empty() {
            return Ok(());
        }
        let count = rows.repeated.len();
        let indices = UInt32Array::from(std::mem::take(&mut rows.repeated));
        let column = |(index, column): (usize, &ArrayRef)| -> Result<ArrayRef> {
            if index == self.index {
                return Ok(lists.values().slice(rows.start, count));
            }
            Ok(take(column, &indices, None)?)
        };
        let columns = batch.columns().iter().enumerate().map(column);
        let columns = columns.collect::<Result<Vec<_>>>()?;
        emit(RecordBatch::try_new(Arc::clone(&self.schema), columns)?)
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::Int32Array;
    use arrow::buffer::{NullBuffer, OffsetBuffer, ScalarBuffer};
    use arrow::datatypes::Int32Type;

    use super::*;

    #[test]
    fn elements_behind_a_null_list_are_nobodys() {
        let element = Arc::new(Field::new_list_field(DataType::Int32, true));
        let list = ListArray::new(
            Arc::clone(&element),
            OffsetBuffer::new(ScalarBuffer::from(vec![0, 2, 5, 6, 6, 8])),
            Arc::new(Int32Array::from_iter_values(0..8)),
            Some(NullBuffer::from(vec![true, false, true, true, true])),
        );
        let fields = [
            Field::new("row", DataType::Int32, false),
            Field::new("list", DataType::List(element), true),
        ];
        let schema = Arc::new(Schema::new(fields.to_vec()));
        let rows = Arc::new(Int32Array::from_iter_values(0..5));
        let batch = RecordBatch::try_new(Arc::clone(&schema), vec![rows, Arc::new(list)]);
        let mut found = Vec::new();
        let mut emit = |batch: RecordBatch| {
            let column = |index| {
                batch
                    .column(index)
                    .as_primitive::<Int32Type>()
                    .values()
                    .to_vec()
            };
            found.extend(column(0).into_iter().zip(column(1)));
            Ok(())
        };
        let mut explode = new("list", &schema).expect("a list column");
        explode
            .push(batch.expect("columns of the schema"), &mut emit)
            .expect("lists explode");
        assert_eq!(found, [(0, 0), (0, 1), (2, 5), (4, 6), (4, 7)]);
    }
}
