//! What takes time ends, whatever happens to it, and leaves nothing behind.

use arrow::datatypes::Schema;
use futures::TryStreamExt;
use kiln_engine::ErrorKind;
use kiln_engine::plan::{FileFormat, OutputOptions, Scan, ScanFormat, TextOptions};
use kiln_engine::storage::Compression;
use kiln_testkit::{Failure, Fault, FaultyStore, Op, Rule};
use object_store::memory::InMemory;
use object_store::{ObjectMeta, ObjectStore};

use super::*;

#[tokio::test]
async fn work_ends_though_it_panics_or_is_never_answered() {
    let panics = contain::<()>("planning", async { panic!("a defect") }).await;
    let error = panics.expect_err("it panics");
    assert_eq!(error.kind(), ErrorKind::Internal);
    assert_eq!(error.message(), "planning panicked: a defect");
    let silence = std::future::pending::<Result<()>>();
    let error = contain_within(Duration::from_millis(1), "committing", silence).await;
    let error = error.expect_err("nobody answers");
    assert_eq!(error.kind(), ErrorKind::Exhausted);
    assert_eq!(error.message(), "committing took too long limit=1ms");
}

#[tokio::test]
async fn planning_leaves_the_threads_that_hear_heartbeats_alone() {
    let here = std::thread::current().id();
    let elsewhere = aside(async move { Ok(std::thread::current().id()) }).await;
    assert_ne!(elsewhere.expect("a thread"), here);
    let panics = aside::<()>(async { panic!("a defect") });
    let error = contain("planning", panics).await.expect_err("it panics");
    assert_eq!(error.message(), "planning panicked: a defect");
}

#[tokio::test]
async fn an_output_that_cannot_be_prepared_leaves_nothing_behind() {
    let store = FaultyStore::with_multipart(InMemory::new());
    let puts = [Op::Put, Op::PutIfAbsent];
    let lost = store.add(Rule::new(&puts, Fault::LoseAnswer(Failure::RESET)));
    let stores = Stores::new();
    stores.insert_multipart("memory://", Arc::clone(&store));
    let shuffle = ShuffleStore::new(store.clone(), "shuffle".into(), Compression::None);
    let parts = Components {
        stores: Arc::new(stores),
        shuffle,
        storage_url: "memory:///shuffle".to_owned(),
        journal: None,
    };
    let cluster = ClusterShape {
        executors: 0,
        threads: 0,
        memory: 0,
        may_grow: false,
    };
    let job = JobId::new(1);
    let planned = plan(parts, job, JobPlanner::new(written()), Vec::new(), cluster).await;
    let Some(Event::PlanFailed { failure, .. }) = planned else {
        panic!("it cannot be written: {planned:?}");
    };
    assert_eq!(failure.kind, ErrorKind::Unavailable, "{failure:?}");
    assert!(lost.count() > 0);
    let left: Vec<ObjectMeta> = store.list(None).try_collect().await.expect("a listing");
    assert_eq!(left, []);
}

fn written() -> LogicalPlan {
    let scan = LogicalPlan::Scan(Scan {
        predicate: None,
        locations: vec!["memory:///nothing".to_owned()],
        format: ScanFormat::Text(TextOptions::default()),
        schema: Arc::new(Schema::empty()),
        projection: None,
    });
    LogicalPlan::Write {
        input: Arc::new(scan),
        output: Output {
            url: "memory:///out".to_owned(),
            format: FileFormat::Json,
            options: OutputOptions::default(),
        },
    }
}
