//! Columns of fixed width as numbers of 64 bits, whatever their type.
//!
//! Joins and key filters look at whole numbers, dates, times and small decimals all the same way:
//! as an `i64`, which is a borrow where the type has 64 bits. Equal values have equal numbers and
//! different ones different numbers; for all types but floats the numbers are in the order of the
//! values.

use std::borrow::Cow;

use arrow::array::types::{
    ArrowPrimitiveType, Date32Type, Date64Type, Decimal32Type, Decimal64Type, Decimal128Type,
    DurationMicrosecondType, DurationMillisecondType, DurationNanosecondType, DurationSecondType,
    Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, Time32MillisecondType,
    Time32SecondType, Time64MicrosecondType, Time64NanosecondType, TimestampMicrosecondType,
    TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType, UInt8Type, UInt16Type,
    UInt32Type, UInt64Type,
};
use arrow::array::{Array, ArrayRef, AsArray, PrimitiveArray};
use arrow::datatypes::{DataType, TimeUnit};

use crate::error::{Error, Result};

/// Decimals of at most so many digits fit into 64 bits.
const DIGITS_MAX: u8 = 18;

/// The least and the greatest of some numbers; none of none.
pub(crate) type Range = Option<(i64, i64)>;

/// Whether values of this type are numbers of 64 bits, as [`numbers`] gives them.
pub(crate) fn is_number(data_type: &DataType) -> bool {
    match data_type {
        DataType::Decimal128(digits, _) => *digits <= DIGITS_MAX,
        DataType::Null | DataType::Boolean => true,
        DataType::Float16 | DataType::Interval(_) => false,
        other => other.primitive_width().is_some_and(|width| width <= 8),
    }
}

/// The values of a column as numbers, in their order but for floats; what stands for a null is
/// not said.
///
/// # Errors
/// `Internal` for other types than [`is_number`] names.
pub(crate) fn numbers(array: &ArrayRef) -> Result<Cow<'_, [i64]>> {
    fn narrow<T: ArrowPrimitiveType>(
        array: &ArrayRef,
        number: impl Fn(T::Native) -> i64,
    ) -> Cow<'_, [i64]> {
        let values = array.as_primitive::<T>().values();
        Cow::Owned(values.iter().map(|value| number(*value)).collect())
    }
    Ok(match array.data_type() {
        DataType::Null => Cow::Owned(vec![0; array.len()]),
        DataType::Boolean => {
            let values = array.as_boolean().values();
            Cow::Owned(values.iter().map(i64::from).collect())
        }
        DataType::Int8 => narrow::<Int8Type>(array, i64::from),
        DataType::Int16 => narrow::<Int16Type>(array, i64::from),
        DataType::Int32 => narrow::<Int32Type>(array, i64::from),
        DataType::UInt8 => narrow::<UInt8Type>(array, i64::from),
        DataType::UInt16 => narrow::<UInt16Type>(array, i64::from),
        DataType::UInt32 => narrow::<UInt32Type>(array, i64::from),
        DataType::UInt64 => narrow::<UInt64Type>(array, |value| value as i64 ^ i64::MIN),
        DataType::Date32 => narrow::<Date32Type>(array, i64::from),
        DataType::Time32(TimeUnit::Second) => narrow::<Time32SecondType>(array, i64::from),
        DataType::Time32(_) => narrow::<Time32MillisecondType>(array, i64::from),
        DataType::Decimal32(..) => narrow::<Decimal32Type>(array, i64::from),
        DataType::Decimal128(..) => narrow::<Decimal128Type>(array, |value| value as i64),
        DataType::Float32 => narrow::<Float32Type>(array, |value| i64::from(value.to_bits())),
        DataType::Float64 => narrow::<Float64Type>(array, |value| value.to_bits() as i64),
        other => match wide_numbers(array) {
            Some(numbers) => Cow::Borrowed(numbers),
            None => {
                return Err(Error::internal(format!(
                    "values of this type are not numbers of 64 bits type={other}"
                )));
            }
        },
    })
}

/// The values of a column whose type is 64 bits wide.
fn wide_numbers(array: &ArrayRef) -> Option<&[i64]> {
    use TimeUnit::{Microsecond, Millisecond, Nanosecond, Second};
    fn values<T: ArrowPrimitiveType>(array: &ArrayRef) -> Option<&PrimitiveArray<T>> {
        array.as_primitive_opt::<T>()
    }
    Some(match array.data_type() {
        DataType::Int64 => values::<Int64Type>(array)?.values(),
        DataType::Date64 => values::<Date64Type>(array)?.values(),
        DataType::Decimal64(..) => values::<Decimal64Type>(array)?.values(),
        DataType::Time64(Microsecond) => values::<Time64MicrosecondType>(array)?.values(),
        DataType::Time64(_) => values::<Time64NanosecondType>(array)?.values(),
        DataType::Timestamp(Second, _) => values::<TimestampSecondType>(array)?.values(),
        DataType::Timestamp(Millisecond, _) => values::<TimestampMillisecondType>(array)?.values(),
        DataType::Timestamp(Microsecond, _) => values::<TimestampMicrosecondType>(array)?.values(),
        DataType::Timestamp(Nanosecond, _) => values::<TimestampNanosecondType>(array)?.values(),
        DataType::Duration(Second) => values::<DurationSecondType>(array)?.values(),
        DataType::Duration(Millisecond) => values::<DurationMillisecondType>(array)?.values(),
        DataType::Duration(Microsecond) => values::<DurationMicrosecondType>(array)?.values(),
        DataType::Duration(Nanosecond) => values::<DurationNanosecondType>(array)?.values(),
        _ => return None,
    })
}

/// The least and the greatest number of a column; none where all are null.
pub(crate) fn range(array: &ArrayRef) -> Result<Range> {
    let numbers = numbers(array)?;
    let wider =
        |(least, greatest): (i64, i64), number: i64| (least.min(number), greatest.max(number));
    let start = (i64::MAX, i64::MIN);
    let range = match array.logical_nulls().filter(|nulls| nulls.null_count() > 0) {
        None => numbers.iter().copied().fold(start, wider),
        Some(nulls) => nulls
            .valid_indices()
            .map(|row| numbers[row])
            .fold(start, wider),
    };
    Ok((range.0 <= range.1).then_some(range))
}
