//! `kiln generate` and `kiln bench`: the benchmark's data and its queries.

use clap::{Args, Subcommand};
use kiln::tpch::{QUERIES, Table};

use super::{ClusterChoice, GlobalResources, parse_count};

/// `kiln generate`.
#[derive(Debug, Args)]
#[command(subcommand_value_name = "DATA", subcommand_help_heading = "Data")]
pub(crate) struct GenerateArgs {
    /// Which data.
    #[command(subcommand)]
    pub(crate) data: GenerateData,
}

/// The data that can be generated.
#[derive(Debug, Subcommand)]
pub(crate) enum GenerateData {
    /// The eight tables of TPC-H as Parquet files, the same bytes every time
    Tpch(GenerateTpchArgs),
}

/// `kiln generate tpch`.
#[derive(Debug, Args)]
pub(crate) struct GenerateTpchArgs {
    /// Size of the data: 1 is 6 million line items, 350 MB of Parquet
    #[arg(long, value_name = "S", value_parser = parse_scale)]
    pub(crate) scale: f64,
    /// The directory to write, which does not exist yet or is empty
    #[arg(long, value_name = "DIR")]
    pub(crate) output: String,
    /// Files of each large table [default: one for 1.5 million rows]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) parts: Option<u32>,
    /// Only these tables
    #[arg(long, value_name = "TABLE[,TABLE…]", value_delimiter = ',', value_parser = parse_table)]
    pub(crate) tables: Vec<Table>,
    /// Files that are made at once [default: all cores]
    #[arg(long, value_name = "N", value_parser = parse_count)]
    pub(crate) threads: Option<usize>,
}

/// `kiln bench`.
#[derive(Debug, Args)]
#[command(
    subcommand_value_name = "BENCHMARK",
    subcommand_help_heading = "Benchmarks"
)]
pub(crate) struct BenchArgs {
    /// Which benchmark.
    #[command(subcommand)]
    pub(crate) benchmark: Benchmark,
}

/// The benchmarks that can be run.
#[derive(Debug, Subcommand)]
pub(crate) enum Benchmark {
    /// The 22 queries of TPC-H over Parquet files
    Tpch(BenchTpchArgs),
}

/// `kiln bench tpch`.
#[derive(Debug, Args)]
pub(crate) struct BenchTpchArgs {
    /// Where the tables are: DIR/lineitem/*.parquet or DIR/lineitem.parquet, and so on
    #[arg(long, value_name = "DIR")]
    pub(crate) data: String,
    /// Which queries [default: all]
    #[arg(long, value_name = "N[,N…]", value_delimiter = ',', value_parser = parse_query)]
    pub(crate) queries: Vec<usize>,
    /// Runs of each query, of which the median counts
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = parse_count)]
    pub(crate) runs: usize,
    /// Which cluster, if not this process.
    #[command(flatten)]
    pub(crate) cluster: ClusterChoice,
    /// What this process may use, when the queries run in it.
    #[command(flatten)]
    pub(crate) resources: GlobalResources,
    /// Write the figures to this file as JSON, again after each query
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<String>,
    /// Write each answer to DIR/qNN.csv
    #[arg(long, value_name = "DIR")]
    pub(crate) results: Option<String>,
    /// Set the times beside those of an earlier run's --json
    #[arg(long, value_name = "FILE")]
    pub(crate) compare: Option<String>,
    /// Compare the answers with DIR/qNN.csv [default: known ones at scale 0.01 and 1]
    #[arg(long, value_name = "DIR")]
    pub(crate) answers: Option<String>,
}

fn parse_scale(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(scale) if (0.001..=100_000.0).contains(&scale) => Ok(scale),
        _ => Err("not a number from 0.001 to 100000".to_owned()),
    }
}

fn parse_table(text: &str) -> Result<Table, String> {
    let named = Table::ALL.into_iter().find(|table| table.name() == text);
    named.ok_or_else(|| format!("the tables are {}", Table::ALL.map(Table::name).join(", ")))
}

pub(super) fn parse_query(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number @ 1..=QUERIES) => Ok(number),
        _ => Err(format!("not a number from 1 to {QUERIES}")),
    }
}
