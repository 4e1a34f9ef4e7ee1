//! Which step computes an operator: the type rules of `+ - * / %`, comparisons, AND and OR.

use arrow::array::new_empty_array;
use arrow::datatypes::DataType;

use super::compile::Typed;
use super::decimal::Exactly;
use super::eval::{Node, Step, Value};
use super::exact::Exact;
use super::unify::{beside, bounded};
use super::{BinaryOp, Expr, coerce};
use crate::error::{Error, Result};

/// The step for `left op right`, which is `expr`.
pub(super) fn compile(expr: &Expr, op: BinaryOp, left: Typed, right: Typed) -> Result<Typed> {
    match op {
        BinaryOp::And | BinaryOp::Or => logic(expr, op, left, right),
        BinaryOp::Add
        | BinaryOp::Subtract
        | BinaryOp::Multiply
        | BinaryOp::Divide
        | BinaryOp::Modulo => arithmetic(expr, op, left, right),
        BinaryOp::Equal
        | BinaryOp::NotEqual
        | BinaryOp::Less
        | BinaryOp::LessOrEqual
        | BinaryOp::Greater
        | BinaryOp::GreaterOrEqual => comparison(expr, op, left, right),
    }
}

/// Requires a boolean; an untyped null counts as one.
pub(super) fn boolean(expr: &Expr, operand: Typed) -> Result<Typed> {
    match operand.data_type {
        DataType::Boolean | DataType::Null => operand.cast(&DataType::Boolean, expr),
        other => Err(Error::invalid(format!(
            "{expr}: a boolean is needed found={other}"
        ))),
    }
}

fn sides(left: Typed, right: Typed) -> Box<[Node; 2]> {
    Box::new([left.node, right.node])
}

fn logic(expr: &Expr, op: BinaryOp, left: Typed, right: Typed) -> Result<Typed> {
    let (left, right) = (boolean(expr, left)?, boolean(expr, right)?);
    let nullable = left.nullable || right.nullable;
    let step = Step::Logic(op, sides(left, right));
    Ok(Typed::new(step, expr, DataType::Boolean, nullable))
}

fn arithmetic(expr: &Expr, op: BinaryOp, left: Typed, right: Typed) -> Result<Typed> {
    let mismatch = Error::invalid(format!(
        "{expr}: {op} does not take these types left={} right={}",
        left.data_type, right.data_type
    ));
    let nullable = left.nullable || right.nullable;
    if op == BinaryOp::Subtract
        && [&left, &right].map(|side| &side.data_type) == [&DataType::Date32; 2]
    {
        let step = Step::DaysBetween(sides(left, right));
        return Ok(Typed::new(step, expr, DataType::Int64, nullable));
    }
    let (left, right) = spelled(left, right, expr)?;
    let (left, right) = like_decimal(left, right, expr)?;
    if is_exact(&left, &right) {
        return exactly(expr, op, left, right);
    }
    let Some((left_type, right_type)) = coerce::arithmetic(&left.data_type, &right.data_type)
    else {
        return Err(mismatch);
    };
    // The kernel is the authority on the type of its result: ask it, on no rows.
    let empty = |data_type: &DataType| Value::Array(new_empty_array(data_type));
    let data_type = super::eval::arithmetic(op, &empty(&left_type), &empty(&right_type))
        .map_err(|_| mismatch)?
        .data_type()
        .clone();
    let (left, right) = (left.cast(&left_type, expr)?, right.cast(&right_type, expr)?);
    let step = Step::Arithmetic {
        op,
        can_fail: !data_type.is_floating(),
        sides: sides(left, right),
    };
    Ok(Typed::new(step, expr, data_type, nullable))
}

/// Turns a constant number beside a decimal into the decimal it spells, of as few digits as it
/// has.
fn spelled(left: Typed, right: Typed, expr: &Expr) -> Result<(Typed, Typed)> {
    let exact = |side: &Typed, other: &Typed| {
        let is_decimal = coerce::plain(&other.data_type).is_decimal();
        let known = !side.data_type.is_decimal();
        let number = side.constant().filter(|_| is_decimal && known);
        number.and_then(|value| Exact::of(value))
    };
    if let Some(number) = exact(&left, &right) {
        return Ok((left.exactly(&number.data_type(), expr)?, right));
    }
    if let Some(number) = exact(&right, &left) {
        return Ok((left, right.exactly(&number.data_type(), expr)?));
    }
    Ok((left, right))
}

/// Takes a null of no type beside a decimal for one.
fn like_decimal(left: Typed, right: Typed, expr: &Expr) -> Result<(Typed, Typed)> {
    let (left_type, right_type) = (left.data_type.clone(), right.data_type.clone());
    match (&left_type, &right_type) {
        (DataType::Null, other) if other.is_decimal() => Ok((left.cast(other, expr)?, right)),
        (other, DataType::Null) if other.is_decimal() => Ok((left, right.cast(other, expr)?)),
        _ => Ok((left, right)),
    }
}

/// Whether this is arithmetic of decimals of up to 128 bits, among themselves or with whole
/// numbers.
fn is_exact(left: &Typed, right: &Typed) -> bool {
    let known = |side: &Typed| {
        let data_type = coerce::plain(&side.data_type);
        data_type.is_integer()
            || data_type.is_decimal() && !matches!(data_type, DataType::Decimal256(..))
    };
    let decimal = |side: &Typed| coerce::plain(&side.data_type).is_decimal();
    known(left) && known(right) && (decimal(left) || decimal(right))
}

fn exactly(expr: &Expr, op: BinaryOp, left: Typed, right: Typed) -> Result<Typed> {
    // Whole numbers of 64 bits without a sign have no room among those with one.
    let widened = |side: Typed| match coerce::plain(&side.data_type) {
        DataType::UInt64 => side.cast(&DataType::Decimal128(20, 0), expr),
        other => side.cast(&other, expr),
    };
    let (left, right) = (widened(left)?, widened(right)?);
    let nullable = left.nullable || right.nullable;
    if op == BinaryOp::Divide {
        let step = Step::Quotient(sides(left, right));
        return Ok(Typed::new(step, expr, DataType::Float64, nullable));
    }
    let too_wide = || {
        Error::invalid(format!(
            "{expr}: the result has too many digits left={} right={}",
            left.data_type, right.data_type
        ))
    };
    if op == BinaryOp::Modulo {
        let common = coerce::common(&left.data_type, &right.data_type)
            .map(bounded)
            .ok_or_else(too_wide)?;
        let (left, right) = (left.cast(&common, expr)?, right.cast(&common, expr)?);
        let step = Step::Arithmetic {
            op,
            can_fail: true,
            sides: sides(left, right),
        };
        return Ok(Typed::new(step, expr, common, nullable));
    }
    let plan = Exactly::plan(op, &left.data_type, &right.data_type).ok_or_else(too_wide)?;
    let data_type = plan.data_type().clone();
    let step = Step::Decimal(plan, sides(left, right));
    Ok(Typed::new(step, expr, data_type, nullable))
}

fn comparison(expr: &Expr, op: BinaryOp, left: Typed, right: Typed) -> Result<Typed> {
    // The constant goes to the right.
    if left.constant().is_some() && right.constant().is_none() {
        return comparison(expr, flipped(op), right, left);
    }
    let nullable = left.nullable || right.nullable;
    let plain = coerce::plain(&left.data_type);
    let constant = right.constant().filter(|_| left.constant().is_none());
    let exact = constant.and_then(|value| Exact::of(value));
    if let Some((op, value)) = exact.and_then(|number| number.compared(op, &plain)) {
        let right = Typed::new(Step::Constant(value), expr, plain.clone(), false);
        let step = Step::Compare(op, sides(left.cast(&plain, expr)?, right));
        return Ok(Typed::new(step, expr, DataType::Boolean, nullable));
    }
    // A string beside a date or time is meant as one.
    let common = if plain.is_temporal() && beside(&right, &plain) {
        Some(plain)
    } else {
        coerce::common(&left.data_type, &right.data_type)
    };
    let common = common.filter(coerce::is_ordered).ok_or_else(|| {
        Error::invalid(format!(
            "{expr}: {op} does not compare these types left={} right={}",
            left.data_type, right.data_type
        ))
    })?;
    let (left, right) = (left.exactly(&common, expr)?, right.exactly(&common, expr)?);
    let step = Step::Compare(op, sides(left, right));
    Ok(Typed::new(step, expr, DataType::Boolean, nullable))
}

/// The operator for operands that have changed sides.
fn flipped(op: BinaryOp) -> BinaryOp {
    match op {
        BinaryOp::Less => BinaryOp::Greater,
        BinaryOp::LessOrEqual => BinaryOp::GreaterOrEqual,
        BinaryOp::Greater => BinaryOp::Less,
        BinaryOp::GreaterOrEqual => BinaryOp::LessOrEqual,
        other => other,
    }
}
