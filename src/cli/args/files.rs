//! `kiln head`, `kiln schema` and `kiln stats`: looking at files.

use clap::Args;

/// `kiln head`.
#[derive(Debug, Args)]
pub(crate) struct HeadArgs {
    /// Parquet or CSV files, directories, globs or URLs; anything else is shown as text
    #[arg(value_name = "FILE", required = true)]
    pub(crate) files: Vec<String>,
    /// How many rows
    #[arg(
        short = 'n',
        long = "rows",
        value_name = "N",
        default_value_t = 10,
        value_parser = clap::value_parser!(u64).range(1..=1_000_000)
    )]
    pub(crate) rows: u64,
    /// Print JSON, one object a row
    #[arg(long)]
    pub(crate) json: bool,
}

/// `kiln schema`.
#[derive(Debug, Args)]
pub(crate) struct SchemaArgs {
    /// Parquet or CSV files, directories, globs or URLs; anything else is taken for text
    #[arg(value_name = "FILE", required = true)]
    pub(crate) files: Vec<String>,
    /// Print JSON, one object a column
    #[arg(long)]
    pub(crate) json: bool,
}

/// `kiln stats`.
#[derive(Debug, Args)]
pub(crate) struct StatsArgs {
    /// Parquet, CSV or text files, directories, globs or URLs
    #[arg(value_name = "FILE", required = true)]
    pub(crate) files: Vec<String>,
}
