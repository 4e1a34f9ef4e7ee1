//! Counts the words of text files: map, combine and reduce in Rust. README.md says how to run it.

use std::process::ExitCode;

use kiln::{App, Emitter, Pairs, Session, clap, col};

/// What is typed behind the name of the program.
#[derive(clap::Args)]
struct Options {
    /// Text files, directories, globs or URLs
    #[arg(value_name = "INPUT", required = true)]
    inputs: Vec<String>,
    /// Write all counts to files in this directory instead of showing the highest
    #[arg(long, value_name = "URL")]
    output: Option<String>,
}

fn main() -> ExitCode {
    let mut app = App::new(env!("CARGO_PKG_NAME"));
    // Functions come first, by name: a worker on a cluster has them from here, and never comes to
    // the job below.
    let count = app
        .map_reduce("count")
        .map(|line: &str, out: &mut Pairs<String, i64>| {
            for word in line.split(|c: char| !c.is_alphanumeric()) {
                if !word.is_empty() {
                    out.emit(&word.to_lowercase(), 1);
                }
            }
        })
        .combine(|a, b| a + b)
        .reduce(|word, counts, out: &mut Emitter<(String, i64)>| out.emit((word, counts.sum())))
        .columns(["word", "count"]);
    app.run(move |session: &Session, options: Options| {
        let lines = session.read_text(options.inputs)?.select([col("line")])?;
        let counts = count.run_on(lines)?;
        match options.output {
            Some(url) => counts.write_csv(&url).map(drop),
            None => counts
                .sort([col("count").desc(), col("word").asc()])?
                .limit(10)?
                .show(),
        }
    })
}
