//! `kiln gc`.

use clap::Args;

/// `kiln gc`.
#[derive(Debug, Args)]
pub(crate) struct GcArgs {
    /// The storage of a cluster, as its drivers were given it; a driver may be at work there
    /// [default: only temporary directories of killed processes are looked for]
    #[arg(long, value_name = "URL")]
    pub(crate) storage: Option<String>,
    /// Show what is left behind, and remove nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}
