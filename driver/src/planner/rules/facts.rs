//! What is known of a column because the rows that say otherwise have been dropped.

use std::collections::BTreeSet;

use kiln_engine::expr::{Expr, output_name};
use kiln_engine::plan::{JoinKind, LogicalPlan};

use super::filters_at_join::{passes_left, passes_right};
use crate::planner::predicate::{add_part, never_fails_over};
use crate::planner::rewrite::{column_set, columns, replace_columns, unaliased};

/// Predicates over `column` alone that are true of every row of `plan` and could be asked of
/// another column with the same values.
pub(super) fn facts(plan: &LogicalPlan, column: &str) -> Vec<Expr> {
    let mut known = Vec::new();
    match plan {
        LogicalPlan::Scan(scan) => {
            let asked = scan.predicate.iter().flat_map(Expr::conjuncts);
            asked.for_each(|part| note(part, column, plan, &mut known));
        }
        LogicalPlan::Filter { input, predicate } => {
            known = facts(input, column);
            let asked = predicate.conjuncts().into_iter();
            asked.for_each(|part| note(part, column, plan, &mut known));
        }
        LogicalPlan::Project { input, exprs } => known = facts_behind(input, exprs, column),
        LogicalPlan::Aggregate {
            input, group_by, ..
        } => known = facts_behind(input, group_by, column),
        LogicalPlan::Explode {
            input,
            column: exploded,
        } => {
            if exploded != column {
                known = facts(input, column);
            }
        }
        LogicalPlan::Sort { input, .. }
        | LogicalPlan::Repartition { input, .. }
        | LogicalPlan::SortPartitions { input, .. }
        | LogicalPlan::Limit { input, .. }
        | LogicalPlan::Write { input, .. } => known = facts(input, column),
        LogicalPlan::Join {
            left,
            right,
            kind,
            filter,
            ..
        } => {
            let of_left = column_set(left).contains(column);
            if of_left && passes_left(*kind) {
                known = facts(left, column);
            } else if !of_left && passes_right(*kind) {
                known = facts(right, column);
            }
            if *kind == JoinKind::Inner {
                let asked = filter.iter().flat_map(Expr::conjuncts);
                asked.for_each(|part| note(part, column, plan, &mut known));
            }
        }
        // Each input may know something else, and nobody knows what a user's function makes.
        LogicalPlan::Union { .. } | LogicalPlan::Apply { .. } | LogicalPlan::Reduce { .. } => {}
    }
    known
}

/// Adds `part`, which `plan` asks of its rows, if it is about `column` alone.
fn note(part: &Expr, column: &str, plan: &LogicalPlan, known: &mut Vec<Expr>) {
    // A key is never null where it matches.
    let trivial = match part {
        Expr::Not(inner) => matches!(inner.as_ref(), Expr::IsNull(_)),
        _ => false,
    };
    let only = BTreeSet::from([column.to_owned()]);
    if !trivial && columns([part]) == only && never_fails_over(part, &[plan]) {
        add_part(known, part.clone());
    }
}

/// The facts about the column that `exprs` make `column` of.
fn facts_behind(input: &LogicalPlan, exprs: &[Expr], column: &str) -> Vec<Expr> {
    let made = exprs.iter().find(|expr| output_name(expr) == column);
    let Some(Expr::Column(source)) = made.map(unaliased) else {
        return Vec::new();
    };
    let here = |_: &str| Some(Expr::Column(column.to_owned()));
    let known = facts(input, source).into_iter();
    known.map(|fact| replace_columns(&fact, &here)).collect()
}
