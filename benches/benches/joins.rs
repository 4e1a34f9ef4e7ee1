//! The join's table, look-ups in it, and the filter that a scan gets: `cargo bench --bench joins`.
//!
//! Keys are those of orders and line items: build rows have unique whole numbers, spread over four
//! times as many or sparse; probe rows are drawn from all of that range.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, StringViewArray};
use arrow::datatypes::{DataType, Field, Schema};
use arrow::record_batch::RecordBatch;
use divan::{Bencher, black_box};
use kiln_engine::context::CancelToken;
use kiln_engine::expr::col;
use kiln_engine::kernel::key_filter::KeyFilter;
use kiln_engine::limits::BATCH_ROWS;
use kiln_engine::memory::MemoryBudget;
use kiln_engine::operator::join::{Builder, Join, JoinSpec, JoinTable, Resources};
use kiln_engine::plan::{JoinStep, StepKind};
use rayon::iter::{IntoParallelRefIterator, ParallelIterator};

/// Rows looked up in one measurement; a scan of TPC-H at scale 10 has ten times as many.
const PROBE_ROWS: usize = 6_000_000;

const THREADS: usize = 2;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    divan::main();
}

/// How the keys of build rows lie.
#[derive(Debug, Clone, Copy)]
enum Keys {
    /// A quarter of all numbers, in order.
    Dense,
    /// One of forty numbers, in no order.
    Sparse,
    /// The sparse ones as text.
    Text,
}

/// A measurement: the keys and how many build rows have them.
type Case = (Keys, usize);

const CASES: [Case; 5] = [
    (Keys::Dense, 1_500_000),
    (Keys::Dense, 15_000_000),
    (Keys::Sparse, 1_500_000),
    (Keys::Sparse, 15_000_000),
    (Keys::Text, 1_500_000),
];

impl Keys {
    fn key(self, row: u64, rows: usize) -> i64 {
        match self {
            Keys::Dense => 4 * row as i64,
            // A permutation, since 40 * rows + 1 has no factor in common with a prime this large.
            _ => (u128::from(row) * 40 * 1_000_000_007 % (40 * rows as u128 + 1)) as i64,
        }
    }

    fn column(self, keys: impl Iterator<Item = i64>) -> ArrayRef {
        match self {
            Keys::Text => {
                let texts = keys.map(|key| Some(format!("Customer#{key:012}")));
                Arc::new(texts.collect::<StringViewArray>())
            }
            _ => Arc::new(keys.collect::<Int64Array>()),
        }
    }

    fn batches(self, name: &str, rows: usize, key: impl Fn(u64) -> i64) -> Vec<RecordBatch> {
        let mut batches = Vec::new();
        for start in (0..rows).step_by(BATCH_ROWS) {
            let rows = start as u64..rows.min(start + BATCH_ROWS) as u64;
            let keys = self.column(rows.clone().map(&key));
            let values: ArrayRef = Arc::new(rows.map(|row| row as i64).collect::<Int64Array>());
            let fields = vec![
                Field::new(name, keys.data_type().clone(), false),
                Field::new(format!("{name}_value"), DataType::Int64, false),
            ];
            let schema = Arc::new(Schema::new(fields));
            batches.push(RecordBatch::try_new(schema, vec![keys, values]).expect("two columns"));
        }
        batches
    }

    fn build_rows(self, rows: usize) -> Vec<RecordBatch> {
        self.batches("build", rows, |row| self.key(row, rows))
    }

    fn probe_rows(self, rows: usize) -> Vec<RecordBatch> {
        let range = if let Keys::Dense = self { 4 } else { 40 } * rows as u64;
        let random = |row: u64| (row.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20) % range;
        self.batches("probe", PROBE_ROWS, |row| random(row) as i64)
    }
}

fn spec(probe: &RecordBatch, build: &RecordBatch, kind: StepKind) -> Arc<JoinSpec> {
    let output = match kind {
        StepKind::ProbeSemi => vec!["probe".into(), "probe_value".into()],
        _ => vec!["probe".into(), "probe_value".into(), "build_value".into()],
    };
    let step = JoinStep {
        side: 0,
        kind,
        probe_keys: vec![col("probe")],
        build_keys: vec![col("build")],
        filter: None,
        output,
    };
    let spec = JoinSpec::new(&step, probe.schema_ref(), build.schema_ref());
    Arc::new(spec.expect("a join that fits"))
}

fn pool() -> rayon::ThreadPool {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(THREADS).build();
    pool.expect("two threads")
}

fn resources(bytes: u64) -> Resources {
    let memory = MemoryBudget::new(bytes);
    Resources {
        unasked_bytes: memory.unasked(),
        memory,
        metrics: Arc::default(),
        cancel: CancelToken::default(),
    }
}

fn table(spec: &Arc<JoinSpec>, batches: &[RecordBatch], pool: &rayon::ThreadPool) -> JoinTable {
    let builder = Builder::new(Arc::clone(spec), vec![], &resources(16 << 30));
    pool.install(|| {
        let added = batches.par_iter().map(|batch| builder.add(batch));
        added.collect::<Result<(), _>>().expect("enough memory");
        builder.finish().expect("enough memory")
    })
}

#[divan::bench(args = CASES.map(Debugged), sample_count = 5)]
fn build(bencher: Bencher<'_, '_>, Debugged((keys, rows)): &Debugged) {
    let batches = keys.build_rows(*rows);
    let probe = keys.probe_rows(*rows).swap_remove(0);
    let spec = spec(&probe, &batches[0], StepKind::Inner);
    let pool = pool();
    bencher.bench_local(|| table(&spec, &batches, &pool));
}

fn look_up(bencher: Bencher<'_, '_>, (keys, rows): Case, kind: StepKind) {
    let (builds, probes) = (keys.build_rows(rows), keys.probe_rows(rows));
    let spec = spec(&probes[0], &builds[0], kind);
    let table = Arc::new(table(&spec, &builds, &pool()));
    let join = Join::new(spec, table, &resources(16 << 30));
    bencher.bench_local(|| {
        let mut lane = join.lane().expect("a lane");
        for batch in &probes {
            let mut emit = |batch| {
                black_box(batch);
                Ok(())
            };
            lane.push(batch.clone(), &mut emit).expect("rows that fit");
        }
    });
}

#[divan::bench(args = CASES.map(Debugged), sample_count = 5)]
fn probe_inner(bencher: Bencher<'_, '_>, case: &Debugged) {
    look_up(bencher, case.0, StepKind::Inner);
}

#[divan::bench(args = CASES.map(Debugged), sample_count = 5)]
fn probe_semi(bencher: Bencher<'_, '_>, case: &Debugged) {
    look_up(bencher, case.0, StepKind::ProbeSemi);
}

/// The whole of a join of 15 million rows with 6 million, in so many mebibytes; the table alone
/// would take 650.
#[divan::bench(args = [4096, 500, 200, 50, 10], sample_count = 3)]
fn whole_within(bencher: Bencher<'_, '_>, mebibytes: u64) {
    let (builds, probes) = (
        Keys::Sparse.build_rows(15_000_000),
        Keys::Sparse.probe_rows(15_000_000),
    );
    let spec = spec(&probes[0], &builds[0], StepKind::Inner);
    let (pool, bytes) = (pool(), mebibytes << 20);
    bencher.bench_local(|| {
        let resources = resources(bytes);
        let builder = Builder::new(Arc::clone(&spec), vec![], &resources);
        let builder = builder.with_cap(bytes / 3 * 2);
        let table = pool.install(|| {
            let added = builds.par_iter().map(|batch| builder.add(batch));
            added.collect::<Result<(), _>>().expect("room on disk");
            builder.finish().expect("room on disk")
        });
        let join = Join::new(Arc::clone(&spec), Arc::new(table), &resources);
        let breaker = join.breaker();
        let lane = |batches: &[RecordBatch]| {
            let mut lane = join.lane().expect("a lane");
            for batch in batches {
                lane.push(batch.clone(), &mut take).expect("room on disk");
            }
            lane.finish(&mut take).expect("room on disk");
        };
        pool.install(|| {
            let half = probes.len() / 2;
            rayon::join(|| lane(&probes[..half]), || lane(&probes[half..]));
        });
        drop(join);
        let Some(breaker) = breaker else {
            return;
        };
        let merged = breaker.merge().expect("no build rows come out");
        assert!(merged.is_empty());
        let lane = || {
            while let Some(morsel) = breaker.more() {
                morsel(&mut take).expect("room on disk");
            }
        };
        pool.install(|| rayon::join(lane, lane));
    });
}

fn take(batch: RecordBatch) -> kiln_engine::Result<()> {
    black_box(batch);
    Ok(())
}

fn columns(batches: Vec<RecordBatch>) -> Vec<ArrayRef> {
    batches
        .iter()
        .map(|batch| Arc::clone(batch.column(0)))
        .collect()
}

#[divan::bench(args = CASES.map(Debugged), sample_count = 5)]
fn filter_build(bencher: Bencher<'_, '_>, Debugged((keys, rows)): &Debugged) {
    let pieces = columns(keys.build_rows(*rows));
    let (pool, data_type) = (pool(), pieces[0].data_type().clone());
    bencher.bench_local(|| pool.install(|| KeyFilter::of_pieces(&pieces, &data_type)));
}

#[divan::bench(args = CASES.map(Debugged), sample_count = 5)]
fn filter_contains(bencher: Bencher<'_, '_>, Debugged((keys, rows)): &Debugged) {
    let pieces = columns(keys.build_rows(*rows));
    let filter = KeyFilter::of_pieces(&pieces, pieces[0].data_type()).expect("keys that hash");
    let probes = columns(keys.probe_rows(*rows));
    bencher.bench_local(|| {
        for values in &probes {
            black_box(filter.contains(values).expect("the same type"));
        }
    });
}

/// A case that prints as divan wants it.
struct Debugged(Case);

impl std::fmt::Display for Debugged {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} {}", self.0.0, self.0.1)
    }
}
