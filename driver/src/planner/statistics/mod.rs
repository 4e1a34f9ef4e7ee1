//! What is known of tables before they are read, and what that makes likely of plans.

mod assumed;
mod bound;
mod joined;
mod relation;
mod selectivity;

use std::collections::BTreeMap;

use kiln_engine::expr::Literal;
use kiln_engine::plan::{LogicalPlan, Scan};

pub(super) use bound::bytes_at_most;
pub(super) use joined::{key_domain, semi_share};
pub(crate) use relation::row_bytes;
pub(super) use relation::{Relation, relation};
pub(super) use selectivity::share_of;

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
    let relation = relation(plan, statistics);
    Estimate {
        rows: relation.rows,
        bytes: relation.bytes(),
    }
}

/// What `plan` is thought to make, as if it were files.
pub(super) fn as_table(plan: &LogicalPlan, statistics: Statistics) -> Option<TableStatistics> {
    let relation = relation(plan, statistics);
    if !relation.known {
        return None;
    }
    let columns = relation.columns.iter().map(|(name, column)| {
        let distinct = column.distinct.map(|distinct| distinct as u64);
        let known = ColumnStatistics {
            distinct,
            ..Default::default()
        };
        (name.clone(), known)
    });
    Some(TableStatistics {
        rows: Some(relation.rows as u64),
        bytes: relation.bytes() as u64,
        columns: columns.collect(),
    })
}

#[cfg(test)]
mod tests;
