//! `kiln cluster`.

use std::net::SocketAddr;

use clap::Args;

use super::driver::parse_jobs;
use super::{TimingArgs, parse_count};

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
    /// Take jobs that bring code of their own: executors run it, confined only by what the system
    /// allows their user
    #[arg(long)]
    pub(crate) allow_programs: bool,
    /// Jobs that may run or wait at once; more are refused [default: 1000]
    #[arg(long, value_name = "N", value_parser = parse_jobs)]
    pub(crate) max_jobs: Option<usize>,
    /// How long things may take.
    #[command(flatten)]
    pub(crate) timing: TimingArgs,
}
