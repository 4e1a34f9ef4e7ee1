//! What the user typed, and nothing about what it means.
//!
//! A file for each command, or for several that are alike; here is what they share. What is
//! checked here can be checked without looking at the world: numbers, sizes, which options go
//! together. Everything that fails here exits with 2.

use clap::{Args, Parser, Subcommand};
use kiln_engine::limits::JOB_WEIGHT_MAX;

use super::units::parse_bytes;

mod address;

mod job;
mod sort;

mod explain;
mod run;
mod submit;

mod files;
mod new;
mod tpch;

mod follow;

mod gc;

mod driver;
mod executor;

mod cluster;

pub(crate) use address::{ClusterAddress, ClusterChoice, ClusterToJoin};
pub(crate) use cluster::ClusterArgs;
pub(crate) use driver::{DriverArgs, TimingArgs};
pub(crate) use executor::ExecutorArgs;
pub(crate) use explain::{ExplainArgs, ExplainTpchArgs, Explained};
pub(crate) use files::{HeadArgs, SchemaArgs, StatsArgs};
pub(crate) use follow::{JobIdArgs, ListArgs};
pub(crate) use gc::GcArgs;
pub(crate) use job::{CountArgs, ExternalArgs, GrepArgs, Job, OutputArgs, WordcountArgs};
pub(crate) use new::NewArgs;
pub(crate) use run::RunArgs;
pub(crate) use sort::{SortArgs, SortColumn};
pub(crate) use submit::{ProgramArgs, SubmitArgs, Submitted};
pub(crate) use tpch::{
    BenchArgs, BenchTpchArgs, Benchmark, GenerateArgs, GenerateData, GenerateTpchArgs,
};

const EXIT_CODES: &str = "\
Exit codes: 0 done, 1 the job failed, 2 bad usage, 3 cluster not reachable, 130 interrupted.
Results go to stdout; progress, warnings and errors to stderr. RUST_LOG sets what is logged.";

/// `kiln` and one of its commands.
#[derive(Debug, Parser)]
#[command(
    name = "kiln",
    version,
    about = "Count, search and group files, in this process or on a cluster",
    after_help = EXIT_CODES,
    max_term_width = 100,
    disable_help_subcommand = true,
    subcommand_required = true,
    arg_required_else_help = true
)]
pub(crate) struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a job and wait for its result
    Run(RunArgs),
    /// Give a job or a program to a cluster, print the job's id and leave it running
    Submit(SubmitArgs),
    /// Show how a job would be run: logical plan, optimised plan, stages; or what each step did
    Explain(ExplainArgs),
    /// Write a small program with a job of one's own, to begin with
    New(NewArgs),
    /// Show the first rows of files
    Head(HeadArgs),
    /// Show the columns of files
    Schema(SchemaArgs),
    /// Show what is in files as far as their footers say: rows, encodings, sizes, bounds
    Stats(StatsArgs),
    /// Generate data to try things with
    Generate(GenerateArgs),
    /// Measure how fast queries are, and whether their answers are right
    Bench(BenchArgs),
    /// List the jobs of a cluster
    Jobs(ListArgs),
    /// Show a job: its stages, shuffles, and the attempts that were lost or failed
    Job(JobIdArgs),
    /// Wait for a job and print its result
    Wait(JobIdArgs),
    /// Stop a job
    Cancel(JobIdArgs),
    /// Remove what killed processes have left behind; nothing of jobs that go on
    Gc(GcArgs),
    /// Be the driver of a cluster
    Driver(DriverArgs),
    /// Be an executor of a cluster
    Executor(ExecutorArgs),
    /// Start a driver and executors on this machine; Ctrl-C ends them
    Cluster(ClusterArgs),
}

/// Threads, memory and disk of this process, accepted before and after the job.
#[derive(Debug, Args, Clone, Copy, Default)]
pub(crate) struct GlobalResources {
    /// Threads that compute [default: all cores]
    #[arg(long, value_name = "N", global = true, display_order = 101, value_parser = parse_count)]
    pub(crate) threads: Option<usize>,
    /// Memory budget, e.g. 512MiB or 2GB [default: 70 % of what there is]
    #[arg(long, value_name = "SIZE", global = true, display_order = 102)]
    #[arg(value_parser = parse_bytes)]
    pub(crate) memory: Option<u64>,
    /// Local disk for what does not fit into memory, e.g. 100GB [default: what there is]
    #[arg(long, value_name = "SIZE", global = true, display_order = 103)]
    #[arg(value_parser = parse_bytes)]
    pub(crate) spill_limit: Option<u64>,
}

/// How much of a cluster a job may have, accepted before and after the job.
#[derive(Debug, Args, Clone, Copy)]
pub(crate) struct JobShare {
    /// Share of the cluster's slots, against those of other jobs, from 1 to 1000 [default: 1]
    #[arg(long, value_name = "N", global = true, display_order = 104, value_parser = parse_weight)]
    pub(crate) weight: Option<u32>,
}

const THREADS_MAX: usize = 4096;

fn parse_weight(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(n @ 1..=JOB_WEIGHT_MAX) => Ok(n),
        _ => Err(format!("not a number from 1 to {JOB_WEIGHT_MAX}")),
    }
}

fn parse_count(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(n @ 1..=THREADS_MAX) => Ok(n),
        _ => Err(format!("not a number from 1 to {THREADS_MAX}")),
    }
}
