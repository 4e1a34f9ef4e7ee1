//! What a plan makes at most, however its filters turn out.
//!
//! An estimate may be wrong by any factor, so what cannot be taken back is decided by a bound:
//! files say how many rows they have, and no operator but a join makes more of them.

use kiln_engine::expr::Expr;
use kiln_engine::plan::{JoinKind, LogicalPlan, Scan};

use super::Statistics;
use super::relation::row_bytes;

/// A bound on rows; infinite where there is none.
#[derive(Debug, Clone, Copy)]
struct Bound {
    rows: f64,
    /// Bytes of a row on average.
    row_bytes: f64,
}

/// Bytes of rows, in memory, that `plan` makes at most; infinite if nothing is known.
pub(in crate::planner) fn bytes_at_most(plan: &LogicalPlan, statistics: Statistics) -> f64 {
    let bound = bound(plan, statistics);
    bound.rows * bound.row_bytes
}

/// Where nothing is known.
const UNBOUNDED: Bound = Bound {
    rows: f64::INFINITY,
    row_bytes: 1.0,
};

fn bound(plan: &LogicalPlan, statistics: Statistics) -> Bound {
    if let LogicalPlan::Scan(scan) = plan {
        return scanned(scan, statistics).unwrap_or(UNBOUNDED);
    }
    let inputs = plan.inputs().into_iter();
    let mut inputs = inputs.map(|input| bound(input, statistics));
    let first = inputs.next().unwrap_or(UNBOUNDED);
    match plan {
        LogicalPlan::Explode { .. } | LogicalPlan::Apply { .. } | LogicalPlan::Reduce { .. } => {
            UNBOUNDED
        }
        LogicalPlan::Project { exprs, .. } => {
            let computed = exprs.iter().filter(|expr| !matches!(expr, Expr::Column(_)));
            Bound {
                row_bytes: first.row_bytes * (1 + computed.count()) as f64,
                ..first
            }
        }
        LogicalPlan::Aggregate {
            group_by,
            aggregates,
            ..
        } => Bound {
            rows: if group_by.is_empty() { 1.0 } else { first.rows },
            row_bytes: first.row_bytes * (1 + aggregates.len()) as f64,
        },
        LogicalPlan::Limit { limit, .. }
        | LogicalPlan::Sort {
            limit: Some(limit), ..
        } => Bound {
            rows: first.rows.min(*limit as f64),
            ..first
        },
        LogicalPlan::Join { kind, .. } => match kind {
            JoinKind::Semi | JoinKind::Anti => first,
            _ => inputs.next().map_or(UNBOUNDED, |second| Bound {
                rows: first.rows.max(1.0) * second.rows.max(1.0),
                row_bytes: first.row_bytes + second.row_bytes,
            }),
        },
        LogicalPlan::Union { .. } => inputs.fold(first, |one, other| Bound {
            rows: one.rows + other.rows,
            row_bytes: one.row_bytes.max(other.row_bytes),
        }),
        _ => first,
    }
}

/// None if the files do not say how many rows they have.
fn scanned(scan: &Scan, statistics: Statistics) -> Option<Bound> {
    let table = statistics(scan)?;
    let rows = table.rows? as f64;
    Some(Bound {
        rows,
        // Long texts show in the size of the files.
        row_bytes: row_bytes(&scan.schema).max(table.bytes as f64 / rows.max(1.0)),
    })
}
