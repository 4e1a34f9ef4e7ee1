//! Grouping in the shapes that analytic queries have: a handful of groups with many sums, a group
//! for every few rows, keys of two columns, no keys at all.
//!
//! `cargo bench -p kiln-benches --bench grouping`; one thread.

use std::sync::Arc;

use arrow::array::{ArrayRef, Decimal64Array, Decimal128Array, Int32Array, Int64Array};
use arrow::array::{Float64Array, StringViewArray};
use arrow::datatypes::{Field, Schema};
use arrow::record_batch::RecordBatch;
use divan::Bencher;
use divan::counter::ItemsCount;
use fastrand::Rng;
use kiln_engine::context::{CancelToken, TaskContext};
use kiln_engine::expr::{AggregateExpr, avg, col, count_all, max, sum};
use kiln_engine::limits::BATCH_ROWS;
use kiln_engine::memory::MemoryBudget;
use kiln_engine::metrics::TaskMetrics;
use kiln_engine::operator::aggregate::aggregate;
use kiln_engine::plan::AggregateMode;
use kiln_engine::storage::{OverflowStore, ShuffleStore, Stores};

/// Rows of one measurement.
const ROWS: usize = 1 << 22;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn context() -> TaskContext {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build();
    TaskContext {
        shared: Default::default(),
        pool: Arc::new(pool.expect("one thread")),
        memory: MemoryBudget::new(8 << 30),
        stores: Arc::new(Stores::new()),
        shuffle: ShuffleStore::in_memory(OverflowStore::new(4 << 30, None, None)),
        metrics: Arc::new(TaskMetrics::default()),
        cancel: CancelToken::default(),
        functions: Arc::default(),
    }
}

/// Batches of the columns that `columns` makes for the rows `from..from + BATCH_ROWS`.
fn batches(mut columns: impl FnMut(usize) -> Vec<(&'static str, ArrayRef)>) -> Vec<RecordBatch> {
    let batch = |from| {
        let columns = columns(from);
        let field = |(name, column): &(&str, ArrayRef)| {
            Field::new(*name, column.data_type().clone(), false)
        };
        let schema = Schema::new(columns.iter().map(field).collect::<Vec<_>>());
        let columns = columns.into_iter().map(|(_, column)| column).collect();
        RecordBatch::try_new(Arc::new(schema), columns).expect("columns of the schema")
    };
    (0..ROWS).step_by(BATCH_ROWS).map(batch).collect()
}

fn integers(mut value: impl FnMut() -> i64) -> ArrayRef {
    Arc::new(Int64Array::from_iter_values(
        (0..BATCH_ROWS).map(|_| value()),
    ))
}

fn narrow(random: &mut Rng, limit: i64) -> ArrayRef {
    let values = (0..BATCH_ROWS).map(|_| random.i64(..limit));
    let array = Decimal64Array::from_iter_values(values).with_precision_and_scale(15, 2);
    Arc::new(array.expect("fifteen digits"))
}

fn wide(random: &mut Rng, limit: i64) -> ArrayRef {
    let values = (0..BATCH_ROWS).map(|_| i128::from(random.i64(..limit)));
    let array = Decimal128Array::from_iter_values(values).with_precision_and_scale(31, 4);
    Arc::new(array.expect("31 digits"))
}

/// Runs it in one step over `lanes` lanes, one after the other; returns how many groups it has.
fn run(keys: &[&str], calls: &[AggregateExpr], batches: &[RecordBatch], lanes: usize) -> usize {
    let keys: Vec<_> = keys.iter().map(|key| col(*key)).collect();
    let (schema, mode) = (batches[0].schema(), AggregateMode::Single);
    let breaker =
        aggregate(mode, &schema, &keys, calls, &context()).expect("a plan that fits its schema");
    for share in batches.chunks(batches.len().div_ceil(lanes)) {
        let mut lane = breaker.lane().expect("memory for a lane");
        for batch in share {
            lane.push(batch.clone(), &mut |_| Ok(()))
                .expect("memory for groups");
        }
        lane.finish(&mut |_| Ok(())).expect("memory for groups");
    }
    let mut groups = 0;
    for morsel in breaker.merge().expect("lanes that ended") {
        morsel(&mut |batch: RecordBatch| {
            groups += batch.num_rows();
            Ok(())
        })
        .expect("groups");
    }
    groups
}

/// As in query 1: two strings of one letter, four groups, and the sums of five decimals.
#[divan::bench]
fn four_groups(bencher: Bencher<'_, '_>) {
    let mut random = Rng::with_seed(1);
    let batches = batches(|_| {
        let kinds: Vec<usize> = (0..BATCH_ROWS).map(|_| random.usize(..8)).collect();
        let letters = |of: &[&'static str; 8]| -> ArrayRef {
            Arc::new(
                kinds
                    .iter()
                    .map(|kind| Some(of[*kind]))
                    .collect::<StringViewArray>(),
            )
        };
        vec![
            ("flag", letters(&["A", "A", "R", "R", "N", "N", "N", "N"])),
            ("status", letters(&["F", "F", "F", "F", "O", "O", "O", "F"])),
            ("quantity", narrow(&mut random, 5000)),
            ("price", narrow(&mut random, 10_000_000)),
            ("discount", narrow(&mut random, 10)),
            ("net", wide(&mut random, 1 << 40)),
            ("gross", wide(&mut random, 1 << 45)),
        ]
    });
    let calls = [
        sum(col("quantity")),
        sum(col("price")),
        sum(col("net")),
        sum(col("gross")),
        avg(col("quantity")),
        avg(col("price")),
        avg(col("discount")),
        count_all(),
    ];
    bencher
        .counter(ItemsCount::new(ROWS))
        .bench_local(|| run(&["flag", "status"], &calls, &batches, 1));
}

/// As in query 18: a group for each order, whose rows lie side by side; lanes see different ones.
#[divan::bench(args = [1, 2])]
fn clustered_groups(bencher: Bencher<'_, '_>, lanes: usize) {
    let mut random = Rng::with_seed(2);
    let mut order = 0;
    let batches = batches(|_| {
        let mut next = || {
            order += i64::from(random.u8(..4) == 0);
            order
        };
        let orders = integers(&mut next);
        vec![("order", orders), ("quantity", narrow(&mut random, 5000))]
    });
    bencher
        .counter(ItemsCount::new(ROWS))
        .bench_local(|| run(&["order"], &[sum(col("quantity"))], &batches, lanes));
}

/// A million groups in no order.
#[divan::bench(args = [1, 2])]
fn scattered_groups(bencher: Bencher<'_, '_>, lanes: usize) {
    let mut random = Rng::with_seed(3);
    let batches = batches(|_| {
        let orders = integers(|| random.i64(..1 << 20));
        vec![("order", orders), ("quantity", narrow(&mut random, 5000))]
    });
    bencher
        .counter(ItemsCount::new(ROWS))
        .bench_local(|| run(&["order"], &[sum(col("quantity"))], &batches, lanes));
}

/// As in query 20: two whole numbers as the key, two million groups.
#[divan::bench]
fn pairs_as_keys(bencher: Bencher<'_, '_>) {
    let mut random = Rng::with_seed(4);
    let batches = batches(|_| {
        let parts = integers(|| random.i64(..1 << 19));
        let suppliers = (0..BATCH_ROWS).map(|_| random.i32(..4));
        let suppliers = Arc::new(Int32Array::from_iter_values(suppliers));
        vec![
            ("part", parts),
            ("supplier", suppliers),
            ("quantity", narrow(&mut random, 5000)),
        ]
    });
    bencher
        .counter(ItemsCount::new(ROWS))
        .bench_local(|| run(&["part", "supplier"], &[sum(col("quantity"))], &batches, 1));
}

/// As in query 6: everything is one group.
#[divan::bench]
fn one_group(bencher: Bencher<'_, '_>) {
    let mut random = Rng::with_seed(5);
    let batches = batches(|_| {
        let floats = (0..BATCH_ROWS).map(|_| random.f64());
        let floats = Arc::new(Float64Array::from_iter_values(floats));
        vec![("price", narrow(&mut random, 5000)), ("ratio", floats)]
    });
    let calls = [sum(col("price")), max(col("price")), sum(col("ratio"))];
    bencher
        .counter(ItemsCount::new(ROWS))
        .bench_local(|| run(&[], &calls, &batches, 1));
}

fn main() {
    divan::main();
}
