//! Jobs whose executor finds its disk full: the attempt fails and says so, and the next one, which
//! finds room, is right.
//!
//! The driver, the executor and the engine are the real ones. Nothing is left to time: whatever
//! runs an attempt fills the disk before a task's first one, and makes room when that has ended.
//! There is one slot and one thread, so nobody else takes from the disk or gives back.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use arrow::array::{BinaryArray, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema};
use arrow::util::display::array_value_to_string;
use futures::{TryStreamExt as _, stream};
use kiln_driver::{Driver, DriverHandle, DriverSettings};
use kiln_engine::expr::{col, count_all, max};
use kiln_engine::id::{JobId, TaskId};
use kiln_engine::memory::{DiskBudget, MemoryBudget};
use kiln_engine::plan::{JoinKind, LogicalPlan, Scan, ScanFormat, TaskFailure, TextOptions};
use kiln_engine::shuffle::decode_blocks;
use kiln_engine::spill::RunWriter;
use kiln_engine::storage::{Compression, ShuffleStore, Stores, local_url};
use kiln_engine::{ErrorKind, task};
use kiln_executor::{Components, ExecutorSettings, Link, Runner};
use kiln_proto::message::{AttemptState, FromExecutor, JobState, Submission};
use object_store::memory::InMemory;
use tempfile::TempDir;
use tokio::sync::{mpsc, oneshot};

/// Lines of a file.
const LINES: u64 = 150_000;

/// Bytes of memory, of which the lines take several times as much.
const MEMORY: u64 = 2 << 20;

/// Bytes of disk: enough for any of the jobs.
const DISK: u64 = 32 << 20;

/// Bytes of the blocks that fill the disk. About as much of it is left: enough for an attempt to
/// begin to write, and less than any of those that do needs.
const BLOCK: usize = 2 << 20;

/// Bytes of the disk that were taken, as whatever runs attempts has seen it.
#[derive(Debug, Clone, Copy)]
struct Taken {
    /// Before the attempt.
    before: u64,
    /// When it had ended.
    after: u64,
}

/// Of every attempt that has ended.
type Seen = Arc<Mutex<BTreeMap<(TaskId, u32), Taken>>>;

/// A driver, and an executor whose disk is full.
struct Cluster {
    driver: DriverHandle,
    disk: Arc<DiskBudget>,
    seen: Seen,
    directory: TempDir,
}

/// Takes what there is of the disk, until the writer is dropped; less than a block is left.
fn fill(disk: &Arc<DiskBudget>) -> RunWriter {
    let mut bytes = vec![0; BLOCK];
    fastrand::Rng::with_seed(1).fill(&mut bytes);
    let column = BinaryArray::from_iter_values([bytes]);
    let batch = RecordBatch::try_from_iter([("bytes", Arc::new(column) as _)]);
    let batch = batch.expect("a column");
    let mut writer = RunWriter::new(disk, &batch.schema(), 1).expect("a file");
    let full = std::iter::repeat_with(|| writer.write(0, &batch)).find_map(Result::err);
    assert_eq!(full.map(|error| error.kind()), Some(ErrorKind::Exhausted));
    writer
}

impl Cluster {
    /// Returns when the driver knows the executor.
    async fn start() -> Self {
        let store = Arc::new(InMemory::new());
        let shuffle = ShuffleStore::new(store, "shuffle".into(), Compression::Lz4);
        let stores = Arc::new(Stores::new());
        let components = kiln_driver::Components {
            stores: Arc::clone(&stores),
            shuffle: shuffle.clone(),
            storage_url: "memory:///shuffle".to_owned(),
            journal: None,
        };
        let driver = Driver::start(DriverSettings::default(), components).expect("valid settings");
        let directory = tempfile::tempdir().expect("a temporary directory");
        let disk = DiskBudget::new(DISK, Some(directory.path().to_owned()));
        let seen = Seen::default();
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build();
        let components = Components {
            run: with_a_full_disk(&disk, &seen),
            ..Components::new(
                stores,
                Arc::new(pool.expect("a thread")),
                MemoryBudget::with_disk(MEMORY, Arc::clone(&disk)),
                Some(shuffle),
            )
        };
        let mut settings = ExecutorSettings::new("only", 1, MEMORY);
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
        let (joined, known) = oneshot::channel();
        tokio::spawn(async move {
            let Some(FromExecutor::Register(registration)) = said.recv().await else {
                panic!("an executor registers first");
            };
            let attached = handle.attach(registration, told).await;
            joined.send(()).expect("the test waits for it");
            let messages = stream::poll_fn(|context| said.poll_recv(context));
            attached.expect("it is welcome").carry(messages).await;
        });
        known.await.expect("it registers");
        Cluster {
            driver,
            disk,
            seen,
            directory,
        }
    }

    /// A file of `lines`; they and where in it they begin are columns of these names.
    fn file(&self, name: &str, lines: &[String], columns: [&str; 2]) -> LogicalPlan {
        let path = self.directory.path().join(name).with_extension("txt");
        std::fs::write(&path, lines.join("\n")).expect("room for a file");
        let field = |name, data_type| Field::new(name, data_type, false);
        let scan = LogicalPlan::Scan(Scan {
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
        let [line, offset] = columns;
        LogicalPlan::Project {
            input: Arc::new(scan),
            exprs: vec![col("line").alias(line), col("offset").alias(offset)],
        }
    }

    /// Runs a job to its end; its rows, as text, in the order in which they come.
    async fn run(&self, plan: LogicalPlan) -> (JobId, Vec<String>) {
        let submission = Submission {
            name: "job".to_owned(),
            key: 1,
            plan,
            program: None,
            weight: 1,
        };
        let submitted = self.driver.submit(submission).await;
        let job = submitted.expect("the job is taken");
        let result = self.driver.result(job).await.expect("the job is done");
        let chunks: Vec<_> = result.chunks.try_collect().await.expect("a whole result");
        let mut rows = Vec::new();
        for chunk in chunks {
            let decoded = decode_blocks(chunk, Some(&result.schema), &mut |batch| {
                rows.extend((0..batch.num_rows()).map(|row| as_text(&batch, row)));
                Ok(())
            });
            decoded.expect("blocks");
        }
        (job, rows)
    }
}

/// Runs attempts, the first one of each task on a disk that is full until it has ended.
fn with_a_full_disk(disk: &Arc<DiskBudget>, seen: &Seen) -> Runner {
    let (disk, seen) = (Arc::clone(disk), Arc::clone(seen));
    Arc::new(move |spec, context| {
        let (disk, seen) = (Arc::clone(&disk), Arc::clone(&seen));
        Box::pin(async move {
            let attempt = (spec.id, spec.attempt);
            let full = (spec.attempt == 0).then(|| fill(&disk));
            let before = disk.used();
            let outcome = task::run(spec, context).await;
            let after = disk.used();
            let taken = Taken { before, after };
            let known = seen.lock().expect("a whole map").insert(attempt, taken);
            assert!(known.is_none(), "an attempt is run once: {attempt:?}");
            drop(full);
            outcome
        })
    })
}

fn as_text(batch: &RecordBatch, row: usize) -> String {
    let columns = batch.columns().iter();
    let values = columns.map(|column| array_value_to_string(column, row));
    let values: Result<Vec<_>, _> = values.collect();
    values.expect("values have a text form").join(" ")
}

/// A line for each of `numbers`, in an order that `seed` names.
fn shuffled(numbers: impl Iterator<Item = u64>, seed: u64) -> Vec<String> {
    let line = |number: u64| format!("{number:08} {:032x}", u128::from(number).pow(5));
    let mut lines: Vec<String> = numbers.map(line).collect();
    fastrand::Rng::with_seed(seed).shuffle(&mut lines);
    lines
}

/// Lines of a file, and where in it they begin.
fn placed(lines: &[String]) -> impl Iterator<Item = (&str, usize)> {
    let mut end = 0;
    lines.iter().map(move |line| {
        let start = end;
        end += line.len() + 1;
        (line.as_str(), start)
    })
}

/// The number behind `name=` in a message.
fn figure(message: &str, name: &str) -> u64 {
    let mut words = message.split_whitespace();
    let figure = words.find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
    let figure = figure.and_then(|digits| digits.parse().ok());
    figure.unwrap_or_else(|| panic!("no {name} in: {message}"))
}

/// Asserts that a failure says that the disk was full, and that it was.
fn tells_of_a_full_disk(failure: &TaskFailure) {
    let TaskFailure { kind, message, .. } = failure;
    assert_eq!(*kind, ErrorKind::Exhausted, "{message}");
    let told = message.contains("need more disk than is allowed: raise --spill-limit or --memory");
    assert!(told, "{message}");
    let [requested, used, limit] = ["requested", "used", "limit"].map(|name| figure(message, name));
    assert_eq!(limit, DISK, "{message}");
    assert!(used <= DISK && used + requested > DISK, "{message}");
}

impl Cluster {
    /// Asserts that of the tasks of `job` those that needed the disk failed once for it, and did
    /// well when there was room, and that they have given back what they took of it.
    fn outlived_a_full_disk(&self, job: JobId) {
        let status = self.driver.get(job).expect("the job is known");
        assert_eq!(status.state, JobState::Done);
        let seen = std::mem::take(&mut *self.seen.lock().expect("a whole map"));
        let mut failed = 0;
        for stage in &status.stages {
            for attempt in &stage.attempts {
                let task = TaskId {
                    job,
                    stage: stage.id,
                    task: attempt.task,
                };
                let taken = seen[&(task, attempt.attempt)];
                assert_eq!(taken.after, taken.before, "{attempt:?}");
                let needs_disk = attempt.counts.spilled_bytes > 0;
                match (attempt.attempt, attempt.state, &attempt.failure) {
                    (0, AttemptState::Failed, Some(failure)) => {
                        tells_of_a_full_disk(failure);
                        failed += 1;
                    }
                    (0, AttemptState::Won, None) => assert!(!needs_disk, "{attempt:?}"),
                    (1, AttemptState::Won, None) => {
                        assert!(needs_disk, "{attempt:?}");
                        assert_eq!(taken.before, 0, "there is room");
                    }
                    _ => panic!("{attempt:?}"),
                }
            }
            assert_eq!(stage.done, stage.tasks);
        }
        assert!(failed > 0, "no task needed the disk");
        assert_eq!(self.disk.used(), 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sort_outlives_a_full_disk() {
    let cluster = Cluster::start().await;
    let lines = shuffled(0..LINES, 1);
    let plan = LogicalPlan::Sort {
        input: Arc::new(cluster.file("lines", &lines, ["line", "offset"])),
        keys: vec![col("line").asc()],
        limit: None,
    };
    let (job, rows) = cluster.run(plan).await;
    let expected = placed(&lines).map(|(line, offset)| format!("{line} {offset}"));
    let mut expected: Vec<String> = expected.collect();
    expected.sort();
    assert!(rows == expected, "the rows or their order differ");
    cluster.outlived_a_full_disk(job);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grouping_outlives_a_full_disk() {
    let cluster = Cluster::start().await;
    let lines = shuffled((0..LINES).map(|number| number / 2), 1);
    let plan = LogicalPlan::Aggregate {
        input: Arc::new(cluster.file("lines", &lines, ["line", "offset"])),
        group_by: vec![col("line")],
        aggregates: vec![
            count_all().alias("count"),
            max(col("offset")).alias("offset"),
        ],
    };
    let (job, mut rows) = cluster.run(plan).await;
    // Each line is there twice, and the last place is the larger one.
    let last: BTreeMap<&str, usize> = placed(&lines).collect();
    let expected = last
        .iter()
        .map(|(line, offset)| format!("{line} 2 {offset}"));
    rows.sort();
    assert!(rows.into_iter().eq(expected), "the groups differ");
    cluster.outlived_a_full_disk(job);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_join_outlives_a_full_disk() {
    let cluster = Cluster::start().await;
    let left = shuffled(0..LINES, 1);
    let right = shuffled(LINES / 2..LINES * 3 / 2, 2);
    let plan = LogicalPlan::Join {
        left: Arc::new(cluster.file("left", &left, ["left", "left_at"])),
        right: Arc::new(cluster.file("right", &right, ["right", "right_at"])),
        kind: JoinKind::Inner,
        on: vec![(col("left"), col("right"))],
        filter: None,
    };
    let (job, mut rows) = cluster.run(plan).await;
    let places: BTreeMap<&str, usize> = placed(&right).collect();
    let mut expected: Vec<String> = placed(&left)
        .filter_map(|(line, at)| Some(format!("{line} {at} {line} {}", places.get(line)?)))
        .collect();
    rows.sort();
    expected.sort();
    assert!(rows == expected, "the pairs differ");
    cluster.outlived_a_full_disk(job);
}
