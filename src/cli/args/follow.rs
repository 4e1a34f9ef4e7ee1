//! `kiln jobs`, `kiln job`, `kiln wait` and `kiln cancel`: the jobs of a cluster.

use clap::Args;

use super::ClusterAddress;

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
