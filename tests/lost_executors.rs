//! A whole job through a [`DriverHandle`], with executors in this process that vanish in the
//! middle of it.
//!
//! The driver, the executors and the engine are the real ones; only the links between them are
//! channels. Nothing is left to chance or time: an executor is made to stand still at the first
//! task of a stage, that is awaited, and then it is dropped with all that it holds.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Int64Type, Schema};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use kiln_driver::{Driver, DriverHandle, DriverSettings};
use kiln_engine::expr::{col, count_all, words};
use kiln_engine::id::{JobId, StageId};
use kiln_engine::memory::MemoryBudget;
use kiln_engine::plan::{LogicalPlan, Scan, ScanFormat, TextOptions};
use kiln_engine::shuffle::decode_blocks;
use kiln_engine::storage::{Compression, ShuffleStore, Stores, local_url};
use kiln_engine::{ErrorKind, limits, task};
use kiln_executor::{Components, ExecutorSettings, Link, Runner};
use kiln_proto::message::{AttemptState, FromExecutor, JobState, Submission};
use object_store::ObjectStore;
use object_store::memory::InMemory;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

const MESSAGES_MAX: usize = 64;

/// A driver, and what it and its executors share.
struct Cluster {
    driver: DriverHandle,
    objects: Arc<InMemory>,
    shuffle: ShuffleStore,
    stores: Arc<Stores>,
}

/// An executor that stands still at the first task of a stage.
struct Executor {
    life: JoinHandle<()>,
    stands_still: mpsc::Receiver<()>,
}

impl Cluster {
    fn start() -> Self {
        let objects = Arc::new(InMemory::new());
        let store: Arc<dyn ObjectStore> = objects.clone();
        let shuffle = ShuffleStore::new(store, "shuffle".into(), Compression::Lz4);
        let stores = Arc::new(Stores::new());
        // Whoever vanishes is lost at once.
        let settings = DriverSettings {
            reconnect_ms: 0,
            ..DriverSettings::default()
        };
        let components = kiln_driver::Components {
            stores: Arc::clone(&stores),
            shuffle: shuffle.clone(),
            storage_url: "memory:///shuffle".to_owned(),
            journal: None,
        };
        let driver = Driver::start(settings, components).expect("valid settings");
        Cluster {
            driver,
            objects,
            shuffle,
            stores,
        }
    }

    /// Starts an executor and waits until the driver knows it.
    async fn join(&self, name: &str, stand_still_at: Option<StageId>) -> Executor {
        let (caught, stands_still) = mpsc::channel(limits::TASKS_AT_ONCE);
        let run: Runner = Arc::new(move |spec, context| {
            let caught = (Some(spec.id.stage) == stand_still_at).then(|| caught.clone());
            Box::pin(async move {
                if let Some(caught) = caught {
                    caught.send(()).await.expect("the test waits for it");
                    std::future::pending::<()>().await;
                }
                task::run(spec, context).await
            })
        });
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build();
        let components = Components {
            run,
            ..Components::new(
                Arc::clone(&self.stores),
                Arc::new(pool.expect("a thread")),
                MemoryBudget::new(1 << 30),
                Some(self.shuffle.clone()),
            )
        };
        let (to_driver, mut said) = mpsc::channel(MESSAGES_MAX);
        let (told, from_driver) = mpsc::channel(MESSAGES_MAX);
        let link = Link {
            to_driver,
            from_driver,
        };
        let settings = ExecutorSettings::new(name, 1, 1 << 30);
        let works = kiln_executor::run(settings, components, link, std::future::pending());
        let driver = self.driver.clone();
        let (joined, known) = tokio::sync::oneshot::channel();
        let talks = async move {
            let first = said.recv().await;
            let Some(FromExecutor::Register(registration)) = first else {
                panic!("not a registration: {first:?}");
            };
            let attachment = driver
                .attach(registration, told)
                .await
                .expect("it is welcome");
            joined.send(()).expect("the test waits for it");
            attachment
                .carry(stream::poll_fn(|context| said.poll_recv(context)))
                .await;
        };
        let life = tokio::spawn(async move {
            let (_exit, ()) = tokio::join!(works, talks);
        });
        known.await.expect("it registers");
        Executor { life, stands_still }
    }

    async fn rows(&self, job: JobId) -> BTreeMap<String, i64> {
        let result = self.driver.result(job).await.expect("the job is done");
        let chunks: Vec<_> = result.chunks.try_collect().await.expect("a whole result");
        let mut counts = BTreeMap::new();
        for chunk in chunks {
            decode_blocks(chunk, Some(&result.schema), &mut |batch| {
                add(&mut counts, &batch);
                Ok(())
            })
            .expect("blocks");
        }
        counts
    }

    async fn objects(&self) -> Vec<String> {
        let listed = self
            .objects
            .list(None)
            .map(|object| object.expect("memory"));
        listed
            .map(|object| object.location.to_string())
            .collect()
            .await
    }
}

impl Executor {
    /// Waits until it stands still, then lets it vanish.
    async fn vanishes(mut self) {
        self.stands_still.recv().await.expect("it gets a task");
        self.life.abort();
        assert!(self.life.await.is_err_and(|end| end.is_cancelled()));
    }
}

fn add(counts: &mut BTreeMap<String, i64>, batch: &RecordBatch) {
    let keys = cast(batch.column(0), &DataType::Utf8View).expect("text");
    let sums = cast(batch.column(1), &DataType::Int64).expect("numbers");
    let sums = sums.as_primitive::<Int64Type>().values();
    for (key, sum) in keys.as_string_view().iter().zip(sums) {
        let before = counts.insert(key.expect("no nulls").to_owned(), *sum);
        assert_eq!(before, None, "a word twice: {key:?}");
    }
}

/// Words enough for two tasks, and how often each is in there.
fn text() -> (String, BTreeMap<String, i64>) {
    let bytes = usize::try_from(2 * limits::TASK_INPUT_BYTES_MIN).expect("a few megabytes");
    let mut random = fastrand::Rng::with_seed(7);
    let (mut text, mut counts) = (String::new(), BTreeMap::new());
    while text.len() < bytes {
        let word = format!("word-{}", random.u32(0..5_000));
        let end = if random.u8(..) < 25 { '\n' } else { ' ' };
        write!(text, "{word}{end}").expect("memory");
        *counts.entry(word).or_default() += 1;
    }
    (text, counts)
}

fn word_count(location: String) -> LogicalPlan {
    let field = |name, data_type| Field::new(name, data_type, false);
    let lines = LogicalPlan::Scan(Scan {
        predicate: None,
        locations: vec![location],
        format: ScanFormat::Text(TextOptions::default()),
        schema: Arc::new(Schema::new(vec![
            field("path", DataType::Utf8View),
            field("offset", DataType::Int64),
            field("line", DataType::Utf8View),
        ])),
        projection: None,
    });
    let lists = LogicalPlan::Project {
        input: Arc::new(lines),
        exprs: vec![words(col("line")).alias("word")],
    };
    let rows = LogicalPlan::Explode {
        input: Arc::new(lists),
        column: "word".to_owned(),
    };
    LogicalPlan::Aggregate {
        input: Arc::new(rows),
        group_by: vec![col("word")],
        aggregates: vec![count_all().alias("count")],
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_outlives_the_executors_of_each_of_its_stages() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (text, expected) = text();
    std::fs::write(directory.path().join("text.txt"), text).expect("room for a file");
    let plan = word_count(local_url(directory.path()));

    let cluster = Cluster::start();
    let (map, reduce) = (StageId(0), StageId(1));
    let first = cluster.join("first", Some(map)).await;
    let second = cluster.join("second", Some(reduce)).await;
    let submission = Submission {
        name: "count".to_owned(),
        key: 1,
        plan,
        program: None,
        weight: 1,
    };
    let submitted = cluster.driver.submit(submission).await;
    let job = submitted.expect("the job is taken");
    first.vanishes().await;
    second.vanishes().await;
    // Nobody is left, and the job waits for whoever comes.
    let _third = cluster.join("third", None).await;

    assert!(cluster.rows(job).await == expected, "the counts differ");
    assert!(cluster.rows(job).await == expected, "read again");
    let status = cluster.driver.get(job).expect("the job is known");
    assert_eq!(status.state, JobState::Done);
    for (stage, victim) in status.stages.iter().zip(["first", "second"]) {
        let lost = |state| state == AttemptState::Lost;
        let attempts: Vec<_> = stage
            .attempts
            .iter()
            .map(|attempt| (attempt.executor.as_str(), lost(attempt.state)))
            .collect();
        assert!(attempts.contains(&(victim, true)), "{attempts:?}");
        let others = attempts.iter().any(|(name, lost)| *lost && *name != victim);
        assert!(!others, "{attempts:?}");
        assert_eq!(stage.done, stage.tasks, "{attempts:?}");
    }

    let kept = cluster.objects().await;
    let result = format!("{job}/{reduce}/");
    assert!(kept.iter().all(|name| name.contains(&result)), "{kept:?}");
    assert!(!kept.is_empty());
    cluster.driver.shutdown().await;
    assert_eq!(cluster.objects().await, [""; 0]);
    let error = cluster.driver.result(job).await.err();
    assert_eq!(error.expect("it is gone").kind(), ErrorKind::Invalid);
}
