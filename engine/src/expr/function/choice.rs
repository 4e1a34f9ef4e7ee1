//! Functions that pick one of their arguments: all are brought to one type.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray};
use arrow::buffer::BooleanBuffer;
use arrow::compute::kernels::cmp;
use arrow::compute::kernels::zip::zip;
use arrow::compute::{is_not_null, nullif};
use arrow::datatypes::DataType;

use super::Binding;
use crate::error::{Error, Result};
use crate::expr::compile::Typed;
use crate::expr::eval::Value;
use crate::expr::unify::unify;
use crate::expr::{Function, coerce};

pub(super) fn bind(mut call: Binding<'_>) -> Result<Typed> {
    let (args, data_type) = unify(call.expr, call.args)?;
    call.args = args;
    if call.function != Function::Coalesce && !coerce::is_ordered(&data_type) {
        return Err(Error::invalid(format!(
            "{}: values of this type are not compared found={data_type}",
            call.expr
        )));
    }
    let all_null = call.args.iter().all(|arg| arg.nullable);
    Ok(match call.function {
        Function::Nullif => call.finish(data_type, true, false, null_where_equal),
        Function::Greatest => call.finish(data_type, all_null, false, |values, rows| {
            extreme(values, rows, cmp::gt)
        }),
        Function::Least => call.finish(data_type, all_null, false, |values, rows| {
            extreme(values, rows, cmp::lt)
        }),
        _ => call.finish(data_type, all_null, false, coalesce),
    })
}

fn coalesce(values: &[Value], rows: usize) -> Result<ArrayRef> {
    let mut result = spread(values, 0, rows)?;
    if result.data_type() == &DataType::Null {
        return Ok(result);
    }
    for value in &values[1..] {
        if result.null_count() == 0 {
            break;
        }
        result = zip(&is_not_null(&result)?, &result, value)?;
    }
    Ok(result)
}

type Compare = fn(
    &dyn arrow::array::Datum,
    &dyn arrow::array::Datum,
) -> Result<BooleanArray, arrow::error::ArrowError>;

fn extreme(values: &[Value], rows: usize, better: Compare) -> Result<ArrayRef> {
    let mut result = spread(values, 0, rows)?;
    if result.data_type() == &DataType::Null {
        return Ok(result);
    }
    for index in 1..values.len() {
        let other = spread(values, index, rows)?;
        let is_better = better(&other, &result)?;
        // Null where either is: then the other one is taken only for a null result.
        let mut taken = match is_better.nulls() {
            Some(nulls) => is_better.values() & nulls.inner(),
            None => is_better.values().clone(),
        };
        if let Some(nulls) = result.nulls() {
            let missing: BooleanBuffer = !nulls.inner();
            taken = &taken | &missing;
        }
        result = zip(&BooleanArray::new(taken, None), &other, &result)?;
    }
    Ok(result)
}

fn null_where_equal(values: &[Value], rows: usize) -> Result<ArrayRef> {
    let (value, other) = (spread(values, 0, rows)?, spread(values, 1, rows)?);
    if value.data_type() == &DataType::Null {
        return Ok(value);
    }
    Ok(nullif(&value, &cmp::eq(&value, &other)?)?)
}

fn spread(values: &[Value], index: usize, rows: usize) -> Result<ArrayRef> {
    let value = super::argument(values, index)?;
    match value {
        Value::Array(array) => Ok(Arc::clone(array)),
        Value::Scalar(scalar) => Value::Scalar(scalar.clone()).into_array(rows),
    }
}
