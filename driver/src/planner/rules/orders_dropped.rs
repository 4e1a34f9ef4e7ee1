//! Rows are not put in an order that the next operator does not keep.

use std::sync::Arc;

use kiln_engine::Result;
use kiln_engine::plan::LogicalPlan;

use crate::planner::rewrite::{rewrite_up, with_inputs};

/// Drops sorts without a limit below joins, aggregates and other sorts.
pub(in crate::planner) fn orders_dropped(plan: LogicalPlan) -> Result<LogicalPlan> {
    Ok(rewrite_up(&plan, |node| match node {
        LogicalPlan::Join { .. } | LogicalPlan::Aggregate { .. } | LogicalPlan::Sort { .. } => {
            over_unordered(&node)
        }
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
        } => unordered(input),
        LogicalPlan::Project { .. }
        | LogicalPlan::Filter { .. }
        | LogicalPlan::Explode { .. }
        | LogicalPlan::Union { .. } => Arc::new(over_unordered(plan)),
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
    fn only_orders_that_can_be_seen_are_made() {
        let sorted = table().sort([col("a").asc()]);
        let plan = sorted
            .clone()
            .filter(col("b").gt(1))
            .union(sorted.clone().limit(0, 3))
            .aggregate([col("b")], [count_all().alias("n")])
            .sort([col("n").asc()])
            .sort([col("b").asc()]);
        check(orders_dropped, plan, expect![[r#"
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
        "#]]);
    }
}
