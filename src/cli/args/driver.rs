//! `kiln driver`, and what `kiln cluster` hands on to one.

use std::net::SocketAddr;

use clap::Args;

/// `kiln driver`.
#[derive(Debug, Args)]
pub(crate) struct DriverArgs {
    /// Address to listen on; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:7440")]
    pub(crate) listen: SocketAddr,
    /// Directory for shuffle objects and the journal, reachable for every executor: a path or an
    /// s3://, gs:// or az:// URL. Jobs survive the driver: the next one with the same storage goes
    /// on with them, and several at once stand by for one another [default: a temporary one,
    /// removed at the end together with all jobs]
    #[arg(long, value_name = "URL")]
    pub(crate) storage: Option<String>,
    /// How executors and clients reach this driver [default: the address that it listens on]
    #[arg(long, value_name = "URL")]
    pub(crate) advertise: Option<String>,
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
    /// How long whoever leads may be silent before another driver tries to lead, in milliseconds
    #[arg(long, value_name = "MS", value_parser = parse_millis)]
    pub(crate) leader_lease_ms: Option<u64>,
}

/// A driver keeps something in memory for each.
const JOBS_MAX: usize = 1_000_000;

pub(super) fn parse_jobs(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(n @ 1..=JOBS_MAX) => Ok(n),
        _ => Err(format!("not a number of jobs from 1 to {JOBS_MAX}")),
    }
}

const MILLIS_MAX: u64 = 24 * 60 * 60 * 1000;

fn parse_millis(text: &str) -> Result<u64, String> {
    match text.parse() {
        Ok(n @ 1..=MILLIS_MAX) => Ok(n),
        _ => Err(format!(
            "not a number of milliseconds from 1 to {MILLIS_MAX}"
        )),
    }
}
