//! Expressions that say the same in fewer words.
//!
//! Only what cannot fail and cannot change a type is folded; an overflow is left for the rows to
//! meet, because a plan without rows must not fail. The folded form is canonical as far as other
//! rules depend on it: constants stand on the right, negations inside, `x = 1 OR x = 2` is
//! `x IN (1, 2)`, and what all sides of an OR demand stands before it.

use arrow::datatypes::{DataType, Schema};
use kiln_engine::expr::eval::constant_value;
use kiln_engine::expr::{BinaryOp, Expr, Literal, typing};
use kiln_engine::limits;

use crate::planner::predicate::{add_part, never_fails};
use crate::planner::rewrite::{depth, map_expr, unaliased};

/// `expr` over the columns of `schema`, folded.
pub(in crate::planner) fn fold(expr: &Expr, schema: &Schema) -> Expr {
    let folded = map_expr(expr.clone(), &mut |part| fold_one(part, schema));
    if depth(&folded) > limits::EXPR_DEPTH_MAX {
        return expr.clone();
    }
    folded
}

/// Folds an expression whose operands are folded.
fn fold_one(expr: Expr, schema: &Schema) -> Expr {
    if let Some(constant) = constant(&expr) {
        return constant;
    }
    match expr {
        Expr::Not(inner) => negate(*inner),
        Expr::Binary { left, op, right } => fold_binary(*left, op, *right, schema),
        Expr::Alias { expr, name } => unaliased(&expr).clone().alias(name),
        Expr::InList { expr, list } => fold_list(expr, list),
        Expr::Case { .. } => fold_case(expr, schema),
        Expr::IsNull(inner) => match typing::field(&inner, schema) {
            Ok(field) if !field.is_nullable() && never_fails(&inner, schema) => boolean(false),
            _ => Expr::IsNull(inner),
        },
        other => other,
    }
}

fn boolean(value: bool) -> Expr {
    Expr::Literal(Literal::Boolean(value))
}

/// The value of an expression without columns, where a literal of that value has its type.
fn constant(expr: &Expr) -> Option<Expr> {
    if matches!(
        expr,
        Expr::Literal(_) | Expr::Column(_) | Expr::Alias { .. }
    ) {
        return None;
    }
    let literal = |part: &&Expr| matches!(part, Expr::Literal(_));
    if !expr.operands().iter().all(literal) {
        return None;
    }
    let value = Expr::Literal(constant_value(expr)?);
    // A float that is written down is read as a decimal beside decimals; one that is computed is
    // not, so it must not look as if it were written.
    let data_type = type_of(expr, &Schema::empty())?;
    let same = type_of(&value, &Schema::empty())? == data_type;
    (same && !data_type.is_floating()).then_some(value)
}

fn type_of(expr: &Expr, schema: &Schema) -> Option<DataType> {
    typing::data_type(expr, schema).ok()
}

/// `NOT expr`, with the negation moved inside.
fn negate(expr: Expr) -> Expr {
    match expr {
        Expr::Literal(Literal::Boolean(value)) => boolean(!value),
        Expr::Not(inner) => *inner,
        Expr::Binary { left, op, right } => {
            let negated = match op {
                BinaryOp::Equal => BinaryOp::NotEqual,
                BinaryOp::NotEqual => BinaryOp::Equal,
                BinaryOp::Less => BinaryOp::GreaterOrEqual,
                BinaryOp::LessOrEqual => BinaryOp::Greater,
                BinaryOp::Greater => BinaryOp::LessOrEqual,
                BinaryOp::GreaterOrEqual => BinaryOp::Less,
                BinaryOp::And => return Expr::binary(negate(*left), BinaryOp::Or, negate(*right)),
                BinaryOp::Or => return Expr::binary(negate(*left), BinaryOp::And, negate(*right)),
                _ => return !Expr::Binary { left, op, right },
            };
            Expr::Binary {
                left,
                op: negated,
                right,
            }
        }
        other => !other,
    }
}

fn fold_binary(left: Expr, op: BinaryOp, right: Expr, schema: &Schema) -> Expr {
    match op {
        BinaryOp::And => fold_and(left, right),
        BinaryOp::Or => fold_or(left, right, schema),
        _ => constant_right(left, op, right),
    }
}

/// A comparison with its constant, if it has one, on the right.
fn constant_right(left: Expr, op: BinaryOp, right: Expr) -> Expr {
    let turned = match op {
        BinaryOp::Equal | BinaryOp::NotEqual => op,
        BinaryOp::Less => BinaryOp::Greater,
        BinaryOp::LessOrEqual => BinaryOp::GreaterOrEqual,
        BinaryOp::Greater => BinaryOp::Less,
        BinaryOp::GreaterOrEqual => BinaryOp::LessOrEqual,
        _ => return Expr::binary(left, op, right),
    };
    match (&left, &right) {
        (Expr::Literal(_), Expr::Literal(_)) => Expr::binary(left, op, right),
        (Expr::Literal(_), _) => Expr::binary(right, turned, left),
        _ => Expr::binary(left, op, right),
    }
}

fn fold_and(left: Expr, right: Expr) -> Expr {
    let whole = left.and(right);
    let mut parts = Vec::new();
    for part in whole.conjuncts() {
        match part {
            Expr::Literal(Literal::Boolean(true)) => {}
            Expr::Literal(Literal::Boolean(false)) => return boolean(false),
            part => add_part(&mut parts, part.clone()),
        }
    }
    let same = parts.len() == whole.conjuncts().len();
    if same {
        return whole;
    }
    all(parts)
}

fn all(parts: Vec<Expr>) -> Expr {
    let whole = parts.into_iter().reduce(Expr::and);
    whole.unwrap_or_else(|| boolean(true))
}

fn fold_or(left: Expr, right: Expr, schema: &Schema) -> Expr {
    let whole = left.or(right);
    let mut parts = Vec::new();
    for part in whole.disjuncts() {
        match part {
            Expr::Literal(Literal::Boolean(false)) => {}
            Expr::Literal(Literal::Boolean(true)) => return boolean(true),
            part => add_alternative(&mut parts, part.clone(), schema),
        }
    }
    if let Some(factored) = common_first(&parts, schema) {
        return factored;
    }
    if parts.len() == whole.disjuncts().len() {
        return whole;
    }
    let whole = parts.into_iter().reduce(Expr::or);
    whole.unwrap_or_else(|| boolean(false))
}

/// Adds a side to an OR: `x = 2` joins an `x = 1` that is there.
fn add_alternative(parts: &mut Vec<Expr>, part: Expr, schema: &Schema) {
    let joined = parts.iter_mut().find_map(|other| {
        let both = one_of_both(other, &part, schema)?;
        Some((other, both))
    });
    match joined {
        Some((other, both)) => *other = both,
        None => add_part(parts, part),
    }
}

/// `x IN (…)` for two expressions that each say that `x` is one of some constants.
fn one_of_both(a: &Expr, b: &Expr, schema: &Schema) -> Option<Expr> {
    let ((a, mut list), (b, others)) = (choices(a)?, choices(b)?);
    let kind = |item: &Expr| match item {
        Expr::Literal(literal) => Some(std::mem::discriminant(literal)),
        _ => None,
    };
    let first = kind(list.first()?)?;
    let alike = |item: &Expr| kind(item) == Some(first);
    if a != b || !list.iter().chain(&others).all(alike) || !never_fails(a, schema) {
        return None;
    }
    for other in others {
        add_part(&mut list, other);
    }
    Some(match list.as_slice() {
        [only] => a.clone().eq(only.clone()),
        _ => Expr::InList {
            expr: Box::new(a.clone()),
            list,
        },
    })
}

/// What is compared and what it may be.
fn choices(expr: &Expr) -> Option<(&Expr, Vec<Expr>)> {
    match expr {
        Expr::Binary {
            left,
            op: BinaryOp::Equal,
            right,
        } => Some((left, vec![right.as_ref().clone()])),
        Expr::InList { expr, list } => Some((expr, list.clone())),
        _ => None,
    }
}

/// `p AND (q OR r)` for `(p AND q) OR (p AND r)`; none if the sides have nothing in common.
fn common_first(sides: &[Expr], schema: &Schema) -> Option<Expr> {
    let sides: Vec<Vec<&Expr>> = sides.iter().map(Expr::conjuncts).collect();
    let (first, others) = sides.split_first()?;
    if others.is_empty() {
        return None;
    }
    let in_all = |part: &&&Expr| {
        others.iter().all(|other| other.contains(*part)) && never_fails(part, schema)
    };
    let common: Vec<&Expr> = first.iter().filter(in_all).copied().collect();
    if common.is_empty() {
        return None;
    }
    let mut rests = Vec::new();
    for side in &sides {
        let rest = side.iter().filter(|part| !common.contains(*part));
        let rest = all(rest.map(|&part| part.clone()).collect());
        add_alternative(&mut rests, rest, schema);
    }
    let mut parts: Vec<Expr> = common.into_iter().cloned().collect();
    // A side that demands no more is true wherever what is common is.
    if !rests.contains(&boolean(true)) {
        parts.extend(rests.into_iter().reduce(Expr::or));
    }
    Some(all(parts))
}

fn fold_list(expr: Box<Expr>, list: Vec<Expr>) -> Expr {
    let mut once: Vec<Expr> = Vec::new();
    for item in list {
        add_part(&mut once, item);
    }
    match once.as_slice() {
        [only] => constant_right(*expr, BinaryOp::Equal, only.clone()),
        _ => Expr::InList { expr, list: once },
    }
}

/// Takes away branches whose conditions are constant, as far as the type stays.
fn fold_case(case: Expr, schema: &Schema) -> Expr {
    let Expr::Case {
        branches,
        otherwise,
    } = &case
    else {
        return case;
    };
    let mut kept = Vec::new();
    let mut last = otherwise.clone();
    for (condition, value) in branches {
        match condition {
            Expr::Literal(Literal::Boolean(false) | Literal::Null) => {}
            Expr::Literal(Literal::Boolean(true)) => {
                last = Some(Box::new(value.clone()));
                break;
            }
            _ => kept.push((condition.clone(), value.clone())),
        }
    }
    if kept.len() == branches.len() {
        return case;
    }
    let folded = if kept.is_empty() {
        last.map_or(Expr::Literal(Literal::Null), |value| *value)
    } else {
        Expr::Case {
            branches: kept,
            otherwise: last,
        }
    };
    let before = type_of(&case, schema);
    if before.is_some() && type_of(&folded, schema) == before {
        return folded;
    }
    case
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::Field;
    use kiln_engine::expr::{col, lit};

    use super::*;

    fn case(branches: Vec<(Expr, Expr)>, otherwise: Expr) -> Expr {
        Expr::Case {
            branches,
            otherwise: Some(Box::new(otherwise)),
        }
    }

    fn one_of(expr: Expr, list: Vec<Expr>) -> Expr {
        Expr::InList {
            expr: Box::new(expr),
            list,
        }
    }

    #[test]
    fn the_same_in_fewer_words() {
        let schema = Schema::new(vec![
            Field::new("a", DataType::Int64, true),
            Field::new("b", DataType::Int64, true),
            Field::new("k", DataType::Int64, false),
            Field::new("p", DataType::Boolean, true),
            Field::new("q", DataType::Boolean, true),
        ]);
        let (a, b, p, q) = (|| col("a"), || col("b"), || col("p"), || col("q"));
        let divided = || (lit(9) / a()).gt(1);
        for (expr, expected) in [
            (p().and(true).or(false), "p"),
            (!!p(), "p"),
            (!a().lt(1).or(b().eq(2)), "a >= 1 AND b != 2"),
            (!p().is_null(), "p IS NOT NULL"),
            (lit(5).lt(a()), "a > 5"),
            (lit(1).lt(2).and(p()), "p"),
            (p().or(p()), "p"),
            (p().and(q()).and(p()), "p AND q"),
            (p().and(q()).or(q().and(a().gt(1))), "q AND (p OR a > 1)"),
            (p().and(q()).or(p()), "p"),
            (
                divided().and(p()).or(divided().and(q())),
                "9 / a > 1 AND p OR 9 / a > 1 AND q",
            ),
            (a().eq(1).or(a().eq(2)).or(a().eq(1)), "a IN (1, 2)"),
            (a().eq(1).or(b().eq(2)), "a = 1 OR b = 2"),
            (one_of(a(), vec![lit(1), lit(1)]), "a = 1"),
            (col("k").is_null(), "false"),
            (a().is_null(), "a IS NULL"),
            (
                case(vec![(lit(false), a()), (p(), b())], a()),
                "CASE WHEN p THEN b ELSE a END",
            ),
            (case(vec![(lit(true), a())], b()), "a"),
            (
                case(vec![(lit(false), lit(1.5))], a()),
                "CASE WHEN false THEN 1.5 ELSE a END",
            ),
            ((lit(0.5) + 1.0).lt(a()), "0.5 + 1.0 < a"),
        ] {
            let folded = fold(&expr, &schema);
            assert_eq!(folded.to_string(), expected, "{expr}");
            assert_eq!(fold(&folded, &schema), folded, "{expr}");
        }
    }

    #[test]
    fn what_would_nest_too_deep_stays() {
        let mut sides: Vec<Expr> = (0..64).map(|n| col("p").and(col("a").gt(n))).collect();
        while sides.len() > 1 {
            let pairs = sides
                .chunks(2)
                .map(|pair| pair[0].clone().or(pair[1].clone()));
            sides = pairs.collect();
        }
        let folded = fold(&sides[0], &Schema::empty());
        assert!(depth(&folded) <= limits::EXPR_DEPTH_MAX);
    }
}
