//! What a client asks of a driver, with a relay between them that loses, repeats and delays.
//!
//! The driver, its socket, the client and the executor are the real ones. The relay passes every
//! request on, except for the one that a test names: there a request is lost, or its answer, or it
//! arrives twice, or once more when nobody expects it any longer. Whatever happens the client's
//! answer has to be the same, and every test asserts that its fault has happened.

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Schema};
use futures::{Stream, StreamExt as _, TryStreamExt as _, stream};
use kiln_driver::client::{Client, ClientSettings};
use kiln_driver::{Driver, DriverHandle, DriverSettings, service};
use kiln_engine::expr::{col, lower};
use kiln_engine::id::JobId;
use kiln_engine::memory::MemoryBudget;
use kiln_engine::plan::{LogicalPlan, Scan, ScanFormat, TextOptions};
use kiln_engine::storage::{Compression, ShuffleStore, Stores, local_url, sha256_of_file};
use kiln_engine::{Error, ErrorKind, limits};
use kiln_executor::{Components, ExecutorSettings};
use kiln_proto::convert::status::status_from;
use kiln_proto::message::{JobState, NOT_LEADING, Submission};
use kiln_proto::wire;
use kiln_proto::wire::jobs_client::JobsClient;
use object_store::ObjectStore;
use object_store::memory::InMemory;
use tokio::net::TcpListener;
use tonic::transport::Channel;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

/// What happens to one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// The driver does not hear it.
    RequestLost,
    /// The driver does as it is asked, and its answer is lost.
    ReplyLost,
    /// The driver hears it twice; the second answer arrives.
    Twice,
    /// The driver hears it once more, after it was asked again and has answered.
    Late,
    /// The driver says that it does not lead.
    Standby,
    /// The driver says that something it needs is not there.
    Trouble,
    /// The answer breaks off after so many messages.
    CutAfter(usize),
    /// The driver leaves in order after so many messages.
    LeavesAfter(usize),
}

const ALL: [Fault; 5] = [
    Fault::RequestLost,
    Fault::ReplyLost,
    Fault::Twice,
    Fault::Late,
    Fault::Standby,
];

/// Stands between a client and a driver.
#[derive(Clone)]
struct Relay {
    driver: JobsClient<Channel>,
    /// Which call is to go wrong next, and how.
    planned: Arc<Mutex<Option<(&'static str, Fault)>>>,
    fired: Arc<AtomicU64>,
}

/// What a driver says that is in trouble.
const TROUBLE: &str = "the store does not answer";

/// How late a request is.
const LATE_BY: Duration = Duration::from_millis(200);

type Answer<T> = Result<Response<T>, Status>;
type Streamed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

fn lost() -> Status {
    Status::unavailable("the connection broke")
}

impl Relay {
    fn plan(&self, call: &'static str, fault: Fault) {
        *self.planned.lock().expect("no panic") = Some((call, fault));
    }

    /// The fault of this call, which it then has had.
    fn take(&self, call: &str) -> Option<Fault> {
        let mut planned = self.planned.lock().expect("no panic");
        let (_, fault) = planned.take_if(|(named, _)| *named == call)?;
        self.fired.fetch_add(1, Ordering::Relaxed);
        Some(fault)
    }

    fn fired(&self) -> u64 {
        self.fired.load(Ordering::Relaxed)
    }

    async fn pass<T, A>(&self, call: &str, ask: impl Fn(JobsClient<Channel>) -> A) -> Answer<T>
    where
        T: Send + 'static,
        A: Future<Output = Answer<T>> + Send + 'static,
    {
        let driver = || self.driver.clone();
        match self.take(call) {
            None | Some(Fault::CutAfter(_) | Fault::LeavesAfter(_)) => ask(driver()).await,
            Some(Fault::RequestLost) => Err(lost()),
            Some(Fault::ReplyLost) => {
                ask(driver()).await?;
                Err(lost())
            }
            Some(Fault::Twice) => {
                ask(driver()).await?;
                ask(driver()).await
            }
            Some(Fault::Late) => {
                let again = ask(driver());
                tokio::spawn(async move {
                    tokio::time::sleep(LATE_BY).await;
                    again.await
                });
                Err(lost())
            }
            Some(Fault::Standby) => Err(status_from(&Error::unavailable(NOT_LEADING))),
            Some(Fault::Trouble) => Err(status_from(&Error::unavailable(TROUBLE))),
        }
    }

    async fn pass_stream<T, A>(
        &self,
        call: &str,
        ask: impl Fn(JobsClient<Channel>) -> A,
    ) -> Answer<Streamed<T>>
    where
        T: Send + 'static,
        A: Future<Output = Answer<Streaming<T>>> + Send + 'static,
    {
        let fault = self
            .planned
            .lock()
            .expect("no panic")
            .map(|(_, fault)| fault);
        let was = self.fired();
        let messages = self.pass(call, ask).await?.into_inner();
        let messages: Streamed<T> = match fault.filter(|_| self.fired() > was) {
            Some(Fault::CutAfter(n)) => {
                let broken = stream::once(async { Err(lost()) });
                messages.take(n).chain(broken).boxed()
            }
            Some(Fault::LeavesAfter(n)) => messages.take(n).boxed(),
            _ => messages.boxed(),
        };
        Ok(Response::new(messages))
    }
}

#[tonic::async_trait]
impl wire::jobs_server::Jobs for Relay {
    async fn submit(&self, request: Request<wire::SubmitRequest>) -> Answer<wire::SubmitReply> {
        let request = request.into_inner();
        let ask = |mut driver: JobsClient<_>| {
            let request = request.clone();
            async move { driver.submit(request).await }
        };
        self.pass("submit", ask).await
    }

    type WatchStream = Streamed<wire::JobStatus>;

    async fn watch(&self, request: Request<wire::JobRequest>) -> Answer<Self::WatchStream> {
        let request = request.into_inner();
        let ask = |mut driver: JobsClient<_>| async move { driver.watch(request).await };
        self.pass_stream("watch", ask).await
    }

    async fn get(&self, request: Request<wire::JobRequest>) -> Answer<wire::JobStatus> {
        let request = request.into_inner();
        let ask = |mut driver: JobsClient<_>| async move { driver.get(request).await };
        self.pass("get", ask).await
    }

    type ListStream = Streamed<wire::JobStatus>;

    async fn list(&self, request: Request<wire::ListRequest>) -> Answer<Self::ListStream> {
        let request = request.into_inner();
        let ask = |mut driver: JobsClient<_>| async move { driver.list(request).await };
        self.pass_stream("list", ask).await
    }

    async fn cancel(&self, request: Request<wire::JobRequest>) -> Answer<wire::CancelReply> {
        let request = request.into_inner();
        let ask = |mut driver: JobsClient<_>| async move { driver.cancel(request).await };
        self.pass("cancel", ask).await
    }

    async fn explain(&self, request: Request<wire::ExplainRequest>) -> Answer<wire::ExplainReply> {
        let request = request.into_inner();
        let ask = |mut driver: JobsClient<_>| {
            let request = request.clone();
            async move { driver.explain(request).await }
        };
        self.pass("explain", ask).await
    }

    type ResultStream = Streamed<wire::ResultMessage>;

    async fn result(&self, request: Request<wire::JobRequest>) -> Answer<Self::ResultStream> {
        let request = request.into_inner();
        let ask = |mut driver: JobsClient<_>| async move { driver.result(request).await };
        self.pass_stream("result", ask).await
    }

    async fn executors(&self, request: Request<wire::ListRequest>) -> Answer<wire::ExecutorsReply> {
        let request = request.into_inner();
        let ask = |mut driver: JobsClient<_>| async move { driver.executors(request).await };
        self.pass("executors", ask).await
    }

    async fn find_program(
        &self,
        request: Request<wire::FindProgramRequest>,
    ) -> Answer<wire::FindProgramReply> {
        let request = request.into_inner();
        let ask = |mut driver: JobsClient<_>| {
            let request = request.clone();
            async move { driver.find_program(request).await }
        };
        self.pass("find_program", ask).await
    }

    async fn stage_program(
        &self,
        request: Request<Streaming<wire::ProgramPiece>>,
    ) -> Answer<wire::StageProgramReply> {
        let pieces = request.into_inner();
        let pieces: Vec<_> = pieces.try_collect().await?;
        let ask = |mut driver: JobsClient<_>| {
            let pieces = stream::iter(pieces.clone());
            async move { driver.stage_program(pieces).await }
        };
        self.pass("stage_program", ask).await
    }
}

/// A driver with an executor, and a client that asks it through a relay.
struct Stage {
    relay: Relay,
    client: Client,
    driver: DriverHandle,
    directory: tempfile::TempDir,
}

async fn listen() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    (listener, url)
}

async fn start() -> Stage {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let shuffle = ShuffleStore::new(store, "shuffle".into(), Compression::Lz4);
    let stores = Arc::new(Stores::new());
    let settings = DriverSettings {
        allow_programs: true,
        ..DriverSettings::default()
    };
    let components = kiln_driver::Components {
        stores: Arc::clone(&stores),
        shuffle: shuffle.clone(),
        journal: None,
        storage_url: "memory:///shuffle".to_owned(),
    };
    let driver = Driver::start(settings, components).expect("valid settings");
    let (listener, url) = listen().await;
    let served = service::serve(driver.clone(), listener, std::future::pending());
    tokio::spawn(served);

    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build();
    let pool = Arc::new(pool.expect("a thread"));
    let components = Components::new(stores, pool, MemoryBudget::new(1 << 30), Some(shuffle));
    let mut settings = ExecutorSettings::new("only", 1, 1 << 30);
    settings.driver = vec![url.clone()];
    let worked = kiln_executor::serve(settings, components, std::future::pending());
    tokio::spawn(Box::pin(worked));

    let channel = wire::connect(&url, Duration::from_secs(5)).await;
    let relay = Relay {
        driver: wire::jobs_client(channel.expect("it listens")),
        planned: Arc::default(),
        fired: Arc::default(),
    };
    let (listener, url) = listen().await;
    let between = tonic::transport::Server::builder()
        .add_service(wire::jobs_server(relay.clone()))
        .serve_with_incoming(TcpIncoming::from(listener));
    tokio::spawn(between);
    let client = Client::connect(&url).await.expect("the relay listens");
    while client.executors().await.expect("it answers").is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Stage {
        relay,
        client,
        driver,
        directory: tempfile::tempdir().expect("a temporary directory"),
    }
}

impl Stage {
    /// Lines of text, in lower case.
    fn plan(&self, bytes: usize) -> LogicalPlan {
        let path = self.directory.path().join(format!("text-{bytes}.txt"));
        let mut random = fastrand::Rng::with_seed(7);
        let mut text = String::new();
        while text.len() < bytes {
            text.push_str(&format!("Line {}\n", random.u64(..)));
        }
        std::fs::write(&path, text).expect("room for a file");
        let field = |name, data_type| Field::new(name, data_type, false);
        let lines = LogicalPlan::Scan(Scan {
            predicate: None,
            locations: vec![local_url(&path)],
            format: ScanFormat::Text(TextOptions::default()),
            schema: Arc::new(Schema::new(vec![
                field("path", DataType::Utf8View),
                field("offset", DataType::Int64),
                field("line", DataType::Utf8View),
            ])),
            projection: None,
        });
        LogicalPlan::Project {
            input: Arc::new(lines),
            exprs: vec![col("offset"), lower(col("line")).alias("line")],
        }
    }

    async fn submit(&self, key: u64, bytes: usize) -> JobId {
        let submission = Submission {
            name: format!("job {key}"),
            key,
            plan: self.plan(bytes),
            program: None,
            weight: 1,
        };
        let submitted = self.client.submit(&submission).await;
        submitted.expect("the job is taken")
    }

    async fn ended(&self, job: JobId) -> JobState {
        let statuses = self.client.watch(job).await.expect("the job is known");
        let states: Vec<_> = statuses
            .map_ok(|status| status.state)
            .try_collect()
            .await
            .expect("a final status");
        let is_final: Vec<_> = states.iter().map(|state| state.is_final()).collect();
        let finals = is_final.iter().filter(|is_final| **is_final).count();
        assert!(finals == 1 && is_final.last() == Some(&true), "{states:?}");
        *states.last().expect("one at least")
    }

    /// Does `work`, in which `call` goes wrong once.
    async fn with<T>(&self, call: &'static str, fault: Fault, work: impl Future<Output = T>) -> T {
        let before = self.relay.fired();
        self.relay.plan(call, fault);
        let outcome = work.await;
        assert_eq!(self.relay.fired(), before + 1, "{call} had no {fault:?}");
        outcome
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_call_is_answered_once_though_messages_are_lost_repeated_and_late() {
    let stage = start().await;
    let client = &stage.client;
    let job = stage.submit(1, 100).await;
    assert_eq!(stage.ended(job).await, JobState::Done);
    let rows = client.result(job).await.expect("the job is done");
    let mut jobs = vec![job];
    for (key, fault) in (2..).zip(ALL) {
        let next = stage.with("submit", fault, stage.submit(key, 100)).await;
        jobs.push(next);
        let ended = stage.with("watch", fault, stage.ended(next)).await;
        assert_eq!(ended, JobState::Done, "{fault:?}");
        let status = stage.with("get", fault, client.get(next)).await;
        assert_eq!(status.expect("the job is known").id, next, "{fault:?}");
        let listed = stage.with("list", fault, client.list()).await;
        let listed = listed.expect("a list").into_iter().map(|status| status.id);
        assert_eq!(listed.collect::<Vec<_>>(), jobs, "{fault:?}");
        let plan = stage.plan(100);
        let text = stage.with("explain", fault, client.explain(&plan)).await;
        assert!(text.expect("a plan").contains("lower"), "{fault:?}");
        let executors = stage.with("executors", fault, client.executors()).await;
        assert_eq!(executors.expect("one").len(), 1, "{fault:?}");
        let again = stage.with("result", fault, client.result(job)).await;
        assert_eq!(again.expect("a result"), rows, "{fault:?}");
        // A job that has ended is not stopped any more, however often that is asked.
        let cancelled = stage.with("cancel", fault, client.cancel(next)).await;
        cancelled.expect("the job is known");
        assert_eq!(stage.ended(next).await, JobState::Done, "{fault:?}");
    }
    // What was on its way has arrived by then, and no request has made a job of its own.
    tokio::time::sleep(2 * LATE_BY).await;
    let known: Vec<_> = stage
        .driver
        .list()
        .expect("it leads")
        .iter()
        .map(|status| status.id)
        .collect();
    assert_eq!(known, jobs);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_is_brought_whole_though_messages_are_lost_repeated_and_late() {
    let stage = start().await;
    for (number, fault) in ALL.into_iter().enumerate() {
        for call in ["find_program", "stage_program"] {
            let path = stage.directory.path().join("program");
            std::fs::write(&path, format!("{call} {number}")).expect("room for a file");
            let (sha256, bytes) = sha256_of_file(&path).expect("a file");
            let opened = AtomicU64::new(0);
            let pieces = || {
                opened.fetch_add(1, Ordering::Relaxed);
                let piece = std::fs::read(&path).expect("a file").into();
                stream::iter([Ok(piece)]).boxed()
            };
            let staged = stage.client.stage_program(sha256, bytes, pieces);
            let staged = stage.with(call, fault, staged).await;
            staged.expect("the driver takes programs");
            let is_there = stage.driver.has_program(sha256).await;
            assert!(is_there.expect("an answer"), "{call} {fault:?}");
            let opened = opened.into_inner();
            let is_twice = call == "stage_program"
                && matches!(fault, Fault::RequestLost | Fault::Late | Fault::Standby);
            assert_eq!(opened, 1 + u64::from(is_twice), "{call} {fault:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_arrive_once_wherever_their_stream_breaks() {
    let stage = start().await;
    let bytes = usize::try_from(2 * limits::TASK_INPUT_BYTES_MIN).expect("a few megabytes");
    let job = stage.submit(1, bytes).await;
    let whole = stage.client.result(job).await.expect("the job is done");
    assert!(whole.len() > 2, "there is nothing between two batches");
    let rows = |batches: &[RecordBatch]| -> usize { batches.iter().map(|b| b.num_rows()).sum() };
    // The schema is the first message.
    for fault in (1..4).map(Fault::CutAfter) {
        let read = stage.with("result", fault, stage.client.result(job)).await;
        let read = read.expect("the job is done");
        assert_eq!(rows(&read), rows(&whole), "{fault:?}");
        assert!(read == whole, "{fault:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watched_job_is_watched_to_its_end_wherever_the_stream_breaks() {
    let stage = start().await;
    let mut key = 0;
    for messages in 0..3 {
        for fault in [Fault::CutAfter(messages), Fault::LeavesAfter(messages)] {
            key += 1;
            let job = stage.submit(key, 100).await;
            let ended = stage.with("watch", fault, stage.ended(job)).await;
            assert_eq!(ended, JobState::Done, "{fault:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_driver_says_is_an_answer_though_something_was_not_there() {
    let stage = start().await;
    let (client, plan) = (&stage.client, stage.plan(100));
    let job = stage.submit(1, 100).await;
    assert_eq!(stage.ended(job).await, JobState::Done);
    let told = |error: Error| {
        let error = (error.kind(), error.message().to_owned());
        assert_eq!(error, (ErrorKind::Unavailable, TROUBLE.to_owned()));
    };
    let trouble = Fault::Trouble;
    let explained = stage.with("explain", trouble, client.explain(&plan)).await;
    told(explained.expect_err("the driver says so"));
    let result = stage.with("result", trouble, client.result(job)).await;
    told(result.expect_err("the driver says so"));
    let unknown = client.get(JobId::new(0xdead)).await;
    assert_eq!(unknown.expect_err("no such job").kind(), ErrorKind::Invalid);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn patience_with_a_driver_that_is_gone_ends() {
    let (listener, url) = listen().await;
    let stage = start().await;
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let between = tonic::transport::Server::builder()
        .add_service(wire::jobs_server(stage.relay.clone()))
        .serve_with_incoming_shutdown(TcpIncoming::from(listener), async {
            let _ = stopped.await;
        });
    let between = tokio::spawn(between);
    let patience = Duration::from_millis(300);
    let settings = ClientSettings {
        patience,
        ..ClientSettings::new(url.parse().expect("a URL"))
    };
    let client = Client::connect_with(settings).await.expect("it listens");
    drop(stop);
    between.await.expect("no panic").expect("a normal end");
    let error = client.list().await.expect_err("nobody is there");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    let text = format!("the driver did not come back in {patience:?} url={url}");
    assert_eq!(error.message(), text);
    assert!(error.report().contains("refused"), "{}", error.report());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_a_list_the_driver_that_leads_is_found() {
    let stage = start().await;
    let (standing_still, silent) = listen().await;
    let (gone, refused) = listen().await;
    drop(gone);
    let (listener, url) = listen().await;
    let between = tonic::transport::Server::builder()
        .add_service(wire::jobs_server(stage.relay.clone()))
        .serve_with_incoming(TcpIncoming::from(listener));
    tokio::spawn(between);
    // Its first answer is that it does not lead, the next one that it does.
    stage.relay.plan("executors", Fault::Standby);
    let client = Client::connect(&format!("{refused},{silent},{url}")).await;
    let client = client.expect("one of them leads");
    assert_eq!(stage.relay.fired(), 1);
    assert_eq!(client.executors().await.expect("it answers").len(), 1);
    drop(standing_still);

    let error = Client::connect(&format!("{refused},http://127.0.0.1:1")).await;
    let error = error.expect_err("nobody is there");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    let text = format!("cannot reach any driver url={refused},http://127.0.0.1:1");
    assert_eq!(error.message(), text);
}
