//! A driver's socket, and a client and an executor at its other end.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::Arc;

use arrow::datatypes::Schema;
use bytes::Bytes;
use expect_test::expect;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt, stream};
use kiln_driver::client::Client;
use kiln_driver::{Components, Driver, DriverHandle, DriverSettings, service};
use kiln_engine::expr::Expr;
use kiln_engine::id::{ExecutorId, JobId};
use kiln_engine::plan::{Binary, LogicalPlan, Program, Scan, ScanFormat, Sha256, TextOptions};
use kiln_engine::storage::{Compression, ShuffleStore, Stores, sha256_of_file};
use kiln_engine::udf::TableUdf;
use kiln_engine::{ErrorKind, Result};
use kiln_proto::convert::control::{decode_to_executor, encode_from_executor};
use kiln_proto::convert::status::error_from;
use kiln_proto::message::{
    FromExecutor, JobState, OfferedProgram, PROTOCOL_VERSION, Registration, Submission, ToExecutor,
    is_absence, platform,
};
use kiln_proto::wire;
use object_store::memory::InMemory;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::Duration;
use tokio_stream::wrappers::ReceiverStream;

/// A driver that listens, until `stop` is used or dropped.
struct Stage {
    url: String,
    driver: DriverHandle,
    stop: oneshot::Sender<()>,
    served: JoinHandle<Result<()>>,
}

async fn start() -> Stage {
    start_with(DriverSettings::default()).await
}

async fn start_with(settings: DriverSettings) -> Stage {
    let store = Arc::new(InMemory::new());
    let components = Components {
        stores: Arc::new(Stores::new()),
        shuffle: ShuffleStore::new(store, "shuffle".into(), Compression::None),
        storage_url: "memory:///shuffle".to_owned(),
        journal: None,
    };
    let driver = Driver::start(settings, components).expect("valid settings");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    let (stop, stopped) = oneshot::channel::<()>();
    let served = tokio::spawn(service::serve(driver.clone(), listener, async {
        let _ = stopped.await;
    }));
    Stage {
        url,
        driver,
        stop,
        served,
    }
}

async fn client(stage: &Stage) -> Client {
    Client::connect(&stage.url)
        .await
        .expect("the driver listens")
}

fn submission(name: &str, key: u64, plan: LogicalPlan) -> Submission {
    Submission {
        name: name.to_owned(),
        key,
        plan,
        program: None,
        weight: 1,
    }
}

fn plan() -> LogicalPlan {
    let file = format!("{}/Cargo.toml", env!("CARGO_MANIFEST_DIR"));
    LogicalPlan::Scan(Scan {
        predicate: None,
        locations: vec![format!("file://{file}")],
        format: ScanFormat::Text(TextOptions::default()),
        schema: Arc::new(Schema::empty()),
        projection: None,
    })
}

/// Opens a stream whose first messages are these; the sender keeps it open.
async fn attach(
    stage: &Stage,
    messages: Vec<FromExecutor>,
) -> (
    mpsc::Sender<FromExecutor>,
    Result<tonic::Streaming<wire::DriverMessage>>,
) {
    let channel = wire::connect(&stage.url, Duration::from_secs(5))
        .await
        .expect("it listens");
    let (sender, more) = mpsc::channel(1);
    let messages = stream::iter(messages).chain(ReceiverStream::new(more));
    let attached = wire::control_client(channel)
        .attach(messages.map(encode_from_executor))
        .await;
    (
        sender,
        attached
            .map(tonic::Response::into_inner)
            .map_err(|status| error_from(&status)),
    )
}

fn register(protocol: u32) -> FromExecutor {
    FromExecutor::Register(Registration {
        executor: ExecutorId(7),
        name: "host:7".to_owned(),
        protocol,
        threads: 1,
        slots: 1,
        memory: 1 << 30,
    })
}

#[tokio::test]
async fn a_job_is_submitted_once_per_key_watched_listed_and_cancelled() {
    let stage = start().await;
    let client = client(&stage).await;
    let id = client
        .submit(&submission("a job", 1, plan()))
        .await
        .expect("accepted");
    assert_eq!(
        client
            .submit(&submission("a job", 1, plan()))
            .await
            .expect("accepted"),
        id
    );
    let other = client
        .submit(&submission("another", 2, plan()))
        .await
        .expect("accepted");
    assert_ne!(other, id);

    let statuses = client.watch(id).await.expect("the job is known");
    client.cancel(id).await.expect("the job is known");
    let statuses: Vec<_> = statuses.try_collect().await.expect("a whole stream");
    let states: Vec<_> = statuses.iter().map(|status| status.state).collect();
    assert_eq!(states.last(), Some(&JobState::Cancelled), "{states:?}");
    assert_eq!(
        states.iter().filter(|state| state.is_final()).count(),
        1,
        "{states:?}"
    );

    let status = client.get(id).await.expect("the job is known");
    assert_eq!(
        (status.name.as_str(), status.state),
        ("a job", JobState::Cancelled)
    );
    // Once more changes nothing.
    client.cancel(id).await.expect("the job is known");
    let again = client.get(id).await.expect("the job is known");
    assert_eq!(again, status);
    let listed: Vec<_> = client.list().await.expect("the driver is there");
    assert_eq!(
        listed.iter().map(|status| status.id).collect::<Vec<_>>(),
        [id, other]
    );
    let error = client
        .rows(id)
        .await
        .err()
        .expect("a cancelled job has no rows");
    assert_eq!(error.kind(), ErrorKind::Cancelled);
}

#[tokio::test]
async fn a_drivers_error_arrives_with_its_kind_and_words() {
    let stage = start().await;
    let client = client(&stage).await;
    let unknown = JobId::new(0xdead);
    let here = stage.driver.get(unknown).expect_err("no such job");
    let errors = [
        client.get(unknown).await.err(),
        client.watch(unknown).await.err(),
        client.cancel(unknown).await.err(),
        client.result(unknown).await.err(),
    ];
    for error in errors {
        let error = error.expect("no such job");
        assert_eq!(
            (error.kind(), error.message()),
            (here.kind(), here.message())
        );
    }
}

#[tokio::test]
async fn a_plan_over_a_limit_is_refused_before_it_is_sent() {
    let stage = start().await;
    let mut predicate = Expr::Column("line".to_owned());
    for _ in 0..100 {
        predicate = Expr::Not(Box::new(predicate));
    }
    let plan = LogicalPlan::Filter {
        input: Arc::new(plan()),
        predicate,
    };
    let error = client(&stage)
        .await
        .submit(&submission("deep", 1, plan))
        .await
        .expect_err("too deep");
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert_eq!(
        error.message(),
        "an expression is nested too deeply depth_max=64"
    );
}

#[tokio::test]
async fn a_client_of_another_version_is_told_so() {
    let stage = start().await;
    let channel = wire::connect(&stage.url, Duration::from_secs(5))
        .await
        .expect("it listens");
    let request = wire::ListRequest {
        protocol: PROTOCOL_VERSION + 1,
    };
    let status = wire::jobs_client(channel)
        .executors(request)
        .await
        .expect_err("refused");
    let error = error_from(&status);
    assert_eq!(error.kind(), ErrorKind::Invalid);
    let versions = format!("client={} driver={PROTOCOL_VERSION}", PROTOCOL_VERSION + 1);
    assert!(error.message().ends_with(&versions), "{error}");
}

#[tokio::test]
async fn an_executor_is_welcome_and_seen_by_clients_until_it_is_gone() {
    let stage = start().await;
    let client = client(&stage).await;
    let (executor, stream) = attach(&stage, vec![register(PROTOCOL_VERSION)]).await;
    let mut stream = stream.expect("the driver takes executors");
    let first = stream
        .message()
        .await
        .expect("a whole stream")
        .expect("a message");
    let first = decode_to_executor(first).expect("well-formed");
    assert!(matches!(first, ToExecutor::Welcome(_)), "{first:?}");
    let seen = client.executors().await.expect("the driver is there");
    assert_eq!(
        seen.iter()
            .map(|s| s.registration.name.as_str())
            .collect::<Vec<_>>(),
        ["host:7"]
    );
    executor
        .send(FromExecutor::Draining)
        .await
        .expect("the stream is open");
    while !client.executors().await.expect("the driver is there")[0].draining {}
    // An executor that closes its side has its stream ended.
    drop(executor);
    while stream.message().await.expect("a whole stream").is_some() {}
}

#[tokio::test]
async fn an_executor_that_cannot_be_taken_is_refused() {
    let stage = start().await;
    let (_executor, stream) = attach(&stage, vec![register(PROTOCOL_VERSION + 1)]).await;
    let messages: Vec<_> = stream
        .expect("an answer")
        .try_collect()
        .await
        .expect("a whole stream");
    let [refused] = <[_; 1]>::try_from(messages).expect("one message");
    let refused = decode_to_executor(refused).expect("well-formed");
    assert!(matches!(refused, ToExecutor::Refused { .. }), "{refused:?}");

    let (_executor, stream) = attach(&stage, vec![FromExecutor::Draining]).await;
    let error = stream.expect_err("not registered");
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert_eq!(
        error.message(),
        "an executor's first message has to register it"
    );
}

#[tokio::test]
async fn streams_end_when_the_driver_shuts_down_and_nobody_listens_any_more() {
    let stage = start().await;
    let client = client(&stage).await;
    let id = client
        .submit(&submission("a job", 1, plan()))
        .await
        .expect("accepted");
    let mut statuses = client.watch(id).await.expect("the job is known");
    let (_executor, stream) = attach(&stage, vec![register(PROTOCOL_VERSION)]).await;
    let mut stream = stream.expect("the driver takes executors");
    stage.stop.send(()).expect("the driver listens");
    let cut_off = loop {
        match stream.message().await {
            Ok(Some(_)) => {}
            ended => break error_from(&ended.expect_err("the stream is cut off")),
        }
    };
    assert!(is_absence(&cut_off), "{cut_off}");
    let waited = async { while statuses.next().await.is_some() {} };
    let waits = tokio::time::timeout(Duration::from_millis(100), waited).await;
    assert!(
        waits.is_err(),
        "a client does not wait for its driver to come back"
    );
    stage.served.await.expect("no panic").expect("a normal end");
    let error = Client::connect(&stage.url)
        .await
        .expect_err("nobody listens");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert_eq!(
        error.message(),
        format!("cannot reach driver url={}", stage.url)
    );
    assert!(error.report().contains("refused"), "{}", error.report());
}

#[tokio::test]
async fn what_is_no_url_is_said_to_be_none() {
    let error = Client::connect("http://").await.expect_err("no host");
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert_eq!(error.message(), "not a driver's URL: \"http://\"");
}

/// A plan that calls a function called `twice`.
fn calling_plan() -> LogicalPlan {
    let schema = Arc::new(Schema::empty());
    LogicalPlan::Apply {
        input: Arc::new(plan()),
        function: TableUdf::new("twice", "", schema, None),
    }
}

const BINARY: &[u8] = b"\x7fELF and so on";

fn offered(binary: Binary) -> OfferedProgram {
    OfferedProgram {
        program: Program {
            binary,
            memory: 1 << 20,
            call_ms: 1_000,
            environment: BTreeMap::new(),
        },
        platform: platform(),
        protocol: PROTOCOL_VERSION,
        functions: vec!["once".to_owned(), "twice".to_owned()],
    }
}

fn staged(binary: &[u8]) -> (Sha256, u64) {
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    file.write_all(binary).expect("room for it");
    sha256_of_file(file.path()).expect("a file")
}

fn pieces(binary: &'static [u8]) -> BoxStream<'static, Result<Bytes>> {
    stream::iter(binary.chunks(5).map(|piece| Ok(Bytes::from_static(piece)))).boxed()
}

#[tokio::test]
async fn programs_are_refused_before_their_jobs_begin() {
    let closed = start().await;
    let open = start_with(DriverSettings {
        allow_programs: true,
        ..DriverSettings::default()
    })
    .await;
    let (sha256, bytes) = staged(BINARY);
    let binary = Binary::Staged { sha256, bytes };
    let missing = Sha256([7; 32]);

    let mut said = Vec::new();
    let mut say = |what: &str, refused: Result<()>| {
        let error = refused.expect_err(what);
        said.push(format!("{what}: {:?}: {}", error.kind(), error.report()));
    };
    let submit = async |stage: &Stage, program: Option<OfferedProgram>| {
        let submission = Submission {
            program,
            ..submission("a job", 1, calling_plan())
        };
        client(stage).await.submit(&submission).await.map(drop)
    };
    let changed = |change: fn(&mut OfferedProgram)| {
        let mut offered = offered(binary);
        change(&mut offered);
        Some(offered)
    };
    say("not allowed", submit(&closed, Some(offered(binary))).await);
    let stage = client(&closed).await;
    say(
        "not taken",
        stage.stage_program(sha256, bytes, || pieces(BINARY)).await,
    );
    say("none", submit(&open, None).await);
    say("not staged", submit(&open, Some(offered(binary))).await);
    let client = client(&open).await;
    say(
        "other bytes",
        client
            .stage_program(missing, bytes, || pieces(BINARY))
            .await,
    );
    say(
        "too few",
        client
            .stage_program(sha256, bytes + 1, || pieces(BINARY))
            .await,
    );
    say(
        "too many",
        client
            .stage_program(sha256, bytes - 1, || pieces(BINARY))
            .await,
    );
    let broken = || {
        let gone = async { Err(kiln_engine::Error::unavailable("the file is gone")) };
        pieces(BINARY).take(1).chain(stream::once(gone)).boxed()
    };
    say(
        "unreadable",
        client.stage_program(sha256, bytes, broken).await,
    );
    client
        .stage_program(sha256, bytes, || pieces(BINARY))
        .await
        .expect("these are its bytes");
    // What is there is not sent again.
    let nothing = || stream::pending().boxed();
    client
        .stage_program(sha256, bytes, nothing)
        .await
        .expect("it is there");
    let platform = changed(|offered| offered.platform = "m68k-amiga".to_owned());
    say("platform", submit(&open, platform).await);
    let protocol = changed(|offered| offered.protocol = 1);
    say("protocol", submit(&open, protocol).await);
    let functions = changed(|offered| drop(offered.functions.pop()));
    say("function", submit(&open, functions).await);
    let size = Binary::Staged { sha256, bytes: 1 };
    say("size", submit(&open, Some(offered(size))).await);
    submit(&open, Some(offered(binary)))
        .await
        .expect("all is well");

    expect![[r#"
        not allowed: Invalid: this driver takes no programs: code of users runs on a cluster only if its driver was started with --allow-programs
        not taken: Invalid: this driver takes no programs: code of users runs on a cluster only if its driver was started with --allow-programs
        none: Invalid: the plan calls functions of a program, and no program came with it: on a cluster functions have to be registered on an App function="twice"
        not staged: Invalid: a program is not in the storage sha256=f10dcfc38df641ffd9013f9834e069b55f9c2213e1d9fedc3414fd106aa8e5d3
        other bytes: Invalid: a program is not what its name says: it has other bytes sha256=0707070707070707070707070707070707070707070707070707070707070707 bytes=14
        too few: Invalid: a program is not what its name says: it is shorter sha256=f10dcfc38df641ffd9013f9834e069b55f9c2213e1d9fedc3414fd106aa8e5d3 bytes=15
        too many: Invalid: a program is not what its name says: it is longer sha256=f10dcfc38df641ffd9013f9834e069b55f9c2213e1d9fedc3414fd106aa8e5d3 bytes=13
        unreadable: Unavailable: the file is gone
        platform: Invalid: the program was built for another platform than the cluster runs on program=m68k-amiga cluster=HERE
        protocol: Invalid: the program was built with another version of kiln than the cluster runs, build it with the same program=1 cluster=3 (versions of the protocol)
        function: Invalid: the plan calls a function that its program has not registered, so no worker would know it: register it on the App before the job begins function="twice" registered=[once]
        size: Invalid: a program is in the storage with another size sha256=f10dcfc38df641ffd9013f9834e069b55f9c2213e1d9fedc3414fd106aa8e5d3 bytes=14 expected=1"#]].assert_eq(
        &said
            .join("\n")
            .replace(&kiln_proto::message::platform(), "HERE"),
    );
}
