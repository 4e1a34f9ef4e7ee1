//! `kiln submit`.

use std::ffi::OsString;

use clap::{Args, Parser, Subcommand};

use super::Job;

/// `kiln submit`.
#[derive(Debug, Args)]
#[command(
    subcommand_value_name = "JOB|PROGRAM",
    subcommand_help_heading = "Jobs",
    override_usage = "kiln submit <JOB> [OPTIONS] …\n       \
                      kiln submit <PROGRAM> [--wait] [--driver <URL>] [-- <ARGUMENT>…]",
    after_help = "PROGRAM is the path of a program of your own, with a slash in it: a Rust program \
                  that runs a kiln App (see `kiln new`). It is started here with its ARGUMENTs and \
                  brings itself to the cluster. With --wait this command is the program: it shows \
                  what the program prints and ends as it does."
)]
pub(crate) struct SubmitArgs {
    /// What to run.
    #[command(subcommand)]
    pub(crate) job: Submitted,
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
    override_usage = "kiln submit <PROGRAM> [--wait] [--driver <URL>] [-- <ARGUMENT>…]"
)]
pub(crate) struct ProgramArgs {
    /// The program ends before this command does
    #[arg(long)]
    pub(crate) wait: bool,
    /// The cluster's driver
    #[arg(long, value_name = "URL")]
    pub(crate) driver: Option<String>,
    /// What the program is given.
    #[arg(last = true, value_name = "ARGUMENT")]
    pub(crate) arguments: Vec<OsString>,
}
