//! Estimates beside what is true of the tables that they are made of.

use kiln_engine::expr::{Expr, col, contains, count_all};
use kiln_engine::plan::JoinKind;

use super::*;
use crate::planner::rules::fixture::{Plan, tpch, tpch_statistics};

/// The estimate is within a factor of what is true.
fn check(plan: Plan, rows: f64) {
    let found = estimate(&plan.0, &tpch_statistics).rows;
    let text = kiln_engine::plan::explain_logical(&plan.0);
    assert!(
        found <= rows * 1.6 && found >= rows / 1.6,
        "found={found} expected={rows}\n{text}"
    );
}


fn date(days: i32) -> Expr {
    Expr::Literal(Literal::Date(days))
}

fn on(left: &str, right: &str) -> Vec<(Expr, Expr)> {
    vec![(col(left), col(right))]
}

#[test]
fn filters_keep_a_share() {
    let year = col("o_orderdate").gt_eq(date(8766)).and(col("o_orderdate").lt(date(9131)));
    check(tpch("orders").filter(year), 15e6 / 6.6);
    check(tpch("lineitem").filter(col("l_orderkey").eq(7)), 1.0);
    check(tpch("customer").filter(col("c_mktsegment").eq("BUILDING")), 75e3);
    check(tpch("part").filter(contains(col("p_name"), "green")), 2e5);
    check(tpch("region").filter(col("r_name").eq("ASIA")), 1.0);
    check(tpch("part").filter(col("p_size").gt_eq(1).and(col("p_size").lt_eq(15))), 6e5);
}

#[test]
fn children_meet_their_parent() {
    let inner = |left: Plan, right: Plan, keys| left.join(right, JoinKind::Inner, keys);
    let lines = || tpch("lineitem");
    check(inner(lines(), tpch("orders"), on("l_orderkey", "o_orderkey")), 60e6);
    check(inner(tpch("orders"), tpch("customer"), on("o_custkey", "c_custkey")), 15e6);
    check(inner(tpch("nation"), tpch("region"), on("n_regionkey", "r_regionkey")), 25.0);
    let asia = tpch("region").filter(col("r_name").eq("ASIA"));
    check(inner(tpch("nation"), asia, on("n_regionkey", "r_regionkey")), 5.0);
    let both = [on("l_partkey", "ps_partkey"), on("l_suppkey", "ps_suppkey")].concat();
    check(inner(lines(), tpch("partsupp"), both.clone()), 60e6);
    let green = tpch("part").filter(contains(col("p_name"), "green"));
    let some = inner(lines(), green, on("l_partkey", "p_partkey"));
    check(some.clone(), 6e6);
    check(inner(some, tpch("partsupp"), both), 6e6);
}

#[test]
fn other_kinds_keep_what_they_say() {
    let orders = || tpch("orders");
    let keys = || on("o_custkey", "c_custkey");
    let few = tpch("customer").filter(col("c_custkey").lt_eq(150));
    check(orders().join(few.clone(), JoinKind::Left, keys()), 15e6);
    check(orders().join(few.clone(), JoinKind::Semi, keys()), 1500.0);
    check(orders().join(few, JoinKind::Anti, keys()), 15e6);
}

#[test]
fn groups_are_no_more_than_rows_and_keys() {
    check(tpch("lineitem").aggregate([col("l_suppkey")], [count_all()]), 1e5);
    check(tpch("lineitem").aggregate([], [count_all()]), 1.0);
    check(tpch("nation").aggregate([col("n_nationkey")], [count_all()]), 25.0);
}
