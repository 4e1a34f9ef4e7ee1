//! A limit that follows an order makes it a top-k, which keeps only what the limit will.

use std::sync::Arc;

use kiln_engine::Result;
use kiln_engine::plan::{JoinKind, LogicalPlan};

use crate::planner::rewrite::{rewrite_up, with_input, with_inputs};

/// Moves limits below projections, joins adjacent ones, gives those over a sort to it, and takes no
/// more rows of the inputs of a union, and of the left of a left join, than are kept.
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
        LogicalPlan::Union { .. } => {
            let most = offset.saturating_add(limit);
            let inputs = input.inputs().into_iter();
            let inputs = inputs.map(|input| at_most(input, most)).collect();
            over(with_inputs(input, inputs), offset, limit)
        }
        LogicalPlan::Join {
            left,
            right,
            kind: JoinKind::Left,
            ..
        } => {
            // Each row of the left is there at least once.
            let left = at_most(left, offset.saturating_add(limit));
            let inputs = vec![left, Arc::clone(right)];
            over(with_inputs(input, inputs), offset, limit)
        }
        other => over(other.clone(), offset, limit),
    }
}

/// Only so many rows of `plan`, if it may have more.
fn at_most(plan: &Arc<LogicalPlan>, rows: u64) -> Arc<LogicalPlan> {
    if rows_at_most(plan).is_some_and(|most| most <= rows) {
        return Arc::clone(plan);
    }
    Arc::new(LogicalPlan::Limit {
        input: Arc::clone(plan),
        offset: 0,
        limit: rows,
    })
}

/// How many rows a plan has at most, where its root says so.
fn rows_at_most(plan: &LogicalPlan) -> Option<u64> {
    match plan {
        LogicalPlan::Limit { limit, .. } => Some(*limit),
        LogicalPlan::Sort { limit, input, .. } => limit.or_else(|| rows_at_most(input)),
        LogicalPlan::Project { input, .. }
        | LogicalPlan::Filter { input, .. }
        | LogicalPlan::Repartition { input, .. }
        | LogicalPlan::SortPartitions { input, .. } => rows_at_most(input),
        LogicalPlan::Aggregate { group_by, .. } if group_by.is_empty() => Some(1),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use kiln_engine::expr::{col, count_all};

    use super::super::fixture::{check, numbers, table};
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
    #[test]
    fn inputs_give_no_more_than_is_kept() {
        let other = table().aggregate([], [count_all().alias("a")]);
        let plan = table().project([col("a")]).union(other).limit(2, 3);
        check(
            limits_together,
            plan,
            expect![[r#"
            limit 3 after 2
              union
                project a
                  scan parquet [s, a, b, c] from memory:///in
                aggregate: count(*) AS a
                  scan parquet [s, a, b, c] from memory:///in
            →
            limit 3 after 2
              union
                limit 5
                  project a
                    scan parquet [s, a, b, c] from memory:///in
                aggregate: count(*) AS a
                  scan parquet [s, a, b, c] from memory:///in
        "#]],
        );
        let plan = table()
            .join(numbers(&["k"]), JoinKind::Left, [(col("a"), col("k"))])
            .limit(0, 3);
        check(
            limits_together,
            plan.clone(),
            expect![[r#"
            limit 3
              join left on a = k
                scan parquet [s, a, b, c] from memory:///in
                scan parquet [k] from memory:///in
            →
            limit 3
              join left on a = k
                limit 3
                  scan parquet [s, a, b, c] from memory:///in
                scan parquet [k] from memory:///in
        "#]],
        );
        let once = limits_together(plan.0).expect("a plan");
        assert_eq!(limits_together(once.clone()).expect("a plan"), once);
    }
}
