//! Running compiled expressions, a batch at a time.
//!
//! A step yields either a column or a single value that stands for all rows; single values go to
//! the kernels as scalars and are spread over the batch only at the very end. Arithmetic on whole
//! numbers and decimals is checked: overflow and division by zero are errors that quote the
//! expression. Floats follow IEEE 754, except that comparison is a total order in which NaN equals
//! itself and is larger than everything else. The right side of AND and OR is not computed for rows
//! that the left side decides, so one may guard the other; nor are the values of CASE for rows that
//! do not take them.

use std::borrow::Cow;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Datum, Int64Array, RecordBatch, Scalar, UInt32Array,
};
use arrow::buffer::BooleanBuffer;
use arrow::compute::kernels::{boolean, cmp, numeric};
use arrow::compute::{CastOptions, and_kleene, binary, cast_with_options, or_kleene, take};
use arrow::datatypes::{DataType, Date32Type, Schema};
use arrow::error::ArrowError;
use arrow::util::display::FormatOptions;

use super::choose::Choice;
use super::decimal::{self, Exactly};
use super::function::Call;
use super::in_list::Set;
use super::user::UserCall;
use super::{BinaryOp, Expr, Literal, literal};
use crate::error::{Error, Result};

pub use super::compile::{Compiled, compile};

/// Conversions refuse what does not fit instead of making it null.
pub(super) const STRICT: CastOptions<'static> = CastOptions {
    safe: false,
    format_options: FormatOptions::new(),
};

/// Conversions make null what does not fit.
pub(super) const LENIENT: CastOptions<'static> = CastOptions {
    safe: true,
    format_options: FormatOptions::new(),
};

/// The right side of AND or OR goes without the rows that are decided if at most one in so many is
/// not, and it is costly: picking rows has its price too.
const WORTH_PICKING: usize = 4;

/// The values of `expr` for every row of `batch`. Compiles first; what runs on many batches
/// should [`compile`] once.
///
/// # Errors
/// `Invalid`: the expression does not fit the batch, or a value cannot be computed.
pub fn evaluate(expr: &Expr, batch: &RecordBatch) -> Result<ArrayRef> {
    compile(expr, batch.schema_ref())?.evaluate(batch)
}

/// The value of an expression without columns, as the literal that has the same value and type.
///
/// None where the expression has columns, cannot be computed, or has a type or a value that no
/// literal stands for: a null of a certain type, a narrower number, a list.
pub fn constant_value(expr: &Expr) -> Option<Literal> {
    let compiled = compile(expr, &Schema::empty()).ok()?;
    let value = compiled.node.run(&Rows::one()).ok()?.into_array(1).ok()?;
    literal::of(&value)
}

/// The value of an array of length one; none for null and for types without literals. Numbers of
/// other widths become the literal that has the same value.
pub fn literal_value(array: &dyn Array) -> Option<Literal> {
    let to = match array.data_type() {
        other if other.is_integer() => DataType::Int64,
        DataType::Float32 => DataType::Float64,
        DataType::Decimal32(precision, scale) => DataType::Decimal64(*precision, *scale),
        other => other.clone(),
    };
    let value = cast_with_options(array, &to, &STRICT).ok()?;
    literal::of(&value).filter(|literal| *literal != Literal::Null)
}

impl Compiled {
    /// The values for every row of `batch`, whose schema is the one compiled against.
    ///
    /// # Errors
    /// `Invalid` where a value cannot be computed: overflow, division by zero, a failed cast.
    pub fn evaluate(&self, batch: &RecordBatch) -> Result<ArrayRef> {
        let rows = Rows::new(batch.columns(), batch.num_rows());
        self.node.run(&rows)?.into_array(batch.num_rows())
    }

    /// Which rows of `batch` the expression, a boolean one, is true for; null where it is null.
    ///
    /// # Errors
    /// As for [`evaluate`](Self::evaluate).
    pub fn evaluate_boolean(&self, batch: &RecordBatch) -> Result<BooleanArray> {
        let values = self.evaluate(batch)?;
        match values.as_boolean_opt() {
            Some(values) => Ok(values.clone()),
            None => Err(Error::internal(format!(
                "{}: not a boolean",
                self.node.text
            ))),
        }
    }

    /// Whether there may be rows that this cannot be computed for. What cannot fail may be
    /// computed earlier, or for more rows, than was written.
    pub fn can_fail(&self) -> bool {
        self.node.can_fail()
    }
}

/// The rows that a step runs on. Columns that it does not use may have any length.
pub(super) struct Rows<'a> {
    columns: Cow<'a, [ArrayRef]>,
    count: usize,
}

impl<'a> Rows<'a> {
    fn new(columns: &'a [ArrayRef], count: usize) -> Self {
        Rows {
            columns: columns.into(),
            count,
        }
    }

    /// A row without columns.
    pub(super) fn one() -> Self {
        Rows::new(&[], 1)
    }

    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// Only the rows at these places, in ascending order, with the columns that `node` uses.
    pub(super) fn only(&self, places: &[u32], node: &Node) -> Result<Rows<'_>> {
        if places.len() == self.count {
            return Ok(Rows::new(&self.columns, self.count));
        }
        let mut used = vec![false; self.columns.len()];
        node.mark_columns(&mut used);
        let places = UInt32Array::from(places.to_vec());
        let mut columns = self.columns.to_vec();
        for (column, _) in columns.iter_mut().zip(used).filter(|(_, used)| *used) {
            *column = take(column, &places, None)?;
        }
        Ok(Rows {
            columns: columns.into(),
            count: places.len(),
        })
    }
}

/// One step of a compiled expression and the text to quote when it fails.
pub(super) struct Node {
    pub(super) step: Step,
    pub(super) text: Box<str>,
}

pub(super) enum Step {
    Column(usize),
    /// An array of length one.
    Constant(ArrayRef),
    Cast {
        inner: Box<Node>,
        to: DataType,
        options: &'static CastOptions<'static>,
        /// Every value fits, or becomes null.
        fits: bool,
    },
    Arithmetic {
        op: BinaryOp,
        sides: Box<[Node; 2]>,
        can_fail: bool,
    },
    Decimal(Exactly, Box<[Node; 2]>),
    /// Decimals or whole numbers as a float.
    Quotient(Box<[Node; 2]>),
    /// Days from the second date to the first.
    DaysBetween(Box<[Node; 2]>),
    Compare(BinaryOp, Box<[Node; 2]>),
    Logic(BinaryOp, Box<[Node; 2]>),
    Not(Box<Node>),
    Negate(Box<Node>),
    IsNull(Box<Node>),
    Case(Choice),
    InList(Box<Node>, Set),
    Call(Call, Vec<Node>),
    Udf(UserCall, Vec<Node>),
}

/// What a step yields: a value for each row, or one for all of them.
pub(super) enum Value {
    Array(ArrayRef),
    Scalar(Scalar<ArrayRef>),
}

impl Datum for Value {
    fn get(&self) -> (&dyn Array, bool) {
        match self {
            Value::Array(array) => (array.as_ref(), false),
            Value::Scalar(scalar) => scalar.get(),
        }
    }
}

impl Value {
    pub(super) fn scalar(array: ArrayRef) -> Self {
        Value::Scalar(Scalar::new(array))
    }

    /// The array, of length one for a scalar.
    pub(super) fn array(&self) -> &dyn Array {
        self.get().0
    }

    pub(super) fn is_scalar(&self) -> bool {
        matches!(self, Value::Scalar(_))
    }

    /// A value for each of `rows` rows.
    pub(super) fn into_array(self, rows: usize) -> Result<ArrayRef> {
        match self {
            Value::Array(array) => Ok(array),
            Value::Scalar(scalar) if rows == 1 => Ok(scalar.into_inner()),
            Value::Scalar(scalar) => Ok(take(
                &scalar.into_inner(),
                &UInt32Array::from(vec![0; rows]),
                None,
            )?),
        }
    }

    fn map(&self, result: ArrayRef) -> Value {
        Value::of(result, self.is_scalar())
    }

    fn of(result: ArrayRef, is_scalar: bool) -> Value {
        if is_scalar {
            Value::scalar(result)
        } else {
            Value::Array(result)
        }
    }
}

impl Node {
    pub(super) fn run(&self, rows: &Rows<'_>) -> Result<Value> {
        match &self.step {
            Step::Column(index) => Ok(Value::Array(rows.columns[*index].clone())),
            Step::Constant(value) => Ok(Value::scalar(value.clone())),
            Step::Cast {
                inner, to, options, ..
            } => {
                let value = inner.run(rows)?;
                let result = cast_with_options(value.array(), to, options);
                Ok(value.map(self.quote(result)?))
            }
            Step::Arithmetic { op, sides, .. } => {
                self.pair(sides, rows, |left, right| arithmetic(*op, left, right))
            }
            Step::Decimal(exactly, sides) => {
                self.pair(sides, rows, |left, right| exactly.run(left, right))
            }
            Step::Quotient(sides) => self.pair(sides, rows, decimal::divide),
            Step::DaysBetween(sides) => self.pair(sides, rows, days_between),
            Step::Compare(op, sides) => self.pair(sides, rows, |left, right| {
                Ok(Arc::new(compare(*op, left, right)?))
            }),
            Step::Logic(op, sides) => {
                let [left, right] = &**sides;
                let left = left.run(rows)?.into_array(rows.count)?;
                Ok(Value::Array(logic(*op, left.as_boolean(), right, rows)?))
            }
            Step::Not(inner) => {
                let value = inner.run(rows)?;
                let result = boolean::not(value.array().as_boolean())?;
                Ok(value.map(Arc::new(result)))
            }
            Step::Negate(inner) => {
                let value = inner.run(rows)?;
                let result = self.quote(numeric::neg(value.array()))?;
                Ok(value.map(result))
            }
            Step::IsNull(inner) => {
                let value = inner.run(rows)?;
                let result = boolean::is_null(value.array())?;
                Ok(value.map(Arc::new(result)))
            }
            Step::Case(choice) => choice.run(rows),
            Step::InList(inner, set) => {
                let value = inner.run(rows)?;
                let result = set.contains(value.array());
                Ok(value.map(Arc::new(result)))
            }
            Step::Call(call, args) => {
                let values = args
                    .iter()
                    .map(|arg| arg.run(rows))
                    .collect::<Result<Vec<_>>>()?;
                // Without arguments that differ by row, one row stands for all.
                let constant = values.iter().all(Value::is_scalar);
                let count = if constant { 1 } else { rows.count };
                let result = call
                    .run(values, count)
                    .map_err(|error| error.context(&self.text))?;
                Ok(Value::of(result, constant))
            }
            Step::Udf(call, args) => {
                let values = args.iter().map(|arg| arg.run(rows));
                call.run(values.collect::<Result<_>>()?, rows)
            }
        }
    }

    fn pair(
        &self,
        sides: &[Node; 2],
        rows: &Rows<'_>,
        kernel: impl FnOnce(&Value, &Value) -> Result<ArrayRef, ArrowError>,
    ) -> Result<Value> {
        let (left, right) = (sides[0].run(rows)?, sides[1].run(rows)?);
        let result = self.quote(kernel(&left, &right))?;
        Ok(Value::of(result, left.is_scalar() && right.is_scalar()))
    }

    /// What this step is computed from.
    pub(super) fn operands(&self) -> Vec<&Node> {
        match &self.step {
            Step::Column(_) | Step::Constant(_) => Vec::new(),
            Step::Cast { inner, .. }
            | Step::Not(inner)
            | Step::Negate(inner)
            | Step::IsNull(inner)
            | Step::InList(inner, _) => vec![inner],
            Step::Arithmetic { sides, .. }
            | Step::Decimal(_, sides)
            | Step::Quotient(sides)
            | Step::DaysBetween(sides)
            | Step::Compare(_, sides)
            | Step::Logic(_, sides) => sides.iter().collect(),
            Step::Case(choice) => choice.parts().collect(),
            Step::Call(_, args) | Step::Udf(_, args) => args.iter().collect(),
        }
    }

    fn mark_columns(&self, used: &mut [bool]) {
        if let Step::Column(index) = self.step {
            used[index] = true;
        }
        for operand in self.operands() {
            operand.mark_columns(used);
        }
    }

    /// Whether there may be rows that this cannot be computed for.
    pub(super) fn can_fail(&self) -> bool {
        let itself = match &self.step {
            Step::Arithmetic { can_fail, .. } => *can_fail,
            Step::Decimal(exactly, _) => exactly.can_fail(),
            Step::Quotient(_) | Step::Negate(_) | Step::Udf(..) => true,
            Step::Cast { fits, .. } => !fits,
            Step::Call(call, _) => call.can_fail(),
            _ => false,
        };
        itself || self.operands().into_iter().any(Node::can_fail)
    }

    /// Whether it takes much longer than picking rows does.
    fn is_costly(&self) -> bool {
        matches!(self.step, Step::Call(..) | Step::Udf(..) | Step::Case(_))
            || self.operands().into_iter().any(Node::is_costly)
    }

    /// Puts the text of this step before the message of a failed kernel.
    fn quote<T>(&self, result: Result<T, ArrowError>) -> Result<T> {
        result.map_err(|error| Error::from(error).context(&self.text))
    }
}

/// `left AND right` or `left OR right`. Where `left` decides alone and `right` may fail, `right` is
/// computed only for the other rows: `n != 0 AND 10 / n > 2` is not an error where `n` is 0.
fn logic(op: BinaryOp, left: &BooleanArray, right: &Node, rows: &Rows<'_>) -> Result<ArrayRef> {
    let and = op == BinaryOp::And;
    let kernel = if and { and_kleene } else { or_kleene };
    // And is decided by false, or by true: what is open is the rest, nulls included.
    let values = left.values();
    let open = if and { values.clone() } else { !values };
    let open = match left.nulls() {
        Some(nulls) => &open | &!nulls.inner(),
        None => open,
    };
    let selected = open.count_set_bits();
    if selected == 0 {
        return Ok(Arc::new(left.clone()));
    }
    let picks = selected < rows.count && right.can_fail()
        || selected * WORTH_PICKING <= rows.count && right.is_costly();
    let right = if picks {
        let places: Vec<u32> = open.set_indices().map(|row| row as u32).collect();
        let some = right.run(&rows.only(&places, right)?)?;
        let some = some.into_array(selected)?;
        Arc::new(spread(some.as_boolean(), &open))
    } else {
        right.run(rows)?.into_array(rows.count)?
    };
    Ok(Arc::new(kernel(left, right.as_boolean())?))
}

/// The values at the places that `open` has, and null elsewhere.
fn spread(values: &BooleanArray, open: &BooleanBuffer) -> BooleanArray {
    let mut values = values.iter();
    let value = |open: bool| if open { values.next().flatten() } else { None };
    open.iter().map(value).collect()
}

/// `left op right` for the arithmetic operators.
pub(super) fn arithmetic(
    op: BinaryOp,
    left: &Value,
    right: &Value,
) -> Result<ArrayRef, ArrowError> {
    match op {
        BinaryOp::Add => numeric::add(left, right),
        BinaryOp::Subtract => numeric::sub(left, right),
        BinaryOp::Multiply => numeric::mul(left, right),
        BinaryOp::Divide => numeric::div(left, right),
        BinaryOp::Modulo => numeric::rem(left, right),
        other => Err(ArrowError::NotYetImplemented(format!(
            "{other} is not arithmetic"
        ))),
    }
}

fn days_between(left: &Value, right: &Value) -> Result<ArrayRef, ArrowError> {
    let count = |value: &Value| {
        if value.is_scalar() {
            1
        } else {
            value.array().len()
        }
    };
    let rows = if left.is_scalar() {
        count(right)
    } else {
        count(left)
    };
    let days = |value: &Value| -> Result<ArrayRef, ArrowError> {
        match value {
            Value::Array(array) => Ok(array.clone()),
            Value::Scalar(scalar) => take(scalar.get().0, &UInt32Array::from(vec![0; rows]), None),
        }
    };
    let (left, right) = (days(left)?, days(right)?);
    let days: Int64Array = binary(
        left.as_primitive::<Date32Type>(),
        right.as_primitive::<Date32Type>(),
        |left, right| i64::from(left) - i64::from(right),
    )?;
    Ok(Arc::new(days))
}

fn compare(op: BinaryOp, left: &Value, right: &Value) -> Result<BooleanArray, ArrowError> {
    match op {
        BinaryOp::Equal => cmp::eq(left, right),
        BinaryOp::NotEqual => cmp::neq(left, right),
        BinaryOp::Less => cmp::lt(left, right),
        BinaryOp::LessOrEqual => cmp::lt_eq(left, right),
        BinaryOp::Greater => cmp::gt(left, right),
        BinaryOp::GreaterOrEqual => cmp::gt_eq(left, right),
        other => Err(ArrowError::NotYetImplemented(format!(
            "{other} is not a comparison"
        ))),
    }
}
