//! The jobs of the rounds, and whether their answers are right.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::store::{BUCKET, SCALE, Store};

/// A job.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Work {
    /// Words are counted into an output.
    WordCount,
    /// A query of the benchmark, whose answer the client gets.
    Query(u8),
}

impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Work::WordCount => write!(f, "word count"),
            Work::Query(number) => write!(f, "query {number}"),
        }
    }
}

impl Work {
    /// The job of a round.
    pub(crate) fn of(seed: u64) -> Self {
        match seed % 4 {
            0 => Work::WordCount,
            1 => Work::Query(3),
            2 => Work::Query(9),
            _ => Work::Query(18),
        }
    }

    /// How many jobs the cluster is given: whoever runs a query first counts the suppliers.
    pub(crate) fn jobs(self) -> usize {
        match self {
            Work::WordCount => 1,
            Work::Query(_) => 2,
        }
    }

    /// Whether a result is kept for the client.
    pub(crate) fn has_result(self) -> bool {
        matches!(self, Work::Query(_))
    }

    /// The client that runs the job below `root`.
    pub(crate) fn client(
        self,
        endpoint: &str,
        drivers: &str,
        root: &str,
        directory: &Path,
    ) -> Command {
        let output = format!("s3://{BUCKET}/{root}out");
        let (text, tables) = (
            format!("s3://{BUCKET}/text"),
            format!("s3://{BUCKET}/tables"),
        );
        let results = directory.display().to_string();
        match self {
            Work::WordCount => {
                let args = ["run", "wordcount", "--output", &output, &text];
                Store::command(endpoint, &[&args[..], &["--driver", drivers]].concat())
            }
            Work::Query(number) => {
                let number = number.to_string();
                let args = ["bench", "tpch", "--data", &tables, "--queries", &number];
                let more = ["--results", &results, "--driver", drivers];
                Store::command(endpoint, &[&args[..], &more].concat())
            }
        }
    }

    /// Compares the answer with the known one.
    pub(crate) fn check(self, store: &Store, root: &str, directory: &Path) {
        match self {
            Work::WordCount => check_words(store, root),
            Work::Query(number) => {
                let name = format!("q{number:02}.csv");
                let known = format!("{}/tests/tpch/sf{SCALE}/{name}", env!("CARGO_MANIFEST_DIR"));
                let read = |path: &Path| std::fs::read_to_string(path).expect("an answer");
                let found = read(&directory.join(&name));
                assert_eq!(found, read(Path::new(&known)), "{name}");
            }
        }
    }
}

/// The output is there once and whole: what the manifest names is what there is, and all words are
/// in it.
fn check_words(store: &Store, root: &str) {
    let place = format!("{root}out/");
    let manifest = store.server.read(BUCKET, &format!("{place}_manifest.json"));
    let manifest: Value = serde_json::from_slice(&manifest.expect("a manifest")).expect("JSON");
    assert_eq!(manifest["rows"], store.words.len(), "{manifest:#}");
    let files = manifest["files"].as_array().expect("files").iter();
    let mut named: Vec<String> = files
        .map(|file| file["name"].as_str().expect("a name").to_owned())
        .chain(["_SUCCESS", "_manifest.json"].map(str::to_owned))
        .collect();
    named.sort();
    assert_eq!(store.keys(&place), named, "{manifest:#}");
    let output = format!("s3://{BUCKET}/{root}out");
    let rows = store.ask(&["head", "--json", "-n", "1000000", &output]);
    let row = |line: &str| {
        let row: Value = serde_json::from_str(line).expect("a line is JSON");
        let word = row["word"].as_str().expect("a word").to_owned();
        (word, row["count"].as_u64().expect("a count"))
    };
    let found: Vec<(String, u64)> = rows.lines().map(row).collect();
    assert_eq!(found.len(), store.words.len(), "rows are missing or twice");
    let found: BTreeMap<_, _> = found.into_iter().collect();
    assert!(found == store.words, "counts are wrong");
}
