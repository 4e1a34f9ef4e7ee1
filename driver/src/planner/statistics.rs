//! What is known of tables before they are read, and what that makes likely of plans.

use std::collections::BTreeMap;

use kiln_engine::expr::Literal;
use kiln_engine::plan::{LogicalPlan, Scan};

/// What is known of the rows of a scan's files.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct TableStatistics {
    /// How many there are; none if the files do not say.
    pub rows: Option<u64>,
    /// Bytes of the files.
    pub bytes: u64,
    /// What is known of columns, by name.
    pub columns: BTreeMap<String, ColumnStatistics>,
}

/// What is known of the values of a column; whatever is none is not known.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ColumnStatistics {
    /// No value is smaller.
    pub min: Option<Literal>,
    /// No value is larger.
    pub max: Option<Literal>,
    /// How many are null.
    pub nulls: Option<u64>,
    /// How many different ones there are.
    pub distinct: Option<u64>,
}

/// Where the planner asks for statistics; none for a scan of which nothing is known.
pub(super) type Statistics<'a> = &'a dyn Fn(&Scan) -> Option<TableStatistics>;

/// What a plan is thought to make.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Estimate {
    /// Rows.
    pub(super) rows: f64,
    /// Bytes that they take in memory.
    pub(super) bytes: f64,
}

/// What `plan` is thought to make.
pub(super) fn estimate(plan: &LogicalPlan, statistics: Statistics) -> Estimate {
    let mut sum = Estimate {
        rows: 0.0,
        bytes: 0.0,
    };
    if let LogicalPlan::Scan(scan) = plan {
        let table = statistics(scan).unwrap_or_default();
        sum.rows = table.rows.unwrap_or(table.bytes / 32) as f64;
        sum.bytes = table.bytes as f64;
    }
    for input in plan.inputs() {
        let input = estimate(input, statistics);
        sum.rows += input.rows;
        sum.bytes += input.bytes;
    }
    sum
}
