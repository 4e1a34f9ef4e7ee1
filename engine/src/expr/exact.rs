//! Constant numbers without rounding: `unscaled` / 10^`scale`.
//!
//! A constant beside a column is brought to the column's type, never the column to the constant's.
//! That is only right if the constant keeps its very value, which is what [`Exact`] is for. A float
//! constant stands for the decimal that its shortest text spells: 0.05 is five hundredths.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, Decimal32Array, Decimal64Array, Decimal128Array, Int8Array,
    Int16Array, Int32Array, Int64Array, UInt8Array, UInt16Array, UInt32Array, UInt64Array,
};
use arrow::datatypes::{
    DECIMAL64_MAX_PRECISION, DECIMAL128_MAX_PRECISION, DataType, Decimal32Type, Decimal64Type,
    Decimal128Type, Float64Type, Int64Type,
};

use super::BinaryOp;

/// A whole or decimal number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Exact {
    pub(super) unscaled: i128,
    pub(super) scale: i8,
}

impl Exact {
    /// The only value of `array`, if it is a number that a decimal can hold. Minus zero, which a
    /// decimal cannot tell from zero, is none.
    pub(super) fn of(array: &dyn Array) -> Option<Exact> {
        if array.len() != 1 || array.is_null(0) {
            return None;
        }
        let (unscaled, scale) = match array.data_type() {
            DataType::Int64 => (array.as_primitive::<Int64Type>().value(0).into(), 0),
            DataType::Decimal32(_, scale) => {
                let value = array.as_primitive::<Decimal32Type>().value(0);
                (value.into(), *scale)
            }
            DataType::Decimal64(_, scale) => {
                let value = array.as_primitive::<Decimal64Type>().value(0);
                (value.into(), *scale)
            }
            DataType::Decimal128(_, scale) => {
                (array.as_primitive::<Decimal128Type>().value(0), *scale)
            }
            DataType::Float64 => {
                return Exact::of_float(array.as_primitive::<Float64Type>().value(0));
            }
            _ => return None,
        };
        Some(Exact { unscaled, scale })
    }

    fn of_float(value: f64) -> Option<Exact> {
        if !value.is_finite() || (value == 0.0 && value.is_sign_negative()) {
            return None;
        }
        Exact::parse(&value.to_string())
    }

    /// The number that `text` spells: a sign, digits, a point, digits.
    pub(super) fn parse(text: &str) -> Option<Exact> {
        let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        let digits = format!("{whole}{fraction}");
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let significant = digits.trim_start_matches('0');
        let precision = significant.len().max(fraction.len());
        if precision > usize::from(DECIMAL128_MAX_PRECISION) {
            return None;
        }
        let unscaled: i128 = if significant.is_empty() {
            0
        } else {
            significant.parse().ok()?
        };
        Some(Exact {
            unscaled: if text.starts_with('-') {
                -unscaled
            } else {
                unscaled
            },
            scale: i8::try_from(fraction.len()).ok()?,
        })
    }

    /// How many digits the number has, those behind the point included.
    pub(super) fn precision(self) -> u8 {
        let digits = self.unscaled.unsigned_abs().checked_ilog10().unwrap_or(0) + 1;
        (digits as u8).max(self.scale.max(1) as u8)
    }

    /// The narrowest decimal type of 64 or 128 bits.
    pub(super) fn data_type(self) -> DataType {
        let (precision, scale) = (self.precision(), self.scale);
        if precision <= DECIMAL64_MAX_PRECISION {
            DataType::Decimal64(precision, scale)
        } else {
            DataType::Decimal128(precision, scale)
        }
    }

    /// The number in units of 10^-`scale`, rounded down, and whether nothing was lost. None
    /// where that is too large for 128 bits.
    fn rescaled(self, scale: i8) -> Option<(i128, bool)> {
        let shift = i32::from(scale) - i32::from(self.scale);
        let factor = 10i128.checked_pow(shift.unsigned_abs())?;
        if shift >= 0 {
            Some((self.unscaled.checked_mul(factor)?, true))
        } else {
            let rest = self.unscaled.rem_euclid(factor);
            Some((self.unscaled.div_euclid(factor), rest == 0))
        }
    }

    /// The number as a constant of a whole or decimal type; none if it does not have that value.
    pub(super) fn constant(self, to: &DataType) -> Option<ArrayRef> {
        let (unscaled, exact) = self.rescaled(scale_of(to)?)?;
        let fits = match to {
            DataType::Decimal32(precision, _)
            | DataType::Decimal64(precision, _)
            | DataType::Decimal128(precision, _) => {
                unscaled.unsigned_abs() < 10u128.pow((*precision).into())
            }
            _ => true,
        };
        if exact && fits {
            native(unscaled, to)
        } else {
            None
        }
    }

    /// How to ask `column op self` of a column of a whole or decimal type, without converting it:
    /// the operator and a constant of that very type. A number between two values of the type
    /// becomes the lower one with the operator adjusted, one outside becomes an end of the range.
    pub(super) fn compared(self, op: BinaryOp, to: &DataType) -> Option<(BinaryOp, ArrayRef)> {
        use BinaryOp::{Equal, Greater, GreaterOrEqual, Less, LessOrEqual, NotEqual};
        let (low, high) = range(to)?;
        let positive = self.unscaled > 0;
        let (value, exact) = match self.rescaled(scale_of(to)?) {
            Some((value, _)) if value > high => (high, false),
            Some((value, _)) if value < low => (low - 1, false),
            Some(found) => found,
            None if positive => (high, false),
            None => (low - 1, false),
        };
        if exact {
            return Some((op, native(value, to)?));
        }
        // The number lies above `value` and below the next one.
        let op = match op {
            Less | LessOrEqual => LessOrEqual,
            Greater | GreaterOrEqual => Greater,
            Equal => return Some((Less, native(low, to)?)),
            NotEqual => return Some((GreaterOrEqual, native(low, to)?)),
            _ => return None,
        };
        if value >= low {
            return Some((op, native(value, to)?));
        }
        let op = if op == LessOrEqual {
            Less
        } else {
            GreaterOrEqual
        };
        Some((op, native(low, to)?))
    }
}

fn scale_of(data_type: &DataType) -> Option<i8> {
    match data_type {
        DataType::Decimal32(_, scale)
        | DataType::Decimal64(_, scale)
        | DataType::Decimal128(_, scale) => Some(*scale),
        other => other.is_integer().then_some(0),
    }
}

/// Smallest and largest value that the memory of a type holds. The smallest of 128 bits is left
/// out, so that there is one below.
fn range(data_type: &DataType) -> Option<(i128, i128)> {
    let (low, high) = match data_type {
        DataType::Int8 => (i8::MIN.into(), i8::MAX.into()),
        DataType::Int16 => (i16::MIN.into(), i16::MAX.into()),
        DataType::Int32 | DataType::Decimal32(..) => (i32::MIN.into(), i32::MAX.into()),
        DataType::Int64 | DataType::Decimal64(..) => (i64::MIN.into(), i64::MAX.into()),
        DataType::UInt8 => (0, u8::MAX.into()),
        DataType::UInt16 => (0, u16::MAX.into()),
        DataType::UInt32 => (0, u32::MAX.into()),
        DataType::UInt64 => (0, u64::MAX.into()),
        DataType::Decimal128(..) => (i128::MIN + 1, i128::MAX),
        _ => return None,
    };
    Some((low, high))
}

/// A constant of a whole or decimal type from its units; none if they are too many.
fn native(value: i128, to: &DataType) -> Option<ArrayRef> {
    fn array<A: From<Vec<T>> + Array + 'static, T: TryFrom<i128>>(value: i128) -> Option<A> {
        Some(A::from(vec![T::try_from(value).ok()?]))
    }
    Some(match to {
        DataType::Int8 => Arc::new(array::<Int8Array, i8>(value)?),
        DataType::Int16 => Arc::new(array::<Int16Array, i16>(value)?),
        DataType::Int32 => Arc::new(array::<Int32Array, i32>(value)?),
        DataType::Int64 => Arc::new(array::<Int64Array, i64>(value)?),
        DataType::UInt8 => Arc::new(array::<UInt8Array, u8>(value)?),
        DataType::UInt16 => Arc::new(array::<UInt16Array, u16>(value)?),
        DataType::UInt32 => Arc::new(array::<UInt32Array, u32>(value)?),
        DataType::UInt64 => Arc::new(array::<UInt64Array, u64>(value)?),
        DataType::Decimal32(..) => {
            Arc::new(array::<Decimal32Array, i32>(value)?.with_data_type(to.clone()))
        }
        DataType::Decimal64(..) => {
            Arc::new(array::<Decimal64Array, i64>(value)?.with_data_type(to.clone()))
        }
        DataType::Decimal128(..) => {
            Arc::new(array::<Decimal128Array, i128>(value)?.with_data_type(to.clone()))
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use BinaryOp::{Equal, Greater, GreaterOrEqual, Less, LessOrEqual, NotEqual};

    fn exact(text: &str) -> Exact {
        Exact::parse(text).expect("a number")
    }

    #[test]
    fn floats_are_what_their_text_says() {
        let check = |value: f64, expected: Option<(i128, i8, u8)>| {
            let found = Exact::of_float(value);
            let found = found.map(|found| (found.unscaled, found.scale, found.precision()));
            assert_eq!(found, expected, "{value}");
        };
        check(0.05, Some((5, 2, 2)));
        check(-12.5, Some((-125, 1, 3)));
        check(100.0, Some((100, 0, 3)));
        check(0.0, Some((0, 0, 1)));
        check(-0.0, None);
        check(1e300, None);
        check(f64::NAN, None);
    }

    #[test]
    fn comparisons_agree_with_the_number_itself() {
        let numbers = [
            "-130", "-128", "-1.5", "-1", "-0.1", "0", "0.1", "1.5", "127", "127.5",
        ];
        let numbers = numbers
            .into_iter()
            .chain(["128", "1000000000000000000000000000000000001"]);
        for number in numbers.map(exact) {
            for op in [Equal, NotEqual, Less, LessOrEqual, Greater, GreaterOrEqual] {
                let (found_op, constant) =
                    number.compared(op, &DataType::Int8).expect("a whole type");
                let constant: i128 = constant
                    .as_primitive::<arrow::datatypes::Int8Type>()
                    .value(0)
                    .into();
                for value in i128::from(i8::MIN)..=i128::from(i8::MAX) {
                    // Both in units of the number.
                    let unit = 10i128.pow(number.scale as u32);
                    let expected = holds(op, value * unit, number.unscaled);
                    let found = holds(found_op, value, constant);
                    assert_eq!(found, expected, "{value} {op} {number:?}");
                }
            }
        }
    }

    fn holds(op: BinaryOp, left: i128, right: i128) -> bool {
        match op {
            Equal => left == right,
            NotEqual => left != right,
            Less => left < right,
            LessOrEqual => left <= right,
            Greater => left > right,
            _ => left >= right,
        }
    }
}
