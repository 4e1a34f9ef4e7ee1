//! Constants are computed once, and what is always true is not asked.

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use kiln_engine::Result;
use kiln_engine::expr::{AggregateExpr, AggregateFunction, Expr, Literal, output_name, typing};
use kiln_engine::plan::{LogicalPlan, Scan};

use super::fold::fold;
use crate::planner::rewrite::{named, rewrite_typed};

/// Folds every expression and drops filters that keep every row.
pub(in crate::planner) fn simplify(plan: LogicalPlan) -> Result<LogicalPlan> {
    let (plan, _) = rewrite_typed(&plan, &mut simplify_node)?;
    Ok(plan)
}

fn simplify_node(node: LogicalPlan, schemas: &[SchemaRef]) -> LogicalPlan {
    match (node, schemas) {
        (LogicalPlan::Scan(scan), _) => LogicalPlan::Scan(simplify_scan(scan)),
        (LogicalPlan::Project { input, exprs }, [schema]) => LogicalPlan::Project {
            input,
            exprs: exprs.iter().map(|expr| fold_named(expr, schema)).collect(),
        },
        (LogicalPlan::Filter { input, predicate }, [schema]) => match fold(&predicate, schema) {
            Expr::Literal(Literal::Boolean(true)) => input.as_ref().clone(),
            predicate => LogicalPlan::Filter { input, predicate },
        },
        (
            LogicalPlan::Aggregate {
                input,
                group_by,
                aggregates,
            },
            [schema],
        ) => LogicalPlan::Aggregate {
            input,
            group_by: group_by.iter().map(|key| fold_named(key, schema)).collect(),
            aggregates: aggregates
                .into_iter()
                .map(|aggregate| fold_aggregate(aggregate, schema))
                .collect(),
        },
        (
            LogicalPlan::Join {
                left,
                right,
                kind,
                on,
                filter,
            },
            [lefts, rights],
        ) => LogicalPlan::Join {
            on: on
                .iter()
                .map(|(left, right)| (fold(left, lefts), fold(right, rights)))
                .collect(),
            filter: filter.and_then(|filter| kept(fold(&filter, &pairs(lefts, rights)))),
            left,
            right,
            kind,
        },
        (node, _) => node,
    }
}

/// The columns that the filter of a join sees: those of both sides, of rows that are there.
fn pairs(lefts: &SchemaRef, rights: &SchemaRef) -> Schema {
    let fields = lefts.fields().iter().chain(rights.fields());
    Schema::new(fields.cloned().collect::<Vec<_>>())
}

fn simplify_scan(mut scan: Scan) -> Scan {
    scan.predicate = scan
        .predicate
        .and_then(|predicate| kept(fold(&predicate, &scan.schema)));
    scan
}

/// The predicate, unless it is true.
fn kept(predicate: Expr) -> Option<Expr> {
    (predicate != Expr::Literal(Literal::Boolean(true))).then_some(predicate)
}

/// Folds, and keeps name and type of the column.
fn fold_named(expr: &Expr, schema: &SchemaRef) -> Expr {
    let folded = named(fold(expr, schema), &output_name(expr));
    let data_type = |expr| typing::data_type(expr, schema).ok();
    if folded == *expr || data_type(&folded) == data_type(expr) {
        folded
    } else {
        expr.clone()
    }
}

fn fold_aggregate(aggregate: AggregateExpr, schema: &SchemaRef) -> AggregateExpr {
    let mut folded = aggregate.clone();
    for argument in &mut folded.arguments {
        *argument = fold(argument, schema);
    }
    folded.filter = folded.filter.and_then(|filter| kept(fold(&filter, schema)));
    if let (AggregateFunction::Count, [argument @ Expr::Column(_)]) =
        (&folded.function, folded.arguments.as_slice())
    {
        let field = typing::field(argument, schema);
        if field.is_ok_and(|field| !field.is_nullable()) {
            folded.arguments.clear();
        }
    }
    let made = |aggregate: &AggregateExpr| -> Option<DataType> {
        let field = typing::aggregate_field(aggregate, schema);
        field.ok().map(|field: Field| field.data_type().clone())
    };
    if folded == aggregate || made(&folded) == made(&aggregate) {
        folded
    } else {
        aggregate
    }
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
                  filter a <= 1
                    scan parquet [s, a, b, c] from memory:///in
            "#]],
        );
    }
}
