//! What a scan reads and what it asks of a row, worked out once.
//!
//! The columns to read are those that come out and those that a test needs; each has a *slot*,
//! its place among them. The predicate falls into conjuncts, and conjuncts over the same columns
//! into one [`Test`]; each key filter is a test too.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;

use super::columns::{Columns, Source};
use super::test::Test;
use crate::error::{Error, Result};
use crate::expr::Expr;
use crate::expr::eval::compile;
use crate::kernel::key_filter::KeyFilter;
use crate::plan::ScanSpec;
use crate::source::ColumnFilter;

/// The columns and tests of one scan.
pub(super) struct Wanted {
    /// Every column that the table has.
    pub(super) file_schema: SchemaRef,
    /// The column of each slot, as an index into `file_schema`, ascending.
    pub(super) slots: Vec<usize>,
    /// The slot of each column that comes out.
    pub(super) output: Vec<usize>,
    /// The columns that come out.
    pub(super) schema: SchemaRef,
    /// What a row has to pass.
    pub(super) tests: Vec<Test>,
    /// The conjuncts of the predicate, for pruning.
    pub(super) conjuncts: Vec<Expr>,
    /// The key filters, for pruning.
    pub(super) filters: Vec<ColumnFilter>,
}

impl Wanted {
    /// Sorts out what `spec` and the key filters of later joins want.
    ///
    /// # Errors
    /// `Internal` if the spec does not fit its own schema, `Invalid` if its predicate does not.
    pub(super) fn new(spec: &ScanSpec, filters: Vec<ColumnFilter>) -> Result<Self> {
        let file_schema = Arc::clone(&spec.file_schema);
        let schema = file_schema.project(&spec.projection).map_err(|error| {
            Error::internal("a scan's projection does not fit its columns").with_source(error)
        })?;
        let filters: Vec<ColumnFilter> = filters
            .into_iter()
            .filter(|filter| fits(&filter.keys, &file_schema, filter.column))
            .collect();
        let conjuncts = spec.predicate.iter().flat_map(Expr::conjuncts);
        let conjuncts: Vec<Expr> = conjuncts.cloned().collect();
        let grouped = grouped(&conjuncts, &file_schema)?;
        let mut slots: Vec<usize> = spec.projection.clone();
        slots.extend(grouped.iter().flat_map(|(columns, _)| columns));
        slots.extend(filters.iter().map(|filter| filter.column));
        slots.sort_unstable();
        slots.dedup();
        let slot = |column: &usize| slots.partition_point(|other| other < column);
        let mut tests = Vec::new();
        for (columns, expr) in &grouped {
            let slots = columns.iter().map(slot).collect();
            let columns = file_schema.project(columns)?;
            tests.push(Test::predicate(expr, slots, &columns)?);
        }
        for filter in &filters {
            tests.push(Test::keys(Arc::clone(&filter.keys), slot(&filter.column)));
        }
        Ok(Wanted {
            output: spec.projection.iter().map(slot).collect(),
            schema: Arc::new(schema),
            slots,
            tests,
            conjuncts,
            filters,
            file_schema,
        })
    }

    /// Where a column of the table comes from in a file.
    pub(super) fn source<'a>(&self, columns: &'a Columns, column: usize) -> Option<&'a Source> {
        let slot = self.slots.binary_search(&column).ok()?;
        columns.sources().get(slot)
    }

    /// Whether no row can pass, whatever the files hold.
    pub(super) fn is_empty(&self) -> bool {
        self.filters.iter().any(|filter| filter.keys.rows() == 0)
    }
}

/// Keys are compared as values of the column's type; where they are of another one, their hashes
/// say nothing.
fn fits(keys: &KeyFilter, schema: &SchemaRef, column: usize) -> bool {
    let Some(field) = schema.fields().get(column) else {
        return false;
    };
    let bounds = keys.bounds();
    bounds.is_none_or(|(least, _)| least.data_type() == field.data_type())
}

/// Conjuncts over the same columns as one expression, each with its columns. One that may fail
/// stays by itself, behind all that may not: it must not see rows that another one drops.
fn grouped(conjuncts: &[Expr], schema: &SchemaRef) -> Result<Vec<(Vec<usize>, Expr)>> {
    let mut safe: Vec<(Vec<usize>, Expr)> = Vec::new();
    let mut guarded = Vec::new();
    for conjunct in conjuncts {
        let mut columns = Vec::new();
        columns_of(conjunct, schema, &mut columns)?;
        columns.sort_unstable();
        columns.dedup();
        if compile(conjunct, schema)?.can_fail() {
            guarded.push((columns, conjunct.clone()));
            continue;
        }
        match safe.iter_mut().find(|(others, _)| *others == columns) {
            Some((_, expr)) => *expr = expr.clone().and(conjunct.clone()),
            None => safe.push((columns, conjunct.clone())),
        }
    }
    safe.append(&mut guarded);
    Ok(safe)
}

/// Appends the columns that `expr` reads.
fn columns_of(expr: &Expr, schema: &SchemaRef, columns: &mut Vec<usize>) -> Result<()> {
    if let Expr::Column(name) = expr {
        let column = schema.index_of(name).map_err(|error| {
            Error::internal("a scan's predicate does not fit its columns").with_source(error)
        })?;
        columns.push(column);
    }
    expr.operands()
        .into_iter()
        .try_for_each(|child| columns_of(child, schema, columns))
}

/// The name of the column that `expr` reads, if there is just one.
pub(super) fn only_column(expr: &Expr) -> Option<&str> {
    fn names<'a>(expr: &'a Expr, found: &mut Vec<&'a str>) {
        if let Expr::Column(name) = expr {
            found.push(name);
        }
        for child in expr.operands() {
            names(child, found);
        }
    }
    let mut found = Vec::new();
    names(expr, &mut found);
    let first = *found.first()?;
    found.iter().all(|name| *name == first).then_some(first)
}
