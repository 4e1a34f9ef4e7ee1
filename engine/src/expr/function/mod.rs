//! The built-in functions: what they take, what they give, and how they run.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, ArrowPrimitiveType, AsArray, BooleanArray, Int64Array, ListArray,
    PrimitiveArray, StringViewArray, StringViewBuilder,
};
use arrow::compute::is_not_null;
use arrow::compute::kernels::comparison;
use arrow::compute::kernels::zip::zip;
use arrow::datatypes::{
    ArrowNativeTypeOp, DataType, Decimal128Type, Field, Float32Type, Float64Type, Int8Type,
    Int16Type, Int32Type, Int64Type,
};
use arrow::error::ArrowError;
use regex::Regex;

use super::compile::Typed;
use super::eval::{Step, Value};
use super::unify::unify;
use super::{Expr, Function, coerce};
use crate::error::{Error, Result};
use crate::kernel::words::words_list;

mod letters;

/// A function with everything that does not depend on rows.
pub(super) enum Call {
    Simple(Function),
    RegexpLike(Box<Regex>),
}

/// The type of `words(s)`.
fn words_type() -> DataType {
    DataType::List(Arc::new(Field::new_list_field(DataType::Utf8View, true)))
}

/// Checks the arguments of `expr`, a call of `function`, and converts them to what it takes.
pub(super) fn compile(expr: &Expr, function: Function, args: Vec<Typed>) -> Result<Typed> {
    let expected = match function {
        Function::Words | Function::Lower | Function::Upper => Some(1),
        Function::Length | Function::Trim | Function::Abs => Some(1),
        Function::Contains | Function::StartsWith | Function::EndsWith => Some(2),
        Function::RegexpLike => Some(2),
        Function::Concat | Function::Coalesce => None,
    };
    if expected.map_or(args.is_empty(), |expected| args.len() != expected) {
        let expected = expected.map_or("1 or more".to_owned(), |expected| expected.to_string());
        return Err(Error::invalid(format!(
            "{expr}: wrong number of arguments expected={expected} found={}",
            args.len()
        )));
    }
    let any_null = args.iter().any(|arg| arg.nullable);
    let all_null = args.iter().all(|arg| arg.nullable);
    let (args, data_type, nullable) = match function {
        Function::Words => (strings(expr, args)?, words_type(), any_null),
        Function::Length => (strings(expr, args)?, DataType::Int64, any_null),
        Function::Lower | Function::Upper | Function::Trim | Function::Concat => {
            (strings(expr, args)?, DataType::Utf8View, any_null)
        }
        Function::Contains | Function::StartsWith | Function::EndsWith | Function::RegexpLike => {
            (strings(expr, args)?, DataType::Boolean, any_null)
        }
        Function::Coalesce => {
            let (args, data_type) = unify(expr, args)?;
            (args, data_type, all_null)
        }
        Function::Abs => {
            let (args, data_type) = magnitude(expr, args)?;
            (args, data_type, any_null)
        }
    };
    let (call, args) = if function == Function::RegexpLike {
        let pattern = pattern(expr, &args)?;
        (
            Call::RegexpLike(Box::new(pattern)),
            args.into_iter().take(1).collect(),
        )
    } else {
        (Call::Simple(function), args)
    };
    let nodes = args.into_iter().map(|arg| arg.node).collect();
    Ok(Typed::new(
        Step::Call(call, nodes),
        expr,
        data_type,
        nullable,
    ))
}

fn strings(expr: &Expr, args: Vec<Typed>) -> Result<Vec<Typed>> {
    let one = |arg: Typed| match coerce::plain(&arg.data_type) {
        DataType::Utf8View | DataType::Null => arg.cast(&DataType::Utf8View, expr),
        other => Err(Error::invalid(format!(
            "{expr}: a string is needed found={other}"
        ))),
    };
    args.into_iter().map(one).collect()
}

/// What `abs` takes: the signed numbers as they are, anything else that can be made one.
fn magnitude(expr: &Expr, args: Vec<Typed>) -> Result<(Vec<Typed>, DataType)> {
    use DataType::{Decimal32, Decimal64, Decimal128, Float16, Float32};
    let found = args
        .first()
        .map_or(DataType::Null, |arg| coerce::plain(&arg.data_type));
    let to = match found {
        DataType::Null => DataType::Int64,
        Float16 => Float32,
        Decimal32(precision, scale) | Decimal64(precision, scale) => Decimal128(precision, scale),
        DataType::Decimal256(..) => {
            return Err(Error::invalid(format!(
                "{expr}: abs does not take this type found={found}"
            )));
        }
        other if other.is_numeric() => other,
        other => {
            return Err(Error::invalid(format!(
                "{expr}: a number is needed found={other}"
            )));
        }
    };
    let args = args
        .into_iter()
        .map(|arg| arg.cast(&to, expr))
        .collect::<Result<_>>()?;
    Ok((args, to))
}

fn pattern(expr: &Expr, args: &[Typed]) -> Result<Regex> {
    let constant = args.get(1).and_then(Typed::constant).and_then(|value| {
        let value = value.as_string_view_opt()?;
        value.is_valid(0).then(|| value.value(0))
    });
    let Some(pattern) = constant else {
        return Err(Error::invalid(format!(
            "{expr}: the pattern has to be a constant string"
        )));
    };
    Regex::new(pattern).map_err(|error| {
        // The crate draws a picture over several lines; its last one is the reason.
        let picture = error.to_string();
        let reason = picture.lines().last().unwrap_or_default();
        let reason = reason.strip_prefix("error: ").unwrap_or(reason);
        Error::invalid(format!(
            "bad regular expression: {reason} pattern={pattern:?}"
        ))
    })
}

impl Call {
    pub(super) fn can_fail(&self) -> bool {
        matches!(self, Call::Simple(Function::Abs))
    }

    /// Runs on `rows` rows; arguments that are single values may stand among columns.
    pub(super) fn run(&self, values: Vec<Value>, rows: usize) -> Result<ArrayRef> {
        let first = values
            .first()
            .ok_or_else(|| Error::internal("a call without arguments"))?;
        let text = || first.array().as_string_view();
        Ok(match self {
            Call::RegexpLike(regex) => Arc::new(map_boolean(text(), |value| regex.is_match(value))),
            Call::Simple(Function::Words) => words(text())?,
            Call::Simple(Function::Lower) => Arc::new(letters::lower(text())?),
            Call::Simple(Function::Upper) => Arc::new(letters::upper(text())?),
            Call::Simple(Function::Length) => Arc::new(length(text())),
            Call::Simple(Function::Trim) => Arc::new(trim(text())),
            Call::Simple(Function::Contains) => {
                Arc::new(comparison::contains(first, second(&values)?)?)
            }
            Call::Simple(Function::StartsWith) => {
                Arc::new(comparison::starts_with(first, second(&values)?)?)
            }
            Call::Simple(Function::EndsWith) => {
                Arc::new(comparison::ends_with(first, second(&values)?)?)
            }
            Call::Simple(Function::Concat) => Arc::new(concat(&values, rows)),
            Call::Simple(Function::Coalesce) => coalesce(values, rows)?,
            Call::Simple(Function::Abs) => abs(first.array())?,
            Call::Simple(Function::RegexpLike) => {
                return Err(Error::internal("regexp_like without its pattern"));
            }
        })
    }
}

fn second(values: &[Value]) -> Result<&Value> {
    values
        .get(1)
        .ok_or_else(|| Error::internal("a call without its second argument"))
}

fn map_boolean(text: &StringViewArray, test: impl Fn(&str) -> bool) -> BooleanArray {
    BooleanArray::from_unary(text, test)
}

/// The kernel's list under the type that the check has promised.
fn words(text: &StringViewArray) -> Result<ArrayRef> {
    let list = words_list(text)?;
    let DataType::List(field) = words_type() else {
        return Err(Error::internal("words are a list"));
    };
    if list.data_type() == &DataType::List(Arc::clone(&field)) {
        return Ok(Arc::new(list));
    }
    let (_, offsets, values, nulls) = list.into_parts();
    Ok(Arc::new(ListArray::try_new(field, offsets, values, nulls)?))
}

fn length(text: &StringViewArray) -> Int64Array {
    let chars = |value: &str| i64::try_from(value.chars().count()).unwrap_or(i64::MAX);
    text.iter().map(|value| value.map(chars)).collect()
}

fn trim(text: &StringViewArray) -> StringViewArray {
    text.iter().map(|value| value.map(str::trim)).collect()
}

fn concat(values: &[Value], rows: usize) -> StringViewArray {
    let parts: Vec<_> = values
        .iter()
        .map(|value| {
            (
                value.array().as_string_view(),
                value.array().len() == 1 && rows != 1,
            )
        })
        .collect();
    let mut builder = StringViewBuilder::with_capacity(rows);
    let mut joined = String::new();
    for row in 0..rows {
        joined.clear();
        let whole = parts.iter().all(|(array, constant)| {
            let row = if *constant { 0 } else { row };
            let valid = array.is_valid(row);
            if valid {
                joined.push_str(array.value(row));
            }
            valid
        });
        builder.append_option(whole.then_some(&joined));
    }
    builder.finish()
}

fn coalesce(values: Vec<Value>, rows: usize) -> Result<ArrayRef> {
    let mut values = values.into_iter();
    let Some(first) = values.next() else {
        return Err(Error::internal("coalesce without arguments"));
    };
    let mut result = first.into_array(rows)?;
    for value in values {
        if result.null_count() == 0 {
            break;
        }
        result = zip(&is_not_null(&result)?, &result, &value)?;
    }
    Ok(result)
}

fn abs(values: &dyn Array) -> Result<ArrayRef> {
    Ok(match values.data_type() {
        DataType::Int8 => abs_of::<Int8Type>(values)?,
        DataType::Int16 => abs_of::<Int16Type>(values)?,
        DataType::Int32 => abs_of::<Int32Type>(values)?,
        DataType::Int64 => abs_of::<Int64Type>(values)?,
        DataType::Float32 => {
            let values = values.as_primitive::<Float32Type>();
            Arc::new(values.unary::<_, Float32Type>(f32::abs))
        }
        DataType::Float64 => {
            let values = values.as_primitive::<Float64Type>();
            Arc::new(values.unary::<_, Float64Type>(f64::abs))
        }
        DataType::Decimal128(..) => abs_of::<Decimal128Type>(values)?,
        // What is left has no sign.
        _ => arrow::array::make_array(values.to_data()),
    })
}

fn abs_of<T: ArrowPrimitiveType>(values: &dyn Array) -> Result<ArrayRef, ArrowError> {
    let values = values.as_primitive::<T>();
    let zero = T::Native::ZERO;
    let abs = |value: T::Native| {
        if value.is_lt(zero) {
            value.neg_checked()
        } else {
            Ok(value)
        }
    };
    let result: PrimitiveArray<T> = values.try_unary(abs)?;
    Ok(Arc::new(result.with_data_type(values.data_type().clone())))
}
