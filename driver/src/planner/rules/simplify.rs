//! Constants are computed once, and what is always true is not asked.
//!
//! Only what cannot fail and cannot change a type is folded; an overflow is left for the rows to
//! meet, because a plan without rows must not fail.

use kiln_engine::Result;
use kiln_engine::expr::{BinaryOp, Expr, Literal, output_name};
use kiln_engine::plan::LogicalPlan;

use crate::planner::rewrite::{map_expr, named, rewrite_up, unaliased};

/// Folds constants in every expression and drops filters that keep every row.
pub(in crate::planner) fn simplify(plan: LogicalPlan) -> Result<LogicalPlan> {
    Ok(rewrite_up(&plan, |node| match node {
        LogicalPlan::Project { input, exprs } => LogicalPlan::Project {
            input,
            exprs: exprs.into_iter().map(fold_named).collect(),
        },
        LogicalPlan::Filter { input, predicate } => match fold(predicate) {
            Expr::Literal(Literal::Boolean(true)) => input.as_ref().clone(),
            predicate => LogicalPlan::Filter { input, predicate },
        },
        LogicalPlan::Aggregate {
            input,
            group_by,
            mut aggregates,
        } => {
            for aggregate in &mut aggregates {
                aggregate.argument = aggregate.argument.take().map(fold);
            }
            LogicalPlan::Aggregate {
                input,
                group_by: group_by.into_iter().map(fold_named).collect(),
                aggregates,
            }
        }
        other => other,
    }))
}

/// Folds, and keeps the name of the column.
fn fold_named(expr: Expr) -> Expr {
    let name = output_name(&expr);
    named(fold(expr), &name)
}

fn fold(expr: Expr) -> Expr {
    map_expr(expr, &mut |expr| match expr {
        Expr::Not(inner) => match *inner {
            Expr::Literal(Literal::Boolean(value)) => Expr::Literal(Literal::Boolean(!value)),
            Expr::Not(inner) => *inner,
            inner => Expr::Not(Box::new(inner)),
        },
        Expr::Binary { left, op, right } => fold_binary(*left, op, *right),
        Expr::Alias { expr, name } => unaliased(&expr).clone().alias(name),
        other => other,
    })
}

fn fold_binary(left: Expr, op: BinaryOp, right: Expr) -> Expr {
    use Literal::{Boolean, Int64};
    let folded = match (&left, op, &right) {
        (Expr::Literal(Boolean(true)), BinaryOp::And, other)
        | (other, BinaryOp::And, Expr::Literal(Boolean(true)))
        | (Expr::Literal(Boolean(false)), BinaryOp::Or, other)
        | (other, BinaryOp::Or, Expr::Literal(Boolean(false))) => Some(other.clone()),
        (Expr::Literal(Boolean(false)), BinaryOp::And, _)
        | (_, BinaryOp::And, Expr::Literal(Boolean(false))) => Some(Expr::Literal(Boolean(false))),
        (Expr::Literal(Boolean(true)), BinaryOp::Or, _)
        | (_, BinaryOp::Or, Expr::Literal(Boolean(true))) => Some(Expr::Literal(Boolean(true))),
        (Expr::Literal(Int64(a)), op, Expr::Literal(Int64(b))) => fold_integers(*a, op, *b),
        (Expr::Literal(Literal::Utf8(a)), op, Expr::Literal(Literal::Utf8(b))) => compare(a, op, b),
        _ => None,
    };
    folded.unwrap_or_else(|| Expr::binary(left, op, right))
}

fn fold_integers(a: i64, op: BinaryOp, b: i64) -> Option<Expr> {
    let number = match op {
        BinaryOp::Add => a.checked_add(b),
        BinaryOp::Subtract => a.checked_sub(b),
        BinaryOp::Multiply => a.checked_mul(b),
        _ => return compare(&a, op, &b),
    };
    number.map(|number| Expr::Literal(Literal::Int64(number)))
}

fn compare<T: Ord>(a: &T, op: BinaryOp, b: &T) -> Option<Expr> {
    let holds = match op {
        BinaryOp::Equal => a == b,
        BinaryOp::NotEqual => a != b,
        BinaryOp::Less => a < b,
        BinaryOp::LessOrEqual => a <= b,
        BinaryOp::Greater => a > b,
        BinaryOp::GreaterOrEqual => a >= b,
        _ => return None,
    };
    Some(Expr::Literal(Literal::Boolean(holds)))
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use kiln_engine::expr::{col, lit, sum};

    use super::super::fixture::{check, table};
    use super::*;

    #[test]
    fn constants_are_folded_under_the_name_they_had() {
        let plan = table()
            .filter(
                lit("a")
                    .lt("b")
                    .and(col("a").gt(lit(2) * 3).or(lit(1).gt(2))),
            )
            .project([
                col("a"),
                lit(1) + 1,
                lit(i64::MAX) + 1,
                col("b").alias("x").alias("y"),
            ]);
        check(
            simplify,
            plan,
            expect![[r#"
                project a, 1 + 1, 9223372036854775807 + 1, (b AS x) AS y
                  filter "a" < "b" AND (a > 2 * 3 OR 1 > 2)
                    scan parquet [s, a, b, c] from memory:///in
                →
                project a, 2 AS `1 + 1`, 9223372036854775807 + 1, b AS y
                  filter a > 6
                    scan parquet [s, a, b, c] from memory:///in
            "#]],
        );
    }

    #[test]
    fn a_filter_that_keeps_everything_goes() {
        let plan = table()
            .filter(!(!lit(true)).or(col("a").gt(1)))
            .aggregate([col("a") + (lit(1) + 1)], [sum(col("b") * (lit(2) - 1))]);
        check(
            simplify,
            plan,
            expect![[r#"
                aggregate by a + (1 + 1): sum(b * (2 - 1))
                  filter NOT (NOT true OR a > 1)
                    scan parquet [s, a, b, c] from memory:///in
                →
                aggregate by a + 2 AS `a + (1 + 1)`: sum(b * 1) AS `sum(b * (2 - 1))`
                  filter NOT a > 1
                    scan parquet [s, a, b, c] from memory:///in
            "#]],
        );
    }
}
