//! [`DataFrame`]: what to compute, built step by step and run when an answer is asked for.
//!
//! A data frame is a logical plan and the columns that it makes. Each step checks names and types
//! at once, so that a mistake is reported on the line that made it and not by a cluster.

use std::fmt;
use std::io::Write as _;
use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{Int64Type, SchemaRef};
use kiln_engine::expr::{AggregateExpr, Expr, SortKey, count_all};
use kiln_engine::plan::{FileFormat, LogicalPlan, Output, schema_of};
use kiln_engine::storage::parse_location;
use kiln_engine::{Error, Result};

use crate::connection::Connection;
use crate::display;
use crate::job::{Job, WriteSummary};

/// Rows that [`DataFrame::show`] prints.
const SHOW_ROWS: u64 = 20;

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

    /// Groups rows by the values of `keys`; null is a value like any other. No keys: one group.
    pub fn group_by(&self, keys: impl IntoIterator<Item = Expr>) -> GroupBy {
        GroupBy {
            input: self.clone(),
            keys: keys.into_iter().collect(),
        }
    }

    /// Each different row once.
    ///
    /// # Errors
    /// `Invalid` if a column cannot be compared.
    pub fn distinct(&self) -> Result<Self> {
        let keys: Vec<Expr> = self
            .schema
            .fields()
            .iter()
            .map(|field| Expr::Column(field.name().clone()))
            .collect();
        self.group_by(keys).aggregate([])
    }

    /// The rows in order, the first key being the most significant.
    ///
    /// # Errors
    /// `Invalid` if a column is unknown or has no order.
    pub fn sort(&self, keys: impl IntoIterator<Item = SortKey>) -> Result<Self> {
        let keys = keys.into_iter().collect();
        self.then(LogicalPlan::Sort {
            input: self.input(),
            keys,
            limit: None,
        })
    }

    /// The first `rows` rows; any, where there is no order.
    ///
    /// # Errors
    /// None for now; kept for what plans may come to refuse.
    pub fn limit(&self, rows: u64) -> Result<Self> {
        self.then(LogicalPlan::Limit {
            input: self.input(),
            offset: 0,
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

    /// How this would be run: logical plan, optimised plan and stages, as text. Looks at the
    /// input files, but not into them.
    ///
    /// # Errors
    /// `Invalid` if there is no such input, `Unavailable` if the cluster cannot be reached.
    pub fn explain(&self) -> Result<String> {
        self.connection.explain(Arc::clone(&self.plan))
    }

    /// Starts the job and returns at once; `name` is for people.
    ///
    /// # Errors
    /// `Invalid` if the plan is refused, `Unavailable` if the cluster cannot be reached.
    pub fn submit(&self, name: &str) -> Result<Job> {
        let id = self.connection.submit(name, Arc::clone(&self.plan))?;
        Ok(Job::new(self.connection.clone(), id))
    }

    /// Runs the job and returns its rows.
    ///
    /// # Errors
    /// Why the job failed; `Exhausted` if there are too many rows for one process.
    pub fn collect(&self) -> Result<Vec<RecordBatch>> {
        self.submit("collect")?.collect()
    }

    /// Runs the job and prints its first rows.
    ///
    /// # Errors
    /// Why the job failed, or stdout could not be written to.
    pub fn show(&self) -> Result<()> {
        let batches = self.limit(SHOW_ROWS)?.submit("show")?.collect()?;
        let text = display::table(&self.schema, &batches)?;
        std::io::stdout()
            .write_all(text.as_bytes())
            .map_err(|error| Error::unavailable("cannot write to stdout").with_source(error))
    }

    /// Runs the job and returns how many rows there are.
    ///
    /// # Errors
    /// Why the job failed.
    pub fn count(&self) -> Result<u64> {
        let counted = self.group_by([]).aggregate([count_all().alias("rows")])?;
        let batches = counted.submit("count")?.collect()?;
        let rows = batches
            .iter()
            .filter(|batch| batch.num_rows() > 0)
            .map(|batch| {
                batch
                    .column(0)
                    .as_primitive::<Int64Type>()
                    .values()
                    .iter()
                    .sum::<i64>()
            });
        Ok(rows.sum::<i64>().unsigned_abs())
    }

    /// Runs the job and writes its rows to Parquet files in the directory `url`.
    ///
    /// # Errors
    /// Why the job failed; `Invalid` if the directory exists.
    pub fn write_parquet(&self, url: &str) -> Result<WriteSummary> {
        self.write(url, FileFormat::Parquet)
    }

    /// Runs the job and writes its rows to CSV files in the directory `url`.
    ///
    /// # Errors
    /// Why the job failed; `Invalid` if the directory exists or a column has no CSV form.
    pub fn write_csv(&self, url: &str) -> Result<WriteSummary> {
        self.write(url, FileFormat::Csv)
    }

    /// Runs the job and writes its rows to JSON files, an object a line, in the directory `url`.
    ///
    /// # Errors
    /// Why the job failed; `Invalid` if the directory exists.
    pub fn write_json(&self, url: &str) -> Result<WriteSummary> {
        self.write(url, FileFormat::Json)
    }

    /// Runs the job and writes its rows to files in the directory `url`, which appears all at
    /// once or not at all.
    ///
    /// # Errors
    /// Why the job failed; `Invalid` if the directory exists.
    pub fn write(&self, url: &str, format: FileFormat) -> Result<WriteSummary> {
        self.written_to(url, format)?.submit("write")?.written()
    }

    /// The same rows with files in the directory `url` as where they go: for
    /// [`DataFrame::submit`] and [`DataFrame::explain`].
    ///
    /// # Errors
    /// `Invalid` if `url` is not a location.
    pub fn written_to(&self, url: &str, format: FileFormat) -> Result<Self> {
        let output = Output {
            url: parse_location(url)?,
            format,
        };
        self.then(LogicalPlan::Write {
            input: self.input(),
            output,
        })
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
