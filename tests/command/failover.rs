//! Clients and executors whose driver is gone, stands still, or cannot be reached for a while.
//!
//! Here every driver is on its own. Each fault is waited for before the test goes on: a client
//! says on stderr when it has lost its driver, and a network counts what it did not bring.

use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::path::Path;
use std::process::{ChildStderr, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};

use kiln::Session;
use kiln_testkit::process::DEADLINE;
use kiln_testkit::proxy::{Network, Proxy};

use crate::support::{
    Driver, Guard, attempts, count_plainly, kiln, make_text, run, run_ok, signal, sorted_keys,
    top_json, wait_for, write,
};

/// A waiting client, and what it says on stderr.
pub(crate) struct Client {
    guard: Guard,
    /// The lines of stderr, as they come.
    lines: Receiver<String>,
    said: String,
}

impl Client {
    /// Starts the command and waits until it has found its driver.
    pub(crate) fn start<const N: usize>(args: [&str; N]) -> Self {
        let mut command = kiln(args);
        command.env("RUST_LOG", "warn,kiln_driver::client=info");
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut guard = Guard::start(command);
        let stderr = guard.child.stderr.take().expect("stderr is piped");
        let mut client = Client {
            guard,
            lines: lines_of(stderr),
            said: String::new(),
        };
        client.hears("the driver leads");
        client
    }

    /// Waits for it to say `words`.
    pub(crate) fn hears(&mut self, words: &str) {
        loop {
            let line = self.lines.recv_timeout(DEADLINE);
            let line = line.unwrap_or_else(|_| panic!("it never said {words:?} but {}", self.said));
            self.said.push_str(&line);
            self.said.push('\n');
            if line.contains(words) {
                return;
            }
        }
    }

    /// Waits for it to end: its exit code, and what it printed.
    pub(crate) fn ends(mut self) -> (Option<i32>, String, String) {
        let mut stdout = self.guard.child.stdout.take().expect("stdout is piped");
        let printed = std::io::read_to_string(&mut stdout).expect("stdout is text");
        for line in &self.lines {
            self.said.push_str(&line);
            self.said.push('\n');
        }
        (self.guard.ended(), printed, self.said)
    }
}

/// Reads lines on a thread of its own, so that a test can stop waiting for one.
fn lines_of(stderr: ChildStderr) -> Receiver<String> {
    let (sender, lines) = channel();
    std::thread::spawn(move || {
        let mut read = BufReader::new(stderr).lines().map_while(Result::ok);
        // Whoever reads them may have gone.
        read.try_for_each(|line| sender.send(line))
    });
    lines
}

/// Text of a few megabytes, and how a count of its words is printed as JSON.
fn text(directory: &Path) -> (String, String) {
    let text = make_text(&mut fastrand::Rng::with_seed(11), 24 << 20);
    let path = write(directory, "text.txt", &text);
    (
        path,
        sorted_keys(&top_json(&count_plainly([text.as_slice()]), 1000)),
    )
}

fn executors(url: &str) -> usize {
    let session = Session::connect(url).expect("the driver is there");
    session.executors().expect("the driver is there").len()
}

fn address(driver: &Driver) -> String {
    driver.url.trim_start_matches("http://").to_owned()
}

#[test]
fn a_client_waits_for_a_driver_that_is_killed_and_hears_what_the_next_one_knows() {
    let storage = tempfile::tempdir().expect("a temporary directory");
    let place = |name: &str| storage.path().join(name).display().to_string();
    let mut driver = Driver::start(&["--grace-ms", "600000", "--storage", &place("first")]);
    let id = run_ok(["submit", "wordcount", "README.md", "--driver", &driver.url]);
    let mut client = Client::start(["wait", id.trim(), "--driver", &driver.url]);
    signal(driver.guard.pid(), "KILL");
    driver.guard.ended();
    client.hears("driver lost, trying again");
    // In another storage, so that it knows nothing of the first one's jobs.
    let _next = Driver::start_at(&address(&driver), &["--storage", &place("second")]);
    client.hears("driver is back");
    let (code, printed, said) = client.ends();
    assert_eq!((code, printed.as_str()), (Some(1), ""), "{said}");
    assert!(said.contains("no such job"), "{said}");
    assert_eq!(said.matches("driver lost").count(), 1, "{said}");
}

#[test]
fn a_client_gets_its_answer_over_a_network_that_breaks_and_falls_silent() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (input, expected) = text(directory.path());
    let driver = Driver::start(&[]);
    let proxy = Proxy::to(&driver.url);
    let args = ["run", "wordcount", "--top", "1000", "--json", &input];
    let [a, b, c, d, e, f] = args;
    // Without an executor, so that the job cannot be faster than what goes wrong.
    let mut client = Client::start([a, b, c, d, e, f, "--driver", &proxy.url]);
    for network in [
        Network::ResetAfter(1),
        Network::Silent,
        Network::ResetAfter(200),
        Network::OneWay,
    ] {
        let before = proxy.faults();
        proxy.set(network);
        client.hears("driver lost, trying again");
        wait_for("something to be lost", || {
            (proxy.faults() > before).then_some(())
        });
        proxy.set(Network::Slow(std::time::Duration::from_millis(20)));
        client.hears("driver is back");
    }
    proxy.set(Network::Whole);
    let _executor = driver.executor(2);
    let (code, printed, said) = client.ends();
    assert_eq!(code, Some(0), "{said}");
    assert!(
        sorted_keys(&printed) == expected,
        "the answer differs: {said}"
    );
    // However often it asked, there is one job.
    let jobs = run_ok(["jobs", "--json", "--driver", &driver.url]);
    let jobs: serde_json::Value = serde_json::from_str(&jobs).expect("JSON");
    assert_eq!(jobs.as_array().map(Vec::len), Some(1), "{jobs:#}");
}

#[test]
fn an_executor_works_over_a_network_that_breaks_and_falls_silent() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (input, expected) = text(directory.path());
    let driver = Driver::start(&[]);
    let proxy = Proxy::to(&driver.url);
    let args = ["executor", "--driver", &proxy.url, "--threads", "1"];
    let _executor = Guard::start(kiln(args));
    wait_for("the executor to attach", || {
        (executors(&driver.url) == 1).then_some(())
    });
    let submit = ["submit", "wordcount", "--top", "1000", &input];
    let id = run_ok([&submit[..], &["--driver", &driver.url]].concat());
    let id = id.trim();
    wait_for("work on the executor", || {
        (!attempts(&driver.job_json(id)).is_empty()).then_some(())
    });
    for network in [Network::ResetAfter(1), Network::OneWay] {
        let before = proxy.faults();
        proxy.set(network);
        wait_for("something to be lost", || {
            (proxy.faults() > before + 1).then_some(())
        });
    }
    proxy.set(Network::Whole);
    let answer = run_ok(["wait", id, "--json", "--driver", &driver.url]);
    assert!(sorted_keys(&answer) == expected, "the answer differs");
    let job = driver.job_json(id);
    let failed = |(_, attempt): &(u64, serde_json::Value)| attempt["state"] == "failed";
    assert!(!attempts(&job).iter().any(failed), "{job:#}");
}

#[test]
fn an_executor_leaves_a_driver_that_stands_still_for_the_next_one() {
    let first = Driver::start(&[]);
    let second = Driver::start(&[]);
    let both = format!("{},{}", first.url, second.url);
    let args = ["executor", "--driver", &both, "--threads", "1"];
    let _executor = Guard::start(kiln(args));
    wait_for("the executor to attach", || {
        (executors(&first.url) == 1).then_some(())
    });
    signal(first.guard.pid(), "STOP");
    wait_for("the executor to find the next driver", || {
        (executors(&second.url) == 1).then_some(())
    });
    let args = ["run", "wordcount", "README.md", "--driver", &second.url];
    assert!(run_ok(args).starts_with("word "));
    // A client with the same list finds it too.
    let jobs = run_ok(["jobs", "--driver", &both]);
    assert!(
        jobs.contains("wordcount") && jobs.contains("done"),
        "{jobs}"
    );
    signal(first.guard.pid(), "CONT");
    wait_for("the first driver to notice", || {
        (executors(&first.url) == 0).then_some(())
    });
    assert_eq!(executors(&second.url), 1);
}

#[test]
fn a_list_of_drivers_names_all_of_those_that_are_not_there() {
    let gone = || {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        format!("http://{}", listener.local_addr().expect("bound"))
    };
    let both = format!("{},{}", gone(), gone());
    let said = run(["jobs", "--driver", &both]);
    assert_eq!(said.code, Some(3), "{said:?}");
    let expected = format!("error: cannot reach any driver url={both}: ");
    assert!(said.stderr.starts_with(&expected), "{said:?}");
    assert_eq!(said.stderr.lines().count(), 1, "{said:?}");
}

/// Submits a job whose mapper says who it is and then does nothing for long.
fn submit_endless(driver: &Driver, directory: &Path) -> (String, String) {
    let input = write(directory, "in.txt", b"one\n");
    let marks = directory.join("pids").display().to_string();
    let map = format!("echo $$ >> {marks}; sleep 1000 | sleep 1000");
    let job = ["submit", "external", "--map", &map, "--reduce", "cat"];
    let id = run_ok([&job[..], &[&input, "--driver", &driver.url]].concat());
    (id.trim().to_owned(), marks)
}

/// The process group of the `n`th mapper, when it has started.
fn mapper(marks: &str, n: usize) -> String {
    wait_for("the mapper to start", || {
        let pids = std::fs::read_to_string(marks).ok()?;
        let mut whole = pids
            .split_inclusive('\n')
            .filter_map(|line| line.strip_suffix('\n'));
        whole.nth(n).map(str::to_owned)
    })
}

fn wait_for_end(group: &str) {
    wait_for("the mapper and its children to end", || {
        let mut is_alive = Command::new("kill");
        is_alive.args(["-0", "--", &format!("-{group}")]);
        is_alive.stderr(Stdio::null());
        let alive = is_alive.status().expect("kill starts").success();
        (!alive).then_some(())
    });
}

#[test]
fn an_executor_that_leaves_hands_back_what_does_not_end() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let driver = Driver::start(&["--allow-programs"]);
    let args = ["executor", "--driver", &driver.url, "--threads", "1"];
    let mut leaving = Guard::start(kiln([&args[..], &["--drain-timeout", "0"]].concat()));
    let (id, marks) = submit_endless(&driver, directory.path());
    let first = mapper(&marks, 0);
    signal(leaving.pid(), "TERM");
    assert_eq!(leaving.ended(), Some(0));
    wait_for_end(&first);

    let _other = driver.executor(1);
    let second = mapper(&marks, 1);
    let job = driver.job_json(&id);
    let states: Vec<_> = attempts(&job)
        .iter()
        .map(|(_, attempt)| attempt["state"].to_string())
        .collect();
    assert_eq!(states, ["\"cancelled\"", "\"running\""], "{job:#}");
    let cancelled = run_ok(["cancel", &id, "--driver", &driver.url]);
    assert_eq!(cancelled, format!("cancelled {id}\n"));
    wait_for_end(&second);
}
