//! [`MapReduce`]: a job that waits for its input.

use std::borrow::Borrow;

use kiln_engine::expr::{Expr, SortKey, col};
use kiln_engine::udf::GroupUdf;
use kiln_engine::{Error, Result};

use super::pairs::VALUE;
use crate::dataframe::DataFrame;
use crate::udf::aggregate::AggregateFunction;
use crate::udf::parameters::{Parameterised, with_json};
use crate::udf::scalar::ScalarFunction;
use crate::udf::table::TableFunction;

/// The column of numbers that a partition function makes.
const PARTITION: &str = "partition";

/// A job of map, combine and reduce functions: see [`App::map_reduce`](crate::App::map_reduce).
#[derive(Debug, Clone)]
pub struct MapReduce {
    pub(crate) map: TableFunction,
    /// What tells bad records, if they are skipped.
    pub(crate) bad: Option<TableFunction>,
    pub(crate) combine: Option<AggregateFunction>,
    pub(crate) partition: Option<ScalarFunction>,
    pub(crate) order: Vec<ValueOrder>,
    pub(crate) reduce: Reduce,
    /// The columns of keys.
    pub(super) keys: Vec<String>,
}

/// What values are sorted by, and whether the largest come first.
pub(crate) type ValueOrder = (ScalarFunction, bool);

/// How a reduce function is called.
#[derive(Debug, Clone)]
pub(crate) enum Reduce {
    /// For each row: a key and what became of its values.
    Rows(TableFunction),
    /// For each group.
    Groups(GroupUdf),
}

impl MapReduce {
    /// What the job makes of the rows of `input`, whose columns are the arguments of the map
    /// function, in order.
    ///
    /// # Errors
    /// `Invalid` if there are more columns or fewer, or of types that the map function does not
    /// take; if keys are of a type that cannot be sorted; or if two columns of the result have
    /// the same name.
    pub fn run_on(&self, input: impl Borrow<DataFrame>) -> Result<DataFrame> {
        let pairs = over_columns(&self.map, input.borrow())?;
        let pairs = match &self.combine {
            Some(combine) => pairs
                .group_by(self.keys())
                .aggregate([combine.call([col(VALUE)]).alias(VALUE)])?,
            None => pairs,
        };
        let function = match &self.reduce {
            Reduce::Rows(function) => return pairs.map_batches(function),
            Reduce::Groups(function) => function,
        };
        let order = self.order.iter().map(|(by, descending)| {
            let by = by.call([col(VALUE)]);
            if *descending { by.desc() } else { by.asc() }
        });
        let Some(partition) = &self.partition else {
            return pairs.reduce_groups(self.keys.clone(), order.collect(), function);
        };
        let number = partition.call(self.keys()).alias(PARTITION);
        let columns = self.keys().chain([col(VALUE), number]);
        let order: Vec<SortKey> = self.keys().map(Expr::asc).chain(order).collect();
        pairs
            .select(columns)?
            .reduce_groups(vec![PARTITION.to_owned()], order, function)
    }

    /// The records of `input` that the job skips, as
    /// [`skip_bad`](super::MapReduceBuilder::skip_bad) says: columns `record`, with tabs between
    /// what the map function takes, and `error`. It calls the map function for all of `input` to
    /// find them.
    ///
    /// # Errors
    /// As for [`run_on`](Self::run_on); `Invalid` if the job skips none.
    pub fn bad_records(&self, input: impl Borrow<DataFrame>) -> Result<DataFrame> {
        let bad = self.bad.as_ref().ok_or_else(|| {
            Error::invalid(format!(
                "function {:?}: the job does not skip bad records",
                self.map.name()
            ))
        })?;
        over_columns(bad, input.borrow())
    }

    /// The functions that say where keys go and in which order values come.
    pub(crate) fn scalar_functions(&self) -> impl Iterator<Item = &ScalarFunction> {
        let order = self.order.iter().map(|(function, _)| function);
        order.chain(&self.partition)
    }

    fn keys(&self) -> impl Iterator<Item = Expr> {
        self.keys.iter().map(col)
    }
}

impl Parameterised for MapReduce {
    fn with_parameters(self, json: &str) -> Self {
        let table = |function: TableFunction| function.with_parameters(json);
        MapReduce {
            map: table(self.map),
            bad: self.bad.map(table),
            combine: self.combine.map(|function| function.with_parameters(json)),
            partition: self
                .partition
                .map(|function| function.with_parameters(json)),
            order: self
                .order
                .into_iter()
                .map(|(function, descending)| (function.with_parameters(json), descending))
                .collect(),
            reduce: match self.reduce {
                Reduce::Rows(function) => {
                    // Which of the two ways it is called depends on the parameters, and a name
                    // is registered for one.
                    let name = format!("{}_combined", function.name());
                    Reduce::Rows(table(function).renamed(&name))
                }
                Reduce::Groups(function) => Reduce::Groups(with_json(&function, json)),
            },
            keys: self.keys,
        }
    }
}

/// What `function` makes of the columns of `input`, all of them in order.
fn over_columns(function: &TableFunction, input: &DataFrame) -> Result<DataFrame> {
    let columns = input.schema().fields().iter().map(|field| field.name());
    if let Some(wanted) = &function.arguments
        && wanted.len() != columns.len()
    {
        let names: Vec<&str> = columns.map(String::as_str).collect();
        return Err(Error::invalid(format!(
            "function {:?}: the input has other columns than it takes: select them first \
             expected={} found={} columns={}",
            function.name(),
            wanted.len(),
            names.len(),
            names.join(", ")
        )));
    }
    input.flat_map(function, columns.map(col))
}
