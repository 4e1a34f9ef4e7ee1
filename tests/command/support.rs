//! What the tests of the command share: running it, making text, counting it the plain way.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{ChildStdout, Command, Output, Stdio};
use std::time::{Duration, Instant};

use kiln::Session;
pub(crate) use kiln_testkit::process::{Guard, signal, wait_for};

/// How long a driver that was asked to leave may take before it is killed.
const FAREWELL: Duration = Duration::from_secs(10);

/// The command, away from the settings of whoever runs the tests.
pub(crate) fn kiln<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(args: I) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kiln"));
    command.args(args).stdin(Stdio::null());
    for name in ["KILN_DRIVER", "RUST_LOG", "COLUMNS"] {
        command.env_remove(name);
    }
    command
}

/// What a finished command has said.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl From<Output> for Said {
    fn from(output: Output) -> Self {
        Said {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// Runs the command to its end.
pub(crate) fn run<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(args: I) -> Said {
    kiln(args).output().expect("the command starts").into()
}

/// Runs the command to its end and expects success.
pub(crate) fn run_ok<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(args: I) -> String {
    let said = run(args);
    assert_eq!(said.code, Some(0), "{said:?}");
    said.stdout
}

/// A driver of this test's own on a free port, without executors.
pub(crate) struct Driver {
    pub(crate) guard: Guard,
    pub(crate) url: String,
    /// The first line that it printed.
    pub(crate) banner: String,
    _stdout: BufReader<ChildStdout>,
}

impl Driver {
    /// `args` come after `driver --listen 127.0.0.1:0`.
    pub(crate) fn start(args: &[&str]) -> Self {
        Driver::start_at("127.0.0.1:0", args)
    }

    /// As [`Driver::start`], at an address of the test's own.
    pub(crate) fn start_at(address: &str, args: &[&str]) -> Self {
        let mut command = kiln(["driver", "--listen", address]);
        command.args(args);
        Driver::spawn(command)
    }

    /// Runs a command that is a driver.
    pub(crate) fn spawn(mut command: Command) -> Self {
        command.stdout(Stdio::piped());
        let mut guard = Guard::start(command);
        let mut stdout = BufReader::new(guard.child.stdout.take().expect("stdout is piped"));
        let mut banner = String::new();
        stdout
            .read_line(&mut banner)
            .expect("the driver prints where it listens");
        let url = banner
            .split_whitespace()
            .nth(2)
            .expect("listening on URL")
            .to_owned();
        Driver {
            guard,
            url,
            banner,
            _stdout: stdout,
        }
    }

    /// Ends the driver in order, so that it clears its storage away, programs included.
    fn leave(&mut self) {
        if self.guard.is_alive() {
            signal(self.guard.pid(), "TERM");
            let started = Instant::now();
            while started.elapsed() < FAREWELL && self.guard.is_alive() {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }

    /// Starts an executor of this driver.
    pub(crate) fn executor(&self, threads: usize) -> Guard {
        let threads = threads.to_string();
        let args = ["executor", "--driver", &self.url, "--threads", &threads];
        Guard::start(kiln(args))
    }

    /// Waits until so many executors are attached.
    pub(crate) fn wait_for_executors(&self, n: usize) {
        let session = Session::connect(&self.url).expect("the driver is there");
        wait_for("executors to attach", || {
            (session.executors().expect("the driver is there").len() == n).then_some(())
        });
    }

    /// What `kiln job ID --json` prints, if it does.
    pub(crate) fn job_json(&self, id: &str) -> serde_json::Value {
        let text = run_ok(["job", id, "--json", "--driver", &self.url]);
        serde_json::from_str(&text).expect("kiln job --json prints JSON")
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.leave();
    }
}

/// The attempts in what `kiln job --json` printed, each with the number of its stage.
pub(crate) fn attempts(job: &serde_json::Value) -> Vec<(u64, serde_json::Value)> {
    let stages = job["stages"].as_array().expect("a job has stages");
    let attempts = |stage: &serde_json::Value| {
        let id = stage["id"].as_u64().expect("a stage has a number");
        let all = stage["attempts"]
            .as_array()
            .expect("a stage has attempts")
            .clone();
        all.into_iter().map(move |attempt| (id, attempt))
    };
    stages.iter().flat_map(attempts).collect()
}

/// The counts of the words of `text`, the plain way: one thread, one map, invalid UTF-8 replaced.
pub(crate) fn count_plainly<'a>(texts: impl IntoIterator<Item = &'a [u8]>) -> HashMap<String, u64> {
    let mut counts = HashMap::new();
    for text in texts {
        let text = String::from_utf8_lossy(text);
        for word in text.split_whitespace() {
            match counts.get_mut(word) {
                Some(count) => *count += 1,
                None => drop(counts.insert(word.to_owned(), 1)),
            }
        }
    }
    counts
}

/// The most frequent words as `kiln run wordcount --json` prints them.
pub(crate) fn top_json(counts: &HashMap<String, u64>, top: usize) -> String {
    let mut sorted: Vec<_> = counts.iter().collect();
    sorted.sort_by(|a, b| b.1.cmp(a.1).then(a.0.cmp(b.0)));
    let line = |(word, count): &(&String, &u64)| {
        format!("{}\n", serde_json::json!({ "word": word, "count": count }))
    };
    sorted.iter().take(top).map(line).collect()
}

/// The same as [`top_json`] from what the command printed: one object a line, keys in any order.
pub(crate) fn sorted_keys(lines: &str) -> String {
    let normal = |line: &str| {
        let value: serde_json::Value = serde_json::from_str(line).expect("a line is JSON");
        format!("{value}\n")
    };
    lines.lines().map(normal).collect()
}

/// Text of at least `bytes` bytes: frequent words, rare ones, white space of every kind.
pub(crate) fn make_text(random: &mut fastrand::Rng, bytes: usize) -> Vec<u8> {
    let mut text = Vec::with_capacity(bytes + 64);
    while text.len() < bytes {
        match random.u8(..) {
            // Few words make up much of a text.
            0..120 => write!(text, "w{}", random.u32(..32) * random.u32(..32)),
            // Many words are rare: they are what a shuffle is about.
            120..240 => write!(text, "{:x}", random.u32(..4_000_000)),
            240..250 => write!(text, "grüße-{}", random.u8(..)),
            _ => write!(text, "日本{}", random.u8(..)),
        }
        .expect("a vector can be written to");
        let space: &[u8] = match random.u8(..) {
            0..200 => b" ",
            200..230 => b"\n",
            230..240 => b"\r\n",
            240..248 => b"\t",
            248..252 => "\u{3000}".as_bytes(),
            252..254 => "\u{a0}".as_bytes(),
            _ => b"  \n\n ",
        };
        text.extend_from_slice(space);
    }
    text
}

/// Writes a file and returns its path as text.
pub(crate) fn write(directory: &Path, name: &str, bytes: &[u8]) -> String {
    let path = directory.join(name);
    std::fs::write(&path, bytes).expect("a temporary file can be written");
    path.display().to_string()
}
