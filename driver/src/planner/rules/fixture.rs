//! How the rules are tested: a plan before and after, as text.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema};
use expect_test::Expect;
use kiln_engine::Result;
use kiln_engine::expr::{AggregateExpr, Expr, Literal, SortKey, col, lit};
use kiln_engine::plan::{
    JoinKind, LogicalPlan, Scan, ScanFormat, TextOptions, explain_logical, schema_of,
};

use crate::planner::statistics::{ColumnStatistics, TableStatistics};

/// A plan under construction.
#[derive(Clone)]
pub(in crate::planner) struct Plan(pub(in crate::planner) LogicalPlan);

/// Text lines.
pub(in crate::planner) fn lines() -> Plan {
    scan(
        ScanFormat::Text(TextOptions::default()),
        &[
            ("path", DataType::Utf8View),
            ("offset", DataType::Int64),
            ("line", DataType::Utf8View),
        ],
    )
}

/// A table `a, b, c` of numbers, with a string `s`.
pub(in crate::planner) fn table() -> Plan {
    scan(
        ScanFormat::Parquet,
        &[
            ("s", DataType::Utf8View),
            ("a", DataType::Int64),
            ("b", DataType::Int64),
            ("c", DataType::Int64),
        ],
    )
}

/// A table of numbers in columns of these names, in Parquet files.
pub(in crate::planner) fn numbers(columns: &[&str]) -> Plan {
    let columns: Vec<_> = columns
        .iter()
        .map(|&name| (name, DataType::Int64))
        .collect();
    scan(ScanFormat::Parquet, &columns)
}

/// A table of columns of these names and types, in Parquet files.
pub(in crate::planner) fn typed(columns: &[(&str, DataType)]) -> Plan {
    scan(ScanFormat::Parquet, columns)
}

fn scan(format: ScanFormat, columns: &[(&str, DataType)]) -> Plan {
    scan_of("memory:///in", format, columns)
}

fn scan_of(location: &str, format: ScanFormat, columns: &[(&str, DataType)]) -> Plan {
    let field = |(name, data_type): &(&str, DataType)| Field::new(*name, data_type.clone(), true);
    Plan(LogicalPlan::Scan(Scan {
        locations: vec![location.to_owned()],
        format,
        schema: Arc::new(Schema::new(columns.iter().map(field).collect::<Vec<_>>())),
        projection: None,
        predicate: None,
    }))
}

/// A table: its name, its rows, and its columns, each with the largest value of a number or date.
type Table = (&'static str, u64, &'static [(&'static str, Option<i64>)]);

/// The tables of TPC-H at scale 10, with the columns that tests read. Numbers start at 1, or at 0
/// in the small tables.
const TPCH: [Table; 8] = [
    ("region", 5, &[("r_regionkey", Some(4)), ("r_name", None)]),
    (
        "nation",
        25,
        &[
            ("n_nationkey", Some(24)),
            ("n_name", None),
            ("n_regionkey", Some(4)),
        ],
    ),
    (
        "supplier",
        100_000,
        &[
            ("s_suppkey", Some(100_000)),
            ("s_name", None),
            ("s_nationkey", Some(24)),
        ],
    ),
    (
        "customer",
        1_500_000,
        &[
            ("c_custkey", Some(1_500_000)),
            ("c_name", None),
            ("c_nationkey", Some(24)),
            ("c_mktsegment", None),
        ],
    ),
    (
        "part",
        2_000_000,
        &[
            ("p_partkey", Some(2_000_000)),
            ("p_name", None),
            ("p_brand", None),
            ("p_container", None),
            ("p_size", Some(50)),
        ],
    ),
    (
        "partsupp",
        8_000_000,
        &[
            ("ps_partkey", Some(2_000_000)),
            ("ps_suppkey", Some(100_000)),
            ("ps_supplycost", Some(1000)),
        ],
    ),
    (
        "orders",
        15_000_000,
        &[
            ("o_orderkey", Some(60_000_000)),
            ("o_custkey", Some(1_499_999)),
            ("o_orderdate", Some(10_440)),
            ("o_orderstatus", None),
            ("o_shippriority", Some(0)),
            ("o_totalprice", Some(555_285)),
        ],
    ),
    (
        "lineitem",
        59_986_052,
        &[
            ("l_orderkey", Some(60_000_000)),
            ("l_partkey", Some(2_000_000)),
            ("l_suppkey", Some(100_000)),
            ("l_quantity", Some(50)),
            ("l_extendedprice", Some(104_949)),
            ("l_discount", Some(10)),
            ("l_shipdate", Some(10_561)),
            ("l_commitdate", Some(10_530)),
            ("l_receiptdate", Some(10_591)),
            ("l_shipmode", None),
            ("l_shipinstruct", None),
        ],
    ),
];

/// A date.
pub(in crate::planner) fn day(days: i32) -> Expr {
    Expr::Literal(Literal::Date(days))
}

/// Whether a column is one of some texts.
pub(in crate::planner) fn one_of<const N: usize>(column: &str, texts: [&str; N]) -> Expr {
    Expr::InList {
        expr: Box::new(col(column)),
        list: texts.map(lit).into(),
    }
}

/// The first day of every date in TPC-H, since 1970.
const TPCH_FIRST_DAY: i32 = 8035;

/// A table of TPC-H.
pub(in crate::planner) fn tpch(table: &str) -> Plan {
    let (_, _, columns) = TPCH
        .into_iter()
        .find(|(name, _, _)| *name == table)
        .expect("a table of TPC-H");
    let columns: Vec<_> = columns
        .iter()
        .map(|&(name, largest)| match largest {
            None => (name, DataType::Utf8View),
            Some(_) if name.ends_with("date") => (name, DataType::Date32),
            Some(_) => (name, DataType::Int64),
        })
        .collect();
    scan_of(&format!("memory:///{table}"), ScanFormat::Parquet, &columns)
}

/// What the files of TPC-H at scale 10 say of the table that `scan` reads.
pub(in crate::planner) fn tpch_statistics(scan: &Scan) -> Option<TableStatistics> {
    let table = scan.locations.first()?.strip_prefix("memory:///")?;
    let (_, rows, columns) = TPCH.into_iter().find(|(name, _, _)| *name == table)?;
    let columns = columns.iter().filter_map(|&(name, largest)| {
        let largest = largest?;
        let (min, max) = if name.ends_with("date") {
            let day = |day| i32::try_from(day).ok().map(Literal::Date);
            (Some(Literal::Date(TPCH_FIRST_DAY)), day(largest))
        } else {
            let least = i64::from(rows > 25);
            (Some(Literal::Int64(least)), Some(Literal::Int64(largest)))
        };
        let known = ColumnStatistics {
            min,
            max,
            nulls: Some(0),
            distinct: None,
        };
        Some((name.to_owned(), known))
    });
    Some(TableStatistics {
        rows: Some(rows),
        bytes: rows * 100,
        columns: columns.collect(),
    })
}

impl Plan {
    fn input(self) -> Arc<LogicalPlan> {
        Arc::new(self.0)
    }

    pub(in crate::planner) fn project(self, exprs: impl Into<Vec<Expr>>) -> Plan {
        Plan(LogicalPlan::Project {
            input: self.input(),
            exprs: exprs.into(),
        })
    }

    pub(in crate::planner) fn filter(self, predicate: Expr) -> Plan {
        Plan(LogicalPlan::Filter {
            input: self.input(),
            predicate,
        })
    }

    pub(in crate::planner) fn explode(self, column: &str) -> Plan {
        Plan(LogicalPlan::Explode {
            input: self.input(),
            column: column.to_owned(),
        })
    }

    pub(in crate::planner) fn aggregate(
        self,
        group_by: impl Into<Vec<Expr>>,
        aggregates: impl Into<Vec<AggregateExpr>>,
    ) -> Plan {
        Plan(LogicalPlan::Aggregate {
            input: self.input(),
            group_by: group_by.into(),
            aggregates: aggregates.into(),
        })
    }

    pub(in crate::planner) fn repartition(self, partitions: u32, keys: &[&str]) -> Plan {
        Plan(LogicalPlan::Repartition {
            input: self.input(),
            keys: keys.iter().map(|&key| key.to_owned()).collect(),
            partitions,
        })
    }

    pub(in crate::planner) fn sort_partitions(self, keys: impl Into<Vec<SortKey>>) -> Plan {
        Plan(LogicalPlan::SortPartitions {
            input: self.input(),
            keys: keys.into(),
        })
    }

    pub(in crate::planner) fn sort(self, keys: impl Into<Vec<SortKey>>) -> Plan {
        Plan(LogicalPlan::Sort {
            input: self.input(),
            keys: keys.into(),
            limit: None,
        })
    }

    pub(in crate::planner) fn join(
        self,
        other: Plan,
        kind: JoinKind,
        on: impl Into<Vec<(Expr, Expr)>>,
    ) -> Plan {
        self.join_where(other, kind, on, None)
    }

    pub(in crate::planner) fn join_where(
        self,
        other: Plan,
        kind: JoinKind,
        on: impl Into<Vec<(Expr, Expr)>>,
        filter: Option<Expr>,
    ) -> Plan {
        Plan(LogicalPlan::Join {
            left: self.input(),
            right: other.input(),
            kind,
            on: on.into(),
            filter,
        })
    }

    pub(in crate::planner) fn union(self, other: Plan) -> Plan {
        Plan(LogicalPlan::Union {
            inputs: vec![self.input(), other.input()],
        })
    }

    pub(in crate::planner) fn limit(self, offset: u64, limit: u64) -> Plan {
        Plan(LogicalPlan::Limit {
            input: self.input(),
            offset,
            limit,
        })
    }
}

/// Applies `rule` and compares both plans, which have to make the same columns.
pub(in crate::planner) fn check(
    rule: fn(LogicalPlan) -> Result<LogicalPlan>,
    plan: Plan,
    expected: Expect,
) {
    let before = explain_logical(&plan.0);
    let columns = |plan: &LogicalPlan| {
        let schema = schema_of(plan).expect("a plan that fits together");
        let columns = schema.fields().iter();
        columns
            .map(|field| (field.name().clone(), field.data_type().clone()))
            .collect::<Vec<_>>()
    };
    let columns_before = columns(&plan.0);
    let after = rule(plan.0).expect("a rewritten plan");
    expected.assert_eq(&format!("{before}→\n{}", explain_logical(&after)));
    assert_eq!(columns(&after), columns_before);
}
