//! `kiln run`.

use clap::Args;

use super::{ClusterChoice, GlobalResources, Job, JobShare};

/// `kiln run`.
#[derive(Debug, Args)]
#[command(subcommand_value_name = "JOB", subcommand_help_heading = "Jobs")]
pub(crate) struct RunArgs {
    /// What to run.
    #[command(subcommand)]
    pub(crate) job: Job,
    /// Which cluster, if not this process.
    #[command(flatten)]
    pub(crate) cluster: ClusterChoice,
    /// What this process may use, when the job runs in it.
    #[command(flatten)]
    pub(crate) resources: GlobalResources,
    /// Its share.
    #[command(flatten)]
    pub(crate) share: JobShare,
    /// Print the result as JSON, one object a line
    #[arg(long, global = true, display_order = 103)]
    pub(crate) json: bool,
}
