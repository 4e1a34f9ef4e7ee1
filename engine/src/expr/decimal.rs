//! Sums, differences, products and quotients of decimals.
//!
//! Results are exact and get every digit they can need: 1.25 * 0.5 has three behind the point.
//! Digits decide the width. As long as both operands are of 64 bits and the result has at most 18
//! digits it is computed in 64 bits, else in 128; up to 38 digits nothing can overflow and nothing
//! is looked at. Past that the digits are capped at 38, and the values of each batch are looked at:
//! where their sizes prove that the result fits, the same loop runs, else one that checks each row.
//! What lies under nulls is computed with and never fails.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Float64Array, PrimitiveArray, new_null_array};
use arrow::buffer::{NullBuffer, ScalarBuffer};
use arrow::datatypes::{
    ArrowPrimitiveType, DECIMAL64_MAX_PRECISION, DECIMAL128_MAX_PRECISION, DataType, Decimal32Type,
    Decimal64Type, Decimal128Type, DecimalType, Int8Type, Int16Type, Int32Type, Int64Type,
    UInt8Type, UInt16Type, UInt32Type,
};
use arrow::error::ArrowError;

use super::BinaryOp;
use super::coerce::precision_and_scale;
use super::eval::Value;

/// Bits of a number that certainly has at most 38 digits: 2^126 < 10^38.
const BITS_MAX: u32 = 126;

/// A checked sum, difference or product of two types.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Exactly {
    op: BinaryOp,
    /// Powers of ten that bring the operands to the scale of the result.
    factors: [i128; 2],
    scales: [i8; 2],
    output: DataType,
    /// No value of the operands' types can overflow.
    proved: bool,
}

impl Exactly {
    /// How to compute `left op right`; none if it is not exact, or has too many digits behind the
    /// point.
    pub(super) fn plan(op: BinaryOp, left: &DataType, right: &DataType) -> Option<Exactly> {
        let (left_precision, left_scale) = precision_and_scale(left)?;
        let (right_precision, right_scale) = precision_and_scale(right)?;
        let (left_digits, right_digits) = (i16::from(left_precision), i16::from(right_precision));
        let (left_shift, right_shift) = (i16::from(left_scale), i16::from(right_scale));
        let (precision, scale, factors) = match op {
            BinaryOp::Multiply => (left_digits + right_digits, left_shift + right_shift, [0, 0]),
            BinaryOp::Add | BinaryOp::Subtract => {
                let scale = left_shift.max(right_shift);
                let whole = (left_digits - left_shift).max(right_digits - right_shift);
                let factors = [scale - left_shift, scale - right_shift];
                (whole + scale + 1, scale, factors)
            }
            _ => return None,
        };
        let most = i16::from(DECIMAL128_MAX_PRECISION);
        if !(-most..=most).contains(&scale) || factors.iter().any(|factor| *factor > most) {
            return None;
        }
        let narrow = is_narrow(left) && is_narrow(right);
        let (precision, scale) = (precision.max(scale).max(1), scale as i8);
        let output = if narrow && precision <= i16::from(DECIMAL64_MAX_PRECISION) {
            DataType::Decimal64(precision as u8, scale)
        } else {
            DataType::Decimal128(precision.min(most) as u8, scale)
        };
        Some(Exactly {
            op,
            factors: factors.map(|factor| 10i128.pow(factor.unsigned_abs().into())),
            scales: [left_scale, right_scale],
            output,
            proved: precision <= most,
        })
    }

    pub(super) fn data_type(&self) -> &DataType {
        &self.output
    }

    /// Whether there may be values that this cannot be computed for.
    pub(super) fn can_fail(&self) -> bool {
        !self.proved
    }

    /// The result for every row; of length one for two single values.
    pub(super) fn run(&self, left: &Value, right: &Value) -> Result<ArrayRef, ArrowError> {
        let Some((nulls, rows)) = nulls(left, right) else {
            let rows = rows(left, right);
            return Ok(new_null_array(&self.output, rows));
        };
        let (left, right) = (Operand::new(left)?, Operand::new(right)?);
        if let (DataType::Decimal64(..), Digits::Narrow(a), Digits::Narrow(b)) =
            (&self.output, &left.digits, &right.digits)
        {
            let [a, b] = [(a, self.factors[0]), (b, self.factors[1])]
                .map(|(values, factor)| scaled(values, factor as i64, i64::wrapping_mul));
            let pair = Pair::new(&a, left.constant, &b, right.constant);
            let values = match self.op {
                BinaryOp::Add => pair.map(i64::wrapping_add),
                BinaryOp::Subtract => pair.map(i64::wrapping_sub),
                _ => pair.map(i64::wrapping_mul),
            };
            return Ok(made::<Decimal64Type>(values, nulls, &self.output));
        }
        let values = match (&left.digits, &right.digits) {
            (Digits::Narrow(a), Digits::Narrow(b)) => self.wide(a, b, &left, &right, &nulls)?,
            (Digits::Narrow(a), Digits::Wide(b)) => self.wide(a, b, &left, &right, &nulls)?,
            (Digits::Wide(a), Digits::Narrow(b)) => self.wide(a, b, &left, &right, &nulls)?,
            (Digits::Wide(a), Digits::Wide(b)) => self.wide(a, b, &left, &right, &nulls)?,
        };
        debug_assert_eq!(values.len(), rows);
        Ok(made::<Decimal128Type>(values, nulls, &self.output))
    }

    /// In 128 bits, unchecked where the operands are known to be small enough.
    fn wide<A: Into<i128> + Copy, B: Into<i128> + Copy>(
        &self,
        a: &[A],
        b: &[B],
        left: &Operand,
        right: &Operand,
        nulls: &Option<NullBuffer>,
    ) -> Result<Vec<i128>, ArrowError> {
        if !self.proved && !self.fits(a, b) {
            return self.checked(Pair::new(a, left.constant, b, right.constant), nulls);
        }
        if self.factors == [1, 1] {
            let pair = Pair::new(a, left.constant, b, right.constant);
            return Ok(match self.op {
                BinaryOp::Add => pair.map(|a, b| a.into().wrapping_add(b.into())),
                BinaryOp::Subtract => pair.map(|a, b| a.into().wrapping_sub(b.into())),
                _ => pair.map(|a, b| a.into().wrapping_mul(b.into())),
            });
        }
        let widened = |values: &[A]| values.iter().map(|value| (*value).into()).collect();
        let a: Vec<i128> = widened(a);
        let b: Vec<i128> = b.iter().map(|value| (*value).into()).collect();
        let a = scaled(&a, self.factors[0], i128::wrapping_mul);
        let b = scaled(&b, self.factors[1], i128::wrapping_mul);
        let pair = Pair::new(&a, left.constant, &b, right.constant);
        Ok(match self.op {
            BinaryOp::Subtract => pair.map(i128::wrapping_sub),
            _ => pair.map(i128::wrapping_add),
        })
    }

    /// Whether the largest values of a batch leave no room for an overflow.
    fn fits<A: Into<i128> + Copy, B: Into<i128> + Copy>(&self, a: &[A], b: &[B]) -> bool {
        let bits = match self.op {
            BinaryOp::Multiply => bits(a) + bits(b),
            _ => {
                let a = bits(a) + bits(&[self.factors[0]]);
                a.max(bits(b) + bits(&[self.factors[1]])) + 1
            }
        };
        bits <= BITS_MAX
    }

    /// Row by row, with an error for the first valid one that overflows.
    fn checked<A: Into<i128> + Copy, B: Into<i128> + Copy>(
        &self,
        pair: Pair<'_, A, B>,
        nulls: &Option<NullBuffer>,
    ) -> Result<Vec<i128>, ArrowError> {
        const MOST: i128 = 10i128.pow(DECIMAL128_MAX_PRECISION as u32) - 1;
        let [left_factor, right_factor] = self.factors;
        let values = pair.map(|a, b| {
            let (a, b): (i128, i128) = (a.into(), b.into());
            let (left, right) = (a.checked_mul(left_factor)?, b.checked_mul(right_factor)?);
            let value = match self.op {
                BinaryOp::Add => left.checked_add(right),
                BinaryOp::Subtract => left.checked_sub(right),
                _ => left.checked_mul(right),
            };
            value.filter(|value| (-MOST..=MOST).contains(value))
        });
        let is_valid = |row| nulls.as_ref().is_none_or(|nulls| nulls.is_valid(row));
        for (row, value) in values.iter().enumerate() {
            if value.is_none() && is_valid(row) {
                let (a, b) = pair.at(row);
                let text = |value: i128, scale| {
                    Decimal128Type::format_decimal(value, DECIMAL128_MAX_PRECISION, scale)
                };
                return Err(ArrowError::ArithmeticOverflow(format!(
                    "{} {} {} has more than {DECIMAL128_MAX_PRECISION} digits",
                    text(a.into(), self.scales[0]),
                    self.op,
                    text(b.into(), self.scales[1]),
                )));
            }
        }
        Ok(values.into_iter().map(Option::unwrap_or_default).collect())
    }
}

/// The quotient of two decimal or whole numbers as a float.
///
/// # Errors
/// Division by zero where both are there.
pub(super) fn divide(left: &Value, right: &Value) -> Result<ArrayRef, ArrowError> {
    let Some((nulls, _)) = nulls(left, right) else {
        return Ok(new_null_array(&DataType::Float64, rows(left, right)));
    };
    let (a, b) = (floats(left.array())?, floats(right.array())?);
    let pair = Pair::new(&a, left.is_scalar(), &b, right.is_scalar());
    let is_valid = |row| nulls.as_ref().is_none_or(|nulls| nulls.is_valid(row));
    if b.contains(&0.0) && (0..pair.len()).any(|row| pair.at(row).1 == 0.0 && is_valid(row)) {
        return Err(ArrowError::DivideByZero);
    }
    let values = pair.map(|a, b| a / b);
    Ok(Arc::new(Float64Array::new(values.into(), nulls)))
}

/// The numbers of a decimal or whole column as floats.
fn floats(array: &dyn Array) -> Result<Vec<f64>, ArrowError> {
    let scale = precision_and_scale(array.data_type()).map_or(0, |(_, scale)| scale);
    let unit = 10f64.powi(scale.into());
    Ok(match digits(array)? {
        Digits::Narrow(values) => values.iter().map(|value| *value as f64 / unit).collect(),
        Digits::Wide(values) => values.iter().map(|value| *value as f64 / unit).collect(),
    })
}

/// Whether values of this type are held in 64 bits or less.
fn is_narrow(data_type: &DataType) -> bool {
    data_type.primitive_width().is_some_and(|bytes| bytes <= 8) && data_type != &DataType::UInt64
}

fn rows(left: &Value, right: &Value) -> usize {
    if left.is_scalar() {
        right.array().len()
    } else {
        left.array().len()
    }
}

/// Where the result of two operands is null, and how many rows it has; none if it is null
/// everywhere.
fn nulls(left: &Value, right: &Value) -> Option<(Option<NullBuffer>, usize)> {
    let of = |value: &Value| {
        if value.is_scalar() {
            value.array().is_valid(0).then_some(None)
        } else {
            Some(value.array().nulls().cloned())
        }
    };
    let (a, b) = (of(left)?, of(right)?);
    Some((NullBuffer::union(a.as_ref(), b.as_ref()), rows(left, right)))
}

struct Operand {
    digits: Digits,
    constant: bool,
}

impl Operand {
    fn new(value: &Value) -> Result<Self, ArrowError> {
        Ok(Operand {
            digits: digits(value.array())?,
            constant: value.is_scalar(),
        })
    }
}

/// The unscaled values of a column.
enum Digits {
    Narrow(ScalarBuffer<i64>),
    Wide(ScalarBuffer<i128>),
}

fn digits(array: &dyn Array) -> Result<Digits, ArrowError> {
    fn widened<T: ArrowPrimitiveType<Native: Into<i64>>>(array: &dyn Array) -> Digits {
        let values = array.as_primitive::<T>().values().iter();
        Digits::Narrow(values.map(|value| (*value).into()).collect())
    }
    Ok(match array.data_type() {
        DataType::Int64 => Digits::Narrow(array.as_primitive::<Int64Type>().values().clone()),
        DataType::Decimal64(..) => {
            Digits::Narrow(array.as_primitive::<Decimal64Type>().values().clone())
        }
        DataType::Decimal128(..) => {
            Digits::Wide(array.as_primitive::<Decimal128Type>().values().clone())
        }
        DataType::Decimal32(..) => widened::<Decimal32Type>(array),
        DataType::Int8 => widened::<Int8Type>(array),
        DataType::Int16 => widened::<Int16Type>(array),
        DataType::Int32 => widened::<Int32Type>(array),
        DataType::UInt8 => widened::<UInt8Type>(array),
        DataType::UInt16 => widened::<UInt16Type>(array),
        DataType::UInt32 => widened::<UInt32Type>(array),
        other => {
            return Err(ArrowError::NotYetImplemented(format!(
                "{other} is not a decimal"
            )));
        }
    })
}

/// Bits of the largest of some values, without the sign.
fn bits<T: Into<i128> + Copy>(values: &[T]) -> u32 {
    let seen = values.iter().fold(0, |seen, value| {
        let value: i128 = (*value).into();
        seen | (value ^ (value >> 127))
    });
    i128::BITS - seen.leading_zeros()
}

fn scaled<T: Copy + PartialEq + From<i8>>(
    values: &[T],
    factor: T,
    multiply: impl Fn(T, T) -> T,
) -> std::borrow::Cow<'_, [T]> {
    if factor == T::from(1) {
        return values.into();
    }
    let scaled = values.iter().map(|value| multiply(*value, factor));
    scaled.collect::<Vec<T>>().into()
}

/// Two columns, each of which may be one value for all rows.
#[derive(Clone, Copy)]
struct Pair<'a, A, B> {
    left: &'a [A],
    left_constant: bool,
    right: &'a [B],
    right_constant: bool,
}

impl<'a, A: Copy, B: Copy> Pair<'a, A, B> {
    fn new(left: &'a [A], left_constant: bool, right: &'a [B], right_constant: bool) -> Self {
        Pair {
            left,
            left_constant,
            right,
            right_constant,
        }
    }

    fn len(&self) -> usize {
        if self.left_constant {
            self.right.len()
        } else {
            self.left.len()
        }
    }

    fn at(&self, row: usize) -> (A, B) {
        let left = self.left[if self.left_constant { 0 } else { row }];
        (left, self.right[if self.right_constant { 0 } else { row }])
    }

    /// One plain loop for each shape, so that each can be vectorised.
    fn map<T>(&self, f: impl Fn(A, B) -> T) -> Vec<T> {
        match (self.left_constant, self.right_constant) {
            (false, false) => {
                let pairs = self.left.iter().zip(self.right);
                pairs.map(|(a, b)| f(*a, *b)).collect()
            }
            (true, _) => {
                let a = self.left[0];
                self.right.iter().map(|b| f(a, *b)).collect()
            }
            (false, true) => {
                let b = self.right[0];
                self.left.iter().map(|a| f(*a, b)).collect()
            }
        }
    }
}

fn made<T: ArrowPrimitiveType>(
    values: Vec<T::Native>,
    nulls: Option<NullBuffer>,
    data_type: &DataType,
) -> ArrayRef {
    let array = PrimitiveArray::<T>::new(values.into(), nulls);
    Arc::new(array.with_data_type(data_type.clone()))
}

#[cfg(test)]
mod tests {
    use arrow::array::{Decimal64Array, Decimal128Array};
    use arrow::util::display::array_value_to_string;

    use super::*;

    fn narrow(values: &[Option<i64>], precision: u8, scale: i8) -> Value {
        let array = Decimal64Array::from(values.to_vec());
        let array = array.with_precision_and_scale(precision, scale);
        Value::Array(Arc::new(array.expect("a type")))
    }

    fn wide(values: &[Option<i128>], precision: u8, scale: i8) -> Value {
        let array = Decimal128Array::from(values.to_vec());
        let array = array.with_precision_and_scale(precision, scale);
        Value::Array(Arc::new(array.expect("a type")))
    }

    fn run(op: BinaryOp, left: &Value, right: &Value) -> Result<String, String> {
        let plan = Exactly::plan(op, left.array().data_type(), right.array().data_type())
            .ok_or("no plan")?;
        let array = plan.run(left, right).map_err(|error| error.to_string())?;
        assert_eq!(array.data_type(), plan.data_type());
        let text = (0..array.len())
            .map(|row| array_value_to_string(&array, row).expect("a decimal"))
            .collect::<Vec<_>>()
            .join(" ");
        Ok(format!("{}: {text}", array.data_type()))
    }

    #[test]
    fn results_have_all_their_digits() {
        let a = narrow(&[Some(125), None, Some(-99)], 4, 2);
        let b = narrow(&[Some(5), Some(7), Some(9)], 3, 1);
        let check = |op, expected: &str| assert_eq!(run(op, &a, &b).expect("it fits"), expected);
        check(BinaryOp::Add, "Decimal64(5, 2): 1.75  -0.09");
        check(BinaryOp::Subtract, "Decimal64(5, 2): 0.75  -1.89");
        check(BinaryOp::Multiply, "Decimal64(7, 3): 0.625  -0.891");

        let price = narrow(&[Some(i64::MAX)], 18, 2);
        assert_eq!(
            run(BinaryOp::Multiply, &price, &price).expect("in 128 bits"),
            "Decimal128(36, 4): 8507059173023461584739690778423250.1249"
        );
    }

    #[test]
    fn past_38_digits_each_value_decides() {
        let most = 10i128.pow(38) - 1;
        let small = wide(&[Some(2), None], 38, 2);
        let large = wide(&[Some(most), Some(most)], 38, 2);
        let found = run(BinaryOp::Multiply, &small, &small).expect("small values");
        assert_eq!(found, "Decimal128(38, 4): 0.0004 ");
        // The overflow under the null is none.
        let found = run(BinaryOp::Add, &large, &small).expect_err("one digit more");
        assert_eq!(
            found,
            "Arithmetic overflow: 999999999999999999999999999999999999.99 + 0.02 \
             has more than 38 digits"
        );
        let none = wide(&[Some(0), None], 38, 2);
        run(BinaryOp::Add, &large, &none).expect("no digit more");
        assert_eq!(
            Exactly::plan(
                BinaryOp::Multiply,
                &DataType::Decimal128(38, 20),
                &DataType::Decimal128(38, 20)
            ),
            None
        );
    }

    #[test]
    fn random_values_agree_with_plain_arithmetic() {
        for seed in 0..300 {
            let mut random = fastrand::Rng::with_seed(seed);
            let (left_scale, right_scale) = (random.i8(0..6), random.i8(0..6));
            let values: Vec<(i64, i64)> = (0..random.usize(1..20))
                .map(|_| (random.i64(-100_000..100_000), random.i64(-100_000..100_000)))
                .collect();
            let column = |get: fn(&(i64, i64)) -> i64, scale, is_wide| {
                let values = values.iter().map(get);
                if is_wide {
                    let values: Vec<_> = values.map(|value| Some(value.into())).collect();
                    wide(&values, 30, scale)
                } else {
                    narrow(&values.map(Some).collect::<Vec<_>>(), 8, scale)
                }
            };
            let left = column(|pair| pair.0, left_scale, random.bool());
            let right = column(|pair| pair.1, right_scale, random.bool());
            let scale = left_scale.max(right_scale);
            let unit = |scale: i8| 10i128.pow(scale as u32);
            for op in [BinaryOp::Add, BinaryOp::Subtract, BinaryOp::Multiply] {
                let plan = Exactly::plan(op, left.array().data_type(), right.array().data_type())
                    .expect("a plan");
                let found = plan.run(&left, &right).expect("small values");
                let found: Vec<i128> = match digits(&found).expect("decimals") {
                    Digits::Narrow(found) => found.iter().map(|value| (*value).into()).collect(),
                    Digits::Wide(found) => found.to_vec(),
                };
                for ((a, b), found) in values.iter().zip(found.iter()) {
                    let (a, b) = (i128::from(*a), i128::from(*b));
                    let (up, down) = (unit(scale - left_scale), unit(scale - right_scale));
                    let expected = match op {
                        BinaryOp::Add => a * up + b * down,
                        BinaryOp::Subtract => a * up - b * down,
                        _ => a * b,
                    };
                    assert_eq!(*found, expected, "seed={seed} {a} {op} {b}");
                }
            }
        }
    }
}
