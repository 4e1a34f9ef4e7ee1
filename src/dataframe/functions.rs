//! Functions of users' programs over the rows of a data frame.

use arrow::datatypes::DataType;
use kiln_engine::expr::{Expr, SortKey, output_name, typing};
use kiln_engine::plan::LogicalPlan;
use kiln_engine::udf::GroupUdf;
use kiln_engine::{Error, Result};

use super::DataFrame;
use crate::udf::table::TableFunction;

impl DataFrame {
    /// The rows that `function` makes of each row, given `args`: its columns, and none of this
    /// data frame's.
    ///
    /// # Errors
    /// `Invalid` if an argument is unknown or of a type that the function does not take.
    pub fn flat_map(
        &self,
        function: &TableFunction,
        args: impl IntoIterator<Item = Expr>,
    ) -> Result<Self> {
        let args: Vec<Expr> = args.into_iter().collect();
        let args = match &function.arguments {
            Some(wanted) => self.converted(function.name(), args, wanted)?,
            None => args,
        };
        let numbered = args.into_iter().enumerate();
        let numbered = numbered.map(|(number, arg)| arg.alias(format!("{number}")));
        self.select(numbered)?.apply(function)
    }

    /// The rows that `function` makes of batches of these rows, all columns in order.
    ///
    /// # Errors
    /// `Invalid` if the plan becomes too large.
    pub fn map_batches(&self, function: &TableFunction) -> Result<Self> {
        self.apply(function)
    }

    fn apply(&self, function: &TableFunction) -> Result<Self> {
        self.then(LogicalPlan::Apply {
            input: self.input(),
            function: function.udf.clone(),
        })
    }

    /// The rows that `function` makes of these, group by group: those with the same values in
    /// `keys`, in `order`.
    pub(crate) fn reduce_groups(
        &self,
        keys: Vec<String>,
        order: Vec<SortKey>,
        function: &GroupUdf,
    ) -> Result<Self> {
        self.then(LogicalPlan::Reduce {
            input: self.input(),
            keys,
            order,
            function: function.clone(),
            local: false,
        })
    }

    /// `args` in the types `wanted`, to which they have to convert without loss.
    pub(super) fn converted(
        &self,
        function: &str,
        args: Vec<Expr>,
        wanted: &[DataType],
    ) -> Result<Vec<Expr>> {
        if args.len() != wanted.len() {
            return Err(Error::invalid(format!(
                "function {function:?}: wrong number of arguments expected={} found={}",
                wanted.len(),
                args.len()
            )));
        }
        let convert = |(arg, to): (Expr, &DataType)| {
            let found = typing::data_type(&arg, &self.schema)?;
            if found == *to {
                return Ok(arg);
            }
            if !typing::widens(&found, to) {
                return Err(Error::invalid(format!(
                    "function {function:?}: an argument has another type \
                     argument={} expected={to} found={found}",
                    output_name(&arg)
                )));
            }
            Ok(arg.cast(to.clone()))
        };
        args.into_iter().zip(wanted).map(convert).collect()
    }
}
