//! `kiln submit`.

use std::ffi::OsString;

use clap::{Args, Parser, Subcommand};
use kiln_proto::address::Drivers;

use super::{ClusterChoice, Job, JobShare};

/// `kiln submit`.
#[derive(Debug, Args)]
#[command(
    subcommand_value_name = "JOB|PROGRAM",
    subcommand_help_heading = "Jobs",
    mut_arg("driver", |driver| driver.help("The cluster's driver; with standbys, all of them")),
    override_usage = "kiln submit <JOB> [OPTIONS] …\n       \
                      kiln submit <PROGRAM> [--wait] [--driver <URL>] [--weight <N>] \
                      [-- <ARGUMENT>…]",
    after_help = "PROGRAM is the path of a program of your own, with a slash in it: a Rust program \
                  that runs a kiln App (see `kiln new`). It is started here with its ARGUMENTs and \
                  brings itself to the cluster. With --wait this command is the program: it shows \
                  what the program prints and ends as it does."
)]
pub(crate) struct SubmitArgs {
    /// What to run.
    #[command(subcommand)]
    pub(crate) job: Submitted,
    /// Which cluster.
    // Not `required`: a global argument cannot be. `submit` says so itself.
    #[command(flatten)]
    pub(crate) cluster: ClusterChoice,
    /// Its share.
    #[command(flatten)]
    pub(crate) share: JobShare,
    /// With a program: end when it does, and as it does
    #[arg(long)]
    pub(crate) wait: bool,
}

/// A job of Kiln's, or a program.
#[derive(Debug, Subcommand)]
pub(crate) enum Submitted {
    /// One of Kiln's.
    #[command(flatten)]
    Job(Job),
    /// A program: its path and what stands behind it.
    #[command(external_subcommand)]
    Program(Vec<OsString>),
}

/// What stands behind the path of a program.
#[derive(Debug, Parser)]
#[command(
    name = "kiln submit",
    disable_help_flag = true,
    override_usage = "kiln submit <PROGRAM> [--wait] [--driver <URL>] [--weight <N>] \
                      [-- <ARGUMENT>…]"
)]
pub(crate) struct ProgramArgs {
    /// The program ends before this command does
    #[arg(long)]
    pub(crate) wait: bool,
    /// The cluster's driver; with standbys, all of them
    #[arg(long, value_name = "URL[,URL…]")]
    pub(crate) driver: Option<Drivers>,
    /// The share of its jobs.
    #[command(flatten)]
    pub(crate) share: JobShare,
    /// What the program is given.
    #[arg(last = true, value_name = "ARGUMENT")]
    pub(crate) arguments: Vec<OsString>,
}
