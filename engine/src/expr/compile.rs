//! From an expression and a schema to steps that run on batches.
//!
//! Compiling is also the type check: there is one recursion that decides types, so what was
//! checked and what runs cannot differ. Everything that does not depend on rows happens here,
//! once: columns become indices, conversions are inserted, constants become arrays of length
//! one, patterns become automata.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BinaryViewArray, BooleanArray, Date32Array, Decimal128Array, Float64Array,
    Int64Array, IntervalMonthDayNanoArray, StringViewArray, TimestampMicrosecondArray,
    new_empty_array, new_null_array,
};
use arrow::compute::{can_cast_types, cast_with_options};
use arrow::datatypes::{DataType, Field, IntervalMonthDayNano, Schema};

use super::eval::{Node, STRICT, Step, Value};
use super::function;
use super::typing::unknown_column;
use super::{BinaryOp, Expr, Literal, coerce, text};
use crate::error::{Error, Result};
use crate::limits;

/// An expression that is checked against a schema and ready to run.
pub struct Compiled {
    pub(super) node: Node,
    field: Field,
}

impl Compiled {
    /// Name, type and nullability of the result.
    pub fn field(&self) -> &Field {
        &self.field
    }
}

impl std::fmt::Debug for Compiled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Compiled({})", self.field)
    }
}

/// Checks `expr` against `schema` and makes it ready to run on batches of that schema.
///
/// # Errors
/// `Invalid`: an unknown column, types that do not fit, a bad pattern or too much nesting.
pub fn compile(expr: &Expr, schema: &Schema) -> Result<Compiled> {
    if !nests_at_most(expr, limits::EXPR_DEPTH_MAX) {
        return Err(Error::invalid(format!(
            "expression is nested too deep limit={}",
            limits::EXPR_DEPTH_MAX
        )));
    }
    let typed = Compiler { schema }.expr(expr)?;
    let field = Field::new(text::output_name(expr), typed.data_type, typed.nullable);
    Ok(Compiled {
        node: typed.node,
        field,
    })
}

/// Looks no deeper than `levels`, so that a hostile tree cannot exhaust the stack here either.
fn nests_at_most(expr: &Expr, levels: usize) -> bool {
    let Some(levels) = levels.checked_sub(1) else {
        return false;
    };
    match expr {
        Expr::Column(_) | Expr::Literal(_) => true,
        Expr::Binary { left, right, .. } => {
            nests_at_most(left, levels) && nests_at_most(right, levels)
        }
        Expr::Not(inner) | Expr::Negate(inner) | Expr::IsNull(inner) => {
            nests_at_most(inner, levels)
        }
        Expr::Cast { expr, .. } | Expr::Alias { expr, .. } => nests_at_most(expr, levels),
        Expr::Case {
            branches,
            otherwise,
        } => {
            let pairs = branches.iter();
            let mut parts = pairs.flat_map(|(condition, value)| [condition, value]);
            parts.all(|part| nests_at_most(part, levels))
                && otherwise
                    .iter()
                    .all(|otherwise| nests_at_most(otherwise, levels))
        }
        Expr::InList { expr, list } => {
            nests_at_most(expr, levels) && list.iter().all(|item| nests_at_most(item, levels))
        }
        Expr::Function { args, .. } => args.iter().all(|arg| nests_at_most(arg, levels)),
    }
}

/// A step with the type of what it makes.
pub(super) struct Typed {
    pub(super) node: Node,
    pub(super) data_type: DataType,
    pub(super) nullable: bool,
}

impl Typed {
    pub(super) fn new(step: Step, text: &Expr, data_type: DataType, nullable: bool) -> Self {
        Typed {
            node: Node {
                step,
                text: text.to_string().into(),
            },
            data_type,
            nullable,
        }
    }

    /// The constant of this step, if it is one.
    pub(super) fn constant(&self) -> Option<&ArrayRef> {
        match &self.node.step {
            Step::Constant(value) => Some(value),
            _ => None,
        }
    }

    /// Inserts a conversion, unless the type is right already. Constants are converted now.
    pub(super) fn cast(self, to: &DataType, text: &Expr) -> Result<Self> {
        if self.data_type == *to {
            return Ok(self);
        }
        if !can_cast_types(&self.data_type, to) {
            return Err(Error::invalid(format!(
                "{text}: no conversion between these types from={} to={to}",
                self.data_type
            )));
        }
        let nullable = self.nullable;
        let step = match self.constant() {
            Some(value) => Step::Constant(
                cast_with_options(value, to, &STRICT)
                    .map_err(|error| Error::from(error).context(text))?,
            ),
            None => Step::Cast {
                widens: coerce::common(&self.data_type, to).as_ref() == Some(to),
                inner: Box::new(self.node),
                to: to.clone(),
            },
        };
        Ok(Typed::new(step, text, to.clone(), nullable))
    }
}

struct Compiler<'a> {
    schema: &'a Schema,
}

impl Compiler<'_> {
    fn expr(&self, expr: &Expr) -> Result<Typed> {
        match expr {
            Expr::Column(name) => self.column(name, expr),
            Expr::Literal(literal) => {
                let (value, nullable) = (constant(literal)?, *literal == Literal::Null);
                let data_type = value.data_type().clone();
                Ok(Typed::new(Step::Constant(value), expr, data_type, nullable))
            }
            Expr::Binary { left, op, right } => {
                let (left, right) = (self.expr(left)?, self.expr(right)?);
                match op {
                    BinaryOp::And | BinaryOp::Or => logic(expr, *op, left, right),
                    BinaryOp::Add
                    | BinaryOp::Subtract
                    | BinaryOp::Multiply
                    | BinaryOp::Divide
                    | BinaryOp::Modulo => arithmetic(expr, *op, left, right),
                    BinaryOp::Equal
                    | BinaryOp::NotEqual
                    | BinaryOp::Less
                    | BinaryOp::LessOrEqual
                    | BinaryOp::Greater
                    | BinaryOp::GreaterOrEqual => comparison(expr, *op, left, right),
                }
            }
            Expr::Not(inner) => {
                let inner = boolean(expr, self.expr(inner)?)?;
                let nullable = inner.nullable;
                Ok(Typed::new(
                    Step::Not(inner.node.into()),
                    expr,
                    DataType::Boolean,
                    nullable,
                ))
            }
            Expr::Negate(inner) => negate(expr, self.expr(inner)?),
            Expr::IsNull(inner) => {
                let inner = self.expr(inner)?;
                Ok(Typed::new(
                    Step::IsNull(inner.node.into()),
                    expr,
                    DataType::Boolean,
                    false,
                ))
            }
            Expr::Cast {
                expr: inner,
                to,
                lenient: false,
            } => self.expr(inner)?.cast(to, expr),
            Expr::Cast { lenient: true, .. } | Expr::Case { .. } | Expr::InList { .. } => {
                Err(Error::internal(format!("{expr}: not compiled yet")))
            }
            Expr::Alias { expr: inner, .. } => self.expr(inner),
            Expr::Function { function, args } => {
                let args = args
                    .iter()
                    .map(|arg| self.expr(arg))
                    .collect::<Result<Vec<_>>>()?;
                function::compile(expr, *function, args)
            }
        }
    }

    fn column(&self, name: &str, expr: &Expr) -> Result<Typed> {
        let Ok(index) = self.schema.index_of(name) else {
            return Err(unknown_column(name, self.schema));
        };
        let field = self.schema.field(index);
        let typed = Typed::new(
            Step::Column(index),
            expr,
            field.data_type().clone(),
            field.is_nullable(),
        );
        Ok(typed)
    }
}

fn constant(literal: &Literal) -> Result<ArrayRef> {
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
        } => Arc::new(
            Decimal128Array::from(vec![*unscaled]).with_precision_and_scale(*precision, *scale)?,
        ),
        Literal::Date(days) => Arc::new(Date32Array::from(vec![*days])),
        Literal::Timestamp { micros, zone } => Arc::new(
            TimestampMicrosecondArray::from(vec![*micros]).with_timezone_opt(zone.as_deref()),
        ),
        Literal::Interval {
            months,
            days,
            nanos,
        } => Arc::new(IntervalMonthDayNanoArray::from(vec![
            IntervalMonthDayNano::new(*months, *days, *nanos),
        ])),
    })
}

/// Requires a boolean; an untyped null counts as one.
fn boolean(expr: &Expr, operand: Typed) -> Result<Typed> {
    match operand.data_type {
        DataType::Boolean | DataType::Null => operand.cast(&DataType::Boolean, expr),
        other => Err(Error::invalid(format!(
            "{expr}: a boolean is needed found={other}"
        ))),
    }
}

fn logic(expr: &Expr, op: BinaryOp, left: Typed, right: Typed) -> Result<Typed> {
    let (left, right) = (boolean(expr, left)?, boolean(expr, right)?);
    let nullable = left.nullable || right.nullable;
    let step = Step::Logic(op, left.node.into(), right.node.into());
    Ok(Typed::new(step, expr, DataType::Boolean, nullable))
}

fn arithmetic(expr: &Expr, op: BinaryOp, left: Typed, right: Typed) -> Result<Typed> {
    let mismatch = |left: &DataType, right: &DataType| {
        Error::invalid(format!(
            "{expr}: {op} does not take these types left={left} right={right}"
        ))
    };
    let (left_type, right_type) = coerce::arithmetic(&left.data_type, &right.data_type)
        .ok_or_else(|| mismatch(&left.data_type, &right.data_type))?;
    // The kernel is the authority on the type of its result: ask it, on no rows.
    let empty = |data_type: &DataType| Value::Array(new_empty_array(data_type));
    let data_type = super::eval::arithmetic(op, &empty(&left_type), &empty(&right_type))
        .map_err(|_| mismatch(&left.data_type, &right.data_type))?
        .data_type()
        .clone();
    let nullable = left.nullable || right.nullable;
    let (left, right) = (left.cast(&left_type, expr)?, right.cast(&right_type, expr)?);
    let step = Step::Arithmetic(op, left.node.into(), right.node.into());
    Ok(Typed::new(step, expr, data_type, nullable))
}

fn comparison(expr: &Expr, op: BinaryOp, left: Typed, right: Typed) -> Result<Typed> {
    let common = constant_fits(&left, &right)
        .or_else(|| constant_fits(&right, &left))
        .or_else(|| coerce::common(&left.data_type, &right.data_type))
        .filter(coerce::is_ordered)
        .ok_or_else(|| {
            Error::invalid(format!(
                "{expr}: {op} does not compare these types left={} right={}",
                left.data_type, right.data_type
            ))
        })?;
    let nullable = left.nullable || right.nullable;
    let (left, right) = (left.cast(&common, expr)?, right.cast(&common, expr)?);
    let step = Step::Compare(op, left.node.into(), right.node.into());
    Ok(Typed::new(step, expr, DataType::Boolean, nullable))
}

/// The type of `other`, where the constant has that very value in it: then the one constant is
/// converted and not every row. A string beside a date or time is meant as one.
fn constant_fits(constant: &Typed, other: &Typed) -> Option<DataType> {
    let (value, to) = (constant.constant()?, coerce::plain(&other.data_type));
    let whole = value.data_type() == &DataType::Int64 && (to.is_integer() || to.is_decimal());
    let moment = value.data_type() == &DataType::Utf8View
        && matches!(
            to,
            DataType::Date32 | DataType::Date64 | DataType::Timestamp(..)
        );
    if moment {
        return Some(to);
    }
    (whole && cast_with_options(value, &to, &STRICT).is_ok()).then_some(to)
}

fn negate(expr: &Expr, operand: Typed) -> Result<Typed> {
    use DataType::{Int8, Int16, Int32, Int64, Null, UInt8, UInt16, UInt32, UInt64};
    let to = match coerce::plain(&operand.data_type) {
        UInt8 => Int16,
        UInt16 => Int32,
        UInt32 | UInt64 | Null => Int64,
        Int8 => Int8,
        other if other.is_numeric() || matches!(other, DataType::Duration(_)) => other,
        other => {
            return Err(Error::invalid(format!(
                "{expr}: a number is needed found={other}"
            )));
        }
    };
    let operand = operand.cast(&to, expr)?;
    let nullable = operand.nullable;
    Ok(Typed::new(
        Step::Negate(operand.node.into()),
        expr,
        to,
        nullable,
    ))
}
