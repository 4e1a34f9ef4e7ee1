//! What becomes of an output that is there already: `--mode`.

use std::path::Path;

use expect_test::expect;

use crate::support::{run, run_ok, write};

/// Counts the words of `input` into `output`.
fn count<'a>(input: &'a str, output: &'a str, mode: &'a str) -> [&'a str; 9] {
    [
        "run",
        "wordcount",
        input,
        "--output",
        output,
        "--format",
        "csv",
        "--mode",
        mode,
    ]
}

/// What is in the files of an output, sorted.
fn rows(output: &str) -> Vec<String> {
    let mut rows = Vec::new();
    for name in names(output) {
        if name.starts_with("part-") {
            let text = std::fs::read_to_string(Path::new(output).join(name)).expect("a file");
            rows.extend(text.lines().skip(1).map(str::to_owned));
        }
    }
    rows.sort();
    rows
}

fn names(directory: &str) -> Vec<String> {
    let entries = std::fs::read_dir(directory).expect("a directory");
    let name = |entry: std::io::Result<std::fs::DirEntry>| {
        let name = entry.expect("an entry").file_name();
        name.into_string().expect("UTF-8")
    };
    let mut names: Vec<String> = entries.map(name).collect();
    names.sort();
    names
}

#[test]
fn an_output_is_added_to_and_replaced() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let a = write(directory.path(), "a.txt", b"one two two\n");
    let b = write(directory.path(), "b.txt", b"two three\n");
    let output = directory.path().join("out").display().to_string();
    // Where nothing is, every mode makes an output.
    run_ok(count(&a, &output, "append"));
    run_ok(count(&b, &output, "append"));
    assert_eq!(rows(&output), ["one,1", "three,1", "two,1", "two,2"]);
    let manifest = std::fs::read_to_string(Path::new(&output).join("_manifest.json"));
    let manifest: serde_json::Value =
        serde_json::from_str(&manifest.expect("a manifest")).expect("JSON");
    assert_eq!(manifest["rows"], 4);
    assert_eq!(manifest["appended"].as_array().map(Vec::len), Some(1));
    // What was written can be read at once, by Kiln as well.
    let read = run_ok(["run", "count", "--by", "word", &output, "--json"]);
    assert!(
        read.starts_with("{\"word\":\"two\",\"count\":2}\n"),
        "{read}"
    );

    run_ok(count(&b, &output, "overwrite"));
    assert_eq!(rows(&output), ["three,1", "two,1"]);
    assert_eq!(
        names(&directory.path().display().to_string()),
        ["a.txt", "b.txt", "out"]
    );

    let said = run(count(&a, &output, "error"));
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.stderr.contains("output already exists"), "{said:?}");
    assert_eq!(rows(&output), ["three,1", "two,1"]);
}

#[test]
fn a_job_may_replace_what_it_reads() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let a = write(directory.path(), "a.txt", b"one two two\n");
    let output = directory.path().join("out").display().to_string();
    run_ok(count(&a, &output, "overwrite"));
    let again = [
        "run",
        "count",
        "--by",
        "count",
        &output,
        "--output",
        &output,
        "--format",
        "csv",
        "--mode",
        "overwrite",
    ];
    run_ok(again);
    assert_eq!(rows(&output), ["1,1", "2,1"]);
}

#[test]
fn what_kiln_did_not_write_is_left_alone() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let a = write(directory.path(), "a.txt", b"one\n");
    let output = directory.path().join("out").display().to_string();
    std::fs::create_dir(&output).expect("a directory");
    write(Path::new(&output), "precious.txt", b"data");
    for mode in ["overwrite", "append"] {
        let said = run(count(&a, &output, mode));
        assert_eq!(said.code, Some(1), "{said:?}");
        let stderr = said.stderr.replace(&output, "OUT");
        expect![[r#"
            error: cannot write over the output: Kiln did not write it: there is no _manifest.json url=OUT
        "#]]
        .assert_eq(&stderr.replace("file://", ""));
        assert_eq!(names(&output), ["precious.txt"]);
    }
    let said = run(["run", "wordcount", &a, "--mode", "append"]);
    assert_eq!(said.code, Some(2), "{said:?}");
}
