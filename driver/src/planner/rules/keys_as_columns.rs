//! Grouping keys are columns, so that a key that is computed is computed once: before the rows
//! are grouped, and never again on the way.

use std::sync::Arc;

use kiln_engine::Result;
use kiln_engine::expr::{AggregateExpr, Expr, col, output_name};
use kiln_engine::plan::LogicalPlan;

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
    let read = columns(
        aggregates
            .iter()
            .filter_map(|aggregate| aggregate.argument.as_ref()),
    );
    let hidden = |name: &String| keys.contains(name) && !exprs.contains(&col(name));
    if read.iter().any(hidden) {
        // An argument reads a column whose name a key has taken: it is computed below, too.
        for aggregate in &mut aggregates {
            if let Some(argument) = aggregate.argument.take() {
                let mut name = format!("{}:in", aggregate.name);
                while keys.contains(&name) {
                    name.push(':');
                }
                exprs.push(argument.alias(&name));
                aggregate.argument = Some(col(name));
            }
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
    use kiln_engine::expr::{count_all, lower, max, sum};

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
    fn plain_columns_stay() {
        let plan = table().aggregate([col("a")], [count_all()]).0;
        assert_eq!(keys_as_columns(plan.clone()).expect("a plan"), plan);
    }
}
