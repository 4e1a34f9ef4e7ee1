//! Which functions of users' programs a plan calls.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use crate::expr::{AggregateExpr, AggregateFunction, Expr};
use crate::plan::LogicalPlan;

impl LogicalPlan {
    /// The names of the functions of a user's program that it calls.
    pub fn functions(&self) -> BTreeSet<String> {
        let mut names = Names::default();
        names.plan(self);
        names.found
    }

    /// The expressions of this operator, those within aggregates included.
    fn exprs(&self) -> Vec<&Expr> {
        match self {
            LogicalPlan::Scan(scan) => scan.predicate.iter().collect(),
            LogicalPlan::Project { exprs, .. } => exprs.iter().collect(),
            LogicalPlan::Filter { predicate, .. } => vec![predicate],
            LogicalPlan::Aggregate {
                group_by,
                aggregates,
                ..
            } => {
                let operands = aggregates.iter().flat_map(AggregateExpr::operands);
                group_by.iter().chain(operands).collect()
            }
            LogicalPlan::Sort { keys, .. }
            | LogicalPlan::SortPartitions { keys, .. }
            | LogicalPlan::Reduce { order: keys, .. } => keys.iter().map(|key| &key.expr).collect(),
            LogicalPlan::Join { on, filter, .. } => {
                let keys = on.iter().flat_map(|(left, right)| [left, right]);
                keys.chain(filter).collect()
            }
            LogicalPlan::Explode { .. }
            | LogicalPlan::Apply { .. }
            | LogicalPlan::Repartition { .. }
            | LogicalPlan::Limit { .. }
            | LogicalPlan::Union { .. }
            | LogicalPlan::Write { .. } => Vec::new(),
        }
    }
}

#[derive(Default)]
struct Names {
    found: BTreeSet<String>,
    /// Operators that have been looked at: several may read from one.
    seen: HashSet<*const LogicalPlan>,
}

impl Names {
    fn plan(&mut self, plan: &LogicalPlan) {
        match plan {
            LogicalPlan::Apply { function, .. } => self.add(function.name()),
            LogicalPlan::Reduce { function, .. } => self.add(function.name()),
            LogicalPlan::Aggregate { aggregates, .. } => {
                aggregates.iter().for_each(|part| self.aggregate(part));
            }
            _ => {}
        }
        plan.exprs().into_iter().for_each(|expr| self.expr(expr));
        for input in plan.inputs() {
            if self.seen.insert(Arc::as_ptr(input)) {
                self.plan(input);
            }
        }
    }

    fn aggregate(&mut self, aggregate: &AggregateExpr) {
        if let AggregateFunction::Udf(function) = &aggregate.function {
            self.add(function.name());
        }
    }

    fn expr(&mut self, expr: &Expr) {
        if let Expr::Udf { function, .. } = expr {
            self.add(function.name());
        }
        expr.operands().into_iter().for_each(|part| self.expr(part));
    }

    fn add(&mut self, name: &str) {
        if !self.found.contains(name) {
            self.found.insert(name.to_owned());
        }
    }
}
