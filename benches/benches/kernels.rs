//! What the engine lives on, one piece at a time: words, hash, grouping table, shuffle objects.
//!
//! `cargo bench -p kiln-benches`; one thread.

use std::hint::black_box;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, StringViewArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use divan::Bencher;
use divan::counter::{BytesCount, ItemsCount};
use futures::StreamExt;
use kiln_engine::context::{CancelToken, TaskContext};
use kiln_engine::expr::{col, count_all};
use kiln_engine::id::{JobId, StageId, TaskId};
use kiln_engine::kernel::hash::hash_columns;
use kiln_engine::kernel::words::words_list;
use kiln_engine::limits::BATCH_ROWS;
use kiln_engine::memory::MemoryBudget;
use kiln_engine::metrics::TaskMetrics;
use kiln_engine::operator::aggregate::aggregate;
use kiln_engine::plan::{AggregateMode, Partitioning, ShuffleSource, TaskOutput};
use kiln_engine::shuffle::{ShuffleSink, open};
use kiln_engine::storage::{OverflowStore, ShuffleStore, Stores};

/// Rows of one measurement.
const ROWS: usize = 1 << 20;

/// Partitions of the measured shuffle.
const PARTITIONS: u32 = 64;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn context() -> TaskContext {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build();
    TaskContext {
        pool: Arc::new(pool.expect("one thread")),
        memory: MemoryBudget::new(8 << 30),
        stores: Arc::new(Stores::new()),
        shuffle: ShuffleStore::in_memory(OverflowStore::new(4 << 30, None, None)),
        metrics: Arc::new(TaskMetrics::default()),
        cancel: CancelToken::default(),
        shared: Arc::default(),
        functions: Arc::default(),
    }
}

/// Words as text has them: few that are frequent, many that are rare, some that are long.
fn batches() -> Vec<RecordBatch> {
    let mut random = fastrand::Rng::with_seed(7);
    let mut word = || {
        let rank = (1u64 << random.u32(0..20)) + random.u64(0..1 << 10);
        if rank.is_multiple_of(5) {
            format!("a_rather_long_name_{rank}")
        } else {
            format!("w{rank}")
        }
    };
    (0..ROWS / BATCH_ROWS)
        .map(|_| {
            let words: StringViewArray = (0..BATCH_ROWS).map(|_| Some(word())).collect();
            let ones: Int64Array = (0..BATCH_ROWS).map(|_| Some(1)).collect();
            let columns: Vec<ArrayRef> = vec![Arc::new(words), Arc::new(ones)];
            RecordBatch::try_new(schema(), columns).expect("columns of the schema")
        })
        .collect()
}

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("word", DataType::Utf8View, true),
        Field::new("n", DataType::Int64, true),
    ]))
}

#[divan::bench]
fn words(bencher: Bencher<'_, '_>) {
    let line = "static int kiln_probe(struct device *dev) { return dev->driver ? 0 : -ENODEV; }";
    let lines: StringViewArray = std::iter::repeat_n(Some(line), BATCH_ROWS).collect();
    bencher
        .counter(BytesCount::new(line.len() * BATCH_ROWS))
        .bench(|| words_list(black_box(&lines)).expect("valid text"));
}

#[divan::bench(args = [("strings", 0), ("integers", 1)])]
fn hash(bencher: Bencher<'_, '_>, (_, column): (&str, usize)) {
    let batches = batches();
    bencher.counter(ItemsCount::new(ROWS)).bench_local(|| {
        let mut hashes = Vec::new();
        for batch in &batches {
            let columns = &batch.columns()[column..=column];
            hash_columns(black_box(columns), &mut hashes).expect("types with a hash");
        }
        hashes
    });
}

#[divan::bench]
fn group_by_word(bencher: Bencher<'_, '_>) {
    let batches = batches();
    bencher
        .counter(ItemsCount::new(ROWS))
        .bench_local(|| count(&batches));
}

fn count(batches: &[RecordBatch]) -> usize {
    let (keys, counts) = ([col("word")], [count_all()]);
    let breaker = aggregate(AggregateMode::Single, &schema(), &keys, &counts, &context())
        .expect("a plan that fits its schema");
    let mut lane = breaker.lane().expect("memory for a lane");
    for batch in batches {
        lane.push(batch.clone(), &mut |_| Ok(()))
            .expect("memory for groups");
    }
    lane.finish(&mut |_| Ok(())).expect("memory for groups");
    let mut groups = 0;
    for morsel in breaker.merge().expect("lanes that ended") {
        let sum = &mut |batch: RecordBatch| {
            groups += batch.num_rows();
            Ok(())
        };
        morsel(sum).expect("groups");
    }
    groups
}

#[divan::bench]
fn shuffle_in_memory(bencher: Bencher<'_, '_>) {
    let batches = batches();
    let runtime = tokio::runtime::Runtime::new().expect("threads");
    bencher
        .counter(ItemsCount::new(ROWS))
        .bench_local(|| runtime.block_on(round_trip(&batches)));
}

async fn round_trip(batches: &[RecordBatch]) -> usize {
    let ctx = context();
    let task = TaskId {
        job: JobId::new(1),
        stage: StageId(0),
        task: 0,
    };
    let hash = Partitioning::Hash {
        keys: vec!["word".to_owned()],
        partitions: PARTITIONS,
    };
    let sink = ShuffleSink::new(&hash, schema(), task, 0, &ctx).expect("a sink");
    let mut lane = sink.lane(0).expect("memory for a lane");
    for batch in batches {
        lane.push(batch.clone(), &mut |_| Ok(()))
            .expect("memory for rows");
    }
    lane.finish(&mut |_| Ok(())).expect("memory for rows");
    let TaskOutput::Shuffle(partitions) = sink.close().await.expect("a store in memory") else {
        unreachable!("a shuffle sink writes shuffle objects");
    };
    let source = ShuffleSource {
        task: 0,
        attempt: 0,
        offset: 0,
        partitions,
    };
    let mut morsels = open(
        StageId(0),
        task.job,
        0..PARTITIONS,
        vec![source],
        schema(),
        &ctx,
    )
    .expect("a source");
    let mut rows = 0;
    while let Some(morsel) = morsels.next().await {
        let sum = &mut |batch: RecordBatch| {
            rows += batch.num_rows();
            Ok(())
        };
        morsel.expect("an object that is there")(sum).expect("blocks that decode");
    }
    rows
}

fn main() {
    divan::main();
}
