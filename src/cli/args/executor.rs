//! `kiln executor`.

use clap::Args;

use super::super::units::parse_bytes;
use super::parse_count;

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
