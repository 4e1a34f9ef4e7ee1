//! [`DataFrame`]: what to compute, built step by step and run when an answer is asked for.
//!
//! A data frame is a logical plan and the columns that it makes. Each step checks names and types
//! at once, so that a mistake is reported on the line that made it and not by a cluster. Steps
//! share what is before them: a data frame that is used twice is the same piece of a plan twice,
//! and is computed once.

use std::fmt;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use kiln_engine::Result;
use kiln_engine::expr::{AggregateExpr, Expr, SortKey};
use kiln_engine::plan::{LogicalPlan, schema_of};

use crate::connection::Connection;

mod columns;
mod external;
mod functions;
mod join;
mod run;

pub use columns::cols;
pub use join::JoinKey;

/// Rows with named, typed columns that nobody has computed yet.
#[derive(Clone)]
pub struct DataFrame {
    connection: Connection,
    plan: Arc<LogicalPlan>,
    schema: SchemaRef,
}

impl DataFrame {
    /// The rows that `plan` makes.
    pub(crate) fn new(connection: Connection, plan: LogicalPlan) -> Result<Self> {
        let schema = schema_of(&plan)?;
        Ok(DataFrame {
            connection,
            plan: Arc::new(plan),
            schema,
        })
    }

    fn then(&self, plan: LogicalPlan) -> Result<Self> {
        DataFrame::new(self.connection.clone(), plan)
    }

    fn input(&self) -> Arc<LogicalPlan> {
        Arc::clone(&self.plan)
    }

    /// One column per expression, each under the name of its alias or its text.
    ///
    /// # Errors
    /// `Invalid` if a column is unknown, types do not fit or two names are the same.
    pub fn select(&self, exprs: impl IntoIterator<Item = Expr>) -> Result<Self> {
        let exprs = exprs.into_iter().collect();
        self.then(LogicalPlan::Project {
            input: self.input(),
            exprs,
        })
    }

    /// The rows for which `predicate` is true; null is not.
    ///
    /// # Errors
    /// `Invalid` if a column is unknown or the predicate is not boolean.
    pub fn filter(&self, predicate: Expr) -> Result<Self> {
        self.then(LogicalPlan::Filter {
            input: self.input(),
            predicate,
        })
    }

    /// One row for each element of the list `column`, the other columns repeated.
    ///
    /// # Errors
    /// `Invalid` if the column is unknown or not a list.
    pub fn explode(&self, column: impl Into<String>) -> Result<Self> {
        self.then(LogicalPlan::Explode {
            input: self.input(),
            column: column.into(),
        })
    }

    /// Groups rows by the values of `keys`; null is a value like any other.
    pub fn group_by(&self, keys: impl IntoIterator<Item = Expr>) -> GroupBy {
        GroupBy {
            input: self.clone(),
            keys: keys.into_iter().collect(),
        }
    }

    /// One row that says something about all rows, also where there are none.
    ///
    /// # Errors
    /// As for [`GroupBy::aggregate`].
    pub fn aggregate(&self, aggregates: impl IntoIterator<Item = AggregateExpr>) -> Result<Self> {
        self.group_by([]).aggregate(aggregates)
    }

    /// Each different row once.
    ///
    /// # Errors
    /// `Invalid` if a column cannot be compared.
    pub fn distinct(&self) -> Result<Self> {
        self.group_by(self.every_column()).aggregate([])
    }

    /// The rows in order, the first key being the most significant. An expression is a key:
    /// smallest first, nulls last; `col("n").desc().nulls_first()` says otherwise.
    ///
    /// Files that are written then are in order as a whole, from name to name. Rows of files that
    /// are sorted stay in the order of the input where their keys are equal.
    ///
    /// # Errors
    /// `Invalid` if a column is unknown or has no order.
    pub fn sort(&self, keys: impl IntoIterator<Item = impl Into<SortKey>>) -> Result<Self> {
        let keys = keys.into_iter().map(Into::into).collect();
        self.then(LogicalPlan::Sort {
            input: self.input(),
            keys,
            limit: None,
        })
    }

    /// The rows dealt out to `partitions` tasks, however few or many they were in: to spread work
    /// that is expensive for each row, or to write so many groups of files. Each thread that writes
    /// a task's rows makes a file, so there are at least as many files as tasks with rows.
    ///
    /// A row's values say where it goes, so rows that are the same go to the same task, and some
    /// tasks may have no rows; values of columns that have no order, such as lists, do not count.
    /// All rows are shuffled, and an order that they had is gone.
    ///
    /// # Errors
    /// `Invalid` for no partitions, for more than 4096
    /// ([`SHUFFLE_PARTITIONS_MAX`](kiln_engine::limits::SHUFFLE_PARTITIONS_MAX)), and for rows
    /// without a column that counts.
    pub fn repartition(&self, partitions: u32) -> Result<Self> {
        self.repartition_by(partitions, [] as [&str; 0])
    }

    /// The rows dealt out to `partitions` tasks, those with the same values in the columns `keys`
    /// to the same one. Null is a value like any other.
    ///
    /// # Errors
    /// As for [`DataFrame::repartition`]; `Invalid` if a column is unknown or has no order.
    pub fn repartition_by(
        &self,
        partitions: u32,
        keys: impl IntoIterator<Item = impl Into<String>>,
    ) -> Result<Self> {
        self.then(LogicalPlan::Repartition {
            input: self.input(),
            keys: keys.into_iter().map(Into::into).collect(),
            partitions,
        })
    }

    /// The rows of each task in order, as for [`DataFrame::sort`], and no order between those of
    /// different tasks. Nothing is shuffled. Behind [`DataFrame::repartition_by`], and by keys that
    /// begin with the same columns, rows with the same values there are next to one another.
    ///
    /// # Errors
    /// As for [`DataFrame::sort`].
    pub fn sort_within_partitions(
        &self,
        keys: impl IntoIterator<Item = impl Into<SortKey>>,
    ) -> Result<Self> {
        let keys = keys.into_iter().map(Into::into).collect();
        self.then(LogicalPlan::SortPartitions {
            input: self.input(),
            keys,
        })
    }

    /// The first `rows` rows; any, where there is no order.
    ///
    /// # Errors
    /// None for now; kept for what plans may come to refuse.
    pub fn limit(&self, rows: u64) -> Result<Self> {
        self.slice(0, rows)
    }

    /// All but the first `rows` rows; any, where there is no order.
    ///
    /// # Errors
    /// As for [`DataFrame::limit`].
    pub fn offset(&self, rows: u64) -> Result<Self> {
        self.slice(rows, u64::MAX)
    }

    /// At most `rows` rows after the first `offset`; any, where there is no order.
    ///
    /// # Errors
    /// As for [`DataFrame::limit`].
    pub fn slice(&self, offset: u64, rows: u64) -> Result<Self> {
        self.then(LogicalPlan::Limit {
            input: self.input(),
            offset,
            limit: rows,
        })
    }

    /// Names and types of the columns.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// The plan behind this data frame.
    pub fn plan(&self) -> &LogicalPlan {
        &self.plan
    }
}

impl fmt::Debug for DataFrame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DataFrame")
            .field("plan", &self.plan)
            .finish_non_exhaustive()
    }
}

/// Rows in groups, waiting to be told what to compute of each: see [`DataFrame::group_by`].
#[derive(Debug, Clone)]
pub struct GroupBy {
    input: DataFrame,
    keys: Vec<Expr>,
}

impl GroupBy {
    /// One row per group: its keys, then the aggregates.
    ///
    /// # Errors
    /// `Invalid` if a column is unknown, types do not fit or two names are the same.
    pub fn aggregate(
        self,
        aggregates: impl IntoIterator<Item = AggregateExpr>,
    ) -> Result<DataFrame> {
        self.input.then(LogicalPlan::Aggregate {
            input: self.input.input(),
            group_by: self.keys,
            aggregates: aggregates.into_iter().collect(),
        })
    }
}
