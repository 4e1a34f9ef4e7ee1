//! Queries of TPC-H, as a user writes them, optimised for tables of its scale 10.

use arrow::datatypes::{DataType, TimeUnit};
use expect_test::{Expect, expect};
use kiln_engine::expr::{Literal, col, contains, count_all, lit, sum};
use kiln_engine::plan::{Scan, explain_logical, schema_of};

use super::super::fixture::{Plan, day, numbers, one_of, tpch, tpch_statistics, typed};
use super::*;
use crate::planner::optimize;
use crate::planner::statistics::{ColumnStatistics, TableStatistics};

fn check(plan: Plan, expected: Expect) {
    let schema = schema_of(&plan.0).expect("a plan that fits together");
    let optimised = optimize(plan.0, &tpch_statistics).expect("an optimised plan");
    let made = schema_of(&optimised).expect("a plan that fits together");
    let columns = |schema: &arrow::datatypes::Schema| {
        let fields = schema.fields().iter();
        fields
            .map(|field| (field.name().clone(), field.data_type().clone()))
            .collect::<Vec<_>>()
    };
    assert_eq!(columns(&made), columns(&schema));
    let text = explain_logical(&optimised);
    expected.assert_eq(&text.replace("memory:///", ""));
}

/// The tables side by side, as `FROM a, b, c` puts them.
fn from<const N: usize>(tables: [Plan; N]) -> Plan {
    let crossed = |left: Plan, right| left.join(right, JoinKind::Inner, []);
    tables.into_iter().reduce(crossed).expect("a table")
}

fn revenue() -> Expr {
    col("l_extendedprice") * (lit(1) - col("l_discount"))
}

/// The table of nations with other names for its columns.
fn nation(prefix: &str) -> Plan {
    let columns = ["n_nationkey", "n_name", "n_regionkey"];
    tpch("nation").project(columns.map(|name| col(name).alias(format!("{prefix}{name}"))))
}

#[test]
fn q3() {
    let plan = from([tpch("customer"), tpch("orders"), tpch("lineitem")])
        .filter(
            col("c_mktsegment")
                .eq("BUILDING")
                .and(col("c_custkey").eq(col("o_custkey")))
                .and(col("l_orderkey").eq(col("o_orderkey")))
                .and(col("o_orderdate").lt(day(9204)))
                .and(col("l_shipdate").gt(day(9204))),
        )
        .aggregate(
            [col("l_orderkey"), col("o_orderdate"), col("o_shippriority")],
            [sum(revenue()).alias("revenue")],
        )
        .sort([col("revenue").desc(), col("o_orderdate").asc()])
        .limit(0, 10);
    check(
        plan,
        expect![[r#"
        top 10 by revenue DESC, o_orderdate
          aggregate by l_orderkey, o_orderdate, o_shippriority: sum(l_extendedprice * (1 - l_discount)) AS revenue
            project o_orderdate, o_shippriority, l_orderkey, l_extendedprice, l_discount
              join inner on l_orderkey = o_orderkey
                scan parquet [l_orderkey, l_extendedprice, l_discount] from lineitem where l_shipdate > DATE '1995-03-15'
                project o_orderkey, o_orderdate, o_shippriority
                  join inner on o_custkey = c_custkey
                    scan parquet [o_orderkey, o_custkey, o_orderdate, o_shippriority] from orders where o_orderdate < DATE '1995-03-15'
                    scan parquet [c_custkey] from customer where c_mktsegment = "BUILDING"
    "#]],
    );
}

#[test]
fn q5() {
    let tables = [
        "customer", "orders", "lineitem", "supplier", "nation", "region",
    ];
    let plan = from(tables.map(tpch))
        .filter(
            col("c_custkey")
                .eq(col("o_custkey"))
                .and(col("l_orderkey").eq(col("o_orderkey")))
                .and(col("l_suppkey").eq(col("s_suppkey")))
                .and(col("c_nationkey").eq(col("s_nationkey")))
                .and(col("s_nationkey").eq(col("n_nationkey")))
                .and(col("n_regionkey").eq(col("r_regionkey")))
                .and(col("r_name").eq("ASIA"))
                .and(col("o_orderdate").gt_eq(day(8766)))
                .and(col("o_orderdate").lt(day(9131))),
        )
        .aggregate([col("n_name")], [sum(revenue()).alias("revenue")])
        .sort([col("revenue").desc()]);
    check(
        plan,
        expect![[r#"
        sort by revenue DESC
          aggregate by n_name: sum(l_extendedprice * (1 - l_discount)) AS revenue
            project l_extendedprice, l_discount, n_name
              join inner on l_suppkey = s_suppkey, c_nationkey = s_nationkey
                project l_suppkey, l_extendedprice, l_discount, c_nationkey, n_name
                  join inner on l_orderkey = o_orderkey
                    scan parquet [l_orderkey, l_suppkey, l_extendedprice, l_discount] from lineitem
                    project o_orderkey, c_nationkey, n_name
                      join inner on o_custkey = c_custkey
                        scan parquet [o_orderkey, o_custkey] from orders where o_orderdate >= DATE '1994-01-01' AND o_orderdate < DATE '1995-01-01'
                        project c_custkey, c_nationkey, n_name
                          join inner on c_nationkey = n_nationkey
                            scan parquet [c_custkey, c_nationkey] from customer
                            project n_nationkey, n_name
                              join inner on n_regionkey = r_regionkey
                                scan parquet [n_nationkey, n_name, n_regionkey] from nation
                                scan parquet [r_regionkey] from region where r_name = "ASIA"
                scan parquet [s_suppkey, s_nationkey] from supplier
    "#]],
    );
}

#[test]
fn q7() {
    let pair = |one: &str, other: &str| col("n1_n_name").eq(one).and(col("n2_n_name").eq(other));
    let plan = from([
        tpch("supplier"),
        tpch("lineitem"),
        tpch("orders"),
        tpch("customer"),
        nation("n1_"),
        nation("n2_"),
    ])
    .filter(
        col("s_suppkey")
            .eq(col("l_suppkey"))
            .and(col("o_orderkey").eq(col("l_orderkey")))
            .and(col("c_custkey").eq(col("o_custkey")))
            .and(col("s_nationkey").eq(col("n1_n_nationkey")))
            .and(col("c_nationkey").eq(col("n2_n_nationkey")))
            .and(pair("FRANCE", "GERMANY").or(pair("GERMANY", "FRANCE")))
            .and(col("l_shipdate").gt_eq(day(9131)))
            .and(col("l_shipdate").lt_eq(day(9861))),
    )
    .project([
        col("n1_n_name").alias("supp_nation"),
        col("n2_n_name").alias("cust_nation"),
        revenue().alias("volume"),
    ])
    .aggregate(
        [col("supp_nation"), col("cust_nation")],
        [sum(col("volume")).alias("revenue")],
    );
    check(
        plan,
        expect![[r#"
        aggregate by supp_nation, cust_nation: sum(volume) AS revenue
          project n1_n_name AS supp_nation, n2_n_name AS cust_nation, l_extendedprice * (1 - l_discount) AS volume
            join inner on l_orderkey = o_orderkey where n1_n_name = "FRANCE" AND n2_n_name = "GERMANY" OR n1_n_name = "GERMANY" AND n2_n_name = "FRANCE"
              project l_orderkey, l_extendedprice, l_discount, n1_n_name
                join inner on l_suppkey = s_suppkey
                  scan parquet [l_orderkey, l_suppkey, l_extendedprice, l_discount] from lineitem where l_shipdate >= DATE '1995-01-01' AND l_shipdate <= DATE '1996-12-31'
                  project s_suppkey, n1_n_name
                    join inner on s_nationkey = n1_n_nationkey
                      scan parquet [s_suppkey, s_nationkey] from supplier
                      project n_nationkey AS n1_n_nationkey, n_name AS n1_n_name
                        scan parquet [n_nationkey, n_name] from nation where n_name IN ("FRANCE", "GERMANY")
              project o_orderkey, n2_n_name
                join inner on o_custkey = c_custkey
                  scan parquet [o_orderkey, o_custkey] from orders
                  project c_custkey, n2_n_name
                    join inner on c_nationkey = n2_n_nationkey
                      scan parquet [c_custkey, c_nationkey] from customer
                      project n_nationkey AS n2_n_nationkey, n_name AS n2_n_name
                        scan parquet [n_nationkey, n_name] from nation where n_name IN ("GERMANY", "FRANCE")
    "#]],
    );
}

#[test]
fn q9() {
    let tables = [
        "part", "supplier", "lineitem", "partsupp", "orders", "nation",
    ];
    let plan = from(tables.map(tpch))
        .filter(
            col("s_suppkey")
                .eq(col("l_suppkey"))
                .and(col("ps_suppkey").eq(col("l_suppkey")))
                .and(col("ps_partkey").eq(col("l_partkey")))
                .and(col("p_partkey").eq(col("l_partkey")))
                .and(col("o_orderkey").eq(col("l_orderkey")))
                .and(col("s_nationkey").eq(col("n_nationkey")))
                .and(contains(col("p_name"), "green")),
        )
        .project([
            col("n_name").alias("nation"),
            col("o_orderdate"),
            (revenue() - col("ps_supplycost") * col("l_quantity")).alias("amount"),
        ])
        .aggregate(
            [col("nation"), col("o_orderdate")],
            [sum(col("amount")).alias("sum_profit")],
        );
    check(
        plan,
        expect![[r#"
        aggregate by nation, o_orderdate: sum(amount) AS sum_profit
          project n_name AS nation, o_orderdate, l_extendedprice * (1 - l_discount) - ps_supplycost * l_quantity AS amount
            join inner on o_orderkey = l_orderkey
              scan parquet [o_orderkey, o_orderdate] from orders
              project l_orderkey, l_quantity, l_extendedprice, l_discount, ps_supplycost, n_name
                join inner on l_suppkey = s_suppkey, l_partkey = p_partkey
                  scan parquet [l_orderkey, l_partkey, l_suppkey, l_quantity, l_extendedprice, l_discount] from lineitem
                  project ps_supplycost, p_partkey, s_suppkey, n_name
                    join inner on ps_suppkey = s_suppkey
                      project ps_suppkey, ps_supplycost, p_partkey
                        join inner on ps_partkey = p_partkey
                          scan parquet [ps_partkey, ps_suppkey, ps_supplycost] from partsupp
                          scan parquet [p_partkey] from part where contains(p_name, "green")
                      project s_suppkey, n_name
                        join inner on s_nationkey = n_nationkey
                          scan parquet [s_suppkey, s_nationkey] from supplier
                          scan parquet [n_nationkey, n_name] from nation
    "#]],
    );
}

#[test]
fn q18() {
    let large = tpch("lineitem")
        .project([col("l_orderkey").alias("key"), col("l_quantity")])
        .aggregate([col("key")], [sum(col("l_quantity")).alias("total")])
        .filter(col("total").gt(300))
        .project([col("key")]);
    let plan = from([tpch("customer"), tpch("orders"), tpch("lineitem")])
        .filter(
            col("c_custkey")
                .eq(col("o_custkey"))
                .and(col("o_orderkey").eq(col("l_orderkey"))),
        )
        .join(large, JoinKind::Semi, [(col("o_orderkey"), col("key"))])
        .aggregate(
            [col("c_name"), col("o_orderkey"), col("o_totalprice")],
            [sum(col("l_quantity")).alias("quantity")],
        )
        .sort([col("o_totalprice").desc()])
        .limit(0, 100);
    check(
        plan,
        expect![[r#"
        top 100 by o_totalprice DESC
          aggregate by c_name, o_orderkey, o_totalprice: sum(l_quantity) AS quantity
            project c_name, o_orderkey, o_totalprice, l_quantity
              join inner on l_orderkey = o_orderkey
                scan parquet [l_orderkey, l_quantity] from lineitem
                project o_orderkey, o_totalprice, c_name
                  join inner on o_custkey = c_custkey
                    join semi on o_orderkey = key
                      scan parquet [o_orderkey, o_custkey, o_totalprice] from orders
                      project key
                        filter total > 300
                          aggregate by key: sum(l_quantity) AS total
                            project l_orderkey AS key, l_quantity
                              scan parquet [l_orderkey, l_quantity] from lineitem
                    scan parquet [c_custkey, c_name] from customer
    "#]],
    );
}

#[test]
fn q19() {
    let side = |brand: &str, containers: [&str; 2], least: i64, size: i64| {
        col("p_partkey")
            .eq(col("l_partkey"))
            .and(col("p_brand").eq(brand))
            .and(one_of("p_container", containers))
            .and(col("l_quantity").gt_eq(least))
            .and(col("l_quantity").lt_eq(lit(least) + 10))
            .and(col("p_size").gt_eq(1))
            .and(col("p_size").lt_eq(size))
            .and(one_of("l_shipmode", ["AIR", "AIR REG"]))
            .and(col("l_shipinstruct").eq("DELIVER IN PERSON"))
    };
    let plan = from([tpch("lineitem"), tpch("part")])
        .filter(
            side("Brand#12", ["SM CASE", "SM BOX"], 1, 5)
                .or(side("Brand#23", ["MED BAG", "MED BOX"], 10, 10))
                .or(side("Brand#34", ["LG CASE", "LG BOX"], 20, 15)),
        )
        .aggregate([], [sum(revenue()).alias("revenue")]);
    check(
        plan,
        expect![[r#"
        aggregate: sum(l_extendedprice * (1 - l_discount)) AS revenue
          project l_extendedprice, l_discount
            join inner on l_partkey = p_partkey where p_brand = "Brand#12" AND p_container IN ("SM CASE", "SM BOX") AND l_quantity >= 1 AND l_quantity <= 11 AND p_size <= 5 OR p_brand = "Brand#23" AND p_container IN ("MED BAG", "MED BOX") AND l_quantity >= 10 AND l_quantity <= 20 AND p_size <= 10 OR p_brand = "Brand#34" AND p_container IN ("LG CASE", "LG BOX") AND l_quantity >= 20 AND l_quantity <= 30 AND p_size <= 15
              scan parquet [l_partkey, l_quantity, l_extendedprice, l_discount] from lineitem where l_shipmode IN ("AIR", "AIR REG") AND l_shipinstruct = "DELIVER IN PERSON" AND (l_quantity >= 1 AND l_quantity <= 11 OR l_quantity >= 10 AND l_quantity <= 20 OR l_quantity >= 20 AND l_quantity <= 30)
              scan parquet [p_partkey, p_brand, p_container, p_size] from part where p_size >= 1 AND (p_brand = "Brand#12" AND p_container IN ("SM CASE", "SM BOX") AND p_size <= 5 OR p_brand = "Brand#23" AND p_container IN ("MED BAG", "MED BOX") AND p_size <= 10 OR p_brand = "Brand#34" AND p_container IN ("LG CASE", "LG BOX") AND p_size <= 15)
    "#]],
    );
}

#[test]
fn q21() {
    let others = |prefix: &str, late: bool| {
        let names = ["l_orderkey", "l_suppkey", "l_commitdate", "l_receiptdate"];
        let lines = tpch("lineitem");
        let lines = match late {
            true => lines.filter(col("l_receiptdate").gt(col("l_commitdate"))),
            false => lines,
        };
        lines.project(names.map(|name| col(name).alias(format!("{prefix}{name}"))))
    };
    let key = |prefix: &str| [(col("l_orderkey"), col(format!("{prefix}l_orderkey")))];
    let another = |prefix: &str| Some(col(format!("{prefix}l_suppkey")).not_eq(col("l_suppkey")));
    let plan = from(["supplier", "lineitem", "orders", "nation"].map(tpch))
        .filter(
            col("s_suppkey")
                .eq(col("l_suppkey"))
                .and(col("o_orderkey").eq(col("l_orderkey")))
                .and(col("o_orderstatus").eq("F"))
                .and(col("l_receiptdate").gt(col("l_commitdate")))
                .and(col("s_nationkey").eq(col("n_nationkey")))
                .and(col("n_name").eq("SAUDI ARABIA")),
        )
        .join_where(
            others("l2_", false),
            JoinKind::Semi,
            key("l2_"),
            another("l2_"),
        )
        .join_where(
            others("l3_", true),
            JoinKind::Anti,
            key("l3_"),
            another("l3_"),
        )
        .aggregate([col("s_name")], [count_all().alias("numwait")])
        .sort([col("numwait").desc(), col("s_name").asc()])
        .limit(0, 100);
    check(
        plan,
        expect![[r#"
        top 100 by numwait DESC, s_name
          aggregate by s_name: count(*) AS numwait
            project s_name
              join semi on l_orderkey = l2_l_orderkey where l2_l_suppkey != l_suppkey
                join anti on l_orderkey = l3_l_orderkey where l3_l_suppkey != l_suppkey
                  project l_orderkey, l_suppkey, s_name
                    join inner on l_orderkey = o_orderkey
                      project l_orderkey, l_suppkey, s_name
                        join inner on l_suppkey = s_suppkey
                          scan parquet [l_orderkey, l_suppkey] from lineitem where l_receiptdate > l_commitdate
                          project s_suppkey, s_name
                            join inner on s_nationkey = n_nationkey
                              scan parquet [s_suppkey, s_name, s_nationkey] from supplier
                              scan parquet [n_nationkey] from nation where n_name = "SAUDI ARABIA"
                      scan parquet [o_orderkey] from orders where o_orderstatus = "F"
                  project l_orderkey AS l3_l_orderkey, l_suppkey AS l3_l_suppkey
                    scan parquet [l_orderkey, l_suppkey] from lineitem where l_receiptdate > l_commitdate
                project l_orderkey AS l2_l_orderkey, l_suppkey AS l2_l_suppkey
                  scan parquet [l_orderkey, l_suppkey] from lineitem
    "#]],
    );
}

#[test]
fn without_statistics_the_order_is_the_users() {
    let plan = from([tpch("region"), tpch("nation"), tpch("supplier")]).filter(
        col("n_nationkey")
            .eq(col("s_nationkey"))
            .and(col("n_regionkey").eq(col("r_regionkey"))),
    );
    let optimised = optimize(plan.0, &|_| None).expect("an optimised plan");
    assert_eq!(join_order(&optimised, &|_| None), optimised);
}

#[test]
fn many_tables_are_joined_greedily() {
    let copy = |index: usize| {
        let names = ["s_suppkey", "s_nationkey"];
        let renamed = names.map(|name| col(name).alias(format!("{name}{index}")));
        let plan = tpch("supplier").project(renamed);
        if index == 7 {
            plan.filter(col("s_suppkey7").eq(3))
        } else {
            plan
        }
    };
    let mut plan = copy(0);
    for index in 1..20 {
        let key = |index: usize| col(format!("s_suppkey{index}"));
        plan = plan.join(copy(index), JoinKind::Inner, [(key(index - 1), key(index))]);
    }
    let columns = column_names(&plan.0);
    let ordered = join_order(&plan.0, &tpch_statistics);
    assert_eq!(column_names(&ordered), columns);
    assert!(relation(&ordered, &tpch_statistics).rows < 10.0);
    let text = explain_logical(&ordered);
    assert_eq!(text.matches("join inner on").count(), 19, "{text}");
}

#[test]
fn two_columns_that_equal_the_same_one_are_equal() {
    let tables = tpch("lineitem").join(
        tpch("supplier"),
        JoinKind::Inner,
        [
            (col("l_suppkey"), col("s_suppkey")),
            (col("l_orderkey"), col("s_suppkey")),
        ],
    );
    check(
        tables.project([col("l_suppkey"), col("s_name")]),
        expect![[r#"
            project l_suppkey, s_name
              join inner on l_suppkey = s_suppkey
                scan parquet [l_suppkey] from lineitem where l_suppkey = l_orderkey
                scan parquet [s_suppkey, s_name] from supplier
        "#]],
    );
}

#[test]
fn a_key_that_is_constant_is_not_lost() {
    let keys = [
        (col("s_nationkey"), col("n_nationkey")),
        (col("s_suppkey"), lit(7)),
    ];
    let plan = tpch("supplier")
        .join(tpch("nation"), JoinKind::Inner, keys)
        .join(
            tpch("region"),
            JoinKind::Inner,
            [(col("n_regionkey"), col("r_regionkey")), (lit(1), lit(2))],
        );
    check(
        plan,
        expect![[r#"
        join inner on n_regionkey = r_regionkey, 1 = 2
          join inner on s_nationkey = n_nationkey, s_suppkey = 7
            scan parquet [s_suppkey, s_name, s_nationkey] from supplier
            scan parquet [n_nationkey, n_name, n_regionkey] from nation
          scan parquet [r_regionkey, r_name] from region
    "#]],
    );
}

#[test]
fn keys_that_may_not_compare_stay_where_they_are() {
    let is_joined_on = |left: TimeUnit, right: TimeUnit| {
        let timestamp = |unit| DataType::Timestamp(unit, None);
        let left = typed(&[("x", timestamp(left))]);
        let right = typed(&[("y", timestamp(right))]);
        is_joined(&left.join(right, JoinKind::Inner, [(col("x"), col("y"))]).0)
    };
    assert!(is_joined_on(TimeUnit::Nanosecond, TimeUnit::Nanosecond));
    assert!(!is_joined_on(TimeUnit::Millisecond, TimeUnit::Nanosecond));
}

/// How many rows the table has that key `index` of a star's facts stands for.
fn star_rows(index: usize) -> i64 {
    [20, 300, 4000][index % 3] * (index as i64 + 1)
}

/// What is known of the tables of a star: facts with the columns `k0`, `k1`, …, and for each of
/// them a table of its `id` and a value `x` of ten.
fn star_statistics(scan: &Scan) -> Option<TableStatistics> {
    let first = scan.schema.fields().first()?.name();
    let up_to = |most: i64| ColumnStatistics {
        min: Some(Literal::Int64(1)),
        max: Some(Literal::Int64(most)),
        nulls: Some(0),
        distinct: None,
    };
    let column = |name: String, most: i64| (name, up_to(most));
    let (rows, columns) = match first.strip_prefix("id") {
        Some(index) => {
            let rows = star_rows(index.parse().ok()?);
            let columns = [
                column(format!("id{index}"), rows),
                column(format!("x{index}"), 10),
            ];
            (rows as u64, columns.into())
        }
        None => {
            let keys = (0..13).map(|index| column(format!("k{index}"), star_rows(index)));
            (50_000_000, keys.collect())
        }
    };
    let bytes = rows * 16;
    let rows = Some(rows);
    Some(TableStatistics {
        rows,
        bytes,
        columns,
    })
}

#[test]
fn a_star_of_many_tables_begins_with_those_that_drop_most() {
    let names: Vec<String> = (0..13).map(|index| format!("k{index}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut plan = numbers(&names);
    for index in 0..13 {
        let (id, x) = (format!("id{index}"), format!("x{index}"));
        let mut table = numbers(&[&id, &x]);
        if [2, 5, 9].contains(&index) {
            table = table.filter(col(x).eq(5));
        }
        let key = (col(format!("k{index}")), col(id));
        plan = plan.join(table, JoinKind::Inner, [key]);
    }
    let plan = plan.aggregate([], [count_all()]);
    let optimised = optimize(plan.0, &star_statistics).expect("an optimised plan");
    let text = explain_logical(&optimised);
    // The keys of the joins, from the first to the last.
    let joins = text
        .lines()
        .filter_map(|line| line.split_once("join inner on "));
    let mut keys: Vec<&str> = joins.map(|(_, keys)| keys).collect();
    keys.reverse();
    expect![[r#"
        k9 = id9
        k2 = id2
        k5 = id5
        k0 = id0
        k3 = id3
        k6 = id6
        k12 = id12
        k1 = id1
        k4 = id4
        k7 = id7
        k10 = id10
        k8 = id8
        k11 = id11"#]]
    .assert_eq(&keys.join("\n"));
}
