//! Running compiled expressions, a batch at a time.
//!
//! A step yields either a column or a single value that stands for all rows; single values go to
//! arrow's kernels as scalars and are spread over the batch only at the very end. Arithmetic on
//! whole numbers is checked: overflow and division by zero are errors that quote the expression.
//! Floats follow IEEE 754, except that comparison is a total order in which NaN equals itself
//! and is larger than everything else. The right side of AND and OR is not computed for rows that
//! the left side decides, so one may guard the other.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Datum, RecordBatch, Scalar, UInt32Array,
};
use arrow::compute::kernels::{boolean, cmp, numeric};
use arrow::compute::{
    CastOptions, and_kleene, cast_with_options, filter_record_batch, or_kleene, take,
};
use arrow::datatypes::DataType;
use arrow::error::ArrowError;
use arrow::util::display::FormatOptions;

use super::function::Call;
use super::{BinaryOp, Expr, Function};
use crate::error::{Error, Result};

pub use super::compile::{Compiled, compile};

/// Conversions refuse what does not fit instead of making it null.
pub(super) const STRICT: CastOptions<'static> = CastOptions {
    safe: false,
    format_options: FormatOptions::new(),
};

/// The values of `expr` for every row of `batch`. Compiles first; what runs on many batches
/// should [`compile`] once.
///
/// # Errors
/// `Invalid`: the expression does not fit the batch, or a value cannot be computed.
pub fn evaluate(expr: &Expr, batch: &RecordBatch) -> Result<ArrayRef> {
    compile(expr, batch.schema_ref())?.evaluate(batch)
}

impl Compiled {
    /// The values for every row of `batch`, whose schema is the one compiled against.
    ///
    /// # Errors
    /// `Invalid` where a value cannot be computed: overflow, division by zero, a failed cast.
    pub fn evaluate(&self, batch: &RecordBatch) -> Result<ArrayRef> {
        self.node.run(batch)?.into_array(batch.num_rows())
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
        /// Every value fits.
        widens: bool,
    },
    Arithmetic(BinaryOp, Box<Node>, Box<Node>),
    Compare(BinaryOp, Box<Node>, Box<Node>),
    Logic(BinaryOp, Box<Node>, Box<Node>),
    Not(Box<Node>),
    Negate(Box<Node>),
    IsNull(Box<Node>),
    Call(Call, Vec<Node>),
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
    fn scalar(array: ArrayRef) -> Self {
        Value::Scalar(Scalar::new(array))
    }

    /// The array, of length one for a scalar.
    pub(super) fn array(&self) -> &dyn Array {
        self.get().0
    }

    fn is_scalar(&self) -> bool {
        matches!(self, Value::Scalar(_))
    }

    /// A value for each of `rows` rows.
    pub(super) fn into_array(self, rows: usize) -> Result<ArrayRef> {
        match self {
            Value::Array(array) => Ok(array),
            Value::Scalar(scalar) => Ok(take(
                &scalar.into_inner(),
                &UInt32Array::from(vec![0; rows]),
                None,
            )?),
        }
    }

    fn map(&self, result: ArrayRef) -> Value {
        if self.is_scalar() {
            Value::scalar(result)
        } else {
            Value::Array(result)
        }
    }
}

impl Node {
    pub(super) fn run(&self, batch: &RecordBatch) -> Result<Value> {
        match &self.step {
            Step::Column(index) => Ok(Value::Array(batch.column(*index).clone())),
            Step::Constant(value) => Ok(Value::scalar(value.clone())),
            Step::Cast { inner, to, .. } => {
                let value = inner.run(batch)?;
                let result = cast_with_options(value.array(), to, &STRICT);
                Ok(value.map(self.quote(result)?))
            }
            Step::Arithmetic(op, left, right) => {
                let (left, right) = (left.run(batch)?, right.run(batch)?);
                let result = self.quote(arithmetic(*op, &left, &right))?;
                Ok(pair(&left, &right, result))
            }
            Step::Compare(op, left, right) => {
                let (left, right) = (left.run(batch)?, right.run(batch)?);
                let result = self.quote(compare(*op, &left, &right))?;
                Ok(pair(&left, &right, Arc::new(result)))
            }
            Step::Logic(op, left, right) => {
                let left = left.run(batch)?.into_array(batch.num_rows())?;
                Ok(Value::Array(logic(*op, left.as_boolean(), right, batch)?))
            }
            Step::Not(inner) => {
                let value = inner.run(batch)?;
                let result = boolean::not(value.array().as_boolean())?;
                Ok(value.map(Arc::new(result)))
            }
            Step::Negate(inner) => {
                let value = inner.run(batch)?;
                let result = self.quote(numeric::neg(value.array()))?;
                Ok(value.map(result))
            }
            Step::IsNull(inner) => {
                let value = inner.run(batch)?;
                let result = boolean::is_null(value.array())?;
                Ok(value.map(Arc::new(result)))
            }
            Step::Call(call, args) => {
                let values = args
                    .iter()
                    .map(|arg| arg.run(batch))
                    .collect::<Result<Vec<_>>>()?;
                // Without arguments that differ by row, one row stands for all.
                let constant = values.iter().all(Value::is_scalar);
                let rows = if constant { 1 } else { batch.num_rows() };
                let result = call
                    .run(values, rows)
                    .map_err(|error| error.context(&self.text))?;
                Ok(if constant {
                    Value::scalar(result)
                } else {
                    Value::Array(result)
                })
            }
        }
    }

    /// Whether there may be rows that this cannot be computed for.
    fn can_fail(&self) -> bool {
        match &self.step {
            Step::Column(_) | Step::Constant(_) => false,
            Step::Arithmetic(..) | Step::Negate(_) | Step::Call(Call::Simple(Function::Abs), _) => {
                true
            }
            Step::Cast { inner, widens, .. } => !widens || inner.can_fail(),
            Step::Compare(_, left, right) | Step::Logic(_, left, right) => {
                left.can_fail() || right.can_fail()
            }
            Step::Not(inner) | Step::IsNull(inner) => inner.can_fail(),
            Step::Call(_, args) => args.iter().any(Node::can_fail),
        }
    }

    /// Puts the text of this step before the message of a failed kernel.
    fn quote<T>(&self, result: Result<T, ArrowError>) -> Result<T> {
        result.map_err(|error| Error::from(error).context(&self.text))
    }
}

fn pair(left: &Value, right: &Value, result: ArrayRef) -> Value {
    if left.is_scalar() && right.is_scalar() {
        Value::scalar(result)
    } else {
        Value::Array(result)
    }
}

/// `left AND right` or `left OR right`. Where `left` decides alone and `right` may fail, `right` is
/// computed only for the other rows: `n != 0 AND 10 / n > 2` is not an error where `n` is 0.
fn logic(op: BinaryOp, left: &BooleanArray, right: &Node, batch: &RecordBatch) -> Result<ArrayRef> {
    let and = op == BinaryOp::And;
    let kernel = if and { and_kleene } else { or_kleene };
    // And is decided by false, or by true: what is open is the rest, nulls included.
    let values = left.values();
    let open = if and { values.clone() } else { !values };
    let open = match left.nulls() {
        Some(nulls) => &open | &!nulls.inner(),
        None => open,
    };
    let open = BooleanArray::new(open, None);
    let selected = open.true_count();
    if selected == 0 {
        return Ok(Arc::new(left.clone()));
    }
    let right = if selected < batch.num_rows() && right.can_fail() {
        let some = right
            .run(&filter_record_batch(batch, &open)?)?
            .into_array(selected)?;
        Arc::new(spread(some.as_boolean(), &open))
    } else {
        right.run(batch)?.into_array(batch.num_rows())?
    };
    Ok(Arc::new(kernel(left, right.as_boolean())?))
}

/// The values at the places that `open` has, and null elsewhere.
fn spread(values: &BooleanArray, open: &BooleanArray) -> BooleanArray {
    let mut values = values.iter();
    let value = |open: bool| if open { values.next().flatten() } else { None };
    open.values().iter().map(value).collect()
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
