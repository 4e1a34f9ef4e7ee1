//! Kiln: a MapReduce-style batch engine. Write a job once, run it in this process or on a cluster.
//!
//! A [`Session`] says where jobs run, a [`DataFrame`] what they compute. Nothing is read before an
//! answer is asked for.
//!
//! ```
//! use kiln::{Session, col, count_all, words};
//!
//! # std::env::set_current_dir(env!("CARGO_MANIFEST_DIR"))?;
//! let session = Session::local()?;
//! let counts = session
//!     .read_text("Cargo.toml")?
//!     .select([words(col("line")).alias("word")])?
//!     .explode("word")?
//!     .group_by([col("word")])
//!     .aggregate([count_all().alias("count")])?
//!     .sort([col("count").desc(), col("word").asc()])?
//!     .limit(10)?;
//! counts.show()?;
//! assert_eq!(counts.collect()?[0].num_rows(), 10);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! On a cluster the first line is `Session::connect("http://driver:7440")?` and nothing else
//! changes: driver, executors and shuffle are the same code, in this process or in others.

pub mod units;

pub mod display;

mod analyze;

mod inputs;
mod merge;
mod scan;

mod files;

mod local;

mod udf;

pub mod external;

mod program;

mod runtime;

mod side_file;

mod backend;

mod connection;

mod rows;

mod job;

mod dataframe;

mod session;

mod mapreduce;

mod app;

pub mod tpch;

pub use arrow;
pub use clap;
pub use kiln_engine::expr::{
    AggregateExpr, Case, Expr, Literal, SortKey, abs, all, any, ascii, atan2, avg, case_when, ceil,
    chr, coalesce, col, concat, contains, cos, count, count_all, count_distinct, date, date_diff,
    date_trunc, day, day_of_week, day_of_year, decimal, ends_with, epoch_seconds, exp, first,
    floor, greatest, hour, initcap, interval_days, interval_months, interval_years, last, least,
    left, length, lit, ln, log2, log10, lower, lpad, ltrim, max, min, minute, month, nullif, power,
    quarter, regexp_extract, regexp_like, regexp_replace, repeat, replace, reverse, right, round,
    round_to, rpad, rtrim, second, sign, sin, split, split_part, sqrt, starts_with, stddev,
    stddev_population, strpos, substring, substring_from, sum, tan, timestamp, to_date, to_date_as,
    to_timestamp, to_timestamp_as, trim, trunc, upper, variance, variance_population, week, words,
    year,
};
pub use kiln_engine::id::{JobId, StageId};
pub use kiln_engine::memory::MemoryBudget;
pub use kiln_engine::plan::{
    ColumnOrder, CsvOptions, FileCompression, FileFormat, JoinKind, LogicalPlan, OutputMode,
    OutputOptions, TextOptions, TextRecord,
};
pub use kiln_engine::{Error, ErrorKind, Result};
pub use kiln_proto::message::{
    AttemptState, AttemptStatus, ExecutorStatus, JobState, JobStatus, PartitionsRead, StageStatus,
};

pub use analyze::{dealt_out, text as analysis};
pub use app::App;
pub use dataframe::{DataFrame, GroupBy, JoinKey, cols};
pub use files::{ColumnStats, FileStats};
pub use inputs::Inputs;
pub use job::{Job, Watch, WriteSummary, counters, outcome, written};
pub use mapreduce::{
    MapFn, MapInput, MapReduce, MapReduceBuilder, MapReduceOnSession, MapReduceRun,
    MapReduceTarget, Mapper, NoReduce, OnSession, Pairs, ReduceFn, Reduced, SortBy, Unmapped,
    Unregistered, Values,
};
pub use program::JOBS_FILE_VARIABLE;
pub use rows::Rows;
pub use session::{Session, SessionBuilder};
pub use side_file::SideFile;
pub use udf::aggregate::{AggregateFunction, Aggregator};
pub use udf::datum::{Datum, Packed};
pub use udf::emitter::Emitter;
pub use udf::outcome::Outcome;
pub use udf::parameters::{Parameterised, WithParameters};
pub use udf::row::Row;
pub use udf::scalar::{Argument, Returned, ScalarFn, ScalarFunction};
pub use udf::table::{FlatMapFn, TableFunction};

/// The code blocks of the guide are tests.
#[cfg(doctest)]
#[doc = include_str!("../docs/guide.md")]
struct Guide;

/// The code blocks of the guide to programs are tests.
#[cfg(doctest)]
#[doc = include_str!("../docs/programs.md")]
struct Programs;

/// The code blocks of the README are tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
