//! Grouping keys are columns, so that a key that is computed is computed once: before the rows
//! are grouped, and never again on the way.

use std::sync::Arc;

use kiln_engine::Result;
use kiln_engine::expr::{AggregateExpr, Expr, case_when, col, output_name};
use kiln_engine::plan::LogicalPlan;

use crate::planner::predicate::never_fails_over;
use crate::planner::rewrite::{columns, rewrite_up};

/// Moves computed keys into a projection below the aggregate.
pub(in crate::planner) fn keys_as_columns(plan: LogicalPlan) -> Result<LogicalPlan> {
    Ok(rewrite_up(&plan, |node| match node {
        LogicalPlan::Aggregate {
            input,
            group_by,
            aggregates,
        } if group_by.iter().any(|key| !matches!(key, Expr::Column(_))) => {
            split(input, group_by, aggregates)
        }
        other => other,
    }))
}

fn split(
    input: Arc<LogicalPlan>,
    group_by: Vec<Expr>,
    mut aggregates: Vec<AggregateExpr>,
) -> LogicalPlan {
    let keys: Vec<String> = group_by.iter().map(output_name).collect();
    let mut exprs = group_by;
    let arguments = aggregates
        .iter()
        .flat_map(|aggregate| aggregate.arguments.iter().chain(&aggregate.filter));
    let read = columns(arguments);
    let hidden = |name: &String| keys.contains(name) && !exprs.contains(&col(name));
    if read.iter().any(hidden) {
        // An argument reads a column whose name a key has taken: it is computed below, too.
        let mut below = |expr: Expr, mut name: String| {
            while keys.contains(&name) || exprs.iter().any(|expr| output_name(expr) == name) {
                name.push(':');
            }
            exprs.push(expr.alias(&name));
            col(name)
        };
        for aggregate in &mut aggregates {
            let name = |part: &str| format!("{}:{part}", aggregate.name);
            let (argument, filter) = (name("in"), name("if"));
            let needed = |expr: Expr| match &aggregate.filter {
                // There is no value to be had for rows that do not count.
                Some(only) if !never_fails_over(&expr, &[&input]) => {
                    case_when(only.clone(), expr).end()
                }
                _ => expr,
            };
            let arguments = std::mem::take(&mut aggregate.arguments)
                .into_iter()
                .map(needed);
            let arguments: Vec<Expr> = arguments.collect();
            let arguments = arguments.into_iter();
            aggregate.arguments = arguments
                .map(|expr| below(expr, argument.clone()))
                .collect();
            aggregate.filter = aggregate.filter.take().map(|expr| below(expr, filter));
        }
    } else {
        exprs.extend(
            read.into_iter()
                .filter(|name| !keys.contains(name))
                .map(col),
        );
    }
    LogicalPlan::Aggregate {
        input: LogicalPlan::Project { input, exprs }.into(),
        group_by: keys.into_iter().map(col).collect(),
        aggregates,
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use kiln_engine::expr::{count_all, length, lower, max, sum};

    use super::super::fixture::{check, table};
    use super::*;

    #[test]
    fn a_computed_key_becomes_a_column() {
        let plan = table().aggregate([col("a"), lower(col("s"))], [sum(col("b") + col("a"))]);
        check(
            keys_as_columns,
            plan,
            expect![[r#"
            aggregate by a, lower(s): sum(b + a)
              scan parquet [s, a, b, c] from memory:///in
            →
            aggregate by a, `lower(s)`: sum(b + a)
              project a, lower(s), b
                scan parquet [s, a, b, c] from memory:///in
        "#]],
        );
    }

    #[test]
    fn an_argument_sees_the_column_and_not_the_key_of_its_name() {
        let keys = [lower(col("s")).alias("s")];
        let plan = table().aggregate(keys, [max(col("s")), count_all()]);
        check(
            keys_as_columns,
            plan,
            expect![[r#"
            aggregate by lower(s) AS s: max(s), count(*)
              scan parquet [s, a, b, c] from memory:///in
            →
            aggregate by s: max(`max(s):in`) AS `max(s)`, count(*)
              project lower(s) AS s, s AS `max(s):in`
                scan parquet [s, a, b, c] from memory:///in
        "#]],
        );
    }

    #[test]
    fn a_filter_of_an_aggregate_has_its_columns() {
        let only = |key: &str| [lower(col("s")).alias(key)];
        let counted = || count_all().filter(col("c").gt(length(col("s")))).alias("n");
        let plan = table().aggregate(only("key"), [counted()]);
        check(
            keys_as_columns,
            plan,
            expect![[r#"
            aggregate by lower(s) AS key: count(*) FILTER (WHERE c > length(s)) AS n
              scan parquet [s, a, b, c] from memory:///in
            →
            aggregate by key: count(*) FILTER (WHERE c > length(s)) AS n
              project lower(s) AS key, c, s
                scan parquet [s, a, b, c] from memory:///in
        "#]],
        );
        let plan = table().aggregate(only("s"), [counted()]);
        check(
            keys_as_columns,
            plan,
            expect![[r#"
            aggregate by lower(s) AS s: count(*) FILTER (WHERE c > length(s)) AS n
              scan parquet [s, a, b, c] from memory:///in
            →
            aggregate by s: count(*) FILTER (WHERE `n:if`) AS n
              project lower(s) AS s, c > length(s) AS `n:if`
                scan parquet [s, a, b, c] from memory:///in
        "#]],
        );
    }

    #[test]
    fn plain_columns_stay() {
        let plan = table().aggregate([col("a")], [count_all()]).0;
        assert_eq!(keys_as_columns(plan.clone()).expect("a plan"), plan);
    }
}
