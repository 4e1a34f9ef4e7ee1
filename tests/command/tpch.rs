//! The benchmark at a small scale: its data, its 22 answers, embedded and on a cluster.
//!
//! The expected answers in `tests/tpch` were made by DuckDB, from the SQL of the specification over
//! the same files.

use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use serde_json::Value;

use crate::support::{Driver, Said, run, run_ok};

const SCALE: &str = "0.01";
const QUERIES: usize = 22;

/// The tables, which all tests of this file read. They stay until the next run.
fn data() -> &'static str {
    static DATA: OnceLock<String> = OnceLock::new();
    DATA.get_or_init(|| {
        let path = format!("{}/tpch", env!("CARGO_TARGET_TMPDIR"));
        if Path::new(&path).exists() {
            fs::remove_dir_all(&path).expect("what an earlier run left can be removed");
        }
        // Two files of each table, so that there is something to do for two tasks.
        let more = ["--parts", "2", "--output", &path];
        run_ok([&["generate", "tpch", "--scale", SCALE], &more[..]].concat());
        path
    })
}

fn expected() -> String {
    format!("{}/tests/tpch/sf{SCALE}", env!("CARGO_MANIFEST_DIR"))
}

/// Whether two cells agree: to the last digit, or to nine where a number is not exact.
fn agree(found: &str, expected: &str, is_exact: bool) -> bool {
    if is_exact || found == expected {
        return found == expected;
    }
    match (found.parse::<f64>(), expected.parse::<f64>()) {
        (Ok(found), Ok(expected)) => (found - expected).abs() <= 1e-9 * expected.abs(),
        _ => false,
    }
}

/// Complains about every answer in `results` that is not the expected one.
fn check_answers(results: &Path) {
    const INEXACT: [&str; 6] = [
        "avg_qty",
        "avg_price",
        "avg_disc",
        "mkt_share",
        "promo_revenue",
        "avg_yearly",
    ];
    let read = |path: &Path| -> Vec<Vec<String>> {
        let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
        let cells = |line: &str| line.split('|').map(str::to_owned).collect();
        text.lines().map(cells).collect()
    };
    let mut complaints = Vec::new();
    for query in 1..=QUERIES {
        let name = format!("q{query:02}.csv");
        let found = read(&results.join(&name));
        let expected = read(&Path::new(&expected()).join(&name));
        let exact: Vec<bool> = expected[0]
            .iter()
            .map(|column| !INEXACT.contains(&column.as_str()))
            .collect();
        let same_row = |(found, expected): (&Vec<String>, &Vec<String>)| {
            found.len() == expected.len()
                && (found.iter().zip(expected).zip(&exact))
                    .all(|((found, expected), exact)| agree(found, expected, *exact))
        };
        if found.len() != expected.len() {
            complaints.push(format!(
                "{name}: {} lines, not {}",
                found.len(),
                expected.len()
            ));
        } else if let Some(line) =
            (0..found.len()).find(|&line| !same_row((&found[line], &expected[line])))
        {
            complaints.push(format!(
                "{name}: {:?}, not {:?}",
                found[line], expected[line]
            ));
        }
    }
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

fn bench(args: &[&str]) -> Said {
    let mut all = vec!["bench", "tpch", "--data", data()];
    all.extend(args);
    run(all)
}

#[test]
fn all_answers_are_right_in_one_process() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let results = directory.path().join("results").display().to_string();
    let json = directory.path().join("run.json").display().to_string();
    let said = bench(&[
        "--threads",
        "2",
        "--runs",
        "2",
        "--results",
        &results,
        "--json",
        &json,
    ]);
    assert_eq!(said.code, Some(0), "{said:?}");
    check_answers(Path::new(&results));
    let figures: Value = serde_json::from_str(&fs::read_to_string(&json).expect("the figures"))
        .expect("the figures are JSON");
    let figures = figures.as_array().expect("an array");
    assert_eq!(figures.len(), QUERIES);
    for (query, figures) in (1..).zip(figures) {
        assert_eq!(figures["query"], query);
        assert_eq!(figures["runs_s"].as_array().expect("two runs").len(), 2);
        assert!(figures["median_s"].as_f64().expect("a time") > 0.0);
        assert!(
            figures["bytes_read"].as_u64().expect("bytes") > 0,
            "{figures}"
        );
        assert!(figures["peak_memory_bytes"].as_u64().expect("bytes") > 0);
    }
    // The same run as the one to compare with: the ratios are there, whatever they are.
    let again = bench(&["--queries", "6", "--compare", &json]);
    assert_eq!(again.code, Some(0), "{again:?}");
    assert!(again.stdout.contains("ratio"), "{again:?}");
}

#[test]
fn all_answers_are_right_on_a_cluster() {
    let driver = Driver::start(&[]);
    let _executors = [driver.executor(1), driver.executor(1)];
    let directory = tempfile::tempdir().expect("a temporary directory");
    let results = directory.path().join("results").display().to_string();
    let said = bench(&["--driver", &driver.url, "--results", &results]);
    assert_eq!(said.code, Some(0), "{said:?}");
    check_answers(Path::new(&results));
}

#[test]
fn a_query_is_explained_and_analyzed() {
    let explain = |more: &[&str]| {
        let said = run([&["explain", "tpch", "--data", data(), "--query", "3"], more].concat());
        assert_eq!((said.code, said.stderr.as_str()), (Some(0), ""), "{said:?}");
        said.stdout
    };
    let plan = explain(&[]);
    for part in ["# logical plan", "# optimised plan", "# stages", "join"] {
        assert!(plan.contains(part), "{part}: {plan}");
    }
    let analysis = explain(&["--analyze", "--threads", "2"]);
    // Each line that starts so, and the words that have to stand behind it.
    let expected: [(&str, &[&str]); 7] = [
        ("s0: ", &["task", " ms", " in", " out"]),
        ("  passed over: ", &[" of ", " rows"]),
        ("  joins held ", &["rows", "kB"]),
        ("  step ", &["rows", "batches", "time"]),
        ("  scan parquet ", &[" ms"]),
        ("  join inner ", &[" ms"]),
        ("took ", &[]),
    ];
    for (start, words) in expected {
        let has = |line: &str| {
            let rest = line.strip_prefix(start);
            rest.is_some_and(|rest| words.iter().all(|word| rest.contains(word)))
        };
        assert!(analysis.lines().any(has), "{start}{words:?}: {analysis}");
    }
}

#[test]
fn a_wrong_answer_is_told_and_fails() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    fs::write(directory.path().join("q06.csv"), "revenue\n1.0000\n").expect("an answer");
    let answers = directory.path().display().to_string();
    let said = bench(&["--queries", "6", "--answers", &answers]);
    assert_eq!(said.code, Some(1), "{said:?}");
    let complaint = "error: wrong answers: query 6: row 1 is \"1193053.2253\", not \"1.0000\"\n";
    assert_eq!(said.stderr, complaint);
    assert!(said.stdout.contains("WRONG"), "{said:?}");
}

#[test]
fn generated_data_is_the_same_every_time_and_never_half_there() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = |name: &str| directory.path().join(name).display().to_string();
    let generate = |output: &str, more: &[&str]| {
        let mut args = vec!["generate", "tpch", "--scale", "0.001", "--output", output];
        args.extend(more);
        run(args)
    };
    for (name, threads) in [("one", "1"), ("two", "4")] {
        let more = [
            "--tables",
            "orders,nation",
            "--parts",
            "3",
            "--threads",
            threads,
        ];
        let said = generate(&path(name), &more);
        assert_eq!(said.code, Some(0), "{said:?}");
    }
    let files = |name: &str| {
        let mut files = Vec::new();
        for table in ["nation", "orders"] {
            let entries = fs::read_dir(directory.path().join(name).join(table)).expect("a table");
            for entry in entries {
                let entry = entry.expect("a file");
                files.push((entry.file_name(), fs::read(entry.path()).expect("a file")));
            }
        }
        files.sort();
        files
    };
    assert_eq!(files("one").len(), 4);
    assert!(
        files("one") == files("two"),
        "two runs made different files"
    );
    let said = generate(&path("one"), &[]);
    assert_eq!(said.code, Some(2), "{said:?}");
    assert!(
        said.stderr.contains("the output directory is not empty"),
        "{said:?}"
    );
    let names = fs::read_dir(directory.path()).expect("a directory").count();
    assert_eq!(names, 2, "something unfinished was left behind");
}

#[test]
fn bad_arguments_are_bad_usage() {
    let cases: [(&[&str], &str); 13] = [
        (&["generate", "tpch", "--output", "x"], "--scale <S>"),
        (
            &["generate", "tpch", "--scale", "0", "--output", "x"],
            "not a number from 0.001",
        ),
        (
            &["generate", "tpch", "--scale", "NaN", "--output", "x"],
            "not a number from 0.001",
        ),
        (
            &[
                "generate",
                "tpch",
                "--scale",
                "1",
                "--output",
                "x",
                "--tables",
                "orders,lines",
            ],
            "the tables are customer, lineitem",
        ),
        (
            &[
                "generate", "tpch", "--scale", "1", "--output", "x", "--parts", "0",
            ],
            "0 is not in 1..=10000",
        ),
        (
            &[
                "generate",
                "tpch",
                "--scale",
                "1",
                "--output",
                "s3://bucket/x",
            ],
            "a local directory",
        ),
        (&["bench", "tpch"], "--data <DIR>"),
        (&["explain", "tpch", "--data", "x"], "--query <N>"),
        (
            &["explain", "tpch", "--data", "x", "--query", "23"],
            "not a number from 1 to 22",
        ),
        (
            &["explain", "tpch", "--data", "/nowhere", "--query", "1"],
            "/nowhere/lineitem",
        ),
        (
            &["bench", "tpch", "--data", "x", "--queries", "1,23"],
            "not a number from 1 to 22",
        ),
        (
            &["bench", "tpch", "--data", "/nowhere", "--queries", "1"],
            "/nowhere/supplier",
        ),
        (
            &["bench", "tpch", "--data", "x", "--compare", "/nowhere.json"],
            "cannot read file",
        ),
    ];
    for (args, complaint) in cases {
        let said = run(args);
        assert_eq!(said.code, Some(2), "{args:?}: {said:?}");
        assert!(said.stderr.contains(complaint), "{args:?}: {said:?}");
        assert_eq!(said.stdout, "", "{args:?}");
    }
}
