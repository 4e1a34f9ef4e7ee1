//! Plans: what to compute, at three levels, as plain data.
//!
//! [`LogicalPlan`] is what a user builds. The driver's optimiser rewrites it, and its planner cuts
//! it into a [`StageGraph`]: pieces without a shuffle, each run as [`TaskSpec`]s by executors.
//! `explain` prints every level in one text form ([`explain`]).

mod explain;
mod functions;
mod logical;
mod output;
mod program;
mod schema;
mod stage;
mod task;

pub use explain::{describe_stage, explain_logical, explain_stages};
pub use logical::{CsvOptions, JoinKind, LogicalPlan, Scan, ScanFormat, TextOptions, TextRecord};
pub use output::{
    ColumnOrder, FileCompression, FileFormat, Output, OutputMode, OutputOptions, is_directory_name,
    is_part_name, part_prefix, recorded_upload, upload_record,
};
pub use program::{Binary, Program, Sha256};
pub use schema::{check_size, partition_keys, schema_of, schema_over};
pub use stage::{
    AggregateMode, ClusterShape, Deal, FileMeta, JoinStep, KeyFilterSpec, OperatorSpec,
    Partitioning, ScanSpec, Side, SinkSpec, Split, Stage, StageFacts, StageGraph, StageSource,
    StepKind,
};
pub use task::{
    Cut, OutputFile, PartitionMeta, PendingUpload, RangeInput, ShuffleInput, ShuffleSource,
    Stretch, TaskFailure, TaskInput, TaskOutput, TaskSpec, TaskSuccess,
};
