//! CASE: for each row the value beside the first condition that is true.
//!
//! As long as nothing in it can fail, every branch is computed for every row and one pass picks;
//! that has no branch in its loops and moves no rows. Where something can fail, a condition is
//! computed only for the rows that no earlier one took, and a value only for those that its
//! condition took.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, ArrowPrimitiveType, AsArray, BooleanArray, PrimitiveArray};
use arrow::buffer::{BooleanBuffer, NullBuffer};
use arrow::compute::interleave;
use arrow::compute::kernels::zip::zip;
use arrow::datatypes::{
    DataType, Date32Type, Decimal64Type, Decimal128Type, Float64Type, Int32Type, Int64Type,
};

use super::eval::{Node, Rows, Value};
use crate::error::Result;

/// Conditions with values, and the value of rows that no condition takes; all of one type.
pub(super) struct Choice {
    pub(super) branches: Vec<(Node, Node)>,
    pub(super) otherwise: Box<Node>,
}

impl Choice {
    /// The parts, in the order in which they are looked at.
    pub(super) fn parts(&self) -> impl Iterator<Item = &Node> {
        let branches = self.branches.iter();
        let parts = branches.flat_map(|(condition, value)| [condition, value]);
        parts.chain([&*self.otherwise])
    }

    pub(super) fn run(&self, rows: &Rows<'_>) -> Result<Value> {
        // The first condition is computed for all rows either way.
        if self.parts().skip(1).any(Node::can_fail) {
            self.run_where_needed(rows)
        } else {
            self.run_everywhere(rows)
        }
    }

    fn run_everywhere(&self, rows: &Rows<'_>) -> Result<Value> {
        let mut result = self.otherwise.run(rows)?;
        for (condition, value) in self.branches.iter().rev() {
            let condition = condition.run(rows)?.into_array(rows.count())?;
            let mask = holds(condition.as_boolean());
            result = Value::Array(select(&mask, value.run(rows)?, result)?);
        }
        Ok(result)
    }

    fn run_where_needed(&self, rows: &Rows<'_>) -> Result<Value> {
        let mut open: Vec<u32> = (0..rows.count() as u32).collect();
        let mut pieces: Vec<ArrayRef> = Vec::new();
        let mut places = vec![(0, 0); rows.count()];
        let mut put = |value: &Node, taken: &[u32]| -> Result<()> {
            if taken.is_empty() {
                return Ok(());
            }
            let piece = value.run(&rows.only(taken, value)?)?;
            for (at, row) in taken.iter().enumerate() {
                places[*row as usize] = (pieces.len(), at);
            }
            pieces.push(piece.into_array(taken.len())?);
            Ok(())
        };
        for (condition, value) in &self.branches {
            if open.is_empty() {
                break;
            }
            let found = condition.run(&rows.only(&open, condition)?)?;
            let mask = holds(found.into_array(open.len())?.as_boolean());
            let pick = |wanted: bool| {
                let rows = open.iter().zip(&mask);
                let rows = rows.filter(move |(_, holds)| *holds == wanted);
                rows.map(|(row, _)| *row).collect::<Vec<u32>>()
            };
            let (taken, left) = (pick(true), pick(false));
            put(value, &taken)?;
            open = left;
        }
        put(&self.otherwise, &open)?;
        if pieces.is_empty() {
            // No rows: the type is all there is to say.
            return self.otherwise.run(rows);
        }
        let pieces: Vec<&dyn Array> = pieces.iter().map(AsRef::as_ref).collect();
        Ok(Value::Array(interleave(&pieces, &places)?))
    }
}

/// Where a condition is true; null is not.
fn holds(condition: &BooleanArray) -> BooleanBuffer {
    match condition.nulls() {
        Some(nulls) => condition.values() & nulls.inner(),
        None => condition.values().clone(),
    }
}

/// `yes` where the mask is set, else `no`.
fn select(mask: &BooleanBuffer, yes: Value, no: Value) -> Result<ArrayRef> {
    Ok(match yes.array().data_type() {
        DataType::Int32 => primitive::<Int32Type>(mask, &yes, &no),
        DataType::Int64 => primitive::<Int64Type>(mask, &yes, &no),
        DataType::Float64 => primitive::<Float64Type>(mask, &yes, &no),
        DataType::Date32 => primitive::<Date32Type>(mask, &yes, &no),
        DataType::Decimal64(..) => primitive::<Decimal64Type>(mask, &yes, &no),
        DataType::Decimal128(..) => primitive::<Decimal128Type>(mask, &yes, &no),
        _ => zip(&BooleanArray::new(mask.clone(), None), &yes, &no)?,
    })
}

fn primitive<T: ArrowPrimitiveType>(mask: &BooleanBuffer, yes: &Value, no: &Value) -> ArrayRef {
    let (a, b) = (
        yes.array().as_primitive::<T>(),
        no.array().as_primitive::<T>(),
    );
    let (some, other) = (a.values(), b.values());
    let pick = |row: usize, set: bool| {
        let (a, b) = (
            some[if yes.is_scalar() { 0 } else { row }],
            other[if no.is_scalar() { 0 } else { row }],
        );
        if set { a } else { b }
    };
    let values: Vec<T::Native> = mask
        .iter()
        .enumerate()
        .map(|(row, set)| pick(row, set))
        .collect();
    let array = PrimitiveArray::<T>::new(values.into(), nulls(mask, yes, no));
    Arc::new(array.with_data_type(a.data_type().clone()))
}

fn nulls(mask: &BooleanBuffer, yes: &Value, no: &Value) -> Option<NullBuffer> {
    if yes.array().null_count() + no.array().null_count() == 0 {
        return None;
    }
    let valid = |value: &Value| match value.array().nulls() {
        _ if value.is_scalar() && value.array().is_null(0) => BooleanBuffer::new_unset(mask.len()),
        Some(nulls) if !value.is_scalar() => nulls.inner().clone(),
        _ => BooleanBuffer::new_set(mask.len()),
    };
    let chosen = &(mask & &valid(yes)) | &(&!mask & &valid(no));
    Some(NullBuffer::new(chosen))
}
