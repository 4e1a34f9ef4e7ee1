//! Functions of numbers. Roots, logarithms and angles are of floats; rounding and signs are exact
//! for decimals and whole numbers too.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, ArrowPrimitiveType, AsArray, Float64Array, PrimitiveArray, make_array,
};
use arrow::compute::binary;
use arrow::datatypes::{
    ArrowNativeTypeOp, DECIMAL64_MAX_PRECISION, DECIMAL128_MAX_PRECISION, DataType, Decimal32Type,
    Decimal64Type, Decimal128Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type,
    Int64Type,
};
use arrow::error::ArrowError;

use super::{Binding, argument};
use crate::error::Result;
use crate::expr::Function;
use crate::expr::coerce::precision_and_scale;
use crate::expr::compile::Typed;
use crate::expr::eval::Value;

pub(super) fn bind(mut call: Binding<'_>) -> Result<Typed> {
    let function: fn(f64) -> f64 = match call.function {
        Function::Abs => return abs(call),
        Function::Sign => return sign(call),
        Function::Round | Function::Floor | Function::Ceil | Function::Trunc => {
            return rounded(call);
        }
        Function::Power => return pairs(call, f64::powf),
        Function::Atan2 => return pairs(call, f64::atan2),
        Function::Exp => f64::exp,
        Function::Ln => f64::ln,
        Function::Log10 => f64::log10,
        Function::Log2 => f64::log2,
        Function::Sin => f64::sin,
        Function::Cos => f64::cos,
        Function::Tan => f64::tan,
        _ => f64::sqrt,
    };
    call.floats()?;
    Ok(call.total(DataType::Float64, move |values, _| {
        Ok(Arc::new(float_map(argument(values, 0)?, function)))
    }))
}

fn float_map(value: &Value, f: impl Fn(f64) -> f64) -> Float64Array {
    value.array().as_primitive::<Float64Type>().unary(f)
}

fn pairs(mut call: Binding<'_>, f: fn(f64, f64) -> f64) -> Result<Typed> {
    call.floats()?;
    Ok(call.total(DataType::Float64, move |values, rows| {
        let spread = |index| -> Result<ArrayRef> {
            let array = argument(values, index)?;
            match array {
                Value::Array(array) => Ok(Arc::clone(array)),
                Value::Scalar(scalar) => Value::Scalar(scalar.clone()).into_array(rows),
            }
        };
        let (a, b) = (spread(0)?, spread(1)?);
        let (a, b) = (a.as_primitive::<Float64Type>(), b.as_primitive());
        let result: Float64Array = binary::<_, Float64Type, _, _>(a, b, f)?;
        Ok(Arc::new(result))
    }))
}

/// What `abs`, `sign` and rounding take: numbers as they are.
fn number(call: &mut Binding<'_>) -> Result<DataType> {
    let to = match call.data_type(0) {
        DataType::Null => DataType::Int64,
        DataType::Float16 => DataType::Float32,
        found @ DataType::Decimal256(..) => {
            return Err(call.needs("a decimal of at most 38 digits", &found));
        }
        found if found.is_numeric() => found,
        found => return Err(call.needs("a number", &found)),
    };
    call.cast(0, &to)?;
    Ok(to)
}

fn abs(mut call: Binding<'_>) -> Result<Typed> {
    let data_type = number(&mut call)?;
    let kernel = |values: &[Value], _| Ok(abs_of_any(argument(values, 0)?.array())?);
    Ok(if data_type.is_signed_integer() {
        call.partial(data_type, kernel)
    } else {
        call.total(data_type, kernel)
    })
}

fn abs_of_any(values: &dyn Array) -> Result<ArrayRef, ArrowError> {
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
        DataType::Decimal32(..) => abs_of::<Decimal32Type>(values)?,
        DataType::Decimal64(..) => abs_of::<Decimal64Type>(values)?,
        DataType::Decimal128(..) => abs_of::<Decimal128Type>(values)?,
        // What is left has no sign.
        _ => make_array(values.to_data()),
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

fn sign(mut call: Binding<'_>) -> Result<Typed> {
    // The sign of a float is that of the number: zero, of either sign, and NaN have none.
    call.floats()?;
    Ok(call.total(DataType::Int64, |values, _| {
        let values = argument(values, 0)?.array().as_primitive::<Float64Type>();
        let sign = |value: f64| i64::from(value > 0.0) - i64::from(value < 0.0);
        Ok(Arc::new(values.unary::<_, Int64Type>(sign)))
    }))
}

/// `round`, `floor`, `ceil` and `trunc`.
fn rounded(mut call: Binding<'_>) -> Result<Typed> {
    let function = call.function;
    let digits = if call.count() == 2 {
        call.integers([1])?;
        call.constant_integer(1, "number of digits")?
    } else {
        0
    };
    let digits = digits.clamp(-38, 38) as i8;
    match number(&mut call)? {
        data_type if data_type.is_integer() && digits >= 0 => Ok(call
            .total(data_type, |values, _| {
                Ok(make_array(argument(values, 0)?.array().to_data()))
            })),
        DataType::Float32 | DataType::Float64 => {
            call.floats()?;
            Ok(call.total(DataType::Float64, move |values, _| {
                let round = move |value| rounded_float(function, value, digits);
                Ok(Arc::new(float_map(argument(values, 0)?, round)))
            }))
        }
        data_type => rounded_units(call, &data_type, digits),
    }
}

fn rounded_float(function: Function, value: f64, digits: i8) -> f64 {
    match function {
        Function::Floor => value.floor(),
        Function::Ceil => value.ceil(),
        Function::Trunc => value.trunc(),
        _ if digits == 0 => value.round(),
        _ => {
            let unit = 10f64.powi(digits.unsigned_abs().into());
            let rounded = match digits {
                0.. => (value * unit).round() / unit,
                _ => (value / unit).round() * unit,
            };
            // Too large to have digits there.
            if rounded.is_finite() { rounded } else { value }
        }
    }
}

/// Decimals lose the digits behind the point that they no longer need; whole numbers, for which
/// this is called with fewer than no digits, become decimals without any.
fn rounded_units(mut call: Binding<'_>, data_type: &DataType, digits: i8) -> Result<Typed> {
    let function = call.function;
    let Some((precision, scale)) = precision_and_scale(data_type) else {
        return Err(call.needs("a number", data_type));
    };
    let kept = digits.min(scale);
    let out_scale = kept.max(0);
    // One digit more, as 99.9 becomes 100.
    let lost = i16::from(scale) - i16::from(out_scale);
    let precision = i16::from(precision) - lost + i16::from(kept < scale);
    let precision = precision.clamp(out_scale.max(1).into(), DECIMAL128_MAX_PRECISION.into()) as u8;
    let is_narrow = data_type.primitive_width().is_some_and(|bytes| bytes <= 8);
    let to = if is_narrow && precision <= DECIMAL64_MAX_PRECISION {
        DataType::Decimal64(precision, out_scale)
    } else {
        DataType::Decimal128(precision, out_scale)
    };
    let shift = i16::from(scale) - i16::from(kept);
    let Some(unit) = 10i128.checked_pow(shift.unsigned_abs().into()) else {
        return Err(call.needs("fewer digits to round away", data_type));
    };
    let back = 10i128.pow((out_scale - kept).unsigned_abs().into());
    let wide = DataType::Decimal128(DECIMAL128_MAX_PRECISION, scale);
    call.cast(0, &wide)?;
    Ok(call.partial(to.clone(), move |values, _| {
        let values = argument(values, 0)?
            .array()
            .as_primitive::<Decimal128Type>();
        let round = |value: i128| to_unit(function, value, unit).checked_mul(back);
        let overflow = || ArrowError::ArithmeticOverflow("rounding up".to_owned());
        Ok(if let DataType::Decimal64(..) = to {
            let narrow = |value| {
                let rounded = round(value).and_then(|value| i64::try_from(value).ok());
                rounded.ok_or_else(overflow)
            };
            let array = values.try_unary::<_, Decimal64Type, ArrowError>(narrow)?;
            Arc::new(array.with_data_type(to.clone()))
        } else {
            let array = values.try_unary::<_, Decimal128Type, ArrowError>(|value| {
                round(value).ok_or_else(overflow)
            })?;
            Arc::new(array.with_data_type(to.clone()))
        })
    }))
}

/// How many units a value is when it is rounded.
fn to_unit(function: Function, value: i128, unit: i128) -> i128 {
    match function {
        Function::Floor => value.div_euclid(unit),
        Function::Ceil => value.div_euclid(unit) + i128::from(value.rem_euclid(unit) != 0),
        Function::Trunc => value / unit,
        _ => {
            let (whole, rest) = (value / unit, value % unit);
            let up = rest.unsigned_abs() >= unit.unsigned_abs() - rest.unsigned_abs();
            whole + if up && unit > 1 { value.signum() } else { 0 }
        }
    }
}
