//! `--driver`: which cluster. Commands differ in whether they need one.

use clap::Args;
use kiln_proto::address::Drivers;

/// Which cluster, if not this process; accepted before and after the job.
#[derive(Debug, Args)]
pub(crate) struct ClusterChoice {
    /// The driver of a cluster to use instead of this process; with standbys, all of them
    #[arg(
        long,
        value_name = "URL[,URL…]",
        env = "KILN_DRIVER",
        hide_env_values = true,
        global = true,
        display_order = 100
    )]
    pub(crate) driver: Option<Drivers>,
}

/// Which cluster; for commands that always need one.
#[derive(Debug, Args)]
pub(crate) struct ClusterAddress {
    /// The cluster's driver; with standbys, all of them
    #[arg(
        long,
        value_name = "URL[,URL…]",
        env = "KILN_DRIVER",
        hide_env_values = true,
        default_value = "http://127.0.0.1:7440"
    )]
    pub(crate) driver: Drivers,
}

/// Which cluster; for those that must not take the wrong one.
#[derive(Debug, Args)]
pub(crate) struct ClusterToJoin {
    /// The driver to work for; with standbys, all of them
    #[arg(
        long,
        value_name = "URL[,URL…]",
        env = "KILN_DRIVER",
        hide_env_values = true
    )]
    pub(crate) driver: Drivers,
}
