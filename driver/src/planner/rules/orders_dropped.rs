//! Rows are not put in an order that the next operator does not keep.

use std::sync::Arc;

use kiln_engine::Result;
use kiln_engine::plan::LogicalPlan;

use crate::planner::rewrite::{rewrite_up, with_inputs};

/// Drops sorts without a limit below joins, aggregates, other sorts and repartitions, of which one
/// below another is dropped as well.
pub(in crate::planner) fn orders_dropped(plan: LogicalPlan) -> Result<LogicalPlan> {
    Ok(rewrite_up(&plan, |node| match node {
        LogicalPlan::Join { .. }
        | LogicalPlan::Aggregate { .. }
        | LogicalPlan::Sort { .. }
        | LogicalPlan::SortPartitions { .. } => over_unordered(&node),
        LogicalPlan::Repartition { .. } => match over_unordered(&node) {
            LogicalPlan::Repartition {
                input,
                keys,
                partitions,
            } => LogicalPlan::Repartition {
                input: whole(&input),
                keys,
                partitions,
            },
            other => other,
        },
        other => other,
    }))
}

fn over_unordered(node: &LogicalPlan) -> LogicalPlan {
    let inputs = node.inputs().into_iter().map(unordered);
    with_inputs(node, inputs.collect())
}

/// The same rows in any order.
fn unordered(plan: &Arc<LogicalPlan>) -> Arc<LogicalPlan> {
    match plan.as_ref() {
        LogicalPlan::Sort {
            input, limit: None, ..
        }
        | LogicalPlan::SortPartitions { input, .. } => unordered(input),
        LogicalPlan::Project { .. }
        | LogicalPlan::Filter { .. }
        | LogicalPlan::Explode { .. }
        | LogicalPlan::Union { .. } => Arc::new(over_unordered(plan)),
        _ => Arc::clone(plan),
    }
}

/// The same rows in any tasks.
fn whole(plan: &Arc<LogicalPlan>) -> Arc<LogicalPlan> {
    match plan.as_ref() {
        LogicalPlan::Repartition { input, .. } => whole(input),
        _ => Arc::clone(plan),
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use kiln_engine::expr::{col, count_all};

    use super::super::fixture::{check, table};
    use super::*;

    #[test]
    fn what_is_dealt_out_again_is_dealt_out_once() {
        let plan = table()
            .sort([col("a").asc()])
            .repartition(3, &["a"])
            .sort_partitions([col("b").asc()])
            .repartition(2, &[])
            .sort_partitions([col("b").asc()])
            .sort_partitions([col("c").asc()]);
        check(
            orders_dropped,
            plan,
            expect![[r#"
            sort within partitions by c
              sort within partitions by b
                repartition into 2
                  sort within partitions by b
                    repartition into 3 by a
                      sort by a
                        scan parquet [s, a, b, c] from memory:///in
            →
            sort within partitions by c
              repartition into 2
                scan parquet [s, a, b, c] from memory:///in
        "#]],
        );
    }

    #[test]
    fn only_orders_that_can_be_seen_are_made() {
        let sorted = table().sort([col("a").asc()]);
        let plan = sorted
            .clone()
            .filter(col("b").gt(1))
            .union(sorted.clone().limit(0, 3))
            .aggregate([col("b")], [count_all().alias("n")])
            .sort([col("n").asc()])
            .sort([col("b").asc()]);
        check(
            orders_dropped,
            plan,
            expect![[r#"
            sort by b
              sort by n
                aggregate by b: count(*) AS n
                  union
                    filter b > 1
                      sort by a
                        scan parquet [s, a, b, c] from memory:///in
                    limit 3
                      sort by a
                        scan parquet [s, a, b, c] from memory:///in
            →
            sort by b
              aggregate by b: count(*) AS n
                union
                  filter b > 1
                    scan parquet [s, a, b, c] from memory:///in
                  limit 3
                    sort by a
                      scan parquet [s, a, b, c] from memory:///in
        "#]],
        );
    }
}
