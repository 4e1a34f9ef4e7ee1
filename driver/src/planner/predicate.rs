//! Predicates as sets of parts: `a AND b AND …` has the parts `a`, `b`, ….
//!
//! Parts have an order, because one may guard the next against values that it cannot be computed
//! for. A part that never fails may be asked of any row at any time.

use std::collections::BTreeSet;

use arrow::datatypes::Schema;
use kiln_engine::expr::eval::compile;
use kiln_engine::expr::{BinaryOp, Expr, Function, Literal, output_name};
use kiln_engine::limits;
use kiln_engine::plan::LogicalPlan;

use super::rewrite::{columns, depth, replace_columns, types_of, unaliased};

/// The parts of an optional predicate, each once.
pub(super) fn parts_of(predicate: Option<&Expr>) -> Vec<Expr> {
    let mut parts = Vec::new();
    for part in predicate.into_iter().flat_map(Expr::conjuncts) {
        add_part(&mut parts, part.clone());
    }
    parts
}

/// Puts `part` behind the others unless it is one of them.
pub(super) fn add_part(parts: &mut Vec<Expr>, part: Expr) {
    if !parts.contains(&part) {
        parts.push(part);
    }
}

/// One predicate of as many leading parts as nest within the limit, and the parts that are left.
pub(super) fn join_parts(parts: Vec<Expr>) -> (Option<Expr>, Vec<Expr>) {
    let mut parts = parts.into_iter().peekable();
    let Some(mut whole) = parts.next() else {
        return (None, Vec::new());
    };
    let mut deep = depth(&whole);
    while let Some(part) = parts.peek() {
        deep = 1 + deep.max(depth(part));
        if deep > limits::EXPR_DEPTH_MAX {
            break;
        }
        if let Some(part) = parts.next() {
            whole = whole.and(part);
        }
    }
    (Some(whole), parts.collect())
}

/// `plan` with filters for `parts` on top, the first part lowest.
pub(super) fn filtered(plan: LogicalPlan, parts: Vec<Expr>) -> LogicalPlan {
    let (mut plan, mut parts) = (plan, parts);
    loop {
        let (predicate, left) = join_parts(parts);
        let Some(predicate) = predicate else {
            return plan;
        };
        plan = LogicalPlan::Filter {
            input: plan.into(),
            predicate,
        };
        parts = left;
    }
}

/// Whether no row of `schema` makes the expression an error. The engine is asked: what fails are
/// steps of which some are not in the expression, such as conversions.
pub(super) fn never_fails(expr: &Expr, schema: &Schema) -> bool {
    compile(expr, schema).is_ok_and(|compiled| !compiled.can_fail())
}

/// As [`never_fails`], for rows that `plans` make, side by side.
pub(super) fn never_fails_over(expr: &Expr, plans: &[&LogicalPlan]) -> bool {
    never_fails(expr, &types_of(plans, &columns([expr])))
}

/// The predicate in terms of the columns behind `exprs`; none if it reads a computed one, which
/// would be computed twice.
pub(super) fn behind(predicate: &Expr, exprs: &[Expr]) -> Option<Expr> {
    let source = |name: &str| {
        let made = exprs.iter().find(|expr| output_name(expr) == name)?;
        matches!(unaliased(made), Expr::Column(_)).then(|| unaliased(made).clone())
    };
    let plain = columns([predicate])
        .iter()
        .all(|name| source(name).is_some());
    plain.then(|| replace_columns(predicate, &source))
}

/// Whether a predicate is not true where all of these columns are null, which is how the rows of
/// an outer join look that found no match.
pub(super) fn rejects_nulls(predicate: &Expr, nulls: &BTreeSet<String>) -> bool {
    match predicate {
        Expr::Binary {
            left,
            op: BinaryOp::And,
            right,
        } => rejects_nulls(left, nulls) || rejects_nulls(right, nulls),
        Expr::Binary {
            left,
            op: BinaryOp::Or,
            right,
        } => rejects_nulls(left, nulls) && rejects_nulls(right, nulls),
        Expr::Not(inner) => is_true_or_null(inner, nulls),
        Expr::Literal(Literal::Boolean(value)) => !value,
        other => is_null(other, nulls),
    }
}

/// Whether the negation of `expr` is not true where the columns `nulls` are.
fn is_true_or_null(expr: &Expr, nulls: &BTreeSet<String>) -> bool {
    match expr {
        Expr::IsNull(inner) => is_null(inner, nulls),
        other => is_null(other, nulls),
    }
}

/// Whether `expr` is null where the columns `nulls` are.
fn is_null(expr: &Expr, nulls: &BTreeSet<String>) -> bool {
    let any = || expr.operands().into_iter().any(|part| is_null(part, nulls));
    match expr {
        Expr::Column(name) => nulls.contains(name),
        Expr::Literal(literal) => *literal == Literal::Null,
        Expr::Binary {
            left,
            op: BinaryOp::And | BinaryOp::Or,
            right,
        } => is_null(left, nulls) && is_null(right, nulls),
        Expr::Binary { .. }
        | Expr::Not(_)
        | Expr::Negate(_)
        | Expr::Cast { .. }
        | Expr::Alias { .. } => any(),
        Expr::InList { expr, .. } => is_null(expr, nulls),
        Expr::Function { function, .. } => is_strict(*function) && any(),
        Expr::IsNull(_) | Expr::Case { .. } | Expr::Udf { .. } => false,
    }
}

/// Whether a function is null as soon as one of its arguments is. What is not listed is taken for
/// one that is not.
fn is_strict(function: Function) -> bool {
    use Function::*;
    let of_texts = matches!(
        function,
        Words | Lower | Upper | Length | Trim | Ltrim | Rtrim | Substring | Left | Right | Concat
    );
    let of_two_texts = matches!(
        function,
        Contains | StartsWith | EndsWith | RegexpLike | Like | Ilike | Strpos | Ascii
    );
    let of_times = matches!(
        function,
        Year | Quarter
            | Month
            | Week
            | Day
            | DayOfWeek
            | DayOfYear
            | Hour
            | Minute
            | Second
            | EpochSeconds
            | DateTrunc
            | DateDiff
    );
    of_texts || of_two_texts || of_times || function == Abs
}

#[cfg(test)]
mod tests {
    use kiln_engine::expr::{coalesce, col, lit};

    use super::*;

    #[test]
    fn nulls_are_rejected_where_the_predicate_cannot_be_true() {
        let nulls = ["x".to_owned(), "y".to_owned()].into();
        for (predicate, expected) in [
            (col("x").gt(1), true),
            (col("a").gt(1), false),
            (col("x").gt(1).and(col("a")), true),
            (col("x").gt(1).or(col("a")), false),
            (col("x").gt(1).or((col("y") + 1).eq(col("a"))), true),
            (col("x").is_null(), false),
            (col("x").is_not_null(), true),
            (!col("x").gt(1), true),
            (coalesce([col("x"), lit(2)]).gt(1), false),
        ] {
            assert_eq!(rejects_nulls(&predicate, &nulls), expected, "{predicate}");
        }
    }

    #[test]
    fn many_parts_become_predicates_within_the_limit() {
        let parts: Vec<Expr> = (0..200).map(|n| col("a").gt(n)).collect();
        let mut left = parts.clone();
        let mut found = Vec::new();
        while let (Some(predicate), rest) = join_parts(left) {
            assert!(depth(&predicate) <= limits::EXPR_DEPTH_MAX);
            found.extend(predicate.conjuncts().into_iter().cloned());
            left = rest;
        }
        assert_eq!(found, parts);
    }
}
