//! `kiln explain`: a job, or a query of a benchmark.

use clap::{Args, Subcommand};

use super::tpch::parse_query;
use super::{ClusterChoice, GlobalResources, Job};

/// `kiln explain`.
#[derive(Debug, Args)]
#[command(subcommand_value_name = "JOB", subcommand_help_heading = "Jobs")]
pub(crate) struct ExplainArgs {
    /// What to explain.
    #[command(subcommand)]
    pub(crate) subject: Explained,
    /// Which cluster would run it, if not this process.
    #[command(flatten)]
    pub(crate) cluster: ClusterChoice,
    /// Run it, and show what each step did: rows, bytes, time, what was passed over
    #[arg(long, global = true, display_order = 99)]
    pub(crate) analyze: bool,
    /// What this process may use, when the job runs in it.
    #[command(flatten)]
    pub(crate) resources: GlobalResources,
}

/// What can be explained.
#[derive(Debug, Subcommand)]
pub(crate) enum Explained {
    /// A job that can be run.
    #[command(flatten)]
    Job(Job),
    /// A query of TPC-H, over the tables that `kiln bench tpch` reads
    Tpch(ExplainTpchArgs),
}

/// `kiln explain tpch`.
#[derive(Debug, Args)]
pub(crate) struct ExplainTpchArgs {
    /// Where the tables are: DIR/lineitem/*.parquet or DIR/lineitem.parquet, and so on
    #[arg(long, value_name = "DIR")]
    pub(crate) data: String,
    /// Which query
    #[arg(long, value_name = "N", value_parser = parse_query)]
    pub(crate) query: usize,
}
