//! Where a predicate goes when it meets a join: to one side, among the keys, or nowhere.
//!
//! There are two kinds of predicates: those that the join asks of a pair before it decides that
//! there is no match, and those that are asked above the join, of rows that may be filled up with
//! nulls. Which side either may go to depends on the rows that the kind of join invents or only
//! chooses. An inner join does neither, so for it they are the same. What goes to a side is
//! asked of rows that would have met no other, so it must never fail.

use std::collections::BTreeSet;

use arrow::datatypes::Schema;
use kiln_engine::expr::{BinaryOp, Expr, typing};
use kiln_engine::plan::{JoinKind, LogicalPlan};

use super::facts::facts;
use super::fold::fold;
use crate::planner::predicate::{
    add_part, filtered, join_parts, never_fails, parts_of, rejects_nulls,
};
use crate::planner::rewrite::{column_set, columns, replace_columns, types_of};

/// A join taken apart.
pub(super) struct JoinNode {
    pub(super) left: LogicalPlan,
    pub(super) right: LogicalPlan,
    pub(super) kind: JoinKind,
    pub(super) on: Vec<(Expr, Expr)>,
    /// What it asks of a pair.
    pub(super) filter: Option<Expr>,
}

impl JoinNode {
    fn rebuilt(self, kind: JoinKind) -> LogicalPlan {
        LogicalPlan::Join {
            left: self.left.into(),
            right: self.right.into(),
            kind,
            on: self.on,
            filter: self.filter,
        }
    }
}

/// Whether rows of the join come from rows of the left that a predicate above can be asked of.
pub(super) fn passes_left(kind: JoinKind) -> bool {
    use JoinKind::{Anti, Inner, Left, Semi};
    matches!(kind, Inner | Left | Semi | Anti)
}

/// As [`passes_left`], for the right.
pub(super) fn passes_right(kind: JoinKind) -> bool {
    matches!(kind, JoinKind::Inner | JoinKind::Right)
}

/// Whether rows of the left that match nothing leave no trace.
pub(super) fn forgets_left(kind: JoinKind) -> bool {
    matches!(kind, JoinKind::Inner | JoinKind::Right | JoinKind::Semi)
}

/// As [`forgets_left`], for the right.
pub(super) fn forgets_right(kind: JoinKind) -> bool {
    use JoinKind::{Anti, Inner, Left, Semi};
    matches!(kind, Inner | Left | Semi | Anti)
}

/// The columns of both sides of a join.
struct Sides {
    left: BTreeSet<String>,
    right: BTreeSet<String>,
    /// The types of those that a predicate reads.
    types: Schema,
}

/// What goes down to either side, and what does not.
#[derive(Default)]
struct Placed {
    left: Vec<Expr>,
    right: Vec<Expr>,
    stay: Vec<Expr>,
}

impl Placed {
    /// Puts `part` on a side that it may go to and that has its columns. Otherwise it stays, and
    /// what follows from it for a side goes there.
    fn place(&mut self, part: Expr, sides: &Sides, may: (bool, bool)) {
        let sure = never_fails(&part, &sides.types);
        let reads = columns([&part]);
        if may.0 && sure && reads.is_subset(&sides.left) {
            add_part(&mut self.left, part);
        } else if may.1 && sure && reads.is_subset(&sides.right) {
            add_part(&mut self.right, part);
        } else {
            if may.0
                && let Some(implied) = implied(&part, &sides.left, &sides.types)
            {
                add_part(&mut self.left, implied);
            }
            if may.1
                && let Some(implied) = implied(&part, &sides.right, &sides.types)
            {
                add_part(&mut self.right, implied);
            }
            add_part(&mut self.stay, part);
        }
    }
}

/// Puts predicates as far down in a plan as they may be.
pub(super) type Sink<'a> = &'a dyn Fn(LogicalPlan, Vec<Expr>) -> LogicalPlan;

/// The join with the predicates `above` it; `sink` takes on those that go to a side.
pub(super) fn at_join(join: JoinNode, above: Vec<Expr>, sink: Sink) -> LogicalPlan {
    let read = columns(above.iter().chain(&join.filter));
    let sides = Sides {
        left: column_set(&join.left),
        right: column_set(&join.right),
        types: types_of(&[&join.left, &join.right], &read),
    };
    let kind = strengthened(join.kind, &above, &sides);
    let (mut asked, mut above) = (parts_of(join.filter.as_ref()), above);
    if kind != JoinKind::Inner && !join_parts(asked.clone()).1.is_empty() {
        // Put together again it would nest too deep, and only an inner join may ask the rest above.
        return filtered(join.rebuilt(kind), above);
    }
    if kind == JoinKind::Inner {
        for part in above.drain(..) {
            add_part(&mut asked, part);
        }
    }
    let (asked, on) = keys(asked, join.on, &sides);
    let mut pair = Placed::default();
    for part in asked {
        pair.place(part, &sides, (forgets_left(kind), forgets_right(kind)));
    }
    let mut row = Placed {
        left: pair.left,
        right: pair.right,
        stay: Vec::new(),
    };
    for part in above {
        row.place(part, &sides, (passes_left(kind), passes_right(kind)));
    }
    let sides = (sink(join.left, row.left), sink(join.right, row.right));
    let (left, right) = share_facts(sides, kind, &on, sink);
    let (filter, mut rest) = join_parts(pair.stay);
    // Only an inner join has so many parts that some are left, and may ask them afterwards.
    rest.extend(row.stay);
    let join = JoinNode {
        left,
        right,
        kind,
        on,
        filter,
    };
    filtered(join.rebuilt(kind), rest)
}

/// The kind of join that makes the same rows, where those that are filled up with nulls on a side
/// are dropped above.
fn strengthened(kind: JoinKind, above: &[Expr], sides: &Sides) -> JoinKind {
    let rejects = |side| above.iter().any(|part| rejects_nulls(part, side));
    let needs = |kind, side| match kind {
        JoinKind::Left | JoinKind::Right | JoinKind::Full => rejects(side),
        JoinKind::Inner | JoinKind::Semi | JoinKind::Anti => false,
    };
    match (kind, needs(kind, &sides.left), needs(kind, &sides.right)) {
        (JoinKind::Left, _, true) | (JoinKind::Right, true, _) | (JoinKind::Full, true, true) => {
            JoinKind::Inner
        }
        (JoinKind::Full, true, false) => JoinKind::Left,
        (JoinKind::Full, false, true) => JoinKind::Right,
        (kind, _, _) => kind,
    }
}

/// Moves equalities between the sides from `parts` to the keys.
fn keys(
    parts: Vec<Expr>,
    mut on: Vec<(Expr, Expr)>,
    sides: &Sides,
) -> (Vec<Expr>, Vec<(Expr, Expr)>) {
    let mut others = Vec::new();
    for part in parts {
        let key = as_key(&part, sides).filter(|(left, right)| {
            typing::check_keys(left, &sides.types, right, &sides.types).is_ok()
        });
        match key {
            Some(key) if on.contains(&key) => {}
            Some(key) => on.push(key),
            None => others.push(part),
        }
    }
    (others, on)
}

/// The two sides of an equality of something on the left and something on the right.
fn as_key(part: &Expr, sides: &Sides) -> Option<(Expr, Expr)> {
    let Expr::Binary {
        left,
        op: BinaryOp::Equal,
        right,
    } = part
    else {
        return None;
    };
    if !never_fails(part, &sides.types) {
        return None;
    }
    let is_of = |expr: &Expr, side: &BTreeSet<String>| {
        let reads = columns([expr]);
        !reads.is_empty() && reads.is_subset(side)
    };
    if is_of(left, &sides.left) && is_of(right, &sides.right) {
        Some((left.as_ref().clone(), right.as_ref().clone()))
    } else if is_of(right, &sides.left) && is_of(left, &sides.right) {
        Some((right.as_ref().clone(), left.as_ref().clone()))
    } else {
        None
    }
}

/// What an OR says of the columns of one side: each of its alternatives has to say something.
fn implied(part: &Expr, side: &BTreeSet<String>, types: &Schema) -> Option<Expr> {
    let alternatives = part.disjuncts();
    if alternatives.len() < 2 {
        return None;
    }
    let of_side = |alternative: &Expr| {
        let parts = alternative.conjuncts().into_iter();
        let own = parts.filter(|part| {
            let reads = columns([*part]);
            !reads.is_empty() && reads.is_subset(side) && never_fails(part, types)
        });
        own.cloned().reduce(Expr::and)
    };
    let implied: Option<Vec<Expr>> = alternatives.into_iter().map(of_side).collect();
    let implied = implied?.into_iter().reduce(Expr::or)?;
    Some(fold(&implied, types))
}

/// What is known of a key on one side is asked of the other, where rows that cannot match leave
/// no trace.
fn share_facts(
    (left, right): (LogicalPlan, LogicalPlan),
    kind: JoinKind,
    on: &[(Expr, Expr)],
    sink: Sink,
) -> (LogicalPlan, LogicalPlan) {
    let (mut for_left, mut for_right) = (Vec::new(), Vec::new());
    for (left_key, right_key) in on {
        let (Expr::Column(left_key), Expr::Column(right_key)) = (left_key, right_key) else {
            continue;
        };
        let of_left = if forgets_right(kind) {
            facts(&left, left_key)
        } else {
            Vec::new()
        };
        let of_right = if forgets_left(kind) {
            facts(&right, right_key)
        } else {
            Vec::new()
        };
        if of_left.is_empty() && of_right.is_empty()
            || !same_type(&left, left_key, &right, right_key)
        {
            continue;
        }
        for fact in of_left {
            add_part(&mut for_right, renamed(&fact, right_key));
        }
        for fact in of_right {
            add_part(&mut for_left, renamed(&fact, left_key));
        }
    }
    (sink(left, for_left), sink(right, for_right))
}

/// A fact about one column as one about another.
fn renamed(fact: &Expr, to: &str) -> Expr {
    replace_columns(fact, &|_| Some(Expr::Column(to.to_owned())))
}

fn same_type(left: &LogicalPlan, left_key: &str, right: &LogicalPlan, right_key: &str) -> bool {
    let data_type = |plan, key: &str| {
        let types = types_of(&[plan], &[key.to_owned()].into());
        let field = types.field_with_name(key).ok()?;
        Some(field.data_type().clone())
    };
    match (data_type(left, left_key), data_type(right, right_key)) {
        (Some(left), Some(right)) => left == right && !left.is_floating(),
        _ => false,
    }
}

#[cfg(test)]
mod tests;
