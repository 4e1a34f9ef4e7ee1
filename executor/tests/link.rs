//! The executor proper, over a link of channels. The clock stands still except when everybody
//! waits for it, so heartbeats come without waiting.

mod script;

use std::future::pending;
use std::sync::Arc;

use kiln_engine::{ErrorKind, Result};
use kiln_executor::{Exit, Link, run};
use kiln_proto::message::ToExecutor;
use script::{Driver, FAIL, GATED, HANG, PANIC, SUCCEED, components, launch, settings, task};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinHandle;

/// An executor, its driver, the gate of its tasks, and its order to leave.
struct Stage {
    driver: Driver,
    gate: Arc<Semaphore>,
    shutdown: oneshot::Sender<()>,
    executor: JoinHandle<Result<Exit>>,
}

fn start() -> Stage {
    let (to_driver, from_executor) = mpsc::channel(4);
    let (to_executor, from_driver) = mpsc::channel(4);
    let (shutdown, ordered) = oneshot::channel();
    let gate = Arc::new(Semaphore::new(0));
    let link = Link {
        to_driver,
        from_driver,
    };
    let ordered = async {
        if ordered.await.is_err() {
            pending::<()>().await;
        }
    };
    let executor = tokio::spawn(run(settings(), components(&gate), link, ordered));
    Stage {
        driver: Driver {
            to_executor,
            from_executor,
        },
        gate,
        shutdown,
        executor,
    }
}

async fn exit(executor: JoinHandle<Result<Exit>>) -> Result<Exit> {
    executor.await.expect("the executor does not panic")
}

#[tokio::test(start_paused = true)]
async fn an_attempt_is_launched_reported_and_acknowledged() {
    let Stage {
        mut driver,
        executor,
        ..
    } = start();
    driver.welcome(1).await;
    driver.say(launch(1, SUCCEED, 0)).await;
    driver.expect("#1 t1-a0 succeeded").await;
    driver.acknowledge(1).await;
    driver.say(launch(1, FAIL, 2)).await;
    driver
        .expect("#2 t2-a2 corrupt: task TASK attempt 2: bits have rotted")
        .await;
    driver.acknowledge(2).await;
    assert_eq!(driver.running().await, [0; 0]);
    drop(driver);
    assert_eq!(
        exit(executor).await.expect("a normal end"),
        Exit::Disconnected
    );
}

#[tokio::test(start_paused = true)]
async fn a_panic_is_the_failure_of_one_attempt_and_the_executor_lives() {
    let Stage { mut driver, .. } = start();
    driver.welcome(1).await;
    driver.say(launch(1, PANIC, 0)).await;
    let report = "#1 t3-a0 internal: task TASK attempt 0: the task panicked: the script says so";
    driver.expect(report).await;
    driver.acknowledge(1).await;
    driver.say(launch(1, SUCCEED, 0)).await;
    driver.expect("#2 t1-a0 succeeded").await;
}

#[tokio::test(start_paused = true)]
async fn a_report_is_repeated_until_it_is_acknowledged() {
    let Stage { mut driver, .. } = start();
    driver.welcome(1).await;
    driver.say(launch(1, SUCCEED, 0)).await;
    for _ in 0..3 {
        driver.expect("#1 t1-a0 succeeded").await;
    }
    // Until then the attempt counts as being here, and is not run again.
    driver.say(launch(1, SUCCEED, 0)).await;
    while driver.running().await != [SUCCEED] {}
    driver.acknowledge(1).await;
    while !driver.running().await.is_empty() {}
    driver.say(launch(1, FAIL, 0)).await;
    driver
        .expect("#2 t2-a0 corrupt: task TASK attempt 0: bits have rotted")
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_attempt_ends_without_a_report_and_frees_its_slot() {
    let Stage { mut driver, .. } = start();
    driver.welcome(1).await;
    driver.say(launch(1, HANG, 0)).await;
    driver.say(launch(1, HANG, 1)).await;
    while driver.running().await != [HANG, HANG] {}
    driver.say(launch(1, SUCCEED, 0)).await;
    while driver.running().await != [SUCCEED, HANG, HANG] {}
    driver
        .say(ToExecutor::Cancel {
            task: task(HANG),
            attempt: 0,
        })
        .await;
    driver.expect("#1 t1-a0 succeeded").await;
    driver.acknowledge(1).await;
    while driver.running().await != [HANG] {}
}

#[tokio::test(start_paused = true)]
async fn a_launch_of_an_older_driver_is_ignored() {
    let Stage { mut driver, .. } = start();
    driver.welcome(5).await;
    driver.say(launch(4, FAIL, 0)).await;
    driver.say(launch(6, GATED, 0)).await;
    driver.say(launch(5, FAIL, 1)).await;
    driver.say(launch(6, SUCCEED, 0)).await;
    driver.expect("#1 t1-a0 succeeded").await;
    driver.acknowledge(1).await;
    while driver.running().await != [GATED] {}
}

#[tokio::test(start_paused = true)]
async fn heartbeats_tell_how_far_attempts_are() {
    let Stage { mut driver, .. } = start();
    driver.welcome(1).await;
    driver.say(launch(1, GATED, 0)).await;
    while driver.running().await != [GATED] {}
    assert_eq!(driver.progress().await, [(GATED, 7)]);
}

#[tokio::test(start_paused = true)]
async fn an_executor_that_is_told_to_leave_finishes_and_sees_its_reports_acknowledged() {
    let Stage {
        mut driver,
        gate,
        shutdown,
        executor,
    } = start();
    driver.welcome(1).await;
    driver.say(launch(1, GATED, 0)).await;
    while driver.running().await != [GATED] {}
    shutdown.send(()).expect("the executor listens");
    driver.expect("draining").await;
    assert_eq!(driver.running().await, [GATED]);
    gate.add_permits(1);
    driver.expect("#1 t5-a0 succeeded").await;
    driver.expect("#1 t5-a0 succeeded").await;
    driver.acknowledge(1).await;
    assert_eq!(exit(executor).await.expect("a normal end"), Exit::Drained);
    while let Some(message) = driver.hear().await {
        assert_eq!(
            message, "#1 t5-a0 succeeded",
            "after the last acknowledgement"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn the_driver_may_tell_it_to_leave_too() {
    let Stage {
        mut driver,
        executor,
        ..
    } = start();
    driver.welcome(1).await;
    driver.say(ToExecutor::Drain).await;
    driver.expect("draining").await;
    assert_eq!(exit(executor).await.expect("a normal end"), Exit::Drained);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_an_error_with_the_drivers_words() {
    let Stage {
        mut driver,
        executor,
        ..
    } = start();
    driver.expect("register host:1 protocol=3").await;
    driver
        .say(ToExecutor::Refused {
            message: "protocol 1 is too old".into(),
        })
        .await;
    let error = exit(executor).await.expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert_eq!(
        error.message(),
        "the driver refuses this executor: protocol 1 is too old"
    );
}

#[tokio::test(start_paused = true)]
async fn a_driver_that_never_answers_is_given_up() {
    let Stage {
        mut driver,
        executor,
        ..
    } = start();
    driver.expect("register host:1 protocol=3").await;
    assert_eq!(
        exit(executor).await.expect("a normal end"),
        Exit::Disconnected
    );
}

/// An executor that is told to leave, with two attempts that do not end by themselves: one heeds
/// its cancellation and one does not.
async fn leaving() -> Stage {
    let mut stage = start();
    stage.driver.welcome(1).await;
    stage.driver.say(launch(1, HANG, 0)).await;
    stage.driver.say(launch(1, GATED, 0)).await;
    while stage.driver.running().await != [HANG, GATED] {}
    stage
}

#[tokio::test(start_paused = true)]
async fn what_does_not_end_in_time_is_handed_back() {
    let Stage {
        mut driver,
        shutdown,
        executor,
        ..
    } = leaving().await;
    shutdown.send(()).expect("the executor listens");
    driver.expect("draining").await;
    driver
        .expect("#1 t4-a0 cancelled: the executor leaves")
        .await;
    driver.acknowledge(1).await;
    // What is launched in the last moment is not begun.
    driver.say(launch(1, SUCCEED, 0)).await;
    driver
        .expect("#2 t1-a0 cancelled: the executor leaves")
        .await;
    driver.acknowledge(2).await;
    driver
        .expect("#3 t5-a0 cancelled: the executor leaves")
        .await;
    driver.acknowledge(3).await;
    assert_eq!(exit(executor).await.expect("a normal end"), Exit::Drained);
}

#[tokio::test(start_paused = true)]
async fn what_is_cancelled_while_it_is_handed_back_is_not_reported() {
    let Stage {
        mut driver,
        gate,
        shutdown,
        executor,
    } = leaving().await;
    shutdown.send(()).expect("the executor listens");
    driver.expect("draining").await;
    driver
        .expect("#1 t4-a0 cancelled: the executor leaves")
        .await;
    let cancel = ToExecutor::Cancel {
        task: task(GATED),
        attempt: 0,
    };
    driver.say(cancel).await;
    driver.acknowledge(1).await;
    drop(gate);
    assert_eq!(exit(executor).await.expect("a normal end"), Exit::Drained);
    assert_eq!(driver.hear().await, None);
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_succeeds_while_it_is_handed_back_is_reported_so() {
    let Stage {
        mut driver,
        gate,
        shutdown,
        executor,
    } = leaving().await;
    shutdown.send(()).expect("the executor listens");
    driver.expect("draining").await;
    driver
        .expect("#1 t4-a0 cancelled: the executor leaves")
        .await;
    driver.acknowledge(1).await;
    gate.add_permits(1);
    driver.expect("#2 t5-a0 succeeded").await;
    driver.acknowledge(2).await;
    assert_eq!(exit(executor).await.expect("a normal end"), Exit::Drained);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_done_for_a_driver_before_its_welcome() {
    let Stage { mut driver, .. } = start();
    driver.expect("register host:1 protocol=3").await;
    driver.say(launch(9, FAIL, 0)).await;
    driver.say(ToExecutor::Drain).await;
    driver.say(script::welcome(1)).await;
    driver.say(launch(1, SUCCEED, 0)).await;
    // It has not left, has not run what came first, and takes no notice of its epoch.
    driver.expect("#1 t1-a0 succeeded").await;
}

#[tokio::test(start_paused = true)]
async fn messages_that_come_twice_or_late_change_nothing() {
    let Stage {
        mut driver, gate, ..
    } = start();
    let cancel = |number, attempt| ToExecutor::Cancel {
        task: task(number),
        attempt,
    };
    driver.welcome(1).await;
    // Before its launch there is nothing to cancel.
    driver.say(cancel(GATED, 0)).await;
    for _ in 0..2 {
        driver.say(launch(1, GATED, 0)).await;
        driver.say(launch(1, HANG, 0)).await;
    }
    while driver.running().await != [HANG, GATED] {}
    for _ in 0..2 {
        driver.say(cancel(HANG, 0)).await;
    }
    while driver.running().await != [GATED] {}
    driver.say(script::welcome(1)).await;
    let job = task(GATED).job;
    for _ in 0..2 {
        driver.say(ToExecutor::JobEnded { job }).await;
    }
    gate.add_permits(1);
    driver.expect("#1 t5-a0 succeeded").await;
    // An acknowledgement of what is not there yet, and one that is old.
    driver.acknowledge(0).await;
    driver.expect("#1 t5-a0 succeeded").await;
    for _ in 0..2 {
        driver.acknowledge(1).await;
    }
    driver.say(cancel(GATED, 0)).await;
    driver.say(launch(1, SUCCEED, 0)).await;
    driver.expect("#2 t1-a0 succeeded").await;
    driver.acknowledge(1).await;
    driver.expect("#2 t1-a0 succeeded").await;
}
