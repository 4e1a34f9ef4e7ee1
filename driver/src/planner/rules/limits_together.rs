//! A limit that follows an order makes it a top-k, which keeps only what the limit will.

use kiln_engine::Result;
use kiln_engine::plan::LogicalPlan;

use crate::planner::rewrite::{rewrite_up, with_input};

/// Moves limits below projections, joins adjacent ones, and gives those over a sort to it.
pub(in crate::planner) fn limits_together(plan: LogicalPlan) -> Result<LogicalPlan> {
    Ok(rewrite_up(&plan, |node| match node {
        LogicalPlan::Limit {
            input,
            offset,
            limit,
        } => limit_down(&input, offset, limit),
        other => other,
    }))
}

fn limit_down(input: &LogicalPlan, offset: u64, limit: u64) -> LogicalPlan {
    let mut passed = Vec::new();
    let mut node = input;
    while let LogicalPlan::Project { input, .. } = node {
        passed.push(node);
        node = input;
    }
    let limited = limit_here(node, offset, limit);
    passed
        .into_iter()
        .rev()
        .fold(limited, |input, node| with_input(node, input))
}

fn limit_here(input: &LogicalPlan, offset: u64, limit: u64) -> LogicalPlan {
    let over = |input: LogicalPlan, offset, limit| LogicalPlan::Limit {
        input: input.into(),
        offset,
        limit,
    };
    match input {
        LogicalPlan::Limit {
            input,
            offset: inner_offset,
            limit: inner_limit,
        } => {
            let left = inner_limit.saturating_sub(offset);
            over(
                input.as_ref().clone(),
                inner_offset.saturating_add(offset),
                limit.min(left),
            )
        }
        LogicalPlan::Sort {
            input,
            keys,
            limit: inner_limit,
        } => {
            let wanted = offset.saturating_add(limit);
            let sort = LogicalPlan::Sort {
                input: input.clone(),
                keys: keys.clone(),
                limit: Some(inner_limit.map_or(wanted, |inner| inner.min(wanted))),
            };
            if offset == 0 {
                sort
            } else {
                over(sort, offset, limit)
            }
        }
        other => over(other.clone(), offset, limit),
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use kiln_engine::expr::col;

    use super::super::fixture::{check, table};
    use super::*;

    #[test]
    fn a_limit_over_a_sort_is_a_top_k() {
        let plan = table()
            .sort([col("a").desc()])
            .project([col("b")])
            .limit(0, 20);
        check(
            limits_together,
            plan,
            expect![[r#"
            limit 20
              project b
                sort by a DESC
                  scan parquet [s, a, b, c] from memory:///in
            →
            project b
              top 20 by a DESC
                scan parquet [s, a, b, c] from memory:///in
        "#]],
        );
    }

    #[test]
    fn an_offset_stays_above_the_top_k() {
        let plan = table().sort([col("a").desc()]).limit(5, 20);
        check(
            limits_together,
            plan,
            expect![[r#"
            limit 20 after 5
              sort by a DESC
                scan parquet [s, a, b, c] from memory:///in
            →
            limit 20 after 5
              top 25 by a DESC
                scan parquet [s, a, b, c] from memory:///in
        "#]],
        );
    }

    #[test]
    fn adjacent_limits_are_one() {
        let plan = table().limit(2, 10).limit(3, 20).limit(1, 4);
        check(
            limits_together,
            plan,
            expect![[r#"
            limit 4 after 1
              limit 20 after 3
                limit 10 after 2
                  scan parquet [s, a, b, c] from memory:///in
            →
            limit 4 after 6
              scan parquet [s, a, b, c] from memory:///in
        "#]],
        );
        let plan = table().limit(0, 3).limit(5, 2);
        check(
            limits_together,
            plan,
            expect![[r#"
            limit 2 after 5
              limit 3
                scan parquet [s, a, b, c] from memory:///in
            →
            limit 0 after 5
              scan parquet [s, a, b, c] from memory:///in
        "#]],
        );
    }
}
