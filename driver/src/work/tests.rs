//! What takes time ends, whatever happens to it, and leaves nothing behind.

use std::fmt;

use arrow::datatypes::Schema;
use async_trait::async_trait;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use kiln_engine::ErrorKind;
use kiln_engine::plan::{FileFormat, OutputOptions, Scan, ScanFormat, TextOptions};
use kiln_engine::storage::Compression;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult,
};

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
    let store: Arc<dyn ObjectStore> = Arc::new(LostAnswers(InMemory::new()));
    let stores = Stores::new();
    stores.insert("memory://", Arc::clone(&store));
    let shuffle = ShuffleStore::new(Arc::clone(&store), "shuffle".into(), Compression::None);
    let parts = Components {
        stores: Arc::new(stores),
        shuffle,
        storage_url: "memory:///shuffle".to_owned(),
    };
    let (job, capacity) = (JobId::new(1), Capacity::default());
    let planned = plan(parts, job, JobPlanner::new(written()), Vec::new(), capacity).await;
    let Some(Event::PlanFailed { failure, .. }) = planned else {
        panic!("it cannot be written: {planned:?}");
    };
    assert_eq!(failure.kind, ErrorKind::Unavailable, "{failure:?}");
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

/// A store that does what it is told, and whose answer to each PUT is lost.
#[derive(Debug)]
struct LostAnswers(InMemory);

impl fmt::Display for LostAnswers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LostAnswers")
    }
}

#[async_trait]
impl ObjectStore for LostAnswers {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> object_store::Result<PutResult> {
        self.0.put_opts(location, payload, options).await?;
        let source = std::io::Error::from(std::io::ErrorKind::ConnectionReset).into();
        let store = "LostAnswers";
        Err(object_store::Error::Generic { store, source })
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        self.0.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, at: &Path, options: GetOptions) -> object_store::Result<GetResult> {
        self.0.get_opts(at, options).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, object_store::Result<Path>>,
    ) -> BoxStream<'static, object_store::Result<Path>> {
        self.0.delete_stream(locations).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        self.0.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> object_store::Result<ListResult> {
        self.0.list_with_delimiter(prefix).await
    }

    async fn copy_opts(
        &self,
        from: &Path,
        to: &Path,
        options: CopyOptions,
    ) -> object_store::Result<()> {
        self.0.copy_opts(from, to, options).await
    }
}
