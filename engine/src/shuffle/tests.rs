//! Round trips through whole objects, and what becomes of damaged ones.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringViewArray};
use arrow::datatypes::SchemaRef;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use futures::TryStreamExt;

use super::{Compression, ShuffleSink, ShuffleStore, open};
use crate::error::{ErrorKind, Result};
use crate::id::{JobId, StageId, TaskId};
use crate::memory::MemoryBudget;
use crate::metrics::TaskMetrics;
use crate::plan::{PartitionMeta, Partitioning, ShuffleSource, TaskOutput};
use crate::storage::{OverflowStore, Stores};
use crate::task::{CancelToken, TaskContext};

const STAGE: StageId = StageId(3);

fn job() -> JobId {
    JobId::new(0xfeed)
}

fn context(shuffle: ShuffleStore, memory: u64) -> TaskContext {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().expect("a pool");
    TaskContext {
        pool: Arc::new(pool),
        memory: MemoryBudget::new(memory),
        stores: Arc::new(Stores::new()),
        shuffle,
        metrics: Arc::new(TaskMetrics::default()),
        cancel: CancelToken::default(),
    }
}

fn in_memory() -> ShuffleStore {
    ShuffleStore::in_memory(OverflowStore::new(1 << 30, None, None))
}

fn hash(keys: &[&str], partitions: u32) -> Partitioning {
    Partitioning::Hash { keys: keys.iter().map(|&key| key.to_owned()).collect(), partitions }
}

/// Words of every length around the one where a view stops holding them, and some nulls.
fn words(rows: std::ops::Range<i64>) -> RecordBatch {
    let word = |row: i64| match row % 7 {
        0 => None,
        1 => Some(String::new()),
        2 => Some("é".repeat(7)),
        length => Some(format!("{row:0>width$}", width = 4 * length as usize)),
    };
    let text: StringViewArray = rows.clone().map(word).collect();
    let numbers = Int64Array::from_iter(rows.map(|row| (row % 5 != 0).then_some(row)));
    let columns: [(&str, ArrayRef); 2] = [("word", Arc::new(text)), ("n", Arc::new(numbers))];
    RecordBatch::try_from_iter_with_nullable(columns.map(|(name, column)| (name, column, true)))
        .expect("columns of one length")
}

/// Writes the batches, alternating between two lanes.
async fn write(
    ctx: &TaskContext,
    partitioning: &Partitioning,
    task: u32,
    batches: &[RecordBatch],
) -> Result<Vec<PartitionMeta>> {
    let task = TaskId { job: job(), stage: STAGE, task };
    let sink = ShuffleSink::new(partitioning, batches[0].schema(), task, 0, ctx)?;
    let mut lanes = [sink.lane(0)?, sink.lane(1)?];
    for (number, batch) in batches.iter().enumerate() {
        lanes[number % 2].push(batch.clone(), &mut |_| panic!("a sink emits nothing"))?;
    }
    for lane in &mut lanes {
        lane.finish(&mut |_| panic!("a sink emits nothing"))?;
    }
    sink.flush().await?;
    match sink.close().await? {
        TaskOutput::Shuffle(index) => Ok(index),
        TaskOutput::Files(_) => panic!("a shuffle sink writes no files"),
    }
}

/// What a reader of `range` is told of an object with this index.
fn source(task: u32, index: &[PartitionMeta], range: &std::ops::Range<u32>) -> ShuffleSource {
    let (start, end) = (range.start as usize, range.end as usize);
    let offset = index[..start].iter().map(|meta| meta.bytes).sum();
    ShuffleSource { task, attempt: 0, offset, partitions: index[start..end].to_vec() }
}

async fn read(
    ctx: &TaskContext,
    range: std::ops::Range<u32>,
    sources: Vec<ShuffleSource>,
    schema: &SchemaRef,
) -> Result<Vec<RecordBatch>> {
    let mut morsels = open(STAGE, job(), range, sources, Arc::clone(schema), ctx)?;
    let mut batches = Vec::new();
    while let Some(morsel) = morsels.try_next().await? {
        morsel(&mut |batch| {
            assert!((1..=crate::limits::BATCH_ROWS).contains(&batch.num_rows()));
            batches.push(batch);
            Ok(())
        })?;
    }
    Ok(batches)
}

/// The rows as text, sorted: a shuffle keeps rows, not their order.
fn rows(batches: &[RecordBatch]) -> Vec<String> {
    let options = FormatOptions::new().with_null("∅");
    let mut rows = Vec::new();
    for batch in batches {
        let columns: Vec<_> = batch
            .columns()
            .iter()
            .map(|column| ArrayFormatter::try_new(column, &options).expect("a printable type"))
            .collect();
        for row in 0..batch.num_rows() {
            let cells: Vec<_> =
                columns.iter().map(|column| column.value(row).to_string()).collect();
            rows.push(cells.join("|"));
        }
    }
    rows.sort_unstable();
    rows
}

#[tokio::test]
async fn rows_come_back_once_whatever_the_store_and_the_partitions() {
    let batches: Vec<_> = (0..20).map(|batch| words(batch * 5000..(batch + 1) * 5000)).collect();
    let schema = batches[0].schema();
    let directory = tempfile::tempdir().expect("a directory");
    let url = crate::storage::local_url(&directory.path().join("new/shuffle dir"));
    let stores = Stores::new();
    let places = [
        in_memory(),
        ShuffleStore::open(&stores, &url).expect("a local store"),
        ShuffleStore::open(&stores, "memory:///shuffle").expect("a memory store"),
    ];
    assert_eq!(places[1].compression, Compression::Lz4);
    assert_eq!(places[2].compression, Compression::Zstd);
    for (store, partitions) in places.iter().flat_map(|store| [(store, 1), (store, 7), (store, 64)])
    {
        let ctx = context(store.clone(), 1 << 30);
        let partitioning = hash(&["word", "n"], partitions);
        let index = write(&ctx, &partitioning, 0, &batches).await.expect("written");
        let counts = ctx.metrics.counts();
        assert_eq!((counts.rows_out, counts.puts, counts.objects), (100_000, 1, 1));
        let mut found = Vec::new();
        for range in [0..partitions / 2, partitions / 2..partitions] {
            let sources = vec![source(0, &index, &range)];
            found.extend(read(&ctx, range, sources, &schema).await.expect("read"));
        }
        assert_eq!(rows(&found), rows(&batches), "{partitions} partitions in {store:?}");
        let counts = ctx.metrics.counts();
        assert!(counts.gets <= 3 && counts.rows_in == 100_000, "{counts:?}");
        let read = store.read_index(job(), STAGE, 0, 0).await.expect("a footer");
        assert_eq!(read, index);
        store.delete_job(job(), &[(STAGE, 0, 0), (STAGE, 1, 0)]).await.expect("deleted");
        let gone = store.read_index(job(), STAGE, 0, 0).await.expect_err("deleted");
        assert_eq!(gone.kind(), ErrorKind::Corrupt);
        assert_eq!(ctx.memory.used(), 0, "everything reserved is given back");
    }
    let left = std::fs::read_dir(directory.path().join("new/shuffle dir")).expect("the root stays");
    assert_eq!(left.count(), 0, "empty directories go with their objects");
}
