//! Adds up a CSV file by a column, writes the sums as Parquet and reads them back.

use kiln::{Error, Result, Session, avg, col, count_all, sum};

fn main() -> Result<()> {
    let sales = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/data/sales.csv");
    let scratch = tempfile::tempdir()
        .map_err(|error| Error::unavailable("no temporary directory").with_source(error))?;
    // An output directory appears as a whole or not at all, so it must not exist yet.
    let output = scratch.path().join("by_region").display().to_string();

    let session = Session::local()?;
    let written = session
        .read_csv(sales)?
        .select([
            col("region"),
            (col("units") * col("price")).alias("revenue"),
        ])?
        .group_by([col("region")])
        .aggregate([
            count_all().alias("sales"),
            sum(col("revenue")).alias("revenue"),
            avg(col("revenue")).alias("mean"),
        ])?
        .write_parquet(&output)?;
    eprintln!("wrote {} rows in {} files", written.rows, written.files);

    session
        .read_parquet(&output)?
        .sort([col("revenue").desc()])?
        .show()
}
