//! Which type two operands are brought to before a kernel sees them.
//!
//! Numbers widen and never narrow: whole numbers to the wider of the two, anything with a float
//! to a float. Every kind of string is `Utf8View`. What is not listed here does not mix, and the
//! type check says so instead of guessing.

use arrow::datatypes::{
    DECIMAL32_MAX_PRECISION, DECIMAL64_MAX_PRECISION, DECIMAL128_MAX_PRECISION,
    DECIMAL256_MAX_PRECISION, DataType, TimeUnit,
};

/// The type by which the engine carries values of `data_type`: strings as views, dictionaries as
/// what they stand for.
pub(super) fn plain(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Utf8 | DataType::LargeUtf8 => DataType::Utf8View,
        DataType::Binary | DataType::LargeBinary => DataType::BinaryView,
        DataType::Dictionary(_, value) => plain(value),
        other => other.clone(),
    }
}

/// The types to which the operands of `+ - * / %` are brought; none if they do not mix.
pub(super) fn arithmetic(left: &DataType, right: &DataType) -> Option<(DataType, DataType)> {
    let both = |data_type: DataType| Some((data_type.clone(), data_type));
    let (left, right) = match (plain(left), plain(right)) {
        (DataType::Null, DataType::Null) => return both(DataType::Int64),
        (DataType::Null, other) | (other, DataType::Null) => (other.clone(), other),
        pair => pair,
    };
    if left.is_decimal() || right.is_decimal() {
        if left.is_floating() || right.is_floating() {
            return both(DataType::Float64);
        }
        // Arrow's kernels take any precision and scale of one width, and know the result's.
        return Some((widest_decimal(&left)?, widest_decimal(&right)?));
    }
    if left.is_numeric() && right.is_numeric() {
        return both(number(&left, &right)?);
    }
    temporal_arithmetic(left, right)
}

/// Dates, times and durations go to the kernels as they are, where those know the combination.
fn temporal_arithmetic(left: DataType, right: DataType) -> Option<(DataType, DataType)> {
    use DataType::{Date32, Date64, Duration, Interval, Timestamp};
    let known = matches!(
        (&left, &right),
        (Date32, Date32 | Interval(_) | Duration(_))
            | (Date64, Date64 | Interval(_) | Duration(_))
            | (Timestamp(..), Timestamp(..) | Interval(_) | Duration(_))
            | (Duration(_), Duration(_))
            | (Interval(_), Interval(_))
    );
    known.then_some((left, right))
}

/// The type in which two values are compared, or of which a common column is; none if they do not
/// mix.
pub(super) fn common(left: &DataType, right: &DataType) -> Option<DataType> {
    use DataType::{Date32, Timestamp};
    let (left, right) = (plain(left), plain(right));
    if left == right {
        return Some(left);
    }
    match (&left, &right) {
        (DataType::Null, other) | (other, DataType::Null) => Some(other.clone()),
        _ if left.is_decimal() || right.is_decimal() => {
            if left.is_floating() || right.is_floating() {
                return Some(DataType::Float64);
            }
            common_decimal(&left, &right)
        }
        _ if left.is_numeric() && right.is_numeric() => number(&left, &right),
        (Date32, Timestamp(unit, zone)) | (Timestamp(unit, zone), Date32) => {
            Some(Timestamp(*unit, zone.clone()))
        }
        (Timestamp(a, zone), Timestamp(b, other)) if zone.is_some() == other.is_some() => {
            Some(Timestamp(finer(*a, *b), zone.clone()))
        }
        _ => None,
    }
}

/// Whether `to` is the type in which it meets `from`, and has every value of it.
pub(super) fn widens(from: &DataType, to: &DataType) -> bool {
    use DataType::{Date32, Null, Timestamp};
    let whole = |(precision, scale): (u8, i8)| i16::from(precision) - i16::from(scale);
    let has_all = match (plain(from), to) {
        (Null, _) => true,
        // The finer the unit the fewer years there are.
        (Timestamp(unit, _), Timestamp(to, _)) => unit == *to,
        (Date32, Timestamp(unit, zone)) => {
            matches!(unit, TimeUnit::Second | TimeUnit::Millisecond) && zone.is_none()
        }
        (from, to) if to.is_decimal() => {
            match (precision_and_scale(&from), precision_and_scale(to)) {
                (Some(from), Some(to)) => whole(from) <= whole(to),
                _ => false,
            }
        }
        _ => true,
    };
    has_all && common(from, to).as_ref() == Some(to)
}

/// Whether values of this type are in an order.
pub(super) fn is_ordered(data_type: &DataType) -> bool {
    let data_type = plain(data_type);
    data_type.is_numeric()
        || data_type.is_temporal() && !matches!(data_type, DataType::Interval(_))
        || matches!(
            data_type,
            DataType::Null | DataType::Boolean | DataType::Utf8View | DataType::BinaryView
        )
}

fn finer(a: TimeUnit, b: TimeUnit) -> TimeUnit {
    let rank = |unit| match unit {
        TimeUnit::Second => 0,
        TimeUnit::Millisecond => 1,
        TimeUnit::Microsecond => 2,
        TimeUnit::Nanosecond => 3,
    };
    if rank(a) >= rank(b) { a } else { b }
}

/// The wider of two number types; a signed and an unsigned one meet in the next wider signed one.
/// `u64` with a signed type meets in a decimal, which holds both exactly.
fn number(left: &DataType, right: &DataType) -> Option<DataType> {
    use DataType::{Decimal128, Float16, Float32, Float64};
    if left == right {
        return Some(left.clone());
    }
    if left.is_floating() || right.is_floating() {
        let narrow = |data_type: &DataType| matches!(data_type, Float16 | Float32);
        return Some(if narrow(left) && narrow(right) {
            Float32
        } else {
            Float64
        });
    }
    let (signed_left, signed_right) = (left.is_signed_integer(), right.is_signed_integer());
    let (bits_left, bits_right) = (bits(left)?, bits(right)?);
    if signed_left == signed_right {
        return Some(if bits_left >= bits_right {
            left.clone()
        } else {
            right.clone()
        });
    }
    let (signed, unsigned) = if signed_left {
        (bits_left, bits_right)
    } else {
        (bits_right, bits_left)
    };
    match signed.max(unsigned * 2) {
        16 => Some(DataType::Int16),
        32 => Some(DataType::Int32),
        64 => Some(DataType::Int64),
        _ => Some(Decimal128(20, 0)),
    }
}

fn bits(data_type: &DataType) -> Option<usize> {
    data_type.primitive_width().map(|bytes| bytes * 8)
}

/// Precision and scale of a decimal that holds every value of a whole or decimal type.
pub(super) fn precision_and_scale(data_type: &DataType) -> Option<(u8, i8)> {
    match data_type {
        DataType::Decimal32(precision, scale)
        | DataType::Decimal64(precision, scale)
        | DataType::Decimal128(precision, scale)
        | DataType::Decimal256(precision, scale) => Some((*precision, *scale)),
        DataType::Int8 | DataType::UInt8 => Some((3, 0)),
        DataType::Int16 | DataType::UInt16 => Some((5, 0)),
        DataType::Int32 | DataType::UInt32 => Some((10, 0)),
        DataType::Int64 => Some((19, 0)),
        DataType::UInt64 => Some((20, 0)),
        _ => None,
    }
}

fn widest_decimal(data_type: &DataType) -> Option<DataType> {
    let (precision, scale) = precision_and_scale(data_type)?;
    Some(DataType::Decimal256(precision, scale))
}

/// As narrow as the digits allow, but no narrower than either of the two.
fn common_decimal(left: &DataType, right: &DataType) -> Option<DataType> {
    let ((left_precision, left_scale), (right_precision, right_scale)) =
        (precision_and_scale(left)?, precision_and_scale(right)?);
    let scale = left_scale.max(right_scale);
    let whole = |precision: u8, scale: i8| i16::from(precision) - i16::from(scale);
    let digits = whole(left_precision, left_scale).max(whole(right_precision, right_scale));
    let precision = u8::try_from(digits + i16::from(scale)).ok()?;
    let bytes = |data_type: &DataType| match data_type.is_decimal() {
        true => data_type.primitive_width().unwrap_or_default(),
        false => 0,
    };
    let bytes = bytes(left).max(bytes(right));
    Some(if precision <= DECIMAL32_MAX_PRECISION && bytes <= 4 {
        DataType::Decimal32(precision, scale)
    } else if precision <= DECIMAL64_MAX_PRECISION && bytes <= 8 {
        DataType::Decimal64(precision, scale)
    } else if precision <= DECIMAL128_MAX_PRECISION && bytes <= 16 {
        DataType::Decimal128(precision, scale)
    } else {
        DataType::Decimal256(precision.min(DECIMAL256_MAX_PRECISION), scale)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_widen_and_strings_unify() {
        use DataType::{Date32, Decimal32, Decimal64, Decimal128, Float32, Float64};
        use DataType::{Int8, Int32, Int64, LargeUtf8};
        use DataType::{Null, UInt8, UInt32, UInt64, Utf8, Utf8View};
        let cases = [
            (Int32, Int64, Some(Int64)),
            (UInt8, Int8, Some(DataType::Int16)),
            (UInt32, Int8, Some(Int64)),
            (UInt64, Int8, Some(Decimal128(20, 0))),
            (Int64, Float32, Some(Float64)),
            (Float32, Float32, Some(Float32)),
            (Utf8, LargeUtf8, Some(Utf8View)),
            (Utf8View, Int64, None),
            (Null, Date32, Some(Date32)),
            (Decimal128(15, 2), Int64, Some(Decimal128(21, 2))),
            (Decimal128(15, 2), Float32, Some(Float64)),
            (Decimal64(15, 2), Decimal64(12, 4), Some(Decimal64(17, 4))),
            (Decimal32(9, 2), Decimal64(12, 2), Some(Decimal64(12, 2))),
            (Decimal32(9, 2), Int32, Some(Decimal64(12, 2))),
            (Decimal64(15, 2), Int64, Some(Decimal128(21, 2))),
        ];
        for (left, right, expected) in cases {
            assert_eq!(common(&left, &right), expected, "{left} with {right}");
            assert_eq!(common(&right, &left), expected, "{right} with {left}");
        }
    }

    #[test]
    fn a_wider_type_has_every_value() {
        use DataType::{Date32, Decimal128, Decimal256, Int64, Null, Timestamp, Utf8, Utf8View};
        use TimeUnit::{Microsecond, Millisecond, Nanosecond};
        let berlin = || Some("Europe/Berlin".into());
        for (from, to, expected) in [
            (Utf8, Utf8View, true),
            (Int64, Decimal128(21, 2), true),
            (Int64, Decimal128(20, 2), false),
            (Decimal128(38, 0), Decimal256(48, 10), true),
            (Decimal128(38, 0), Decimal128(38, 10), false),
            (Decimal256(76, 0), Decimal256(76, 10), false),
            (Date32, Timestamp(Millisecond, None), true),
            (Date32, Timestamp(Millisecond, berlin()), false),
            (Date32, Timestamp(Microsecond, None), false),
            (Null, Timestamp(Nanosecond, None), true),
            (
                Timestamp(Millisecond, None),
                Timestamp(Microsecond, None),
                false,
            ),
            (
                Timestamp(Microsecond, None),
                Timestamp(Millisecond, None),
                false,
            ),
        ] {
            assert_eq!(widens(&from, &to), expected, "{from} to {to}");
        }
    }
}
