//! `kiln driver`, and what `kiln cluster` hands on to one.

use std::net::SocketAddr;

use clap::Args;

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
    /// Take jobs that bring code of their own: executors run it, confined only by what the system
    /// allows their user
    #[arg(long)]
    pub(crate) allow_programs: bool,
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

const MILLIS_MAX: u64 = 24 * 60 * 60 * 1000;

fn parse_millis(text: &str) -> Result<u64, String> {
    match text.parse() {
        Ok(n @ 1..=MILLIS_MAX) => Ok(n),
        _ => Err(format!(
            "not a number of milliseconds from 1 to {MILLIS_MAX}"
        )),
    }
}
