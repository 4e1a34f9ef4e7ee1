//! Stages: maximal pieces of a plan without a shuffle, and how rows go from one to the next.

use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};

use crate::expr::{AggregateExpr, Expr, SortKey};
use crate::id::StageId;
use crate::plan::{Output, ScanFormat};

/// A job ready to be scheduled: stages in an order in which producers come before consumers. The
/// last stage makes the job's result.
#[derive(Debug, Clone, PartialEq)]
pub struct StageGraph {
    /// The stages; stage `i` has id `i`.
    pub stages: Vec<Arc<Stage>>,
}

/// A maximal piece of a plan without a shuffle.
#[derive(Debug, Clone, PartialEq)]
pub struct Stage {
    /// Its place in the graph.
    pub id: StageId,
    /// Where its rows come from.
    pub source: StageSource,
    /// What is done to them, in order.
    pub operators: Vec<OperatorSpec>,
    /// Where they go.
    pub sink: SinkSpec,
    /// Columns of the rows that reach the sink.
    pub schema: SchemaRef,
}

/// Where the rows of a stage come from.
#[derive(Debug, Clone, PartialEq)]
pub enum StageSource {
    /// Input files.
    Scan(ScanSpec),
    /// The output of an earlier stage.
    Shuffle {
        /// The stage that wrote it.
        stage: StageId,
        /// Its columns.
        schema: SchemaRef,
        /// All partitions have to be read by one task (a global limit, order or aggregate).
        gather: bool,
    },
}

/// A scan whose files are known.
#[derive(Debug, Clone, PartialEq)]
pub struct ScanSpec {
    /// How the bytes become rows.
    pub format: ScanFormat,
    /// Every column that the files have.
    pub file_schema: SchemaRef,
    /// Indices into `file_schema` of the columns to produce, in order.
    pub projection: Vec<usize>,
    /// The files, in listing order; empty in the copy that travels to executors, whose splits
    /// carry what they need.
    pub files: Vec<FileMeta>,
    /// The splits of each task.
    pub tasks: Vec<Vec<Split>>,
}

impl ScanSpec {
    /// The columns that the scan produces.
    pub fn schema(&self) -> SchemaRef {
        let fields: Vec<_> = self
            .projection
            .iter()
            .map(|&column| self.file_schema.field(column).clone())
            .collect();
        Arc::new(Schema::new(fields))
    }
}

/// An input file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileMeta {
    /// Its URL.
    pub url: String,
    /// Its size.
    pub bytes: u64,
}

/// A slice of an input file: the records that start in `[start, end)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Split {
    /// URL of the file.
    pub url: String,
    /// Size of the whole file in bytes, so that no reader has to ask.
    pub file_bytes: u64,
    /// First byte.
    pub start: u64,
    /// One past the last byte.
    pub end: u64,
}

/// One step of a stage, as data.
#[derive(Debug, Clone, PartialEq)]
pub enum OperatorSpec {
    /// One output column per expression.
    Project {
        /// The columns.
        exprs: Vec<Expr>,
    },
    /// The rows for which the predicate is true.
    Filter {
        /// A boolean expression.
        predicate: Expr,
    },
    /// One row per element of a list column.
    Explode {
        /// The list column.
        column: String,
    },
    /// Grouping.
    Aggregate {
        /// Which part of it happens here.
        mode: AggregateMode,
        /// The keys; for `Final`, columns of the partial output.
        group_by: Vec<Expr>,
        /// What to compute.
        aggregates: Vec<AggregateExpr>,
    },
    /// The first `limit` rows in order.
    TopK {
        /// Most significant first.
        keys: Vec<SortKey>,
        /// How many.
        limit: u64,
    },
    /// All rows in order.
    Sort {
        /// Most significant first.
        keys: Vec<SortKey>,
    },
    /// Some rows: `offset` are passed over, then at most `limit` kept.
    Limit {
        /// Rows to pass over.
        offset: u64,
        /// Rows to keep at most.
        limit: u64,
    },
}

/// Which part of an aggregation an operator does.
///
/// The columns between `Partial` and `Final` are the keys under their names, then the states of
/// each aggregate: one column of the aggregate's name for count, sum, min and max; for avg the two
/// columns `<name>:sum` and `<name>:count`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AggregateMode {
    /// Rows in, results out.
    Single,
    /// Rows in, states out; groups may appear several times.
    Partial,
    /// States in, results out.
    Final,
}

/// Where the rows of a stage go.
#[derive(Debug, Clone, PartialEq)]
pub enum SinkSpec {
    /// A shuffle object per task, for a later stage or for the client to fetch.
    Shuffle {
        /// How rows are spread over partitions.
        partitioning: Partitioning,
    },
    /// Output files, committed when the job ends.
    Files {
        /// Where and what.
        output: Output,
    },
}

/// How rows are spread over the partitions of a shuffle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Partitioning {
    /// By the hash of the keys ([`crate::kernel::hash`]).
    Hash {
        /// Columns of the stage's schema.
        keys: Vec<String>,
        /// How many partitions.
        partitions: u32,
    },
    /// All rows in one.
    Single,
}

impl Partitioning {
    /// How many partitions there are.
    pub fn count(&self) -> u32 {
        match self {
            Partitioning::Hash { partitions, .. } => *partitions,
            Partitioning::Single => 1,
        }
    }
}
