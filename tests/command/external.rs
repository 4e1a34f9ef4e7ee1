//! `kiln run external`: commands as mapper, combiner and reducer.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};

use expect_test::{Expect, expect};

use crate::support::{Driver, Guard, kiln, make_text, run, run_ok, signal, wait_for, write};

const SPLIT: &str = r#"awk '{ for (i = 1; i <= NF; i++) print $i "\t1" }'"#;

const ADD: &str = r#"awk -F '\t' '
    NR > 1 && $1 "" != key "" { print key "\t" sum; sum = 0 }
    { key = $1; sum += $2 }
    END { print key "\t" sum }'"#;

/// The first rows of what commands make of `input`, as they are printed.
fn told(input: &str, map: &str, reduce: &str) -> String {
    let args = ["run", "external", "--map", map, "--reduce", reduce, input];
    run_ok(args)
}

/// Why a job of these commands fails, without what differs from run to run.
fn refused(directory: &Path, args: &[&str]) -> String {
    let input = write(directory, "in.txt", b"one\ntwo\nthree\n");
    let mut command = kiln(["run", "external"]);
    command.args(args).arg(&input).env("LC_ALL", "C");
    let said = command.output().expect("the command starts");
    let stderr = String::from_utf8_lossy(&said.stderr);
    assert_eq!(said.status.code(), Some(1), "{stderr}");
    let stderr = stderr.replace(&directory.display().to_string(), "DIR");
    let task = stderr.find("task ").map_or(0, |at| at + "task ".len());
    let (before, job) = stderr.split_at(task);
    let job = job.split_once('/').map_or(job, |(_, rest)| rest);
    format!("{before}JOB/{job}")
}

fn counts(lines: &str, key: &str, value: &str) -> BTreeMap<String, String> {
    let parse = |line: &str| {
        let row: serde_json::Value = serde_json::from_str(line).expect("a line is JSON");
        let key = row[key].as_str().expect("a word is a text").to_owned();
        let value = match &row[value] {
            serde_json::Value::String(text) => text.clone(),
            number => number.to_string(),
        };
        (key, value)
    };
    lines.lines().map(parse).collect()
}

#[test]
fn words_counted_by_awk_are_those_that_kiln_counts() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut random = fastrand::Rng::with_seed(7);
    // What else is white space to Kiln is part of a word to awk.
    let text = String::from_utf8(make_text(&mut random, 3 << 20)).expect("text is UTF-8");
    let text = text.replace(['\u{3000}', '\u{a0}'], " ");
    for part in 0..3 {
        let part = format!("{part}.txt");
        write(directory.path(), &part, text.as_bytes());
    }
    let input = directory.path().display().to_string();
    let all = ["--json", "--threads", "2", "--top", "1000000"];
    let wordcount = run_ok([&["run", "wordcount", &input], &all[..]].concat());
    let expected = counts(&wordcount, "word", "count");
    assert!(expected.len() > 1000, "words={}", expected.len());
    let commands = ["--map", SPLIT, "--reduce", ADD];
    for combine in [&[][..], &["--combine", ADD]] {
        let job = [&["run", "external", &input], &commands[..], combine, &all].concat();
        let found = counts(&run_ok(job), "key", "value");
        let differs = expected
            .iter()
            .find(|(word, count)| found.get(*word) != Some(*count));
        assert_eq!(differs, None, "combine={combine:?}");
        assert_eq!(found.len(), expected.len(), "combine={combine:?}");
    }
}

#[test]
fn commands_run_on_a_cluster_that_takes_programs() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut random = fastrand::Rng::with_seed(8);
    let text = String::from_utf8(make_text(&mut random, 5 << 20)).expect("text is UTF-8");
    let text = text.replace(['\u{3000}', '\u{a0}'], " ");
    for part in 0..4 {
        write(directory.path(), &format!("{part}.txt"), text.as_bytes());
    }
    let input = directory.path().display().to_string();
    let expected = run_ok(["run", "wordcount", &input, "--json", "--top", "1000000"]);
    let expected = counts(&expected, "word", "count");
    let commands = ["--map", SPLIT, "--combine", ADD, "--reduce", ADD];
    let job = |driver: &Driver| {
        let job = ["run", "external", &input, "--json", "--top", "1000000"];
        run([&job, &commands[..], &["--driver", &driver.url]].concat())
    };
    let open = Driver::start(&["--allow-programs"]);
    let _executors = (open.executor(1), open.executor(1));
    let said = job(&open);
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    let found = counts(&said.stdout, "key", "value");
    let differs = expected
        .iter()
        .find(|(word, count)| found.get(*word) != Some(*count));
    assert_eq!(differs, None);
    assert_eq!(found.len(), expected.len());

    let closed = Driver::start(&[]);
    let said = job(&closed);
    assert_eq!(said.code, Some(1));
    expect![[r#"
        error: this driver takes no programs: code of users runs on a cluster only if its driver was started with --allow-programs
    "#]].assert_eq(&said.stderr);
}

#[test]
fn what_commands_print_becomes_files() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let input = write(directory.path(), "in.txt", b"b 1\na 2\nb 3\n");
    let output = directory.path().join("out").display().to_string();
    run_ok([
        "run",
        "external",
        "--map",
        "tr ' ' '\\t'",
        "--reduce",
        ADD,
        &input,
        "--output",
        &output,
        "--format",
        "csv",
    ]);
    let shown = run_ok(["head", &format!("{output}/*.csv")]);
    let mut rows: Vec<&str> = shown.lines().skip(2).collect();
    rows.sort_unstable();
    assert_eq!(rows, ["a        2", "b        4"]);
}

#[test]
fn commands_may_read_and_print_as_they_like() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let input = write(directory.path(), "in.txt", b"one\ntwo\tII\nthree\n\n");
    let lines: String = (0..200_000).map(|line| format!("line {line}\n")).collect();
    let many = write(directory.path(), "many.txt", lines.as_bytes());
    let mut texts = String::new();
    for (input, map, reduce) in [
        (&input, "cat", "cat"),
        // Reads nothing, though there is more than a pipe holds.
        (&many, "exit 0", "cat"),
        (&many, "echo unasked", "cat"),
        (&many, "head -n 1 | cut -c 1-4", "cat"),
        (&many, "wc -l | tr -d ' '", "cat"),
        (&input, "cat", "head -n 0"),
        (&input, "printf 'no end'", "cat"),
        (&input, "printf 'a\\tb\\tc\\n'", "cut -f 1,3"),
        // Prints before it reads, and far more than a pipe holds.
        (&input, "seq 300000; cat >&2", "wc -l | tr -d ' '"),
        (&input, "head -c 5000000 /dev/zero >&2; cat", "wc -l"),
        // Closes stdout long before it ends, and leaves somebody behind.
        (&input, "exec >&-; cat; exit 0", "cat"),
        (&input, "echo kept; sleep 1000 >&- &", "cat"),
    ] {
        let threads = "--threads=1";
        let args = [
            "run", "external", threads, "--map", map, "--reduce", reduce, input,
        ];
        texts += &format!("{map} | {reduce}\n{}", run_ok(args));
    }
    expect![[r#"
        cat | cat
        key    value
        ────────────

        one
        three
        two    II
        exit 0 | cat
        key  value
        ──────────
        echo unasked | cat
        key      value
        ──────────────
        unasked
        head -n 1 | cut -c 1-4 | cat
        key   value
        ───────────
        line
        wc -l | tr -d ' ' | cat
        key     value
        ─────────────
        200000
        cat | head -n 0
        key  value
        ──────────
        printf 'no end' | cat
        key     value
        ─────────────
        no end
        printf 'a\tb\tc\n' | cut -f 1,3
        key  value
        ──────────
        a    c
        seq 300000; cat >&2 | wc -l | tr -d ' '
        key    value
        ────────────
        18386
        18527
        18660
        18697
        18723
        18736
        18736
        18758
        18770
        18781
        18786
        18822
        18843
        18872
        18892
        19011
        head -c 5000000 /dev/zero >&2; cat | wc -l
        key  value
        ──────────
        1
        1
        2
        exec >&-; cat; exit 0 | cat
        key  value
        ──────────
        echo kept; sleep 1000 >&- & | cat
        key   value
        ───────────
        kept
    "#]]
    .assert_eq(&texts);
}

#[test]
fn a_very_long_line_passes() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut line = vec![b'x'; 50 << 20];
    line.push(b'\n');
    let input = write(directory.path(), "long.txt", &line);
    expect![[r#"
        key       value
        ───────────────
        52428802
    "#]]
    .assert_eq(&told(&input, "cat", "wc -c"));
}

#[test]
fn commands_that_fail_are_named_with_what_they_said() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut texts = String::new();
    for (map, reduce) in [
        ("exit 3", "cat"),
        ("echo first >&2; echo last >&2; cat; false", "cat"),
        ("kill -9 $$", "cat"),
        ("cat | sh -c 'kill -TERM $$'", "cat"),
        ("nosuchcommand --option", "cat"),
        ("echo 'not closed", "cat"),
        (r"printf 'fine\nb\303d \377\n'", "cat"),
        ("cat /dev/zero", "cat"),
        ("cat", "echo cannot add up >&2; exit 1"),
        ("cat; seq 100 >&2; exit 255", "cat"),
    ] {
        texts += &refused(directory.path(), &["--map", map, "--reduce", reduce]);
    }
    let args = ["--map", "cat", "--combine", "exit 9", "--reduce", "cat"];
    texts += &refused(directory.path(), &args);
    expect![[r#"
        error: task JOB/s0/t0 failed 4 times: function "kiln.external.map" failed on DIR/in.txt: the command failed: exit status: 3 command="exit 3"
        error: task JOB/s0/t0 failed 4 times: function "kiln.external.map" failed on DIR/in.txt: the command failed: exit status: 1 stderr="first\nlast" command="echo first >&2; echo last >&2; cat; false"
        error: task JOB/s0/t0 failed 4 times: function "kiln.external.map" failed on DIR/in.txt: the command failed: signal: 9 (SIGKILL) command="kill -9 $$"
        error: task JOB/s0/t0 failed 4 times: function "kiln.external.map" failed on DIR/in.txt: the command failed: exit status: 143 stderr="Terminated" command="cat | sh -c 'kill -TERM $$'"
        error: task JOB/s0/t0 failed 4 times: function "kiln.external.map" failed on DIR/in.txt: the command failed: exit status: 127 stderr="sh: 1: nosuchcommand: not found" command="nosuchcommand --option"
        error: task JOB/s0/t0 failed 4 times: function "kiln.external.map" failed on DIR/in.txt: the command failed: exit status: 2 stderr="sh: 1: Syntax error: Unterminated quoted string" command="echo 'not closed"
        error: task JOB/s0/t0 failed 4 times: function "kiln.external.map" failed on DIR/in.txt: the command printed a line that is not UTF-8 line="b�d �" command="printf 'fine\\nb\\303d \\377\\n'"
        error: task JOB/s0/t0 failed 4 times: function "kiln.external.map" failed on DIR/in.txt: the command printed too long a line limit=67108864 command="cat /dev/zero"
        error: task JOB/s0/t0 failed 4 times: function "kiln.external.reduce" failed on DIR/in.txt: the command failed: exit status: 1 stderr="cannot add up" command="echo cannot add up >&2; exit 1"
        error: task JOB/s0/t0 failed 4 times: function "kiln.external.map" failed on DIR/in.txt: the command failed: exit status: 255 stderr="96\n97\n98\n99\n100" command="cat; seq 100 >&2; exit 255"
        error: task JOB/s0/t0 failed 4 times: function "kiln.external.combine" failed on DIR/in.txt: the command failed: exit status: 9 command="exit 9"
    "#]].assert_eq(&texts);
}

#[test]
fn no_command_outlives_its_job() {
    for (name, code) in [("INT", Some(130)), ("KILL", None)] {
        check_left_behind(name, code);
    }
}

/// Sends a signal to a client whose mapper waits for nothing.
fn check_left_behind(name: &str, code: Option<i32>) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let input = write(directory.path(), "in.txt", b"one\n");
    // Commands that read nothing and print nothing do not notice by themselves.
    let marks = directory.path().join("pids").display().to_string();
    let map = format!("echo $$ >> {marks}; sleep 1000 | sleep 1000");
    let mut command = kiln(["run", "external", "--map", &map, "--reduce", "cat", &input]);
    command.stderr(Stdio::null());
    let mut client = Guard::start(command);
    let group = wait_for("the mapper to start", || {
        let pids = std::fs::read_to_string(&marks).ok()?;
        pids.strip_suffix('\n').map(str::to_owned)
    });
    signal(client.pid(), name);
    assert_eq!(client.ended(), code);
    // Whoever was killed is gone when its new parent has looked at it.
    wait_for("the mapper and its children to end", || {
        let group = format!("-{group}");
        let mut is_alive = Command::new("kill");
        is_alive.args(["-0", "--", &group]).stderr(Stdio::null());
        let alive = is_alive.status().expect("kill starts").success();
        (!alive).then_some(())
    });
}

fn check_said(args: &[&str], code: i32, expected: &Expect) {
    let said = run(args);
    assert_eq!(said.code, Some(code), "{said:?}");
    expected.assert_eq(&format!("{}{}", said.stdout, said.stderr));
}

#[test]
fn commands_are_part_of_a_plan() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let input = write(directory.path(), "in.txt", b"one\n");
    let args = [
        "explain",
        "external",
        "--map",
        "m",
        "--combine",
        "c",
        "--reduce",
        "r",
        &input,
    ];
    let text = run_ok(args).replace(&directory.path().display().to_string(), "/DIR");
    expect![[r##"
        # logical plan
        limit 20
          sort by key, value
            reduce by key: kiln.external.reduce[{"command":"r"}]
              combine by key: kiln.external.combine[{"command":"c"}]
                apply kiln.external.map[{"command":"m"}]
                  project line
                    scan text lines [path, offset, line] from file:///DIR/in.txt

        # optimised plan
        top 20 by key, value
          reduce by key: kiln.external.reduce[{"command":"r"}]
            combine by key: kiln.external.combine[{"command":"c"}]
              apply kiln.external.map[{"command":"m"}]
                scan text lines [line] from file:///DIR/in.txt

        # stages
        stage 0: 1 task, 4 B of 1 file
          scan text lines [line]
          apply kiln.external.map[{"command":"m"}]
          combine by key: kiln.external.combine[{"command":"c"}]
          reduce by key: kiln.external.reduce[{"command":"r"}]
          top 20 by key, value
          shuffle single
    "##]]
    .assert_eq(&text);
    let args = ["run", "external", "--map", "cat", &input];
    check_said(
        &args,
        2,
        &expect![[r#"
        error: the following required arguments were not provided:
          --reduce <CMD>

        Usage: kiln run external --map <CMD> --reduce <CMD> <INPUT>...

        For more information, try '--help'.
    "#]],
    );
}
