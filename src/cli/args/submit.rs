//! `kiln submit`.

use clap::Args;

use super::Job;

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
