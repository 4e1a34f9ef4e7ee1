//! Literals and arrays of length one, in both directions.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryViewArray, BooleanArray, Date32Array, Decimal64Array,
    Decimal128Array, Float64Array, Int64Array, IntervalMonthDayNanoArray, StringViewArray,
    TimestampMicrosecondArray, new_null_array,
};
use arrow::datatypes::{
    DECIMAL64_MAX_PRECISION, DataType, Date32Type, Decimal64Type, Decimal128Type, Float64Type,
    Int64Type, IntervalMonthDayNano, IntervalMonthDayNanoType, IntervalUnit, TimeUnit,
    TimestampMicrosecondType,
};

use super::Literal;
use crate::error::{Error, Result};

/// The constant as an array of length one. Its type is what the literal's name says; decimals of
/// up to 18 digits are `Decimal64`, longer ones `Decimal128`.
pub(super) fn array(literal: &Literal) -> Result<ArrayRef> {
    Ok(match literal {
        Literal::Null => new_null_array(&DataType::Null, 1),
        Literal::Boolean(value) => Arc::new(BooleanArray::from(vec![*value])),
        Literal::Int64(value) => Arc::new(Int64Array::from(vec![*value])),
        Literal::Float64(value) => Arc::new(Float64Array::from(vec![*value])),
        Literal::Utf8(value) => Arc::new(StringViewArray::from(vec![value.as_str()])),
        Literal::Binary(value) => Arc::new(BinaryViewArray::from(vec![value.as_slice()])),
        Literal::Decimal {
            unscaled,
            precision,
            scale,
        } => decimal(*unscaled, *precision, *scale)
            .map_err(|error| error.context(format_args!("bad literal {literal}")))?,
        Literal::Date(days) => Arc::new(Date32Array::from(vec![*days])),
        Literal::Timestamp { micros, zone } => Arc::new(
            TimestampMicrosecondArray::from(vec![*micros]).with_timezone_opt(zone.as_deref()),
        ),
        Literal::Interval {
            months,
            days,
            nanos,
        } => {
            let value = IntervalMonthDayNano::new(*months, *days, *nanos);
            Arc::new(IntervalMonthDayNanoArray::from(vec![value]))
        }
    })
}

fn decimal(unscaled: i128, precision: u8, scale: i8) -> Result<ArrayRef> {
    if precision <= DECIMAL64_MAX_PRECISION {
        let narrow = i64::try_from(unscaled).map_err(|_| Error::invalid("too many digits"))?;
        let array = Decimal64Array::from(vec![narrow]);
        let array = array
            .with_precision_and_scale(precision, scale)
            .map_err(|error| Error::invalid(error.to_string()))?;
        array.validate_decimal_precision(precision)?;
        return Ok(Arc::new(array));
    }
    let array = Decimal128Array::from(vec![unscaled]);
    let array = array
        .with_precision_and_scale(precision, scale)
        .map_err(|error| Error::invalid(error.to_string()))?;
    array.validate_decimal_precision(precision)?;
    Ok(Arc::new(array))
}

/// The literal that [`array()`] turns into this very array; none if there is none.
pub(super) fn of(array: &dyn Array) -> Option<Literal> {
    if array.len() != 1 {
        return None;
    }
    if array.data_type() == &DataType::Null {
        return Some(Literal::Null);
    }
    if array.is_null(0) {
        return None;
    }
    Some(match array.data_type() {
        DataType::Boolean => Literal::Boolean(array.as_boolean().value(0)),
        DataType::Int64 => Literal::Int64(array.as_primitive::<Int64Type>().value(0)),
        DataType::Float64 => Literal::Float64(array.as_primitive::<Float64Type>().value(0)),
        DataType::Utf8View => Literal::Utf8(array.as_string_view().value(0).to_owned()),
        DataType::BinaryView => Literal::Binary(array.as_binary_view().value(0).to_owned()),
        DataType::Decimal64(precision, scale) => Literal::Decimal {
            unscaled: array.as_primitive::<Decimal64Type>().value(0).into(),
            precision: *precision,
            scale: *scale,
        },
        DataType::Decimal128(precision, scale) if *precision > DECIMAL64_MAX_PRECISION => {
            Literal::Decimal {
                unscaled: array.as_primitive::<Decimal128Type>().value(0),
                precision: *precision,
                scale: *scale,
            }
        }
        DataType::Date32 => Literal::Date(array.as_primitive::<Date32Type>().value(0)),
        DataType::Timestamp(TimeUnit::Microsecond, zone) => Literal::Timestamp {
            micros: array.as_primitive::<TimestampMicrosecondType>().value(0),
            zone: zone.as_deref().map(str::to_owned),
        },
        DataType::Interval(IntervalUnit::MonthDayNano) => {
            let value = array.as_primitive::<IntervalMonthDayNanoType>().value(0);
            Literal::Interval {
                months: value.months,
                days: value.days,
                nanos: value.nanoseconds,
            }
        }
        _ => return None,
    })
}
