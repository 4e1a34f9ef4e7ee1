//! Tasks of users' programs, in real processes: what they do wrong costs an attempt and tells why.

mod fetching;
mod living;
mod stage;

use expect_test::expect;
use kiln_engine::ErrorKind;
use kiln_engine::id::JobId;
use kiln_engine::plan::Program;
use kiln_proto::message::{RunningAttempt, ToExecutor};
use stage::{Executor, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_runs_in_a_process_that_ends_with_its_job() {
    let mut executor = Executor::start().await;
    let program = executor.program();
    for (task, function) in ["keeps", "echoes", "keeps"].into_iter().enumerate() {
        let spec = executor.task(1, task as u32, &program, function);
        assert_eq!(executor.told(spec).await, "3 rows");
    }
    // All of them ran in one process, one after the other.
    let workers = executor.processes();
    assert_eq!(workers.len(), 1);
    executor
        .say(ToExecutor::JobEnded { job: JobId::new(1) })
        .await;
    until(|| executor.processes().is_empty()).await;
    executor.leave().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_a_function_does_costs_its_attempt_and_is_told() {
    let mut executor = Executor::start().await;
    let program = executor.program();
    let short = Program {
        call_ms: 1_000,
        ..program.clone()
    };
    let mut texts = String::new();
    let cases = [
        ("panics", &program),
        ("fails", &program),
        ("shortens", &program),
        ("mistypes", &program),
        ("makes other columns", &program),
        ("counts", &program),
        ("aborts", &program),
        ("crashes", &program),
        ("overflows", &program),
        ("exits", &program),
        ("loops", &short),
        ("hoards", &program),
        ("hoards bit by bit", &program),
        ("is killed", &program),
        ("is nowhere", &program),
        ("is slow", &short),
        ("closes", &program),
        ("chatters", &program),
        ("keeps", &program),
    ];
    for (task, (function, program)) in cases.into_iter().enumerate() {
        let spec = executor.task(1, task as u32, program, function);
        texts += &format!("{function}\n    {}\n", executor.told(spec).await);
    }
    expect![[r#"
        panics
            program: function "panics" panicked: no way out input=DIRECTORY/input.txt
        fails
            invalid: function "fails": line 7 is blank
        shortens
            program: function "shortens" returned 2 values for 3 rows input=DIRECTORY/input.txt
        mistypes
            program: function "mistypes" returned another type than announced expected=Utf8View found=Int64 input=DIRECTORY/input.txt
        makes other columns
            program: function "makes other columns" made other columns than announced expected=[Utf8View] found=[Utf8View, Int64] input=DIRECTORY/input.txt
        counts
            exhausted: function "counts": too many counters, or too long a name counters_max=1000 bytes_max=200
        aborts
            program: function "aborts" ended its process: it aborted input=DIRECTORY/input.txt output="about to abort"
        crashes
            program: function "crashes" ended its process: it crashed signal=SIGSEGV input=DIRECTORY/input.txt
        overflows
            program: function "overflows" ended its process: it aborted input=DIRECTORY/input.txt output="a thread has overflowed its stack | fatal runtime error: stack overflow, aborting"
        exits
            program: function "exits" ended its process: it exited in the middle of a task code=0 input=DIRECTORY/input.txt
        loops
            program: function "loops" went on without asking for rows or giving any, and its process was killed call_ms_max=1000 input=DIRECTORY/input.txt
        hoards
            program: function "hoards" ended its process: it asked for more memory than there is for it memory_max=973078528 input=DIRECTORY/input.txt output="memory allocation of 10737418240 bytes failed"
        hoards bit by bit
            program: function "hoards bit by bit" ended its process: it asked for more memory than there is for it memory_max=973078528 input=DIRECTORY/input.txt output="memory allocation of 1048576 bytes failed"
        is killed
            exhausted: the process in which function "is killed" ran was killed from outside, as systems do when memory runs short signal=SIGKILL input=DIRECTORY/input.txt
        is nowhere
            invalid: this program has no such function name="is nowhere" registered=[aborts, chatters, closes, counts, crashes, echoes, exits, fails, hoards, hoards bit by bit, is killed, is slow, keeps, looks around, loops, makes other columns, mistypes, overflows, panics, shortens, starts others]
        is slow
            3 rows
        closes
            3 rows
        chatters
            3 rows
        keeps
            3 rows
    "#]].assert_eq(&texts);
    executor.leave().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_attempt_that_does_not_stop_is_stopped() {
    let mut executor = Executor::start().await;
    let program = executor.program();
    let spec = executor.task(1, 0, &program, "loops");
    let (task, attempt) = (spec.id, spec.attempt);
    executor.launch(spec).await;
    // What it counts is seen while it runs.
    let loops = |running: &RunningAttempt| running.counts.user.get("loops") == Some(&1);
    while !executor.running().await.iter().any(loops) {}
    executor.say(ToExecutor::Cancel { task, attempt }).await;
    while !executor.running().await.is_empty() {}
    assert_eq!(executor.processes(), [0; 0]);
    let spec = executor.task(1, 1, &program, "keeps");
    assert_eq!(executor.told(spec).await, "3 rows");
    executor.leave().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_does_not_notice_what_another_does() {
    let mut executor = Executor::start().await;
    let program = executor.program();
    for task in 0..4 {
        executor
            .launch(executor.task(1, task, &program, "aborts"))
            .await;
        executor
            .launch(executor.task(2, task, &program, "keeps"))
            .await;
    }
    for _ in 0..8 {
        let report = executor.report().await;
        match report.outcome {
            Ok(success) => assert_eq!((report.task.job.value(), success.counts.rows_out), (2, 3)),
            Err(failure) => {
                assert_eq!(
                    (report.task.job.value(), failure.kind),
                    (1, ErrorKind::Program)
                );
            }
        }
    }
    executor.leave().await;
}
