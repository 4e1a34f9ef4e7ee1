//! Round trips through whole objects: what is written is read, whatever it is.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, AsArray, BooleanArray, Decimal128Array, DictionaryArray, FixedSizeBinaryArray,
    Float64Array, Int8Array, Int64Array, ListBuilder, NullArray, RecordBatch, StringArray,
    StringViewArray, StringViewBuilder, StructArray,
};
use arrow::datatypes::{DataType, Field, Int32Type, Int64Type, Schema, SchemaRef};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use object_store::ObjectStoreExt;

use super::{ShuffleSink, decode_blocks, fetch_blocks, open, read_index};
use crate::context::{CancelToken, TaskContext};
use crate::error::{ErrorKind, Result};
use crate::id::{JobId, StageId, TaskId};
use crate::memory::{DiskBudget, MemoryBudget};
use crate::metrics::TaskMetrics;
use crate::plan::{PartitionMeta, Partitioning, ShuffleSource, TaskOutput};
use crate::storage::{Compression, ShuffleStore};
use crate::storage::{OverflowStore, Stores};

pub(super) const STAGE: StageId = StageId(3);

pub(super) fn job() -> JobId {
    JobId::new(0xfeed)
}

pub(super) fn context(shuffle: ShuffleStore, memory: u64) -> TaskContext {
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(1)
        .build()
        .expect("a pool");
    TaskContext {
        pool: Arc::new(pool),
        memory: MemoryBudget::new(memory),
        stores: Arc::new(Stores::new()),
        shuffle,
        metrics: Arc::new(TaskMetrics::default()),
        cancel: CancelToken::default(),
        shared: Arc::default(),
        functions: Arc::default(),
    }
}

pub(super) fn in_memory() -> ShuffleStore {
    ShuffleStore::in_memory(OverflowStore::new(1 << 30, None, None))
}

pub(super) fn hash(keys: &[&str], partitions: u32) -> Partitioning {
    Partitioning::Hash {
        keys: keys.iter().map(|&key| key.to_owned()).collect(),
        partitions,
    }
}

/// Words of every length around the one where a view stops holding them, and some nulls.
pub(super) fn words(rows: std::ops::Range<i64>) -> RecordBatch {
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
pub(super) async fn write(
    ctx: &TaskContext,
    partitioning: &Partitioning,
    task: u32,
    batches: &[RecordBatch],
) -> Result<Vec<PartitionMeta>> {
    let task = TaskId {
        job: job(),
        stage: STAGE,
        task,
    };
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
        other => panic!("a shuffle sink writes partitions: {other:?}"),
    }
}

/// What a reader of `range` is told of an object with this index.
pub(super) fn source(
    task: u32,
    index: &[PartitionMeta],
    range: &std::ops::Range<u32>,
) -> ShuffleSource {
    let (start, end) = (range.start as usize, range.end as usize);
    let offset = index[..start].iter().map(|meta| meta.bytes).sum();
    ShuffleSource {
        task,
        attempt: 0,
        offset,
        partitions: index[start..end].to_vec(),
    }
}

pub(super) async fn read(
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
pub(super) fn rows(batches: &[RecordBatch]) -> Vec<String> {
    let options = FormatOptions::new().with_null("∅");
    let mut rows = Vec::new();
    for batch in batches {
        let columns: Vec<_> = batch
            .columns()
            .iter()
            .map(|column| ArrayFormatter::try_new(column, &options).expect("a printable type"))
            .collect();
        for row in 0..batch.num_rows() {
            let cells: Vec<_> = columns
                .iter()
                .map(|column| column.value(row).to_string())
                .collect();
            rows.push(cells.join("|"));
        }
    }
    rows.sort_unstable();
    rows
}

#[tokio::test]
async fn rows_come_back_once_whatever_the_store_and_the_partitions() {
    let batches: Vec<_> = (0..20)
        .map(|batch| words(batch * 5000..(batch + 1) * 5000))
        .collect();
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
    for (store, partitions) in places
        .iter()
        .flat_map(|store| [(store, 1), (store, 7), (store, 64)])
    {
        let ctx = context(store.clone(), 1 << 30);
        let partitioning = hash(&["word", "n"], partitions);
        let index = write(&ctx, &partitioning, 0, &batches)
            .await
            .expect("written");
        let counts = ctx.metrics.counts();
        assert_eq!(
            (counts.rows_out, counts.puts, counts.objects),
            (100_000, 1, 1)
        );
        let mut found = Vec::new();
        for range in [0..partitions / 2, partitions / 2..partitions] {
            let sources = vec![source(0, &index, &range)];
            found.extend(read(&ctx, range, sources, &schema).await.expect("read"));
        }
        assert_eq!(
            rows(&found),
            rows(&batches),
            "{partitions} partitions in {store:?}"
        );
        let counts = ctx.metrics.counts();
        assert!(counts.gets <= 3 && counts.rows_in == 100_000, "{counts:?}");
        let read = read_index(store, job(), STAGE, 0, 0)
            .await
            .expect("a footer");
        assert_eq!(read, index);
        store
            .delete_job(job(), &[(STAGE, 0, 0), (STAGE, 1, 0)])
            .await
            .expect("deleted");
        let gone = read_index(store, job(), STAGE, 0, 0)
            .await
            .expect_err("deleted");
        assert_eq!(gone.kind(), ErrorKind::Corrupt);
        assert_eq!(ctx.memory.used(), 0, "everything reserved is given back");
    }
    let left = std::fs::read_dir(directory.path().join("new/shuffle dir")).expect("the root stays");
    assert_eq!(left.count(), 0, "empty directories go with their objects");
}

/// A column of every kind that the engine can hold, nulls among them.
fn every_type(rows: i64) -> RecordBatch {
    let some = |row: i64| (row % 3 != 0).then_some(row);
    let numbers = || (0..rows).map(some);
    let mut lists = ListBuilder::new(StringViewBuilder::new());
    for row in 0..rows {
        (0..row % 4).for_each(|item| {
            lists
                .values()
                .append_value("long ".repeat(item as usize * 2))
        });
        lists.append(row % 5 != 0);
    }
    let text = |row| format!("a text of more than twelve bytes {row}");
    let strings: StringArray = numbers().map(|row| row.map(text)).collect();
    let dictionary: DictionaryArray<Int32Type> = (0..rows)
        .map(|row| (row % 6 != 0).then_some(["x", "y"][row as usize % 2]))
        .collect();
    let fixed = (0..rows).map(|row| some(row).map(|row| row.to_le_bytes()));
    let fixed = FixedSizeBinaryArray::try_from_sparse_iter_with_size(fixed, 8).expect("8 bytes");
    let decimals = Decimal128Array::from_iter(numbers().map(|row| row.map(|row| row as i128 * 7)));
    let inner: ArrayRef = Arc::new(StringViewArray::from_iter(
        (0..rows).map(|row| Some(text(row))),
    ));
    let inner = (
        Arc::new(Field::new("inner", DataType::Utf8View, true)),
        inner,
    );
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("k", Arc::new(Int64Array::from_iter(numbers()))),
        (
            "bool",
            Arc::new(BooleanArray::from_iter(
                numbers().map(|row| row.map(|row| row % 2 == 0)),
            )),
        ),
        (
            "byte",
            Arc::new(Int8Array::from_iter(
                numbers().map(|row| row.map(|row| row as i8)),
            )),
        ),
        (
            "float",
            Arc::new(Float64Array::from_iter(
                numbers().map(|row| row.map(|row| row as f64)),
            )),
        ),
        ("decimal", Arc::new(decimals)),
        ("string", Arc::new(strings)),
        ("list", Arc::new(lists.finish())),
        ("struct", Arc::new(StructArray::from(vec![inner]))),
        ("dictionary", Arc::new(dictionary)),
        ("fixed", Arc::new(fixed)),
        ("null", Arc::new(NullArray::new(rows as usize))),
    ];
    RecordBatch::try_from_iter_with_nullable(
        columns
            .into_iter()
            .map(|(name, column)| (name, column, true)),
    )
    .expect("columns of one length")
}

#[tokio::test]
async fn every_type_survives() {
    let whole = every_type(1000);
    // Slices, so that offsets into shared buffers are not all zero.
    let batches = [
        whole.slice(0, 333),
        whole.slice(333, 1),
        whole.slice(334, 666),
    ];
    for compression in [Compression::None, Compression::Lz4, Compression::Zstd] {
        let store = in_memory();
        let store = ShuffleStore::new(store.store, "deep/root".into(), compression);
        let ctx = context(store, 1 << 30);
        for partitions in [1, 5] {
            let index = write(&ctx, &hash(&["k"], partitions), 0, &batches)
                .await
                .expect("written");
            let sources = vec![source(0, &index, &(0..partitions))];
            let found = read(&ctx, 0..partitions, sources, &whole.schema())
                .await
                .expect("read");
            assert_eq!(
                rows(&found),
                rows(std::slice::from_ref(&whole)),
                "{compression:?}"
            );
        }
    }
}

#[tokio::test]
async fn equal_keys_meet_in_one_partition_and_spread_over_all() {
    let ctx = context(in_memory(), 1 << 30);
    let batches = [words(0..3000), words(0..3000), words(0..3000)];
    let partitions = 16;
    let index = write(&ctx, &hash(&["word"], partitions), 0, &batches)
        .await
        .expect("written");
    assert!(
        index
            .iter()
            .all(|meta| meta.rows > 0 && meta.bytes % 64 == 0),
        "{index:?}"
    );
    let mut homes = std::collections::BTreeMap::new();
    for partition in 0..partitions {
        let sources = vec![source(0, &index, &(partition..partition + 1))];
        let found = read(
            &ctx,
            partition..partition + 1,
            sources,
            &batches[0].schema(),
        )
        .await;
        let found = found.expect("read");
        let words: Vec<_> = found
            .iter()
            .map(|batch| batch.project(&[0]).expect("a column"))
            .collect();
        for word in rows(&words) {
            assert_eq!(*homes.entry(word).or_insert(partition), partition);
        }
    }
}

#[tokio::test]
async fn nothing_is_written_where_there_is_nothing() {
    let store = OverflowStore::new(1 << 20, None, None);
    let ctx = context(ShuffleStore::in_memory(Arc::clone(&store)), 1 << 20);
    let empty = words(0..0);
    let index = write(&ctx, &hash(&["word"], 9), 0, std::slice::from_ref(&empty))
        .await
        .expect("written");
    assert_eq!(index, vec![PartitionMeta::default(); 9]);
    assert_eq!((store.bytes(), ctx.metrics.counts().objects), (0, 0));
    let sources = vec![source(0, &index, &(2..9))];
    let found = read(&ctx, 2..9, sources, &empty.schema())
        .await
        .expect("nothing to read");
    assert!(found.is_empty() && ctx.metrics.counts().gets == 0);
}

#[tokio::test]
async fn rows_without_columns_are_counted() {
    let store = OverflowStore::new(1 << 20, None, None);
    let ctx = context(ShuffleStore::in_memory(store), 1 << 20);
    let rows = words(0..40).project(&[]).expect("no columns");
    let index = write(&ctx, &Partitioning::Single, 0, std::slice::from_ref(&rows));
    let (index, schema) = (index.await.expect("written"), rows.schema());
    let found = read(&ctx, 0..1, vec![source(0, &index, &(0..1))], &schema);
    let found = found.await.expect("read");
    let counts: Vec<usize> = found.iter().map(RecordBatch::num_rows).collect();
    assert_eq!(counts, [40]);
}

#[tokio::test]
async fn a_reader_may_allow_nulls_that_a_writer_does_not_have() {
    let store = OverflowStore::new(1 << 20, None, None);
    let ctx = context(ShuffleStore::in_memory(store), 1 << 20);
    let column = |nullable| {
        Arc::new(Schema::new(vec![Field::new(
            "n",
            DataType::Int64,
            nullable,
        )]))
    };
    let numbers: ArrayRef = Arc::new(Int64Array::from(vec![1, 2, 3]));
    for (written, wanted) in [(false, true), (true, false)] {
        let batch = RecordBatch::try_new(column(written), vec![Arc::clone(&numbers)]);
        let batch = batch.expect("a column of its type");
        let task = u32::from(written);
        let index = write(&ctx, &Partitioning::Single, task, &[batch]).await;
        let sources = vec![source(task, &index.expect("written"), &(0..1))];
        let found = read(&ctx, 0..1, sources, &column(wanted)).await;
        assert_eq!(found.is_ok(), wanted, "{found:?}");
    }
}

#[tokio::test]
async fn a_row_of_a_large_buffer_takes_its_own_bytes_only() {
    let store = OverflowStore::new(1 << 30, None, None);
    let ctx = context(ShuffleStore::in_memory(Arc::clone(&store)), 1 << 30);
    let text: StringViewArray = (0..8000).map(|row| Some(format!("{row:0>1000}"))).collect();
    let batch =
        RecordBatch::try_from_iter([("word", Arc::new(text) as ArrayRef)]).expect("a batch");
    let few = batch.slice(4000, 10);
    let index = write(&ctx, &hash(&["word"], 2), 0, std::slice::from_ref(&few))
        .await
        .expect("written");
    assert!(
        store.bytes() < 20_000,
        "10 rows of 1000 bytes take {}",
        store.bytes()
    );
    let sources = vec![source(0, &index, &(0..2))];
    let found = read(&ctx, 0..2, sources, &few.schema())
        .await
        .expect("read");
    assert_eq!(rows(&found), rows(&[few]));
}

#[tokio::test]
async fn little_memory_means_small_blocks_and_a_file_not_a_failure() {
    let batches: Vec<_> = (0..30)
        .map(|batch| words(batch * 2000..(batch + 1) * 2000))
        .collect();
    for memory in [0, 1000, 100_000] {
        let ctx = context(in_memory(), memory);
        let index = write(&ctx, &hash(&["n"], 8), 0, &batches)
            .await
            .expect("written");
        assert!(ctx.metrics.counts().spilled_bytes > 0, "{memory}");
        let sources = vec![source(0, &index, &(0..8))];
        let found = read(&ctx, 0..8, sources, &batches[0].schema())
            .await
            .expect("read");
        assert_eq!(rows(&found), rows(&batches), "{memory}");
        assert_eq!(ctx.memory.used(), 0);
    }
}

#[tokio::test]
async fn blocks_stay_large_when_those_before_them_have_filled_the_memory() {
    let batch = |batch: i64| words(batch * 1000..(batch + 1) * 1000);
    let batches: Vec<_> = (0..600).map(batch).collect();
    let ctx = context(in_memory(), 4 << 20);
    let index = write(&ctx, &hash(&["n"], 16), 0, &batches).await;
    let index = index.expect("written");
    assert!(ctx.metrics.counts().spilled_bytes > 10 << 20);
    let sources = vec![source(0, &index, &(0..16))];
    let found = read(&ctx, 0..16, sources, &batches[0].schema()).await;
    let found = found.expect("read");
    let read: usize = found.iter().map(RecordBatch::num_rows).sum();
    assert_eq!(read, 600_000);
    // A block becomes one batch or more; a block for each batch and partition would be 9600.
    assert!(found.len() < 1000, "{}", found.len());
    assert_eq!(ctx.memory.used(), 0);
}

#[tokio::test]
async fn blocks_that_have_no_room_on_disk_stay_in_memory() {
    let batch = |batch: i64| words(batch * 1000..(batch + 1) * 1000);
    let batches: Vec<_> = (0..400).map(batch).collect();
    let write = async |memory, limit| {
        let disk = DiskBudget::new(limit, None);
        let memory = MemoryBudget::with_disk(memory, Arc::clone(&disk));
        let ctx = TaskContext {
            memory,
            ..context(in_memory(), 0)
        };
        let written = write(&ctx, &hash(&["n"], 16), 0, &batches).await;
        assert_eq!(ctx.memory.used(), 0);
        written.map(|_| disk.peak())
    };
    // All of it fits, though not with all the room that is made for more.
    let spilled = write(16 << 20, u64::MAX).await.expect("there is room");
    assert!(spilled > 1 << 20, "{spilled}");
    let less = write(16 << 20, 1 << 20).await.expect("there is room");
    assert!(less <= 1 << 20, "{less}");
    assert_eq!(write(16 << 20, 0).await.expect("there is room"), 0);
    let error = write(4 << 20, 1 << 20).await.expect_err("there is not");
    assert_eq!(error.kind(), ErrorKind::Exhausted);
}

#[tokio::test]
async fn blocks_that_wait_on_disk_are_of_its_budget() {
    let batches = [words(0..20_000)];
    let write = async |limit| {
        let disk = DiskBudget::new(limit, None);
        let ctx = TaskContext {
            memory: MemoryBudget::with_disk(0, Arc::clone(&disk)),
            ..context(in_memory(), 0)
        };
        let written = write(&ctx, &hash(&["n"], 8), 0, &batches).await;
        assert_eq!(disk.used(), 0, "nothing stays on disk");
        assert_eq!(disk.peak(), ctx.metrics.counts().spilled_bytes);
        written.map(|_| disk.peak())
    };
    let needed = write(u64::MAX).await.expect("there is room");
    assert_eq!(write(needed).await.expect("just enough"), needed);
    let error = write(needed - 1).await.expect_err("a byte too little");
    assert_eq!(error.kind(), ErrorKind::Exhausted);
    let limit = format!("limit={}", needed - 1);
    assert!(error.message().contains(&limit), "{error}");
}

#[tokio::test]
async fn large_objects_go_up_in_parts_and_come_back_in_pieces() {
    let batches = many_numbers();
    let ctx = context(in_memory(), 1 << 30);
    let index = write(&ctx, &hash(&["n"], 32), 0, &batches)
        .await
        .expect("written");
    let counts = ctx.metrics.counts();
    let parts = counts
        .bytes_out
        .div_ceil(crate::limits::UPLOAD_PART_BYTES as u64);
    assert_eq!((counts.puts, counts.objects), (parts + 2, 1), "{counts:?}");
    let sources = vec![source(0, &index, &(0..32))];
    let found = read(&ctx, 0..32, sources, &batches[0].schema())
        .await
        .expect("read");
    assert_eq!(sum(&found), sum(&batches));
    assert_eq!(
        found.iter().map(RecordBatch::num_rows).sum::<usize>(),
        3_000_000
    );
    let counts = ctx.metrics.counts();
    assert!(
        (3..=5).contains(&counts.gets),
        "pieces of at most 8 MiB: {counts:?}"
    );
}

#[tokio::test]
async fn bytes_can_be_forwarded_and_decoded_elsewhere() {
    let batches = [words(0..1000)];
    let ctx = context(in_memory(), 1 << 30);
    let index = write(&ctx, &hash(&["n"], 4), 7, &batches)
        .await
        .expect("written");
    let mut source = source(7, &index, &(0..4));
    let fetch = |source: &ShuffleSource| {
        let blocks = fetch_blocks(&ctx.shuffle, job(), STAGE, source);
        blocks.collect::<Vec<Result<Bytes>>>()
    };
    let mut found = Vec::new();
    for blocks in fetch(&source).await {
        decode_blocks(blocks.expect("fetched"), None, &mut |batch| {
            found.push(batch);
            Ok(())
        })
        .expect("decoded");
    }
    assert_eq!(rows(&found), rows(&batches));
    source.partitions[3].checksum ^= 1;
    let last = fetch(&source).await.pop().expect("an answer");
    assert_eq!(last.expect_err("damaged").kind(), ErrorKind::Corrupt);
}

/// Three million numbers.
fn many_numbers() -> Vec<RecordBatch> {
    let batch = |start: i64| {
        let numbers = Int64Array::from_iter_values(start..start + 100_000);
        RecordBatch::try_from_iter([("n", Arc::new(numbers) as ArrayRef)]).expect("a batch")
    };
    (0..30).map(|number| batch(number * 100_000)).collect()
}

fn sum(batches: &[RecordBatch]) -> i64 {
    let column = |batch: &RecordBatch| batch.column(0).clone();
    let numbers = batches.iter().map(column);
    numbers
        .map(|n| arrow::compute::sum(n.as_primitive::<Int64Type>()).unwrap_or(0))
        .sum()
}

#[tokio::test]
async fn a_partition_larger_than_memory_is_read_block_by_block() {
    let batches = many_numbers();
    let ctx = context(in_memory(), 1 << 20);
    let index = write(&ctx, &Partitioning::Single, 0, &batches).await;
    let index = index.expect("written");
    assert!(index[0].bytes > 20 << 20, "24 MB of numbers");
    let sources = vec![source(0, &index, &(0..1))];
    let schema = batches[0].schema();
    let found = read(&ctx, 0..1, sources.clone(), &schema).await;
    assert_eq!(sum(&found.expect("read")), sum(&batches));
    let counts = ctx.metrics.counts();
    assert_eq!(counts.rows_in, 3_000_000);
    assert!((3..=4).contains(&counts.gets), "{counts:?}");
    let forwarded = fetch_blocks(&ctx.shuffle, job(), STAGE, &sources[0]);
    let forwarded: Vec<Bytes> = forwarded.try_collect().await.expect("fetched");
    assert!((3..=4).contains(&forwarded.len()));
    let bytes: usize = forwarded.iter().map(Bytes::len).sum();
    assert_eq!(bytes as u64, index[0].bytes);

    // What is damaged anywhere is noticed, at the latest when it has been read to its end.
    let path = ctx.shuffle.object_path(job(), STAGE, 0, 0);
    let store = &ctx.shuffle.store;
    let whole = store.get(&path).await.expect("a get").bytes().await;
    let whole = whole.expect("bytes");
    let last = index[0].bytes as usize - 1;
    for at in [0, 5, 17, 30, 40, 100_000, 9 << 20, 20 << 20, last] {
        let mut damaged = whole.to_vec();
        damaged[at] ^= 4;
        store.put(&path, damaged.into()).await.expect("a put");
        let error = read(&ctx, 0..1, sources.clone(), &schema).await;
        let error = error.expect_err("a damaged partition");
        assert_eq!(error.kind(), ErrorKind::Corrupt, "at={at}");
        assert_eq!(error.lost().map(|lost| lost.task), Some(0), "at={at}");
    }
    // Blocks that were left out are all right by themselves.
    let blocks = whole.slice(forwarded[0].len()..whole.len());
    store.put(&path, blocks.into()).await.expect("a put");
    let mut short = sources;
    short[0].partitions[0].bytes -= forwarded[0].len() as u64;
    let error = read(&ctx, 0..1, short, &schema).await;
    assert_eq!(
        error.expect_err("rows are missing").kind(),
        ErrorKind::Corrupt
    );
}

#[test]
fn names_do_not_change() {
    let store = ShuffleStore::new(in_memory().store, "root".into(), Compression::None);
    let name = |task, attempt| store.object_path(job(), STAGE, task, attempt).to_string();
    expect_test::expect!["root/5f26/00000000feed/s3/t0-a0"].assert_eq(&name(0, 0));
    expect_test::expect!["root/9982/00000000feed/s3/t12-a3"].assert_eq(&name(12, 3));
}

#[tokio::test]
async fn uncompressed_blocks_are_used_where_they_lie() {
    let ctx = context(in_memory(), 1 << 30);
    let batches = [words(0..9000), words(9000..20_000)];
    let index = write(&ctx, &Partitioning::Single, 0, &batches)
        .await
        .expect("written");
    let path = ctx.shuffle.object_path(job(), STAGE, 0, 0);
    let mut stored = Vec::new();
    let object = ctx
        .shuffle
        .store
        .get(&path)
        .await
        .expect("a get")
        .into_stream();
    let mut pieces = object.map_ok(|bytes| stored.push(bytes.as_ptr_range()));
    while pieces.try_next().await.expect("a piece").is_some() {}
    drop(pieces);
    let sources = vec![source(0, &index, &(0..1))];
    let found = read(&ctx, 0..1, sources, &batches[0].schema())
        .await
        .expect("read");
    for column in found.iter().flat_map(RecordBatch::columns) {
        let data = column.to_data();
        let at = data.buffers()[0].as_ptr();
        assert!(
            stored.iter().any(|piece| piece.contains(&at)),
            "a column was copied"
        );
    }
}

/// `docs/shuffle-format.md` shows these bytes; where this changes, the page has to.
#[tokio::test]
async fn the_example_of_the_format_page_is_true() {
    let columns: [(&str, ArrayRef); 2] = [
        (
            "word",
            Arc::new(StringViewArray::from(vec![
                "the",
                "of",
                "and",
                "extraordinarily",
            ])),
        ),
        ("count", Arc::new(Int64Array::from(vec![7, 4, 2, 1]))),
    ];
    let batch = RecordBatch::try_from_iter(columns).expect("a batch");
    let ctx = context(in_memory(), 1 << 20);
    let index = write(&ctx, &hash(&["word"], 3), 2, &[batch])
        .await
        .expect("written");
    let meta = |bytes, rows, checksum| PartitionMeta {
        bytes,
        rows,
        checksum,
    };
    let expected = [
        meta(768, 2, 0x78fb_8d16_b793_d936),
        meta(704, 2, 0x028c_d520_9896_3614),
        meta(0, 0, 0),
    ];
    assert_eq!(index, expected);
    let path = ctx.shuffle.object_path(job(), STAGE, 2, 0);
    let get = ctx.shuffle.store.get(&path).await.expect("a get");
    let bytes = get.bytes().await.expect("bytes");
    assert_eq!(bytes.len(), 768 + 704 + 3 * 32 + 32);
    assert_eq!(
        bytes[..24],
        *b"KLNB\x02\0\0\0\x88\x02\0\0\0\0\0\0\x3f\0\0\0\0\0\0\0"
    );
    assert_eq!(bytes[bytes.len() - 8..], *b"KLNSHUF1");
}
