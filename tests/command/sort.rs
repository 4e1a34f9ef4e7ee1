//! `kiln run sort`: what is said, what is written, and in which order the files are.

use std::fmt::Write;
use std::path::Path;

use expect_test::expect;
use fastrand::Rng;

use crate::support::{Driver, attempts, kiln, run, run_ok, write};

/// The lines of all files of a CSV output, in the order of their names, without headers; and how
/// many files there are.
fn lines_in_order(output: &Path) -> (Vec<String>, usize) {
    let entries = std::fs::read_dir(output).expect("an output");
    let names = entries.map(|entry| entry.expect("an entry").file_name());
    let mut names: Vec<_> = names
        .map(|name| name.into_string().expect("UTF-8"))
        .filter(|name| name.starts_with("part-"))
        .collect();
    names.sort();
    let mut lines = Vec::new();
    for name in &names {
        let text = std::fs::read_to_string(output.join(name)).expect("a file");
        let header = usize::from(name.ends_with(".csv"));
        lines.extend(text.lines().skip(header).map(str::to_owned));
    }
    (lines, names.len())
}

/// Lines of about a hundred bytes, a tenth of them twice or more.
fn make_lines(random: &mut Rng, bytes: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::with_capacity(bytes / 90);
    let mut made = 0;
    while made < bytes {
        let line = match random.u8(..10) {
            0 if !lines.is_empty() => lines[random.usize(..lines.len())].clone(),
            _ => {
                let length = random.usize(5..20);
                let key: String = (0..length).map(|_| random.alphanumeric()).collect();
                format!("{key} {}", "payload ".repeat(10))
            }
        };
        made += line.len() + 1;
        lines.push(line);
    }
    lines
}

#[test]
fn tables_come_in_order() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let rows = "city,people\nUlm,126\nBern,134\nKöln,\nGraz,292\nBonn,134\n";
    let input = write(directory.path(), "cities.csv", rows.as_bytes());
    expect![[r#"
        {"city":"Graz","people":292}
        {"city":"Bern","people":134}
        {"city":"Bonn","people":134}
        {"city":"Ulm","people":126}
        {"city":"Köln"}
    "#]]
    .assert_eq(&run_ok([
        "run",
        "sort",
        "--by",
        "people:desc,city",
        &input,
        "--json",
    ]));
    expect![[r#"
        {"city":"Köln"}
        {"city":"Ulm","people":126}
        {"city":"Bonn","people":134}
    "#]]
    .assert_eq(&run_ok([
        "run",
        "sort",
        "--by",
        "people:nulls-first,city:desc",
        "--top",
        "3",
        &input,
        "--json",
    ]));
    let said = run(["run", "sort", "--by", "peple", &input]);
    assert_eq!(said.code, Some(2), "{said:?}");
    assert!(said.stderr.contains("did you mean \"people\"?"), "{said:?}");
}

#[test]
fn the_order_of_files_is_that_of_their_names() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut lines = make_lines(&mut Rng::with_seed(7), 40 << 20);
    let (left, right) = lines.split_at(lines.len() / 3);
    let left = write(directory.path(), "left.txt", left.join("\n").as_bytes());
    let right = write(directory.path(), "right.txt", right.join("\n").as_bytes());
    let output = directory.path().join("sorted");
    let sort = ["run", "sort", "--by", "line:desc", &left, &right];
    let mut sort = kiln(sort);
    sort.args(["--threads", "2", "--format", "csv", "--output"]);
    let said = sort.arg(&output).output().expect("the command starts");
    assert!(said.status.success(), "{said:?}");
    let (found, files) = lines_in_order(&output);
    lines.sort_unstable_by(|a, b| b.cmp(a));
    assert!(found == lines, "rows are lost, changed or in another order");
    assert!(files > 1, "several threads write");
}

#[test]
fn a_cluster_sorts_too() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut lines = make_lines(&mut Rng::with_seed(8), 20 << 20);
    let names = ["a.txt", "b.txt", "c.txt"];
    let parts = lines.chunks(lines.len().div_ceil(names.len()));
    let inputs: Vec<String> = std::iter::zip(names, parts)
        .map(|(name, part)| write(directory.path(), name, part.join("\n").as_bytes()))
        .collect();
    let storage = directory.path().join("storage");
    let driver = Driver::start(&["--storage", &storage.display().to_string()]);
    let _executors = [driver.executor(1), driver.executor(2)];
    driver.wait_for_executors(2);
    let output = directory.path().join("sorted");
    let mut sort = kiln(["run", "sort", "--by", "line", "--driver", &driver.url]);
    sort.args(&inputs);
    sort.args(["--format", "text", "--output"]).arg(&output);
    let said = sort.output().expect("the command starts");
    assert!(said.status.success(), "{said:?}");
    lines.sort_unstable();
    let (found, _) = lines_in_order(&output);
    assert!(found == lines, "rows are lost, changed or in another order");
}

/// Rows of a table of which three in five have one key, some none, and the place of each in the
/// input.
fn make_rows(random: &mut Rng, count: usize) -> Vec<(Option<String>, Option<u8>, usize)> {
    let row = |place| match random.u8(..20) {
        0..12 => (Some("heavy".to_owned()), Some(3), place),
        12 => (None, Some(random.u8(..3)), place),
        13 => (Some("rare".to_owned()), None, place),
        _ => {
            let key: String = (0..9).map(|_| random.alphanumeric()).collect();
            (Some(key), random.bool().then(|| random.u8(..9)), place)
        }
    };
    (0..count).map(row).collect()
}

#[test]
fn a_cluster_sorts_in_ranges_whatever_the_keys_are() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut random = Rng::with_seed(10);
    let mut rows = make_rows(&mut random, 320_000);
    let mut inputs = Vec::new();
    for (number, rows) in rows.chunks(80_000).enumerate() {
        let mut text = "k,n,place,more\n".to_owned();
        for (key, n, place) in rows {
            let key = key.as_deref().unwrap_or_default();
            let n = n.map_or(String::new(), |n| n.to_string());
            let more: String = (0..100).map(|_| random.alphanumeric()).collect();
            writeln!(text, "{key},{n},{place},{more}").expect("a string can be written to");
        }
        let name = format!("{number}.csv");
        inputs.push(write(directory.path(), &name, text.as_bytes()));
    }
    let storage = directory.path().join("storage");
    let driver = Driver::start(&["--storage", &storage.display().to_string()]);
    let _executors = [driver.executor(2), driver.executor(2)];
    driver.wait_for_executors(2);
    let output = directory.path().join("sorted");
    let by = "k:desc:nulls-first,n:nulls-last";
    let mut sort = kiln(["run", "sort", "--by", by, "--driver", &driver.url]);
    sort.args(&inputs);
    sort.args(["--format", "csv", "--output"]).arg(&output);
    let said = sort.output().expect("the command starts");
    assert!(said.status.success(), "{said:?}");

    // Both sorts are stable.
    rows.sort_by(|(key, n, _), (other_key, other_n, _)| {
        let keys = (key.is_some(), other_key).cmp(&(other_key.is_some(), key));
        keys.then_with(|| (n.is_none(), n).cmp(&(other_n.is_none(), other_n)))
    });
    let places = rows.iter().map(|(_, _, place)| place.to_string());
    let (lines, _) = lines_in_order(&output);
    let found = lines
        .iter()
        .map(|line| line.split(',').nth(2).unwrap_or(""));
    assert!(found.eq(places), "rows are lost, or in another order");

    let jobs = run_ok(["jobs", "--json", "--driver", &driver.url]);
    let jobs: serde_json::Value = serde_json::from_str(&jobs).expect("JSON");
    let id = jobs[0]["id"].as_str().expect("an id");
    let winners = attempts(&driver.job_json(id)).into_iter();
    let winners = winners.filter(|(stage, attempt)| *stage == 1 && attempt["state"] == "won");
    let written: Vec<u64> = winners
        .map(|(_, attempt)| attempt["counts"]["rows_out"].as_u64().expect("a count"))
        .collect();
    assert!(written.len() > 2, "ranges: {written:?}");
    assert_eq!(written.iter().sum::<u64>(), 320_000);
    // A fourth of the rows of the heavy key are of one task.
    assert!(
        written.iter().all(|&rows| rows < 160_000),
        "ranges: {written:?}"
    );
}

#[test]
fn what_does_not_fit_into_memory_is_sorted_on_disk() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut lines = make_lines(&mut Rng::with_seed(9), 100 << 20);
    let parts = lines.chunks(lines.len().div_ceil(4));
    let inputs: Vec<String> = (0..)
        .zip(parts)
        .map(|(n, part)| {
            let name = format!("{n}.txt");
            write(directory.path(), &name, part.join("\n").as_bytes())
        })
        .collect();
    let output = directory.path().join("sorted");
    let mut sort = kiln(["explain", "--analyze", "sort", "--by", "line"]);
    sort.args(&inputs);
    sort.args(["--memory", "64MiB", "--threads", "2", "--format", "csv"]);
    let said = sort.arg("--output").arg(&output).output();
    let said = said.expect("the command starts");
    assert!(said.status.success(), "{said:?}");
    let told = String::from_utf8_lossy(&said.stdout);
    assert!(told.contains("went to disk"), "{told}");
    lines.sort_unstable();
    let (found, files) = lines_in_order(&output);
    assert!(found == lines, "rows are lost, changed or in another order");
    assert!(files > 1, "several threads write");
}
