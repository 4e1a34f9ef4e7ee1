//! Steps that change single columns and keep the others as they are.

use std::collections::HashMap;

use kiln_engine::expr::{Expr, col, output_name};
use kiln_engine::plan::LogicalPlan;
use kiln_engine::{Error, Result};

use super::DataFrame;

/// The columns of these names: `frame.select(cols(["a", "b"]))`.
pub fn cols<const N: usize>(names: [&str; N]) -> [Expr; N] {
    names.map(col)
}

impl DataFrame {
    /// Each column, as an expression.
    pub(super) fn every_column(&self) -> Vec<Expr> {
        self.names().map(col).collect()
    }

    /// The names of the columns, in order.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.schema
            .fields()
            .iter()
            .map(|field| field.name().as_str())
    }

    /// The same rows with a column `name` of the values of `expr`: in the place of the column of
    /// that name, or behind the others.
    ///
    /// # Errors
    /// As for [`DataFrame::select`].
    pub fn with_column(&self, name: impl Into<String>, expr: Expr) -> Result<Self> {
        self.with_columns([expr.alias(name)])
    }

    /// The same rows with a column for each expression, under the name of its alias: in the place
    /// of the column of that name, or behind the others. All expressions see the old columns.
    ///
    /// # Errors
    /// As for [`DataFrame::select`].
    pub fn with_columns(&self, exprs: impl IntoIterator<Item = Expr>) -> Result<Self> {
        let mut columns = self.every_column();
        let old = columns.len();
        let mut places: HashMap<String, usize> = self.names().map(str::to_owned).zip(0..).collect();
        for expr in exprs {
            let name = output_name(&expr);
            match places.get(&name) {
                Some(&place) if place < old => columns[place] = expr,
                // Two new columns of one name are refused with the plan.
                _ => {
                    places.insert(name, columns.len());
                    columns.push(expr);
                }
            }
        }
        self.select(columns)
    }

    /// The same rows without the columns `names`.
    ///
    /// # Errors
    /// `Invalid` if there is no such column, or no other.
    pub fn drop<'a>(&self, names: impl IntoIterator<Item = &'a str>) -> Result<Self> {
        let mut kept: Vec<&str> = self.names().collect();
        for name in names {
            self.check_column(name)?;
            kept.retain(|other| *other != name);
        }
        if kept.is_empty() {
            return Err(Error::invalid("no column is left"));
        }
        self.select(kept.into_iter().map(col))
    }

    /// The same rows with other names: pairs of old and new ones.
    ///
    /// # Errors
    /// `Invalid` if there is no such column, or two columns would have one name.
    pub fn rename<'a>(&self, names: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Self> {
        let names: HashMap<&str, &str> = names.into_iter().collect();
        for name in names.keys() {
            self.check_column(name)?;
        }
        self.renamed(|name| names.get(name).map(|&new| new.to_owned()))
    }

    /// The same rows with `prefix` before the name of each column: for a table that is joined
    /// twice.
    ///
    /// # Errors
    /// None for now; kept for what plans may come to refuse.
    pub fn with_prefix(&self, prefix: &str) -> Result<Self> {
        self.renamed(|name| Some(format!("{prefix}{name}")))
    }

    /// The same rows; `new` says which columns change their name.
    pub(super) fn renamed(&self, new: impl Fn(&str) -> Option<String>) -> Result<Self> {
        self.select(self.names().map(|name| match new(name) {
            Some(new) => col(name).alias(new),
            None => col(name),
        }))
    }

    /// Complains about an unknown column in the words of every other step.
    pub(super) fn check_column(&self, name: &str) -> Result<()> {
        if self.schema.field_with_name(name).is_ok() {
            return Ok(());
        }
        self.then(LogicalPlan::Project {
            input: self.input(),
            exprs: vec![col(name)],
        })
        .map(drop)
    }
}
