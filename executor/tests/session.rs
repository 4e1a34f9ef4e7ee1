//! An executor and a driver on two ends of a real socket, whose driver is a script.

mod script;

use std::future::pending;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::{Stream, StreamExt};
use kiln_engine::{Error, ErrorKind, Result};
use kiln_executor::{ExecutorSettings, serve};
use kiln_proto::convert::{control, status};
use kiln_proto::message::{FromExecutor, NOT_LEADING, ToExecutor, Welcome};
use kiln_proto::wire;
use script::{Driver, GATED, SUCCEED, components, launch, settings};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};

/// Hands every stream that an executor opens to the script.
struct Streams(mpsc::Sender<Driver>);

#[tonic::async_trait]
impl wire::control_server::Control for Streams {
    type AttachStream = Pin<Box<dyn Stream<Item = Result<wire::DriverMessage, Status>> + Send>>;

    async fn attach(
        &self,
        request: Request<Streaming<wire::ExecutorMessage>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        let (from, from_executor) = mpsc::channel(4);
        let (to_executor, to) = mpsc::channel(4);
        let mut stream = request.into_inner();
        tokio::spawn(async move {
            while let Ok(Some(message)) = stream.message().await {
                let message = control::decode_from_executor(message).expect("well-formed");
                if from.send(message).await.is_err() {
                    break;
                }
            }
        });
        self.0
            .send(Driver {
                to_executor,
                from_executor,
            })
            .await
            .map_err(|_| {
                let error = Error::invalid("this script takes no executors");
                status::status_from(&error)
            })?;
        let encode =
            |message| control::encode_to_executor(message).map_err(|_| Status::internal(""));
        Ok(Response::new(ReceiverStream::new(to).map(encode).boxed()))
    }
}

/// An executor on its way to a scripted driver.
struct Stage {
    streams: mpsc::Receiver<Driver>,
    gate: Arc<Semaphore>,
    shutdown: oneshot::Sender<()>,
    executor: JoinHandle<Result<()>>,
}

/// A place where nobody listens yet.
async fn listen() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    (listener, url)
}

/// A scripted driver: where it listens, and the streams that executors open.
async fn driver() -> (String, mpsc::Receiver<Driver>) {
    let (listener, url) = listen().await;
    let (sender, streams) = mpsc::channel(1);
    let server = tonic::transport::Server::builder()
        .add_service(wire::control_server(Streams(sender)))
        .serve_with_incoming(TcpListenerStream::new(listener));
    tokio::spawn(server);
    (url, streams)
}

async fn start() -> Stage {
    let (url, streams) = driver().await;
    start_with(vec![url], streams).await
}

/// An executor that is given these drivers, one of which opens `streams`.
async fn start_with(driver: Vec<String>, streams: mpsc::Receiver<Driver>) -> Stage {
    let gate = Arc::new(Semaphore::new(0));
    let (shutdown, ordered) = oneshot::channel();
    let settings = ExecutorSettings {
        driver,
        ..settings()
    };
    let ordered = async {
        if ordered.await.is_err() {
            pending::<()>().await;
        }
    };
    let executor = tokio::spawn(serve(settings, components(&gate), ordered));
    Stage {
        streams,
        gate,
        shutdown,
        executor,
    }
}

impl Stage {
    async fn stream(&mut self) -> Driver {
        self.streams.recv().await.expect("the server is there")
    }
}

#[tokio::test]
async fn work_and_reports_outlive_a_connection() {
    let mut stage = start().await;
    let mut driver = stage.stream().await;
    driver.welcome(1).await;
    driver.say(launch(1, SUCCEED, 0)).await;
    driver.say(launch(1, GATED, 0)).await;
    driver.expect("#1 t1-a0 succeeded").await;
    drop(driver);

    let mut driver = stage.stream().await;
    driver.welcome(2).await;
    driver.expect("#1 t1-a0 succeeded").await;
    driver.acknowledge(1).await;
    while driver.running().await != [GATED] {}
    stage.gate.add_permits(1);
    driver.expect("#2 t5-a0 succeeded").await;
    drop(driver);

    let mut driver = stage.stream().await;
    driver.welcome(2).await;
    driver.expect("#2 t5-a0 succeeded").await;
    driver.acknowledge(2).await;
    driver.say(launch(2, SUCCEED, 1)).await;
    driver.expect("#3 t1-a1 succeeded").await;
}

#[tokio::test]
async fn a_stale_driver_is_left_for_a_newer_one() {
    let mut stage = start().await;
    let mut driver = stage.stream().await;
    driver.welcome(7).await;
    driver.running().await;
    drop(driver);
    stage.stream().await.welcome(6).await;
    let mut driver = stage.stream().await;
    driver.welcome(7).await;
    driver.say(launch(7, SUCCEED, 0)).await;
    driver.expect("#1 t1-a0 succeeded").await;
}

#[tokio::test]
async fn drivers_of_different_storages_have_nothing_to_do_with_one_another() {
    let mut stage = start().await;
    let mut driver = stage.stream().await;
    driver.welcome(7).await;
    driver.running().await;
    drop(driver);
    let mut driver = stage.stream().await;
    driver.expect("register host:1 protocol=3").await;
    let welcome = ToExecutor::Welcome(Welcome {
        epoch: 1,
        storage: "memory:///elsewhere".into(),
        heartbeat_ms: 100,
    });
    driver.say(welcome).await;
    driver.say(launch(1, SUCCEED, 0)).await;
    driver.expect("#1 t1-a0 succeeded").await;
}

#[tokio::test]
async fn an_executor_that_leaves_waits_for_its_attempts_even_without_a_driver() {
    let mut stage = start().await;
    let mut driver = stage.stream().await;
    driver.welcome(1).await;
    driver.say(launch(1, GATED, 0)).await;
    while driver.running().await != [GATED] {}
    let shutdown = stage.shutdown;
    shutdown.send(()).expect("the executor listens");
    driver.expect("draining").await;
    drop(driver);

    stage.gate.add_permits(1);
    let mut driver = stage.streams.recv().await.expect("the server is there");
    driver.welcome(1).await;
    let mut heard = [driver.hear().await, driver.hear().await];
    heard.sort();
    assert_eq!(
        heard.map(Option::unwrap_or_default),
        ["#1 t5-a0 succeeded", "draining"]
    );
    driver.acknowledge(1).await;
    drop(driver);
    stage
        .executor
        .await
        .expect("no panic")
        .expect("a normal end");
}

#[tokio::test]
async fn a_refusal_ends_the_session() {
    let mut stage = start().await;
    let mut driver = stage.stream().await;
    driver.expect("register host:1 protocol=3").await;
    driver
        .say(ToExecutor::Refused {
            message: "not here".into(),
        })
        .await;
    let error = stage
        .executor
        .await
        .expect("no panic")
        .expect_err("refused");
    assert_eq!(
        error.message(),
        "the driver refuses this executor: not here"
    );
}

#[tokio::test]
async fn a_status_of_kind_invalid_ends_the_session_too() {
    let Stage {
        streams, executor, ..
    } = start().await;
    drop(streams);
    let error = executor.await.expect("no panic").expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert_eq!(error.message(), "this script takes no executors");
}

#[tokio::test]
async fn without_a_driver_it_says_whom_it_could_not_reach() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    drop(listener);
    let settings = ExecutorSettings {
        driver: vec![format!("http://{address}")],
        first_connection_wait: Duration::from_millis(300),
        ..settings()
    };
    let gate = Arc::new(Semaphore::new(0));
    let error = serve(settings, components(&gate), pending())
        .await
        .expect_err("nobody is there");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    let expected = format!("cannot reach driver url=http://{address}: ");
    let report = error.report();
    assert!(
        report.starts_with(&expected) && report.contains("refused"),
        "{report}"
    );
}

/// Answers as a driver does that does not lead, and counts how often it was asked.
struct Standby(Arc<AtomicUsize>);

#[tonic::async_trait]
impl wire::control_server::Control for Standby {
    type AttachStream = Pin<Box<dyn Stream<Item = Result<wire::DriverMessage, Status>> + Send>>;

    async fn attach(
        &self,
        _request: Request<Streaming<wire::ExecutorMessage>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Err(status::status_from(&Error::unavailable(NOT_LEADING)))
    }
}

async fn standby() -> (String, Arc<AtomicUsize>) {
    let (listener, url) = listen().await;
    let asked = Arc::new(AtomicUsize::new(0));
    let server = tonic::transport::Server::builder()
        .add_service(wire::control_server(Standby(Arc::clone(&asked))))
        .serve_with_incoming(TcpListenerStream::new(listener));
    tokio::spawn(server);
    (url, asked)
}

#[tokio::test]
async fn in_a_list_the_driver_that_leads_is_found_past_all_others() {
    let (gone, refused) = listen().await;
    drop(gone);
    let (_standing_still, silent) = listen().await;
    let (standby, asked) = standby().await;
    let (leader, streams) = driver().await;
    let mut stage = start_with(vec![refused, silent, standby, leader], streams).await;
    let mut driver = stage.stream().await;
    driver.welcome(1).await;
    driver.say(launch(1, SUCCEED, 0)).await;
    driver.expect("#1 t1-a0 succeeded").await;
    assert_eq!(asked.load(Ordering::Relaxed), 1);
    drop(driver);
    // It is lost, and found again in the next round.
    let mut driver = stage.stream().await;
    driver.welcome(1).await;
    driver.expect("#1 t1-a0 succeeded").await;
    assert_eq!(asked.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn a_driver_that_does_not_lead_is_waited_for_as_long_as_it_says_so() {
    let (standby, asked) = standby().await;
    let settings = ExecutorSettings {
        driver: vec![standby],
        first_connection_wait: Duration::from_millis(1500),
        ..settings()
    };
    let gate = Arc::new(Semaphore::new(0));
    let mut executor = tokio::spawn(serve(settings, components(&gate), pending()));
    // Pauses grow to a second: that is longer than the patience with drivers that are not there.
    while asked.load(Ordering::Relaxed) < 8 {
        let ended = tokio::time::timeout(Duration::from_millis(20), &mut executor).await;
        assert!(ended.is_err(), "it has left");
    }
    executor.abort();
}

#[tokio::test]
async fn what_a_stale_driver_says_is_not_heard() {
    let (older, mut older_streams) = driver().await;
    let (newer, streams) = driver().await;
    let mut stage = start_with(vec![newer, older], streams).await;
    let mut driver = stage.stream().await;
    driver.welcome(7).await;
    driver.say(launch(7, GATED, 0)).await;
    driver.say(launch(7, SUCCEED, 0)).await;
    driver.expect("#1 t1-a0 succeeded").await;
    drop(driver);

    // The older one was stalled, and does not know yet that it leads no more.
    let mut stale = older_streams.recv().await.expect("the next in the list");
    stale.expect("register host:1 protocol=3").await;
    let cancel = ToExecutor::Cancel {
        task: script::task(GATED),
        attempt: 0,
    };
    let job = script::task(GATED).job;
    let words = [
        script::welcome(6),
        cancel,
        ToExecutor::JobEnded { job },
        ToExecutor::Acknowledge { sequence: 1 },
        launch(6, SUCCEED, 3),
        ToExecutor::Drain,
    ];
    for word in words {
        // It may have left by now.
        let _ = stale.to_executor.send(word).await;
    }
    assert_eq!(
        stale.hear().await,
        None,
        "it says nothing to a stale driver"
    );

    let mut driver = stage.stream().await;
    driver.welcome(7).await;
    driver.expect("#1 t1-a0 succeeded").await;
    driver.acknowledge(1).await;
    while driver.running().await != [GATED] {}
    stage.gate.add_permits(1);
    driver.expect("#2 t5-a0 succeeded").await;
}

#[tokio::test]
async fn what_was_not_acknowledged_is_told_to_the_next_driver_before_the_first_heartbeat() {
    let (first, mut first_streams) = driver().await;
    let (second, streams) = driver().await;
    let mut stage = start_with(vec![first, second], streams).await;
    let mut driver = first_streams.recv().await.expect("the first in the list");
    driver.welcome(1).await;
    for attempt in 0..3 {
        driver.say(launch(1, SUCCEED, attempt)).await;
    }
    driver.say(launch(1, GATED, 0)).await;
    for attempt in 0..3 {
        let report = format!("#{} t1-a{attempt} succeeded", attempt + 1);
        driver.expect(&report).await;
    }
    driver.acknowledge(1).await;
    while driver.running().await.len() != 3 {}
    drop(driver);

    let mut driver = stage.stream().await;
    driver.welcome(2).await;
    let mut order = Vec::new();
    while order.len() < 3 {
        let message = driver.from_executor.recv().await;
        order.push(match message.expect("it speaks") {
            FromExecutor::Report(report) => report.sequence.to_string(),
            FromExecutor::Heartbeat { running, .. } => format!("heartbeat of {}", running.len()),
            other => format!("{other:?}"),
        });
    }
    assert_eq!(order, ["2", "3", "heartbeat of 3"]);
}
