//! What the tests of sources and sinks share: a context and files to read.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef};
use arrow::record_batch::RecordBatch;
use arrow::util::display::array_value_to_string;
use futures::StreamExt;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStoreExt, PutPayload};
use tempfile::TempDir;

use crate::context::{CancelToken, TaskContext};
use crate::error::Result;
use crate::memory::MemoryBudget;
use crate::metrics::TaskMetrics;
use crate::plan::{ScanSpec, Split};
use crate::source::PlacedMorsels;
use crate::storage::{Compression, ShuffleStore};
use crate::storage::{Stores, local_url};

/// A context of its own stores, two threads and a gigabyte.
pub(crate) fn context() -> TaskContext {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build();
    TaskContext {
        pool: Arc::new(pool.expect("two threads")),
        memory: MemoryBudget::new(1 << 30),
        stores: Arc::new(Stores::new()),
        shuffle: ShuffleStore::new(Arc::new(InMemory::new()), Path::default(), Compression::Lz4),
        metrics: Arc::new(TaskMetrics::default()),
        cancel: CancelToken::default(),
        shared: Arc::default(),
        functions: Arc::default(),
    }
}

/// An object of `bytes` called `name` in the context's memory; returns its URL.
pub(crate) async fn put(ctx: &TaskContext, name: &str, bytes: &[u8]) -> String {
    let url = format!("memory:///in/{name}");
    let (store, path) = ctx.stores.get(&url).expect("a store in memory");
    store
        .put(&path, PutPayload::from(bytes.to_vec()))
        .await
        .expect("memory takes it");
    url
}

/// A file of `bytes` called `name` on this machine; returns its URL and what removes it.
pub(crate) fn file(name: &str, bytes: &[u8]) -> (String, TempDir) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join(name);
    std::fs::write(&path, bytes).expect("a temporary file");
    (local_url(&path), directory)
}

/// The split of the file at `url` that covers `start..end` of its `bytes`.
pub(crate) fn split(url: &str, bytes: &[u8], start: u64, end: u64) -> Split {
    Split {
        url: url.to_owned(),
        file_bytes: bytes.len() as u64,
        start,
        end,
    }
}

/// What a source's `open` looks like.
type Open = fn(&ScanSpec, Vec<Split>, &TaskContext) -> Result<PlacedMorsels>;

/// Every batch of `splits`, in the order in which they come.
pub(crate) async fn read(
    open: Open,
    spec: &ScanSpec,
    splits: Vec<Split>,
    ctx: &TaskContext,
) -> Result<Vec<RecordBatch>> {
    let mut batches = Vec::new();
    let mut morsels = open(spec, splits, ctx)?;
    while let Some(morsel) = morsels.next().await {
        let (_, morsel) = morsel?;
        morsel(&mut |batch| {
            batches.push(batch);
            Ok(())
        })?;
    }
    Ok(batches)
}

/// Rows as text: a line of names, then a line per row, values between bars.
pub(crate) fn show(batches: &[RecordBatch]) -> String {
    let mut lines = Vec::new();
    for batch in batches {
        if lines.is_empty() {
            let names = batch
                .schema_ref()
                .fields()
                .iter()
                .map(|field| field.name().clone());
            lines.push(names.collect::<Vec<_>>().join(" | "));
        }
        let value = |column: &ArrayRef, row: usize| match column.is_null(row) {
            true => "NULL".to_owned(),
            false => array_value_to_string(column, row).expect("a type that has a text form"),
        };
        for row in 0..batch.num_rows() {
            let values = batch.columns().iter().map(|column| value(column, row));
            lines.push(values.collect::<Vec<_>>().join(" | "));
        }
    }
    lines.join("\n")
}
