//! A cluster of real processes on this machine, and what may happen to them.
//!
//! Every fault is injected at an observed state and is then looked for in what `kiln job` shows:
//! a test whose fault did not fire fails.

use std::collections::HashMap;
use std::process::Stdio;
use std::sync::OnceLock;

use crate::support::{
    Driver, Guard, attempts, count_plainly, kiln, make_text, run, run_ok, signal, sorted_keys,
    top_json, wait_for, write,
};
use kiln::{AttemptState, JobId, JobState, Session};

const TEXT_BYTES: usize = 100 << 20;
const TOP: usize = 1000;

/// 100 MB of text and its most frequent words, counted the plain way; made once for all tests.
struct Corpus {
    _directory: tempfile::TempDir,
    path: String,
    top: String,
}

fn corpus() -> &'static Corpus {
    static CORPUS: OnceLock<Corpus> = OnceLock::new();
    CORPUS.get_or_init(|| {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let text = make_text(&mut fastrand::Rng::with_seed(7), TEXT_BYTES);
        let path = write(directory.path(), "text.txt", &text);
        let counts: HashMap<String, u64> = count_plainly([text.as_slice()]);
        Corpus {
            _directory: directory,
            path,
            top: sorted_keys(&top_json(&counts, TOP)),
        }
    })
}

fn submit(driver: &Driver, args: &[&str]) -> String {
    let mut all = vec!["submit"];
    all.extend(args);
    all.extend(["--driver", &driver.url]);
    run_ok(all).trim().to_owned()
}

fn submit_count(driver: &Driver) -> String {
    submit(
        driver,
        &["wordcount", "--top", &TOP.to_string(), &corpus().path],
    )
}

/// Waits for the job and compares its answer.
fn check_answer(driver: &Driver, id: &str) {
    let answer = run_ok(["wait", id, "--json", "--driver", &driver.url]);
    assert!(
        sorted_keys(&answer) == corpus().top,
        "the answer differs from the plain count"
    );
}

fn job_id(id: &str) -> JobId {
    id.parse().expect("submit prints a job id")
}

/// Whether `attempt` runs, or ran, on the process `pid`: executors are named by host and pid.
fn is_on(executor: &str, pid: u32) -> bool {
    executor.rsplit(|c: char| !c.is_ascii_digit()).next() == Some(&pid.to_string())
}

/// The states of the attempts of `stage` that process `pid` made.
fn states_on(job: &serde_json::Value, stage: u64, pid: u32) -> Vec<String> {
    attempts(job)
        .into_iter()
        .filter(|(id, attempt)| {
            *id == stage && is_on(attempt["executor"].as_str().expect("a name"), pid)
        })
        .map(|(_, attempt)| attempt["state"].as_str().expect("a state").to_owned())
        .collect()
}

/// `kiln job` shows that an attempt of `stage` was lost with `pid`, and that its task ran again.
fn check_retried(driver: &Driver, id: &str, stage: u64, pid: u32) {
    let job = driver.job_json(id);
    let all = attempts(&job);
    let lost: Vec<u64> = all
        .iter()
        .filter(|(at, attempt)| {
            *at == stage
                && attempt["state"] == "lost"
                && is_on(attempt["executor"].as_str().expect("a name"), pid)
        })
        .map(|(_, attempt)| attempt["task"].as_u64().expect("a task number"))
        .collect();
    assert!(!lost.is_empty(), "no attempt was lost: {job:#}");
    for task in lost {
        let won = all.iter().any(|(at, attempt)| {
            *at == stage && attempt["task"] == task && attempt["state"] == "won"
        });
        assert!(
            won,
            "task {task} of stage {stage} was not run again: {job:#}"
        );
    }
    let text = run_ok(["job", id, "--driver", &driver.url]);
    assert!(
        text.contains("lost") && text.contains(&pid.to_string()),
        "{text}"
    );
}

#[test]
fn a_cluster_counts_like_a_single_thread() {
    let driver = Driver::start(&[]);
    let (first, second) = (driver.executor(1), driver.executor(1));
    let id = submit_count(&driver);
    check_answer(&driver, &id);
    let job = driver.job_json(&id);
    assert!(
        attempts(&job)
            .iter()
            .all(|(_, attempt)| attempt["attempt"] == 0),
        "{job:#}"
    );
    let shuffle = &job["shuffle"];
    for figure in ["objects", "puts", "gets", "bytes_written", "bytes_read"] {
        assert!(
            shuffle[figure].as_u64().is_some_and(|n| n > 0),
            "{figure} {job:#}"
        );
    }
    for executor in [&first, &second] {
        let won = states_on(&job, 0, executor.pid());
        assert!(!won.is_empty(), "an executor had no work: {job:#}");
    }
    let listed = run_ok(["jobs", "--driver", &driver.url]);
    assert!(listed.contains(&id) && listed.contains("done"), "{listed}");
}

/// Kills an executor while an attempt of `stage` of a word count runs there.
fn check_killed_in(stage: u64) {
    // A task is short. Where the job was faster than the signal, it is tried again.
    for _ in 0..10 {
        let driver = Driver::start(&[]);
        let (victim, _survivor) = (driver.executor(1), driver.executor(1));
        driver.wait_for_executors(2);
        let id = submit_count(&driver);
        if !stop_in_stage(&driver, &id, stage, &victim) {
            continue;
        }
        signal(victim.pid(), "KILL");
        check_answer(&driver, &id);
        check_retried(&driver, &id, stage, victim.pid());
        return;
    }
    panic!("no task of stage {stage} was ever seen running on the victim");
}

#[test]
fn an_executor_killed_in_the_map_stage_changes_nothing() {
    check_killed_in(0);
}

#[test]
fn an_executor_killed_in_the_reduce_stage_changes_nothing() {
    check_killed_in(1);
}

/// Stops `victim` while an attempt of `stage` runs there; false if the job was faster.
fn stop_in_stage(driver: &Driver, id: &str, stage: u64, victim: &Guard) -> bool {
    let session = Session::connect(&driver.url).expect("the driver is there");
    let job = session.job(job_id(id));
    let running = |status: &kiln::JobStatus| {
        status.stages.get(stage as usize).is_some_and(|stage| {
            stage.attempts.iter().any(|attempt| {
                attempt.state == AttemptState::Running && is_on(&attempt.executor, victim.pid())
            })
        })
    };
    loop {
        let status = job.status().expect("the job is known");
        if status.state.is_final() {
            return false;
        }
        if running(&status) {
            signal(victim.pid(), "STOP");
            // What was on its way has arrived by then; what still runs will not end.
            std::thread::sleep(std::time::Duration::from_millis(200));
            return running(&job.status().expect("the job is known"));
        }
    }
}

#[test]
fn an_executor_that_joins_gets_work() {
    let driver = Driver::start(&[]);
    // Planned for one executor, this is more tasks than it runs at once.
    let text = corpus().path.as_str();
    let id = submit(
        &driver,
        &["grep", "no such line", text, text, text, text, text, text],
    );
    wait_for("the job to wait for executors", || {
        let note = driver.job_json(&id)["note"].to_string();
        note.contains("waiting for an executor").then_some(())
    });
    let first = driver.executor(1);
    wait_for("work on the first executor", || {
        (!states_on(&driver.job_json(&id), 0, first.pid()).is_empty()).then_some(())
    });
    // With the first one stopped, work is left for the second.
    signal(first.pid(), "STOP");
    let second = driver.executor(1);
    wait_for("work on the second executor", || {
        (!states_on(&driver.job_json(&id), 0, second.pid()).is_empty()).then_some(())
    });
    signal(first.pid(), "CONT");
    assert_eq!(run_ok(["wait", &id, "--driver", &driver.url]), "");
}

#[test]
fn a_terminated_executor_drains() {
    let driver = Driver::start(&[]);
    let mut leaving = driver.executor(1);
    driver.wait_for_executors(1);
    let id = submit_count(&driver);
    wait_for("work on the executor", || {
        let job = driver.job_json(&id);
        states_on(&job, 0, leaving.pid())
            .contains(&"running".to_owned())
            .then_some(())
    });
    signal(leaving.pid(), "TERM");
    assert_eq!(leaving.ended(), Some(0));
    // What it ran, it finished; the rest is for others.
    let states = states_on(&driver.job_json(&id), 0, leaving.pid());
    assert!(
        !states.is_empty() && states.iter().all(|state| state == "won"),
        "{states:?}"
    );
    let _other = driver.executor(1);
    check_answer(&driver, &id);
}

#[test]
fn without_executors_a_job_fails_after_the_grace_period() {
    let driver = Driver::start(&["--grace-ms", "300"]);
    let said = run(["run", "wordcount", "--driver", &driver.url, "README.md"]);
    assert_eq!(said.code, Some(1), "{said:?}");
    let lines: Vec<&str> = said.stderr.lines().collect();
    assert!(
        lines.len() == 1 && lines[0].contains("no executor"),
        "{said:?}"
    );
}

#[test]
fn cancel_ends_a_job() {
    let driver = Driver::start(&[]);
    let id = submit_count(&driver);
    let cancelled = run_ok(["cancel", &id, "--driver", &driver.url]);
    assert_eq!(cancelled, format!("cancelled {id}\n"));
    let said = run(["wait", &id, "--driver", &driver.url]);
    assert_eq!(said.code, Some(1), "{said:?}");
    assert_eq!(driver.job_json(&id)["state"], "cancelled");
}

#[test]
fn ctrl_c_cancels_the_job_on_the_cluster() {
    let driver = Driver::start(&[]);
    let args = ["run", "wordcount", "--driver", &driver.url, &corpus().path];
    let mut command = kiln(args);
    command.stdout(Stdio::null());
    let mut client = Guard::start(command);
    let session = Session::connect(&driver.url).expect("the driver is there");
    let id = wait_for("the job to be there", || {
        session
            .jobs()
            .expect("the driver is there")
            .first()
            .map(|job| job.id)
    });
    signal(client.pid(), "INT");
    assert_eq!(client.ended(), Some(130));
    let status = session.job(id).status().expect("the job is known");
    assert_eq!(status.state, JobState::Cancelled);
}

#[test]
fn ctrl_c_ends_an_embedded_run_and_leaves_nothing() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let output = directory.path().join("out").display().to_string();
    // A file that has no end keeps the job running until somebody stops it.
    let args = [
        "run",
        "wordcount",
        "--output",
        &output,
        &corpus().path,
        &corpus().path,
    ];
    let mut client = Guard::start(kiln(args));
    wait_for("the job to write", || {
        let mut entries = std::fs::read_dir(&directory).expect("a directory");
        entries.next().map(|_| ()).or_else(|| {
            client
                .child
                .try_wait()
                .expect("a child can be waited for")
                .map(|_| ())
        })
    });
    if client
        .child
        .try_wait()
        .expect("a child can be waited for")
        .is_none()
    {
        signal(client.pid(), "INT");
    }
    let code = client.ended();
    let left = std::fs::read_dir(&directory).expect("a directory").count();
    match code {
        Some(130) => assert_eq!(left, 0, "a cancelled job leaves nothing"),
        // The job was faster than the signal.
        code => assert_eq!((code, left), (Some(0), 1)),
    }
}

#[test]
fn the_cluster_command_starts_and_ends_its_processes() {
    use std::io::BufRead as _;
    let args = ["cluster", "--executors", "2", "--threads-per-executor", "1"];
    let mut command = kiln(args);
    command
        .args(["--listen", "127.0.0.1:0"])
        .stdout(Stdio::piped());
    let mut cluster = Guard::start(command);
    let stdout = cluster.child.stdout.take().expect("stdout is piped");
    let lines = std::io::BufReader::new(stdout).lines();
    let lines: Vec<String> = lines.take(3).map(|line| line.expect("a line")).collect();
    let word = |line: &str, at: usize| line.split_whitespace().nth(at).map(str::to_owned);
    let url = word(&lines[0], 2).expect("listening on URL");
    let pid = |line: &String| {
        line.rsplit('=')
            .next()
            .and_then(|pid| pid.parse::<u32>().ok())
    };
    let pids: Vec<u32> = lines[1..].iter().filter_map(pid).collect();
    assert_eq!(pids.len(), 2, "{lines:?}");
    let table = run_ok(["run", "wordcount", "--driver", &url, "README.md"]);
    assert!(table.starts_with("word "), "{table}");
    signal(cluster.pid(), "INT");
    assert_eq!(cluster.ended(), Some(0));
    for pid in pids {
        let gone = || (!is_alive(pid)).then_some(());
        wait_for("an executor to be gone", gone);
    }
}

#[test]
fn executors_do_not_outlive_a_killed_cluster() {
    use std::io::BufRead as _;
    let mut command = kiln(["cluster", "--executors", "1", "--listen", "127.0.0.1:0"]);
    command.stdout(Stdio::piped());
    let mut cluster = Guard::start(command);
    let stdout = cluster.child.stdout.take().expect("stdout is piped");
    let mut lines = std::io::BufReader::new(stdout).lines();
    let line = lines
        .nth(1)
        .expect("a line for the executor")
        .expect("a line");
    let pid: u32 = line
        .rsplit('=')
        .next()
        .and_then(|pid| pid.parse().ok())
        .expect("a pid");
    assert!(is_alive(pid));
    signal(cluster.pid(), "KILL");
    wait_for("the executor to be gone", || (!is_alive(pid)).then_some(()));
}

/// Whether the process runs; one that has ended and waits for its parent does not.
fn is_alive(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
    stat.is_ok_and(|stat| {
        !stat
            .rsplit(") ")
            .next()
            .is_some_and(|rest| rest.starts_with('Z'))
    })
}

#[test]
fn temporary_storage_is_removed_at_the_end() {
    let mut driver = Driver::start(&[]);
    let storage = driver
        .banner
        .trim()
        .rsplit("storage=")
        .next()
        .map(str::to_owned);
    let path = storage.and_then(|url| url.strip_prefix("file://").map(str::to_owned));
    let path = std::path::PathBuf::from(path.expect("storage=file://…"));
    let _executor = driver.executor(1);
    run_ok(["run", "wordcount", "--driver", &driver.url, "README.md"]);
    assert!(path.is_dir(), "{}", path.display());
    signal(driver.guard.pid(), "TERM");
    assert_eq!(driver.guard.ended(), Some(0));
    assert!(!path.exists(), "{}", path.display());
}
