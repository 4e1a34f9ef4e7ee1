//! The jobs that `run`, `submit` and `explain` take, and where their results go.

use clap::{Args, Subcommand, ValueEnum};
use kiln::{FileCompression, FileFormat, OutputMode};

use super::SortArgs;

/// The jobs that need no program of one's own.
#[derive(Debug, Subcommand)]
pub(crate) enum Job {
    /// Count words: maximal runs of characters without Unicode white space
    Wordcount(WordcountArgs),
    /// Find lines that match a regular expression: path, byte offset and line
    Grep(GrepArgs),
    /// Count the rows of Parquet or CSV files by the values of columns
    Count(CountArgs),
    /// Sort Parquet or CSV files, or lines of text, by columns
    Sort(SortArgs),
    /// Map and reduce with commands that read lines and print lines KEY<TAB>VALUE
    External(ExternalArgs),
}

/// `wordcount`.
#[derive(Debug, Args)]
pub(crate) struct WordcountArgs {
    /// Text files, directories, globs or URLs; gzip, zstd and bzip2 are recognised
    #[arg(value_name = "INPUT", required = true)]
    pub(crate) inputs: Vec<String>,
    /// Keep the N most frequent words [default: 20 as a table, all in files]
    #[arg(long, value_name = "N", value_parser = parse_top)]
    pub(crate) top: Option<u64>,
    /// Count words in lower case
    #[arg(long)]
    pub(crate) lowercase: bool,
    /// Fail on invalid UTF-8 instead of replacing it
    #[arg(long)]
    pub(crate) strict: bool,
    /// Where the result goes.
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// `grep`.
#[derive(Debug, Args)]
pub(crate) struct GrepArgs {
    /// A regular expression in the syntax of Rust's regex crate; (?i) ignores case
    #[arg(value_name = "PATTERN")]
    pub(crate) pattern: String,
    /// Text files, directories, globs or URLs; gzip, zstd and bzip2 are recognised
    #[arg(value_name = "INPUT", required = true)]
    pub(crate) inputs: Vec<String>,
    /// Fail on invalid UTF-8 instead of replacing it
    #[arg(long)]
    pub(crate) strict: bool,
    /// Where the result goes.
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// `count`.
#[derive(Debug, Args)]
pub(crate) struct CountArgs {
    /// The columns to count by
    #[arg(
        long,
        value_name = "COL[,COL…]",
        required = true,
        value_delimiter = ','
    )]
    pub(crate) by: Vec<String>,
    /// Parquet or CSV files, directories, globs or URLs; all of one format
    #[arg(value_name = "INPUT", required = true)]
    pub(crate) inputs: Vec<String>,
    /// Keep the N most frequent combinations [default: 20 as a table, all in files]
    #[arg(long, value_name = "N", value_parser = parse_top)]
    pub(crate) top: Option<u64>,
    /// Where the result goes.
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// `external`.
#[derive(Debug, Args)]
#[command(after_help = EXTERNAL)]
pub(crate) struct ExternalArgs {
    /// Given the lines of the inputs, prints lines KEY<TAB>VALUE
    #[arg(long, value_name = "CMD")]
    pub(crate) map: String,
    /// Given some of these sorted by key before they are shuffled, prints fewer of them
    #[arg(long, value_name = "CMD")]
    pub(crate) combine: Option<String>,
    /// Given all lines of some keys sorted by key, prints the result as lines KEY<TAB>VALUE
    #[arg(long, value_name = "CMD")]
    pub(crate) reduce: String,
    /// Text files, directories, globs or URLs; gzip, zstd and bzip2 are recognised
    #[arg(value_name = "INPUT", required = true)]
    pub(crate) inputs: Vec<String>,
    /// Keep the first N lines in the order of keys [default: 20 as a table, all in files]
    #[arg(long, value_name = "N", value_parser = parse_top)]
    pub(crate) top: Option<u64>,
    /// Fail on invalid UTF-8 instead of replacing it
    #[arg(long)]
    pub(crate) strict: bool,
    /// Where the result goes.
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

const EXTERNAL: &str = "\
Each CMD is run with `sh -c`, several times side by side. It fails the job if it ends with another
exit code than 0; what it said last on stderr is shown.";

/// Where the result of a job goes, if not to stdout.
#[derive(Debug, Args)]
pub(crate) struct OutputArgs {
    /// Write the result to files in this directory
    #[arg(long, value_name = "URL", display_order = 50)]
    pub(crate) output: Option<String>,
    /// Format of the files
    #[arg(
        long,
        value_enum,
        default_value_t = Format::Parquet,
        requires = "output",
        display_order = 51
    )]
    pub(crate) format: Format,
    /// How the bytes of the files are compressed [default: zstd for Parquet, none for others]
    #[arg(long, value_enum, requires = "output", display_order = 52)]
    pub(crate) compression: Option<Compression>,
    /// If that directory holds an output already: fail, replace it or add files to it
    #[arg(
        long,
        value_enum,
        default_value_t = Mode::Error,
        requires = "output",
        display_order = 53
    )]
    pub(crate) mode: Mode,
}

/// Format of output files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    // Comments on these would turn every help text that has them into its long form.
    Parquet,
    Csv,
    Json,
    Text,
}

impl From<Format> for FileFormat {
    fn from(format: Format) -> Self {
        match format {
            Format::Parquet => FileFormat::Parquet,
            Format::Csv => FileFormat::Csv,
            Format::Json => FileFormat::Json,
            Format::Text => FileFormat::Text,
        }
    }
}

/// Compression of output files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Compression {
    // Comments on these would turn every help text that has them into its long form.
    None,
    Snappy,
    Lz4,
    Gzip,
    Zstd,
}

impl From<Compression> for FileCompression {
    fn from(compression: Compression) -> Self {
        match compression {
            Compression::None => FileCompression::None,
            Compression::Snappy => FileCompression::Snappy,
            Compression::Lz4 => FileCompression::Lz4,
            Compression::Gzip => FileCompression::Gzip,
            Compression::Zstd => FileCompression::Zstd(ZSTD_LEVEL),
        }
    }
}

/// Fast, and nearly as small as slower levels.
const ZSTD_LEVEL: u8 = 1;

/// What becomes of an output that is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mode {
    // Comments on these would turn every help text that has them into its long form.
    Error,
    Overwrite,
    Append,
}

impl From<Mode> for OutputMode {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Error => OutputMode::ErrorIfExists,
            Mode::Overwrite => OutputMode::Overwrite,
            Mode::Append => OutputMode::Append,
        }
    }
}

const TOP_MAX: u64 = 1_000_000;

pub(super) fn parse_top(text: &str) -> Result<u64, String> {
    match text.parse() {
        Ok(n @ 1..=TOP_MAX) => Ok(n),
        _ => Err(format!("not a number from 1 to {TOP_MAX}")),
    }
}
