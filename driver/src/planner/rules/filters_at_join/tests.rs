//! Joins with predicates in them and above them, before and after.

use arrow::datatypes::{DataType, TimeUnit};
use expect_test::expect;
use kiln_engine::expr::{coalesce, col, lit};
use kiln_engine::plan::explain_logical;

use super::super::filters_down;
use super::super::fixture::{Plan, check, numbers, typed};
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
    check(
        filters_down,
        plan,
        expect![[r#"
        filter a = x AND b > 1 AND y < 2 AND b < y AND 9 / b > 3
          join inner
            scan parquet [a, b] from memory:///in
            scan parquet [x, y] from memory:///in
        →
        join inner on a = x where b < y AND 9 / b > 3
          scan parquet [a, b] from memory:///in where b > 1
          scan parquet [x, y] from memory:///in where y < 2
    "#]],
    );
}

#[test]
fn alternatives_say_something_of_each_side() {
    let pair = |b: i64, y: i64| col("b").eq(b).and(col("y").eq(y));
    let plan = joined(JoinKind::Inner, None).filter(pair(1, 2).or(pair(3, 4)));
    check(
        filters_down,
        plan.clone(),
        expect![[r#"
        filter b = 1 AND y = 2 OR b = 3 AND y = 4
          join inner on a = x
            scan parquet [a, b] from memory:///in
            scan parquet [x, y] from memory:///in
        →
        join inner on a = x where b = 1 AND y = 2 OR b = 3 AND y = 4
          scan parquet [a, b] from memory:///in where b IN (1, 3)
          scan parquet [x, y] from memory:///in where y IN (2, 4)
    "#]],
    );
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

#[test]
fn what_a_conversion_makes_fail_stays_where_other_rows_are_gone() {
    let left = typed(&[
        ("a", DataType::Int64),
        ("whole", DataType::Decimal128(38, 0)),
        ("fine", DataType::Decimal128(38, 10)),
        ("ms", DataType::Timestamp(TimeUnit::Millisecond, None)),
        ("ns", DataType::Timestamp(TimeUnit::Nanosecond, None)),
        ("price", DataType::Decimal64(15, 2)),
    ]);
    let plan = left
        .join(numbers(&["x"]), JoinKind::Inner, [(col("a"), col("x"))])
        .filter(
            coalesce([col("whole"), col("fine")])
                .gt(1)
                .and(col("ms").lt(col("ns")))
                .and((col("whole") + 1).gt(2))
                .and((col("price") + 1).gt(2))
                .and(col("whole").gt(col("fine"))),
        );
    check(
        filters_down,
        plan,
        expect![[r#"
        filter coalesce(whole, fine) > 1 AND ms < ns AND whole + 1 > 2 AND price + 1 > 2 AND whole > fine
          join inner on a = x
            scan parquet [a, whole, fine, ms, ns, price] from memory:///in
            scan parquet [x] from memory:///in
        →
        join inner on a = x where coalesce(whole, fine) > 1 AND ms < ns AND whole + 1 > 2
          scan parquet [a, whole, fine, ms, ns, price] from memory:///in where price + 1 > 2 AND whole > fine
          scan parquet [x] from memory:///in
    "#]],
    );
}
