//! The order of a result, and where its rows come from.

use std::sync::Arc;

use kiln_engine::plan::LogicalPlan;

/// The sort whose order is that of the rows of `plan`: what stands above it passes rows on one by
/// one, so several tasks can have a part of the order each.
pub(super) fn order_of_result(plan: &Arc<LogicalPlan>) -> Option<&Arc<LogicalPlan>> {
    let mut node = plan;
    loop {
        node = match &**node {
            LogicalPlan::Write { input, .. } => input,
            LogicalPlan::Sort { limit: None, .. } => return Some(node),
            _ => row_by_row(node)?,
        };
    }
}

/// The scan whose rows that sort reads one by one: those with equal keys stay in its order.
pub(super) fn scan_in_order(plan: &Arc<LogicalPlan>) -> Option<&Arc<LogicalPlan>> {
    let LogicalPlan::Sort { input, .. } = &**order_of_result(plan)? else {
        return None;
    };
    let mut node = input;
    loop {
        node = match &**node {
            LogicalPlan::Scan(_) => return Some(node),
            _ => row_by_row(node)?,
        };
    }
}

/// What a node reads that makes something of each row by itself.
fn row_by_row(node: &LogicalPlan) -> Option<&Arc<LogicalPlan>> {
    match node {
        LogicalPlan::Project { input, .. }
        | LogicalPlan::Filter { input, .. }
        | LogicalPlan::Explode { input, .. } => Some(input),
        _ => None,
    }
}
