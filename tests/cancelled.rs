//! A job that is cancelled while a store does not answer.
//!
//! The driver, the executor and the engine are the real ones. The store stands still at a kind of
//! request that the test names, which is awaited; when the job is cancelled the request must be
//! given up and the executor's slot must be free for another job, though the store never answers.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arrow::datatypes::{DataType, Field, Schema};
use futures::stream::BoxStream;
use futures::{StreamExt as _, stream};
use kiln_driver::{Driver, DriverHandle, DriverSettings};
use kiln_engine::expr::{col, count_all};
use kiln_engine::id::JobId;
use kiln_engine::limits;
use kiln_engine::memory::MemoryBudget;
use kiln_engine::plan::{LogicalPlan, Scan, ScanFormat, TextOptions};
use kiln_engine::storage::{Compression, ShuffleStore, Stores, local_url};
use kiln_executor::{Components, ExecutorSettings, Link};
use kiln_proto::message::{FromExecutor, JobState, Submission};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use tokio::sync::mpsc;

/// At what the store stands still.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    Reading,
    Writing,
    /// Nothing that was begun is removed either.
    WritingAndRemoving,
}

/// A store that stands still while it is told to, and says when it does and when that is over.
#[derive(Debug)]
struct Standing {
    objects: InMemory,
    at: At,
    stands: AtomicBool,
    begun: mpsc::UnboundedSender<()>,
    given_up: mpsc::UnboundedSender<()>,
}

/// Somebody who waits for the store, until they do not any more.
struct Waiting(mpsc::UnboundedSender<()>);

impl Drop for Waiting {
    fn drop(&mut self) {
        // At the end of the test nobody listens.
        let _ = self.0.send(());
    }
}

impl Standing {
    async fn stand_still(&self, here: bool) {
        if here && self.stands.load(Ordering::Relaxed) {
            let _waiting = Waiting(self.given_up.clone());
            self.begun.send(()).expect("the test listens");
            std::future::pending::<()>().await;
        }
    }
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Standing")
    }
}

#[async_trait::async_trait]
impl ObjectStore for Standing {
    async fn put_opts(&self, at: &Path, bytes: PutPayload, how: PutOptions) -> Result<PutResult> {
        self.stand_still(self.at != At::Reading).await;
        self.objects.put_opts(at, bytes, how).await
    }

    async fn put_multipart_opts(
        &self,
        at: &Path,
        how: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.stand_still(self.at != At::Reading).await;
        self.objects.put_multipart_opts(at, how).await
    }

    async fn get_opts(&self, at: &Path, how: GetOptions) -> Result<GetResult> {
        self.stand_still(self.at == At::Reading).await;
        self.objects.get_opts(at, how).await
    }

    fn delete_stream(
        &self,
        all: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let stands = self.at == At::WritingAndRemoving && self.stands.load(Ordering::Relaxed);
        match stands {
            true => stream::pending().boxed(),
            false => self.objects.delete_stream(all),
        }
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.objects.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.objects.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, how: CopyOptions) -> Result<()> {
        self.objects.copy_opts(from, to, how).await
    }
}

/// A driver and an executor with a single slot, over a store that stands still.
struct Stage {
    driver: DriverHandle,
    store: Arc<Standing>,
    begun: mpsc::UnboundedReceiver<()>,
    given_up: mpsc::UnboundedReceiver<()>,
    directory: tempfile::TempDir,
}

async fn start(at: At) -> Stage {
    let (begun_to, begun) = mpsc::unbounded_channel();
    let (given_up_to, given_up) = mpsc::unbounded_channel();
    let store = Arc::new(Standing {
        objects: InMemory::new(),
        at,
        stands: AtomicBool::new(true),
        begun: begun_to,
        given_up: given_up_to,
    });
    let objects: Arc<dyn ObjectStore> = store.clone();
    let shuffle = ShuffleStore::new(objects, "shuffle".into(), Compression::Lz4);
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
        begun,
        given_up,
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

    /// Waits until nobody waits for the store.
    async fn all_given_up(&mut self) {
        loop {
            self.given_up.recv().await.expect("it is given up");
            if self.begun.try_recv().is_err() {
                return;
            }
        }
    }

    async fn ended(&self, job: JobId) -> JobState {
        let mut status = self.driver.watch(job).expect("the job is known");
        let ended = status.wait_for(|status| status.state.is_final()).await;
        ended.expect("the driver is there").state
    }
}

async fn check(at: At) {
    let mut stage = start(at).await;
    let job = stage.submit(1).await;
    stage.begun.recv().await.expect("it comes to that");
    stage.driver.cancel(job).await.expect("the job is known");
    assert_eq!(stage.ended(job).await, JobState::Cancelled);
    stage.all_given_up().await;
    // The only slot is free: the next job comes as far as the first one, and further if it may.
    let next = stage.submit(2).await;
    stage.begun.recv().await.expect("it comes to that");
    stage.driver.cancel(next).await.expect("the job is known");
    stage.all_given_up().await;
    stage.store.stands.store(false, Ordering::Relaxed);
    let last = stage.submit(3).await;
    assert_eq!(stage.ended(last).await, JobState::Done);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_that_waits_for_what_it_reads_is_given_up() {
    check(At::Reading).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_that_waits_for_what_it_writes_is_given_up() {
    check(At::Writing).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_whose_output_cannot_be_removed_is_given_up() {
    check(At::WritingAndRemoving).await;
}
