//! What a predicate can be for rows of which only bounds are known.
//!
//! For every unit (a row group or a page) the answer is a set: may the predicate be true there, may
//! it be false, may it be null? A unit where it cannot be true need not be read, and where it can
//! be nothing else nobody has to ask. A comparison with a constant is asked of the least and the
//! greatest value of all units at once, by the same code that asks the rows, so that the two
//! cannot disagree. Whatever is not known here can be anything.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema};

use crate::expr::eval::evaluate;
use crate::expr::{BinaryOp, Expr, Function, Literal};

/// Longest list of an `IN` that is compared with bounds value by value.
const LIST_MAX: usize = 100;

/// What is known of a column, for each unit.
#[derive(Debug, Clone)]
pub(super) struct Bounds {
    /// No value is less; null where unknown.
    pub(super) least: ArrayRef,
    /// No value is greater; null where unknown.
    pub(super) greatest: ArrayRef,
    /// How many are null, where known.
    pub(super) nulls: Vec<Option<u64>>,
    /// How many there are, nulls included.
    pub(super) rows: Vec<u64>,
}

/// Which values a predicate may have: a set of three.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Possible {
    pub(super) yes: bool,
    pub(super) no: bool,
    pub(super) null: bool,
}

impl Possible {
    const ANYTHING: Possible = Possible {
        yes: true,
        no: true,
        null: true,
    };

    /// True of every row.
    pub(super) fn is_certain(self) -> bool {
        self.yes && !self.no && !self.null
    }

    fn only(value: Option<bool>) -> Possible {
        Possible {
            yes: value == Some(true),
            no: value == Some(false),
            null: value.is_none(),
        }
    }

    fn not(self) -> Possible {
        Possible {
            yes: self.no,
            no: self.yes,
            null: self.null,
        }
    }

    fn and(self, other: Possible) -> Possible {
        Possible {
            yes: self.yes && other.yes,
            no: self.no || other.no,
            null: self.null && (other.yes || other.null) || other.null && (self.yes || self.null),
        }
    }

    fn or(self, other: Possible) -> Possible {
        self.not().and(other.not()).not()
    }
}

/// What `expr` can be in each of `units` units, of which `bounds` knows the columns.
pub(super) fn possible(
    expr: &Expr,
    units: usize,
    bounds: &dyn Fn(&str) -> Option<Bounds>,
) -> Vec<Possible> {
    let all = |expr: &Expr| possible(expr, units, bounds);
    let pairs = |left: &Expr, right: &Expr, join: fn(Possible, Possible) -> Possible| {
        let (left, right) = (all(left), all(right));
        left.into_iter()
            .zip(right)
            .map(|(left, right)| join(left, right))
            .collect()
    };
    let found = match expr {
        Expr::Literal(Literal::Boolean(value)) => Some(vec![Possible::only(Some(*value)); units]),
        Expr::Literal(Literal::Null) => Some(vec![Possible::only(None); units]),
        Expr::Alias { expr, .. } => Some(all(expr)),
        Expr::Not(inner) => Some(all(inner).into_iter().map(Possible::not).collect()),
        Expr::Binary {
            left,
            op: BinaryOp::And,
            right,
        } => Some(pairs(left, right, Possible::and)),
        Expr::Binary {
            left,
            op: BinaryOp::Or,
            right,
        } => Some(pairs(left, right, Possible::or)),
        Expr::Column(name) => {
            let truth = Expr::Literal(Literal::Boolean(true));
            compare(name, BinaryOp::Equal, &truth, bounds)
        }
        Expr::Binary { left, op, right } => match (&**left, &**right) {
            (Expr::Column(name), other) => compare(name, *op, other, bounds),
            (other, Expr::Column(name)) => {
                mirrored(*op).and_then(|op| compare(name, op, other, bounds))
            }
            _ => None,
        },
        Expr::IsNull(inner) => match &**inner {
            Expr::Column(name) => bounds(name).map(|bounds| bounds.is_null()),
            _ => None,
        },
        Expr::InList { expr, list } if list.len() <= LIST_MAX => match &**expr {
            Expr::Column(name) => list
                .iter()
                .map(|value| compare(name, BinaryOp::Equal, value, bounds))
                .reduce(|a, b| Some(zip(&a?, &b?, Possible::or)))
                .flatten(),
            _ => None,
        },
        Expr::Function { function, args } => match (function, args.as_slice()) {
            (
                Function::StartsWith | Function::Like,
                [Expr::Column(name), Expr::Literal(Literal::Utf8(text))],
            ) => match function {
                Function::Like => like(name, text, bounds),
                _ => starts_with(name, text, bounds),
            },
            _ => None,
        },
        _ => None,
    };
    match found {
        Some(found) if found.len() == units => found,
        _ => vec![Possible::ANYTHING; units],
    }
}

fn zip(
    left: &[Possible],
    right: &[Possible],
    join: fn(Possible, Possible) -> Possible,
) -> Vec<Possible> {
    let pairs = left.iter().zip(right);
    pairs.map(|(left, right)| join(*left, *right)).collect()
}

/// `a op b` as `b op a`, for comparisons.
fn mirrored(op: BinaryOp) -> Option<BinaryOp> {
    Some(match op {
        BinaryOp::Equal => BinaryOp::Equal,
        BinaryOp::NotEqual => BinaryOp::NotEqual,
        BinaryOp::Less => BinaryOp::Greater,
        BinaryOp::LessOrEqual => BinaryOp::GreaterOrEqual,
        BinaryOp::Greater => BinaryOp::Less,
        BinaryOp::GreaterOrEqual => BinaryOp::LessOrEqual,
        _ => return None,
    })
}

/// `column op value`, where the value does not depend on the row.
fn compare(
    column: &str,
    op: BinaryOp,
    value: &Expr,
    bounds: &dyn Fn(&str) -> Option<Bounds>,
) -> Option<Vec<Possible>> {
    let bounds = bounds(column)?;
    // Statistics leave NaN out, wherever it stands in the order: only a number that is asked for
    // by name is certain to be within them.
    let open = bounds.least.data_type().is_floating();
    if open && (op != BinaryOp::Equal || !is_number(value)) {
        return None;
    }
    let least = |op| ask(column, op, value, &bounds.least);
    let greatest = |op| ask(column, op, value, &bounds.greatest);
    let below = |op: BinaryOp| Some((least(op)?, greatest(op)?));
    let above = |op: BinaryOp| Some((greatest(op)?, least(op)?));
    // The end of the bounds that decides whether the comparison may be true, and the one that
    // decides whether it has to be.
    let answers: Vec<(bool, bool)> = match op {
        BinaryOp::Less | BinaryOp::LessOrEqual => ends(below(op)?),
        BinaryOp::Greater | BinaryOp::GreaterOrEqual => ends(above(op)?),
        BinaryOp::Equal | BinaryOp::NotEqual => {
            let from = ends(below(BinaryOp::LessOrEqual)?);
            let to = ends(above(BinaryOp::GreaterOrEqual)?);
            let both = from.into_iter().zip(to).map(|(from, to)| {
                let certain = from.1 && to.1 && !open;
                (from.0 && to.0, certain)
            });
            match op {
                BinaryOp::Equal => both.collect(),
                _ => both.map(|(may, must)| (!must, !may)).collect(),
            }
        }
        _ => return None,
    };
    Some(bounds.among_nulls(answers))
}

/// Whether a comparison may be true and whether it has to be, by the answers of the two ends.
fn ends((may, must): (BooleanArray, BooleanArray)) -> Vec<(bool, bool)> {
    let pairs = may.iter().zip(must.iter());
    pairs
        .map(|(may, must)| (may != Some(false), must == Some(true)))
        .collect()
}

/// Whether `value` is a number in the order of numbers, so not NaN.
fn is_number(value: &Expr) -> bool {
    match value {
        Expr::Literal(Literal::Float64(value)) => !value.is_nan(),
        Expr::Literal(Literal::Int64(_) | Literal::Decimal { .. }) => true,
        _ => false,
    }
}

/// `column op value` for each of `values` of the column.
fn ask(column: &str, op: BinaryOp, value: &Expr, values: &ArrayRef) -> Option<BooleanArray> {
    let field = Field::new(column, values.data_type().clone(), true);
    let schema = Arc::new(Schema::new(vec![field]));
    let batch = RecordBatch::try_new(schema, vec![Arc::clone(values)]).ok()?;
    let left = Expr::Column(column.to_owned());
    if reads_columns(value) {
        return None;
    }
    let answers = evaluate(&Expr::binary(left, op, value.clone()), &batch).ok()?;
    answers.as_boolean_opt().cloned()
}

fn reads_columns(expr: &Expr) -> bool {
    match expr {
        Expr::Literal(_) => false,
        Expr::Cast { expr, .. } | Expr::Alias { expr, .. } | Expr::Negate(expr) => {
            reads_columns(expr)
        }
        _ => true,
    }
}

/// Whether strings begin with `prefix`: they lie between it and the next string that does not.
fn starts_with(
    column: &str,
    prefix: &str,
    bounds: &dyn Fn(&str) -> Option<Bounds>,
) -> Option<Vec<Possible>> {
    let text = |text: &str| Expr::Literal(Literal::Utf8(text.to_owned()));
    let from = compare(column, BinaryOp::GreaterOrEqual, &text(prefix), bounds)?;
    match after(prefix) {
        Some(after) => {
            let to = compare(column, BinaryOp::Less, &text(&after), bounds)?;
            Some(zip(&from, &to, Possible::and))
        }
        None => Some(vec![Possible::ANYTHING; from.len()]),
    }
}

/// Whether strings match a pattern: they begin as it does, up to what may be anything.
fn like(
    column: &str,
    pattern: &str,
    bounds: &dyn Fn(&str) -> Option<Bounds>,
) -> Option<Vec<Possible>> {
    let plain = pattern.find(['%', '_', '\\']).unwrap_or(pattern.len());
    let (prefix, rest) = pattern.split_at(plain);
    let mut found = starts_with(column, prefix, bounds)?;
    if rest != "%" {
        for possible in &mut found {
            possible.no |= possible.yes;
        }
    }
    Some(found)
}

/// The least string that is greater than all that begin with `prefix`, if it is easy to tell.
fn after(prefix: &str) -> Option<String> {
    let mut rest: Vec<char> = prefix.chars().collect();
    while let Some(last) = rest.pop() {
        // The surrogates have no characters, and behind the last one there is nothing.
        if let Some(next) = char::from_u32(u32::from(last) + 1) {
            rest.push(next);
            return Some(rest.into_iter().collect());
        }
    }
    None
}

impl Bounds {
    /// What a comparison can be, where it may and must be true of values that are not null.
    fn among_nulls(&self, answers: Vec<(bool, bool)>) -> Vec<Possible> {
        let units = self.nulls.iter().zip(&self.rows).zip(answers);
        units
            .map(|((nulls, rows), (may, must))| {
                if *nulls == Some(*rows) {
                    return Possible::only(None);
                }
                Possible {
                    yes: may,
                    no: !must,
                    null: *nulls != Some(0),
                }
            })
            .collect()
    }

    /// Whether values are null.
    fn is_null(&self) -> Vec<Possible> {
        let units = self.nulls.iter().zip(&self.rows);
        units
            .map(|(nulls, rows)| Possible {
                yes: *nulls != Some(0),
                no: *nulls != Some(*rows),
                null: false,
            })
            .collect()
    }

    /// Units that may have a value between `least` and `greatest`, both of the column's type.
    pub(super) fn overlap(&self, least: &ArrayRef, greatest: &ArrayRef) -> Vec<bool> {
        use arrow::array::Scalar;
        use arrow::compute::kernels::cmp::{gt_eq, lt_eq};
        let unknown = vec![true; self.rows.len()];
        if matches!(self.least.data_type(), kind if kind.is_floating() || kind.is_nested())
            || self.least.data_type() == &DataType::Null
        {
            return unknown;
        }
        let from = lt_eq(&self.least, &Scalar::new(Arc::clone(greatest)));
        let to = gt_eq(&self.greatest, &Scalar::new(Arc::clone(least)));
        let (Ok(from), Ok(to)) = (from, to) else {
            return unknown;
        };
        let ends = from.iter().zip(to.iter());
        let units = ends.zip(self.nulls.iter().zip(&self.rows));
        units
            .map(|((from, to), (nulls, rows))| {
                from != Some(false) && to != Some(false) && *nulls != Some(*rows)
            })
            .collect()
    }
}
