//! The logical plan: a tree of operators over named, typed columns.
//!
//! It says what, never how or where: no partitions, no files resolved, no choice of algorithm.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;

use crate::expr::{AggregateExpr, Expr, SortKey};
use crate::plan::Output;
use crate::udf::{GroupUdf, TableUdf};

/// What a user asked for.
#[derive(Debug, Clone, PartialEq)]
pub enum LogicalPlan {
    /// Rows of input files.
    Scan(Scan),
    /// One output column per expression.
    Project {
        /// Where rows come from.
        input: Arc<LogicalPlan>,
        /// The columns, each named by [`Expr`]'s output name.
        exprs: Vec<Expr>,
    },
    /// The rows for which the predicate is true.
    Filter {
        /// Where rows come from.
        input: Arc<LogicalPlan>,
        /// A boolean expression; null drops the row.
        predicate: Expr,
    },
    /// One row per element of a list column, the other columns repeated. Rows whose list is empty
    /// or null give no row.
    Explode {
        /// Where rows come from.
        input: Arc<LogicalPlan>,
        /// The list column; the output column of that name has the element type.
        column: String,
    },
    /// The rows that a function of a user's program makes of those of its input.
    Apply {
        /// Where rows come from. The function is given all of its columns.
        input: Arc<LogicalPlan>,
        /// The function.
        function: TableUdf,
    },
    /// The rows that a function of a user's program makes of those of its input, group by group.
    Reduce {
        /// Where rows come from. The function is given all of its columns.
        input: Arc<LogicalPlan>,
        /// The columns whose values make a group. Null is a value like any other.
        keys: Vec<String>,
        /// The order of the rows of a group; any where there is none.
        order: Vec<SortKey>,
        /// The function.
        function: GroupUdf,
        /// Whether the groups are those of the rows that happen to be in one place, so that one
        /// key may come several times: a combiner, which only makes less of rows.
        local: bool,
    },
    /// One row per distinct combination of the keys; with no keys, exactly one row.
    Aggregate {
        /// Where rows come from.
        input: Arc<LogicalPlan>,
        /// The keys. Null is a key like any other.
        group_by: Vec<Expr>,
        /// What to compute for each group.
        aggregates: Vec<AggregateExpr>,
    },
    /// The rows in order; with `limit`, only the first of them (top-k).
    Sort {
        /// Where rows come from.
        input: Arc<LogicalPlan>,
        /// Most significant first.
        keys: Vec<SortKey>,
        /// How many rows to keep, or all.
        limit: Option<u64>,
    },
    /// The rows dealt out to so many tasks. Which row goes where depends on its values alone, so
    /// that a task that is run again gets the same rows, and rows that are equal stay together.
    Repartition {
        /// Where rows come from.
        input: Arc<LogicalPlan>,
        /// Rows that have the same values in these columns go to the same task; where there are
        /// none, rows that are the same in all columns that can be a key.
        keys: Vec<String>,
        /// How many tasks, 1 to [`SHUFFLE_PARTITIONS_MAX`](crate::limits::SHUFFLE_PARTITIONS_MAX).
        partitions: u32,
    },
    /// The rows of each task in order, and no order between those of different tasks.
    SortPartitions {
        /// Where rows come from.
        input: Arc<LogicalPlan>,
        /// Most significant first.
        keys: Vec<SortKey>,
    },
    /// Some rows: `offset` are passed over, then at most `limit` kept.
    Limit {
        /// Where rows come from.
        input: Arc<LogicalPlan>,
        /// Rows to pass over.
        offset: u64,
        /// Rows to keep at most.
        limit: u64,
    },
    /// Rows of two inputs put side by side where they match. The columns of `left` come first; no
    /// name may be on both sides. A semi or anti join has the columns of `left` only.
    Join {
        /// The one side.
        left: Arc<LogicalPlan>,
        /// The other side.
        right: Arc<LogicalPlan>,
        /// What becomes of rows without a match.
        kind: JoinKind,
        /// What has to be equal: expressions over `left` and over `right`. Null equals nothing.
        /// With none, every row meets every row.
        on: Vec<(Expr, Expr)>,
        /// What else has to be true of a pair, over the columns of both sides.
        filter: Option<Expr>,
    },
    /// The rows of all inputs, one after the other; their columns agree in number, name and type.
    Union {
        /// At least one.
        inputs: Vec<Arc<LogicalPlan>>,
    },
    /// The rows written to files. Only at the root.
    Write {
        /// Where rows come from.
        input: Arc<LogicalPlan>,
        /// Where they go.
        output: Output,
    },
}

/// What a join does with rows that match and those that do not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum JoinKind {
    /// A row for each pair that matches.
    Inner,
    /// And rows of the left without a match, with nulls on the right.
    Left,
    /// And rows of the right without a match, with nulls on the left.
    Right,
    /// And rows of either side without a match.
    Full,
    /// Rows of the left that have a match, once each.
    Semi,
    /// Rows of the left that have no match.
    Anti,
}

/// Rows of input files.
#[derive(Debug, Clone, PartialEq)]
pub struct Scan {
    /// URLs of files, directories or globs, as [`crate::storage::parse_location`] makes them.
    pub locations: Vec<String>,
    /// How the bytes become rows.
    pub format: ScanFormat,
    /// Every column that the files have.
    pub schema: SchemaRef,
    /// Names of the columns to produce, in order; all where none is given.
    pub projection: Option<Vec<String>>,
    /// Only rows for which this is true; over the columns of the files, produced or not. Set by
    /// the optimiser, for formats that can make use of it.
    pub predicate: Option<Expr>,
}

/// How the bytes of a file become rows.
#[derive(Debug, Clone, PartialEq)]
pub enum ScanFormat {
    /// Text, a record a row.
    Text(TextOptions),
    /// Comma-separated values.
    Csv(CsvOptions),
    /// Apache Parquet.
    Parquet,
}

/// How text becomes rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TextOptions {
    /// What one row is.
    pub record: TextRecord,
    /// Invalid UTF-8 is an error rather than replaced and counted.
    pub strict: bool,
}

/// What one row of text is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TextRecord {
    /// A line, without its end (`\n` or `\r\n`): columns `path`, `offset`, `line`.
    #[default]
    Line,
    /// A maximal run of characters without White_Space: column `word`.
    Word,
}

/// How CSV becomes rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CsvOptions {
    /// The first line names the columns.
    pub header: bool,
    /// Between fields.
    pub delimiter: u8,
    /// The field that stands for null, quoted or not, in columns of every type: `NA`, `\N`. An
    /// empty one if none is given; otherwise an empty one is an empty string.
    pub null_value: Option<String>,
}

impl Default for CsvOptions {
    fn default() -> Self {
        CsvOptions {
            header: true,
            delimiter: b',',
            null_value: None,
        }
    }
}

impl LogicalPlan {
    /// Where its rows are written, if that is what it ends with.
    pub fn output(&self) -> Option<&Output> {
        match self {
            LogicalPlan::Write { output, .. } => Some(output),
            _ => None,
        }
    }

    /// The operators that this one reads from, left before right.
    pub fn inputs(&self) -> Vec<&Arc<LogicalPlan>> {
        match self {
            LogicalPlan::Scan(_) => Vec::new(),
            LogicalPlan::Project { input, .. }
            | LogicalPlan::Filter { input, .. }
            | LogicalPlan::Explode { input, .. }
            | LogicalPlan::Apply { input, .. }
            | LogicalPlan::Reduce { input, .. }
            | LogicalPlan::Aggregate { input, .. }
            | LogicalPlan::Sort { input, .. }
            | LogicalPlan::Repartition { input, .. }
            | LogicalPlan::SortPartitions { input, .. }
            | LogicalPlan::Limit { input, .. }
            | LogicalPlan::Write { input, .. } => vec![input],
            LogicalPlan::Join { left, right, .. } => vec![left, right],
            LogicalPlan::Union { inputs } => inputs.iter().collect(),
        }
    }
}
