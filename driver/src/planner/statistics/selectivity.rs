//! Which share of rows a predicate is thought to keep.

use std::collections::BTreeMap;

use kiln_engine::expr::{BinaryOp, Expr, Function, Literal};

use super::Relation;
use super::assumed::{
    BOUND_SHARE, DISTINCT, PREFIX_SHARE, RESULT_SHARE, SEARCH_SHARE, SHARE, SHARE_MIN,
};
use super::relation::{Column, number};

/// Bounds on a column, both of them included.
#[derive(Clone, Copy, Default)]
struct Bounds {
    least: Option<f64>,
    most: Option<f64>,
}

/// Takes from `relation` the rows for which a part is not true.
pub(super) fn keep_parts(parts: &[&Expr], relation: &mut Relation) {
    let mut bounds: BTreeMap<&str, Bounds> = BTreeMap::new();
    let mut share = 1.0;
    for part in parts {
        match bound(part) {
            Some((name, new)) => {
                let known = bounds.entry(name).or_default();
                known.least = larger(known.least, new.least, f64::max);
                known.most = larger(known.most, new.most, f64::min);
            }
            None => {
                share *= share_of(part, relation);
                narrow(part, relation);
            }
        }
    }
    for (name, bounds) in bounds {
        share *= keep_within(name, bounds, relation);
    }
    relation.rows = (relation.rows * share.max(SHARE_MIN)).max(1.0);
}

fn larger(one: Option<f64>, other: Option<f64>, which: fn(f64, f64) -> f64) -> Option<f64> {
    match (one, other) {
        (Some(one), Some(other)) => Some(which(one, other)),
        (one, other) => one.or(other),
    }
}

/// The column that `part` bounds, and how.
fn bound(part: &Expr) -> Option<(&str, Bounds)> {
    let Expr::Binary { left, op, right } = part else {
        return None;
    };
    let (Expr::Column(name), Expr::Literal(literal)) = (left.as_ref(), right.as_ref()) else {
        return None;
    };
    let value = number(literal);
    let bounds = match op {
        BinaryOp::Less | BinaryOp::LessOrEqual => Bounds {
            most: Some(value?),
            least: None,
        },
        BinaryOp::Greater | BinaryOp::GreaterOrEqual => Bounds {
            least: Some(value?),
            most: None,
        },
        _ => return None,
    };
    Some((name, bounds))
}

/// The share of rows whose column is within bounds; that column keeps only those values.
fn keep_within(name: &str, bounds: Bounds, relation: &mut Relation) -> f64 {
    let sides = u8::from(bounds.least.is_some()) + u8::from(bounds.most.is_some());
    let Some(column) = relation.columns.get_mut(name) else {
        return BOUND_SHARE;
    };
    if column.is_result {
        return RESULT_SHARE;
    }
    let (Some(min), Some(max)) = (column.min, column.max) else {
        return BOUND_SHARE.powi(i32::from(sides));
    };
    let least = bounds.least.map_or(min, |least| least.max(min));
    let most = bounds.most.map_or(max, |most| most.min(max));
    let share = if max > min {
        ((most - least) / (max - min)).clamp(0.0, 1.0)
    } else {
        f64::from(u8::from(least <= most))
    };
    let values = column.distinct.unwrap_or(relation.base).max(1.0);
    // Bounds that meet in a value keep that one.
    let share = if least <= most {
        share.max(1.0 / values)
    } else {
        0.0
    };
    column.distinct = column.distinct.map(|distinct| (distinct * share).max(1.0));
    column.min = Some(least.min(most));
    column.max = Some(most.max(least));
    share * (1.0 - column.nulls)
}

/// What an equality leaves of the values of its column.
fn narrow(part: &Expr, relation: &mut Relation) {
    let (expr, kept) = match part {
        Expr::Binary {
            left,
            op: BinaryOp::Equal,
            right,
        } if matches!(right.as_ref(), Expr::Literal(_)) => (left.as_ref(), 1.0),
        Expr::InList { expr, list } => (expr.as_ref(), list.len() as f64),
        _ => return,
    };
    if let Expr::Column(name) = expr
        && let Some(column) = relation.columns.get_mut(name)
    {
        column.distinct = Some(column.distinct.map_or(kept, |distinct| distinct.min(kept)));
    }
}

/// The share of the rows of `relation` for which `predicate` is true.
pub(in crate::planner) fn share_of(predicate: &Expr, relation: &Relation) -> f64 {
    let share = match predicate {
        Expr::Literal(Literal::Boolean(value)) => f64::from(u8::from(*value)),
        Expr::Literal(_) => 0.0,
        Expr::Column(_) => 0.5,
        Expr::Alias { expr, .. } => share_of(expr, relation),
        Expr::Not(inner) => 1.0 - share_of(inner, relation),
        Expr::IsNull(inner) => column(inner, relation).map_or(0.05, |column| column.nulls),
        Expr::Binary {
            op: BinaryOp::And, ..
        } => {
            let mut kept = relation.clone();
            kept.rows = 1e12;
            keep_parts(&predicate.conjuncts(), &mut kept);
            kept.rows / 1e12
        }
        Expr::Binary {
            op: BinaryOp::Or, ..
        } => {
            let shares = predicate.disjuncts().into_iter();
            let none: f64 = shares.map(|part| 1.0 - share_of(part, relation)).product();
            1.0 - none
        }
        Expr::Binary { left, op, right } => compared(left, *op, right, relation),
        Expr::InList { expr, list } => list.len() as f64 * equal(expr, relation),
        Expr::Function { function, args } => match function {
            Function::StartsWith => PREFIX_SHARE,
            Function::Like if starts_plainly(args) => PREFIX_SHARE,
            Function::Contains | Function::EndsWith | Function::RegexpLike => SEARCH_SHARE,
            Function::Like | Function::Ilike => SEARCH_SHARE,
            _ => SHARE,
        },
        Expr::Negate(_) | Expr::Cast { .. } | Expr::Case { .. } | Expr::Udf { .. } => SHARE,
    };
    share.clamp(0.0, 1.0)
}

/// Whether the pattern of a LIKE begins with a letter.
fn starts_plainly(args: &[Expr]) -> bool {
    match args {
        [_, Expr::Literal(Literal::Utf8(pattern))] => !pattern.starts_with(['%', '_']),
        _ => false,
    }
}

fn compared(left: &Expr, op: BinaryOp, right: &Expr, relation: &Relation) -> f64 {
    let constant = matches!(right, Expr::Literal(_));
    match op {
        BinaryOp::Equal if constant && outside(left, right, relation) => SHARE_MIN,
        BinaryOp::Equal if constant => equal(left, relation),
        BinaryOp::Equal => equal(left, relation).min(equal(right, relation)),
        BinaryOp::NotEqual => 1.0 - compared(left, BinaryOp::Equal, right, relation),
        BinaryOp::Less | BinaryOp::LessOrEqual | BinaryOp::Greater | BinaryOp::GreaterOrEqual => {
            let both = Expr::binary(left.clone(), op, right.clone());
            match bound(&both) {
                Some((name, bounds)) => keep_within(name, bounds, &mut relation.clone()),
                None if constant => BOUND_SHARE,
                None => 0.5,
            }
        }
        _ => SHARE,
    }
}

fn column<'a>(expr: &Expr, relation: &'a Relation) -> Option<&'a Column> {
    match expr {
        Expr::Column(name) => relation.columns.get(name),
        _ => None,
    }
}

/// The share of rows with one certain value.
fn equal(expr: &Expr, relation: &Relation) -> f64 {
    let known = column(expr, relation);
    if known.is_some_and(|column| column.is_result) {
        return RESULT_SHARE;
    }
    let distinct = known.and_then(|column| column.distinct);
    1.0 / distinct.unwrap_or(DISTINCT).min(relation.base).max(1.0)
}

/// Whether a constant is not among the values of a column.
fn outside(expr: &Expr, constant: &Expr, relation: &Relation) -> bool {
    let (Some(column), Expr::Literal(literal)) = (column(expr, relation), constant) else {
        return false;
    };
    let Some(value) = number(literal) else {
        return false;
    };
    column.min.is_some_and(|min| value < min) || column.max.is_some_and(|max| value > max)
}
