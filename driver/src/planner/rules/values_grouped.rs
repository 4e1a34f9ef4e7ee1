//! Different values of all rows together are groups.
//!
//! To count them they would have to meet in one place. Grouped by value they are thinned out
//! wherever they are, dealt out to all tasks, and go to disk where they do not fit into memory.

use std::sync::Arc;

use kiln_engine::Result;
use kiln_engine::expr::{AggregateExpr, AggregateFunction, Expr, col, count};
use kiln_engine::plan::LogicalPlan;

use crate::planner::rewrite::{named, rewrite_up};

/// What values are called in between.
const VALUE: &str = "value";

/// Makes `count(distinct …)` over all rows a count of groups.
pub(in crate::planner) fn values_grouped(plan: LogicalPlan) -> Result<LogicalPlan> {
    Ok(rewrite_up(&plan, |node| match node {
        LogicalPlan::Aggregate {
            input,
            group_by,
            aggregates,
        } => match (group_by.as_slice(), aggregates.as_slice()) {
            ([], [aggregate]) => grouped(&input, aggregate).unwrap_or(LogicalPlan::Aggregate {
                input,
                group_by,
                aggregates,
            }),
            _ => LogicalPlan::Aggregate {
                input,
                group_by,
                aggregates,
            },
        },
        other => other,
    }))
}

/// The number of values that `aggregate` counts, if that is what it does.
fn grouped(input: &Arc<LogicalPlan>, aggregate: &AggregateExpr) -> Option<LogicalPlan> {
    let (AggregateFunction::CountDistinct, [value]) =
        (&aggregate.function, aggregate.arguments.as_slice())
    else {
        return None;
    };
    let input = match &aggregate.filter {
        Some(predicate) => Arc::new(LogicalPlan::Filter {
            input: Arc::clone(input),
            predicate: Expr::clone(predicate),
        }),
        None => Arc::clone(input),
    };
    let values = LogicalPlan::Aggregate {
        input,
        group_by: vec![named(value.clone(), VALUE)],
        aggregates: Vec::new(),
    };
    Some(LogicalPlan::Aggregate {
        input: Arc::new(values),
        group_by: Vec::new(),
        // Null is a group, but no value.
        aggregates: vec![count(col(VALUE)).alias(&aggregate.name)],
    })
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use kiln_engine::expr::{count_distinct, lit, sum};

    use super::super::fixture::{check, table};
    use super::*;

    #[test]
    fn different_values_of_all_rows_are_groups() {
        let plan = table().aggregate([], [count_distinct(col("a") + col("b")).alias("n")]);
        check(
            values_grouped,
            plan,
            expect![[r#"
            aggregate: count_distinct(a + b) AS n
              scan parquet [s, a, b, c] from memory:///in
            →
            aggregate: count(value) AS n
              aggregate by a + b AS value
                scan parquet [s, a, b, c] from memory:///in
        "#]],
        );
        let few = count_distinct(col("a")).filter(col("b").gt(lit(3)));
        let plan = table().aggregate([], [few.alias("n")]);
        check(
            values_grouped,
            plan,
            expect![[r#"
            aggregate: count_distinct(a) FILTER (WHERE b > 3) AS n
              scan parquet [s, a, b, c] from memory:///in
            →
            aggregate: count(value) AS n
              aggregate by a AS value
                filter b > 3
                  scan parquet [s, a, b, c] from memory:///in
        "#]],
        );
    }

    #[test]
    fn those_of_groups_and_beside_others_stay() {
        let plan = table().aggregate([col("b")], [count_distinct(col("a"))]);
        check(
            values_grouped,
            plan,
            expect![[r#"
            aggregate by b: count_distinct(a)
              scan parquet [s, a, b, c] from memory:///in
            →
            aggregate by b: count_distinct(a)
              scan parquet [s, a, b, c] from memory:///in
        "#]],
        );
        let both = [count_distinct(col("a")), sum(col("b"))];
        check(
            values_grouped,
            table().aggregate([], both),
            expect![[r#"
            aggregate: count_distinct(a), sum(b)
              scan parquet [s, a, b, c] from memory:///in
            →
            aggregate: count_distinct(a), sum(b)
              scan parquet [s, a, b, c] from memory:///in
        "#]],
        );
    }
}
