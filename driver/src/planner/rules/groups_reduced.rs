//! Groups that no row of a join asks for are not made.
//!
//! A subquery that computes something for every key, joined with a few keys, computes it for those
//! keys only: its rows go through a semi join with the keys first. The rows that have the keys are
//! one and the same `Arc` in both places, so that they are made once; this rule is therefore the
//! last one.

use std::sync::Arc;

use kiln_engine::expr::{Expr, col};
use kiln_engine::limits;
use kiln_engine::plan::{JoinKind, LogicalPlan};

use super::filters_at_join::{forgets_left, forgets_right, passes_left, passes_right};
use crate::planner::predicate::{behind, never_fails_over};
use crate::planner::rewrite::{column_set, columns, with_inputs};
use crate::planner::statistics::{Statistics, relation};

/// There have to be this many times as many groups, and rows to make them of, as rows that ask
/// for them.
const REDUCTION_MIN: f64 = 8.0;

/// Adds semi joins below the aggregates of `plan` where few of their groups are asked for.
pub(in crate::planner) fn groups_reduced(
    plan: &LogicalPlan,
    statistics: Statistics,
) -> Arc<LogicalPlan> {
    let inputs = plan.inputs().into_iter();
    let inputs = inputs.map(|input| groups_reduced(input, statistics));
    let node = with_inputs(plan, inputs.collect());
    Arc::new(match &node {
        LogicalPlan::Join {
            left,
            right,
            kind,
            on,
            ..
        } => {
            let turned: Vec<(Expr, Expr)> = on.iter().map(turn).collect();
            let asked_by_left = || Reduction::new(left, &turned, statistics).of(right);
            let asked_by_right = || Reduction::new(right, on, statistics).of(left);
            if forgets_right(*kind)
                && let Some(right) = asked_by_left()
            {
                with_inputs(&node, vec![Arc::clone(left), right])
            } else if forgets_left(*kind)
                && let Some(left) = asked_by_right()
            {
                with_inputs(&node, vec![left, Arc::clone(right)])
            } else {
                node
            }
        }
        _ => node,
    })
}

fn turn((left, right): &(Expr, Expr)) -> (Expr, Expr) {
    (right.clone(), left.clone())
}

/// The rows that ask for groups.
struct Reduction<'a> {
    asking: &'a Arc<LogicalPlan>,
    /// A key of the groups, and what of the asking rows it is compared with.
    keys: Vec<(Expr, Expr)>,
    statistics: Statistics<'a>,
}

impl<'a> Reduction<'a> {
    fn new(
        asking: &'a Arc<LogicalPlan>,
        keys: &[(Expr, Expr)],
        statistics: Statistics<'a>,
    ) -> Self {
        Reduction {
            asking,
            keys: keys.to_vec(),
            statistics,
        }
    }

    /// The same keys by the names that they have below a node; those that it makes are left out.
    fn below(&self, exprs: &[Expr]) -> Self {
        let keys = self.keys.iter();
        let keys = keys.filter_map(|(key, other)| Some((behind(key, exprs)?, other.clone())));
        Reduction {
            keys: keys.collect(),
            ..*self
        }
    }

    /// `plan` with fewer groups; none if it has none, or if that is not worth it.
    fn of(&self, plan: &Arc<LogicalPlan>) -> Option<Arc<LogicalPlan>> {
        let input = match plan.as_ref() {
            LogicalPlan::Project { input, exprs } => self.below(exprs).of(input)?,
            LogicalPlan::Filter { input, .. } => self.of(input)?,
            LogicalPlan::Aggregate {
                input, group_by, ..
            } => {
                // Rows are asked below that are not grouped, so asking must not fail.
                let can_be_asked = |(key, other): &(Expr, Expr)| {
                    let asked = key.clone().eq(other.clone());
                    !columns([key]).is_empty() && never_fails_over(&asked, &[input, self.asking])
                };
                let mut below = self.below(group_by);
                below.keys.retain(can_be_asked);
                if below.keys.is_empty() || is_large(self.asking) || !self.is_worth_it(plan, input)
                {
                    return None;
                }
                below.choose(input)
            }
            _ => return None,
        };
        Some(Arc::new(with_inputs(plan, vec![input])))
    }

    fn is_worth_it(&self, groups: &LogicalPlan, rows: &LogicalPlan) -> bool {
        let size = |plan| {
            let relation = relation(plan, self.statistics);
            relation.known.then_some(relation.rows)
        };
        match (size(self.asking), size(groups), size(rows)) {
            (Some(asking), Some(groups), Some(rows)) => asking * REDUCTION_MIN <= groups.min(rows),
            _ => false,
        }
    }

    /// The rows of `plan` that have a key that is asked for, chosen as far down as all keys are.
    fn choose(&self, plan: &Arc<LogicalPlan>) -> Arc<LogicalPlan> {
        match plan.as_ref() {
            LogicalPlan::Project { input, exprs } => {
                let below = self.below(exprs);
                if below.keys.len() == self.keys.len() {
                    return Arc::new(with_inputs(plan, vec![below.choose(input)]));
                }
            }
            LogicalPlan::Filter { input, .. } => {
                return Arc::new(with_inputs(plan, vec![self.choose(input)]));
            }
            LogicalPlan::Join {
                left, right, kind, ..
            } => {
                let read = columns(self.keys.iter().map(|(key, _)| key));
                if passes_left(*kind) && read.is_subset(&column_set(left)) {
                    let inputs = vec![self.choose(left), Arc::clone(right)];
                    return Arc::new(with_inputs(plan, inputs));
                }
                if passes_right(*kind) && read.is_subset(&column_set(right)) {
                    let inputs = vec![Arc::clone(left), self.choose(right)];
                    return Arc::new(with_inputs(plan, inputs));
                }
            }
            _ => {}
        }
        self.semi_join(plan)
    }

    fn semi_join(&self, plan: &Arc<LogicalPlan>) -> Arc<LogicalPlan> {
        let taken = column_set(plan);
        let (mut exprs, mut on) = (Vec::new(), Vec::new());
        for (index, (key, other)) in self.keys.iter().enumerate() {
            let mut name = format!("key {index}");
            while taken.contains(&name) {
                name.push('\'');
            }
            exprs.push(other.clone().alias(&name));
            on.push((key.clone(), col(name)));
        }
        let asking = LogicalPlan::Project {
            input: Arc::clone(self.asking),
            exprs,
        };
        Arc::new(LogicalPlan::Join {
            left: Arc::clone(plan),
            right: asking.into(),
            kind: JoinKind::Semi,
            on,
            filter: None,
        })
    }
}

/// Whether a plan is too large to be used once more.
fn is_large(plan: &LogicalPlan) -> bool {
    let mut open = vec![plan];
    let mut met = 0;
    while let Some(node) = open.pop() {
        met += 1;
        if met > limits::PLAN_REUSED_NODES_MAX {
            return true;
        }
        open.extend(node.inputs().into_iter().map(AsRef::as_ref));
    }
    false
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use kiln_engine::expr::{avg, lit, sum};
    use kiln_engine::plan::{explain_logical, schema_of};

    use super::super::fixture::{Plan, one_of, tpch, tpch_statistics};
    use super::*;
    use crate::planner::optimize;

    fn optimised(plan: Plan) -> String {
        let columns = |plan: &LogicalPlan| {
            let schema = schema_of(plan).expect("a plan that fits together");
            schema
                .fields()
                .iter()
                .map(|field| field.name().clone())
                .collect::<Vec<_>>()
        };
        let wanted = columns(&plan.0);
        let plan = optimize(plan.0, &tpch_statistics).expect("an optimised plan");
        assert_eq!(columns(&plan), wanted);
        explain_logical(&plan).replace("memory:///", "")
    }

    #[test]
    fn q17() {
        let average = tpch("lineitem")
            .project([
                col("l_partkey").alias("key"),
                col("l_quantity").alias("of_key"),
            ])
            .aggregate([col("key")], [avg(col("of_key")).alias("average")]);
        let plan = tpch("lineitem")
            .join(
                tpch("part"),
                JoinKind::Inner,
                [(col("l_partkey"), col("p_partkey"))],
            )
            .join(average, JoinKind::Inner, [(col("p_partkey"), col("key"))])
            .filter(
                col("p_brand")
                    .eq("Brand#23")
                    .and(col("p_container").eq("MED BOX"))
                    .and(col("l_quantity").lt(lit(0.2) * col("average"))),
            )
            .aggregate([], [sum(col("l_extendedprice"))]);
        expect![[r#"
            aggregate: sum(l_extendedprice)
              project l_extendedprice
                join inner on l_partkey = p_partkey where l_quantity < 0.2 * average
                  scan parquet [l_partkey, l_quantity, l_extendedprice] from lineitem
                  project average, p_partkey
                    join inner on key = p_partkey
                      aggregate by key: avg(of_key) AS average
                        project l_partkey AS key, l_quantity AS of_key
                          join semi on l_partkey = `key 0`
                            scan parquet [l_partkey, l_quantity] from lineitem
                            project p_partkey AS `key 0`
                              scan parquet [p_partkey] from part where p_brand = "Brand#23" AND p_container = "MED BOX"
                      scan parquet [p_partkey] from part where p_brand = "Brand#23" AND p_container = "MED BOX"
        "#]].assert_eq(&optimised(plan));
    }

    #[test]
    fn q20() {
        let sold = tpch("lineitem")
            .project([
                col("l_partkey").alias("part"),
                col("l_suppkey").alias("supplier"),
                col("l_quantity"),
            ])
            .aggregate(
                [col("part"), col("supplier")],
                [sum(col("l_quantity")).alias("sold")],
            );
        let forest = tpch("part").filter(kiln_engine::expr::starts_with(col("p_name"), "forest"));
        let on = [
            (col("ps_partkey"), col("part")),
            (col("ps_suppkey"), col("supplier")),
        ];
        let plan = tpch("partsupp")
            .join(
                forest,
                JoinKind::Semi,
                [(col("ps_partkey"), col("p_partkey"))],
            )
            .join(sold, JoinKind::Inner, on)
            .filter(col("ps_supplycost").gt(col("sold")))
            .project([col("ps_suppkey")]);
        expect![[r#"
            project ps_suppkey
              join inner on part = ps_partkey, supplier = ps_suppkey where ps_supplycost > sold
                aggregate by part, supplier: sum(l_quantity) AS sold
                  project l_partkey AS part, l_suppkey AS supplier, l_quantity
                    join semi on l_partkey = `key 0`, l_suppkey = `key 1`
                      scan parquet [l_partkey, l_suppkey, l_quantity] from lineitem
                      project ps_partkey AS `key 0`, ps_suppkey AS `key 1`
                        join semi on ps_partkey = p_partkey
                          scan parquet [ps_partkey, ps_suppkey, ps_supplycost] from partsupp
                          scan parquet [p_partkey] from part where starts_with(p_name, "forest")
                join semi on ps_partkey = p_partkey
                  scan parquet [ps_partkey, ps_suppkey, ps_supplycost] from partsupp
                  scan parquet [p_partkey] from part where starts_with(p_name, "forest")
        "#]]
        .assert_eq(&optimised(plan));
    }

    #[test]
    fn groups_that_are_all_asked_for_are_made_as_they_are() {
        let sold = tpch("lineitem").aggregate([col("l_partkey")], [sum(col("l_quantity"))]);
        let plan = tpch("part").join(sold, JoinKind::Left, [(col("p_partkey"), col("l_partkey"))]);
        assert!(!optimised(plan.clone()).contains("semi"));
        let few = plan.filter(one_of("p_name", ["a", "b", "c", "d"]));
        assert!(!optimised(few.clone()).contains("semi"));
        assert!(optimised(few.filter(col("p_size").eq(3))).contains("semi"));
    }

    #[test]
    fn what_may_fail_is_not_asked_of_rows_that_are_not_grouped() {
        let grouped = |key: Expr| {
            let sold = tpch("lineitem")
                .filter(col("l_suppkey").not_eq(0))
                .aggregate([col("l_suppkey")], [sum(col("l_quantity"))]);
            let few = tpch("part").filter(col("p_partkey").eq(3));
            optimised(few.join(sold, JoinKind::Left, [(col("p_size"), key)]))
        };
        assert!(grouped(col("l_suppkey")).contains("semi"));
        assert!(!grouped(lit(100) / col("l_suppkey")).contains("semi"));
    }

    #[test]
    fn a_chain_of_subqueries_does_not_double_at_each() {
        let few = tpch("part").filter(col("p_name").eq("x").and(col("p_size").eq(3)));
        let plan = (0..40).fold(few, |plan, index| {
            let (key, total) = (format!("key{index}"), format!("total{index}"));
            let sold = tpch("lineitem").aggregate(
                [col("l_partkey").alias(&key)],
                [sum(col("l_quantity")).alias(total)],
            );
            plan.join(sold, JoinKind::Left, [(col("p_partkey"), col(key))])
        });
        let text = optimised(plan);
        let reduced = text.matches("join semi").count();
        assert!(reduced > 5, "{reduced}");
    }
}
