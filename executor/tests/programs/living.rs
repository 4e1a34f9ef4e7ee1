//! What the processes of programs are given, and when they end.

use std::collections::BTreeMap;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use expect_test::expect;
use kiln_engine::plan::Program;
use kiln_proto::message::{RunningAttempt, ToExecutor};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};

use crate::stage::{Executor, components, directory, processes_in, settings, until};

/// Set for a process of this test that is to be an executor: the directory that it works in.
const EXECUTOR: &str = "KILN_TEST_EXECUTOR";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_has_what_its_program_asks_for_and_little_else() {
    let mut executor = Executor::start().await;
    let given = [("COLOUR", "green"), ("HOME", "/nowhere")];
    let given = given.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let program = Program {
        environment: BTreeMap::from(given),
        ..executor.program()
    };
    let spec = executor.task(1, 0, &program, "looks around");
    let seen = executor
        .outcome(spec)
        .await
        .expect("all is well")
        .counts
        .user;
    // What begins with these is the executor's, and different on each machine.
    let of_executor = [
        "pid", "PATH=", "LANG=", "TZ=", "TMPDIR=", "AWS_", "GOOGLE_", "AZURE_",
    ];
    let of_network =
        |name: &str| name.to_lowercase().contains("proxy=") || name.starts_with("SSL_");
    let seen = seen.keys().filter(|seen| {
        !of_network(seen) && !of_executor.iter().any(|prefix| seen.starts_with(prefix))
    });
    expect![[r#"
        COLOUR=green
        HOME=/nowhere
        KILN_WORKER=1
        MIMALLOC_ARENA_EAGER_COMMIT=0
        stdin bytes 0, files 0"#]]
    .assert_eq(&seen.cloned().collect::<Vec<_>>().join("\n"));
    executor.leave().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_is_no_worker_is_found_out() {
    let mut texts = String::new();
    let old = "printf '\\004\\000\\000\\000\\012\\002\\010\\001' >&0; cat";
    for program in [
        "true",
        "cat",
        "echo something is missing >&2; exit 127",
        "echo GET / HTTP/1.1 >&0; cat",
        "exec <&-; sleep 1000",
        old,
    ] {
        let directory = directory();
        let script = directory.path().join("script");
        std::fs::write(&script, format!("#!/bin/sh\n{program}\n")).expect("a file");
        let runnable = Permissions::from_mode(0o700);
        std::fs::set_permissions(&script, runnable).expect("it is ours");
        let mut settings = settings(directory.path());
        settings.programs.kiln = script;
        if program == "cat" {
            settings.programs.hello_wait = Duration::from_millis(500);
        }
        let mut executor = Executor::with(directory, settings, components()).await;
        let spec = executor.task(1, 0, &executor.program(), "echoes");
        texts += &format!("{program}\n    {}\n", executor.told(spec).await);
        until(|| executor.processes().is_empty()).await;
        executor.leave().await;
    }
    expect![[r#"
        true
            program: the program did not become a worker, as one that runs an App does: it ended: exit status: 0
        cat
            program: the program did not become a worker, as one that runs an App does: it said nothing for 500 ms
        echo something is missing >&2; exit 127
            program: the program did not become a worker, as one that runs an App does: it ended: exit status: 127 output="something is missing"
        echo GET / HTTP/1.1 >&0; cat
            program: the program did not become a worker, as one that runs an App does: it sent what no worker sends
        exec <&-; sleep 1000
            program: the program did not become a worker, as one that runs an App does: it closed its stdin
        printf '\004\000\000\000\012\002\010\001' >&0; cat
            invalid: the program was built with another version of kiln than this executor, build it with the same program=1 executor=3 (versions of the protocol)
    "#]].assert_eq(&texts);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_without_anything_to_do_ends() {
    let directory = directory();
    let mut settings = settings(directory.path());
    settings.programs.idle_max = Duration::from_millis(100);
    let mut executor = Executor::with(directory, settings, components()).await;
    let program = executor.program();
    for task in 0..2 {
        let spec = executor.task(1, task, &program, "echoes");
        assert_eq!(executor.told(spec).await, "3 rows");
        until(|| executor.processes().is_empty()).await;
    }
    executor.leave().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_died_while_it_was_idle_is_replaced() {
    let mut executor = Executor::start().await;
    let program = executor.program();
    let spec = executor.task(1, 0, &program, "echoes");
    assert_eq!(executor.told(spec).await, "3 rows");
    let workers = executor.processes();
    assert_eq!(workers.len(), 1);
    kill(workers[0]);
    // Dead, but not reaped: nobody has looked after it yet.
    until(|| is_dead(workers[0])).await;
    let spec = executor.task(1, 1, &program, "echoes");
    assert_eq!(executor.told(spec).await, "3 rows");
    executor.leave().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_process_has_started_ends_with_it() {
    let executor = Executor::start().await;
    let program = executor.program();
    let spec = executor.task(1, 0, &program, "starts others");
    let (task, attempt) = (spec.id, spec.attempt);
    executor.launch(spec).await;
    until(|| executor.processes().len() == 2).await;
    executor.say(ToExecutor::Cancel { task, attempt }).await;
    until(|| executor.processes().is_empty()).await;
    // Nor does it stay behind as a dead one that nobody has asked after.
    until(|| unreaped() == 0).await;
    executor.leave().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_executor_that_leaves_leaves_nothing_behind() {
    let mut executor = Executor::start().await;
    let program = executor.program();
    for job in 1..=2 {
        let spec = executor.task(job, 0, &program, "echoes");
        assert_eq!(executor.told(spec).await, "3 rows");
    }
    executor
        .launch(executor.task(3, 0, &program, "loops"))
        .await;
    let loops = |running: &RunningAttempt| running.counts.user.contains_key("loops");
    while !executor.running().await.iter().any(loops) {}
    let directory = executor.leave().await;
    until(|| processes_in(directory.path()).is_empty()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_executor_that_is_killed_leaves_no_process_behind() {
    let directory = directory();
    let own = std::env::current_exe().expect("a test is a file");
    let mut executor = Command::new(own)
        .args(["living::an_executor_to_be_killed", "--exact", "--ignored"])
        .env(EXECUTOR, directory.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("a process");
    // A worker that waits for ever for a process that it has started.
    until(|| processes_in(directory.path()).len() == 2).await;
    executor.kill().expect("it runs");
    executor.wait().expect("it is ours");
    until(|| processes_in(directory.path()).is_empty()).await;
    // The next executor there clears away what the dead one left.
    let left = || std::fs::read_dir(directory.path().join("programs")).map(Iterator::count);
    assert_eq!(left().expect("a directory"), 1);
    let settings = settings(directory.path());
    let mut next = Executor::with(directory, settings, components()).await;
    let spec = next.task(1, 0, &next.program(), "echoes");
    assert_eq!(next.told(spec).await, "3 rows");
    next.leave().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "the executor of another test, which kills it"]
async fn an_executor_to_be_killed() {
    let directory = std::env::var(EXECUTOR).expect("started by that test");
    let settings = settings(directory.as_ref());
    let executor = Executor::at(directory.as_ref(), settings, components()).await;
    let spec = executor.task(1, 0, &executor.program(), "starts others");
    executor.launch(spec).await;
    std::future::pending::<()>().await;
}

/// How many processes this one has started that are dead and not reaped.
fn unreaped() -> usize {
    let of_this = format!("{}", std::process::id());
    let entries = std::fs::read_dir("/proc").expect("a system with /proc");
    let stats = entries.flatten().map(|entry| entry.path().join("stat"));
    let stats = stats.filter_map(|stat| std::fs::read_to_string(stat).ok());
    // Behind the name, which is in brackets: the state, and the number of the parent.
    let dead = stats.filter(|stat| {
        let mut fields = stat
            .rsplit(')')
            .next()
            .unwrap_or_default()
            .split_whitespace();
        fields.next() == Some("Z") && fields.next() == Some(&of_this)
    });
    dead.count()
}

/// Whether a child of this process has ended, which it has not yet when its directory is closed.
fn is_dead(pid: i32) -> bool {
    let pid = Pid::from_raw(pid).expect("a process");
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    let status = waitid(WaitId::Pid(pid), options).expect("it is ours");
    status.is_some()
}

fn kill(pid: i32) {
    let pid = Pid::from_raw(pid).expect("a process");
    kill_process(pid, Signal::KILL).expect("it is ours");
}
