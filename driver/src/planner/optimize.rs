//! The optimiser: an ordered list of rules, applied until none changes the plan.
//!
//! A rule is a plain function from a plan to one with the same rows, the same column names and
//! the same types. Rules look for one pattern each and leave the rest to the others.

use kiln_engine::Result;
use kiln_engine::plan::LogicalPlan;

use super::rules;

type Rule = fn(LogicalPlan) -> Result<LogicalPlan>;

/// In the order in which each makes most of what the one before left.
const RULES: &[Rule] = &[
    rules::simplify,
    rules::filters_down,
    rules::limits_together,
    rules::keys_as_columns,
    rules::projections_together,
    rules::columns_needed,
    rules::words_at_scan,
];

/// Rounds after which a plan is good enough; real plans need two or three.
const ROUNDS_MAX: usize = 8;

/// A plan with the same result that is cheaper to run.
///
/// # Errors
/// `Internal` if a rule made a plan that does not fit together.
pub fn optimize(mut plan: LogicalPlan) -> Result<LogicalPlan> {
    for _ in 0..ROUNDS_MAX {
        let before = plan.clone();
        for rule in RULES {
            plan = rule(plan)?;
        }
        if plan == before {
            break;
        }
    }
    Ok(plan)
}
