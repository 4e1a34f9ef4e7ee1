//! `kiln run`.

use clap::Args;

use super::{GlobalResources, Job};

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
