//! Rows that a plan is thought to make, and what is known of their columns.
//!
//! Two guesses carry most of the weight. The values of a whole-number column are as many as its
//! range has room for, but no more than there are rows. And what a filter keeps is as good as any
//! other part of a table: values of other columns keep their range and their number, so that a key
//! of a table that is filtered by something else still stands for the whole domain of that key.

use std::collections::BTreeMap;

use arrow::datatypes::{DataType, Field, Schema};
use kiln_engine::expr::{Expr, Literal, output_name};
use kiln_engine::plan::{JoinKind, LogicalPlan, Scan};

use super::assumed::{COMPUTED_BYTES, LIST_ELEMENTS, TEXT_BYTES};
use super::joined::{join_rows, semi_share};
use super::selectivity::keep_parts;
use super::{ColumnStatistics, Statistics, TableStatistics};
use crate::planner::rewrite::unaliased;

/// Microseconds of a day.
const DAY_MICROS: f64 = 86_400e6;

/// The rows of a plan.
#[derive(Debug, Clone)]
pub(in crate::planner) struct Relation {
    /// How many there are.
    pub(in crate::planner) rows: f64,
    /// How many there would be without the filters on them.
    pub(in crate::planner) base: f64,
    /// The files that they come from have said something; else all of this is made up.
    pub(in crate::planner) known: bool,
    /// What is known of each column.
    pub(in crate::planner) columns: BTreeMap<String, Column>,
}

/// The values of a column. Numbers are as they are, times in microseconds.
#[derive(Debug, Clone)]
pub(in crate::planner) struct Column {
    /// No value is smaller.
    pub(in crate::planner) min: Option<f64>,
    /// No value is larger.
    pub(in crate::planner) max: Option<f64>,
    /// No more different ones than this.
    pub(in crate::planner) distinct: Option<f64>,
    /// The share of nulls.
    pub(in crate::planner) nulls: f64,
    /// Bytes of a value.
    pub(in crate::planner) bytes: f64,
    /// The result of an aggregate.
    pub(in crate::planner) is_result: bool,
}

impl Column {
    fn unknown(bytes: f64) -> Self {
        Column {
            min: None,
            max: None,
            distinct: None,
            nulls: 0.0,
            bytes,
            is_result: false,
        }
    }
}

impl Relation {
    /// Bytes of all rows.
    pub(in crate::planner) fn bytes(&self) -> f64 {
        let row: f64 = self.columns.values().map(|column| column.bytes).sum();
        self.rows * row
    }

    fn empty() -> Self {
        Relation {
            rows: 1.0,
            base: 1.0,
            known: false,
            columns: BTreeMap::new(),
        }
    }
}

/// The rows that `plan` is thought to make.
pub(in crate::planner) fn relation(plan: &LogicalPlan, statistics: Statistics) -> Relation {
    if let LogicalPlan::Scan(scan) = plan {
        return scanned(scan, statistics(scan));
    }
    let inputs = plan.inputs().into_iter();
    let mut inputs = inputs.map(|input| relation(input, statistics));
    match plan {
        LogicalPlan::Join {
            kind, on, filter, ..
        } => {
            let (left, right) = (inputs.next(), inputs.next());
            let (Some(left), Some(right)) = (left, right) else {
                return Relation::empty();
            };
            joined(left, right, *kind, on, filter.as_ref())
        }
        LogicalPlan::Union { .. } => inputs.reduce(both).unwrap_or_else(Relation::empty),
        _ => {
            let input = inputs.next().unwrap_or_else(Relation::empty);
            over_one(plan, input)
        }
    }
}

fn scanned(scan: &Scan, table: Option<TableStatistics>) -> Relation {
    let known = table.is_some();
    let table = table.unwrap_or_default();
    let bytes = row_bytes(&scan.schema);
    let rows = table
        .rows
        .map_or(table.bytes as f64 / bytes.max(1.0), |rows| rows as f64);
    let columns = scan.schema.fields().iter().map(|field| {
        let known = table.columns.get(field.name());
        (field.name().clone(), column_of(field, known, rows))
    });
    let mut relation = Relation {
        rows: rows.max(1.0),
        base: rows.max(1.0),
        known,
        columns: columns.collect(),
    };
    if let Some(predicate) = &scan.predicate {
        keep_parts(&predicate.conjuncts(), &mut relation);
    }
    if let Some(names) = &scan.projection {
        relation.columns.retain(|name, _| names.contains(name));
    }
    relation
}

fn column_of(field: &Field, known: Option<&ColumnStatistics>, rows: f64) -> Column {
    let mut column = Column::unknown(bytes_of(field.data_type()));
    if *field.data_type() == DataType::Boolean {
        column.distinct = Some(2.0);
    }
    let Some(known) = known else {
        return column;
    };
    column.min = known.min.as_ref().and_then(number);
    column.max = known.max.as_ref().and_then(number);
    let nulls = known.nulls.unwrap_or(0) as f64;
    column.nulls = (nulls / rows.max(1.0)).min(1.0);
    let step = match field.data_type() {
        data_type if data_type.is_integer() => Some(1.0),
        DataType::Date32 => Some(DAY_MICROS),
        DataType::Decimal32(_, scale)
        | DataType::Decimal64(_, scale)
        | DataType::Decimal128(_, scale) => Some(10_f64.powi(-i32::from(*scale))),
        _ => None,
    };
    let room = match (column.min, column.max, step) {
        (Some(min), Some(max), Some(step)) => Some(((max - min) / step + 1.0).max(1.0)),
        _ if known.min.is_some() && known.min == known.max => Some(1.0),
        _ => None,
    };
    column.distinct = known.distinct.map(|distinct| distinct as f64).or(room);
    column
}

/// The value of a literal on a scale with those of its kind.
pub(super) fn number(literal: &Literal) -> Option<f64> {
    match literal {
        Literal::Int64(value) => Some(*value as f64),
        Literal::Float64(value) => Some(*value),
        Literal::Decimal {
            unscaled, scale, ..
        } => Some(*unscaled as f64 * 10_f64.powi(-i32::from(*scale))),
        Literal::Date(days) => Some(f64::from(*days) * DAY_MICROS),
        Literal::Timestamp { micros, .. } => Some(*micros as f64),
        Literal::Null
        | Literal::Boolean(_)
        | Literal::Utf8(_)
        | Literal::Binary(_)
        | Literal::Interval { .. } => None,
    }
}

/// Bytes in memory that a row of `schema` is thought to take.
pub(crate) fn row_bytes(schema: &Schema) -> f64 {
    let fields = schema.fields().iter();
    fields.map(|field| bytes_of(field.data_type())).sum()
}

fn bytes_of(data_type: &DataType) -> f64 {
    match data_type.primitive_width() {
        Some(bytes) => bytes as f64,
        None if *data_type == DataType::Boolean => 1.0,
        None => TEXT_BYTES,
    }
}

fn over_one(node: &LogicalPlan, mut input: Relation) -> Relation {
    match node {
        LogicalPlan::Project { exprs, .. } => {
            let columns = exprs
                .iter()
                .map(|expr| (output_name(expr), made_of(expr, &input)));
            input.columns = columns.collect();
        }
        LogicalPlan::Filter { predicate, .. } => {
            keep_parts(&predicate.conjuncts(), &mut input);
        }
        LogicalPlan::Apply { function, .. } => made_by_user(function.output(), &mut input),
        LogicalPlan::Reduce { function, .. } => made_by_user(function.output(), &mut input),
        LogicalPlan::Explode { column, .. } => {
            input.rows *= LIST_ELEMENTS;
            input.base *= LIST_ELEMENTS;
            let exploded = Column::unknown(TEXT_BYTES);
            input.columns.insert(column.clone(), exploded);
        }
        LogicalPlan::Aggregate {
            group_by,
            aggregates,
            ..
        } => {
            let keys: Vec<(String, Column)> = group_by
                .iter()
                .map(|key| (output_name(key), made_of(key, &input)))
                .collect();
            let guess = input.rows.powf(0.75);
            let groups = keys
                .iter()
                .map(|(_, key)| key.distinct.unwrap_or(guess))
                .product::<f64>();
            let groups = groups.min(input.rows).max(1.0);
            let results = aggregates.iter().map(|aggregate| {
                let result = Column {
                    is_result: true,
                    ..Column::unknown(COMPUTED_BYTES)
                };
                (aggregate.name.clone(), result)
            });
            input.columns = keys.into_iter().chain(results).collect();
            input.rows = groups;
            input.base = groups;
        }
        LogicalPlan::Sort { limit, .. } => limit_rows(&mut input, *limit),
        LogicalPlan::Limit { limit, .. } => limit_rows(&mut input, Some(*limit)),
        LogicalPlan::Scan(_)
        | LogicalPlan::Repartition { .. }
        | LogicalPlan::SortPartitions { .. }
        | LogicalPlan::Write { .. }
        | LogicalPlan::Join { .. }
        | LogicalPlan::Union { .. } => {}
    }
    input
}

/// Nobody knows what a user's function makes of rows; as many of them is a guess.
fn made_by_user(schema: &Schema, relation: &mut Relation) {
    relation.known = false;
    let fields = schema.fields().iter();
    let columns = fields.map(|field| {
        let column = Column::unknown(bytes_of(field.data_type()));
        (field.name().clone(), column)
    });
    relation.columns = columns.collect();
}

fn limit_rows(relation: &mut Relation, limit: Option<u64>) {
    if let Some(limit) = limit {
        relation.rows = relation.rows.min(limit as f64);
        relation.base = relation.rows;
    }
}

fn made_of(expr: &Expr, input: &Relation) -> Column {
    let known = match unaliased(expr) {
        Expr::Column(name) => input.columns.get(name).cloned(),
        _ => None,
    };
    known.unwrap_or_else(|| Column::unknown(COMPUTED_BYTES))
}

fn joined(
    left: Relation,
    right: Relation,
    kind: JoinKind,
    on: &[(Expr, Expr)],
    filter: Option<&Expr>,
) -> Relation {
    let known = left.known && right.known;
    if matches!(kind, JoinKind::Semi | JoinKind::Anti) {
        let share = semi_share(&left, &right, kind, on, filter);
        return Relation {
            rows: (left.rows * share).max(1.0),
            known,
            ..left
        };
    }
    let matches = join_rows(&left, &right, on);
    let (left_rows, right_rows) = (left.rows, right.rows);
    let mut columns = left.columns;
    columns.extend(right.columns);
    let mut relation = Relation {
        rows: matches.max(1.0),
        base: matches.max(1.0),
        known,
        columns,
    };
    if let Some(filter) = filter {
        keep_parts(&filter.conjuncts(), &mut relation);
    }
    let least = match kind {
        JoinKind::Left => left_rows,
        JoinKind::Right => right_rows,
        JoinKind::Full => left_rows + right_rows,
        JoinKind::Inner | JoinKind::Semi | JoinKind::Anti => 0.0,
    };
    relation.rows = relation.rows.max(least);
    relation.base = relation.base.max(least);
    relation
}

/// The rows of both.
fn both(one: Relation, other: Relation) -> Relation {
    let columns = one.columns.into_iter();
    let columns = columns.map(|(name, column)| (name, Column::unknown(column.bytes)));
    Relation {
        rows: one.rows + other.rows,
        base: one.base + other.base,
        known: one.known && other.known,
        columns: columns.collect(),
    }
}
