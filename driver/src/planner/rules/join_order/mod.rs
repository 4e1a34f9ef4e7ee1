//! Joins in the order in which the fewest rows are made on the way.
//!
//! A tree of inner joins is taken apart into what is joined and what has to be equal, and put
//! together again; semi and anti joins above it only choose rows, so each may come as early as
//! the columns that it reads are there. The smaller side of an inner join goes to the right, which
//! is the one that is looked up in. Where nothing is known of a table the order is the user's.

use std::sync::Arc;

use kiln_engine::expr::Expr;
use kiln_engine::plan::{JoinKind, LogicalPlan};

use crate::planner::predicate::{filtered, join_parts, never_fails_over, parts_of};
use crate::planner::rewrite::{column_names, only_columns, with_inputs};
use crate::planner::statistics::{Relation, Statistics, relation};

mod graph;
mod search;

use graph::Graph;
use search::Tree;

/// Puts the joins of `plan` in order.
pub(in crate::planner) fn join_order(plan: &LogicalPlan, statistics: Statistics) -> LogicalPlan {
    if is_joined(plan) {
        return reordered(plan, statistics).unwrap_or_else(|| as_written(plan, statistics));
    }
    let inputs = plan.inputs().into_iter();
    let inputs = inputs.map(|input| Arc::new(join_order(input, statistics)));
    with_inputs(plan, inputs.collect())
}

/// Whether a node is a join that may change places with others.
fn is_joined(plan: &LogicalPlan) -> bool {
    let LogicalPlan::Join {
        left,
        right,
        kind,
        on,
        filter,
    } = plan
    else {
        return false;
    };
    let sure = |asked: &Expr| never_fails_over(asked, &[left, right]);
    // What may fail is asked when all is joined; only an inner join can put it off.
    let sure_filter = match kind {
        JoinKind::Inner => true,
        JoinKind::Semi | JoinKind::Anti => filter.as_ref().is_none_or(sure),
        JoinKind::Left | JoinKind::Right | JoinKind::Full => false,
    };
    let equal = |(left, right): &(Expr, Expr)| sure(&left.clone().eq(right.clone()));
    sure_filter && on.iter().all(equal)
}

/// The join that a projection to some of its columns stands on.
fn below_choice(plan: &LogicalPlan) -> &LogicalPlan {
    match plan {
        LogicalPlan::Project { input, exprs }
            if exprs.iter().all(|expr| matches!(expr, Expr::Column(_))) =>
        {
            let below = below_choice(input);
            if is_joined(below) { below } else { plan }
        }
        other => other,
    }
}

/// The same joins, with what they join put in order.
fn as_written(plan: &LogicalPlan, statistics: Statistics) -> LogicalPlan {
    match plan {
        LogicalPlan::Join {
            left, right, kind, ..
        } if is_joined(plan) => {
            let right = match kind {
                JoinKind::Inner => as_written(right, statistics),
                _ => join_order(right, statistics),
            };
            let left = as_written(left, statistics);
            with_inputs(plan, vec![left.into(), right.into()])
        }
        LogicalPlan::Project { input, .. } if is_joined(below_choice(plan)) => {
            with_inputs(plan, vec![as_written(input, statistics).into()])
        }
        other => join_order(other, statistics),
    }
}

/// A tree of joins taken apart.
#[derive(Default)]
struct Region<'a> {
    leaves: Vec<&'a LogicalPlan>,
    /// What has to be equal.
    equal: Vec<(&'a Expr, &'a Expr)>,
    /// What else has to be true.
    asked: Vec<Expr>,
    /// What has to be true and may fail: asked when all is joined.
    asked_last: Vec<Expr>,
    choices: Vec<Choice<'a>>,
}

/// A semi or anti join: it chooses among the rows of the rest.
struct Choice<'a> {
    right: &'a LogicalPlan,
    kind: JoinKind,
    on: &'a [(Expr, Expr)],
    filter: Option<&'a Expr>,
}

impl<'a> Region<'a> {
    fn add(&mut self, plan: &'a LogicalPlan) {
        let plan = below_choice(plan);
        match plan {
            LogicalPlan::Join {
                left,
                right,
                kind: JoinKind::Inner,
                on,
                filter,
            } if is_joined(plan) => {
                self.add(left);
                self.add(right);
                self.equal
                    .extend(on.iter().map(|(left, right)| (left, right)));
                for part in parts_of(filter.as_ref()) {
                    if never_fails_over(&part, &[left, right]) {
                        self.asked.push(part);
                    } else {
                        self.asked_last.push(part);
                    }
                }
            }
            LogicalPlan::Join {
                left,
                right,
                kind,
                on,
                filter,
            } if is_joined(plan) => {
                self.add(left);
                self.choices.push(Choice {
                    right,
                    kind: *kind,
                    on,
                    filter: filter.as_ref(),
                });
            }
            other => self.leaves.push(other),
        }
    }
}

/// The joins of `plan` in the best order; none if what they join is not known.
fn reordered(plan: &LogicalPlan, statistics: Statistics) -> Option<LogicalPlan> {
    let mut region = Region::default();
    region.add(plan);
    let known = |plan| {
        let relation = relation(plan, statistics);
        relation.known.then_some(relation)
    };
    let leaves: Option<Vec<Relation>> = region.leaves.iter().map(|leaf| known(leaf)).collect();
    let choices: Option<Vec<Relation>> = region
        .choices
        .iter()
        .map(|choice| known(choice.right))
        .collect();
    let graph = Graph::new(&region, leaves?, &choices?)?;
    let tree = search::best(&graph)?;
    let mut builder = Builder {
        asked: region.asked.iter().map(Some).collect(),
        region: &region,
        graph: &graph,
        statistics,
    };
    let (joined, _) = builder.build(&tree);
    let mut last: Vec<Expr> = builder.asked.into_iter().flatten().cloned().collect();
    last.extend(region.asked_last.iter().cloned());
    Some(only_columns(filtered(joined, last), &column_names(plan)))
}

/// Puts a region together again.
struct Builder<'a> {
    region: &'a Region<'a>,
    graph: &'a Graph,
    statistics: Statistics<'a>,
    /// What has not been asked yet.
    asked: Vec<Option<&'a Expr>>,
}

impl Builder<'_> {
    /// The plan of a tree, and the leaves and choices in it.
    fn build(&mut self, tree: &Tree) -> (LogicalPlan, u64) {
        match tree {
            Tree::Leaf(leaf) => {
                let plan = join_order(self.region.leaves[*leaf], self.statistics);
                (filtered(plan, self.graph.equal_within(*leaf)), 1 << leaf)
            }
            Tree::Choice(input, choice) => {
                let (left, parts) = self.build(input);
                let Choice {
                    right,
                    kind,
                    on,
                    filter,
                } = &self.region.choices[*choice];
                let plan = LogicalPlan::Join {
                    left: left.into(),
                    right: join_order(right, self.statistics).into(),
                    kind: *kind,
                    on: on.to_vec(),
                    filter: filter.cloned(),
                };
                (plan, parts | self.graph.bit_of_choice(*choice))
            }
            Tree::Join(one, other) => {
                let (one, other) = (self.build(one), self.build(other));
                let smaller_first = self.graph.rows(one.1) < self.graph.rows(other.1);
                let (left, right) = if smaller_first {
                    (other, one)
                } else {
                    (one, other)
                };
                self.join(left, right)
            }
        }
    }

    fn join(&mut self, left: (LogicalPlan, u64), right: (LogicalPlan, u64)) -> (LogicalPlan, u64) {
        let parts = left.1 | right.1;
        let (on, mut asked) = self.graph.keys(left.1, right.1);
        for (part, mask) in self.asked.iter_mut().zip(&self.graph.asked) {
            if *mask != 0 && mask & parts == *mask {
                asked.extend(part.take().cloned());
            }
        }
        let (filter, rest) = join_parts(asked);
        let plan = LogicalPlan::Join {
            left: left.0.into(),
            right: right.0.into(),
            kind: JoinKind::Inner,
            on,
            filter,
        };
        (filtered(plan, rest), parts)
    }
}

#[cfg(test)]
mod tests;
