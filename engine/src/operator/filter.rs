//! Keeps the rows for which a predicate is true.
//!
//! Rows that pass are handed on at once, however few they are: a limit behind a filter that
//! rarely passes can then stop the reading as soon as it has enough.

use arrow::array::Array;
use arrow::compute::{filter_record_batch, prep_null_mask_filter};
use arrow::datatypes::{DataType, Schema};
use arrow::record_batch::RecordBatch;

use crate::error::{Error, Result};
use crate::expr::Expr;
use crate::expr::eval::{Compiled, compile};
use crate::operator::{Emit, Operator};

/// A filter of rows of `schema`. Rows for which `predicate` is null are dropped.
///
/// # Errors
/// `Invalid` if the predicate does not fit the schema or is not a boolean.
pub fn new(predicate: &Expr, schema: &Schema) -> Result<Box<dyn Operator>> {
    let compiled = compile(predicate, schema)?;
    let data_type = compiled.field().data_type();
    if !data_type.is_null() && *data_type != DataType::Boolean {
        return Err(Error::invalid(format!(
            "{predicate}: a filter has to be a boolean found={data_type}"
        )));
    }
    let never = data_type.is_null();
    Ok(Box::new(Filter {
        predicate: compiled,
        never,
    }))
}

struct Filter {
    predicate: Compiled,
    /// The predicate is the untyped null, which is true of no row.
    never: bool,
}

impl Operator for Filter {
    fn push(&mut self, batch: RecordBatch, emit: Emit<'_>) -> Result<()> {
        if self.never {
            return Ok(());
        }
        let mask = self.predicate.evaluate_boolean(&batch)?;
        let mask = if mask.null_count() > 0 {
            prep_null_mask_filter(&mask)
        } else {
            mask
        };
        match mask.true_count() {
            0 => Ok(()),
            all if all == batch.num_rows() => emit(batch),
            _ => emit(filter_record_batch(&batch, &mask)?),
        }
    }
}
