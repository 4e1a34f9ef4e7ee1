//! Where a predicate goes when it meets a join: to one side, among the keys, or nowhere.
//!
//! There are two kinds of predicates: those that the join asks of a pair before it decides that
//! there is no match, and those that are asked above the join, of rows that may be filled up with
//! nulls. Which side either may go to depends on the rows that the kind of join invents or only
//! chooses. An inner join does neither, so for it they are the same. What goes to a side is
//! asked of rows that would have met no other, so it must never fail.

use std::collections::BTreeSet;

use kiln_engine::expr::{BinaryOp, Expr, typing};
use kiln_engine::plan::{JoinKind, LogicalPlan, schema_of};

use super::facts::facts;
use super::filters_down::{is_asked, sink};
use super::fold::fold;
use crate::planner::predicate::{
    add_part, conjuncts, disjuncts, filtered, join_parts, never_fails, parts_of, rejects_nulls,
};
use crate::planner::rewrite::{column_set, columns, replace_columns};

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
fn forgets_left(kind: JoinKind) -> bool {
    matches!(kind, JoinKind::Inner | JoinKind::Right | JoinKind::Semi)
}

/// As [`forgets_left`], for the right.
fn forgets_right(kind: JoinKind) -> bool {
    use JoinKind::{Anti, Inner, Left, Semi};
    matches!(kind, Inner | Left | Semi | Anti)
}

/// The columns of both sides of a join.
struct Sides {
    left: BTreeSet<String>,
    right: BTreeSet<String>,
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
        let sure = never_fails(&part);
        let reads = columns([&part]);
        if may.0 && sure && reads.is_subset(&sides.left) {
            add_part(&mut self.left, part);
        } else if may.1 && sure && reads.is_subset(&sides.right) {
            add_part(&mut self.right, part);
        } else {
            if may.0
                && let Some(implied) = implied(&part, &sides.left)
            {
                add_part(&mut self.left, implied);
            }
            if may.1
                && let Some(implied) = implied(&part, &sides.right)
            {
                add_part(&mut self.right, implied);
            }
            add_part(&mut self.stay, part);
        }
    }
}

/// The join with the predicates `above` it, all of them as far down as they may be.
pub(super) fn at_join(join: JoinNode, above: Vec<Expr>) -> LogicalPlan {
    let sides = Sides {
        left: column_set(&join.left),
        right: column_set(&join.right),
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
    let (asked, on) = keys(asked, join.on, &sides, &join.left, &join.right);
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
    let left = sink_new(join.left, row.left);
    let right = sink_new(join.right, row.right);
    let (left, right) = share_facts(left, right, kind, &on);
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

fn sink_new(plan: LogicalPlan, parts: Vec<Expr>) -> LogicalPlan {
    let parts: Vec<Expr> = parts
        .into_iter()
        .filter(|part| !is_asked(&plan, part))
        .collect();
    if parts.is_empty() {
        return plan;
    }
    sink(plan, parts)
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
    left: &LogicalPlan,
    right: &LogicalPlan,
) -> (Vec<Expr>, Vec<(Expr, Expr)>) {
    let mut others = Vec::new();
    for part in parts {
        let key = as_key(&part, sides).filter(|(left_key, right_key)| {
            match (schema_of(left), schema_of(right)) {
                (Ok(lefts), Ok(rights)) => {
                    typing::check_keys(left_key, &lefts, right_key, &rights).is_ok()
                }
                _ => false,
            }
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
    if !never_fails(part) {
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
fn implied(part: &Expr, side: &BTreeSet<String>) -> Option<Expr> {
    let alternatives = disjuncts(part);
    if alternatives.len() < 2 {
        return None;
    }
    let of_side = |alternative: &Expr| {
        let parts = conjuncts(alternative).into_iter();
        let own = parts.filter(|part| {
            let reads = columns([*part]);
            !reads.is_empty() && reads.is_subset(side) && never_fails(part)
        });
        own.cloned().reduce(Expr::and)
    };
    let implied: Option<Vec<Expr>> = alternatives.into_iter().map(of_side).collect();
    let implied = implied?.into_iter().reduce(Expr::or)?;
    Some(fold(&implied, None))
}

/// What is known of a key on one side is asked of the other, where rows that cannot match leave
/// no trace.
fn share_facts(
    left: LogicalPlan,
    right: LogicalPlan,
    kind: JoinKind,
    on: &[(Expr, Expr)],
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
    (sink_new(left, for_left), sink_new(right, for_right))
}

/// A fact about one column as one about another.
fn renamed(fact: &Expr, to: &str) -> Expr {
    replace_columns(fact, &|_| Some(Expr::Column(to.to_owned())))
}

fn same_type(left: &LogicalPlan, left_key: &str, right: &LogicalPlan, right_key: &str) -> bool {
    let data_type = |plan, key| {
        let schema = schema_of(plan).ok()?;
        let field = schema.field_with_name(key).ok()?;
        Some(field.data_type().clone())
    };
    match (data_type(left, left_key), data_type(right, right_key)) {
        (Some(left), Some(right)) => left == right && !left.is_floating(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use kiln_engine::expr::{col, lit};
    use kiln_engine::plan::explain_logical;

    use super::super::filters_down;
    use super::super::fixture::{Plan, check, numbers};
    use super::*;

    /// `l (a, b)` joined with `r (x, y)` on `a = x`.
    fn joined(kind: JoinKind, filter: Option<Expr>) -> Plan {
        let on = [(col("a"), col("x"))];
        numbers(&["a", "b"]).join_where(numbers(&["x", "y"]), kind, on, filter)
    }

    #[test]
    fn equalities_between_sides_become_keys_and_parts_go_where_their_columns_are() {
        let plan = numbers(&["a", "b"])
            .join(numbers(&["x", "y"]), JoinKind::Inner, [])
            .filter(
                col("a")
                    .eq(col("x"))
                    .and(col("b").gt(1))
                    .and(col("y").lt(2))
                    .and(col("b").lt(col("y")))
                    .and((lit(9) / col("b")).gt(3)),
            );
        check(filters_down, plan, expect![[r#"
            filter a = x AND b > 1 AND y < 2 AND b < y AND 9 / b > 3
              join inner
                scan parquet [a, b] from memory:///in
                scan parquet [x, y] from memory:///in
            →
            join inner on a = x where b < y AND 9 / b > 3
              scan parquet [a, b] from memory:///in where b > 1
              scan parquet [x, y] from memory:///in where y < 2
        "#]]);
    }

    #[test]
    fn alternatives_say_something_of_each_side() {
        let pair = |b: i64, y: i64| col("b").eq(b).and(col("y").eq(y));
        let plan = joined(JoinKind::Inner, None).filter(pair(1, 2).or(pair(3, 4)));
        check(filters_down, plan.clone(), expect![[r#"
            filter b = 1 AND y = 2 OR b = 3 AND y = 4
              join inner on a = x
                scan parquet [a, b] from memory:///in
                scan parquet [x, y] from memory:///in
            →
            join inner on a = x where b = 1 AND y = 2 OR b = 3 AND y = 4
              scan parquet [a, b] from memory:///in where b IN (1, 3)
              scan parquet [x, y] from memory:///in where y IN (2, 4)
        "#]]);
        let once = filters_down(plan.0).expect("a plan");
        assert_eq!(filters_down(once.clone()).expect("a plan"), once);
    }

    #[test]
    fn what_is_known_of_a_key_is_asked_of_the_other() {
        for kind in [JoinKind::Inner, JoinKind::Left, JoinKind::Anti] {
            let plan = joined(kind, None).filter(col("a").gt(5)).0;
            let plan = filters_down(plan).expect("a plan");
            let text = explain_logical(&plan);
            assert!(text.contains("where x > 5"), "{text}");
            assert_eq!(filters_down(plan.clone()).expect("a plan"), plan);
        }
        let full = joined(JoinKind::Full, None).filter(col("a").is_null().or(col("a").gt(5)));
        assert_eq!(filters_down(full.0.clone()).expect("a plan"), full.0);
    }

    /// For every kind, where a part of the left and one of the right go, asked by the join or
    /// above it: `l` and `r` for the sides, `on` and `above` for where they were, and the kind of
    /// join that is left.
    #[test]
    fn each_kind_lets_some_parts_through() {
        use JoinKind::{Anti, Full, Inner, Left, Right, Semi};
        let place = |plan: Plan| {
            let plan = filters_down(plan.0).expect("a plan");
            let text = explain_logical(&plan);
            let lines: Vec<&str> = text.lines().map(str::trim).collect();
            let find = |part: &str| {
                let line = lines.iter().find(|line| line.contains(part));
                match line.map(|line| line.split(' ').next().unwrap_or_default()) {
                    Some("scan") => "scan",
                    Some("join") => "join",
                    _ => "above",
                }
            };
            let kind = lines.iter().find_map(|line| line.strip_prefix("join "));
            let kind = kind
                .and_then(|kind| kind.split(' ').next())
                .unwrap_or_default();
            format!(
                "{} {} {kind}",
                find("b > 1 OR b IS NULL"),
                find("y > 1 OR y IS NULL")
            )
        };
        let part = |name: &str| col(name).gt(1).or(col(name).is_null());
        let both = || part("b").and(part("y"));
        let asked =
            [Inner, Left, Right, Full, Semi, Anti].map(|kind| place(joined(kind, Some(both()))));
        let scan = "scan scan";
        assert_eq!(
            asked,
            [
                format!("{scan} inner"),
                "join scan left".to_owned(),
                "scan join right".to_owned(),
                "join join full".to_owned(),
                format!("{scan} semi"),
                "join scan anti".to_owned(),
            ]
        );
        let above = [Inner, Left, Right, Full].map(|kind| place(joined(kind, None).filter(both())));
        assert_eq!(
            above,
            [
                format!("{scan} inner"),
                "scan above left".to_owned(),
                "above scan right".to_owned(),
                "above above full".to_owned(),
            ]
        );
    }

    #[test]
    fn joins_do_not_make_rows_that_are_dropped_above() {
        use JoinKind::{Full, Inner, Left, Right};
        let (of_left, of_right) = (|| col("b").gt(1), || col("y").gt(1));
        for (kind, filter, expected) in [
            (Left, of_right(), Inner),
            (Left, of_left(), Left),
            (Right, of_left(), Inner),
            (Full, of_left(), Left),
            (Full, of_right(), Right),
            (Full, of_left().and(of_right()), Inner),
            (Full, of_left().or(of_right()), Full),
        ] {
            let plan = joined(kind, None).filter(filter.clone());
            let plan = filters_down(plan.0).expect("a plan");
            let mut node = &plan;
            while let LogicalPlan::Filter { input, .. } = node {
                node = input;
            }
            let LogicalPlan::Join { kind: found, .. } = node else {
                panic!("no join: {}", explain_logical(&plan));
            };
            assert_eq!(*found, expected, "{kind:?} {filter}");
        }
    }
}
