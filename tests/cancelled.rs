//! A job that is cancelled while a store does not answer.
//!
//! The driver, the executor and the engine are the real ones. The store stands still at a kind of
//! request that the test names, which is awaited; when the job is cancelled the request must be
//! given up and the executor's slot must be free for another job, though the store never answers.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema};
use futures::stream;
use kiln_driver::{Driver, DriverHandle, DriverSettings};
use kiln_engine::expr::{col, count_all};
use kiln_engine::id::JobId;
use kiln_engine::limits;
use kiln_engine::memory::MemoryBudget;
use kiln_engine::plan::{LogicalPlan, Scan, ScanFormat, TextOptions};
use kiln_engine::storage::{Compression, ShuffleStore, Stores, local_url};
use kiln_executor::{Components, ExecutorSettings, Link};
use kiln_proto::message::{FromExecutor, JobState, Submission};
use kiln_testkit::{Fault, FaultyStore, Fired, Op, Rule};
use object_store::memory::InMemory;
use tokio::sync::mpsc;

/// Requests by which an object comes into the store.
const WRITING: &[Op] = &[Op::Put, Op::PutIfAbsent, Op::CreateMultipart];

/// A driver and an executor with a single slot, over a store that stands still.
struct Stage {
    driver: DriverHandle,
    store: Arc<FaultyStore>,
    /// The requests at which the store stands still.
    held: Fired,
    directory: tempfile::TempDir,
}

async fn start(at: &[Op]) -> Stage {
    let store = FaultyStore::new(Arc::new(InMemory::new()));
    let held = store.add(Rule::new(at, Fault::Hold));
    let shuffle = ShuffleStore::new(store.clone(), "shuffle".into(), Compression::Lz4);
    let stores = Arc::new(Stores::new());
    let components = kiln_driver::Components {
        stores: Arc::clone(&stores),
        shuffle: shuffle.clone(),
        journal: None,
        storage_url: "memory:///shuffle".to_owned(),
    };
    let driver = Driver::start(DriverSettings::default(), components).expect("valid settings");
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build();
    let pool = Arc::new(pool.expect("a thread"));
    let components = Components::new(stores, pool, MemoryBudget::new(1 << 30), Some(shuffle));
    let mut settings = ExecutorSettings::new("only", 1, 1 << 30);
    settings.slots = 1;
    let (to_driver, mut said) = mpsc::channel(64);
    let (told, from_driver) = mpsc::channel(64);
    let link = Link {
        to_driver,
        from_driver,
    };
    let works = kiln_executor::run(settings, components, link, std::future::pending());
    tokio::spawn(Box::pin(works));
    let handle = driver.clone();
    tokio::spawn(async move {
        let Some(FromExecutor::Register(registration)) = said.recv().await else {
            panic!("an executor registers first");
        };
        let attached = handle.attach(registration, told).await;
        let messages = stream::poll_fn(|context| said.poll_recv(context));
        attached.expect("it is welcome").carry(messages).await;
    });
    Stage {
        driver,
        store,
        held,
        directory: tempfile::tempdir().expect("a temporary directory"),
    }
}

impl Stage {
    /// Counts lines, in two stages.
    async fn submit(&self, key: u64) -> JobId {
        let path = self.directory.path().join("text.txt");
        // Enough for two tasks, whose output has to be read by a third.
        let bytes = usize::try_from(2 * limits::TASK_INPUT_BYTES_MIN).expect("a few megabytes");
        let line = "one and the same line\n";
        std::fs::write(&path, line.repeat(bytes / line.len() + 1)).expect("room for a file");
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
        let plan = LogicalPlan::Aggregate {
            input: Arc::new(lines),
            group_by: vec![col("line")],
            aggregates: vec![count_all().alias("count")],
        };
        let submission = Submission {
            name: "count".to_owned(),
            key,
            plan,
            program: None,
            weight: 1,
        };
        let submitted = self.driver.submit(submission).await;
        submitted.expect("the job is taken")
    }

    /// Waits until the store stands still at another request than those of before.
    async fn stands_still(&self, before: u64) {
        self.held.reached(before + 1).await;
    }

    async fn ended(&self, job: JobId) -> JobState {
        let mut status = self.driver.watch(job).expect("the job is known");
        let ended = status.wait_for(|status| status.state.is_final()).await;
        ended.expect("the driver is there").state
    }
}

async fn check(at: &[Op], and_removing: bool) {
    let stage = start(at).await;
    // What was begun is not removed either.
    let removing = Rule::new(&[Op::Delete], Fault::Hold);
    let removing = and_removing.then(|| stage.store.add(removing));
    let job = stage.submit(1).await;
    stage.stands_still(0).await;
    stage.driver.cancel(job).await.expect("the job is known");
    assert_eq!(stage.ended(job).await, JobState::Cancelled);
    stage.held.deserted().await;
    // The only slot is free: the next job comes as far as the first one, and further if it may.
    let before = stage.held.count();
    let next = stage.submit(2).await;
    stage.stands_still(before).await;
    stage.driver.cancel(next).await.expect("the job is known");
    stage.held.deserted().await;
    stage.held.release();
    let last = stage.submit(3).await;
    assert_eq!(stage.ended(last).await, JobState::Done);
    if let Some(removing) = removing {
        removing.reached(1).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_that_waits_for_what_it_reads_is_given_up() {
    check(&[Op::Get, Op::Head], false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_that_waits_for_what_it_writes_is_given_up() {
    check(WRITING, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_whose_output_cannot_be_removed_is_given_up() {
    check(WRITING, true).await;
}
