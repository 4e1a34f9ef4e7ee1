//! A program of a user's, in its own process and on a cluster of stock executors.

use std::collections::HashMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use expect_test::expect;
use kiln_testkit::cargo;

use crate::support::{
    Driver, Guard, Said, count_plainly, kiln, make_text, run, run_ok, signal, wait_for, write,
};

/// The binary of `tests/program/test_program.rs`.
fn program() -> PathBuf {
    cargo::example("test_program")
}

/// The program, away from the settings of whoever runs the tests.
fn start(args: &[&str]) -> Command {
    let mut command = Command::new(program());
    command.args(args).stdin(Stdio::null());
    for name in ["KILN_DRIVER", "RUST_LOG", "COLUMNS"] {
        command.env_remove(name);
    }
    command
}

fn said(command: &mut Command) -> Said {
    command.output().expect("the program starts").into()
}

fn submit(driver: &Driver, args: &[&str]) -> Command {
    let mut command = kiln(["submit", "--driver", &driver.url]);
    command.arg(program()).args(args);
    command
}

/// A cluster that takes programs, with executors of one thread.
fn cluster(executors: usize) -> (Driver, Vec<Guard>) {
    let driver = Driver::start(&["--allow-programs"]);
    let executors = (0..executors).map(|_| driver.executor(1)).collect();
    (driver, executors)
}

/// The lines of the files in `directory`, in order, without the header of each.
fn lines_of(directory: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    for entry in std::fs::read_dir(directory).expect("it was written") {
        let path = entry.expect("an entry").path();
        if path.extension().is_some_and(|extension| extension == "csv") {
            let text = std::fs::read_to_string(path).expect("a text file");
            lines.extend(text.lines().skip(1).map(str::to_owned));
        }
    }
    lines.sort();
    lines
}

fn counted(text: &[u8]) -> Vec<String> {
    let counts: HashMap<String, u64> = count_plainly([text]);
    let lines = counts.iter().map(|(word, count)| format!("{word},{count}"));
    let mut lines: Vec<_> = lines.collect();
    lines.sort();
    lines
}

/// `text` without what differs from one run to the next.
fn plain(text: &str, directory: &Path, driver: Option<&Driver>) -> String {
    let mut text = text.replace(&directory.display().to_string(), "DIRECTORY");
    if let Some(driver) = driver {
        text = text.replace(&driver.url, "DRIVER");
    }
    text = text.replace("transport error: tcp connect error: ", "");
    let words = text.split(' ').map(|word| match word.split_once("/s0/") {
        Some((job, task)) if job.len() == 12 => format!("JOB/s0/{task}"),
        _ => word.to_owned(),
    });
    words.collect::<Vec<_>>().join(" ")
}

#[test]
fn a_program_does_the_same_in_its_process_and_on_a_cluster() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let text = make_text(&mut fastrand::Rng::with_seed(11), 3 << 20);
    let input = write(directory.path(), "text.txt", &text);
    let expected = counted(&text);
    let output = |name: &str| directory.path().join(name);
    let written = |name: &str| output(name).display().to_string();

    let here = said(&mut start(&["words", &input, "--output", &written("here")]));
    assert_eq!(here.code, Some(0), "{here:?}");
    assert!(lines_of(&output("here")) == expected, "the counts differ");

    let (driver, _executors) = cluster(2);
    let there = ["words", &input, "--output", &written("there")];
    let there = said(start(&there).args(["--driver", &driver.url]));
    assert_eq!(there.code, Some(0), "{there:?}");
    assert!(lines_of(&output("there")) == expected, "the counts differ");

    let args = [
        "--wait",
        "--",
        "words",
        &input,
        "--output",
        &written("submitted"),
    ];
    let submitted = said(&mut submit(&driver, &args));
    assert_eq!(submitted.code, Some(0), "{submitted:?}");
    assert!(
        lines_of(&output("submitted")) == expected,
        "the counts differ"
    );
}

#[test]
fn submit_prints_the_job_and_leaves() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let input = write(directory.path(), "text.txt", b"a rose is a rose");
    let (driver, _executors) = cluster(1);
    let left = said(&mut submit(&driver, &["--", "words", &input]));
    assert_eq!(left.code, Some(0), "{left:?}");
    let answer = run_ok([
        "wait",
        left.stdout.trim(),
        "--json",
        "--driver",
        &driver.url,
    ]);
    expect![[r#"
        {"word":"a","count":2}
        {"word":"rose","count":2}
        {"word":"is","count":1}
    "#]]
    .assert_eq(&answer);
}

#[test]
fn what_cannot_be_submitted_is_told_why() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let input = write(directory.path(), "text.txt", b"a rose is a rose");
    let path = |name: &str| directory.path().join(name).display().to_string();
    let no_program = write(directory.path(), "notes.txt", b"buy milk\n");
    let closed = Driver::start(&[]);
    let (open, _executors) = cluster(1);

    let mut told = String::new();
    let mut tell = |driver: Option<&Driver>, said: Said| {
        let Said {
            code,
            stdout,
            stderr,
        } = said;
        let text = plain(
            &format!("{code:?} {stdout}{stderr}\n"),
            directory.path(),
            driver,
        );
        told += &text;
    };
    tell(
        Some(&closed),
        said(&mut submit(&closed, &["--", "words", &input])),
    );
    tell(
        Some(&closed),
        said(&mut submit(&closed, &["--wait", "--", "words", &input])),
    );
    tell(None, run(["submit", "./no/such/program"]));
    tell(None, run(["submit", "wordcuont", "text.txt"]));
    tell(
        None,
        said(kiln(["submit"]).arg(program()).args(["--", "words"])),
    );
    let submitted = |path: &str| run(["submit", "--driver", &open.url, path]);
    tell(Some(&open), submitted(&path(".")));
    tell(Some(&open), submitted(&no_program));
    tell(Some(&open), submitted("/bin/false"));
    tell(Some(&open), said(&mut submit(&open, &["--", "nothing"])));
    tell(
        Some(&open),
        said(&mut submit(&open, &["--wait", "--", "nothing"])),
    );
    tell(
        Some(&open),
        said(&mut submit(
            &open,
            &["--wait", "--", "words", &path("none")],
        )),
    );
    tell(
        Some(&open),
        said(&mut submit(&open, &["--wait", "--", "refuse", &input])),
    );
    tell(
        Some(&open),
        said(&mut submit(&open, &["--weight", "--", "words"])),
    );
    let threads = ["words", &input, "--threads", "2", "--driver", &open.url];
    tell(Some(&open), said(&mut start(&threads)));
    tell(
        None,
        said(&mut start(&[
            "words",
            &input,
            "--driver",
            "http://127.0.0.1:1",
        ])),
    );
    expect![[r#"
        Some(1) error: this driver takes no programs: code of users runs on a cluster only if its driver was started with --allow-programs
        error: the program has ended without submitting a job exit_code=1

        Some(1) error: this driver takes no programs: code of users runs on a cluster only if its driver was started with --allow-programs

        Some(2) error: no such program path=./no/such/program: No such file or directory (os error 2)

        Some(2) error: no such job, see kiln submit --help for what there is job="wordcuont"

        Some(2) error: no cluster to submit to: give --driver URL or set KILN_DRIVER

        Some(2) error: not a program path=DIRECTORY/.

        Some(1) error: cannot run the program path=DIRECTORY/notes.txt: Permission denied (os error 13)

        Some(1) error: the program has ended without submitting a job exit_code=1

        Some(1) nothing is done job=nothing
        error: the program has ended without submitting a job exit_code=0

        Some(0) nothing is done job=nothing

        Some(1) error: cannot read file://DIRECTORY/none: no such file or directory

        Some(1) error: task JOB/s0/t0 failed 4 times: function "refuse" failed on file://DIRECTORY/text.txt: I do not like "a rose is a rose"

        Some(2) error: a value is required for '--weight <N>' but none was supplied

        Some(2) error: --threads and --memory are for runs in this process; executors have their own

        Usage: test_program [OPTIONS] <JOB> [INPUTS]...

        For more information, try '--help'.

        Some(3) error: cannot reach driver url=http://127.0.0.1:1: Connection refused (os error 111)

    "#]].assert_eq(&told);
}

/// The worker processes of an executor: its children.
fn workers(executor: &Guard) -> Vec<u32> {
    let mut children = Vec::new();
    let tasks = format!("/proc/{}/task", executor.pid());
    for task in std::fs::read_dir(tasks).into_iter().flatten().flatten() {
        let listed = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
        children.extend(
            listed
                .split_whitespace()
                .map(|pid| pid.parse::<u32>().expect("a process id")),
        );
    }
    children
}

/// A worker of the executor that waits at the gate.
fn waits_at(gate: &Path, executor: &Guard) -> u32 {
    wait_for("a worker to wait at the gate", || {
        let waiting = std::fs::read_to_string(gate.with_extension("waiting")).unwrap_or_default();
        let waits = |worker: &u32| waiting.lines().any(|line| line == worker.to_string());
        workers(executor).into_iter().find(waits)
    })
}

#[test]
fn a_worker_and_an_executor_may_be_killed() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let gate = directory.path().join("gate");
    let text = make_text(&mut fastrand::Rng::with_seed(12), 60 << 20);
    let mut gated = Vec::with_capacity(text.len());
    // Every task comes to one of the gates.
    for part in text.split_inclusive(|byte| *byte == b'\n') {
        if gated.len() % (1 << 20) < part.len() {
            writeln!(gated, "@gate {}", gate.display()).expect("a vector can be written to");
        }
        gated.extend_from_slice(part);
    }
    let input = write(directory.path(), "text.txt", &gated);
    let output = directory.path().join("counts");
    let (driver, executors) = cluster(2);
    let written = output.display().to_string();
    let left = said(&mut submit(
        &driver,
        &["--", "count", &input, "--output", &written],
    ));
    assert_eq!(left.code, Some(0), "{left:?}");
    let worker = waits_at(&gate, &executors[0]);
    signal(worker, "KILL");
    wait_for("another worker", || {
        workers(&executors[0])
            .into_iter()
            .find(|pid| *pid != worker)
    });
    waits_at(&gate, &executors[1]);
    signal(executors[1].pid(), "KILL");
    let job = left.stdout.trim();
    // As long as the gate is closed nothing wins, so what is killed is not cancelled instead.
    for state in ["failed", "lost"] {
        wait_for(state, || {
            let attempts = crate::support::attempts(&driver.job_json(job));
            let mut states = attempts.iter().map(|(_, attempt)| &attempt["state"]);
            states.any(|found| found == state).then_some(())
        });
    }
    std::fs::write(&gate, "").expect("room for a file");
    let waited = run(["wait", job, "--driver", &driver.url]);
    assert_eq!(waited.code, Some(0), "{waited:?}");
    assert!(lines_of(&output) == counted(&text), "the counts differ");
    // Nobody is left behind by the executor that was killed, and the job's end ends the others.
    wait_for("workers to end", || {
        workers(&executors[0]).is_empty().then_some(())
    });
}

#[test]
fn ctrl_c_stops_the_job_of_a_program() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let input = write(
        directory.path(),
        "naps.txt",
        "100\n".repeat(5_000).as_bytes(),
    );
    let (driver, executors) = cluster(1);
    for place in [None, Some(&driver)] {
        let mut command = start(&["nap", &input]);
        if let Some(driver) = place {
            command.args(["--driver", &driver.url]);
        }
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let mut program = Guard::start(command);
        match place {
            // A worker of the executor naps.
            Some(_) => drop(wait_for("a worker", || {
                workers(&executors[0]).first().copied()
            })),
            // Nothing tells from outside that it naps.
            None => std::thread::sleep(std::time::Duration::from_millis(500)),
        }
        signal(program.pid(), "INT");
        assert_eq!(program.ended(), Some(130));
    }
    let jobs = run_ok(["jobs", "--json", "--driver", &driver.url]);
    let jobs: serde_json::Value = serde_json::from_str(&jobs).expect("a list");
    assert_eq!(jobs[0]["state"], "cancelled", "{jobs:#}");
    wait_for("the worker to end", || {
        workers(&executors[0]).is_empty().then_some(())
    });
}
