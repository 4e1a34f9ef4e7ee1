//! `kiln executor`.

use clap::Args;

use super::super::units::parse_bytes;
use super::{ClusterToJoin, parse_count};

/// `kiln executor`.
#[derive(Debug, Args)]
pub(crate) struct ExecutorArgs {
    /// Which cluster.
    #[command(flatten)]
    pub(crate) cluster: ClusterToJoin,
    /// Threads that compute [default: all cores]
    #[arg(long, value_name = "N", value_parser = parse_count)]
    pub(crate) threads: Option<usize>,
    /// Memory budget, e.g. 512MiB or 2GB [default: 70 % of what there is]
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    pub(crate) memory: Option<u64>,
    /// Local disk for what does not fit into memory, e.g. 100GB [default: what there is]
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    pub(crate) spill_limit: Option<u64>,
    /// How long to go on with what runs after SIGTERM, in seconds; the rest is handed back
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    #[arg(value_parser = clap::value_parser!(u64).range(0..=86_400))]
    pub(crate) drain_timeout: u64,
    /// Exit at once when stdin ends: how `kiln cluster` takes its executors along.
    #[arg(long, hide = true)]
    pub(crate) until_stdin_ends: bool,
}
