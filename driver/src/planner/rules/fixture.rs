//! How the rules are tested: a plan before and after, as text.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema};
use expect_test::Expect;
use kiln_engine::Result;
use kiln_engine::expr::{AggregateExpr, Expr, SortKey};
use kiln_engine::plan::{
    JoinKind, LogicalPlan, Scan, ScanFormat, TextOptions, explain_logical, schema_of,
};

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

fn scan(format: ScanFormat, columns: &[(&str, DataType)]) -> Plan {
    let field = |(name, data_type): &(&str, DataType)| Field::new(*name, data_type.clone(), true);
    Plan(LogicalPlan::Scan(Scan {
        locations: vec!["memory:///in".to_owned()],
        format,
        schema: Arc::new(Schema::new(columns.iter().map(field).collect::<Vec<_>>())),
        projection: None,
        predicate: None,
    }))
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
