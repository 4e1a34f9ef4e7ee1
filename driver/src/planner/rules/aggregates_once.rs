//! What is computed for a group twice is computed once, and what all groups have in common is no
//! key.

use std::sync::Arc;

use kiln_engine::Result;
use kiln_engine::expr::{AggregateExpr, Expr, col, output_name};
use kiln_engine::plan::LogicalPlan;

use crate::planner::rewrite::{named, rewrite_up, unaliased};

/// Takes repeated aggregates, repeated keys and constant keys out of groupings, and adds their
/// columns again above.
pub(in crate::planner) fn aggregates_once(plan: LogicalPlan) -> Result<LogicalPlan> {
    Ok(rewrite_up(&plan, |node| match node {
        LogicalPlan::Aggregate {
            input,
            group_by,
            aggregates,
        } => once(input, group_by, aggregates),
        other => other,
    }))
}

fn once(
    input: Arc<LogicalPlan>,
    group_by: Vec<Expr>,
    aggregates: Vec<AggregateExpr>,
) -> LogicalPlan {
    let constant = |key: &Expr| matches!(unaliased(key), Expr::Literal(_));
    // Without any key there would be a group even if there are no rows.
    let may_drop_constants = group_by.iter().any(|key| !constant(key));
    let mut columns = Vec::new();
    let mut keys: Vec<Expr> = Vec::new();
    for key in &group_by {
        let name = output_name(key);
        let same = |other: &&Expr| unaliased(other) == unaliased(key);
        if constant(key) && may_drop_constants {
            columns.push(named(key.clone(), &name));
        } else if let Some(other) = keys.iter().find(same) {
            columns.push(named(col(output_name(other)), &name));
        } else {
            keys.push(key.clone());
            columns.push(col(name));
        }
    }
    let mut kept: Vec<AggregateExpr> = Vec::new();
    for aggregate in &aggregates {
        let same = |other: &&AggregateExpr| {
            let renamed = (*other).clone().alias(&aggregate.name);
            renamed == *aggregate
        };
        if let Some(other) = kept.iter().find(same) {
            columns.push(named(col(&other.name), &aggregate.name));
        } else {
            kept.push(aggregate.clone());
            columns.push(col(&aggregate.name));
        }
    }
    let is_same = keys.len() == group_by.len() && kept.len() == aggregates.len();
    let grouped = LogicalPlan::Aggregate {
        input,
        group_by: keys,
        aggregates: kept,
    };
    if is_same {
        return grouped;
    }
    LogicalPlan::Project {
        input: grouped.into(),
        exprs: columns,
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use kiln_engine::expr::{count_all, lit, sum};

    use super::super::fixture::{check, table};
    use super::*;

    #[test]
    fn repeated_aggregates_and_keys_become_columns_above() {
        let keys = [col("a"), lit("x").alias("kind"), col("a").alias("again")];
        let sums = [
            sum(col("b")),
            count_all().alias("n"),
            sum(col("b")).alias("total"),
        ];
        check(
            aggregates_once,
            table().aggregate(keys, sums),
            expect![[r#"
                aggregate by a, "x" AS kind, a AS again: sum(b), count(*) AS n, sum(b) AS total
                  scan parquet [s, a, b, c] from memory:///in
                →
                project a, "x" AS kind, a AS again, `sum(b)`, n, `sum(b)` AS total
                  aggregate by a: sum(b), count(*) AS n
                    scan parquet [s, a, b, c] from memory:///in
            "#]],
        );
    }

    #[test]
    fn the_last_key_stays() {
        let plan = table().aggregate([lit(1).alias("one")], [count_all()]).0;
        assert_eq!(aggregates_once(plan.clone()).expect("a plan"), plan);
    }
}
