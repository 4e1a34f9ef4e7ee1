//! Finds the slow requests that failed in a server's log: filters on text, and where each line is.

use kiln::{Result, Session, col, contains, regexp_like};

fn main() -> Result<()> {
    let log = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/data/server.log");
    Session::local()?
        .read_text(log)?
        .filter(contains(col("line"), "ERROR").and(regexp_like(col("line"), r"\b\d{4,}ms\b")))?
        .sort([col("offset").asc()])?
        .select([col("offset"), col("line")])?
        .show()
}
