//! `kiln new`.

use std::path::PathBuf;

use clap::Args;

/// `kiln new`.
#[derive(Debug, Args)]
pub(crate) struct NewArgs {
    /// A directory that does not exist yet or is empty; its name is that of the program
    #[arg(value_name = "DIR")]
    pub(crate) directory: PathBuf,
    /// Depend on the sources of kiln in this directory instead of a published version
    #[arg(long, value_name = "DIR")]
    pub(crate) path: Option<PathBuf>,
}
