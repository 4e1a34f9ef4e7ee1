//! Which jobs a driver takes: as many as it is told to, of a weight that there is.

use std::sync::Arc;

use arrow::datatypes::Schema;
use kiln_driver::{Components, Driver, DriverHandle, DriverSettings};
use kiln_engine::plan::{LogicalPlan, Scan, ScanFormat, TextOptions};
use kiln_engine::storage::{Compression, ShuffleStore, Stores};
use kiln_engine::{ErrorKind, Result};
use kiln_proto::message::Submission;
use object_store::memory::InMemory;

fn start(jobs_max: usize) -> DriverHandle {
    let settings = DriverSettings {
        jobs_max,
        ..DriverSettings::default()
    };
    let store = Arc::new(InMemory::new());
    let components = Components {
        stores: Arc::new(Stores::new()),
        shuffle: ShuffleStore::new(store, "shuffle".into(), Compression::None),
        journal: None,
        storage_url: "memory:///shuffle".to_owned(),
    };
    Driver::start(settings, components).expect("the settings are valid")
}

fn submission(key: u64, weight: u32) -> Submission {
    Submission {
        name: "a job".to_owned(),
        key,
        plan: LogicalPlan::Scan(Scan {
            predicate: None,
            locations: vec!["memory:///nothing".to_owned()],
            format: ScanFormat::Text(TextOptions::default()),
            schema: Arc::new(Schema::empty()),
            projection: None,
        }),
        program: None,
        weight,
    }
}

fn check<T>(answer: Result<T>, kind: ErrorKind, message: &str) {
    let error = answer.err().expect("the job is refused");
    assert_eq!((error.kind(), error.message()), (kind, message));
}

#[tokio::test]
async fn more_jobs_than_the_driver_takes_are_refused_until_one_has_ended() {
    let driver = start(2);
    let first = driver.submit(submission(1, 1)).await;
    let first = first.expect("there is room");
    driver
        .submit(submission(2, 1))
        .await
        .expect("there is room");
    check(
        driver.submit(submission(3, 1)).await,
        ErrorKind::Exhausted,
        "the driver has as many jobs as it takes: submit again when one has ended, cancel one, or \
         start the driver with a larger --max-jobs jobs=2 jobs_max=2",
    );
    // One that it has already is no new one.
    let again = driver.submit(submission(1, 1)).await;
    assert_eq!(again.expect("it was taken"), first);
    driver.cancel(first).await.expect("the job is known");
    let third = driver.submit(submission(3, 1)).await;
    third.expect("there is room again");
}

#[tokio::test]
async fn of_a_thousand_submissions_at_once_as_many_are_taken_as_the_driver_takes() {
    let driver = start(100);
    let submissions = (0..1_000).map(|key| driver.submit(submission(key, 1)));
    let answers = futures::future::join_all(submissions).await;
    let refused: Vec<_> = answers
        .iter()
        .filter_map(|answer| answer.as_ref().err())
        .collect();
    assert_eq!(answers.len() - refused.len(), 100);
    assert!(
        refused
            .iter()
            .all(|error| error.kind() == ErrorKind::Exhausted)
    );
    // It still answers.
    let taken = answers.iter().flatten().next().expect("some were taken");
    driver.cancel(*taken).await.expect("the job is known");
    let one_more = driver.submit(submission(1_000, 1)).await;
    one_more.expect("there is room again");
}

#[tokio::test]
async fn a_weight_that_there_is_not_is_refused() {
    let driver = start(9);
    for (key, weight) in [(1, 0), (2, 1_001)] {
        check(
            driver.submit(submission(key, weight)).await,
            ErrorKind::Invalid,
            &format!("a job's weight is out of range weight={weight} weight_min=1 weight_max=1000"),
        );
    }
    for (key, weight) in [(3, 1), (4, 1_000)] {
        let taken = driver.submit(submission(key, weight)).await;
        taken.expect("the weight is in range");
    }
}
