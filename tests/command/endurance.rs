//! What happens again and again to the same job: drivers and executors that are killed time after
//! time, clients that are killed in the middle of a result, two jobs that want the same output.
//!
//! Jobs stand still at gates, which are files, and leave marks, so that every fault meets the state
//! that it is meant for.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::Value;

use crate::failover::Client;
use crate::support::{Driver, Guard, attempts, kiln, run, run_ok, signal, wait_for, write};

/// Times that a driver is killed during one job.
const RESTARTS: usize = 10;

/// Lines of a text that is mapped by several tasks and reduced by another one.
const LARGE: usize = 4 << 20;

/// Lines of one that is mapped and reduced by the same task.
const SMALL: usize = 1;

/// A place for a job that stands still when it maps and when it reduces, until it is let go.
struct Gates {
    directory: tempfile::TempDir,
    lines: usize,
}

impl Gates {
    /// For a job that reads so many lines.
    fn new(lines: usize) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        Gates { directory, lines }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn url(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// A command that leaves a mark, waits for its gate and goes on with `then`.
    fn command(&self, name: &str, then: &str) -> String {
        let (marks, gate) = (self.url(name), self.url(&format!("{name}.gate")));
        format!("echo x >> {marks}; until [ -e {gate} ]; do sleep 0.05; done; {then}")
    }

    fn marks(&self, name: &str) -> usize {
        let marks = std::fs::read_to_string(self.path(name));
        marks.unwrap_or_default().lines().count()
    }

    /// Waits until a stage has begun so many attempts.
    fn wait(&self, name: &str, count: usize) {
        wait_for(&format!("{count} attempts of {name}"), || {
            (self.marks(name) >= count).then_some(())
        });
    }

    fn open(&self, name: &str) {
        std::fs::write(self.path(&format!("{name}.gate")), "").expect("room for a file");
    }

    /// The arguments of a job that finds two words, whose reducer is called `reduce`.
    fn job(&self, reduce: &str) -> Vec<String> {
        let text = b"text\n".repeat(self.lines);
        let input = write(self.directory.path(), "in.txt", &text);
        let words = "cat > /dev/null; printf 'b\t1\na\t1\n'";
        let map = self.command("map", words);
        let reduce = self.command(reduce, "uniq");
        let job = ["external", "--map", &map, "--reduce", &reduce, &input];
        job.map(str::to_owned).into()
    }

    fn submit(&self, driver: &Driver) -> String {
        let job = self.job("reduce");
        let args = ["submit", "--driver", &driver.url].map(str::to_owned);
        run_ok(args.into_iter().chain(job)).trim().to_owned()
    }
}

/// The two words are there, once.
fn check_answer(printed: &str) {
    let rows: Vec<Value> = printed
        .lines()
        .map(|line| serde_json::from_str(line).expect("a line is JSON"))
        .collect();
    let mut keys: Vec<_> = rows.iter().map(|row| row["key"].as_str()).collect();
    keys.sort();
    assert_eq!(keys, [Some("a"), Some("b")], "{printed}");
}

#[test]
fn a_driver_may_be_killed_ten_times_during_one_job() {
    let gates = Gates::new(LARGE);
    gates.open("map");
    let storage = gates.url("storage");
    let settings = ["--allow-programs", "--storage", &storage];
    let mut driver = Driver::start(&settings);
    let address = driver.url.trim_start_matches("http://").to_owned();
    let _executor = driver.executor(1);
    let job = gates.job("reduce");
    let [external, flag, map, other_flag, reduce, input] = &job[..] else {
        panic!("another job: {job:?}");
    };
    let mut client = Client::start([
        "run",
        external,
        flag,
        map,
        other_flag,
        reduce,
        input,
        "--json",
        "--driver",
        &driver.url,
    ]);
    gates.wait("reduce", 1);
    let mapped = gates.marks("map");
    for _ in 0..RESTARTS {
        signal(driver.guard.pid(), "KILL");
        driver.guard.ended();
        client.hears("driver lost, trying again");
        driver = Driver::start_at(&address, &settings);
        client.hears("driver is back");
    }
    gates.open("reduce");
    let (code, printed, said) = client.ends();
    assert_eq!(code, Some(0), "{said}");
    check_answer(&printed);
    assert_eq!(gates.marks("map"), mapped, "a finished stage ran again");
}

/// Starts an executor in the place of one that is killed while it runs an attempt of a stage.
fn kill_in(stage: u64, id: &str, driver: &Driver, executor: &mut Guard) {
    // Executors are named by host and pid.
    let name = format!(":{}", executor.pid());
    let is_on = |(id, attempt): &(u64, Value)| {
        let executor = attempt["executor"].as_str().expect("a name");
        *id == stage && attempt["state"] == "running" && executor.ends_with(&name)
    };
    wait_for("an attempt on the executor", || {
        let job = driver.job_json(id);
        attempts(&job).iter().any(is_on).then_some(())
    });
    signal(executor.pid(), "KILL");
    executor.ended();
    *executor = driver.executor(1);
}

#[test]
fn an_executor_may_be_killed_again_and_again() {
    let gates = Gates::new(LARGE);
    let driver = Driver::start(&["--allow-programs"]);
    let mut executor = driver.executor(1);
    let id = gates.submit(&driver);
    for (stage, name) in [(0, "map"), (1, "reduce")] {
        for _ in 0..2 {
            kill_in(stage, &id, &driver, &mut executor);
        }
        gates.open(name);
    }
    check_answer(&run_ok(["wait", &id, "--json", "--driver", &driver.url]));
    let lost = |(_, attempt): &(u64, Value)| attempt["state"] == "lost";
    let lost = attempts(&driver.job_json(&id)).into_iter().filter(lost);
    assert!(lost.count() >= 4);
}

#[test]
fn a_task_that_takes_its_executor_down_every_time_fails_its_job() {
    let gates = Gates::new(SMALL);
    let driver = Driver::start(&["--allow-programs"]);
    let mut executor = driver.executor(1);
    let id = gates.submit(&driver);
    for _ in 0..3 {
        kill_in(0, &id, &driver, &mut executor);
    }
    let said = run(["wait", &id, "--driver", &driver.url]);
    assert_eq!(said.code, Some(1), "{said:?}");
    let words = "/s0/t0 was running on 3 executors when they were lost";
    assert!(said.stderr.contains(words), "{said:?}");
    gates.open("map");
    // Whoever is left works for others.
    let input = write(gates.directory.path(), "more.txt", b"one\n");
    let args = ["run", "wordcount", "--json", &input, "--driver"];
    let counted = run_ok([&args[..], &[&driver.url]].concat());
    assert_eq!(counted, "{\"word\":\"one\",\"count\":1}\n");
}

#[test]
fn a_job_fails_when_its_last_executor_is_gone() {
    let gates = Gates::new(SMALL);
    let driver = Driver::start(&["--allow-programs", "--grace-ms", "300"]);
    let mut only = driver.executor(1);
    driver.wait_for_executors(1);
    let id = gates.submit(&driver);
    gates.wait("map", 1);
    signal(only.pid(), "KILL");
    only.ended();
    let said = run(["wait", &id, "--driver", &driver.url]);
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.stderr.contains("no executor"), "{said:?}");
    let job = driver.job_json(&id);
    let states: Vec<_> = attempts(&job)
        .into_iter()
        .map(|(_, it)| it["state"].clone())
        .collect();
    assert_eq!(states, ["lost"], "{job:#}");
}

#[test]
fn a_client_that_is_killed_in_the_middle_of_a_result_costs_nobody_anything() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let words: String = (0..400_000).map(|word| format!("word{word}\n")).collect();
    let input = write(directory.path(), "in.txt", words.as_bytes());
    let driver = Driver::start(&[]);
    let _executor = driver.executor(1);
    let args = ["submit", "wordcount", "--top", "400000", &input];
    let id = run_ok([&args[..], &["--driver", &driver.url]].concat());
    let id = id.trim();
    let mut command = kiln(["wait", id, "--json", "--driver", &driver.url]);
    command.stdout(Stdio::piped());
    let mut client = Guard::start(command);
    // It prints more than a pipe holds, so it cannot have come to the end.
    let mut first = [0];
    let stdout = client.child.stdout.as_mut().expect("stdout is piped");
    stdout.read_exact(&mut first).expect("a first byte");
    assert!(client.is_alive());
    signal(client.pid(), "KILL");
    client.ended();
    let whole = run_ok(["wait", id, "--json", "--driver", &driver.url]);
    assert_eq!(whole.lines().count(), 400_000);
    let jobs = run_ok(["jobs", "--json", "--driver", &driver.url]);
    let jobs: Value = serde_json::from_str(&jobs).expect("JSON");
    assert_eq!(jobs.as_array().map(Vec::len), Some(1), "{jobs:#}");
}

#[test]
fn of_two_jobs_that_make_the_same_output_one_does() {
    let gates = Gates::new(LARGE);
    gates.open("map");
    let driver = Driver::start(&["--allow-programs"]);
    let _executors = [driver.executor(1), driver.executor(1)];
    let output = gates.url("out");
    let run = |reduce: &str| {
        let job = gates.job(reduce);
        let args = ["run", "--driver", &driver.url].map(str::to_owned);
        let output = ["--output", &output, "--format", "csv"].map(str::to_owned);
        let mut command = kiln(args.into_iter().chain(job).chain(output));
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        Guard::start(command)
    };
    let mut clients = [run("first"), run("second")];
    // Both were told that there is no output yet.
    for reduce in ["first", "second"] {
        gates.wait(reduce, 1);
    }
    for reduce in ["first", "second"] {
        gates.open(reduce);
    }
    let codes = clients.each_mut().map(Guard::ended);
    let mut sorted = codes;
    sorted.sort();
    assert_eq!(sorted, [Some(0), Some(1)]);
    let loser = usize::from(codes[1] == Some(1));
    let mut said = String::new();
    let stderr = clients[loser].child.stderr.as_mut();
    let read = stderr.expect("it is piped").read_to_string(&mut said);
    read.expect("stderr is text");
    assert!(said.contains("output already exists"), "{said}");
    assert!(Path::new(&output).join("_SUCCESS").exists());
    let rows = run_ok(["head", "--json", &output]);
    check_answer(&rows);
    let left: Vec<_> = std::fs::read_dir(gates.directory.path())
        .expect("a directory")
        .map(|entry| entry.expect("an entry").file_name())
        .filter(|name| name.to_string_lossy().contains("kiln-"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn few_file_descriptors_are_enough_or_said_to_be_too_few() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    for number in 0..300 {
        write(directory.path(), &format!("{number}.txt"), b"one two\n");
    }
    let input = directory.path().display().to_string();
    for limit in [16, 64] {
        let mut command = std::process::Command::new("sh");
        let kiln = env!("CARGO_BIN_EXE_kiln");
        let script = format!("ulimit -n {limit}; exec {kiln} run wordcount --json {input}");
        let output = command.args(["-c", &script]).output();
        let output = output.expect("the command starts");
        let said = String::from_utf8_lossy(&output.stderr);
        let printed = String::from_utf8_lossy(&output.stdout);
        if output.status.success() {
            assert!(printed.contains("{\"word\":\"one\",\"count\":300}"));
        } else {
            assert!(output.status.code().is_some(), "{said}");
            assert!(said.contains("Too many open files"), "{said}");
        }
    }
}
