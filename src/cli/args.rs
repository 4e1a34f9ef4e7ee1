//! What the user typed, and nothing about what it means.
//!
//! One struct per command, in the order of the help text. What is checked here can be checked
//! without looking at the world: numbers, sizes, which options go together. Everything that fails
//! here exits with 2.

use std::net::SocketAddr;

use clap::{Args, Parser, Subcommand, ValueEnum};
use kiln::FileFormat;

use super::units::parse_bytes;

mod files;
mod tpch;

pub(crate) use files::{HeadArgs, SchemaArgs, StatsArgs};
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
    /// Give a job to a cluster, print its id and leave it running
    Submit(SubmitArgs),
    /// Show how a job would be run: logical plan, optimised plan, stages
    Explain(ExplainArgs),
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
    /// Be the driver of a cluster
    Driver(DriverArgs),
    /// Be an executor of a cluster
    Executor(ExecutorArgs),
    /// Start a driver and executors on this machine; Ctrl-C ends them
    Cluster(ClusterArgs),
}

/// `kiln run`.
#[derive(Debug, Args)]
#[command(subcommand_value_name = "JOB", subcommand_help_heading = "Jobs")]
pub(crate) struct RunArgs {
    /// What to run.
    #[command(subcommand)]
    pub(crate) job: Job,
    /// Run on the cluster of this driver instead of in this process
    #[arg(
        long,
        value_name = "URL",
        env = "KILN_DRIVER",
        hide_env_values = true,
        global = true,
        display_order = 100
    )]
    pub(crate) driver: Option<String>,
    /// What this process may use, when the job runs in it.
    #[command(flatten)]
    pub(crate) resources: GlobalResources,
    /// Print the result as JSON, one object a line
    #[arg(long, global = true, display_order = 103)]
    pub(crate) json: bool,
}

/// `kiln submit`.
#[derive(Debug, Args)]
#[command(subcommand_value_name = "JOB", subcommand_help_heading = "Jobs")]
pub(crate) struct SubmitArgs {
    /// What to run.
    #[command(subcommand)]
    pub(crate) job: Job,
    /// The cluster's driver
    // Not `required`: a global argument cannot be. `submit` says so itself.
    #[arg(
        long,
        value_name = "URL",
        env = "KILN_DRIVER",
        hide_env_values = true,
        global = true,
        display_order = 100
    )]
    pub(crate) driver: Option<String>,
}

/// `kiln explain`.
#[derive(Debug, Args)]
#[command(subcommand_value_name = "JOB", subcommand_help_heading = "Jobs")]
pub(crate) struct ExplainArgs {
    /// What to explain.
    #[command(subcommand)]
    pub(crate) job: Job,
    /// Explain how the cluster of this driver would run it
    #[arg(
        long,
        value_name = "URL",
        env = "KILN_DRIVER",
        hide_env_values = true,
        global = true,
        display_order = 100
    )]
    pub(crate) driver: Option<String>,
    /// Run the job, and show what each step did
    #[arg(long, global = true, display_order = 99)]
    pub(crate) analyze: bool,
    /// What this process may use, when the job runs in it.
    #[command(flatten)]
    pub(crate) resources: GlobalResources,
}

/// Threads and memory of this process, accepted before and after the job.
#[derive(Debug, Args, Clone, Copy)]
pub(crate) struct GlobalResources {
    /// Threads that compute [default: all cores]
    #[arg(long, value_name = "N", global = true, display_order = 101, value_parser = parse_count)]
    pub(crate) threads: Option<usize>,
    /// Memory budget, e.g. 512MiB or 2GB [default: 70 % of what there is]
    #[arg(long, value_name = "SIZE", global = true, display_order = 102)]
    #[arg(value_parser = parse_bytes)]
    pub(crate) memory: Option<u64>,
}

/// The jobs that need no program of one's own.
#[derive(Debug, Subcommand)]
pub(crate) enum Job {
    /// Count words: maximal runs of characters without Unicode white space
    Wordcount(WordcountArgs),
    /// Find lines that match a regular expression: path, byte offset and line
    Grep(GrepArgs),
    /// Count the rows of Parquet or CSV files by the values of columns
    Count(CountArgs),
}

/// `wordcount`.
#[derive(Debug, Args)]
pub(crate) struct WordcountArgs {
    /// Text files, directories, globs or URLs; gzip, zstd and bzip2 are recognised
    #[arg(value_name = "INPUT", required = true)]
    pub(crate) inputs: Vec<String>,
    /// Keep the N most frequent words [default: 20 as a table, all in files]
    #[arg(long, value_name = "N", value_parser = parse_top)]
    pub(crate) top: Option<u64>,
    /// Count words in lower case
    #[arg(long)]
    pub(crate) lowercase: bool,
    /// Fail on invalid UTF-8 instead of replacing it
    #[arg(long)]
    pub(crate) strict: bool,
    /// Where the result goes.
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// `grep`.
#[derive(Debug, Args)]
pub(crate) struct GrepArgs {
    /// A regular expression in the syntax of Rust's regex crate; (?i) ignores case
    #[arg(value_name = "PATTERN")]
    pub(crate) pattern: String,
    /// Text files, directories, globs or URLs; gzip, zstd and bzip2 are recognised
    #[arg(value_name = "INPUT", required = true)]
    pub(crate) inputs: Vec<String>,
    /// Fail on invalid UTF-8 instead of replacing it
    #[arg(long)]
    pub(crate) strict: bool,
    /// Where the result goes.
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// `count`.
#[derive(Debug, Args)]
pub(crate) struct CountArgs {
    /// The columns to count by
    #[arg(
        long,
        value_name = "COL[,COL…]",
        required = true,
        value_delimiter = ','
    )]
    pub(crate) by: Vec<String>,
    /// Parquet or CSV files, directories, globs or URLs; all of one format
    #[arg(value_name = "INPUT", required = true)]
    pub(crate) inputs: Vec<String>,
    /// Keep the N most frequent combinations [default: 20 as a table, all in files]
    #[arg(long, value_name = "N", value_parser = parse_top)]
    pub(crate) top: Option<u64>,
    /// Where the result goes.
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// Where the result of a job goes, if not to stdout.
#[derive(Debug, Args)]
pub(crate) struct OutputArgs {
    /// Write the result to files in this directory, which must not exist yet
    #[arg(long, value_name = "URL", display_order = 50)]
    pub(crate) output: Option<String>,
    /// Format of the files
    #[arg(
        long,
        value_enum,
        default_value_t = Format::Parquet,
        requires = "output",
        display_order = 51
    )]
    pub(crate) format: Format,
}

/// Format of output files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    // Comments on these would turn every help text that has them into its long form.
    Parquet,
    Csv,
    Json,
}

impl From<Format> for FileFormat {
    fn from(format: Format) -> Self {
        match format {
            Format::Parquet => FileFormat::Parquet,
            Format::Csv => FileFormat::Csv,
            Format::Json => FileFormat::Json,
        }
    }
}

/// Which cluster; for commands that always need one.
#[derive(Debug, Args)]
pub(crate) struct ClusterAddress {
    /// The cluster's driver
    #[arg(
        long,
        value_name = "URL",
        env = "KILN_DRIVER",
        hide_env_values = true,
        default_value = "http://127.0.0.1:7440"
    )]
    pub(crate) driver: String,
}

/// `kiln jobs`.
#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Which cluster.
    #[command(flatten)]
    pub(crate) cluster: ClusterAddress,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// `kiln job`, `kiln wait`, `kiln cancel`.
#[derive(Debug, Args)]
pub(crate) struct JobIdArgs {
    /// The job, as `kiln submit` printed it
    #[arg(value_name = "ID")]
    pub(crate) id: kiln::JobId,
    /// Which cluster.
    #[command(flatten)]
    pub(crate) cluster: ClusterAddress,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// `kiln driver`.
#[derive(Debug, Args)]
pub(crate) struct DriverArgs {
    /// Address to listen on; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:7440")]
    pub(crate) listen: SocketAddr,
    /// Directory for shuffle objects and journals, reachable for every executor: a path or an
    /// s3://, gs:// or az:// URL [default: a temporary one, removed at the end]
    #[arg(long, value_name = "URL")]
    pub(crate) storage: Option<String>,
    /// Listen on other than loopback addresses though nothing authenticates who connects
    #[arg(long)]
    pub(crate) insecure: bool,
    /// How long things may take.
    #[command(flatten)]
    pub(crate) timing: TimingArgs,
}

/// Time-outs of a driver.
#[derive(Debug, Args, Clone, Copy)]
#[command(next_help_heading = "Time-outs")]
pub(crate) struct TimingArgs {
    /// How often executors have to say that they live, in milliseconds
    #[arg(long, value_name = "MS", value_parser = parse_millis)]
    pub(crate) heartbeat_ms: Option<u64>,
    /// Silence after which an executor is taken for lost, in milliseconds
    #[arg(long, value_name = "MS", value_parser = parse_millis)]
    pub(crate) lease_ms: Option<u64>,
    /// How long a job waits while there is no executor, in milliseconds
    #[arg(long, value_name = "MS", value_parser = parse_millis)]
    pub(crate) grace_ms: Option<u64>,
}

/// `kiln executor`.
#[derive(Debug, Args)]
pub(crate) struct ExecutorArgs {
    /// The driver to work for
    #[arg(long, value_name = "URL", env = "KILN_DRIVER", hide_env_values = true)]
    pub(crate) driver: String,
    /// Threads that compute [default: all cores]
    #[arg(long, value_name = "N", value_parser = parse_count)]
    pub(crate) threads: Option<usize>,
    /// Memory budget, e.g. 512MiB or 2GB [default: 70 % of what there is]
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    pub(crate) memory: Option<u64>,
    /// Exit at once when stdin ends: how `kiln cluster` takes its executors along.
    #[arg(long, hide = true)]
    pub(crate) until_stdin_ends: bool,
}

/// `kiln cluster`.
#[derive(Debug, Args)]
pub(crate) struct ClusterArgs {
    /// Executor processes
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = parse_count)]
    pub(crate) executors: usize,
    /// Threads of each executor [default: all cores, divided among them]
    #[arg(long, value_name = "N", value_parser = parse_count)]
    pub(crate) threads_per_executor: Option<usize>,
    /// Address to listen on; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:7440")]
    pub(crate) listen: SocketAddr,
    /// Directory for shuffle objects and journals [default: a temporary one, removed at the end]
    #[arg(long, value_name = "URL")]
    pub(crate) storage: Option<String>,
    /// Listen on other than loopback addresses though nothing authenticates who connects
    #[arg(long)]
    pub(crate) insecure: bool,
    /// How long things may take.
    #[command(flatten)]
    pub(crate) timing: TimingArgs,
}

const THREADS_MAX: usize = 4096;
const TOP_MAX: u64 = 1_000_000;
const MILLIS_MAX: u64 = 24 * 60 * 60 * 1000;

fn parse_count(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(n @ 1..=THREADS_MAX) => Ok(n),
        _ => Err(format!("not a number from 1 to {THREADS_MAX}")),
    }
}

fn parse_top(text: &str) -> Result<u64, String> {
    match text.parse() {
        Ok(n @ 1..=TOP_MAX) => Ok(n),
        _ => Err(format!("not a number from 1 to {TOP_MAX}")),
    }
}

fn parse_millis(text: &str) -> Result<u64, String> {
    match text.parse() {
        Ok(n @ 1..=MILLIS_MAX) => Ok(n),
        _ => Err(format!(
            "not a number of milliseconds from 1 to {MILLIS_MAX}"
        )),
    }
}
