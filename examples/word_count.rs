//! Counts the words of text files: `cargo run --release --example word_count FILE…`

use kiln::{Result, Session, col, count_all, words};

fn main() -> Result<()> {
    let mut inputs: Vec<String> = std::env::args().skip(1).collect();
    if inputs.is_empty() {
        inputs.push("README.md".to_owned());
    }
    // `Session::connect("http://driver:7440")` runs the same job on a cluster.
    Session::local()?
        .read_text(inputs)?
        .select([words(col("line")).alias("word")])?
        .explode("word")?
        .group_by([col("word")])
        .aggregate([count_all().alias("count")])?
        .sort([col("count").desc(), col("word").asc()])?
        .limit(20)?
        .show()
}
