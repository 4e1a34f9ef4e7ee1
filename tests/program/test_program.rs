//! A user's program as tests want one: it counts words, takes its time, or goes wrong on demand.

use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use kiln::arrow::datatypes::DataType;
use kiln::{App, Emitter, Error, Pairs, Session, Values, col, count_all};

#[derive(clap::Args)]
struct Options {
    /// What to do: words, count, nap, refuse or nothing
    job: String,
    /// Text files
    inputs: Vec<String>,
    /// Write files there instead of printing
    #[arg(long)]
    output: Option<String>,
}

/// Waits until the file is there, and says beside it which process waits.
fn wait_at(gate: &Path) {
    if !gate.exists() {
        let mut waiting = std::fs::OpenOptions::new();
        let waiting = waiting.append(true).create(true);
        let mut waiting = waiting
            .open(gate.with_extension("waiting"))
            .expect("a directory that can be written to");
        writeln!(waiting, "{}", std::process::id()).expect("room on the disk");
    }
    while !gate.exists() {
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn main() -> ExitCode {
    let mut app = App::new("test-program");
    let words = app.flat_map(
        "words",
        ["word"],
        |line: &str, out: &mut Emitter<String>| {
            line.split_whitespace().for_each(|word| out.emit(word));
        },
    );
    let count = app
        .map_reduce("count")
        .map(
            |line: &str, out: &mut Pairs<String, i64>| match line.strip_prefix("@gate ") {
                Some(gate) => wait_at(Path::new(gate)),
                None => line.split_whitespace().for_each(|word| out.emit(word, 1)),
            },
        )
        .combine(|a, b| a + b)
        .reduce(
            |word: &str, counts: &mut Values<i64>, out: &mut Emitter<(String, i64)>| {
                out.emit((word, counts.sum()));
            },
        )
        .columns(["word", "count"]);
    let nap = app.scalar("nap", |millis: i64| {
        std::thread::sleep(Duration::from_millis(millis.unsigned_abs()));
        millis
    });
    let refuse = app.scalar("refuse", |line: &str| -> Result<i64, String> {
        Err(format!("I do not like {line:?}"))
    });
    app.run(move |session: &Session, options: Options| {
        let lines = session.read_text(options.inputs.clone());
        let made = match options.job.as_str() {
            "words" => lines?
                .flat_map(&words?, [col("line")])?
                .group_by([col("word")])
                .aggregate([count_all().alias("count")])?
                .sort([col("count").desc(), col("word").asc()])?,
            "count" => count.run_on(lines?.select([col("line")])?)?,
            "nap" => {
                let millis = col("line").cast(DataType::Int64);
                lines?.select([nap.call([millis]).alias("millis")])?
            }
            "refuse" => lines?.select([refuse.call([col("line")]).alias("never")])?,
            other => {
                return writeln!(std::io::stdout(), "nothing is done job={other}")
                    .map_err(|error| Error::unavailable("cannot print").with_source(error));
            }
        };
        match &options.output {
            Some(url) => made.write_csv(url).map(drop),
            None => made.show(),
        }
    })
}
