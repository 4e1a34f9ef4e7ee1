//! Joins against a nested loop: every kind, all key types, nulls, duplicates, skew, empty sides.

use std::sync::Arc;

use arrow::record_batch::RecordBatch;
use fastrand::Rng;
use kiln_engine::context::CancelToken;
use kiln_engine::expr::{Expr, col};
use kiln_engine::limits::BATCH_ROWS;
use kiln_engine::memory::MemoryBudget;
use kiln_engine::operator::Operator;
use kiln_engine::operator::join::{Builder, FilterRequest, Join, JoinSpec};
use kiln_engine::plan::{JoinStep, StepKind};

use crate::join_data::{KEY_TYPES, KeyType, Rows, lines, nested_loop};

const KINDS: [StepKind; 8] = [
    StepKind::Inner,
    StepKind::ProbeOuter,
    StepKind::BuildOuter,
    StepKind::FullOuter,
    StepKind::ProbeSemi,
    StepKind::ProbeAnti,
    StepKind::BuildSemi,
    StepKind::BuildAnti,
];

/// A join of `keys` keys whose output are some of the columns that its kind has.
fn step(random: &mut Rng, kind: StepKind, keys: usize, has_filter: bool) -> JoinStep {
    let key = |side: &str| -> Vec<Expr> {
        (0..keys)
            .map(|key| col(format!("{side}_key{key}")))
            .collect()
    };
    let columns = |side: &str| {
        let columns = ["id", "value", "text", "key0"];
        let columns = &columns[..if keys == 0 { 3 } else { 4 }];
        columns
            .iter()
            .map(|column| format!("{side}_{column}"))
            .collect::<Vec<_>>()
    };
    let (probe, build) = (columns("probe"), columns("build"));
    let mut output = match kind {
        StepKind::ProbeSemi | StepKind::ProbeAnti => probe,
        StepKind::BuildSemi | StepKind::BuildAnti => build,
        _ => [probe, build].concat(),
    };
    random.shuffle(&mut output);
    if random.bool() {
        output.truncate(random.usize(..=output.len()));
    }
    JoinStep {
        side: 0,
        kind,
        probe_keys: key("probe"),
        build_keys: key("build"),
        filter: has_filter.then(|| col("probe_value").lt(col("build_value"))),
        output,
    }
}

/// The batches that `step` makes of the batches of two sides, on some lanes.
fn run(
    step: &JoinStep,
    probe: (&Rows, &[RecordBatch]),
    build: (&Rows, &[RecordBatch]),
    lanes: usize,
    budget: &Arc<MemoryBudget>,
) -> Vec<RecordBatch> {
    let spec = JoinSpec::new(step, probe.0.batch.schema_ref(), build.0.batch.schema_ref());
    let spec = Arc::new(spec.expect("a join that fits"));
    let requests: Vec<FilterRequest> = (0..step.probe_keys.len())
        .filter_map(|key| {
            let column = probe.0.batch.column_by_name(&format!("probe_key{key}"));
            spec.filter_request(key, column.expect("a key").data_type())
        })
        .collect();
    let builder = Builder::new(
        Arc::clone(&spec),
        requests.clone(),
        budget,
        CancelToken::default(),
    );
    for batch in build.1 {
        builder.add(batch).expect("memory for all");
    }
    let table = Arc::new(builder.finish().expect("memory for all"));
    let join = Join::new(
        Arc::clone(&spec),
        Arc::clone(&table),
        CancelToken::default(),
    );
    let join = join.expect("memory for all");
    let mut operators: Vec<_> = (0..lanes).map(|_| join.lane().expect("a lane")).collect();
    let mut made = Vec::new();
    for (number, batch) in probe.1.iter().enumerate() {
        let batch = match step.kind.drops_probe_rows() {
            true => filtered(batch, &requests, table.filters()),
            false => batch.clone(),
        };
        let operator: &mut dyn Operator = operators[number % lanes].as_mut();
        let mut emit = |batch| {
            made.push(batch);
            Ok(())
        };
        operator
            .push(batch, &mut emit)
            .expect("rows that can be compared");
    }
    if let Some(breaker) = join.breaker() {
        for morsel in breaker.merge().expect("rows that are there") {
            let mut emit = |batch| {
                made.push(batch);
                Ok(())
            };
            morsel(&mut emit).expect("rows that are there");
        }
    }
    for batch in &made {
        assert_eq!(&batch.schema(), spec.schema());
    }
    made
}

/// The batch as a scan hands it on that knows the keys.
fn filtered(
    batch: &RecordBatch,
    requests: &[FilterRequest],
    filters: &[Arc<kiln_engine::kernel::key_filter::KeyFilter>],
) -> RecordBatch {
    let mut batch = batch.clone();
    for (request, filter) in requests.iter().zip(filters) {
        let column = batch.column_by_name(&format!("probe_key{}", request.key));
        let mask = filter
            .contains(column.expect("a key"))
            .expect("a type to look up");
        batch = arrow::compute::filter_record_batch(&batch, &mask.into()).expect("one length");
    }
    batch
}

fn compare(seed: u64, random: &mut Rng, types: &[KeyType], probe: &Rows, build: &Rows) {
    let kind = KINDS[random.usize(..KINDS.len())];
    let has_filter = random.u8(..3) == 0;
    let step = step(random, kind, types.len(), has_filter);
    let (probes, builds) = (probe.batches(random), build.batches(random));
    let budget = MemoryBudget::new(1 << 30);
    let lanes = random.usize(1..4);
    let found = run(&step, (probe, &probes), (build, &builds), lanes, &budget);
    let expected = nested_loop(kind, probe, build, has_filter, &step.output);
    assert!(
        lines(&found) == expected,
        "seed={seed} {kind:?} {types:?} filter={has_filter} output={:?}\n{:#?}\n\
         expected {expected:#?}",
        step.output,
        lines(&found),
    );
    assert!(
        found.iter().all(|batch| batch.num_rows() <= BATCH_ROWS),
        "seed={seed}"
    );
    drop(found);
    assert_eq!(budget.used(), 0, "seed={seed}: all memory is given back");
}

#[test]
fn joins() {
    for seed in 0..4000 {
        let mut random = Rng::with_seed(seed);
        let keys = [1, 1, 1, 2, 3, 0][random.usize(..6)];
        let types: Vec<_> = (0..keys)
            .map(|_| KEY_TYPES[random.usize(..KEY_TYPES.len())])
            .collect();
        let most = if keys == 0 { 20 } else { 60 };
        let mut count = || match random.u8(..8) {
            0 => 0,
            1 => 1,
            _ => random.usize(1..most),
        };
        let counts = [count(), count()];
        let probe = Rows::random(&mut random, "probe", counts[0], &types);
        let build = Rows::random(&mut random, "build", counts[1], &types);
        compare(seed, &mut random, &types, &probe, &build);
    }
}

#[test]
fn a_key_with_very_many_matches_comes_out_in_pieces() {
    for (seed, keys) in (0..16).flat_map(|seed| [(seed, 0), (seed, 1)]) {
        let mut random = Rng::with_seed(seed);
        let types = &[KeyType::Boolean][..keys];
        let probe = Rows::random(&mut random, "probe", 9, types);
        let build = Rows::random(&mut random, "build", 9000, types);
        let sides = if random.bool() {
            (&probe, &build)
        } else {
            (&build, &probe)
        };
        if std::ptr::eq(sides.0, &probe) {
            compare(seed, &mut random, types, &probe, &build);
        }
    }
}
