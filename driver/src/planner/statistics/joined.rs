//! How many rows of two sides match.
//!
//! Each row of one side meets the rows of the other with its key: `|A| · |B| / domain`, where the
//! domain is how many keys there are. It is the key of the parents where one side has parents and
//! the other their children.

use kiln_engine::expr::Expr;
use kiln_engine::plan::JoinKind;

use super::Relation;
use super::assumed::{ANTI_SHARE_MIN, CHILDREN_MAX, FILTERED_SHARE};

/// The rows of an inner join on `on`.
pub(super) fn join_rows(left: &Relation, right: &Relation, on: &[(Expr, Expr)]) -> f64 {
    left.rows * right.rows / domain(left, right, on)
}

/// How many keys there are on which the sides meet.
fn domain(left: &Relation, right: &Relation, on: &[(Expr, Expr)]) -> f64 {
    let pairs: Vec<(&Expr, &Expr)> = on.iter().map(|(left, right)| (left, right)).collect();
    key_domain(left, right, &pairs)
}

/// How many keys there are on which `left` and `right` meet, each key being all of `pairs`.
pub(in crate::planner) fn key_domain(
    left: &Relation,
    right: &Relation,
    pairs: &[(&Expr, &Expr)],
) -> f64 {
    let each = pairs.iter().map(|(left_key, right_key)| {
        let one = distinct(left, left_key);
        let other = distinct(right, right_key);
        let (few, many) = if one.0 <= other.0 {
            (one, other)
        } else {
            (other, one)
        };
        // Few keys, one a row: parents, unless the children would be too many for each.
        if few.1 && many.0 <= few.0 * CHILDREN_MAX {
            few.0
        } else {
            many.0
        }
    });
    let all = each.product::<f64>().max(1.0);
    if pairs.len() < 2 {
        return all;
    }
    // Parts of a key are not independent: there are no more keys than parents.
    all.min(left.base.min(right.base)).max(1.0)
}

/// How many different values a key has, and whether each row may have its own.
fn distinct(relation: &Relation, key: &Expr) -> (f64, bool) {
    let column = match key {
        Expr::Column(name) => relation.columns.get(name),
        _ => None,
    };
    let base = relation.base.max(1.0);
    match column.and_then(|column| column.distinct) {
        Some(distinct) => (distinct.clamp(1.0, base), distinct >= base * 0.9),
        None => (base, true),
    }
}

/// The share of the rows of `left` that a semi or anti join keeps.
pub(in crate::planner) fn semi_share(
    left: &Relation,
    right: &Relation,
    kind: JoinKind,
    on: &[(Expr, Expr)],
    filter: Option<&Expr>,
) -> f64 {
    let keys = on.iter().map(|(_, key)| distinct(right, key).0);
    let there = keys.product::<f64>().min(right.rows);
    let mut share = if on.is_empty() {
        1.0
    } else {
        (there / domain(left, right, on)).min(1.0)
    };
    if filter.is_some() {
        share *= FILTERED_SHARE;
    }
    match kind {
        JoinKind::Anti => (1.0 - share).max(ANTI_SHARE_MIN),
        _ => share,
    }
}
